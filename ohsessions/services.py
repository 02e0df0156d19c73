"""What gateway and worker both need, once per process: the database's threads and the wake-ups.

The event loop's side of journal and lifecycle: each call here runs one of their functions in a thread and,
after the commit, tells whom it concerns.
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
"""Seconds that a client waits for a database which neither answers nor refuses; then it is told 503."""
RETRY_PAUSE = 0.5
"""Seconds between two tries while the database is away."""


class Services:
    """Made inside the event loop that it serves; `close` it at the end, which closes the database too."""

    def __init__(self, database: Database | None = None) -> None:
        self.database = database or Database()
        self.wakeups = Wakeups()

    async def change(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs one transaction of lifecycle. Announcing its Change is the caller's (see `announce`)."""
        return await self.database.write(function, *args, **kwargs)

    async def try_change(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """As `change`, for a sweep, which has others to look after and comes again: None, soon, if somebody
        else has locked the session."""
        return await self.database.try_write(function, *args, **kwargs)

    async def change_soon(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `change`, for a client, who is to be answered within ANSWER_LIMIT."""
        return await self.database.write_within(ANSWER_LIMIT, function, *args, **kwargs)

    async def change_patiently(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `change`, again and again while the database is away."""
        return await _patiently(lambda: self.database.write(function, *args, **kwargs))

    async def read_patiently(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `database.read`, again and again while the database is away."""
        return await _patiently(lambda: self.database.read(function, *args, **kwargs))

    async def announce(self, *changes: Change | None) -> None:
        """Tells everybody concerned of what was committed."""
        for change in changes:
            if change is not None:
                await self.wakeups.change(change)

    async def append(self, append: Append) -> Appended:
        """Stores events (see journal.commit_appends) and wakes whom they concern.

        Its place in line is taken before the first await. Raises StaleEpoch or WireError: nothing is stored;
        or Unavailable: nobody knows. A client's (`epoch` is None) is answered within ANSWER_LIMIT.
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
