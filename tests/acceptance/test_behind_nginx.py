"""The example for nginx before a real server: sessions work, addresses are true, each gets its share."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.site import ROOT, Site
from tests.attack.sockets import Gone, Wire, action, connect, join
from tests.requirements import MissingRequirement, free_port, require, wait_until

MOST = 200
"""The connections of one address that deploy/nginx/ohsessions.conf allows."""


def find_nginx() -> str:
    if found := shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"):
        return found
    raise MissingRequirement("No nginx: apt-get install nginx-light.")


@pytest.fixture
def behind_nginx(make_site: Callable[..., Site], tmp_path: Path) -> Iterator[tuple[Site, int]]:
    """Yield a site, and the port of an nginx before it that has our example as its configuration."""
    program = require(find_nginx)
    site = make_site(TRUSTED_PROXIES=["127.0.0.1"], DEFAULT_RUNTIME="echo")
    port = free_port()
    changes = {
        "/var/log/nginx/access.log": str(tmp_path / "access.log"),
        "listen 8080": f"listen 127.0.0.1:{port}",
        "127.0.0.1:8001": f"127.0.0.1:{site.port}",
        "server 127.0.0.1:8002 max_fails=0;": "",
    }
    for name in ("nginx.conf", "ohsessions.conf", "upstream.conf"):
        text = (ROOT / "deploy" / "nginx" / name).read_text()
        for old, new in changes.items():
            text = text.replace(old, new)
        (tmp_path / name).write_text(text)
    (tmp_path / "mime.types").write_text("types {}\n")
    command = [program, "-p", tmp_path, "-c", tmp_path / "nginx.conf", "-e", tmp_path / "error.log"]
    command += ["-g", f"daemon off; pid {tmp_path / 'pid'};"]
    process = subprocess.Popen(command)
    try:
        wait_until(lambda: answers(port), "nginx answering")
        yield site, port
    finally:
        process.terminate()
        process.wait(10)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_a_session_works_and_its_address_is_the_clients_whatever_the_client_says(
    behind_nginx: tuple[Site, int],
) -> None:
    site, port = behind_nginx
    wire = await connect(
        port, "127.0.0.5", headers={"X-Forwarded-For": "9.9.9.9", "Forwarded": "for=9.9.9.9"}
    )
    await join(wire)
    await wire.text(action("initialize", number=1))
    await wire.wait_text('431[{"status":"ok"')
    await wire.text(action("message", {"content": "through"}, 2))
    await wire.wait_text('432[{"status":"ok"')
    assert site.query("SELECT address FROM ohsessions_connection") == [("127.0.0.5",)]
    wire.abort()


async def test_one_address_gets_its_share_of_connections_and_others_get_theirs(
    behind_nginx: tuple[Site, int],
) -> None:
    _, port = behind_nginx
    kept: list[Wire] = []
    for _ in range(MOST):
        with contextlib.suppress(Gone):
            kept.append(await connect(port, "127.0.0.6"))
    with pytest.raises(Gone, match="answered 429"):
        await connect(port, "127.0.0.6")
    assert len(kept) > MOST / 2
    other = await connect(port, "127.0.0.7")
    await join(other)
    for wire in [*kept, other]:
        wire.abort()
