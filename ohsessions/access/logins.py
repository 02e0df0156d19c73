"""Checks of logins. A login ends if the user logs out, changes the password, or is deactivated or deleted.

A socket and a token outlive the request that authenticated the user. Both keep a Login, and check here that
it is still valid. Many logins are checked at once, in few queries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY, get_backends, get_user_model
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.utils import timezone

from ohsessions.core.errors import WireError


@dataclass(frozen=True, slots=True)
class Login:
    """The values that identify a login. `auth` changes with the password; an empty one is not checked.
    `session`: the key of Django's session, as secret as a password; empty if the login does not use one."""

    user: str
    auth: str = ""
    session: str = ""

    def __repr__(self) -> str:
        return f"Login(user={self.user!r})"


def login_of(user: Any, session: Any = None) -> Login | None:
    """Return the login of a request's or scope's user and Django session; None if the user is anonymous."""
    if not user.is_authenticated:
        return None
    # A session that was not read yet did not log the user in, and reading it may query the database.
    by_session = session is not None and session.accessed and SESSION_KEY in session
    key = (session.session_key or "") if by_session else ""
    return Login(str(user.pk), next(_auths(user), ""), key)


def ended_logins(logins: Iterable[Login]) -> set[Login]:
    """Return the logins that have ended. One query for the users, and one for the Django sessions.

    If the site does not store Django's sessions in the database, each session is loaded by itself.
    """
    asked = set(logins)
    users = _read_users({login.user for login in asked})
    living = {login for login in asked if login.auth in users.get(login.user, ())}
    sessions = _living_sessions({login.session: login.user for login in living if login.session})
    return asked - {login for login in living if not login.session or login.session in sessions}


def check_login(login: Login | None) -> None:
    """Raise WireError 401 `login_required` if this login has ended."""
    if login is not None and ended_logins([login]):
        raise WireError(401, "login_required", "Your login has ended. Log in again.")


def _auths(user: Any) -> Iterator[str]:
    """Yield digests of the user's session auth hash: for SECRET_KEY first, then for SECRET_KEY_FALLBACKS."""
    if not hasattr(user, "get_session_auth_hash"):
        return
    for made in (user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()):
        yield hashlib.sha256(made.encode()).hexdigest()[:32]


def _read_users(keys: set[str]) -> dict[str, set[str]]:
    """Return, for each of these users that may log in, the values that `auth` of a valid login may have."""
    users = get_user_model()._default_manager.in_bulk(keys)
    return {str(user.pk): {"", *_auths(user)} for user in users.values() if _may_log_in(user)}


def _may_log_in(user: Any) -> bool:
    """Return whether a backend of the site lets this user log in. One of Django's accepts inactive users."""
    checks = [check for one in get_backends() if (check := getattr(one, "user_can_authenticate", None))]
    return any(check(user) for check in checks) if checks else bool(user.is_active)


def _living_sessions(keys: dict[str, str]) -> set[str]:
    """Return the keys of the Django sessions that have not ended. `keys` has the user of each key.

    Sessions outside the database must also belong to their user.
    """
    store: Any = import_module(settings.SESSION_ENGINE).SessionStore
    if not issubclass(store, DatabaseStore):
        return {key for key, user in keys.items() if str(store(key).load().get(SESSION_KEY)) == user}
    living = store.get_model_class().objects.filter(expire_date__gt=timezone.now()).only("session_key")
    return set(living.in_bulk(list(keys)))
