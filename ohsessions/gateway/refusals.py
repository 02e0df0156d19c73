"""The answers to failed requests: each exception becomes an error of the protocol."""

from __future__ import annotations

import logging
import secrets
from typing import Any

from ohsessions.core import wire
from ohsessions.core.errors import ProcessGone, Unavailable, WireError

logger = logging.getLogger(__name__)


def translate(error: Exception, sid: str) -> WireError:
    """Return the error to answer. An internal error is logged; the client gets only its reference."""
    if isinstance(error, WireError) and error.code != 500:
        return error
    if isinstance(error, ProcessGone):
        return Unavailable()
    reference = secrets.token_hex(4)
    extra = {"verb": "internal_error"}
    logger.error("Internal error %s of connection %s", reference, sid, exc_info=error, extra=extra)
    return WireError(500, "internal", f"Something went wrong here. Its reference is {reference}.")


def not_attached(why: str) -> WireError:
    return WireError(409, "not_attached", f"{why} Send INIT first.")


def client_id_of(payload: Any) -> str | None:
    """Return the payload's client_id, at most MAX_CLIENT_ID characters, or None if it has none."""
    value = payload.get("client_id") if isinstance(payload, dict) else None
    return value[: wire.MAX_CLIENT_ID] if isinstance(value, str) else None
