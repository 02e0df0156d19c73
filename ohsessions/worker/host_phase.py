"""The phases of an activation."""

from __future__ import annotations

from enum import StrEnum


class HostPhase(StrEnum):
    """The phases of an activation, and the moves between them:

        starting → running, ended
        running → claiming, ended
        claiming → running, passivating, ended
        passivating → ended

    It can end in each phase: its runtime breaks, or its session is closed or lost. A crash is reported in
    the phase in which it came, so a passivation may still be claimed meanwhile.
    """

    STARTING = "starting"
    """Its runtime is not ready yet."""
    RUNNING = "running"
    """Its runtime is ready, and handles actions."""
    CLAIMING = "claiming"
    """A transaction decides whether the session passivates: the epoch may be changing."""
    PASSIVATING = "passivating"
    """The passivation is claimed: the epoch has changed for the last time."""
    ENDED = "ended"
    """Its runtime is closed, and its programs are killed. No passivation can be claimed any more."""


MOVES: dict[HostPhase, frozenset[HostPhase]] = {
    HostPhase.STARTING: frozenset({HostPhase.RUNNING, HostPhase.ENDED}),
    HostPhase.RUNNING: frozenset({HostPhase.CLAIMING, HostPhase.ENDED}),
    HostPhase.CLAIMING: frozenset({HostPhase.RUNNING, HostPhase.PASSIVATING, HostPhase.ENDED}),
    HostPhase.PASSIVATING: frozenset({HostPhase.ENDED}),
    HostPhase.ENDED: frozenset(),
}
