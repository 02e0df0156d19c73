"""The checks of times: passivations, deliveries, answers. See checker.

A limit holds where no other fault disturbs. Elsewhere it grows by the duration of the other faults, and by
the recovery from each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from tests.chaos.checker import Verdict, Violation
from tests.chaos.history import FOREVER, History, Injected, Move, Sample
from tests.chaos.measured import Measured

SLACK = 2.0
"""Seconds that DESIGN.md allows beyond LEASE_TTL or CLOSE_DELAY."""
SAMPLE_GAP = 1.0
"""Seconds without a sample after which earlier samples are no longer used."""
DELIVERY_LIMIT = 3.0
"""Seconds after its commit in which an event reaches the attached clients, even if the layer lost it: two
reconcile intervals of a gateway."""
ANSWER_LIMIT = 3.0
"""Seconds in which an action is acknowledged: nothing waits longer than 2 s for a layer that hangs."""
NOTICE_LIMIT = 2.0
"""Seconds in which the end of a connection is stored in the database."""
RECOVERY = 3.0
"""Seconds after a fault in which its target may be late: a process starts, a client reconnects."""


def check_passivation(history: History) -> Verdict:
    """Check that an idle session begins to passivate CLOSE_DELAY + 2 s after its last connection ended."""
    options = history.options
    slack = SLACK * options["patience"]
    calm: list[float] = []
    violations = []
    moves = moves_by_session(history.moves)
    count = 0
    for session, seen in by_session(history.samples).items():
        for since, until in _idle_times(seen):
            moved = [
                one.at
                for one in moves[session]
                if since - 0.3 < one.at <= until and one.target in ("passivating", "passivated")
            ]
            late = min(moved, default=until) - since - options["close_delay"]
            others = disturbing(history, since - options["lease_ttl"], since + max(0.0, late))
            limit = slack + sum(options["lease_ttl"] + slack + one.until - one.at for one in others)
            if moved:
                count += 1
                if not others:
                    calm.append(max(0.0, late))
            if late > limit:
                text = f"passivation began {late:.1f} s after it fell due (limit {limit:.1f} s)"
                violations.append(Violation(text, session, since))
    measured = Measured(calm, count - len(calm), (0.99, 1.0))
    return Verdict("passivation lateness p99/max", str(measured), violations, measured)


def _idle_times(seen: list[Sample]) -> Iterable[tuple[float, float]]:
    """Yield the times, as (begin, end), in which a session was awake without connections and pending work."""
    since: float | None = None
    before: Sample | None = None
    for sample in seen:
        if before is not None and sample.at - before.at > SAMPLE_GAP:
            since = None
        idle = sample.attached == 0 and not sample.pending and sample.state in ("starting", "running")
        if idle and since is None:
            since = sample.at
        elif not idle and since is not None:
            yield since, sample.at
            since = None
        before = sample
    if since is not None and before is not None:
        yield since, before.at


def check_delivery(history: History) -> Verdict:
    """Check that attached clients get an event soon after its commit, even without the channel layer."""
    written = {(one.session, one.number): one.at for one in history.events}
    late: list[float] = []
    disturbed = 0
    violations = []
    for one in history.attachments:
        own = _on_the_way(history, one.gateway)
        for number, _, at in one.received:
            since = written.get((one.session, number), 0.0)
            if since < one.at + 0.1:
                continue  # replayed
            if any(f.at - 0.5 < at and f.until + RECOVERY > since for f in own):
                disturbed += 1
                continue
            late.append(at - since)
            if at - since > DELIVERY_LIMIT * history.options["patience"]:
                text = f"{one.client} got event {number} {at - since:.1f} s after its commit"
                violations.append(Violation(text, one.session, at))
    measured = Measured(late, disturbed)
    return Verdict("delivery p50/p99/max", str(measured), violations, measured)


def check_answers(history: History) -> Verdict:
    """Check that an action is acknowledged soon, even without the channel layer and workers."""
    took: list[float] = []
    violations = []
    for one in history.sent:
        if not one.sends:
            continue
        answered = FOREVER if one.acknowledged_at is None else one.acknowledged_at
        own = _on_the_way(history, one.gateway)
        if one.sends > 1 or any(f.at - 0.5 < answered and f.until + RECOVERY > one.sent_at for f in own):
            # It was sent again because its client left on purpose, or a fault was on its way.
            continue
        took.append(answered - one.sent_at)
        if answered - one.sent_at > _limit(history, ANSWER_LIMIT, one.sent_at, answered):
            text = f"{one.tag} was acknowledged {answered - one.sent_at:.1f} s after it was sent"
            violations.append(Violation(text, one.session, one.sent_at))
    measured = Measured(took, sum(one.sends > 0 for one in history.sent) - len(took))
    return Verdict("acknowledgement p50/p99/max", str(measured), violations, measured)


def check_departures(history: History) -> Verdict:
    """Check that the end of a connection is noticed at once, if no fault is on its way."""
    late: list[float] = []
    violations = []
    for one in history.departures:
        noticed = FOREVER if one.noticed_at is None else one.noticed_at
        own = _on_the_way(history, one.gateway)
        if any(f.at - 0.5 < noticed and f.until + RECOVERY > one.at - RECOVERY for f in own):
            continue
        late.append(max(0.0, noticed - one.at))
        if noticed - one.at > _limit(history, NOTICE_LIMIT, one.at, noticed):
            text = f"{one.client} was gone {noticed - one.at:.1f} s before it was noticed"
            violations.append(Violation(text, one.session, one.at))
    measured = Measured(late, len(history.departures) - len(late))
    return Verdict("departure p50/p99/max", str(measured), violations, measured)


def _limit(history: History, seconds: float, begin: float, end: float) -> float:
    """Return the limit of something that waits for a session's row. A process that was stopped in the middle
    of a transaction keeps the row locked as long as the database allows, which is less than LEASE_TTL."""
    stopped = any(
        fault.kind.endswith("_pause") and fault.at < end and fault.at + history.options["lease_ttl"] > begin
        for fault in history.faults
    )
    limit: float = seconds * history.options["patience"] + stopped * history.options["lease_ttl"]
    return limit


def _on_the_way(history: History, proxy: str) -> list[Injected]:
    """Return the faults of everything between a client and the log."""
    gateway = "gateway" + proxy.removeprefix("proxy")
    return [one for one in history.faults if one.target in (proxy, gateway, "postgres")]


def disturbing(history: History, begin: float, end: float, but: Injected | None = None) -> list[Injected]:
    """Return the faults of workers and of the database that overlap a time, and so may lengthen it."""
    return [
        one
        for one in history.faults
        if one is not but
        and one.kind.partition("_")[0] in ("worker", "postgres")
        and one.at < end
        and one.until + RECOVERY > begin
    ]


def by_session(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        found[sample.session].append(sample)
    return found


def moves_by_session(moves: Iterable[Move]) -> dict[str, list[Move]]:
    found: dict[str, list[Move]] = defaultdict(list)
    for move in moves:
        found[move.session].append(move)
    return found
