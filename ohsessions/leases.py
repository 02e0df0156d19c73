"""Processes and their leases: who lives, and so who may own what.

A process registers under an id that is never used again, and renews by raising its heartbeat counter. An
observer marks a process gone when its *counter* stood still for LEASE_TTL seconds of the observer's own
monotonic clock; the UPDATE repeats the counter, so a renewal in the meantime wins. A process that was marked
gone cannot renew: it learns of it, stops what it owns, and registers anew.

No safety rests on the clocks of two hosts. Two spans are measured, each by one monotonic clock. The holder's
begins when it *sends* a renewal, and ends HOLD × LEASE_TTL later (see membership); the observer's begins when
it has *read* the counter which that renewal wrote, so later, and lasts LEASE_TTL. So the holder has stopped
first, unless its clock runs slower than the observer's by a fifth. Even then nothing is written twice: who
takes over raises the session's epoch, and each write of the former owner is refused by its epoch in its own
transaction. (The clock of a host that was suspended as a whole is such a one: it stood still meanwhile.)
`seen_at` and `passivate_at` are of the database's clock, and are for people and for being due.

One case needs no waiting. On the same boot and in the same pid namespace, a pid whose start time is no longer
to be found is a process that has ended (`is_known_dead`).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, F, OuterRef, QuerySet

import ohsessions
from ohsessions.core.errors import ProcessGone
from ohsessions.database import database_now
from ohsessions.models import Connection, Process, Session

logger = logging.getLogger(__name__)

MAX_GAP = 1.0
"""Seconds between two successful looks beyond which an observer starts counting again: after an outage of the
database nobody must be reaped for not having renewed during it."""


def start_time(pid: int) -> str | None:
    """When a process of this pid namespace started, in clock ticks since boot; None if there is none.

    Source: proc(5), field 22 of /proc/PID/stat; the name in field 2 may hold spaces and parentheses.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]


def _namespace() -> str:
    """Boot and pid namespace: within both, a pid and its start time name one process. Empty if unknown."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return ""  # /proc is another namespace's: the same pid is another process there
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def own_birth() -> str:
    """What distinguishes this process from every other one with its pid."""
    return f"{_namespace()}/{start_time(os.getpid()) or ''}"


def is_known_dead(process: Process) -> bool:
    """Whether a process certainly no longer exists; False if that cannot be known from here."""
    namespace, _, started = process.birth.rpartition("/")
    if not namespace or not started or namespace != _namespace():
        return False
    try:
        # /proc may hide the processes of other users (hidepid); a signal that is not sent finds them.
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return start_time(process.pid) not in (None, started)
    return start_time(process.pid) != started


def register(kind: Process.Kind, state: Process.State = Process.State.ACTIVE) -> UUID:
    """Makes this process known, under a new id."""
    now = database_now()
    process = Process.objects.create(
        kind=kind,
        state=state,
        host=socket.gethostname(),
        pid=os.getpid(),
        birth=own_birth(),
        version=ohsessions.__version__,
        started_at=now,
        seen_at=now,
    )
    return process.pk


def renew(process_id: UUID, load: int) -> None:
    """Renews a lease. Raises ProcessGone if it was declared gone meanwhile."""
    alive = Process.objects.filter(pk=process_id).exclude(state=Process.State.GONE)
    if not alive.update(heartbeat=F("heartbeat") + 1, load=load, seen_at=database_now()):
        raise ProcessGone


def begin_drain(process_id: UUID) -> bool:
    """Says that a process takes nothing new. A process that is told so by somebody else drains, and ends.

    Gives whether it was active until now.
    """
    active = Process.objects.filter(pk=process_id, state=Process.State.ACTIVE)
    return bool(active.update(state=Process.State.DRAINING))


def request_drain(process_id: UUID, *, by: str) -> str:
    """An operator's «drain now»; gives what happens, in words."""
    if begin_drain(process_id):
        logger.info("Process %s is to drain, by %s", process_id, by, extra={"verb": "drain_requested"})
        return "The process drains: it hands over what it holds, and ends."
    state = Process.objects.filter(pk=process_id).values_list("state", flat=True).first()
    return f"Nothing to do: the process is {state or 'unknown'}."


