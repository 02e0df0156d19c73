"""The files between a runtime and its bash: commands go in, their output comes out.

Each bash has a directory of its own for its life, with three FIFOs and the files that bash is told to source.
Commands are in a file, since bash needs 10 s to parse a quoted word of 3 MB and 20 ms to read it. Bash opens
each file anew when it needs the file, so a command inherits no open file except its three streams.

The directory is deleted with its bash. If this process is killed, the watchdog deletes the directory (see
`scratch` of ProgramSupervisor.spawn()).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ohsessions.programs.supervisor import STREAM_LIMIT
from ohsessions.runtimes.shell_state import FRAME, FRAME_END, REPORT_SCRIPT

REPORT_LIMIT = 1024 * 1024
"""Bytes of a report. Only the head of a longer report is read, and its state is not kept: a new bash would
need seconds to read it."""
HEAD_BYTES = 16 * 1024
"""Enough for the number, the exit code and the directory (PATH_MAX is 4,096)."""
READ_AT_ONCE = 1024
"""The most bytes that bash reads into a buffer of its own (seen with strace, bash 5.2)."""
ENDINGS = 3
"""The number of times that a command's last line is written. A late interrupt costs one of these lines, or
its report. The last of them ends the command, if necessary without a report."""

_SETUP = rf"""
PROMPT_COMMAND=() PS0= PS1= PS2=
set +H +o history
shopt -s expand_aliases execfail
__ohsessions_status() {{ builtin return "$1"; }}
__ohsessions_end() {{
  if [[ ${{__ohsessions_done-}} != "$1" ]]; then
    if [[ ! /dev/fd/1 -ef WHERE/reports ]]; then exec >>WHERE/reports; fi
    if [[ /dev/fd/1 -ef WHERE/reports ]]; then ( {REPORT_SCRIPT} ) && __ohsessions_done=$1; fi
  fi
  __ohsessions_number=$1 __ohsessions_again=$3
}}
readonly -f __ohsessions_status __ohsessions_end
readonly __ohsessions_wait='[[ ! $__ohsessions_again || ${{__ohsessions_done-}} == $__ohsessions_number ]] &&
[[ /dev/fd/1 -ef WHERE/reports ]] &&
\builtin printf "\0ohsessions\0traps\0%s\0" "$__ohsessions_number" && \builtin trap -p DEBUG ERR RETURN &&
\builtin printf "\0.\0" && \builtin trap - DEBUG ERR RETURN && PROMPT_COMMAND=() PS0= PS1= PS2= &&
\builtin eval "\exec <WHERE/input" && [[ /dev/fd/0 -ef WHERE/input ]] &&
\builtin printf "\0ohsessions\0waits\0%s\0.\0" "$__ohsessions_number"'
exec >>WHERE/reports 2>/dev/null
"""
"""`__ohsessions_wait` is for `eval`: in a function or a file, bash neither reports nor forgets a DEBUG
trap."""


_TELL_STATUSES = '\n{ __ohsessions_statuses=($? "${PIPESTATUS[@]}"); } 2>/dev/null\n'
"""A line inside the `eval`: after it, PIPESTATUS has only the exit code of the `eval` itself."""


def _may_tell_statuses(command: str, prologue: str) -> bool:
    """Return True if a command may have a pipeline, and text that is appended to it stays separate.

    An unfinished here-document, pipeline or function would swallow the text, and a DEBUG trap would see it.
    """
    swallows = "<<" in command or command.rstrip().endswith(("\\", "|", "&&", "()"))
    return "|" in command and not swallows and "DEBUG" not in command + prologue


class Exchange:
    """The directory of a bash, until `close`. Bash finds it at `seen_at`; `limits` ends the set-up script."""

    def __init__(self, seen_at: Path | None = None, limits: str = "") -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ohsessions-"))
        self._seen_at = shlex.quote(str(seen_at or self.directory))
        self._descriptors: dict[str, int] = {}
        try:
            for name in ("input", "output", "reports"):
                os.mkfifo(self.directory / name, 0o600)
            self._write_file("setup", _SETUP.replace("WHERE", self._seen_at) + limits)
            # Both ends are open, so there is neither a wait for the other side nor an end of file.
            self._open("input", "input", os.O_RDWR)
            for name in ("output", "reports"):
                self._open(name, name, os.O_RDONLY)
                self._open(f"{name} kept", name, os.O_WRONLY)
        except BaseException:
            self.close()
            raise

    def _open(self, key: str, name: str, flags: int) -> None:
        self._descriptors[key] = os.open(self.directory / name, flags | os.O_NONBLOCK | os.O_CLOEXEC)

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    async def open_stream(self, name: str) -> tuple[asyncio.StreamReader, asyncio.BaseTransport]:
        """Open `output` or `reports` as a stream. The caller must close the transport."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=STREAM_LIMIT)
        file = os.fdopen(self._descriptors.pop(name), "rb", 0)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
        return reader, transport

    def expect_end(self) -> None:
        """Let the streams end when all processes are dead that could write to them."""
        for name in ("output kept", "reports kept"):
            if (descriptor := self._descriptors.pop(name, None)) is not None:
                os.close(descriptor)

    def first_line(self) -> bytes:
        """Return the line that bash has to read from its first input, a pipe, to continue with our lines."""
        return f"exec <{self._seen_at}/input\n".encode()

    def set_up(self, number: int, scripts: Sequence[str] = ()) -> None:
        """Have bash define the functions of the other lines, read the scripts, and end as after a command."""
        lines = [f"\\builtin . {self._seen_at}/setup\n"]
        for index, script in enumerate(scripts):
            self._write_file(f"script{index}", script)
            lines.append(f"\\builtin . {self._seen_at}/script{index} >/dev/null\n")
        self._write("".join(lines), number)

    def run(self, number: int, command: str, prologue: str, statuses: Sequence[int]) -> None:
        """Have bash run a command, with `statuses` in PIPESTATUS and the last of them in `$?`."""
        where = self._seen_at
        text = command.replace("\0", "")
        if _may_tell_statuses(text, prologue):
            text += _TELL_STATUSES
        self._write_file("text", text + "\0")
        pipe = " | ".join(f"( \\builtin exit {status} )" for status in statuses)
        self._write_file(
            "command",
            f"\\builtin mapfile -n 1 -d '' -t __ohsessions_text <{where}/text"
            f" && \\builtin printf '\\0ohsessions\\0begun\\0%s\\0.\\0' {number} || \\builtin return 125\n"
            + f"__ohsessions_statuses=()\n{prologue}"
            + (pipe if len(statuses) > 1 else f"\\__ohsessions_status {statuses[0]}")
            + f'\n\\builtin eval -- "$__ohsessions_text" >>{where}/output 2>&1\n'
            '\\__ohsessions_status "${__ohsessions_statuses:-$?}"\n',
        )
        self._write(f"\\builtin . {where}/command\n", number)

    def _write(self, lines: str, number: int) -> None:
        """Write all lines of a command at once, so that bash has read them all before the command begins.

        During the command bash's input is empty. So the user's code between our lines (prompts, traps) cannot
        read them. A bash that cannot go back to our FIFO finds the end of its input: it ends, which is
        noticed, and does not hang.
        """
        ends = "".join(
            f'\\__ohsessions_end {number} "$?" {again};\\builtin eval "$__ohsessions_wait"\n'
            for again in ["again"] * (ENDINGS - 1) + [""]
        )
        data = f"\\exec </dev/null\n{lines}{ends}".encode()
        assert len(data) <= READ_AT_ONCE, len(data)
        with contextlib.suppress(BlockingIOError):
            os.write(self._descriptors["input"], data)

    def _write_file(self, name: str, text: str) -> None:
        (self.directory / name).write_bytes(text.encode(errors="surrogateescape"))


class Frames:
    """Finds our frames in bash's own output, and skips everything else."""

    def __init__(self, handle: Callable[[bytes, bool], None]) -> None:
        """`handle` gets the content of each frame, and True if the frame is complete."""
        self._handle = handle
        self._data = bytearray()
        self._overflown = False

    def feed(self, data: bytes) -> None:
        self._data += data
        while True:
            body, end, rest = self._data.partition(FRAME_END)
            if not end:
                break
            # Take the last start: other output may stand before it.
            _, start, content = body.rpartition(FRAME)
            if start:
                self._handle(bytes(content), not self._overflown)
            self._data = rest
            self._overflown = False
        if len(self._data) > REPORT_LIMIT:
            self._overflown = True
        if self._overflown:
            del self._data[HEAD_BYTES : -len(FRAME_END)]

    def take_rest(self) -> bytes:
        """Return the output after the last frame: that of an EXIT trap, once bash has ended."""
        rest, _, _ = self._data.partition(FRAME)
        self._data.clear()
        return bytes(rest)
