"""One client and one session: attach, act, replay, passivate, rehydrate."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

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
