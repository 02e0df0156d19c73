"""Targets for the input of strangers: packets, bodies, engines, queries, headers, addresses.

Each target takes one input.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from random import Random
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from django.contrib.auth.models import AnonymousUser

from ohsessions.admission import admit
from ohsessions.core import addresses
from ohsessions.core.errors import WireError
from ohsessions.gateway import handshake
from ohsessions.routing import is_handshake
from ohsessions.serving.http_requests import BodyLimits
from ohsessions.socketio import codec, requests
from ohsessions.socketio.engine import EngineIO, EngineState, Transport
from ohsessions.socketio.errors import PacketError, RequestRefused
from ohsessions.socketio.packets import decode_payload, encode_payload
from ohsessions.socketio.settings import EngineSettings
from tests.fuzz import inputs

SESSION = UUID("6f0b2b58-8a54-4fc2-9b5c-0123456789ab")


def packet_text(data: bytes) -> None:
    """Read a Socket.IO packet and its event. Written again, they must be the same."""
    packet = codec.parse_packet(data.decode("utf-8", "surrogateescape"))
    assert packet.namespace.startswith("/")
    assert 0 <= packet.attachments < 10**10
    if packet.kind is codec.Kind.CONNECT:
        assert isinstance(codec.parse_auth(packet), dict)
    elif packet.kind in (codec.Kind.EVENT, codec.Kind.BINARY_EVENT):
        name, args = codec.parse_event(packet)
        again = codec.parse_event(codec.parse_packet(codec.encode_event(name, *args, ack_id=packet.ack_id)))
        assert again == (name, args), "an event changed on its way"


def payload_body(data: bytes) -> None:
    """Decode the body of a POST, encode the result, and decode it again."""
    packets = decode_payload(data)
    if not any(isinstance(packet, str) and packet.startswith("b") for packet in packets):
        assert decode_payload(encode_payload(packets).encode()) == packets


def engine_sequence(data: bytes) -> None:
    """Drive an engine by steps that the input names. Its memory must not grow by the client's input."""
    now = 0.0
    transport = Transport.WEBSOCKET if data[:1] < b"\x80" else Transport.POLLING
    engine = EngineIO(EngineSettings(ping_interval=10, ping_timeout=5), transport, lambda: now)
    for step in re.split(rb"\x1e|\n", data[1:]):
        operation, rest = step[:1], step[1:]
        try:
            if operation == b"t":
                now += len(rest)
                engine.tick()
            elif operation == b"p":
                engine.begin_poll()
                engine.end_poll() if engine.poll_is_ready else engine.cancel_poll()
            elif operation == b"u":
                engine.begin_probe()
            elif operation == b"q":
                engine.receive_probe(rest.decode("latin-1"))
            elif operation == b"e":
                engine.end_probe()
            elif operation == b"x":
                engine.receive(rest)
            elif operation == b"w":
                engine.queue.clear()
            elif operation == b"c":
                engine.close("over")
            else:
                engine.receive(step.decode("latin-1"))
        except (PacketError, RequestRefused):
            pass
        assert engine.state in EngineState
        assert len(engine.queue) < 50 + now, "packets pile up for a client that only speaks"
        assert engine.deadline is None or engine.deadline < now + 200


def query_string(data: bytes) -> None:
    """Read the query of a handshake of either transport, and the session that it asks for."""
    for scope in (
        {"type": "http", "method": "GET", "query_string": data, "headers": []},
        {"type": "http", "method": "POST", "query_string": data, "headers": []},
        {"type": "websocket", "query_string": data, "headers": []},
    ):
        assert is_handshake(scope) in (True, False)
        try:
            requests.parse_query(scope)
        except RequestRefused:
            pass
        try:
            handshake.read_handshake(scope, {})
        except WireError:
            pass


def auth_object(data: bytes) -> None:
    """Read the auth object of a CONNECT."""
    packet = codec.parse_packet("0" + data.decode("utf-8", "surrogateescape"))
    scope = {"type": "websocket", "query_string": b"", "headers": [(b"authorization", data[:40])]}
    handshake.read_handshake(scope, codec.parse_auth(packet))


def header_lines(data: bytes) -> None:
    """Read every header that has an effect: Origin, Host, Cookie, Authorization, addresses."""
    headers = []
    for line in data.split(b"\n"):
        name, _, content = line.partition(b":")
        headers.append((name.strip().lower(), content.strip()))
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/socket.io/",
        "query_string": b"EIO=4&transport=polling",
        "headers": headers,
        "client": ["127.0.0.1", 5],
        "server": ["127.0.0.1", 8000],
    }
    with suppress(RequestRefused):
        admit(scope)
        hosts = [content for name, content in headers if name == b"host"]
        assert not any(b"evil" in host for host in hosts), "a host of somebody else was let in"
    requests.credentials(scope, lambda: "sessionid")
    handshake.read_handshake(scope, {})
    socket: Any = SimpleNamespace(scope=scope, sid="s", transport="polling")
    told = handshake.describe(socket, AnonymousUser(), SESSION, datetime(2026, 11, 22, tzinfo=UTC))
    assert isinstance(told.address, str)


def forwarded_addresses(data: bytes) -> None:
    """Find the client behind proxies. A header from an untrusted peer must change nothing."""
    peer, *values = data.decode("latin-1").split("\n")
    for header in addresses.HEADERS:
        for trusted in ((), ("127.0.0.1", "10.0.0.0/8", "unix"), ("0.0.0.0/0", "::/0", "unix")):
            found = addresses.client_address(peer, values, header, trusted)
            assert isinstance(addresses.limit_key(found), str)
            if not trusted:
                assert found == addresses.client_address(peer, [], header, trusted)


def request_target(data: bytes) -> None:
    """Find the limit of a body by the request's target."""
    limits = BodyLimits(prefix="/socket.io/", below=10, default=5)
    assert limits.limit(data.decode("latin-1")) in (5, 10)


def engine_steps(random: Random) -> bytes:
    steps = [
        random.choice(
            (b"3", b"2", b"6", b"1", b"5", b"4x", b"x\x00", b"p", b"u", b"e", b"w", b"c", b"q2probe", b"q5")
        )
        if random.random() < 0.8
        else b"t" + b"." * random.randrange(30)
        for _ in range(random.randrange(12))
    ]
    return random.choice((b"w", b"\xff")) + b"\n".join(steps)


def forwarded(random: Random) -> bytes:
    peer = random.choice(
        (b"127.0.0.1", b"10.0.0.1", b"1.2.3.4", b"::1", b"::ffff:10.0.0.1", b"fe80::1%eth0", b"")
    )
    lists = [
        random.choice((b", ", b",", b";")).join(
            random.choice((b"", b"for=", b'for="', b"by=")) + random.choice(inputs.HOSTS)
            for _ in range(random.randrange(4))
        )
        for _ in range(random.randrange(3))
    ]
    return b"\n".join([peer, *lists])
