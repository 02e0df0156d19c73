"""The probes of a load balancer: while others probe, too, and when processes cannot hear each other."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import requests

from tests.acceptance.site import Site
from tests.requirements import wait_until

STRANGERS, PROBES = 8, 13


def test_strangers_who_ask_readyz_all_the_time_leave_the_balancers_probes_their_truth(
    make_site: Callable[..., Site],
) -> None:
    site = make_site()
    over = threading.Event()

    def ask() -> None:
        with requests.Session() as session:
            while not over.is_set():
                session.get(f"{site.url}/readyz", timeout=15)

    strangers = [threading.Thread(target=ask, daemon=True) for _ in range(STRANGERS)]
    for stranger in strangers:
        stranger.start()
    try:
        found = Counter(requests.get(f"{site.url}/readyz", timeout=15).status_code for _ in range(PROBES))
    finally:
        over.set()
        for stranger in strangers:
            stranger.join(20)
    assert found == {200: PROBES}


def test_two_processes_that_cannot_hear_of_each_other_find_each_other_and_say_so(
    make_site: Callable[..., Site], tmp_path: Path
) -> None:
    first = make_site(HEARTBEAT=0.3, LEASE_TTL=3)
    second = Site(tmp_path, HEARTBEAT=0.3, LEASE_TTL=3)
    second.database = first.database
    second.environment["DATABASE_URL"] = first.environment["DATABASE_URL"]

    def problem(site: Site) -> str:
        answer = requests.get(f"{site.url}/readyz", timeout=15).json()
        check = answer["checks"]["processes"]
        assert answer["status"] == ("ready" if check["ok"] else "degraded")
        return "" if check["ok"] else str(check["detail"])

    assert problem(first) == ""
    try:
        second.start()
        for site in (first, second):
            wait_until(
                lambda site=site: "channel layer is in memory" in problem(site), "a process that says so"
            )
            assert site.log.read_text().count("Another process works on this database") == 1
    finally:
        second.stop()
    wait_until(lambda: not problem(first), "a process that is alone again")
