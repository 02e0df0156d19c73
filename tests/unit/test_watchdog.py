"""The watchdog and the worker's side of it, with real processes that try to get away."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ohsessions.core.errors import RuntimeFailure
from ohsessions.programs import orphans, watchdog
from ohsessions.programs import supervisor as processes
from ohsessions.programs.supervisor import ProgramSupervisor, WatchedProgram
from tests.tasks import check_tasks

ROOT = Path(__file__).parents[2]
PATH = os.environ["PATH"]
LIMIT = 20.0
"""Seconds until a test considers an expected event missing."""


class World:
    """Programs with a mark, so that every process that they start can be found wherever it went."""

    def __init__(self) -> None:
        self.mark = f"MARK_{uuid.uuid4().hex}"
        self.env = {"PATH": PATH, self.mark: "1"}

    def alive(self) -> set[int]:
        """Return all living processes with the mark."""
        found = set()
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self.mark.encode() in (entry / "environ").read_bytes():
                    found.add(int(entry.name))
            except OSError:
                continue
        return found

    def wait_for(self, count: int) -> set[int]:
        wait_until(lambda: len(self.alive()) >= count, f"{count} processes")
        return self.alive()

    def wait_for_end(self) -> None:
        wait_until(lambda: not self.alive(), "all to be dead")


def wait_until(predicate: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT
    while not predicate():
        assert time.monotonic() < end, f"waited {LIMIT} s for {what}"
        time.sleep(0.01)


@pytest.fixture
def world():
    world = World()
    yield world
    for pid in world.alive():
        watchdog.try_kill(pid, signal.SIGKILL)


@pytest.fixture
async def supervisor():
    supervisor = ProgramSupervisor(lease_seconds=3600)
    yield supervisor
    await supervisor.kill_all()


async def output_of(process: WatchedProgram) -> str:
    async with asyncio.timeout(LIMIT):
        return (await process.stdout.read()).decode()


async def test_a_program_starts_though_its_watchdog_is_fed_before_it_knows_what_to_start(
    world: World, supervisor: ProgramSupervisor
) -> None:
    starting = asyncio.create_task(supervisor.spawn(["/bin/echo", "here"], env=world.env))
    for _ in range(10):
        await asyncio.sleep(0)
        supervisor.feed()
    assert await output_of(await starting) == "here\n"


def status_field(pid: int | str, name: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return line.partition(":")[2].strip()
    raise KeyError(name)


# Environment and state of a program


async def test_a_program_has_its_pipes_its_directory_and_its_exit_code(supervisor, tmp_path):
    script = "read line; echo got $line; pwd; echo error >&2; exit 7"
    process = await supervisor.spawn(["sh", "-c", script], env={"PATH": PATH}, cwd=tmp_path)
    process.stdin.write(b"this\n")
    assert await output_of(process) == f"got this\n{tmp_path}\nerror\n"
    assert await process.wait() == 7


async def test_a_program_gets_exactly_the_environment_given(supervisor, monkeypatch):
    monkeypatch.setenv("DJANGO_SECRET_KEY", "do-not-tell")
    process = await supervisor.spawn(["/usr/bin/env"], env={"A": "ä = b\nc", "LC_ALL": "C"})
    assert await output_of(process) == "A=ä = b\nc\nLC_ALL=C\n"


async def test_the_watchdog_has_nothing_of_the_servers_environment(supervisor, monkeypatch):
    monkeypatch.setenv("DJANGO_SECRET_KEY", "do-not-tell")
    process = await supervisor.spawn(["sh", "-c", "tr '\\0' '\\n' < /proc/$PPID/environ"], env={"PATH": PATH})
    assert "do-not-tell" not in await output_of(process)


async def test_a_program_has_no_file_open_but_its_three_streams(supervisor, tmp_path):
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        process = await supervisor.spawn(["bash", "-c", "echo /proc/$$/fd/*"], env={"PATH": PATH})
        names = (await output_of(process)).split()
    # Bash itself opens descriptor 255 to read a directory or a script.
    assert [name.rpartition("/")[2] for name in names if not name.endswith("/255")][:3] == ["0", "1", "2"]
    assert len(names) <= 4


async def test_a_program_finds_no_signal_ignored_or_blocked(supervisor):
    process = await supervisor.spawn(["cat", "/proc/self/status"], env={"PATH": PATH})
    lines = dict(line.split(":\t", 1) for line in (await output_of(process)).splitlines())
    # glibc uses signals 32 and 33 itself: no program can set them, so they stay as the machine had them.
    assert int(lines["SigIgn"], 16) & ~(0b11 << 31) == 0
    assert int(lines["SigBlk"], 16) == 0


@pytest.mark.parametrize(
    ("argv", "cwd", "why"),
    [(["/no/such/program"], None, "No such file"), (["true"], Path("/no/such/place"), "No such file")],
)
async def test_a_program_that_cannot_start_says_why(supervisor, argv, cwd, why):
    with pytest.raises(RuntimeFailure, match=why) as caught:
        await supervisor.spawn(argv, env={"PATH": PATH}, cwd=cwd)
    assert caught.value.reason == "cannot_spawn"


async def test_a_program_killed_by_a_signal_has_its_negative_number_as_exit_code(supervisor):
    process = await supervisor.spawn(["sleep", "1000"], env={"PATH": PATH})
    process.signal_group(signal.SIGTERM)
    async with asyncio.timeout(LIMIT):
        assert await process.wait() == -signal.SIGTERM


async def test_signals_reach_the_group_and_nobody_once_it_has_ended(supervisor):
    process = await supervisor.spawn(["true"], env={"PATH": PATH})
    await process.wait()
    process.signal_group(signal.SIGKILL)


# Attempts to get away

DOUBLE_FORK = """
import os, signal, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(3):
            os.close(fd)
        time.sleep(1000)
    os._exit(0)
