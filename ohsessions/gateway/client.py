"""One client: its requests and their answers. The handler of a Socket.IO socket.

Its calls come one at a time, in the order in which the client sent them. So actions keep their order, and
they wait for an INIT before them. Errors are sent to this client only.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from typing import Any, Protocol
from uuid import UUID

from ohsessions import lifecycle
from ohsessions.conf import conf
from ohsessions.core import phases, wire
from ohsessions.core.errors import WireError
from ohsessions.core.runtime import JSON
from ohsessions.gateway import refusals
from ohsessions.gateway.attachment import MOVES, Attachment, ClientPhase
from ohsessions.gateway.github_check import GitHubCheck
from ohsessions.gateway.guests import HELD_SECONDS, Guests
from ohsessions.gateway.handshake import read_handshake
from ohsessions.gateway.held import Held, HeldAction
from ohsessions.gateway.pump import Pump
from ohsessions.gateway.visitor import Visitor
from ohsessions.lifecycle import Attached
from ohsessions.processes.store import Store
from ohsessions.socketio import LARGE_TEXT, Ack, MalformedEvent, Socket

UNATTACHED_SECONDS = 30.0
"""Seconds that a client may stay connected before its first attach."""


class GatewayPort(Protocol):
    """The gateway of a client, as far as the client uses it; see ohsessions.gateway.gateway."""

    store: Store
    guests: Guests
    github: GitHubCheck
    clients: dict[str, Client]

    @property
    def process_id(self) -> UUID: ...

    def check_lease(self) -> None: ...

    def spawn(self, job: Coroutine[Any, Any, Any], name: str) -> None: ...

    def detach_later(self, client: Client, reason: str) -> None: ...

    def pump(self, session_id: UUID) -> AbstractAsyncContextManager[Pump]: ...

    def leave_pump(self, pump: Pump, client: Client) -> None: ...


class Client:
    """See ohsessions.socketio.Handler; and ohsessions.gateway.pump.Outlet."""

    def __init__(self, gateway: GatewayPort, socket: Socket) -> None:
        self.socket = socket
        self.sid = socket.sid
        self.cursor, self.batch = -1, False
        self.visitor = Visitor(socket)
        self.phase = ClientPhase.NEW
        """Only _move() changes it."""
        self.attachment: Attachment | None = None
        """None unless the client is attached, or was attached before the change that is under way."""
        self.generation = 0
        """Raised by each attach and each detach: see Outlet."""
        self._gateway = gateway
        self._store = gateway.store
        self._guest = gateway.guests.of(socket)
        self._held = Held(self._guest)
        self._timers: dict[str, asyncio.TimerHandle] = {}

    @property
    def session_id(self) -> UUID | None:
        return None if self.attachment is None else self.attachment.session_id

    def _move(self, phase: ClientPhase) -> None:
        """Change the phase. No other code does so. Raises IllegalMove."""
        self.phase = phases.move(MOVES, self.phase, phase)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Be CHANGING inside the block, and afterwards in the phase that fits the attachment."""
        without = ClientPhase.NEW if self.phase is ClientPhase.NEW else ClientPhase.DETACHED
        self._move(ClientPhase.CHANGING)
        try:
            yield
        finally:
            self._move(without if self.attachment is None else ClientPhase.ATTACHED)

    # Called by the pump

    @property
    def writable(self) -> bool:
        return self.socket.writable

    @property
    def closed(self) -> bool:
        return self.socket.closed

    async def wait_writable(self) -> None:
        await self.socket.wait_writable()

    def send_packet(self, packet: str) -> None:
        self.socket.send_text(packet)

    def notice(self, notice: dict[str, JSON]) -> None:
        self.socket.emit("oh_notice", notice)

    def start_anew(self, first: int, head: int) -> None:
        self.cursor = first - 1
        again = {"head": head, "reset": True, "first_event_id": first}
        self.socket.emit("oh_event", self._attached_now().answer | again)

    # Called by the socket's dispatcher

    async def connect(self, auth: object) -> None:
        self._gateway.clients[self.sid] = self
        self._after(UNATTACHED_SECONDS, "unattached", self._end_unattached)
        try:
            self._guest.check_connections()
            wanted = read_handshake(self.socket.scope, auth)
            if wanted is not None:
                await self._initialize(wanted.init, None, wanted.session_id)
        except Exception as error:
            refusals.refuse_connect(self.socket, error)

    async def event(self, name: str, args: list[Any], ack: Ack | None) -> None:
        try:
            if name not in wire.ACTION_EVENTS:
                raise wire.malformed(f"There is no event {name[:64]!r}: send oh_action.")
            request = await self._parse(args, self.socket.event_size)
            if self.attachment is None and not isinstance(request, wire.Init):
                data = wire.encode(args[0]).encode()
                await self._hold(HeldAction(data, refusals.client_id_of(args[0]), ack))
            else:
                await self._take(request, ack)
        except Exception as error:
            refusals.refuse(self.socket, error, ack, refusals.client_id_of(args[0] if args else None))

    async def _parse(self, args: list[Any], size: int) -> wire.Request:
        """Read an action of `size` characters, in a thread if it is large. Raises WireError 400 or 413."""
        parse = partial(wire.parse_request, args, max_bytes=conf.MAX_ACTION_BYTES)
        return await asyncio.to_thread(parse) if size > LARGE_TEXT else parse()

    async def malformed(self, problem: MalformedEvent, ack: Ack | None) -> None:
        code = 413 if problem.reason == "too_large" else 400
        refusals.refuse(self.socket, WireError(code, problem.reason, problem.message), ack)

    async def refused(self, error: Exception, ack: Ack | None) -> None:
        refusals.refuse(self.socket, error, ack)

    async def disconnect(self, reason: str) -> None:
        self._gateway.clients.pop(self.sid, None)
        for timer in self._timers.values():
            timer.cancel()
        self._held.take_all()
        if self.phase is not ClientPhase.NEW:
            self._gateway.detach_later(self, reason)
            self.forget_session()

    # Requests

    async def _take(self, request: wire.Request, ack: Ack | None) -> None:
        match request:
            case wire.Init():
                await self._initialize(request, ack)
                await self._take_held()
            case wire.Act():
                await self._act(request, ack)
            case wire.Leave():
                await self._leave(ack)
            case wire.Close():
                await self._close(ack)

    async def _initialize(self, init: wire.Init, ack: Ack | None, wanted: UUID | None = None) -> None:
        attach: Callable[..., Attached] = lifecycle.open_session
        if init.token or wanted:
            attach = partial(lifecycle.attach, session_id=wanted)
        self._guest.check_init(is_new=attach is lifecycle.open_session)
        with self._changing():
            self._gateway.check_lease()
            await self._gateway.github.check(self.visitor.user, init)
            arrival = self.visitor.describe(self._gateway.process_id)
            attached = await self._store.change_soon(attach, arrival, init)
            async with self._gateway.pump(attached.change.session_id) as pump:
                self._attach(init, attached, pump, ack)
        for change in filter(None, (attached.left, attached.change)):
            self._store.announce_presence(change.session_id)

    def _attach(self, init: wire.Init, attached: Attached, pump: Pump, ack: Ack | None) -> None:
        """Move from the old session to the new one in one step, so no old event follows the answer."""
        self.forget_session()
        self.attachment = Attachment.of(attached, pump, self.visitor.author(attached.token))
        self._guest.attach()
        self.batch = init.batch
        self.cursor = attached.first_number - 1 if attached.resets else init.cursor
        self._cancel("unattached")
        self.socket.lift_limit()
        self.socket.emit("oh_event", self.attachment.answer)
        change = attached.change
        if ack is not None:
            ack({"status": "ok", "session_id": str(change.session_id), "token": attached.token})
        pump.secrecy.notice(change.secrets_version)
        pump.know_state(change.state, change.reason, change.title)
        pump.add(self, change.head)

    def _attached_now(self) -> Attachment:
        """Return the attachment. Raises WireError 409 if the client has none any more."""
        if self.attachment is None:
            raise refusals.not_attached("The connection has left its session.")
        return self.attachment

    async def _act(self, act: wire.Act, ack: Ack | None) -> None:
        attachment = self._attached_now()
        self.visitor.check_may_act(attachment.role, act.type)
        done = await attachment.append(self._store, self.sid, act)
        if ack is not None:
            ack({"status": "ok", "id": done.numbers[0]})

    async def _leave(self, ack: Ack | None) -> None:
        session_id = self._attached_now().session_id
        with self._changing():
            await self._store.change_soon(lifecycle.detach, self.sid, "left", leave=True)
            self.forget_session()
        if ack is not None:
            ack({"status": "ok"})
        self._store.announce_presence(session_id)

    async def _close(self, ack: Ack | None) -> None:
        attachment = self._attached_now()
        own = self.visitor.user, attachment.role, attachment.session_id
        await self._store.change_soon(lifecycle.close_for, *own)
        if ack is not None:
            ack({"status": "ok"})

    # Actions that came before INIT

    async def _hold(self, action: HeldAction) -> None:
        """Keep an action until INIT. Raises WireError 409, 429, or 401 if the INIT will need a token."""
        await self.visitor.check_may_start(self._store)
        self._held.put(action)
        if len(self._held) == 1:
            self._after(HELD_SECONDS, "held", self._refuse_held)

    async def _take_held(self) -> None:
        self._cancel("held")
        for action in self._held.take_all():
            try:
                request = await self._parse([json.loads(action.data)], len(action.data))
                await self._take(request, action.ack)
            except Exception as error:
                refusals.refuse(self.socket, error, action.ack, action.client_id)

    def _refuse_held(self) -> None:
        for action in self._held.take_all():
            error = refusals.not_attached("No INIT came before this action.")
            refusals.refuse(self.socket, error, action.ack, action.client_id)

    # The end

    async def end(self, reason: str, message: str = "") -> None:
        """End the connection and send the reason in a notice. See refusals.say_farewell()."""
        self.forget_session()
        refusals.say_farewell(self.socket, reason, message)
        await self.socket.disconnect(reason, reconnect=reason not in refusals.STAY_AWAY)

    def forget_session(self) -> None:
        """Detach from the pump: nothing of the session is sent to this client any more."""
        self.generation += 1
        self._guest.detach()
        left, self.attachment = self.attachment, None
        if self.phase is ClientPhase.ATTACHED:
            self._move(ClientPhase.DETACHED)
        if left is not None:
            self._gateway.leave_pump(left.pump, self)

    # Timers

    def _after(self, seconds: float, name: str, function: Callable[[], None]) -> None:
        self._timers[name] = asyncio.get_running_loop().call_later(seconds, function)

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _end_unattached(self) -> None:
        if self.phase is ClientPhase.CHANGING:
            self._after(1.0, "unattached", self._end_unattached)
            return
        message = f"No INIT came within {UNATTACHED_SECONDS:.0f} s."
        self._gateway.spawn(self.end("unattached", message), "unattached")
