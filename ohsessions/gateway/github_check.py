"""The check of the GitHub tokens of INITs: in its own threads, with limits on time and number."""

from __future__ import annotations

import asyncio
from typing import Any

from ohsessions.access import github
from ohsessions.concurrency.threads import Threads
from ohsessions.conf import conf
from ohsessions.core.wire import Init

CHECK_THREADS = 4
MOST_WAITING = 100
CHECK_LIMIT = 10.0
"""Seconds that a client waits for the answer, including the wait for a thread; then it gets 503."""


class GitHubCheck:
    """The check of one gateway. It costs nothing if GITHUB_TOKEN_CHECK is None."""

    def __init__(self) -> None:
        self._threads: Threads | None = None

    async def check(self, user: Any, init: Init) -> None:
        """Raise WireError 403 `github_user` or 503 `unavailable`; see TokenCheck."""
        if conf.GITHUB_TOKEN_CHECK is None:
            return
        if self._threads is None:
            self._threads = Threads("github", CHECK_THREADS)
        if self._threads.waiting >= MOST_WAITING:
            raise github.unreachable()
        token = init.secrets.get("github_token")
        try:
            async with asyncio.timeout(CHECK_LIMIT):
                await self._threads.call(github.check_github_token, user, token)
        except TimeoutError:
            raise github.unreachable() from None

    def end(self) -> None:
        """End the threads after the waiting checks. A check that hangs is left behind."""
        if self._threads is not None:
            self._threads.end()
