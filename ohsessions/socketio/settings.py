"""The settings of one Engine.IO connection: read at its handshake, and never changed afterwards."""

from dataclasses import dataclass

__all__ = ["EngineSettings"]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """
    The settings of a connection. Times are in seconds, sizes in bytes (of text: in characters).

    A server asks for them at each handshake, so a changed setting needs no restart of the process.
    """

    # The server sends a PING this long after the last PONG. The client has ping_timeout to answer. Proxies
    # cut connections that are silent for 16 s.
    ping_interval: float = 12
    ping_timeout: float = 20
    # The largest POST and the largest websocket message; announced to the client as maxPayload. The default
    # is that of Node's server. (daphne's --websocket-max-message-size, 1 MiB, also limits the messages that
    # we send: a larger one breaks the connection.)
    max_payload: int = 1_000_000
    # The same limit until the application knows the client (Socket.lift_limit). None: max_payload.
    first_payload: int | None = None
    # The sustained rates of a client, per second: see inflow. None: no limit.
    packet_rate: float | None = 200
    byte_rate: float | None = 4 * 1024 * 1024
    # The most packets of one POST, since they arrive all at once.
    post_packets: int = 2000
    # The most values in the JSON of one message: parsed, they cost far more than their text. None: no limit.
    max_values: int | None = 50_000
    # After this many bytes the server writes a PING. The connection is not writable until the PONG shows that
    # the client has read these bytes. (daphne buffers without limit and reports nothing.)
    barrier_bytes: int = 256 * 1024
    # The time for this PONG, in place of ping_timeout, since a slow reader is alive.
    barrier_timeout: float = 60
    # The same as barrier_bytes until the application knows the client (see first_payload). Until then a
    # client has nothing large to read.
    first_barrier_bytes: int = 8 * 1024
    # The bytes that may be queued behind a barrier, by callers that do not wait for `writable`
    # (acknowledgements, notices).
    backlog_bytes: int = 8 * 1024 * 1024
    # From the upgrading websocket's handshake to its UPGRADE packet. The default is Node's.
    upgrade_timeout: float = 10
    # A connection without any namespace is closed after this time.
    connect_timeout: float = 20
    # The most events of a socket that wait to be handled; more is flooding.
    inbox_events: int = 1000
    # The same for an unknown client that does not read its answers. None of its events is handled meanwhile.
    first_inbox_events: int = 100
    inbox_bytes: int = 8 * 1024 * 1024

    @property
    def inbox_limit(self) -> int:
        """The bytes that an inbox may hold: at least two of the largest messages."""
        return max(self.inbox_bytes, 2 * self.max_payload)
