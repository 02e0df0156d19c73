"""Whether a history keeps what DESIGN.md promises: pure functions from records to verdicts.

Each check looks at one point, gives one line of numbers, and a Violation for each place where it does not
hold. What concerns time is in tests.chaos.timing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from tests.chaos.history import Attachment, Event, History, Line

RESUME_GRACE = 1.0
"""Seconds after SIGCONT in which a runtime's code may run on until its process has looked at its lease:
nothing inside a stopped process can fence it. What it stores is refused and its programs are dead anyway."""


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
    answered, told = _outcomes(history)
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
    answered, told = _outcomes(history)
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
    for activation in _activations(history.lines).values():
        begun = [line for line in activation if line.kind == "begin" and line.action is not None]
        for earlier, line in pairwise(begun):
            if (line.action or 0) <= (earlier.action or 0):
                text = f"action {line.action} was begun after {earlier.action}"
                violations.append(Violation(text, line.session, line.at))
    return Verdict("out of order", str(len(violations)), violations)


def check_state(history: History) -> Verdict:
    """No activation started from a snapshot older than what its predecessors had acknowledged as done."""
    violations = []
    answered, told = _outcomes(history)
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
    """In the log, nothing of an older epoch comes after something of a newer one."""
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
    """No activation, and no program of one, does anything after its successor began."""
    violations = []
    resumed = [(one.pid, one.until) for one in history.faults if one.kind.endswith("_pause")]
    sessions: dict[str, list[list[Line]]] = defaultdict(list)
    for lines in _activations(history.lines).values():
        sessions[lines[0].session].append(lines)
    excused = 0
    for session, activations in sessions.items():
        activations.sort(key=lambda lines: (lines[0].epoch, lines[0].at))
        begins = [
            min((line.at for line in lines if line.kind == "start"), default=0) for lines in activations
        ]
        for index, lines in enumerate(activations):
            successor = min(begins[index + 1 :], default=float("inf"))
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
    if line.kind == "beat":
        return False
    return any(pid == line.pid and until <= line.at <= until + RESUME_GRACE for pid, until in resumed)


def check_leftovers(history: History) -> Verdict:
    """With every client gone and every session asleep nothing is left but rows and their files."""
    found = Counter(one.what for one in history.leftovers)
    summary = ", ".join(f"{count} × {what}" for what, count in found.items()) or "0"
    violations = [Violation(f"{one.what}: {one.detail}", one.session) for one in history.leftovers]
    return Verdict("orphans", summary, violations)


def check_troubles(history: History) -> Verdict:
    """Processes stay up and stop in order; the quiet phase brings everything to its end."""
    return Verdict("troubles", str(len(history.troubles)), [Violation(text) for text in history.troubles])


def _actions(history: History) -> Iterable[Event]:
    return (one for one in history.events if one.source == "user")


def _outcomes(
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


def _activations(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """The lines of each activation, its programs' included, in order of time."""
    found: dict[str, list[Line]] = defaultdict(list)
    for line in sorted(lines, key=lambda one: one.at):
        found[line.activation].append(line)
    return found
