"""Tasks of the event loop: give them turns, find those that a test has left, and describe them."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID


async def turns() -> None:
    """Wait until tasks that need only turns of the event loop have done their work."""
    for _ in range(20):
        await asyncio.sleep(0)


def kind(task: asyncio.Task[Any]) -> str:
    """Return the name of the coroutine that a task runs."""
    return str(task.get_coro().__qualname__)  # type: ignore[union-attr]


def told(task: asyncio.Task[Any]) -> str:
    """Return a description of a task: its name, the line at which it waits, and its arguments."""
    frames = task.get_stack()
    if not frames:
        return task.get_name()
    called = {
        name: value for name, value in frames[0].f_locals.items() if isinstance(value, str | UUID | int)
    }
    where = f"{frames[-1].f_code.co_filename}:{frames[-1].f_lineno}"
    return f"{task.get_name()} ({kind(task)}), at {where}, called with {called}"


def check_tasks(before: set[asyncio.Task[Any]]) -> None:
    """Raise AssertionError, with descriptions of the tasks, if there are other tasks than in `before`."""
    now = asyncio.all_tasks()
    left, ended = map(told, now - before), map(told, before - now)
    lines = [*(f"left over: {task}" for task in left), *(f"has ended: {task}" for task in ended)]
    assert not lines, "\n".join(["the tasks are other ones than before", *lines])
