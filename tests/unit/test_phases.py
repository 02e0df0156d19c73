"""The phases of objects in memory: their moves are exactly the moves in the docstrings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from itertools import product
from typing import Any

import pytest

from ohsessions.core.errors import IllegalMove
from ohsessions.core.phases import move
from ohsessions.gateway import attachment
from ohsessions.processes import membership
from ohsessions.worker import host_phase

TABLES: dict[str, Mapping[Any, frozenset[Any]]] = {
    "host": host_phase.MOVES,
    "lease": membership.MOVES,
    "client": attachment.MOVES,
}


def promised(phases: type[StrEnum]) -> set[tuple[str, str]]:
    """Return the moves in the docstring, from lines such as `running → claiming, ended`."""
    lines = re.findall(r"^ +(\w+) → (.+)$", phases.__doc__ or "", re.MULTILINE)
    return {(origin, target) for origin, targets in lines for target in targets.split(", ")}


@pytest.mark.parametrize("moves", TABLES.values(), ids=TABLES)
def test_the_moves_are_those_of_the_docstring_and_each_other_is_refused(
    moves: Mapping[StrEnum, frozenset[StrEnum]],
) -> None:
    phases = type(next(iter(moves)))
    allowed = set()
    for origin, target in product(phases, repeat=2):
        with suppress(IllegalMove):
            assert move(moves, origin, target) is target
            allowed.add((origin.value, target.value))
    assert allowed == promised(phases)
