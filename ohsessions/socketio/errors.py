"""
The errors between a Socket.IO client and this server.

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
    """A packet breaks the protocol. The message is the reason."""


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
        """Return the error for a query whose `transport` is missing, or neither polling nor websocket."""
        return cls(0, "Transport unknown")

    @classmethod
    def unknown_sid(cls) -> "RequestRefused":
        """Return the error for an Engine.IO sid that is unknown, or no longer known."""
        return cls(1, "Session ID unknown")

    @classmethod
    def bad_handshake_method(cls) -> "RequestRefused":
        """Return the error for a handshake that is not a GET."""
        return cls(2, "Bad handshake method")

    @classmethod
    def bad_request(cls) -> "RequestRefused":
        """Return the error for a request that its connection does not allow, or that breaks the protocol."""
        return cls(3, "Bad request")

    @classmethod
    def forbidden(cls) -> "RequestRefused":
        """Return the error for a foreign origin, or for another client's connection."""
        return cls(4, "Forbidden", status=403)

    @classmethod
    def unsupported_version(cls) -> "RequestRefused":
        """Return the error for any version but Engine.IO 4."""
        return cls(5, "Unsupported protocol version")

    @classmethod
    def too_large(cls) -> "RequestRefused":
        """
        Return the error for a POST that is too large. Node's server sends the same status, without a body.

        A POST over the size limit keeps the connection, as in Node; too many packets in one POST close it.
        """
        return cls(3, "Payload too large", status=413)

    @classmethod
    def too_many(cls, message: str) -> "RequestRefused":
        """Return the error for a connection over a limit of the application; `message` names the limit."""
        return cls(3, message, status=429)

    @classmethod
    def stopping(cls) -> "RequestRefused":
        """Return the error for a new connection while the server stops. A retry may reach another server."""
        return cls(3, "Server is stopping", status=503)


class SocketClosedError(SocketIOError):
    """The client went away before it acknowledged an event."""
