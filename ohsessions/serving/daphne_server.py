"""
daphne with the additions that production needs. `manage.py ohsessions serve` runs it.

Importing this module installs Twisted's asyncio reactor, so import it before the ASGI application. It adds to
daphne's server: a listen backlog for many clients that reconnect at once, the limits of the modules
http_requests and websockets, and an orderly stop. It knows nothing of sessions.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

from daphne import server as daphne_server  # first: it installs the reactor
from twisted.internet import defer

from ohsessions.serving.http_requests import BodyLimits, LimitedHTTPFactory
from ohsessions.serving.ports import FairPort
from ohsessions.serving.websocket_budgets import Limits
from ohsessions.serving.websockets import BoundedWebSocketFactory

logger = logging.getLogger(__name__)

BACKLOG = 4096
"""With daphne's 50, 1,000 clients that reconnect at once need 28-60 s; with this, 1.6 s (measured)."""

CONNECTIONS_CLOSE_LIMIT = 10.0
"""Seconds within which the application's connections must end at a stop."""


class Server(daphne_server.Server):  # type: ignore[misc]
    """
    Serves `application` on one TCP address until SIGTERM or SIGINT.

    `limits` are those of websockets, some of them for each `address_of` a scope; `limits.largest` also bounds
    sent messages. `slow_timeout`: the seconds for which a client may leave its data unread; daphne's own ping
    timeout is longer. `stop_application` is awaited at the end, for `stop_timeout` seconds. `announce` is
    called with (host, port) once connections are accepted. After `run`, `error` is the reason why the server
    could not listen, or None.
    """

    def __init__(
        self,
        application: Callable[..., Awaitable[None]],
        *,
        bind: str,
        port: int,
        body_limits: BodyLimits,
        limits: Limits,
        address_of: Callable[[dict[str, Any]], str],
        slow_timeout: float,
        stop_application: Callable[[], Awaitable[None]],
        stop_timeout: float,
        announce: Callable[[str, int], None],
        **options: Any,
    ) -> None:
        interface = bind.strip("[]").replace(":", r"\:")
        super().__init__(
            application,
            endpoints=[f"tcp:{port}:interface={interface}:backlog={BACKLOG}"],
            http_timeout=None,  # long polls and streams may take any time
            request_buffer_size=64 * 1024,
            websocket_timeout=-1,  # daphne's default closes sockets after a day
            websocket_handshake_timeout=30,  # includes the application's accept, while all reconnect
            websocket_connect_timeout=30,
            websocket_max_message_size=limits.largest,
            websocket_max_frame_size=limits.largest,
            ping_timeout=max(30, math.ceil(2 * slow_timeout)),
            application_close_timeout=CONNECTIONS_CLOSE_LIMIT,
            **options,
        )
        self._http_factory = LimitedHTTPFactory(self)
        self._ws_factory = BoundedWebSocketFactory(self, limits, server=self.server_name)
        self.body_limits = body_limits
        self.address_of = address_of
        self.stop_application = stop_application
        self.stop_timeout = stop_timeout
        self.announce = announce
        self.ports: list[Any] = []
        self.error: str | None = None

    # daphne's run() assigns factories of its own before it listens. Ours stay.
    http_factory = property(lambda self: self._http_factory, lambda self, factory: None)
    ws_factory = property(lambda self: self._ws_factory, lambda self, factory: None)

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        """Add to a websocket's scope the scheme, which daphne omits, and an Inlet to limit its client."""
        if scope["type"] == "websocket":
            scope["extensions"] = {"ohsessions.inlet": protocol.open_inlet(self.address_of(scope))}
            scope["scheme"] = "wss" if getattr(protocol, "client_scheme", None) == "https" else "ws"
        return super().create_application(protocol, scope)

    def listen_success(self, port: Any) -> None:
        super().listen_success(port)
        port.__class__ = FairPort  # a reactor makes ports of its own class only
        self.ports.append(port)
        address = port.getHost()
        self.announce(address.host, address.port)

    def listen_error(self, failure: Any) -> None:
        self.error = failure.getErrorMessage()
        self.stop()

    def kill_all_applications(self) -> defer.Deferred[None]:
        """Wind down in order and with a limit. The reactor calls this before it ends."""
        return defer.Deferred.fromFuture(asyncio.ensure_future(self.wind_down()))

    async def wind_down(self) -> None:
        """Stop listening, stop the application, and then cancel the connections that are left."""
        logger.info("Stopping", extra={"verb": "stop"})
        loop = asyncio.get_running_loop()
        for port in self.ports:
            await defer.maybeDeferred(port.stopListening).asFuture(loop)
        try:
            await asyncio.wait_for(self.stop_application(), self.stop_timeout)
        except TimeoutError:
            limit = self.stop_timeout
            logger.error("The application did not stop within %s s", limit, extra={"verb": "abort"})  # noqa: TRY400
        running = [
            details["application_instance"]
            for details in self.connections.values()
            if "application_instance" in details  # a request has none while its body arrives
        ]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=CONNECTIONS_CLOSE_LIMIT)
