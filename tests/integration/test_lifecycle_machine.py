"""All events of sessions in any order, by Hypothesis, with the invariants checked after each step."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db.models import F
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from ohsessions import lifecycle
from ohsessions.core.errors import IllegalTransition, StaleEpoch
from ohsessions.core.states import ASLEEP, AWAKE, TRANSITIONS, State
from ohsessions.journal import Append, Appended
from ohsessions.models import Connection, Event, Session, Transition
from ohsessions.processes import leases
from tests.integration.world import World, action, append, observation

SIDS = st.sampled_from("abc")
STEPS = st.sampled_from([0.5, 5, 20, 70])
MOVES = {move for moves in TRANSITIONS.values() for move in moves.items()}


class Lives(RuleBasedStateMachine):
    """Two sessions, three connections and two workers, each of which believes the last answer that it got."""

    @initialize()
    def begin(self) -> None:
        self.made = World.made()
        self.world = self.made.__enter__()
        self.gateway = self.world.gateway
        self.workers = [self.world.worker, leases.register("worker")]
        self.sessions: list[UUID] = []
        self.believed: dict[tuple[UUID, UUID], int] = {}
        """The epoch under which each worker believes to own each session."""
        self.epochs: dict[UUID, int] = {}
        self.acknowledged: dict[UUID, list[int]] = {}
        self.keys = 0
        for _ in range(2):
            self.open("first")

    def teardown(self) -> None:
        if hasattr(self, "made"):
            self.made.__exit__(None, None, None)

    # Clients

    def open(self, sid: str) -> None:
        if len(self.sessions) < 2:
            self.sessions.append(self.world.open(self.sid(sid)).change.session_id)

    def sid(self, sid: str) -> str:
        return f"{self.gateway.hex}.{sid}"

    def pick(self, index: int) -> UUID:
        return self.sessions[index]

    @rule(sid=SIDS, index=st.integers(0, 1))
    def attach(self, sid: str, index: int) -> None:
        self.world.attach(self.pick(index), self.sid(sid))

    @rule(sid=st.sampled_from(["a", "b", "c", "first"]), leave=st.booleans())
    def detach(self, sid: str, leave: bool) -> None:
        lifecycle.detach(self.sid(sid), "gone", leave=leave)

    @rule(index=st.integers(0, 1), repeat=st.booleans(), hidden=st.booleans())
    def act(self, index: int, repeat: bool, hidden: bool) -> None:
        session_id = self.pick(index)
        self.keys += not repeat
        event = action(write_key=f"c:{self.keys}", hidden='{"a":1}' if hidden else None)
        result = append(Append(session_id, [event]))
        if isinstance(result, Appended):
            self.acknowledged.setdefault(session_id, []).extend(result.numbers)
        else:
            assert result.reason in ("session_closed", "session_failed", "client_id_reused")

    # Workers

    @rule(index=st.integers(0, 1), worker=st.integers(0, 1))
    def claim(self, index: int, worker: int) -> None:
        won = lifecycle.claim(self.pick(index), self.workers[worker])
        if won is not None:
            self.believed[self.pick(index), self.workers[worker]] = won[0].epoch

    def owner(self, index: int, worker: int) -> tuple[UUID, int]:
        return self.pick(index), self.believed.get((self.pick(index), self.workers[worker]), 0)

    def as_owner(self, function: Any, index: int, worker: int, *args: Any, **kwargs: Any) -> Any:
        """Call a function as an owner, and check that a former owner is refused and changes nothing."""
        session_id, epoch = self.owner(index, worker)
        before = Session.objects.values().get(pk=session_id)
        try:
            change = function(session_id, epoch, *args, **kwargs)
        except (StaleEpoch, IllegalTransition) as error:
            assert Session.objects.values().get(pk=session_id) == before
            if isinstance(error, StaleEpoch):
                assert before["epoch"] != epoch
            return None
        assert before["epoch"] == epoch
        assert before["worker_id"] == self.workers[worker]
        return change

    @rule(index=st.integers(0, 1), worker=st.integers(0, 1))
    def run(self, index: int, worker: int) -> None:
        self.as_owner(lifecycle.run, index, worker)

    @rule(index=st.integers(0, 1), worker=st.integers(0, 1))
    def crash(self, index: int, worker: int) -> None:
        self.as_owner(lifecycle.crash, index, worker, "boom")

    @rule(index=st.integers(0, 1), worker=st.integers(0, 1), busy=st.booleans(), drain=st.booleans())
    def passivate(self, index: int, worker: int, busy: bool, drain: bool) -> None:
        session_id, _ = self.owner(index, worker)
        row = Session.objects.get(pk=session_id)
        attached = Connection.objects.attached().filter(session=session_id).exists()
        reason = "drain" if drain else ""
        change = self.as_owner(lifecycle.claim_passivation, index, worker, busy=busy, reason=reason)
        if change is None:
            return
        self.believed[session_id, self.workers[worker]] = change.epoch
        assert row.forced_by or drain or not attached
        waits = busy or row.has_pending_work
        assert row.forced_by or drain or not waits or row.passivate_at + timedelta(hours=1) <= self.now
        assert change.gives_up == bool(row.has_pending_work and not row.forced_by and not drain)

    @rule(index=st.integers(0, 1), worker=st.integers(0, 1), gives_up=st.booleans())
    def release(self, index: int, worker: int, gives_up: bool) -> None:
        session_id, _ = self.owner(index, worker)
        head = Session.objects.get(pk=session_id).head
        self.as_owner(lifecycle.release, index, worker, None, give_up=head if gives_up else -1)

    @rule(
        index=st.integers(0, 1), worker=st.integers(0, 1), write=st.sampled_from(["emit", "start", "handle"])
    )
    def write(self, index: int, worker: int, write: str) -> None:
        session_id, epoch = self.owner(index, worker)
        before = Session.objects.get(pk=session_id)
        self.keys += 1
        marks = {
            "emit": {"events": [observation("x", f"{epoch}.{self.keys}")]},
            "start": {"started": before.handled_number + 1},
            "handle": {"handled": before.last_action_number},
        }[write]
        result = append(Append(session_id, epoch=epoch, **marks))
        fresh = before.epoch == epoch and (write != "start" or before.state == State.RUNNING)
        assert isinstance(result, Appended if fresh else StaleEpoch)

    # Sweeps, operators, time

    @rule(index=st.integers(0, 1), worker=st.integers(0, 1), died=st.booleans())
    def hand_over(self, index: int, worker: int, died: bool) -> None:
        lifecycle.hand_over(self.pick(index), self.workers[worker], "its worker is gone", died=died)

    @rule()
    def sweep(self) -> None:
        for session_id in lifecycle.strays():
            assert lifecycle.settle(session_id, "sweep") is not None, "it was not a stray"
        assert lifecycle.strays() == []

    @rule(index=st.integers(0, 1))
    def force(self, index: int) -> None:
        lifecycle.force_passivation(self.pick(index), by="op")

    @rule(index=st.integers(0, 1))
    def wake(self, index: int) -> None:
        before = Session.objects.values().get(pk=self.pick(index))
        lifecycle.wake(self.pick(index), by="op")
        after = Session.objects.get(pk=self.pick(index))
        if before["state"] in ASLEEP:
            assert (after.state, after.crashes, after.retry_at) == (State.STARTING, 0, None)
        else:
            assert Session.objects.values().get(pk=after.pk) == before

    @rule(index=st.integers(0, 1))
    def revoke(self, index: int) -> None:
        Session.objects.filter(pk=self.pick(index)).update(token_version=F("token_version") + 1)

    @rule()
    def lose_gateway(self) -> None:
        leases.mark_gone(self.gateway)
        for session_id in set(lifecycle.open_connections(self.gateway).values()):
            lifecycle.write_off(session_id, self.gateway, "gateway_lost")
        self.gateway = self.world.gateway = leases.register("gateway")

    @rule(index=st.integers(0, 1), sure=st.integers(0, 9))
    def close(self, index: int, sure: int) -> None:
        if sure == 0:
            lifecycle.close(self.pick(index), by="me")

    @rule(seconds=STEPS)
    def advance(self, seconds: float) -> None:
        self.world.clock.advance(seconds)

    # Invariants

    @property
    def now(self) -> Any:
        return self.world.clock.now()

    def each(self) -> list[Session]:
        return list(Session.objects.filter(pk__in=getattr(self, "sessions", [])))

    @invariant()
    def only_moves_of_the_table_happened_and_each_has_a_row(self) -> None:
        for session in self.each():
            rows = list(Transition.objects.filter(session=session).order_by("pk"))
            before, epoch = "", 0
            for row in rows:
                assert row.origin == before
                assert (before or None, row.target) in MOVES
                assert row.epoch > epoch if row.target != State.RUNNING else row.epoch >= epoch
                assert row.reason
                assert row.by
                before, epoch = row.target, row.epoch
            assert session.state == before
            assert session.reason == rows[-1].reason
            assert session.state_at == rows[-1].at

    @invariant()
    def an_epoch_never_falls(self) -> None:
        for session in self.each():
            assert session.epoch >= self.epochs.get(session.pk, 0)
            self.epochs[session.pk] = session.epoch

    @invariant()
    def only_who_is_awake_has_an_owner_and_at_most_one_believes_it_rightly(self) -> None:
        for session in self.each():
            if session.state in (State.RUNNING, State.PASSIVATING):
                assert session.worker_id is not None
            if session.state not in AWAKE:
                assert session.worker_id is None
            right = [
                worker
                for (pk, worker), epoch in self.believed.items()
                if (pk, epoch) == (session.pk, session.epoch)
            ]
            assert right in ([], [session.worker_id])

    @invariant()
    def who_is_awake_and_alone_is_due_and_nobody_else(self) -> None:
        for session in self.each():
            alone = not Connection.objects.attached().filter(session=session).exists()
            if session.state not in AWAKE:
                assert session.passivate_at is None
            elif not session.forced_by:
                assert (session.passivate_at is not None) == alone
                if alone:
                    assert session.passivate_at <= self.now + timedelta(seconds=15)
            else:
                assert session.passivate_at <= self.now

    @invariant()
    def who_sleeps_and_is_wanted_is_found_by_the_sweep(self) -> None:
        strays = lifecycle.strays() if hasattr(self, "sessions") else []
        for session in self.each():
            attached = Connection.objects.attached().filter(session=session).exists()
            if session.state == State.PASSIVATED and (attached or session.has_pending_work):
                assert session.pk in strays

    @invariant()
    def the_log_is_dense_and_holds_what_was_acknowledged(self) -> None:
        for session in self.each():
            rows = Event.objects.filter(session=session).order_by("number")
            numbers = list(rows.values_list("number", flat=True))
            assert numbers == [*range(session.next_number)]
            actions = set(rows.filter(source="user").values_list("number", flat=True))
            assert actions >= set(self.acknowledged.get(session.pk, []))
            assert session.handled_number <= session.last_action_number <= session.last_user_number

    @invariant()
    def hidden_arguments_are_kept_only_while_they_are_needed(self) -> None:
        for session in self.each():
            hidden = Event.objects.filter(session=session, hidden_text__isnull=False)
            if session.state == State.CLOSED:
                assert not hidden.exists()


@pytest.mark.timeout(300)
def test_whatever_happens_the_rules_hold(database: str, settings: Any) -> None:
    settings.OHSESSIONS = {**settings.OHSESSIONS, "CLOSE_DELAY": 15, "MAX_BUSY": 3600}
    profile = hypothesis_settings(
        max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(Lives, settings=profile)
