"""The site's policy, which decides about the permissions of users, and the checks that raise its refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db.models import QuerySet
from django.utils.module_loading import import_string

from ohsessions.access.roles import Role
from ohsessions.conf import conf
from ohsessions.core.errors import WireError
from ohsessions.core.runtime import JSON
from ohsessions.models import Session


class AccessPolicy:
    """The permissions of users. A site subclasses it and names the subclass in `ACCESS_POLICY`.

    `user` is Django's user, or an AnonymousUser. A method refuses by returning False (or None), or by raising
    an exception, which is logged. All methods but `may_act` are called in a thread and may read the database.
    """

    # Starting and joining

    def may_open(self, user: Any) -> bool:
        """Return whether this user may start sessions."""
        return bool(user.is_authenticated or conf.ALLOW_ANONYMOUS)

    def may_start(self, user: Any, runtime: str, args: Mapping[str, JSON]) -> bool:
        """Return whether this user may start a session of this runtime (an alias, which may be unknown) with
        these settings. Default: see may_open()."""
        return self.may_open(user)

    def role_of(self, user: Any, session: Session) -> Role | None:
        """Return the role that this user has without a token. None: for this user, no such session exists."""
        if user.is_authenticated and session.owner_id == user.pk:
            return Role.OWNER
        return None

    def may_join(self, user: Any, session: Session, role: Role, by_token: bool) -> bool:
        """Return whether this user may join in this role, or read the session over HTTP.

        `by_token`: True if the role comes from a token, False if it comes from role_of(). Default: yes.
        """
        return True

    # In a session, in which the user has `role`

    def may_act(self, user: Any, role: Role, action: str) -> bool:
        """Return whether this user may send an action of this type. Default: editors and owners.

        It is called on the event loop for each action: it must not block, and cannot read the database."""
        return role.may_act

    def may_close(self, user: Any, session: Session, role: Role) -> bool:
        """Return whether this user may end the session for good. Default: owners."""
        return role is Role.OWNER

    def may_rename(self, user: Any, session: Session, role: Role) -> bool:
        """Return whether this user may rename the session. Default: editors and owners."""
        return role.may_act

    def may_share(self, user: Any, session: Session, role: Role) -> bool:
        """Return whether this user may share links, list and revoke them. Default: owners.

        A user can share neither a higher role than they have, nor a link that outlives their own.
        """
        return role is Role.OWNER

    # Lists and the admin

    def listed(self, user: Any, sessions: QuerySet[Session]) -> QuerySet[Session]:
        """Return the sessions that the HTTP API lists for this user. Default: the user's own."""
        return sessions.filter(owner=user)

    def administered(self, user: Any, sessions: QuerySet[Session]) -> QuerySet[Session]:
        """Return the sessions that this user sees in the admin, with their events, connections, links and
        transitions. Django's permissions are checked too. Default: all."""
        return sessions

    def may_operate(self, user: Any, verb: str, row: Any) -> bool:
        """Return whether this user may do `verb` (`passivate`, `wake`, `revoke-links`, `drain`) to a session
        or process in the admin. Django's permissions are checked too. Default: yes."""
        return True


def policy() -> AccessPolicy:
    """Return a new instance of the site's policy."""
    made: AccessPolicy = import_string(conf.ACCESS_POLICY)()
    return made


def check_may_open(user: Any) -> None:
    """Raise WireError if this user may not start sessions at all: 403 `role` if the user has logged in, else
    401 `login_required`."""
    if not policy().may_open(user):
        raise _no_start(user)


def check_may_start(user: Any, runtime: str, args: Mapping[str, JSON]) -> None:
    """See check_may_open(), for one session."""
    if not policy().may_start(user, runtime, args):
        raise _no_start(user)


def _no_start(user: Any) -> WireError:
    if user.is_authenticated:
        return WireError(403, "role", "You may not start such a session here.")
    return WireError(401, "login_required", "Log in to start a session.")


def check_may_join(user: Any, session: Session, role: Role, *, by_token: bool) -> None:
    """Raise WireError if this user may not join: 404 `unknown_session` without a token. With one: 403 `role`
    if the user has logged in, else 401 `login_required`."""
    if policy().may_join(user, session, role, by_token):
        return
    if not by_token:
        raise unknown_session()
    if user.is_authenticated:
        raise WireError(403, "role", "This link is not for you. Ask its sender.")
    raise WireError(401, "login_required", "Log in to use this link.")


def visible(user: Any, rows: QuerySet[Any]) -> QuerySet[Any]:
    """Return the rows of any table that this user sees in the admin; see AccessPolicy.administered().

    If the site does not override that method, the query is not changed.
    """
    site = policy()
    if type(site).administered is AccessPolicy.administered:
        return rows
    if rows.model is Session:
        return site.administered(user, rows)
    if any(field.name == "session" for field in rows.model._meta.fields):
        return rows.filter(session__in=site.administered(user, Session.objects.order_by()).values("pk"))
    return rows


def unknown_session() -> WireError:
    """Return the error for a session that does not exist, or that the user may not know of."""
    return WireError(404, "unknown_session", "There is no such session, or you may not know of it.")
