"""The announcements of one process: wake-ups that follow its commits, while its callers go on.

An acknowledgement does not wait for the channel layer. The wake-ups of one session are sent in the order of
their commits, those of different sessions at the same time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, ParamSpec
from uuid import UUID

from ohsessions.concurrency.tasks import cancel_all
from ohsessions.lifecycle import Attached, Change

P = ParamSpec("P")
logger = logging.getLogger(__name__)

MOST_WAITING = 1000
"""Wake-ups of one session that may wait for a slow layer. A further one is dropped: reconciliation looks."""


def changes_in(result: object) -> Iterator[Change]:
    """Yield the Changes in the result of a life-cycle transaction."""
    if isinstance(result, Change):
        yield result
    elif isinstance(result, Attached):
        yield from changes_in((result.left, *result.evicted, result.change))
    elif isinstance(result, tuple):
        for one in result:
            yield from changes_in(one)


class Announcements:
    """A line of wake-ups for each session, and a task for each line that is not empty."""

    def __init__(self) -> None:
        self._lines: dict[UUID, deque[Callable[[], Awaitable[None]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def put(
        self, session_id: UUID, send: Callable[P, Awaitable[None]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Send a wake-up about a session soon, after those that wait already. `send` must not raise."""
        line = self._lines.get(session_id)
        if line is None:
            line = self._lines[session_id] = deque()
            task: asyncio.Task[None] = asyncio.create_task(
                self._work_off(session_id, line), name=f"announcements of session {session_id}"
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if len(line) < MOST_WAITING:
            line.append(partial(send, *args, **kwargs))

    async def _work_off(self, session_id: UUID, line: deque[Any]) -> None:
        while line:
            try:
                await line.popleft()()
            except Exception:
                extra = {"verb": "announce_failed"}
                logger.exception("A wake-up of session %s was not sent", session_id, extra=extra)
        del self._lines[session_id]

    async def sent(self) -> None:
        """Wait until all that was put so far is sent."""
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    async def close(self, limit: float) -> None:
        """Wait until all is sent, up to `limit` seconds; drop the rest."""
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=limit)
            await cancel_all(late)
