"""Requests must arrive within a time limit, however slowly their bytes come."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.http import Request

from ohsessions.serving.http_requests import BODY_RATE, HEAD_LIMIT, BodyLimits, PunctualChannel


class Arriving(Request):
    """A request that only records its arrival."""

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        self.channel.arrived += 1


class World:
    """A channel, its clock and its transport."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.channel = PunctualChannel()
        self.channel.callLater = self.clock.callLater
        self.channel.arrived = 0
        self.channel.requestFactory = Arriving
        self.transport = StringTransport()
        self.aborted = False
        self.transport.abortConnection = self.abort
        self.channel.makeConnection(self.transport)

    def abort(self) -> None:
        self.aborted = True

    def drip(self, data: bytes, seconds: float) -> None:
        """Receive `data` byte by byte within this many seconds."""
        for byte in data:
            if not self.aborted:
                self.channel.dataReceived(bytes([byte]))
                self.clock.advance(seconds / len(data))


def test_a_head_that_drips_in_is_given_up():
    world = World()
    world.drip(b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 200, HEAD_LIMIT - 1)
    assert not world.aborted
    world.drip(b"a" * 10, 2)
    assert world.aborted


@pytest.mark.parametrize("size", [10, 5 * BODY_RATE])
def test_a_body_has_its_time_by_its_size(size: int):
    world = World()
    world.channel.dataReceived(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
    world.drip(b"x" * 9, HEAD_LIMIT + size / BODY_RATE - 1)
    assert not world.aborted
    world.drip(b"x", 2)
    assert world.aborted == (size > 10)
    assert world.channel.arrived == (size == 10)


def test_a_request_that_arrived_and_a_connection_that_is_idle_have_no_deadline():
    world = World()
    world.channel.dataReceived(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    world.clock.advance(10 * HEAD_LIMIT)
    assert world.channel.arrived == 1
    assert not world.aborted


def test_the_query_says_how_much_a_body_below_the_prefix_may_have():
    sizes = {"sid=known": 9}
    limits = BodyLimits("/socket.io/", below=7, default=5, of_query=lambda query: sizes.get(query, 1))
    assert [limits.limit(f"/socket.io/?{query}") for query in ("sid=known", "sid=x", "")] == [7, 1, 1]
    assert limits.limit("/api/?sid=x") == 5
