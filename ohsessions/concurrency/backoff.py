"""Pauses between tries. They grow, and are random, so that many callers do not come back at once."""

from __future__ import annotations

import asyncio
import random


class Backoff:
    """The pauses of one caller that tries something again and again, in seconds."""

    def __init__(self, first: float, most: float) -> None:
        """Begin with a pause of up to `first` seconds. Double it after each try, up to `most` seconds."""
        self._first = min(first, most)
        self._most = most
        self._next = self._first

    async def pause(self) -> None:
        """Wait before the next try: for half to all of the present pause."""
        pause, self._next = self._next, min(self._most, 2 * self._next)
        await asyncio.sleep(pause * random.uniform(0.5, 1))

    def reset(self) -> None:
        """Begin with the first pause again: a try has succeeded."""
        self._next = self._first
