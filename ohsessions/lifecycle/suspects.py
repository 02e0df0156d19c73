"""Decide which session, if any, crashed a worker that died.

One death is not enough evidence. All sessions of the worker are suspect, most of all those that had just been
started. But a session that kills its workers is present at each death. The others come to different workers,
or start at different times, and are cleared when they run on. So each death adds to the suspicion of a
session. A session is blamed when it is more suspect than any other: at once if it was still starting,
otherwise after a few deaths in a row. Equally suspect sessions are started again at different times, so that
the next death is better evidence. (Simulated: of 50 sessions on three workers, the one that kills its worker
within 20 s of every start fails after 7 to 13 deaths, and no other fails. On a single worker it fails after
about 15 deaths, if it kills within 5 s.)
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import Q

from ohsessions.core import policy, states
from ohsessions.core.states import State
from ohsessions.lifecycle.locked import Locked
from ohsessions.models import Process, Session


def is_blamed(locked: Locked, worker: UUID) -> bool:
    """Add the death of a session's worker to its suspicion; return whether the session caused the death.

    A session that is as suspect as another one gets a `retry_at` of its own.
    """
    session = locked.session
    # The time when the worker was last seen, not when it was missed: a lease has run out since.
    died_at = Process.objects.values_list("seen_at", flat=True).get(pk=worker)
    weight = _weight(session, died_at)
    session.suspicion += weight
    starting = session.state == State.STARTING
    if not weight or not (starting or policy.is_suspect(session.suspicion)):
        return False
    if not _equals(session, worker, died_at, locked.now):
        return True
    wait = random.uniform(0, policy.suspects_delay(session.suspicion))
    session.retry_at = locked.now + timedelta(seconds=wait)
    return False


def _weight(session: Session, died_at: datetime) -> int:
    """Return how much suspicion a worker's death at `died_at` adds to a session."""
    if session.state == State.STARTING:
        return policy.VERY_SUSPECT
    if session.state != State.RUNNING:
        return 0
    return policy.suspicion((died_at - session.state_at).total_seconds())


def _equals(session: Session, worker: UUID, died_at: datetime, now: datetime) -> bool:
    """Return whether another session is as suspect, because of the same death or from before."""

    def ran_less_than(seconds: float, at: datetime) -> Q:
        return Q(state=State.RUNNING, state_at__gt=at - timedelta(seconds=seconds))

    starting = Q(state=State.STARTING)
    at_least = session.suspicion
    very = starting | ran_less_than(policy.YOUNG, died_at)
    somewhat = ran_less_than(policy.STABLE_AFTER, died_at)
    with_it = very & Q(suspicion__gte=at_least - policy.VERY_SUSPECT)
    with_it |= somewhat & Q(suspicion__gte=at_least - policy.SOMEWHAT_SUSPECT)
    before = (starting | ran_less_than(policy.STABLE_AFTER, now)) & Q(suspicion__gte=at_least)
    others = Session.objects.filter(state__in=states.AWAKE).exclude(pk=session.pk)
    return others.filter(Q(worker=worker) & with_it | before).exists()
