"""Calling a site's code, which may do anything: exit the process, swallow cancellations, never return."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, TypeVar

from ohsessions.core.errors import RuntimeFailure

T = TypeVar("T")
logger = logging.getLogger(__name__)

CANCEL_PATIENCE = 2.0
"""Seconds for a cancelled task to end; then it is left to itself."""


async def guarded(work: Awaitable[T]) -> T:
    """Awaits a call of the runtime. What it raises fails its session, and neither process nor host."""
    try:
        return await work
    except SystemExit as error:
        raise RuntimeFailure("exit", f"it called sys.exit({error.code!r})") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise RuntimeFailure("cancelled", "what it waited for was cancelled") from error


async def within(seconds: float, what: str, work: Coroutine[Any, Any, T]) -> T:
    """Awaits a call of the runtime under a time limit. Raises TimeoutError with words for people."""
    task = asyncio.create_task(guarded(work), name=what)
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
    except asyncio.CancelledError:
        await end([task])
        raise
    if done:
        return task.result()
    await end([task])
    raise TimeoutError(f"{what} took longer than {seconds:g} s")


async def to_the_end(work: Coroutine[Any, Any, None], what: str) -> None:
    """Awaits what must not be left half done. Who cancels it meanwhile, however often, waits until it is."""
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


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels tasks and waits for their end, but not for ever. What they raise is of no interest any more."""
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
