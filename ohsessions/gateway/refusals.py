"""The messages to refused clients: the error for a failed request, and the farewell of a connection."""

from __future__ import annotations

import logging
import secrets
from typing import Any

from ohsessions.core import wire
from ohsessions.core.errors import ProcessGone, Unavailable, WireError
from ohsessions.core.policy import EVICTED
from ohsessions.socketio import Ack, ConnectionRefused, Socket

logger = logging.getLogger(__name__)


def translate(error: Exception, sid: str) -> WireError:
    """Return the error to answer. An internal error is logged; the client gets only its reference."""
    if isinstance(error, WireError) and error.code != 500:
        return error
    if isinstance(error, ProcessGone):
        return Unavailable()
    reference = secrets.token_hex(4)
    extra = {"verb": "internal_error"}
    logger.error(
        "The request of connection %s failed (reference %s)", sid, reference, exc_info=error, extra=extra
    )
    message = f"The server had an error. Try again, or report to its operator the reference {reference}."
    return WireError(500, "internal", message)


def refuse(socket: Socket, error: Exception, ack: Ack | None, client_id: str | None = None) -> None:
    """Send a client the error of its request, as acknowledgement if the client asked for one."""
    refusal = translate(error, socket.sid)
    if client_id is not None:
        refusal.extra.setdefault("client_id", client_id)
    if ack is not None:
        ack(wire.error_ack(refusal))
    else:
        socket.emit("oh_event", wire.error_event(refusal))


def refuse_connect(socket: Socket, error: Exception) -> None:
    """Raise ConnectionRefused for a client that could not be attached at its CONNECT.

    Send a notice instead if the error may pass by itself (503): after a refused CONNECT, clients do not try
    again.
    """
    refusal = translate(error, socket.sid)
    fields = {"error_code": refusal.code, "reason": refusal.reason}
    if refusal.code != 503:
        raise ConnectionRefused(refusal.message, fields) from error
    notice = wire.notice("not_attached", **fields, message=refusal.message, **refusal.extra)
    socket.emit("oh_notice", notice)


def not_attached(why: str) -> WireError:
    return WireError(409, "not_attached", f"{why} Send INIT first.")


def client_id_of(payload: Any) -> str | None:
    """Return the payload's client_id, at most MAX_CLIENT_ID characters, or None if it has none."""
    value = payload.get("client_id") if isinstance(payload, dict) else None
    return value[: wire.MAX_CLIENT_ID] if isinstance(value, str) else None


# Farewells

STAY_AWAY = frozenset({"logged_out", "operator", "revoked", "unattached"})
"""Reasons for the end of a connection after which its client must not reconnect by itself."""
_MESSAGES = {
    "operator": "An operator put this session to sleep. Join it again to wake it.",
    EVICTED: (
        "This session sleeps, because another session of the same user or address needed its place."
        " Join it again to wake it."
    ),
    "revoked": "The link to this session was revoked. Ask for a new one.",
    "logged_out": "Your login has ended. Log in again.",
    "gateway_lost": "The server lost track of this connection. Connect again.",
    "draining": "This server is stopping. Connect again.",
    "flooding": "This client sends faster than its actions can be handled. Send more slowly.",
}


def farewell(reason: str) -> str:
    """Return the message for people that explains why a connection ends."""
    return _MESSAGES.get(reason, "The server ends this connection.")


def wire_reason(reason: str) -> str:
    """Return the protocol's reason for the one that a connection's row has."""
    return "operator" if reason == EVICTED else reason


def say_farewell(socket: Socket, reason: str, message: str = "") -> None:
    """Send the last notice to a client that is about to be disconnected; by default, with its farewell()."""
    message = message or farewell(reason)
    socket.emit("oh_notice", wire.notice("disconnecting", reason=reason, message=message))
