"""A worker: it owns sessions, hosts them, and looks after sessions without an owner.

At intervals it looks for sessions that wait for a worker, and for its own sessions that are due for
passivation. It also compares its rows with the sessions that it hosts (reconciliation). Wake-ups only make it
look sooner. A transaction in lifecycle makes each decision about a session, so any number of workers may try
the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from uuid import UUID

from channels.layers import get_channel_layer

from ohsessions import lifecycle
from ohsessions.concurrency.backoff import Backoff
from ohsessions.concurrency.tasks import Group, attempt, cancel_all
from ohsessions.conf import conf
from ohsessions.core.errors import ProcessGone, StaleEpoch, Unavailable
from ohsessions.models import Process
from ohsessions.processes.ending import ending
from ohsessions.processes.membership import Membership
from ohsessions.processes.reaper import Reaper
from ohsessions.processes.store import Store
from ohsessions.programs.orphans import kill_orphans
from ohsessions.wakeups import WORK_CHANNEL, worker_channel
from ohsessions.worker import tidying
from ohsessions.worker.host import SessionHost
from ohsessions.worker.host_phase import HostPhase
from ohsessions.worker.hosted import Hosted
from ohsessions.worker.layer import LayerWorker, WakeupConsumer
from ohsessions.worker.tidying import Tidying

logger = logging.getLogger(__name__)

LOOK_EVERY = 0.5
"""Seconds between two looks for due or waiting sessions, if no wake-up comes before."""
RECONCILE_EVERY = 1.0
"""Seconds between two comparisons of the rows with the hosted sessions."""
MOST_PAUSE = 3.0
"""The most seconds between two tries of a job that fails, if it is not rarer anyway."""
CLAIMS_AT_ONCE = 8
PATIENCE, MOST_PATIENCE = 0.05, 0.5
"""Seconds to wait before a claim for each session more than the least loaded worker has; the longest wait."""
STOP_GRACE = 5.0
"""Seconds beyond PASSIVATE_TIMEOUT that a host has at a stop to store its state."""


def stop_limit() -> float:
    """Return the seconds that an orderly stop may take: for the current action, saving and storing."""
    return 2 * conf.PASSIVATE_TIMEOUT + 2 * STOP_GRACE


class SessionWorker:
    """One worker process. Call `start` in the event loop; `stop` hands all sessions back."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._membership = Membership(store, Process.Kind.WORKER, self)
        self._reaper = Reaper(store, lambda: self._membership.process_id, on_drain=self._asked_to_drain)
        self._something_wanted = asyncio.Event()
        self._something_due = asyncio.Event()
        self._in_doubt = asyncio.Event()
        self._hosted = Hosted(store, self._something_wanted.set)
        self._claiming: set[UUID] = set()
        self._trying_to_passivate: set[SessionHost] = set()
        self._tasks = Group("worker", ending.fail)
        self._tidying = Tidying(store, lambda: self._membership.process_id)
        self._stopping = False

    # Methods that its membership calls

    def load(self) -> int:
        return len(self._hosted)

    def renewed(self, confirmed_at: float) -> None:
        for host in self._hosted:
            host.feed(confirmed_at)

    async def lost(self, reason: str) -> None:
        await self._hosted.cut_off()

    # Running

    async def start(self) -> None:
        """Register this worker and start its tasks."""
        # There are orphans if a worker and its watchdogs were killed together.
        await asyncio.to_thread(kill_orphans)
        await self._membership.join()
        keep = self._tasks.keep
        keep(self._membership.keep(), "lease")
        keep(self._reaper.look_for_ever(), "reaper looks")
        keep(self._reaper.take_over_for_ever(), "reaper takes over")
        keep(self._listen_for_ever(), "listen")
        keep(self._store.wakeups.probe_for_ever(), "probe")
        keep(self._repeat(self._claim_wanted, LOOK_EVERY, self._something_wanted), "claims")
        keep(self._repeat(self._passivate_due, LOOK_EVERY, self._something_due), "passivations")
        keep(self._repeat(self._reconcile, RECONCILE_EVERY, self._in_doubt), "reconcile")
        keep(self._repeat(self._tidying.sweep, tidying.SWEEP_EVERY, asyncio.Event()), "sweep")
        keep(self._repeat(self._tidying.prune, tidying.PRUNE_EVERY, asyncio.Event()), "prune")

    @staticmethod
    async def _repeat(job: Callable[[], Awaitable[None]], every: float, sooner: asyncio.Event) -> None:
        """Run a job for ever, every `every` seconds and when `sooner` is set."""
        backoff = Backoff(every, max(every, MOST_PAUSE))
        while True:
            sooner.clear()
            try:
                await job()
            except (Unavailable, ProcessGone):
                await backoff.pause()  # until the database is back, or this worker is registered again
                continue
            except Exception:
                logger.exception(
                    "A job of the worker failed, and is tried again", extra={"verb": "look_failed"}
                )
                await backoff.pause()
                continue
            backoff.reset()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every):
                    await sooner.wait()

    async def _listen_for_ever(self) -> None:
        """Listen under the id of the present membership, which may change."""
        while True:
            process_id = self._membership.process_id
            channels = [WORK_CHANNEL, worker_channel(process_id)]
            consumer = WakeupConsumer.as_asgi(wanted=self._on_wanted, work=self._on_work)
            worker = LayerWorker(consumer, channels, get_channel_layer())
            listening = asyncio.create_task(worker.handle(), name="worker layer")
            rejoining = asyncio.create_task(self._membership.wait_rejoined(process_id), name="worker rejoins")
            both = {listening, rejoining}
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if listening.done():
                    listening.result()
                    return  # it must never end: the group logs that, and ends the process
            finally:
                await cancel_all(both)

    def _on_wanted(self, session_id: UUID) -> None:
        self._something_wanted.set()

    def _on_work(self, session_id: UUID, epoch: int, secrets_version: int) -> None:
        host = self._hosted.get(session_id)
        if host is not None and epoch >= host.epoch:
            host.wake()
            host.notice_secrets(secrets_version)
            if epoch > host.epoch:
                self._in_doubt.set()
        self._something_due.set()

    # Claiming

    async def _claim_wanted(self) -> None:
        """Claim some of the sessions that wait for a worker, as far as there is room for starts.

        Claim nothing while the lease is over: those sessions would only be given back.
        """
        room = min(self._hosted.room(), CLAIMS_AT_ONCE)
        process_id = self._membership.process_id
        if self._stopping or not room or not self._membership.holds(process_id):
            return
        found = await self._store.database.read(lifecycle.wanted, process_id, CLAIMS_AT_ONCE)
        patience = self._patience(found.lightest)
        ripe = [session_id for session_id, waited in found.sessions if waited >= patience]
        if len(ripe) < len(found.sessions):
            left = patience - max(waited for _, waited in found.sessions if waited < patience)
            asyncio.get_running_loop().call_later(left, self._something_wanted.set)
        await asyncio.gather(*map(self._claim, ripe[:room]))
        if len(ripe) == CLAIMS_AT_ONCE:
            self._something_wanted.set()

    def _patience(self, lightest: int | None) -> float:
        """Return the seconds to leave a session to less loaded workers, so that work spreads by load."""
        if lightest is None:
            return 0.0
        return min(MOST_PATIENCE, PATIENCE * max(0, self.load() - lightest))

    async def _claim(self, session_id: UUID) -> None:
        self._claiming.add(session_id)
        try:
            process_id = self._membership.process_id
            load = len(self._hosted) + len(self._claiming) - 1
            if not self._membership.holds(process_id):
                return
            won = await self._store.try_change(lifecycle.claim, session_id, process_id, load)
            if won is None or not self._membership.holds(process_id):
                # The answer may come after the end of the lease. Another worker may own the session then.
                return
            self._hosted.add(won[0], self._membership.confirmed_at)
        finally:
            self._claiming.discard(session_id)

    # Passivating

    async def _passivate_due(self) -> None:
        """Try each due session in a task of its own: it may wait for its row while others fall due."""
        if self._stopping:
            return
        due = await self._store.database.read(lifecycle.due, self._membership.process_id)
        for host in map(self._hosted.get, due):
            if host is not None and host not in self._trying_to_passivate:
                self._trying_to_passivate.add(host)
                self._tasks.spawn(self._try_passivate(host), f"passivation of session {host.session_id}")

    async def _try_passivate(self, host: SessionHost) -> None:
        try:
            # A later look tries again, if the session is due then.
            with contextlib.suppress(StaleEpoch, Unavailable):
                if host.phase is HostPhase.STARTING:
                    await self._end_start(host)
                else:
                    await host.try_passivate()
        finally:
            self._trying_to_passivate.discard(host)

    async def _end_start(self, host: SessionHost) -> None:
        """Passivate a session that only starts, if an operator asked for it; close its runtime first."""
        task = self._hosted.task(host)
        if task is None or not await self._store.database.read(
            lifecycle.is_unwanted_start, host.session_id, host.epoch
        ):
            return
        task.cancel()
        await asyncio.wait([task])
        await self._store.change(lifecycle.end_start, host.session_id, host.epoch)

    # Reconciling

    async def _reconcile(self) -> None:
        """Compare rows and hosted sessions in both directions, and settle sessions without an owner."""
        before = {host: host.epoch for host in self._hosted if not host.is_passivating}
        read = self._store.database.read
        process_id = self._membership.process_id
        rows = await read(lifecycle.owned_by, process_id)
        for host, epoch in before.items():
            task = self._hosted.task(host)
            if task is None or host.epoch != epoch or host.is_passivating:
                continue
            row = rows.get(host.session_id)
            if row is None or row.epoch != epoch:
                task.cancel()
            else:
                host.notice(row.last_user_number)
                host.notice_secrets(row.secrets_version)
        for session_id, row in rows.items():
            if session_id not in self._hosted and session_id not in self._claiming:
                await self._give_back(session_id, "its worker does not serve it", row.epoch)
        if self._stopping:
            return
        for session_id in await read(lifecycle.strays):
            await self._store.try_change(lifecycle.settle, session_id, f"worker {process_id}")

    # Stopping

    def _asked_to_drain(self) -> None:
        """Take no new sessions and end this process, since an operator asked for it."""
        if not self._stopping:
            self._stopping = True
            ending.begin()

    async def stop(self, reason: str) -> None:
        """Drain: take no new sessions, wait a while for actions under way, and give all sessions back.

        Sessions that are wanted go to other workers; the rest are put to sleep.
        """
        self._stopping = True
        await attempt(self._note_drain(), "Storing that the worker drains")
        # An error in one session does not keep the others from being saved.
        drains = [(self._drain(host, reason), f"Draining session {host.session_id}") for host in self._hosted]
        await asyncio.gather(*(attempt(drain, what) for drain, what in drains))
        await self._tasks.stop()
        await self._hosted.cut_off()  # sessions whose claim was under way when the drain began
        await attempt(self._give_all_back(reason), "Giving the sessions back")

    async def _note_drain(self) -> None:
        with contextlib.suppress(Unavailable):
            await self._membership.begin_drain()

    async def _give_all_back(self, reason: str) -> None:
        """Give back the sessions that this worker still owns, and leave.

        A database that hangs must not block the end. Other processes notice LEASE_TTL later.
        """
        with contextlib.suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(STOP_GRACE):
                owned = lifecycle.owned_by
                for session_id in await self._store.database.read(owned, self._membership.process_id):
                    await self._give_back(session_id, reason)
                await self._membership.leave()

    async def _drain(self, host: SessionHost, reason: str) -> None:
        task = self._hosted.task(host)
        if task is None:
            return
        limit = conf.PASSIVATE_TIMEOUT
        draining = asyncio.create_task(host.drain(reason, limit), name=f"drain of session {host.session_id}")
        try:
            # A host that breaks, or loses its session, ends by itself: its drain() may never return.
            await asyncio.wait([draining, task], return_when=asyncio.FIRST_COMPLETED)
            if draining.done() and draining.result():
                await asyncio.wait([task], timeout=limit + STOP_GRACE)
        except (StaleEpoch, Unavailable):
            pass
        finally:
            await cancel_all([draining])
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            with contextlib.suppress(Unavailable):
                await self._give_back(host.session_id, reason)

    async def _give_back(self, session_id: UUID, reason: str, epoch: int | None = None) -> None:
        process_id = self._membership.process_id
        await self._store.try_change(lifecycle.hand_over, session_id, process_id, reason, epoch=epoch)
