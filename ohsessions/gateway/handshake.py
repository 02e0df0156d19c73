"""The handshake of a connection: its client, and perhaps the session that the client wants."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

from django.conf import settings
from django.http import parse_cookie

from ohsessions import access, lifecycle
from ohsessions.conf import conf
from ohsessions.core import wire
from ohsessions.core.wire import Init
from ohsessions.gateway.client_address import address_of
from ohsessions.socketio import Socket


@dataclass(frozen=True, slots=True)
class Handshake:
    """The session that a client wants. `init.token` is None if the client relies on its login."""

    session_id: UUID
    init: Init


def read_handshake(scope: Mapping[str, Any], auth: object) -> Handshake | None:
    """Return the session that a connecting client asks for, or None if it will send INIT.

    Values in `auth` override the query. Raises WireError 400, or 404 for a session id that is not a UUID.
    """
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    asked = {name: values[-1] for name, values in query.items()}
    if not conf.ALLOW_TOKEN_IN_QUERY:
        asked.pop("token", None)
    shown = auth if isinstance(auth, dict) else {}
    wire.check_json(shown)
    asked |= {name: value for name, value in shown.items() if value is not None}
    wanted = asked.get("conversation_id")
    if wanted is None:
        return None
    token = asked.get("token") or _token(scope)
    if not isinstance(wanted, str) or not isinstance(token, str | None):
        raise wire.malformed("conversation_id and token must be strings.")
    try:
        session_id = UUID(wanted)
    except ValueError as error:
        raise access.unknown_session() from error
    init = Init(
        settings={},
        secrets=_github_token(shown),
        runtime=None,
        token=token,
        cursor=wire.parse_cursor(asked.get("latest_event_id")),
        client_id=None,
        batch=asked.get("replay") == "batch",
        as_viewer=asked.get("role") == "viewer",
        cursor_timestamp=wire.parse_cursor_timestamp(asked.get("latest_event_timestamp")),
    )
    return Handshake(session_id, init)


def _github_token(auth: Mapping[str, Any]) -> dict[str, str]:
    """Return the GitHub token of CONNECT. Queries are ignored, since servers and proxies log them."""
    token = auth.get("github_token")
    return {"github_token": token} if isinstance(token, str) and token else {}


def _token(scope: Mapping[str, Any]) -> str | None:
    value: bytes = dict(scope.get("headers", [])).get(b"authorization", b"")
    return access.bearer_token(value.decode("latin-1")) or None


def describe(
    socket: Socket, user: Any, gateway: UUID, connected_at: datetime, **login: Any
) -> lifecycle.Arrival:
    """Return the values of a connection that are stored; `login` and `is_doubted` are passed on."""
    headers: dict[bytes, bytes] = dict(socket.scope.get("headers", []))
    address = address_of(socket.scope)
    user_agent = headers.get(b"user-agent", b"").decode("latin-1")
    return lifecycle.Arrival(
        sid=socket.sid,
        gateway=gateway,
        user=user,
        transport=socket.transport,
        address=address,
        user_agent=user_agent,
        connected_at=connected_at,
        browser=_browser(headers, address, user_agent),
        **login,
    )


def _browser(headers: Mapping[bytes, bytes], address: str, user_agent: str) -> str:
    """Return a digest that identifies the browser of a client without a login, at each handshake.

    Its source is Django's session cookie or CSRF cookie. Programs have neither: for them it is the address
    and User-Agent.
    """
    cookies = parse_cookie(headers.get(b"cookie", b"").decode("latin-1"))
    names = (settings.SESSION_COOKIE_NAME, settings.CSRF_COOKIE_NAME)
    shown = next((f"{name}={cookies[name]}" for name in names if cookies.get(name)), None)
    return hashlib.sha256((shown or f"{address}\0{user_agent}").encode()).hexdigest()
