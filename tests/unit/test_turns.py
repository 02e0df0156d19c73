"""A client's data is read and handled a little at a time, so that others have their turns in between."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock

from ohsessions.serving.ports import FairPort
from ohsessions.serving.websockets import LATE_FRAMES, SLICE, BoundedWebSocket
from ohsessions.socketio.codec import parse_packet
from ohsessions.socketio.connection import FAIR_SHARE
from ohsessions.socketio.dispatcher import Dispatcher
from ohsessions.socketio.inflow import Inflow
from ohsessions.socketio.settings import EngineSettings


class Transport:
    """A transport that records whether its socket is read."""

    paused = False

    def pauseProducing(self) -> None:
        assert not self.paused
        self.paused = True

    def resumeProducing(self) -> None:
        assert self.paused
        self.paused = False


class Protocol(BoundedWebSocket):
    """A protocol that records how much is read in each turn."""

    def __init__(self) -> None:
        self.known = True
        self.state = self.STATE_OPEN
        self.waiting = bytearray()
        self.clock = Clock()
        self.factory = SimpleNamespace(reactor=self.clock)
        self.transport = Transport()
        self.seen: list[int] = []

    def read(self, data: bytes) -> None:
        self.seen.append(len(data))


@pytest.fixture
def protocol() -> Protocol:
    return Protocol()


def test_small_frames_are_read_a_little_in_each_turn_and_the_socket_waits(protocol: Protocol) -> None:
    protocol.dataReceived(b"x" * (2 * SLICE + 5))
    assert protocol.seen == [SLICE]
    assert protocol.transport.paused
    protocol.clock.advance(0)  # also makes the calls that these calls schedule
    assert protocol.seen == [SLICE, SLICE, 5]
    assert not protocol.transport.paused
    assert not protocol.clock.getDelayedCalls()


def test_a_large_payload_is_read_at_once_and_what_follows_it_is_not(protocol: Protocol) -> None:
    protocol.current_frame = SimpleNamespace(length=50_000)
    protocol.current_frame_masker = SimpleNamespace(pointer=lambda: 10_000)
    protocol.dataReceived(b"x" * 60_000)
    assert protocol.seen == [40_000]


def test_what_is_dropped_in_between_is_not_read_on(protocol: Protocol) -> None:
    def drop(data: bytes) -> None:
        protocol.dropped = True

    protocol.read = drop  # type: ignore[method-assign]
    protocol.dataReceived(b"x" * 10_000)
    assert not protocol.clock.getDelayedCalls()
    assert not protocol.waiting


def test_a_client_that_sends_on_after_the_end_is_dropped(protocol: Protocol) -> None:
    dropped: list[str] = []
    protocol.drop = dropped.append  # type: ignore[method-assign]
    protocol.inflow = Inflow(None, None, 1000, lambda: 0.0)
    protocol.failedByMe = True
    protocol.current_frame = SimpleNamespace(length=0, opcode=10, fin=True)
    protocol.state = protocol.STATE_CLOSING
    for _ in range(LATE_FRAMES):
        protocol.onFrameBegin()
    assert not dropped
    protocol.onFrameBegin()
    assert dropped == ["it sends on after the end"]


async def test_many_events_that_wait_for_nothing_leave_turns_to_others() -> None:
    story: list[str] = []

    async def other() -> None:
        while True:
            story.append("other")
            await asyncio.sleep(0)

    class Handler:
        async def connect(self, auth: object) -> None: ...

        async def event(self, name: str, args: list[Any], ack: object) -> None:
            story.append("event")

        async def disconnect(self, reason: str) -> None: ...

    socket: Any = SimpleNamespace(guest=None, writable=True, is_known=True)
    socket.ack_for = socket.confirm = socket.end = lambda *_: None
    handler: Any = Handler()
    dispatcher = Dispatcher(socket, handler, EngineSettings(), asyncio.Semaphore(), lambda: None)
    for _ in range(5 * FAIR_SHARE):
        assert dispatcher.try_put(parse_packet('2["x"]'))
    running = asyncio.create_task(other())
    dispatcher.finish("over", drop=False)
    await dispatcher.run(parse_packet("0"))
    running.cancel()
    assert story.count("event") == 5 * FAIR_SHARE
    longest = max(map(len, "".join("e" if one == "event" else " " for one in story).split()))
    assert longest == FAIR_SHARE


def test_the_port_rests_as_long_as_a_new_connection_kept_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    story: list[str] = []

    class Port(FairPort):
        connected = True

        def __init__(self) -> None:
            self.reactor = clock

        def stopReading(self) -> None:
            story.append("rests")

        def startReading(self) -> None:
            story.append(f"goes on at {clock.seconds():g}")

    def accept(port: Port) -> None:
        story.append(f"takes {port.numberAccepts}")
        port.numberAccepts = 20  # as Twisted does when more connections are waiting
        clock.rightNow += 1

    monkeypatch.setattr("twisted.internet.tcp.Port.doRead", accept)
    port = Port()
    port.doRead()
    clock.rightNow += 1  # the rest of the turn, in which the connection's request is handled
    clock.pump([0, 1, 0.9])
    assert story == ["takes 1", "rests"]
    clock.advance(0.1)
    assert story == ["takes 1", "rests", "goes on at 4"]
    port.doRead()
    port.connected = False
    clock.pump([5, 5])
    assert story[3:] == ["takes 1", "rests"]
