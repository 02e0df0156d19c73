"""What the websockets of a server share: a budget of unfinished bytes, a line to be read, and a trimmer.

See the module websockets, which uses them. They know nothing of Autobahn.
"""

from __future__ import annotations

import ctypes
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

TRIM_AFTER = 256 * 1024
"""So many bytes of buffers given back make it worth to have malloc give them back to the system."""

TRIM_PAUSE = 1.0

AT_ONCE = 4
"""So many strangers are read in a turn of the event loop. A slice of small frames takes about 5 ms."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, rates per second; a rate of None is any. `largest`: a message of a known client.

    `unfinished_per_address` and `unfinished` bound what clients that are not known yet have sent of messages
    that are not complete.
    """

    largest: int
    packet_rate: float | None = None
    byte_rate: float | None = None
    unfinished_per_address: int = 16 * 1024 * 1024
    unfinished: int = 64 * 1024 * 1024


class Unfinished:
    """The bytes of incomplete messages, of each address and of all."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_address: defaultdict[str, int] = defaultdict(int)
        self._all = 0

    def try_change(self, address: str, change: int) -> bool:
        """Count `change` more bytes, or fewer. False, and nothing counted: they would be too many.

        An empty `address` is that of a socket which has none.
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


class Reader(Protocol):
    """A connection from which something has come."""

    def read_on(self) -> None:
        """Read a slice of it. Join the line again if there is more."""


class Line:
    """Has connections read in the order in which something came from them, a few in each turn of the loop.

    Hundreds of strangers that all send at once take as many turns; what known clients send is read at once.
    """

    def __init__(self, call_soon: Callable[[Callable[[], None]], Any]) -> None:
        self._call_soon = call_soon
        self._waiting: deque[Reader] = deque()
        self._planned = False

    def join(self, reader: Reader) -> None:
        """Have it read in its turn. It must not be in the line already."""
        self._waiting.append(reader)
        self._plan()

    def leave(self, reader: Reader) -> None:
        """Take it out, if it is in."""
        try:
            self._waiting.remove(reader)
        except ValueError:
            pass

    def _plan(self) -> None:
        if self._waiting and not self._planned:
            self._planned = True
            self._call_soon(self._run)

    def _run(self) -> None:
        self._planned = False
        for _ in range(min(AT_ONCE, len(self._waiting))):
            self._waiting.popleft().read_on()
        self._plan()


class Trimmer:
    """Has malloc give free memory back to the system, some time after large buffers were freed."""

    def __init__(self, call_later: Callable[..., Any]) -> None:
        self._call_later = call_later
        self._planned = False
        self._freed = 0
        try:
            self._trim: Callable[[int], int] | None = ctypes.CDLL(None).malloc_trim
        except (AttributeError, OSError):  # not glibc
            self._trim = None

    def freed(self, size: int) -> None:
        """Note that buffers of `size` bytes were let go."""
        self._freed += size
        if self._freed >= TRIM_AFTER and self._trim is not None and not self._planned:
            self._planned = True
            self._call_later(TRIM_PAUSE, self._run)

    def _run(self) -> None:
        self._planned = False
        self._freed = 0
        if self._trim is not None:
            self._trim(0)
