"""How the event loop reaches the database: through threads of this process that live as long as it does.

asgiref's `sync_to_async` sends all calls of a process through one thread, where one slow query delays every
other (measured: 1 s of one is 1 s of all), so nothing here uses it. Each thread keeps a connection of its
own. On SQLite every write goes through one of them, the writer (a second one would only wait for the lock);
PostgreSQL gets a few for life-cycle transactions, which may wait for row locks.

Writes of one kind are gathered: what has come in while the last transaction ran makes up the next one (group
commit: 10 to 20 times the throughput of one transaction each, measured; nothing waits when the writer idles).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ParamSpec, TypeVar

from django.db import DatabaseError, InterfaceError, OperationalError, connection, connections
from django.utils import timezone

from ohsessions.core.errors import OhSessionsError, Unavailable

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
Commit = Callable[[list[Any]], Sequence[Any]]
"""Writes many items in one transaction; gives for each its result, or the exception to raise for it."""

MAX_BATCH = 500
READERS = 4
LIFECYCLE_THREADS = 4


def database_now() -> datetime:
    """The time of the database's clock, which all hosts share. On SQLite that is this host's."""
    if connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now


@dataclass(slots=True)
class _Call:
    function: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)


@dataclass(slots=True)
class _Item:
    commit: Commit
    value: Any
    future: Future[Any] = field(default_factory=Future)


class _Lane:
    """A queue of work and the threads that do it."""

    def __init__(self, name: str, threads: int) -> None:
        self._ready = threading.Condition()
        self._urgent: deque[_Call] = deque()
        self._calls: deque[_Call] = deque()
        self._items: deque[_Item] = deque()
        self._stopping = False
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

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        try:
            while work := self._take():
                for call in work[0]:
                    _run_call(call)
                if work[1]:
                    _run_items(work[1])
        finally:
            connections.close_all()

    def _take(self) -> tuple[list[_Call], list[_Item]] | None:
        """Everything urgent; else one call and one batch, so that neither kind starves the other."""
        with self._ready:
            while not (self._urgent or self._calls or self._items):
                if self._stopping:
                    return None
                self._ready.wait()
            if self._urgent:
                calls = list(self._urgent)
                self._urgent.clear()
                return calls, []
            calls = [self._calls.popleft()] if self._calls else []
            batch: list[_Item] = []
            while self._items and len(batch) < MAX_BATCH:
                if batch and self._items[0].commit != batch[0].commit:
                    break
                batch.append(self._items.popleft())
            return calls, batch


def _guarded(function: Callable[[], T]) -> T:
    """Runs a unit of work; a connection that broke is given up, so that the next unit gets a new one."""
    try:
        return function()
    except (OperationalError, InterfaceError) as error:
        connections.close_all()
        logger.warning("The database did not answer: %s", type(error).__name__, extra={"verb": "db_lost"})
        raise Unavailable from error
    except DatabaseError:
        if not connection.is_usable():
            connections.close_all()
        raise


def _run_call(call: _Call) -> None:
    if not call.future.set_running_or_notify_cancel():
        return
    try:
        call.future.set_result(_guarded(call.function))
    except BaseException as error:  # handed to who waits for it
        call.future.set_exception(error)


def _run_items(batch: list[_Item]) -> None:
    batch = [item for item in batch if item.future.set_running_or_notify_cancel()]
    values = [item.value for item in batch]
    results: Sequence[Any]
    try:
        results = _guarded(lambda: batch[0].commit(values)) if batch else []
    except BaseException as error:  # handed to everybody who waits
        results = [error] * len(batch)
    for item, result in zip(batch, results, strict=True):
        if isinstance(result, BaseException):
            item.future.set_exception(result)
        else:
            item.future.set_result(result)


class Database:
    """The threads of one process. Make one per event loop, and `close` it."""

    def __init__(self) -> None:
        self._writer = _Lane("writer", 1)
        one_writer = connection.vendor == "sqlite"
        self._lifecycle = self._writer if one_writer else _Lane("lifecycle", LIFECYCLE_THREADS)
        self._readers = _Lane("reader", READERS)

    async def read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function that only reads. Raises Unavailable if the database cannot be reached."""
        return await self._call(self._readers, False, lambda: function(*args, **kwargs))

    async def write(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function that writes, in transactions of its own. Raises Unavailable, as `read`."""
        return await self._call(self._lifecycle, False, lambda: function(*args, **kwargs))

    async def write_urgently(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `write`, before everything that waits: heartbeats."""
        return await self._call(self._writer, True, lambda: function(*args, **kwargs))

    async def write_gathered(self, commit: Commit, value: Any) -> Any:
        """Has `commit` write this value together with others that have gathered; gives its own result.

        The place in line is taken before the first await: values of one caller keep their order.
        """
        future = self._writer.put(_Item(commit, value))
        return await asyncio.shield(asyncio.wrap_future(future))

    @staticmethod
    async def _call(lane: _Lane, urgent: bool, function: Callable[[], T]) -> T:
        future: Future[T] = lane.put(_Call(function), urgent=urgent)
        # A transaction that has begun ends, whatever becomes of the task that wanted it.
        return await asyncio.shield(asyncio.wrap_future(future))

    async def close(self) -> None:
        """Ends all threads, after what is in line, and their connections."""
        lanes = {self._writer, self._lifecycle, self._readers}
        for lane in lanes:
            lane.stop()
        for lane in lanes:
            await asyncio.to_thread(lane.join)
