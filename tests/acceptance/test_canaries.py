"""No secret of a session is stored or sent where it is not needed. Canaries are planted, and searched for.

Not searched are the places that need them: the memory of the site, of a session's bash, and of the programs
to which bash passes its variables. Not searched either is the output of a user's command that prints a value
which INIT never named as a secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.acceptance.canaries import Canaries, files_below, pages_of, processes_below, rows_of
from tests.acceptance.cluster import Cluster
from tests.acceptance.operators import Operator
from tests.acceptance.site import Client, Site

pytestmark = pytest.mark.timeout(300)
Connect = Callable[..., Awaitable[Client]]
SETTINGS: dict[str, Any] = {
    "CLOSE_DELAY": 0,
    "PASSIVATE_TIMEOUT": 5,
    "RUNTIMES": {
        "shell": {"BACKEND": "ohsessions.runtimes.shell.ShellRuntime"},
        "broken": {"BACKEND": "tests.acceptance.runtimes.BrokenRuntime"},
    },
}


class World:
    """A site, its operator, and everything that its clients got."""

    def __init__(self, site: Site, connect: Connect, folder: Path, pids: Callable[[], list[int]]) -> None:
        self.site = site
        self.folder = folder
        self.canaries = Canaries()
        self.clients: list[Client] = []
        self.operator: Operator
        self._connect = connect
        self._pids = pids

    async def join(self, **payload: Any) -> Client:
        client = await self._connect(self.site)
        self.clients.append(client)
        answer = await client.initialize(**payload)
        assert answer["status"] == "ok", answer
        return client

    async def share(self, owner: Client, role: str) -> str:
        """Return the token of a link to a session."""
        address = f"{self.site.url}/api/sessions/{owner.session_id}/share/"
        headers = {"Authorization": f"Bearer {owner.token}"}
        answer = await asyncio.to_thread(requests.post, address, json={"role": role}, headers=headers)
        return str(answer.json()["token"])

    async def check(self, *, pages: bool = False) -> None:
        """Check that no canary is found. With `pages`, also search the admin, which takes a while."""
        assert await asyncio.to_thread(self.canaries.check, self._places(pages)) > (20 if pages else 5)

    def _places(self, with_pages: bool) -> Iterator[tuple[str, bytes | str]]:
        if "sqlite" not in self.site.environment["DATABASE_URL"]:
            yield from rows_of(self.site)
        pages: Iterator[Any] = pages_of(self.operator) if with_pages else iter(())
        yield from chain(files_below(self.folder), processes_below(*self._pids()), pages)
        for number, client in enumerate(self.clients):
            got = [client.events, client.others, client.notices]
            yield f"what client {number} got", repr(got)
            headers = {"Authorization": f"Bearer {client.token}"}
            address = f"{self.site.url}/api/sessions/{client.session_id}/"
            yield address, requests.get(address, headers=headers, timeout=20).text


@pytest.fixture(params=["one process", "a cluster"])
def world(request: pytest.FixtureRequest, tmp_path: Path, connect: Connect) -> World:
    if request.param == "one process":
        site: Site = request.getfixturevalue("make_site")(**SETTINGS)
        world = World(site, connect, tmp_path, lambda: [site.process.pid] if site.process else [])
    else:
        cluster: Cluster = request.getfixturevalue("make_cluster")(1, 1, **SETTINGS)
        site = cluster.gateways[0]
        pids = [worker.pid for worker in cluster.workers] + ([site.process.pid] if site.process else [])
        world = World(site, connect, tmp_path, lambda: pids)
    return world


async def asleep(world: World, session_id: str) -> None:
    async with asyncio.timeout(15):
        while world.site.state(session_id) != "passivated":  # noqa: ASYNC110 - a row of another process
            await asyncio.sleep(0.05)


async def test_no_canary_planted_in_a_secret_is_found_anywhere(world: World) -> None:
    world.operator = await asyncio.to_thread(Operator, world.site)
    canaries = world.canaries
    owner = await world.join(runtime="shell", args=canaries.init(), github_token=canaries["github_token"])
    viewer = await world.join(token=await world.share(owner, "viewer"))
    await owner.wait_state("init")

    # Repeated by the user and by programs: whole, in parts, by mistake.
    quoted = canaries.init()["quoted_secret"]
    known = f"{canaries['llm_api_key']} {canaries['nested']} {canaries['in a URL']} {quoted}"
    await owner.act(
        "message", {"content": f"My keys: {known}", "more": [{canaries["in a string"]: 1}, known]}
    )
    said = await owner.act("run", {"command": f"echo '{known}'; {canaries['github_token']}"})
    output, code = await owner.output(said["id"])
    assert (output.startswith("<secret> <secret> <secret> <secret>\n"), code) == (True, 127)

    # Hidden, and repeated by bash.
    command = f"export HIDDEN={canaries['hidden']}; {canaries['hidden']}"
    hidden = await owner.act("run", {"command": command, "hidden": 1})
    assert await owner.output(hidden["id"]) == ("", 127)

    # Sent with a later INIT.
    await owner.initialize(
        token=owner.token, github_token=canaries["later"], args={"db_password": canaries["db"]}
    )
    sleeping = await owner.act(
        "run", {"command": f"echo {canaries['later']} {canaries['db']}; env -i sleep 600"}
    )
    await viewer.wait_for(observation="run", content="<secret> <secret>\n")
    await world.check(pages=True)
    await owner.act("change_agent_state", {"agent_state": "stopped"})
    await owner.output(sleeping["id"])

    # Asleep, with a snapshot in the row, and with one in a file.
    for size in (10, 200_000):
        grown = await owner.act("run", {"command": f"BIG=$(head -c {size} /dev/zero | tr '\\0' x)"})
        await owner.output(grown["id"])
        for client in (owner, viewer):
            await client.close()
        await asleep(world, owner.session_id)
        await world.check()
        owner, viewer = await world.join(token=owner.token), await world.join(token=viewer.token)
        length = await owner.act("run", {"command": "echo ${#HIDDEN} ${#BIG}"})
        assert await owner.output(length["id"]) == (f"{len(canaries['hidden'])} {size}\n", 0)
    assert [*world.folder.rglob("snapshots/*.json")], "the last one was a file"


async def test_no_canary_is_found_where_a_runtime_broke_with_it(world: World) -> None:
    world.operator = await asyncio.to_thread(Operator, world.site)
    canaries = world.canaries
    for where in ("", "start", "interrupt", "passivate"):
        owner = await world.join(runtime="broken", args=canaries.init() | {"breaks": where})
        if where == "start":
            await owner.wait(lambda client=owner: client.others, "the error")
            continue
        await owner.wait_state("init")
        broken = await owner.act("raise", {"content": canaries["llm_api_key"]})
        await owner.wait_for(observation="error", cause=broken["id"])
        unknown = await owner.act("unheard_of", {"content": canaries["hidden"], "hidden": "yes"})
        await owner.wait_for(observation="error", cause=unknown["id"])
        stopped = await owner.act("change_agent_state", {"agent_state": "stopped"})
        if where == "interrupt":
            await owner.wait_for(observation="error", cause=stopped["id"])
    await world.check(pages=True)
