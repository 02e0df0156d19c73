"""
One Engine.IO 4 connection as a state machine without I/O.

Owns the queue of packets for the client, the upgrade, and the end. Uses a Heartbeat and a Barrier.
Packets and requests come in by methods, time by a clock. `queue` holds the packets to be written. `deadline`
is the next time at which tick() has something to do. The engine knows nothing of sockets, tasks, HTTP and
Socket.IO.

States: open → closing → closed, or open → closed. Closing is our orderly end: the queue is still written
within ping_timeout (in polling: polls take the queue, and the last one gets CLOSE).

While a barrier is up, `barrier_timeout` replaces the ping timeout. During an upgrade the client holds its
PONGs back, and `upgrade_timeout` replaces both.

Sources: https://github.com/socketio/engine.io-protocol, and Node's engine.io where that text is not precise.
"""

import secrets
from collections import deque
from collections.abc import Callable
from enum import StrEnum

from ohsessions.socketio import packets
from ohsessions.socketio.barrier import Barrier
from ohsessions.socketio.errors import PacketError, RequestRefused
from ohsessions.socketio.heartbeat import Heartbeat
from ohsessions.socketio.settings import EngineSettings

__all__ = ["EngineIO", "EngineState", "Transport"]

# python-engineio's client drops the connection if a payload has more (Payload.max_decode_packets).
PACKETS_PER_POLL = 16


class Transport(StrEnum):
    """The transport that carries the packets."""

    POLLING = "polling"
    WEBSOCKET = "websocket"


