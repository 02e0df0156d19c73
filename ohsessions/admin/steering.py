"""The operations on sessions: passivate, wake, and revoke links."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from ohsessions import api
from ohsessions.admin.display import plural
from ohsessions.admin.operations import Operation
from ohsessions.conf import conf
from ohsessions.core.states import ASLEEP, State

if TYPE_CHECKING:
    from ohsessions.admin.annotations import SessionRow


class Passivate(Operation):
    verb = "Passivate"
    intro = (
        "A passivated session is a row and its files: no process, no memory. Nothing stored is lost, and it"
        " goes on where it was as soon as somebody attaches."
    )
    states = (State.STARTING, State.RUNNING)

    def warnings(self, rows: Sequence[SessionRow]) -> list[str]:
        attached = sum(row.attached_count for row in rows)
        told = plural(
            attached,
            "connection is attached now: it is told that an operator ended it",
            "connections are attached now: they are told that an operator ended them",
        )
        return [f"{told}, and closed."] if attached else []

    def consequence(self, row: SessionRow) -> str:
        if row.state == State.STARTING:
            said = ["It sleeps again at once, before it has started."]
        elif row.worker_id is None:
            said = ["It is passivated as soon as a worker has taken it over."]
        else:
            said = ["Its worker stores its state and frees its process."]
        if row.attached_count:
            count = row.attached_count
            them = "Its connection is" if count == 1 else f"Its {count} connections are"
            said.append(f"{them} told and ended; whoever comes back wakes it.")
        if row.has_pending_work:
            if row.state == State.RUNNING and row.started_number > row.handled_number:
                said.append(f"Action #{row.started_number} is cut off.")
            said.append("Since an action is pending it then starts again, to handle it.")
        return " ".join(said)

    def do(self, key: UUID, by: str) -> str:
        return api.passivate(key, by=by)


class Wake(Operation):
    verb = "Wake"
    intro = (
        "A worker starts the session's runtime from where it was, as it does when a client attaches. One that"
        " failed is started again at once, and the crashes until now no longer count."
    )
    is_disturbing = False
    states = ASLEEP

    def consequence(self, row: SessionRow) -> str:
        said = ["It starts as soon as a worker takes it."]
        if row.crashes:
            times = "once" if row.crashes == 1 else f"{row.crashes} times in a row"
            said.append(f"It crashed {times}, which is forgotten.")
        if row.has_pending_work:
            said.append("The actions that wait are handled.")
        if not row.attached_count and conf.CLOSE_DELAY is not None:
            then = (
                "then sleeps again" if row.has_pending_work else f"sleeps again after {conf.CLOSE_DELAY:g} s"
            )
            said.append(f"Nobody is attached: unless somebody comes it {then}.")
        return " ".join(said)

    def do(self, key: UUID, by: str) -> str:
        return api.wake(key, by=by)


class RevokeLinks(Operation):
    verb = "Revoke links"
    intro = (
        "No link and no token to a session that was given out until now is valid any more, on any device, and"
        " all who are attached are disconnected. Owners who have an account come back by their login."
    )
    permission = "revoke"
    states = frozenset(State)

    def warnings(self, rows: Sequence[SessionRow]) -> list[str]:
        lost = sum(row.owner_id is None for row in rows)
        if not lost:
            return []
        which = "A session here was" if lost == 1 else f"{lost} of the sessions were"
        return [f"{which} started without an account: nobody can come back to what has no owner."]

    def consequence(self, row: SessionRow) -> str:
        count = row.attached_count
        ended = {0: "Nobody is attached.", 1: "Its connection is told and ended."}
        return ended.get(count, f"Its {count} connections are told and ended.")

    def do(self, key: UUID, by: str) -> str:
        count = api.revoke_links(key)
        ended = {0: "nobody was attached", 1: "the connection that was attached is ended"}
        many = f"the {count} connections that were attached are ended"
        return f"No link or token to it is valid any more; {ended.get(count, many)}."


PASSIVATE, WAKE, REVOKE_LINKS = Passivate(), Wake(), RevokeLinks()
