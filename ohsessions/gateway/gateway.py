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
from ohsessions.concurrency.tasks import Group, attempt
from ohsessions.conf import conf
from ohsessions.core import wire
from ohsessions.core.errors import Unavailable
from ohsessions.gateway.client import Client
from ohsessions.gateway.github_check import GitHubCheck
from ohsessions.gateway.guests import SMALL, Guests
from ohsessions.gateway.pump import Pump
from ohsessions.gateway.reconciliation import Reconciliation
from ohsessions.gateway.subscriptions import Subscriptions
from ohsessions.models import Process
from ohsessions.processes.ending import ending
from ohsessions.processes.membership import Membership
from ohsessions.processes.reaper import Reaper
from ohsessions.processes.store import Store
from ohsessions.socketio import EngineSettings, Socket

logger = logging.getLogger(__name__)

RECONCILE_EVERY = 1.5
STOP_BATCH = 100
"""The number of clients that a stop ends at a time."""
RECONNECTS_PER_SECOND = 200.0
"""The rate at which clients reconnect elsewhere after a stop."""
WRITE_OFF_LIMIT = 10.0
"""Seconds that a stopping gateway has to end its connections in the database."""
STOP_PATIENCE = 2.0
"""Seconds that a stopping gateway waits for its running tasks, and for the end of its membership."""
FRAME_SLACK = 1024 * 1024
"""Bytes that the engine accepts beyond MAX_ACTION_BYTES, so that a slightly larger action gets an error."""


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
        self._tasks = Group("gateway", ending.fail)

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
            await client.end("gateway_lost")

    # Starting and stopping

    async def start(self) -> None:
        """Register the process, then start to listen and to reconcile."""
        await self._membership.join()
        keep = self._tasks.keep
        keep(self._membership.keep(), "lease")
        keep(self._reaper.look_for_ever(), "reaper looks")
        keep(self._reaper.take_over_for_ever(), "reaper takes over")
        keep(self._subscriptions.listen(), "layer")
        keep(self._reconcile_for_ever(), "reconcile")
        # A task of its own, since a layer that hangs must not delay deliveries.
        keep(self._renew_subscriptions_for_ever(), "subscriptions")
        keep(self.store.wakeups.probe_for_ever(), "probe")

    def _asked_to_drain(self) -> None:
        """End this process, since an operator asked for it."""
        if not self._stopping:
            self._stopping = True
            ending.begin()

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
        await attempt(self._write_off(cursors, reason), "Ending the connections in the database")
        # The detaches of connections that have just ended are among the spawned tasks.
        await self._tasks.stop(STOP_PATIENCE)
        await self._subscriptions.end()
        self.github.end()
        await attempt(self._leave(), "Ending the lease")

    async def _send_away(self, clients: list[Client]) -> None:
        """End the clients in batches. Each gets a random time to reconnect, so they return one by one."""
        spread = len(clients) / RECONNECTS_PER_SECOND
        for first in range(0, len(clients), STOP_BATCH):
            for client in clients[first : first + STOP_BATCH]:
                seconds = round(random.uniform(0, spread), 2)
                await attempt(self._dismiss(client, seconds), f"Ending connection {client.sid[:8]}")
            await asyncio.sleep(0)

    @staticmethod
    async def _dismiss(client: Client, reconnect_in: float) -> None:
        client.notice(wire.notice("draining", reconnect_in=reconnect_in))
        await client.end("draining")

    async def _write_off(self, cursors: Mapping[UUID, dict[str, int]], reason: str) -> None:
        """End all connections in the database.

        Other processes end the rest: at once if this process can still end its lease, otherwise after
        LEASE_TTL.
        """
        try:
            self.check_lease()
            async with asyncio.timeout(WRITE_OFF_LIMIT):
                await self._membership.begin_drain()
                # Each takes about one round trip. Run together, they keep the database's threads busy.
                change, own_id = self.store.change, self.process_id
                jobs = [
                    change(lifecycle.write_off, key, own_id, reason, sent) for key, sent in cursors.items()
                ]
                outcomes = await asyncio.gather(*jobs, return_exceptions=True)
        except (Unavailable, TimeoutError):
            message = "The gateway stopped, but other processes must end its connections in the database"
            logger.warning(message, extra={"verb": "stopped_unheard"})
            return
        for error in (outcome for outcome in outcomes if isinstance(outcome, Exception)):
            logger.warning("The connections of a session were not ended in the database: %r", error)

    async def _leave(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_PATIENCE):
                await self._membership.leave()

    def spawn(self, job: Coroutine[Any, Any, Any], name: str) -> None:
        """Run a job that no client waits for, in a task. Its failure is logged."""
        self._tasks.spawn(job, name)

    # Connections

    def accept(self, socket: Socket) -> Client:
        """Return the handler of a new socket."""
        return Client(self, socket)

    def engine_settings(self, scope: Mapping[str, Any]) -> EngineSettings:
        user = scope.get("user")
        most = conf.MAX_ACTION_BYTES + FRAME_SLACK
        # Before they are attached, strangers that need a token have nothing large to send.
        first = most if conf.ALLOW_ANONYMOUS else min(SMALL, most)
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
        await self.store.change_patiently(lifecycle.detach, sid, reason, sent_number=cursor)
        if session_id is not None:
            self.store.announce_presence(session_id)

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
                logger.exception("The reconciliation failed, and is tried again", extra=extra)

    async def _reconcile(self) -> None:
        await self._reconciliation.logs(list(self._pumps))
        # stop() ends its connections itself, with their cursors. Here they would look lost.
        if not self._written_off:
            await self._reconciliation.connections()
        await self._reconciliation.logins()
