"""The Engine.IO state machine: no I/O, and a clock that the test sets."""

import pytest

from ohsessions.socketio.engine import EngineIO, EngineState, Transport
from ohsessions.socketio.errors import PacketError, RequestRefused
from ohsessions.socketio.settings import EngineSettings


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """An engine after its handshake, and a clock to turn."""

    def __init__(self, transport: Transport, **settings: float) -> None:
        self.clock = Clock()
        defaults = {"ping_interval": 10, "ping_timeout": 5, "barrier_bytes": 1000, "barrier_timeout": 60}
        self.engine = EngineIO(EngineSettings(**(defaults | settings)), transport, self.clock)  # type: ignore[arg-type]
        if transport is Transport.POLLING:
            self.opened = self.poll()
        else:
            [self.opened] = self.written()

    def written(self) -> list[str | bytes]:
        packets = list(self.engine.queue)
        self.engine.queue.clear()
        return packets

    def poll(self) -> str:
        self.engine.begin_poll()
        assert self.engine.poll_is_ready
        return self.engine.end_poll()

    def wait(self, seconds: float) -> None:
        """Let time pass, with a tick at each deadline on the way."""
        end = self.clock.now + seconds
        while (deadline := self.engine.deadline) is not None and deadline <= end:
            self.clock.now = max(self.clock.now, deadline)
            self.engine.tick()
        self.clock.now = end


@pytest.fixture
def socket() -> World:
    return World(Transport.WEBSOCKET)


@pytest.fixture
def polling() -> World:
    return World(Transport.POLLING)


def test_the_handshake_offers_an_upgrade_only_to_those_who_poll(socket: World, polling: World) -> None:
    assert f'0{{"sid":"{polling.engine.sid}","upgrades":["websocket"],"pingInterval":10000,' in polling.opened
    assert '"upgrades":[],' in str(socket.opened)


def test_a_message_is_handed_up_without_its_type(socket: World) -> None:
    assert socket.engine.receive("4hello") == "hello"
    assert socket.engine.receive(b"\x01") == b"\x01"
    assert socket.engine.receive("6") is None


@pytest.mark.parametrize("packet", ["", "abc", "7", "2", "0{}"])
def test_a_packet_that_no_client_may_send_is_refused(socket: World, packet: str) -> None:
    with pytest.raises(PacketError):
        socket.engine.receive(packet)


# -- heartbeat


def test_a_ping_is_sent_each_interval_after_the_pong(socket: World) -> None:
    for _ in range(3):
        socket.wait(9.9)
        assert socket.written() == []
        socket.wait(0.1)
        assert socket.written() == ["2"]
        socket.wait(4)
        socket.engine.receive("3")
    assert socket.engine.state is EngineState.OPEN


@pytest.mark.parametrize("transport", list(Transport))
def test_a_client_that_does_not_answer_a_ping_is_cut(transport: Transport) -> None:
    world = World(transport)
    world.wait(14.9)
    assert world.engine.state is EngineState.OPEN
    world.wait(0.1)
    assert (world.engine.state, world.engine.reason) == (EngineState.CLOSED, "ping timeout")
    assert world.engine.deadline is None


def test_a_pong_that_nobody_asked_for_is_no_packet_of_a_client(socket: World) -> None:
    with pytest.raises(PacketError):
        socket.engine.receive("3")
    socket.wait(10)
    socket.engine.receive("3")
    with pytest.raises(PacketError):
        socket.engine.receive("3")


def test_a_websocket_probes_once() -> None:
    world = World(Transport.POLLING)
    world.engine.begin_probe()
    assert world.engine.receive_probe("2probe") == "3probe"
    with pytest.raises(PacketError):
        world.engine.receive_probe("2probe")


# -- the barrier on a websocket


def test_a_ping_follows_so_many_bytes_and_its_pong_makes_writable_again(socket: World) -> None:
    socket.engine.send("4" + "x" * 800)
    assert socket.engine.writable
    socket.engine.send("4" + "y" * 300)
    assert not socket.engine.writable
    assert socket.written() == ["4" + "x" * 800, "4" + "y" * 300, "2"]
    socket.engine.receive("3")
    assert socket.engine.writable


