"""One client and one session: attach, act, replay, passivate, rehydrate."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.acceptance.operators import Operator
from tests.acceptance.site import Client, Site
from tests.requirements import wait_until

Connect = Callable[..., Awaitable[Client]]


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_an_action_is_acknowledged_with_its_number_and_echoed(
    site: Site, connect: Connect, transport: str
) -> None:
    client = await connect(site, transport=transport)
    answer = await client.initialize("echo")
    assert answer == {"status": "ok", "session_id": client.session_id, "token": client.token}
    await client.wait_state("init")
    acknowledged = await client.act("message", {"content": "hello"})
    assert acknowledged["status"] == "ok"
    event = await client.wait_for(observation="echo")
    assert event["content"] == "hello"
    assert event["cause"] == acknowledged["id"]
    assert client.numbers == list(range(len(client.numbers)))


async def test_a_session_without_connections_is_passivated_and_wakes_with_its_whole_log(
    site: Site, connect: Connect
) -> None:
    first = await connect(site)
    await first.initialize("echo")
    await first.act("message", {"content": "before"})
    await first.wait_for(observation="echo")
    await first.close()
    wait_until(lambda: site.state(first.session_id) == "passivated", "passivation")

    second = await connect(site)
    answer = await second.initialize(token=first.token)
    assert answer["token"] == first.token
    assert second.session_id == first.session_id
    acknowledged = await second.act("message", {"content": "after"})
    await second.wait_for(observation="echo", cause=acknowledged["id"])
    assert second.events[: len(first.events)] == first.events
    assert second.numbers == list(range(len(second.numbers)))


async def test_a_session_that_an_operator_wakes_runs_for_a_while_with_nobody_there(
    make_site: Callable[..., Site], connect: Connect
) -> None:
    site = make_site(CLOSE_DELAY=3)
    operator = await asyncio.to_thread(Operator, site)
    client = await connect(site)
    await client.initialize("echo")
    await client.wait_state("init")
    await client.close()
    wait_until(lambda: site.state(client.session_id) == "passivated", "passivation")
    page = await asyncio.to_thread(operator.select, "session", "wake_now", client.session_id)
    assert "Unless a client attaches, it is passivated after 3 s." in page

    def moves() -> list[str]:
        rows = site.query('SELECT "to" FROM ohsessions_transition ORDER BY id')
        return [state for (state,) in rows]

    life = ["starting", "running", "passivating", "passivated"]
    wait_until(lambda: moves() == life * 2, "its second passivation", 15)
    by = site.query('SELECT reason, "by" FROM ohsessions_transition WHERE "from" = \'passivated\'')
    assert by == [("by an operator", "operator op")]
