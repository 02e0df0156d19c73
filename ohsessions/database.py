"""How the event loop reaches the database: through threads of this process that live as long as it does.

asgiref's `sync_to_async` sends all calls of a process through one thread, where one slow query delays every
other (measured: 1 s of one is 1 s of all), so nothing here uses it. Each thread keeps a connection of its
own. On SQLite every write goes through one of them, the writer (a second one would only wait for the lock);
PostgreSQL gets a few for life-cycle transactions, which may wait for row locks. The writer never does, and of
the others only some, for a short time each: a row that somebody holds must not keep the rest waiting.

Writes of one kind are gathered: what has come in while the last transaction ran makes up the next one (group
commit: 10 to 20 times the throughput of one transaction each, measured; nothing waits when the writer idles).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Final, ParamSpec, TypeVar

from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    connection,
    connections,
    reset_queries,
)
from django.utils import timezone

from ohsessions.core.clock import Clock
from ohsessions.core.errors import OhSessionsError, RowLocked, Unavailable
from ohsessions.core.outages import Outage
from ohsessions.core.threads import Threads
from ohsessions.rowlocks import lock_wait

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
Commit = Callable[[list[Any]], Sequence[Any]]
"""Writes many items in one transaction; gives for each its result, the exception to raise for it, or LATER.
It may be called again with the same items after a connection was lost, whether or not it had committed."""

MAX_BATCH = 500
READERS = 4
LIFECYCLE_THREADS = 4
LOCK_POLL = 0.005
"""Seconds until items whose rows are locked are tried again, if nothing else is to be written."""
LOCK_PATIENCE = 5.0
"""Seconds after which an item or a call whose row stays locked is given up. Well below LEASE_TTL."""
LOCK_WAITERS = 2
"""So many of the life-cycle threads wait for locked rows at most; the others are for whose row is free."""
LOCK_WAIT, LEAST_LOCK_WAIT = 0.2, 0.005
"""Seconds that such a thread waits for a row, before it is the next one's turn; at most and at least."""
LOCK_ROUND = 1.0
"""Seconds in which each of those that wait for a row gets its turn, unless they are very many."""
CLOSE_LIMIT = 5.0
"""Seconds that the threads get at the end for what is in line."""
MAX_IDLE = 5.0
"""Seconds without use after which a connection is tried before it is relied on."""
LEFT_SERVER = frozenset({"25006", "57P01", "57P02", "57P03"})
"""What a server says that is no longer the one to talk to: it was demoted and only reads, was shut down by an
operator, crashed, or takes nobody yet. Source: Appendix A of PostgreSQL's manual."""


class Later(Enum):
    LATER = "later"


LATER: Final = Later.LATER
"""What a Commit gives for an item that it could not write yet: the item stays in its place in line."""

_clock: Clock | None = None
_outage = Outage(logger, "The database", "db")
_servers_left = 0
"""How often a connection turned out to lead to a server of LEFT_SERVER: those of other threads do, too."""


def database_now() -> datetime:
    """The time of the database's clock, which all hosts share. On SQLite that is this host's."""
    if _clock is not None:
        return _clock.now()
    if connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now


@contextmanager
def database_clock(clock: Clock) -> Iterator[None]:
    """Has `database_now` tell the time of another clock, in all threads; for tests."""
    global _clock
    before, _clock = _clock, clock
    try:
        yield
    finally:
        _clock = before


@dataclass(slots=True)
class _Call:
    function: Callable[[], Any]
    impatient: bool = False
    """Whether it is given up, rather than tried again, when its row was waited for in vain."""
    future: Future[Any] = field(default_factory=Future)
    begun: float | None = None


@dataclass(slots=True, eq=False)
class _Item:
    commit: Commit
    value: Any
    future: Future[Any] = field(default_factory=Future)
    locked_since: float | None = None


@dataclass(slots=True)
class _Work:
    """What a thread does next."""

    calls: list[_Call]
    batch: list[_Item] = field(default_factory=list)
    lock_wait: float | None = None
    """See rowlocks. 0: a first try, for which no row is waited."""


