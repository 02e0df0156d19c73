"""
The limit on the packets and bytes of one client, counted before anything is parsed.

Owns one bucket, in seconds: a packet costs 1 / packet_rate, a byte costs 1 / byte_rate, and each second pays
back one second. Knows neither the meaning of packets nor what happens to a client that sends too much.
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
        """Count packets of `size` bytes together. Return False, uncounted, if that is too much now."""
        now = self._clock()
        cost = packets * self._per_packet + size * self._per_byte
        paid_until = max(self._paid_until, now - self._burst) + cost
        if paid_until > now:
            return False
        self._paid_until = paid_until
        return True
