"""Limits on the sessions of one person, awake and in all, and the sessions that make room for the next one.

A person is a user, or all visitors without a login that share an address (core.addresses.limit_key). A
session counts for its owner, even if another person wakes it. A transaction that makes or wakes a session
first locks the person's name. So its counts are valid until it commits, with any number of gateways.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db.models import Count, F, Q
from django.utils.crypto import salted_hmac

from ohsessions.concurrency.counters import over_quota
from ohsessions.conf import conf
from ohsessions.core import states
from ohsessions.core.addresses import limit_key
from ohsessions.core.policy import BY_QUOTA, EVICTED, QUOTA_REASON
from ohsessions.core.states import State, Trigger
from ohsessions.database import lock_name
from ohsessions.lifecycle.locked import Locked
from ohsessions.models import Session, SessionQuerySet

EVICT = "evict"
ACTIONS = ("refuse", EVICT)
"""The values of QUOTA_ACTION."""
LATER = 60.0
"""Seconds after which a refused client may try again, if it is unknown when there will be room."""
VISITOR_SALT = "ohsessions.visitor"


@dataclass(frozen=True, slots=True)
class Person:
    """A person for whom sessions count: `owner`, a user's primary key, or else `visitor` (see visitor_of)."""

    owner: Any
    visitor: str

    @property
    def is_known(self) -> bool:
        """True if sessions can be counted. Sessions whose owner was deleted belong to nobody."""
        return self.owner is not None or bool(self.visitor)

    @property
    def sessions(self) -> SessionQuerySet:
        if self.owner is not None:
            return Session.objects.filter(owner=self.owner)
        return Session.objects.filter(owner=None, visitor=self.visitor)

    def lock(self) -> None:
        """Make other transactions that make or wake sessions of this person wait for this one."""
        lock_name(f"ohsessions.quota {self.owner} {self.visitor}")

    @property
    def limit_name(self) -> str:
        return "MAX_RUNNING_PER_USER" if self.owner is not None else "MAX_RUNNING_PER_ADDRESS"

    @property
    def most_awake(self) -> int | None:
        limit = conf.MAX_RUNNING_PER_USER if self.owner is not None else conf.MAX_RUNNING_PER_ADDRESS
        return limit if self.is_known else None


def visitor_of(user: Any, address: str) -> str:
    """Return the value for an address in the rows of sessions without an owner: a keyed hash, since addresses
    are personal data. Empty for a user."""
    if user.is_authenticated:
        return ""
    return salted_hmac(VISITOR_SALT, limit_key(address), algorithm="sha256").hexdigest()[:32]


def reserve(person: Person, *, is_new: bool) -> list[UUID]:
    """Return the sessions that must sleep so that one more of the person's may be awake; mostly none.

    `is_new`: whether that one is made, not woken. Raises WireError 429 `quota` if there is no room, and room
    may not or cannot be made. An eviction takes a moment: until then up to twice the limit may be awake.
    """
    most = person.most_awake
    most_kept = conf.MAX_SESSIONS_PER_VISITOR if is_new and person.is_known else None
    if most is None and most_kept is None:
        return []
    person.lock()
    is_awake = Q(state__in=states.AWAKE)
    counted = person.sessions.exclude(state=State.CLOSED) if most_kept else person.sessions.filter(is_awake)
    counts = counted.aggregate(kept=Count("pk"), awake=Count("pk", filter=is_awake))
    if most_kept is not None and counts["kept"] >= most_kept:
        message = f"You have {most_kept} sessions, the most that are kept. Close some that you need no more."
        raise over_quota("MAX_SESSIONS_PER_VISITOR", message, LATER)
    if most is None or counts["awake"] < most:
        return []
    if conf.QUOTA_ACTION == EVICT and counts["awake"] < 2 * most:
        staying = person.sessions.filter(is_awake, forced_by="").exclude(state=State.PASSIVATING)
        idle = staying.filter(last_action_number__lte=F("handled_number")).order_by("active_at", "pk")
        excess = staying.count() + 1 - most
        victims = list(idle.values_list("pk", flat=True)[: max(0, excess)])
        if len(victims) >= excess:
            return victims
    whose = "You have" if person.owner is not None else "Visitors from your address have"
    message = f"{whose} {most} sessions awake, the most that may be. Those that all have left fall asleep."
    wait = LATER if conf.CLOSE_DELAY is None else max(1.0, conf.CLOSE_DELAY)
    raise over_quota(person.limit_name, message, wait)


def evict(locks: dict[UUID, Locked], victims: list[UUID], left: UUID | None, sid: str) -> list[Locked]:
    """Make the victims that still exist sleep; return them. Their workers passivate them, as for an operator.

    Remove them from `locks`, except `left`: the session that the connection `sid` is about to leave.
    """
    there = [victim for victim in victims if victim in locks]
    evicted = [locks[victim] if victim == left else locks.pop(victim) for victim in there]
    for locked in evicted:
        _evict(locked, sid)
    return evicted


def _evict(locked: Locked, sid: str) -> None:
    session = locked.session
    if session.state not in states.AWAKE:
        return
    locked.end_connections(EVICTED, but=sid)
    session.passivate_at = locked.now
    if session.state == State.STARTING and session.worker_id is None:
        locked.move(Trigger.FORCED, QUOTA_REASON, BY_QUOTA)
        locked.disown()
        locked.set_due(0)
    elif session.state != State.PASSIVATING:
        session.forced_by = BY_QUOTA
