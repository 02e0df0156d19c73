"""The OPTIONS of the shell: its limits and its sandbox."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from ohsessions.core.value_types import describe, fits, is_less

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ShellOptions:
    """Options, with sizes in bytes and times in seconds; None is no limit. See docs/runtimes.md for each."""

    bash: str = "bash"
    """Path or name of the program."""
    path: str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    """The PATH of the shells."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Further environment variables."""

    sandbox: Literal["auto", "bwrap", "none"] = "auto"
    """`auto`: bubblewrap if it works here. `bwrap`: else no shell starts. `none`: the worker's rights."""
    network: bool = False
    """True if a sandbox shares the host's network, including its databases on localhost."""
    readable: list[str] = field(default_factory=list)
    """Further paths of the host that a sandbox can read."""
    tmp_bytes: int = 256 * MIB
    """The size of a sandbox's /tmp, and of its /dev/shm. Both are in memory, and empty after each start."""

    output_limit: int = 1 * MIB
    """The part of a command's output that is kept: an agent reads a hundredth of it."""
    command_seconds: float | None = 3600
    """The time that a command may run. It is then stopped; its exit code is 124."""
    cpu_seconds: int | None = 3600
    """The CPU time of one program."""
    memory_bytes: int | None = 2048 * MIB
    """The memory of one program (RLIMIT_DATA), and of all programs of a shell together (looked up)."""
    processes: int | None = 256
    """The processes and threads of a shell."""
    file_bytes: int | None = 1024 * MIB
    """The size of one file."""
    open_files: int | None = 1024
    """The open files of one program."""
    disk_bytes: int | None = 2048 * MIB
    """The size of the workspace's content (looked up)."""
    disk_files: int | None = 100_000
    """The number of files and directories in the workspace."""

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> Self:
        """Return the options. Raise ValueError with the first mistake."""
        for mistake in mistakes(options):
            raise ValueError(mistake)
        return cls(**options)


LEAST = {"open_files": 16, "output_limit": 0, "tmp_bytes": MIB}
"""The smallest values of options for which it is not 1. Bash itself needs 12 open files."""


def mistakes(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield the mistakes in the OPTIONS of a shell, each as a sentence that names the option."""
    kinds = typing.get_type_hints(ShellOptions)
    for name, value in options.items():
        if name not in kinds:
            yield f"{name!r} is no option of the shell; it has {', '.join(sorted(kinds))}."
        elif not fits(value, kinds[name]):
            yield f"{name!r} is {value!r}, which is not of the type {describe(kinds[name])}."
        elif is_less(value, LEAST.get(name, 1)):
            yield f"{name!r} is {value!r}; at least {LEAST.get(name, 1)}, or leave it out."
