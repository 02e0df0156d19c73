"""The messages to a client whose connection the server ends."""

from __future__ import annotations

from ohsessions.core import wire
from ohsessions.core.policy import EVICTED
from ohsessions.socketio import Socket

_MESSAGES = {
    "operator": "An operator put this session to sleep.",
    EVICTED: "Another session of the same person was started, and no more may be awake: this one sleeps.",
    "revoked": "The link to this session was revoked.",
    "logged_out": "Your login has ended. Log in again.",
    "gateway_lost": "The server lost track of this connection. Connect again.",
    "draining": "This server is stopping. Connect again.",
    "flooding": "This client sends faster than its actions can be handled.",
}


def farewell(reason: str) -> str:
    """Return the message for people that explains why a connection ends."""
    return _MESSAGES.get(reason, "The server ends this connection.")


def wire_reason(reason: str) -> str:
    """Return the protocol's reason for the one that a connection's row has."""
    return "operator" if reason == EVICTED else reason


def say_farewell(socket: Socket, reason: str) -> None:
    """Send the last notice to a client that SocketIOServer is about to disconnect."""
    socket.emit("oh_notice", wire.notice("disconnecting", reason=reason, message=farewell(reason)))
