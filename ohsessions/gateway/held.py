"""Actions that came before INIT, until it comes: in order, and bounded."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ohsessions.core.wire import Act, Request
from ohsessions.gateway.guests import Guest
from ohsessions.gateway.refusals import not_attached
from ohsessions.socketio import Ack

HELD_ACTIONS = 100
"""So many actions may wait for INIT."""


@dataclass(frozen=True, slots=True)
class HeldAction:
    """A request without its texts; these are kept as UTF-8, so that they cost what was counted.

    (One character beyond Latin-1 makes a string of Python's twice or four times as large.)
    """

    request: Request
    body: bytes
    hidden: bytes | None
    ack: Ack | None

    @classmethod
    def pack(cls, request: Request, ack: Ack | None) -> HeldAction:
        if not isinstance(request, Act):
            return cls(request, b"", None, ack)
        hidden = None if request.hidden is None else request.hidden.encode()
        return cls(replace(request, body="", hidden=None), request.body.encode(), hidden, ack)

    def unpack(self) -> Request:
        if not isinstance(self.request, Act):
            return self.request
        hidden = None if self.hidden is None else self.hidden.decode()
        return replace(self.request, body=self.body.decode(), hidden=hidden)


class Held:
    """Actions of one guest that wait: at most HELD_ACTIONS, of Guest.most_held bytes together."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._held: list[HeldAction] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def put(self, request: Request, size: int, ack: Ack | None) -> None:
        """Keep an action of `size` bytes. Raises WireError 409, or 429 if its address holds too much.

        Its body may have twice that: a message's text stands in it a second time, for people.
        """
        if len(self._held) >= HELD_ACTIONS or self._bytes + size > self._guest.most_held:
            raise not_attached("Too many actions are waiting for INIT.")
        if not self._guest.try_hold(size):
            raise self._guest.held_too_much()
        self._held.append(HeldAction.pack(request, ack))
        self._bytes += size

    def take_all(self) -> list[tuple[Request, Ack | None]]:
        """Return all, in order, and hold none."""
        self._guest.release(self._bytes)
        held, self._held, self._bytes = self._held, [], 0
        return [(action.unpack(), action.ack) for action in held]
