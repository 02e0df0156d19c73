"""
What can go wrong between a Socket.IO client and this server.

SocketIOError
├── PacketError           the client broke the protocol: its connection is closed
├── RequestRefused        an HTTP request or websocket handshake is answered with an Engine.IO error
├── ConnectionRefused     raised by a handler's connect(): the client gets a CONNECT_ERROR
└── SocketClosedError     a client that was asked for an acknowledgement has gone
"""

import json
from typing import Any

__all__ = ["ConnectionRefused", "PacketError", "RequestRefused", "SocketClosedError", "SocketIOError"]


class SocketIOError(Exception):
    """The base of all errors of this package."""


class PacketError(SocketIOError):
    """A packet has a form that the protocol does not know. The message says which."""


class ConnectionRefused(SocketIOError):
    """
    A handler does not accept this connection to its namespace.

    Clients keep exactly two keys of a CONNECT_ERROR: `message`, and `data` if it is given.
    """

    def __init__(self, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.data = data


class RequestRefused(SocketIOError):
    """
    A request that Engine.IO answers with an error; `body` is what Node's server sends for the same code.

    See https://socket.io/docs/v4/troubleshooting-connection-issues/#400-error-response
    """

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status

    @property
    def body(self) -> str:
        """The JSON text of the response."""
        return json.dumps({"code": self.code, "message": self.message}, separators=(",", ":"))

    @classmethod
    def unknown_transport(cls) -> "RequestRefused":
        """The query has no `transport`, or one that is neither polling nor websocket."""
        return cls(0, "Transport unknown")

    @classmethod
    def unknown_sid(cls) -> "RequestRefused":
        """No connection with this Engine.IO sid, or not any more."""
        return cls(1, "Session ID unknown")

    @classmethod
    def bad_handshake_method(cls) -> "RequestRefused":
        """A handshake is a GET."""
        return cls(2, "Bad handshake method")

    @classmethod
    def bad_request(cls) -> "RequestRefused":
        """The request does not fit the state of its connection."""
        return cls(3, "Bad request")

    @classmethod
    def forbidden(cls) -> "RequestRefused":
        """A foreign origin, or somebody else's connection."""
        return cls(4, "Forbidden", status=403)

    @classmethod
    def unsupported_version(cls) -> "RequestRefused":
        """Only Engine.IO 4 is spoken here."""
        return cls(5, "Unsupported protocol version")

    @classmethod
    def too_large(cls) -> "RequestRefused":
        """A POST over max_payload. Node answers 413 without a body and keeps the connection, as we do."""
        return cls(3, "Payload too large", status=413)

    @classmethod
    def too_many(cls, message: str) -> "RequestRefused":
        """The application lets no more in for now; `message` says of what there are too many."""
        return cls(3, message, status=429)

    @classmethod
    def stopping(cls) -> "RequestRefused":
        """The server accepts no new connections; the client's next try may reach another."""
        return cls(3, "Server is stopping", status=503)


class SocketClosedError(SocketIOError):
    """The client went away before it acknowledged an event."""
