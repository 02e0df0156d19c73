"""A shell over a real socket, and the parts of the server that its users can reach."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ohsessions.processes.leases import start_time
from ohsessions.programs.watchdog import descendants
from tests.acceptance.site import ROOT, RUNTIMES, Client, Site
from tests.requirements import find_bwrap, require, wait_until

Make = Callable[..., Site]
Connect = Callable[..., Awaitable[Client]]


async def run(client: Client, command: str) -> tuple[str, int]:
    acknowledged = await client.act("run", {"command": command})
    return await client.output(acknowledged["id"])


async def test_somebody_with_a_shell_reads_nothing_of_the_server(site: Site, connect: Connect) -> None:
    require(find_bwrap)
    client, other = await connect(site), await connect(site)
    await client.initialize("shell")
    await other.initialize("shell")
    assert await run(other, "echo secret >file; pwd") == (f"{workspace(site, other)}\n", 0)
    for place in (site.database, ROOT / "manage.py", workspace(site, other) / "file", Path("/root")):
        output, code = await run(client, f"cat {place}; ls {place}")
        assert code != 0, output
        assert "secret" not in output
    output, _ = await run(client, "env; cat /proc/*/environ; cat /proc/*/cmdline | tr '\\0' ' '")
    assert "DJANGO" not in output
    assert "manage.py" not in output
    output, code = await run(client, f"echo >/dev/tcp/127.0.0.1/{site.port}")
    assert code != 0, "nor does it reach the site by the network"


def workspace(site: Site, client: Client) -> Path:
    return site.folder / "workspaces" / str(client.session_id)


@pytest.mark.parametrize("sandbox", ["bwrap", "none"])
async def test_a_shell_that_kills_whatever_it_may_leaves_nothing(
    make_site: Make, connect: Connect, sandbox: str
) -> None:
    if sandbox == "bwrap":
        require(find_bwrap)
    shell = RUNTIMES["shell"] | {"OPTIONS": {"sandbox": sandbox}}
    site = make_site(RUNTIMES={"shell": shell}, CLOSE_DELAY=1)
    client = await connect(site)
    await client.initialize("shell")
    kill = {
        "bwrap": "kill -9 $PPID 1; kill -9 -1; setsid sleep 1000 & sleep 0",
        "none": "kill -9 $PPID; sleep 1000",
    }
    assert await run(client, "setsid sleep 1000 & env -i setsid sleep 1000 & sleep 0.2") == ("", 0)
    assert site.process is not None
    below = {pid: start_time(pid) for pid in descendants(site.process.pid)}
    assert len(below) >= 4, "a watchdog, a bash and what that started"
    await run(client, kill[sandbox])
    below |= {pid: start_time(pid) for pid in descendants(site.process.pid)}
    await client.close()
    wait_until(lambda: site.state(client.session_id) == "passivated", "passivation")
    wait_until(lambda: not any(at and start_time(pid) == at for pid, at in below.items()), "their end")


async def test_a_site_with_debug_has_no_shell_unless_it_is_named(make_site: Make, connect: Connect) -> None:
    site = make_site(RUNTIMES={"echo": RUNTIMES["echo"]})
    client = await connect(site)
    refused = await client.initialize("shell")
    assert (refused["error_code"], refused["reason"]) == (400, "unknown_runtime")
