"""The packets and bytes that one client may send in a time."""

import pytest

from ohsessions.socketio.inflow import Inflow


class World:
    """A bucket and its clock."""

    def __init__(
        self, packet_rate: float | None = None, byte_rate: float | None = None, largest: int = 64
    ) -> None:
        self.now = 100.0
        self.inflow = Inflow(packet_rate, byte_rate, largest, lambda: self.now)

    def taken(self, size: int) -> int:
        """Return how many packets of `size` bytes are taken at once."""
        count = 0
        while count < 10_000 and self.inflow.try_take(1, size):
            count += 1
        return count


def test_ten_seconds_worth_of_packets_come_at_once_and_then_as_many_as_the_rate_says():
    world = World(packet_rate=8)
    assert world.taken(1) == 80
    world.now += 2
    assert world.taken(1_000_000) == 16
    world.now += 1000
    assert world.taken(1) == 80


def test_bytes_count_beside_packets():
    world = World(byte_rate=1024)
    assert world.taken(1024) == 10
    world.now += 5
    assert world.taken(512) == 10


def test_two_of_the_largest_messages_come_at_once_however_low_the_rate():
    world = World(byte_rate=1, largest=500)
    assert world.taken(500) == 2
    world.now += 499
    assert world.taken(500) == 0
    world.now += 1
    assert world.taken(500) == 1


def test_what_is_refused_does_not_count():
    world = World(packet_rate=1)
    assert not world.inflow.try_take(11, 0)
    assert world.inflow.try_take(10, 0)


def test_without_rates_everything_is_taken():
    assert World().taken(10**9) == 10_000


@pytest.mark.parametrize("count", [1, 7])
def test_packets_of_one_post_cost_as_much_as_one_by_one(count: int):
    one, many = World(packet_rate=7, byte_rate=7), World(packet_rate=7, byte_rate=7)
    assert many.inflow.try_take(count, 21)
    for _ in range(count):
        one.inflow.try_take(1, 21 // count)
    assert one.taken(1) == many.taken(1)
