"""Calls of a site's code, which may do anything: exit the process, swallow cancellations, never return."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, TypeVar

from ohsessions.core.errors import RuntimeFailure

T = TypeVar("T")
logger = logging.getLogger(__name__)

CANCEL_PATIENCE = 2.0
"""Seconds that a cancelled task has to end; after that it is left to itself."""


async def guarded(work: Awaitable[T]) -> T:
    """Await a call of the runtime.

    Raise RuntimeFailure if the call exits the process or is cancelled from within: only its session fails
    then.
    """
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
    """Await a call of the runtime with a time limit. Raise TimeoutError with a message for people."""
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


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
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
