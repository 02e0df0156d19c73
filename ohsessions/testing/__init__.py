"""Tools for a site's own tests.

A runtime without a database: `async with RecordingContext(tmp_path) as context: …`. The whole site, from the
socket to the runtime: `async with running(application): async with SocketIOClient(application) as client: …`.
"""

from ohsessions.testing.recording import Event, RecordingContext
from ohsessions.testing.site import running
from ohsessions.testing.socketio_client import SocketIOClient
from ohsessions.testing.websocket import WebSocket

__all__ = ["Event", "RecordingContext", "SocketIOClient", "WebSocket", "running"]
