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
    """Log once that all clients behind a proxy that is not trusted count as one address."""
    if "forwarded" not in _warned:
        _warned.add("forwarded")
        message = (
            "Connections have the header %s, which is ignored, because TRUSTED_PROXIES is empty. If a proxy"
            " sets it, add the proxy there: until then all its clients count as one address."
        )
        logger.warning(message, conf.FORWARDED_HEADER, extra={"verb": "proxy_not_trusted"})
