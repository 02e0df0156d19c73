"""The checks of owners: one at a time, and the state goes from each to the next one. See checker."""

from __future__ import annotations

from collections import defaultdict

from tests.chaos.checker import Verdict, Violation, activations, outcomes
from tests.chaos.history import FOREVER, Event, History, Line

RESUME_GRACE = 1.0
"""Seconds after SIGCONT in which a runtime's code may go on until its process has looked at its lease.
Nothing inside a stopped process can fence it. Its writes are refused, and its programs are dead already."""

NOTED_LATE = 0.2
"""Seconds that the harness may need, on a busy machine, to record that it has sent SIGCONT."""


def check_state(history: History) -> Verdict:
    """Check that no activation started from a snapshot older than an answer of an earlier activation."""
    violations = []
    answered, told = outcomes(history)
    counters: dict[str, list[Event]] = defaultdict(list)
    for (session, number), events in answered.items():
        if (session, number) not in told:
            counters[session].append(events[-1])
    for session, events in counters.items():
        for expected, event in enumerate(sorted(events, key=lambda one: one.cause or 0), 1):
            if event.counter != expected:
                text = (
                    f"the runtime counted action {event.cause} as its {event.counter}., not its {expected}."
                )
                violations.append(Violation(text, session, event.at))
                break
    return Verdict("state lost", str(len(violations)), violations)


def check_stale_writes(history: History) -> Verdict:
    """Check that in the log no event of an older epoch comes after one of a newer epoch."""
    violations = []
    newest: dict[str, int] = {}
    for event in sorted(history.events, key=lambda one: (one.session, one.number)):
        if event.epoch is None:
            continue
        if event.epoch < newest.get(event.session, 0):
            text = (
                f"event {event.number} was written under epoch {event.epoch}, after {newest[event.session]}"
            )
            violations.append(Violation(text, event.session, event.at))
        newest[event.session] = max(event.epoch, newest.get(event.session, 0))
    last: dict[str, int] = {}
    for move in history.moves:
        if move.epoch < last.get(move.session, 0):
            text = f"it became {move.target} under epoch {move.epoch}, after {last[move.session]}"
            violations.append(Violation(text, move.session, move.at))
        last[move.session] = move.epoch
    return Verdict(
        "stale writes refused", f"{history.refused_writes}, accepted {len(violations)}", violations
    )


def check_owners(history: History) -> Verdict:
    """Check that no activation, and no program of one, does anything after its successor began."""
    violations = []
    resumed = [(one.pid, one.until) for one in history.faults if one.kind.endswith("_pause")]
    sessions: dict[str, list[list[Line]]] = defaultdict(list)
    for lines in activations(history.lines).values():
        sessions[lines[0].session].append(lines)
    excused = 0
    for session, owners in sessions.items():
        owners.sort(key=lambda lines: (lines[0].epoch, lines[0].at))
        begins = [min((line.at for line in lines if line.kind == "start"), default=0) for lines in owners]
        for index, lines in enumerate(owners):
            successor = min(begins[index + 1 :], default=FOREVER)
            late = [line for line in lines if line.at > successor and line.kind != "close"]
            grace = [line for line in late if _has_just_resumed(line, resumed)]
            excused += bool(grace)
            if rest := [line for line in late if line not in grace]:
                worst = max(rest, key=lambda line: line.at)
                kinds = ", ".join(sorted({line.kind for line in rest}))
                text = (
                    f"epoch {worst.epoch} of pid {worst.pid} went on ({kinds})"
                    f" for {worst.at - successor:.2f} s after its successor began"
                )
                violations.append(Violation(text, session, worst.at))
    return Verdict("two owners at once", f"{len(violations)} ({excused} just after SIGCONT)", violations)


def _has_just_resumed(line: Line, resumed: list[tuple[int, float]]) -> bool:
    # Before it begins anything, it knows by its own clock that its lease has ended.
    if line.kind in ("beat", "start", "begin"):
        return False
    # The resume is recorded a moment after it. A stopped process writes no line.
    return any(
        pid == line.pid and until - NOTED_LATE <= line.at <= until + RESUME_GRACE for pid, until in resumed
    )


def check_drains(history: History) -> Verdict:
    """Check that an orderly stop cuts no action off: each is shorter than the time that a stop allows it."""
    begun = {(line.session, line.action): line for line in history.lines if line.kind == "begin"}
    _, told = outcomes(history)
    violations = []
    for key, events in told.items():
        line, event = begun.get(key), events[0]
        if line is None or event.reason != "interrupted":
            continue
        hit = [
            fault
            for fault in history.faults
            if fault.at <= event.at and (fault.pid == line.pid or fault.target == "postgres")
        ]
        if hit and all(fault.kind == "worker_drain" for fault in hit):
            text = f"action {event.cause} was cut off when {hit[0].target} was told to stop"
            violations.append(Violation(text, event.session, event.at))
    drains = sum(fault.kind == "worker_drain" for fault in history.faults)
    return Verdict("cut off by drains", f"{len(violations)} ({drains} drains)", violations)
