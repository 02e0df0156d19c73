"""
Engine.IO 4 packets: a type character, then the data. A payload (long polling) joins packets by U+001E.

Owns the text form of packets and payloads. Knows nothing of states, time or Socket.IO.
Source: https://github.com/socketio/engine.io-protocol
"""

import base64
import binascii
import json
from collections.abc import Iterable

from ohsessions.socketio.errors import PacketError
from ohsessions.socketio.settings import EngineSettings

__all__ = [
    "CLOSE",
    "MESSAGE",
    "NOOP",
    "OPEN",
    "PING",
    "PONG",
    "PROBE_PING",
    "PROBE_PONG",
    "UPGRADE",
    "count_packets",
    "decode_payload",
    "encode_payload",
    "open_packet",
]

OPEN, CLOSE, PING, PONG, MESSAGE, UPGRADE, NOOP = "0123456"
PROBE_PING = PING + "probe"
PROBE_PONG = PONG + "probe"

SEPARATOR = "\x1e"
BASE64_MESSAGE = "b"


def open_packet(sid: str, upgrades: list[str], settings: EngineSettings) -> str:
    """Return the first packet of a connection. Clients read times as whole milliseconds."""
    handshake = {
        "sid": sid,
        "upgrades": upgrades,
        "pingInterval": round(settings.ping_interval * 1000),
        "pingTimeout": round(settings.ping_timeout * 1000),
        "maxPayload": settings.max_payload,
    }
    return OPEN + json.dumps(handshake, separators=(",", ":"))


def encode_payload(packets: Iterable[str | bytes]) -> str:
    """Return the body that carries these packets in one poll, binary messages as base64."""
    return SEPARATOR.join(
        packet if isinstance(packet, str) else BASE64_MESSAGE + base64.b64encode(packet).decode()
        for packet in packets
    )


def count_packets(body: bytes) -> int:
    """Return the number of packets in the body of a POST, without splitting the body."""
    return body.count(SEPARATOR.encode()) + 1


def decode_payload(body: bytes) -> list[str | bytes]:
    """
    Return the packets of a POST: text packets with their type character, binary messages as bytes.

    Raises PacketError if the body is not UTF-8, or a binary packet is not base64.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        raise PacketError("a payload is not UTF-8") from exc
    return [
        _decode_base64(packet) if packet.startswith(BASE64_MESSAGE) else packet
        for packet in text.split(SEPARATOR)
    ]


def _decode_base64(packet: str) -> bytes:
    try:
        return base64.b64decode(packet[1:], validate=True)
    except (binascii.Error, ValueError) as exc:
        raise PacketError("a binary packet is not base64") from exc
