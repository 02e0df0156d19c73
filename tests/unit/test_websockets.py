"""Budgets of unfinished bytes, and the parsing of many frames in turns."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from ohsessions.serving.websocket_budgets import Limits, Line, Unfinished
from ohsessions.serving.websockets import SLICE, BoundedWebSocketFactory
from tests.acceptance.frames import PING, frame

FRAMES_PER_TURN = SLICE // len(frame(b"x")) + 1


class Server:
    """The part of daphne's server that its protocol needs."""


class World:
    """An open websocket over a transport of the test's own."""

    def __init__(self, **limits: Any) -> None:
        self.clock = Clock()
        self.factory = BoundedWebSocketFactory(Server(), Limits(**({"largest": 10_000} | limits)))
        self.factory.reactor = self.clock
        self.socket = self.factory.buildProtocol(None)
        self.transport = StringTransport()
        self.transport.abortConnection = self.lose
        self.transport.unregisterProducer = lambda: None
        self.socket.makeConnection(self.transport)
        self.socket.state = self.socket.STATE_OPEN
        self.socket.websocket_version = 13
        self.got: list[bytes] = []
        self.socket.onMessage = lambda payload, is_binary: self.got.append(payload)
        self.socket.onClose = lambda *args: None
        self.lost = False

    def lose(self) -> None:
        self.lost = True

    def receive(self, data: bytes) -> None:
        self.socket.dataReceived(data)

    def end(self) -> None:
        self.socket.connectionLost(Failure(ConnectionDone()))


@pytest.mark.parametrize("known", [True, False])
def test_many_frames_are_parsed_in_turns_and_nothing_is_read_meanwhile(known: bool):
    world = World()
    if known:
        world.socket.lift()
    world.receive(frame(b"x") * (4 * FRAMES_PER_TURN))
    assert (0 if known else -1) < len(world.got) <= (FRAMES_PER_TURN if known else 0)
    assert world.transport.producerState == "paused"
    world.clock.advance(0)  # all turns, since none takes time here
    assert len(world.got) == 4 * FRAMES_PER_TURN
    assert world.transport.producerState == "producing"
    world.end()


def test_a_connection_that_is_lost_between_turns_is_not_gone_on_with():
    world = World()
    world.receive(frame(b"x") * (2 * FRAMES_PER_TURN))
    world.end()
    world.clock.advance(1)
    assert len(world.got) <= FRAMES_PER_TURN


@pytest.mark.parametrize(
    ("limits", "data"),
    [
        ({}, frame(b"", PING) * 101),
        ({"packet_rate": 1}, frame(b"x") * 21),
        ({"byte_rate": 1024}, frame(bytes(5000)) * 5),
        ({}, frame(b"", announced=10_001)),
    ],
)
def test_what_is_more_than_its_share_drops_the_connection(limits: dict[str, float], data: bytes):
    world = World(**limits)
    world.socket.lift()
    world.receive(data)
    for _ in range(5):
        world.clock.advance(0)
    assert world.lost
    world.end()


def test_frames_behind_our_closing_one_are_ignored_for_a_while():
    world = World()
    world.socket.state = world.socket.STATE_CLOSING
    world.receive(frame(b"x") * 20)
    assert not world.lost
    world.receive(frame(b"x") * 200)
    for _ in range(5):
        world.clock.advance(0)
    assert world.lost
    world.end()


def test_a_lost_connection_lets_go_of_its_buffers_without_a_collection():
    world = World(largest=1_000_000)
    world.socket.lift()
    world.receive(frame(bytes(500_000), announced=900_000))
    held = weakref.ref(world.socket)
    gc.disable()
    try:
        world.end()
        assert (world.socket.data, world.socket.message_data) == (b"", [])
        world.socket, world.transport = None, None  # type: ignore[assignment]
        assert held() is None
    finally:
        gc.enable()


def test_strangers_are_read_in_turn_with_rests_as_long_as_that_takes():
    clock = Clock()
    line = Line(clock.callLater, clock.seconds)
    read: list[tuple[float, int]] = []

    class Stranger:
        def __init__(self, number: int) -> None:
            self.number = number

        def read_on(self) -> None:
            first = self.number not in [number for _, number in read]
            read.append((clock.seconds(), self.number))
            clock.rightNow += self.number
            if first:
                line.join(self.read_on)

    strangers = [Stranger(number) for number in range(1, 4)]
    for stranger in strangers:
        line.join(stranger.read_on)
    line.leave(strangers[1].read_on)
    line.leave(strangers[1].read_on)
    clock.pump([0, *[1] * 20])
    # The first stranger takes 1 s and pauses for 1 s; the third takes 3 s.
    assert read == [(0, 1), (2, 3), (8, 1), (10, 3)]
    assert not clock.getDelayedCalls()


def test_an_error_in_one_stranger_does_not_stop_the_others():
    calls: list[Any] = []
    line = Line(lambda seconds, call: calls.append(call), lambda: 0.0)
    read: list[str] = []

    class Stranger:
        def __init__(self, name: str) -> None:
            self.name = name

        def read_on(self) -> None:
            read.append(self.name)
            if self.name == "broken":
                raise ValueError(self.name)

    for name in ("broken", "sound"):
        line.join(Stranger(name).read_on)
    with pytest.raises(ValueError, match="broken"):
        calls.pop()()
    calls.pop()()
    line.join(Stranger("later").read_on)
    calls.pop()()
    assert read == ["broken", "sound", "later"]


def test_a_stranger_in_line_is_not_read_once_it_is_lost():
    world = World()
    world.receive(frame(b"x"))
    world.end()
    world.clock.advance(1)
    assert world.got == []


def test_unfinished_bytes_have_a_budget_of_each_address_and_of_all():
    unfinished = Unfinished(Limits(largest=10, unfinished_per_address=5, unfinished=8))
    assert unfinished.try_change("a", 5)
    assert not unfinished.try_change("a", 1)
    assert unfinished.try_change("b", 3)
    assert not unfinished.try_change("c", 1)
    assert unfinished.try_change("a", -2)
    assert unfinished.try_change("c", 2)
    assert not unfinished.try_change("", 1)
    assert unfinished.try_change("b", -3)
    assert unfinished.try_change("", 3)
