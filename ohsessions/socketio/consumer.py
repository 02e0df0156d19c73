"""
The Channels consumer that carries Engine.IO over HTTP requests and websockets.

Owns only the translation between ASGI and connections. It has its own __call__, since it must work at full
speed without the channel layer. AsyncConsumer's __call__ makes a channel in the layer for each connection and
passes each message through the thread-sensitive thread.
"""

import asyncio
import itertools
from typing import Any

from channels.consumer import AsyncConsumer

from ohsessions.socketio.asgi import Receive, Scope, Send, raise_os_error_when_closed
from ohsessions.socketio.connection import FAIR_SHARE, EngineConnection
from ohsessions.socketio.engine import EngineIO, Transport
from ohsessions.socketio.errors import PacketError, RequestRefused
from ohsessions.socketio.polling import ClientGone, poll, post
from ohsessions.socketio.requests import Query, header, parse_query
from ohsessions.socketio.server import EngineServer

__all__ = ["SocketIOConsumer"]

Headers = list[tuple[bytes, bytes]]

POLL_HEADERS: Headers = [(b"content-type", b"text/plain; charset=UTF-8")]

# Seconds that a server may take to send a close frame to a client that does not read.
CLOSE_PATIENCE = 5.0
# Of the registered codes daphne sends only this one; for others it raises. Engine.IO clients read no code.
CLOSE_WEBSOCKET = {"type": "websocket.close", "code": 1000}


class SocketIOConsumer(AsyncConsumer):  # type: ignore[misc]
    """
    The ASGI application for both http and websocket: `SocketIOConsumer.as_asgi(server=server)`.

    Handshakes (requests without `sid`) should pass the auth middleware first. Other requests need not.
    """

    channel_layer_alias = None

    def __init__(self, server: EngineServer) -> None:
        self.server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, raise_os_error_when_closed(send))
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            raise ValueError(
                f"Engine.IO runs over http and websocket, not {scope['type']}: check the routing"
            )

    # -- websocket

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        try:
            connection, is_new = self._admit_websocket(scope)
        except RequestRefused:
            await send(CLOSE_WEBSOCKET)
            return
        connection.use_inlet(scope.get("extensions", {}).get("ohsessions.inlet"))
        if is_new:
            try:
                await send({"type": "websocket.accept"})
                await self._carry(connection, receive, send)
            finally:
                connection.abort("transport close")
        else:
            await send({"type": "websocket.accept"})
            await self._upgrade(connection, receive, send)

    def _admit_websocket(self, scope: Scope) -> tuple[EngineConnection, bool]:
        """Return the connection of a websocket, and True if this is its handshake."""
        self.server.admit(scope)
        query = parse_query(scope)
        if query.sid is None:
            return self.server.open(scope, Transport.WEBSOCKET), True
        return self.server.find(scope, query.sid), False

    async def _upgrade(self, connection: EngineConnection, receive: Receive, send: Send) -> None:
        """
        Carry a polling connection, if the websocket's probe succeeds. If not, only the websocket ends.

        If the connection has a websocket already, the second one is accepted, then closed, as in Node.
        """
        try:
            connection.act(EngineIO.begin_probe)
        except RequestRefused:
            await send(CLOSE_WEBSOCKET)
            return
        try:
            if await self._probe(connection, receive, send):
                await self._carry(connection, receive, send)
        finally:
            if connection.is_upgraded:
                connection.abort("transport close")
            else:
                connection.act(EngineIO.end_probe)

    async def _probe(self, connection: EngineConnection, receive: Receive, send: Send) -> bool:
        """Return True once the client has upgraded, False if it fails to."""
        try:
            async with asyncio.timeout(connection.engine.settings.upgrade_timeout):
                while not connection.is_upgraded:
                    message = await receive()
                    if message["type"] == "websocket.disconnect":
                        return False
                    answer = connection.act(EngineIO.receive_probe, _content(message))
                    if answer is not None:
                        await send({"type": "websocket.send", "text": answer})
        except (PacketError, TimeoutError):
            await send(CLOSE_WEBSOCKET)
            return False
        except OSError:
            return False
        return True

    async def _carry(self, connection: EngineConnection, receive: Receive, send: Send) -> None:
        """Carry a connection over its websocket. A second task reads; this task writes."""
        peer_left = asyncio.Event()
        reader = asyncio.create_task(
            self._read(connection, receive, peer_left), name=f"websocket {connection.engine.sid}"
        )
        try:
            await connection.write(send)
            if not peer_left.is_set():
                async with asyncio.timeout(CLOSE_PATIENCE):
                    await send(CLOSE_WEBSOCKET)
        except (OSError, TimeoutError):
            pass
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, connection: EngineConnection, receive: Receive, peer_left: asyncio.Event) -> None:
        for number in itertools.count(1):
            message = await receive()
            if message["type"] == "websocket.disconnect":
                peer_left.set()
                connection.abort("transport close")
                return
            content = _content(message)
            if len(content) > connection.input_limit:
                connection.abort("payload too large")
                return
            connection.received(content)
            if connection.closed:
                return
            del message, content  # else they stay in memory until the next message
            if number % FAIR_SHARE == 0:  # receive() may return without giving way
                await asyncio.sleep(0)

    # -- http

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        cors: Headers = []
        try:
            self.server.admit(scope)
            cors = _cors(scope)
            if scope["method"] == "OPTIONS":
                await _respond(send, 204, "", cors + _preflight(scope))
                return
            body, headers = await self._answer(scope, receive)
        except RequestRefused as exc:
            await _respond(send, exc.status, exc.body, [(b"content-type", b"application/json"), *cors])
        except ClientGone:
            return
        else:
            await _respond(send, 200, body, [*headers, *cors])

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[str, Headers]:
        query = parse_query(scope)
        if query.sid is None:
            connection = self.server.open(scope, Transport.POLLING)
            return await poll(connection, receive), [*POLL_HEADERS, *self._set_cookie(scope, connection)]
        connection = self._find_polling(scope, query)
        if scope["method"] == "GET":
            return await poll(connection, receive), POLL_HEADERS
        if scope["method"] != "POST":
            raise RequestRefused.bad_request()
        await post(connection, scope, receive)
        return "ok", [(b"content-type", b"text/html")]

    def _set_cookie(self, scope: Scope, connection: EngineConnection) -> Headers:
        if self.server.cookie is None or connection.binding is None:
            return []
        value = connection.binding.set_cookie(self.server.cookie(scope))
        return [] if value is None else [(b"set-cookie", value)]

    def _find_polling(self, scope: Scope, query: Query) -> EngineConnection:
        assert query.sid is not None
        connection = self.server.find(scope, query.sid)
        if connection.is_upgraded:
            raise RequestRefused.bad_request()
        return connection


def _content(message: dict[str, Any]) -> str | bytes:
    text = message.get("text")
    content: str | bytes = message["bytes"] if text is None else text
    return content


def _cors(scope: Scope) -> Headers:
    """Return headers that let an allowed foreign origin read the answer."""
    origin = header(scope, b"origin")
    if origin is None:
        return []
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-allow-credentials", b"true"),
        (b"vary", b"Origin"),
    ]


def _preflight(scope: Scope) -> Headers:
    wanted = header(scope, b"access-control-request-headers")
    headers = [(b"access-control-allow-methods", b"GET, POST"), (b"access-control-max-age", b"600")]
    if wanted:
        headers.append((b"access-control-allow-headers", wanted.encode("latin-1")))
    return headers


async def _respond(send: Send, status: int, body: str, headers: Headers) -> None:
    content = body.encode()
    headers = [
        *headers,
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"content-length", str(len(content)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
