"""HTTP and websockets written by hand, valid or not, for attackers and the well-behaved client.

Frames are masked with zeros, so they are sent as they are. Making them costs the attacker nothing.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import struct
from collections.abc import Mapping

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
MASK = b"\0\0\0\0"
HANDSHAKE_LIMIT = 20.0
"""Seconds for the answer to a handshake."""


class Gone(Exception):
    """The server has closed the connection, or did not accept it."""


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, announced: int | None = None
) -> bytes:
    """Return a masked frame. `announced` is the length in its header; None: the real one."""
    length = len(payload) if announced is None else announced
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    if length < 126:
        head = struct.pack("!BB", first, 0x80 | length)
    elif length < 65536:
        head = struct.pack("!BBH", first, 0x80 | 126, length)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, length)
    return head + MASK + payload


def text_frame(text: str) -> bytes:
    return frame(TEXT, text.encode())


def request(method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """Return an HTTP request. With a body, its length is announced, unless `headers` announce another one."""
    if body and not any(name.lower() in ("content-length", "transfer-encoding") for name in headers):
        headers = {**headers, "Content-Length": str(len(body))}
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


class Wire:
    """One TCP connection to the server. Every method raises Gone if the server has ended it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self.reader = reader
        self.writer = writer
        self.host = host

    @classmethod
    async def open(
        cls, port: int, address: str = "127.0.0.2", *, limit: float = HANDSHAKE_LIMIT, receive_buffer: int = 0
    ) -> Wire:
        """Connect from `address`, one of this machine's addresses."""
        made = socket.socket()
        made.setblocking(False)
        if receive_buffer:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            made.bind((address, 0))
            async with asyncio.timeout(limit):
                await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", port))
                reader, writer = await asyncio.open_connection(sock=made, limit=2**24)
        except (OSError, TimeoutError) as error:
            made.close()
            raise Gone(f"not connected: {error}") from error
        return cls(reader, writer, f"127.0.0.1:{port}")

    async def send(self, data: bytes) -> None:
        try:
            self.writer.write(data)
            await self.writer.drain()
        except OSError as error:
            raise Gone(str(error)) from error

    async def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        limit: float = HANDSHAKE_LIMIT,
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request; return the status, headers (names in lower case) and body of the answer."""
        await self.send(request(method, target, {"Host": self.host} | dict(headers or {}), body))
        return await self.answer(limit)

    async def answer(self, limit: float = HANDSHAKE_LIMIT) -> tuple[int, dict[str, str], bytes]:
        try:
            async with asyncio.timeout(limit):
                head = await self.reader.readuntil(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                pairs = (line.partition(":") for line in lines[1:] if line)
                headers = {name.lower(): value.strip() for name, _, value in pairs}
                body = await self._body(headers)
                return int(lines[0].split()[1]), headers, body
        except (
            OSError,
            TimeoutError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
            IndexError,
        ) as error:
            raise Gone(f"no answer: {error}") from error

    async def _body(self, headers: Mapping[str, str]) -> bytes:
        if "chunked" in headers.get("transfer-encoding", ""):
            whole = b""
            while size := int((await self.reader.readline()).strip() or b"0", 16):
                whole += await self.reader.readexactly(size)
                await self.reader.readline()
            await self.reader.readline()
            return whole
        return await self.reader.readexactly(int(headers.get("content-length", "0")))

    async def upgrade(
        self, target: str, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str]]:
        """Ask for a websocket; return the status (101 for success) and the headers."""
        asked = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        }
        status, got, _ = await self.ask("GET", target, asked | dict(headers or {}))
        return status, got

    async def read(self) -> tuple[int, bytes]:
        """Read a frame; return its opcode and payload."""
        try:
            first, second = await self.reader.readexactly(2)
            length = second & 127
            if length == 126:
                (length,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 15, await self.reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Gone(str(error)) from error

    async def text(self, text: str) -> None:
        """Send a text message."""
        await self.send(text_frame(text))

    async def wait_text(self, start: str, limit: float = HANDSHAKE_LIMIT) -> str:
        """Return the next text message that begins with `start`. Answer Engine.IO's PINGs meanwhile."""
        try:
            async with asyncio.timeout(limit):
                while True:
                    opcode, payload = await self.read()
                    if opcode == CLOSE:
                        raise Gone("closed")
                    if payload == b"2":
                        await self.text("3")
                    elif opcode == TEXT and payload.startswith(start.encode()):
                        return payload.decode()
        except TimeoutError as error:
            raise Gone(f"{start!r} did not come within {limit} s") from error

    @property
    def is_open(self) -> bool:
        """Return whether the connection is open, as far as was read: it has neither ended nor been reset."""
        return not self.reader.at_eof() and self.reader.exception() is None and not self.writer.is_closing()

    def abort(self) -> None:
        """Drop the connection at once, without a close."""
        self.writer.transport.abort()


PATH = "/socket.io/?EIO=4&transport="


async def connect(
    port: int,
    address: str = "127.0.0.2",
    *,
    headers: Mapping[str, str] | None = None,
    receive_buffer: int = 0,
) -> Wire:
    """Return a websocket of Engine.IO that was accepted, before CONNECT. Raises Gone if it was refused."""
    wire = await Wire.open(port, address, receive_buffer=receive_buffer)
    status, _ = await wire.upgrade(PATH + "websocket", headers)
    if status != 101:
        wire.abort()
        raise Gone(f"the handshake was answered {status}")
    return wire


async def join(wire: Wire) -> None:
    """Connect the namespace `/`. Raises Gone if that is refused."""
    await wire.text("40")
    answer = await wire.wait_text("4")
    if not answer.startswith("40"):
        raise Gone(f"CONNECT was answered {answer[:100]}")


def action(
    kind: str, args: Mapping[str, object] | None = None, number: int | None = None, **more: object
) -> str:
    """Return the packet of an action. With a number it asks for an acknowledgement."""
    event = json.dumps(["oh_action", {"action": kind, "args": dict(args or {})} | more])
    return f"42{'' if number is None else number}{event}"


async def open_poll(wire: Wire, headers: Mapping[str, str] | None = None) -> tuple[str, dict[str, str]]:
    """Open a polling connection; return the sid, and the headers that the server set. Raises Gone."""
    status, got, body = await wire.ask("GET", PATH + "polling", headers)
    if status != 200:
        raise Gone(f"the handshake was answered {status}")
    return str(json.loads(body[1:])["sid"]), got
