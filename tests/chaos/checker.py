"""Checks of a history against the promises of DESIGN.md: pure functions from records to verdicts.

Each check covers one point. It returns one line of numbers, and a Violation for each place where a promise is
broken. Checks of owners are in tests.chaos.owners, those of times in tests.chaos.timing. Interrupts and
crashes have modules of their own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from tests.chaos.history import Attachment, Event, History, Line
from tests.chaos.measured import Measured

Key = tuple[str, int | None]
"""An action: its session and its number."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A place where a promise is broken. `at` is its approximate run time."""

    text: str
    session: str = ""
    at: float | None = None


@dataclass(slots=True)
class Verdict:
    """One line of the report."""

    name: str
    summary: str
    violations: list[Violation] = field(default_factory=list)
    measured: Measured | None = None
    """The measurements of a check of times, for the summary."""


def check_acknowledged(history: History) -> Verdict:
    """Check that every action is acknowledged in the end, and none is refused for good."""
    done = sum(one.number is not None for one in history.sent)
    again = sum(one.number is not None and one.sends > 1 for one in history.sent)
    violations = [
        Violation(
            f"{one.tag} was never acknowledged in {one.sends} sends"
            + (f": {one.refusal}" * bool(one.refusal)),
            one.session,
        )
        for one in history.sent
        if one.number is None and one.sends
    ]
    return Verdict("acknowledged", f"{done} ({again} after more than one send)", violations)


def check_lost(history: History) -> Verdict:
    """Check that each acknowledged action is in the log under its number, and has an outcome there."""
    stored_by = {(one.session, one.number): one for one in history.events if one.source == "user"}
    violations = []
    for sent in history.sent:
        if sent.number is not None:
            stored = stored_by.get((sent.session, sent.number))
            if stored is None or stored.tag != sent.tag:
                text = (
                    f"{sent.tag} was acknowledged as {sent.number}, where the log has {stored and stored.tag}"
                )
                violations.append(Violation(text, sent.session, sent.acknowledged_at))
    answered, told = outcomes(history)
    for key, action in stored_by.items():
        if key not in answered and key not in told and not action.is_interrupt:
            text = f"action {action.number} ({action.tag}) was neither handled nor its sender told why not"
            violations.append(Violation(text, action.session, action.at))
    reasons = Counter(str(one.reason) for key, errors in told.items() if key in stored_by for one in errors)
    words = "".join(f", {count} told: {reason}" for reason, count in sorted(reasons.items()))
    return Verdict("lost", f"{len(violations)} ({len(answered)} answered{words})", violations)


def check_duplicated(history: History) -> Verdict:
    """Check that no action has two rows or two outcomes, or is handled more often than is allowed.

    It is handled once, or twice if it may be retried. Its outcome is the last event of its answer, or an
    error with the reason why there is none. After such an error it is not begun again.
    """
    violations = []
    stored = Counter((one.session, one.tag) for one in history.events if one.source == "user")
    for (session, tag), count in stored.items():
        if count > 1:
            violations.append(Violation(f"{tag} is in the log {count} times", session))
    runtimes = {one.session: one.runtime for one in history.sessions}
    begun = Counter((one.session, one.action) for one in history.lines if one.kind == "begin")
    for (session, number), count in begun.items():
        most = 2 if runtimes.get(session) == "retry" else 1
        if count > most:
            at = max(o.at for o in history.lines if (o.session, o.action) == (session, number))
            violations.append(Violation(f"action {number} was handled {count} times", session, at))
    violations += _with_two_outcomes(history)
    retried = sum(count == 2 and runtimes.get(session) == "retry" for (session, _), count in begun.items())
    return Verdict("duplicated", f"{len(violations)} ({retried} retried as they may be)", violations)


def _with_two_outcomes(history: History) -> Iterator[Violation]:
    answered, told = outcomes(history)
    last_begun: dict[Key, float] = {}
    for line in history.lines:
        if line.kind == "begin":
            key = line.session, line.action
            last_begun[key] = max(line.at, last_begun.get(key, 0.0))
    for key in answered.keys() | told.keys():
        session, number = key
        events = answered.get(key, []) + told.get(key, [])
        first = min(events, key=lambda one: one.number)
        if len(events) > 1:
            words = ", ".join(f"{one.reason or 'answered'} ({one.number})" for one in events)
            yield Violation(f"action {number} has several outcomes: {words}", session, first.at)
        if last_begun.get(key, 0.0) > first.at:
            text = f"action {number} was begun again after its outcome ({first.reason or 'answered'})"
            yield Violation(text, session, last_begun[key])


