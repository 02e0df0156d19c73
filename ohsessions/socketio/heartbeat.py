"""
The heartbeat of one connection: the server's PINGs, the client's PONGs, and the time of the next act.

Owns their numbers and times. Reads no clock and sends no packet: the caller passes `now`, and sends the PING.
Source: https://github.com/socketio/engine.io-protocol#heartbeat
"""

from ohsessions.socketio.errors import PacketError

__all__ = ["Heartbeat"]


class Heartbeat:
    """
    The rules, all times in seconds:

    - The client answers each PING exactly once, in order. So the n-th PONG answers the n-th PING.
    - A PING follows `interval` after the PONG that answered all PINGs, or after the start.
    - A client that owes a PONG has `timeout` for it, from the newest PING or from its PONG before.

    `awaits_pong` is True while the client owes a PONG. `due` is the time at which that PONG is late. If the
    client owes none, `due` is the time of the next PING.
    """

    __slots__ = ("_interval", "_pings", "_pongs", "_timeout", "awaits_pong", "due")

    def __init__(self, interval: float, timeout: float, now: float) -> None:
        self._interval = interval
        self._timeout = timeout
        self._pings = self._pongs = 0
        self.awaits_pong = False
        self.due = now + interval

    def ping(self, now: float) -> int:
        """Count a PING that is sent now. Return its number, from 1."""
        self._pings += 1
        self.awaits_pong = True
        self.due = now + self._timeout
        return self._pings

    def pong(self, now: float) -> int:
        """
        Count a PONG. Return the number of the PING that it answers.

        Raises PacketError if the client owes none. A flood of PONGs would cost time for nothing.
        """
        if not self.awaits_pong:
            raise PacketError("a PONG without a PING before it")
        self._pongs += 1
        self.awaits_pong = self._pongs < self._pings
        self.due = now + (self._timeout if self.awaits_pong else self._interval)
        return self._pongs

    def resume(self, now: float) -> None:
        """Restart `timeout` for a PONG that is owed: the client held it back during an upgrade."""
        if self.awaits_pong:
            self.due = now + self._timeout
