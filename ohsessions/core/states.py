"""The states of a session, its triggers, and the state that follows each trigger.

A session is always in exactly one state. TRANSITIONS determines the next state from the present one and a
trigger. If the table has no next state, `next_state` raises an error, and nothing is changed. If the outcome
depends on a rule, there is a trigger for each outcome, and the caller applies the rule: for example `crashed`
and `crashed_too_often`. `closed` is final: no trigger leads out of it.

A reason is stored with each transition. Each transition raises the epoch, except the one to `running`.

A claim is not in the table. It changes the owner and the epoch of a `starting` session, not its state, and no
transition is stored.
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


class Trigger(StrEnum):
    """An event that can change a session's state. Its owner is a worker. A session is wanted if a client is
    attached, or an action is pending."""

    OPENED = "opened"
    """A client opened it."""
    READY = "ready"
    """Its owner has started its runtime."""
    DUE = "due"
    """Its `passivate_at` has come, and policy.may_passivate() lets it sleep."""
    DRAINED = "drained"
    """Its owner stops, and no action is being handled."""
    RELEASED = "released"
    """Its owner has closed its runtime, and it is not wanted."""
    RELEASED_BUT_WANTED = "released_but_wanted"
    """Its owner has closed its runtime, but it is wanted."""
    FORCED = "forced"
    """An operator or the quota wants it to sleep, and no worker owns it. (With an owner it falls due.)"""
    ABANDONED = "abandoned"
    """No worker owns it, and it is not wanted any more."""
    CRASHED = "crashed"
    """Its runtime could not start, or broke, or killed its worker, within its budget."""
    CRASHED_TOO_OFTEN = "crashed_too_often"
    """The same, beyond its budget."""
    HANDED_OVER = "handed_over"
    """Its owner stops in the middle of its work, or does not serve it."""
    WORKER_GONE = "worker_gone"
    """Its owner died, or the row of its owner was deleted."""
    ATTACHED = "attached"
    """A client attached while it slept, or after the `retry_at` of its failure."""
    WANTED = "wanted"
    """A sweep found that it sleeps and is wanted."""
    RETRIED = "retried"
    """A sweep found that its `retry_at` has come while a client is attached."""
    WOKEN = "woken"
    """An operator wakes it."""
    DISCARDED = "discarded"
    """Its visitor did not come back, and it is being deleted."""
    CLOSED = "closed"
    """A user or the site ends it for good."""


AWAKE = frozenset({State.STARTING, State.RUNNING, State.PASSIVATING})
"""States in which a worker owns the session, or is to own it."""
ASLEEP = frozenset({State.PASSIVATED, State.FAILED})
"""States that an attach or an operator changes to `starting`."""

TRANSITIONS: dict[Trigger, dict[State | None, State]] = {
    Trigger.OPENED: {None: State.STARTING},
    Trigger.READY: {State.STARTING: State.RUNNING},
    Trigger.DUE: {State.RUNNING: State.PASSIVATING},
    Trigger.DRAINED: {State.RUNNING: State.PASSIVATING},
    Trigger.RELEASED: {State.STARTING: State.PASSIVATED, State.PASSIVATING: State.PASSIVATED},
    Trigger.RELEASED_BUT_WANTED: {State.STARTING: State.STARTING, State.PASSIVATING: State.STARTING},
    Trigger.FORCED: {State.STARTING: State.PASSIVATED},
    Trigger.ABANDONED: {State.STARTING: State.PASSIVATED},
    Trigger.CRASHED: dict.fromkeys(AWAKE, State.STARTING),
    Trigger.CRASHED_TOO_OFTEN: {
        State.STARTING: State.FAILED,
        State.RUNNING: State.FAILED,
        # It has run before, so it is known to start: it does not fail.
        State.PASSIVATING: State.STARTING,
    },
    Trigger.HANDED_OVER: dict.fromkeys(AWAKE, State.STARTING),
    Trigger.WORKER_GONE: dict.fromkeys(AWAKE, State.STARTING),
    Trigger.ATTACHED: dict.fromkeys(ASLEEP, State.STARTING),
    Trigger.WANTED: {State.PASSIVATED: State.STARTING},
    Trigger.RETRIED: {State.FAILED: State.STARTING},
    Trigger.WOKEN: dict.fromkeys(ASLEEP, State.STARTING),
    Trigger.DISCARDED: dict.fromkeys(ASLEEP, State.CLOSED),
    Trigger.CLOSED: dict.fromkeys(AWAKE | ASLEEP, State.CLOSED),
}
"""The state after each trigger, by the state before (None: the session is new)."""


def next_state(origin: str | None, trigger: Trigger) -> State:
    """Return the state of a session after `trigger` happened to it in state `origin` (None: it is new).

    Raises IllegalTransition if that cannot happen.
    """
    target = TRANSITIONS[trigger].get(None if origin is None else State(origin))
    if target is None:
        raise IllegalTransition(origin, trigger)
    return target
