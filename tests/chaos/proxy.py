"""A TCP proxy before a gateway, which cuts, half-closes, delays and freezes connections.

While it is frozen, nothing passes, not even the end of a connection: each side seems to have vanished.
"""

from __future__ import annotations

import asyncio
from random import Random

CHUNK = 64 * 1024


class Proxy:
    """A proxy that listens on a port of its own for the gateway on port `target`."""

    def __init__(self, name: str, target: int) -> None:
        self.name = name
        self.delay = 0.0
        """The delay of each chunk, in seconds."""
        self.port = 0
        self._target = target
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._connections: dict[int, _Connection] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        self.cut_all(1.0, Random(0))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Faults

    def cut(self, port: int) -> None:
        """Cut the connection that comes from this port of a client, without any close."""
        if connection := self._connections.get(port):
            connection.abort(is_told=self._thawed.is_set())

    def cut_all(self, part: float, random: Random) -> None:
        """Cut this part of all connections."""
        for connection in self._some(part, random):
            connection.abort()

    def half_close_all(self, part: float, random: Random) -> None:
        """End one direction of this part of all connections, like a peer that has sent everything."""
        for connection in self._some(part, random):
            connection.half_close(random.random() < 0.5)

    def freeze(self) -> None:
        self._thawed.clear()

    def thaw(self) -> None:
        self._thawed.set()

    def _some(self, part: float, random: Random) -> list[_Connection]:
        return [one for _, one in sorted(self._connections.items()) if random.random() < part]

    # Passing on

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        port = writer.get_extra_info("peername")[1]
        try:
            await self._thawed.wait()
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
            self._tasks.discard(task)
            return
        self._connections[port] = _Connection(writer, back)
        try:
            await asyncio.gather(self._pass(reader, back), self._pass(there, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            back.transport.abort()
            del self._connections[port]
            self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await self._thawed.wait()
            if self.delay:
                await asyncio.sleep(self.delay)
            try:
                writer.write(data)
            except RuntimeError:
                continue  # half-closed: the data is dropped
            await writer.drain()
        await self._thawed.wait()
        if writer.can_write_eof() and not writer.is_closing():
            writer.write_eof()


class _Connection:
    """The two sockets of one connection."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._client, self._server = client, server

    def abort(self, *, is_told: bool = True) -> None:
        """Cut the connection. With `is_told` the server notices at once, otherwise when the proxy thaws."""
        self._client.transport.abort()
        if is_told:
            self._server.transport.abort()

    def half_close(self, towards_server: bool) -> None:
        writer = self._server if towards_server else self._client
        if not writer.is_closing():
            writer.write_eof()
