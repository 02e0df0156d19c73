"""Tokens, and what they let in.

A token is a Django-signed statement «whoever has this may join session S as R», with the session's token
version in it: raising `Session.token_version` revokes all tokens of a session. Keys rotate as Django's do, by
`SECRET_KEY_FALLBACKS`. Nothing here keeps state, and no token is ever logged.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.core import signing

from ohsessions.access.policy import policy
from ohsessions.access.roles import Role
from ohsessions.conf import conf
from ohsessions.core.errors import WireError
from ohsessions.models import Session

TOKEN_SALT = "ohsessions.token"


@dataclass(frozen=True, slots=True)
class Grant:
    """The right to join one session. `token` is the valid one that came in, or None (its owner came)."""

    session: Session
    role: Role
    token: str | None


def authorize(user: Any, token: str | None, session_id: UUID | None = None) -> Grant:
    """Finds the session that a token, or a user without one, may join, and in which role.

    Raises WireError 401 `invalid_token` for a token that is malformed, forged, expired, revoked or of another
    session; 404 `unknown_session` if there is no such session for this user. One query.
    """
    if token is None:
        session = Session.objects.filter(pk=session_id).first() if session_id else None
        role = policy().role_of(user, session) if session else None
        if session is None or role is None:
            raise unknown_session()
        return Grant(session, role, None)
    named, role, version = read_token(token)
    if session_id is not None and named != session_id:
        raise invalid_token()
    session = Session.objects.filter(pk=named, token_version=version).first()
    if session is None:
        raise invalid_token()
    return Grant(session, role, token)


def unknown_session() -> WireError:
    return WireError(404, "unknown_session", "There is no such session, or you may not know of it.")


def invalid_token() -> WireError:
    return WireError(401, "invalid_token", "This token is not valid (any more). Ask for a new link.")


def issue_token(session: Session, role: Role) -> str:
    """Makes a token for a session. It is valid for TOKEN_MAX_AGE seconds."""
    content = {"s": session.pk.hex, "r": role.value, "v": session.token_version}
    return signing.dumps(content, salt=TOKEN_SALT)


def read_token(token: str) -> tuple[UUID, Role, int]:
    """Gives session id, role and version from a token, unless it is forged or too old: WireError 401."""
    try:
        content = signing.loads(token, salt=TOKEN_SALT, max_age=timedelta(seconds=conf.TOKEN_MAX_AGE))
        return UUID(hex=content["s"]), Role(content["r"]), int(content["v"])
    except (signing.BadSignature, KeyError, TypeError, ValueError) as error:
        raise invalid_token() from error
