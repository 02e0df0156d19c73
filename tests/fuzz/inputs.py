"""Inputs for the decoders, as bytes: noise, mutations of valid ones, and texts from a grammar of JSON.

An input depends only on the seed, the target and its number, so that it can be made again alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random

LARGEST = 200_000
"""The length beyond which no mutation makes an input."""
RARE = 2000
"""One of this many inputs is a large one."""
PIECES = (
    b"0",
    b"1",
    b"2",
    b"3",
    b"4",
    b"5",
    b"6",
    b"40",
    b"41",
    b"42",
    b"43",
    b"44",
    b"45",
    b"2probe",
    b"\x1e",
    b"\x00",
    b"\xff",
    b"\xed\xa0\x80",
    "\u202e".encode(),
    b"\r\n",
    b",",
    b"/",
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b"\\u0000",
    b"\\ud800",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-0",
    b"9" * 400,
    b"9" * 5000,
    b"null",
    b"true",
    b"%",
    b"%00",
    b"%ff",
    b"&",
    b"=",
    b";",
    b":",
    b"//",
    b"[::1]",
    b"[",
    b"@",
    b"#",
    b"?",
    b" ",
    b"\t",
)
WORDS = (
    "action",
    "args",
    "initialize",
    "message",
    "run",
    "leave",
    "close",
    "change_agent_state",
    "token",
    "github_token",
    "client_id",
    "latest_event_id",
    "latest_event_timestamp",
    "replay",
    "batch",
    "role",
    "viewer",
    "history",
    "hidden",
    "content",
    "command",
    "image_urls",
    "runtime",
    "echo",
    "LLM_API_KEY",
    "llm",
    "api_key",
    "password",
    "conversation_id",
    "withdraw",
    "edit",
    "answer",
    "id",
    "question",
    "value",
    "oh_action",
    "oh_user_action",
    "",
    "__proto__",
    "0",
    "-1",
    "undefined",
    "c" * 16,
    "c" * 65,
)
STRINGS = (
    "",
    "\0",
    "\ud800",
    "\udfff",
    "\u202e",
    "é",
    "😀",
    "\\u0000",
    "\x7f",
    "x" * 300,
    "{}",
    "[[",
    "\x1e",
)
NUMBERS = (0, -1, 1, 2**31, 2**53, 2**63, 10**308, 10**400, 1.5, -0.0, 1e308, float("inf"), float("nan"))


def make(random: Random, seeds: Sequence[bytes], structured: Callable[[Random], bytes]) -> bytes:
    """Return one input. A third are noise, alone or over a seed; the rest are mutated or structured."""
    kind = random.random()
    if kind < 1 / RARE:
        return large(random, random.choice(seeds))
    if kind < 0.1:
        return random.randbytes(random.randrange(64))
    if kind < 0.55:
        return mutate(random, random.choice(seeds), seeds)
    made = structured(random)
    return mutate(random, made, seeds) if kind < 0.7 else made


def mutate(random: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Return `data` after one to four changes."""
    for _ in range(random.randrange(1, 5)):
        at = random.randrange(len(data) + 1)
        to = min(len(data), at + random.randrange(1, 9))
        match random.randrange(7):
            case 0:
                data = data[:at] + random.randbytes(1) + data[at + 1 :]
            case 1:
                data = data[:at] + random.choice(PIECES) + data[at:]
            case 2:
                data = data[:at] + random.choice(PIECES) + data[to:]
            case 3:
                data = data[:at] + data[to:]
            case 4:
                data = data[:at] + data[at:to] * random.randrange(1, 20) + data[to:]
            case 5:
                other = random.choice(seeds)
                data = data[:at] + other[random.randrange(len(other) + 1) :]
            case 6:
                data = data[:at]
    return data[:LARGEST]


def large(random: Random, seed: bytes) -> bytes:
    """Return a long input: a depth, a repetition, or a number of many digits."""
    size = random.choice((1000, 10_000, 60_000))
    piece = random.choice(
        (b"[", b'{"a":', b"[[],", b"{},", b"9", b"\x1e3", b"\x1e4", b"\\", b"%41", b"a=b&", b"a;")
    )
    at = random.randrange(len(seed) + 1)
    return (seed[:at] + piece * size + seed[at:])[:LARGEST]


def value(random: Random, depth: int = 0) -> object:
    """Return a value that is JSON, or nearly so: NaN and lone surrogates are among them."""
    kind = random.randrange(10 if depth < 4 else 6)
    if kind < 2:
        return random.choice(WORDS)
    if kind == 2:
        return random.choice(STRINGS)
    if kind == 3:
        return random.choice(NUMBERS)
    if kind == 4:
        return random.choice((None, True, False))
    if kind == 5:
        return random.randrange(-10, 300)
    if kind < 8:
        return [value(random, depth + 1) for _ in range(random.randrange(4))]
    return fields(random, depth + 1)


