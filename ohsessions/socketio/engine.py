"""
One Engine.IO 4 connection as a state machine without I/O.

Owns: which packets are queued for the client, the heartbeat, the barrier, the upgrade, and when all that
ends. Packets and requests go in by methods, time by a clock; what is to be written is in `queue`, the next
moment at which tick() has something to do is `deadline`. It refuses to know of sockets, tasks, HTTP and
Socket.IO.

States: open → closing → closed, or open → closed. Closing is our orderly end: what is queued is still
written (in polling: taken by polls, the last of which gets CLOSE) within ping_timeout.

The barrier. Servers give no sign that a client reads. Clients answer every PING in order, so a PING behind
each `barrier_bytes` gives it: until its PONG the connection is not writable. In polling the next GET is the
sign. While a barrier is out, `barrier_timeout` stands in for the ping timeout; during an upgrade, when the
client holds its PONGs back, `upgrade_timeout` does.

Sources: https://github.com/socketio/engine.io-protocol and Node's engine.io for what the text leaves open.
"""

import secrets
from collections import deque
from collections.abc import Callable
from enum import StrEnum

from ohsessions.socketio import packets
from ohsessions.socketio.errors import PacketError, RequestRefused
from ohsessions.socketio.settings import EngineSettings

__all__ = ["EngineIO", "State", "Transport"]

# python-engineio's client drops the connection over a payload of more (Payload.max_decode_packets).
PACKETS_PER_POLL = 16


class Transport(StrEnum):
    """How the packets travel now."""

    POLLING = "polling"
    WEBSOCKET = "websocket"


