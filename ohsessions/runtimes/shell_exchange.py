"""The files in which a runtime and its bash meet: commands go in, reports come out.

Commands are read from a file, since a bash needs 10 s to parse a quoted word of 3 MB and 20 ms to read it.
Reports come through a pipe that bash opens anew for each: no open file that a command could inherit, write
to or close, and no mark in the output that a background job could break or a command could print.

All of them are open files of this process and in no directory: bash opens them by way of /proc/<pid>/fd. So
whatever becomes of this process, nothing of them is left. The kernel allows it to processes of the same user
(proc(5), ptrace(2)), unless this one changed its user since its program was started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable

from ohsessions.runtimes.shell_state import REPORT_END, REPORT_SCRIPT, Report

REPORT_LIMIT = 1024 * 1024
"""Bytes of a report beyond which only its head is read, and the state not kept: a new bash would need
seconds to take it in."""
HEAD_BYTES = 16 * 1024
"""Enough for the number, exit code and directory (PATH_MAX is 4,096)."""

_LOAD_SCRIPT = r"""
__ohsessions_load() { builtin mapfile -d '' -t __ohsessions_command <COMMANDS; builtin : >|COMMANDS; }
__ohsessions_status() { builtin return "$1"; }
readonly -f __ohsessions_load __ohsessions_status __ohsessions_report
"""
_RUN_SCRIPT = """builtin eval -- "${__ohsessions_command[__ohsessions_index]}" 2>&1\n"""


class Exchange:
    """The files, until `close`. `report` is called for each report; what is none is passed over."""

    def __init__(self, report: Callable[[Report], None]) -> None:
        self._report = report
        self._data = bytearray()
        self._overflown = False
        self._commands = os.memfd_create("ohsessions-commands")
        self._run = os.memfd_create("ohsessions-run")
        _replace(self._run, _RUN_SCRIPT.encode())
        # We keep an end for writing too, so that there is no end of file when bash closes its own.
        self._reports, self._unused = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._reports, self._read)

    def close(self) -> None:
        self._loop.remove_reader(self._reports)
        for descriptor in (self._commands, self._run, self._reports, self._unused):
            os.close(descriptor)

    def definitions(self) -> str:
        """The functions that the lines below call, for bash to read first."""
        report = REPORT_SCRIPT.replace("REPORTS", _path(self._reports))
        return report + _LOAD_SCRIPT.replace("COMMANDS", _path(self._commands))

    def run_lines(self, commands: Iterable[str], *, status: int = 0, output: str = "") -> str:
        """Lines that have bash run the commands, each at its top level; `status` is their first `$?`.

        `output` is where it goes, as bash writes it, if not to bash's own.
        """
        texts = [command.replace("\0", "") for command in commands]
        _replace(self._commands, b"".join(text.encode(errors="replace") + b"\0" for text in texts))
        prefix = f"__ohsessions_status {status} || " if status else ""
        run = f"{prefix}\\builtin \\. {_path(self._run)} </dev/null {output}"
        lines = [f"__ohsessions_index={index}\n{run}" for index in range(len(texts))]
        return "\n".join(["__ohsessions_load", *lines, ""])

    @property
    def is_empty(self) -> bool:
        """Whether bash has taken the commands."""
        return os.fstat(self._commands).st_size == 0

    @staticmethod
    def report_line(number: int, status: str) -> str:
        """A line that has bash report under a number; `status` is the exit code, as bash writes it."""
        return f"__ohsessions_report {number} {status} || :\n"

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._data += os.read(self._reports, 65536)
        while True:
            body, end, rest = self._data.partition(REPORT_END)
            if not end:
                break
            with contextlib.suppress(ValueError):
                self._report(Report.parse(bytes(body), complete=not self._overflown))
            self._data = rest
            self._overflown = False
        if len(self._data) > REPORT_LIMIT:
            self._overflown = True
        if self._overflown:
            del self._data[HEAD_BYTES : -len(REPORT_END)]


def _path(descriptor: int) -> str:
    """Where another process of this user finds an open file of ours."""
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def _replace(descriptor: int, data: bytes) -> None:
    with open(descriptor, "r+b", closefd=False) as file:
        file.seek(0)
        file.write(data)
        file.truncate()
