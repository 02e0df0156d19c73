"""daphne's HTTP protocol with limits on the size of a body and on the time that a request takes to arrive.

daphne reads bodies of any size, and waits a minute for each next byte. The module knows nothing of sessions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from daphne.http_protocol import HTTPFactory, WebRequest
from twisted.web import http

logger = logging.getLogger(__name__)

_Channel: Any = http.HTTPChannel  # Twisted has few types

LINGER = 2.0
"""Seconds for which a refused body is read and discarded, so that a reset does not lose the refusal."""

HEAD_LIMIT = 30.0
"""Seconds within which the head of a request must arrive, from the connection or its first byte on."""

BODY_RATE = 16 * 1024
"""Bytes per second, on average, at which a request's body must arrive."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """The largest request body in bytes: `below` for the path `prefix` and paths under it, else `default`."""

    prefix: str
    below: int
    default: int
    of_query: Callable[[str], int] | None = None
    """A function that returns the sender's limit from the query of a request below `prefix`."""

    def limit(self, target: str) -> int:
        """Return the limit for `target`: a request's path, perhaps with a query."""
        path, _, query = target.partition("?")
        if not (unquote(path) + "/").startswith(self.prefix):
            return self.default
        return self.below if self.of_query is None else min(self.below, self.of_query(query))


class LimitedRequest(WebRequest):  # type: ignore[misc]
    """
    A request whose body is refused with 413 if it is too large: by its Content-Length before any of it is
    read, else as soon as so much has come. daphne itself reads bodies of any size into memory.
    """

    refused = False
    received = 0
    limit = 0

    def gotLength(self, length: int | None) -> None:
        # Twisted sets a request's path only after its body. The channel has the path before.
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
        self.requestHeaders.removeHeader(b"expect")  # else Twisted sends 100 Continue after this answer
        body = f"The body is larger than {self.limit} bytes.\n".encode()
        self.channel.transport.write(
            b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Type: text/plain\r\n"
            b"X-Content-Type-Options: nosniff\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        logger.warning("Refused a body over %d bytes", self.limit, extra={"verb": "refuse_body"})
        self.channel.callLater(LINGER, self.channel.transport.loseConnection)


class PunctualChannel(_Channel):  # type: ignore[misc]
    """
    A connection whose requests must arrive in time: the head within HEAD_LIMIT, the body within HEAD_LIMIT
    plus its Content-Length / BODY_RATE. Twisted's own limit of a minute starts again with each byte.
    """

    _deadline: Any = None

    def connectionMade(self) -> None:
        super().connectionMade()
        self.expect_within(HEAD_LIMIT)

    def dataReceived(self, data: bytes) -> None:
        if self._deadline is None and not self._handlingRequest:
            self.expect_within(HEAD_LIMIT)
        super().dataReceived(data)

    def allHeadersReceived(self) -> None:
        self.expect_within(HEAD_LIMIT + (self.length or 0) / BODY_RATE)
        super().allHeadersReceived()

    def allContentReceived(self) -> None:
        self.expect_nothing()
        super().allContentReceived()

    def connectionLost(self, reason: Any) -> None:
        self.expect_nothing()
        super().connectionLost(reason)

    def expect_within(self, seconds: float) -> None:
        self.expect_nothing()
        self._deadline = self.callLater(seconds, self.give_up)

    def expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def give_up(self) -> None:
        self._deadline = None
        logger.warning("A request took too long to arrive", extra={"verb": "late_request"})
        self.transport.abortConnection()


class LimitedHTTPFactory(HTTPFactory):  # type: ignore[misc]
    # The same as in Twisted's own factory, with another channel.
    protocol = staticmethod(lambda: http._GenericHTTPChannelProtocol(PunctualChannel()))

    def buildProtocol(self, addr: Any) -> Any:
        protocol = super().buildProtocol(addr)
        protocol.requestFactory = LimitedRequest
        return protocol
