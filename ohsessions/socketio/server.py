"""
The server side of a mount: its connections by Engine.IO sid, its sockets by Socket.IO sid, its configuration.

There is one server for each process and mount; everything runs in one event loop. EngineServer knows only
Engine.IO; the official Engine.IO test suite runs against it.
"""

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs

from django.conf import ENVIRONMENT_VARIABLE
from django.conf import settings as django_settings

from ohsessions.socketio.asgi import Scope
from ohsessions.socketio.binding import Binding
from ohsessions.socketio.connection import EngineConnection, GuestPort, Receiver
from ohsessions.socketio.dispatcher import LARGE_AT_ONCE
from ohsessions.socketio.engine import EngineIO, Transport
from ohsessions.socketio.errors import RequestRefused
from ohsessions.socketio.namespaces import Namespaces
from ohsessions.socketio.requests import credentials
from ohsessions.socketio.settings import EngineSettings
from ohsessions.socketio.sockets import Handler, Socket

__all__ = ["EngineServer", "SocketIOServer"]

# Seconds that each step of close() waits: for connections to end, for handlers, for cancelled handlers.
GRACE = 5.0


class EngineServer(ABC):
    """
    The connections of a mount. The server does not know the meaning of their messages.

    `make_guest` is called at each handshake that was admitted. It raises RequestRefused, or returns the
    application's record of the connection. `cookie` returns the attributes (`; Path=/socket.io`) of the
    cookie that a polling handshake sets; without `cookie` none is set. `address_of` returns the client's
    address for a scope. See binding.
    """

    def __init__(
        self,
        *,
        settings: Callable[[Scope], EngineSettings],
        admit: Callable[[Scope], None],
        make_guest: Callable[[Scope], GuestPort] | None = None,
        cookie: Callable[[Scope], str] | None = None,
        address_of: Callable[[Scope], str] | None = None,
    ) -> None:
        self.settings = settings
        self.admit = admit
        self.cookie = cookie
        self._address_of = address_of or peer_of
        self._make_guest = make_guest
        self._connections: dict[str, EngineConnection] = {}
        self._stopping = False
        self._empty = asyncio.Event()

    @abstractmethod
    def make_receiver(self, connection: EngineConnection) -> Receiver:
        """Return the receiver of a new connection's messages."""

    @property
    def connections(self) -> Mapping[str, EngineConnection]:
        """The connections by Engine.IO sid."""
        return MappingProxyType(self._connections)

    def open(self, scope: Scope, transport: Transport) -> EngineConnection:
        """Return a new connection. Raises RequestRefused while the server stops, or if make_guest does."""
        if self._stopping:
            raise RequestRefused.stopping()
        guest = self._make_guest(scope) if self._make_guest is not None else None
        engine = EngineIO(self.settings(scope), transport, asyncio.get_running_loop().time)
        connection = EngineConnection(engine, scope, credentials(scope, session_cookie_name), self._forget)
        connection.guest = guest
        if transport is Transport.POLLING:
            connection.binding = Binding(scope, self._address_of)
        self._connections[engine.sid] = connection
        connection.receiver = self.make_receiver(connection)
        return connection

    def find(self, scope: Scope, sid: str) -> EngineConnection:
        """Return the connection of a later request. Raises RequestRefused if sid or client is wrong."""
        connection = self._connections.get(sid)
        if connection is None:
            raise RequestRefused.unknown_sid()
        binding = connection.binding
        if connection.credentials != credentials(scope, session_cookie_name):
            raise RequestRefused.forbidden()
        if binding is not None and not binding.fits(scope):
            raise RequestRefused.forbidden()
        return connection

    def input_limit(self, query: str) -> int | None:
        """Return the most bytes of a POST with this query, or None if the query names no connection."""
        sid = parse_qs(query).get("sid", [""])[0]
        connection = self._connections.get(sid)
        return None if connection is None else connection.input_limit

    async def close(self, reason: str) -> None:
        """
        Refuse new connections and end all existing ones, so that their clients reconnect (elsewhere).

        The queues of connected clients are written. Connections that have not ended after GRACE seconds are
        aborted.
        """
        self._stopping = True
        for connection in list(self._connections.values()):
            connection.close(reason)
            if not connection.is_upgraded and not connection.engine.poll_waits:
                connection.abort(reason)
        if self._connections:
            self._empty.clear()
            try:
                async with asyncio.timeout(GRACE):
                    await self._empty.wait()
            except TimeoutError:
                for connection in list(self._connections.values()):
                    connection.abort(reason)

    def _forget(self, connection: EngineConnection) -> None:
        if self._connections.pop(connection.engine.sid, None) and connection.guest is not None:
            connection.guest.leave()
        if not self._connections:
            self._empty.set()


class SocketIOServer(EngineServer):
    """
    The Socket.IO connections of a mount, with handlers from `handler_factory`.

    `admit(scope)` raises RequestRefused for requests that may not reach any connection. `settings(scope)` is
    called at each handshake. Without it the `numbers`, which are fields of EngineSettings, apply to all
    connections. `farewell(socket, reason)` may emit a last event to a socket before it is closed for
    flooding.
    """

    def __init__(
        self,
        handler_factory: Callable[[Socket], Handler],
        *,
        admit: Callable[[Scope], None],
        namespaces: Iterable[str] = ("/",),
        settings: Callable[[Scope], EngineSettings] | None = None,
        farewell: Callable[[Socket, str], None] | None = None,
        make_guest: Callable[[Scope], GuestPort] | None = None,
        cookie: Callable[[Scope], str] | None = None,
        address_of: Callable[[Scope], str] | None = None,
        **numbers: Any,
    ) -> None:
        if settings is None:
            fixed = EngineSettings(**numbers)
            settings = lambda scope: fixed  # noqa: E731
        elif numbers:
            raise TypeError(
                f"Pass either `settings` or {', '.join(numbers)}: `settings` already returns them."
            )
        super().__init__(
            settings=settings, admit=admit, make_guest=make_guest, cookie=cookie, address_of=address_of
        )
        self.handler_factory = handler_factory
        self.namespaces = tuple(namespaces)
        self.farewell = farewell
        self.large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._sockets: dict[str, Socket] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def sockets(self) -> Mapping[str, Socket]:
        """The sockets by Socket.IO sid, from the arrival of CONNECT to the end."""
        return MappingProxyType(self._sockets)

    def make_receiver(self, connection: EngineConnection) -> Receiver:
        """See EngineServer."""
        return Namespaces(self, connection)

    async def close(self, reason: str) -> None:
        """See EngineServer. Then handlers get GRACE seconds to end before they are cancelled."""
        await super().close(reason)
        tasks = set(self._tasks)
        if not tasks:
            return
        _, pending = await asyncio.wait(tasks, timeout=GRACE)
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending, timeout=GRACE)

    # -- see namespaces.ServerPort

    def register(self, socket: Socket) -> None:
        """Add a socket that was created."""
        self._sockets[socket.sid] = socket

    def unregister(self, socket: Socket) -> None:
        """Remove a socket that has ended."""
        self._sockets.pop(socket.sid, None)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run the work in a task that close() awaits."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def peer_of(scope: Scope) -> str:
    """Return the peer address of a connection; it may be that of a proxy."""
    return str((scope.get("client") or [""])[0])


def session_cookie_name() -> str | None:
    """Return the name of Django's session cookie, or None in a process without Django settings."""
    has_settings = django_settings.configured or ENVIRONMENT_VARIABLE in os.environ
    return str(django_settings.SESSION_COOKIE_NAME) if has_settings else None
