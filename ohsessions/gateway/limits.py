"""Buckets: limits on the rate of one client, or of all clients that share an address or a user."""

from __future__ import annotations

from collections.abc import Callable

from ohsessions.core.clock import Clock

ACTION_BURST_SECONDS = 10.0
"""The actions of this many seconds may come at once."""
MINUTE = 60.0
BYTES_PER_ACTION = 16 * 1024
"""This many bytes of an action cost as much as one more action."""
FEWEST_SWEPT = 256
"""Below this number of buckets, full ones are kept."""


def cost(size: int) -> int:
    """Return the cost of an action of `size` bytes."""
    return 1 + size // BYTES_PER_ACTION


class Bucket:
    """A bucket that fills with `rate` per second, up to `most`, and begins full. None: no limit."""

    __slots__ = ("_at", "_clock", "_left", "_most", "rate")

    def __init__(self, rate: float | None, most: float, clock: Clock) -> None:
        self.rate = rate
        self._clock = clock
        self._most = max(1.0, most)
        self._left = self._most
        self._at = clock.monotonic()

    def take(self, amount: float = 1.0) -> float:
        """Take `amount` and return 0. If there is too little, take nothing and return the seconds to wait.

        An amount larger than the bucket takes all of a full bucket.
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
        """True if the bucket is full, like a new one."""
        self._fill()
        return self._left >= self._most

    def _fill(self) -> None:
        now = self._clock.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * (self.rate or 0.0))
        self._at = now


class Buckets:
    """A bucket for each key. Full buckets are dropped, so their number is that of the keys used lately.

    `rate` is called each time, so a changed setting applies at once. `seconds` of it fill a bucket.
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
        """Drop full buckets if there are twice as many buckets as the last sweep left."""
        if len(self._buckets) < self._sweep_at:
            return
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if not bucket.is_full}
        self._sweep_at = max(FEWEST_SWEPT, 2 * len(self._buckets))
