"""
The reading of requests: the query, headers, cookies and credentials of an ASGI scope.

Owns the order of Engine.IO's checks and which credentials must stay the same. Knows scopes, but does no I/O.
"""

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs

from ohsessions.socketio.asgi import Credentials, Scope
from ohsessions.socketio.engine import Transport
from ohsessions.socketio.errors import RequestRefused

__all__ = ["Query", "cookie", "credentials", "header", "parse_query"]


@dataclass(frozen=True, slots=True)
class Query:
    """The part of a query string that Engine.IO uses. A request without `sid` is a handshake."""

    transport: Transport
    sid: str | None


def parse_query(scope: Scope) -> Query:
    """Return the query of a request. Raises RequestRefused; the checks have the order of Node's server."""
    values = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)

    def first(name: str) -> str | None:
        found = values.get(name)
        return found[0] if found else None

    try:
        transport = Transport(first("transport") or "")
    except ValueError:
        raise RequestRefused.unknown_transport() from None
    if first("EIO") != "4":
        raise RequestRefused.unsupported_version()
    is_websocket = scope["type"] == "websocket"
    if is_websocket != (transport is Transport.WEBSOCKET):
        raise RequestRefused.bad_request()
    sid = first("sid")
    if not is_websocket and sid is None and scope["method"] != "GET":
        raise RequestRefused.bad_handshake_method()
    return Query(transport, sid)


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first value of a header, or None. `name` is in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return None


def cookie(scope: Scope, name: str) -> str | None:
    """Return the raw value of a cookie, or None. The last one counts, as in Django."""
    found = None
    for key, value in scope["headers"]:
        if key == b"cookie":
            for part in value.decode("latin-1").split(";"):
                word, is_pair, content = part.strip().partition("=")
                if is_pair and word == name:
                    found = content
    return found


def credentials(scope: Scope, session_cookie: Callable[[], str | None]) -> Credentials:
    """
    Return the credentials of a request: session cookie and Authorization header.

    They distinguish users without a look at the database. Query strings, and so logs, contain the Engine.IO
    sid. The sid alone must not be enough to take a connection over.
    """
    name = session_cookie()
    return (cookie(scope, name) if name else None, header(scope, b"authorization"))
