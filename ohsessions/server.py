"""
daphne, as production needs it: what `manage.py ohsessions serve` runs.

Importing this module installs Twisted's asyncio reactor, so import it before the ASGI application. It adds to
daphne's server: a listen backlog that survives everybody reconnecting at once, the refusal of large bodies
before they are read, ASGI's lifespan, and a stop in order. It knows nothing of sessions.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from daphne import server as daphne_server  # first: it installs the reactor
from daphne.http_protocol import HTTPFactory, WebRequest
from twisted.internet import defer, reactor

logger = logging.getLogger(__name__)

BACKLOG = 4096
"""With daphne's 50, 1,000 clients that reconnect at once need 28-60 s; with this, 1.6 s (measured)."""

LINGER = 2.0
"""Seconds for which a refused body is read and dropped, so that the refusal is not lost in a reset."""

CLOSE_LIMIT = 10.0
"""Seconds that the application's connections get to end at a stop."""

Application = Callable[..., Awaitable[None]]


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """The largest request body in bytes: `below` at and under the path `prefix`, `default` elsewhere."""

    prefix: str
    below: int
    default: int

    def limit(self, target: str) -> int:
        """`target` is a request's: its path, and perhaps a query."""
        path = unquote(target.partition("?")[0]) + "/"
        return self.below if path.startswith(self.prefix) else self.default


