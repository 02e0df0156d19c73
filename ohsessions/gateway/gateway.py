"""A gateway: the connections of one process, and the pumps that feed them.

Its tasks renew its lease, listen to the channel layer, and reconcile every RECONCILE_EVERY seconds (see
reconciliation).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from ohsessions import lifecycle
from ohsessions.conf import conf
from ohsessions.core import wire
from ohsessions.core.errors import Unavailable
from ohsessions.gateway.client import Client
from ohsessions.gateway.github_check import GitHubCheck
from ohsessions.gateway.guests import Guests
from ohsessions.gateway.pump import Pump
from ohsessions.gateway.reconciliation import Reconciliation
from ohsessions.gateway.refusals import farewell
from ohsessions.gateway.subscriptions import Subscriptions
from ohsessions.models import Process
from ohsessions.processes.membership import Membership, end_this_process
from ohsessions.processes.reaper import Reaper
from ohsessions.processes.store import Store
from ohsessions.socketio import EngineSettings, Socket

logger = logging.getLogger(__name__)

RECONCILE_EVERY = 1.5
STOP_BATCH = 100
"""The clients that a stop ends at a time."""
RECONNECTS_PER_SECOND = 200.0
"""The rate at which clients reconnect elsewhere after a stop."""
WRITE_OFF_LIMIT = 10.0
"""Seconds that a stopping gateway has to end its connections in the database."""
STOP_PATIENCE = 2.0
"""Seconds that a stopping gateway waits for its running tasks, and for the end of its membership."""
FIRST_PAYLOAD = 64 * 1024
"""Bytes of a stranger's largest message before it is attached, if strangers may not start sessions."""
FRAME_SLACK = 1024 * 1024
"""Bytes that the engine accepts beyond MAX_ACTION_BYTES: so a slightly larger action gets an error."""


