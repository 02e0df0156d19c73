"""A database that ohsessions cannot work with is found before anything is stored in it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from django.core.checks import CheckMessage
from django.db import connections
from django.test import override_settings

from ohsessions import database_checks
from ohsessions.database_checks import check_pool, check_routers, check_vendor


def ids(messages: list[CheckMessage]) -> list[str | None]:
    return [message.id for message in messages]


@pytest.mark.parametrize("vendor", ["mysql", "oracle", "microsoft", "unknown"])
def test_a_vendor_whose_locks_are_not_known_is_an_error(vendor, monkeypatch):
    monkeypatch.setattr(connections["default"], "vendor", vendor)
    assert ids(check_vendor(None)) == ["ohsessions.E020"]


@pytest.mark.parametrize("vendor", ["sqlite", "postgresql"])
def test_both_supported_vendors_are_accepted(vendor, monkeypatch):
    monkeypatch.setattr(connections["default"], "vendor", vendor)
    assert check_vendor(None) == []


class Router:
    """A router that sends the models in `reads` and `writes` to `replica`, and leaves the rest to others."""

    reads: Any = ()
    writes: Any = ()

    def db_for_read(self, model, **hints):
        return "replica" if model._meta.label in self.reads else None

    def db_for_write(self, model, **hints):
        return "replica" if model._meta.label in self.writes else None


def routed(router: type) -> list[str | None]:
    with override_settings(DATABASE_ROUTERS=[router()]):
        return ids(check_routers(None))


def test_a_router_may_send_other_apps_where_it_likes():
    assert routed(type("Own", (Router,), {"reads": ["sessions.Session"], "writes": ["admin.LogEntry"]})) == []


@pytest.mark.parametrize("side", ["reads", "writes"])
@pytest.mark.parametrize("label", ["ohsessions.Event", "ohsessions.Session", "auth.User"])
def test_a_router_that_leads_elsewhere_is_an_error(side, label):
    assert routed(type("Astray", (Router,), {side: [label]})) == ["ohsessions.E021"]


def test_a_router_that_chooses_among_replicas_in_turn_is_found():
    turns = itertools.cycle(["default", "default", "replica"])

    class Balancing(Router):
        def db_for_read(self, model, **hints):
            return next(turns)

    assert set(routed(Balancing)) == {"ohsessions.E021"}


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (None, []),
        (False, []),
        (True, ["ohsessions.E022"]),
        ({"min_size": 1, "max_size": 8}, ["ohsessions.E022"]),
        ({"min_size": 1, "max_size": 9}, ["ohsessions.W020"]),
        ({"min_size": 12}, ["ohsessions.W020"]),
        ({"min_size": 1, "max_size": 13}, []),
        ({"min_size": 16}, []),
    ],
    ids=repr,
)
def test_a_pool_has_to_have_a_connection_for_each_thread_and_some_for_pages(pool, expected, monkeypatch):
    monkeypatch.setitem(connections["default"].settings_dict, "OPTIONS", {"pool": pool})
    assert ids(check_pool(None)) == expected


def test_a_pool_that_is_too_small_is_told_the_number(monkeypatch):
    monkeypatch.setitem(connections["default"].settings_dict, "OPTIONS", {"pool": True})
    (message,) = check_pool(None)
    needed = database_checks.THREADS + database_checks.PAGES
    assert (needed, f"{needed} at least" in str(message.hint)) == (13, True)