class State(StrEnum):
    """See the module's docstring."""

    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class EngineIO:
    """One connection, from its handshake on: the OPEN packet is the first in the queue."""

    def __init__(self, settings: EngineSettings, transport: Transport, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.transport = transport
        self.sid = secrets.token_urlsafe(15)
        self.state = State.OPEN
        self.reason = ""
        self.queue: deque[str | bytes] = deque()
        self.probing = False  # a second, upgrading websocket is there
        self.upgrading = False  # and its probe was answered
        self._clock = clock
        # Raised by lift(), if the application is to know the client first.
        is_known = settings.first_payload is None
        self._barrier_bytes = (
            settings.barrier_bytes if is_known else min(settings.first_barrier_bytes, settings.barrier_bytes)
        )
        self.poll_waits = False  # a GET is there to be answered
        self._last_word = packets.CLOSE
        # The n-th PONG answers the n-th PING, whichever kind it was.
        self._pings = self._pongs = 0
        self._barrier_ping = 0  # the number of the PING that is the barrier
        self._barrier_due: float | None = None  # set while a barrier is out
        self._unconfirmed = 0  # bytes since the last barrier; in polling, since the last GET
        self._taken = 0  # bytes of the last poll's answer, of which only the next GET says that it was read
        self._behind = 0  # bytes since the barrier that is out
        self._ping_due = clock() + settings.ping_interval
        self._pong_due: float | None = None
        self._linger_due: float | None = None
        upgrades = [Transport.WEBSOCKET.value] if transport is Transport.POLLING else []
        self._enqueue(packets.open_packet(self.sid, upgrades, settings))

    # -- what the upper layer says

    def send(self, packet: str | bytes) -> None:
        """Queue an encoded packet: text with its type character, or a binary message. Never blocks."""
        if self.state is not State.OPEN:
            return
        self._enqueue(packet)
        if self._barrier_due is not None:
            self._behind += len(packet)
            if self._behind > self.settings.backlog_bytes:
                self.abort("slow")
        elif self._unconfirmed >= self._barrier_bytes:
            self._raise_barrier()

    def lift(self) -> None:
        """The application knows the client: it may leave barrier_bytes unread."""
        self._barrier_bytes = self.settings.barrier_bytes

    def _enqueue(self, packet: str | bytes) -> None:
        self.queue.append(packet)
        self._unconfirmed += len(packet)

    @property
    def writable(self) -> bool:
        """False while the client has not shown that it read what was sent; a closed one takes all."""
        return self._barrier_due is None or self.state is not State.OPEN

    def close(self, reason: str) -> None:
        """End it in order: what is queued still goes out."""
        if self.state is not State.OPEN:
            return
        self.state = State.CLOSING
        self.reason = reason
        self._linger_due = self._clock() + self.settings.ping_timeout

    def abort(self, reason: str, last_word: str = packets.CLOSE) -> None:
        """End it now. A poll that waits is answered by `last_word`."""
        if self.state is State.CLOSED:
            return
        if self.state is State.OPEN:
            self.reason = reason
        self.state = State.CLOSED
        self._last_word = last_word
        self.queue.clear()

    # -- what the client says

    def receive(self, packet: str | bytes) -> str | bytes | None:
        """
        Take a packet; returns the content of a message, None for all else.

        Raises PacketError on what is no packet, or none that a client may send.
        """
        if isinstance(packet, bytes):
            return packet
        kind = packet[:1]
        if kind == packets.MESSAGE:
            return packet[1:]
        if kind == packets.PONG:
            self._pong()
        elif kind == packets.CLOSE:
            self.abort("transport close", packets.NOOP)
        elif kind not in (packets.NOOP, packets.UPGRADE):
            raise PacketError("unknown or misplaced packet type")
        return None

    def _pong(self) -> None:
        if self._pongs == self._pings:
            # Clients answer each PING exactly once; a flood of PONGs would cost more than it says.
            raise PacketError("a pong that no ping asked for")
        now = self._clock()
        self._pongs += 1
        if self._pongs == self._pings:
            self._pong_due = None
            self._ping_due = now + self.settings.ping_interval
        else:
            self._pong_due = now + self.settings.ping_timeout
        if (
            self.transport is Transport.WEBSOCKET
            and self._barrier_due is not None
            and self._pongs >= self._barrier_ping
        ):
            self._barrier_due = None
            if self._unconfirmed >= self._barrier_bytes:
                self._raise_barrier()

    # -- long polling

    def begin_poll(self) -> None:
        """
        A GET arrived, so the answer to the one before was read.

        Raises RequestRefused, and closes the connection, if that one still waits.
        """
        if self.poll_waits:
            self.abort("overlapping polls")
            raise RequestRefused.bad_request()
        self.poll_waits = True
        if self.transport is Transport.POLLING:
            self._unconfirmed -= self._taken
            self._taken = 0
            self._barrier_due = None
            if self._unconfirmed >= self._barrier_bytes:
                self._raise_barrier()

    @property
    def poll_is_ready(self) -> bool:
        """Whether end_poll() has an answer to give."""
        return bool(
            self.queue
            or self.upgrading
            or self.state is not State.OPEN
            or self.transport is Transport.WEBSOCKET
        )

    def end_poll(self) -> str:
        """The body that answers the GET."""
        self.poll_waits = False
        if self.state is State.CLOSED:
            return self._last_word
        if self.transport is Transport.WEBSOCKET:
            return packets.NOOP
        if not self.queue and self.state is State.CLOSING:
            # CLOSE stands alone: the JavaScript client acts on it before a DISCONNECT of the same payload.
            self.abort(self.reason)
            return packets.CLOSE
        if not self.queue:
            return packets.NOOP
        taken = [self.queue.popleft() for _ in range(min(PACKETS_PER_POLL, len(self.queue)))]
        self._taken = sum(map(len, taken))
        return packets.encode_payload(taken)

    def cancel_poll(self) -> None:
        """The client gave a poll up; what it missed is not known, so the connection ends (as in Node)."""
        self.poll_waits = False
        self.abort("transport close")

    # -- upgrade

    def begin_probe(self) -> None:
        """
        A websocket arrived for this connection; end_probe() must follow, within upgrade_timeout.

        Raises RequestRefused unless the connection may upgrade now.
        """
        if self.transport is Transport.WEBSOCKET or self.probing or self.state is not State.OPEN:
            raise RequestRefused.bad_request()
        self.probing = True

    def receive_probe(self, packet: str | bytes) -> str | None:
        """
        Take a packet of the probing websocket; returns what to write to it at once.

        Raises PacketError if it is not part of an upgrade: then only that websocket ends.
        """
        if packet == packets.PROBE_PING and self.probing and not self.upgrading:
            self.upgrading = True
            return packets.PROBE_PONG
        if packet == packets.UPGRADE and self.upgrading and self.state is State.OPEN:
            self.transport = Transport.WEBSOCKET
            self.end_probe()
            return None
        raise PacketError("not part of an upgrade")

    def end_probe(self) -> None:
        """The upgrade is done or given up: the client answers again, and the heartbeat goes on."""
        if not self.probing:
            return
        self.probing = self.upgrading = False
        now = self._clock()
        if self._pong_due is not None:
            self._pong_due = now + self.settings.ping_timeout
        if self.transport is Transport.WEBSOCKET:  # which confirms all that polls took
            self._barrier_due = None
            self._unconfirmed = sum(map(len, self.queue))
            if self._unconfirmed >= self._barrier_bytes:
                self._raise_barrier()
        elif self._barrier_due is not None:
            self._barrier_due = now + self.settings.barrier_timeout

    # -- time

    @property
    def deadline(self) -> float | None:
        """When tick() is to be called; None: never."""
        if self.state is not State.OPEN:
            return self._linger_due if self.state is State.CLOSING else None
        if self.upgrading:
            return None
        if self._barrier_due is not None:
            return self._barrier_due
        return self._ping_due if self._pong_due is None else self._pong_due

    def tick(self) -> None:
        """Do what is due. Early calls do nothing."""
        now = self._clock()
        if self.state is State.CLOSING and self._linger_due is not None and now >= self._linger_due:
            self.abort(self.reason)
        if self.state is not State.OPEN:
            return
        due = self.deadline
        if due is None or now < due:
            return
        if self._barrier_due is not None:
            self.abort("slow")
        elif self._pong_due is not None:
            self.abort("ping timeout")
        elif self.transport is Transport.WEBSOCKET and self._unconfirmed >= self._barrier_bytes // 4:
            # The client may need longer than ping_timeout to read what is in front of this PING.
            self._raise_barrier()
        else:
            self._ping(now)

    def _ping(self, now: float) -> None:
        self._enqueue(packets.PING)
        self._pings += 1
        self._pong_due = now + self.settings.ping_timeout

    def _raise_barrier(self) -> None:
        now = self._clock()
        self._barrier_due = now + self.settings.barrier_timeout
        self._behind = 0
        if self.transport is Transport.WEBSOCKET:
            self._ping(now)
            self._barrier_ping = self._pings
            self._unconfirmed = 0
