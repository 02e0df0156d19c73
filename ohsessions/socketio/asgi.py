"""What servers do differently when an application sends to a websocket whose client has gone."""

from typing import Any

from ohsessions.socketio.connection import Send

__all__ = ["raise_os_error_when_closed"]


def raise_os_error_when_closed(send: Send) -> Send:
    """
    The same `send`, raising OSError when the websocket is closed, as the ASGI specification has it.

    daphne passes on Autobahn's Disconnected (a RuntimeError) while the closing handshake is under way.
    """

    async def send_to_open(message: dict[str, Any]) -> None:
        try:
            await send(message)
        except RuntimeError as exc:
            if type(exc).__name__ != "Disconnected":
                raise
            raise ConnectionError("the websocket is closed") from exc

    return send_to_open
