"""Fixtures for everything that tests need beyond Python: Redis and PostgreSQL. See `tests.requirements`."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.apps import apps
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.management import create_contenttypes
from django.contrib.contenttypes.models import ContentType
from django.db.models.signals import post_migrate

from ohsessions.processes.ending import ending
from tests import requirements
from tests.requirements import RedisServer, require

SERVICES = {"postgres_url", "redis_url", "redis_server", "node", "chromium"}


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test that needs more than Python and SQLite, so that `-m 'not service'` leaves it out."""
    assert isinstance(item, pytest.Function)
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if SERVICES & set(item.fixturenames) or parameters.get("database") == "postgresql":
        item.add_marker("service")


def pytest_collection_finish() -> None:
    """Exempt everything that is imported from garbage collection: it stays, and examining it takes long."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> None:
    """After a test that emptied all tables, restore content types and permissions from memory.

    Django would compute them again, which takes longer than most tests.
    """
    with django_db_blocker.unblock():
        made = {model: list(model.objects.all()) for model in (ContentType, Permission)}
    post_migrate.disconnect(create_contenttypes)
    post_migrate.disconnect(dispatch_uid="django.contrib.auth.management.create_permissions")

    def restore(using: str, **kwargs: Any) -> None:
        for model, rows in made.items():
            model.objects.using(using).bulk_create(rows)

    post_migrate.connect(restore, sender=apps.get_app_config("auth"), weak=False)


@pytest.fixture(autouse=True)
def process_goes_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Fail a test in which this process would have ended itself.

    If a test expects an end, it removes the entry from the list: the sentence of a failure, or "drained".
    """
    ends: list[str] = []
    monkeypatch.setattr(ending, "failure", None)
    monkeypatch.setattr(ending, "begin", lambda: ends.append(ending.failure or "drained"))
    yield ends
    assert ends == []


@pytest.fixture(scope="session")
def node() -> str:
    return require(requirements.find_node)


@pytest.fixture(scope="session")
def chromium() -> str:
    return require(requirements.find_chromium)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Yield the address of one Redis for the whole run. Tests that stop or flush Redis use `redis_server`."""
    servers = requirements.run_redis()
    yield require(lambda: next(servers))
    servers.close()


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """Yield a running Redis that belongs to this test alone."""
    server = RedisServer(require(requirements.find_redis_server))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Yield the address of one PostgreSQL for the whole run: that of its maintenance database."""
    servers = requirements.run_postgres()
    yield require(lambda: next(servers))
    servers.close()


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """Yield the DATABASE_URL of an empty database that belongs to this test alone."""
    name = f"ohsessions_{uuid4().hex}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        yield postgres_url.rsplit("/", 1)[0] + "/" + name
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