class Gateway:
    """One gateway process. Call `start` in the event loop. `stop` ends its connections in the database."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clients: dict[str, Client] = {}
        self.guests = Guests()
        self.github = GitHubCheck()
        self._pumps: dict[UUID, Pump] = {}
        self._subscriptions = Subscriptions(self._pumps.keys(), self._hear)
        self._membership = Membership(store, Process.Kind.GATEWAY, self)
        self._reaper = Reaper(store, lambda: self.process_id, on_drain=self._asked_to_drain)
        self._reconciliation = Reconciliation(
            store, lambda: self.process_id, self.clients, self._pumps, self._subscriptions
        )
        self._stopping = False
        self._written_off: set[str] = set()
        """The connections, by sid, that `stop` ends in the database: one transaction for each session."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._background: list[asyncio.Task[None]] = []

    @property
    def process_id(self) -> UUID:
        return self._membership.process_id

    def check_lease(self) -> None:
        """Raise Unavailable if the lease was not renewed in time. Then the database does not answer, and
        other processes might end a connection that is attached now."""
        if not self._membership.holds(self.process_id):
            raise Unavailable

    # Called by the membership

    def load(self) -> int:
        return len(self.clients)

    def renewed(self, confirmed_at: float) -> None:
        pass

    async def lost(self, reason: str) -> None:
        for client in list(self.clients.values()):
            await client.end("gateway_lost", farewell("gateway_lost"))

    # Starting and stopping

    async def start(self) -> None:
        """Register the process, then start to listen and to reconcile."""
        await self._membership.join()
        jobs = {
            "lease": self._membership.keep(),
            "reaper": self._reaper.watch(),
            "layer": self._subscriptions.listen(),
            "reconcile": self._reconcile_for_ever(),
            # A task of its own, since a layer that hangs must not delay deliveries.
            "subscriptions": self._renew_subscriptions_for_ever(),
            "probe": self.store.wakeups.probe_for_ever(),
        }
        self._background = [asyncio.create_task(job, name=f"gateway {name}") for name, job in jobs.items()]

    def _asked_to_drain(self) -> None:
        """End this process, since an operator asked for it."""
        if not self._stopping:
            self._stopping = True
            end_this_process()

    async def stop(self, reason: str) -> None:
        """Send the clients away and end their connections in the database. daphne may not call the disconnect
        handlers when it stops."""
        self._stopping = True
        cursors: defaultdict[UUID, dict[str, int]] = defaultdict(dict)
        for client in self.clients.values():
            if client.session_id is not None:
                cursors[client.session_id][client.sid] = client.cursor
        self._written_off = {sid for attached in cursors.values() for sid in attached}
        await self._send_away(list(self.clients.values()))
        try:
            self.check_lease()
            async with asyncio.timeout(WRITE_OFF_LIMIT):
                await self._membership.begin_drain()
                # Each takes about one round trip. Run together, they keep the database's threads busy.
                await asyncio.gather(*(self._write_off(*attached, reason) for attached in cursors.items()))
        except (Unavailable, TimeoutError):
            # Other processes do it: at once if this process can still leave, else after LEASE_TTL.
            logger.warning("Stopped without writing all off", extra={"verb": "stopped_unheard"})
        await self._end_tasks()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_PATIENCE):
                await self._membership.leave()

    async def _write_off(self, session_id: UUID, cursors: dict[str, int], reason: str) -> None:
        change = await self.store.change(lifecycle.write_off, session_id, self.process_id, reason, cursors)
        await self.store.announce(change)

    async def _send_away(self, clients: list[Client]) -> None:
        """End the clients in batches. Each gets a random time to reconnect, so they return one by one."""
        spread = len(clients) / RECONNECTS_PER_SECOND
        for first in range(0, len(clients), STOP_BATCH):
            for client in clients[first : first + STOP_BATCH]:
                seconds = round(random.uniform(0, spread), 2)
                client.notice(wire.notice("draining", reconnect_in=seconds))
                await client.end("draining", farewell("draining"))
            await asyncio.sleep(0)

    async def _end_tasks(self) -> None:
        """Cancel the background tasks. Spawned tasks (detaches) have STOP_PATIENCE seconds to end."""
        for task in self._background:
            task.cancel()
        tasks = {*self._background, *self._tasks}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=STOP_PATIENCE)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._subscriptions.end()
        self.github.end()

    def spawn(self, job: Coroutine[Any, Any, Any], name: str) -> None:
        """Run a job that no client waits for, in a task. Its failure is logged."""
        task = asyncio.create_task(job, name=f"gateway {name}")
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("%s failed", task.get_name(), exc_info=error, extra={"verb": "task_failed"})

    # Connections

    def accept(self, socket: Socket) -> Client:
        """Return the handler of a new socket."""
        return Client(self, socket)

    def engine_settings(self, scope: Mapping[str, Any]) -> EngineSettings:
        user = scope.get("user")
        most = conf.MAX_ACTION_BYTES + FRAME_SLACK
        # Before they are attached, strangers that need a token have nothing large to send.
        first = most if conf.ALLOW_ANONYMOUS else min(FIRST_PAYLOAD, most)
        return EngineSettings(
            ping_interval=conf.PING_INTERVAL,
            ping_timeout=conf.PING_TIMEOUT,
            max_payload=most,
            first_payload=None if user is not None and user.is_authenticated else first,
            barrier_timeout=conf.SLOW_TIMEOUT,
            max_values=conf.MAX_ACTION_VALUES,
            packet_rate=conf.PACKET_RATE,
            byte_rate=conf.BYTE_RATE,
        )

    def detach_later(self, client: Client, reason: str) -> None:
        """End a connection's row in a task, which tries again while the database is away."""
        if client.sid in self._written_off:
            return
        job = self._detach(client.sid, client.session_id, reason, client.cursor)
        self.spawn(job, f"detach {client.sid}")

    async def _detach(self, sid: str, session_id: UUID | None, reason: str, cursor: int) -> None:
        change = await self.store.change_patiently(lifecycle.detach, sid, reason, sent_number=cursor)
        await self.store.announce(change)
        if session_id is not None:
            await self.store.wakeups.presence(session_id)

    @asynccontextmanager
    async def pump(self, session_id: UUID) -> AsyncIterator[Pump]:
        """Yield the pump of a session, to add a connection. The subscription comes before any read for it."""
        pump = self._pumps.get(session_id)
        if pump is None:
            pump = self._pumps[session_id] = Pump(self.store, session_id)
        pump.expected += 1
        try:
            is_new = session_id not in self._subscriptions
            is_new = is_new and await self._subscriptions.try_subscribe(session_id)
            yield pump
            if is_new:
                # Deliver the events stored after the attach and before the subscription, in the background.
                self.spawn(self._reconciliation.logs([session_id]), f"look at {session_id}")
        finally:
            pump.expected -= 1
            self._drop_unused(pump)

    def leave_pump(self, pump: Pump, client: Client) -> None:
        pump.remove(client)
        self._drop_unused(pump)

    def _drop_unused(self, pump: Pump) -> None:
        """Drop a pump without connections. Subscriptions.renew() ends its subscription later."""
        if not pump.outlets and not pump.expected and self._pumps.get(pump.session_id) is pump:
            del self._pumps[pump.session_id]

    # The channel layer

    def _hear(self, message: dict[str, Any]) -> None:
        pump = self._pumps.get(UUID(message["session"]))
        if pump is None:
            return
        match message["type"]:
            case "session.events":
                events = [(number, data) for number, data in message.get("events", [])]
                pump.take(events, message["head"])
            case "session.state":
                pump.tell_state(message["state"], message["reason"], message["title"])
            case "session.presence":
                self.spawn(pump.tell_presence(), f"presence {pump.session_id}")
            case "session.notice":
                pump.notice(message["notice"])
            case "session.error":
                pump.send(message["payload"])
            case "session.ended":
                self.spawn(self._reconciliation.end_ended(self._clients_of(pump)), "end connections")

    def _clients_of(self, pump: Pump) -> list[Client]:
        return [client for client in self.clients.values() if client in pump.outlets]

    async def _renew_subscriptions_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RECONCILE_EVERY)
            await self._subscriptions.renew()

    # Reconciliation

    async def _reconcile_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RECONCILE_EVERY)
            try:
                await self._reconcile()
            except Unavailable:
                continue
            except Exception:
                extra = {"verb": "reconcile_failed"}
                logger.exception("Reconciling failed; the next time goes on", extra=extra)

    async def _reconcile(self) -> None:
        await self._reconciliation.logs(list(self._pumps))
        # stop() ends its connections itself, with their cursors. Here they would look lost.
        if not self._written_off:
            await self._reconciliation.connections()
        await self._reconciliation.logins()
