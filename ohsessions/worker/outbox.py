"""What a runtime has emitted and is not stored yet.

One write of a session is under way at a time, and takes everything that has gathered since the last; so a
session's events keep their order, nothing overtakes a write that failed, and a runtime that emits faster than
the database stores is made to wait (`put`), with a bounded amount of memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from ohsessions import snapshots
from ohsessions.conf import conf
from ohsessions.core.errors import StaleEpoch, Unavailable
from ohsessions.core.runtime import JSON
from ohsessions.journal import Append, NewEvent
from ohsessions.services import Services
from ohsessions.snapshots import Snapshot
from ohsessions.worker.guard import within

MAX_EVENTS = 1000
MAX_CHARACTERS = 4 * 1024 * 1024
BATCH_CHARACTERS = 256 * 1024
RETRY_PAUSE = 0.25
"""Seconds between two tries while the database is away; the lease ends the trying."""


class Outbox:
    """The stream of one activation's writes, under one epoch at a time."""

    def __init__(self, services: Services, session_id: UUID, epoch: int) -> None:
        self._services = services
        self._session_id = session_id
        self.epoch = epoch
        self._sequence = 0
        self._events: list[NewEvent] = []
        self._characters = 0
        self._gathered = asyncio.Event()
        self._roomy = asyncio.Event()
        self._roomy.set()
        self._writing = asyncio.Lock()
        self._failure: Exception | None = None
        self.checkpoint: tuple[JSON] | None = None
        """Stored with the next write; while an action is handled, with the write that ends it."""
        self.in_action = False
        self._ending = False
        """Whether the end of an action waits for its turn, or has it."""

    async def put(self, source: str, kind: str, body: str) -> None:
        """Takes an event. Raises what ended the stream, if it has ended (StaleEpoch, …)."""
        await self._roomy.wait()
        if self._failure is not None:
            raise self._failure
        # Unique over all activations and, since numbers are counted on, over a change of the epoch too.
        self._sequence += 1
        key = f"{self.epoch}.{self._sequence}"
        self._events.append(NewEvent(source, kind, body, write_key=key))
        self._characters += len(body)
        if len(self._events) >= MAX_EVENTS or self._characters >= MAX_CHARACTERS:
            self._roomy.clear()
        self._gathered.set()

    async def run(self) -> None:
        """Writes what gathers, for as long as the activation lasts. Raises what ended the stream."""
        while True:
            await self._gathered.wait()
            # A handler that returns right after its last event has that stored with the action's end.
            await asyncio.sleep(0)
            await self.flush()

    async def flush(
        self, *, started: int | None = None, handled: int | None = None, interrupted: int | None = None
    ) -> None:
        """Writes everything there is, with these marks in the transaction of the last part."""
        if handled is None:
            while not await self._try_flush(started, None, interrupted):  # noqa: ASYNC110
                await asyncio.sleep(0)
            return
        self._ending = True
        try:
            await self._try_flush(started, handled, interrupted)
        finally:
            self._ending = False

    async def _try_flush(self, started: int | None, handled: int | None, interrupted: int | None) -> bool:
        """False: the end of an action waits, and goes first: the last words of an answer are stored with its
        mark, or the next owner would call interrupted what has been answered."""
        async with self._writing:
            checkpoint = await self._store_checkpoint(handled)
            while True:
                if handled is None and self._ending:
                    if checkpoint is not None:
                        await self._write(Append(self._session_id, epoch=self.epoch, checkpoint=checkpoint))
                    return False
                events = self._take()
                last = not self._events
                if not last:
                    await self._write(Append(self._session_id, events, epoch=self.epoch))
                    continue
                marks = (started, handled, interrupted, checkpoint)
                if events or any(mark is not None for mark in marks):
                    await self._write(Append(self._session_id, events, None, self.epoch, *marks))
                return True

    async def _store_checkpoint(self, handled: int | None) -> Snapshot | None:
        """In a thread, as large ones take time; before events are taken, which must not get lost here."""
        checkpoint = self.checkpoint
        if checkpoint is None or (self.in_action and handled is None):
            return None
        storing = snapshots.astore(self._session_id, checkpoint[0])
        try:
            stored = await within(conf.PASSIVATE_TIMEOUT, "storing its checkpoint", storing)
        except Exception:
            # It is given up, and the one before counts: else the crash that this is could not be stored.
            self._forget(checkpoint)
            raise
        self._forget(checkpoint)
        return stored

    def _forget(self, checkpoint: tuple[JSON]) -> None:
        """Unless there is a newer one."""
        if self.checkpoint is checkpoint:
            self.checkpoint = None

    def _take(self) -> list[NewEvent]:
        taken: list[NewEvent] = []
        size = 0
        while len(taken) < len(self._events) and size < BATCH_CHARACTERS:
            event = self._events[len(taken)]
            size += len(event.body)
            taken.append(event)
        del self._events[: len(taken)]
        self._characters -= size
        if not self._events:
            self._gathered.clear()
        if len(self._events) < MAX_EVENTS and self._characters < MAX_CHARACTERS:
            self._roomy.set()
        return taken

    async def _write(self, append: Append) -> None:
        if self._failure is not None:
            raise self._failure
        while True:
            try:
                await self._services.append(append)
            except Unavailable:
                # The write keys make it safe to repeat a write that may have been done.
                await asyncio.sleep(RETRY_PAUSE)
            except Exception as error:
                self._fail(error)
                raise
            else:
                return

    def end(self) -> None:
        """The activation is over: whoever emits from now on is told so."""
        self._fail(self._failure or StaleEpoch("The activation of this runtime is over."))

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._roomy.set()

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Nothing is written inside; for changing the epoch without refusing our own writes."""
        async with self._writing:
            yield
