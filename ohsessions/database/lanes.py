"""A queue of database work and the threads that do it: the order of the work, batches and retries.

See the package's docstring for the purpose of lanes.
"""

from __future__ import annotations

import logging
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
from ohsessions.database.attempts import (
    drop_broken_connection,
    drop_connection,
    guarded,
    servers_left,
    tell,
)
from ohsessions.database.causes import storage
from ohsessions.database.rowlocks import lock_wait

logger = logging.getLogger(__name__)

Commit = Callable[[list[Any]], Sequence[Any]]
"""A function that writes many items in one transaction, and returns for each its result, the exception to
raise for it, or LATER. It may be called again with the same items after a connection was lost, whether or not
the transaction had committed."""

MAX_BATCH = 500
LOCK_POLL = 0.005
"""Seconds until items whose rows are locked are tried again, if there is nothing else to write."""
LOCK_PATIENCE = 5.0
"""Seconds after which an item or a call is given up if its row stays locked. Well below LEASE_TTL."""
LOCK_WAIT, LEAST_LOCK_WAIT = 0.2, 0.005
"""Seconds that a waiter (see Lane) waits for one row before it takes the next: at most, at least."""
LOCK_ROUND = 1.0
"""Seconds in which each call that waits for a row gets its turn, unless there are very many of them."""
MAX_IDLE = 5.0
"""Seconds without use after which a connection is tested before it is used."""


class Later(Enum):
    LATER = "later"


LATER: Final = Later.LATER
"""The result of a Commit for an item that it could not write yet. The item keeps its place in line."""


@dataclass(slots=True)
class Call:
    """A unit of work that is run by itself."""

    function: Callable[[], Any]
    impatient: bool = False
    """True if the call is given up, and not tried again, when its row stays locked."""
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
    """The next work of a thread."""

    calls: list[Call]
    batch: list[Item] = field(default_factory=list)
    lock_wait: float | None = None
    """See rowlocks. 0: a first try, which waits for no row."""


class Lane:
    """A queue of work and the threads that do it. `tries`: how often a call may be run.

    With `waiters` no call waits for a row at its first try. Calls that find their row locked stand in a line
    of their own. At most `waiters` threads work off that line, and wait a little for each row in turn. A call
    that only polls, and does not wait, may come too late each time for a row that many want.
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
                raise OhSessionsError("The database's threads were stopped, because this process is ending.")
            if isinstance(work, Item):
                self._items.append(work)
            else:
                (self._urgent if urgent else self._calls).append(work)
            self._ready.notify()
        return work.future

    def stop(self) -> None:
        """Accept no more work, and end the threads after the queued work."""
        with self._ready:
            self._stopping = True
            self._ready.notify_all()

    def join(self, until: float) -> None:
        """Wait for the threads to end, to this monotonic time at most: they are daemons, and one may hang."""
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        """Do the work of this thread, which survives any error: without it, callers would wait for ever."""
        used, left = time.monotonic(), servers_left()
        while work := self._take():
            try:
                if left != servers_left():
                    left = servers_left()
                    drop_connection()
                elif time.monotonic() - used > MAX_IDLE:
                    drop_broken_connection()
            except Exception:
                logger.exception("A database connection was not closed", extra={"verb": "db_thread_failed"})
            self._do(work)
            used = time.monotonic()
        connections.close_all()

    def _do(self, work: _Work) -> None:
        later: list[Item] = []
        locked: list[Call] = []
        try:
            # The batch goes first: many wait for it, and each step of an action waits for a batch.
            later = _run_items(work.batch)
            locked = [call for call in work.calls if not _run_call(call, self._tries, work.lock_wait)]
            # With DEBUG a connection keeps 9,000 queries until a request ends. Here no request ends.
            reset_queries()
        except Exception:
            logger.exception(
                "A database thread had an error, and continues", extra={"verb": "db_thread_failed"}
            )
            again = {one.future for one in later} | {call.future for call in locked}
            mine = {item.future for item in work.batch} | {call.future for call in work.calls}
            for future in mine - again:
                if not future.done():
                    future.set_exception(Unavailable())
        self._put_back(later, len(work.batch))
        if locked or work.lock_wait:
            self._line_up(locked, bool(work.lock_wait))

    def _take(self) -> _Work | None:
        """Return the next work; None after the last.

        All urgent calls go first. Next goes one call that waits for a row, if fewer than `waiters` threads
        wait already. Otherwise return one call and one batch, so that neither kind starves the other.
        """
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
        """Put calls at the end of the line for locked rows. `waited`: whether this thread was a waiter."""
        with self._ready:
            self._locked.extend(locked)
            self._waiting -= waited

    def _put_back(self, later: list[Item], tried: int) -> None:
        """Put items back at the front of the queue, so that a session's items keep their order."""
        if not later:
            return
        with self._ready:
            self._items.extendleft(reversed(later))
            if len(later) == tried and not (self._urgent or self._calls or len(self._items) > tried):
                self._ready.wait(LOCK_POLL)


def _run_call(call: Call, tries: int, wait: float | None) -> bool:
    """Run a call; return False if its row is locked and the call must be tried again. `wait`: see _Work."""
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
    except BaseException as error:  # raised where the future is awaited
        call.future.set_exception(error)
    return True


def _run_items(batch: list[Item]) -> list[Item]:
    """Write a batch; return the items that must be tried again."""
    batch = [item for item in batch if item.future.running() or item.future.set_running_or_notify_cancel()]
    values = [item.value for item in batch]
    results: Sequence[Any]
    try:
        if batch:
            results = guarded(lambda: batch[0].commit(values), tries=2)
            storage.worked()  # batches are the most frequent writes
        else:
            results = []
    except Unavailable:
        results = [Unavailable() for _ in batch]  # one for each: they are raised in different tasks
    except BaseException as error:  # raised for each item of the batch
        results = [error] * len(batch)
    return [item for item, result in zip(batch, results, strict=True) if not _settle(item, result)]


def _settle(item: Item, result: Any) -> bool:
    """Set the result of an item's future; return False if the item has none yet."""
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
