"""daphne's websocket protocol, bounded: what a client may send in a time, keep unfinished, and leave behind.

daphne and Autobahn count nothing but the size of a message. Here frames and bytes are counted as they come,
unfinished messages of strangers share a budget, and a connection that is lost lets go of its buffers at once.
It knows nothing of Engine.IO: an application says by `Inlet` how much a client may send.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol

from ohsessions.socketio.inflow import BURST_SECONDS, Inflow
from ohsessions.websocket_budgets import Limits, Line, Trimmer, Unfinished

logger = logging.getLogger(__name__)

FIRST_LIMIT = 64 * 1024
"""The largest message, in bytes, of a client of whom the application has not said anything yet."""

SMALL_FRAME = 1024
"""Frames below this many bytes count as packets, since their number is what costs; larger ones as bytes."""

LEEWAY = 2
"""An application counts messages too, and says farewell; frames are cut at so many times its rate."""

SLICE = 1024
"""So many bytes of small frames are read in a turn of the event loop. 64 KiB of them, which Twisted reads at
once, take 300 ms, and an answer to somebody else takes some twenty turns."""

LATE_FRAMES = 20
"""Frames that a client may send before it learns that its connection is being closed."""

PINGS = 100
"""Pings that may come at once, ten seconds' worth: each is answered. Clients of Socket.IO send none."""

OWN_SIZE = 48 * 1024
"""Bytes that a connection itself takes, with all that the application keeps of it."""

POLICY_VIOLATION = 1008
PING = 9


class Inlet:
    """What an application may say of a websocket's client; in its scope as extension `ohsessions.inlet`."""

    def __init__(self, protocol: BoundedWebSocket) -> None:
        self._protocol: BoundedWebSocket | None = protocol

    def limit(self, size: int) -> None:
        """Take messages of at most `size` bytes from now on."""
        if self._protocol is not None:
            self._protocol.limit(size)

    def lift(self) -> None:
        """Take whatever the server takes of a known client."""
        if self._protocol is not None:
            self._protocol.lift()

    def cut(self) -> None:
        """The connection is no more."""
        self._protocol = None


