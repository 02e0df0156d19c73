"""What a load balancer hears of a site that is well, whoever else asks the same."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import requests

from tests.acceptance.site import Site

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
