"""Watches what a shell uses while something runs in it, and ends what uses too much.

The kernel limits each program (ohsessions.runtimes.shell_sandbox). The guard limits the programs of a shell
together, the time of a command, and the disk. It looks at intervals, so a shell can exceed a limit between
two looks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from ohsessions.runtimes.shell_bash import Bash
from ohsessions.runtimes.shell_options import ShellOptions
from ohsessions.runtimes.shell_usage import disk_excess, usage_below

TIMED_OUT = 124
"""The exit code that timeout(1) uses."""
KILLED = 137
"""128 + SIGKILL."""
WATCH_SECONDS = 1.0
"""Seconds between two looks at processes and memory while a command or a job runs."""
DISK_SECONDS = 5.0
"""Seconds between two looks at the disk; a look takes 0.3 s for 100,000 files."""


class Guard:
    """The guard of one shell. `full` is the limit that the workspace exceeds, in words, or empty."""

    def __init__(
        self,
        options: ShellOptions,
        workspace: Path,
        bash: Callable[[], Bash | None],
        end: Callable[[int, str], Awaitable[None]],
    ) -> None:
        """`bash` returns the present bash. `end` is called with the exit code and the reason when a command
        has to end, or the background jobs if there is no command."""
        self.full = ""
        self._options = options
        self._workspace = workspace
        self._bash = bash
        self._end = end
        self._deadline: float | None = None
        self._disk_due = 0.0
        self._command_runs = False
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start the time limit of a command, and the watch over the shell."""
        seconds = self._options.command_seconds
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._command_runs = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch(), name="shell guard")

    async def ends(self) -> None:
        """End the time limit of the command, and look at the disk."""
        self._command_runs = False
        self._deadline = None
        await self.look_at_disk()

    async def look_at_disk(self) -> bool:
        """Look when it is time, or at once if the disk was full: the user may have made room. Return True if
        the disk became full, or has room again."""
        before = self.full
        if self.full or time.monotonic() >= self._disk_due:
            self.full = await asyncio.to_thread(disk_excess, self._workspace, self._options)
            self._disk_due = time.monotonic() + DISK_SECONDS
        return bool(self.full) != bool(before)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._pause())
            bash = self._bash()
            if self._deadline is not None and time.monotonic() >= self._deadline:
                self._deadline = None
                await self._end(TIMED_OUT, f"it ran for {self._options.command_seconds:g} s")
            usage = await asyncio.to_thread(usage_below, bash.pid) if bash is not None and bash.pid else None
            if usage is not None and (why := usage.excess(self._options)):
                await self._end(KILLED, why)
            elif not self.full and await self.look_at_disk():
                await self._end(KILLED, self.full)
            if not self._command_runs and (usage is None or not usage.processes):
                return

    def _pause(self) -> float:
        if self._deadline is None:
            return WATCH_SECONDS
        return max(0.0, min(WATCH_SECONDS, self._deadline - time.monotonic()))
