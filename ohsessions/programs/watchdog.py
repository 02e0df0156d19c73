"""A program that runs another program, and kills it with all its descendants if it is no longer fed.

The worker starts one watchdog for each process of a runtime (ohsessions.programs.supervisor is the other
side), and feeds it at each confirmed renewal of its lease. The watchdog kills everything below it when the
worker is gone in any way (the control socket closes), when it is not fed in time (the worker is stopped, or
lost its lease), when the worker orders it, or when the program has ended. No process below can escape: the
watchdog is a "subreaper", so a process whose parent died becomes its child, even after setsid or a double
fork (Linux, prctl(2)). It cannot kill programs that run as another user (setuid), and a program of the same
user can reach it: it guards against accidents, and is no sandbox. If the watchdog itself is killed, the
program dies with it, and the worker looks for the program's descendants (ohsessions.programs.orphans).

It knows nothing of sessions. It imports little, since there is one per session: started with
`python -I -S watchdog.py <fd of the control socket>` it was measured at 15 ms and 4 MB of its own.

The socket is a stream. First come the bytes of `Order`, then lines: `feed <deadline>` or `kill`. Deadlines
are seconds of this host's monotonic clock, so a feed that arrives late does not count for more. The watchdog
sends `started <pid>` or `failed <errno>`, then `ended <exit code>`. It closes the socket when nothing is left
alive.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
"""All from <linux/prctl.h>."""

RLIMIT_LOCKS = 10
"""A limit without effect. It marks the programs that belong below a watchdog (see worker.orphans)."""


def encode_order(
    argv: Sequence[str], env: Mapping[str, str], cwd: str, deadline: float, scratch: str = ""
) -> bytes:
    """Return an order as bytes: its length on a line, then its fields by marshal.

    The environment travels here, not as that of the watchdog: Python's start-up may add to that (PEP 538).
    """
    encode = os.fsencode
    variables = {encode(name): encode(value) for name, value in env.items()}
    body = marshal.dumps((deadline, encode(cwd), encode(scratch), [*map(encode, argv)], variables))
    return b"%d\n" % len(body) + body


class Order:
    """An order that encode_order() encoded. Its texts are bytes."""

    def __init__(self, body: bytes) -> None:
        self.deadline, self.cwd, self.scratch, self.argv, self.env = marshal.loads(body)


def children(pid: int) -> list[int]:
    """Return the processes whose parent is `pid`, zombies included; none if it is gone."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found.extend(map(int, file.read().split()))
    except FileNotFoundError:
        # The process is gone, or the kernel lacks CONFIG_PROC_CHILDREN.
        return _children_by_search(pid) if os.path.exists(f"/proc/{pid}/stat") else []
    except OSError:
        pass
    return found


def _children_by_search(pid: int) -> list[int]:
    pids = map(int, filter(str.isdigit, os.listdir("/proc")))
    return [other for other in pids if parent(other) == pid]


