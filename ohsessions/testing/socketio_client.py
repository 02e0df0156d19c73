"""A Socket.IO client in the event loop of the application."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

from ohsessions.conf import conf
from ohsessions.core.errors import WireError
from ohsessions.core.runtime import JSON
from ohsessions.socketio import encode_event
from ohsessions.socketio.codec import encode_json
from ohsessions.socketio.packets import CLOSE, MESSAGE, PING, PONG
from ohsessions.testing.site import login_cookie
from ohsessions.testing.websocket import Application, WebSocket

Payload = dict[str, Any]
Wanted = Callable[[Payload], bool] | None

_PACKET = re.compile(r"(?P<kind>[0-6])(?P<number>[0-9]*)(?P<data>.*)", re.DOTALL)
"""A Socket.IO packet of the namespace `/` that the server sends."""


class SocketIOClient(WebSocket):
    """A Socket.IO client over a websocket, as the protocol of ohsessions has it.

        async with SocketIOClient(application, user=ann) as client:
            await client.init({"runtime": "echo"})
            done = await client.act("message", {"content": "Hello"})
            await client.event(observation="echo", cause=done["id"])

    `user` is logged in by a Django session of its own. `query` and `headers` belong to the handshake, `auth`
    to CONNECT. `scope` adds keys to the ASGI scope: `{"user": …}` for a site that authenticates by itself.

    `events` are the payloads of all `oh_event` and `oh_events`, in order. `notices` are those of `oh_notice`.
    `token` and `session_id` are those of the last answer to INIT. `latest_event_id` is that of the last event
    of this session that came, -1 if none did.
    PINGs are answered. For the methods that wait, see WebSocket.
    """

    def __init__(
        self,
        application: Application,
        *,
        user: Any = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: Mapping[str, JSON] | None = None,
        scope: Mapping[str, Any] | None = None,
        timeout: float = 10,
    ) -> None:
        self._headers = {"host": "testserver"} | {k.lower(): v for k, v in (headers or {}).items()}
        self._user = user
        self._auth = auth
        handshake = {"EIO": "4", "transport": "websocket"} | dict(query or {})
        address = {"path": f"/{conf.PATH}", "query_string": urlencode(handshake).encode()}
        super().__init__(application, {**address, **(scope or {})}, timeout=timeout)
        self.sid = ""
        self.token = ""
        self.session_id = ""
        self.latest_event_id = -1
        self.events: list[Payload] = []
        self.notices: list[Payload] = []
        self._refusal: Payload | None = None
        self._answer: Payload = {}
        self._acks: dict[int, Payload] = {}
        self._calls = 0

    async def __aenter__(self) -> Self:
        return await self.connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.disconnect()

    # Connecting

    async def connect(self) -> Self:
        """Open the websocket, and wait for the answer to CONNECT. Raises WireError if it is refused."""
        if self._user is not None:
            cookies = [self._headers.get("cookie"), await login_cookie(self._user)]
            self._headers["cookie"] = "; ".join(filter(None, cookies))
        headers = self._headers.items()
        self.scope["headers"] = [(key.encode("latin-1"), value.encode("latin-1")) for key, value in headers]
        await self.open()
        self.send_packet(f"{MESSAGE}0" + ("" if self._auth is None else encode_json(dict(self._auth))))
        await self.wait(lambda: self.sid or self._refusal, "the answer to CONNECT")
        if self._refusal is not None:
            await self.leave()
            data = self._refusal.get("data") or {}
            code, reason = data.get("error_code", 500), data.get("reason", "internal")
            raise WireError(code, reason, self._refusal["message"])
        return self

    async def disconnect(self) -> None:
        """Disconnect in order, and wait until the application has returned."""
        self.send_packet(f"{MESSAGE}1", CLOSE)
        await self.leave(1000)

    # Acting

    async def init(self, settings: Mapping[str, JSON] | None = None, **options: JSON) -> Payload:
        """Start a session, or join one (`token=…`); return the first answer.

        `options` are further keys of INIT: `token`, `latest_event_id`, `replay`, …. Raises WireError if INIT
        is refused.
        """
        await self._act("initialize", settings, options)
        return self._answer

    async def act(self, type: str, args: Mapping[str, JSON] | None = None, /, **options: JSON) -> Payload:
        """Send an action; return its acknowledgement once it is stored. Raises WireError if it is refused.

        `options` are further keys of the action: `client_id`.
        """
        return await self._act(type, args, options)

    async def _act(self, type: str, args: Mapping[str, JSON] | None, options: Mapping[str, JSON]) -> Payload:
        answer = await self.call("oh_action", {"action": type, "args": dict(args or {}), **options})
        if answer.get("status") == "error":
            extra = {
                k: v for k, v in answer.items() if k not in ("status", "error_code", "reason", "message")
            }
            raise WireError(answer["error_code"], answer["reason"], answer["message"], **extra)
        return answer

    async def call(self, name: str, *args: object, timeout: float | None = None) -> Payload:
        """Emit an event; return its acknowledgement, whatever it says."""
        self._calls += 1
        number = self._calls
        self.send_packet(MESSAGE + encode_event(name, *args, ack_id=number))
        await self.wait(lambda: number in self._acks, f"the acknowledgement of {name}", timeout)
        return self._acks[number]

    def emit(self, name: str, *args: object) -> None:
        """Emit an event without asking for an acknowledgement."""
        self.send_packet(MESSAGE + encode_event(name, *args))

    # Waiting

    async def event(self, wanted: Wanted = None, *, timeout: float | None = None, **fields: JSON) -> Payload:
        """Return the first `oh_event`, past or to come, with these fields, for which `wanted` is true."""
        return await self._first(self.events, "oh_event", wanted, fields, timeout)

    async def notice(self, wanted: Wanted = None, *, timeout: float | None = None, **fields: JSON) -> Payload:
        """Return the first `oh_notice`, past or to come, with these fields, for which `wanted` is true."""
        return await self._first(self.notices, "oh_notice", wanted, fields, timeout)

    async def _first(
        self, payloads: list[Payload], name: str, wanted: Wanted, fields: Payload, timeout: float | None
    ) -> Payload:
        def find() -> list[Payload]:
            fitting = [one for one in payloads if fields.items() <= one.items()]
            return fitting if wanted is None else list(filter(wanted, fitting))

        what = f"an {name} with {fields}" if fields else f"an {name}"
        return (await self.wait(find, what, timeout))[0]

    # What comes

    def _take(self, packet: str | bytes) -> None:
        if packet == PING:
            self.send_packet(PONG)
        elif isinstance(packet, str) and packet.startswith(MESSAGE):
            match = _PACKET.fullmatch(packet[1:])
            assert match is not None, packet
            self._handle(match["kind"], match["number"], match["data"])

    def _handle(self, kind: str, number: str, data: str) -> None:
        match kind:
            case "0":
                self.sid = json.loads(data)["sid"]
            case "2":
                name, *args = json.loads(data)
                self._hear(name, args)
            case "3":
                self._acks[int(number)] = json.loads(data)[0]
            case "4":
                self._refusal = json.loads(data)

    def _hear(self, name: str, args: list[Any]) -> None:
        match name:
            case "oh_event":
                self._add(args[0])
            case "oh_events":
                for event in args[0]:
                    self._add(event)
            case "oh_notice":
                self.notices.append(args[0])

    def _add(self, event: Payload) -> None:
        self.events.append(event)
        if "token" in event:
            if event["session_id"] != self.session_id:
                self.latest_event_id = -1
            self._answer = event
            self.token, self.session_id = event["token"], event["session_id"]
        elif isinstance(event.get("id"), int):
            self.latest_event_id = event["id"]
