"""The address of a connection's client, from its handshake and TRUSTED_PROXIES."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ohsessions.conf import conf
from ohsessions.core.addresses import client_address

logger = logging.getLogger(__name__)

_warned: set[str] = set()


def address_of(scope: Mapping[str, Any]) -> str:
    """Return the client's address, or an empty string if there is none, as over a Unix socket."""
    peer = str((scope.get("client") or [""])[0] or "")
    name = conf.FORWARDED_HEADER.encode()
    values = [value.decode("latin-1") for key, value in scope.get("headers", []) if key == name]
    if values and not conf.TRUSTED_PROXIES:
        _warn_once()
    return client_address(peer, values, conf.FORWARDED_HEADER, conf.TRUSTED_PROXIES)


def _warn_once() -> None:
    """Log once that all clients behind an unnamed proxy count as one address and share its limits."""
    if "forwarded" not in _warned:
        _warned.add("forwarded")
        message = (
            "Connections come with %s, which is not believed, since TRUSTED_PROXIES names no proxy. If there"
            " is one, all its clients count as one address until it is named."
        )
        logger.warning(message, conf.FORWARDED_HEADER, extra={"verb": "proxy_not_trusted"})
