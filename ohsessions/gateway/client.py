"""One client: what it asks, and what it is answered. The handler of a Socket.IO socket.

Its calls come one at a time, in the order in which the client sent them, so actions keep their order and an
INIT holds up what comes after it. Whatever goes wrong is answered to this client and to nobody else.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.contrib.auth.models import AnonymousUser

from ohsessions import lifecycle
from ohsessions.access import Role
from ohsessions.conf import conf
from ohsessions.core import wire
from ohsessions.core.errors import ProcessGone, Unavailable, WireError
from ohsessions.core.runtime import JSON
from ohsessions.gateway.pump import Pump
from ohsessions.journal import Append, NewEvent
from ohsessions.lifecycle import Attached
from ohsessions.socketio import Ack, MalformedEvent, Socket

if TYPE_CHECKING:
    from ohsessions.gateway.gateway import Gateway

logger = logging.getLogger(__name__)

HELD_ACTIONS = 100
HELD_SECONDS = 10.0
"""How many actions may wait for INIT, and how long."""
UNATTACHED_SECONDS = 30.0
"""How long a client may stay connected without an INIT."""


class Client:
    """See ohsessions.socketio.Handler; and ohsessions.gateway.pump.Outlet."""

    def __init__(self, gateway: Gateway, socket: Socket) -> None:
        self.socket = socket
        self.sid = socket.sid
        self.session_id: UUID | None = None
        self.cursor = -1
        self.generation = 0
        self.batch = False
        self.attaching = False
        self._gateway = gateway
        self._services = gateway.services
        self._user: Any = socket.scope.get("user") or AnonymousUser()
        self._connected_at = datetime.now(UTC)
        self._role = Role.VIEWER
        self._author = ""
        self._pump: Pump | None = None
        self._held: list[tuple[wire.Request, Ack | None]] = []
        self._held_characters = 0
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # What its pump asks

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

    # What its socket asks

    async def connect(self, auth: object) -> None:
        self._gateway.clients[self.sid] = self
        self._after(UNATTACHED_SECONDS, "unattached", self._end_unattached)

    async def event(self, name: str, args: list[Any], ack: Ack | None) -> None:
        try:
            if name not in wire.ACTION_EVENTS:
                raise wire.malformed(f"There is no event {name[:64]!r}: send oh_action.")
            request = wire.parse_request(args, max_bytes=conf.MAX_ACTION_BYTES)
            await self._take(request, args, ack)
        except Exception as error:
            self._refuse(error, ack)

    async def malformed(self, problem: MalformedEvent, ack: Ack | None) -> None:
        self._refuse(WireError(400, problem.reason, problem.message), ack)

    async def disconnect(self, reason: str) -> None:
        self._gateway.clients.pop(self.sid, None)
        for timer in self._timers.values():
            timer.cancel()
        self._held.clear()
        if self.session_id is not None:
            self._gateway.detach_later(self, reason)
            self.forget_session()

    # Requests

    async def _take(self, request: wire.Request, args: list[Any], ack: Ack | None) -> None:
        if isinstance(request, wire.Init):
            await self._initialize(request, ack)
            await self._take_held()
        elif self.session_id is None:
            self._hold(request, len(wire.encode(args[0])), ack)
        elif isinstance(request, wire.Act):
            await self._act(request, ack)
        elif isinstance(request, wire.Leave):
            await self._leave(ack)
        else:
            await self._close(ack)

    async def _initialize(self, init: wire.Init, ack: Ack | None) -> None:
        self.attaching = True
        try:
            attach = lifecycle.attach if init.token else lifecycle.open_session
            described = self._describe()
            attached = await self._services.change(attach, described, init, leaving=self.session_id)
            pump = await self._gateway.pump(attached.change.session_id)
        finally:
            self.attaching = False
        self._attached(init, attached, pump, ack)
        await self._services.announce(attached.left, attached.change)
        for change in filter(None, (attached.left, attached.change)):
            await self._services.wakeups.presence(change.session_id)

    def _attached(self, init: wire.Init, attached: Attached, pump: Pump, ack: Ack | None) -> None:
        """From the old session to the new one in one step: nothing of the old comes after the answer."""
        change = attached.change
        self.forget_session()
        self.generation += 1
        self.session_id, self._pump, self._role = change.session_id, pump, attached.role
        self._author = self._author_of(attached.token)
        self.batch = init.batch
        self.cursor, first = init.cursor, None
        if init.cursor > change.head or init.cursor + 1 < attached.first_number:
            first = attached.first_number
            self.cursor = first - 1
        self._cancel("unattached")
        self.socket.emit(
            "oh_event",
            wire.first_answer(
                token=attached.token,
                session_id=str(change.session_id),
                state=change.state,
                role=attached.role.value,
                head=change.head,
                first_event_id=first,
            ),
        )
        if ack is not None:
            ack({"status": "ok", "session_id": str(change.session_id), "token": attached.token})
        pump.add(self, change.head)

    def _author_of(self, token: str) -> str:
        """Under whom a client_id is unique: the user, or for strangers the token."""
        if self._user.is_authenticated:
            return f"u{self._user.pk}"
        return "t" + hashlib.sha256(token.encode()).hexdigest()[:16]

    async def _act(self, act: wire.Act, ack: Ack | None) -> None:
        if not self._role.may_act:
            message = "You may watch this session, not act in it."
            raise WireError(403, "role", message, **_named(act.client_id))
        key = {"write_key": f"c:{self._author}:{act.client_id}"} if act.client_id else {}
        event = NewEvent("user", act.type, act.body, hidden=act.hidden, waits=not act.is_interrupt, **key)
        assert self.session_id is not None
        try:
            done = await self._services.append(Append(self.session_id, [event], sid=self.sid))
        except WireError as error:
            error.extra.update(_named(act.client_id))
            raise
        if ack is not None:
            ack({"status": "ok", "id": done.numbers[0]})

    async def _leave(self, ack: Ack | None) -> None:
        session_id = self.session_id
        assert session_id is not None
        change = await self._services.change(lifecycle.detach, self.sid, "left", leave=True)
        self.forget_session()
        if ack is not None:
            ack({"status": "ok"})
        await self._services.announce(change)
        await self._services.wakeups.presence(session_id)

    async def _close(self, ack: Ack | None) -> None:
        if not self._role.may_close:
            raise WireError(403, "role", "Only its owner may close a session.")
        assert self.session_id is not None
        by = self._user.get_username() or "its owner"
        change = await self._services.change(lifecycle.close, self.session_id, by=by)
        if ack is not None:
            ack({"status": "ok"})
        await self._services.announce(change)

    # Actions that came before INIT

    def _hold(self, request: wire.Request, size: int, ack: Ack | None) -> None:
        too_many = len(self._held) >= HELD_ACTIONS
        if too_many or self._held_characters + size > conf.MAX_ACTION_BYTES:
            raise _not_attached(request, "Too many actions are waiting for INIT.")
        self._held.append((request, ack))
        self._held_characters += size
        if len(self._held) == 1:
            self._after(HELD_SECONDS, "held", self._refuse_held)

    async def _take_held(self) -> None:
        held = self._drop_held()
        for request, ack in held:
            try:
                if self.session_id is None:
                    raise _not_attached(request)
                await self._take(request, [], ack)
            except Exception as error:
                self._refuse(error, ack)

    def _refuse_held(self) -> None:
        for request, ack in self._drop_held():
            self._refuse(_not_attached(request), ack)

    def _drop_held(self) -> list[tuple[wire.Request, Ack | None]]:
        held, self._held, self._held_characters = self._held, [], 0
        self._cancel("held")
        return held

    # Answers

    def _refuse(self, error: Exception, ack: Ack | None) -> None:
        """Says what is wrong, by acknowledgement if one was asked for."""
        refusal = self._translate(error)
        if ack is not None:
            ack(wire.error_ack(refusal))
        else:
            self.socket.emit("oh_event", wire.error_event(refusal))

    def _translate(self, error: Exception) -> WireError:
        if isinstance(error, WireError) and error.code != 500:
            return error
        if isinstance(error, ProcessGone):
            return Unavailable()
        reference = secrets.token_hex(4)
        extra = {"verb": "internal_error"}
        logger.error("Internal error %s of connection %s", reference, self.sid, exc_info=error, extra=extra)
        return WireError(500, "internal", f"Something went wrong here. Its reference is {reference}.")

    async def end(self, reason: str, message: str, *, reconnect: bool = True) -> None:
        """Ends the connection, saying why."""
        self.notice(wire.notice("disconnecting", reason=reason, message=message))
        await self.socket.disconnect(reason, reconnect=reconnect)

    def forget_session(self) -> None:
        """Nothing of its session is sent to it any more."""
        self.session_id = None
        if self._pump is not None:
            self._gateway.leave_pump(self._pump, self)
            self._pump = None

    # Timers

    def _after(self, seconds: float, name: str, function: Any) -> None:
        self._timers[name] = asyncio.get_running_loop().call_later(seconds, function)

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _end_unattached(self) -> None:
        message = f"No INIT came within {UNATTACHED_SECONDS:.0f} s."
        self._gateway.spawn(self.end("unattached", message, reconnect=False), "unattached")

    def _describe(self) -> lifecycle.Socket:
        scope = self.socket.scope
        headers = dict(scope.get("headers", []))
        return lifecycle.Socket(
            sid=self.sid,
            gateway=self._gateway.process_id,
            user=self._user,
            transport=self.socket.transport,
            address=str((scope.get("client") or [""])[0]),
            user_agent=headers.get(b"user-agent", b"").decode("latin-1"),
            connected_at=self._connected_at,
        )


def _not_attached(request: wire.Request, why: str = "No INIT came before this action.") -> WireError:
    client_id = request.client_id if isinstance(request, wire.Act) else None
    return WireError(409, "not_attached", f"{why} Send INIT first.", **_named(client_id))


def _named(client_id: str | None) -> dict[str, str]:
    return {"client_id": client_id} if client_id else {}
