"""An outage is logged once, and so is its end."""

from __future__ import annotations

import logging
import threading

import pytest

from ohsessions.concurrency.outages import Outage

logger = logging.getLogger("ohsessions.test")


def test_an_outage_is_told_once_with_its_first_reason_and_so_is_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger.name)
    outage = Outage(logger, "The lamp", "lamp")
    outage.worked()
    for reason in ("no oil", "no wick"):
        outage.failed(reason)
    assert outage.lasts
    for _ in range(2):
        outage.worked()
    outage.failed("wind")
    assert [(r.levelname, r.getMessage(), r.verb) for r in caplog.records] == [
        ("WARNING", "The lamp fails: no oil", "lamp_lost"),
        ("INFO", "The lamp works again.", "lamp_back"),
        ("WARNING", "The lamp fails: wind", "lamp_lost"),
    ]


def test_many_threads_that_notice_at_once_tell_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger.name)
    outage = Outage(logger, "The lamp", "lamp")
    together = threading.Barrier(8)

    def notice() -> None:
        together.wait(20)
        outage.failed("no oil")

    threads = [threading.Thread(target=notice) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(caplog.records) == 1
