"""How long a session was without a worker that serves it, after its own died or stood still: pure functions,
as in tests.chaos.checker.

The limit holds as long as the rest of the site could do it: the database was there, nobody stood still who
might keep a row locked, some other worker lived on, and whoever took the session over did not die as well.
For other takeovers it is longer by what the other faults lasted, and by what it takes to recover from each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.chaos.checker import Verdict, Violation
from tests.chaos.history import FOREVER, History, Injected, Move, Sample
from tests.chaos.measured import Measured
from tests.chaos.timing import RECOVERY, SAMPLE_GAP, SLACK, by_session, disturbing, moves_by_session


@dataclass(frozen=True, slots=True)
class Takeover:
    """A session whose worker was hit by a fault, and when it was served again, or asleep (or FOREVER)."""

    fault: Injected
    session: str
    ended: float
    losses: int
    """How often a worker of its was found gone until then."""

    @property
    def took(self) -> float:
        return self.ended - self.fault.at


def check_takeover(history: History) -> Verdict:
    """A session whose worker died or stopped runs elsewhere, or sleeps, LEASE_TTL + 2 s later."""
    lease = history.options["lease_ttl"]
    slack = SLACK * history.options["patience"]
    calm: list[float] = []
    violations = []
    takeovers = list(_takeovers(history))
    for one in takeovers:
        limit = lease + slack
        until = min(one.ended, one.fault.at + limit)
        if _could_be_done(history, one, until):
            calm.append(one.took)
        else:
            others = disturbing(history, one.fault.at - lease, until, one.fault)
            limit += sum(lease + slack + other.until - other.at for other in others)
        if one.took > limit:
            took = "never" if one.ended == FOREVER else f"{one.took:.1f} s after"
            text = f"taken over {took} {one.fault.kind} of {one.fault.target} (limit {limit:.1f} s)"
            violations.append(Violation(text, one.session, one.fault.at))
    measured = Measured([value for value in calm if value != FOREVER], len(takeovers) - len(calm))
    return Verdict("takeover p50/p99/max", str(measured), violations, measured)


def _takeovers(history: History) -> Iterator[Takeover]:
    samples, moves = by_session(history.samples), moves_by_session(history.moves)
    for fault in history.faults:
        if fault.kind not in ("worker_kill", "worker_pause"):
            continue
        for session, seen in samples.items():
            owned = next((one for one in reversed(seen) if one.at <= fault.at), None)
            if owned is None or owned.worker != fault.pid or fault.at - owned.at > SAMPLE_GAP:
                continue
            if any(owned.at - 0.3 < move.at <= fault.at for move in moves[session]):
                continue  # it may have been let go of in between
            ended = _ended(fault, seen, moves[session])
            lost = [
                one
                for one in moves[session]
                if fault.at < one.at <= ended and one.reason.startswith("its worker is gone")
            ]
            yield Takeover(fault, session, ended, len(lost))


def _ended(fault: Injected, seen: list[Sample], moves: list[Move]) -> float:
    """When a session of the worker that was hit was served again, or asleep; infinite if never."""
    moved = [one.at for one in moves if one.at > fault.at and one.target in ("running", "passivated")]
    if fault.kind == "worker_pause":
        # Nobody took it: it goes on where it was.
        kept = [one.at for one in seen if one.at > fault.until + 0.1 and one.worker == fault.pid]
        moved += [fault.until] if kept and not [at for at in moved if at < kept[0]] else []
    return min(moved, default=FOREVER)


def _could_be_done(history: History, takeover: Takeover, until: float) -> bool:
    """Whether the rest of the site was whole enough, from the fault until then."""
    begin = takeover.fault.at
    others = [
        one
        for one in history.faults
        if one is not takeover.fault and one.at < until and one.until + RECOVERY > begin
    ]
    if any(one.target == "postgres" or one.kind in ("worker_pause", "gateway_pause") for one in others):
        return False
    hit = {one.target for one in (*others, takeover.fault) if one.kind.startswith("worker")}
    return len(hit) < history.options["workers"] and takeover.losses <= 1
