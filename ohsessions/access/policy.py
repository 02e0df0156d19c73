"""The site's policy: who may start and join sessions."""

from __future__ import annotations

from typing import Any

from django.utils.module_loading import import_string

from ohsessions.access.roles import Role
from ohsessions.conf import conf
from ohsessions.core.errors import WireError
from ohsessions.models import Session


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
