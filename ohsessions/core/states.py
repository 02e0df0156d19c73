"""The states of a session, and the moves between them.

A session is always in exactly one state. `closed` is final. A move that is not in TRANSITIONS is not allowed:
`move` raises an error and changes nothing. A reason is stored with each move. Each move
raises the epoch, except the move to `running`.
"""

from __future__ import annotations

from enum import StrEnum

from ohsessions.core.errors import IllegalTransition


class State(StrEnum):
    STARTING = "starting"
    """A worker is to start its runtime, or is starting it."""
    RUNNING = "running"
    """Its owner's runtime is ready."""
    PASSIVATING = "passivating"
    """Its owner is storing its snapshot."""
    PASSIVATED = "passivated"
    """Asleep: it has only a row and its files."""
    FAILED = "failed"
    """It could not start, or crashed, more often than its budget allows."""
    CLOSED = "closed"
    """Ended for good. Its log can still be read."""


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
"""States in which a worker owns the session, or is to own it."""
ASLEEP = frozenset({State.PASSIVATED, State.FAILED})
"""States that an attach or an operator changes to `starting`."""


def move(origin: str | None, target: State) -> State:
    """Return `target` if a session may go there from `origin` (None: the session is new).

    Raises IllegalTransition otherwise.
    """
    if target not in TRANSITIONS[None if origin is None else State(origin)]:
        raise IllegalTransition(origin, target)
    return target
