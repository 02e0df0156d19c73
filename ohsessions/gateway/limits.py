"""Buckets: how much may be asked in a time, of one client or of all that share an address or a user."""

from __future__ import annotations

from collections.abc import Callable

from ohsessions.core.clock import Clock

BURST_SECONDS = 10.0
"""So many seconds' worth of actions may come at once."""
MINUTE = 60.0
BYTES_PER_ACTION = 16 * 1024
"""So many bytes cost as much as one action more."""
FEWEST_SWEPT = 256
"""Keyed buckets are few enough below this number to be kept."""


def cost(size: int) -> int:
    """Return what an action of `size` bytes costs."""
    return 1 + size // BYTES_PER_ACTION


class Bucket:
    """Fills with `rate` per second, up to `most`, and begins full. None: no limit."""

    __slots__ = ("_at", "_clock", "_left", "_most", "rate")

    def __init__(self, rate: float | None, most: float, clock: Clock) -> None:
        self.rate = rate
        self._clock = clock
        self._most = max(1.0, most)
        self._left = self._most
        self._at = clock.monotonic()

    def take(self, amount: float = 1.0) -> float:
        """Take `amount`; return 0, or the seconds after which there is so much, having taken nothing.

        What is larger than the bucket takes all of a full one.
        """
        if self.rate is None:
            return 0.0
        amount = min(amount, self._most)
        self._fill()
        if self._left < amount:
            return (amount - self._left) / self.rate
        self._left -= amount
        return 0.0

    @property
    def is_full(self) -> bool:
        """Whether a new one would be the same."""
        self._fill()
        return self._left >= self._most

    def _fill(self) -> None:
        now = self._clock.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * (self.rate or 0.0))
        self._at = now


class Buckets:
    """A bucket for each key. Full ones are dropped, so there are as many as keys that were used lately.

    `rate` is asked each time, so that the setting counts at once; `seconds` of it make a full bucket.
    """

    def __init__(self, rate: Callable[[], float | None], seconds: float, clock: Clock) -> None:
        self._rate = rate
        self._seconds = seconds
        self._clock = clock
        self._buckets: dict[str, Bucket] = {}
        self._sweep_at = FEWEST_SWEPT

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, amount: float = 1.0) -> float:
        """See Bucket.take()."""
        rate = self._rate()
        if rate is None:
            return 0.0
        bucket = self._buckets.get(key)
        if bucket is None or bucket.rate != rate:
            self._sweep()
            bucket = self._buckets[key] = Bucket(rate, rate * self._seconds, self._clock)
        return bucket.take(amount)

    def _sweep(self) -> None:
        """Drops full ones when there are twice as many buckets as the last sweep left."""
        if len(self._buckets) < self._sweep_at:
            return
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if not bucket.is_full}
        self._sweep_at = max(FEWEST_SWEPT, 2 * len(self._buckets))
