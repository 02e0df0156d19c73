"""The states of a session, and which may follow which.

A session is always in exactly one state. `closed` is final. What is not in TRANSITIONS cannot happen: `move`
raises and changes nothing. Whoever stores a state stores the reason and a raised epoch with it.
"""

from __future__ import annotations

from enum import StrEnum

from ohsessions.core.errors import IllegalTransition


class State(StrEnum):
    STARTING = "starting"
    """Wanted: a worker is to start its runtime, or is starting it."""
    RUNNING = "running"
    """Its owner's runtime is ready."""
    PASSIVATING = "passivating"
    """Its owner is storing its snapshot."""
    PASSIVATED = "passivated"
    """Asleep: a row, and its files."""
    FAILED = "failed"
    """It could not start, or crashed, beyond its budget."""
    CLOSED = "closed"
    """Ended for good; its log can still be read."""


TRANSITIONS: dict[State | None, frozenset[State]] = {
    None: frozenset({State.STARTING}),
    # starting → starting: its worker is gone, or the start failed within its budget.
    State.STARTING: frozenset({State.STARTING, State.RUNNING, State.PASSIVATED, State.FAILED, State.CLOSED}),
    State.RUNNING: frozenset({State.STARTING, State.PASSIVATING, State.FAILED, State.CLOSED}),
    State.PASSIVATING: frozenset({State.PASSIVATED, State.STARTING, State.CLOSED}),
    State.PASSIVATED: frozenset({State.STARTING, State.CLOSED}),
    State.FAILED: frozenset({State.STARTING, State.CLOSED}),
    State.CLOSED: frozenset(),
}

AWAKE = frozenset({State.STARTING, State.RUNNING, State.PASSIVATING})
"""States in which a session is, or is to be, some worker's."""
ASLEEP = frozenset({State.PASSIVATED, State.FAILED})
"""States that an attach, or an operator, turns into `starting`."""


def move(origin: str | None, target: State) -> State:
    """Gives `target` if a session may go there from `origin` (None: it is being made).

    Raises IllegalTransition otherwise.
    """
    if target not in TRANSITIONS[None if origin is None else State(origin)]:
        raise IllegalTransition(origin, target)
    return target
