"""Looks at what a shell uses of its host: the kernel limits only single programs, and no directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ohsessions.programs.watchdog import descendants
from ohsessions.runtimes.shell_options import MIB, ShellOptions

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
BLOCK_BYTES = 512
"""The unit of st_blocks, whatever the blocks of the file system are (stat(2))."""


@dataclass(frozen=True, slots=True)
class Usage:
    processes: int = 0
    memory_bytes: int = 0

    def excess(self, options: ShellOptions) -> str:
        """Return in words which limit is exceeded, or an empty string."""
        if options.processes is not None and self.processes > options.processes:
            return f"its {self.processes} processes are more than {options.processes}"
        if options.memory_bytes is not None and self.memory_bytes > options.memory_bytes:
            return f"its programs use more than {options.memory_bytes // MIB} MiB of memory"
        return ""


def usage_below(pid: int) -> Usage:
    """Return the usage of all processes below `pid`: threads, and memory that is not shared with files."""
    processes = memory = 0
    for process in descendants(pid):
        try:
            threads = os.stat(f"/proc/{process}/task").st_nlink - 2
            with open(f"/proc/{process}/statm") as file:
                _, resident, shared, *_ = map(int, file.read().split())
        except (OSError, ValueError):
            continue
        processes += max(1, threads)
        memory += (resident - shared) * PAGE_BYTES
    return Usage(processes, memory)


def disk_excess(directory: Path, options: ShellOptions) -> str:
    """Return in words how a directory exceeds its limits, or an empty string. Blocks: call it in a thread.

    Stops at the first limit that is exceeded, and follows no links.
    """
    total = 0
    for count, size in enumerate(_sizes(directory), start=1):
        total += size
        if options.disk_bytes is not None and total > options.disk_bytes:
            return f"its files use more than {options.disk_bytes // MIB} MiB of disk"
        if options.disk_files is not None and count > options.disk_files:
            return f"its files and directories are more than {options.disk_files}"
    return ""


def _sizes(directory: Path) -> Iterator[int]:
    places = [os.fspath(directory)]
    while places:
        try:
            with os.scandir(places.pop()) as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                        if entry.is_dir(follow_symlinks=False):
                            places.append(entry.path)
                    except OSError:
                        continue
                    # A file with several names counts once for each name, which errs on the safe side.
                    yield status.st_blocks * BLOCK_BYTES
        except OSError:
            continue
