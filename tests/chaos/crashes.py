"""The check of actions that break their runtime: each is over then, and nothing else breaks. See checker."""

from __future__ import annotations

from tests.chaos.actions import CRASH
from tests.chaos.checker import Verdict, Violation, outcomes
from tests.chaos.history import History


def check_crashes(history: History) -> Verdict:
    """Check that an action that must crash its runtime does, and is not answered; and that no other one
    crashes.

    Its sender gets an error: that it crashed, or that it was cut off.
    """
    crashing = {(one.session, one.number): one for one in history.events if one.kind == CRASH}
    answered, _ = outcomes(history)
    violations = [
        Violation(f"action {one.number} ({one.tag}) was to crash and was answered", one.session, one.at)
        for key, one in crashing.items()
        if key in answered
    ]
    crashed = cut_off = 0
    for one in history.events:
        if one.kind != "error":
            continue
        expected = (one.session, one.cause) in crashing
        if one.reason == "crashed" and not expected:
            where = f"action {one.cause}" if one.cause is not None else "no action"
            violations.append(Violation(f"the runtime broke in {where}", one.session, one.at))
        crashed += expected and one.reason == "crashed"
        cut_off += expected and one.reason == "interrupted"
    summary = f"{len(violations)} unexpected, {crashed} as asked ({cut_off} cut off before)"
    return Verdict("crashes", summary, violations)