def check_gaps(history: History) -> Verdict:
    """Check that each attachment got every event after its cursor once, and that the log has no gap.

    The bytes must be the same, too.
    """
    logs: dict[str, dict[int, Event]] = defaultdict(dict)
    for event in history.events:
        logs[event.session][event.number] = event
    violations = [
        Violation("the log is not dense", row.session)
        for row in history.sessions
        if sorted(logs[row.session]) != list(range(row.head + 1))
    ]
    for one in history.attachments:
        expected = one.cursor + 1
        for number, name, at in one.received:
            if number > expected:
                text = f"{one.client} got {number} after {expected - 1}: a gap"
                violations.append(Violation(text, one.session, at))
            expected = max(expected, number + 1)
            event = logs[one.session].get(number)
            if event is None or name not in (f"text {event.text_digest}", f"value {event.value_digest}"):
                text = f"{one.client} got another event {number} than the log has"
                violations.append(Violation(text, one.session, at))
    ended = [one for one in history.attachments if one.at_end]
    received = sum(len(one.received) for one in history.attachments)
    summary = f"{len(violations)} ({received} events to {len(history.attachments)} attachments)"
    return Verdict("gaps", summary, violations + list(_behind(ended, logs, history.quiet_at)))


def _behind(
    ended: list[Attachment], logs: dict[str, dict[int, Event]], quiet_at: float
) -> Iterator[Violation]:
    """Yield a violation for each client that was attached to the end, but lacks events.

    The quiet phase must have brought the events from before it.
    """
    for one in ended:
        due = max((number for number, event in logs[one.session].items() if event.at <= quiet_at), default=-1)
        last = max((number for number, _, _ in one.received), default=one.cursor)
        if last < due:
            yield Violation(f"{one.client} ended at {last} of {due}", one.session)


def check_order(history: History) -> Verdict:
    """Check that events come in order and once, and that actions are stored and handled in order."""
    violations = []
    for one in history.attachments:
        for (before, _, _), (number, _, at) in pairwise(one.received):
            if number <= before:
                violations.append(Violation(f"{one.client} got {number} after {before}", one.session, at))
    sent: dict[tuple[str, int], list[tuple[int, int, str]]] = defaultdict(list)
    for action in history.sent:
        if action.number is not None and action.attachment >= 0:
            sent[action.client, action.attachment].append((action.order, action.number, action.session))
    for (client, _), actions in sent.items():
        for (_, before, _), (_, number, session) in pairwise(sorted(actions)):
            if number <= before:
                violations.append(Violation(f"{client}'s action {number} was sent after {before}", session))
    for activation in activations(history.lines).values():
        begun = [line for line in activation if line.kind == "begin" and line.action is not None]
        for earlier, line in pairwise(begun):
            if (line.action or 0) <= (earlier.action or 0):
                text = f"action {line.action} was begun after {earlier.action}"
                violations.append(Violation(text, line.session, line.at))
    return Verdict("out of order", str(len(violations)), violations)


def check_leftovers(history: History) -> Verdict:
    """Check that only rows and their files are left, with every client gone and every session asleep."""
    found = Counter(one.what for one in history.leftovers)
    summary = ", ".join(f"{count} × {what}" for what, count in found.items()) or "0"
    violations = [Violation(f"{one.what}: {one.detail}", one.session) for one in history.leftovers]
    return Verdict("orphans", summary, violations)


def check_logs(history: History) -> Verdict:
    """Check that nothing is logged at ERROR. An ERROR means a loss, or that a person must look."""
    total = sum(history.logged_errors.values())
    violations = [Violation(f"{count} × {line}") for line, count in history.logged_errors.items()]
    return Verdict("errors in logs", str(total), violations)


def check_troubles(history: History) -> Verdict:
    """Check that processes stay up and stop in order, and that the quiet phase completes everything."""
    return Verdict("troubles", str(len(history.troubles)), [Violation(text) for text in history.troubles])


def outcomes(history: History) -> tuple[dict[Key, list[Event]], dict[Key, list[Event]]]:
    """Return by action the last events of its answers, in order, and the errors of unanswered ones."""
    answered: dict[Key, list[Event]] = defaultdict(list)
    told: dict[Key, list[Event]] = defaultdict(list)
    for event in sorted(history.events, key=lambda one: one.number):
        if event.kind == "chaos" and event.last:
            answered[event.session, event.cause].append(event)
        elif event.kind == "error" and event.cause is not None:
            told[event.session, event.cause].append(event)
    return dict(answered), dict(told)


def activations(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """Return the lines of each activation, with those of its programs, in order of time."""
    found: dict[str, list[Line]] = defaultdict(list)
    for line in sorted(lines, key=lambda one: one.at):
        found[line.activation].append(line)
    return found
