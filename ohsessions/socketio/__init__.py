"""
The server side of Socket.IO 5 over Engine.IO 4, as a Channels consumer. It knows nothing of sessions.

    server = SocketIOServer(MyHandler, admit=lambda scope: None)
    application = SocketIOConsumer.as_asgi(server=server)  # for http and websocket

The modules packets, codec, engine, heartbeat, barrier and settings do no I/O and do not import Django. So
this module imports the names that need Django lazily.
"""

from typing import TYPE_CHECKING, Any

from ohsessions.socketio.codec import MalformedEvent, encode_event, encode_event_json
from ohsessions.socketio.dispatcher import LARGE_TEXT
from ohsessions.socketio.errors import (
    ConnectionRefused,
    PacketError,
    RequestRefused,
    SocketClosedError,
    SocketIOError,
)
from ohsessions.socketio.settings import EngineSettings
from ohsessions.socketio.sockets import Ack, Handler, Socket

if TYPE_CHECKING:
    from ohsessions.socketio.consumer import SocketIOConsumer
    from ohsessions.socketio.server import EngineServer, SocketIOServer

__all__ = [
    "LARGE_TEXT",
    "Ack",
    "ConnectionRefused",
    "EngineServer",
    "EngineSettings",
    "Handler",
    "MalformedEvent",
    "PacketError",
    "RequestRefused",
    "Socket",
    "SocketClosedError",
    "SocketIOConsumer",
    "SocketIOError",
    "SocketIOServer",
    "encode_event",
    "encode_event_json",
]


def __getattr__(name: str) -> Any:
    if name in ("SocketIOServer", "EngineServer"):
        from ohsessions.socketio import server

        return getattr(server, name)
    if name == "SocketIOConsumer":
        from ohsessions.socketio.consumer import SocketIOConsumer

        return SocketIOConsumer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
