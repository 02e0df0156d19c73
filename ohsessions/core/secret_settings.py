"""The one definition of a secret among a session's settings, for storing it apart and for masking it.

A setting is a secret by its name (`api_key`, `password`, …), by a declaration of its runtime, or by its value
(a URL with a password in it, `Bearer …`, `password=…`, a private key). All three apply at any depth, in
lists, and in strings that are JSON themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import chain
from typing import Any
from urllib.parse import unquote

from ohsessions.core.errors import WireError
from ohsessions.core.runtime import JSON
from ohsessions.core.strict_json import check_json, encode

_HINT = re.compile(r"pass|pwd|secret|cred|auth|cookie|bearer|dsn|jwt|pat|pem|conn|key|token", re.IGNORECASE)
"""Every name that is_secret_name() accepts contains one of these. Other names need no closer look."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_TELLING = re.compile(r"passw|passphrase|passcode|pwd|secret|credential|authorization|cookie|bearer")
_TELLING_TOGETHER = re.compile(r"passphrase|(?:api|access|private)key|connection(?:string|uri)|connstr")
_TELLING_LAST = frozenset({"pass", "auth", "oauth", "jwt", "pat", "pem"})
_AUTH_DETAILS = frozenset({"header", "headers", "value", "string", "data", "info"})
# fmt: off
_NO_CREDENTIAL_KEYS = frozenset({
"public", "primary", "foreign", "sort", "order", "group", "cache", "partition", "index",
"idempotency", "unique", "hot", "shortcut", "map", "lookup", "arrow", "dedup", "routing", "object",
"row", "column", "field", "translation", "message", "modifier", "press", "mon", "tur", "don", "hoc",
"whis", "joc",
})
"""Words before `key` that make it no secret (`sort_key`), and beginnings of other words (`monkey`)."""
_NO_CREDENTIAL_TOKENS = frozenset({
"max", "min", "num", "n", "count", "total", "input", "output", "prompt", "completion", "used",
"limit", "budget", "cached", "reasoning", "context", "remaining", "per", "avg", "eos", "bos", "pad",
"unk", "mask", "stop", "special",
})
"""Words before `token` or `tokens` that make it a piece of text, or a number of such pieces."""
# fmt: on

_USERINFO = re.compile(r"://([^/?#\s]+)@")
_SCHEME = re.compile(r"\b(?:bearer|basic)\s+(?=[^\s\"']*[0-9=])([^\s\"',]{8,})", re.IGNORECASE)
_AFTER_EQUALS, _AFTER_COLON = (re.compile(sign + r"\s?[\\\"']*([^\s\\\"',;&}]+)") for sign in "=:")
_NAME_BEFORE = re.compile(r"[\w-]*$")
LONGEST_NAME = 64
"""The number of characters before `=` that are searched for a secret's name."""
_PEM = "PRIVATE KEY-----"
LONG_USER = 20
"""A URL's user without a password is a token from this many characters on: `https://ghp_…@github.com`."""
LONGEST_TEXT = 64 * 1024
"""Longer texts are not searched: they are no address or header, and the search would take long."""
MOST_NESTED = 4
"""JSON in a string in JSON in a string …: strings that are nested deeper are not read as JSON."""

GONE: Any = object()
"""A replacement that removes a secret and puts nothing in its place."""
Spans = list[tuple[int, int, str]]
"""Secrets in a text as (start, end, secret). The first two are the part to mask: in a URL also the user."""
Replace = Callable[[str, JSON, Spans], JSON]
"""A function of a secret's path, its value, and its spans in a text. It returns the replacement."""


def is_secret_name(name: str) -> bool:
    """Return whether a setting of this name is a secret."""
    return bool(_HINT.search(name)) and (_looked_at(name) if len(name) <= LONGEST_NAME else _look_at(name))


def _look_at(name: str) -> bool:
    words = [word.lower() for word in _WORD.findall(name)]
    # Also in lower case, for passWord.
    if any(map(_TELLING.search, (*words, *_WORD.findall(name.lower())))) or "dsn" in words:
        return True
    if _TELLING_TOGETHER.search("".join(words)):
        return True
    if "auth" in words[:-1] and words[words.index("auth") + 1] in _AUTH_DETAILS:
        return True
    last, before = words[-1], set(words[:-1])
    if last in _TELLING_LAST:
        return True
    if last.endswith(("token", "tokens")):
        return not before & _NO_CREDENTIAL_TOKENS
    if last.endswith(("key", "keys")):
        stem = last.removesuffix("s").removesuffix("key") or (words[-2] if before else "")
        return bool(stem) and stem not in _NO_CREDENTIAL_KEYS
    return False


_looked_at = lru_cache(1024)(_look_at)


def take_secrets(
    settings: Mapping[str, JSON], declared: Collection[str] = ()
) -> tuple[dict[str, JSON], dict[str, str]]:
    """Return the settings without their secrets, and the secrets by dotted path (`llm.api_key`, `keys.0`).

    Names at the top become lower case, as in INIT. `declared` are further names, or dotted paths, in lower
    case. Everything below a secret's name is secret. Empty secrets are left out of both.
    """
    return _take(settings, declared, lower=True)


def take_declared(
    settings: Mapping[str, JSON], declared: Collection[str]
) -> tuple[dict[str, JSON], dict[str, str]]:
    """See take_secrets(). Take only the declared secrets, from settings that take_secrets() has returned."""
    return _take(settings, declared, is_secret_name=lambda name: False)


def _take(
    settings: Mapping[str, JSON], declared: Collection[str], **options: Any
) -> tuple[dict[str, JSON], dict[str, str]]:
    secrets: dict[str, str] = {}

    def taken(path: str, value: JSON, spans: Spans) -> JSON:
        secrets.update(_leaves(path, value))
        return GONE

    return _Walk(taken, declared, **options).object("", settings), secrets


