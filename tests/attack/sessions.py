"""Attacks by sessions: starting many, flooding one's own, taking another one's."""

from __future__ import annotations

import asyncio
import json
import urllib.parse

from tests.attack.sockets import Gone, Wire, action, connect, join
from tests.attack.world import CANARY, ECHO, FLOOD, SHELL, World, attack

SHELLS = 4 * 32 + 4
"""The processes of MAX_RUNNING_PER_ADDRESS shells: bash, its watchdog, two of the sandbox."""


async def _start(world: World, runtime: str, most: int) -> None:
    """Send INIT in a loop on one connection."""

    async def once() -> None:
        wire = await connect(world.port)
        try:
            await join(wire)
            for number in range(1000):
                if not world.goes_on:
                    break
                await wire.text(action("initialize", {"runtime": runtime}, number))
                answer = json.loads((await wire.wait_text(f"43{number}[", 10)).partition("[")[2][:-1])
                world.counts[str(answer.get("error_code", "started"))] += 1
        finally:
            wire.abort()

    await world.repeat(once)
    if world.counts["started"] > most:
        world.problem(f"{world.counts['started']} sessions were started in {world.seconds:.0f} s")


@attack("limits", debug=True, settings={"RUNTIMES": SHELL | ECHO}, seconds=15, most_programs=SHELLS)
async def init_loop(world: World) -> None:
    """One anonymous connection that starts one shell after another"""
    await _start(world, "shell", 60)


@attack("limits", debug=True, settings={"RUNTIMES": ECHO}, seconds=15)
async def init_loop_echo(world: World) -> None:
    """The same with cheap sessions"""
    await _start(world, "echo", 100)


@attack("limits", debug=True, settings={"RUNTIMES": SHELL | ECHO}, seconds=15, most_programs=SHELLS)
async def init_from_many_connections(world: World) -> None:
    """100 anonymous connections of one address that each start a shell and stay"""

    async def one() -> str:
        wire = await connect(world.port)
        try:
            await join(wire)
            await wire.text(action("initialize", {"runtime": "shell"}, 1))
            answer = json.loads((await wire.wait_text("431[", 30)).partition("[")[2][:-1])
            await asyncio.sleep(world.left)
            return str(answer.get("error_code", "started"))
        finally:
            wire.abort()

    for found in await world.together((one() for _ in range(100)), 100):
        world.counts[found if isinstance(found, str) else "refused"] += 1
    if world.counts["started"] > 50:
        world.problem(f"{world.counts['started']} shells of one address run at once")


@attack("edge", debug=True, settings={"RUNTIMES": FLOOD | ECHO}, seconds=20)
async def never_reads_a_flood(world: World) -> None:
    """A client that reads nothing of 200 MB of its own session"""
    wire = await connect(world.port, receive_buffer=4096)
    try:
        await join(wire)
        await wire.text(action("initialize", {"runtime": "flood"}, 1))
        await wire.wait_text("431[")
        await wire.text(action("flood", {"megabytes": 200}))
        await asyncio.sleep(world.left)
    finally:
        wire.abort()


@attack("limits", debug=True)
async def one_client_id_for_two(world: World) -> None:
    """Two strangers with one INIT client_id"""

    async def started(address: str, name: str) -> str:
        wire = await connect(world.port, address)
        try:
            await join(wire)
            await wire.text(action("initialize", {"runtime": "echo"}, 1, client_id=name))
            answer = json.loads((await wire.wait_text("431[", 10)).partition("[")[2][:-1])
            return str(answer.get("session_id"))
        finally:
            wire.abort()

    number = 0

    async def once() -> None:
        nonlocal number
        number += 1
        name = f"client-id-of-somebody-{number}"
        one, other = await started("127.0.0.2", name), await started("127.0.0.3", name)
        if one == other != "None":
            world.problem("two strangers own one session")
        await asyncio.sleep(0.5)

    await world.repeat(once)


PLANTED = {
    "LLM_API_KEY": f"{CANARY}-llm",
    "openai_key": f"{CANARY}-openai",
    "passwd": f"{CANARY}-passwd",
    "authorization": f"Bearer {CANARY}-bearer",
    "llm": {"api_key": f"{CANARY}-nested"},
    "config": json.dumps({"password": f"{CANARY}-string"}),
    "base_url": f"https://user:{CANARY}-url@llm.example",
}


@attack("secrets", debug=True, settings={"RUNTIMES": SHELL | ECHO}, seconds=12, most_programs=20)
async def canaries(world: World) -> None:
    """Secrets in every place of an INIT and in messages, searched for in database, files, log and argv"""

    async def one(runtime: str) -> None:
        wire = await connect(world.port)
        try:
            await join(wire)
            secrets = PLANTED | {"runtime": runtime}
            await wire.text(action("initialize", secrets, 1, github_token=f"{CANARY}-github"))
            answer = json.loads((await wire.wait_text("431[", 20)).partition("[")[2][:-1])
            said = f"{CANARY}-llm {CANARY}-github"
            await wire.text(action("message", {"content": said}, 2))
            await wire.wait_text("432[", 10)
            await wire.text(action("run", {"command": f"echo {said}; K={CANARY}-hidden", "hidden": True}, 3))
            await wire.wait_text("433[", 10)
            again = {"github_token": f"{CANARY}-later", "token": answer["token"]}
            await wire.text(action("initialize", {"runtime": runtime}, 4, **again))
            await wire.wait_text("434[", 10)
            await wire.text(action("run", {"command": f"echo {CANARY}-later"}, 5))
            await wire.wait_text("435[", 10)
            await asyncio.sleep(1)
            page = await Wire.open(world.port)
            headers = {"Authorization": f"Bearer {answer['token']}"}
            for target in ("", "events/"):
                address = f"/api/sessions/{urllib.parse.quote(answer['session_id'])}/{target}"
                _, _, body = await page.ask("GET", address, headers)
                if CANARY.encode() in body:
                    world.problem(f"a secret stands in {address.rpartition('/')[0][-20:]}")
            page.abort()
        finally:
            wire.abort()

    for runtime in ("echo", "shell"):
        await one(runtime)


@attack("access", debug=True)
async def unknown_sessions(world: World) -> None:
    """CONNECT for sessions that do not exist, with and without a token"""

    async def once() -> None:
        for auth in (
            '{"conversation_id":"6f0b2b58-8a54-4fc2-9b5c-0123456789ab"}',
            '{"conversation_id":"x","token":"t"}',
        ):
            wire = await connect(world.port)
            try:
                await wire.text("40" + auth)
                answer = await wire.wait_text("4", 5)
                if answer.startswith("40"):
                    world.problem("a session that is none was joined")
            except Gone:
                pass
            finally:
                wire.abort()

    await world.repeat(once, 4)


async def warm(world: World) -> None:
    """Use everything once, so that objects made at the first use do not count as growth."""
    for _ in range(3):
        wire = await connect(world.port)
        await wire.text("40")
        await wire.send(action("initialize").encode() and b"")
        await asyncio.sleep(0.1)
        wire.abort()
        wire = await Wire.open(world.port)
        for target in (
            "/socket.io/?EIO=4&transport=polling",
            "/readyz",
            "/admin/login/",
            "/",
            "/api/sessions/",
        ):
            await wire.ask("GET", target)
        wire.abort()
