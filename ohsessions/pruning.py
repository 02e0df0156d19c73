"""The deletion of old rows in small steps, as the settings …_RETENTION allow: no table grows for ever.

Each kind of row has a pass. A step of a pass is one transaction over some hundred rows, found by an index. It
skips rows that are locked, and leaves them for the next pass. So any number of processes may prune at once,
and nobody waits for them. A pass keeps its place: if it is interrupted, it goes on from there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, Q

from ohsessions import journal, lifecycle
from ohsessions.conf import conf
from ohsessions.core import states
from ohsessions.core.errors import RowLocked
from ohsessions.database import database_now, lock_wait
from ohsessions.journal.trimming import STEP, STEP_BYTES
from ohsessions.models import Connection, Event, Link, Process, Session, SessionQuerySet, Transition
from ohsessions.processes import leases

TRANSITIONS_KEPT = 20
"""Each session keeps this many of its newest transitions, however old: they explain its state."""
SPARED = timedelta(minutes=1)
"""Events that are newer are not trimmed by size. A writer that did not learn that its event was stored sends
it again, and must find it."""
LOCK_WAIT = 0.2
"""Seconds that `prune` waits for a locked row."""


class Pass(ABC):
    """One walk through the rows of a kind."""

    what: str

    def __init__(self, *, dry_run: bool = False) -> None:
        self.dry_run = dry_run
        self.found = 0
        """The number of rows that were deleted, or that a dry run would have deleted."""

    @staticmethod
    @abstractmethod
    def age() -> float | None:
        """Return the age in seconds from the setting. None: there is nothing to do."""

    @abstractmethod
    def step(self) -> bool:
        """Do a little; return True if there may be more. After RowLocked, go on with the next step."""

    def before(self) -> datetime:
        """Return the time before which rows are old."""
        return database_now() - timedelta(seconds=self.age() or 0)


class Connections(Pass):
    """The pass of connections that ended long ago. It goes by id: nearly the order in which they began."""

    what = "ended connections"
    _after = 0

    @staticmethod
    def age() -> float | None:
        return conf.CONNECTION_RETENTION

    def step(self) -> bool:
        before = self.before()
        rows = Connection.objects.filter(pk__gt=self._after).order_by("pk")
        page = list(rows.values_list("pk", "connected_at", "ended_at")[:STEP])
        if not page:
            return False
        self._after = page[-1][0]
        old = [pk for pk, _, ended_at in page if ended_at is not None and ended_at < before]
        self.found += (
            len(old) if self.dry_run else _delete(Connection.objects.filter(pk__in=old, ended_at__lt=before))
        )
        return len(page) == STEP and min(connected_at for _, connected_at, _ in page) < before


class Transitions(Pass):
    """The pass of old transitions, except the newest of each session."""

    what = "transitions"
    _after = 0

    @staticmethod
    def age() -> float | None:
        return conf.TRANSITION_RETENTION

    def step(self) -> bool:
        before = self.before()
        newer = Transition.objects.filter(session=OuterRef("session"), at__gt=OuterRef("at"))
        rows = Transition.objects.filter(pk__gt=self._after).order_by("pk")
        surplus = Exists(newer.order_by("-at")[TRANSITIONS_KEPT - 1 : TRANSITIONS_KEPT])
        page = list(rows.annotate(surplus=surplus).values_list("pk", "at", "surplus")[:STEP])
        if not page:
            return False
        self._after = page[-1][0]
        old = [pk for pk, at, is_surplus in page if is_surplus and at < before]
        self.found += len(old) if self.dry_run else _delete(Transition.objects.filter(pk__in=old))
        return len(page) == STEP and min(at for _, at, _ in page) < before


class Processes(Pass):
    """The pass of processes that are gone and that no row names: kept connections keep their gateways."""

    what = "gone processes"

    @staticmethod
    def age() -> float | None:
        return conf.PROCESS_RETENTION

    def step(self) -> bool:
        if self.dry_run:
            self.found = leases.forgotten(self.before()).count()
            return False
        count = leases.forget_gone(self.before(), STEP)
        self.found += count
        return count == STEP


class Events(Pass):
    """The pass of old events. It goes by id, which is the order of their times, so it reads old ones only."""

    what = "events, by age"

    def __init__(self, *, dry_run: bool = False) -> None:
        super().__init__(dry_run=dry_run)
        self._after = 0
        self._more = True
        self._parts: deque[tuple[UUID, int, int]] = deque()
        """Each session in the page, with its lowest number and the number after its highest."""

    @staticmethod
    def age() -> float | None:
        return conf.EVENT_RETENTION

    def step(self) -> bool:
        if not self._parts and self._more:
            self._read_page()
        if self._parts:
            session_id, lowest, below = self._parts.popleft()
            if self.dry_run:
                self.found += max(0, min(below, journal.first_kept(session_id)) - lowest)
            else:
                self.found += journal.trim(session_id, below, STEP)
        return bool(self._parts) or self._more

    def _read_page(self) -> None:
        before, size = self.before(), 0
        rows = Event.objects.filter(pk__gt=self._after).order_by("pk")
        page = rows.values_list("pk", "session", "number", "created_at", journal.Bytes("data"))[:STEP]
        parts: dict[UUID, tuple[int, int]] = {}
        self._more = False
        for pk, session_id, number, created_at, length in page:
            if created_at >= before:
                self._more = False
                break
            self._more = True
            self._after, size = pk, size + length
            lowest, _ = parts.get(session_id, (number, 0))
            parts[session_id] = (lowest, number + 1)
            if size > STEP_BYTES:
                break
        self._parts.extend((session_id, *part) for session_id, part in parts.items())


class Links(Pass):
    """The pass of links that expired longer ago than connections are kept: these may name them until then."""

    what = "ended links"

    @staticmethod
    def age() -> float | None:
        return conf.CONNECTION_RETENTION

    def step(self) -> bool:
        ended = Link.objects.filter(expires_at__lt=self.before())
        if self.dry_run:
            self.found = ended.count()
            return False
        # A link that was made with one of these ended no later. The cascade deletes it, too.
        keys = list(ended.order_by("pk").values_list("pk", flat=True)[:STEP])
        count = _delete(Link.objects.filter(pk__in=keys))
        self.found += count
        return bool(count) and len(keys) == STEP


class Sessions(Pass):
    """The pass of sessions that were closed long ago, or whose visitors did not come back."""

    what = "sessions"

    def __init__(self, *, dry_run: bool = False) -> None:
        super().__init__(dry_run=dry_run)
        self._queries: deque[SessionQuerySet] | None = None
        self._place: tuple[datetime, UUID] | None = None
        self._ready: deque[UUID] = deque()

    @staticmethod
    def age() -> float | None:
        ages = [age for age in (conf.CLOSED_RETENTION, conf.ANONYMOUS_RETENTION) if age is not None]
        return min(ages, default=None)

    def step(self) -> bool:
        if self._queries is None:  # not in __init__(): this reads the database's clock
            self._queries = deque(lifecycle.discardable(database_now()))
        if not self._ready and self._queries:
            self._read_page(self._queries)
        if self._ready:
            session_id = self._ready.popleft()
            if self.dry_run:
                self.found += 1
            elif lifecycle.discard(session_id, "pruning"):
                self._ready.appendleft(session_id)
            else:
                self.found += not Session.objects.filter(pk=session_id).exists()
        return bool(self._ready or self._queries)

    def _read_page(self, queries: deque[SessionQuerySet]) -> None:
        rows = queries[0]
        if self._place is not None:
            at, pk = self._place
            rows = rows.filter(Q(state_at__gt=at) | Q(state_at=at, pk__gt=pk))
        page = list(rows.order_by("state_at", "pk").values_list("pk", "state_at")[:STEP])
        self._ready.extend(pk for pk, _ in page)
        if len(page) == STEP:
            self._place = (page[-1][1], page[-1][0])
        else:
            self._place = None
            queries.popleft()


class LargeLogs(Pass):
    """The pass of the oldest events of logs that are too large. `awake`: only of awake sessions.

    A dry run counts the logs, not their events, and says so.
    """

    what = "events, by size"

    def __init__(self, *, dry_run: bool = False, awake: bool = False) -> None:
        super().__init__(dry_run=dry_run)
        if dry_run:
            self.what = "logs that are too large"
        self._awake = awake
        self._after: UUID | None = None
        self._more = True
        self._ready: deque[UUID] = deque()

    @staticmethod
    def age() -> float | None:
        return None if conf.EVENT_RETENTION_BYTES is None else SPARED.total_seconds()

    def step(self) -> bool:
        size = conf.EVENT_RETENTION_BYTES
        if size is None:
            return False
        if not self._ready and self._more:
            self._read_page(size)
        if self._ready:
            session_id = self._ready.popleft()
            if self.dry_run:
                self.found += 1
            elif count := journal.trim_to_size(session_id, size, self.before()):
                self.found += count
                self._ready.appendleft(session_id)
        return bool(self._ready) or self._more

    def _read_page(self, size: int) -> None:
        rows = Session.objects.filter(log_bytes__gt=size)
        if self._awake:
            rows = rows.filter(state__in=states.AWAKE)
        if self._after is not None:
            rows = rows.filter(pk__gt=self._after)
        page = list(rows.order_by("pk").values_list("pk", flat=True)[:STEP])
        self._ready.extend(page)
        self._more = len(page) == STEP
        self._after = page[-1] if page else None


PASSES: tuple[type[Pass], ...] = (
    Events,
    LargeLogs,
    Transitions,
    Connections,
    Links,
    Sessions,
    Processes,
)
"""In this order: a process goes after the connections that name it."""


def _delete(rows: Any) -> int:
    """Delete rows, except those that are locked, and return how many."""
    with transaction.atomic():
        keys = list(rows.select_for_update(skip_locked=True).values_list("pk", flat=True))
        count: int = rows.model._default_manager.filter(pk__in=keys).delete()[0] if keys else 0
        return count


def prune(*, dry_run: bool = False) -> Iterator[Pass]:
    """Run all passes to their ends, and yield each one when it is done."""
    for kind in PASSES:
        if kind.age() is None:
            continue
        done = kind(dry_run=dry_run)
        more = True
        while more:
            try:
                with lock_wait(LOCK_WAIT):
                    more = done.step()
            except RowLocked:  # the pass has skipped that row
                more = True
        yield done


def is_first_worker(process_id: UUID) -> bool:
    """Return whether a worker is the one that prunes: only the first by id, since one is enough."""
    workers = Process.objects.filter(kind=Process.Kind.WORKER, state=Process.State.ACTIVE)
    return workers.order_by("pk").values_list("pk", flat=True).first() == process_id
