"""Who may do what: roles, the policy, tokens, and the encryption of secrets at rest.

A token is a Django-signed statement «whoever has this may join session S as R», with the session's token
version in it: raising `Session.token_version` revokes all tokens of a session. Keys rotate as Django's do, by
`SECRET_KEY_FALLBACKS`. Nothing here keeps state, and no token or secret is ever logged.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.core import signing
from django.utils.encoding import force_bytes
from django.utils.module_loading import import_string

from ohsessions.conf import conf
from ohsessions.core.errors import WireError
from ohsessions.models import Session

TOKEN_SALT = "ohsessions.token"
SECRETS_SALT = b"ohsessions.secrets"


class Role(StrEnum):
    """What a connection may do: a viewer reads, an editor acts, the owner may also close."""

    VIEWER = "viewer"
    EDITOR = "editor"
    OWNER = "owner"

    @property
    def may_act(self) -> bool:
        return self is not Role.VIEWER

    @property
    def may_close(self) -> bool:
        return self is Role.OWNER


@dataclass(frozen=True, slots=True)
class Grant:
    """The right to join one session. `token` is the valid one that came in, or None (its owner came)."""

    session: Session
    role: Role
    token: str | None


class AccessPolicy:
    """Decides who may start and join sessions. A site subclasses it and names it in `ACCESS_POLICY`.

    `user` is the user of Django's, or an AnonymousUser. Both methods may read the database.
    """

    def may_open(self, user: Any) -> bool:
        """Whether this user may start sessions."""
        return bool(user.is_authenticated or conf.ALLOW_ANONYMOUS)

    def role_of(self, user: Any, session: Session) -> Role | None:
        """The role this user has without any token; None: the session does not exist for them."""
        if user.is_authenticated and session.owner_id == user.pk:
            return Role.OWNER
        return None


def policy() -> AccessPolicy:
    """The site's policy."""
    made: AccessPolicy = import_string(conf.ACCESS_POLICY)()
    return made


def check_may_open(user: Any) -> None:
    """Raises WireError 401 `login_required` if this user may not start a session."""
    if not policy().may_open(user):
        raise WireError(401, "login_required", "Log in to start a session.")


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


def encrypt(text: str) -> str:
    """Encrypts a secret for a column. The first key encrypts, all of them decrypt."""
    return _fernet().encrypt(text.encode()).decode()


def decrypt(text: str) -> str:
    """The reverse of encrypt. Raises WireError 500 if no key fits."""
    try:
        return _fernet().decrypt(text.encode()).decode()
    except InvalidToken as error:
        message = "A stored secret cannot be decrypted: its key is no longer in SECRETS_KEYS."
        raise WireError(500, "internal", message) from error


def _fernet() -> MultiFernet:
    keys: Sequence[str | bytes] = conf.SECRETS_KEYS or [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    # A key may be any string: what Fernet needs (32 bytes, base64) is derived from it.
    return MultiFernet([Fernet(_derive(key)) for key in keys])


def _derive(key: str | bytes) -> bytes:
    digest = hashlib.blake2b(SECRETS_SALT, key=hashlib.sha256(force_bytes(key)).digest(), digest_size=32)
    return base64.urlsafe_b64encode(digest.digest())
