"""The events that a runtime has emitted and that are not stored yet.

A session has one write under way at a time. Each write takes all events that have gathered since the last
one. So a session's events keep their order, and nothing overtakes a write that failed. A runtime that emits
faster than the database stores has to wait (`put`), so memory is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from ohsessions import snapshots
from ohsessions.concurrency.backoff import Backoff
from ohsessions.conf import conf
from ohsessions.core.errors import StaleEpoch, Unavailable
from ohsessions.core.runtime import JSON
from ohsessions.journal import Append, NewEvent
from ohsessions.processes.store import Store
from ohsessions.snapshots import Snapshot
from ohsessions.worker.calls import within

MAX_EVENTS = 1000
MAX_CHARACTERS = 4 * 1024 * 1024
BATCH_CHARACTERS = 256 * 1024
RETRY_FIRST, RETRY_MOST = 0.2, 2.0
"""Seconds between two tries while the database is away: the first pause and the longest. The end of the lease
ends the tries."""


class Outbox:
    """The stream of one activation's writes, under one epoch at a time."""

    def __init__(self, store: Store, session_id: UUID, epoch: int) -> None:
        self._store = store
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
        """The checkpoint for the next write or, while an action is handled, for the write that ends it."""
        self.in_action = False
        self._ending = False
        """True while flush(handled=…) waits for its turn, or has it."""

    async def put(self, source: str, kind: str, body: str) -> None:
        """Add an event, or wait for room. Raise the error that ended the stream, if any (StaleEpoch, …)."""
        await self._roomy.wait()
        if self._failure is not None:
            raise self._failure
        # Unique over all activations. The numbers continue when the epoch changes.
        self._sequence += 1
        key = f"{self.epoch}.{self._sequence}"
        self._events.append(NewEvent(source, kind, body, write_key=key))
        self._characters += len(body)
        if len(self._events) >= MAX_EVENTS or self._characters >= MAX_CHARACTERS:
            self._roomy.clear()
        self._gathered.set()

    async def run(self) -> None:
        """Write events as they gather, while the activation lasts. Raise the error that ended the stream."""
        while True:
            await self._gathered.wait()
            # If the handler returns right after its last event, the event is stored with the action's end.
            await asyncio.sleep(0)
            await self.flush()

    async def flush(
        self, *, started: int | None = None, handled: int | None = None, interrupted: int | None = None
    ) -> None:
        """Write all events that have gathered, with these marks in the transaction of the last part."""
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
        """Write all events and marks; return False if flush(handled=…) is waiting, which must go first.

        So an answer's last events and its handled mark are in one transaction. Otherwise the next owner would
        report an answered action as interrupted.
        """
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
        """Store the checkpoint if it is due, and return its snapshot.

        A large checkpoint takes time, so a thread stores it. This is done before events are taken, as an
        error here must not lose them.
        """
        checkpoint = self.checkpoint
        if checkpoint is None or (self.in_action and handled is None):
            return None
        storing = snapshots.astore(self._session_id, checkpoint[0])
        try:
            stored = await within(conf.PASSIVATE_TIMEOUT, "storing its checkpoint", storing)
        except Exception:
            # Give this checkpoint up; the one before counts. Otherwise the crash could not be stored either.
            self._forget(checkpoint)
            raise
        self._forget(checkpoint)
        return stored

    def _forget(self, checkpoint: tuple[JSON]) -> None:
        """Drop the checkpoint unless there is a newer one."""
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
        backoff = Backoff(RETRY_FIRST, RETRY_MOST)
        while True:
            try:
                await self._store.append(append)
            except Unavailable:
                # The write keys make it safe to repeat a write that may have been committed.
                await backoff.pause()
            except Exception as error:
                self._fail(error)
                raise
            else:
                return

    def end(self) -> None:
        """End the stream, as the activation is over: `put` raises an error from now on."""
        self._fail(self._failure or StaleEpoch("The activation of this runtime is over."))

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._roomy.set()

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Hold all writes inside the block, so that a change of the epoch does not refuse our own writes."""
        async with self._writing:
            yield
