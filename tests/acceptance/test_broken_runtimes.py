"""A runtime that breaks harms its own session only. Users get a reference, operators the reason."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.runtimes import BAD, BURST, VANISHED
from tests.acceptance.site import ROOT, Client, Site

Connect = Callable[..., Awaitable[Client]]
SECRET = "sk-4f9a1c77d2e8b6"
HERE = "tests.acceptance.runtimes."
RUNTIMES = {
    "echo": {"BACKEND": "ohsessions.runtimes.echo.EchoRuntime"},
    "broken": {"BACKEND": HERE + "BrokenRuntime"},
    "eager": {"BACKEND": HERE + "EagerRuntime"},
    "vanishing": {"BACKEND": HERE + "VanishingRuntime"},
}


@pytest.fixture(scope="module")
def site(make_shared_site: Callable[..., Site]) -> Site:
    return make_shared_site(
        RUNTIMES=RUNTIMES, START_TIMEOUT=2, PASSIVATE_TIMEOUT=1, CLOSE_DELAY=0, MAX_ACTION_BYTES=100_000
    )


class World:
    """A site, and a neighbour whose session must never notice anything."""

    def __init__(self, site: Site, connect: Connect) -> None:
        self.site = site
        self.connect = connect
        self.clients: list[Client] = []

    async def start(self, breaks: str = "", runtime: str = "broken", *, ready: bool = True) -> Client:
        client = await self.connect(self.site)
        self.clients.append(client)
        await client.initialize(runtime, args={"breaks": breaks, "LLM_API_KEY": SECRET})
        if ready:
            await client.wait_state("init")
        return client

    async def check_neighbour(self) -> None:
        """Check that a session of echo starts and works in the same worker."""
        neighbour = await self.connect(self.site)
        await neighbour.initialize("echo")
        await neighbour.wait_state("init")
        done = await neighbour.act("message", {"content": "hello"})
        await neighbour.wait_for(observation="echo", cause=done["id"])
        assert neighbour.others == []

    def transitions(self, client: Client) -> list[tuple[str, str]]:
        """Return the states of a session, each with its reason, in order."""
        sql = 'SELECT "to", reason FROM ohsessions_transition WHERE session_id = ? ORDER BY id'
        return [(state, reason) for state, reason in self.site.query(sql, client.session_id.replace("-", ""))]

    async def wait_transition(self, client: Client, state: str) -> str:
        """Wait until the session came into a state, and return the last reason for it."""
        async with asyncio.timeout(15):
            while True:
                reasons = [reason for to, reason in self.transitions(client) if to == state]
                if reasons:
                    return reasons[-1]
                await asyncio.sleep(0.02)

    async def check_fault(self, client: Client, said: str, what: str, text: str) -> None:
        """Check that users got `what` broke and no more, and operators the `text` under the same reference.

        Operators find it in a transition and in the log, which may contain more.
        """
        found = re.search(rf"{what} \(reference [0-9a-f]{{8}}\)(?=\.?$)", said)
        assert found, said
        reason = f"{found[0]}: {text}"
        async with asyncio.timeout(15):  # the crash is stored after users were notified
            while not any(why.startswith(reason) for _, why in self.transitions(client)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert reason in self.site.log.read_text()
        heard = [client.events, client.others, client.notices, client.answers]
        assert text not in texts_in(heard)

    def check_secret_is_nowhere(self) -> None:
        """Check that the secret is in no database (it is encrypted there), no log and no client."""
        for file in self.site.folder.glob("*"):
            if file.is_file():
                assert SECRET.encode() not in file.read_bytes(), file
        for client in self.clients:
            assert SECRET not in json.dumps([client.events, client.others, client.notices, client.answers])


def texts_in(value: Any) -> str:
    """Return all strings in a value, one per line."""
    if isinstance(value, dict | list):
        return "\n".join(map(texts_in, value.values() if isinstance(value, dict) else value))
    return str(value)


@pytest.fixture
async def world(site: Site, connect: Connect) -> World:
    return World(site, connect)


async def test_a_runtime_that_cannot_start_fails_within_its_budget_and_is_tried_again_later(
    world: World,
) -> None:
    broken = "RuntimeError: {} broke with the key <secret>"
    expected = {
        "init": broken.format("init"),
        "start": broken.format("start"),
        "start-hangs": "TimeoutError: its start took longer than 2 s",
    }
    clients = {where: await world.start(where, ready=False) for where in expected}
    vanished = Path(world.site.folder) / "workspaces" / VANISHED
    vanished.parent.mkdir(exist_ok=True)
    vanished.touch()
    try:
        clients["vanished"] = await world.start(runtime="vanishing", ready=False)
        expected["vanished"] = (
            'ImportError: Module "tests.acceptance.runtimes" does not define a'
            ' "VanishingRuntime" attribute/class'
        )
        for where, client in clients.items():
            assert (await world.wait_transition(client, "failed")).endswith(expected[where])
            first, *crashes = [why for _, why in world.transitions(client)][:4]
            assert (first, len(crashes)) == ("a new session", 3)
            await client.wait_state("error")

            def failures(of: Client = client) -> list[dict[str, Any]]:
                return [error for error in of.others if error["reason"] == "start_failed"]

            await client.wait(lambda found=failures: len(found()) >= 3, "three errors")
            states = []
            for error in failures()[:3]:
                message = error.pop("message")
                assert error == {"error": True, "error_code": 503, "reason": "start_failed"}
                states += re.findall(r"^The session is (\w+): it could not start \(reference ", message)
                await world.check_fault(client, message, "it could not start", expected[where])
            # The error of a start may be sent before its client is attached.
            assert (states[0], states[2]) == ("starting", "failed")
            told = [notice["reason"] for notice in client.notices if notice["notice"] == "session_state"]
            assert [why for why in told if why.startswith("it could not start (reference ")]
            assert not [why for why in told if ":" in why]
        await world.check_neighbour()
        refused = await client.act("say")
        assert refused["reason"] == "session_failed"
        assert refused["message"].startswith(
            "This session takes no actions until it has started again. It failed: it could not start"
        )
        await world.check_fault(client, refused["message"], "it could not start", expected[where])
    finally:
        vanished.unlink()
    # The session recovers by itself, because its client is still attached.
    await client.wait_state("init")
    assert world.transitions(client)[-2:] == [
        ("starting", "tried again"),
        ("running", "its runtime is ready"),
    ]
    done = await client.act("say")
    await client.wait_for(observation="said", cause=done["id"])
    world.check_secret_is_nowhere()


async def test_an_action_that_breaks_the_runtime_is_told_and_not_repeated(world: World) -> None:
    client = await world.start()
    witness = await world.connect(world.site)
    await witness.initialize(token=client.token)
    await client.act("say")
    broken = await client.act("raise")
    waiting = await client.act("say")
    error = await client.wait_for(observation="error", cause=broken["id"])
    assert error["content"] == error["message"]
    await world.check_fault(
        client, error["content"], "its runtime broke", "RuntimeError: the key is <secret>"
    )
    assert error["extras"] == {"reason": "crashed"}
    # The waiting action is handled by the next activation, from the last checkpoint.
    said = await client.wait_for(observation="said", cause=waiting["id"])
    assert said["content"] == "1"
    assert world.site.state(client.session_id) == "running"
    await witness.wait_for(observation="said", cause=waiting["id"])
    assert witness.events == client.events
    assert client.others == []
    world.check_secret_is_nowhere()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("exit", "RuntimeFailure: it called sys.exit(3)"),
        ("cancel", "RuntimeFailure: a call that it awaited was cancelled"),
        ("unheard_of", "AttributeError: 'BrokenRuntime' object has no attribute 'do_unheard_of'"),
    ],
)
async def test_a_runtime_cannot_end_the_process_or_pass_for_cancelled(
    world: World, kind: str, reason: str
) -> None:
    client = await world.start()
    broken = await client.act(kind)
    error = await client.wait_for(observation="error", cause=broken["id"])
    await world.check_fault(client, error["content"], "its runtime broke", reason)
    done = await client.act("say")
    await client.wait_for(observation="said", cause=done["id"])
    await world.check_neighbour()


async def test_what_is_not_json_is_not_emitted(world: World) -> None:
    clients = {(kind, what): await world.start() for kind in ("emit", "notify") for what in BAD}
    for (kind, what), client in clients.items():
        broken = await client.act(kind, {"what": what})
        error = await client.wait_for(observation="error", cause=broken["id"])
        await world.check_fault(client, error["content"], "its runtime broke", "InvalidEvent: ")
    await world.check_neighbour()
    for client in clients.values():
        done = await client.act("say")
        await client.wait_for(observation="said", cause=done["id"])
        assert not [event for event in client.events if event.get("observation") == "bad"]
        assert not [notice for notice in client.notices if notice["notice"] == "delta"]


async def test_a_checkpoint_that_is_not_json_leaves_the_one_before(world: World) -> None:
    client = await world.start()
    await client.act("say")
    broken = await client.act("checkpoint", {"what": "circular"})
    error = await client.wait_for(observation="error", cause=broken["id"])
    text = "InvalidEvent: The snapshot cannot be stored as JSON"
    await world.check_fault(client, error["content"], "its runtime broke", text)
    done = await client.act("say")
    said = await client.wait_for(observation="said", cause=done["id"])
    assert said["content"] == "1"


async def test_a_burst_of_events_reaches_everybody_in_order(world: World) -> None:
    client = await world.start()
    other = await world.connect(world.site)
    await other.initialize(token=client.token)
    done = await client.act("burst")
    for one in (client, other):
        await one.wait_for(observation="burst", content=str(BURST - 1), limit=30)
        bursts = [e["content"] for e in one.events if e.get("cause") == done["id"]]
        assert bursts == [str(number) for number in range(BURST)]
        assert one.numbers == list(range(len(one.numbers)))
    await world.check_neighbour()


async def test_a_runtime_may_emit_more_than_its_outbox_holds_before_it_is_ready(world: World) -> None:
    client = await world.start(runtime="eager")
    eager = [event["content"] for event in client.events if event.get("observation") == "eager"]
    assert eager == [str(number) for number in range(1500)]


async def test_an_interrupt_that_breaks_the_runtime_is_delivered_once(world: World) -> None:
    client = await world.start("interrupt")
    hanging = await client.act("hang")
    interrupt = await client.act("change_agent_state", {"agent_state": "stopped"})
    error = await client.wait_for(observation="error", cause=hanging["id"])
    text = "RuntimeError: interrupt broke with the key <secret>"
    await world.check_fault(client, error["content"], "its runtime broke", text)
    done = await client.act("say")
    await client.wait_for(observation="said", cause=done["id"])
    again = await client.act("change_agent_state", {"agent_state": "stopped"})
    assert again["id"] > interrupt["id"]
    await client.wait_for(observation="error", cause=again["id"])
    reasons = [why for state, why in world.transitions(client) if state == "starting"]
    assert reasons[0] == "a new session"
    assert reasons[1].endswith(text)
    assert world.site.query(
        "SELECT count(*) FROM ohsessions_event WHERE session_id = ? AND kind = 'error'",
        client.session_id.replace("-", ""),
    ) == [(2,)]
    world.check_secret_is_nowhere()


LAST_COUNTS = "; its last checkpoint counts"
PASSIVATIONS = {
    "passivate": "RuntimeError: passivate broke with the key <secret>" + LAST_COUNTS,
    "passivate-hangs": "TimeoutError: saving its state took longer than 1 s" + LAST_COUNTS,
    "passivate-ignores-cancel": "TimeoutError: saving its state took longer than 1 s" + LAST_COUNTS,
    "snapshot-object": "InvalidEvent: The snapshot cannot be stored as JSON: ",
    "snapshot-nan": "InvalidEvent: The snapshot cannot be stored as JSON: ",
    "snapshot-surrogate": "InvalidEvent: The snapshot cannot be stored as JSON: ",
    "snapshot-circular": "InvalidEvent: The snapshot cannot be stored as JSON: ",
    "close": "",
    "close-hangs": "",
    "busy": "",
}


async def test_passivation_is_certain_and_says_what_went_wrong(world: World) -> None:
    """All ways are tried at the same time: those that hang must not delay the others."""
    clients = {where: await world.start(where) for where in PASSIVATIONS}
    for client in clients.values():
        done = await client.act("say")
        await client.wait_for(observation="said", cause=done["id"])
        await client.close()
    for where, client in clients.items():
        reason = await world.wait_transition(client, "passivated")
        if not PASSIVATIONS[where]:
            assert reason == "no connection for 0 s", where
            continue
        public, _, text = reason.partition(": ")
        what = r"no connection for 0 s; its state was not saved \(reference [0-9a-f]{8}\)"
        assert re.fullmatch(what, public), where
        assert text.startswith(PASSIVATIONS[where]), where
    await world.check_neighbour()
    for where in ("passivate", "passivate-hangs", "snapshot-nan", "close"):
        again = await world.connect(world.site)
        await again.initialize(token=clients[where].token)
        done = await again.act("say")
        said = await again.wait_for(observation="said", cause=done["id"])
        assert said["content"] == "1", f"{where}: the last checkpoint counts"
    world.check_secret_is_nowhere()


@pytest.mark.parametrize("kind", ["hang", "ignore_cancel"])
async def test_an_operator_puts_a_session_to_sleep_whose_action_never_ends(world: World, kind: str) -> None:
    client = await world.start()
    hanging = await client.act(kind)
    passivate = (
        "from ohsessions import api; from uuid import UUID;"
        f"print(api.passivate(UUID('{client.session_id}'), by='ann'))"
    )
    await asyncio.to_thread(world.site.manage, "shell", "-c", passivate)
    reason = await world.wait_transition(client, "passivated")
    assert reason == "by an operator"
    await client.wait(lambda: [n for n in client.notices if n["notice"] == "disconnecting"], "the farewell")
    (farewell,) = [n for n in client.notices if n["notice"] == "disconnecting"]
    assert farewell["reason"] == "operator"
    again = await world.connect(world.site)
    await again.initialize(token=client.token)
    error = await again.wait_for(observation="error", cause=hanging["id"])
    assert error["extras"] == {"reason": "interrupted"}
    assert error["content"] == "This action was cut off by an operator, who put the session to sleep."
    done = await again.act("say")
    await again.wait_for(observation="said", cause=done["id"])


async def test_secrets_are_cut_out_of_what_a_runtime_says(world: World) -> None:
    client = await world.start()
    done = await client.act("repeat_the_key")
    said = await client.wait_for(observation="said", cause=done["id"])
    assert said["content"] == "<secret>"
    assert said["extras"] == {"<secret>": ["<secret>"]}
    assert said["message"] == "x<secret>x"
    await client.wait(lambda: {"notice": "delta", "content": "<secret>"} in client.notices, "the notice")
    world.check_secret_is_nowhere()


def test_a_runtime_that_cannot_be_imported_is_said_before_the_site_starts(tmp_path: Path) -> None:
    site = Site(tmp_path, RUNTIMES={"gone": {"BACKEND": HERE + "NoSuchRuntime"}})
    command = [sys.executable, "manage.py", "ohsessions", "serve", "--port", "0"]
    done = subprocess.run(
        command, cwd=ROOT, env=site.environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "ohsessions.E006" in done.stderr
    assert "NoSuchRuntime" in done.stderr


def errors_logged(site: Site) -> list[str]:
    return [line[:500] for line in site.log.read_text().splitlines() if " ERROR " in line[:40]]


@pytest.fixture(scope="module", autouse=True)
def _nothing_else_went_wrong(site: Site) -> Any:
    """Check that the log has no error. A broken runtime is no error of the server."""
    yield
    assert errors_logged(site) == []
