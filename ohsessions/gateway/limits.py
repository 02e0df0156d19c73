"""What one client may ask in a time, and how much may wait before it is attached."""

from __future__ import annotations

from ohsessions.core.clock import Clock
from ohsessions.core.errors import WireError
from ohsessions.core.wire import Request
from ohsessions.socketio import Ack

BURST_SECONDS = 10.0
"""So many seconds' worth of actions may come at once."""
HELD_ACTIONS = 100
"""So many actions may wait for INIT."""


class RateLimit:
    """A bucket that fills with `rate` actions per second, up to BURST_SECONDS' worth. None: no limit."""

    def __init__(self, rate: float | None, clock: Clock | None = None) -> None:
        self._rate = rate
        self._clock = clock or Clock()
        self._most = max(1.0, (rate or 0) * BURST_SECONDS)
        self._left = self._most
        self._at = self._clock.monotonic()

    def check(self) -> None:
        """Counts one action. Raises WireError 429 `rate` if it is one too many; that one does not count."""
        if self._rate is None:
            return
        now = self._clock.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            wait = (1 - self._left) / self._rate
            message = f"At most {self._rate:g} actions per second, please."
            raise WireError(429, "rate", message, retry_after=round(wait + 0.0005, 3))
        self._left -= 1


class Held:
    """Actions that came before INIT: at most HELD_ACTIONS, of `max_characters` together."""

    def __init__(self) -> None:
        self._held: list[tuple[Request, Ack | None]] = []
        self._characters = 0

    def __len__(self) -> int:
        return len(self._held)

    def try_put(self, request: Request, ack: Ack | None, characters: int, most: int) -> bool:
        """Takes one of `characters`, if not more than `most` are held then."""
        if len(self._held) >= HELD_ACTIONS or self._characters + characters > most:
            return False
        self._held.append((request, ack))
        self._characters += characters
        return True

    def take_all(self) -> list[tuple[Request, Ack | None]]:
        """Gives all, in order, and holds none."""
        held, self._held, self._characters = self._held, [], 0
        return held
