"""Calls that ignore their cancellation: their awaiter is cancelled all the same, and nothing goes on."""

from __future__ import annotations

import asyncio

import pytest

from ohsessions.concurrency import tasks
from ohsessions.concurrency.tasks import cancellable
from tests.tasks import check_tasks, turns

LIMIT = 5.0


@pytest.fixture(autouse=True)
def _again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CANCEL_AGAIN", 0.01)


async def ignoring(times: int) -> None:
    """Ignore this many cancellations, and end at the next one."""
    for _ in range(times):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
    await asyncio.Event().wait()


async def failing() -> None:
    raise ConnectionError("Redis went away")


async def failing_when_cancelled() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await failing()


async def test_results_and_errors_pass() -> None:
    assert await cancellable(asyncio.sleep(0, "done")) == "done"
    with pytest.raises(ConnectionError):
        await cancellable(failing())


@pytest.mark.parametrize("times", [0, 1, 3])
async def test_who_is_cancelled_ends_and_so_does_the_work(times: int) -> None:
    before = asyncio.all_tasks()
    task = asyncio.create_task(cancellable(ignoring(times)))
    await turns()
    task.cancel()
    await asyncio.wait([task], timeout=LIMIT)
    assert task.cancelled()
    check_tasks(before)


async def test_what_fails_when_it_is_cancelled_hides_no_cancellation() -> None:
    task = asyncio.create_task(cancellable(failing_when_cancelled()))
    await turns()
    task.cancel()
    await asyncio.wait([task], timeout=LIMIT)
    assert task.cancelled()


async def test_who_is_cancelled_again_meanwhile_ends_with_the_work_too() -> None:
    before = asyncio.all_tasks()
    task = asyncio.create_task(cancellable(ignoring(3)))
    for _ in range(3):
        await turns()
        task.cancel()
    await asyncio.wait([task], timeout=LIMIT)
    assert task.cancelled()
    check_tasks(before)


async def test_a_time_limit_holds() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await cancellable(ignoring(2))
