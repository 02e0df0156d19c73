"""A good history of the chaos harness, for tests to spoil, and functions to make its records."""

from __future__ import annotations

from tests.chaos.checker import Verdict
from tests.chaos.history import Attachment, Event, History, Line, Move, Sample, Sent, SessionRow
from tests.chaos.options import Options


def user(number: int, tag: str, at: float = 1.0, kind: str = "count") -> Event:
    return Event("s", number, at, "user", kind, f"c:{tag}", f"T{number}", f"V{number}", tag)


def answer(number: int, cause: int, counter: int, epoch: int = 2, at: float = 1.0) -> Event:
    key = f"{epoch}.{number}"
    texts = f"T{number}", f"V{number}"
    return Event("s", number, at, "agent", "chaos", key, *texts, "x", cause, None, True, counter)


def told(
    number: int, cause: int | None, epoch: int = 4, reason: str = "interrupted", at: float = 1.25
) -> Event:
    key = f"{epoch}.{number}"
    texts = f"T{number}", f"V{number}"
    return Event("s", number, at, "environment", "error", key, *texts, None, cause, reason)


def line(at: float, kind: str, epoch: int, action: int | None = None, pid: int = 10) -> Line:
    return Line(at, "s", epoch, f"activation {epoch}", pid, kind, action)


def good() -> History:
    """Return a history of two actions of one client, handled by one owner, with a sleep at the end."""
    received = [(number, f"text T{number}", 1.3) for number in range(4)]
    return History(
        Options().as_json(),
        sent=[
            Sent("a", "s", "client0", 1, 0, 0.9, "proxy0", 1.0, attachment=0, order=1),
            Sent("b", "s", "client0", 1, 2, 0.9, "proxy0", 1.0, attachment=0, order=2),
        ],
        attachments=[Attachment("client0", "s", 0.5, -1, True, "proxy0", received, 5.0, at_end=True)],
        events=[user(0, "a"), answer(1, 0, 1), user(2, "b"), answer(3, 2, 2, at=1.25)],
        moves=[
            Move("s", 0.5, "", "starting", "", "", 1),
            Move("s", 0.7, "starting", "running", "", "", 2),
            Move("s", 6.1, "running", "passivating", "", "", 3),
            Move("s", 6.2, "passivating", "passivated", "", "", 4),
        ],
        sessions=[SessionRow("s", "count", "passivated", 3, 2, 2)],
        lines=[
            line(0.6, "start", 2),
            line(1.0, "begin", 2, 0),
            line(1.0, "end", 2, 0),
            line(1.2, "begin", 2, 2),
            line(6.2, "close", 2),
        ],
        samples=[Sample(0.2 * i, "s", "running", 10, int(0.2 * i < 5), False) for i in range(2, 31)]
        + [Sample(6.3, "s", "passivated", None, 0, False)],
        quiet_at=4.0,
    )


def texts(verdict: Verdict) -> list[str]:
    return [violation.text for violation in verdict.violations]
