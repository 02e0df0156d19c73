"""Targets for the contents of messages: actions, values, cursors, tokens, titles, secrets in texts.

Each target takes one input.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
from datetime import UTC, datetime
from random import Random
from types import SimpleNamespace

from django.core import signing

from ohsessions import access
from ohsessions.access import tokens
from ohsessions.core import strict_json, wire
from ohsessions.core.redaction import MIN_LENGTH, PLACEHOLDER, Redactor
from ohsessions.core.titles import clean_title
from ohsessions.socketio import codec, extent
from tests.fuzz.outside import SESSION

MAX_BYTES = 20_000


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
    """Check a value that Python's parser returned. If it is accepted, every database takes it."""
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


def extent_of_text(data: bytes) -> None:
    """Count values and levels in a text. The numbers must be those of a parser."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        found = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        extent.exceeds(text, 10)
        extent.is_deeper(text, 10)
        return
    values, empty, depth = _measure(found)
    assert extent.exceeds(text, values - 2), "a text with too many values passes"
    assert not extent.exceeds(text, values + empty), "a text with few values does not pass"
    assert not extent.is_deeper(text, depth), "a text that is not deep does not pass"
    assert depth == 0 or extent.is_deeper(text, depth - 1), "a text that is too deep passes"


class _Pairs(list[tuple[str, object]]):
    """An object with all its pairs, including several pairs with one key."""


def _measure(value: object) -> tuple[int, int, int]:
    """Return the number of values, the number of empty containers among them, and their depth."""
    values = empty = depth = 0
    level = [value]
    while level:
        values += len(level)
        containers = [one for one in level if isinstance(one, list)]
        depth += bool(containers)
        empty += sum(not one for one in containers)
        level = [item[1] if isinstance(one, _Pairs) else item for one in containers for item in one]
    return values, empty, depth


def cursor_text(data: bytes) -> None:
    """Read a cursor. Any value is valid."""
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
    return [token.encode() for token in (*made, *(signing.dumps(one, salt=tokens.TOKEN_SALT) for one in odd))]


TOKENS = make_tokens()


def token_text(data: bytes) -> None:
    """Read a token. Only tokens that were issued are valid."""
    token = data.decode("utf-8", "surrogateescape")
    tokens.parse_token(token)
    assert data in TOKENS[: len(access.Role)], "a token was accepted that nobody issued"


def title_text(data: bytes) -> None:
    """Clean a title. The result is one line, and cleaning it again changes nothing."""
    title = clean_title(data.decode("utf-8", "surrogatepass" if data[:1] == b"s" else "replace"))
    title.encode()
    assert len(title.splitlines()) <= 1
    assert not set(title) & set("\u202e\u202d\u2066\u2067\u200f\0\x1b")
    assert clean_title(title) == title


def secrets_in_text(data: bytes) -> None:
    """Remove secrets from a stream. The division into parts must not matter, and no secret may remain."""
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


def secrets_and_text(random: Random) -> bytes:
    pieces = (b"ab", b"aba", b"secret", b"tok", b"\xc3\xa9", b"<", b"xyz", b"a")
    secrets = [
        b"".join(random.choices(pieces, k=random.randrange(1, 4))) for _ in range(random.randrange(1, 4))
    ]
    text = b"".join(random.choices([*pieces, *secrets], k=random.randrange(12)))
    return b",".join(secrets) + b"\n" + text


def nearly_a_token(random: Random) -> bytes:
    parts = random.choice(TOKENS).split(b":")
    changed = random.randrange(3)
    if random.random() < 0.5:
        parts[changed] = base64.urlsafe_b64encode(random.randbytes(random.randrange(40))).rstrip(b"=")
    else:
        parts[changed] = random.choice(TOKENS).split(b":")[changed]
    return b":".join(parts)
