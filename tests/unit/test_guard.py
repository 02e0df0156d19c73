"""Guarded calls of a site's code, and their ends."""

from __future__ import annotations

import asyncio

import pytest

from ohsessions.concurrency.tasks import to_the_end


async def test_what_must_be_done_is_done_though_it_is_cancelled_twice() -> None:
    begun, may_end, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await may_end.wait()
        done.set()

    task = asyncio.create_task(to_the_end(work(), "work"))
    await begun.wait()
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()


async def test_what_fails_at_the_end_is_raised() -> None:
    async def work() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await to_the_end(work(), "work")
