"""One bash process: it is started, given commands and interrupted, and it reports the end of a command.

It is an interactive bash without a terminal. In an interactive bash, an error (such as an unset variable
under `set -u`) or an interrupt ends the command and not the shell. Each command is passed to `eval`, so
unbalanced quotes end with the command; a second line reports. The `eval` is in a file that bash sources,
where bash does not count as interactive. Otherwise bash would complain in the output about the missing
terminal whenever a program dies of a signal.

The commands get an empty input, and both output streams are merged in the FIFO of
ohsessions.runtimes.shell_exchange. Bash itself has other streams, so that code which it runs between two
commands (prompts, traps) neither reads our lines nor prints into the output. Its standard output carries our
frames, its standard error goes nowhere, and its input is /dev/null except while it waits for the next
command. So a bash that can no longer do its part ends at once, with or without a last report; it never hangs.
"""

from __future__ import annotations

import asyncio
import shlex
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ohsessions.core.errors import RuntimeFailure
from ohsessions.core.runtime import RuntimeContext, SupervisedProcess
from ohsessions.programs.watchdog import children, descendants, try_kill
from ohsessions.runtimes.shell_exchange import Exchange, Frames
from ohsessions.runtimes.shell_output import OutputBuffer
from ohsessions.runtimes.shell_state import Report, ShellState, parse_traps

READY_SECONDS = 20.0
"""Seconds that bash may take to be ready, or to begin a command: 5 ms, and the time for a large state."""
INTERRUPT_SECONDS = 2.0
"""Seconds for a command to end after SIGINT. docs/protocol.md sets none; a terminal user waits as long."""
BREAK_SECONDS = 1.0
"""Seconds after those during which the command's processes are killed; then bash itself is killed."""
ROUND_SECONDS = 0.05
"""Seconds between two looks whether bash, between two programs, has missed the interrupt."""

LAST_OUTPUT_SECONDS = 5.0
"""Seconds to wait for the output after the end of bash: its watchdog kills all that could print."""