def test_what_is_sent_behind_a_barrier_counts_for_the_next(socket: World) -> None:
    socket.engine.send("4" + "x" * 1000)
    socket.engine.send("4" + "y" * 1000)
    assert socket.written()[1:] == ["2", "4" + "y" * 1000]
    socket.engine.receive("3")
    assert not socket.engine.writable
    assert socket.written() == ["2"]
    socket.engine.receive("3")
    assert socket.engine.writable


def test_the_pong_of_an_earlier_heartbeat_does_not_lift_a_barrier(socket: World) -> None:
    socket.wait(10)
    socket.engine.send("4" + "x" * 1000)
    assert socket.written() == ["2", "4" + "x" * 1000, "2"]
    socket.engine.receive("3")
    assert not socket.engine.writable
    socket.engine.receive("3")
    assert socket.engine.writable


def test_a_client_that_reads_slowly_is_not_cut_by_the_ping_timeout(socket: World) -> None:
    socket.engine.send("4" + "x" * 1000)
    socket.wait(59.9)
    assert socket.engine.state is EngineState.OPEN
    socket.engine.receive("3")
    assert socket.engine.writable


def test_a_barrier_that_is_never_answered_cuts_the_client_as_slow(socket: World) -> None:
    socket.engine.send("4" + "x" * 1000)
    socket.wait(60)
    assert (socket.engine.state, socket.engine.reason) == (EngineState.CLOSED, "slow")


def test_a_heartbeat_behind_many_bytes_is_a_barrier(socket: World) -> None:
    socket.engine.send("4" + "x" * 300)
    socket.wait(10)
    assert not socket.engine.writable
    socket.wait(30)
    assert socket.engine.state is EngineState.OPEN


def test_who_ignores_writable_is_bounded(socket: World) -> None:
    world = World(Transport.WEBSOCKET, backlog_bytes=1000)
    world.engine.send("4" + "x" * 5000)
    for _ in range(100):
        world.engine.send("4" + "x" * 9)
    assert world.engine.state is EngineState.OPEN
    world.engine.send("4")
    assert (world.engine.state, world.engine.reason, len(world.engine.queue)) == (
        EngineState.CLOSED,
        "slow",
        0,
    )


# -- polling


def test_one_poll_takes_all_that_is_queued(polling: World) -> None:
    polling.engine.begin_poll()
    assert not polling.engine.poll_is_ready
    polling.engine.send("4a")
    polling.engine.send(b"\x01\x02\x03\x04")
    polling.engine.send("4b")
    assert polling.engine.end_poll() == "4a\x1ebAQIDBA==\x1e4b"


def test_a_poll_takes_no_more_packets_than_clients_accept_and_the_next_the_rest(polling: World) -> None:
    for number in range(20):
        polling.engine.send(f"4{number}")
    polling.engine.close("asked to")
    assert polling.poll().split("\x1e") == [f"4{number}" for number in range(16)]
    assert polling.engine.state is EngineState.CLOSING
    assert polling.poll() == "416\x1e417\x1e418\x1e419"
    assert polling.poll() == "1"
    assert polling.engine.state is EngineState.CLOSED


def test_a_poll_that_leaves_much_queued_does_not_make_writable(polling: World) -> None:
    for _ in range(40):
        polling.engine.send("4" + "x" * 99)
    for _ in range(2):
        polling.poll()
        assert not polling.engine.writable
    polling.engine.begin_poll()
    assert polling.engine.writable


def test_in_polling_the_next_get_makes_writable_again(polling: World) -> None:
    polling.engine.send("4" + "x" * 1000)
    assert not polling.engine.writable
    assert polling.poll() == "4" + "x" * 1000
    assert not polling.engine.writable
    polling.wait(59.9)
    polling.engine.begin_poll()
    assert polling.engine.writable


def test_overlapping_polls_close_the_connection(polling: World) -> None:
    polling.engine.begin_poll()
    with pytest.raises(RequestRefused):
        polling.engine.begin_poll()
    assert polling.engine.poll_is_ready
    assert polling.engine.end_poll() == "1"
    assert polling.engine.state is EngineState.CLOSED


def test_a_close_of_the_client_answers_its_poll_with_a_noop(polling: World) -> None:
    polling.engine.begin_poll()
    polling.engine.receive("1")
    assert polling.engine.end_poll() == "6"
    assert polling.engine.reason == "transport close"


