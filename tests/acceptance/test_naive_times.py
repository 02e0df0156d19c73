"""A site whose times have no zone (USE_TZ off): sessions live as elsewhere, and the wire has UTC."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests

from tests.acceptance.cluster import Gateway
from tests.acceptance.operators import Operator
from tests.acceptance.site import Client, Site
from tests.requirements import wait_until

Connect = Callable[[Site], Awaitable[Client]]


@pytest.fixture(params=["sqlite", "postgresql"])
def naive_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    settings = {"DJANGO_SETTINGS_MODULE": "tests.naive_settings"}
    site: Site
    if request.param == "sqlite":
        site = Site(tmp_path, CLOSE_DELAY=0.5)
        site.environment |= settings
    else:
        settings["DATABASE_URL"] = request.getfixturevalue("postgres_database")
        site = Gateway(tmp_path, settings, CLOSE_DELAY=0.5)
        site.manage("migrate", "--verbosity", "0")
    try:
        site.start()
        yield site
    finally:
        site.stop()


def is_now(timestamp: str) -> bool:
    assert timestamp.endswith("+00:00")
    return abs(datetime.now(UTC) - datetime.fromisoformat(timestamp)) < timedelta(minutes=5)


async def test_sessions_sleep_wake_and_tell_utc_and_their_pages_show_the_sites_zone(
    naive_site: Site, connect: Connect
) -> None:
    site = naive_site
    client = await connect(site)
    await client.initialize("echo")
    await client.wait_state("init")
    await client.act("message", {"content": "before"})
    await client.wait_for(observation="echo")
    assert all(is_now(event["timestamp"]) for event in client.events)
    session_id, last = client.session_id, client.events[-1]
    await client.close()
    wait_until(lambda: site.state(session_id) == "passivated", "the session asleep")
    again = await connect(site)
    position = {"latest_event_id": last["id"], "latest_event_timestamp": last["timestamp"]}
    await again.initialize(token=client.token, **position)
    assert again.answers[0]["reset"] is False
    await again.wait_state("init")
    await again.act("message", {"content": "after"})
    await again.wait_for(observation="echo", content="after")

    def ask(method: str, path: str, **options: object) -> requests.Response:
        headers = {"Authorization": f"Bearer {client.token}"}
        return requests.request(method, f"{site.url}{path}", headers=headers, timeout=20, **options)  # type: ignore[arg-type]

    shown = (await asyncio.to_thread(ask, "GET", f"/api/sessions/{session_id}/")).json()
    assert is_now(shown["created_at"])
    assert is_now(shown["last_activity_at"])
    link = (
        await asyncio.to_thread(ask, "POST", f"/api/sessions/{session_id}/share/", json={"role": "editor"})
    ).json()
    guest = await connect(site)
    assert (await guest.initialize(token=link["token"]))["status"] == "ok"
    assert (await asyncio.to_thread(ask, "GET", "/readyz")).json()["status"] == "ready"
    operator = await asyncio.to_thread(Operator, site)
    for page in (
        "session/",
        f"session/{session_id}/change/",
        "process/",
        "connection/",
        "event/",
        "transition/",
    ):
        text = await asyncio.to_thread(operator.read, f"/admin/ohsessions/{page}")
        assert "IST" in text or page == "event/", page
