"""Access policies for tests, made known to a site by OHSESSIONS_ACCESS_POLICY."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ohsessions.access import AccessPolicy, Role
from ohsessions.conf import conf
from ohsessions.models import Session

FLAG = "broken-policy"


class BreakablePolicy(AccessPolicy):
    """Decides as the default one does, until there is a file FLAG in the folder of the workspaces."""

    def may_open(self, user: Any) -> bool:
        if (Path(conf.WORKSPACE_ROOT) / FLAG).exists():
            raise LookupError("the directory server's password is hunter2")
        return super().may_open(user)


class EditorsShare(AccessPolicy):
    """Lets editors give out links, too."""

    def may_share(self, user: Any, session: Session, role: Role) -> bool:
        return role.may_act