def test_our_close_lets_the_client_fetch_what_is_queued(polling: World) -> None:
    polling.engine.send("4a")
    polling.engine.close("asked to")
    polling.engine.send("4too late")
    assert polling.engine.state is EngineState.CLOSING
    assert polling.poll() == "4a"
    assert polling.poll() == "1"
    assert (polling.engine.state, polling.engine.reason) == (EngineState.CLOSED, "asked to")


def test_our_close_waits_no_longer_than_the_ping_timeout(polling: World) -> None:
    polling.engine.close("asked to")
    polling.wait(5)
    assert polling.engine.state is EngineState.CLOSED


# -- upgrade


def upgrade(world: World) -> None:
    world.engine.begin_probe()
    assert world.engine.receive_probe("2probe") == "3probe"
    assert world.engine.receive_probe("5") is None


def test_an_upgrade_moves_the_queue_and_leaves_out_nothing(polling: World) -> None:
    polling.engine.begin_probe()
    assert polling.engine.receive_probe("2probe") == "3probe"
    assert polling.poll() == "6"
    polling.engine.send("4a")
    assert polling.engine.receive_probe("5") is None
    assert polling.engine.transport is Transport.WEBSOCKET
    assert polling.written() == ["4a"]


def test_a_poll_that_waits_is_answered_by_the_probe(polling: World) -> None:
    polling.engine.begin_poll()
    polling.engine.begin_probe()
    assert not polling.engine.poll_is_ready
    polling.engine.receive_probe("2probe")
    assert polling.engine.poll_is_ready
    assert polling.engine.end_poll() == "6"


@pytest.mark.parametrize("is_probed", [False, True])
@pytest.mark.parametrize("packet", ["2", "4hello", b"x", "3", ""])
def test_what_is_not_part_of_an_upgrade_is_refused_and_polling_goes_on(
    polling: World, is_probed: bool, packet: str | bytes
) -> None:
    polling.engine.begin_probe()
    if is_probed:
        polling.engine.receive_probe("2probe")
    with pytest.raises(PacketError):
        polling.engine.receive_probe(packet)
    polling.engine.end_probe()
    polling.engine.send("4a")
    assert polling.poll() == "4a"


def test_an_upgrade_needs_its_probe(polling: World) -> None:
    polling.engine.begin_probe()
    with pytest.raises(PacketError):
        polling.engine.receive_probe("5")
    assert polling.engine.transport is Transport.POLLING


def test_there_is_one_probe_at_a_time_and_none_after_the_upgrade(polling: World) -> None:
    polling.engine.begin_probe()
    with pytest.raises(RequestRefused):
        polling.engine.begin_probe()
    polling.engine.end_probe()
    upgrade(polling)
    with pytest.raises(RequestRefused):
        polling.engine.begin_probe()


def test_the_heartbeat_rests_during_an_upgrade_and_goes_on_after_it(polling: World) -> None:
    polling.wait(10)
    polling.engine.begin_probe()
    polling.engine.receive_probe("2probe")
    assert polling.engine.deadline is None
    assert polling.poll() == "2"
    polling.wait(9)
    polling.engine.receive_probe("5")
    polling.wait(4)
    polling.engine.receive("3")
    polling.wait(10)
    assert polling.written() == ["2"]


def test_an_upgrade_lifts_the_barrier_of_polling(polling: World) -> None:
    polling.engine.send("4" + "x" * 1000)
    polling.poll()
    assert not polling.engine.writable
    upgrade(polling)
    assert polling.engine.writable


def test_an_upgrade_with_much_queued_raises_a_barrier_behind_it(polling: World) -> None:
    polling.engine.send("4" + "x" * 1000)
    upgrade(polling)
    assert polling.written() == ["4" + "x" * 1000, "2"]
    assert not polling.engine.writable
    polling.engine.receive("3")
    assert polling.engine.writable


# -- the end


def test_after_the_end_nothing_is_queued_and_the_first_reason_stays(socket: World) -> None:
    socket.engine.close("first")
    socket.engine.abort("second")
    socket.engine.abort("third")
    socket.engine.send("4a")
    assert (socket.engine.state, socket.engine.reason) == (EngineState.CLOSED, "first")
    assert socket.written() == []
    assert socket.engine.writable
