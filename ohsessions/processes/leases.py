"""The leases of processes: which processes live, and so may own sessions.

A process registers under an id that is never used again, and renews its lease by raising a counter.
An observer marks a process gone when its *counter* stood still for LEASE_TTL seconds of the observer's own
monotonic clock. The UPDATE repeats the counter, so a renewal in the meantime wins. A process that was marked
gone cannot renew: it detects this, stops everything it owns, and registers anew.

No safety rests on the clocks of two hosts. Two spans are measured, each by one monotonic clock. The holder's
span begins when it *sends* a renewal, and ends HOLD × LEASE_TTL later (see membership). The observer's span
begins later, when it has *read* the counter which that renewal wrote, and lasts LEASE_TTL. So the holder has
stopped first, unless its clock runs slower than the observer's by a fifth. Even then nothing is written
twice: a takeover raises the session's epoch, and each write of the former owner is refused by its epoch in
its own transaction. (A host that was suspended as a whole has such a clock: it stood still meanwhile.)
`seen_at` and `passivate_at` are times of the database's clock. They are for people and for due times.

One case needs no waiting. On the same boot and in the same pid namespace, a process has ended if no process
with its pid and start time is found (`is_known_dead`).
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

from django.db.models import Exists, F, OuterRef, QuerySet

import ohsessions
from ohsessions.core.errors import ProcessGone
from ohsessions.database import database_now
from ohsessions.models import Connection, Process, Session

logger = logging.getLogger(__name__)

MAX_GAP = 1.0
"""Seconds between two successful looks after which an observer starts counting again. After a database outage
no process must be marked gone because it did not renew during the outage."""


def start_time(pid: int) -> str | None:
    """Return when a process of this pid namespace started, in clock ticks since boot; None if it has ended.

    Source: proc(5), field 22 of /proc/PID/stat; the name in field 2 may hold spaces and parentheses.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]


def _namespace() -> str:
    """Return boot and pid namespace: in both, a pid and its start time name one process. Empty if unknown."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return ""  # /proc shows another namespace, where this pid is another process
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def own_birth() -> str:
    """Return a text that distinguishes this process from every other process with its pid."""
    return f"{_namespace()}/{start_time(os.getpid()) or ''}"


def is_known_dead(process: Process) -> bool:
    """Return whether a process has certainly ended; False if that cannot be known from here."""
    namespace, _, started = process.birth.rpartition("/")
    if not namespace or not started or namespace != _namespace():
        return False
    try:
        # /proc may hide the processes of other users (hidepid). Signal 0 finds them.
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return start_time(process.pid) not in (None, started)
    return start_time(process.pid) != started


def register(kind: Process.Kind, state: Process.State = Process.State.ACTIVE) -> UUID:
    """Register this process under a new id; return the id."""
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
    """Renew a lease. Raises ProcessGone if the process was declared gone meanwhile."""
    alive = Process.objects.filter(pk=process_id).exclude(state=Process.State.GONE)
    if not alive.update(heartbeat=F("heartbeat") + 1, load=load, seen_at=database_now()):
        raise ProcessGone


def begin_drain(process_id: UUID) -> bool:
    """Mark a process as draining: it takes nothing new. Return whether it was active until now.

    A process that was marked by another process drains, and ends.
    """
    active = Process.objects.filter(pk=process_id, state=Process.State.ACTIVE)
    return bool(active.update(state=Process.State.DRAINING))


def request_drain(process_id: UUID, *, by: str) -> str:
    """Drain a process for an operator; return a message that says what happens."""
    if begin_drain(process_id):
        logger.info("Process %s is to drain, by %s", process_id, by, extra={"verb": "drain_requested"})
        return "The process drains: it hands over what it holds, and ends."
    state = Process.objects.filter(pk=process_id).values_list("state", flat=True).first()
    return f"Nothing to do: the process is {state or 'unknown'}."


def identity(process: Process) -> tuple[object, ...]:
    """Return a value that all rows of one process share: a gateway that is also a worker has two rows.

    If its namespace is unknown, each row has a value of its own: others may share its host name and pid.
    """
    namespace = process.birth.rpartition("/")[0]
    return (process.host, process.pid, process.birth) if namespace else (process.pk,)


def mark_gone(process_id: UUID, heartbeat: int | None = None) -> bool:
    """Declare a process gone if its counter is still `heartbeat` (None: any); return whether it did."""
    rows = Process.objects.filter(pk=process_id).exclude(state=Process.State.GONE)
    if heartbeat is not None:
        rows = rows.filter(heartbeat=heartbeat)
    return bool(rows.update(state=Process.State.GONE))


LIVING = (Process.State.ACTIVE, Process.State.DRAINING)


def living() -> list[Process]:
    """Return all processes that were not declared gone."""
    # The filter names the living states: an index finds these among any number of gone processes.
    return list(Process.objects.filter(state__in=LIVING))


def gone_with_leftovers() -> list[Process]:
    """Return the processes declared gone that still own sessions or have connections that did not end.

    Gateways sort first. Their connections are ended before a dead worker's sessions are handed over, so a
    session whose clients died too is passivated instead of being started again.
    """
    # Start from owned sessions and open connections, by their indexes: any number of processes may be gone.
    owners = Session.objects.filter(worker__isnull=False).order_by()
    servers = Connection.objects.filter(ended_at=None, gateway__isnull=False).order_by()
    named = {*owners.values_list("worker", flat=True).distinct()}
    named |= {*servers.values_list("gateway", flat=True).distinct()}
    return list(Process.objects.filter(pk__in=named, state=Process.State.GONE).order_by("kind"))


def forgotten(before: datetime) -> QuerySet[Process]:
    """Return the processes that were declared gone, were last seen before `before`, and are named by no row.

    One of them that lives finds no row at its next renewal. That has the same effect as being declared gone.
    """
    owned = Exists(Session.objects.filter(worker=OuterRef("pk")))
    served = Exists(Connection.objects.filter(gateway=OuterRef("pk")))
    return Process.objects.filter(~owned, ~served, state=Process.State.GONE, seen_at__lt=before).order_by()


def end_detached(gateway: UUID) -> None:
    """End a gateway's connections that are attached to no session: no session must be notified."""
    detached = Connection.objects.filter(gateway=gateway, session=None, ended_at=None)
    detached.update(ended_at=database_now(), end_reason="gateway_lost")


@dataclass(slots=True)
class Observer:
    """A watch over the others' counters by this process's monotonic clock. See the module's docstring."""

    lease_ttl: float
    _since: dict[tuple[UUID, int], float] = field(default_factory=dict)
    """Each process with its counter, and when that was first seen."""
    _last_look: float | None = None

    def observe(self, counters: Iterable[tuple[UUID, int]], now: float) -> list[tuple[UUID, int]]:
        """Return the processes whose counter has stood still for too long, with that counter.

        `counters`: (process, counter) of all living processes, read successfully at monotonic time `now`.
        """
        if self._last_look is None or now - self._last_look > MAX_GAP:
            self._since.clear()
        self._last_look = now
        self._since = {counter: self._since.get(counter, now) for counter in counters}
        return [counter for counter, since in self._since.items() if now - since >= self.lease_ttl]
