"""A runtime for code that blocks."""

from __future__ import annotations

import asyncio
from typing import Any

from ohsessions.concurrency.threads import Threads
from ohsessions.core.runtime import JSON, Action, Runtime, RuntimeContext


class BlockingRuntime(Runtime):
    """A runtime whose code blocks: write `do_start`, `do_handle`, `do_passivate` and `do_close`.

    All run in one thread of this runtime, one at a time. Each waits for the end of the previous one, even if
    that was given up. In the thread, `self.emit(...)` stores an event and returns when it has its place in
    the queue. `interrupt` still runs on the event loop: set a flag there, which `do_handle` reads.
    """

    def __init__(self, context: RuntimeContext, **options: Any) -> None:
        super().__init__(context, **options)
        self._thread = Threads(f"ohsessions-runtime-{context.session_id}")

    def do_start(self, snapshot: JSON) -> None:
        """See Runtime.start()."""

    def do_handle(self, action: Action) -> None:
        """See Runtime.handle()."""
        raise NotImplementedError(f"Write {type(self).__name__}.do_handle(): it does the work of an action.")

    def do_passivate(self) -> JSON:
        """See Runtime.passivate()."""
        return None

    def do_close(self) -> None:
        """See Runtime.close(). It is called when the thread is free, which may be late."""

    def emit(self, **event: Any) -> None:
        """See RuntimeContext.emit(); for the thread of the `do_` methods."""
        asyncio.run_coroutine_threadsafe(self.context.emit(**event), self._loop).result()

    async def start(self, snapshot: JSON) -> None:
        self._loop = asyncio.get_running_loop()
        await self._thread.call(self.do_start, snapshot)

    async def handle(self, action: Action) -> None:
        await self._thread.call(self.do_handle, action)

    async def passivate(self) -> JSON:
        return await self._thread.call(self.do_passivate)

    async def close(self) -> None:
        await self._thread.last_call(self.do_close)
