"""The counts of a gateway's connections, from the handshake on: per user and address, and unattached ones.

A client that has logged in counts for its user, from any address. All others count for their address (see
core.addresses.limit_key). The counts are those of this process only: each gateway has limits of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from django.contrib.auth.models import AnonymousUser

from ohsessions.concurrency.counters import over_quota, refusals, too_fast
from ohsessions.conf import conf
from ohsessions.core.addresses import limit_key
from ohsessions.core.clock import Clock
from ohsessions.core.errors import WireError
from ohsessions.gateway.client_address import address_of
from ohsessions.gateway.limits import ACTION_BURST_SECONDS, MINUTE, Bucket, Buckets, cost
from ohsessions.socketio import RequestRefused, Socket

SMALL = 64 * 1024
"""The largest message, in bytes, before a connection is attached, if that needs a login or a token."""
HELD_AT_ONCE = 4
"""The most bytes of waiting events of a user or address, as a multiple of MAX_ACTION_BYTES. The strangers of
an address may have as many again."""
HELD_SECONDS = 10.0
"""Seconds that actions may wait for INIT."""
TOLD = 10
"""Connections over a user's limit that are refused at CONNECT, where the answer has a message."""
FREED_SECONDS = 30.0
"""Seconds until a user with too many connections may try again: lost ones are noticed by then."""


