"""Limits on clients: buckets, guests, held bytes, and the addresses that all of them are counted by."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.test import override_settings

from ohsessions.concurrency import counters
from ohsessions.concurrency.counters import LOG_EVERY, Refusals
from ohsessions.core.addresses import FORWARDED, X_FORWARDED_FOR, client_address, limit_key
from ohsessions.core.clock import FakeClock
from ohsessions.core.errors import WireError
from ohsessions.gateway import client_address as addresses
from ohsessions.gateway.guests import HELD_AT_ONCE, SMALL, TOLD, Guest, Guests
from ohsessions.gateway.held import HELD_ACTIONS, Held, HeldAction
from ohsessions.gateway.limits import (
    ACTION_BURST_SECONDS,
    BYTES_PER_ACTION,
    FEWEST_SWEPT,
    Bucket,
    Buckets,
    cost,
)
from ohsessions.socketio import RequestRefused

MAX_ACTION = 1_000_000


def settings(**values: Any) -> override_settings:
    """Return settings of a site that lets anonymous visitors start sessions."""
    return override_settings(OHSESSIONS={"ALLOW_ANONYMOUS": True, "MAX_ACTION_BYTES": MAX_ACTION} | values)


def scope(address: str = "192.0.2.1", user: Any = None, **headers: str) -> dict[str, Any]:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"client": (address, 4711), "user": user or AnonymousUser(), "headers": raw}


# Buckets


def test_actions_may_come_in_a_burst_and_then_as_fast_as_the_rate_says() -> None:
    clock = FakeClock()
    bucket = Bucket(4, 4 * ACTION_BURST_SECONDS, clock)
    assert [bucket.take() for _ in range(int(4 * ACTION_BURST_SECONDS))] == [0.0] * 40
    assert [bucket.take() for _ in range(3)] == [pytest.approx(0.25)] * 3
    clock.advance(0.2501)
    assert bucket.take() == 0.0
    assert bucket.take() > 0
    clock.advance(3600)
    assert [bucket.take() > 0 for _ in range(41)] == [*[False] * 40, True]


def test_without_a_rate_nothing_is_limited() -> None:
    bucket = Bucket(None, 0, FakeClock())
    assert not any(bucket.take(1000) for _ in range(10_000))


def test_what_is_larger_than_the_bucket_takes_a_full_one() -> None:
    clock = FakeClock()
    bucket = Bucket(1, 10, clock)
    assert bucket.take(257) == 0.0
    assert bucket.take(257) == pytest.approx(10)
    clock.advance(10)
    assert bucket.take(257) == 0.0


def test_bytes_count_towards_the_rate() -> None:
    assert (cost(0), cost(BYTES_PER_ACTION), cost(256 * BYTES_PER_ACTION)) == (1, 2, 257)


def test_keyed_buckets_are_dropped_when_they_are_full_again() -> None:
    clock = FakeClock()
    buckets = Buckets(lambda: 1.0, 10, clock)
    for number in range(10 * FEWEST_SWEPT):
        buckets.take(f"address {number}")
        clock.advance(0.1)
    assert len(buckets) <= FEWEST_SWEPT


def test_keyed_buckets_that_are_not_full_are_kept() -> None:
    clock = FakeClock()
    buckets = Buckets(lambda: 1.0, 10, clock)
    buckets.take("busy", 10)
    for number in range(10 * FEWEST_SWEPT):
        buckets.take(f"address {number}")
    assert buckets.take("busy") == pytest.approx(1)


# Counting


def test_a_limit_that_refuses_again_and_again_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    refusals = Refusals(clock)
    with caplog.at_level(logging.WARNING, logger=counters.__name__):
        for _ in range(100):
            refusals.count("RATE_LIMIT")
        refusals.count("INIT_RATE")
        clock.advance(LOG_EVERY)
        refusals.count("RATE_LIMIT")
    assert [record.getMessage() for record in caplog.records] == [
        "The limit RATE_LIMIT refused 1 request(s) (1 since this process began)",
        "The limit INIT_RATE refused 1 request(s) (1 since this process began)",
        "The limit RATE_LIMIT refused 100 request(s) (101 since this process began)",
    ]
    assert refusals.counts() == {"RATE_LIMIT": 101, "INIT_RATE": 1}


# Addresses


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "expected"),
    [
        ("10.0.0.1", ["6.6.6.6"], [], "10.0.0.1"),
        ("9.9.9.9", ["6.6.6.6"], ["10.0.0.0/8"], "9.9.9.9"),
        ("10.0.0.1", ["192.0.2.7"], ["10.0.0.0/8"], "192.0.2.7"),
        # The client itself wrote the leftmost entry.
        ("10.0.0.1", ["6.6.6.6, 192.0.2.7"], ["10.0.0.0/8"], "192.0.2.7"),
        ("10.0.0.1", ["6.6.6.6", "192.0.2.7, 10.0.0.2"], ["10.0.0.0/8"], "192.0.2.7"),
        ("10.0.0.1", ["10.0.0.9, 10.0.0.2"], ["10.0.0.0/8"], "10.0.0.9"),
        ("10.0.0.1", ["6.6.6.6, unknown, 10.0.0.2"], ["10.0.0.0/8"], "10.0.0.2"),
        ("10.0.0.1", [""], ["10.0.0.0/8"], "10.0.0.1"),
        ("10.0.0.1", [], ["10.0.0.0/8"], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["[2001:db8::1]:443"], ["10.0.0.0/8"], "2001:db8::1"),
        ("10.0.0.1", ["192.0.2.7:51000"], ["10.0.0.0/8"], "192.0.2.7"),
        ("", ["192.0.2.7"], ["10.0.0.0/8"], ""),
        ("", ["192.0.2.7"], ["unix"], "192.0.2.7"),
        ("10.0.0.1", ["192.0.2.7"], ["unix"], "10.0.0.1"),
    ],
)
def test_an_address_is_believed_only_from_trusted_proxies(
    peer: str, forwarded: list[str], trusted: list[str], expected: str
) -> None:
    assert client_address(peer, forwarded, X_FORWARDED_FOR, trusted) == expected


def test_the_header_of_rfc_7239_is_read() -> None:
    value = 'for=6.6.6.6;proto=http, for="[2001:db8::1]:4711";by=203.0.113.43'
    assert client_address("10.0.0.1", [value], FORWARDED, ["10.0.0.0/8"]) == "2001:db8::1"
    assert client_address("10.0.0.1", ["proto=https"], FORWARDED, ["10.0.0.0/8"]) == "10.0.0.1"


def test_an_ipv6_client_counts_by_its_network() -> None:
    assert limit_key("2001:db8:1:2:3:4:5:6") == limit_key("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert limit_key("2001:db8:1:3::9") != limit_key("2001:db8:1:2::9")
    assert limit_key("::ffff:192.0.2.1") == limit_key("192.0.2.1") == "192.0.2.1"
    assert limit_key("") == ""


def test_only_the_header_that_the_proxies_write_is_read() -> None:
    written = scope("10.0.0.1", forwarded="for=6.6.6.6", x_forwarded_for="192.0.2.7")
    with settings(TRUSTED_PROXIES=["10.0.0.1"]):
        assert addresses.address_of(written) == "192.0.2.7"
    with settings(TRUSTED_PROXIES=["10.0.0.1"], FORWARDED_HEADER="forwarded"):
        assert addresses.address_of(written) == "6.6.6.6"
    with settings():
        assert addresses.address_of(written) == "10.0.0.1"


# Guests


def refused(guests: Guests, **fields: Any) -> str:
    with pytest.raises(RequestRefused) as refusal:
        guests.admit(scope(**fields))
    assert refusal.value.status == 429
    return refusal.value.message


def test_connections_of_an_address_are_limited_until_one_leaves() -> None:
    with settings(MAX_CONNECTIONS_PER_ADDRESS=2):
        guests = Guests(FakeClock())
        first = guests.admit(scope())
        first.attach()
        guests.admit(scope())
        assert "your address" in refused(guests)
        guests.admit(scope("192.0.2.2"))
        first.leave()
        first.leave()
        guests.admit(scope())
        refused(guests)


def test_who_has_logged_in_is_counted_as_a_user_wherever_from() -> None:
    ann, bob = User(pk=1, username="ann"), User(pk=2, username="bob")
    with settings(MAX_CONNECTIONS_PER_USER=1, MAX_CONNECTIONS_PER_ADDRESS=1, MAX_UNATTACHED=1):
        guests = Guests(FakeClock())
        guests.admit(scope())
        mine = [guests.admit(scope(f"192.0.2.{number}", ann)) for number in range(1 + TOLD)]
        refused(guests, address="192.0.2.99", user=ann)
        guests.admit(scope(user=bob)).check_connections()
        with pytest.raises(WireError) as told:
            mine[-1].check_connections()
        assert (told.value.code, told.value.reason) == (429, "quota")


@pytest.mark.parametrize("name", ["MAX_UNATTACHED_PER_ADDRESS", "MAX_UNATTACHED"])
def test_unattached_connections_are_limited_until_they_attach(name: str) -> None:
    with settings(**{name: 1}):
        guests = Guests(FakeClock())
        first = guests.admit(scope())
        refused(guests)
        first.attach()
        second = guests.admit(scope())
        second.leave()
        guests.admit(scope())
        first.detach()
        refused(guests)


def test_guests_that_left_leave_nothing_behind() -> None:
    with settings():
        guests = Guests(FakeClock())
        for number in range(1000):
            guest = guests.admit(scope(f"192.0.2.{number % 250}"))
            guest.arriving(100)
            if number % 2:
                guest.attach()
                guest.arriving(100)
                guest.detach()
            guest.leave()
            guest.attach()
            guest.detach()
            guest.handled(100)
        assert [*guests.connections, *guests.unattached, *guests.held] == []
        assert len(guests.actions) <= FEWEST_SWEPT


def code(error: WireError | None) -> tuple[int, str] | None:
    return error and (error.code, error.reason)


def test_before_init_a_stranger_sends_small_events_where_only_a_token_helps() -> None:
    with settings(ALLOW_ANONYMOUS=False):
        guest = Guests(FakeClock()).admit(scope())
        assert code(guest.arriving(SMALL)) is None
        assert code(guest.arriving(SMALL + 1)) == (413, "too_large")
        guest.attach()
        assert code(guest.arriving(MAX_ACTION)) is None


def test_before_init_a_stranger_sends_one_large_action_in_all() -> None:
    with settings(RATE_LIMIT=None):
        guest = Guests(FakeClock()).admit(scope())
        assert code(guest.arriving(MAX_ACTION)) is None
        guest.handled(MAX_ACTION)
        assert code(guest.arriving(SMALL + 1)) == (413, "too_large")
        assert code(guest.arriving(SMALL)) is None  # an INIT must get through


def test_a_login_may_send_more_before_init() -> None:
    with settings(ALLOW_ANONYMOUS=False, RATE_LIMIT=None, USER_RATE_LIMIT=None):
        guest = Guests(FakeClock()).admit(scope(user=User(pk=1)))
        for _ in range(10):
            assert guest.arriving(MAX_ACTION) is None
            guest.handled(MAX_ACTION)


def test_what_waits_of_a_user_is_bounded_on_all_connections_together() -> None:
    with settings(RATE_LIMIT=None, USER_RATE_LIMIT=None):
        guests = Guests(FakeClock())
        tabs = [guests.admit(scope(user=User(pk=1))) for _ in range(HELD_AT_ONCE + 1)]
        for tab in tabs:
            tab.attach()
        *first, last = tabs
        assert [code(tab.arriving(MAX_ACTION)) for tab in first] == [None] * HELD_AT_ONCE
        assert code(last.arriving(MAX_ACTION)) == (429, "quota")
        first[0].handled(MAX_ACTION)
        assert code(last.arriving(MAX_ACTION)) is None


def test_what_a_stranger_holds_is_counted_for_its_session_once_it_has_one() -> None:
    with settings(RATE_LIMIT=None, USER_RATE_LIMIT=None):
        guests = Guests(FakeClock())
        guest = guests.admit(scope())
        guest.arriving(100)
        assert guests.held == {"stranger 192.0.2.1": 100}
        guest.attach()
        assert guests.held == {"192.0.2.1": 100}
        guest.detach()
        assert guests.held == {"stranger 192.0.2.1": 100}
        guest.handled(100)
        assert not guests.held


def test_all_unattached_connections_of_an_address_hold_a_bounded_number_of_bytes() -> None:
    with settings(USER_RATE_LIMIT=None):
        guests = Guests(FakeClock())
        strangers = [guests.admit(scope()) for _ in range(60)]
        answers = [code(stranger.arriving(MAX_ACTION)) for stranger in strangers]
        assert answers == [*[None] * HELD_AT_ONCE, *[(429, "quota")] * 56]
        assert guests.held["stranger 192.0.2.1"] == HELD_AT_ONCE * MAX_ACTION
        assert code(guests.admit(scope("192.0.2.2")).arriving(MAX_ACTION)) is None
        strangers[0].attach()
        assert code(strangers[1].arriving(SMALL)) is None


def test_one_rate_holds_for_all_connections_of_an_address() -> None:
    clock = FakeClock()
    with settings(USER_RATE_LIMIT=1):
        guests = Guests(clock)
        answers = [code(guests.admit(scope()).arriving(0)) for _ in range(int(ACTION_BURST_SECONDS) + 1)]
        assert answers == [*[None] * int(ACTION_BURST_SECONDS), (429, "rate")]
        assert code(guests.admit(scope("192.0.2.2")).arriving(0)) is None
        clock.advance(1.01)
        assert code(guests.admit(scope()).arriving(0)) is None


def inits(guest: Guest, count: int, *, is_new: bool) -> int:
    """Return how many of `count` INITs are let through."""
    errors: list[WireError] = []
    for _ in range(count):
        try:
            guest.check_init(is_new=is_new)
        except WireError as error:
            errors.append(error)
    assert {(error.code, error.reason) for error in errors} <= {(429, "rate")}
    assert all(error.extra["retry_after"] > 0 for error in errors)
    return count - len(errors)


def test_inits_are_limited_by_connection_user_and_address_and_new_sessions_strictly() -> None:
    ann = User(pk=1)
    with settings(INIT_RATE=5, INIT_RATE_PER_USER=7, INIT_RATE_PER_ADDRESS=9, START_RATE=2):
        guests = Guests(FakeClock())
        strangers = [guests.admit(scope()) for _ in range(3)]
        assert [inits(stranger, 10, is_new=False) for stranger in strangers] == [5, 4, 0]
        mine = [guests.admit(scope(user=ann)) for _ in range(3)]
        assert [inits(guest, 10, is_new=False) for guest in mine] == [5, 2, 0]
        other = [guests.admit(scope("192.0.2.2")) for _ in range(2)]
        assert [inits(guest, 3, is_new=True) for guest in other] == [2, 0]
        assert inits(other[1], 1, is_new=False) == 1


def test_a_thousand_clients_of_one_address_reconnect_at_once_with_the_defaults() -> None:
    with settings():
        guests = Guests(FakeClock())
        lost = [guests.admit(scope()) for _ in range(1000)]
        for guest in lost:  # the server does not know yet that they are gone
            guest.attach()
        again = [guests.admit(scope()) for _ in range(1000)]
        assert sum(inits(guest, 1, is_new=False) for guest in again) == 1000


# Held bytes


def held() -> tuple[Guests, Held]:
    guests = Guests(FakeClock())
    return guests, Held(guests.admit(scope()))


def waits(size: int) -> HeldAction:
    return HeldAction(b"x" * size, None, None)


def test_what_is_held_is_bounded_in_size() -> None:
    with settings(MAX_ACTION_BYTES=1000):
        guests, waiting = held()
        waiting.put(waits(600))
        with pytest.raises(WireError) as error:
            waiting.put(waits(401))
        assert (error.value.code, error.value.reason) == (409, "not_attached")
        waiting.put(waits(400))
        assert guests.held["stranger 192.0.2.1"] == 1000
        assert waiting.take_all() == [waits(600), waits(400)]
        assert not guests.held


def test_what_is_held_is_bounded_in_number() -> None:
    with settings():
        _, waiting = held()
        for _ in range(HELD_ACTIONS):
            waiting.put(waits(1))
        with pytest.raises(WireError):
            waiting.put(waits(1))
