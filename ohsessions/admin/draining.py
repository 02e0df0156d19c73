"""The operation on processes: drain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from ohsessions import leases
from ohsessions.admin.operations import Operation
from ohsessions.conf import conf
from ohsessions.models import Process

if TYPE_CHECKING:
    from ohsessions.admin.rows import ProcessRow

ACTIVE = Process.State.ACTIVE
WITHOUT = {
    Process.Kind.WORKER: "No other worker is active: sessions that are wanted wait until one is started.",
    Process.Kind.GATEWAY: "No other gateway is active: nobody can connect until one is started.",
}
"""The warning if no active process of a kind is left."""


class Drain(Operation):
    verb = "Drain"
    intro = (
        "A process that drains takes nothing new, hands over what it holds, and ends. Under a supervisor,"
        " which starts it anew, that is a restart; elsewhere it stays away."
    )

    def applies_to(self, row: Process) -> bool:
        return row.state == ACTIVE

    def warnings(self, rows: Sequence[Process]) -> list[str]:
        living = leases.living()
        named = {row.pk for row in rows}
        same = {leases.identity(row) for row in rows}
        twins = [row for row in living if row.pk not in named and leases.identity(row) in same]
        said = [f"The {twin} is the same process, and ends with it." for twin in twins]
        ending = named | {twin.pk for twin in twins}
        for kind, meaning in WITHOUT.items():
            active = {row.pk for row in living if row.kind == kind and row.state == ACTIVE}
            if active and active <= ending:
                said.append(meaning)
        return said

    def consequence(self, row: ProcessRow) -> str:
        if row.kind == Process.Kind.GATEWAY:
            clients = _count(row.served_count, "client is", "clients are")
            return f"{clients} told to connect elsewhere, where nothing is lost to them. Then it ends."
        return (
            f"It owns {_count(row.owned_count, 'session', 'sessions')}. Actions that are under way may end,"
            f" for up to {conf.PASSIVATE_TIMEOUT:g} s. Sessions with clients go on elsewhere, and their"
            " clients stay connected; the others sleep. Then it ends."
        )

    def do(self, key: UUID, by: str) -> str:
        return leases.request_drain(key, by=by)


def _count(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


DRAIN = Drain()
