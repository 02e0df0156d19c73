"""Limits over real sockets. Each test has an address of its own, which a trusted proxy reports."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from ohsessions.core.policy import QUOTA_REASON
from tests.acceptance.people import Person, make_user
from tests.acceptance.raw import RawClient
from tests.acceptance.site import Site
from tests.requirements import wait_until

Connect = Callable[..., Awaitable[RawClient]]
transports = pytest.mark.parametrize("transport", ["websocket", "polling"])
MAX_ACTION_BYTES = 200_000
addresses = itertools.count(1)


@pytest.fixture(scope="module")
def site(make_shared_site: Callable[..., Site]) -> Site:
    return make_shared_site(
        TRUSTED_PROXIES=["127.0.0.1"],
        CLOSE_DELAY=60,
        MAX_ACTION_BYTES=MAX_ACTION_BYTES,
        MAX_RUNNING_PER_ADDRESS=3,
        MAX_CONNECTIONS_PER_USER=1,
        MAX_CONNECTIONS_PER_ADDRESS=4,
        MAX_UNATTACHED_PER_ADDRESS=2,
        USER_RATE_LIMIT=4,
        INIT_RATE=6,
        INIT_RATE_PER_ADDRESS=9,
    )


@pytest.fixture(scope="module")
def evicting_site(make_shared_site: Callable[..., Site]) -> Site:
    return make_shared_site(
        TRUSTED_PROXIES=["127.0.0.1"],
        CLOSE_DELAY=60,
        MAX_RUNNING_PER_ADDRESS=1,
        QUOTA_ACTION="evict",
        START_RATE=3,
    )


@pytest.fixture(scope="module")
def strict_site(make_shared_site: Callable[..., Site]) -> Site:
    return make_shared_site(ALLOW_ANONYMOUS=False, CLOSE_DELAY=60, MAX_SESSIONS_PER_VISITOR=2)


@pytest.fixture
def here() -> dict[str, str]:
    """Return the headers of an address that no other test has. Their left end is what a client may forge."""
    return {"X-Forwarded-For": f"6.6.6.6, 192.0.2.{next(addresses)}"}


def code(answer: dict[str, Any]) -> tuple[int, str] | str:
    return (answer["error_code"], answer["reason"]) if answer["status"] == "error" else "ok"


async def start(client: RawClient, **payload: Any) -> dict[str, Any]:
    return await client.act("initialize", {"runtime": "echo"}, **payload)


async def count_until_refused(ask: Callable[[], Awaitable[dict[str, Any]]]) -> int:
    """Return the number of good answers before error 429. (The bucket fills meanwhile.)"""
    for count in range(50):
        answer = code(await ask())
        if answer != "ok":
            assert answer == (429, "rate")
            return count
    pytest.fail("It was never refused.")


async def log_in(site: Site, name: str) -> Person:
    def make() -> Person:
        make_user(site, name)
        return Person(site, name)

    return await asyncio.to_thread(make)


async def refused(site: Site, headers: dict[str, str]) -> str:
    """Return the message for a polling client over a limit. The handshake of a websocket fails, too."""
    address = f"{site.url}/socket.io/?EIO=4&transport="
    async with aiohttp.ClientSession(headers=headers) as http:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await http.ws_connect(f"{address}websocket")
        async with http.get(f"{address}polling") as response:
            assert response.status == 429
            return str((await response.json())["message"])


# Sessions


@transports
async def test_an_init_loop_ends_at_the_number_of_sessions_that_may_be_awake(
    site: Site, connect_raw: Connect, here: dict[str, str], transport: str
) -> None:
    client = await connect_raw(site, headers=here, transport=transport)
    before = site.query("SELECT count(*) FROM ohsessions_session")[0][0]
    answers = [await start(client) for _ in range(5)]
    assert [code(answer) for answer in answers] == ["ok", "ok", "ok", (429, "quota"), (429, "quota")]
    assert all(answer["retry_after"] > 0 for answer in answers[3:])
    assert site.query("SELECT count(*) FROM ohsessions_session")[0][0] == before + 3
    assert code(await client.act("message", {"content": "the last one is still mine"})) == "ok"


async def test_sessions_that_are_not_closed_are_limited(strict_site: Site, connect_raw: Connect) -> None:
    dora = await log_in(strict_site, "dora")
    client = await connect_raw(strict_site, headers=dora.headers)
    assert [code(await start(client)) for _ in range(3)] == ["ok", "ok", (429, "quota")]
    assert code(await client.act("close")) == "ok"
    assert [code(await start(client)) for _ in range(2)] == ["ok", (429, "quota")]


async def test_the_longest_idle_session_is_evicted_and_its_client_is_told_why(
    evicting_site: Site, connect_raw: Connect, here: dict[str, str]
) -> None:
    first = await connect_raw(evicting_site, headers=here)
    session_id = (await start(first))["session_id"]
    await first.wait_event(observation="agent_state_changed", extras={"agent_state": "init"})
    second = await connect_raw(evicting_site, headers=here)
    assert code(await start(second)) == "ok"
    told = await first.wait_notice(notice="disconnecting", reason="operator")
    assert "another session" in told["message"]
    wait_until(lambda: evicting_site.state(session_id) == "passivated", "the first one asleep")
    reason = evicting_site.query(
        "SELECT reason FROM ohsessions_session WHERE id = ?", session_id.replace("-", "")
    )
    assert reason == [(QUOTA_REASON,)]


async def test_new_sessions_are_limited_more_strictly_than_joining_them(
    evicting_site: Site, connect_raw: Connect, here: dict[str, str]
) -> None:
    client, other = [await connect_raw(evicting_site, headers=here) for _ in range(2)]
    tokens: list[str] = []

    async def make() -> dict[str, Any]:
        answer = await start(client)
        if code(answer) == "ok":
            tokens.append(answer["token"])
            await client.act("close")  # so that there is room
        return answer

    assert await count_until_refused(make) >= 3
    assert [code(await start(other, token=tokens[-1])) for _ in range(10)] == ["ok"] * 10


async def test_inits_are_limited_for_a_connection_and_for_its_address(
    site: Site, connect_raw: Connect, here: dict[str, str]
) -> None:
    client, other = [await connect_raw(site, headers=here) for _ in range(2)]
    token = (await start(client))["token"]
    mine = await count_until_refused(lambda: start(client, token=token))
    assert mine >= 5
    assert await count_until_refused(lambda: start(other, token=token)) >= 8 - mine


# Connections


async def test_unattached_connections_of_an_address_are_limited_and_a_handshake_is_one(
    site: Site, connect_raw: Connect, here: dict[str, str]
) -> None:
    address = f"{site.url}/socket.io/?EIO=4&transport=websocket"
    async with aiohttp.ClientSession(headers=here) as http, http.ws_connect(address):  # no CONNECT
        client = await connect_raw(site, headers=here)
        assert "your address" in await refused(site, here)
        await start(client)
        await connect_raw(site, headers=here)
        assert "your address" in await refused(site, here)


async def test_connections_of_an_address_are_limited(
    site: Site, connect_raw: Connect, here: dict[str, str]
) -> None:
    clients = [await connect_raw(site, headers=here)]
    token = (await start(clients[0]))["token"]
    for _ in range(3):
        clients.append(await connect_raw(site, headers=here))
        assert code(await start(clients[-1], token=token)) == "ok"
    assert "your address" in await refused(site, here)
    await clients[0].close()
    await connect_raw(site, headers=here)


async def test_connections_of_a_user_are_limited_and_the_next_one_is_told_so(
    site: Site, connect_raw: Connect, here: dict[str, str]
) -> None:
    ann = await log_in(site, "ann")
    await connect_raw(site, headers=ann.headers | here)
    second = await connect_raw(site, headers=ann.headers)
    assert second.refused is not None
    assert second.refused["data"] == {"error_code": 429, "reason": "quota"}


async def test_the_address_that_a_trusted_proxy_tells_is_stored(
    site: Site, connect_raw: Connect, here: dict[str, str]
) -> None:
    session_id = (await start(await connect_raw(site, headers=here)))["session_id"]
    rows = site.query(
        "SELECT address FROM ohsessions_connection WHERE session_id = ?", session_id.replace("-", "")
    )
    assert rows == [(here["X-Forwarded-For"].split(", ")[1],)]


async def test_an_address_that_no_trusted_proxy_tells_is_not_believed(
    strict_site: Site, connect_raw: Connect, here: dict[str, str]
) -> None:
    bob = await log_in(strict_site, "bob")
    await start(await connect_raw(strict_site, headers=bob.headers | here))
    assert strict_site.query("SELECT DISTINCT address FROM ohsessions_connection") == [("127.0.0.1",)]


# Actions


async def test_all_connections_of_an_address_share_a_rate(
    site: Site, connect_raw: Connect, here: dict[str, str]
) -> None:
    clients = [await connect_raw(site, headers=here) for _ in range(2)]
    payload = '["oh_action",{"action":""}]'
    answers = [await clients[number % 2].ask(payload) for number in range(100)]
    assert {code(answer) for answer in answers} == {(400, "malformed"), (429, "rate")}
    assert {code(answer) for answer in answers[1::2]} == {(400, "malformed"), (429, "rate")}


async def test_a_large_action_counts_as_many(site: Site, connect_raw: Connect, here: dict[str, str]) -> None:
    client = await connect_raw(site, headers=here)
    await start(client)
    text = "x" * (MAX_ACTION_BYTES - 1000)
    answers = [code(await client.act("message", {"content": text})) for _ in range(8)]
    assert answers[:2] == ["ok", "ok"]
    assert (429, "rate") in answers


async def test_all_that_waits_for_init_at_an_address_is_bounded(
    make_site: Callable[..., Site], connect_raw: Connect
) -> None:
    site = make_site(MAX_ACTION_BYTES=MAX_ACTION_BYTES, USER_RATE_LIMIT=None)
    strangers = [await connect_raw(site) for _ in range(12)]
    array = '["oh_action",{"action":"message","args":{"content":"' + "x" * (MAX_ACTION_BYTES - 1000) + '"}}]'
    for stranger in strangers:
        await stranger.tell(array)
        await stranger.ask('["nothing"]')  # the message has arrived whole: unfinished ones have another limit
    answers = [await stranger.wait_event(60, error=True) for stranger in strangers]
    codes = [(answer["error_code"], answer["reason"]) for answer in answers]
    assert set(codes) == {(409, "not_attached"), (429, "quota")}  # held for 10 s, or not at all
    assert codes.count((409, "not_attached")) <= 4


# Sites that require a login or a token


@transports
async def test_a_stranger_whom_nothing_lets_in_is_told_so_at_once_and_holds_nothing(
    strict_site: Site, connect_raw: Connect, transport: str
) -> None:
    client = await connect_raw(strict_site, transport=transport)
    assert code(await client.act("message", {"content": "hello"})) == (401, "login_required")
    assert code(await client.act("leave")) == (401, "login_required")


@transports
async def test_a_stranger_with_a_token_gets_in_and_sends_large_actions_then(
    strict_site: Site, connect_raw: Connect, transport: str
) -> None:
    carl = await log_in(strict_site, f"carl-{transport}")
    token = (await start(await connect_raw(strict_site, headers=carl.headers)))["token"]
    client = await connect_raw(strict_site, transport=transport)
    assert code(await start(client, token="no token of ours")) == (401, "invalid_token")
    assert code(await start(client, token=token)) == "ok"
    assert code(await client.act("message", {"content": "x" * 70_000})) == "ok"
