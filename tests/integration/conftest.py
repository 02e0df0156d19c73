"""Databases for tests of stored data: the default one, and PostgreSQL in the same process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import dj_database_url
import psycopg
import pytest
from django.core.management import call_command
from django.db import connection, connections

from ohsessions.database import attempts as database_connections
from ohsessions.database import storage
from tests.integration.world import World


@pytest.fixture(scope="session")
def postgres_settings(postgres_url: str, django_db_setup: None, django_db_blocker: Any) -> Iterator[Any]:
    """Yield the entry in DATABASES for a migrated PostgreSQL database of this run."""
    name = f"ohsessions_{uuid4().hex}"
    entry: Any = dj_database_url.parse(postgres_url.rsplit("/", 1)[0] + "/" + name)
    entry["OPTIONS"] = {"options": "-c lock_timeout=5000"}
    settings = connections.configure_settings({"default": entry})["default"]
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(f'CREATE DATABASE "{name}"')
        with django_db_blocker.unblock():
            _use(settings, lambda: call_command("migrate", verbosity=0))
        yield settings
        server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _use(settings: Any, job: Any) -> None:
    before, main = connections.settings["default"], connections["default"]
    connections.settings["default"] = settings
    del connections["default"]
    try:
        job()
    finally:
        connections.close_all()
        connections.settings["default"] = before
        connections["default"] = main


@pytest.fixture
def postgres(transactional_db: None, postgres_settings: Any) -> Iterator[None]:
    """Make an empty PostgreSQL the default database in all threads that start from now on."""
    before, main = connections.settings["default"], connections["default"]
    connections.settings["default"] = postgres_settings
    del connections["default"]
    yield
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE ohsessions_session, ohsessions_process, auth_user CASCADE")
    connections.close_all()
    connections.settings["default"] = before
    connections["default"] = main


@pytest.fixture
def no_outage() -> None:
    """End all outages that an earlier test began and no later call ended."""
    for outage in (database_connections._outage, storage):
        outage.lasts = False


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, transactional_db: None, no_outage: None) -> str:
    """Return the vendor of the database; each test runs on both."""
    if request.param == "postgresql":
        request.getfixturevalue("postgres")
    elif connection.vendor != request.param:
        pytest.skip("the default database is another one")
    return str(request.param)


@pytest.fixture
def world(database: str) -> Iterator[World]:
    with World.made() as made:
        yield made
