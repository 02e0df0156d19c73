"""The login page of the reference site, and attempts to guess passwords there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.db import connections
from django.test import Client, override_settings

from project import logins

PASSWORD = "the right one"


@pytest.fixture
def ann(db: None) -> Any:
    cache.clear()
    yield get_user_model().objects.create_superuser("ann", password=PASSWORD)
    cache.clear()


def log_in(name: str, password: str = "wrong", address: str = "203.0.113.1", **headers: str) -> Any:
    form = {"username": name, "password": password}
    return Client(REMOTE_ADDR=address, headers=headers).post("/admin/login/?next=/admin/", form)


def test_guesses_are_answered_with_429_and_the_right_password_among_them(ann: Any) -> None:
    answers = [log_in("ann") for _ in range(logins.TRIES)]
    assert [answer.status_code for answer in answers] == [200] * logins.TRIES
    refused = log_in(" ANN ", PASSWORD)
    assert refused.status_code == 429
    assert 0 < int(refused["Retry-After"]) <= logins.WINDOW


def test_a_stranger_does_not_lock_the_account_for_its_owner(ann: Any) -> None:
    for _ in range(2 * logins.TRIES):
        log_in("ann")
    assert log_in("ann", PASSWORD, address="203.0.113.2").status_code == 302


def test_the_right_password_makes_earlier_slips_forgotten(ann: Any) -> None:
    for _ in range(3):
        for _ in range(logins.TRIES - 1):
            assert log_in("ann").status_code == 200
        assert log_in("ann", PASSWORD).status_code == 302


def test_one_address_tries_few_passwords_on_many_accounts(ann: Any) -> None:
    statuses = [log_in(f"user{number}").status_code for number in range(logins.ADDRESS_TRIES + 1)]
    assert statuses == [200] * logins.ADDRESS_TRIES + [429]
    assert log_in("ann", PASSWORD, address="203.0.113.2").status_code == 302


def test_an_address_is_the_one_that_trusted_proxies_tell(ann: Any) -> None:
    for number in range(logins.TRIES):
        assert log_in("ann", **{"X-Forwarded-For": f"198.51.100.{number}"}).status_code == 200
    assert log_in("ann", **{"X-Forwarded-For": "198.51.100.99"}).status_code == 429
    with override_settings(OHSESSIONS={"TRUSTED_PROXIES": ["203.0.113.1"]}):
        assert log_in("ann", PASSWORD, **{"X-Forwarded-For": "198.51.100.99"}).status_code == 302


@pytest.mark.django_db(transaction=True)
def test_of_many_guesses_at_once_no_more_are_looked_at(ann: Any) -> None:
    def guess(number: int) -> int:
        try:
            return int(log_in("ann").status_code)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(guess, range(24)))
    assert statuses.count(200) == logins.TRIES
    assert statuses.count(429) == 24 - logins.TRIES


def test_looking_at_the_form_and_other_pages_is_not_counted(ann: Any) -> None:
    client = Client(REMOTE_ADDR="203.0.113.1")
    for _ in range(2 * logins.ADDRESS_TRIES):
        assert client.get("/admin/login/").status_code == 200
    assert log_in("ann", PASSWORD).status_code == 302
