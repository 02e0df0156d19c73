"""Calls of a site's code, which may do anything: exit the process, swallow cancellations, never return."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from ohsessions.concurrency.tasks import cancel_all
from ohsessions.core.errors import RuntimeFailure

T = TypeVar("T")


async def contained(work: Awaitable[T]) -> T:
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
        raise RuntimeFailure("cancelled", "a call that it awaited was cancelled") from error


async def within(seconds: float, what: str, work: Coroutine[Any, Any, T]) -> T:
    """Await a call of the runtime with a time limit. Raise TimeoutError with a message for people."""
    task = asyncio.create_task(contained(work), name=what)
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
    except asyncio.CancelledError:
        await cancel_all([task])
        raise
    if done:
        return task.result()
    await cancel_all([task])
    raise TimeoutError(f"{what} took longer than {seconds:g} s")
