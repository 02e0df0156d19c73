"""A shell runtime from its user's view, for the tests of the shell."""

from __future__ import annotations

import asyncio

from ohsessions.runtimes.shell import ShellRuntime
from ohsessions.testing import RecordingContext

LIMIT = 20.0
"""Seconds until a test considers an expected event missing."""


class Shell:
    """A shell runtime in a context of its own, and the output that a user sees."""

    def __init__(self, context: RecordingContext, **options) -> None:
        self.context = context
        self.options = options
        self.runtime = ShellRuntime(context, **options)

    async def start(self, snapshot=None) -> None:
        await self.runtime.start(snapshot)

    async def run(self, command: str, **args) -> tuple[int, str]:
        """Run a command, and return its exit code and its whole output."""
        async with asyncio.timeout(LIMIT):
            action = await self.context.act(self.runtime, "run", command=command, **args)
        return self.result(action.id)

    def result(self, number: int) -> tuple[int, str]:
        events = self.context.observations("run", cause=number)
        assert [event["extras"]["exit_code"] for event in events[:-1]] == [-1] * (len(events) - 1)
        return events[-1]["extras"]["exit_code"], "".join(event["content"] for event in events)

    async def begin(self, command: str) -> asyncio.Task:
        """Run a command in a task, and return the task when the command has printed `ready`."""
        task = asyncio.create_task(self.run(command))
        await self.context.wait_for_event(
            lambda event: event.get("observation") == "run" and "ready" in event["content"]
        )
        return task

    async def interrupt(self, state: str) -> None:
        await self.context.interrupt(self.runtime, state)

    async def sleep_and_wake(self) -> None:
        """Passivate the runtime, and start a new one from its snapshot, as a worker would."""
        snapshot = await self.runtime.passivate()
        await self.runtime.close()
        self.runtime = ShellRuntime(self.context, **self.options)
        await self.start(snapshot)

    @property
    def pid(self) -> int:
        return self.runtime._bash.pid

    def states(self) -> list[str]:
        return [event["extras"]["agent_state"] for event in self.context.observations("agent_state_changed")]
