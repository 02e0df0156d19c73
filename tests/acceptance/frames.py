"""Websocket frames written by hand, for clients that do what no library does."""

from __future__ import annotations

import asyncio
import contextlib
import struct

TEXT, PING, CONTINUATION = 1, 9, 0
LIMIT = 15.0


def frame(payload: bytes, kind: int = TEXT, *, is_last: bool = True, announced: int | None = None) -> bytes:
    """Return one masked frame. Its header announces `announced` bytes, if that is given."""
    size = len(payload) if announced is None else announced
    head = bytes([kind | (0x80 if is_last else 0)])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += bytes([0x80 | 126]) + struct.pack("!H", size)
    else:
        head += bytes([0x80 | 127]) + struct.pack("!Q", size)
    return head + bytes(4) + payload  # a mask of zeros changes nothing


class FrameSocket:
    """A websocket of Engine.IO that sends any bytes, and notices only the end of the connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, *, cookie: str = "") -> FrameSocket:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Sec-WebSocket-Version: 13\r\n" + cookie.encode() + b"\r\n"
        )
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LIMIT)
        assert answer.startswith(b"HTTP/1.1 101"), answer
        return cls(reader, writer)

    async def send(self, data: bytes) -> None:
        """Send as many bytes as the server takes."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def ended(self) -> bool:
        """Return whether the server ends the connection soon. Its messages are ignored."""
        try:
            async with asyncio.timeout(LIMIT):
                while await self.reader.read(65536):
                    pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()
