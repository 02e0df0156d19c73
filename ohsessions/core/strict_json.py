"""Strict JSON: only values that all parsers and databases accept, nested to a limited depth."""

from __future__ import annotations

import json
import math
import sys
from itertools import chain
from typing import Any

from ohsessions.core.errors import WireError
from ohsessions.core.runtime import JSON

MAX_DEPTH = 64
MAX_NUMBER = int(sys.float_info.max)
_SCALARS = {str, int, float, bool, type(None)}


def encode(value: JSON) -> str:
    """Return compact JSON, not escaped to ASCII. Raises ValueError for NaN."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def check_json(value: JSON, max_depth: int = MAX_DEPTH) -> str:
    """Return the encoded value. Raises WireError 400 for a value that some parser or database refuses, or
    that is too deep.

    PostgreSQL refuses NUL and lone surrogates, SQLite accepts them (measured). NaN is not JSON.

    The check goes level by level. Each level takes a few loops that run in C: messages have megabytes, and
    the event loop waits.
    """
    level: list[Any] = [value]
    for _ in range(max_depth + 1):
        level = _check_level(level)
        if not level:
            return _check_text(value)
    raise WireError(400, "too_deep", f"JSON may be nested at most {max_depth} levels deep.")


def _check_level(values: list[Any]) -> list[Any]:
    """Check the numbers and keys of the values of one level. Return the values of the next deeper level."""
    kinds = set(map(type, values))
    if float in kinds and not all(map(math.isfinite, (item for item in values if type(item) is float))):
        raise _not_json("Numbers must be finite.")
    if int in kinds:
        integers = [item for item in values if type(item) is int]
        if max(integers) > MAX_NUMBER or min(integers) < -MAX_NUMBER:
            raise _not_json("Numbers must be within the range of a double.")
    if kinds <= _SCALARS:
        return []
    objects = [item for item in values if isinstance(item, dict)]
    if not set(map(type, chain.from_iterable(objects))) <= {str}:
        raise _not_json("The keys of an object must be strings.")
    deeper = list(chain.from_iterable(map(dict.values, objects)))
    deeper += chain.from_iterable(item for item in values if isinstance(item, list | tuple))
    return deeper


def _check_text(value: JSON) -> str:
    try:
        text = encode(value)
        text.encode()
    except UnicodeEncodeError:
        raise _not_json("Strings must not contain lone surrogates.") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise _not_json(f"This cannot be JSON: {error}. Send binary data as text.") from None
    # This text encodes NUL, or a backslash that is followed by the five characters u0000.
    if "\\u0000" in text and "\\u0000" in text.replace("\\\\", ""):
        raise _not_json("Strings must not contain \\u0000.")
    return text


def _not_json(message: str) -> WireError:
    return WireError(400, "not_json", message)
