"""Explanations for operators: why a session is awake or asleep, from the facts in its row.

These are pure functions of a row, numbers and a time. They follow the rules of `core.policy`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from ohsessions.admin.display import plural, relative
from ohsessions.core.policy import is_suspect
from ohsessions.core.states import AWAKE, State
from ohsessions.models import Session

PUNCTUAL = timedelta(seconds=3)
"""A due session is claimed within 2 s. If that takes longer than this, something holds it or is broken."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact that decides whether a session sleeps. `holds`: it keeps the session awake."""

    name: str
    detail: str
    holds: bool = False
    is_warning: bool = False


def is_late(session: Session, now: datetime) -> bool:
    """Return whether the session should have been passivated by now."""
    due = session.passivate_at
    return session.state in AWAKE and due is not None and now - due > PUNCTUAL


def is_unowned(session: Session) -> bool:
    """Return whether the session is awake and no worker owns it."""
    return session.state in AWAKE and session.worker_id is None


def question(session: Session) -> str:
    """Return the question that the session's page answers."""
    asked = {State.PASSIVATED: "is it asleep", State.FAILED: "did it fail", State.CLOSED: "is it closed"}
    return f"Why {asked.get(State(session.state), 'is it awake')}?"


def summary(session: Session, attached: int, now: datetime) -> str:
    """Return in one or two sentences why the session is in its state, and what comes next."""
    if session.state == State.CLOSED:
        return "It was ended for good. Its log can still be read."
    if session.state == State.FAILED:
        if session.retry_at is None or session.retry_at <= now:
            return "It failed. The next client that attaches starts it again."
        return f"It failed. A client that attaches can start it again {relative(session.retry_at, now)}."
    if session.state == State.PASSIVATED:
        return "It sleeps: a row, and its files. The next client that attaches, or acts, wakes it."
    if session.state == State.PASSIVATING:
        return "Its worker is storing its snapshot; then it sleeps."
    return f"It is awake because {_cause(session, attached, now)}."


def _cause(session: Session, attached: int, now: datetime) -> str:
    if session.forced_by:
        return "its worker has not yet answered an operator's wish to passivate it"
    if attached:
        return f"{plural(attached, 'connection is', 'connections are')} attached"
    if session.has_pending_work:
        return "an action is pending (for MAX_BUSY at most, once it is due)"
    if session.passivate_at is None:
        return "nothing has made it due for passivation: the setting CLOSE_DELAY is None"
    if is_unowned(session):
        return "no worker has taken it yet"
    if is_late(session, now):
        return "its runtime says that it is busy, or its worker does not answer"
    return f"its last connection went a moment ago: it is passivated {relative(session.passivate_at, now)}"


def facts(session: Session, attached: int, now: datetime) -> list[Fact]:
    """Return what keeps an awake session awake, and what does not. For a sleeping one: what would wake it."""
    found = [_connections(attached), _actions(session)]
    if session.state in AWAKE:
        found += [_due(session, attached, now), _worker(session)]
    if session.forced_by:
        found.append(Fact("Operator", f"{session.forced_by} wants it passivated, whatever holds it."))
    if session.crashes:
        retry = session.retry_at
        tried = f"; it may be tried again {relative(retry, now)}" if retry and retry > now else ""
        times = plural(session.crashes, "time", "times")
        found.append(Fact("Crashes", f"It crashed {times} in a row{tried}.", is_warning=True))
    if session.suspicion:
        died = "Its last workers died while it was being started, or soon after; it may be the cause."
        found.append(Fact("Dead workers", died, is_warning=is_suspect(session.suspicion)))
    return found


def _connections(attached: int) -> Fact:
    if not attached:
        return Fact("Connections", "None is attached.")
    return Fact("Connections", f"{attached} attached.", holds=True)


def _actions(session: Session) -> Fact:
    if not session.has_pending_work:
        return Fact("Actions", "All are handled." if session.last_action_number >= 0 else "None came.")
    waiting = (
        f"The last one is #{session.last_action_number}, handled up to {_number(session.handled_number)}"
    )
    if session.started_number > session.handled_number:
        begun = "" if session.attempts < 2 else f" (begun {session.attempts} times)"
        return Fact("Actions", f"#{session.started_number} is being handled{begun}. {waiting}.", holds=True)
    return Fact("Actions", f"Not begun. {waiting}.", holds=True, is_warning=session.state == State.RUNNING)


def _due(session: Session, attached: int, now: datetime) -> Fact:
    due = session.passivate_at
    if due is None:
        return Fact("Passivation", "Not due.")
    if due > now:
        return Fact("Passivation", f"Due {relative(due, now)}.")
    since = f"Due since {relative(due, now).removesuffix(' ago')}."
    if not is_late(session, now) or session.state != State.RUNNING:
        return Fact("Passivation", since, is_warning=is_late(session, now))
    if attached or session.has_pending_work:
        return Fact("Passivation", f"{since} It waits for what holds it.")
    busy = "Nothing here holds it: its runtime says that it is busy (see MAX_BUSY), or its worker is stuck."
    return Fact("Busy", f"{since} {busy}", holds=True, is_warning=True)


def _worker(session: Session) -> Fact:
    if session.worker is None:
        return Fact("Worker", "None owns it: it waits for one. Is any active?", is_warning=True)
    if session.worker.state != "active":
        word = {"draining": "is draining", "gone": "is gone: another one takes over"}[session.worker.state]
        return Fact("Worker", f"Its worker {word}.", is_warning=True)
    return Fact("Worker", f"The {session.worker} owns it.")


def _number(number: int) -> str:
    return "none" if number < 0 else f"#{number}"
