"""Runtimes that break in every way. OHSESSIONS_RUNTIMES makes them known to a site. Do not copy them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from ohsessions import Action, Runtime, RuntimeContext
from ohsessions.conf import conf
from ohsessions.core.runtime import JSON

VANISHED = "vanished"
BURST = 10_000


class BrokenRuntime(Runtime):
    """A runtime that breaks where the session's setting `breaks` or, in `handle`, an action tells it to."""

    def __init__(self, context: RuntimeContext, **options: Any) -> None:
        super().__init__(context, **options)
        self.snapshot: JSON = {"handled": 0}
        self._break("init")

    def _break(self, where: str) -> None:
        if self.context.settings.get("breaks") == where:
            secret = self.context.secrets["llm_api_key"]
            raise RuntimeError(f"{where} broke with the key {secret}\nand more of {secret}")

    @property
    def busy(self) -> bool:
        self._break("busy")
        return False

    async def start(self, snapshot: JSON) -> None:
        self.snapshot = snapshot or self.snapshot
        if self.context.settings.get("breaks") == "start-hangs":
            await asyncio.Event().wait()
        self._break("start")

    async def handle(self, action: Action) -> None:
        await getattr(self, "do_" + action.type)(action.args)
        self.snapshot = {"handled": self.snapshot["handled"] + 1}
        self.context.checkpoint(self.snapshot)

    async def interrupt(self, action: Action) -> None:
        self._break("interrupt")

    async def passivate(self) -> JSON:
        self._break("passivate")
        match self.context.settings.get("breaks"):
            case "passivate-hangs":
                await asyncio.Event().wait()
            case "passivate-ignores-cancel":
                await ignore_cancel()
            case "snapshot-object":
                return object()
            case "snapshot-nan":
                return {"x": float("nan")}
            case "snapshot-surrogate":
                return {"x": "\ud800"}
            case "snapshot-circular":
                return circular()
        return self.snapshot

    async def close(self) -> None:
        if self.context.settings.get("breaks") == "close-hangs":
            await asyncio.Event().wait()
        self._break("close")

    # Actions

    async def do_say(self, args: dict[str, JSON]) -> None:
        await self.context.emit(observation="said", content=str(self.snapshot["handled"]))

    async def do_raise(self, args: dict[str, JSON]) -> None:
        await self.context.emit(observation="said", content="before")
        raise RuntimeError(f"the key is {self.context.secrets['llm_api_key']}")

    async def do_exit(self, args: dict[str, JSON]) -> None:
        sys.exit(3)

    async def do_cancel(self, args: dict[str, JSON]) -> None:
        task = asyncio.create_task(asyncio.Event().wait())
        task.cancel()
        await task

    async def do_hang(self, args: dict[str, JSON]) -> None:
        await asyncio.Event().wait()

    async def do_ignore_cancel(self, args: dict[str, JSON]) -> None:
        await ignore_cancel()

    async def do_emit(self, args: dict[str, JSON]) -> None:
        await self.context.emit(observation="bad", extras={"x": BAD[args["what"]]()})

    async def do_notify(self, args: dict[str, JSON]) -> None:
        await self.context.notify({"notice": "delta", "x": BAD[args["what"]]()})

    async def do_checkpoint(self, args: dict[str, JSON]) -> None:
        self.context.checkpoint(BAD[args["what"]]())

    async def do_burst(self, args: dict[str, JSON]) -> None:
        for number in range(BURST):
            await self.context.emit(observation="burst", content=str(number))

    async def do_repeat_the_key(self, args: dict[str, JSON]) -> None:
        key = self.context.secrets["llm_api_key"]
        await self.context.emit(observation="said", content=key, extras={key: [key]}, message=f"x{key}x")
        await self.context.notify({"notice": "delta", "content": key})


class DeadlyRuntime(BrokenRuntime):
    """A runtime that kills its worker soon after it is ready, each time, without an action."""

    async def start(self, snapshot: JSON) -> None:
        asyncio.get_running_loop().call_later(0.3, os.kill, os.getpid(), signal.SIGKILL)


async def ignore_cancel() -> None:
    """Continue for a while, despite cancellations."""
    end = asyncio.get_running_loop().time() + 8
    while asyncio.get_running_loop().time() < end:
        try:
            await asyncio.sleep(0.2)
        except asyncio.CancelledError:
            continue


def circular() -> JSON:
    value: list[Any] = []
    value += [value, value]
    return value


def deep() -> JSON:
    value: JSON = 1
    for _ in range(5000):
        value = [value]
    return value


BAD = {
    "object": object,
    "nan": lambda: float("nan"),
    "surrogate": lambda: "\ud800",
    "nul": lambda: "\0",
    "bytes": lambda: b"x",
    "keys": lambda: {1: 2},
    "circular": circular,
    "deep": deep,
    "large": lambda: "x" * (2 * conf.MAX_ACTION_BYTES + 65 * 1024),
}


class EagerRuntime(BrokenRuntime):
    """A runtime that emits more than fits into its outbox before it is ready."""

    async def start(self, snapshot: JSON) -> None:
        for number in range(1500):
            await self.context.emit(observation="eager", content=str(number))


def __getattr__(name: str) -> Any:
    """Return a class that can be imported until there is a file VANISHED, as after a wrong deployment."""
    if name != "VanishingRuntime" or (Path(conf.WORKSPACE_ROOT) / VANISHED).exists():
        raise AttributeError(f"there is no {name}")
    return BrokenRuntime
