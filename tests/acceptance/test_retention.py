"""A running site deletes old data by itself. Clients whose events were trimmed are reset."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from uuid import uuid4

from tests.acceptance.raw import RawClient
from tests.acceptance.site import Client, Site
from tests.requirements import wait_until

Connect = Callable[..., Awaitable[Client]]
ConnectRaw = Callable[..., Awaitable[RawClient]]
OLD = "2001-01-01 00:00:00"
TIMES = {
    "ohsessions_connection": "connected_at = ?1, ended_at = ?1 WHERE ended_at IS NOT NULL",
    "ohsessions_process": "seen_at = ?1 WHERE state = 'gone'",
    "ohsessions_transition": "at = ?1",
    "ohsessions_session": "state_at = ?1, active_at = ?1 WHERE state IN ('closed', 'passivated')",
    "ohsessions_event": "created_at = ?1",
}


def age(site: Site) -> None:
    """Make everything old that has ended."""
    for table, change in TIMES.items():
        site.execute(f"UPDATE {table} SET {change}", OLD)


def count(site: Site, table: str, which: str = "1 = 1") -> int:
    return int(site.query(f"SELECT COUNT(*) FROM ohsessions_{table} WHERE {which}")[0][0])


def is_empty(site: Site) -> bool:
    tables = ("session", "event", "transition", "connection")
    return not any(count(site, table) for table in tables) and not count(site, "process", "state = 'gone'")


async def use(site: Site, connect: Connect, *, close: bool = False) -> str:
    """Send some messages as a new client, leave, and return the session's id."""
    client = await connect(site)
    await client.initialize("echo")
    for text in ("one", "two"):
        sent = await client.act("message", {"content": text})
        await client.wait_for(observation="echo", cause=sent["id"])
    if close:
        await client.act("close")
    await client.close()
    return client.session_id


async def test_worker_prunes_by_itself_and_leaves_nothing_of_what_is_over(
    make_site: Callable[..., Site], connect: Connect
) -> None:
    site = make_site(CLOSE_DELAY=0, EVENT_RETENTION=3600)
    closed = await use(site, connect, close=True)
    visitors = await use(site, connect)
    await asyncio.to_thread(wait_until, lambda: site.state(visitors) == "passivated", "its sleep")
    workspaces = site.folder / "workspaces"
    for name in (closed, visitors, str(uuid4())):
        (workspaces / name).mkdir(parents=True)
        (workspaces / name / "file").write_text("x")
    # After the next start everything is old. The first sweep marks whose the workspaces are, the second
    # deletes.
    for _ in range(2):
        await asyncio.to_thread(site.stop)
        age(site)
        for entry in workspaces.iterdir():
            os.utime(entry, (0, 0))
        await asyncio.to_thread(site.start)
        await asyncio.to_thread(wait_until, lambda: is_empty(site), "the end of all that is old")
    wait_until(
        lambda: [entry.name for entry in workspaces.iterdir()] == [".ohsessions-database"], "the sweep"
    )
    # A session in use continues.
    await use(site, connect)
    assert "Traceback" not in site.log.read_text()


async def test_client_that_comes_back_to_a_trimmed_log_is_told_to_start_anew(
    make_site: Callable[..., Site], connect: Connect
) -> None:
    site = make_site(CLOSE_DELAY=None, EVENT_RETENTION=3600, ANONYMOUS_RETENTION=None)
    first = await connect(site)
    await first.initialize("echo")
    for text in ("one", "two"):
        sent = await first.act("message", {"content": text})
        await first.wait_for(observation="echo", cause=sent["id"])
    site.execute("UPDATE ohsessions_event SET created_at = ?1 WHERE number < ?2", OLD, sent["id"])
    said = await asyncio.to_thread(site.manage, "ohsessions", "prune")
    assert f"events, by age: {sent['id']}\n" in said
    second = await connect(site)
    await second.initialize(token=first.token, latest_event_id=1)
    answer = second.answers[-1]
    assert (answer["reset"], answer["first_event_id"]) == (True, sent["id"])
    await second.wait_for(observation="echo", cause=sent["id"])
    assert second.numbers[0] == sent["id"]
    # A client that is still attached, and has all events, notices nothing.
    assert len(first.answers) == 1
    sent = await first.act("message", {"content": "three"})
    await first.wait_for(observation="echo", cause=sent["id"])
    assert first.numbers == list(range(len(first.numbers)))


async def test_client_whose_next_events_are_trimmed_while_it_reads_nothing_is_told_to_start_anew(
    make_site: Callable[..., Site], connect: Connect, connect_raw: ConnectRaw
) -> None:
    site = make_site(CLOSE_DELAY=None, EVENT_RETENTION=3600, SLOW_TIMEOUT=600)
    reader = await connect(site)
    await reader.initialize("echo")
    sleeper = await connect_raw(site)
    await sleeper.act("initialize", token=reader.token)
    sleeper.reads.clear()
    for _ in range(60):  # 9 MB in all: it takes a few hundred kilobytes, and the gateway keeps one megabyte
        sent = await reader.act("message", {"content": "x" * 50_000})
        await reader.wait_for(observation="echo", cause=sent["id"])
    head = reader.numbers[-1]
    site.execute("UPDATE ohsessions_event SET created_at = ?1 WHERE number < ?2", OLD, head - 1)
    await asyncio.to_thread(site.manage, "ohsessions", "prune")
    sleeper.reads.set()
    await sleeper.wait(lambda: f'"id":{head},' in sleeper.packets[-1], "the last event")
    events = [json.loads(packet[1:])[1] for packet in sleeper.packets if packet.startswith('2["oh_event"')]
    (again,) = [place for place, event in enumerate(events) if event.get("reset")]
    assert events[again]["first_event_id"] == head - 1
    assert [event["id"] for event in events[again + 1 :]] == [head - 1, head]
    before = [event["id"] for event in events[:again] if "id" in event]
    assert before == list(range(before[0], before[0] + len(before)))
