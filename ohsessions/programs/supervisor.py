"""The worker's side of the watchdogs: starts programs, feeds their watchdogs, and kills programs.

All of this uses pipes, a socket and a pidfd that the event loop watches, and none of asyncio's child
watchers. Those need the main thread or a thread per child, and Twisted (daphne) handles SIGCHLD in its own
way. This module does not know what a program may do, or for whom it works. See ohsessions.programs.watchdog.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from ohsessions.core.errors import NotFed, RuntimeFailure
from ohsessions.programs import watchdog
from ohsessions.programs.orphans import kill_orphans

logger = logging.getLogger(__name__)

START_SECONDS = 20.0
"""Seconds for a watchdog to start its program: it needs 15 ms, and far more on a machine that swaps."""
KILL_SECONDS = 10.0
"""Seconds that a watchdog may take to kill all processes; only one stuck in the kernel needs any time."""
STREAM_LIMIT = 64 * 1024
"""Bytes of output in memory before the program has to wait; asyncio keeps twice as much, and a chunk."""


class _PipeProtocol(asyncio.StreamReaderProtocol):
    """A StreamReaderProtocol whose event `closed` is set when its pipe is closed."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self.closed = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.closed.set()


class WatchedProgram:
    """A SupervisedProcess (ohsessions.core.runtime), made by ProgramSupervisor.spawn()."""

    pid = 0

    def __init__(
        self,
        guard: subprocess.Popen[bytes],
        pidfd: int,
        control: socket.socket,
        forget: Callable[[WatchedProgram], None],
    ) -> None:
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self._guard = guard
        self._control = control
        self._pidfd = pidfd
        self._received = b""
        self._ordered = False
        """True once the watchdog has its order. Nothing may be sent before the order or within it."""
        self._started: asyncio.Future[int] = self._loop.create_future()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._gone = asyncio.Event()
        self._pipes: list[tuple[asyncio.BaseTransport, _PipeProtocol]] = []
        control.setblocking(False)
        self._loop.add_reader(control, self._listen)
        self._loop.add_reader(self._pidfd, self._reap)

    async def open(self, order: bytes) -> None:
        """Connect the pipes, send the order and wait until the program is started; kill it if that fails."""
        try:
            await self._connect()
            async with asyncio.timeout(START_SECONDS):
                try:
                    await self._loop.sock_sendall(self._control, order)
                    self._ordered = True
                except OSError:
                    pass  # the watchdog is dead: `_started` gets the error
                self.pid = await asyncio.shield(self._started)
        except BaseException:
            await asyncio.shield(self.kill())
            raise

    async def _connect(self) -> None:
        self.stdout = asyncio.StreamReader(limit=STREAM_LIMIT)
        protocol = _PipeProtocol(self.stdout)
        reading, _ = await self._loop.connect_read_pipe(lambda: protocol, self._guard.stdout)
        self._pipes.append((reading, protocol))
        unused = asyncio.StreamReader()
        protocol = _PipeProtocol(unused)
        writing, _ = await self._loop.connect_write_pipe(lambda: protocol, self._guard.stdin)
        self._pipes.append((writing, protocol))
        self.stdin = asyncio.StreamWriter(writing, protocol, unused, self._loop)

    def feed(self, deadline: float) -> None:
        """Let the program live until `deadline` (monotonic seconds). Never blocks.

        A feed that does not fit into the socket is not sent. Neither is a feed before the order, which has a
        deadline of its own.
        """
        if self._ordered:
            self._send(b"feed %r\n" % deadline)

    def signal_group(self, number: int) -> None:
        if self.pid and not self._ended.done():
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                pass

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    async def kill(self) -> None:
        self._send(b"kill\n")
        try:
            async with asyncio.timeout(KILL_SECONDS):
                await self._gone.wait()
        except TimeoutError:
            logger.warning(
                "The watchdog %d of program %d did not end; killing both.",
                self._guard.pid,
                self.pid,
                extra={"verb": "watchdog_killed"},
            )
            self.signal_group(signal.SIGKILL)
            self._guard.kill()
            await self._gone.wait()
        for transport, protocol in self._pipes:
            if isinstance(transport, asyncio.WriteTransport) and not transport.is_closing():
                transport.abort()  # close() would first wait until the buffered data is read
            transport.close()
            await protocol.closed.wait()
        with self._guard:  # closes the pipes, in case they were not connected yet
            self._forget(self)

    def _send(self, line: bytes) -> None:
        try:
            self._control.send(line)
        except OSError:
            pass  # full: the watchdog is stopped and needs no feed; broken or closed: it is dead

    def _listen(self) -> None:
        try:
            data = self._control.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._control)
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            word, value = line.split(b" ")
            if word == b"started":
                self._started.set_result(int(value))
            elif word == b"failed":
                self._started.set_exception(OSError(int(value), os.strerror(int(value))))
                self._started.exception()  # retrieves the error, in case nobody waits for it any more
            elif word == b"ended" and not self._ended.done():
                self._ended.set_result(int(value))

    def _reap(self) -> None:
        """Clean up after the watchdog has ended. Nothing below it is alive, unless it was killed itself."""
        self._listen()
        self._loop.remove_reader(self._pidfd)
        self._loop.remove_reader(self._control)
        os.close(self._pidfd)
        self._control.close()
        killed = self._guard.wait() != 0
        if not self._started.done():
            self._started.set_exception(ChildProcessError(errno.ECHILD, "The watchdog died at its start"))
            self._started.exception()
        if not self._ended.done():
            self._ended.set_result(-signal.SIGKILL)
        if killed:
            self._hunt = asyncio.create_task(self._kill_orphans(), name="orphans")
        else:
            self._gone.set()

    async def _kill_orphans(self) -> None:
        try:
            count = await asyncio.to_thread(kill_orphans)
            logger.warning(
                "The watchdog %d was killed; killed %d processes that it had left.",
                self._guard.pid,
                count,
                extra={"verb": "orphans_killed"},
            )
        finally:
            self._gone.set()


