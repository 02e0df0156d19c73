"""One result for all callers that ask at about the same time, in any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from ohsessions.core.clock import Clock

T = TypeVar("T")


class Shared(Generic[T]):
    """Calls `find` once for all callers of `get`, and keeps its result for `seconds` after it was found."""

    def __init__(self, find: Callable[[], T], seconds: float, clock: Clock | None = None) -> None:
        self._find = find
        self._seconds = seconds
        self._clock = clock or Clock()
        self._finding = threading.Lock()
        self._found: tuple[T, float] | None = None

    def get(self) -> T:
        """Return the result that is kept, or wait for the next one. Raises what `find` raises; an error is
        not kept."""
        with self._finding:
            if self._found is None or self._clock.monotonic() - self._found[1] >= self._seconds:
                found = self._find()
                self._found = (found, self._clock.monotonic())
            return self._found[0]
