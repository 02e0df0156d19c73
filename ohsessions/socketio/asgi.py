"""The differences between servers when an application sends to a websocket that is closed."""

from typing import Any

from ohsessions.socketio.connection import Send

__all__ = ["raise_os_error_when_closed"]


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
