"""A queue of work on the database, and the threads that do it: what is next, with whom, and again when.

See the package's docstring for what there are lanes for.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from django.db import connections, reset_queries

from ohsessions.core.errors import OhSessionsError, RowLocked, Unavailable
from ohsessions.database.causes import storage
from ohsessions.database.connections import (
    drop_broken_connection,
    drop_connection,
    guarded,
    servers_left,
    tell,
)
from ohsessions.database.rowlocks import lock_wait

Commit = Callable[[list[Any]], Sequence[Any]]
"""Writes many items in one transaction; gives for each its result, the exception to raise for it, or LATER.
It may be called again with the same items after a connection was lost, whether or not it had committed."""

MAX_BATCH = 500
LOCK_POLL = 0.005
"""Seconds until items whose rows are locked are tried again, if nothing else is to be written."""
LOCK_PATIENCE = 5.0
"""Seconds after which an item or a call whose row stays locked is given up. Well below LEASE_TTL."""
LOCK_WAIT, LEAST_LOCK_WAIT = 0.2, 0.005
"""Seconds that a waiter (see Lane) waits for a row, before it is the next one's turn: at most, at least."""
LOCK_ROUND = 1.0
"""Seconds in which each of those that wait for a row gets its turn, unless they are very many."""
MAX_IDLE = 5.0
"""Seconds without use after which a connection is tried before it is relied on."""


class Later(Enum):
    LATER = "later"


LATER: Final = Later.LATER
"""What a Commit gives for an item that it could not write yet: the item stays in its place in line."""


@dataclass(slots=True)
class Call:
    """A unit of work of its own."""

    function: Callable[[], Any]
    impatient: bool = False
    """Whether it is given up, rather than tried again, when its row was waited for in vain."""
    future: Future[Any] = field(default_factory=Future)
    begun: float | None = None


@dataclass(slots=True, eq=False)
class Item:
    """A value that is written together with others of the same Commit."""

    commit: Commit
    value: Any
    future: Future[Any] = field(default_factory=Future)
    locked_since: float | None = None


@dataclass(slots=True)
class _Work:
    """What a thread does next."""

    calls: list[Call]
    batch: list[Item] = field(default_factory=list)
    lock_wait: float | None = None
    """See rowlocks. 0: a first try, for which no row is waited."""


