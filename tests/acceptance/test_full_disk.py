"""A site whose database has a full disk reports that in its log and in /readyz."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from tests.acceptance.site import Client, Site
from tests.requirements import wait_until

TEXT = "x" * 100_000


@pytest.fixture
def full_site(tmp_path: Path) -> Any:
    """Yield a site whose database can grow by 2 MB."""
    site = Site(tmp_path)
    site.prepare()
    pages = site.query("PRAGMA page_count")[0][0] + 500
    pragmas = f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA max_page_count={pages};"
    site.environment["DATABASE_URL"] += f"?init_command={quote(pragmas)}"
    try:
        site.start()
        yield site
    finally:
        site.stop()


async def test_a_full_disk_is_seen_in_readyz_and_said_in_the_log_by_its_name(
    full_site: Site, connect: Callable[[Site], Awaitable[Client]]
) -> None:
    site = full_site

    def ready() -> dict[str, Any]:
        response = requests.get(f"{site.url}/readyz", timeout=15)
        return {"code": response.status_code} | response.json()

    assert ready()["code"] == 200
    client = await connect(site)
    await client.initialize("echo")
    await client.wait_state("init")
    answers = [await client.act("message", {"content": TEXT}) for _ in range(40)]
    assert (answers[-1]["error_code"], answers[-1]["reason"]) == (503, "unavailable")
    wait_until(lambda: ready()["code"] == 503, "the site saying that it is not ready")
    assert "disk is full" in ready()["checks"]["storage"]["detail"]
    log = site.log.read_text()
    assert log.count("disk is full: make room") == 1, "the echoes are tried again all the time"
    assert "A transaction failed" not in log
    # There is room again. The site notices it by itself, although no client sends anything.
    site.execute("DELETE FROM ohsessions_event WHERE length(data) > 50000")
    wait_until(lambda: ready()["code"] == 200, "the site saying that it is ready", limit=60)