class Guests:
    """The counts of a gateway, and their limits."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.connections: Counter[str] = Counter()
        """Connections of each user and each address, by Guest.key."""
        self.unattached: Counter[str] = Counter()
        """Connections without a login that are not attached, by Guest.key."""
        self.held: Counter[str] = Counter()
        """Bytes of waiting events, by Guest.key. Strangers have another key, see Guest.try_hold."""
        self.actions = Buckets(lambda: conf.USER_RATE_LIMIT, ACTION_BURST_SECONDS, self.clock)
        self.user_inits = Buckets(lambda: _per_second(conf.INIT_RATE_PER_USER), MINUTE, self.clock)
        self.address_inits = Buckets(lambda: _per_second(conf.INIT_RATE_PER_ADDRESS), MINUTE, self.clock)
        self.starts = Buckets(lambda: _per_second(conf.START_RATE), MINUTE, self.clock)

    def admit(self, scope: Mapping[str, Any]) -> Guest:
        """Count a connection at its handshake; return its guest. Raises RequestRefused if it is one too many.

        After this refusal a client tries again by itself, unlike after a refused CONNECT. That matters since
        its lost connections may still be counted, and whole offices reconnect at once after a restart.
        """
        guest = Guest(self, scope)
        for limit, most, count, message in self._limits(guest):
            if most is not None and count >= most:
                refusals.count(limit)
                raise RequestRefused.too_many(message)
        guest.enter()
        return guest

    def of(self, socket: Socket) -> Guest:
        """Return the guest of a socket. It is made here only if the server has no make_guest."""
        return socket.guest if isinstance(socket.guest, Guest) else self.admit(socket.scope)

    def _limits(self, guest: Guest) -> list[tuple[str, int | None, int, str]]:
        """Return the name, number, present count and message of each limit for a new connection."""
        count = self.connections[guest.key]
        if guest.is_user:
            most = conf.MAX_CONNECTIONS_PER_USER
            spared = None if most is None else most + TOLD
            mine = "You have too many connections. Close some of them: tabs, or other devices."
            return [("MAX_CONNECTIONS_PER_USER", spared, count, mine)]
        here = "There are too many connections from your address. Try again later."
        anywhere = "Too many connections wait for an INIT. Try again later."
        unattached, all_of_them = self.unattached[guest.key], self.unattached.total()
        return [
            ("MAX_CONNECTIONS_PER_ADDRESS", conf.MAX_CONNECTIONS_PER_ADDRESS, count, here),
            ("MAX_UNATTACHED_PER_ADDRESS", conf.MAX_UNATTACHED_PER_ADDRESS, unattached, here),
            ("MAX_UNATTACHED", conf.MAX_UNATTACHED, all_of_them, anywhere),
        ]


class Guest:
    """One connection; see socketio.connection.GuestPort. `key` is the user or address that it counts for."""

    def __init__(self, guests: Guests, scope: Mapping[str, Any]) -> None:
        user = scope.get("user") or AnonymousUser()
        self.is_user = bool(user.is_authenticated)
        self.key = f"user {user.pk}" if self.is_user else limit_key(address_of(scope))
        self._guests = guests
        self._is_attached = self._has_left = False
        self._held = 0
        self._large = 0
        rate = conf.RATE_LIMIT
        self._actions = Bucket(rate, (rate or 0) * ACTION_BURST_SECONDS, guests.clock)
        inits = _per_second(conf.INIT_RATE)
        self._inits = Bucket(inits, (inits or 0) * MINUTE, guests.clock)

    # Enter, attach, leave

    def enter(self) -> None:
        """Count the connection. Called once."""
        self._guests.connections[self.key] += 1
        if not self.is_user:
            self._guests.unattached[self.key] += 1

    def leave(self) -> None:
        """See socketio.connection.GuestPort."""
        if self._has_left:
            return
        self.attach()
        self.release(self._held)
        self._has_left = True
        _subtract(self._guests.connections, self.key, 1)

    def attach(self) -> None:
        """Count the connection as attached. From now on only the limits of all connections apply to it."""
        if self._is_attached or self._has_left:
            return
        held = self.release(self._held)
        self._is_attached = True
        self._hold(held)
        self._large = 0
        if not self.is_user:
            _subtract(self._guests.unattached, self.key, 1)

    def detach(self) -> None:
        """Count the connection as unattached."""
        if self._is_attached and not self._has_left:
            held = self.release(self._held)
            self._is_attached = False
            self._hold(held)
            if not self.is_user:
                self._guests.unattached[self.key] += 1

    def check_connections(self) -> None:
        """Raise WireError 429 `quota` if its user has more connections than MAX_CONNECTIONS_PER_USER."""
        most = conf.MAX_CONNECTIONS_PER_USER
        if self.is_user and most is not None and self._guests.connections[self.key] > most:
            message = f"You have {most} connections already. Close some of them: tabs, or other devices."
            raise over_quota("MAX_CONNECTIONS_PER_USER", message, FREED_SECONDS)

    # Events

    @property
    def is_bounded(self) -> bool:
        """True while the connection has no login and is not attached: it is a stranger."""
        return not (self.is_user or self._is_attached)

    @property
    def most_held(self) -> int:
        """The most bytes of actions that may wait for INIT."""
        return conf.MAX_ACTION_BYTES if self.is_user or conf.ALLOW_ANONYMOUS else SMALL

    def arriving(self, size: int) -> WireError | None:
        """See socketio.connection.GuestPort. Checks rates, waiting bytes, and, from a stranger, the size."""
        if wait := self._actions.take(cost(size)):
            message = f"This connection may send {self._actions.rate:g} actions per second. Send more slowly."
            return too_fast("RATE_LIMIT", message, wait)
        if wait := self._guests.actions.take(self.key, cost(size)):
            message = "You send too many actions on all your connections together. Send more slowly."
            return too_fast("USER_RATE_LIMIT", message, wait)
        if self.is_bounded and size > SMALL:
            self._large += size
            # The frame around the largest action is a little larger.
            if self._large > (conf.MAX_ACTION_BYTES + SMALL if self.most_held > SMALL else SMALL):
                refusals.count("MAX_ACTION_BYTES")
                message = f"Before INIT you may send at most {self.most_held} bytes. Send INIT first."
                return WireError(413, "too_large", message)
        return None if self.try_hold(size) else self.held_too_much()

    def handled(self, size: int) -> None:
        """See socketio.connection.GuestPort."""
        self.release(size)

    def try_hold(self, size: int) -> bool:
        """Count bytes that wait. Return False if too many would wait of its user, address, or strangers.

        Strangers are counted separately, so that they do not take their neighbours' share. If nothing waits
        yet, any size is counted.
        """
        if self._has_left:
            return True
        waiting = self._guests.held[self._holder]
        if waiting and waiting + size > HELD_AT_ONCE * conf.MAX_ACTION_BYTES:
            return False
        self._hold(size)
        return True

    def _hold(self, size: int) -> None:
        if size:
            self._guests.held[self._holder] += size
            self._held += size

    def release(self, size: int) -> int:
        """Stop counting bytes that waited. Return their number."""
        size = min(size, self._held)
        self._held -= size
        _subtract(self._guests.held, self._holder, size)
        return size

    @property
    def _holder(self) -> str:
        return f"stranger {self.key}" if self.is_bounded else self.key

    def held_too_much(self) -> WireError:
        """Return the error for a client that has sent too much that waits."""
        message = "Too many of your actions wait to be handled. Wait for their answers before you send more."
        if self.is_bounded:
            message = "Too many actions from your address wait for an INIT. Send INIT first."
        return over_quota("MAX_ACTION_BYTES", message, HELD_SECONDS)

    # INITs

    def check_init(self, *, is_new: bool) -> None:
        """Count an INIT. Raises WireError 429 `rate`.

        An INIT that joins a session costs a transaction, and all people of an office may send one at the same
        time. An INIT that makes a session costs a runtime, so fewer of these are allowed.
        """
        of_all = self._guests.user_inits if self.is_user else self._guests.address_inits
        name = "INIT_RATE_PER_USER" if self.is_user else "INIT_RATE_PER_ADDRESS"
        if wait := self._inits.take():
            raise too_fast("INIT_RATE", "This connection sends INIT too often. Send it later.", wait)
        if wait := of_all.take(self.key):
            message = "You send INIT too often on all your connections together. Send it later."
            raise too_fast(name, message, wait)
        if is_new and (wait := self._guests.starts.take(self.key)):
            message = f"You may start {conf.START_RATE:g} sessions per minute. Start this one later."
            raise too_fast("START_RATE", message, wait)


def _per_second(rate: float | None) -> float | None:
    return None if rate is None else rate / MINUTE


def _subtract(counter: Counter[str], key: str, amount: int) -> None:
    """Subtract an amount. Delete a key at zero, so that there are no more keys than connections."""
    counter[key] -= amount
    if counter[key] <= 0:
        del counter[key]
