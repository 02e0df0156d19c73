"""What is fuzzed: each decoder that strangers reach, the errors it may raise, what must hold of its results.

A target takes bytes. Any error that it raises and does not declare is a finding; so is a failed assertion.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.core import signing

from ohsessions import access
from ohsessions.admission import admit
from ohsessions.core import addresses, strict_json, wire
from ohsessions.core.errors import WireError
from ohsessions.core.redaction import MIN_LENGTH, PLACEHOLDER, Redactor
from ohsessions.core.titles import clean_title
from ohsessions.gateway import handshake
from ohsessions.http_requests import BodyLimits
from ohsessions.socketio import codec, requests
from ohsessions.socketio.engine import EngineIO, State, Transport
from ohsessions.socketio.errors import PacketError, RequestRefused
from ohsessions.socketio.packets import decode_payload, encode_payload
from ohsessions.socketio.settings import EngineSettings
from tests.fuzz import inputs
from tests.fuzz.stack import feed_polling, feed_websocket

MAX_BYTES = 20_000
SESSION = UUID("6f0b2b58-8a54-4fc2-9b5c-0123456789ab")


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder. `run` takes an input and may raise the errors `declared`; `weight` is its share."""

    name: str
    run: Callable[[bytes], Awaitable[None] | None]
    declared: tuple[type[Exception], ...]
    seeds: Sequence[bytes]
    structured: Callable[[Random], bytes]
    weight: int = field(default=10)


def packet_text(data: bytes) -> None:
    """Read a Socket.IO packet and the event in it. What is read is written the same way again."""
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
    """Decode the body of a POST, and again what was encoded from it."""
    packets = decode_payload(data)
    if not any(isinstance(packet, str) and packet.startswith("b") for packet in packets):
        assert decode_payload(encode_payload(packets).encode()) == packets


def engine_sequence(data: bytes) -> None:
    """Drive an engine by steps that the input names. It never grows by what its client says."""
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
        assert engine.state in State
        assert len(engine.queue) < 50 + now, "packets pile up for a client that only speaks"
        assert engine.deadline is None or engine.deadline < now + 200


def action_text(data: bytes) -> None:
    """Read an action, or an INIT, and check what would be stored of it."""
    args = codec.parse_json(data.decode("utf-8", "surrogateescape"))
    request = wire.parse_request([args], max_bytes=MAX_BYTES)
    if isinstance(request, wire.Init):
        assert request.cursor >= -1
        assert request.token is None or isinstance(request.token, str)
        wire.encode(request.settings).encode()
        return
    if isinstance(request, wire.Act):
        stored = wire.stamp(request.body, 7, datetime(2026, 11, 22, tzinfo=UTC))
        event = json.loads(stored)
        assert event["id"] == 7
        assert event["source"] == "user"
        assert event["action"] == request.type
        assert wire.unstamp(stored) == request.body


