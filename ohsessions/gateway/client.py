"""One client: its requests and their answers. The handler of a Socket.IO socket.

Its calls come one at a time, in the order in which the client sent them. So actions keep their order, and
they wait for an INIT before them. Errors are sent to this client only.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol
from uuid import UUID

from django.contrib.auth.models import AnonymousUser

from ohsessions import access, lifecycle
from ohsessions.access import Login, Role
from ohsessions.conf import conf
from ohsessions.core import wire
from ohsessions.core.errors import StaleSecrets, Unavailable, WireError
from ohsessions.core.runtime import JSON
from ohsessions.gateway.github_check import GitHubCheck
from ohsessions.gateway.guests import HELD_SECONDS, Guests
from ohsessions.gateway.handshake import describe, read_handshake
from ohsessions.gateway.held import Held, HeldAction
from ohsessions.gateway.pump import Pump
from ohsessions.gateway.refusals import client_id_of, not_attached, translate
from ohsessions.gateway.secrecy import Secrecy
from ohsessions.journal import Append, Appended, NewEvent
from ohsessions.lifecycle import Attached
from ohsessions.processes.store import Store
from ohsessions.socketio import LARGE_TEXT, Ack, ConnectionRefused, MalformedEvent, Socket

UNATTACHED_SECONDS = 30.0
"""Seconds that a client may stay connected before its first attach."""
MOST_TRIES = 5
"""Tries to store an action, if the session's secrets change during each try."""
LOGIN_TRUSTED = 1.0
"""Seconds for which a login is trusted after it was checked. A later INIT checks it again."""
HANDSHAKE_AT = "ohsessions.handshake_at"
"""The key in a scope of the time at which its login was checked, by time.monotonic()."""
STAY_AWAY = frozenset({"logged_out", "operator", "revoked", "unattached"})
"""Reasons for the end of a connection after which its client must not reconnect by itself."""


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
        self.session_id: UUID | None = None
        self.cursor = -1
        self.generation = 0
        self.has_row = False
        self.batch = False
        self.changing = False
        """True during an attach or detach: the values here may differ from the stored ones."""
        self._gateway = gateway
        self._store = gateway.store
        self._user: Any = socket.scope.get("user") or AnonymousUser()
        self.login = access.login_of(self._user, socket.scope.get("session"))
        """The login of the handshake; None for a stranger."""
        self.issued_to: Login | None = None
        """The login of another person, if the client is attached by a token that depends on it."""
        self.login_seen_at = socket.scope.get(HANDSHAKE_AT, -LOGIN_TRUSTED)
        self._policy = access.policy()
        self._connected_at = datetime.now(UTC)
        self._role = Role.VIEWER
        self._author = ""
        self._answer: dict[str, JSON] = {}
        self._pump: Pump | None = None
        self._guest = gateway.guests.of(socket)
        self._held = Held(self._guest)
        self._may_start = self._user.is_authenticated or conf.ALLOW_ANONYMOUS
        """False if the policy must still be asked whether the client may start sessions: see _hold()."""
        self._timers: dict[str, asyncio.TimerHandle] = {}

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
        self.socket.emit("oh_event", self._answer | again)

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
            refusal = translate(error, self.sid)
            fields = {"error_code": refusal.code, "reason": refusal.reason}
            if refusal.code != 503:
                raise ConnectionRefused(refusal.message, fields) from error
            # Clients do not try again after a refused CONNECT, but a 503 may pass by itself.
            self.notice(wire.notice("not_attached", **fields, message=refusal.message, **refusal.extra))

    async def event(self, name: str, args: list[Any], ack: Ack | None) -> None:
        try:
            if name not in wire.ACTION_EVENTS:
                raise wire.malformed(f"There is no event {name[:64]!r}: send oh_action.")
            request = await self._parse(args, self.socket.event_size)
            if self.session_id is None and not isinstance(request, wire.Init):
                data = wire.encode(args[0]).encode()
                await self._hold(HeldAction(data, client_id_of(args[0]), ack))
            else:
                await self._take(request, ack)
        except Exception as error:
            self._refuse(error, ack, client_id_of(args[0] if args else None))

    async def _parse(self, args: list[Any], size: int) -> wire.Request:
        """Read an action of `size` characters, in a thread if it is large. Raises WireError 400 or 413."""
        parse = partial(wire.parse_request, args, max_bytes=conf.MAX_ACTION_BYTES)
        return await asyncio.to_thread(parse) if size > LARGE_TEXT else parse()

    async def malformed(self, problem: MalformedEvent, ack: Ack | None) -> None:
        code = 413 if problem.reason == "too_large" else 400
        self._refuse(WireError(code, problem.reason, problem.message), ack)

    async def refused(self, error: Exception, ack: Ack | None) -> None:
        self._refuse(error, ack)

    async def disconnect(self, reason: str) -> None:
        self._gateway.clients.pop(self.sid, None)
        for timer in self._timers.values():
            timer.cancel()
        self._held.take_all()
        if self.has_row:
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
        self.changing = True
        try:
            self._gateway.check_lease()
            await self._gateway.github.check(self._user, init)
            here = self._describe()
            attached = await self._store.change_soon(attach, here, init)
            async with self._gateway.pump(attached.change.session_id) as pump:
                self._attached(init, attached, pump, ack)
        finally:
            self.changing = False
        for change in filter(None, (attached.left, attached.change)):
            self._store.announce_presence(change.session_id)

    def _describe(self) -> lifecycle.Arrival:
        is_doubted = time.monotonic() - self.login_seen_at > LOGIN_TRUSTED
        gateway, since = self._gateway.process_id, self._connected_at
        return describe(self.socket, self._user, gateway, since, login=self.login, is_doubted=is_doubted)

    def _attached(self, init: wire.Init, attached: Attached, pump: Pump, ack: Ack | None) -> None:
        """Move from the old session to the new one in one step, so no old event follows the answer."""
        change = attached.change
        self.forget_session()
        self.has_row = True
        self._guest.attach()
        self.session_id, self._pump, self._role = change.session_id, pump, attached.role
        self.issued_to = attached.issued_to
        self._author = self._author_of(attached.token)
        self.batch = init.batch
        self.cursor, first = init.cursor, None
        if attached.resets:
            first = attached.first_number
            self.cursor = first - 1
        self._cancel("unattached")
        self.socket.lift_limit()
        self._answer = wire.first_answer(
            token=attached.token,
            session_id=str(change.session_id),
            state=change.state,
            role=attached.role.value,
            head=change.head,
            first_event_id=first,
        )
        self.socket.emit("oh_event", self._answer)
        if ack is not None:
            ack({"status": "ok", "session_id": str(change.session_id), "token": attached.token})
        pump.secrecy.notice(change.secrets_version)
        pump.know_state(change.state, change.reason, change.title)
        pump.add(self, change.head)

    def _author_of(self, token: str) -> str:
        """Return the scope in which a client_id is unique: the user, or the token for strangers."""
        if self._user.is_authenticated:
            return f"u{self._user.pk}"
        return "t" + hashlib.sha256(token.encode()).hexdigest()[:16]

    async def _act(self, act: wire.Act, ack: Ack | None) -> None:
        if not self._policy.may_act(self._user, self._role, act.type):
            raise WireError(403, "role", "You may watch this session, not act in it.")
        assert self._pump is not None
        done = await self._append(act, self._pump.session_id, self._pump.secrecy)
        if ack is not None:
            ack({"status": "ok", "id": done.numbers[0]})

    async def _append(self, act: wire.Act, session_id: UUID, secrecy: Secrecy) -> Appended:
        """Store an action without its session's secrets. Try again if they have changed meanwhile."""
        key: dict[str, Any] = {"write_key": f"c:{self._author}:{act.client_id}"} if act.client_id else {}
        for _ in range(MOST_TRIES):
            shown, version, clean = await secrecy.clean(act)
            options = {"hidden": shown.hidden, "clean": clean, "waits": not act.is_interrupt} | key
            event = NewEvent("user", act.type, shown.body, **options)
            append = Append(session_id, [event], sid=self.sid, secrets_version=version)
            try:
                return await self._store.append(append)
            except StaleSecrets as error:
                secrecy.notice(error.version)
        raise Unavailable

    async def _leave(self, ack: Ack | None) -> None:
        session_id = self.session_id
        assert session_id is not None
        self.changing = True
        try:
            await self._store.change_soon(lifecycle.detach, self.sid, "left", leave=True)
            self.forget_session()
        finally:
            self.changing = False
        if ack is not None:
            ack({"status": "ok"})
        self._store.announce_presence(session_id)

    async def _close(self, ack: Ack | None) -> None:
        assert self.session_id is not None
        await self._store.change_soon(lifecycle.close_for, self._user, self._role, self.session_id)
        if ack is not None:
            ack({"status": "ok"})

    # Actions that came before INIT

    async def _hold(self, action: HeldAction) -> None:
        """Keep an action until INIT. Raises WireError 409, 429, or 401 if the INIT will need a token."""
        if not self._may_start:
            await self._store.database.read(access.check_may_open, self._user)
            self._may_start = True
        self._held.put(action)
        if len(self._held) == 1:
            self._after(HELD_SECONDS, "held", self._refuse_held)

    async def _take_held(self) -> None:
        self._cancel("held")
        for action in self._held.take_all():
            try:
                if self.session_id is None:
                    raise not_attached("The connection has left its session.")
                request = await self._parse([json.loads(action.data)], len(action.data))
                await self._take(request, action.ack)
            except Exception as error:
                self._refuse(error, action.ack, action.client_id)

    def _refuse_held(self) -> None:
        for action in self._held.take_all():
            self._refuse(not_attached("No INIT came before this action."), action.ack, action.client_id)

    # Answers

    def _refuse(self, error: Exception, ack: Ack | None, client_id: str | None = None) -> None:
        """Send the error, as acknowledgement if the client asked for one."""
        refusal = translate(error, self.sid)
        if client_id is not None:
            refusal.extra.setdefault("client_id", client_id)
        if ack is not None:
            ack(wire.error_ack(refusal))
        else:
            self.socket.emit("oh_event", wire.error_event(refusal))

    async def end(self, reason: str, message: str) -> None:
        """End the connection and send the reason in a notice."""
        self.forget_session()
        self.notice(wire.notice("disconnecting", reason=reason, message=message))
        await self.socket.disconnect(reason, reconnect=reason not in STAY_AWAY)

    def forget_session(self) -> None:
        """Detach from the pump: nothing of the session is sent to this client any more."""
        self.session_id = self.issued_to = None
        self.generation += 1
        self._guest.detach()
        pump, self._pump = self._pump, None
        if pump is not None:
            self._gateway.leave_pump(pump, self)

    # Timers

    def _after(self, seconds: float, name: str, function: Callable[[], None]) -> None:
        self._timers[name] = asyncio.get_running_loop().call_later(seconds, function)

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _end_unattached(self) -> None:
        if self.changing:
            self._after(1.0, "unattached", self._end_unattached)
            return
        message = f"No INIT came within {UNATTACHED_SECONDS:.0f} s."
        self._gateway.spawn(self.end("unattached", message), "unattached")
