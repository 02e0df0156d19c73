"""The clients' sides of Socket.IO: python-socketio's, and frames written by hand over a bare websocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Protocol

import aiohttp
import socketio
from socketio.exceptions import SocketIOError

CONNECT_LIMIT = 6.0
CLOSE_LIMIT = 2.0

OnEvent = Callable[[str, Any, str | None], None]
"""A function of an event's name, its payload and, for raw sockets, the payload's text."""


class Lost(Exception):
    """The connection has ended, or was never made."""


class ClientSocket(Protocol):
    """One connection of one client. Each connection has a new object."""

    raw: bool

    @property
    def closed(self) -> bool: ...

    @property
    def port(self) -> int:
        """The client's own port, by which the proxy knows the connection."""

    @property
    def sid(self) -> str:
        """The sid in Socket.IO, empty until the client is connected."""

    async def connect(self, url: str) -> None:
        """Connect. Raises Lost."""

    async def call(self, payload: Any, limit: float) -> dict[str, Any]:
        """Send an oh_action, and return its acknowledgement. Raises Lost, or TimeoutError."""

    async def close(self) -> None:
        """End the connection in order. Never raises."""


class RawSocket:
    """Engine.IO and Socket.IO frames over aiohttp's websocket."""

    raw = True

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._count = 0
        self.sid = ""
        self._reading: asyncio.Task[None] | None = None
        self._connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._connected.add_done_callback(lambda done: done.cancelled() or done.exception())

    @property
    def closed(self) -> bool:
        return self._reading is None or self._reading.done()

    @property
    def port(self) -> int:
        name = self._websocket.get_extra_info("sockname")
        return int(name[1]) if name else 0

    async def connect(self, url: str) -> None:
        self._http = aiohttp.ClientSession()
        address = f"{url}/socket.io/?EIO=4&transport=websocket"
        try:
            async with asyncio.timeout(CONNECT_LIMIT):
                self._websocket = await self._http.ws_connect(address, max_msg_size=0)
                self._reading = asyncio.create_task(self._read(), name="raw socket")
                await self._websocket.send_str("40")
                await self._connected
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Lost(f"{type(error).__name__}: {error}") from error

    async def call(self, payload: Any, limit: float) -> dict[str, Any]:
        self._count += 1
        number = self._count
        future = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(limit):
                await self._websocket.send_str(f"42{number}{json.dumps(['oh_action', payload])}")
                answer: dict[str, Any] = (await future)[0]
                return answer
        except (aiohttp.ClientError, ConnectionError) as error:
            raise Lost(str(error)) from error
        finally:
            del self._answers[number]

    async def close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_LIMIT):
                if not self.closed:
                    await self._websocket.send_str("41")
                    await self._websocket.close()
        except (TimeoutError, aiohttp.ClientError, OSError):
            pass
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self._http.close()

    async def _read(self) -> None:
        try:
            async for message in self._websocket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    break
                await self._take(message.data)
        finally:
            for future in [self._connected, *self._answers.values()]:
                if not future.done():
                    future.set_exception(Lost("the connection ended"))

    async def _take(self, frame: str) -> None:
        if frame == "2":
            await self._websocket.send_str("3")
        elif frame.startswith("40") and not self._connected.done():
            self.sid = json.loads(frame[2:])["sid"]
            self._connected.set_result(None)
        elif frame.startswith("42"):
            name, payload = json.loads(frame[2:])
            self._on_event(name, payload, frame[2:].partition(",")[2][:-1])
        elif frame.startswith("43"):
            number, bracket, rest = frame[2:].partition("[")
            future = self._answers.get(int(number))
            if future is not None and not future.done():
                future.set_result(json.loads(bracket + rest))


class LibrarySocket:
    """python-socketio's client."""

    raw = False

    def __init__(self, on_event: OnEvent) -> None:
        self._client = socketio.AsyncClient(reconnection=False)
        for name in ("oh_event", "oh_events", "oh_notice"):
            self._client.on(name, lambda payload, name=name: on_event(name, payload, None))
        self._port = 0
        self.sid = ""

    @property
    def closed(self) -> bool:
        return not self._client.connected

    @property
    def port(self) -> int:
        return self._port

    async def connect(self, url: str) -> None:
        try:
            async with asyncio.timeout(CONNECT_LIMIT):
                await self._client.connect(url, transports=["websocket"], wait_timeout=CONNECT_LIMIT)
                self.sid = self._client.get_sid() or ""
                name = self._client.eio.ws.get_extra_info("sockname")
                self._port = int(name[1]) if name else 0
        except (SocketIOError, aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Lost(f"{type(error).__name__}: {error}") from error

    async def call(self, payload: Any, limit: float) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = await self._client.call("oh_action", payload, timeout=limit)
            return answer
        except socketio.exceptions.TimeoutError as error:
            raise TimeoutError(str(error)) from error
        except (SocketIOError, aiohttp.ClientError, OSError) as error:
            raise Lost(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_LIMIT):
                await self._client.disconnect()
        except (TimeoutError, SocketIOError, aiohttp.ClientError, OSError):
            pass
        session = self._client.eio.http
        if session is not None and not session.closed:
            await session.close()
