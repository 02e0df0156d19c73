"""Programs whose watchdog was killed: found by a mark that they cannot remove, and killed.

An unsandboxed program of the same user can kill its watchdog. The kernel then ends the program itself, but
not the processes that the program had started. All of these carry a limit (RLIMIT_LOCKS) that has no effect
on Linux since 2.4 and that only root could raise again. None of these is below a watchdog any more.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator

from ohsessions.programs import watchdog

SECONDS = 10.0
"""Seconds that the search may last. Orphans may multiply, but are stopped before the first is killed."""


def kill_orphans() -> int:
    """Kill all programs without a watchdog, of any worker; return how many. Blocks."""
    if is_marked(os.getpid()):
        return 0  # this process is below a watchdog itself, and so may be all that it sees
    killed: set[int] = set()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        found = [*orphans()]
        if not found:
            break
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in found:
                watchdog.try_kill(pid, number)
        killed.update(found)
        time.sleep(0.005)
    return len(killed)


def orphans() -> Iterator[int]:
    """Yield the marked processes that are alive and below no watchdog."""
    marked = {int(name) for name in os.listdir("/proc") if name.isdigit() and is_marked(int(name))}
    for pid in marked:
        above: int | None = pid
        while above in marked and above is not None:
            above = watchdog.parent(above)
        if not (above and is_watchdog(above)) and lives(pid):
            yield pid


def is_marked(pid: int) -> bool:
    try:
        return resource.prlimit(pid, watchdog.RLIMIT_LOCKS)[1] == 0
    except OSError:
        return False  # gone, or another user's


def is_watchdog(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return os.path.basename(watchdog.__file__).encode() in file.read()
    except OSError:
        return False


def lives(pid: int) -> bool:
    """Return True if a process exists and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False
