"""
The limit on the packets and bytes of one client, counted before anything is parsed.

Owns one bucket, measured in seconds. A packet costs 1 / packet_rate seconds, a byte 1 / byte_rate seconds.
Each second refills one second. Knows neither the meaning of packets nor the consequences of too many.
"""

from collections.abc import Callable

__all__ = ["BURST_SECONDS", "Inflow"]

# The input of this many seconds may come at once.
BURST_SECONDS = 10.0


class Inflow:
    """The bucket of one connection. A rate of None is no limit. `largest` is the largest message's size."""

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
        """Count packets that have `size` bytes together. If that is too much, count nothing, return False."""
        now = self._clock()
        cost = packets * self._per_packet + size * self._per_byte
        paid_until = max(self._paid_until, now - self._burst) + cost
        if paid_until > now:
            return False
        self._paid_until = paid_until
        return True
