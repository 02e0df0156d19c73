"""The resources that a server's websockets share: a budget of unfinished bytes, a line and a trimmer.

The module websockets uses them. They know nothing of Autobahn.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ohsessions.processes import malloc

TRIM_AFTER = 256 * 1024
"""The bytes of freed buffers from which it is worth making malloc return them to the system."""

TRIM_PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, rates per second; a rate of None is no limit. `largest`: a message of a known client.

    `unfinished_per_address` and `unfinished` bound the bytes of incomplete messages from clients that are not
    known yet.
    """

    largest: int
    packet_rate: float | None = None
    byte_rate: float | None = None
    unfinished_per_address: int = 16 * 1024 * 1024
    unfinished: int = 64 * 1024 * 1024


class Unfinished:
    """The bytes of incomplete messages, of each address and in total."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_address: defaultdict[str, int] = defaultdict(int)
        self._all = 0

    def try_change(self, address: str, change: int) -> bool:
        """Count `change` more bytes, or fewer. Return False, and count nothing, if they would be too many.

        A socket without an address has an empty `address`, and only the total limits it.
        """
        if change > 0 and (
            self._all + change > self._limits.unfinished
            or (address and self._by_address[address] + change > self._limits.unfinished_per_address)
        ):
            return False
        self._all += change
        self._by_address[address] += change
        if not self._by_address[address]:
            del self._by_address[address]
        return True


class Line:
    """Has connections read one after the other, and rests after each for as long as the reading took.

    So hundreds of strangers that all send at once get half of the event loop. Data of known clients is read
    at once. A connection is in the line by the function that reads a slice of its data. `call_later(seconds,
    function)` and `now()` are the loop's.
    """

    def __init__(
        self, call_later: Callable[[float, Callable[[], None]], Any], now: Callable[[], float]
    ) -> None:
        self._call_later = call_later
        self._now = now
        self._waiting: deque[Callable[[], None]] = deque()
        self._planned = False

    def join(self, read_on: Callable[[], None]) -> None:
        """Add a connection, to be read in its turn. It must not be in the line already."""
        self._waiting.append(read_on)
        if not self._planned:
            self._plan(0)

    def leave(self, read_on: Callable[[], None]) -> None:
        """Remove a connection, if it is in the line."""
        try:
            self._waiting.remove(read_on)
        except ValueError:
            pass

    def _plan(self, seconds: float) -> None:
        self._planned = True
        self._call_later(seconds, self._run)

    def _run(self) -> None:
        begun = self._now()
        try:
            if self._waiting:
                self._waiting.popleft()()
        finally:  # an error in one connection must not stop the others
            self._planned = False
            if self._waiting:
                self._plan(self._now() - begun)


class Trimmer:
    """Makes malloc return free memory to the system, some time after much was freed."""

    def __init__(self, call_later: Callable[..., Any]) -> None:
        self._call_later = call_later
        self._planned = False
        self._freed = 0

    def freed(self, size: int) -> None:
        """Note that `size` bytes were freed."""
        self._freed += size
        if self._freed >= TRIM_AFTER and not self._planned:
            self._planned = True
            self._call_later(TRIM_PAUSE, self._run)

    def _run(self) -> None:
        self._planned = False
        self._freed = 0
        malloc.trim()
