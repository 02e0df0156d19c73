"""A running site, and clients that are closed with the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.site import Client, Site


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Starts a site with some settings; it is stopped after the test."""
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


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site(CLOSE_DELAY=1)


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Awaitable[Client]]]:
    """Connects a client to a site."""
    clients: list[Client] = []

    async def connect_to(site: Site, **options: Any) -> Client:
        client = Client(site.url, **options)
        clients.append(client)
        return await client.connect()

    yield connect_to
    for client in clients:
        await client.close()