def identity(process: Process) -> tuple[object, ...]:
    """What the rows of one process have in common: one that is gateway and worker at once has two.

    Where its namespace is unknown, nothing: others may share its host name and pid.
    """
    namespace = process.birth.rpartition("/")[0]
    return (process.host, process.pid, process.birth) if namespace else (process.pk,)


def mark_gone(process_id: UUID, heartbeat: int | None = None) -> bool:
    """Declares a process gone, if its counter is still `heartbeat` (None: whatever it is). Says if it did."""
    rows = Process.objects.filter(pk=process_id).exclude(state=Process.State.GONE)
    if heartbeat is not None:
        rows = rows.filter(heartbeat=heartbeat)
    return bool(rows.update(state=Process.State.GONE))


LIVING = (Process.State.ACTIVE, Process.State.DRAINING)


def living() -> list[Process]:
    """All processes that were not declared gone."""
    # Named, not excluded: so an index finds them among any number that is gone.
    return list(Process.objects.filter(state__in=LIVING))


def gone_with_leftovers() -> list[Process]:
    """Processes declared gone that still own sessions or have connections that did not end.

    Gateways first: of what was lost together with its clients only that is started again for which they
    come back.
    """
    # From what is owned and open, by its index: of processes that are gone there may be any number.
    owners = Session.objects.filter(worker__isnull=False).order_by()
    servers = Connection.objects.filter(ended_at=None, gateway__isnull=False).order_by()
    named = {*owners.values_list("worker", flat=True).distinct()}
    named |= {*servers.values_list("gateway", flat=True).distinct()}
    return list(Process.objects.filter(pk__in=named, state=Process.State.GONE).order_by("kind"))


@transaction.atomic
def forget_gone(before: datetime, limit: int) -> int:
    """Deletes processes that were declared gone, were seen last `before`, and that no row names any more.

    Gives how many there were, `limit` at most; those that somebody has locked are left for later. One that is
    gone in its row only, and lives, finds no row at its next renewal: that is the same to it.
    """
    rows = forgotten(before).select_for_update(skip_locked=True).values_list("pk", flat=True)
    # Asked again: who named one meanwhile did so before we locked it.
    count, _ = forgotten(before).filter(pk__in=list(rows[:limit])).delete()
    return count


def forgotten(before: datetime) -> QuerySet[Process]:
    """The processes of forget_gone()."""
    owned = Exists(Session.objects.filter(worker=OuterRef("pk")))
    served = Exists(Connection.objects.filter(gateway=OuterRef("pk")))
    return Process.objects.filter(~owned, ~served, state=Process.State.GONE, seen_at__lt=before).order_by()


def end_detached(gateway: UUID) -> None:
    """Ends what connections a gateway has that are attached to nothing: no session has to hear of it."""
    detached = Connection.objects.filter(gateway=gateway, session=None, ended_at=None)
    detached.update(ended_at=database_now(), end_reason="gateway_lost")


@dataclass(slots=True)
class Observer:
    """Watches the others' counters with this process's own monotonic clock. See the module's docstring."""

    lease_ttl: float
    _seen: dict[UUID, tuple[int, float]] = field(default_factory=dict)
    _last_look: float | None = None

    def observe(self, counters: Iterable[tuple[UUID, int]], now: float) -> list[tuple[UUID, int]]:
        """Takes (process, counter) of all that live, read successfully at monotonic time `now`.

        Gives those whose counter has stood still for too long, with that counter.
        """
        if self._last_look is None or now - self._last_look > MAX_GAP:
            self._seen.clear()
        self._last_look = now
        seen: dict[UUID, tuple[int, float]] = {}
        expired = []
        for process, counter in counters:
            before = self._seen.get(process)
            since = before[1] if before and before[0] == counter else now
            seen[process] = (counter, since)
            if now - since >= self.lease_ttl:
                expired.append((process, counter))
        self._seen = seen
        return expired
