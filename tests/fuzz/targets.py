"""The targets of fuzzing: each decoder that strangers reach, its declared errors, and checks of its results.

A target takes bytes. An error that is not declared is a finding; so is a failed assertion.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from ohsessions.core.errors import WireError
from ohsessions.socketio import codec
from ohsessions.socketio.errors import PacketError
from tests.fuzz import contents, inputs, outside
from tests.fuzz.contents import TOKENS
from tests.fuzz.outside import SESSION
from tests.fuzz.stack import feed_polling, feed_websocket


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder. `run` takes an input and may raise the errors `declared`; `weight` is its share."""

    name: str
    run: Callable[[bytes], Awaitable[None] | None]
    declared: tuple[type[Exception], ...]
    seeds: Sequence[bytes]
    structured: Callable[[Random], bytes]
    weight: int = field(default=10)


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
    Target("packet", outside.packet_text, TEXT, PACKETS, inputs.packet, 20),
    Target("payload", outside.payload_body, (PacketError,), PAYLOADS, inputs.payload, 10),
    Target(
        "engine",
        outside.engine_sequence,
        (),
        [b"w3\n6\nt.....", b"\xffp\nu\nq2probe\nq5\n3"],
        outside.engine_steps,
        15,
    ),
    Target(
        "action",
        contents.action_text,
        (WireError, codec.MalformedEventError),
        ACTIONS,
        lambda random: inputs.text(inputs.action(random)),
        20,
    ),
    Target(
        "value",
        contents.any_value,
        (WireError,),
        ACTIONS,
        lambda random: inputs.text(inputs.value(random)),
        10,
    ),
    Target(
        "extent", contents.extent_of_text, (), ACTIONS, lambda random: inputs.text(inputs.value(random)), 10
    ),
    Target(
        "cursor",
        contents.cursor_text,
        (),
        [b"5", b'"7"', b"-1", b"1.5", b"null"],
        lambda r: inputs.text(inputs.value(r)),
        3,
    ),
    Target("token", contents.token_text, (WireError,), TOKENS, contents.nearly_a_token, 8),
    Target("query", outside.query_string, (), QUERIES, inputs.query, 10),
    Target(
        "auth",
        outside.auth_object,
        (*TEXT, WireError),
        [b'{"token":"t"}'],
        lambda r: inputs.text(inputs.fields(r)),
        5,
    ),
    Target("headers", outside.header_lines, (), HEADERS, inputs.header_block, 15),
    Target(
        "addresses", outside.forwarded_addresses, (), [b"127.0.0.1\n1.2.3.4, 10.0.0.1"], outside.forwarded, 5
    ),
    Target(
        "title",
        contents.title_text,
        (UnicodeDecodeError,),
        [b"a title", "‮gpj.exe\n".encode()],
        inputs.packet,
        5,
    ),
    Target(
        "secrets",
        contents.secrets_in_text,
        (),
        [b"secret,token\nsay secretoken twice"],
        contents.secrets_and_text,
        10,
    ),
    Target(
        "target",
        outside.request_target,
        (),
        [b"/socket.io/?EIO=4", b"/api/%2e%2e/socket.io"],
        inputs.query,
        2,
    ),
    Target("polling", feed_polling, (), PAYLOADS, inputs.payload, 2),
    Target("websocket", feed_websocket, (), PAYLOADS, inputs.payload, 2),
]
