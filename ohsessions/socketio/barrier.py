"""
The barrier of one connection: a client must show that it reads before it is sent more.

ASGI servers do not report whether a client reads. But a client answers every PING in order. So the server
sends a PING after a number of bytes, and the connection is not writable until the PONG comes. In polling the
next GET takes the place of the PONG.

Owns the number of unconfirmed bytes, and the time that the client has. Reads no clock and sends no packet:
the caller passes `now`, and sends the PING.
"""

from ohsessions.socketio.settings import EngineSettings

__all__ = ["Barrier"]


class Barrier:
    """
    The rules; times are in seconds, sizes in bytes (of text: in characters):

    - Every packet counts as unconfirmed, from the moment it is queued.
    - When `barrier_bytes` are unconfirmed, the caller raises the barrier. `first_barrier_bytes` apply until
      widen(), if the application does not know the client yet.
    - On a websocket the PONG of the barrier's PING lifts it, and confirms all that was queued before it.
    - In polling a GET lifts it, and confirms the answer to the GET before.
    - If the bytes queued meanwhile need it, the caller raises the next barrier at once.
    - A client is slow if its barrier is up for `barrier_timeout`, or if more than `backlog_bytes` are queued
      meanwhile.

    `due` is the time at which the client is slow, or None while the barrier is not up.
    """

    __slots__ = (
        "_backlog",
        "_behind",
        "_full",
        "_most",
        "_ping",
        "_taken",
        "_timeout",
        "_unconfirmed",
        "due",
    )

    def __init__(self, settings: EngineSettings) -> None:
        is_known = settings.first_payload is None
        self._full = settings.barrier_bytes
        self._most = self._full if is_known else min(settings.first_barrier_bytes, self._full)
        self._timeout = settings.barrier_timeout
        self._backlog = settings.backlog_bytes
        self.due: float | None = None
        self._ping: int | None = None  # the number of the barrier's PING; None in polling
        self._unconfirmed = 0
        self._behind = 0  # bytes queued since the barrier was raised
        self._taken = 0  # bytes of the last poll's answer; the next GET confirms them

    def count(self, size: int) -> bool:
        """
        Count a packet that is queued.

        Return True if too much is unconfirmed. Then the caller raises the barrier. If the barrier is up
        already, the client is slow.
        """
        self._unconfirmed += size
        if self.due is None:
            return self._unconfirmed >= self._most
        self._behind += size
        return self._behind > self._backlog

    @property
    def delays_ping(self) -> bool:
        """True if the client may need longer than the ping timeout to read the bytes before a PING."""
        return self._unconfirmed >= self._most // 4

    def widen(self) -> None:
        """Allow `barrier_bytes` from now on: the application knows the client."""
        self._most = self._full

    def raise_for(self, now: float, ping: int | None) -> None:
        """Raise the barrier until the PONG to the PING of this number; None: until the next GET."""
        self.due = now + self._timeout
        self._behind = 0
        self._ping = ping
        if ping is not None:
            self._unconfirmed = 0

    def extend(self, now: float) -> None:
        """Restart the client's time, if the barrier is up: the client was busy with a failed upgrade."""
        if self.due is not None:
            self.due = now + self._timeout

    # -- The client reads. These methods return True if the bytes queued meanwhile need the next barrier.

    def pong(self, ping: int) -> bool:
        """Lift the barrier if its PING, or one after it, is answered. Return True if it must rise again."""
        if self.due is None or self._ping is None or ping < self._ping:
            return False
        self.due = None
        return self._unconfirmed >= self._most

    def take(self, size: int) -> None:
        """Note the size of the answer to a GET."""
        self._taken = size

    def poll(self) -> bool:
        """Lift the barrier: a GET confirms the answer before. Return True if it must rise again."""
        self._unconfirmed -= self._taken
        self._taken = 0
        self.due = None
        return self._unconfirmed >= self._most

    def upgrade(self, queued: int) -> bool:
        """Lift the barrier: an upgrade confirms all but `queued` bytes. Return True if it must rise again."""
        self._unconfirmed = queued
        self.due = None
        return self._unconfirmed >= self._most