class BoundedWebSocket(WebSocketProtocol):  # type: ignore[misc]
    """See the module's docstring."""

    # Autobahn sets these two when the handshake is done, and data may come before.
    inside_message = False
    current_frame: Any = None
    client_addr: list[Any] | None = None
    address = ""  # whose budget it is
    held = 0  # bytes of the unfinished message
    counted = 0  # how many of them the budget knows
    known = False  # to the application: its unfinished bytes are its own affair
    input_limit = FIRST_LIMIT
    inlet: Inlet | None = None
    dropped = False  # by us
    late = 0  # frames since the end began
    turn: Any = None  # the call that reads on; the socket is not read meanwhile
    in_line = False  # of strangers that are read on in their turn; nor then
    current_frame_masker: Any = None

    # Autobahn copies what these name from the factory, and formats all of it for a log that nobody reads,
    # which takes half the time of a handshake. See connectionMade().
    CONFIG_ATTRS: tuple[str, ...] = ()

    def connectionMade(self) -> None:
        for name in WebSocketProtocol.CONFIG_ATTRS:
            setattr(self, name, getattr(self.factory, name))
        limits: Limits = self.factory.limits
        self.input_limit = min(FIRST_LIMIT, limits.largest)
        self.waiting = bytearray()
        self.inflow = Inflow(
            LEEWAY * limits.packet_rate if limits.packet_rate else None,
            LEEWAY * limits.byte_rate if limits.byte_rate else None,
            limits.largest,
            time.monotonic,
        )
        self.pings = Inflow(PINGS / BURST_SECONDS, None, 0, time.monotonic)
        super().connectionMade()

    # What the application says

    def open_inlet(self, address: str) -> Inlet:
        """Return what goes into the scope, when that is made; `address` is the client's."""
        self.address = address
        self.inlet = Inlet(self)
        return self.inlet

    def limit(self, size: int) -> None:
        """See Inlet."""
        self.input_limit = min(size, self.factory.limits.largest)

    def lift(self) -> None:
        """See Inlet."""
        self.input_limit = self.factory.limits.largest
        self.known = True
        self.count(0)

    # What arrives

    def dataReceived(self, data: bytes) -> None:
        self.waiting += data
        if self.is_paused:
            return
        if self.known or self.state == self.STATE_CONNECTING:
            self.read_on()
        else:
            self.transport.pauseProducing()
            self.wait_in_line()

    @property
    def is_paused(self) -> bool:
        return self.in_line or self.turn is not None

    def wait_in_line(self) -> None:
        self.in_line = True
        self.factory.line.join(self)

    def read_on(self) -> None:
        """Read what may be read in this turn; the rest, and what the socket has, in the next ones."""
        paused, self.turn, self.in_line = self.is_paused, None, False
        size = self.share(len(self.waiting))
        data = bytes(self.waiting[:size])
        del self.waiting[:size]
        self.read(data)
        if self.dropped:
            self.waiting.clear()
        if self.waiting:
            if not paused:
                self.transport.pauseProducing()
            if self.known:
                self.turn = self.factory.reactor.callLater(0, self.read_on)
            else:
                self.wait_in_line()
        elif paused and not self.dropped:
            self.transport.resumeProducing()

    def share(self, size: int) -> int:
        """Return how many of `size` bytes may be read now: all of a payload, few where frames may begin."""
        if self.state == self.STATE_CONNECTING:
            return size
        payload = 0
        if self.current_frame is not None and self.current_frame_masker is not None:
            payload = self.current_frame.length - self.current_frame_masker.pointer()
        return max(SLICE, min(size, payload))

    def read(self, data: bytes) -> None:
        """Read bytes, unless they are too many of an unfinished message."""
        if self.dropped:
            return
        if self.state == self.STATE_CONNECTING and hasattr(self, "application_deferred"):
            self.drop("data before the handshake was answered")  # would be buffered without a limit
            return
        super().dataReceived(data)
        if self.dropped:
            return
        self.held = self.held + len(data) if self.inside_message else len(self.data)
        if not (self.known or self.count(self.held)):
            self.drop("too many unfinished messages")

    def count(self, held: int) -> bool:
        """Have the budget know that `held` bytes are unfinished. False: they are too many."""
        if not self.factory.unfinished.try_change(self.address, held - self.counted):
            return False
        self.counted = held
        return True

    def onFrameBegin(self) -> None:
        length = self.current_frame.length
        self.late += self.state == self.STATE_CLOSING
        if self.late > LATE_FRAMES:
            self.drop("it sends on after the end")
        elif self.current_frame.opcode == PING and not self.pings.try_take(1, 0):
            self.drop("too many pings")
        elif self.inflow.try_take(length < SMALL_FRAME, length):
            super().onFrameBegin()
        else:
            self.drop("more frames or bytes than its rate")

    def onMessageFrameBegin(self, length: int) -> None:
        # Apart from maxMessagePayloadSize, which bounds what is sent, too.
        if not self.failedByMe and self.message_data_total_length + length > self.input_limit:
            self.drop(f"a message over {self.input_limit} bytes")
        else:
            super().onMessageFrameBegin(length)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.state == self.STATE_OPEN:  # else nobody listens any more
            super().onMessage(payload, isBinary)
        self.factory.trimmer.freed(len(payload))

    def drop(self, reason: str) -> None:
        """End the connection without a word, since the client does not keep to the protocol or its rates."""
        self.dropped = True
        logger.warning(
            "Dropped a websocket of %s: %s", self.client_addr, reason, extra={"verb": "drop_websocket"}
        )
        self._fail_connection(POLICY_VIOLATION, reason)

    # The end

    def connectionLost(self, reason: Any) -> None:
        """
        Let go of what was received, and of the references that would keep it until a collection.

        daphne keeps the protocol object until the application has ended, and Autobahn's futures refer to it
        in a circle: sockets that ended in the middle of 8 MiB each would wait for the oldest generation.
        """
        super().connectionLost(reason)
        if self.turn is not None:
            self.turn.cancel()
            self.turn = None
        if self.in_line:
            self.factory.line.leave(self)
        self.waiting.clear()
        self.count(0)
        if self.inlet is not None:
            self.inlet.cut()
        self.factory.trimmer.freed(self.held + OWN_SIZE)
        self.held = 0
        self.data = b""
        self.message_data: list[bytes] = []
        self.frame_data = self.control_frame_data = None
        self.current_frame = self.current_frame_masker = None
        self.is_open = self.is_closed = None


class BoundedWebSocketFactory(WebSocketFactory):  # type: ignore[misc]
    """Makes websockets that share one budget of unfinished bytes."""

    protocol = BoundedWebSocket

    def __init__(self, server_class: Any, limits: Limits, **options: Any) -> None:
        super().__init__(server_class, **options)
        self.limits = limits
        self.unfinished = Unfinished(limits)
        self.line = Line(lambda *call: self.reactor.callLater(*call), lambda: self.reactor.seconds())
        self.trimmer = Trimmer(self.reactor.callLater)
