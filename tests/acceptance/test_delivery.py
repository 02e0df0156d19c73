"""Delivery over real sockets: the same bytes live and again, at any speed, despite slow readers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from tests.acceptance.raw import RawClient
from tests.acceptance.runtimes import BURST
from tests.acceptance.site import Site
from tests.requirements import wait_until

Connect = Callable[..., Awaitable[RawClient]]
RUNTIMES = {
    "echo": {"BACKEND": "ohsessions.runtimes.echo.EchoRuntime"},
    "broken": {"BACKEND": "tests.acceptance.runtimes.BrokenRuntime"},
}
SLOW_TIMEOUT = 3
CONTENTS = [
    "plain",
    'quotes " and \\ backslashes, </script>',
    "ümläute, 漢字, 🜚 and \u2028 line separators",
    "tabs\tand\r\nlines",
    "1e5, 0.1, -0, NaN",
    "",
]


@pytest.fixture(scope="module")
def site(make_shared_site: Callable[..., Site]) -> Site:
    return make_shared_site(RUNTIMES=RUNTIMES, CLOSE_DELAY=60)


@pytest.fixture(scope="module")
def impatient_site(make_shared_site: Callable[..., Site]) -> Site:
    """Start a site whose SLOW_TIMEOUT ends before a busy machine has made a burst."""
    return make_shared_site(RUNTIMES=RUNTIMES, SLOW_TIMEOUT=SLOW_TIMEOUT)


async def begin(connect_raw: Connect, site: Site, runtime: str = "echo") -> tuple[RawClient, str]:
    client = await connect_raw(site)
    token = (await client.act("initialize", {"runtime": runtime}))["token"]
    await client.wait(lambda: '"agent_state":"init"' in "".join(client.packets), "init")
    return client, token


async def burst(connect_raw: Connect, site: Site) -> tuple[RawClient, str, int]:
    """Return a client, the token and the head of a session with ten thousand events."""
    client, token = await begin(connect_raw, site, "broken")
    head = (await client.act("burst"))["id"] + BURST
    await client.wait(lambda: len(client.stored()) > head, "the burst")
    return client, token, head


def numbers(client: RawClient) -> list[int]:
    return [json.loads(text)["id"] for text in client.stored()]


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_live_and_replayed_events_are_the_same_bytes(
    site: Site, connect_raw: Connect, transport: str
) -> None:
    first, token = await begin(connect_raw, site)
    second = await connect_raw(site, transport=transport)
    await second.act("initialize", token=token)
    for content in CONTENTS:
        args = {"content": content, "numbers": [1.0, 10**15, 1e-7, True, None]}
        done = await first.act("message", args)
        await second.wait_event(observation="echo", cause=done["id"])
    done = await first.act("message", {"content": "secret", "hidden": True})
    await second.wait_event(observation="echo", cause=done["id"])
    await first.wait_event(observation="echo", cause=done["id"])
    later = await connect_raw(site, transport=transport)
    await later.act("initialize", token=token)
    await later.wait_event(observation="echo", cause=done["id"])
    batched = await connect_raw(site, transport=transport)
    await batched.act("initialize", token=token, replay="batch")
    await batched.wait(lambda: batched.got("oh_events"), "a batch")
    assert len(first.stored()) == 2 + 2 * (len(CONTENTS) + 1)
    assert first.stored() == second.stored() == later.stored()
    (packet,) = [packet for packet in batched.packets if packet.startswith('2["oh_events"')]
    assert packet == f'2["oh_events",[{",".join(first.stored())}]]'
    echoes = [event["content"] for event in first.got("oh_event") if event.get("observation") == "echo"]
    assert echoes[:-1] == CONTENTS


async def test_ten_thousand_events_are_replayed_on_both_transports(site: Site, connect_raw: Connect) -> None:
    client, token, head = await burst(connect_raw, site)
    for options in ({}, {"transport": "polling"}):
        again = await connect_raw(site, **options)
        await again.act("initialize", token=token)
        await again.wait(lambda a=again: len(a.packets) > head and len(a.stored()) > head, "all", 30)
        assert again.stored() == client.stored()


async def test_leaving_and_coming_back_in_the_middle_of_a_replay_loses_and_doubles_nothing(
    site: Site, connect_raw: Connect
) -> None:
    _, token, head = await burst(connect_raw, site)
    client = await connect_raw(site)
    cursor = -1
    for _ in range(5):
        before = len(client.packets)
        await client.act("initialize", token=token, latest_event_id=cursor)
        await client.wait(lambda b=before: len(client.packets) > b + 100, "a part")
        await client.act("leave")
        stays = len(client.packets)
        got = [e["id"] for e in client.got("oh_event", before) if isinstance(e.get("id"), int)]
        assert got == list(range(cursor + 1, cursor + 1 + len(got)))
        assert (await client.ask('["oh_action"]'))["reason"] == "malformed"
        assert client.got("oh_event", stays) == []
        cursor = got[-1]
    before = len(client.packets)
    await client.act("initialize", token=token, latest_event_id=cursor)
    await client.wait(lambda: f'{{"id":{head},' in client.packets[-1], "the rest")
    got = [e["id"] for e in client.got("oh_event", before) if isinstance(e.get("id"), int)]
    assert got == list(range(cursor + 1, head + 1))


async def test_who_does_not_read_delays_nobody_and_goes_on_where_it_stopped(
    site: Site, connect_raw: Connect
) -> None:
    client, token = await begin(connect_raw, site, "broken")
    slow = await connect_raw(site)
    await slow.act("initialize", token=token)
    slow.reads.clear()
    head = (await client.act("burst"))["id"] + BURST
    await client.wait(lambda: len(client.stored()) > head, "the burst")
    assert len(slow.stored()) < head / 2
    slow.reads.set()
    await slow.wait(lambda: len(slow.stored()) > head, "the same for the slow one")
    assert slow.stored() == client.stored()
    assert numbers(slow) == list(range(head + 1))


async def test_who_does_not_read_for_too_long_is_disconnected_as_slow(
    impatient_site: Site, connect_raw: Connect
) -> None:
    site = impatient_site
    client, token, _ = await burst(connect_raw, site)
    slow = await connect_raw(site)
    slow.reads.clear()
    await slow.tell(json.dumps(["oh_action", {"action": "initialize", "token": token}]))
    await client.wait_notice(notice="presence", connections=2)
    assert slow.connected is not None
    sql = "SELECT end_reason FROM ohsessions_connection WHERE sid = ?"
    sid = slow.connected["sid"]
    await asyncio.to_thread(wait_until, lambda: site.query(sql, sid) != [("",)], "its end", SLOW_TIMEOUT + 10)
    assert site.query(sql, sid) == [("slow",)]
    await client.wait(lambda: client.got("oh_notice")[-1].get("connections") == 1, "that it is gone")


async def test_many_writers_and_readers_see_one_stream(site: Site, connect_raw: Connect) -> None:
    first, token = await begin(connect_raw, site)
    others = [await connect_raw(site, transport=t) for t in ("websocket", "polling", "websocket")]
    for other in others:
        await other.act("initialize", token=token)
    clients = [first, *others]
    answers = await asyncio.gather(
        *(
            client.act("message", {"content": f"{index}.{number}"})
            for index, client in enumerate(clients)
            for number in range(25)
        )
    )
    ids = [answer["id"] for answer in answers]
    assert len(set(ids)) == 100
    for client in clients:
        await client.wait(lambda c=client: len(c.stored()) >= 202, "all echoes")
        assert client.stored() == first.stored()
    assert numbers(first) == list(range(202))
    for index in range(4):
        mine = [
            event["args"]["content"].partition(".")[2]
            for event in first.got("oh_event")
            if event.get("action") == "message" and event["args"]["content"].startswith(f"{index}.")
        ]
        assert mine == [str(number) for number in range(25)]