def any_value(data: bytes) -> None:
    """Check a value that Python's own parser gave: what passes is JSON that every database takes."""
    try:
        value = json.loads(data.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return
    text = strict_json.check_json(value)
    assert "\0" not in text
    assert "\\u0000" not in text.replace("\\\\", "")
    text.encode()
    back = json.loads(text, parse_constant=_refuse)
    assert back == value


def _refuse(word: str) -> float:
    raise AssertionError(f"{word} passed")


def cursor_text(data: bytes) -> None:
    """Read a cursor: any value is one."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = data.decode("latin-1")
    cursor = wire.parse_cursor(value)
    assert isinstance(cursor, int)
    assert cursor >= -1
    assert math.isfinite(cursor) if cursor < 10**300 else True


def make_tokens() -> list[bytes]:
    """Return valid tokens, made as the site makes them."""
    session = SimpleNamespace(pk=SESSION, token_version=3)
    made = [access.issue_token(session, role) for role in access.Role]  # type: ignore[arg-type]
    odd = (
        {"s": "x", "r": "owner", "v": 1},
        [],
        {"s": SESSION.hex, "r": 5, "v": []},
        None,
        {"s": SESSION.hex},
    )
    return [token.encode() for token in (*made, *(signing.dumps(one, salt=access.TOKEN_SALT) for one in odd))]


TOKENS = make_tokens()


def token_text(data: bytes) -> None:
    """Read a token. No token is valid but those that were issued."""
    token = data.decode("utf-8", "surrogateescape")
    access.read_token(token)
    assert data in TOKENS[: len(access.Role)], "a token was accepted that nobody issued"


def query_string(data: bytes) -> None:
    """Read the query of a handshake of either transport, and what it asks for."""
    for scope in (
        {"type": "http", "method": "GET", "query_string": data, "headers": []},
        {"type": "http", "method": "POST", "query_string": data, "headers": []},
        {"type": "websocket", "query_string": data, "headers": []},
    ):
        try:
            requests.parse_query(scope)
        except RequestRefused:
            pass
        try:
            handshake.read_handshake(scope, {})
        except WireError:
            pass


def auth_object(data: bytes) -> None:
    """Read what a CONNECT carries."""
    packet = codec.parse_packet("0" + data.decode("utf-8", "surrogateescape"))
    scope = {"type": "websocket", "query_string": b"", "headers": [(b"authorization", data[:40])]}
    handshake.read_handshake(scope, codec.parse_auth(packet))


def header_lines(data: bytes) -> None:
    """Read every header that decides something: Origin, Host, Cookie, Authorization, addresses."""
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
    """Find the client behind proxies. A header of nobody that is trusted changes nothing."""
    peer, *values = data.decode("latin-1").split("\n")
    for header in addresses.HEADERS:
        for trusted in ((), ("127.0.0.1", "10.0.0.0/8", "unix"), ("0.0.0.0/0", "::/0", "unix")):
            found = addresses.client_address(peer, values, header, trusted)
            assert isinstance(addresses.limit_key(found), str)
            if not trusted:
                assert found == addresses.client_address(peer, [], header, trusted)


def title_text(data: bytes) -> None:
    """Clean a title. It is one line afterwards, and cleaning it again changes nothing."""
    title = clean_title(data.decode("utf-8", "surrogatepass" if data[:1] == b"s" else "replace"))
    title.encode()
    assert len(title.splitlines()) <= 1
    assert not set(title) & set("\u202e\u202d\u2066\u2067\u200f\0\x1b")
    assert clean_title(title) == title


def secrets_in_text(data: bytes) -> None:
    """Cut secrets out of a stream. Its parts do not matter, and no secret is left in it."""
    first, _, rest = data.decode("utf-8", "replace").partition("\n")
    secrets = first.split(",")
    redactor = Redactor(secrets)
    whole = redactor.redact(rest)
    stream = redactor.stream()
    steps = itertools.cycle(byte % 7 for byte in data[:5] or b"x")
    at, parts = 0, []
    while at < len(rest):
        to = at + next(steps) + 1
        parts.append(stream.feed(rest[at:to]))
        at = to
    assert "".join(parts) + stream.flush() == whole, "the parts of a stream decide what is cut out of it"
    for secret in secrets:
        if len(secret) >= MIN_LENGTH and not set(secret) & set("<>") and secret not in PLACEHOLDER:
            assert secret not in whole, "a secret is left"


def request_target(data: bytes) -> None:
    """Find the limit of a body by the request's target."""
    limits = BodyLimits(prefix="/socket.io/", below=10, default=5)
    assert limits.limit(data.decode("latin-1")) in (5, 10)


def _engine_steps(random: Random) -> bytes:
    steps = [
        random.choice(
            (b"3", b"2", b"6", b"1", b"5", b"4x", b"x\x00", b"p", b"u", b"e", b"w", b"c", b"q2probe", b"q5")
        )
        if random.random() < 0.8
        else b"t" + b"." * random.randrange(30)
        for _ in range(random.randrange(12))
    ]
    return random.choice((b"w", b"\xff")) + b"\n".join(steps)


def _forwarded(random: Random) -> bytes:
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


def _secrets(random: Random) -> bytes:
    pieces = (b"ab", b"aba", b"secret", b"tok", b"\xc3\xa9", b"<", b"xyz", b"a")
    secrets = [
        b"".join(random.choices(pieces, k=random.randrange(1, 4))) for _ in range(random.randrange(1, 4))
    ]
    text = b"".join(random.choices([*pieces, *secrets], k=random.randrange(12)))
    return b",".join(secrets) + b"\n" + text


def _token(random: Random) -> bytes:
    parts = random.choice(TOKENS).split(b":")
    changed = random.randrange(3)
    if random.random() < 0.5:
        parts[changed] = base64.urlsafe_b64encode(random.randbytes(random.randrange(40))).rstrip(b"=")
    else:
        parts[changed] = random.choice(TOKENS).split(b":")[changed]
    return b":".join(parts)


ACTIONS = [
    b'{"action":"initialize","args":{"LLM_MODEL":"x","LLM_API_KEY":"k","runtime":"echo"},"latest_event_id":-1}',
    b'{"action":"initialize","token":"a:b:c","github_token":"g","client_id":"0123456789abcdef","replay":"batch"}',
    b'{"action":"run","args":{"command":"ls","hidden":true},"client_id":"1"}',
    b'{"action":"message","args":{"content":"\\ud83d\\ude00","image_urls":[],"timestamp":"t"}}',
    b'{"action":"change_agent_state","args":{"agent_state":"stopped"}}',
    b'{"action":"leave"}',
    b'{"action":"close"}',
    b'{"action":"message","args":' + b"[" * 70 + b"]" * 70 + b"}",
]
PACKETS = [
    b"0",
    b'0{"token":"t"}',
    b"1",
    b'2["oh_action",' + ACTIONS[2] + b"]",
    b'212["oh_action",{}]',
    b"31[]",
]
PACKETS += [
    b'51-3["oh_action",{"_placeholder":true,"num":0}]',
    b"0/x,",
    b"4{}",
    b'2/x?a,1["e"]',
    b'61-7["x"]',
]
PAYLOADS = [
    b"\x1e".join(b"4" + packet for packet in PACKETS),
    b"40\x1e3\x1e6",
    b"40\x1ebAAAA",
    b"4" + PACKETS[3],
]
QUERIES = [
    b"EIO=4&transport=polling",
    b"EIO=4&transport=websocket&sid=abc",
    b"token=t&conversation_id=" + SESSION.hex.encode(),
]
HEADERS = [
    b"host: localhost:8000\norigin: http://localhost:8000\ncookie: sessionid=a; b=c",
    b"host: [::1]:8000\norigin: http://[::1]:8000\nauthorization: Bearer abc",
    b"origin: null\nx-forwarded-for: 1.2.3.4, 5.6.7.8\nx-forwarded-proto: https",
]
TEXT = (PacketError, codec.MalformedEventError)

TARGETS = [
    Target("packet", packet_text, TEXT, PACKETS, inputs.packet, 20),
    Target("payload", payload_body, (PacketError,), PAYLOADS, inputs.payload, 10),
    Target("engine", engine_sequence, (), [b"w3\n6\nt.....", b"\xffp\nu\nq2probe\nq5\n3"], _engine_steps, 15),
    Target(
        "action",
        action_text,
        (WireError, codec.MalformedEventError),
        ACTIONS,
        lambda random: inputs.text(inputs.action(random)),
        20,
    ),
    Target("value", any_value, (WireError,), ACTIONS, lambda random: inputs.text(inputs.value(random)), 10),
    Target(
        "cursor",
        cursor_text,
        (),
        [b"5", b'"7"', b"-1", b"1.5", b"null"],
        lambda r: inputs.text(inputs.value(r)),
        3,
    ),
    Target("token", token_text, (WireError,), TOKENS, _token, 8),
    Target("query", query_string, (), QUERIES, inputs.query, 10),
    Target(
        "auth",
        auth_object,
        (*TEXT, WireError),
        [b'{"token":"t"}'],
        lambda r: inputs.text(inputs.fields(r)),
        5,
    ),
    Target("headers", header_lines, (), HEADERS, inputs.header_block, 15),
    Target("addresses", forwarded_addresses, (), [b"127.0.0.1\n1.2.3.4, 10.0.0.1"], _forwarded, 5),
    Target("title", title_text, (UnicodeDecodeError,), [b"a title", "‮gpj.exe\n".encode()], inputs.packet, 5),
    Target("secrets", secrets_in_text, (), [b"secret,token\nsay secretoken twice"], _secrets, 10),
    Target("target", request_target, (), [b"/socket.io/?EIO=4", b"/api/%2e%2e/socket.io"], inputs.query, 2),
    Target("polling", feed_polling, (), PAYLOADS, inputs.payload, 2),
    Target("websocket", feed_websocket, (), PAYLOADS, inputs.payload, 2),
]
