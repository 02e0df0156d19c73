"""Golden strings of Engine.IO packets and payloads."""

import pytest

from ohsessions.socketio import packets
from ohsessions.socketio.errors import PacketError
from ohsessions.socketio.settings import EngineSettings


def test_times_are_announced_as_whole_milliseconds() -> None:
    settings = EngineSettings(ping_interval=0.3, ping_timeout=20.0, max_payload=1_000_000)
    packet = packets.open_packet("lv_VI97HAXpY6yYWAAAC", ["websocket"], settings)
    assert packet == (
        '0{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"],"pingInterval":300,"pingTimeout":20000,'
        '"maxPayload":1000000}'
    )


def test_a_payload_joins_packets_and_carries_binary_as_base64() -> None:
    assert packets.encode_payload(["4hello", "2", b"\x01\x02\x03\x04"]) == "4hello\x1e2\x1ebAQIDBA=="


def test_a_payload_is_read_as_it_was_written() -> None:
    assert packets.decode_payload("4hellé\x1e3\x1ebAQIDBA==".encode()) == ["4hellé", "3", b"\x01\x02\x03\x04"]


@pytest.mark.parametrize("body", [b"4\xff", b"b!!!", b"4a\x1ebA", "bé".encode()])
def test_a_payload_that_is_not_utf8_or_not_base64_is_refused(body: bytes) -> None:
    with pytest.raises(PacketError):
        packets.decode_payload(body)