class Bash:
    """A bash below its watchdog. `output` gets everything that bash and its commands print."""

    def __init__(self, output: OutputBuffer, exchange: Exchange) -> None:
        """`exchange` is closed with this bash."""
        self.output = output
        self.exit_code: int | None = None
        self.report: Report | None = None
        self.first_report = Report(0, 0)
        self.has_begun = False
        """True if bash has read the last command; otherwise no part of that command was run."""
        self._waits_after = 0
        self._number = 0
        self._before: frozenset[int] = frozenset()
        self._paused = False
        self._tasks: list[asyncio.Task[None]] = []
        self._transports: list[asyncio.BaseTransport] = []
        self._process: SupervisedProcess | None = None
        self._frames = Frames(self._on_frame)
        self._exchange = exchange
        self._pid = 0

    async def open(
        self, context: RuntimeContext, argv: Sequence[str], env: Mapping[str, str], depth: int
    ) -> None:
        """Start bash in the workspace. Raise RuntimeFailure; `close` must be called even then.

        `argv` ends with the path of bash. Bash is `depth` generations of children below the started program.
        """
        flags = ["--norc", "--noprofile", "--noediting", "-i"]
        output = await self._open_stream("output")
        reports = await self._open_stream("reports")
        self._process = await context.spawn(
            [*argv, *flags],
            env=env,
            cwd=context.workspace.absolute(),
            scratch=self._exchange.directory,
        )
        self._tasks = [
            asyncio.create_task(self._read_output(output), name="shell output"),
            asyncio.create_task(self._read_frames(reports), name="shell reports"),
            asyncio.create_task(self._wait_for_end(self._process), name="shell end"),
        ]
        self._process.stdin.write(self._exchange.first_line())
        self.first_report = await self._ready([])
        self._pid = self._process.pid
        for _ in range(depth):
            self._pid = next(iter(children(self._pid)), 0)

    async def _open_stream(self, name: str) -> asyncio.StreamReader:
        stream, transport = await self._exchange.open_stream(name)
        self._transports.append(transport)
        return stream

    async def restore(self, state: ShellState, cwd: str) -> Report:
        """Bring a new bash into a state, in the directory `cwd`. Raise RuntimeFailure if that breaks bash."""
        return await self._ready([f"cd -- {shlex.quote(cwd)}", *state.scripts()])

    async def _ready(self, scripts: list[str]) -> Report:
        self._number += 1
        self.report = None
        self._exchange.set_up(self._number, scripts)
        await self.output.wait_until(lambda: self.ended, READY_SECONDS)
        if self.report is None or not self.waits:
            why = await self._first_words()
            raise RuntimeFailure(
                "shell_broken", f"bash ended, or was not ready in {READY_SECONDS:g} s. {why}".strip()
            )
        await self.output.settle()
        self.output.clear()
        return self.report

    async def _first_words(self) -> str:
        """Return the output from before bash had other streams: why a sandbox or bash could not start."""
        if self._process is None:
            return ""
        try:
            async with asyncio.timeout(1):
                words = await self._process.stdout.read(1000)
        except TimeoutError:
            return ""
        return words.decode(errors="replace").strip()

    @property
    def waits(self) -> bool:
        """True if bash has ended the last command or set-up, and can take another command."""
        return self._waits_after == self._number and self.exit_code is None

    @property
    def ended(self) -> bool:
        """True if the last command or set-up has ended, or bash itself."""
        return self.exit_code is not None or self._waits_after == self._number

    def begin(self, command: str, state: ShellState) -> None:
        """Start a command with the exit codes, the traps and the prompts of `state`."""
        self._number += 1
        self.report = None
        self.has_begun = False
        self._before = frozenset(descendants(self.pid))
        statuses = state.pipe_status or [state.status]
        self._exchange.run(self._number, command, state.before_command(), statuses)

    async def wait_for_begin(self) -> None:
        """Wait until the command has begun, or bash has ended; kill a bash that does not read its lines.

        Only a trap that runs while bash waits could have read the lines in place of bash.
        """
        if not await self.output.wait_until(lambda: self.ended or self.has_begun, READY_SECONDS):
            await self.kill()

    async def kill(self) -> None:
        """Kill bash with everything it started."""
        if self._process is not None:
            await self._process.kill()
            await self.output.wait_until(lambda: self.exit_code is not None)

    def pause(self) -> None:
        """Stop all processes of the command, and bash."""
        self._paused = True
        self._signal([self.pid, *self._foreground()], signal.SIGSTOP)

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._signal([*self._foreground(), self.pid], signal.SIGCONT)

    async def stop(self) -> None:
        """End the running command: send SIGINT as a terminal does, then SIGKILL, then kill bash itself."""
        self.resume()
        interrupted: set[int] = set()
        for round_number in range(int((INTERRUPT_SECONDS + BREAK_SECONDS) / ROUND_SECONDS)):
            if round_number * ROUND_SECONDS >= INTERRUPT_SECONDS:
                self._signal(interrupted.intersection(self._foreground()), signal.SIGKILL)
            self._interrupt(interrupted)
            if await self.output.wait_until(lambda: self.ended, ROUND_SECONDS):
                return
        await self.kill()

    def _interrupt(self, interrupted: set[int]) -> None:
        """Send SIGINT to bash and to the processes of the command, but to no program twice.

        A second SIGINT would break off a program that is ending in order. Bash may take an interrupt for a
        program's business, if that program ends by itself at the same moment. Bash then goes on, has a new
        child or none, and is interrupted again.
        """
        running = set(children(self.pid)) - self._before if self.pid else set()
        if running and running <= interrupted:
            return
        self._signal([self.pid], signal.SIGSTOP)  # so that bash starts nothing during the look
        foreground = self._foreground()
        # Bash first: it goes on if its child dies of the interrupt before bash knows of the interrupt.
        self._signal([self.pid, *(pid for pid in foreground if pid not in interrupted)], signal.SIGINT)
        self._signal([self.pid], signal.SIGCONT)
        interrupted.update(foreground)

    async def wait_for_last_output(self) -> None:
        """Wait until `output` has everything that was printed before the end of the command, or of bash."""
        if self.exit_code is None:
            await self.output.settle()
        elif self._tasks:
            self.output.lift_bound()
            await asyncio.wait(self._tasks, timeout=LAST_OUTPUT_SECONDS)
            self.output.add(self._frames.take_rest())

    async def close(self) -> None:
        """Kill bash with everything it started, and free all files, whatever happened before."""
        try:
            if self._process is not None:
                await self._process.kill()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._tasks = []
            for transport in self._transports:
                transport.close()
            await asyncio.sleep(0)  # the transports close their files in the next turn of the loop
            self._exchange.close()

    @property
    def pid(self) -> int:
        """The pid of bash itself, on this host; 0 once bash has ended."""
        return self._pid if self.exit_code is None else 0

    def _foreground(self) -> list[int]:
        """Return the processes of the command: all below bash, except those below an older process."""
        return list(descendants(self.pid, self._before)) if self.pid else []

    def _signal(self, pids: Iterable[int], number: int) -> None:
        for pid in filter(None, pids):
            try_kill(pid, number)

    def _on_frame(self, content: bytes, complete: bool) -> None:
        kind, _, rest = content.partition(b"\0")
        if kind == b"report":
            self._on_report(content, complete)
            return
        number, _, rest = rest.partition(b"\0")
        if number != b"%d" % self._number:
            return
        if kind == b"begun":
            self.has_begun = True
        elif kind == b"traps" and self.report is not None and not self.report.command_traps:
            traps = parse_traps(rest.decode(errors="surrogateescape"))
            self.report = replace(self.report, command_traps=tuple(traps))
        elif kind == b"waits":
            self._waits_after = self._number
        self.output.notify()

    def _on_report(self, content: bytes, complete: bool) -> None:
        try:
            report = Report.parse(content, complete=complete)
        except ValueError:
            return
        if report.number == self._number and self.report is None:
            self.report = report

    async def _read_output(self, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(65536):
            self.output.add(data)
            await self.output.wait_for_room()

    async def _read_frames(self, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(65536):
            self._frames.feed(data)

    async def _wait_for_end(self, process: SupervisedProcess) -> None:
        self.exit_code = await process.wait()
        self._exchange.expect_end()
        self.output.notify()
