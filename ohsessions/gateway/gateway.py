"""A gateway: the connections of one process, and the pumps that feed them.

Its tasks keep its lease, hear what the channel layer brings, and reconcile every RECONCILE_EVERY seconds (see
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
from ohsessions.core import switches, wire
from ohsessions.core.errors import Unavailable
from ohsessions.gateway.client import Client
from ohsessions.gateway.farewells import farewell
from ohsessions.gateway.github import GitHubCheck
from ohsessions.gateway.guests import Guests
from ohsessions.gateway.pump import Pump
from ohsessions.gateway.reconciliation import Reconciliation
from ohsessions.gateway.subscriptions import Subscriptions
from ohsessions.membership import Membership, Reaper, end_this_process
from ohsessions.models import Process
from ohsessions.services import Services
from ohsessions.socketio import EngineSettings, Socket

logger = logging.getLogger(__name__)

RECONCILE_EVERY = 1.5
STOP_BATCH = 100
RECONNECTS_PER_SECOND = 200.0
"""How many clients are sent away at a time at a stop, and how fast they are to come back elsewhere."""
WRITE_OFF_LIMIT = 10.0
"""Seconds that a stopping gateway gives to ending its connections in the database."""
STOP_PATIENCE = 2.0
"""Seconds that a stopping gateway gives to what it is in the middle of."""
FIRST_PAYLOAD = 64 * 1024
"""The largest message of a stranger until the connection is attached, where strangers start no sessions."""
FRAME_SLACK = 1024 * 1024
"""Bytes that the engine takes beyond MAX_ACTION_BYTES, so that who sends somewhat too much is told so."""


class Gateway:
    """One gateway process. `start` it in the event loop; `stop` writes its connections off."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.clients: dict[str, Client] = {}
        self.guests = Guests()
        self.github = GitHubCheck()
        self._pumps: dict[UUID, Pump] = {}
        self._subscriptions = Subscriptions(self._pumps.keys(), self._hear)
        self._membership = Membership(services, Process.Kind.GATEWAY, self)
        self._reaper = Reaper(services, lambda: self.process_id, on_drain=self._asked_to_drain)
        self._reconciliation = Reconciliation(
            services, lambda: self.process_id, self.clients, self._pumps, self._subscriptions
        )
        self._stopping = False
        self._written_off: set[str] = set()
        """The connections that `stop` ends, all of a session in one transaction."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._background: list[asyncio.Task[None]] = []

    @property
    def process_id(self) -> UUID:
        return self._membership.process_id

    def check_lease(self) -> None:
        """Raises Unavailable if its lease was not renewed in time: the database does not answer, and others
        might end what were attached now."""
        if not self._membership.holds(self.process_id):
            raise Unavailable

    # What its membership asks

    def load(self) -> int:
        return len(self.clients)

    def renewed(self, confirmed_at: float) -> None:
        pass

    async def lost(self, reason: str) -> None:
        for client in list(self.clients.values()):
            await client.end("gateway_lost", farewell("gateway_lost"))

    # Starting and stopping

    async def start(self) -> None:
        """Registers, and begins to listen and to reconcile."""
        await self._membership.join()
        jobs = {
            "lease": self._membership.keep(),
            "reaper": self._reaper.watch(),
            "layer": self._subscriptions.listen(),
            "reconcile": self._reconcile_for_ever(),
            # Apart, since a layer that hangs must not make deliveries wait.
            "subscriptions": self._renew_subscriptions_for_ever(),
            "probe": self.services.wakeups.probe_for_ever(),
        }
        self._background = [asyncio.create_task(job, name=f"gateway {name}") for name, job in jobs.items()]

    def _asked_to_drain(self) -> None:
        """An operator wants this process to end."""
        if not self._stopping:
            self._stopping = True
            end_this_process()

    async def stop(self, reason: str) -> None:
        """Tells its clients to go elsewhere, and writes their connections off itself: daphne may call no
        disconnect handler when it stops."""
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
                # Each takes about a round trip; together they keep the database's threads busy.
                await asyncio.gather(*(self._write_off(*attached, reason) for attached in cursors.items()))
        except (Unavailable, TimeoutError):
            # The others do it when this process is gone: at once if it can say so, else LEASE_TTL later.
            logger.warning("Stopped without writing all off", extra={"verb": "stopped_unheard"})
        await self._end_tasks()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_PATIENCE):
                await self._membership.leave()

    async def _write_off(self, session_id: UUID, cursors: dict[str, int], reason: str) -> None:
        change = await self.services.change(lifecycle.write_off, session_id, self.process_id, reason, cursors)
        await self.services.announce(change)

    async def _send_away(self, clients: list[Client]) -> None:
        """In batches, each client with a time of its own for coming back: the others get them one by one."""
        spread = len(clients) / RECONNECTS_PER_SECOND
        for first in range(0, len(clients), STOP_BATCH):
            for client in clients[first : first + STOP_BATCH]:
                seconds = round(random.uniform(0, spread), 2)
                client.notice(wire.notice("draining", reconnect_in=seconds))
                await client.end("draining", farewell("draining"))
            await asyncio.sleep(0)

    async def _end_tasks(self) -> None:
        """Ends the background; what was spawned (detaching) is given a moment to end by itself."""
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
        """Runs something that no client waits for; its failure is logged."""
        task = asyncio.create_task(job, name=f"gateway {name}")
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("%s failed", task.get_name(), exc_info=error, extra={"verb": "task_failed"})

    # Connections

    def accept(self, socket: Socket) -> Client:
        """The handler of a new socket."""
        return Client(self, socket)

    def engine_settings(self, scope: Mapping[str, Any]) -> EngineSettings:
        user = scope.get("user")
        most = conf.MAX_ACTION_BYTES + FRAME_SLACK
        # Strangers who need a token first have nothing large to say before.
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
        """Ends a connection's row in a task of the process, however long the database is away."""
        if client.sid in self._written_off:
            return
        job = self._detach(client.sid, client.session_id, reason, client.cursor)
        self.spawn(job, f"detach {client.sid}")

    async def _detach(self, sid: str, session_id: UUID | None, reason: str, cursor: int) -> None:
        change = await self.services.change_patiently(lifecycle.detach, sid, reason, sent_number=cursor)
        await self.services.announce(change)
        if session_id is not None:
            await self.services.wakeups.presence(session_id)

    @asynccontextmanager
    async def pump(self, session_id: UUID) -> AsyncIterator[Pump]:
        """The pump of a session, subscribed before anything is read for it; to add a connection to it."""
        pump = self._pumps.get(session_id)
        if pump is None:
            pump = self._pumps[session_id] = Pump(self.services, session_id)
        pump.expected += 1
        try:
            is_new = session_id not in self._subscriptions
            is_new = is_new and await self._subscriptions.try_subscribe(session_id)
            yield pump
            if is_new:
                # What was stored after the attach and before the subscription; no client waits for it.
                self.spawn(self._reconciliation.logs([session_id]), f"look at {session_id}")
        finally:
            pump.expected -= 1
            self._drop_unused(pump)

    def leave_pump(self, pump: Pump, client: Client) -> None:
        pump.remove(client)
        self._drop_unused(pump)

    def _drop_unused(self, pump: Pump) -> None:
        """Its subscription ends when the next reconciliation finds that nobody wants it."""
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
            if not switches.is_on("reconcile"):
                continue
            try:
                await self._reconciliation.logs(list(self._pumps))
                if not self._written_off:  # else what stop() ends would be taken for lost, without its cursor
                    await self._reconciliation.connections()
                await self._reconciliation.logins()
            except Unavailable:
                continue
            except Exception:
                extra = {"verb": "reconcile_failed"}
                logger.exception("Reconciling failed; the next time goes on", extra=extra)
