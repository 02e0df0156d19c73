"""A process's watch over the leases of others: it hands over the sessions of dead processes.

Every gateway and every worker has a Reaper. Transactions make the decisions, so any number may do the same.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from uuid import UUID

from ohsessions import lifecycle
from ohsessions.concurrency.backoff import Backoff
from ohsessions.conf import conf
from ohsessions.core.clock import Clock
from ohsessions.core.errors import Unavailable
from ohsessions.models import Process
from ohsessions.processes import leases
from ohsessions.processes.company import company
from ohsessions.processes.leases import Observer
from ohsessions.processes.store import Store

logger = logging.getLogger(__name__)

REAP_EVERY = 0.5
"""Seconds between two looks at the other processes."""
MOST_PAUSE = 2.0
"""The most seconds between two looks that fail."""
TAKEN_AT_ONCE = 100
"""Sessions of a dead worker that one query looks up."""


class Reaper:
    """A watch for processes that are gone, to hand over their sessions and end their connections."""

    def __init__(
        self,
        store: Store,
        own_id: Callable[[], UUID],
        clock: Clock | None = None,
        on_drain: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_drain` is called at each look that finds this process draining."""
        self._store = store
        self._own_id = own_id
        self._on_drain = on_drain
        self._clock = clock or Clock()
        self._observer = Observer(conf.LEASE_TTL)

    async def look_for_ever(self) -> None:
        """Look again and again."""
        await self._again_and_again(self.look)

    async def take_over_for_ever(self) -> None:
        """Take over again and again. It is a task of its own, so that it does not delay the next look."""
        await self._again_and_again(self.take_over)

    @staticmethod
    async def _again_and_again(job: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(REAP_EVERY, MOST_PAUSE)
        while True:
            try:
                await job()
            except Unavailable:
                await backoff.pause()
            except Exception:
                extra = {"verb": "reap_failed"}
                logger.exception("The watch over other processes failed, and is tried again", extra=extra)
                await backoff.pause()
            else:
                backoff.reset()
                await asyncio.sleep(REAP_EVERY)

    async def look(self) -> None:
        """Look once: declare dead processes gone, and call `on_drain` if this one drains."""
        processes = await self._store.database.read(leases.living)
        others = [process for process in processes if process.pk != self._own_id()]
        own = next((process for process in processes if process.pk == self._own_id()), None)
        if own is not None:
            company.look(own, processes)
            if own.state == Process.State.DRAINING:
                self._on_drain()
        counters = [(process.pk, process.heartbeat) for process in others]
        dead = [(process.pk, process.heartbeat) for process in others if leases.is_known_dead(process)]
        expired = self._observer.observe(counters, self._clock.monotonic())
        for process_id, heartbeat in dict.fromkeys(dead + expired):
            if await self._store.change(leases.mark_gone, process_id, heartbeat):
                logger.warning("Process %s is gone", process_id, extra={"verb": "process_gone"})

    async def take_over(self) -> None:
        """Hand over the sessions of processes that are gone, and end their connections."""
        for process in await self._store.database.read(leases.gone_with_leftovers):
            if process.kind == Process.Kind.WORKER:
                await self._take_sessions(process.pk)
            else:
                await self._end_connections(process.pk)

    async def _take_sessions(self, worker: UUID) -> None:
        """Hand over a worker's sessions. All processes do so at once, in random orders, to share the work.

        Locked sessions are left for the next time. So are all others, after a round that hands over none.
        """
        read = self._store.database.read
        while left := await read(lifecycle.left_behind, worker, TAKEN_AT_ONCE):
            taken = 0
            for session_id in random.sample(left, len(left)):
                change = await self._store.try_change(
                    lifecycle.hand_over, session_id, worker, "its worker is gone", died=True
                )
                taken += change is not None
            if not taken:
                return

    async def _end_connections(self, gateway: UUID) -> None:
        connections = await self._store.database.read(lifecycle.open_connections, gateway)
        for session_id in set(connections.values()):
            write_off = lifecycle.write_off
            if await self._store.try_change(write_off, session_id, gateway, "gateway_lost") is not None:
                self._store.announce_presence(session_id)
        await self._store.change(leases.end_detached, gateway)