def fields(random: Random, depth: int = 0) -> dict[str, object]:
    """Return an object with names of the protocol."""
    return {
        random.choice(WORDS) if random.random() < 0.9 else random.choice(STRINGS): value(random, depth + 1)
        for _ in range(random.randrange(5))
    }


def text(found: object) -> bytes:
    """Return a value as JSON, with lone surrogates escaped."""
    return json.dumps(found, ensure_ascii=True).encode()


def action(random: Random) -> dict[str, object]:
    """Return an action with valid names and any values."""
    kind = random.choice(WORDS[2:8]) if random.random() < 0.8 else value(random)
    made: dict[str, object] = {
        "action": kind,
        "args": fields(random) if random.random() < 0.8 else value(random),
    }
    made |= fields(random, 2)
    return made


def header_block(random: Random) -> bytes:
    """Return headers, one per line."""
    return b"\n".join(_header(random) for _ in range(random.randrange(1, 6)))


def _header(random: Random) -> bytes:
    name = random.choice(HEADER_NAMES)
    scheme = random.choice((b"http", b"https", b"", b"null", b"file", b"HTTP", b"a b"))
    host = random.choice(HOSTS)
    port = random.choice((b"", b":80", b":", b":99999", b":-1", b":x", b":8000"))
    whole = random.choice(
        (host + port, scheme + b"://" + host + port, b"session=" + host, b"Bearer " + host, host)
    )
    if random.random() < 0.2:
        whole += random.choice(PIECES)
    return name + b": " + whole


HEADER_NAMES = (
    b"origin",
    b"host",
    b"cookie",
    b"authorization",
    b"user-agent",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"forwarded",
    b"x-real-ip",
    b"content-length",
)
HOSTS = (
    b"localhost",
    b"127.0.0.1",
    b"[::1]",
    b"[",
    b"]",
    b"[::",
    b"[v1.x]",
    b"example.org",
    b"EXAMPLE.org.",
    b"evil.example",
    b"user:pass@example.org",
    b"\xff\xfe",
    "bücher.example".encode(),
    b"",
    b"1.2.3.4, 5.6.7.8",
    b"::ffff:127.0.0.1",
    b"999.1.1.1",
    b"a" * 300,
    b"*",
    b"..",
    b"xn--\xc3\xbc",
    "example\u2100org".encode(),
)


def query(random: Random) -> bytes:
    """Return a query string with names of the protocol."""
    names = (
        b"EIO",
        b"transport",
        b"sid",
        b"token",
        b"conversation_id",
        b"latest_event_id",
        b"session_api_key",
        b"t",
    )
    values = (
        b"4",
        b"3",
        b"polling",
        b"websocket",
        b"",
        b"%ff",
        b"+",
        b"-1",
        b"9" * 50,
        b"%00",
        b"a%",
        b"\xff",
    )
    pairs = [random.choice(names) + b"=" + random.choice(values) for _ in range(random.randrange(6))]
    if random.random() < 0.6:
        pairs = [b"EIO=4", random.choice((b"transport=polling", b"transport=websocket")), *pairs]
    return random.choice((b"&", b"&", b"&", b";", b"&&")).join(pairs)


def packet(random: Random) -> bytes:
    """Return a Socket.IO packet without its Engine.IO type."""
    kind = random.choice(b"0122222345678 ").to_bytes(1, "big")
    attachments = random.choice((b"", b"", b"", b"1-", b"0-", b"99999999999-", b"-"))
    namespace = random.choice((b"", b"", b"", b"/,", b"/x,", b"/?a=b,", b"/x?,", b"/" + b"y" * 90 + b","))
    number = random.choice((b"", b"", b"1", b"0", b"9" * 16, b"9" * 40))
    name = random.choice(("oh_action", "oh_user_action", "x", "", "\ud800"))
    content = random.choice(([name, action(random)], [name], [], [value(random)], value(random)))
    data = text(content) if kind != b"0" or random.random() < 0.3 else text(fields(random))
    return kind + attachments + namespace + number + (data if random.random() < 0.9 else b"")


def payload(random: Random) -> bytes:
    """Return the body of a POST: packets of any kind. Half of them begin with a valid CONNECT and an event.

    Without these two, nothing would reach a handler.
    """
    packets = [_engine_packet(random) for _ in range(random.randrange(1, 8))]
    if random.random() < 0.5:
        packets[:0] = [b"40", b"42" + text(["oh_action", action(random)])]
    return b"\x1e".join(packets)


def _engine_packet(random: Random) -> bytes:
    if random.random() < 0.7:
        return b"4" + packet(random)
    return random.choice(
        (b"3", b"6", b"1", b"2", b"0", b"5", b"3probe", b"2probe", b"b", b"bAAAA", b"b=", b"", b"9")
    )
