"""The table of states: word for word as in docs/states.md, without further transitions."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import pytest

from ohsessions.core.errors import IllegalTransition
from ohsessions.core.states import ASLEEP, AWAKE, TRANSITIONS, State, Trigger, next_state
from ohsessions.lifecycle.locked import Locked
from ohsessions.models import Session

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "states.md").read_text()
NOW = datetime(2025, 1, 1, tzinfo=UTC)
TABLE = [
    (origin, trigger, target) for trigger, moves in TRANSITIONS.items() for origin, target in moves.items()
]
IMPOSSIBLE = [
    (origin, trigger)
    for origin, trigger in product([None, *State], Trigger)
    if origin not in TRANSITIONS[trigger]
]


def arrows() -> list[tuple[str, str, str]]:
    """Return origin, trigger and target of each arrow of the diagram. The arrow to the end has no trigger."""
    diagram = PAGE.split("```mermaid\nstateDiagram-v2\n")[1].split("```")[0]
    found = re.findall(r"^ +(\S+) --> (\S+?)(?:: (.+))?$", diagram, re.MULTILINE)
    assert len(found) == len(diagram.splitlines()), "each line is an arrow"
    return [(origin, trigger, target) for origin, target, label in found for trigger in label.split(", ")]


def test_the_words_of_the_column():
    words = ["starting", "running", "passivating", "passivated", "failed", "closed"]
    assert [state.value for state in State] == words


def test_the_table_is_the_diagram():
    end = ("closed", "", "[*]")
    assert sorted(arrows()) == sorted([(origin or "[*]", *rest) for origin, *rest in TABLE] + [end])


def test_the_page_explains_each_trigger_once_and_in_order():
    explained = re.findall(r"^\| `(\w+)` \| .+ \|$", PAGE.split("| what happens | when |")[1], re.MULTILINE)
    assert explained == list(Trigger)


@pytest.mark.parametrize(("origin", "trigger", "target"), TABLE)
def test_what_the_table_has_determines_the_next_state(origin, trigger, target):
    assert next_state(None if origin is None else str(origin), trigger) is target


@pytest.mark.parametrize(("origin", "trigger"), IMPOSSIBLE)
def test_what_the_table_does_not_have_raises_and_changes_nothing(origin, trigger):
    locked = Locked(Session(state=origin or "", reason="before", state_at=NOW, epoch=7), NOW)
    before = {**vars(locked.session)}
    with pytest.raises(IllegalTransition) as caught:
        locked.move(trigger, "a reason", "somebody")
    assert (caught.value.origin, caught.value.trigger) == (origin, trigger)
    assert str(caught.value) == f"A session that is {origin or 'new'} has no transition for {trigger}."
    assert vars(locked.session) == before
    assert not locked.moved


def test_closed_is_final_and_the_others_are_either_awake_or_asleep():
    origins = {origin for origin, _, _ in TABLE}
    assert set(State) - origins == {State.CLOSED}
    assert set(State) - {State.CLOSED} == AWAKE | ASLEEP
    assert not AWAKE & ASLEEP


def test_each_trigger_is_in_the_table_and_used_by_the_life_cycle():
    source = "".join(path.read_text() for path in (ROOT / "ohsessions" / "lifecycle").glob("*.py"))
    assert set(re.findall(r"\bTrigger\.(\w+)", source)) == {trigger.name for trigger in Trigger}
    assert list(TRANSITIONS) == list(Trigger)
    assert all(TRANSITIONS.values())
