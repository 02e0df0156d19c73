"""The report of a run, for people: a verdict on each point, and the history of a session that suffered."""

from __future__ import annotations

from collections.abc import Iterator

from tests.chaos import checker, crashes, interrupts, owners, takeovers, timing
from tests.chaos.checker import Verdict, Violation
from tests.chaos.history import History

CHECKS = (
    checker.check_acknowledged,
    checker.check_lost,
    checker.check_duplicated,
    checker.check_gaps,
    checker.check_order,
    interrupts.check_interrupts,
    crashes.check_crashes,
    owners.check_state,
    owners.check_stale_writes,
    owners.check_owners,
    takeovers.check_takeover,
    timing.check_passivation,
    timing.check_answers,
    timing.check_delivery,
    timing.check_departures,
    interrupts.check_interrupt_times,
    owners.check_drains,
    checker.check_leftovers,
    checker.check_logs,
    checker.check_troubles,
)
SHOWN = 5
"""The number of violations of each point that are shown."""
AROUND = 40
"""The number of lines of history before and after the first violation of a session."""


def judge(history: History) -> list[Verdict]:
    """Return a verdict on each point."""
    return [check(history) for check in CHECKS]


def violated(verdicts: list[Verdict]) -> bool:
    return any(verdict.violations for verdict in verdicts)


def describe(history: History, verdicts: list[Verdict]) -> Iterator[str]:
    """Yield the report: a line per point, the violations, and the history of the first session with one."""
    faults = len(history.faults)
    yield f"seed {history.options['seed']}: {faults} faults in {history.options['seconds']:.0f} s"
    for verdict in verdicts:
        mark = "FAILED" if verdict.violations else "ok"
        yield f"{mark:<6}  {verdict.name:<29} {verdict.summary}"
    sizes = ", ".join(f"{kind} {size} MiB" for kind, size in sorted(history.memory.items()))
    yield f"        {'largest process':<29} {sizes}"
    for verdict in verdicts:
        for violation in verdict.violations[:SHOWN]:
            where = f"  session {violation.session}" if violation.session else ""
            when = f"  at {violation.at:.2f} s" if violation.at is not None else ""
            yield f"{verdict.name}: {violation.text}{where}{when}"
        if len(verdict.violations) > SHOWN:
            yield f"{verdict.name}: … and {len(verdict.violations) - SHOWN} more"
    first = next((one for verdict in verdicts for one in verdict.violations if one.session), None)
    if first is not None:
        yield f"history of session {first.session}, which was the first with: {first.text}"
        yield from _excerpt(history, first)


def _excerpt(history: History, violation: Violation) -> Iterator[str]:
    lines = sorted(_story(history, violation.session))
    if violation.at is None:
        shown = lines[-2 * AROUND :]
    else:
        here = sum(at <= violation.at for at, _ in lines)
        shown = lines[max(0, here - AROUND) : here + AROUND]
    yield from (f"{at:8.2f}  {text}" for at, text in shown)


def _story(history: History, session: str) -> Iterator[tuple[float, str]]:
    """Yield all that happened to one session, with the time of each event."""
    for fault in history.faults:
        yield fault.at, f"fault    {fault.kind} of {fault.target} (pid {fault.pid}) until {fault.until:.2f}"
    for move in history.moves:
        if move.session == session:
            yield (
                move.at,
                f"moves    {move.origin or '-'} to {move.target}, epoch {move.epoch}: {move.reason}",
            )
    for event in history.events:
        if event.session == session:
            cause = f" of {event.cause}" if event.cause is not None else ""
            last = " (last)" * event.last
            yield (
                event.at,
                f"event    {event.number} {event.source} {event.kind}{cause}{last}  key {event.key}",
            )
    for line in history.lines:
        if line.session == session and line.kind != "beat":
            action = f" action {line.action}" if line.action is not None else ""
            yield line.at, f"runtime  {line.kind}{action}, claim epoch {line.epoch}, pid {line.pid}"
    for one in history.attachments:
        if one.session == session:
            yield one.at, f"client   {one.client} attached by {one.gateway} at {one.cursor}"
            yield one.ended_at, f"client   {one.client} detached"
