"""The well-behaved client, a process of its own: it sends 20 echoes a second and measures each one.

`python -m tests.attack.neighbour PORT COOKIE` writes one line of JSON for each echo: the time at which it was
due, and the seconds that it took. It also writes one for each time that its connection was ended. An echo is
due even if the one before it has not come. So a server that stops for a second costs twenty echoes, not one.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from tests.attack.sockets import Gone, Wire, action, connect

PERIOD = 0.05
LAST_LIMIT = 5.0
"""Seconds to wait for the last echoes, at the end."""
PAUSE = 0.2
"""Seconds before it connects again after its connection was ended."""


class Neighbour:
    """A client that sends the echoes that are due and reads the answers, in two tasks over one connection."""

    def __init__(self, port: int, cookie: str) -> None:
        self.port = port
        self.cookie = cookie
        self.due: dict[str, float] = {}
        self.wire: Wire | None = None
        self.token: str | None = None

    async def live(self) -> None:
        reading = asyncio.create_task(self._read(), name="neighbour reads")
        ending = asyncio.create_task(asyncio.to_thread(sys.stdin.read), name="neighbour is told to end")
        number, begun = 0, time.monotonic()
        while not ending.done() and not reading.done():
            number += 1
            at = begun + number * PERIOD
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            self.due[f"n{number}"] = at
            if self.wire is not None:
                try:
                    await self.wire.text(action("message", {"content": f"n{number}"}))
                except Gone:
                    pass  # _read() ends as well, and live() notices
        for _ in range(50):
            if self.due:
                await asyncio.sleep(LAST_LIMIT / 50)
        # An echo that never came counts with the time that it has waited.
        for at in self.due.values():
            tell(at=at, took=time.monotonic() - at, lost=True)
        if reading.done():
            reading.result()
        reading.cancel()

    async def _read(self) -> None:
        while True:
            try:
                await self._attach()
                while True:
                    assert self.wire is not None
                    self._take(await self.wire.wait_text("42", 3600))
            except (Gone, OSError) as error:
                tell(cut=time.monotonic(), why=str(error))
                self.wire = None
                await asyncio.sleep(PAUSE)

    async def _attach(self) -> None:
        wire = await connect(
            self.port, "127.0.0.1", headers={"Cookie": self.cookie, "X-Forwarded-Proto": "https"}
        )
        await wire.text("40")
        await wire.wait_text("40")
        await wire.text(action("initialize", {"runtime": "echo"}, token=self.token))
        answer = await wire.wait_text('42["oh_event",{"token"')
        self.token = json.loads(answer[2:])[1]["token"]
        await wire.wait_text('42["oh_event",{"id"')
        self.wire = wire

    def _take(self, packet: str) -> None:
        event: dict[str, Any] = json.loads(packet[2:])[1]
        if event.get("observation") == "echo":
            at = self.due.pop(str(event.get("content")), None)
            if at is not None:
                tell(at=at, took=time.monotonic() - at)


def tell(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    asyncio.run(Neighbour(int(sys.argv[1]), sys.argv[2]).live())
