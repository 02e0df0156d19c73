"""The site's policy: who may do what. Asked wherever somebody wants something; what it raises refuses."""

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
    """Decides who may do what. A site subclasses it and names the subclass in `ACCESS_POLICY`.

    `user` is Django's user, or an AnonymousUser. An answer of False (or None) refuses, and so does an
    exception, which is logged. All methods but `may_act` are called in a thread and may read the database.
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
        """Return the role that this user has without a token; None: the session does not exist for them."""
        if user.is_authenticated and session.owner_id == user.pk:
            return Role.OWNER
        return None

    def may_join(self, user: Any, session: Session, role: Role, by_token: bool) -> bool:
        """Return whether this user may join in this role, or look over HTTP.

        `by_token`: the role comes from a token, else from role_of(). Default: yes.
        """
        return True

    # In a session, whose `role` the user has

    def may_act(self, user: Any, role: Role, action: str) -> bool:
        """Return whether this user may send an action of this type. Asked in the event loop for each action:
        it must not block, and cannot read the database. Default: editors and owners."""
        return role.may_act

    def may_close(self, user: Any, session: Session, role: Role) -> bool:
        """Return whether this user may end the session for good. Default: owners."""
        return role.may_close

    def may_rename(self, user: Any, session: Session, role: Role) -> bool:
        """Return whether this user may rename the session. Default: editors and owners."""
        return role.may_act

    def may_share(self, user: Any, session: Session, role: Role) -> bool:
        """Return whether this user may give out links, list and revoke them. Default: owners.

        Nobody gives out a higher role than their own, or a link that outlives their own.
        """
        return role is Role.OWNER

    # Lists and the admin

    def listed(self, user: Any, sessions: QuerySet[Session]) -> QuerySet[Session]:
        """Return those sessions that the HTTP API lists for this user. Default: the user's own."""
        return sessions.filter(owner=user)

    def administered(self, user: Any, sessions: QuerySet[Session]) -> QuerySet[Session]:
        """Return those sessions that this user sees in the admin, with their events, connections, links and
        transitions. Django's permissions are asked besides. Default: all."""
        return sessions

    def may_operate(self, user: Any, verb: str, row: Any) -> bool:
        """Return whether this user may do `verb` (`passivate`, `wake`, `revoke-links`, `drain`) to a session
        or process in the admin. Django's permissions are asked besides. Default: yes."""
        return True


def policy() -> AccessPolicy:
    """Return a new instance of the site's policy."""
    made: AccessPolicy = import_string(conf.ACCESS_POLICY)()
    return made


def check_may_open(user: Any) -> None:
    """Raise WireError if this user may not start sessions at all: 401 `login_required`, or 403 `role` if they
    have logged in."""
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
    """Raise WireError if this user may not join: 401 `login_required` for strangers with a token, 403 `role`
    for others with one, 404 `unknown_session` without."""
    if policy().may_join(user, session, role, by_token):
        return
    if not by_token:
        raise unknown_session()
    if user.is_authenticated:
        raise WireError(403, "role", "This link is not for you. Ask its sender.")
    raise WireError(401, "login_required", "Log in to use this link.")


def visible(user: Any, rows: QuerySet[Any]) -> QuerySet[Any]:
    """Return those rows of any table that this user sees in the admin; see AccessPolicy.administered().

    Where a site does not override it, the query stays what it was.
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
    """Return the error for a session that does not exist, or that this user may not know of."""
    return WireError(404, "unknown_session", "There is no such session, or you may not know of it.")
