"""The deletion of old rows in small steps, as the settings …_RETENTION allow: no table grows for ever.

Each kind of row has a pass. A step of a pass is one transaction over some hundred rows, found by an index. It
skips rows that are locked, and leaves them for the next pass. So any number of processes may prune at once,
and nobody waits for them. A pass keeps its place: if it is interrupted, it goes on from there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, Model, OuterRef, Q, QuerySet

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
    setting = ""

    def __init__(self, *, dry_run: bool = False) -> None:
        self.dry_run = dry_run
        self.found = 0
        """The number of rows that were deleted, or that a dry run would have deleted."""

    @classmethod
    def age(cls) -> float | None:
        """Return the age in seconds from the setting. None: there is nothing to do."""
        age: float | None = getattr(conf, cls.setting)
        return age

    @abstractmethod
    def step(self) -> bool:
        """Do a little; return True if there may be more. After RowLocked, go on with the next step."""

    def before(self) -> datetime:
        """Return the time before which rows are old."""
        return database_now() - timedelta(seconds=self.age() or 0)


class ById(Pass):
    """A pass that goes through a table by id: nearly the order in which its rows began."""

    model: type[Model]
    begun: str
    """The column with the time at which a row began."""
    _after = 0

    @abstractmethod
    def old(self, before: datetime) -> Q:
        """Return the condition of the rows to delete."""

    def step(self) -> bool:
        before, table = self.before(), self.model._default_manager
        page = dict(table.filter(pk__gt=self._after).order_by("pk").values_list("pk", self.begun)[:STEP])
        if not page:
            return False
        self._after = max(page)
        old = table.filter(self.old(before), pk__in=page)
        self.found += old.count() if self.dry_run else _delete(old)
        return len(page) == STEP and min(page.values()) < before


class Connections(ById):
    """The pass of connections that ended long ago."""

    what = "ended connections"
    setting = "CONNECTION_RETENTION"
    model = Connection
    begun = "connected_at"

    def old(self, before: datetime) -> Q:
        return Q(ended_at__lt=before)


class Transitions(ById):
    """The pass of old transitions, except the newest of each session."""

    what = "transitions"
    setting = "TRANSITION_RETENTION"
    model = Transition
    begun = "at"

    def old(self, before: datetime) -> Q:
        newer = Transition.objects.filter(session=OuterRef("session"), at__gt=OuterRef("at"))
        return Q(Exists(newer.order_by("-at")[TRANSITIONS_KEPT - 1 : TRANSITIONS_KEPT]), at__lt=before)


class ByQuery(Pass):
    """A pass that finds its rows by one query, STEP of them at a time."""

    @abstractmethod
    def rows(self, before: datetime) -> QuerySet[Any]:
        """Return the rows to delete."""

    def step(self) -> bool:
        rows = self.rows(self.before())
        if self.dry_run:
            self.found = rows.count()
            return False
        count = _delete(rows)
        self.found += count
        return count >= STEP


class Processes(ByQuery):
    """The pass of processes that are gone and that no row names: kept connections keep their gateways."""

    what = "gone processes"
    setting = "PROCESS_RETENTION"

    def rows(self, before: datetime) -> QuerySet[Any]:
        return leases.forgotten(before)


class Links(ByQuery):
    """The pass of links that expired longer ago than connections are kept: these may name them until then."""

    what = "ended links"
    setting = "CONNECTION_RETENTION"

    def rows(self, before: datetime) -> QuerySet[Any]:
        # A link that was made with one of these ended no later. The cascade deletes it, too.
        return Link.objects.filter(expires_at__lt=before).order_by("pk")


class ByPage(Pass):
    """A pass that reads the keys of a page, handles one of them in each step, and then reads on."""

    def __init__(self, *, dry_run: bool = False) -> None:
        super().__init__(dry_run=dry_run)
        self.ready: deque[Any] = deque()
        self._more = True

    @abstractmethod
    def read_page(self) -> bool:
        """Add keys to `ready`; return True if there may be another page."""

    @abstractmethod
    def handle(self, key: Any) -> None:
        """Delete the rows that a key stands for, or some of them and put the key back."""

    def step(self) -> bool:
        if not self.ready and self._more:
            self._more = self.read_page()
        if self.ready:
            self.handle(self.ready.popleft())
        return bool(self.ready) or self._more


class Events(ByPage):
    """The pass of old events. It goes by id, which is the order of their times, so it reads old ones only.

    A key is a session in the page, with its lowest number and the number after its highest.
    """

    what = "events, by age"
    setting = "EVENT_RETENTION"
    _after = 0

    def read_page(self) -> bool:
        before, size, more = self.before(), 0, False
        rows = Event.objects.filter(pk__gt=self._after).order_by("pk")
        page = rows.values_list("pk", "session", "number", "created_at", journal.Bytes("data"))[:STEP]
        parts: dict[UUID, tuple[int, int]] = {}
        for pk, session_id, number, created_at, length in page:
            more = created_at < before
            if not more:
                break
            self._after, size = pk, size + length
            lowest, _ = parts.get(session_id, (number, 0))
            parts[session_id] = (lowest, number + 1)
            if size > STEP_BYTES:
                break
        self.ready.extend((session_id, *part) for session_id, part in parts.items())
        return more

    def handle(self, key: tuple[UUID, int, int]) -> None:
        session_id, lowest, below = key
        if self.dry_run:
            self.found += max(0, min(below, journal.first_kept(session_id)) - lowest)
        else:
            self.found += journal.trim(session_id, below, STEP)


class Sessions(ByPage):
    """The pass of sessions that were closed long ago, or whose visitors did not come back."""

    what = "sessions"

    def __init__(self, *, dry_run: bool = False) -> None:
        super().__init__(dry_run=dry_run)
        self._queries: deque[SessionQuerySet] | None = None
        self._place: tuple[datetime, UUID] | None = None

    @classmethod
    def age(cls) -> float | None:
        ages = [age for age in (conf.CLOSED_RETENTION, conf.ANONYMOUS_RETENTION) if age is not None]
        return min(ages, default=None)

    def read_page(self) -> bool:
        if self._queries is None:  # not in __init__(): this reads the database's clock
            self._queries = deque(lifecycle.discardable(database_now()))
        if not self._queries:
            return False
        rows = self._queries[0]
        if self._place is not None:
            at, pk = self._place
            rows = rows.filter(Q(state_at__gt=at) | Q(state_at=at, pk__gt=pk))
        page = list(rows.order_by("state_at", "pk").values_list("state_at", "pk")[:STEP])
        self.ready.extend(pk for _, pk in page)
        self._place = page[-1] if len(page) == STEP else None
        if self._place is None:
            self._queries.popleft()
        return bool(self._queries)

    def handle(self, key: UUID) -> None:
        if self.dry_run:
            self.found += 1
        elif lifecycle.discard(key, "pruning"):
            self.ready.appendleft(key)
        else:
            self.found += not Session.objects.filter(pk=key).exists()


class LargeLogs(ByPage):
    """The pass of the oldest events of logs that are too large. `awake`: only of awake sessions.

    A dry run counts the logs, not their events, and says so.
    """

    what = "events, by size"

    def __init__(self, *, dry_run: bool = False, awake: bool = False) -> None:
        super().__init__(dry_run=dry_run)
        if dry_run:
            self.what = "logs that are too large"
        self._awake = awake
        self._after = UUID(int=0)

    @classmethod
    def age(cls) -> float | None:
        return None if conf.EVENT_RETENTION_BYTES is None else SPARED.total_seconds()

    def read_page(self) -> bool:
        rows = Session.objects.filter(log_bytes__gt=conf.EVENT_RETENTION_BYTES, pk__gt=self._after)
        if self._awake:
            rows = rows.filter(state__in=states.AWAKE)
        page = list(rows.order_by("pk").values_list("pk", flat=True)[:STEP])
        self.ready.extend(page)
        self._after = max(page, default=self._after)
        return len(page) == STEP

    def handle(self, key: UUID) -> None:
        size = conf.EVENT_RETENTION_BYTES
        if self.dry_run:
            self.found += 1
        elif size is not None and (count := journal.trim_to_size(key, size, self.before())):
            self.found += count
            self.ready.appendleft(key)


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


def _delete(rows: QuerySet[Any]) -> int:
    """Delete STEP rows of a query at most, except those that are locked, and return how many."""
    with transaction.atomic():
        keys = list(rows.select_for_update(skip_locked=True).values_list("pk", flat=True)[:STEP])
        # Filter again: a row may have come to need a process before that was locked.
        count: int = rows.filter(pk__in=keys).delete()[0] if keys else 0
        return count


def prune(*, dry_run: bool = False) -> Iterator[Pass]:
    """Run all passes to their ends, and yield each one when it is done."""
    for kind in PASSES:
        if kind.age() is None:
            continue
        done, more = kind(dry_run=dry_run), True
        while more:
            with suppress(RowLocked), lock_wait(LOCK_WAIT):  # the pass has skipped a row that is locked
                more = done.step()
        yield done


def is_first_worker(process_id: UUID) -> bool:
    """Return whether a worker is the one that prunes: only the first by id, since one is enough."""
    workers = Process.objects.filter(kind=Process.Kind.WORKER, state=Process.State.ACTIVE)
    return workers.order_by("pk").values_list("pk", flat=True).first() == process_id
