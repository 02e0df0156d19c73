"""
The check that a later request of a polling connection comes from the client of its handshake.

Query strings, and so logs, contain the Engine.IO sid. The sid alone must not be enough to take a connection
over. The answer to a polling handshake sets a cookie. A client that has sent the cookie once must always send
it. A client without cookies (programs, pages of other sites without credentials) is recognized by its
User-Agent and address. This is weaker: it does not distinguish two neighbours of one address.
"""

import re
import secrets
from collections.abc import Callable

from ohsessions.socketio.asgi import Scope
from ohsessions.socketio.requests import cookie, header

__all__ = ["COOKIE", "Binding"]

COOKIE = "ohsessions_polling"
_VALUE = re.compile(r"[A-Za-z0-9_-]{32}")


class Binding:
    """The client of one handshake. `address_of` returns the client's address for a scope."""

    def __init__(self, scope: Scope, address_of: Callable[[Scope], str]) -> None:
        shown = cookie(scope, COOKIE)
        # All tabs of a browser share one cookie, so a second handshake must not replace it.
        self._is_shown = shown is not None and _VALUE.fullmatch(shown) is not None
        self._value = shown if self._is_shown and shown else secrets.token_urlsafe(24)
        self._address_of = address_of
        self._address = address_of(scope)
        self._user_agent = header(scope, b"user-agent")

    def set_cookie(self, attributes: str) -> bytes | None:
        """Return the value of Set-Cookie, or None if the client has the cookie already."""
        return None if self._is_shown else f"{COOKIE}={self._value}; HttpOnly{attributes}".encode()

    def fits(self, scope: Scope) -> bool:
        """Return True if a request comes from the same client."""
        shown = cookie(scope, COOKIE)
        if shown is not None and secrets.compare_digest(shown.encode("latin-1"), self._value.encode()):
            self._is_shown = True
            return True
        if self._is_shown or self._address_of(scope) != self._address:
            return False
        user_agent = header(scope, b"user-agent")
        # In Node, polling requests send a User-Agent, but websockets do not.
        is_silent = user_agent is None and scope["type"] == "websocket"
        return is_silent or user_agent == self._user_agent
