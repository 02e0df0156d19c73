"""Each unsafe combination of settings causes a warning at deployment, with a setting that fixes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.core import checks
from django.test import override_settings

from ohsessions.checks import TAG
from ohsessions.exposure import is_weak_key, proxy_headers_risk

ROOT = Path(__file__).parents[2]
GOOD_KEY = "Zk3bq0VYw8mT5rXcE1uHnS7dPfLaG2oJ"
GITHUB = {"GITHUB_TOKEN_CHECK": "ohsessions.access.github.AllowedLogins", "GITHUB_LOGINS": ["ann"]}
SAFE: dict[str, Any] = {"ALLOWED_HOSTS": ["sessions.example.org"], "DEBUG": False}


def warned(site: dict[str, Any] | None = None, **django: Any) -> dict[str, str]:
    """Return the ids of this module's warnings, with their hints."""
    with override_settings(OHSESSIONS=site or {}, **SAFE | django):
        found = checks.run_checks(tags=[TAG], include_deployment_checks=True)
    mine = [message for message in found if message.id and message.id > "ohsessions.W003"]
    return {str(message.id): str(message.hint) for message in mine}


def test_a_site_with_the_defaults_is_warned_of_nothing() -> None:
    assert warned() == {}


@pytest.mark.parametrize(
    ("site", "django", "id", "hint"),
    [
        ({"ALLOW_ANONYMOUS": True}, {}, "W004", "have people log in"),
        ({"ALLOWED_ORIGINS": ["https://example.org", "*"]}, {}, "W005", "List the pages"),
        ({}, {"ALLOWED_HOSTS": ["example.org", "*"]}, "W006", "List the names"),
        ({"ALLOW_TOKEN_IN_QUERY": True}, {}, "W007", "Authorization: Bearer"),
        ({"RATE_LIMIT": None}, {}, "W008", "for its default"),
        ({"MAX_UNATTACHED": None}, {}, "W008", "for its default"),
        ({"INIT_RATE": None, "BYTE_RATE": None}, {}, "W008", "for its default"),
        ({"SECRETS_KEYS": [GOOD_KEY, "short"]}, {}, "W009", "secrets.token_urlsafe"),
        ({}, {"SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https")}, "W010", "Name its network"),
        (GITHUB | {"GITHUB_API_URL": "http://github.example"}, {}, "W012", "https://"),
        ({}, {"USE_X_FORWARDED_HOST": True}, "W010", "Name its network"),
        ({"TRUSTED_PROXIES": ["127.0.0.1", "0.0.0.0/0"]}, {}, "W011", "proxies alone"),
        ({"TRUSTED_PROXIES": ["::/0"]}, {}, "W011", "proxies alone"),
    ],
)
def test_what_opens_a_site_is_warned_of_with_what_to_write_instead(
    site: dict[str, Any], django: dict[str, Any], id: str, hint: str
) -> None:
    found = warned(site, **django)
    assert [*found] == [f"ohsessions.{id}"]
    assert hint in found[f"ohsessions.{id}"]


def test_a_proxy_that_is_none_does_not_break_the_check() -> None:
    assert warned({"TRUSTED_PROXIES": ["no network"]}) == {}


def test_proxies_of_a_private_network_are_not_warned_of() -> None:
    proxies = ["unix", "127.0.0.1", "10.0.0.0/8", "fd00::/8", "fc00::/7"]
    assert (
        warned({"TRUSTED_PROXIES": proxies}, SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"))
        == {}
    )


@pytest.mark.parametrize("address", ["https://api.github.com", "http://127.0.0.1:9", "http://localhost"])
def test_tokens_that_are_sent_by_https_or_to_this_host_are_not_warned_of(address: str) -> None:
    assert warned(GITHUB | {"GITHUB_API_URL": address}) == {}


def test_each_id_of_a_check_stands_in_one_module_and_in_its_table() -> None:
    modules: dict[str, set[Path]] = {}
    for path in (ROOT / "ohsessions").rglob("*.py"):
        text = path.read_text()
        for name in re.findall(r'id="ohsessions\.([EW]\d+)"', text):
            modules.setdefault(name, set()).add(path)
            assert re.search(rf"\b{name} ", text.partition('"""')[2].partition('"""')[0]), (name, path)
    assert len(modules) > 20
    assert {name: where for name, where in modules.items() if len(where) > 1} == {}


@pytest.mark.parametrize("bind", ["0.0.0.0", "[::]", "::", "10.0.0.5", "sessions.example.org"])
def test_proxy_headers_on_an_address_that_others_reach_are_warned_of(bind: str) -> None:
    assert "TRUSTED_PROXIES" in (proxy_headers_risk(bind) or "")


@pytest.mark.parametrize("bind", ["127.0.0.1", "127.0.0.9", "[::1]", "::1", "localhost"])
def test_proxy_headers_on_this_host_are_not_warned_of(bind: str) -> None:
    assert proxy_headers_risk(bind) is None


def test_a_developers_machine_is_not_warned_of_strangers() -> None:
    assert warned(DEBUG=True) == {}


@pytest.mark.parametrize(
    "key",
    ["", "short", "a" * 60, "abcd" * 10, "password" * 5, "django-insecure-" + GOOD_KEY, "Secret " + GOOD_KEY],
)
def test_a_key_that_can_be_guessed_is_weak(key: str) -> None:
    assert is_weak_key(key)


@pytest.mark.parametrize("key", [GOOD_KEY, "0123456789abcdef0123456789abcdee", GOOD_KEY * 2 + "x"])
def test_a_random_key_is_not_weak(key: str) -> None:
    assert not is_weak_key(key)
