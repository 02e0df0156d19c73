"""Fixtures for everything that tests need beyond Python: Redis and PostgreSQL. See `tests.requirements`."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest

from ohsessions.processes.ending import ending
from tests import requirements
from tests.requirements import RedisServer, require


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