def parent(pid: int) -> int | None:
    """Return the parent of a process; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return None


def descendants(pid: int, without: Collection[int] = ()) -> Iterator[int]:
    """Yield all processes below `pid`, parents before their children. They change during the search.

    Those of `without` are left out, with all processes below them.
    """
    found = children(pid)
    seen = {pid, *without}
    while found:
        child = found.pop(0)
        if child not in seen:
            seen.add(child)
            yield child
            found.extend(children(child))


class Watchdog:
    """Runs one program, from its start to the end of all processes below."""

    def __init__(self, control: int) -> None:
        self.control = control
        self.program = 0
        self._received = b""
        self._told_to_kill = False
        self.deadline = 0.0
        # SIGCHLD must end the wait in poll(): Python writes the signal's number here.
        self._awake, awaken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(awaken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def run(self, order: Order) -> None:
        """Run the program. Return when nothing below is left alive."""
        self.deadline = order.deadline
        try:
            prctl(PR_SET_CHILD_SUBREAPER, 1)
            self.program = start_program(order)
        except OSError as error:
            self.tell(b"failed %d\n" % (error.errno or 0))
            return
        self.tell(b"started %d\n" % self.program)
        let_go_of_the_programs_pipes()
        os.set_blocking(self.control, False)
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(self._awake, select.POLLIN)
        while self.program and not self._told_to_kill:
            left = self.deadline - time.monotonic()
            if left <= 0:
                break
            for descriptor, _ in poll.poll(left * 1000):
                self.reap() if descriptor == self._awake else self.listen()
        self.kill_all()
        if order.scratch:
            remove_files(order.scratch)

    def tell(self, line: bytes) -> None:
        try:
            os.write(self.control, line)
        except OSError:
            self._told_to_kill = True

    def listen(self) -> None:
        """Read the worker's lines. A broken socket and a garbled line are orders to kill."""
        try:
            data = os.read(self.control, 4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            word, _, value = line.partition(b" ")
            if word == b"feed":
                self.deadline = max(self.deadline, float(value))
            else:
                self._told_to_kill = True
        if not data:
            self._told_to_kill = True

    def reap(self) -> bool:
        """Reap all children that have ended. Return whether any child is left."""
        try:
            os.read(self._awake, 4096)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.program:
                self.program = 0
                self.tell(b"ended %d\n" % os.waitstatus_to_exitcode(status))

    def kill_all(self) -> None:
        """Kill all processes below, and those that they start meanwhile, until there is none.

        All are stopped before the first is killed, so that none sees another die and restarts it. Signals
        go to whole process groups: the kernel lets no fork slip through there, while a list of processes is
        outdated when it is made. Orphans become children of the watchdog, and the next round kills them.
        """
        pause = 0.001
        while True:
            below = list(descendants(os.getpid()))
            groups = {group for group in map(try_group, below) if group not in (0, os.getpgrp())}
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for group in groups:
                    try_kill(-group, number)
                for pid in below:
                    try_kill(pid, number)
            if not self.reap():
                return
            # A process in a system call that cannot be interrupted keeps the loop going.
            time.sleep(pause)
            pause = min(pause * 1.2, 1.0)


def remove_files(directory: bytes) -> None:
    """Remove a directory of plain files, if it is there."""
    try:
        for name in os.listdir(directory):
            os.unlink(os.path.join(directory, name))
        os.rmdir(directory)
    except OSError:
        pass


def try_group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return 0


def try_kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        pass


def start_program(order: Order) -> int:
    """Fork, execute the program, and return its pid. Raises the OSError that prevented the start."""
    result, tell = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # in case the watchdog itself is killed
            resource.setrlimit(RLIMIT_LOCKS, (0, 0))
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                # Signals that we or Python ignore would stay ignored in the program and its children.
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            os.dup2(1, 2)
            os.chdir(order.cwd)
            os.execvpe(order.argv[0], order.argv, order.env)
        except OSError as error:
            os.write(tell, b"%d" % (error.errno or 0))
        finally:
            os._exit(127)
    os.close(tell)
    with open(result, "rb") as file:
        failure = file.read()
    if failure:
        os.waitpid(pid, 0)
        raise OSError(int(failure), "not started")
    return pid


def let_go_of_the_programs_pipes() -> None:
    """Release the program's pipes. Else the worker would never see the end of the program's output."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)


def hide_from_other_processes() -> None:
    """Keep processes of the same user from reading the memory and the environment of this one (Linux).

    A shell of the worker's user could read its keys there. Children keep this until they execute a program.
    Debuggers and core dumps no longer work, except for root.
    """
    try:
        prctl(PR_SET_DUMPABLE, 0)
    except (OSError, AttributeError):
        pass


def prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def receive_order(control: int) -> Order | None:
    """Return the order that the worker sends; None if the worker died before it was complete."""
    with open(control, "rb", buffering=0, closefd=False) as file:
        body = b""
        size = int(file.readline() or 0)
        while len(body) < size:
            data = file.read(size - len(body))
            if not data:
                return None
            body += data
    return Order(body) if body else None


def main() -> None:
    control = int(sys.argv[1])
    os.set_inheritable(control, False)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)
    order = receive_order(control)
    if order is not None:
        Watchdog(control).run(order)


if __name__ == "__main__":
    main()