def mask_secrets(value: JSON, mask: str, declared: Collection[str] = ()) -> JSON:
    """Return a copy in which `mask` replaces every secret; in a text, only the part that is secret."""

    def masked(path: str, value: JSON, spans: Spans) -> JSON:
        for start, end, _ in reversed(spans):
            value = value[:start] + mask + value[end:]
        # An empty secret stays visible: that it is empty is worth knowing, and reveals nothing.
        return value if spans or value in (None, "") else mask

    return _Walk(masked, declared).value("", value)


def cut_out(secrets: Iterable[str]) -> set[str]:
    """Return all texts that reveal one of these secrets: the secret, its escaped forms, and secrets in it."""
    texts: set[str] = set()
    for secret in secrets:
        inner = [found for _, _, found in embedded(secret)]
        parsed = _parsed(secret)
        if parsed is not None:
            inner += take_secrets({"": parsed})[1].values()
        for text in (secret, secret.strip(), *inner):
            texts |= {text, unquote(text), json.dumps(text)[1:-1], encode(text)[1:-1], repr(text)[1:-1]}
    return texts - {""}


def texts_in(value: JSON) -> Iterator[str]:
    """Yield the texts in a value: strings as they are, other values as JSON. Empty ones are left out."""
    return (text for _, text in _leaves("", value))


def embedded(text: str) -> Spans:
    """Return the secrets in a text that are recognized by the text around them, in order."""
    found: Spans = []
    if len(text) > LONGEST_TEXT:
        return found
    if "://" in text:
        for match in _USERINFO.finditer(text):
            user, _, password = match[1].partition(":")
            secret = password or (user if len(user) >= LONG_USER else "")
            if secret:
                found.append((*match.span(1), secret))
    if _PEM in text:
        found.append((0, len(text), text))
    if _HINT.search(text):
        found += ((*match.span(1), match[1]) for match in _SCHEME.finditer(text))
        found += _pairs(text)
    return _apart(found)


def _pairs(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield the secret values of `name=value`, and in a text like JSON of `name: value`, by their names."""
    signs = [_AFTER_EQUALS, _AFTER_COLON] if text.lstrip()[:1] in ("{", "[") else [_AFTER_EQUALS]
    for match in chain.from_iterable(sign.finditer(text) for sign in signs):
        before = text[max(0, match.start() - LONGEST_NAME) : match.start()].rstrip("\\\"' ")
        name = _NAME_BEFORE.search(before)
        if name is not None and is_secret_name(name[0]):
            yield (*match.span(1), match[1])


def _apart(found: Spans) -> Spans:
    """Return the spans that do not begin inside another one."""
    kept: Spans = []
    for span in sorted(found, key=lambda one: (one[0], -one[1])):
        if not kept or span[0] >= kept[-1][1]:
            kept.append(span)
    return kept


def _parsed(text: str) -> JSON:
    """Return the object or array in a text that is JSON, or None."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        value = json.loads(text)
        check_json(value)
    except (ValueError, RecursionError, WireError):
        return None
    return value


def _leaves(path: str, value: JSON) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(f"{path}.{name}", item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(f"{path}.{index}", item)
    elif value not in (None, ""):
        yield path, value if isinstance(value, str) else encode(value)


def _is_harmless(name: str, value: JSON) -> bool:
    """Return whether a value is no secret, whatever its name: a bool, or a number of tokens."""
    return isinstance(value, bool) or (isinstance(value, int | float) and name.lower().endswith("tokens"))


class _Walk:
    """A walk through a value that replaces the secrets in it."""

    def __init__(
        self,
        replace: Replace,
        declared: Collection[str],
        *,
        lower: bool = False,
        is_secret_name: Callable[[str], bool] = is_secret_name,
    ) -> None:
        """`lower`: names at the top become lower case."""
        self._replace = replace
        self._is_secret_name = is_secret_name
        self._lower = lower
        self._declared = frozenset(declared)
        self._replaced = 0

    def value(self, path: str, value: JSON, nested: int = 0) -> JSON:
        if isinstance(value, dict):
            return self.object(path, value, nested)
        if isinstance(value, list):
            kept = [self.value(f"{path}.{index}", item, nested) for index, item in enumerate(value)]
            return [None if item is GONE else item for item in kept]
        return self._text(path, value, nested) if isinstance(value, str) else value

    def object(self, path: str, value: Mapping[str, JSON], nested: int = 0) -> dict[str, JSON]:
        kept: dict[str, JSON] = {}
        # Variables and headers are often listed as {"name": "API_KEY", "value": "…"}.
        label = value.get("name", value.get("key"))
        is_labelled = isinstance(label, str) and "value" in value and self._is_secret(label, label)
        for name, item in value.items():
            key = name.lower() if self._lower and not path else name
            at = f"{path}.{key}" if path else key
            if not self._is_secret(name, at) and not (is_labelled and name == "value"):
                item = self.value(at, item, nested)
            elif not _is_harmless(name, item):
                self._replaced += 1
                item = self._replace(at, item, [])
            if item is not GONE:
                kept[key] = item
        return kept

    def _is_secret(self, name: str, path: str) -> bool:
        if self._declared and not self._declared.isdisjoint((name.lower(), path.lower())):
            return True
        return self._is_secret_name(name)

    def _text(self, path: str, text: str, nested: int) -> JSON:
        parsed = _parsed(text) if nested < MOST_NESTED else None
        if parsed is not None:
            before = self._replaced
            value = self.value(path, parsed, nested + 1)
            return text if self._replaced == before else encode(value)
        spans = embedded(text)
        if not spans:
            return text
        self._replaced += 1
        return self._replace(path, text, spans)
