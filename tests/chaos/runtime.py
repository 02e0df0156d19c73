"""A runtime that writes down its actions, so that the checker can compare them with the log.

Each process appends to a file of its own. A line is one write, so that a kill leaves whole lines. The action
determines how many events its answer has, how slowly they come, and whether a program is started.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from ohsessions.core.runtime import JSON, Action, Runtime, SupervisedProcess
from tests.chaos.actions import CRASH

PROGRAM = Path(__file__).with_name("program.py")


class DeliberateCrash(Exception):
    """The crash that an action asks for."""


class CountingRuntime(Runtime):
    """A runtime that counts its actions in its snapshot.

    Options: `folder` for the files, `retries`, and `ballast`, the characters that make its snapshot large.
    """

    def __init__(self, context: Any, *, folder: str, retries: bool = False, ballast: int = 0) -> None:
        super().__init__(context)
        self.retries_interrupted = retries
        self._folder = Path(folder)
        self._ballast = "x" * ballast
        self._activation = uuid.uuid4().hex[:12]
        # Each line contains the epoch, by which the checker orders the activations.
        self._epoch: int = context.epoch
        self._file = os.open(
            self._folder / f"runtime-{os.getpid()}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644
        )
        self._counter = 0
        self._program: SupervisedProcess | None = None

    async def start(self, snapshot: JSON) -> None:
        self._counter = snapshot["counter"] if snapshot else 0
        self._note("start")
        await asyncio.sleep(float(self.context.settings.get("start_seconds") or 0))

    async def handle(self, action: Action) -> None:
        self._note("begin", action.id)
        args = action.args
        parts = int(args["parts"])
        if args.get("program") and self._program is None:
            self._program = await self._spawn()
        for part in range(parts):
            last = part == parts - 1
            await asyncio.sleep(args["milliseconds"] / 1000 / parts)
            if last and action.type == CRASH:
                raise DeliberateCrash(args["tag"])
            if last:
                self._counter += 1
                self.context.checkpoint(self._snapshot())
            extras = {"tag": args["tag"], "part": part, "last": last, "counter": self._counter}
            await self.context.emit(observation="chaos", content="", extras=extras)
        self._note("end", action.id)

    async def interrupt(self, action: Action) -> None:
        self._note("interrupt", action.id)

    async def passivate(self) -> JSON:
        self._note("passivate")
        return self._snapshot()

    async def close(self) -> None:
        self._note("close")
        os.close(self._file)

    async def _spawn(self) -> SupervisedProcess:
        notes = self._folder / f"program-{self._activation}.jsonl"
        record = {
            "session": self.context.session_id.hex,
            "epoch": self._epoch,
            "activation": self._activation,
        }
        argv = [sys.executable, "-I", "-S", str(PROGRAM), str(notes), json.dumps(record)]
        return await self.context.spawn(argv, env={"PATH": os.environ.get("PATH", "")})

    def _snapshot(self) -> JSON:
        return {"counter": self._counter, "ballast": self._ballast}

    def _note(self, kind: str, action: int | None = None) -> None:
        record = {
            "at": time.monotonic(),
            "session": self.context.session_id.hex,
            "epoch": self._epoch,
            "activation": self._activation,
            "pid": os.getpid(),
            "kind": kind,
            "action": action,
            "counter": self._counter,
        }
        os.write(self._file, (json.dumps(record) + "\n").encode())
