"""Actions that came before INIT, kept until it comes: in order, with limits."""

from __future__ import annotations

from dataclasses import dataclass

from ohsessions.gateway.guests import Guest
from ohsessions.gateway.refusals import not_attached
from ohsessions.socketio import Ack

HELD_ACTIONS = 100
"""The most actions of a client that may wait for INIT."""


@dataclass(frozen=True, slots=True)
class HeldAction:
    """An action as it came: its JSON in UTF-8, which has the size that was counted.

    The parsed action would take twice as much memory. A Python string with one character beyond Latin-1 would
    take two or four times as much.
    """

    data: bytes
    client_id: str | None
    ack: Ack | None


class Held:
    """The waiting actions of one guest: at most HELD_ACTIONS, with Guest.most_held bytes together."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._held: list[HeldAction] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def put(self, action: HeldAction) -> None:
        """Keep an action. Raises WireError 409, or 429 if too much waits for its user or address."""
        size = len(action.data)
        if len(self._held) >= HELD_ACTIONS or self._bytes + size > self._guest.most_held:
            raise not_attached("Too many actions are waiting for INIT.")
        if not self._guest.try_hold(size):
            raise self._guest.held_too_much()
        self._held.append(action)
        self._bytes += size

    def take_all(self) -> list[HeldAction]:
        """Return all actions, in order, and keep none."""
        self._guest.release(self._bytes)
        held, self._held, self._bytes = self._held, [], 0
        return held
