"""The way by which a bash tells its runtime, unseen by the commands that it runs.

A named pipe that bash opens anew for each report: no open file that a command could inherit, write to or
close, and no mark in the output that a background job could break or a command could print.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ohsessions.runtimes.shell_state import REPORT_END, RUN_SCRIPT, Report

REPORT_LIMIT = 4 * 1024 * 1024
"""Bytes of a report beyond which only its head is read: such a state is not kept."""
HEAD_BYTES = 16 * 1024
"""Enough for the number, exit code and directory (PATH_MAX is 4,096)."""


class ReportChannel:
    """A named pipe, in a directory of its own until `close`, and the reader at its end.

    `report` is called for each report that comes in; what is none is passed over. `run_path` is a file there
    that bash sources for each command.
    """

    def __init__(self, report: Callable[[Report], None]) -> None:
        self._report = report
        self._data = bytearray()
        self._overflown = False
        self._directory = tempfile.mkdtemp(prefix="ohsessions-shell-")
        self.path = Path(self._directory) / "reports"
        os.mkfifo(self.path, 0o600)
        self.run_path = self.path.with_name("run")
        self.run_path.write_text(RUN_SCRIPT)
        # Open for writing too, so that it has no end when bash closes it.
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._read)

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._data += os.read(self._descriptor, 65536)
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
