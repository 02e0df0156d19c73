"""Access policies for tests. OHSESSIONS_ACCESS_POLICY names the one that a site uses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.db.models import QuerySet

from ohsessions.access import AccessPolicy, Role
from ohsessions.conf import conf
from ohsessions.core.runtime import JSON
from ohsessions.models import Session

FLAG = "broken-policy"


class BreakablePolicy(AccessPolicy):
    """The default policy, until there is a file FLAG in the folder of the workspaces."""

    def may_open(self, user: Any) -> bool:
        if (Path(conf.WORKSPACE_ROOT) / FLAG).exists():
            raise LookupError("the directory server's password is hunter2")
        return super().may_open(user)


class EditorsShare(AccessPolicy):
    """A policy by which editors may share, too."""

    def may_share(self, user: Any, session: Session, role: Role) -> bool:
        return role.may_act


class House(AccessPolicy):
    """A policy with a rule of its own for each question."""

    def may_start(self, user: Any, runtime: str, args: Mapping[str, JSON]) -> bool:
        return runtime == "echo" and args.get("language") != "xx"

    def role_of(self, user: Any, session: Session) -> Role | None:
        if user.get_username() == "auditor":
            return Role.VIEWER
        return super().role_of(user, session)

    def may_join(self, user: Any, session: Session, role: Role, by_token: bool) -> bool:
        """Allow links for colleagues only."""
        return session.title != "hidden" and (user.is_authenticated or role is Role.OWNER)

    def may_act(self, user: Any, role: Role, action: str) -> bool:
        if action == "explode":
            raise LookupError("the directory server's password is hunter2")
        if action == "query":
            return Session.objects.exists()
        return action != "run"

    def may_close(self, user: Any, session: Session, role: Role) -> bool:
        return session.title == "done"

    def may_rename(self, user: Any, session: Session, role: Role) -> bool:
        return role is Role.OWNER

    def may_share(self, user: Any, session: Session, role: Role) -> bool:
        return session.title != "private" and role.may_act

    def listed(self, user: Any, sessions: QuerySet[Session]) -> QuerySet[Session]:
        return sessions.exclude(title="hidden")

    def administered(self, user: Any, sessions: QuerySet[Session]) -> QuerySet[Session]:
        return sessions.filter(title="shown")

    def may_operate(self, user: Any, verb: str, row: Any) -> bool:
        return verb != "passivate"
