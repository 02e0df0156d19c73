"""Threads for blocking calls: their order, their cancellation, and the process's end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ohsessions.concurrency.threads import Threads
from ohsessions.core.errors import OhSessionsError
from tests.requirements import wait_until

ROOT = Path(__file__).parents[2]
LIMIT = 10.0


class Gate:
    """A call that reports its begin, and ends when a test allows it."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.may_end.wait(LIMIT)

    def wait_begun(self) -> None:
        assert self.begun.wait(LIMIT)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.may_end.set()


def named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_one_thread_makes_all_calls_one_at_a_time_and_in_order(gate: Gate) -> None:
    threads, made = Threads("one at a time"), []
    threads.put(gate)
    calls = [threads.put(lambda n=n: made.append((n, threading.get_ident()))) for n in range(5)]
    gate.wait_begun()
    assert (made, threads.waiting) == ([], 5)
    gate.may_end.set()
    calls[-1].result(LIMIT)
    assert [number for number, _ in made] == [*range(5)]
    assert len({thread for _, thread in made}) == 1
    threads.end()


def test_there_are_no_more_threads_than_are_allowed_or_needed() -> None:
    threads, gates = Threads("three", most=3), [Gate() for _ in range(4)]
    assert named("three") == [], "none before it is needed"
    threads.put(lambda: None).result(LIMIT)
    wait_until(lambda: threads._idle == 1, "the first thread being free again")
    calls = [threads.put(gate) for gate in gates]
    for gate in gates[:3]:
        gate.wait_begun()
    assert len(named("three")) == 3
    assert not gates[3].begun.is_set()
    for gate in gates:
        gate.may_end.set()
    for call in calls:
        call.result(LIMIT)
    threads.end()
    wait_until(lambda: named("three") == [], "the end of the threads")
    with pytest.raises(OhSessionsError, match="have ended"):
        threads.put(lambda: None)


async def test_a_call_gives_what_it_returns_and_raises_what_it_raises() -> None:
    threads = Threads("results")
    assert await threads.call(int, "12") == 12
    with pytest.raises(ValueError, match="invalid literal"):
        await threads.call(int, "no number")
    with pytest.raises(SystemExit):
        await threads.call(sys.exit, 3)
    assert await threads.last_call(int, "13") == 13


async def test_who_is_cancelled_in_line_is_not_served_unless_it_is_the_last_call(gate: Gate) -> None:
    threads, made = Threads("cancelled"), []
    threads.put(gate)
    gate.wait_begun()
    waiting = asyncio.create_task(threads.call(made.append, "in line"))
    closing = asyncio.create_task(threads.last_call(made.append, "last"))
    await asyncio.sleep(0)
    for task in (waiting, closing):
        task.cancel()
        await asyncio.wait([task], timeout=LIMIT)
        assert task.cancelled()
    gate.may_end.set()
    await asyncio.to_thread(wait_until, lambda: named("cancelled") == [], "the end of the thread")
    assert made == ["last"]


HANGING = """
import asyncio, threading
from ohsessions.concurrency.threads import Threads

async def main():
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang():
        loop.call_soon_threadsafe(begun.set)
        threading.Event().wait()

    call = asyncio.create_task(Threads("hanging").call(hang))
    await begun.wait()
    call.cancel()

asyncio.run(main())
print("over")
"""


def test_a_call_that_never_returns_does_not_keep_the_process_from_ending() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGING], cwd=ROOT, capture_output=True, text=True, timeout=3 * LIMIT
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")
