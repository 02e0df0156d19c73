"""
What one client may send in a time: packets and bytes, counted before anything is parsed.

Owns one bucket, in seconds: a packet costs 1 / packet_rate, a byte 1 / byte_rate, and a second pays back a
second. Knows neither what packets mean nor what happens to a client that sends too much.
"""

from collections.abc import Callable

__all__ = ["BURST_SECONDS", "Inflow"]

# So many seconds' worth may come at once.
BURST_SECONDS = 10.0


class Inflow:
    """The bucket of one connection. A rate of None is any; `largest` is the size of the largest message."""

    def __init__(
        self,
        packet_rate: float | None,
        byte_rate: float | None,
        largest: int,
        clock: Callable[[], float],
    ) -> None:
        self._per_packet = 1 / packet_rate if packet_rate else 0.0
        self._per_byte = 1 / byte_rate if byte_rate else 0.0
        # Two of the largest messages may come at once, however low the rate.
        self._burst = max(BURST_SECONDS, 2 * largest * self._per_byte)
        self._clock = clock
        self._paid_until = clock() - self._burst

    def try_take(self, packets: int, size: int) -> bool:
        """Count packets of `size` bytes together. False: that is more than this client may send now."""
        now = self._clock()
        cost = packets * self._per_packet + size * self._per_byte
        paid_until = max(self._paid_until, now - self._burst) + cost
        if paid_until > now:
            return False
        self._paid_until = paid_until
        return True
