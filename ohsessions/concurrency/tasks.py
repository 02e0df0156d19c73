"""Tasks: a watched group, work that ignores its cancellation, and work that must be done to its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
logger = logging.getLogger(__name__)

CANCEL_AGAIN = 0.05
"""Seconds after which work that goes on after a cancellation is cancelled again."""
CANCEL_PATIENCE = 2.0
"""Seconds that a cancelled task has to end. Nothing waits for it any longer."""


class Group:
    """The tasks of a gateway or a worker, watched: an unexpected end of any task is logged.

    A task of `keep` must last until `stop`. If it ends in any way before (returns, raises, or is cancelled by
    a CancelledError that a library let out), the process can no longer do its work: `on_end` is called.
    """

    def __init__(self, name: str, on_end: Callable[[str], None]) -> None:
        """`on_end` is called with a sentence about the task that has ended. It must not block."""
        self._name = name
        self._on_end = on_end
        self._kept: set[asyncio.Task[None]] = set()
        self._spawned: set[asyncio.Task[Any]] = set()
        self._stopping = False

    def keep(self, job: Coroutine[Any, Any, None], name: str) -> None:
        """Run a job that must not end before `stop`."""
        task = asyncio.create_task(job, name=f"{self._name} {name}")
        self._kept.add(task)
        task.add_done_callback(self._kept_ended)

    def spawn(self, job: Coroutine[Any, Any, Any], name: str) -> None:
        """Run a job that ends, and for which no caller waits. Its failure is logged."""
        task = asyncio.create_task(job, name=f"{self._name} {name}")
        self._spawned.add(task)
        task.add_done_callback(self._spawned_ended)

    def _kept_ended(self, task: asyncio.Task[None]) -> None:
        self._kept.discard(task)
        error = None if task.cancelled() else task.exception()
        if self._stopping:
            return
        how = "was cancelled" if task.cancelled() else f"raised {error!r}" if error else "returned"
        reason = f"The task {task.get_name()!r} {how}. It must last as long as its process."
        logger.critical("%s", reason, exc_info=error, extra={"verb": "task_ended"})
        self._on_end(reason)

    def _spawned_ended(self, task: asyncio.Task[Any]) -> None:
        self._spawned.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("The task %r failed", task.get_name(), exc_info=error, extra={"verb": "task_failed"})

    async def stop(self, patience: float = 0.0) -> None:
        """Cancel the kept tasks; wait `patience` seconds for the spawned ones, then cancel them too."""
        self._stopping = True
        for task in self._kept:
            task.cancel()
        if self._spawned:
            await asyncio.wait(set(self._spawned), timeout=patience)
        await cancel_all(self._kept | self._spawned)


async def attempt(step: Awaitable[object], what: str) -> None:
    """Run one step of a stop. Log its error, so that the steps after it are run all the same."""
    try:
        await step
    except Exception:
        logger.exception("%s failed. The stop continues.", what, extra={"verb": "stop_failed"})


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
        message = "The task %r was cancelled, but does not end. Nothing waits for it any more."
        logger.warning(message, task.get_name(), extra={"verb": "task_left"})


def _forget(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
