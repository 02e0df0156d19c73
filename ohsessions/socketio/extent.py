"""
The number and depth of the values of a JSON text, found without parsing it.

A parsed text may take twenty times its size, and parsing takes a microsecond for each value: 3.8 MiB of
nested lists block the event loop for 3 s. The functions here make a few passes in C, about 10 ms for each MiB
at most. Their results for a text that is not JSON do not matter, since the parser refuses it.
"""

from itertools import accumulate, count
from operator import sub

__all__ = ["exceeds", "is_deeper", "outside_strings"]

_BRACKETS = b"[]{}"
_NOT_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))
_STEPS = bytes.maketrans(_BRACKETS, bytes([2, 0, 2, 0]))


def exceeds(text: str, most: int) -> bool:
    """
    Return True if a JSON text has more than `most` values.

    Neither the outermost value nor the keys of objects count. An empty list or object counts twice.
    """
    if _values(text) <= most:  # also counts commas and brackets in strings
        return False
    text = _without_escapes(text)
    # Each value has at most two strings, its key and itself, so four quotes. Each item of a list or object
    # needs a comma or an opening bracket.
    return text.count('"') > 4 * most or _values(outside_strings(text)) > most


def is_deeper(text: str, most: int) -> bool:
    """Return True if the values of a JSON text are nested more than `most` levels deep."""
    if text.count("[") + text.count("{") <= most:
        return False
    outside = outside_strings(_without_escapes(text))
    steps = outside.encode("ascii", "replace").translate(_STEPS, _NOT_BRACKETS)
    return max(map(sub, accumulate(steps), count(1)), default=0) > most


def outside_strings(text: str) -> str:
    """Return the parts of a JSON text outside its strings. Its escapes must have been removed."""
    return "".join(text.split('"')[::2])


def _values(text: str) -> int:
    return text.count(",") + text.count("[") + text.count("{")


def _without_escapes(text: str) -> str:
    return text.replace("\\\\", "").replace('\\"', "") if "\\" in text else text
