"""The check of takeovers: how long a session has no worker that serves it, after its own died or was stopped.

The limit holds while the rest of the site can take over: the database was there, no stopped process could
hold a row lock, another worker was alive, and the worker that took the session over did not die as well. For
other takeovers the limit grows by the duration of the other faults, and by the recovery from each. See
checker.
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
    """A session whose worker was hit by a fault. `ended`: when it was served again or asleep, or FOREVER."""

    fault: Injected
    session: str
    ended: float
    losses: int
    """The number of times that a worker of the session was found gone until then."""

    @property
    def took(self) -> float:
        return self.ended - self.fault.at


def check_takeover(history: History) -> Verdict:
    """Check that a session whose worker died or stopped runs elsewhere, or sleeps, LEASE_TTL + 2 s later."""
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
                continue  # the worker may have given it back in between
            ended = _ended(fault, seen, moves[session])
            lost = [
                one
                for one in moves[session]
                if fault.at < one.at <= ended and one.reason.startswith("its worker is gone")
            ]
            yield Takeover(fault, session, ended, len(lost))


def _ended(fault: Injected, seen: list[Sample], moves: list[Move]) -> float:
    """Return when a session of the worker that was hit was served again, or asleep; infinite if never."""
    moved = [one.at for one in moves if one.at > fault.at and one.target in ("running", "passivated")]
    if fault.kind == "worker_pause":
        # No worker took it over: it continues on its own worker.
        kept = [one.at for one in seen if one.at > fault.until + 0.1 and one.worker == fault.pid]
        moved += [fault.until] if kept and not [at for at in moved if at < kept[0]] else []
    return min(moved, default=FOREVER)


def _could_be_done(history: History, takeover: Takeover, until: float) -> bool:
    """Return whether the rest of the site was able to take over, from the fault until then."""
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