os.wait()
"""
ESCAPES = {
    "setsid": "setsid sleep 1000 & wait",
    "nohup": "nohup sleep 1000 >/dev/null 2>&1 & sleep 1000",
    "double fork": f"{sys.executable} -c '{DOUBLE_FORK}'; sleep 1000",
    "orphan": "(setsid sh -c 'setsid sleep 1000 & sleep 1000' &) ; sleep 1000",
    "stopped": "sleep 1000 & kill -STOP $!; wait",
    "job control": "set -m; sleep 1000 & sleep 1000 | sleep 1000 & wait",
}


@pytest.mark.parametrize("escape", ESCAPES)
async def test_kill_kills_whatever_tries_to_get_away(supervisor, world, escape):
    process = await supervisor.spawn(["bash", "-c", ESCAPES[escape]], env=world.env)
    world.wait_for(2)
    async with asyncio.timeout(LIMIT):
        await process.kill()
    assert world.alive() == set()


async def test_all_a_program_left_dies_when_it_ends(supervisor, world):
    process = await supervisor.spawn(
        ["bash", "-c", "setsid sleep 1000 & (sleep 1000 &); read line"], env=world.env
    )
    world.wait_for(3)
    process.stdin.write(b"end\n")
    async with asyncio.timeout(LIMIT):
        await process.wait()
        await process.stdout.read()
    world.wait_for_end()


async def test_what_a_program_left_lives_as_long_as_it_does(supervisor, world):
    script = "(setsid sleep 1000 &); echo started; cat"
    process = await supervisor.spawn(["bash", "-c", script], env=world.env)
    assert await process.stdout.readline() == b"started\n"
    left = world.wait_for(2) - {process.pid}
    guard = watchdog.parent(process.pid)
    wait_until(lambda: any(watchdog.parent(pid) == guard for pid in left), "the watchdog to adopt it")
    process.stdin.write(b"alive\n")
    assert await process.stdout.readline() == b"alive\n"
    assert left & world.alive()


BREEDER = "while :; do (sleep 1000 &); done"
COMET = """
import os
while True:
    # Each generation lives for a moment, in a session of its own.
    if os.fork():
        os._exit(0)
    os.setsid()
