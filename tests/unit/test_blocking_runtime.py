"""BlockingRuntime: one thread for each runtime, and nothing else waits for that thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ohsessions.core.runtime import JSON, Action
from ohsessions.runtimes.blocking import BlockingRuntime
from ohsessions.testing import RecordingContext
from tests.requirements import wait_until

LIMIT = 10.0


class Slow(BlockingRuntime):
    """A runtime that handles until `may_end` or an interrupt, and records its calls with their threads."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self.calls: list[str] = []
        self.threads: set[threading.Thread] = set()
        self.handling, self.may_end = threading.Event(), threading.Event()

    def note(self, call: str) -> None:
        self.calls.append(call)
        self.threads.add(threading.current_thread())

    def do_start(self, snapshot: JSON) -> None:
        self.note("start")

    def do_handle(self, action: Action) -> None:
        self.handling.set()
        assert self.may_end.wait(LIMIT)
        self.emit(observation="handled")
        self.note("handled")

    def do_passivate(self) -> JSON:
        self.note("passivate")
        return 7

    def do_close(self) -> None:
        self.note("close")

    async def interrupt(self, action: Action) -> None:
        self.may_end.set()

    def thread_has_ended(self) -> bool:
        return not any(thread.is_alive() for thread in self.threads)


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[RecordingContext]:
    async with RecordingContext(tmp_path) as context:
        yield context


async def handling(context: RecordingContext) -> tuple[Slow, asyncio.Task[Any]]:
    """Run a runtime to the middle of an action."""
    runtime = Slow(context)
    await runtime.start(None)
    task = asyncio.create_task(context.act(runtime, "message"))
    await asyncio.to_thread(wait_until, runtime.handling.is_set, "the action being handled")
    return runtime, task


async def test_all_blocking_calls_are_made_by_one_thread_which_ends_with_the_runtime(
    context: RecordingContext,
) -> None:
    runtime, task = await handling(context)
    await context.interrupt(runtime, "stopped")
    await task
    assert await runtime.passivate() == 7
    await runtime.close()
    assert runtime.calls == ["start", "handled", "passivate", "close"]
    assert len(context.observations("handled")) == 1
    assert len(runtime.threads) == 1
    await asyncio.to_thread(wait_until, runtime.thread_has_ended, "the end of the thread")


async def test_a_passivation_waits_for_the_action_that_it_cut_off(context: RecordingContext) -> None:
    runtime, task = await handling(context)
    task.cancel()
    passivating = asyncio.create_task(runtime.passivate())
    await asyncio.sleep(0)
    assert runtime.calls == ["start"]
    runtime.may_end.set()
    async with asyncio.timeout(LIMIT):
        assert await passivating == 7
    assert runtime.calls == ["start", "handled", "passivate"]
    await runtime.close()


async def test_a_passivation_that_was_given_up_is_not_made_later_but_the_close_is(
    context: RecordingContext,
) -> None:
    runtime, task = await handling(context)
    task.cancel()
    for call in (runtime.passivate(), runtime.close()):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, 0.01)
    assert runtime.calls == ["start"]
    runtime.may_end.set()
    await asyncio.to_thread(wait_until, runtime.thread_has_ended, "the end of the thread")
    assert runtime.calls == ["start", "handled", "close"]
