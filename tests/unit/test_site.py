"""The reference site: its settings from the environment, its console page, and its headers."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django.http import HttpResponse
from django.test import Client, RequestFactory, override_settings

from ohsessions.conf import Settings
from project.logs import LineFormatter
from project.middleware import content_security_policy

ROOT = Path(__file__).parents[2]
SHOW = """
import json
from project import settings
print(json.dumps({name: getattr(settings, name) for name in dir(settings) if name.isupper()}, default=str))
"""


class Site:
    """A copy of the site's settings in a directory of its own, so that a developer's var/ has no effect."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        shutil.copytree(ROOT / "project", directory / "project")

    def load(self, **variables: str) -> subprocess.CompletedProcess[str]:
        strange = ("DJANGO_", "OHSESSIONS_", "DATABASE_URL", "REDIS_URL")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(strange)}
        path = f"{self.directory}{os.pathsep}{ROOT}"
        command = [sys.executable, "-c", SHOW]
        environment = kept | {"PYTHONPATH": path} | variables
        return subprocess.run(
            command, cwd=self.directory, env=environment, capture_output=True, text=True, timeout=60
        )

    def settings(self, **variables: str):
        result = self.load(**variables)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_without_a_key_and_without_debug_the_site_refuses_and_says_what_to_do(site: Site):
    result = site.load()
    assert result.returncode != 0
    assert "Set DJANGO_SECRET_KEY" in result.stderr


def test_the_key_comes_from_the_environment_or_else_from_the_file(site: Site):
    (site.directory / "var").mkdir()
    (site.directory / "var" / "secret_key").write_text("from the file\n")
    assert site.settings()["SECRET_KEY"] == "from the file"
    assert site.settings(DJANGO_SECRET_KEY="given")["SECRET_KEY"] == "given"


def test_the_defaults_are_those_of_production(site: Site):
    settings = site.settings(DJANGO_SECRET_KEY="x")
    assert settings["DEBUG"] is False
    assert settings["SESSION_COOKIE_SECURE"] is True
    options = settings["DATABASES"]["default"]["OPTIONS"]
    assert options["transaction_mode"] == "IMMEDIATE"
    assert "synchronous=FULL" in options["init_command"]
    assert "InMemory" in settings["CHANNEL_LAYERS"]["default"]["BACKEND"]


def test_no_site_has_a_shell_unless_it_is_named_with_debug_neither(site: Site):
    assert "RUNTIMES" not in site.settings(DJANGO_DEBUG="1")["OHSESSIONS"]
    assert [*Settings.RUNTIMES] == ["echo"]


def test_postgresql_waits_for_no_lock_longer_than_a_lease(site: Site):
    settings = site.settings(
        DJANGO_SECRET_KEY="x", DATABASE_URL="postgresql://u@127.0.0.1/name", OHSESSIONS_LEASE_TTL="4"
    )
    options = settings["DATABASES"]["default"]["OPTIONS"]["options"]
    assert options == "-c lock_timeout=2000 -c idle_in_transaction_session_timeout=3200"


def test_a_database_whose_host_vanished_is_given_up_within_a_lease(site: Site):
    """Without limits of its own, a connection waits a quarter of an hour, or for ever."""
    settings = site.settings(
        DJANGO_SECRET_KEY="x", DATABASE_URL="postgresql://u@127.0.0.1/name", OHSESSIONS_LEASE_TTL="12"
    )
    options = settings["DATABASES"]["default"]["OPTIONS"]
    assert options["tcp_user_timeout"] == 12_000
    probing = options["keepalives_idle"] + options["keepalives_count"] * options["keepalives_interval"]
    assert probing <= 12
    assert options["connect_timeout"] + options["pool"]["timeout"] < 12


def test_redis_makes_the_layer_a_shared_one(site: Site):
    settings = site.settings(DJANGO_SECRET_KEY="x", REDIS_URL="redis://127.0.0.1:1/0")
    (host,) = settings["CHANNEL_LAYERS"]["default"]["CONFIG"]["hosts"]
    assert host["address"] == "redis://127.0.0.1:1/0"


def test_settings_of_ohsessions_are_json_or_bare_words(site: Site):
    settings = site.settings(
        DJANGO_SECRET_KEY="x",
        OHSESSIONS_CLOSE_DELAY="null",
        OHSESSIONS_HEARTBEAT="0.5",
        OHSESSIONS_DEFAULT_RUNTIME="echo",
        OHSESSIONS_ALLOWED_ORIGINS='["https://example.org"]',
        OHSESSIONS_TYPO="1",
        OHSESSIONS_TEST_REQUIRE="all",
    )
    assert settings["OHSESSIONS"] == {
        "CLOSE_DELAY": None,
        "HEARTBEAT": 0.5,
        "DEFAULT_RUNTIME": "echo",
        "ALLOWED_ORIGINS": ["https://example.org"],
        "TYPO": 1,
    }


def test_secrets_may_lie_in_files_that_the_environment_names(site: Site, tmp_path: Path):
    for name, content in {"key": "from a file\n", "password": "p/w:@\n", "keys": '["one"]\n'}.items():
        (tmp_path / name).write_text(content)
    settings = site.settings(
        DJANGO_SECRET_KEY_FILE=str(tmp_path / "key"),
        DATABASE_URL="postgresql://u@127.0.0.1/name",
        DATABASE_PASSWORD_FILE=str(tmp_path / "password"),
        OHSESSIONS_SECRETS_KEYS_FILE=str(tmp_path / "keys"),
    )
    assert settings["SECRET_KEY"] == "from a file"
    assert settings["DATABASES"]["default"]["PASSWORD"] == "p/w:@"
    assert settings["OHSESSIONS"]["SECRETS_KEYS"] == ["one"]


def test_a_flag_that_is_neither_yes_nor_no_is_refused(site: Site):
    assert "DJANGO_DEBUG='maybe'" in site.load(DJANGO_DEBUG="maybe").stderr


@pytest.mark.django_db
def test_the_console_is_told_what_it_needs_and_gets_a_csrf_cookie():
    page = "/s/6f0b2b58-8a54-4fc2-9b5c-0123456789ab"
    response = Client().get(page)
    config = response.context["config"]
    assert config["session_id"] == page.removeprefix("/s/")
    assert config["user"] == {"name": "", "authenticated": False}
    assert (config["path"], config["api"]) == ("/socket.io/", "/api/sessions/")
    assert config["login_url"] == "/admin/login/"
    assert "csrftoken" in response.cookies


@pytest.mark.django_db
@pytest.mark.parametrize(("secure", "socket"), [(False, "ws://testserver"), (True, "wss://testserver")])
def test_pages_may_connect_to_their_own_host_only(secure: bool, socket: str):
    policy = Client().get("/admin/login/", secure=secure).headers["Content-Security-Policy"]
    assert f"connect-src 'self' {socket};" in policy
    assert "unsafe" not in policy


def test_a_host_that_is_not_ours_does_not_get_into_the_policy():
    respond = content_security_policy(lambda request: HttpResponse())
    with override_settings(ALLOWED_HOSTS=["ours.example"]):
        response = respond(RequestFactory().get("/", headers={"host": "evil.example"}))
    assert "connect-src 'self';" in response.headers["Content-Security-Policy"]


def test_a_log_record_is_one_line_whatever_it_says():
    record = logging.LogRecord("x", logging.INFO, "f", 1, "user %s", ("a\nINFO x: forged\r",), None)
    assert LineFormatter("{message}", style="{").format(record) == "user a\\nINFO x: forged\\r"