"""
PHOENIX = """
import os, subprocess, sys
# Two processes, each in a session of its own, that start each other anew.
while True:
    subprocess.run([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
"""


@pytest.mark.parametrize(
    "argv",
    [["bash", "-c", BREEDER], [sys.executable, "-c", COMET], [sys.executable, "-c", PHOENIX]],
    ids=["breeder", "comet", "phoenix"],
)
async def test_what_multiplies_is_killed_all_the_same(supervisor, world, argv):
    process = await supervisor.spawn(["bash", "-c", '"$@"; wait; sleep 1000', "-", *argv], env=world.env)
    if argv[0] == "bash":
        world.wait_for(100)
    else:
        world.wait_for(2)
    async with asyncio.timeout(processes.KILL_SECONDS - 1):
        await process.kill()
    assert world.alive() == set()


# When the worker is gone

WORKER = f"""
import asyncio, json, sys
sys.path.insert(0, {str(ROOT)!r})
from ohsessions.programs.supervisor import ProgramSupervisor

async def main(lease, feeds, script, env):
    supervisor = ProgramSupervisor(lease_seconds=lease)
    process = await supervisor.spawn(["bash", "-c", script], env=env)
    print(process.pid, flush=True)
    while True:
        await asyncio.sleep(lease / 4)
        if feeds:
            supervisor.feed()

asyncio.run(main(*json.loads(sys.argv[1])))
"""
ALL_ESCAPES = "".join(f"{{ {script}\n}} &\n" for script in ESCAPES.values()) + "wait"


@pytest.fixture
def start_worker(world):
    """Return a function that starts a worker process with a program that tries every escape."""
    started = []

    def start(lease: float, feeds: bool = True) -> tuple[subprocess.Popen[str], int]:
        arguments = json.dumps([lease, feeds, ALL_ESCAPES, world.env])
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, arguments], stdout=subprocess.PIPE, text=True
        )
        started.append(worker)
        assert worker.stdout is not None
        program = int(worker.stdout.readline())
        world.wait_for(2 * len(ESCAPES))
        return worker, program

    yield start
    for worker in started:
        worker.kill()
        worker.communicate()


def test_all_die_when_the_worker_is_killed(world, start_worker):
    worker, _ = start_worker(3600)
    worker.kill()
    world.wait_for_end()


def test_all_die_when_the_worker_is_stopped(world, start_worker):
    worker, _ = start_worker(2)
    worker.send_signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    world.wait_for_end()
    assert time.monotonic() - stopped_at < 2 + 1, "the lease, and a moment"


def test_all_die_when_the_worker_does_not_feed(world, start_worker):
    worker, _ = start_worker(1.5, feeds=False)
    world.wait_for_end()
    assert worker.poll() is None


def test_a_fed_program_outlives_many_leases(world, start_worker):
    _, program = start_worker(0.5)
    _, unfed = start_worker(2, feeds=False)
    wait_until(lambda: unfed not in world.alive(), "the unfed program to be dead, four leases later")
    assert program in world.alive()


async def test_scratch_files_go_with_the_last_process_though_the_worker_is_killed(world, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "file").touch()
    os.mkfifo(scratch / "fifo")
    supervisor = ProgramSupervisor(lease_seconds=3600)
    process = await supervisor.spawn(["sleep", "1000"], env=world.env, scratch=scratch)
    process._control.shutdown(socket.SHUT_RDWR)  # the effect of a killed worker
    async with asyncio.timeout(LIMIT):
        await process.wait()
        await process.kill()
    assert not scratch.exists()


async def test_a_renewal_that_was_sent_long_ago_gives_no_more_time(world):
    supervisor = ProgramSupervisor(lease_seconds=1.0)
    started_at = time.monotonic()
    process = await supervisor.spawn(["sleep", "1000"], env=world.env)
    async with asyncio.timeout(LIMIT):
        while not process._ended.done():
            supervisor.feed(confirmed_at=started_at)
            await asyncio.sleep(0.02)
    assert 0.8 < time.monotonic() - started_at < 3
    await supervisor.kill_all()


async def wait_for_the_end_of_a_lease(world: World, seconds: float) -> None:
    """Wait until a program without renewals is dead: a program that still lives then was renewed."""
    supervisor = ProgramSupervisor(lease_seconds=seconds)
    process = await supervisor.spawn(["sleep", "1000"], env=world.env)
    async with asyncio.timeout(LIMIT):
        assert await process.wait() != 0
    await supervisor.kill_all()


async def test_a_renewal_that_comes_while_a_program_starts_counts(world):
    supervisor = ProgramSupervisor(lease_seconds=1.0)
    starting = asyncio.create_task(supervisor.spawn(["cat"], env=world.env))
    await asyncio.sleep(0)
    supervisor.feed(confirmed_at=time.monotonic() + LIMIT)
    process = await starting
    await wait_for_the_end_of_a_lease(world, 1.0)
    async with asyncio.timeout(LIMIT):
        process.stdin.close()
        assert await process.wait() == 0
    await supervisor.kill_all()


async def test_an_older_renewal_takes_no_time_away(world):
    supervisor = ProgramSupervisor(lease_seconds=3600)
    process = await supervisor.spawn(["cat"], env=world.env)
    supervisor.feed(confirmed_at=time.monotonic() - 7200)
    process.feed(0.0)
    other = await supervisor.spawn(["sleep", "0"], env=world.env)
    await wait_for_the_end_of_a_lease(world, 0.5)
    async with asyncio.timeout(LIMIT):
        assert await other.wait() == 0
        process.stdin.close()
        assert await process.wait() == 0
    await supervisor.kill_all()


@pytest.mark.parametrize("line", [b"garbled\n", b"feed it\n", b"feed\n"])
async def test_what_the_watchdog_does_not_understand_is_an_order_to_kill(supervisor, world, line):
    process = await supervisor.spawn(["sh", "-c", "setsid sleep 1000 & sleep 1000"], env=world.env)
    wait_until(lambda: len(world.alive()) >= 3, "the sleeping processes")
    process._send(line)
    async with asyncio.timeout(LIMIT):
        assert await process.wait() == -signal.SIGKILL
    world.wait_for_end()


def test_an_order_that_was_cut_off_starts_nothing():
    order = watchdog.encode_order(["sleep", "1000"], {"A": "1"}, "/", 0.0)
    for size in range(len(order)):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(order[:size])
            ours.close()
            assert watchdog.receive_order(theirs.fileno()) is None


async def test_nothing_is_started_once_the_lease_has_run_out(world):
    supervisor = ProgramSupervisor(lease_seconds=-1)
    with pytest.raises(RuntimeFailure, match="lease"):
        await supervisor.spawn(["sleep", "1000"], env=world.env)


async def test_signals_of_a_terminal_do_not_end_the_watchdog(supervisor, world):
    process = await supervisor.spawn(["cat"], env=world.env)
    guard = watchdog.parent(process.pid)
    assert guard is not None
    assert os.getsid(guard) == guard != os.getsid(0)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
        os.kill(guard, number)
    process.stdin.write(b"alive\n")
    assert await process.stdout.readline() == b"alive\n"


async def test_the_program_dies_with_a_killed_watchdog(supervisor, world):
    process = await supervisor.spawn(["sleep", "1000"], env=world.env)
    guard = watchdog.parent(process.pid)
    assert guard is not None
    os.kill(guard, signal.SIGKILL)
    async with asyncio.timeout(LIMIT):
        assert await process.wait() == -signal.SIGKILL
    world.wait_for_end()


async def test_nothing_is_left_of_a_program_that_kills_its_watchdog(supervisor, world, caplog):
    escape = (
        "setsid sleep 1000 & (setsid sh -c 'sleep 1000; :' &); env -i setsid sleep 1000 & echo $!; read line"
    )
    process = await supervisor.spawn(["bash", "-c", f"{escape}; kill -9 $PPID; sleep 1000"], env=world.env)
    scrubbed = int(await process.stdout.readline())
    world.wait_for(4)
    process.stdin.write(b"\n")
    async with asyncio.timeout(LIMIT):
        assert await process.wait() == -signal.SIGKILL
        await process.kill()
    world.wait_for_end()
    assert not orphans.lives(scrubbed)
    assert "processes that it had left" in caplog.text


async def test_programs_below_a_living_watchdog_are_no_orphans(supervisor, world):
    process = await supervisor.spawn(
        ["bash", "-c", "setsid sleep 1000 & (sleep 1000 &); wait"], env=world.env
    )
    alive = world.wait_for(3)
    assert process.pid in alive
    assert all(map(orphans.is_marked, alive))
    assert alive.isdisjoint(orphans.orphans())


def test_a_server_that_hides_cannot_be_read_by_others_of_its_user():
    code = (
        "import ctypes; from ohsessions.programs.watchdog import hide_from_other_processes as hide;"
        "get = lambda: ctypes.CDLL(None).prctl(3, 0, 0, 0, 0); before = get(); hide(); print(before, get())"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout == "1 0\n"


async def test_a_watchdog_that_does_not_answer_is_killed_with_its_program(
    supervisor, world, monkeypatch, caplog
):
    monkeypatch.setattr(processes, "KILL_SECONDS", 0.2)
    process = await supervisor.spawn(["sleep", "1000"], env=world.env)
    guard = watchdog.parent(process.pid)
    assert guard is not None
    os.kill(guard, signal.SIGSTOP)
    async with asyncio.timeout(LIMIT):
        await process.kill()
    world.wait_for_end()
    assert "did not end" in caplog.text


# Leftovers in the worker


async def test_nothing_is_left_of_many_programs(world):
    gc.collect()
    files, tasks = set(os.listdir("/proc/self/fd")), asyncio.all_tasks()
    supervisor = ProgramSupervisor(lease_seconds=3600)
    programs = [["true"], ["sleep", "1000"], ["yes"], ["/no/such/program"]]
    for argv in programs * 5:
        try:
            process = await supervisor.spawn(argv, env=world.env)
        except RuntimeFailure:
            continue
        process.stdin.write(b"x" * 200_000)  # more than the pipe takes, without a reader
        if argv == ["true"]:
            await process.wait()
    await supervisor.kill_all()
    assert set(os.listdir("/proc/self/fd")) == files
    check_tasks(tasks)
    assert [pid for pid in watchdog.children(os.getpid()) if status_field(pid, "State")[0] == "Z"] == []
    assert world.alive() == set()
    assert supervisor._programs == set()


async def test_a_start_that_is_cancelled_leaves_nothing(world):
    files = set(os.listdir("/proc/self/fd"))
    supervisor = ProgramSupervisor(lease_seconds=3600)
    for turns in range(12):
        task = asyncio.create_task(supervisor.spawn(["sleep", "1000"], env=world.env))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await supervisor.kill_all()
    assert world.alive() == set()
    assert set(os.listdir("/proc/self/fd")) == files


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Allow this process to open only `count` more files."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    filling = [os.open("/dev/null", os.O_RDONLY)]
    while filling[-1] < highest:
        filling.append(os.open("/dev/null", os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (filling[-1] + 1 + count, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in filling:
            os.close(descriptor)


async def test_a_start_that_lacks_descriptors_fails_and_leaves_none_open(world):
    files = set(os.listdir("/proc/self/fd"))
    supervisor = ProgramSupervisor(lease_seconds=3600)
    refused = 0
    for count in range(14):  # each step of a start lacks one descriptor once: at its height it opens 9
        with descriptors_left(count):
            try:
                await supervisor.spawn(["true"], env=world.env)
            except RuntimeFailure:
                refused += 1
        await supervisor.kill_all()
        assert set(os.listdir("/proc/self/fd")) == files, f"with {count} left"
    assert 0 < refused < 14
    assert [pid for pid in watchdog.children(os.getpid()) if status_field(pid, "State")[0] == "Z"] == []


async def test_kill_may_be_called_again_and_by_several(supervisor, world):
    process = await supervisor.spawn(["sleep", "1000"], env=world.env)
    await asyncio.gather(process.kill(), process.kill(), supervisor.kill_all())
    await process.kill()
    assert world.alive() == set()


def test_it_works_in_an_event_loop_that_is_not_in_the_main_thread(world):
    results = []

    async def main() -> None:
        supervisor = ProgramSupervisor(lease_seconds=3600)
        process = await supervisor.spawn(["sh", "-c", "exit 5"], env=world.env)
        results.append(await process.wait())
        await supervisor.kill_all()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join(LIMIT)
    assert results == [5]


def test_children_are_found_without_the_kernels_list_as_well(world):
    child = subprocess.Popen(["sleep", "1000"], env=world.env)
    try:
        assert child.pid in watchdog.children(os.getpid())
        assert child.pid in watchdog._children_by_search(os.getpid())
        assert child.pid in set(watchdog.descendants(os.getpid()))
        assert child.pid not in set(watchdog.descendants(os.getpid(), without=[child.pid]))
    finally:
        child.kill()
        child.wait()
