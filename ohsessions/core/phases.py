"""The phases of an object in memory, and the moves between them: each kind of object has a table.

The states of a session are stored, and have a table of their own: see states.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from ohsessions.core.errors import IllegalMove

Phase = TypeVar("Phase", bound=StrEnum)


def move(moves: Mapping[Phase, frozenset[Phase]], origin: Phase, target: Phase) -> Phase:
    """Return `target` if `moves` allows it after `origin`. Raises IllegalMove otherwise."""
    if target not in moves[origin]:
        raise IllegalMove(origin, target)
    return target
