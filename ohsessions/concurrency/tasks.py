"""Tasks: work that ignores its cancellation, and work that must be done to its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
logger = logging.getLogger(__name__)

CANCEL_AGAIN = 0.05
"""Seconds after which work that goes on after a cancellation is cancelled again."""
CANCEL_PATIENCE = 2.0
"""Seconds that a cancelled task has to end; after that it is left to itself."""


async def cancellable(work: Coroutine[Any, Any, T]) -> T:
    """Await `work`. On cancellation, cancel it repeatedly until it ends, then raise CancelledError.

    It is for calls of the channel layer: redis 8.1 sends with `asyncio.wait_for`, which on Python 3.11
    swallows the cancellation if its work is done by then (CPython issue 86296; measured: 13 of 15 during busy
    sending, none on 3.12). The call then goes on, past time limits and stops.
    """
    task = asyncio.create_task(work, name="call that may ignore a cancellation")
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        await _cancel_until_done(task)
        raise
    return task.result()


async def _cancel_until_done(task: asyncio.Task[Any]) -> None:
    while not task.done():
        task.cancel()
        try:
            await asyncio.wait([task], timeout=CANCEL_AGAIN)
        except asyncio.CancelledError:
            pass  # the caller is ending already
    if not task.cancelled():
        task.exception()  # retrieved, so that asyncio does not log it


async def to_the_end(work: Coroutine[Any, Any, None], what: str) -> None:
    """Run `work` to its end even if the caller is cancelled; then re-raise the cancellation."""
    task = asyncio.create_task(work, name=what)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait up to CANCEL_PATIENCE for their end. Ignore their errors."""
    tasks = set(tasks)
    for task in tasks:
        task.cancel()
        task.add_done_callback(_forget)
    if not tasks:
        return
    _, pending = await asyncio.wait(tasks, timeout=CANCEL_PATIENCE)
    for task in pending:
        extra = {"verb": "task_left"}
        logger.warning("%s ignores that it was cancelled; it is left to itself", task.get_name(), extra=extra)


def _forget(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
