"""The ASGI application of a site: ohsessions beside Django.

    application = mount(get_asgi_application())

The gateway runs in the event loop of the server of that application, and so does the worker if the channel
layer is in memory. Both start with the server, not with its first request: daphne's reactor starts them,
since daphne has no lifespan events, and other servers send `lifespan`. The first request is the last resort.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qs
from weakref import WeakSet

from channels.auth import AuthMiddlewareStack

from ohsessions.admission import admit, cookie_attributes
from ohsessions.concurrency.tasks import attempt, cancel_all
from ohsessions.conf import conf
from ohsessions.gateway.client_address import address_of
from ohsessions.gateway.gateway import Gateway
from ohsessions.gateway.guests import SMALL
from ohsessions.gateway.refusals import say_farewell
from ohsessions.gateway.visitor import HANDSHAKE_AT
from ohsessions.processes.ending import ending
from ohsessions.processes.store import Store
from ohsessions.socketio import SocketIOConsumer, SocketIOServer
from ohsessions.wakeups import is_embedded
from ohsessions.worker.worker import SessionWorker, stop_limit

START_PATIENCE = 2.0
"""Seconds that a start which is under way gets when the process has to stop."""

logger = logging.getLogger(__name__)

Scope = Mapping[str, Any]

_mounts: WeakSet[Mount] = WeakSet()


def mount(django_application: Any, *, authenticate: Any = AuthMiddlewareStack) -> Mount:
    """Return the ASGI application of a site: Socket.IO at the setting PATH, `django_application` elsewhere.

    `authenticate` wraps an ASGI application and sets `scope["user"]`. A site that does not use Django's
    session login passes its own.
    """
    return Mount(django_application, authenticate)


class Mount:
    """An ASGI application; see mount()."""

    def __init__(self, django_application: Any, authenticate: Any) -> None:
        self._django = django_application
        self._authenticate = authenticate
        self._starting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._stops: list[tuple[Callable[[], Coroutine[Any, Any, None]], str]] = []
        """The steps of a stop, in order, of what has been started."""
        self._server: SocketIOServer | None = None
        self._socketio: Any = None
        self._with_login: Any = None
        self._start_with_twisted()
        _mounts.add(self)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] in ("http", "websocket") and _is_ours(scope):
            await self.started()
            # Only a handshake is authenticated: later requests show the same credentials (see socketio).
            opens = is_handshake(scope)
            application = self._with_login if opens else self._socketio
            if opens:
                scope = {**scope, HANDSHAKE_AT: time.monotonic()}
            await application(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 4404})
        else:
            await self._django(scope, receive, send)

    def input_limit(self, query: str) -> int:
        """Return the largest body of a Socket.IO request with this query; see http_requests.BodyLimits."""
        found = self._server.input_limit(query) if self._server is not None else None
        return SMALL if found is None else found

    # Starting and stopping

    async def started(self) -> None:
        """Wait until the gateway and the worker run. Start them if nothing else has."""
        if self._starting is None:
            self._begin()
        assert self._starting is not None
        await asyncio.shield(self._starting)

    def _begin(self) -> None:
        # The task is kept: started() awaits it, and raises its error in each request.
        self._starting = asyncio.get_event_loop().create_task(self._start(), name="ohsessions start")
        self._starting.add_done_callback(_report)

    async def _start(self) -> None:
        store = Store()
        self._stops.append((store.close, "Closing the database"))
        gateway = Gateway(store)
        server = SocketIOServer(
            gateway.accept,
            settings=gateway.engine_settings,
            admit=admit,
            cookie=cookie_attributes,
            address_of=address_of,
            farewell=say_farewell,
            make_guest=gateway.guests.admit,
        )
        self._server = server
        self._socketio = SocketIOConsumer.as_asgi(server=server)
        self._with_login = self._authenticate(self._socketio)
        await gateway.start()
        stops = [
            (partial(gateway.stop, "draining"), "Stopping the gateway"),
            (partial(server.close, "draining"), "Closing the connections"),
        ]
        self._stops[:0] = stops
        if is_embedded():
            worker = SessionWorker(store)
            self._stops.insert(
                len(stops), (partial(worker.stop, "the server stopped"), "Stopping the worker")
            )
            await worker.start()
        logger.info("ohsessions has started", extra={"verb": "started"})

    async def stop(self) -> None:
        """Stop the gateway, the connections and the worker, in order. Later calls wait for the same end."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name="ohsessions stop")
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        if self._starting is None:
            return
        await asyncio.wait([self._starting], timeout=START_PATIENCE)
        # A start that still goes on waits for a database that is away, and serves no client yet.
        await cancel_all([self._starting])
        for stop, what in self._stops:
            await attempt(stop(), what)
        logger.info("ohsessions has stopped", extra={"verb": "stopped"})

    async def _stop_in_time(self) -> None:
        """Stop within stop_limit() seconds, or log the failure. The reactor waits for this coroutine."""
        limit = stop_limit()
        try:
            async with asyncio.timeout(limit):
                await self.stop()
        except TimeoutError:
            logger.exception("ohsessions did not stop within %s s", limit, extra={"verb": "stop_failed"})

    def _start_with_twisted(self) -> None:
        """Start and stop with daphne's reactor, if it is installed. At this import it does not run yet.

        A start that fails ends the process.
        """
        if "twisted.internet.reactor" not in sys.modules:
            return
        from twisted.internet import reactor
        from twisted.internet.defer import Deferred

        def start() -> None:
            self._begin()
            assert self._starting is not None
            self._starting.add_done_callback(_end_process)

        def stop() -> Any:
            return Deferred.fromFuture(asyncio.ensure_future(self._stop_in_time()))

        running: Any = reactor
        running.callWhenRunning(start)
        running.addSystemEventTrigger("before", "shutdown", stop)

    async def _live(self, receive: Any, send: Any) -> None:
        """Start and stop with a server that sends ASGI's lifespan events."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.started()
                except Exception as error:
                    await send({"type": "lifespan.startup.failed", "message": _why(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


async def stop_mounts() -> None:
    """Stop all applications of mount() in this process."""
    await asyncio.gather(*(mount.stop() for mount in list(_mounts)))


def _why(error: BaseException) -> str:
    return f"ohsessions could not start: {error!r}"


def _report(starting: asyncio.Task[None]) -> None:
    if not starting.cancelled() and (error := starting.exception()):
        logger.critical("ohsessions could not start", exc_info=error, extra={"verb": "start_failed"})


def _end_process(starting: asyncio.Task[None]) -> None:
    if not starting.cancelled() and (error := starting.exception()):
        ending.fail(_why(error))


def is_handshake(scope: Scope) -> bool:
    """Return whether a Socket.IO request opens a connection: it has no sid."""
    # parse_qs() decodes bytes as ASCII, which not all of them are.
    return "sid" not in parse_qs(scope.get("query_string", b"").decode("latin-1"))


def _is_ours(scope: Scope) -> bool:
    """Return whether a request is for Socket.IO. Its path may lack the trailing slash."""
    path: str = scope["path"].removeprefix(scope.get("root_path", "")).strip("/")
    return path == conf.PATH.strip("/")
