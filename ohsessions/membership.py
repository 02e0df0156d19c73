"""A process's own lease, and its look at the leases of others.

Renewing is a task of the event loop, so a loop that hangs does not renew. A process that holds sessions
counts from when its last confirmed renewal was *sent*. After 0.8 × LEASE_TTL it must have let go of
everything, since after LEASE_TTL others may take the sessions over. A gateway holds no sessions, and is more
patient.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
from collections.abc import Awaitable, Callable
from typing import Protocol
from uuid import UUID

from ohsessions import leases, lifecycle
from ohsessions.company import company
from ohsessions.conf import conf
from ohsessions.core import watchdog
from ohsessions.core.clock import Clock
from ohsessions.core.errors import ProcessGone, Unavailable
from ohsessions.core.outages import Outage
from ohsessions.leases import Observer
from ohsessions.models import Process
from ohsessions.services import Services

logger = logging.getLogger(__name__)

LOOK_EVERY = 0.5
"""Seconds between two looks at the other processes."""
TAKEN_AT_ONCE = 100
"""Sessions of a dead worker that one query looks up."""
DRAINING = Process.State.DRAINING
HOLD = 0.8
"""The part of LEASE_TTL after which a holder lets go by itself."""
GATEWAY_PATIENCE = 60.0
"""Seconds without the database after which a gateway disconnects its clients. No other process serves them
meanwhile, and a restart or failover of the database is no reason for all of them to reconnect. A gateway that
was declared gone learns it at its next renewal."""


class Member(Protocol):
    """A gateway or a worker, as its Membership uses it."""

    def load(self) -> int:
        """Return the number of sessions it owns, or of connections it serves."""

    def renewed(self, confirmed_at: float) -> None:
        """Note that a renewal sent at this monotonic time succeeded: from then on the lease holds for
        HOLD × LEASE_TTL."""

    async def lost(self, reason: str) -> None:
        """Let go of everything held under the lease, at once: the lease is over."""


class Membership:
    """The registration of one process, which is renewed, and made anew if the process was declared gone."""

    def __init__(
        self, services: Services, kind: Process.Kind, member: Member, clock: Clock | None = None
    ) -> None:
        self._services = services
        self._kind = kind
        self._member = member
        self._write = services.database.write_urgently
        self._clock = clock or Clock()
        self._confirmed = 0.0
        self._held = False
        self._draining = False
        self._rejoined = asyncio.Condition()
        self.process_id: UUID

    async def join(self) -> UUID:
        """Register this process; return its id. Wait for a database that is away or not migrated yet."""
        watchdog.hide_from_other_processes()
        outage = Outage(logger, f"Registering this {self._kind}", "registration")
        while True:
            try:
                process_id = await self._register()
            except Unavailable:
                pass  # logged by guarded()
            except Exception as error:
                text = str(error).partition("\n")[0]
                outage.failed(f"{type(error).__name__}: {text}. Is the database migrated? It is tried again.")
            else:
                outage.worked()
                return process_id
            await asyncio.sleep(conf.HEARTBEAT)

    async def _register(self) -> UUID:
        sent = self._clock.monotonic()
        state = DRAINING if self._draining else Process.State.ACTIVE
        self.process_id = await self._write(leases.register, self._kind, state)
        self._confirmed = sent
        self._held = True
        async with self._rejoined:
            self._rejoined.notify_all()
        return self.process_id

    async def wait_rejoined(self, process_id: UUID) -> None:
        """Wait until the process has another id than this one."""
        async with self._rejoined:
            await self._rejoined.wait_for(lambda: self.process_id != process_id)

    async def keep(self) -> None:
        """Renew the lease forever, every HEARTBEAT seconds."""
        while True:
            # A lease that could not be renewed may end between two heartbeats, and is given up then.
            left = self._left() if self._held else conf.HEARTBEAT
            await asyncio.sleep(max(0.0, min(conf.HEARTBEAT, left)))
            await self.renew()

    async def renew(self) -> None:
        """Renew once. Let go of everything if that failed for too long, and register anew when possible.

        Raises nothing: without this task nobody would notice that the lease has ended.
        """
        expired = False
        try:
            await self._try_renew()
        except TimeoutError:
            expired = True
        except Unavailable:
            pass
        except Exception:
            logger.exception("A lease was not renewed", extra={"verb": "lease_failed"})
        if self._held and (expired or self._left() <= 0):
            await self._let_go("its lease could not be renewed")

    async def _try_renew(self) -> None:
        sent = self._clock.monotonic()
        try:
            # Wait no longer than the process may keep what it holds.
            async with asyncio.timeout(max(0.0, self._left()) if self._held else conf.HEARTBEAT):
                await self._write(leases.renew, self.process_id, self._member.load())
        except ProcessGone:
            if self._held:
                await self._let_go("it was declared gone by another process")
            await self._register()
            return
        if self._held:
            self._confirmed = sent
            self._member.renewed(sent)
        else:
            # The process was not declared gone, but has let go of everything: begin again under a new id.
            await self._write(leases.mark_gone, self.process_id, None)
            await self._register()

    @property
    def confirmed_at(self) -> float:
        """The monotonic time at which the last confirmed renewal was sent."""
        return self._confirmed

    def holds(self, process_id: UUID) -> bool:
        """Return whether the process has this id, and may rely on its lease now."""
        relied_on_until = self._confirmed + HOLD * conf.LEASE_TTL
        return self._held and self.process_id == process_id and self._clock.monotonic() < relied_on_until

    def _left(self) -> float:
        """Return the seconds for which the process may keep what it holds without a renewal."""
        keeps = HOLD * conf.LEASE_TTL
        if self._kind == Process.Kind.GATEWAY:
            keeps = max(keeps, GATEWAY_PATIENCE)
        return self._confirmed + keeps - self._clock.monotonic()

    async def _let_go(self, reason: str) -> None:
        self._held = False
        logger.warning("%s %s lets go: %s", self._kind, self.process_id, reason, extra={"verb": "lease_lost"})
        await self._member.lost(reason)

    async def begin_drain(self) -> None:
        """Mark this process as draining, also under later ids. Raises Unavailable."""
        self._draining = True
        await self._services.change_soon(leases.begin_drain, self.process_id)

    async def leave(self) -> None:
        """Declare this process gone, so that no other process waits for its lease to end."""
        try:
            await self._write(leases.mark_gone, self.process_id, None)
        except Unavailable:
            logger.warning("Not said goodbye: others will notice", extra={"verb": "leave_failed"})


def end_this_process() -> None:
    """Send SIGTERM to this process, which stops it in order under any server."""
    os.kill(os.getpid(), signal.SIGTERM)


class Reaper:
    """A watch for processes that are gone, to hand over their sessions and end their connections."""

    def __init__(
        self,
        services: Services,
        own_id: Callable[[], UUID],
        clock: Clock | None = None,
        on_drain: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_drain` is called at each look that finds this process draining."""
        self._services = services
        self._own_id = own_id
        self._on_drain = on_drain
        self._clock = clock or Clock()
        self._observer = Observer(conf.LEASE_TTL)

    async def watch(self) -> None:
        """Look and take over forever, in two tasks, so that a takeover does not delay the next look."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._again_and_again(self.look), name="reaper looks")
            group.create_task(self._again_and_again(self.take_over), name="reaper takes over")

    @staticmethod
    async def _again_and_again(job: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await job()
            except Unavailable:
                pass
            except Exception:
                logger.exception("Reaping failed; the next time goes on", extra={"verb": "reap_failed"})
            await asyncio.sleep(LOOK_EVERY)

    async def look(self) -> None:
        """Look once: declare dead processes gone, and call `on_drain` if this one drains."""
        processes = await self._services.database.read(leases.living)
        others = [process for process in processes if process.pk != self._own_id()]
        own = next((process for process in processes if process.pk == self._own_id()), None)
        if own is not None:
            company.look(own, processes)
            if own.state == DRAINING:
                self._on_drain()
        counters = [(process.pk, process.heartbeat) for process in others]
        dead = [(process.pk, process.heartbeat) for process in others if leases.is_known_dead(process)]
        expired = self._observer.observe(counters, self._clock.monotonic())
        for process_id, heartbeat in dict.fromkeys(dead + expired):
            if await self._services.change(leases.mark_gone, process_id, heartbeat):
                logger.warning("Process %s is gone", process_id, extra={"verb": "process_gone"})

    async def take_over(self) -> None:
        """Hand over the sessions of processes that are gone, and end their connections."""
        for process in await self._services.database.read(leases.gone_with_leftovers):
            if process.kind == Process.Kind.WORKER:
                await self._take_sessions(process.pk)
            else:
                await self._end_connections(process.pk)

    async def _take_sessions(self, worker: UUID) -> None:
        """Hand over a worker's sessions. All processes do so at once, in random orders, to share the work.

        Locked sessions are left for the next time. So are all others, after a round that hands over none.
        """
        read = self._services.database.read
        while left := await read(lifecycle.left_behind, worker, TAKEN_AT_ONCE):
            taken = 0
            for session_id in random.sample(left, len(left)):
                change = await self._services.try_change(
                    lifecycle.hand_over, session_id, worker, "its worker is gone", died=True
                )
                await self._services.announce(change)
                taken += change is not None
            if not taken:
                return

    async def _end_connections(self, gateway: UUID) -> None:
        connections = await self._services.database.read(lifecycle.open_connections, gateway)
        for session_id in set(connections.values()):
            change = await self._services.try_change(lifecycle.write_off, session_id, gateway, "gateway_lost")
            if change is not None:
                await self._services.announce(change)
                await self._services.wakeups.presence(session_id)
        await self._services.change(leases.end_detached, gateway)
