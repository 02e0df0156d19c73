"""A session without connections sleeps in time, even if its runtime is busy or the clock was set back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tests.acceptance.site import Client, Site
from tests.requirements import wait_until

MakeSite = Callable[..., Site]
Connect = Callable[[Site], Awaitable[Client]]


async def test_a_command_that_never_ends_keeps_no_session_awake_and_its_sender_is_told(
    make_site: MakeSite, connect: Connect
) -> None:
    site = make_site(CLOSE_DELAY=0.2, MAX_BUSY=2)
    client = await connect(site)
    await client.initialize("shell")
    await client.wait_state("init")
    begun = (await client.act("run", {"command": "sleep 1000"}))["id"]
    waiting = (await client.act("run", {"command": "echo late"}))["id"]
    await client.wait_state("running")
    session_id, token = client.session_id, client.token
    await client.close()
    wait_until(lambda: site.state(session_id) == "passivated", "the session asleep")
    again = await connect(site)
    await again.initialize(token=token, latest_event_id=waiting)
    await again.wait_state("init")
    errors = [event for event in again.events if event.get("observation") == "error"]
    assert [(event["cause"], event["extras"]["reason"]) for event in errors] == [
        (begun, "interrupted"),
        (waiting, "interrupted"),
    ]
    assert "nobody was attached" in errors[0]["content"]
    # The next activation does not begin the actions that were given up.
    assert await again.output((await again.act("run", {"command": "echo now"}))["id"]) == ("now\n", 0)
    assert not [event for event in again.events if event.get("cause") == waiting and event not in errors]


async def test_a_session_whose_due_time_is_an_hour_away_sleeps_within_its_close_delay(
    make_site: MakeSite, connect: Connect
) -> None:
    site = make_site(CLOSE_DELAY=0.5)
    client = await connect(site)
    await client.initialize("echo")
    await client.wait_state("init")
    session_id = client.session_id
    await client.close()
    wait_until(lambda: site.query("SELECT passivate_at FROM ohsessions_session")[0][0], "its due time")
    # As if the clock had been set back by an hour since.
    site.execute("UPDATE ohsessions_session SET passivate_at = datetime('now', '+1 hour')")
    wait_until(lambda: site.state(session_id) == "passivated", "the session asleep", limit=0.5 + 2 + 5)