class _Lane:
    """A queue of work and the threads that do it. `tries`: how often a call may be made.

    With `waiters` no call waits for a row at its first try. Those that find it locked stand in a line of
    their own, and so many threads at most work that off, waiting a little for each in turn. Waiting, since
    who only tries again and again may come too late each time to a row that many want.
    """

    def __init__(self, name: str, threads: int, tries: int = 1, waiters: int = 0) -> None:
        self._ready = threading.Condition()
        self._urgent: deque[_Call] = deque()
        self._calls: deque[_Call] = deque()
        self._items: deque[_Item] = deque()
        self._locked: deque[_Call] = deque()
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

    def put(self, work: _Call | _Item, *, urgent: bool = False) -> Future[Any]:
        with self._ready:
            if self._stopping:
                raise OhSessionsError("The database's threads have been stopped: this process is ending.")
            if isinstance(work, _Item):
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
        used, left = time.monotonic(), _servers_left
        try:
            while work := self._take():
                if left != _servers_left:
                    left = _servers_left
                    _drop_connection()
                elif time.monotonic() - used > MAX_IDLE:
                    _drop_broken_connection()
                locked = [call for call in work.calls if not _run_call(call, self._tries, work.lock_wait)]
                if locked or work.lock_wait:
                    self._line_up(locked, bool(work.lock_wait))
                if work.batch:
                    self._put_back(_run_items(work.batch), len(work.batch))
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
            batch: list[_Item] = []
            while self._items and len(batch) < MAX_BATCH:
                if batch and self._items[0].commit != batch[0].commit:
                    break
                batch.append(self._items.popleft())
            return _Work(calls, batch, 0.0 if self._waiters else None)

    def _may_wait(self) -> bool:
        return bool(self._locked) and self._waiting < self._waiters

    def _line_up(self, locked: list[_Call], waited: bool) -> None:
        """Behind all others whose row is locked. `waited`: whether this thread was one of the waiters."""
        with self._ready:
            self._locked.extend(locked)
            self._waiting -= waited

    def _put_back(self, later: list[_Item], tried: int) -> None:
        """Before all others: a session's items keep their order."""
        if not later:
            return
        with self._ready:
            self._items.extendleft(reversed(later))
            if len(later) == tried and not (self._urgent or self._calls or len(self._items) > tried):
                self._ready.wait(LOCK_POLL)


def _drop_broken_connection() -> bool:
    """A server that restarted, or a firewall, ends idle connections without a word. Says if it had."""
    broken = connection.connection is not None and not connection.is_usable()
    if broken:
        connection.close()
    return broken


def means_lost_connection(error: Exception) -> bool:
    """Whether an error comes from the end of the connection, and says nothing of what was to be written.

    Drivers have many words for that (one whose transaction idled too long has an InternalError); Django has
    closed the connection already if it could not roll back.
    """
    driver_error = connection.Database.Error  # type: ignore[attr-defined]
    is_of_data = isinstance(error, (DataError, IntegrityError))
    if is_of_data or not isinstance(error, (DatabaseError, driver_error)):
        return False
    diagnosis = getattr(error.__cause__ or error, "diag", None)
    if getattr(diagnosis, "sqlstate", None) in LEFT_SERVER:
        _leave_server()
    elif getattr(diagnosis, "severity_nonlocalized", None) in ("FATAL", "PANIC"):
        connection.close()  # the server has ended it, which the driver notices only later
    return connection.connection is None or _drop_broken_connection()


def _leave_server() -> None:
    global _servers_left
    _servers_left += 1
    _drop_connection()


def _drop_connection() -> None:
    """Ends a connection that may work, but to the wrong server. A pool would hand it out again: it passes any
    check."""
    if connection.connection is not None:
        connection.connection.close()
    connection.close()


def _guarded(function: Callable[[], T], tries: int = 1) -> T:
    """Runs a unit of work; a connection that broke is given up, so that the next unit gets a new one.

    With `tries`, work that may be repeated is. Raises Unavailable.
    """
    if connection.vendor == "sqlite":
        tries = 1  # it has no connection to lose: somebody held its lock, and we have waited long enough
    while True:
        tries -= 1
        try:
            result = function()
            _outage.worked()
            return result
        except (OperationalError, InterfaceError) as error:
            lost = means_lost_connection(error)
            connections.close_all()
            if tries == 0:
                _tell(error, lost)
                raise Unavailable from error
        except Exception as error:
            if not means_lost_connection(error):
                raise
            if tries == 0:
                _tell(error, True)
                raise Unavailable from error


def _tell(error: Exception, lost: bool) -> None:
    """An outage is told once. What else failed (a lock that was not to be had, …) is told each time."""
    if lost:
        _outage.failed(f"{type(error).__name__}. What can wait is tried again.")
    else:
        logger.warning("A transaction failed: %s", type(error).__name__, extra={"verb": "db_failed"})


