"""
Whether a later request of a polling connection comes from the client that made it.

An Engine.IO sid stands in query strings, and so in logs: it must not be enough to take a connection over. The
answer to a polling handshake sets a cookie of the browser. A client that has shown it once must show it
always. One that keeps no cookies (programs, pages of other sites without credentials) is known by its
User-Agent and address, which is weaker: it does not tell two neighbours of one address apart.
"""

import re
import secrets
from collections.abc import Callable

from ohsessions.socketio.connection import Scope
from ohsessions.socketio.requests import cookie, header

__all__ = ["COOKIE", "Binding"]

COOKIE = "ohsessions_polling"
_VALUE = re.compile(r"[A-Za-z0-9_-]{32}")


class Binding:
    """What is remembered of the handshake; `address_of` a scope is its client's address."""

    def __init__(self, scope: Scope, address_of: Callable[[Scope], str]) -> None:
        shown = cookie(scope, COOKIE)
        # One for all tabs of a browser: a second handshake must not take the cookie from the first.
        self._is_shown = shown is not None and _VALUE.fullmatch(shown) is not None
        self._value = shown if self._is_shown and shown else secrets.token_urlsafe(24)
        self._address_of = address_of
        self._address = address_of(scope)
        self._user_agent = header(scope, b"user-agent")

    def set_cookie(self, attributes: str) -> bytes | None:
        """Return the header's value that has the client keep the cookie; None if it has it already."""
        return None if self._is_shown else f"{COOKIE}={self._value}; HttpOnly{attributes}".encode()

    def fits(self, scope: Scope) -> bool:
        """Return whether a request comes from the same client."""
        shown = cookie(scope, COOKIE)
        if shown is not None and secrets.compare_digest(shown.encode("latin-1"), self._value.encode()):
            self._is_shown = True
            return True
        if self._is_shown or self._address_of(scope) != self._address:
            return False
        user_agent = header(scope, b"user-agent")
        # Node's websockets send none, where its polling does.
        is_silent = user_agent is None and scope["type"] == "websocket"
        return is_silent or user_agent == self._user_agent
