"""A process's own lease.

Renewing is a task of the event loop, so a loop that hangs does not renew. A process that holds sessions
counts from when its last confirmed renewal was *sent*. After 0.8 × LEASE_TTL it must have let go of
everything, since after LEASE_TTL others may take the sessions over. A gateway holds no sessions, and is more
patient.
"""

from __future__ import annotations

import asyncio
import logging
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from ohsessions.concurrency.backoff import Backoff
from ohsessions.concurrency.outages import Outage
from ohsessions.conf import conf
from ohsessions.core import phases
from ohsessions.core.clock import Clock
from ohsessions.core.errors import ProcessGone, Unavailable
from ohsessions.models import Process
from ohsessions.processes import leases
from ohsessions.processes.store import Store
from ohsessions.programs import watchdog

logger = logging.getLogger(__name__)

FIRST_TRY = 0.5
"""The most seconds between the first two tries to register. Later pauses are longer."""
HOLD = 0.8
"""The part of LEASE_TTL after which a holder lets go by itself."""
GATEWAY_PATIENCE = 60.0
"""Seconds without the database after which a gateway disconnects its clients. No other process serves them
meanwhile, and a restart or failover of the database is no reason for all of them to reconnect. A gateway that
was declared gone learns it at its next renewal."""


class LeasePhase(StrEnum):
    """The phases of a process's lease, and the moves between them:

        joining → holding
        holding → lost
        lost → holding

    Draining is apart from this: a process that drains holds its lease, may lose it, and drains on under its
    next id.
    """

    JOINING = "joining"
    """The process is not registered yet."""
    HOLDING = "holding"
    """The process keeps what it holds. holds() says whether it may rely on its lease at this time."""
    LOST = "lost"
    """The process has let go of everything, and is to be registered under another id."""


MOVES: dict[LeasePhase, frozenset[LeasePhase]] = {
    LeasePhase.JOINING: frozenset({LeasePhase.HOLDING}),
    LeasePhase.HOLDING: frozenset({LeasePhase.LOST}),
    LeasePhase.LOST: frozenset({LeasePhase.HOLDING}),
}


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

    def __init__(self, store: Store, kind: Process.Kind, member: Member, clock: Clock | None = None) -> None:
        self._store = store
        self._kind = kind
        self._member = member
        self._write = store.database.write_urgently
        self._clock = clock or Clock()
        self._phase = LeasePhase.JOINING
        self._registers_as = Process.State.ACTIVE
        self._confirmed = 0.0
        self._rejoined = asyncio.Condition()
        self.process_id: UUID

    async def join(self) -> UUID:
        """Register this process; return its id. Wait for a database that is away or not migrated yet."""
        watchdog.hide_from_other_processes()
        outage = Outage(logger, f"Registering this {self._kind}", "registration")
        backoff = Backoff(min(FIRST_TRY, conf.HEARTBEAT), 2 * conf.HEARTBEAT)
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
            await backoff.pause()

    async def _register(self) -> UUID:
        sent = self._clock.monotonic()
        self.process_id = await self._write(leases.register, self._kind, self._registers_as)
        if self._clock.monotonic() - sent > conf.HEARTBEAT:
            # It waited for the database, and much of the lease is over. Begin with a whole one.
            sent = self._clock.monotonic()
            await self._write(leases.renew, self.process_id, self._member.load())
        self._move(LeasePhase.HOLDING)
        self._confirmed = sent
        async with self._rejoined:
            self._rejoined.notify_all()
        return self.process_id

    def _move(self, phase: LeasePhase) -> None:
        """Change the phase. No other code does so. Raises IllegalMove."""
        self._phase = phases.move(MOVES, self._phase, phase)

    @property
    def _holding(self) -> bool:
        return self._phase is LeasePhase.HOLDING

    async def wait_rejoined(self, process_id: UUID) -> None:
        """Wait until the process has another id than this one."""
        async with self._rejoined:
            await self._rejoined.wait_for(lambda: self.process_id != process_id)

    async def keep(self) -> None:
        """Renew the lease forever, every HEARTBEAT seconds."""
        while True:
            # A lease that could not be renewed may end between two heartbeats, and is given up then.
            left = self._left() if self._holding else conf.HEARTBEAT
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
        if self._holding and (expired or self._left() <= 0):
            await self._let_go("its lease could not be renewed")

    async def _try_renew(self) -> None:
        sent = self._clock.monotonic()
        try:
            # Wait no longer than the process may keep what it holds.
            async with asyncio.timeout(max(0.0, self._left()) if self._holding else conf.HEARTBEAT):
                await self._write(leases.renew, self.process_id, self._member.load())
        except ProcessGone:
            if self._holding:
                await self._let_go("it was declared gone by another process")
            await self._register()
            return
        if self._holding:
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
        return self._holding and self.process_id == process_id and self._clock.monotonic() < relied_on_until

    def _left(self) -> float:
        """Return the seconds for which the process may keep what it holds without a renewal."""
        keeps = HOLD * conf.LEASE_TTL
        if self._kind == Process.Kind.GATEWAY:
            keeps = max(keeps, GATEWAY_PATIENCE)
        return self._confirmed + keeps - self._clock.monotonic()

    async def _let_go(self, reason: str) -> None:
        self._move(LeasePhase.LOST)
        logger.warning("%s %s lets go: %s", self._kind, self.process_id, reason, extra={"verb": "lease_lost"})
        await self._member.lost(reason)

    async def begin_drain(self) -> None:
        """Mark this process as draining, also under later ids. Raises Unavailable."""
        self._registers_as = Process.State.DRAINING
        await self._store.change_soon(leases.begin_drain, self.process_id)

    async def leave(self) -> None:
        """Declare this process gone, so that no other process waits for its lease to end."""
        try:
            await self._write(leases.mark_gone, self.process_id, None)
        except Unavailable:
            logger.warning("Not said goodbye: others will notice", extra={"verb": "leave_failed"})
