"""A worker: owns sessions, hosts them, and looks after those that nobody owns.

Wake-ups make it look sooner; `_sweep` makes it look anyway. It claims, and everything it decides about a
session is decided by the transaction in lifecycle, so any number of workers may try the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any
from uuid import UUID

from channels.layers import get_channel_layer

from ohsessions import leases, lifecycle, snapshots
from ohsessions.conf import conf
from ohsessions.core import switches
from ohsessions.core.errors import ProcessGone, StaleEpoch, Unavailable
from ohsessions.membership import Membership, Reaper, end_this_process
from ohsessions.models import Process
from ohsessions.services import Services
from ohsessions.wakeups import WORK_CHANNEL, worker_channel
from ohsessions.worker.guard import end
from ohsessions.worker.host import SessionHost
from ohsessions.worker.layer import LayerWorker, WakeupConsumer

logger = logging.getLogger(__name__)

SWEEP_EVERY = 0.5
"""Seconds between two looks at what is due or wanted, when nothing wakes the worker before."""
RECONCILE_EVERY = 2
"""Sweeps between two comparisons of what the rows say with what is hosted."""
CLAIMS_AT_ONCE = 8
PATIENCE, MOST_PATIENCE = 0.05, 0.5
"""Seconds a worker waits before a claim, per session that it has more than the least loaded one; at most."""
TIDY_EVERY = 3600.0
GRACE = 5.0
"""Seconds beyond PASSIVATE_TIMEOUT that a host gets at a stop for storing what it has."""


def stop_limit() -> float:
    """Seconds that an orderly stop may take: for the action under way, for saving, and for storing."""
    return 2 * conf.PASSIVATE_TIMEOUT + 2 * GRACE


class SessionWorker:
    """One worker process. `start` it in the event loop; `stop` hands everything back."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._membership = Membership(services, Process.Kind.WORKER, self)
        self._reaper = Reaper(services, lambda: self._membership.process_id, on_drain=self._asked_to_drain)
        self._hosts: dict[UUID, tuple[SessionHost, asyncio.Task[None]]] = {}
        self._claiming: set[UUID] = set()
        self._look = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._listening: asyncio.Task[None] | None = None
        self._stopping = False
        self._reconcile_now = True

    # What its membership asks

    def load(self) -> int:
        return len(self._hosts)

    def renewed(self, confirmed_at: float) -> None:
        for host, _ in self._hosts.values():
            host.feed(confirmed_at)

    async def lost(self, reason: str) -> None:
        """Kills everything it hosts: others may own it from now on."""
        tasks = [task for _, task in self._hosts.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Running

    async def start(self) -> None:
        """Registers, and begins to work."""
        await self._membership.join()
        self._spawn(self._membership.keep(), "lease")
        self._spawn(self._reaper.watch(), "reaper")
        self._spawn(self._sweep_for_ever(), "sweep")
        self._spawn(self._listen_for_ever(), "listen")
        self._spawn(self._tidy_for_ever(), "tidy")

    def _spawn(self, job: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(job, name=f"worker {name}")
        task.add_done_callback(_report)
        self._tasks.append(task)

    async def _listen_for_ever(self) -> None:
        """Listens under the id of the present membership, which may change."""
        while True:
            process_id = self._membership.process_id
            channels = [WORK_CHANNEL, worker_channel(process_id)]
            consumer = WakeupConsumer.as_asgi(wanted=self._on_wanted, work=self._on_work)
            worker = LayerWorker(consumer, channels, get_channel_layer())
            listening = asyncio.create_task(worker.handle(), name="worker layer")
            try:
                await self._membership.wait_rejoined(process_id)
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
                worker.close()

    def _on_wanted(self, session_id: UUID) -> None:
        self._look.set()

    def _on_work(self, session_id: UUID, epoch: int) -> None:
        hosted = self._hosts.get(session_id)
        if hosted is not None and epoch >= hosted[0].epoch:
            hosted[0].wake()
            if epoch > hosted[0].epoch:
                self._reconcile_now = True
        self._look.set()

    async def _tidy_for_ever(self) -> None:
        """Deletes, now and then, snapshot files that no row names: what a process left that died."""
        while True:
            await asyncio.sleep(TIDY_EVERY)
            try:
                await self._services.database.read(snapshots.sweep)
            except Exception:
                logger.exception("Tidying failed; the next time goes on", extra={"verb": "tidy_failed"})

    # Sweeping

    async def _sweep_for_ever(self) -> None:
        rounds = 0
        while True:
            try:
                await self._sweep()
                rounds += 1
                if self._reconcile_now or rounds >= RECONCILE_EVERY:
                    rounds, self._reconcile_now = 0, False
                    await self._reconcile()
            except Unavailable:
                await asyncio.sleep(SWEEP_EVERY)
            except ProcessGone:
                logger.info("Waiting to be registered anew", extra={"verb": "gone"})
                await asyncio.sleep(SWEEP_EVERY)
            except Exception:
                logger.exception("A sweep failed; the next one goes on", extra={"verb": "sweep_failed"})
                await asyncio.sleep(SWEEP_EVERY)
            try:
                async with asyncio.timeout(SWEEP_EVERY):
                    await self._look.wait()
            except TimeoutError:
                pass
            self._look.clear()

    async def _sweep(self) -> None:
        """Claims what is wanted, and passivates what is due."""
        if self._stopping:
            return
        read = self._services.database.read
        for session_id in await read(lifecycle.due, self._membership.process_id):
            hosted = self._hosts.get(session_id)
            if hosted is not None:
                await self._try_passivate(hosted[0])
        found = await read(lifecycle.wanted, self._membership.process_id, CLAIMS_AT_ONCE)
        for session_id, waited in found.sessions:
            left = self._patience(found.lightest) - waited
            if left <= 0:
                await self._claim(session_id)
            else:
                asyncio.get_running_loop().call_later(left, self._look.set)

    def _patience(self, lightest: int | None) -> float:
        """Seconds to leave a session to a worker that has less to do: so work spreads by load."""
        if lightest is None:
            return 0.0
        return min(MOST_PATIENCE, PATIENCE * max(0, self.load() - lightest))

    @staticmethod
    async def _try_passivate(host: SessionHost, reason: str = "") -> bool:
        try:
            return await host.try_passivate(reason)
        except StaleEpoch:
            return False

    async def _claim(self, session_id: UUID) -> None:
        self._claiming.add(session_id)
        try:
            process_id = self._membership.process_id
            won = await self._services.change(lifecycle.claim, session_id, process_id, self.load())
            if won is None:
                return
            claimed, change = won
            host = SessionHost(self._services, claimed, self._membership.confirmed_at)
            task = asyncio.create_task(host.run(), name=f"session {session_id}")
            self._hosts[session_id] = (host, task)
            task.add_done_callback(lambda done: self._ended(session_id, host, done))
        finally:
            self._claiming.discard(session_id)
        await self._services.announce(change)

    def _ended(self, session_id: UUID, host: SessionHost, task: asyncio.Task[None]) -> None:
        hosted = self._hosts.get(session_id)
        if hosted is not None and hosted[0] is host:
            del self._hosts[session_id]
        if task.cancelled() or isinstance(task.exception(), StaleEpoch):
            return
        if error := task.exception():
            extra = {"verb": "host_failed"}
            logger.error("The host of session %s failed", session_id, exc_info=error, extra=extra)
        self._look.set()

    async def _reconcile(self) -> None:
        """Compares both ways what rows say and what is hosted; puts right what nobody owns."""
        if not switches.is_on("reconcile"):
            return
        before = {
            session_id: (host, host.epoch)
            for session_id, (host, _) in self._hosts.items()
            if not host.is_passivating
        }
        read = self._services.database.read
        process_id = self._membership.process_id
        rows = await read(lifecycle.owned_by, process_id)
        for session_id, (host, epoch) in before.items():
            hosted = self._hosts.get(session_id)
            same = hosted is not None and hosted[0] is host and host.epoch == epoch
            if not same or hosted is None or host.is_passivating:
                continue
            row = rows.get(session_id)
            if row is None or row[0] != epoch:
                hosted[1].cancel()
            else:
                host.notice(row[1])
        for session_id in rows:
            if session_id not in self._hosts and session_id not in self._claiming:
                await self._give_back(session_id, "its worker does not serve it")
        if self._stopping:
            return
        for session_id in await read(lifecycle.strays):
            change = await self._services.change(lifecycle.settle, session_id, f"worker {process_id}")
            await self._services.announce(change)

    # Stopping

    def _asked_to_drain(self) -> None:
        """An operator wants this process to end."""
        if not self._stopping:
            self._stopping = True
            end_this_process()

    async def stop(self, reason: str) -> None:
        """Drains: takes nothing new, lets what is under way come to an end for a while, and gives everything
        back: sessions that are wanted to other workers, the rest to sleep."""
        self._stopping = True
        process_id = self._membership.process_id
        with contextlib.suppress(Unavailable):
            await self._services.change(leases.begin_drain, process_id)
        hosted = list(self._hosts.items())
        await asyncio.gather(*(self._drain(session, *host, reason) for session, host in hosted))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(Unavailable):
            for session_id in await self._services.database.read(lifecycle.owned_by, process_id):
                await self._give_back(session_id, reason)
        await self._membership.leave()

    async def _drain(
        self, session_id: UUID, host: SessionHost, task: asyncio.Task[None], reason: str
    ) -> None:
        limit = conf.PASSIVATE_TIMEOUT
        draining = asyncio.create_task(host.drain(reason, limit), name=f"drain of session {session_id}")
        try:
            # A host that breaks, or loses its session, ends by itself and never comes to rest.
            await asyncio.wait([draining, task], return_when=asyncio.FIRST_COMPLETED)
            if draining.done() and draining.result():
                await asyncio.wait([task], timeout=limit + GRACE)
        except (StaleEpoch, Unavailable):
            pass
        finally:
            await end([draining])
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            with contextlib.suppress(Unavailable):
                await self._give_back(session_id, reason)

    async def _give_back(self, session_id: UUID, reason: str) -> None:
        process_id = self._membership.process_id
        change = await self._services.change(lifecycle.hand_over, session_id, process_id, reason)
        await self._services.announce(change)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.error("%s ended", task.get_name(), exc_info=error, extra={"verb": "task_failed"})
