"""Each mistake in the settings is found by its check, and no check objects to correct settings."""

import pytest
from django.core import checks
from django.test import override_settings

from ohsessions.checks import TAG
from ohsessions.core.runtime import Runtime
from ohsessions.runtimes import shell
from tests.requirements import find_bwrap, require

SQLITE = {"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode = WAL;"}
RUNTIMES = {"own": {"BACKEND": f"{__name__}.OwnRuntime"}}


class OwnRuntime(Runtime):
    pass


def run_checks(**kwargs):
    return checks.run_checks(tags=[TAG], **kwargs)


def found_messages(site, **kwargs):
    with override_settings(OHSESSIONS={"RUNTIMES": RUNTIMES} | site):
        return run_checks(**kwargs)


def found(site, **kwargs):
    return [(message.id, message.hint) for message in found_messages(site, **kwargs)]


def ids(site, **kwargs):
    return [id for id, _ in found(site, **kwargs)]


def test_the_defaults_with_a_runtime_of_ones_own_are_clean():
    assert ids({}) == []


@pytest.mark.parametrize(
    "site",
    [
        {"CLOSE_DELAY": None},
        {"CLOSE_DELAY": 0},
        {"CLOSE_DELAY": 0.5},
        {"ALLOWED_ORIGINS": ["https://example.org", "*"]},
        {"ALLOWED_ORIGINS": ["https://example.org", "https://localhost:8443"]},
        {"ALLOWED_ORIGINS": []},
        {"WORKSPACE_ROOT": "/srv/workspaces"},
        {"RUNTIMES": {"own": {"BACKEND": f"{__name__}.OwnRuntime", "OPTIONS": {"depth": [1]}}}},
        {"HEARTBEAT": 1, "LEASE_TTL": 3},
        {"PATH": "deep/socket.io/"},
    ],
)
def test_right_values_are_accepted(site):
    assert ids(site) == []


def test_settings_that_are_no_dict_are_refused():
    with override_settings(OHSESSIONS=[("CLOSE_DELAY", 1)]):
        assert [message.id for message in run_checks()] == ["ohsessions.E001"]


def test_a_misspelled_setting_is_refused_with_the_one_that_was_meant():
    assert found({"CLOSE_DELY": 1}) == [("ohsessions.E002", "Did you mean 'CLOSE_DELAY'?")]
    assert found({"close_delay": 1}) == [("ohsessions.E002", "Did you mean 'CLOSE_DELAY'?")]


@pytest.mark.parametrize(
    "site",
    [
        {"CLOSE_DELAY": "15"},
        {"HEARTBEAT": None},
        {"HEARTBEAT": True},
        {"MAX_ACTION_BYTES": 1.5},
        {"ALLOW_ANONYMOUS": 1},
        {"ALLOWED_ORIGINS": "https://example.org"},
        {"SECRETS_KEYS": [b"key"]},
        {"RUNTIMES": {"own": f"{__name__}.OwnRuntime"}},
        {"RUNTIMES": {"own": {"OPTIONS": {}}}},
        {"RUNTIMES": {"own": {"BACKEND": f"{__name__}.OwnRuntime", "OPTION": {}}}},
        {"DEFAULT_RUNTIME": None},
    ],
)
def test_a_value_of_the_wrong_type_is_refused(site):
    assert ids(site) == ["ohsessions.E003"]


@pytest.mark.parametrize(
    "site",
    [
        {"CLOSE_DELAY": -1},
        {"CLOSE_DELAY": float("nan")},
        {"HEARTBEAT": 4},
        {"LEASE_TTL": 5.9},
        {"PATH": "/socket.io/"},
        {"PATH": "socket.io"},
        {"ALLOWED_ORIGINS": ["https://example.org/"]},
        {"ALLOWED_ORIGINS": ["example.org"]},
        {"MAX_RUNNING_PER_USER": 0},
    ],
)
def test_a_value_out_of_range_is_refused(site):
    assert ids(site) == ["ohsessions.E004"]


def test_a_default_runtime_that_does_not_exist_is_refused_with_those_that_do():
    assert found({"DEFAULT_RUNTIME": "shell"}) == [("ohsessions.E005", "One of: own.")]
    assert ids({"RUNTIMES": {}}) == ["ohsessions.E005"]


@pytest.mark.parametrize("backend", ["nowhere.Runtime", "builtins.dict", "builtins.len", "no dots"])
def test_a_backend_that_is_no_runtime_is_refused(backend):
    assert ids({"RUNTIMES": {"own": {"BACKEND": backend}}}) == ["ohsessions.E006"]