class EngineState(StrEnum):
    """See the module's docstring."""

    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class EngineIO:
    """One connection, from its handshake on. The OPEN packet is the first in the queue."""

    def __init__(self, settings: EngineSettings, transport: Transport, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.transport = transport
        self.sid = secrets.token_urlsafe(15)
        self.state = EngineState.OPEN
        self.reason = ""
        self.queue: deque[str | bytes] = deque()
        self.probing = False  # there is a websocket that tries to upgrade the connection
        self.upgrading = False  # and its probe was answered
        self.poll_waits = False  # a GET waits for its answer
        self._clock = clock
        self._last_word = packets.CLOSE
        self._heartbeat = Heartbeat(settings.ping_interval, settings.ping_timeout, clock())
        self._barrier = Barrier(settings)
        self._linger_due: float | None = None
        upgrades = [Transport.WEBSOCKET.value] if transport is Transport.POLLING else []
        self.queue.append(packets.open_packet(self.sid, upgrades, settings))
        self._barrier.count(len(self.queue[0]))

    # -- from the upper layer

    def send(self, packet: str | bytes) -> None:
        """Queue an encoded packet: text with its type character, or a binary message. Never blocks."""
        if self.state is not EngineState.OPEN:
            return
        self.queue.append(packet)
        if self._barrier.count(len(packet)):
            if self._barrier.due is None:
                self._raise_barrier()
            else:
                self.abort("slow")

    def lift(self) -> None:
        """Allow the client barrier_bytes unread: the application knows it."""
        self._barrier.widen()

    @property
    def writable(self) -> bool:
        """False while a barrier is up: the client has not shown that it reads. True if not open."""
        return self._barrier.due is None or self.state is not EngineState.OPEN

    def close(self, reason: str) -> None:
        """End the connection in order: the queue is still sent."""
        if self.state is not EngineState.OPEN:
            return
        self.state = EngineState.CLOSING
        self.reason = reason
        self._linger_due = self._clock() + self.settings.ping_timeout

    def abort(self, reason: str, last_word: str = packets.CLOSE) -> None:
        """End the connection now and drop the queue. A waiting poll is answered by `last_word`."""
        if self.state is EngineState.CLOSED:
            return
        if self.state is EngineState.OPEN:
            self.reason = reason
        self.state = EngineState.CLOSED
        self._last_word = last_word
        self.queue.clear()

    # -- from the client

    def receive(self, packet: str | bytes) -> str | bytes | None:
        """
        Handle a packet. Return the content of a message, or None for all other packets.

        Raises PacketError if it is not a packet, or not one that a client may send.
        """
        if isinstance(packet, bytes):
            return packet
        kind = packet[:1]
        if kind == packets.MESSAGE:
            return packet[1:]
        if kind == packets.PONG:
            if self._barrier.pong(self._heartbeat.pong(self._clock())):
                self._raise_barrier()
        elif kind == packets.CLOSE:
            self.abort("transport close", packets.NOOP)
        elif kind not in (packets.NOOP, packets.UPGRADE):
            raise PacketError("unknown or misplaced packet type")
        return None

    # -- long polling

    def begin_poll(self) -> None:
        """
        Register a GET. It confirms that the client read the answer to the GET before.

        Raises RequestRefused, and ends the connection, if the GET before still waits for its answer.
        """
        if self.poll_waits:
            self.abort("overlapping polls")
            raise RequestRefused.bad_request()
        self.poll_waits = True
        if self.transport is Transport.POLLING and self._barrier.poll():
            self._raise_barrier()

    @property
    def poll_is_ready(self) -> bool:
        """True if the GET can be answered."""
        return bool(
            self.queue
            or self.upgrading
            or self.state is not EngineState.OPEN
            or self.transport is Transport.WEBSOCKET
        )

    def end_poll(self) -> str:
        """Return the body that answers the GET."""
        self.poll_waits = False
        if self.state is EngineState.CLOSED:
            return self._last_word
        if self.transport is Transport.WEBSOCKET:
            return packets.NOOP
        if not self.queue and self.state is EngineState.CLOSING:
            # CLOSE is sent alone: the JavaScript client handles it before a DISCONNECT of the same payload.
            self.abort(self.reason)
            return packets.CLOSE
        if not self.queue:
            return packets.NOOP
        taken = [self.queue.popleft() for _ in range(min(PACKETS_PER_POLL, len(self.queue)))]
        self._barrier.take(sum(map(len, taken)))
        return packets.encode_payload(taken)

    def cancel_poll(self) -> None:
        """End the connection, as Node does: the client gave up a poll, and may have missed packets."""
        self.poll_waits = False
        self.abort("transport close")

    # -- upgrade

    def begin_probe(self) -> None:
        """
        Register a websocket that wants to upgrade. end_probe() must follow within upgrade_timeout.

        Raises RequestRefused if the connection cannot upgrade now.
        """
        if self.transport is Transport.WEBSOCKET or self.probing or self.state is not EngineState.OPEN:
            raise RequestRefused.bad_request()
        self.probing = True

    def receive_probe(self, packet: str | bytes) -> str | None:
        """
        Handle a packet of the probing websocket. Return the packet to answer at once, or None.

        Raises PacketError if it is not part of an upgrade. Only that websocket must end then.
        """
        if packet == packets.PROBE_PING and self.probing and not self.upgrading:
            self.upgrading = True
            return packets.PROBE_PONG
        if packet == packets.UPGRADE and self.upgrading and self.state is EngineState.OPEN:
            self.transport = Transport.WEBSOCKET
            self.end_probe()
            return None
        raise PacketError("not part of an upgrade")

    def end_probe(self) -> None:
        """Resume the heartbeat: the upgrade is done or given up, and the client answers PINGs again."""
        if not self.probing:
            return
        self.probing = self.upgrading = False
        now = self._clock()
        self._heartbeat.resume(now)
        if self.transport is Transport.POLLING:
            self._barrier.extend(now)
        elif self._barrier.upgrade(sum(map(len, self.queue))):
            self._raise_barrier()

    # -- time

    @property
    def deadline(self) -> float | None:
        """The time at which tick() must be called, or None."""
        if self.state is not EngineState.OPEN:
            return self._linger_due if self.state is EngineState.CLOSING else None
        if self.upgrading:
            return None
        due = self._barrier.due
        return self._heartbeat.due if due is None else due

    def tick(self) -> None:
        """Act on a deadline that has passed. Early calls do nothing."""
        now = self._clock()
        due = self.deadline
        if due is None or now < due:
            return
        if self.state is EngineState.CLOSING:
            self.abort(self.reason)
        elif self._barrier.due is not None:
            self.abort("slow")
        elif self._heartbeat.awaits_pong:
            self.abort("ping timeout")
        elif self.transport is Transport.WEBSOCKET and self._barrier.delays_ping:
            self._raise_barrier()
        else:
            self._ping(now)

    def _ping(self, now: float) -> int:
        self.queue.append(packets.PING)
        self._barrier.count(len(packets.PING))
        return self._heartbeat.ping(now)

    def _raise_barrier(self) -> None:
        now = self._clock()
        self._barrier.raise_for(now, self._ping(now) if self.transport is Transport.WEBSOCKET else None)
