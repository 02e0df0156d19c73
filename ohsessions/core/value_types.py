"""The types of settings and options: a check whether a value has a type, and the names of types."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal


def fits(value: object, kind: Any) -> bool:
    """Return whether `value` has the type `kind`. A bool is no number here, and a tuple may be a list."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if origin is list:
        return isinstance(value, list | tuple) and all(fits(item, args[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, origin) and all(
            fits(key, args[0]) and fits(item, args[1]) for key, item in value.items()
        )
    if typing.is_typeddict(kind):
        return _fits_typed_dict(value, kind)
    if kind is Any:
        return True
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return isinstance(value, kind)


def _fits_typed_dict(value: object, kind: Any) -> bool:
    hints = typing.get_type_hints(kind)
    return (
        isinstance(value, dict)
        and kind.__required_keys__ <= value.keys() <= hints.keys()
        and all(fits(item, hints[key]) for key, item in value.items())
    )


def is_less(value: object, least: float) -> bool:
    """Return whether `value` is a number that is not at least `least`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not value >= least


def describe(kind: Any) -> str:
    """Return the name of a type as a site would write it, without the modules that define it."""
    return kind.__name__ if isinstance(kind, type) else re.sub(r"\b(\w+\.)+", "", str(kind))
