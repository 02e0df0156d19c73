"""The checks of interrupts: each reaches a runtime, and in time. See checker.

An interrupt has no answer, and moves no mark of the actions. It is delivered at least once, to the runtime
that is there when it comes, or to the next one. If the owner dies before the delivery is stored, the next
owner delivers it again.
"""

from __future__ import annotations

from collections import Counter

from tests.chaos.checker import Verdict, Violation, activations
from tests.chaos.history import Event, History, Line
from tests.chaos.measured import Measured
from tests.chaos.timing import disturbing

LIMIT = 3.0
"""Seconds in which an interrupt reaches its runtime though the layer lost it: a reconcile interval or two."""


def check_interrupts(history: History) -> Verdict:
    """Check that each interrupt is delivered, before any later action, and once to each owner.

    It counts as no action.
    """
    interrupts = {(one.session, one.number): one for one in history.events if one.is_interrupt}
    delivered = Counter((line.session, line.action) for line in history.lines if line.kind == "interrupt")
    violations = [
        Violation(f"interrupt {one.number} ({one.tag}) was never delivered", one.session, one.at)
        for key, one in interrupts.items()
        if key not in delivered
    ]
    violations += [
        Violation(f"event {number} was delivered as an interrupt, which it is not", session)
        for session, number in delivered
        if (session, number) not in interrupts
    ]
    violations += [
        Violation(f"the interrupt {row.handled_number} was marked as a handled action", row.session)
        for row in history.sessions
        if (row.session, row.handled_number) in interrupts
    ]
    amid = 0
    for lines in activations(history.lines).values():
        violations += _out_of_place(lines)
        amid += _count_amid(lines)
    again = sum(count > 1 for count in delivered.values())
    summary = f"{len(delivered)} delivered ({amid} amid an action, {again} again to a later owner)"
    return Verdict("interrupts", f"{len(violations)}, {summary}", violations)


def _out_of_place(lines: list[Line]) -> list[Violation]:
    """Return a violation for each interrupt that one activation got twice, or too late.

    It is too late after an action that was sent later.
    """
    violations = []
    seen = -1
    for line in lines:
        number = line.action if line.action is not None else -1
        if line.kind == "interrupt" and number <= seen:
            text = f"interrupt {number} was delivered after {seen}, to the same owner"
            violations.append(Violation(text, line.session, line.at))
        if line.kind in ("begin", "interrupt"):
            seen = max(seen, number)
    return violations


def _count_amid(lines: list[Line]) -> int:
    """Return the number of interrupts that came while an action was handled."""
    count, busy = 0, False
    for line in lines:
        if line.kind in ("begin", "end"):
            busy = line.kind == "begin"
        count += line.kind == "interrupt" and busy
    return count


def check_interrupt_times(history: History) -> Verdict:
    """Check that an interrupt waits neither for the action under way nor for a lost message."""
    values: list[float] = []
    violations = []
    interrupts = {(one.session, one.number): one for one in history.events if one.is_interrupt}
    for lines in activations(history.lines).values():
        for line in lines:
            event = interrupts.get((line.session, line.action or 0))
            if line.kind != "interrupt" or event is None or not _lived(lines, event):
                continue
            took = max(0.0, line.at - event.at)
            if disturbing(history, event.at, line.at):
                continue
            values.append(took)
            if took > LIMIT * history.options["patience"]:
                text = f"interrupt {event.number} was delivered {took:.1f} s after its commit"
                violations.append(Violation(text, event.session, line.at))
    measured = Measured(values, len(interrupts) - len(values))
    return Verdict("interrupt p50/p99/max", str(measured), violations, measured)


def _lived(lines: list[Line], event: Event) -> bool:
    """Return whether this activation had begun when an interrupt was stored."""
    return any(line.kind == "start" and line.at < event.at for line in lines)
