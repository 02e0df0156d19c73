"""Whether a history keeps what DESIGN.md promises: pure functions from records to verdicts.

Each check looks at one point, gives one line of numbers, and a Violation for each place where it does not
hold. Who owned what is in
tests.chaos.owners, what concerns time in tests.chaos.timing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from tests.chaos.history import Attachment, Event, History, Line


@dataclass(frozen=True, slots=True)
class Violation:
    """One place where a promise does not hold. `at`: about when, in run time."""

    text: str
    session: str = ""
    at: float | None = None


@dataclass(slots=True)
class Verdict:
    """One line of the report."""

    name: str
    summary: str
    violations: list[Violation] = field(default_factory=list)


def check_acknowledged(history: History) -> Verdict:
    """Every action is acknowledged in the end, and none is refused for good."""
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
    """What was acknowledged is in the log under its number; each action in the log has an outcome there."""
    actions = {(one.session, one.number): one for one in _actions(history)}
    violations = []
    for sent in history.sent:
        if sent.number is not None:
            stored = actions.get((sent.session, sent.number))
            if stored is None or stored.tag != sent.tag:
                text = (
                    f"{sent.tag} was acknowledged as {sent.number}, where the log has {stored and stored.tag}"
                )
                violations.append(Violation(text, sent.session, sent.acknowledged_at))
    answered, told = outcomes(history)
    for key, action in actions.items():
        if key not in answered and key not in told:
            text = f"action {action.number} ({action.tag}) was neither handled nor its sender told why not"
            violations.append(Violation(text, action.session, action.at))
    return Verdict(
        "lost", f"{len(violations)} ({len(told.keys() & actions.keys())} told: interrupted)", violations
    )


def check_duplicated(history: History) -> Verdict:
    """An action is stored once; handled once, or twice where it may be retried; and answered in one way."""
    violations = []
    stored = Counter((one.session, one.tag) for one in _actions(history))
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
    answered, told = outcomes(history)
    for (session, number), events in answered.items():
        if len(events) > 1:
            text = f"action {number} was answered to the end {len(events)} times"
            violations.append(Violation(text, session, events[-1].at))
        elif (session, number) in told:
            text = f"action {number} was answered to the end and also called interrupted"
            violations.append(Violation(text, session, events[-1].at))
    retried = sum(count == 2 and runtimes.get(session) == "retry" for (session, _), count in begun.items())
    return Verdict("duplicated", f"{len(violations)} ({retried} retried as they may be)", violations)


def check_gaps(history: History) -> Verdict:
    """Each attachment got every event after its cursor once; the log itself is dense; bytes are the same."""
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
    """Who was attached to the end has everything that was there when the quiet phase began."""
    for one in ended:
        due = max((number for number, event in logs[one.session].items() if event.at <= quiet_at), default=-1)
        last = max((number for number, _, _ in one.received), default=one.cursor)
        if last < due:
            yield Violation(f"{one.client} ended at {last} of {due}", one.session)


def check_order(history: History) -> Verdict:
    """Events come in order and once; a client's actions are stored, and all actions handled, in order."""
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
    """With every client gone and every session asleep nothing is left but rows and their files."""
    found = Counter(one.what for one in history.leftovers)
    summary = ", ".join(f"{count} × {what}" for what, count in found.items()) or "0"
    violations = [Violation(f"{one.what}: {one.detail}", one.session) for one in history.leftovers]
    return Verdict("orphans", summary, violations)


def check_logs(history: History) -> Verdict:
    """Nothing is logged at ERROR: that means that something was lost, or that somebody has to look."""
    total = sum(history.logged_errors.values())
    violations = [Violation(f"{count} × {line}") for line, count in history.logged_errors.items()]
    return Verdict("errors in logs", str(total), violations)


def check_troubles(history: History) -> Verdict:
    """Processes stay up and stop in order; the quiet phase brings everything to its end."""
    return Verdict("troubles", str(len(history.troubles)), [Violation(text) for text in history.troubles])


def _actions(history: History) -> Iterable[Event]:
    return (one for one in history.events if one.source == "user")


def outcomes(
    history: History,
) -> tuple[dict[tuple[str, int | None], list[Event]], dict[tuple[str, int | None], Event]]:
    """By session and action: its answers' last events in order; and the error that says why there is none."""
    answered: dict[tuple[str, int | None], list[Event]] = defaultdict(list)
    told: dict[tuple[str, int | None], Event] = {}
    for event in sorted(history.events, key=lambda one: one.number):
        if event.kind == "chaos" and event.last:
            answered[event.session, event.cause].append(event)
        elif event.kind == "error" and event.cause is not None:
            told[event.session, event.cause] = event
    return answered, told


def activations(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """The lines of each activation, its programs' included, in order of time."""
    found: dict[str, list[Line]] = defaultdict(list)
    for line in sorted(lines, key=lambda one: one.at):
        found[line.activation].append(line)
    return found