@pytest.mark.parametrize("layers", [{}, {"other": {"BACKEND": "x"}}])
def test_a_site_without_a_channel_layer_is_refused(layers):
    with override_settings(CHANNEL_LAYERS=layers):
        assert ids({}) == ["ohsessions.E007"]


@pytest.mark.parametrize("name", ["ACCESS_POLICY", "GITHUB_TOKEN_CHECK"])
@pytest.mark.parametrize("path", ["nowhere.Policy", "builtins.dict", "builtins.len"])
def test_a_class_that_decides_who_may_do_what_and_is_none_is_refused(name, path):
    assert ids({name: path}) == ["ohsessions.E008"]


def test_a_check_of_github_tokens_without_people_or_an_address_is_refused():
    check = {"GITHUB_TOKEN_CHECK": "ohsessions.access.github.AllowedLogins"}
    assert ids(check) == ["ohsessions.E004"]
    assert ids(check | {"GITHUB_LOGINS": ["ann"]}) == []
    assert ids(check | {"GITHUB_LOGINS": ["ann"], "GITHUB_API_URL": "api.github.com"}) == ["ohsessions.E004"]


SHELL = "ohsessions.runtimes.shell.ShellRuntime"


@pytest.mark.parametrize("options", [{"sandbox": "none"}, {"network": True}])
def test_a_shell_without_a_sandbox_is_warned_of_at_deployment_without_debug_only(options):
    site = {"RUNTIMES": {"shell": {"BACKEND": SHELL, "OPTIONS": options}}}
    layers = {"default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer"}}
    with override_settings(CHANNEL_LAYERS=layers):
        assert "ohsessions.W001" in ids(site, include_deployment_checks=True)
        assert "ohsessions.W001" not in ids(site)
        with override_settings(DEBUG=True):
            assert "ohsessions.W001" not in ids(site, include_deployment_checks=True)


def test_a_shell_in_its_sandbox_is_not_warned_of():
    require(find_bwrap)
    site = {"RUNTIMES": {"shell": {"BACKEND": SHELL}}}
    assert "ohsessions.W001" not in ids(site, include_deployment_checks=True)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"sandbox": "strong"}, "sandbox"),
        ({"memory": 5}, "memory"),
        ({"processes": 0}, "processes"),
        ({"cpu_seconds": True}, "cpu_seconds"),
        ({"env": {"A": 1}}, "env"),
        ({"readable": "/opt"}, "readable"),
    ],
)
def test_options_that_a_shell_does_not_have_are_refused(options, name):
    site = {"RUNTIMES": {"shell": {"BACKEND": SHELL, "OPTIONS": options}}}
    (message,) = found_messages(site)
    assert message.id == "ohsessions.E009"
    assert f"'{name}'" in message.msg


def test_a_sandbox_that_is_asked_for_and_missing_is_an_error_that_says_why(monkeypatch):
    monkeypatch.setattr(shell, "why_no_sandbox", lambda: "there is no bwrap: install bubblewrap")
    site = {"RUNTIMES": {"shell": {"BACKEND": SHELL, "OPTIONS": {"sandbox": "bwrap"}}}}
    (message,) = found_messages(site)
    assert "install bubblewrap" in message.msg


def test_a_channel_layer_in_memory_is_warned_of_at_deployment():
    layers = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    with override_settings(CHANNEL_LAYERS=layers):
        assert ids({}, include_deployment_checks=True) == ["ohsessions.W003"]
        assert ids({}) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (SQLITE, []),
        ({}, ["ohsessions.W002"]),
        (SQLITE | {"transaction_mode": None}, ["ohsessions.W002"]),
        (SQLITE | {"init_command": ""}, ["ohsessions.W002"]),
    ],
)
def test_sqlite_that_would_be_locked_under_load_is_warned_of(options, expected, monkeypatch):
    from django.db import connection

    if connection.vendor != "sqlite":
        pytest.skip("This run's database is not SQLite.")
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)
    assert ids({}, databases=["default"]) == expected


@pytest.mark.parametrize(
    ("hosts", "debug", "expected"),
    [
        (["example.org"], False, ["ohsessions.W021"]),
        (["partner.net"], False, []),
        ([".partner.net"], False, []),
        (["*"], False, []),
        ([], True, ["ohsessions.W021"]),
    ],
)
def test_origins_that_leave_out_the_sites_own_are_warned_of(hosts, debug, expected):
    with override_settings(ALLOWED_HOSTS=hosts, DEBUG=debug):
        assert ids({"ALLOWED_ORIGINS": ["https://partner.net:8443"]}) == expected
