"""Attacks on the transport itself, by strangers: what they are answered, and what they cost."""

from __future__ import annotations

from collections.abc import Callable

import aiohttp
import pytest

from tests.acceptance.site import Site

MakeSite = Callable[..., Site]
HANDSHAKE = {"EIO": "4"}


async def statuses(site: Site, **headers: str) -> dict[str, int]:
    """The status that each kind of handshake is answered with, each with the same `headers`."""
    found: dict[str, int] = {}
    address = f"{site.url}/socket.io/"
    async with aiohttp.ClientSession() as http:
        for method, kind in (("GET", "polling"), ("OPTIONS", "preflight")):
            query = HANDSHAKE | {"transport": "polling"}
            async with http.request(method, address, params=query, headers=headers) as response:
                found[kind] = response.status
                assert response.headers["x-content-type-options"] == "nosniff"
        query = HANDSHAKE | {"transport": "websocket"}
        try:
            async with http.ws_connect(address, params=query, headers=headers):
                found["websocket"] = 101
        except aiohttp.WSServerHandshakeError as error:
            found["websocket"] = error.status
    return found


ACCEPTED = {"polling": 200, "preflight": 204, "websocket": 101}


@pytest.fixture(scope="module")
def shared(make_shared_site: MakeSite) -> Site:
    return make_shared_site()


async def test_a_host_that_is_not_ours_is_refused_whatever_the_origin_says(shared: Site) -> None:
    evil = f"evil.example:{shared.port}"
    refused = {"polling": 400, "preflight": 400, "websocket": 403}
    assert await statuses(shared, Host=evil, Origin=f"http://{evil}") == refused
    assert await statuses(shared, Host=evil) == refused
    assert await statuses(shared, Origin=shared.url) == ACCEPTED
    assert await statuses(shared) == ACCEPTED


@pytest.mark.parametrize("origin", ["http://[", "null", "http://evil.example", "http://127.0.0.1:1"])
async def test_an_origin_that_is_foreign_or_none_is_refused_and_no_fault_of_ours(
    shared: Site, origin: str
) -> None:
    refused = await statuses(shared, Origin=origin)
    # daphne itself says 400 to the websocket whose origin cannot be parsed.
    assert refused.pop("websocket") in (400, 403)
    assert refused == {"polling": 403, "preflight": 403}
    assert "Traceback" not in shared.log.read_text()


async def test_a_site_for_https_takes_no_plain_connections(make_site: MakeSite) -> None:
    site = make_site(environment={"DJANGO_HTTPS": "1", "DJANGO_TRUST_PROXY": "1"})
    assert await statuses(site) == {"polling": 403, "preflight": 403, "websocket": 403}
    assert await statuses(site, **{"X-Forwarded-Proto": "https"}) == ACCEPTED
