"""daphne's websocket protocol with limits on frames, bytes and unfinished messages.

daphne and Autobahn limit only the size of a message. Here frames and bytes are counted as they come,
unfinished messages of strangers share a budget, and a lost connection releases its buffers at once. The
module knows nothing of Engine.IO: an application sets the limits of a client by `Inlet`.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol

from ohsessions.serving.websocket_budgets import Limits, Line, Trimmer, Unfinished
from ohsessions.socketio.inflow import BURST_SECONDS, Inflow

logger = logging.getLogger(__name__)

FIRST_LIMIT = 64 * 1024
"""The largest message, in bytes, of a client for which the application has set no limit yet."""

SMALL_FRAME = 1024
"""Frames below this many bytes count as packets, too, since their number is what costs."""

LEEWAY = 2
"""The application counts messages, too, and ends with a reason. So frames may come at this many times its
rate."""

SLICE = 1024
"""The bytes of small frames that are read in one turn of the event loop. Twisted reads 64 KiB at once. In
small frames they take 300 ms, and an answer to another client takes some twenty turns."""

LATE_FRAMES = 20
"""The frames that a client may send before it learns that its connection is being closed."""

PINGS = 100
"""Pings that may come at once: ten seconds' worth. Each is answered. Clients of Socket.IO send none."""

OWN_SIZE = 48 * 1024
"""The bytes of a connection itself, with all that the application keeps of it."""

POLICY_VIOLATION = 1008
PING = 9


class Inlet:
    """An application's limits for the client of a websocket; in its scope as extension `ohsessions.inlet`."""

    def __init__(self, protocol: BoundedWebSocket) -> None:
        self._protocol: BoundedWebSocket | None = protocol

    def limit(self, size: int) -> None:
        """Accept messages of at most `size` bytes from now on."""
        if self._protocol is not None:
            self._protocol.limit(size)

    def lift(self) -> None:
        """Accept messages as large as the server accepts from a known client."""
        if self._protocol is not None:
            self._protocol.lift()

    def cut(self) -> None:
        """Release the connection, which has ended."""
        self._protocol = None


class BoundedWebSocket(WebSocketProtocol):  # type: ignore[misc]
    """See the module's docstring."""

    # Autobahn sets these two after the handshake, and data may come before.
    inside_message = False
    current_frame: Any = None
    client_addr: list[Any] | None = None
    address = ""  # the client's, for the budget
    held = 0  # bytes of the unfinished message
    counted = 0  # the part of `held` that the budget knows
    known = False  # to the application: its unfinished bytes do not count
    input_limit = FIRST_LIMIT
    inlet: Inlet | None = None
    dropped = False  # by us
    late = 0  # frames since the connection began to close
    turn: Any = None  # the planned call of read_on(); the socket is not read until then
    in_line = False  # of strangers that are read in turns; the socket is not read until then
    current_frame_masker: Any = None

    # Autobahn copies these attributes from the factory, and formats all of them for an unread log. The
    # formatting takes half the time of a handshake, so connectionMade() copies them instead.
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

    # The application's limits

    def open_inlet(self, address: str) -> Inlet:
        """Return the inlet for the scope that is being made. `address` is the client's."""
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

    # Incoming data

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
        self.factory.line.join(self.read_on)

    def read_on(self) -> None:
        """Read what may be read in this turn. The rest, and the data in the socket, is for the next turns."""
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
        """Read bytes. Drop the connection if an unfinished message has too many."""
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
        """Set the unfinished bytes in the budget to `held`. Return False if they are too many."""
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
        # maxMessagePayloadSize cannot be used: it bounds sent messages, too.
        if not self.failedByMe and self.message_data_total_length + length > self.input_limit:
            self.drop(f"a message over {self.input_limit} bytes")
        else:
            super().onMessageFrameBegin(length)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.state == self.STATE_OPEN:  # else the application no longer listens
            super().onMessage(payload, isBinary)
        self.factory.trimmer.freed(len(payload))

    def drop(self, reason: str) -> None:
        """End the connection without a farewell, since the client breaks the protocol or its rates."""
        self.dropped = True
        logger.warning(
            "Dropped a websocket of %s: %s", self.client_addr, reason, extra={"verb": "drop_websocket"}
        )
        self._fail_connection(POLICY_VIOLATION, reason)

    # The end

    def connectionLost(self, reason: Any) -> None:
        """
        Release the received data, and the references that would keep it until a garbage collection.

        daphne keeps the protocol object until the application has ended, and Autobahn's futures refer to it
        in a cycle. Sockets that ended in the middle of 8 MiB each would wait for the oldest generation.
        """
        super().connectionLost(reason)
        if self.turn is not None:
            self.turn.cancel()
            self.turn = None
        if self.in_line:
            self.factory.line.leave(self.read_on)
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
