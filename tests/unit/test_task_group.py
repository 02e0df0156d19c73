"""A group of tasks that must not end: any end of one is logged and reported once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import pytest

from ohsessions.concurrency.backoff import Backoff
from ohsessions.concurrency.tasks import Group, attempt

LIMIT = 10.0


@pytest.fixture
def ends() -> list[str]:
    return []


@pytest.fixture
async def group(ends: list[str]) -> AsyncIterator[Group]:
    group = Group("gateway", ends.append)
    yield group
    await group.stop()


async def returning() -> None:
    pass


async def raising() -> None:
    raise ZeroDivisionError


async def cancelled_from_within() -> None:
    """Raise a CancelledError without a cancellation, as some libraries do."""
    raise asyncio.CancelledError


async def lasting() -> None:
    await asyncio.Event().wait()


ENDS: list[tuple[Callable[[], object], str]] = [
    (returning, "returned"),
    (raising, "raised ZeroDivisionError()"),
    (cancelled_from_within, "was cancelled"),
]


@pytest.mark.parametrize(("job", "how"), ENDS)
async def test_a_kept_task_that_ends_in_any_way_is_logged_and_reported(
    group: Group, ends: list[str], caplog: pytest.LogCaptureFixture, job: Callable[[], object], how: str
) -> None:
    group.keep(lasting(), "other")
    group.keep(job(), "lease")  # type: ignore[arg-type]
    async with asyncio.timeout(LIMIT):
        while not ends:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert ends == [f"The task 'gateway lease' {how}. It must last as long as its process."]
    (record,) = caplog.records
    assert (record.levelno, record.verb, record.getMessage()) == (logging.CRITICAL, "task_ended", ends[0])


async def test_a_stop_ends_kept_tasks_and_reports_none(group: Group, ends: list[str], caplog) -> None:
    before = asyncio.all_tasks()
    group.keep(lasting(), "lease")
    group.spawn(lasting(), "detach")
    await asyncio.sleep(0)
    await group.stop()
    assert (asyncio.all_tasks(), ends, caplog.records) == (before, [], [])


async def test_a_stop_waits_for_spawned_tasks(group: Group) -> None:
    done = []

    async def detach() -> None:
        await asyncio.sleep(0.01)
        done.append(True)

    group.spawn(detach(), "detach")
    await group.stop(LIMIT)
    assert done == [True]


async def test_a_spawned_task_may_end_and_its_failure_is_logged(
    group: Group, ends: list[str], caplog
) -> None:
    group.spawn(returning(), "first")
    group.spawn(raising(), "second")
    await group.stop(LIMIT)
    assert [record.getMessage() for record in caplog.records] == ["The task 'gateway second' failed"]
    assert ends == []


async def test_a_step_that_fails_is_logged_and_the_next_one_runs(caplog: pytest.LogCaptureFixture) -> None:
    await attempt(raising(), "Closing the connections")
    assert [record.getMessage() for record in caplog.records] == [
        "Closing the connections failed. The stop continues."
    ]
    with pytest.raises(asyncio.CancelledError):
        await attempt(cancelled_from_within(), "Closing the connections")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("ohsessions.concurrency.backoff.asyncio.sleep", sleep)
    return pauses


async def test_pauses_grow_up_to_a_limit_and_begin_anew(pauses: list[float]) -> None:
    backoff = Backoff(1, 5)
    for _ in range(5):
        await backoff.pause()
    backoff.reset()
    await backoff.pause()
    bounds = [1, 2, 4, 5, 5, 1]
    assert all(bound / 2 <= pause <= bound for pause, bound in zip(pauses, bounds, strict=True))


async def test_callers_that_failed_together_do_not_come_back_together(pauses: list[float]) -> None:
    for _ in range(20):
        await Backoff(1, 5).pause()
    assert len(set(pauses)) == 20
