"""One result for all callers that ask at about the same time, in any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from ohsessions.core.clock import Clock

T = TypeVar("T")


class Shared(Generic[T]):
    """Calls `find` once for all callers of `get`, and keeps its result for `seconds` after it was found."""

    def __init__(self, find: Callable[[], T], seconds: float, clock: Clock | None = None) -> None:
        self._find = find
        self._seconds = seconds
        self._clock = clock or Clock()
        self._lock = threading.Lock()
        self._under_way: Future[T] | None = None
        self._found: tuple[T, float] | None = None

    def get(self) -> T:
        """Return the result that is kept, or wait for the next one. Raises what `find` raises; an error is
        not kept."""
        with self._lock:
            if self._found is not None and self._clock.monotonic() - self._found[1] < self._seconds:
                return self._found[0]
            waited, mine = self._under_way, None
            if waited is None:
                waited = mine = self._under_way = Future()
        if mine is not None:
            self._fill(mine)
        return waited.result()

    def _fill(self, future: Future[T]) -> None:
        try:
            found = self._find()
        except BaseException as error:  # raised in all callers that wait
            self._end(None)
            future.set_exception(error)
        else:
            self._end((found, self._clock.monotonic()))
            future.set_result(found)

    def _end(self, found: tuple[T, float] | None) -> None:
        with self._lock:
            self._found, self._under_way = found, None

    def forget(self) -> None:
        """Delete the result, so that the next caller gets a new one; for tests."""
        with self._lock:
            self._found = None
