"""The processes of a run, to be killed, stopped and started again; and the programs that they leave."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.acceptance.site import ROOT

PR_SET_CHILD_SUBREAPER = 36
BEGUN = (b"Serving on ", b"Working")
"""The first words of a gateway, or a worker, that has started."""
DRAIN_LIMIT = 40.0
"""Seconds that an orderly stop may take."""
YOUNG = 5.0
"""Seconds after its start in which a process may end by itself: it may have met a fault of the database."""


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent dies, so that none gets lost."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def descendants(of: int) -> dict[int, str]:
    """Return the living processes below one, by pid, with their command lines."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] not in "ZX":
                parents[int(entry.name)] = int(fields[1])
    found: dict[int, str] = {}
    level = {of}
    while level := {pid for pid, parent in parents.items() if parent in level} - found.keys():
        found |= {pid: _command(pid) for pid in level}
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


class Managed:
    """A gateway or worker under a name that outlives the process. `trouble` is called if it misbehaves."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        environment: Mapping[str, str],
        folder: Path,
        trouble: Callable[[str], None],
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.txt"
        self._arguments = arguments
        self._environment = environment
        self._trouble = trouble
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._log_begin = 0
        self._busy = False
        """True while a fault is injected into it, so that its end is expected."""

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        command = [sys.executable, "manage.py", "ohsessions", *self._arguments]
        with self.log.open("ab") as log:
            self._log_begin = log.tell()
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=dict(self._environment), stdout=log, stderr=log
            )
        self._started_at = time.monotonic()

    async def kill(self, seconds: float) -> None:
        """Kill the process, and start it again after so many seconds."""
        self._busy = True
        self._signal(signal.SIGKILL)
        await self._wait()
        await asyncio.sleep(seconds)
        self.start()
        self._busy = False

    async def pause(self, seconds: float) -> None:
        """Stop the process (SIGSTOP) at any point, and resume it later."""
        self._signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._signal(signal.SIGCONT)

    async def drain(self, seconds: float) -> None:
        """Ask the process to stop, and start it again so many seconds after its end."""
        self._busy = True
        await self.stop()
        await asyncio.sleep(seconds)
        self.start()
        self._busy = False

    async def stop(self) -> None:
        """Stop the process in order. Report as trouble that it takes too long, or fails."""
        self._busy = True
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(DRAIN_LIMIT):
                code = await self._wait()
        except TimeoutError:
            self._trouble(f"{self.name} did not stop within {DRAIN_LIMIT:.0f} s of SIGTERM")
            self._signal(signal.SIGKILL)
            await self._wait()
        else:
            if code and not (code == -signal.SIGTERM and not self._has_begun()):
                self._trouble(f"{self.name} (pid {self.pid}) exited with {code} after SIGTERM")

    def end_at_once(self) -> None:
        """End the process in any state, at the end of the run."""
        if self.lives:
            self._signal(signal.SIGKILL)
            assert self._process is not None
            self._process.wait()

    def supervise(self) -> None:
        """Start the process again if it has ended by itself, as an init system does."""
        if self._busy or self.lives or self._process is None:
            return
        age = time.monotonic() - self._started_at
        if age > YOUNG:
            self._trouble(f"{self.name} (pid {self.pid}) exited by itself with {self._process.returncode}")
        self.start()

    def memory(self) -> int:
        """Return the largest resident size so far in MiB; 0 if it does not run."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return 0
        lines = (line.split() for line in status.splitlines() if line.startswith("VmHWM"))
        return next((int(line[1]) // 1024 for line in lines), 0)

    def _has_begun(self) -> bool:
        """Return whether the process has reported its start. Before that, SIGTERM ends it as it ends any
        program: it holds nothing yet that it could hand back."""
        with self.log.open("rb") as log:
            log.seek(self._log_begin)
            text = log.read()
        return any(word in text for word in BEGUN)

    def _signal(self, number: int) -> None:
        if self.lives:
            os.kill(self.pid, number)

    async def _wait(self) -> int:
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait)