class Lane:
    """A queue of work and the threads that do it. `tries`: how often a call may be made.

    With `waiters` no call waits for a row at its first try. Those that find it locked stand in a line of
    their own, and so many threads at most work that off, waiting a little for each in turn. Waiting, since
    who only tries again and again may come too late each time to a row that many want.
    """

    def __init__(self, name: str, threads: int, tries: int = 1, waiters: int = 0) -> None:
        self._ready = threading.Condition()
        self._urgent: deque[Call] = deque()
        self._calls: deque[Call] = deque()
        self._items: deque[Item] = deque()
        self._locked: deque[Call] = deque()
        self._waiting = 0
        self._stopping = False
        self._tries = tries
        self._waiters = waiters
        self._threads = [
            threading.Thread(target=self._run, name=f"ohsessions-{name}-{index}", daemon=True)
            for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, work: Call | Item, *, urgent: bool = False) -> Future[Any]:
        with self._ready:
            if self._stopping:
                raise OhSessionsError("The database's threads have been stopped: this process is ending.")
            if isinstance(work, Item):
                self._items.append(work)
            else:
                (self._urgent if urgent else self._calls).append(work)
            self._ready.notify()
        return work.future

    def stop(self) -> None:
        """Lets the threads finish what is queued, and end."""
        with self._ready:
            self._stopping = True
            self._ready.notify_all()

    def join(self, until: float) -> None:
        """Waits for their end, to this monotonic time at most: they are daemons, and one may hang."""
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        used, left = time.monotonic(), servers_left()
        try:
            while work := self._take():
                if left != servers_left():
                    left = servers_left()
                    drop_connection()
                elif time.monotonic() - used > MAX_IDLE:
                    drop_broken_connection()
                # First the batch: it is for many, and each step of an action waits for one.
                if work.batch:
                    self._put_back(_run_items(work.batch), len(work.batch))
                locked = [call for call in work.calls if not _run_call(call, self._tries, work.lock_wait)]
                if locked or work.lock_wait:
                    self._line_up(locked, bool(work.lock_wait))
                # With DEBUG a connection remembers 9,000 queries, until a request ends: here none does.
                reset_queries()
                used = time.monotonic()
        finally:
            connections.close_all()

    def _take(self) -> _Work | None:
        """Everything urgent; else, up to the number of waiters, who waits for a row; else one call and one
        batch, so that neither kind starves the other."""
        with self._ready:
            while not (self._urgent or self._calls or self._items or self._may_wait()):
                if self._stopping:
                    return None
                self._ready.wait()
            if self._urgent:
                calls = list(self._urgent)
                self._urgent.clear()
                return _Work(calls)
            if self._may_wait():
                share = LOCK_ROUND * self._waiters / len(self._locked)
                self._waiting += 1
                return _Work([self._locked.popleft()], lock_wait=max(LEAST_LOCK_WAIT, min(LOCK_WAIT, share)))
            calls = [self._calls.popleft()] if self._calls else []
            batch: list[Item] = []
            while self._items and len(batch) < MAX_BATCH:
                if batch and self._items[0].commit != batch[0].commit:
                    break
                batch.append(self._items.popleft())
            return _Work(calls, batch, 0.0 if self._waiters else None)

    def _may_wait(self) -> bool:
        return bool(self._locked) and self._waiting < self._waiters

    def _line_up(self, locked: list[Call], waited: bool) -> None:
        """Behind all others whose row is locked. `waited`: whether this thread was one of the waiters."""
        with self._ready:
            self._locked.extend(locked)
            self._waiting -= waited

    def _put_back(self, later: list[Item], tried: int) -> None:
        """Before all others: a session's items keep their order."""
        if not later:
            return
        with self._ready:
            self._items.extendleft(reversed(later))
            if len(later) == tried and not (self._urgent or self._calls or len(self._items) > tried):
                self._ready.wait(LOCK_POLL)


def _run_call(call: Call, tries: int, wait: float | None) -> bool:
    """Makes a call; False if its row is locked and it is to be tried again. `wait`: see _Work."""
    if not (call.future.running() or call.future.set_running_or_notify_cancel()):
        return True
    call.begun = call.begun or time.monotonic()
    try:
        with lock_wait(wait):
            call.future.set_result(guarded(call.function, tries))
    except RowLocked as error:
        if not wait or not (call.impatient or time.monotonic() - call.begun >= LOCK_PATIENCE):
            return False
        if not call.impatient:
            tell(error, False)
        call.future.set_exception(error)
    except BaseException as error:  # handed to who waits for it
        call.future.set_exception(error)
    return True


def _run_items(batch: list[Item]) -> list[Item]:
    """Writes a batch; gives the items that are to be tried again."""
    batch = [item for item in batch if item.future.running() or item.future.set_running_or_notify_cancel()]
    values = [item.value for item in batch]
    results: Sequence[Any]
    try:
        if batch:
            results = guarded(lambda: batch[0].commit(values), tries=2)
            storage.worked()  # batches are what is stored most
        else:
            results = []
    except Unavailable:
        results = [Unavailable() for _ in batch]  # one for each: they are raised in different tasks
    except BaseException as error:  # handed to everybody who waits
        results = [error] * len(batch)
    return [item for item, result in zip(batch, results, strict=True) if not _settle(item, result)]


def _settle(item: Item, result: Any) -> bool:
    """Hands its result to who waits for an item; False if there is none yet."""
    if result is LATER:
        now = time.monotonic()
        item.locked_since = item.locked_since or now
        if now - item.locked_since < LOCK_PATIENCE:
            return False
        result = Unavailable()
    if isinstance(result, BaseException):
        item.future.set_exception(result)
    else:
        item.future.set_result(result)
    return True
