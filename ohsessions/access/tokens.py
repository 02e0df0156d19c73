"""Tokens, and the rights that they give.

A token is a text that Django signed: «the client that has this may join session S as R». It contains the
session's token version: raising `Session.token_version` revokes all tokens of a session. There are three
kinds:

- A **link**'s token names a row of Link, which stores when the link ends and whether it was revoked. The
  token is meant to outlive the login of the user who shared the link.
- A **person**'s token was issued to a user who had logged in. It is valid while that login is, or if the
  client that shows it is logged in as the same user.
- A **browser**'s token was issued to a user who had not logged in. It is valid until TOKEN_MAX_AGE. So are
  tokens of versions that had no kinds, but those of an owner only while the session's owner may log in.

Keys rotate as Django's do, by `SECRET_KEY_FALLBACKS`. No token is stored or logged.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.core import signing

from ohsessions.access.access_policy import check_may_join, policy, unknown_session
from ohsessions.access.encryption import decrypt, encrypt
from ohsessions.access.logins import Login, ended_logins
from ohsessions.access.roles import Role
from ohsessions.conf import conf
from ohsessions.core.errors import WireError
from ohsessions.database import as_aware, database_now
from ohsessions.models import Link, Session

TOKEN_SALT = "ohsessions.token"
MAX_SESSION_KEY = 64
"""A longer key of Django's session is not put into tokens: it is a cookie that holds the whole session."""


@dataclass(frozen=True, slots=True)
class Token:
    """The content of a token."""

    session_id: UUID
    role: Role
    version: int
    expires_at: datetime
    link_id: UUID | None = None
    login: Login | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """The right to join one session. `token`: the valid token that was shown; None for a user without one.

    The right ends with its `link`, and with `issued_to`: the login that the token was issued to, or None if
    the same user shows it. `expires_at`: when the right ends at the latest; None without a token.
    """

    session: Session
    role: Role
    token: str | None
    link: Link | None = None
    issued_to: Login | None = None
    expires_at: datetime | None = None


def bearer_token(authorization: str) -> str | None:
    """Return the token in the value of an Authorization header; None if it has another scheme.

    Other schemes are no mistake: a proxy may ask for a password of its own.
    """
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def authorize(user: Any, token: str | None, session_id: UUID | None = None) -> Grant:
    """Return the session that a token, or a user without one, may join, and the role.

    Raises WireError 401 `invalid_token` for a token that is malformed, forged, expired, revoked or of another
    session; 404 `unknown_session` if there is no such session for this user; what check_may_join() raises.
    Makes one query. A link needs one more, and a person's token two more if another user shows it.
    """
    grant = _by_login(user, session_id) if token is None else _by_token(user, token, session_id)
    check_may_join(user, grant.session, grant.role, by_token=token is not None)
    return grant


def _by_login(user: Any, session_id: UUID | None) -> Grant:
    session = Session.objects.filter(pk=session_id).first() if session_id else None
    role = policy().role_of(user, session) if session else None
    if session is None or role is None:
        raise unknown_session()
    return Grant(session, role, None)


def _by_token(user: Any, text: str, session_id: UUID | None) -> Grant:
    token = parse_token(text)
    if session_id is not None and token.session_id != session_id:
        raise invalid_token()
    session = Session.objects.filter(pk=token.session_id, token_version=token.version).first()
    if session is None:
        raise invalid_token()
    if token.link_id is not None:
        link = Link.objects.live(database_now()).filter(pk=token.link_id, session=session).first()
        if link is None:
            raise invalid_token()
        expires_at = min(token.expires_at, as_aware(link.expires_at))
        return Grant(session, Role(link.role), text, link, expires_at=expires_at)
    login = token.login
    if login is None and token.role is Role.OWNER and session.owner_id is not None:
        login = Login(str(session.owner_id))
    if login is not None and user.is_authenticated and str(user.pk) == login.user:
        login = None  # the user's present login proves more than the token
    if login is not None and ended_logins([login]):
        raise invalid_token()
    return Grant(session, token.role, text, issued_to=login, expires_at=token.expires_at)


def invalid_token() -> WireError:
    return WireError(401, "invalid_token", "This token is not valid (any more). Ask for a new link.")


def issue_token(
    session: Session,
    role: Role,
    login: Login | None = None,
    *,
    link: Link | None = None,
    expires_at: datetime | None = None,
) -> str:
    """Return a new token for a session: of a link, of a person with this login, or else of a browser.

    It is valid for TOKEN_MAX_AGE seconds, or until `expires_at` or the end of its link or login.
    """
    content: dict[str, Any] = {"s": session.pk.hex, "r": role.value, "v": session.token_version}
    if expires_at is not None:
        content["e"] = int(expires_at.timestamp())
    if link is not None:
        content["l"] = link.pk.hex
    elif login is not None:
        key = login.session if len(login.session) <= MAX_SESSION_KEY else ""
        content["p"] = encrypt(json.dumps([login.user, login.auth, key]))
    return signing.dumps(content, salt=TOKEN_SALT)


def parse_token(text: str) -> Token:
    """Return the content of a token. Raises WireError 401 `invalid_token` if it is forged or has expired."""
    age = timedelta(seconds=conf.TOKEN_MAX_AGE)
    try:
        content = signing.loads(text, salt=TOKEN_SALT, max_age=age)
        ends_at = datetime.fromtimestamp(signing.b62_decode(text.rsplit(":", 2)[1]), UTC) + age
        if "e" in content:
            ends_at = min(ends_at, datetime.fromtimestamp(content["e"], UTC))
        if ends_at <= datetime.now(UTC):
            raise invalid_token()
        return Token(
            UUID(hex=content["s"]),
            Role(content["r"]),
            int(content["v"]),
            ends_at,
            UUID(hex=content["l"]) if "l" in content else None,
            Login(*json.loads(decrypt(content["p"]))) if "p" in content else None,
        )
    except (signing.BadSignature, KeyError, TypeError, ValueError, OverflowError, WireError) as error:
        raise invalid_token() from error
