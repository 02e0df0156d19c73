"""The event loop's access to journal and lifecycle: database threads, and wake-ups after commits.

Each call runs one of their functions in a thread. Its changes are announced to the processes concerned, while
the caller goes on (see `announcements`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar
from uuid import UUID

from ohsessions import journal
from ohsessions.concurrency.backoff import Backoff
from ohsessions.core.errors import Unavailable
from ohsessions.core.runtime import JSON
from ohsessions.database import Database
from ohsessions.journal import Append, Appended
from ohsessions.processes.announcements import Announcements, changes_in
from ohsessions.wakeups import Wakeups

P = ParamSpec("P")
T = TypeVar("T")

ANSWER_LIMIT = 10.0
"""Seconds that a client waits for a database that neither answers nor refuses; then it gets a 503."""
RETRY_FIRST, RETRY_MOST = 0.25, 2.0
"""Seconds between two tries while the database is away: the first pause and the longest."""
LAST_WORDS_LIMIT = 2.0
"""Seconds that the last announcements get at the end."""


class Store:
    """The store of one event loop. Make the object inside that loop. `close` also closes the database."""

    def __init__(self, database: Database | None = None) -> None:
        self.database = database or Database()
        self.wakeups = Wakeups()
        self._announcements = Announcements()

    async def change(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one transaction of lifecycle, and announce the Changes in its result."""
        return self._announced(await self.database.write(function, *args, **kwargs))

    async def try_change(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Run a transaction as `change` does, but return None, soon, if another transaction has locked the
        session. For sweeps: they have other sessions, and try again later."""
        return self._announced(await self.database.try_write(function, *args, **kwargs))

    async def change_soon(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a transaction as `change` does, but raise Unavailable after ANSWER_LIMIT: a client waits."""
        return self._announced(await self.database.write_within(ANSWER_LIMIT, function, *args, **kwargs))

    async def change_patiently(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a transaction as `change` does, and repeat it while the database is away."""
        return await _patiently(lambda: self.change(function, *args, **kwargs))

    async def read_patiently(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function as `database.read` does, and repeat it while the database is away."""
        return await _patiently(lambda: self.database.read(function, *args, **kwargs))

    def _announced(self, result: T) -> T:
        for change in changes_in(result):
            self._announcements.put(change.session_id, self.wakeups.change, change)
        return result

    def announce_presence(self, session_id: UUID) -> None:
        """Notify the gateways that a client attached or left."""
        self._announcements.put(session_id, self.wakeups.presence, session_id)

    def announce_error(self, session_id: UUID, payload: dict[str, JSON]) -> None:
        """Send an unstored oh_event (an error) to all attached clients."""
        self._announcements.put(session_id, self.wakeups.error, session_id, payload)

    async def append(self, append: Append) -> Appended:
        """Store events (see journal.commit_appends), and announce them.

        The append takes its place in line before the first await. Raises StaleEpoch, StaleSecrets or
        WireError if nothing was stored, or Unavailable if that is unknown. A client's append (`epoch` is
        None) waits ANSWER_LIMIT at most, and not for its announcement. A runtime's append does wait for it:
        a runtime must not emit faster than the layer sends.
        """
        by_client = append.epoch is None
        limit = ANSWER_LIMIT if by_client else None
        done: Appended = await self.database.write_gathered(journal.commit_appends, append, limit)
        if by_client:
            self._announcements.put(append.session_id, self._announce_actions, append, done)
        elif done.stored:
            await self.wakeups.events(append.session_id, done.stored, done.stored[-1][0])
        return done

    async def _announce_actions(self, append: Append, done: Appended) -> None:
        session_id = append.session_id
        if done.stored:
            await self.wakeups.events(session_id, done.stored, done.stored[-1][0])
        if append.events and done.worker is not None:
            await self.wakeups.owner(done.worker, session_id, done.epoch)
        elif append.events:
            await self.wakeups.wanted(session_id)

    async def announced(self) -> None:
        """Wait until everything announced so far is sent."""
        await self._announcements.sent()

    async def close(self) -> None:
        """Send the last announcements, within LAST_WORDS_LIMIT, and close the database."""
        await self._announcements.close(LAST_WORDS_LIMIT)
        await self.database.close()


async def _patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    backoff = Backoff(RETRY_FIRST, RETRY_MOST)
    while True:
        try:
            return await attempt()
        except Unavailable:
            await backoff.pause()
