"""The numbers of one Engine.IO connection: a value that is read at its handshake and never changes after."""

from dataclasses import dataclass

__all__ = ["EngineSettings"]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """
    Times are seconds, sizes are bytes (of text: characters, which for ASCII is the same).

    A server asks for them anew at each handshake, so that lazy settings need no restart of the process.
    """

    # The client is sent a PING this long after its last PONG, and has ping_timeout to answer. Proxies cut
    # connections that are silent for 16 s.
    ping_interval: float = 12
    ping_timeout: float = 20
    # The largest POST and the largest websocket message; announced to the client as maxPayload. The default
    # is that of Node's server. (daphne's --websocket-max-message-size, 1 MiB, bounds what we send, too: over
    # it the connection breaks.)
    max_payload: int = 1_000_000
    # The same until the application says that it knows the client (Socket.lift_limit). None: max_payload.
    first_payload: int | None = None
    # What a client may send, per second, sustained: see inflow. None: any.
    packet_rate: float | None = 200
    byte_rate: float | None = 4 * 1024 * 1024
    # The packets of one POST, which arrive all at once.
    post_packets: int = 2000
    # The values that the JSON of one message may have: parsed they cost far more than their text. None: any.
    max_values: int | None = 50_000
    # After this many bytes a PING is written, and the connection is not writable until its PONG says that
    # the client read what came before (daphne itself buffers without bound and never says so).
    barrier_bytes: int = 256 * 1024
    # How long such a PONG may take; it stands in for ping_timeout, since slow readers are alive.
    barrier_timeout: float = 60
    # The same until the application knows the client (see first_payload): it has nothing large to read yet.
    first_barrier_bytes: int = 8 * 1024
    # What callers that do not wait for writable (acknowledgements, notices) may queue behind a barrier.
    backlog_bytes: int = 8 * 1024 * 1024
    # From the upgrading websocket's handshake to its UPGRADE packet; Node's default.
    upgrade_timeout: float = 10
    # A connection without any namespace is closed after this.
    connect_timeout: float = 20
    # Events that were received and not yet handled, per socket; more is flooding.
    inbox_events: int = 1000
    # The same for a client that is not known and reads no answers: none of its events is handled then.
    first_inbox_events: int = 100
    inbox_bytes: int = 8 * 1024 * 1024

    @property
    def inbox_limit(self) -> int:
        """The bytes an inbox may hold: never less than two of the largest messages."""
        return max(self.inbox_bytes, 2 * self.max_payload)
