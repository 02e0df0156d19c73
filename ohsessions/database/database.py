"""The database threads of one process, called from its event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

from django.db import connection

from ohsessions.concurrency.threads import Threads
from ohsessions.core.errors import RowLocked, Unavailable
from ohsessions.database.lanes import Call, Commit, Item, Lane

P = ParamSpec("P")
T = TypeVar("T")

READERS = 4
LIFECYCLE_THREADS = 4
LOCK_WAITERS = 2
"""The most life-cycle threads that wait for locked rows. The others run calls whose row is free."""
THREADS = 1 + LIFECYCLE_THREADS + READERS
"""Threads of a process on PostgreSQL, each with a connection that it keeps."""
CLOSE_LIMIT = 5.0
"""Seconds that the threads get at the end for queued work."""


async def _outcome(future: Future[T], limit: float | None = None) -> T:
    """Wait for a unit of work. The work goes on if the waiting task is cancelled.

    Raises Unavailable after `limit` seconds; work that has not begun by then will not be done.
    """
    waited = asyncio.wrap_future(future)
    # If the waiting task is cancelled, nobody retrieves an error. Without this asyncio would log the error.
    waited.add_done_callback(lambda done: done.cancelled() or done.exception())
    if not (await asyncio.wait([waited], timeout=limit))[0]:
        future.cancel()
        raise Unavailable
    return waited.result()


class Database:
    """The threads of one process. Make one object per event loop, and `close` it."""

    def __init__(self) -> None:
        self._writer = Lane("writer", 1)
        one_writer = connection.vendor == "sqlite"
        self._lifecycle = (
            self._writer if one_writer else Lane("lifecycle", LIFECYCLE_THREADS, waiters=LOCK_WAITERS)
        )
        self._readers = Lane("reader", READERS, tries=2)

    async def read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function that only reads. Raises Unavailable if the database cannot be reached."""
        return await self._call(self._readers, False, lambda: function(*args, **kwargs))

    async def write(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function that writes, in transactions of its own.

        Raises Unavailable as `read` does: then a transaction may have been committed or not. Raises RowLocked
        if a row stayed locked: then none was committed.
        """
        return await self._call(self._lifecycle, False, lambda: function(*args, **kwargs))

    async def try_write(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Run a function as `write` does, but return None soon if another transaction has locked a row. For
        callers that try again anyway."""
        call = Call(lambda: function(*args, **kwargs), impatient=True)
        try:
            outcome: T = await _outcome(self._lifecycle.put(call))
        except RowLocked:
            return None
        return outcome

    async def write_within(
        self, limit: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a function as `write` does, but raise Unavailable after `limit` seconds, also if the database
        neither answers nor refuses. Work that has not begun by then will not be done."""
        return await _outcome(self._lifecycle.put(Call(lambda: function(*args, **kwargs))), limit)

    async def write_urgently(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function as `write` does, but before all queued work; for heartbeats."""
        return await self._call(self._writer, True, lambda: function(*args, **kwargs))

    async def write_gathered(self, commit: Commit, value: Any, limit: float | None = None) -> Any:
        """Write a value by `commit`, together with other gathered values; return its own result.

        The value takes its place in line before the first await, so values of one caller keep their order.
        `limit`: see `write_within`.
        """
        return await _outcome(self._writer.put(Item(commit, value)), limit)

    @staticmethod
    async def _call(lane: Lane, urgent: bool, function: Callable[[], T]) -> T:
        return await _outcome(lane.put(Call(function), urgent=urgent))

    async def close(self) -> None:
        """End all threads after the queued work, and close their connections; within about CLOSE_LIMIT."""
        # Not in asyncio's threads: name look-ups or a site's own code may occupy all of them.
        await Threads("ohsessions-database-end").last_call(self._end)

    def _end(self) -> None:
        lanes = {self._writer, self._lifecycle, self._readers}
        for lane in lanes:
            lane.stop()
        until = time.monotonic() + CLOSE_LIMIT
        for lane in lanes:
            lane.join(until)
        if connection.vendor == "postgresql":
            # Otherwise the interpreter closes it at exit, which may take 5 s for each of the pool's threads.
            connection.close_pool()  # type: ignore[attr-defined]
