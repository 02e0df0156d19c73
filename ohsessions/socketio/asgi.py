"""ASGI: its types, and a difference between servers when an application sends to a closed websocket."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

__all__ = ["Credentials", "Receive", "Scope", "Send", "raise_os_error_when_closed"]

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
# Values that must be the same in all requests of a connection: see requests.credentials().
Credentials = tuple[str | None, ...]


def raise_os_error_when_closed(send: Send) -> Send:
    """
    Return a `send` that raises OSError if the websocket is closed, as the ASGI specification requires.

    daphne raises Autobahn's Disconnected (a RuntimeError) during the closing handshake.
    """

    async def send_to_open(message: dict[str, Any]) -> None:
        try:
            await send(message)
        except RuntimeError as exc:
            if type(exc).__name__ != "Disconnected":
                raise
            raise ConnectionError("the websocket is closed") from exc

    return send_to_open
