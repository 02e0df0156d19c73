"""A process's own lease, and its look at the others'.

Renewing is a task of the event loop, so a loop that does not turn does not renew. Whoever holds sessions
counts from when its last confirmed renewal was *sent*: 0.8 × LEASE_TTL later it must have let go of
everything, since from LEASE_TTL on others may take it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol
from uuid import UUID

from ohsessions import leases, lifecycle
from ohsessions.conf import conf
from ohsessions.core.clock import Clock
from ohsessions.core.errors import ProcessGone, Unavailable
from ohsessions.leases import Observer
from ohsessions.models import Process
from ohsessions.services import Services

logger = logging.getLogger(__name__)

LOOK_EVERY = 0.5
"""Seconds between two looks at the other processes."""
HOLD = 0.8
"""The part of LEASE_TTL after which a holder lets go by itself."""


class Member(Protocol):
    """A gateway or a worker, as its membership sees it."""

    def load(self) -> int:
        """How many sessions it owns, or connections it serves."""

    def renewed(self) -> None:
        """The lease was renewed."""

    async def lost(self, reason: str) -> None:
        """The lease is over: everything held under it must be let go of, at once."""


class Membership:
    """Keeps one process known, and joins anew if it was declared gone."""

    def __init__(
        self, services: Services, kind: Process.Kind, member: Member, clock: Clock | None = None
    ) -> None:
        self._services = services
        self._kind = kind
        self._member = member
        self._clock = clock or Clock()
        self._confirmed = 0.0
        self._held = False
        self._rejoined = asyncio.Condition()
        self.process_id: UUID

    async def join(self) -> UUID:
        """Registers; gives the id. Waits for a database that is away."""
        sent = self._clock.monotonic()
        self.process_id = await self._services.change_patiently(leases.register, self._kind)
        self._confirmed = sent
        self._held = True
        async with self._rejoined:
            self._rejoined.notify_all()
        return self.process_id

    async def wait_rejoined(self, process_id: UUID) -> None:
        """Waits until it goes by another id than this one."""
        async with self._rejoined:
            await self._rejoined.wait_for(lambda: self.process_id != process_id)

    async def keep(self) -> None:
        """Renews for ever, every HEARTBEAT seconds."""
        while True:
            await asyncio.sleep(conf.HEARTBEAT)
            await self._renew()

    async def _renew(self) -> None:
        sent = self._clock.monotonic()
        write = self._services.database.write_urgently
        try:
            async with asyncio.timeout(max(self._left(), conf.HEARTBEAT)):
                await write(leases.renew, self.process_id, self._member.load())
        except (Unavailable, TimeoutError):
            if self._held and self._left() <= 0:
                await self._let_go("its lease could not be renewed")
        except ProcessGone:
            if self._held:
                await self._let_go("it was declared gone by another process")
            await self.join()
        else:
            self._confirmed = sent
            if not self._held:
                # Nobody declared it gone, but it gave up what it held: it begins again under a new id.
                await self._services.change(leases.mark_gone, self.process_id)
                await self.join()
            self._member.renewed()

    def _left(self) -> float:
        """Seconds for which the lease may still be relied on."""
        return self._confirmed + HOLD * conf.LEASE_TTL - self._clock.monotonic()

    async def _let_go(self, reason: str) -> None:
        self._held = False
        logger.warning("%s %s lets go: %s", self._kind, self.process_id, reason, extra={"verb": "lease_lost"})
        await self._member.lost(reason)

    async def leave(self) -> None:
        """Says goodbye, so that nobody has to wait for the lease to end."""
        await self._services.change(leases.mark_gone, self.process_id)


class Reaper:
    """Notices processes that are gone, and gives away what they held."""

    def __init__(self, services: Services, own_id: Callable[[], UUID], clock: Clock | None = None) -> None:
        self._services = services
        self._own_id = own_id
        self._clock = clock or Clock()
        self._observer = Observer(conf.LEASE_TTL)

    async def watch(self) -> None:
        """Looks for ever."""
        while True:
            try:
                await self.look()
            except Unavailable:
                pass
            await asyncio.sleep(LOOK_EVERY)

    async def look(self) -> None:
        """One look: declares gone who is, and takes over what they left."""
        processes = await self._services.database.read(leases.living)
        others = [process for process in processes if process.pk != self._own_id()]
        counters = [(process.pk, process.heartbeat) for process in others]
        dead = [(process.pk, process.heartbeat) for process in others if leases.is_known_dead(process)]
        expired = self._observer.observe(counters, self._clock.monotonic())
        for process_id, heartbeat in dict.fromkeys(dead + expired):
            if await self._services.change(leases.mark_gone, process_id, heartbeat):
                logger.warning("Process %s is gone", process_id, extra={"verb": "process_gone"})
        for process in await self._services.database.read(leases.gone_with_leftovers):
            await self._take_over(process)

    async def _take_over(self, process: Process) -> None:
        database = self._services.database
        if process.kind == Process.Kind.WORKER:
            owned = await database.read(lifecycle.owned_by, process.pk)
            for session_id in owned:
                change = await self._services.change(
                    lifecycle.hand_over, session_id, process.pk, "its worker is gone"
                )
                await self._services.announce(change)
            return
        for sid, session_id in (await database.read(lifecycle.open_connections, process.pk)).items():
            change = await self._services.change(lifecycle.detach, sid, "gateway_lost")
            await self._services.announce(change)
            await self._services.wakeups.presence(session_id)
