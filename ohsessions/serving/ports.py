"""A listening TCP port that accepts one connection at a time."""

from __future__ import annotations

from typing import Any

from twisted.internet import tcp

_Port: Any = tcp.Port  # Twisted has few types


class FairPort(_Port):  # type: ignore[misc]
    """Accepts one connection at a time, and then rests for as long as that kept the event loop.

    Twisted accepts all connections that wait, up to a number that grows as long as there are more. All of
    them then make their handshake in the same turn of the loop, and an answer to another client takes some
    twenty turns.
    """

    numberAccepts = property(lambda self: 1, lambda self, number: None)

    def doRead(self) -> None:
        clock = self.reactor
        begun = clock.seconds()
        super().doRead()
        self.stopReading()
        # One turn later, the request of a connection that was accepted before has been read: its time counts.
        clock.callLater(0, lambda: clock.callLater(clock.seconds() - begun, self.go_on))

    def go_on(self) -> None:
        """Accept the next connection, if the port is still open."""
        if self.connected:
            self.startReading()
