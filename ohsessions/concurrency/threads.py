"""Threads for calls that block, apart from asyncio's.

asyncio's threads (`asyncio.to_thread`, name look-ups) are few, shared by the whole process, and joined at its
end. A call that never returns takes one of them from everybody, and keeps the process from ending. Each group
of threads here serves one purpose, and its threads are daemons. So a call that hangs affects only its own
purpose, and the process can end.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar

from ohsessions.core.errors import OhSessionsError

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """A queue of calls, and at most `most` threads that make them in order. They are started as needed."""

    def __init__(self, name: str, most: int = 1) -> None:
        self._name = name
        self._most = most
        self._ready = threading.Condition()
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._started = 0
        self._idle = 0
        self._ending = False

    @property
    def waiting(self) -> int:
        """The number of calls in the queue that have not begun."""
        return len(self._calls)

    def put(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Add a call to the queue. Raises OhSessionsError after the end."""
        return self._put(Future(), partial(copy_context().run, function, *args, **kwargs))

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call in its turn. Return its result, or raise its error.

        If the caller is cancelled, a call that has not begun is not made; a call that has begun goes on.
        """
        return await asyncio.wrap_future(self.put(function, *args, **kwargs))

    async def last_call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call, then end the threads. It is made even if the caller is cancelled, perhaps late."""
        result: Future[T] = Future()
        result.set_running_or_notify_cancel()  # from now on it cannot be cancelled
        self._put(result, partial(copy_context().run, function, *args, **kwargs))
        self.end()
        return await asyncio.wrap_future(result)

    def end(self) -> None:
        """Refuse further calls. The threads end after the calls in the queue."""
        with self._ready:
            self._ending = True
            self._ready.notify_all()

    def _put(self, result: Future[T], call: Callable[[], T]) -> Future[T]:
        with self._ready:
            if self._ending:
                raise OhSessionsError(f"The threads {self._name} have ended, and make no further calls.")
            self._calls.append((result, call))
            if self._idle < len(self._calls) and self._started < self._most:
                self._started += 1
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
            self._ready.notify()
        return result

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            _make(*taken)
            del taken  # a waiting thread keeps nothing of its last call alive

    def _take(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._ready:
            while not self._calls:
                if self._ending:
                    return None
                self._idle += 1
                self._ready.wait()
                self._idle -= 1
            return self._calls.popleft()


def _make(result: Future[Any], call: Callable[[], Any]) -> None:
    if not (result.running() or result.set_running_or_notify_cancel()):
        return
    try:
        result.set_result(call())
    except BaseException as error:  # raised in the caller
        result.set_exception(error)