class LimitedRequest(WebRequest):  # type: ignore[misc]
    """
    A request whose body is refused with 413 once it is known to be too large: by its Content-Length before
    any of it is read, else as soon as so much has come. daphne itself reads bodies of any size into memory.
    """

    refused = False
    received = 0
    limit = 0

    def gotLength(self, length: int | None) -> None:
        # Twisted tells a request its path only with its body; the channel has it before.
        self.limit = self.server.body_limits.limit(self.channel._path.decode("latin-1"))
        if length is not None and length > self.limit:
            self.refuse()
            length = 0
        super().gotLength(length)

    def handleContentChunk(self, data: bytes) -> None:
        self.received += len(data)
        if self.refused:
            return
        if self.received > self.limit:
            self.refuse()
        else:
            super().handleContentChunk(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if self.refused:
            self.channel.loseConnection()
        else:
            super().requestReceived(command, path, version)

    def basic_error(self, status: int, status_text: bytes, body: str) -> None:
        self.responseHeaders.setRawHeaders(b"x-content-type-options", [b"nosniff"])
        super().basic_error(status, status_text, body)

    def refuse(self) -> None:
        self.refused = True
        self.requestHeaders.removeHeader(b"expect")  # else Twisted says 100 Continue after this answer
        body = f"The body is larger than {self.limit} bytes.\n".encode()
        self.channel.transport.write(
            b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Type: text/plain\r\n"
            b"X-Content-Type-Options: nosniff\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        logger.warning("Refused a body over %d bytes", self.limit, extra={"verb": "refuse_body"})
        reactor.callLater(LINGER, self.channel.transport.loseConnection)  # type: ignore[arg-type]


class LimitedHTTPFactory(HTTPFactory):  # type: ignore[misc]
    def buildProtocol(self, addr: Any) -> Any:
        protocol = super().buildProtocol(addr)
        protocol.requestFactory = LimitedRequest
        return protocol


class Lifespan:
    """The server's side of ASGI's lifespan. An application that raises does not speak it, which is fine."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.incoming: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self.started = False
        self.task: asyncio.Task[None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self.incoming.put_nowait({"type": "lifespan.startup"})
        self.task = loop.create_task(self.run(), name="ohsessions lifespan")

    async def run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        try:
            await self.application(scope, self.incoming.get, self.send)
        except Exception as error:
            if self.started:
                logger.exception("The application's lifespan ended with an error")
            else:
                logger.debug("The application does not speak lifespan: %s", error)

    async def send(self, message: dict[str, str]) -> None:
        self.started = True
        if message["type"].endswith(".failed"):
            logger.critical("%s: %s", message["type"], message.get("message", ""))

    async def stop(self, limit: float) -> None:
        """Tells the application to end what it runs, and aborts it after `limit` seconds."""
        if self.task is None:
            return
        self.incoming.put_nowait({"type": "lifespan.shutdown"})
        _, pending = await asyncio.wait([self.task], timeout=limit)
        for task in pending:
            logger.error("The application did not stop within %s s", limit, extra={"verb": "abort"})
            task.cancel()


class Server(daphne_server.Server):  # type: ignore[misc]
    """
    Serves `application` on one TCP address until SIGTERM or SIGINT.

    `max_message` is the largest websocket message in bytes. `slow_timeout` is how many seconds a client may
    leave its data unread; daphne's own patience is kept beyond it. `announce` is called with (host, port)
    once connections are accepted. After `run`, `error` says why it could not listen, if so.
    """

    def __init__(
        self,
        application: Application,
        *,
        bind: str,
        port: int,
        body_limits: BodyLimits,
        max_message: int,
        slow_timeout: float,
        stop_timeout: float,
        announce: Callable[[str, int], None],
        **options: Any,
    ) -> None:
        interface = bind.strip("[]").replace(":", r"\:")
        super().__init__(
            application,
            endpoints=[f"tcp:{port}:interface={interface}:backlog={BACKLOG}"],
            http_timeout=None,  # long polls and streams take as long as they take
            request_buffer_size=64 * 1024,
            websocket_timeout=-1,  # by default sockets are cut after a day
            websocket_handshake_timeout=30,  # includes the application's accept, with everybody reconnecting
            websocket_connect_timeout=30,
            websocket_max_message_size=max_message,
            websocket_max_frame_size=max_message,
            ping_timeout=max(30, math.ceil(2 * slow_timeout)),
            application_close_timeout=CLOSE_LIMIT,
            **options,
        )
        self.body_limits = body_limits
        self.stop_timeout = stop_timeout
        self.announce = announce
        self.lifespan = Lifespan(application)
        self.ports: list[Any] = []
        self.error: str | None = None

    @property
    def http_factory(self) -> LimitedHTTPFactory:
        return self._http_factory

    @http_factory.setter
    def http_factory(self, factory: HTTPFactory) -> None:
        """daphne's run() makes a factory and listens with it; ours takes its place in between."""
        self._http_factory = LimitedHTTPFactory(self)

    def run(self) -> None:
        reactor.callWhenRunning(lambda: self.lifespan.start(reactor._asyncioEventloop))
        super().run()

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        """daphne says the scheme of a request, and forgets that of a websocket."""
        if scope["type"] == "websocket":
            scope["scheme"] = "wss" if getattr(protocol, "client_scheme", None) == "https" else "ws"
        return super().create_application(protocol, scope)

    def listen_success(self, port: Any) -> None:
        super().listen_success(port)
        self.ports.append(port)
        address = port.getHost()
        self.announce(address.host, address.port)

    def listen_error(self, failure: Any) -> None:
        self.error = failure.getErrorMessage()
        self.stop()

    def kill_all_applications(self) -> defer.Deferred[None]:
        """Called by the reactor before it ends: now in order, and with a limit."""
        return defer.Deferred.fromFuture(asyncio.ensure_future(self.wind_down()))

    async def wind_down(self) -> None:
        """Nobody new; then the application's own farewell; then what is left is cancelled."""
        logger.info("Stopping", extra={"verb": "stop"})
        loop = asyncio.get_running_loop()
        for port in self.ports:
            await defer.maybeDeferred(port.stopListening).asFuture(loop)
        await self.lifespan.stop(self.stop_timeout)
        running = [
            details["application_instance"]
            for details in self.connections.values()
            if "application_instance" in details  # a request has none while its body arrives
        ]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=CLOSE_LIMIT)
