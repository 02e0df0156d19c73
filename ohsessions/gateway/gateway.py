"""A gateway: the connections of one process, and the pumps that feed them.

Its tasks hear what the channel layer brings, and reconcile: every RECONCILE_EVERY seconds one query says how
far each session's log is, another one which connections the database counts as ours. What differs is put
right in both directions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any
from uuid import UUID

from channels.layers import get_channel_layer

from ohsessions import journal, leases, lifecycle
from ohsessions.conf import conf
from ohsessions.core import wire
from ohsessions.core.errors import Unavailable, WireError
from ohsessions.core.states import State
from ohsessions.database import database_now
from ohsessions.gateway.client import Client
from ohsessions.gateway.pump import Pump
from ohsessions.membership import Membership, Reaper
from ohsessions.models import Process
from ohsessions.services import Services
from ohsessions.socketio import EngineSettings, Socket
from ohsessions.wakeups import session_group

logger = logging.getLogger(__name__)

RECONCILE_EVERY = 1.5
LAYER_PAUSE = 1.0
"""Seconds before listening to a layer that failed again."""
FRAME_SLACK = 1024 * 1024
"""Bytes that the engine takes beyond MAX_ACTION_BYTES, so that who sends somewhat too much is told so."""

END_MESSAGES = {
    "operator": "An operator put this session to sleep.",
    "revoked": "The link to this session was revoked.",
    "gateway_lost": "The server lost track of this connection. Connect again.",
    "draining": "This server is stopping. Connect again.",
}


class Gateway:
    """One gateway process. `start` it in the event loop; `stop` writes its connections off."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.clients: dict[str, Client] = {}
        self._pumps: dict[UUID, Pump] = {}
        self._membership = Membership(services, Process.Kind.GATEWAY, self)
        self._reaper = Reaper(services, lambda: self.process_id)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._background: list[asyncio.Task[None]] = []
        self._presence: set[UUID] = set()
        self._starved: set[UUID] = set()
        self._channel: str | None = None
        self._layer: Any = get_channel_layer()

    @property
    def process_id(self) -> UUID:
        return self._membership.process_id

    # What its membership asks

    def load(self) -> int:
        return len(self.clients)

    def renewed(self) -> None:
        pass

    async def lost(self, reason: str) -> None:
        for client in list(self.clients.values()):
            client.forget_session()
            await client.end("gateway_lost", END_MESSAGES["gateway_lost"])

    # Starting and stopping

    async def start(self) -> None:
        """Registers, and begins to listen and to reconcile."""
        await self._membership.join()
        jobs = {
            "lease": self._membership.keep(),
            "reaper": self._reaper.watch(),
            "layer": self._listen_for_ever(),
            "reconcile": self._reconcile_for_ever(),
        }
        self._background = [asyncio.create_task(job, name=f"gateway {name}") for name, job in jobs.items()]

    async def stop(self, reason: str) -> None:
        """Tells its clients to go elsewhere, and writes their connections off itself: daphne may call no
        disconnect handler when it stops."""
        await self.services.change(leases.begin_drain, self.process_id)
        clients = list(self.clients.values())
        attached = [client.sid for client in clients if client.session_id is not None]
        for client in clients:
            client.forget_session()
            await client.end("draining", END_MESSAGES["draining"])
        for sid in attached:
            await self.services.announce(await self.services.change(lifecycle.detach, sid, reason))
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, *self._tasks, return_exceptions=True)
        await self._membership.leave()

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

    def engine_settings(self) -> EngineSettings:
        return EngineSettings(
            ping_interval=conf.PING_INTERVAL,
            ping_timeout=conf.PING_TIMEOUT,
            max_payload=conf.MAX_ACTION_BYTES + FRAME_SLACK,
            barrier_timeout=conf.SLOW_TIMEOUT,
        )

    def detach_later(self, client: Client, reason: str) -> None:
        """Detaches a connection in a task of the process, however long the database is away."""
        assert client.session_id is not None
        job = self._detach(client.sid, client.session_id, reason, client.cursor)
        self.spawn(job, f"detach {client.sid}")

    async def _detach(self, sid: str, session_id: UUID, reason: str, cursor: int) -> None:
        change = await self.services.change_patiently(lifecycle.detach, sid, reason, sent_number=cursor)
        await self.services.announce(change)
        await self.services.wakeups.presence(session_id)

    async def pump(self, session_id: UUID) -> Pump:
        """The pump of a session, subscribed before anything is read for it. `add` a connection to it."""
        pump = self._pumps.get(session_id)
        if pump is None:
            pump = self._pumps[session_id] = Pump(self.services, session_id)
        pump.expected += 1
        try:
            if not pump.subscribed:
                await self._subscribe(session_id)
                pump.subscribed = True
        except BaseException:
            pump.expected -= 1
            raise
        return pump

    def leave_pump(self, pump: Pump, client: Client) -> None:
        pump.remove(client)
        if not pump.outlets and not pump.expected and self._pumps.get(pump.session_id) is pump:
            del self._pumps[pump.session_id]
            self.spawn(self._unsubscribe(pump.session_id), f"unsubscribe {pump.session_id}")

    # The channel layer

    async def _subscribe(self, session_id: UUID) -> None:
        """Group membership belongs to the process. Without a layer, reconciliation delivers."""
        if self._channel is None:
            return
        try:
            await self._layer.group_add(session_group(session_id), self._channel)
        except Exception as error:
            logger.debug("No subscription to %s: %r", session_id, error)

    async def _unsubscribe(self, session_id: UUID) -> None:
        if self._channel is None or session_id in self._pumps:
            return
        try:
            await self._layer.group_discard(session_group(session_id), self._channel)
        except Exception as error:
            logger.debug("Still subscribed to %s: %r", session_id, error)

    async def _listen_for_ever(self) -> None:
        while True:
            try:
                self._channel = await self._layer.new_channel("ohsessions.gateway.")
                for session_id in list(self._pumps):
                    await self._subscribe(session_id)
                while True:
                    self._hear(await self._layer.receive(self._channel))
            except Exception as error:
                logger.debug("The channel layer: %r", error)
                await asyncio.sleep(LAYER_PAUSE)

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
                self._tell_presence(pump)
            case "session.notice":
                pump.notice(message["notice"])
            case "session.error":
                pump.send(wire.event_packet(wire.encode(message["payload"])))
            case "session.ended":
                self.spawn(self._end_ended(list(pump.outlets)), "end connections")

    def _tell_presence(self, pump: Pump) -> None:
        """Counts once for all the comings and goings that gather while it counts."""
        if pump.session_id not in self._presence:
            self._presence.add(pump.session_id)
            self.spawn(self._count_presence(pump), f"presence {pump.session_id}")

    async def _count_presence(self, pump: Pump) -> None:
        await asyncio.sleep(0.05)
        self._presence.discard(pump.session_id)
        read = self.services.read_patiently
        connections, users = await read(lifecycle.presence, pump.session_id)
        pump.notice(wire.notice("presence", connections=connections, users=users))

    # Reconciliation

    async def _reconcile_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RECONCILE_EVERY)
            try:
                await self._reconcile_logs()
                await self._reconcile_connections()
            except Unavailable:
                continue
            except Exception:
                extra = {"verb": "reconcile_failed"}
                logger.exception("Reconciling failed; the next time goes on", extra=extra)

    async def _reconcile_logs(self) -> None:
        if not self._pumps:
            return
        heads, now = await self.services.database.read(_heads, list(self._pumps))
        for session_id, head in heads.items():
            pump = self._pumps.get(session_id)
            if pump is None:
                continue
            pump.reconcile(head)
            waits = head.state == State.STARTING and head.worker is None
            if not waits:
                self._starved.discard(session_id)
            elif (
                session_id not in self._starved and (now - head.state_at).total_seconds() > conf.START_TIMEOUT
            ):
                self._starved.add(session_id)
                message = "No worker takes this session. It starts as soon as one does."
                pump.send(
                    wire.event_packet(wire.encode(wire.error_event(WireError(503, "no_worker", message))))
                )

    async def _reconcile_connections(self) -> None:
        ours = {
            client.sid: client
            for client in self.clients.values()
            if client.session_id is not None and not client.attaching
        }
        rows = await self.services.database.read(lifecycle.open_connections, self.process_id)
        lost = [client for sid, client in ours.items() if sid not in rows and not client.attaching]
        await self._end_ended(lost)
        for sid, session_id in rows.items():
            if sid not in self.clients:
                await self._detach(sid, session_id, "gone", -1)

    async def _end_ended(self, clients: list[Any]) -> None:
        """Ends those of these clients whose connection was ended in the database."""
        reasons = await self.services.read_patiently(
            lifecycle.end_reasons, [client.sid for client in clients]
        )
        for client in clients:
            reason = reasons.get(client.sid)
            if reason is None or client.attaching:
                continue
            client.forget_session()
            await client.end(reason, END_MESSAGES.get(reason, "The server ended this connection."))


def _heads(session_ids: list[UUID]) -> Any:
    return journal.heads(session_ids), database_now()
