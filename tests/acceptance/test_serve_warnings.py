"""The warnings of `serve` about the way in which it was started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.acceptance.site import ROOT, Site
from tests.requirements import wait_until


def test_proxy_headers_on_a_public_address_are_warned_of_at_the_start(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.prepare()
    arguments = ["serve", "--bind", "0.0.0.0", "--port", str(site.port), "--proxy-headers"]
    with site.log.open("wb") as log:
        site.process = subprocess.Popen(
            [sys.executable, "manage.py", "ohsessions", *arguments],
            cwd=ROOT,
            env=site.environment,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: "Serving on" in site.log.read_text(), "the server saying that it serves")
        assert "With --proxy-headers, every client that reaches 0.0.0.0" in site.log.read_text()
    finally:
        site.stop()
