"""
How many values a JSON text has and how deep they lie, found without parsing it.

A parsed text may take twenty times its size and a microsecond for each value: 3.8 MiB of nested lists hold
the event loop for 3 s. Everything here is a few passes that C makes, about 10 ms for each MiB at most; what
is counted for a text that is no JSON does not matter, since the parser refuses it.
"""

from itertools import accumulate, count
from operator import sub

__all__ = ["exceeds", "is_deeper", "outside_strings"]

_BRACKETS = b"[]{}"
_NOT_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))
_STEPS = bytes.maketrans(_BRACKETS, bytes([2, 0, 2, 0]))


def exceeds(text: str, most: int) -> bool:
    """Return whether a JSON text has more than `most` values, the keys of objects not counted."""
    if _values(text) <= most:  # with those that only look like values in a string
        return False
    text = _without_escapes(text)
    # Each value but the first two of a text stands behind a comma, a colon or an opening bracket.
    return text.count('"') > 4 * most or _values(outside_strings(text)) > most


def is_deeper(text: str, most: int) -> bool:
    """Return whether the values of a JSON text are nested more than `most` levels deep."""
    if text.count("[") + text.count("{") <= most:
        return False
    outside = outside_strings(_without_escapes(text))
    steps = outside.encode("ascii", "replace").translate(_STEPS, _NOT_BRACKETS)
    return max(map(sub, accumulate(steps), count(1)), default=0) > most


def outside_strings(text: str) -> str:
    """Return what stands outside the strings of a JSON text, which has no escapes any more."""
    return "".join(text.split('"')[::2])


def _values(text: str) -> int:
    return text.count(",") + text.count("[") + text.count("{")


def _without_escapes(text: str) -> str:
    return text.replace("\\\\", "").replace('\\"', "") if "\\" in text else text
