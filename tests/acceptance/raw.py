"""A Socket.IO client written by hand: it shows every packet as it came, and sends any packet."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable
from typing import Any

import aiohttp

LIMIT = 15.0
SEPARATOR = "\x1e"


class RawClient:
    """A client of one connection. `packets` are the Socket.IO packets after the answer to CONNECT, as text.

    Clear `reads` to make it read nothing for a while (websocket only). `auth` is sent with CONNECT, `query`
    and `headers` are sent with the handshake.
    """

    def __init__(
        self,
        url: str,
        transport: str = "websocket",
        *,
        auth: dict[str, Any] | None = None,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.address = f"{url}/socket.io/"
        self.transport = transport
        self.packets: list[str] = []
        self.connected: dict[str, Any] | None = None
        self.refused: dict[str, Any] | None = None
        self.ended = False
        self.reads = asyncio.Event()
        self.reads.set()
        self._auth = "" if auth is None else json.dumps(auth)
        self._query = {"EIO": "4", "transport": transport} | (query or {})
        self._http = aiohttp.ClientSession(headers=headers)
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reading: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._posting = asyncio.Lock()
        self._ack_ids = iter(range(1, 1_000_000))

    async def connect(self) -> RawClient:
        """Open the connection, and return when CONNECT was answered, by an acceptance or a refusal."""
        if self.transport == "websocket":
            address = self.address.replace("http", "ws", 1)
            self._socket = await self._http.ws_connect(
                address, params=self._query, max_msg_size=0, timeout=aiohttp.ClientWSTimeout(ws_close=1)
            )
            self._reading = asyncio.create_task(self._read_socket())
        else:
            async with self._http.get(self.address, params=self._query) as response:
                text = await response.text()
            self._query["sid"] = json.loads(text[1:])["sid"]
            self._reading = asyncio.create_task(self._read_polls())
        await self.send("0" + self._auth)
        await self.wait(lambda: self.connected or self.refused, "the answer to CONNECT")
        return self

    async def _read_socket(self) -> None:
        assert self._socket is not None
        while not self._socket.closed:
            await self.reads.wait()
            message = await self._socket.receive()
            if message.type is aiohttp.WSMsgType.TEXT:
                await self._take(message.data)
        self._end()

    async def _read_polls(self) -> None:
        while not self.ended:
            async with self._http.get(self.address, params=self._query) as response:
                if response.status != 200:
                    break
                text = await response.text()
            for packet in text.split(SEPARATOR):
                await self._take(packet)
        self._end()

    async def _take(self, packet: str) -> None:
        if packet == "2":
            await self.send_engine("3")
            return  # PINGs come for ever, even if nothing else comes
        if packet == "1":
            self._end()
        elif packet.startswith("40"):
            self.connected = json.loads(packet[2:])
        elif packet.startswith("44"):
            self.refused = json.loads(packet[2:])
        elif packet.startswith("4"):
            self.packets.append(packet[1:])
        self._changed.set()

    def _end(self) -> None:
        self.ended = True
        self._changed.set()

    async def send_engine(self, *packets: str | bytes) -> None:
        """Send Engine.IO packets together; in polling, in one POST. Bytes are a binary message."""
        if self._socket is not None:
            for packet in packets:
                if isinstance(packet, bytes):
                    await self._socket.send_bytes(packet)
                else:
                    await self._socket.send_str(packet)
            return
        texts = [p if isinstance(p, str) else "b" + base64.b64encode(p).decode() for p in packets]
        body = io.BytesIO(SEPARATOR.join(texts).encode())
        async with self._posting, self._http.post(self.address, params=self._query, data=body) as response:
            assert response.status == 200, await response.text()

    async def send(self, packet: str, *attachments: bytes) -> None:
        """Send a Socket.IO packet."""
        await self.send_engine("4" + packet, *attachments)

    async def ask(self, array: str, *attachments: bytes) -> dict[str, Any]:
        """Send an event, given as the text of its array, and return its acknowledgement."""
        number = next(self._ack_ids)
        kind = f"5{len(attachments)}-" if attachments else "2"
        await self.send(f"{kind}{number}{array}", *attachments)
        return await self.acknowledgement(number)

    async def acknowledgement(self, number: int) -> dict[str, Any]:
        start = f"3{number}["
        packet = await self.wait(
            lambda: next((p for p in self.packets if p.startswith(start)), None), f"acknowledgement {number}"
        )
        (answer,) = json.loads(packet[len(start) - 1 :])
        assert isinstance(answer, dict)
        return answer

    async def tell(self, array: str, *attachments: bytes) -> None:
        """Send an event without asking for an acknowledgement."""
        await self.send((f"5{len(attachments)}-" if attachments else "2") + array, *attachments)

    async def act(self, action: str, args: dict[str, Any] | None = None, **payload: Any) -> dict[str, Any]:
        """Send an action, and return its acknowledgement."""
        return await self.ask(json.dumps(["oh_action", {"action": action, "args": args or {}} | payload]))

    def got(self, name: str, after: int = 0) -> list[dict[str, Any]]:
        """Return the payloads of the event `name`, from the packet with index `after` on."""
        start = f'2["{name}",'
        return [json.loads(p[1:])[1] for p in self.packets[after:] if p.startswith(start)]

    def stored(self) -> list[str]:
        """Return the texts of the stored events that came as `oh_event`."""
        start = '2["oh_event",'
        return [p[len(start) : -1] for p in self.packets if p.startswith(start + '{"id":')]

    async def wait(self, found: Callable[[], Any], what: str, limit: float | None = None) -> Any:
        """Wait until `found` returns a true value for the packets that came, and return that value.

        Raises TimeoutError after `limit` seconds. Without a limit it is raised when nothing came for LIMIT
        seconds, since a slow machine delivers slowly.
        """
        try:
            async with asyncio.timeout(limit):
                while not (result := found()):
                    self._changed.clear()
                    async with asyncio.timeout(LIMIT if limit is None else None):
                        await self._changed.wait()
                return result
        except TimeoutError:
            tail = [packet[:300] for packet in self.packets[-5:]]
            raise TimeoutError(
                f"{what} did not come within {limit or LIMIT} s; the last was {tail}"
            ) from None

    async def wait_event(self, limit: float | None = None, **fields: Any) -> dict[str, Any]:
        """Wait for an `oh_event` with these fields."""

        def find() -> dict[str, Any] | None:
            events = self.got("oh_event")
            return next((e for e in events if fields.items() <= {k: e.get(k) for k in fields}.items()), None)

        event: dict[str, Any] = await self.wait(find, f"an event with {fields}", limit)
        return event

    async def wait_notice(self, limit: float | None = None, **fields: Any) -> dict[str, Any]:
        """Wait for an `oh_notice` with these fields."""

        def find() -> dict[str, Any] | None:
            return next((n for n in self.got("oh_notice") if fields.items() <= n.items()), None)

        notice: dict[str, Any] = await self.wait(find, f"a notice with {fields}", limit)
        return notice

    async def close(self) -> None:
        """End the connection. The server notices at once."""
        if self._socket is None and not self.ended:
            # The server answers the waiting poll. There is no other poll.
            self.ended = True
            await self.send_engine("1")
        elif self._reading is not None:
            self._reading.cancel()
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._socket is not None:
            await self._socket.close()
        await self._http.close()
