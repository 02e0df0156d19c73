"""The table of states: word for word what the design says, and nothing else happens."""

from __future__ import annotations

import pytest

from ohsessions.core.errors import IllegalTransition
from ohsessions.core.states import ASLEEP, AWAKE, TRANSITIONS, State, move

MOVES = """
- starting
starting starting
starting running
starting passivated
starting failed
starting closed
running starting
running passivating
running failed
running closed
passivating passivated
passivating starting
passivating closed
passivated starting
passivated closed
failed starting
failed closed
"""
"""From and to, of docs/states.md; «starting starting»: its worker is gone, or a start failed."""
LEGAL = [tuple(line.split()) for line in MOVES.split("\n") if line]


def test_the_words_of_the_column():
    words = ["starting", "running", "passivating", "passivated", "failed", "closed"]
    assert [state.value for state in State] == words


def test_the_table_is_that_of_the_design():
    table = [(origin or "-", target) for origin, targets in TRANSITIONS.items() for target in targets]
    assert sorted(table) == sorted(LEGAL)


@pytest.mark.parametrize("origin", [None, *State])
@pytest.mark.parametrize("target", State)
def test_a_move_that_the_table_does_not_have_raises(origin, target):
    if (origin or "-", target) in LEGAL:
        assert move(origin, target) is target
        return
    with pytest.raises(IllegalTransition) as caught:
        move(origin, target)
    assert (caught.value.origin, caught.value.target) == (origin, target)
    assert str(caught.value) == f"A session cannot go from {origin or 'nothing'} to {target}."


def test_closed_is_final_and_the_others_are_either_awake_or_asleep():
    assert TRANSITIONS[State.CLOSED] == frozenset()
    assert set(State) - {State.CLOSED} == AWAKE | ASLEEP
    assert not AWAKE & ASLEEP
