"""Store for gateway and worker, once per process: the database's threads and the wake-ups.

This is the event loop's access to journal and lifecycle. Each call runs one of their functions in a thread.
After the commit, `append` notifies the processes concerned; for a Change its caller does (see `announce`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar
from uuid import UUID

from ohsessions import journal
from ohsessions.core.errors import Unavailable
from ohsessions.database import Database
from ohsessions.journal import Append, Appended
from ohsessions.lifecycle import Change
from ohsessions.wakeups import Wakeups

P = ParamSpec("P")
T = TypeVar("T")

ANSWER_LIMIT = 10.0
"""Seconds that a client waits for a database that neither answers nor refuses; then it gets a 503."""
RETRY_PAUSE = 0.5
"""Seconds between two tries while the database is away."""


class Store:
    """The store of one event loop. Make the object inside that loop. `close` also closes the database."""

    def __init__(self, database: Database | None = None) -> None:
        self.database = database or Database()
        self.wakeups = Wakeups()

    async def change(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one transaction of lifecycle. The caller announces its Change (see `announce`)."""
        return await self.database.write(function, *args, **kwargs)

    async def try_change(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Run a transaction as `change` does, but return None, soon, if another transaction has locked the
        session. For sweeps: they have other sessions, and try again later."""
        return await self.database.try_write(function, *args, **kwargs)

    async def change_soon(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a transaction as `change` does, but raise Unavailable after ANSWER_LIMIT: a client waits."""
        return await self.database.write_within(ANSWER_LIMIT, function, *args, **kwargs)

    async def change_patiently(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a transaction as `change` does, and repeat it while the database is away."""
        return await _patiently(lambda: self.database.write(function, *args, **kwargs))

    async def read_patiently(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function as `database.read` does, and repeat it while the database is away."""
        return await _patiently(lambda: self.database.read(function, *args, **kwargs))

    async def announce(self, *changes: Change | None) -> None:
        """Notify all processes concerned of committed changes."""
        for change in changes:
            if change is not None:
                await self.wakeups.change(change)

    async def append(self, append: Append) -> Appended:
        """Store events (see journal.commit_appends) and notify the processes concerned.

        The append takes its place in line before the first await. Raises StaleEpoch, StaleSecrets or
        WireError if nothing was stored, or Unavailable if that is unknown. A client's append (`epoch` is
        None) waits ANSWER_LIMIT at most.
        """
        limit = ANSWER_LIMIT if append.epoch is None else None
        done: Appended = await self.database.write_gathered(journal.commit_appends, append, limit)
        if done.stored:
            await self.wakeups.events(append.session_id, done.stored, done.stored[-1][0])
        if append.epoch is None and append.events:
            await self._wake_handler(append.session_id, done)
        return done

    async def _wake_handler(self, session_id: UUID, done: Appended) -> None:
        if done.worker is not None:
            await self.wakeups.owner(done.worker, session_id, done.epoch)
        else:
            await self.wakeups.wanted(session_id)

    async def close(self) -> None:
        await self.database.close()


async def _patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            return await attempt()
        except Unavailable:
            await asyncio.sleep(RETRY_PAUSE)
