"""Whether a login still holds: a person may log out, be deactivated or deleted, or change the password.

A socket outlives the request that knew who came, and so does a token. Both keep what the login was known by,
and ask here whether it still is one. Many are asked about at once, in few queries.
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

AT_ONCE = 500
"""Rows that one query asks for: SQLite takes a bounded number of parameters."""


@dataclass(frozen=True, slots=True)
class Login:
    """What a login is known by. `auth` changes with the password; empty, it is not asked about. `session` is
    the key of Django's session, as secret as a password; empty if the site logs people in without one."""

    user: str
    auth: str = ""
    session: str = ""

    def __repr__(self) -> str:
        return f"Login(user={self.user!r})"


def login_of(user: Any, session: Any = None) -> Login | None:
    """The login of a user and Django's session, as a request or a scope has them; None for strangers."""
    if not user.is_authenticated:
        return None
    # One that nobody has read yet did not log anybody in, and reading it may ask the database.
    by_session = session is not None and session.accessed and SESSION_KEY in session
    key = (session.session_key or "") if by_session else ""
    return Login(str(user.pk), next(_auths(user), ""), key)


def ended_logins(logins: Iterable[Login]) -> set[Login]:
    """Those that hold no more. A query for each AT_ONCE people, and for each AT_ONCE of Django's sessions.

    A site that keeps Django's sessions elsewhere than in the database is asked for each session by itself.
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
    """Digests of what a password is known by: the present one first, then those of older SECRET_KEYs."""
    if not hasattr(user, "get_session_auth_hash"):
        return
    for made in (user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()):
        yield hashlib.sha256(made.encode()).hexdigest()[:32]


def _read_users(keys: set[str]) -> dict[str, set[str]]:
    """Of each user who may log in: what `auth` may be of logins that hold."""
    found: dict[str, set[str]] = {}
    for some in _chunks(keys):
        for user in get_user_model()._default_manager.filter(pk__in=some):
            if _may_log_in(user):
                found[str(user.pk)] = {"", *_auths(user)}
    return found


def _may_log_in(user: Any) -> bool:
    """As the site's backends see it: one of Django's lets inactive people in."""
    checks = [check for one in get_backends() if (check := getattr(one, "user_can_authenticate", None))]
    return any(check(user) for check in checks) if checks else bool(user.is_active)


def _living_sessions(keys: dict[str, str]) -> set[str]:
    """Which of Django's sessions, by key, live and are those of the users given."""
    store: Any = import_module(settings.SESSION_ENGINE).SessionStore
    if not issubclass(store, DatabaseStore):
        return {key for key, user in keys.items() if str(store(key).load().get(SESSION_KEY)) == user}
    found: set[str] = set()
    for some in _chunks(keys):
        rows = store.get_model_class().objects.filter(session_key__in=some, expire_date__gt=timezone.now())
        found.update(rows.values_list("session_key", flat=True))
    return found


def _chunks(keys: Iterable[str]) -> Iterator[list[str]]:
    rest = list(keys)
    for first in range(0, len(rest), AT_ONCE):
        yield rest[first : first + AT_ONCE]