class ProgramSupervisor:
    """The programs of one activation of a session: started, fed and killed together.

    A feed lasts `lease_seconds`; the constructor does the first feed (see feed()). Programs that have ended
    stay on the list, with their open pipes, until they are killed as well: that frees everything.
    """

    def __init__(self, lease_seconds: float, confirmed_at: float | None = None) -> None:
        self.lease_seconds = lease_seconds
        self._programs: set[WatchedProgram] = set()
        self._deadline = 0.0
        self.feed(confirmed_at)

    def feed(self, confirmed_at: float | None = None) -> None:
        """Let all programs live for `lease_seconds` after the confirmed renewal was sent.

        `confirmed_at` is that moment on the monotonic clock, by default now. Costs one small send each.
        """
        now = time.monotonic() if confirmed_at is None else confirmed_at
        self._deadline = max(self._deadline, now + self.lease_seconds)
        for program in self._programs:
            program.feed(self._deadline)

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        scratch: Path | None = None,
    ) -> WatchedProgram:
        """See RuntimeContext.spawn(). Raise RuntimeFailure (`cannot_spawn`), NotFed."""
        if time.monotonic() >= self._deadline:
            raise NotFed(f"{argv[0]} was not started: the worker's lease has run out.")
        order = watchdog.encode_order(
            argv, env, str((cwd or Path("/")).absolute()), self._deadline, str(scratch or "")
        )
        try:
            program = start_watchdog(self._programs.discard)
            self._programs.add(program)
            await program.open(order)
        except OSError as error:
            if time.monotonic() >= self._deadline:  # the watchdog's deadline was over when it began
                raise NotFed(f"{argv[0]} was not started in time: the worker's lease has run out.") from error
            raise RuntimeFailure("cannot_spawn", f"{argv[0]} could not be started: {error}.") from error
        program.feed(self._deadline)  # the deadline may have changed while it started
        return program

    async def kill_all(self) -> None:
        """Kill all programs, with everything they started, and wait until they are gone."""
        await asyncio.gather(*(program.kill() for program in list(self._programs)))


def start_watchdog(forget: Callable[[WatchedProgram], None]) -> WatchedProgram:
    """Start a watchdog and return the program that it will keep. Blocks for a vfork and exec, 1 to 2 ms.

    Raise OSError and leave nothing open: where descriptors are short, any of these calls may fail.
    """
    # Python may need this variable to find its libraries. No other variable of ours is needed.
    env = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    with ExitStack() as failed:
        ours, theirs = socket.socketpair()
        failed.callback(ours.close)
        with theirs:
            guard = subprocess.Popen(
                [sys.executable, "-I", "-S", watchdog.__file__, str(theirs.fileno())],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=env,
                cwd="/",
                start_new_session=True,
            )
        failed.enter_context(guard)
        failed.callback(guard.kill)  # the watchdog has no order yet, so nothing is below it
        pidfd = os.pidfd_open(guard.pid)
        failed.pop_all()
    return WatchedProgram(guard, pidfd, ours, forget)
