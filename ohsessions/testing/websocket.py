"""The client's end of a websocket, over ASGI.

The application runs in a task of the test's event loop. There is no server and no network: a message reaches
the other end in the same turn of the loop, or in the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

Application = Callable[[Any, Any, Any], Awaitable[None]]
Found = TypeVar("Found")

SHOWN_PACKETS = 10
"""The last packets that an error shows, each cut to SHOWN_CHARACTERS."""
SHOWN_CHARACTERS = 300

SCOPE: Mapping[str, Any] = {
    "type": "websocket",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "http_version": "1.1",
    "scheme": "wss",  # a site that redirects to HTTPS refuses "ws"
    "path": "/",
    "root_path": "",
    "query_string": b"",
    "headers": [(b"host", b"testserver")],  # Django's test runner allows this name
    "client": ("127.0.0.1", 1024),
    "server": ("testserver", 443),
    "subprotocols": [],
}


class WebSocket:
    """A websocket to an ASGI application. It answers nothing by itself.

    `scope` replaces keys of SCOPE. `packets` are all messages that came. A method that waits raises
    TimeoutError after `timeout` seconds, and ConnectionError if the connection has ended; both errors show
    the last packets. It raises the application's own error if the application has failed.
    """

    def __init__(self, application: Application, scope: Mapping[str, Any], *, timeout: float = 10) -> None:
        self.application = application
        self.scope: dict[str, Any] = {**SCOPE, **scope}
        self.timeout = timeout
        self.accepted = False
        self.closed = False
        """True after either side has closed the websocket."""
        self.packets: list[str | bytes] = []
        self._received = 0
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # Opening and ending

    async def open(self) -> None:
        """Wait until the application has accepted the websocket. Raises ConnectionError if it refuses."""
        self._incoming.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.create_task(self._run(), name="websocket of a test")
        self._task.add_done_callback(lambda _: self._news.set())
        await self.wait(lambda: self.accepted or self._is_over(), "the answer to the websocket")
        if not self.accepted:
            raise ConnectionError("The websocket was not accepted. The application's log may say why.")

    async def leave(self, code: int = 1006) -> None:
        """Break the connection, and wait until the application has returned."""
        self.closed = True
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": code})
        await self.wait_ended()

    async def wait_ended(self) -> None:
        """Wait until the application has returned."""
        if self._task is None:
            return
        done, _ = await asyncio.wait([self._task], timeout=self.timeout)
        if not done:
            raise TimeoutError(f"The application did not return within {self.timeout} s. {self._history()}")
        if not self._task.cancelled():
            self._task.result()

    def cancel(self) -> None:
        """Cancel the application's call, as a server does that has no more time."""
        if self._task is not None:
            self._task.cancel()

    # Packets

    def send_packet(self, *packets: str | bytes) -> None:
        """Send messages: text, or binary ones."""
        for packet in packets:
            key = "text" if isinstance(packet, str) else "bytes"
            self._incoming.put_nowait({"type": "websocket.receive", key: packet})

    async def receive_packet(self, timeout: float | None = None) -> str | bytes:
        """Return the next message, each one once, in order."""
        await self.wait(lambda: len(self.packets) > self._received, "a packet", timeout)
        self._received += 1
        return self.packets[self._received - 1]

    async def wait(self, found: Callable[[], Found | None], what: str, timeout: float | None = None) -> Found:
        """Wait until `found` returns something true, and return it. `what` names it in the error."""
        limit = self.timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(limit):
                while not (result := found()):
                    self._raise_if_ended(what)
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise TimeoutError(f"{what} did not come within {limit} s. {self._history()}") from None
        return result

    def _raise_if_ended(self, what: str) -> None:
        if self._task is None:
            raise ConnectionError(f"{what} cannot come: the websocket was not opened.")
        if self._is_over():
            raise ConnectionError(f"{what} did not come before the connection ended. {self._history()}")

    def _is_over(self) -> bool:
        """Return whether no packet can come any more. Raises the error with which the application ended."""
        if self._task is None or not self._task.done():
            return self.closed
        if not self._task.cancelled():
            self._task.result()
        return True

    def _history(self) -> str:
        shown = [packet[:SHOWN_CHARACTERS] for packet in self.packets[-SHOWN_PACKETS:]]
        lines = [f"{len(self.packets)} packets came; the last ones:", *map(repr, shown)]
        return "\n  ".join(lines) if shown else "No packet came."

    # The application's side

    async def _run(self) -> None:
        await self.application(self.scope, self._incoming.get, self._send)

    async def _send(self, message: Mapping[str, Any]) -> None:
        match message["type"]:
            case "websocket.accept":
                self.accepted = True
            case "websocket.close":
                self.closed = True
            case "websocket.send":
                text = message.get("text")
                self.packets.append(message["bytes"] if text is None else text)
                self._take(self.packets[-1])
        self._news.set()

    def _take(self, packet: str | bytes) -> None:
        """Handle a message that has just come. A subclass may answer it."""
