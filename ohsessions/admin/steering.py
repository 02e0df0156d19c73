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


def _closed(count: int) -> str:
    """Return the sentence on what happens to so many connections."""
    known = {0: "No client is attached.", 1: "Its connection gets a notice and is closed."}
    return known.get(count, f"Its {count} connections get a notice and are closed.")


class Passivate(Operation):
    verb = "Passivate"
    intro = (
        "A passivated session needs no process and no memory: it is a row and its files. Nothing stored is"
        " lost. The session continues when a client attaches."
    )
    states = (State.STARTING, State.RUNNING)

    def warnings(self, rows: Sequence[SessionRow]) -> list[str]:
        attached = sum(row.attached_count for row in rows)
        closed = plural(
            attached,
            "connection is attached now. It is closed, with a notice that an operator did so.",
            "connections are attached now. They are closed, with a notice that an operator did so.",
        )
        return [closed] if attached else []

    def consequence(self, row: SessionRow) -> str:
        if row.state == State.STARTING:
            said = ["It is passivated at once, before it has started."]
        elif row.worker_id is None:
            said = ["It is passivated as soon as a worker has claimed it."]
        else:
            said = ["Its worker stores its state and stops its runtime."]
        if row.attached_count:
            said.append(f"{_closed(row.attached_count)} The next client that attaches wakes the session.")
        if row.has_pending_work:
            if row.state == State.RUNNING and row.started_number > row.handled_number:
                said.append(f"Action #{row.started_number} is cut off.")
            said.append("Then it starts again, since an action is pending.")
        return " ".join(said)

    def do(self, key: UUID, by: str) -> str:
        return api.passivate(key, by=by)


class Wake(Operation):
    verb = "Wake"
    intro = (
        "A worker starts the session's runtime from its stored state, as it does when a client attaches. A"
        " session that failed starts at once, and its crashes are forgotten."
    )
    is_disturbing = False
    states = ASLEEP

    def consequence(self, row: SessionRow) -> str:
        said = ["It starts as soon as a worker takes it."]
        if row.crashes:
            times = "once" if row.crashes == 1 else f"{row.crashes} times in a row"
            said.append(f"It crashed {times}; that is forgotten.")
        if row.has_pending_work:
            said.append("Its pending actions are handled.")
        if not row.attached_count and conf.CLOSE_DELAY is not None:
            then = (
                "is passivated after that"
                if row.has_pending_work
                else f"is passivated after {conf.CLOSE_DELAY:g} s"
            )
            said.append(f"No client is attached. Unless one attaches, the session {then}.")
        return " ".join(said)

    def do(self, key: UUID, by: str) -> str:
        return api.wake(key, by=by)


class RevokeLinks(Operation):
    verb = "Revoke links"
    intro = (
        "All links and tokens of the session become invalid, on all devices. Its clients are disconnected."
        " An owner with an account can attach again by login."
    )
    permission = "revoke"
    states = frozenset(State)

    def warnings(self, rows: Sequence[SessionRow]) -> list[str]:
        lost = sum(row.owner_id is None for row in rows)
        if not lost:
            return []
        which = "A session here was" if lost == 1 else f"{lost} of the sessions were"
        return [f"{which} started without an account: no client can attach again."]

    def consequence(self, row: SessionRow) -> str:
        return _closed(row.attached_count)

    def do(self, key: UUID, by: str) -> str:
        count = api.revoke_links(key)
        closed = {0: "No client was attached.", 1: "The attached connection is closed."}
        many = f"The {count} attached connections are closed."
        return f"All its links and tokens are invalid. {closed.get(count, many)}"


PASSIVATE, WAKE, REVOKE_LINKS = Passivate(), Wake(), RevokeLinks()
