"""Fixtures: running sites and clusters, and clients that are closed after the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cluster import Cluster
from tests.acceptance.raw import RawClient
from tests.acceptance.site import Client, Site
from tests.no_limits import NO_LIMITS
from tests.requirements import RedisServer


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Yield a function that starts a site with some settings. The sites are stopped after the test."""
    sites: list[Site] = []

    def make(**settings: Any) -> Site:
        folder = tmp_path / f"site{len(sites)}"
        folder.mkdir()
        site = Site(folder, **settings)
        sites.append(site)
        site.start()
        return site

    yield make
    for site in sites:
        site.stop()


@pytest.fixture(scope="module")
def make_shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Site]]:
    """Yield a function that starts a site for all tests of a module, without limits per address."""
    sites: list[Site] = []

    def make(**settings: Any) -> Site:
        site = Site(tmp_path_factory.mktemp("shared"), **NO_LIMITS | settings)
        sites.append(site)
        site.start()
        return site

    yield make
    for site in sites:
        site.stop()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site(CLOSE_DELAY=1)


@pytest.fixture
def make_cluster(
    tmp_path: Path, postgres_database: str, redis_server: RedisServer
) -> Iterator[Callable[..., Cluster]]:
    """Yield a function that starts a cluster, over a database and a Redis of this test alone."""
    clusters: list[Cluster] = []

    def make(gateways: int = 2, workers: int = 2, **settings: Any) -> Cluster:
        made = Cluster(tmp_path, postgres_database, redis_server.url, gateways, workers, **settings)
        clusters.append(made)
        made.start()
        return made

    yield make
    for cluster in clusters:
        cluster.stop()


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Awaitable[Client]]]:
    """Yield a function that connects a client to a site."""
    clients: list[Client] = []

    async def connect_to(site: Site, **options: Any) -> Client:
        client = Client(site.url, **options)
        clients.append(client)
        return await client.connect()

    yield connect_to
    for client in clients:
        await client.close()


@pytest.fixture
async def connect_raw() -> AsyncIterator[Callable[..., Awaitable[RawClient]]]:
    """Yield a function that connects a client which shows every packet, and sends any packet."""
    clients: list[RawClient] = []

    async def connect_to(site: Site, **options: Any) -> RawClient:
        client = RawClient(site.url, **options)
        clients.append(client)
        return await client.connect()

    yield connect_to
    for client in clients:
        await client.close()
