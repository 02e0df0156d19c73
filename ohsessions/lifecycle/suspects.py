"""Which of a dead worker's sessions it died of.

One death does not tell: all that the worker owned is suspect, most of all what had just been started. But who
kills its workers is there each time, while the others come to different workers, or start at different times,
and are cleared by running on. So each death adds to the suspicion of a session, and it is blamed when it is
more suspect than any other: at once if it was only being started, else after a few deaths in a row. While
several are equally suspect they are started again at different times, so that the next death tells more.
(Simulated: of 50 sessions on three workers the one that kills its worker within 20 s of every start is failed
after 7 to 13 deaths, and no other; on a single worker after about 15, if it kills within 5 s.)
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
    """Notes that the worker of a session died; says whether it died of this session.

    One that is as suspect as others gets a `retry_at` of its own.
    """
    session = locked.session
    # When it was last seen, not when it was missed: a lease has run out since.
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
    """How suspect a death makes a session that was in this state since `state_at`."""
    if session.state == State.STARTING:
        return policy.VERY_SUSPECT
    if session.state != State.RUNNING:
        return 0
    return policy.suspicion((died_at - session.state_at).total_seconds())


def _equals(session: Session, worker: UUID, died_at: datetime, now: datetime) -> bool:
    """Whether another session is as suspect: one that the same death makes so, or one that was already."""

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