def _run_call(call: _Call, tries: int, wait: float | None) -> bool:
    """Makes a call; False if its row is locked and it is to be tried again. `wait`: see _Work."""
    if not (call.future.running() or call.future.set_running_or_notify_cancel()):
        return True
    call.begun = call.begun or time.monotonic()
    try:
        with lock_wait(wait):
            call.future.set_result(_guarded(call.function, tries))
    except RowLocked as error:
        if not wait or not (call.impatient or time.monotonic() - call.begun >= LOCK_PATIENCE):
            return False
        if not call.impatient:
            _tell(error, False)
        call.future.set_exception(error)
    except BaseException as error:  # handed to who waits for it
        call.future.set_exception(error)
    return True


def _run_items(batch: list[_Item]) -> list[_Item]:
    """Writes a batch; gives the items that are to be tried again."""
    batch = [item for item in batch if item.future.running() or item.future.set_running_or_notify_cancel()]
    values = [item.value for item in batch]
    results: Sequence[Any]
    try:
        results = _guarded(lambda: batch[0].commit(values), tries=2) if batch else []
    except Unavailable:
        results = [Unavailable() for _ in batch]  # one for each: they are raised in different tasks
    except BaseException as error:  # handed to everybody who waits
        results = [error] * len(batch)
    return [item for item, result in zip(batch, results, strict=True) if not _settle(item, result)]


def _settle(item: _Item, result: Any) -> bool:
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


async def _outcome(future: Future[T], limit: float | None = None) -> T:
    """Waits for a unit of work, which ends whatever becomes of the task that wanted it.

    After `limit` seconds raises Unavailable; what has not begun by then will not be done.
    """
    waited = asyncio.wrap_future(future)
    # Where that task is cancelled nobody takes the error, and there is nobody left to tell.
    waited.add_done_callback(lambda done: done.cancelled() or done.exception())
    if not (await asyncio.wait([waited], timeout=limit))[0]:
        future.cancel()
        raise Unavailable
    return waited.result()


class Database:
    """The threads of one process. Make one per event loop, and `close` it."""

    def __init__(self) -> None:
        self._writer = _Lane("writer", 1)
        one_writer = connection.vendor == "sqlite"
        self._lifecycle = (
            self._writer if one_writer else _Lane("lifecycle", LIFECYCLE_THREADS, waiters=LOCK_WAITERS)
        )
        self._readers = _Lane("reader", READERS, tries=2)

    async def read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function that only reads. Raises Unavailable if the database cannot be reached."""
        return await self._call(self._readers, False, lambda: function(*args, **kwargs))

    async def write(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function that writes, in transactions of its own. Raises Unavailable, as `read`; then it
        is not known whether a transaction was committed. RowLocked: none was."""
        return await self._call(self._lifecycle, False, lambda: function(*args, **kwargs))

    async def try_write(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """As `write`, for who comes again anyway: None, soon, if somebody else has locked a row of it."""
        call = _Call(lambda: function(*args, **kwargs), impatient=True)
        try:
            outcome: T = await _outcome(self._lifecycle.put(call))
        except RowLocked:
            return None
        return outcome

    async def write_within(
        self, limit: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `write`, for somebody who wants an answer: raises Unavailable after so many seconds, also if the
        database neither answers nor refuses. What has not begun by then will not be done."""
        return await _outcome(self._lifecycle.put(_Call(lambda: function(*args, **kwargs))), limit)

    async def write_urgently(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `write`, before everything that waits: heartbeats."""
        return await self._call(self._writer, True, lambda: function(*args, **kwargs))

    async def write_gathered(self, commit: Commit, value: Any, limit: float | None = None) -> Any:
        """Has `commit` write this value together with others that have gathered; gives its own result.

        The place in line is taken before the first await: values of one caller keep their order. `limit`: as
        for `write_within`.
        """
        return await _outcome(self._writer.put(_Item(commit, value)), limit)

    @staticmethod
    async def _call(lane: _Lane, urgent: bool, function: Callable[[], T]) -> T:
        return await _outcome(lane.put(_Call(function), urgent=urgent))

    async def close(self) -> None:
        """Ends all threads, after what is in line, and their connections; within about CLOSE_LIMIT."""
        # Not in asyncio's threads: all of those may be taken, by name look-ups or a site's own code.
        await Threads("ohsessions-database-end").last_call(self._end)

    def _end(self) -> None:
        lanes = {self._writer, self._lifecycle, self._readers}
        for lane in lanes:
            lane.stop()
        until = time.monotonic() + CLOSE_LIMIT
        for lane in lanes:
            lane.join(until)
        if connection.vendor == "postgresql":
            # Else the interpreter does at its end, which may take 5 s for each of the pool's threads.
            connection.close_pool()  # type: ignore[attr-defined]
