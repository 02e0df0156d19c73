"""INIT to the letter: each sentence of the protocol's chapter on attaching."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
import requests

from ohsessions.access import Role, issue_token
from ohsessions.models import Session
from tests.acceptance.raw import RawClient
from tests.acceptance.site import Site
from tests.requirements import wait_until

Connect = Callable[..., Awaitable[RawClient]]
ATTACHED = "SELECT count(*) FROM ohsessions_connection WHERE session_id IS NOT NULL AND ended_at IS NULL"
SESSIONS = "SELECT count(*) FROM ohsessions_session"
RANDOM = "a-random-name-of-an-init"


@pytest.fixture(scope="module")
def site(make_shared_site: Callable[..., Site]) -> Site:
    return make_shared_site(CLOSE_DELAY=1)


def token_for(session_id: str, role: Role) -> str:
    return issue_token(Session(pk=UUID(session_id), token_version=1), role)


async def tell(client: RawClient, **payload: Any) -> None:
    """Send an INIT as OpenHands does: without asking for an acknowledgement."""
    await client.tell(json.dumps(["oh_action", {"action": "initialize"} | payload]))


async def first_answer(client: RawClient, count: int = 1) -> dict[str, Any]:
    """Return the answer to the client's INIT with this number."""

    def find() -> list[dict[str, Any]]:
        return [event for event in client.got("oh_event") if event.get("status") == "ok"]

    await client.wait(lambda: len(find()) >= count, "the first answer")
    return find()[count - 1]


async def begin(connect_raw: Connect, site: Site, *contents: str) -> tuple[RawClient, str, str]:
    """Return a client, the token and the id of a new session that has echoed these messages."""
    client = await connect_raw(site)
    token = (await client.act("initialize", {"runtime": "echo"}))["token"]
    await client.wait(lambda: '"agent_state":"init"' in "".join(client.packets), "init")
    for content in contents:
        done = await client.act("message", {"content": content})
        await client.wait_event(observation="echo", cause=done["id"])
    return client, token, (await first_answer(client))["session_id"]


def numbers(client: RawClient, after: int = 0) -> list[int]:
    return [event["id"] for event in client.got("oh_event", after) if isinstance(event.get("id"), int)]


def present(client: RawClient) -> int:
    """Return the number of connections in the newest presence notice."""
    counts = [notice["connections"] for notice in client.got("oh_notice") if notice["notice"] == "presence"]
    return int(counts[-1]) if counts else 0


# 1. Settings and secrets


async def test_what_openhands_sends_starts_a_session_and_its_secrets_are_nowhere(
    site: Site, connect_raw: Connect
) -> None:
    client = await connect_raw(site)
    secrets = {
        "LLM_API_KEY": "sk-b7c1e5d09a42",
        "github_token": "ghp_8d2f61c3",
        "OPENAI_KEY": "sk-55d09a42b7c1",
        "nested": "sk-7c1e5d02b9a4",
        "in a list": "pw-0c2f61d883",
        "in a string": "dsn-61c38d2f",
        "in a URL": "pw-f61c38d20",
    }
    args = {
        "LLM_MODEL": "openai/gpt-4o",
        "LLM_BASE_URL": "",
        "AGENT": "CodeActAgent",
        "LANGUAGE": "en",
        "LLM_API_KEY": secrets["LLM_API_KEY"],
        "CONFIRMATION_MODE": False,
        "SECURITY_ANALYZER": "",
        "Nobody-Knows": {"This": [1]},
        "OPENAI_KEY": secrets["OPENAI_KEY"],
        "llm": {"api_key": secrets["nested"], "more": [{"passwd": secrets["in a list"]}, 1]},
        "config": json.dumps({"dsn": secrets["in a string"], "level": 2}),
        "proxy": f"https://ann:{secrets['in a URL']}@proxy.example:8080",
    }
    await tell(client, args=args, github_token=secrets["github_token"], selected_repository=None)
    answer = await first_answer(client)
    ((settings, runtime),) = site.query(
        "SELECT settings, runtime FROM ohsessions_session WHERE id = ?", UUID(answer["session_id"]).hex
    )
    assert runtime == "shell"  # the default of the reference site with DEBUG
    assert json.loads(settings) == {
        "llm_model": "openai/gpt-4o",
        "llm_base_url": "",
        "agent": "CodeActAgent",
        "language": "en",
        "confirmation_mode": False,
        "security_analyzer": "",
        "nobody-knows": {"This": [1]},
        "llm": {"more": [{}, 1]},
        "config": '{"level":2}',
    }
    await client.wait(lambda: '"agent_state":"init"' in "".join(client.packets), "init")
    places = {str(path): path.read_bytes() for path in site.folder.glob("*") if path.is_file()}
    places["what the client got"] = "".join(client.packets).encode()
    for place, content in places.items():
        for secret in secrets.values():
            assert secret.encode() not in content, place


@pytest.mark.parametrize("key", ["runtime", "RUNTIME", "Runtime"])
async def test_the_runtime_is_named_in_any_case_and_counts_only_for_a_new_session(
    site: Site, connect_raw: Connect, key: str
) -> None:
    client = await connect_raw(site)
    token = (await client.act("initialize", {key: "echo"}))["token"]
    again = await connect_raw(site)
    assert (await again.act("initialize", {key: "no such runtime"}, token=token))["status"] == "ok"
    session_id = UUID((await first_answer(again))["session_id"]).hex
    assert site.query("SELECT runtime FROM ohsessions_session WHERE id = ?", session_id) == [("echo",)]


# 2. New sessions


@pytest.mark.parametrize("token", [{}, {"token": None}, {"token": ""}])
async def test_without_a_token_a_new_session_starts_whose_id_is_not_the_connections(
    site: Site, connect_raw: Connect, token: dict[str, Any]
) -> None:
    client = await connect_raw(site)
    await tell(client, args=None, **token)
    answer = await first_answer(client)
    assert UUID(answer["session_id"]).version == 4
    assert client.connected is not None
    assert client.connected["sid"] not in json.dumps(answer)


async def test_an_init_repeated_under_its_client_id_gives_the_same_session(
    site: Site, connect_raw: Connect
) -> None:
    lost, again, other = [await connect_raw(site) for _ in range(3)]
    first = await lost.act("initialize", {"runtime": "echo"}, client_id=RANDOM)
    await lost.close()
    second = await again.act("initialize", {"runtime": "echo"}, client_id=RANDOM)
    assert second["session_id"] == first["session_id"]
    assert (await other.act("initialize", {"runtime": "echo"}))["session_id"] != first["session_id"]


BROWSERS = [
    ({"Cookie": "csrftoken=one"}, {"Cookie": "csrftoken=two"}),
    ({"Cookie": "sessionid=one; csrftoken=same"}, {"Cookie": "sessionid=two; csrftoken=same"}),
    ({"Cookie": "csrftoken=one"}, {}),
    ({"User-Agent": "one"}, {"User-Agent": "two"}),
]


@pytest.mark.parametrize(("mine", "theirs"), BROWSERS, ids=["csrf", "session", "cookie-or-none", "program"])
async def test_two_strangers_with_one_client_id_get_a_session_each(
    site: Site, connect_raw: Connect, mine: dict[str, str], theirs: dict[str, str]
) -> None:
    name = f"{RANDOM}-{mine}"[:60]
    sessions = []
    for headers in (mine, theirs, mine, theirs):
        client = await connect_raw(site, headers=headers)
        sessions.append((await client.act("initialize", {"runtime": "echo"}, client_id=name))["session_id"])
        await client.close()
    assert sessions[0] != sessions[1]
    assert sessions[2:] == sessions[:2]


async def test_the_same_init_from_many_sockets_at_once_makes_one_session(
    site: Site, connect_raw: Connect
) -> None:
    clients = await asyncio.gather(*(connect_raw(site) for _ in range(8)))
    before = site.query(SESSIONS)[0][0]
    answers = await asyncio.gather(
        *(client.act("initialize", {"runtime": "echo"}, client_id=RANDOM + "-at-once") for client in clients)
    )
    assert len({answer["session_id"] for answer in answers}) == 1
    assert site.query(SESSIONS)[0][0] == before + 1
    for client in clients:
        await client.wait_notice(notice="presence", connections=8, users=[])


# 3. Joining


async def test_a_refused_init_changes_nothing(site: Site, connect_raw: Connect) -> None:
    client, _, _ = await begin(connect_raw, site)
    sessions, attached = site.query(SESSIONS), site.query(ATTACHED)
    stranger = await connect_raw(site)
    for one in (client, stranger):
        assert (await one.act("initialize", token="nonsense"))["reason"] == "invalid_token"
        assert (await one.act("initialize", {"runtime": "nope"}))["reason"] == "unknown_runtime"
    assert (site.query(SESSIONS), site.query(ATTACHED)) == (sessions, attached)
    done = await client.act("message", {"content": "still attached"})
    await client.wait_event(observation="echo", cause=done["id"])


async def test_a_passivated_session_is_rehydrated_by_an_init(site: Site, connect_raw: Connect) -> None:
    client, token, session_id = await begin(connect_raw, site, "before")
    await client.close()
    wait_until(lambda: site.state(session_id) == "passivated", "passivation")
    again = await connect_raw(site)
    await again.act("initialize", token=token, latest_event_id=numbers(client)[-1])
    assert (await first_answer(again))["state"] == "starting"
    await again.wait(lambda: '"agent_state":"init"' in "".join(again.packets), "init")
    states = [event["extras"]["agent_state"] for event in again.got("oh_event") if "extras" in event]
    assert states == ["stopped", "loading", "init"]
    await again.wait_notice(notice="session_state", state="running")


# 4. The first answer


async def test_the_first_answer_comes_before_any_event_and_always_as_an_event(
    site: Site, connect_raw: Connect
) -> None:
    first, token, session_id = await begin(connect_raw, site, "one", "two")
    for asks in (True, False):
        client = await connect_raw(site)
        if asks:
            acknowledged = await client.act("initialize", token=token)
            assert acknowledged == {"status": "ok", "session_id": session_id, "token": token}
        else:
            await tell(client, token=token)
        head = numbers(first)[-1]
        await client.wait(lambda c=client, h=head: h in numbers(c), "the replay")
        answer = {
            "token": token,
            "status": "ok",
            "session_id": session_id,
            "state": "running",
            "role": "owner",
            "head": head,
            "reset": False,
        }
        assert json.loads(client.packets[0][1:]) == ["oh_event", answer]
        assert numbers(client) == list(range(head + 1))


async def test_the_first_answer_goes_to_nobody_else(site: Site, connect_raw: Connect) -> None:
    first, token, _ = await begin(connect_raw, site)
    before = len(first.packets)
    second = await connect_raw(site)
    await second.act("initialize", token=token)
    await first.wait_notice(notice="presence", connections=2)
    assert first.got("oh_event", before) == []


async def test_a_new_session_has_no_head_yet(site: Site, connect_raw: Connect) -> None:
    client = await connect_raw(site)
    await client.act("initialize", {"runtime": "echo"})
    answer = await first_answer(client)
    assert (answer["state"], answer["role"], answer["head"], answer["reset"]) == (
        "starting",
        "owner",
        -1,
        False,
    )


@pytest.mark.parametrize("role", list(Role))
async def test_the_role_is_that_of_the_token_or_less_if_less_is_asked_for(
    site: Site, connect_raw: Connect, role: Role
) -> None:
    _, _, session_id = await begin(connect_raw, site)
    token = token_for(session_id, role)
    client = await connect_raw(site)
    assert (await client.act("initialize", token=token))["token"] == token
    assert (await first_answer(client))["role"] == role.value
    assert (await client.act("initialize", token=token, role="viewer"))["token"] == token
    assert (await first_answer(client, 2))["role"] == "viewer"
    assert (await client.act("message"))["reason"] == "role"
    assert (await client.act("initialize", token=token, role="owner"))["token"] == token
    assert (await first_answer(client, 3))["role"] == role.value


# 5. The cursor


@pytest.mark.parametrize(
    ("cursor", "first"),
    [
        ({"latest_event_id": 0}, 1),
        ({"latest_event_id": 3}, 4),
        ({"latest_event_id": "3"}, 4),
        ({"latest_event_id": "003"}, 4),
        ({"latest_event_id": -1}, 0),
        ({"latest_event_id": "-5"}, 0),
        ({"latest_event_id": -(10**30)}, 0),
        ({"latest_event_id": "undefined"}, 0),
        ({"latest_event_id": " 3"}, 0),
        ({"latest_event_id": "٣"}, 0),
        ({"latest_event_id": True}, 0),
        ({"latest_event_id": 1.5}, 0),
        ({"latest_event_id": None}, 0),
        ({"latest_event_id": []}, 0),
        ({}, 0),
    ],
    ids=repr,
)
async def test_replay_starts_after_the_cursor(
    site: Site, connect_raw: Connect, cursor: dict[str, Any], first: int
) -> None:
    writer, token, _ = await begin(connect_raw, site, "one", "two")
    head = numbers(writer)[-1]
    client = await connect_raw(site)
    await client.act("initialize", token=token, **cursor)
    answer = await first_answer(client)
    assert (answer["reset"], "first_event_id" in answer) == (False, False)
    await client.wait(lambda: head in numbers(client), "the replay")
    assert numbers(client) == list(range(first, head + 1))


@pytest.mark.parametrize("beyond", [1, 10**6, 10**30, "7777777"])
async def test_a_cursor_above_the_head_is_reset(site: Site, connect_raw: Connect, beyond: Any) -> None:
    writer, token, _ = await begin(connect_raw, site, "one")
    head = numbers(writer)[-1]
    client = await connect_raw(site)
    await client.act("initialize", token=token, latest_event_id=head + 1 if beyond == 1 else beyond)
    answer = await first_answer(client)
    assert (answer["reset"], answer["first_event_id"], answer["head"]) == (True, 0, head)
    await client.wait(lambda: head in numbers(client), "the replay")
    assert numbers(client) == list(range(head + 1))


@pytest.mark.parametrize("by", ["init", "connect"])
async def test_a_cursor_of_the_log_that_a_restored_database_had_before_is_reset(
    site: Site, connect_raw: Connect, by: str
) -> None:
    writer, token, session_id = await begin(connect_raw, site, "one", "two", "three")
    before = numbers(writer)[-1]
    cursor = next(event for event in writer.got("oh_event") if event.get("id") == before)
    kept, pk = before - 3, UUID(session_id).hex
    await writer.act("leave")
    wait_until(lambda: site.state(session_id) == "passivated", "the session asleep")
    # The backup has fewer events. A colleague stores as many as are missing, and more, before the client
    # returns.
    site.execute("DELETE FROM ohsessions_event WHERE session_id = ? AND number > ?", pk, kept)
    marks = "last_action_number = -1, last_user_number = -1, handled_number = -1, started_number = -1"
    site.execute(f"UPDATE ohsessions_session SET next_number = ?, {marks} WHERE id = ?", kept + 1, pk)
    colleague = await connect_raw(site)
    await colleague.act("initialize", token=token)
    for content in ("4", "5", "6"):
        done = await colleague.act("message", {"content": content})
        await colleague.wait_event(observation="echo", cause=done["id"])
    head = numbers(colleague)[-1]
    assert head > before
    position = {"latest_event_id": before, "latest_event_timestamp": cursor["timestamp"]}
    if by == "init":
        client = await connect_raw(site)
        await client.act("initialize", token=token, **position)
    else:
        client = await connect_raw(site, auth={"conversation_id": session_id, "token": token, **position})
    answer = await first_answer(client)
    assert (answer["reset"], answer["first_event_id"]) == (True, 0)
    await client.wait(lambda: head in numbers(client), "the replay")
    assert numbers(client) == list(range(head + 1))


@pytest.mark.parametrize("said", ["its own", None, 7, "none"])
async def test_a_cursor_with_the_timestamp_of_its_event_or_none_is_believed(
    site: Site, connect_raw: Connect, said: Any
) -> None:
    writer, token, _ = await begin(connect_raw, site, "one")
    event = next(event for event in writer.got("oh_event") if event.get("id") == 2)
    client = await connect_raw(site)
    position = {} if said == "none" else {"latest_event_timestamp": said}
    if said == "its own":
        position = {"latest_event_timestamp": event["timestamp"]}
    await client.act("initialize", token=token, latest_event_id=2, **position)
    assert (await first_answer(client))["reset"] is False


@pytest.mark.parametrize("said", ["", "2026", "x" * 100_000, '","x":"%_'])
async def test_a_cursor_with_a_timestamp_that_no_event_has_is_reset(
    site: Site, connect_raw: Connect, said: str
) -> None:
    _, token, _ = await begin(connect_raw, site, "one")
    client = await connect_raw(site)
    await client.act("initialize", token=token, latest_event_id=2, latest_event_timestamp=said)
    assert (await first_answer(client))["reset"] is True


async def test_a_cursor_at_the_head_gets_what_comes_next(site: Site, connect_raw: Connect) -> None:
    writer, token, _ = await begin(connect_raw, site, "one")
    head = numbers(writer)[-1]
    client = await connect_raw(site)
    await client.act("initialize", token=token, latest_event_id=head)
    await writer.act("message", {"content": "next"})
    await client.wait_event(observation="echo", content="next")
    assert numbers(client) == [head + 1, head + 2]


async def test_a_cursor_below_a_trimmed_log_is_reset(site: Site, connect_raw: Connect) -> None:
    writer, token, session_id = await begin(connect_raw, site, "one", "two")
    head = numbers(writer)[-1]
    pk = UUID(session_id).hex
    site.execute("DELETE FROM ohsessions_event WHERE session_id = ? AND number < 3", pk)
    site.execute("UPDATE ohsessions_session SET first_number = 3 WHERE id = ?", pk)
    for cursor, is_reset in ((-1, True), (1, True), (2, False), (3, False)):
        client = await connect_raw(site)
        await client.act("initialize", token=token, latest_event_id=cursor)
        answer = await first_answer(client)
        assert (answer["reset"], answer.get("first_event_id")) == (is_reset, 3 if is_reset else None)
        await client.wait(lambda c=client: head in numbers(c), "the replay")
        assert numbers(client) == list(range(max(3, cursor + 1), head + 1))


# 6. A second INIT


async def test_a_second_init_leaves_the_old_session_and_nothing_of_it_comes_after_the_answer(
    site: Site, connect_raw: Connect
) -> None:
    old_writer, old_token, old = await begin(connect_raw, site, "old")
    _, new_token, new = await begin(connect_raw, site, "new")
    client = await connect_raw(site)
    await client.act("initialize", token=old_token)
    await old_writer.wait_notice(notice="presence", connections=2)
    # The old session emits events meanwhile.
    talk = [old_writer.act("message", {"content": f"old {number}"}) for number in range(30)]
    talking = asyncio.gather(*talk)
    await client.act("initialize", token=new_token)
    await talking
    await old_writer.wait_event(observation="echo", content="old 29")
    answer = await first_answer(client, 2)
    assert answer["session_id"] == new
    at = client.packets.index(f'2["oh_event",{json.dumps(answer, separators=(",", ":"))}]')
    done = await client.act("message", {"content": "marker"})
    await client.wait_event(observation="echo", cause=done["id"], content="marker")
    assert numbers(client, at) == list(range(done["id"] + 2))
    assert "old" not in "".join(client.packets[at + 1 :])
    await old_writer.wait(
        lambda: present(old_writer) == 1,
        "that it left",
    )
    assert old != new


async def test_a_second_init_for_the_same_session_replays_from_its_cursor(
    site: Site, connect_raw: Connect
) -> None:
    client, token, _ = await begin(connect_raw, site, "one", "two")
    head = numbers(client)[-1]
    for cursor in (1, 3, -1):
        before = len(client.packets)
        await client.act("initialize", token=token, latest_event_id=cursor)
        await client.wait(lambda b=before: head in numbers(client, b), "the replay")
        assert numbers(client, before) == list(range(cursor + 1, head + 1))
    assert site.query(ATTACHED + " AND sid = ?", client.connected["sid"] if client.connected else "") == [
        (1,)
    ]


# 7. Actions before INIT


async def test_openhands_flushes_what_was_typed_offline_before_its_init(
    site: Site, connect_raw: Connect
) -> None:
    first, token, _ = await begin(connect_raw, site, "before")
    cursor = numbers(first)[-1]
    await first.close()
    client = await connect_raw(site)
    for word in ("typed", "while", "offline"):
        await client.tell(f'["oh_action",{{"action":"message","args":{{"content":"{word}"}}}}]')
    await tell(client, token=token, latest_event_id=cursor, args={"LLM_MODEL": "x"})
    await client.wait_event(observation="echo", content="offline")
    assert json.loads(client.packets[0][1:])[1]["token"] == token
    # The session may have been put to sleep when the client left it. The actions kept their order.
    echoes = [e["content"] for e in client.got("oh_event") if e.get("observation") == "echo"]
    assert echoes == ["typed", "while", "offline"]
    assert numbers(client) == list(range(cursor + 1, numbers(client)[-1] + 1))
    assert [event for event in client.got("oh_event") if event.get("error")] == []


async def test_after_leave_the_socket_stays_and_can_attach_again(site: Site, connect_raw: Connect) -> None:
    client, token, session_id = await begin(connect_raw, site, "one")
    other = await connect_raw(site)
    await other.act("initialize", token=token)
    assert await client.act("leave") == {"status": "ok"}
    await other.wait(lambda: present(other) == 1, "that it left")
    before = len(client.packets)
    await other.act("message", {"content": "unheard"})
    await other.wait_event(observation="echo", content="unheard")
    held = asyncio.create_task(client.act("message", {"content": "held"}))
    await client.act("initialize", token=token, latest_event_id=numbers(client)[-1])
    assert (await held)["status"] == "ok"
    await client.wait_event(observation="echo", content="held")
    contents = [e["content"] for e in client.got("oh_event", before) if e.get("observation") == "echo"]
    assert contents == ["unheard", "held"]
    assert site.state(session_id) == "running"


async def test_a_socket_that_drops_in_the_middle_of_its_init_leaves_nothing_attached(
    site: Site, connect_raw: Connect
) -> None:
    _, token, session_id = await begin(connect_raw, site)
    clients = await asyncio.gather(*(connect_raw(site) for _ in range(20)))
    await asyncio.gather(*(tell(client, token=token) for client in clients))
    await asyncio.gather(*(client.close() for client in clients))
    pk = UUID(session_id).hex
    wait_until(lambda: site.query(ATTACHED + " AND session_id = ?", pk) == [(1,)], "nobody else attached")


# Presence, state, and the end


async def test_everybody_hears_who_comes_and_goes_and_what_becomes_of_the_session(
    site: Site, connect_raw: Connect
) -> None:
    first, token, session_id = await begin(connect_raw, site)
    second = await connect_raw(site)
    await second.act("initialize", token=token)
    for client in (first, second):
        await client.wait_notice(notice="presence", connections=2, users=[])
    await second.close()
    await first.wait(lambda: present(first) == 1, "that it left")
    assert await first.act("close") == {"status": "ok"}
    closed = await first.wait_notice(notice="session_state", state="closed")
    assert closed == {"notice": "session_state", "state": "closed", "reason": "closed", "title": ""}
    assert [n["state"] for n in first.got("oh_notice") if "state" in n] == ["running", "closed"]
    assert site.state(session_id) == "closed"


async def test_revoked_connections_are_ended_and_told_so(site: Site, connect_raw: Connect) -> None:
    client, token, session_id = await begin(connect_raw, site)
    pk = UUID(session_id).hex
    site.execute("UPDATE ohsessions_session SET token_version = 2 WHERE id = ?", pk)
    notice = await client.wait_notice(notice="disconnecting")
    assert notice == {
        "notice": "disconnecting",
        "reason": "revoked",
        "message": "The link to this session was revoked. Ask for a new one.",
    }
    await client.wait(lambda: "1" in client.packets, "Socket.IO's DISCONNECT: it is to stay away")
    again = await connect_raw(site)
    assert (await again.act("initialize", token=token))["reason"] == "invalid_token"


# 9. Options, and attaching while connecting


async def test_a_replay_in_batches_has_at_most_300_events_each_and_goes_on_with_single_ones(
    site: Site, connect_raw: Connect
) -> None:
    writer, token, _ = await begin(connect_raw, site)
    await asyncio.gather(*(writer.act("message", {"content": str(number)}) for number in range(200)))
    await writer.wait(lambda: len(numbers(writer)) >= 402, "all echoes")
    client = await connect_raw(site)
    await client.act("initialize", token=token, replay="batch")
    await client.wait(lambda: len(client.got("oh_events")) >= 2, "two batches")
    batches = client.got("oh_events")
    assert [len(batch) for batch in batches] == [300, 102]
    assert [event["id"] for batch in batches for event in batch] == list(range(402))
    await writer.act("message", {"content": "live"})
    await client.wait_event(observation="echo", content="live")
    assert numbers(client) == [402, 403]
    raw = [p.removeprefix('2["oh_events",[')[:-2] for p in client.packets if p.startswith('2["oh_events"')]
    assert ",".join(raw) == ",".join(writer.stored()[:402])


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@pytest.mark.parametrize("place", ["auth", "query and header", "query and auth"])
async def test_newer_clients_attach_while_connecting(
    site: Site, connect_raw: Connect, transport: str, place: str
) -> None:
    writer, token, session_id = await begin(connect_raw, site, "one")
    wanted = {"conversation_id": session_id, "latest_event_id": "1"}
    options: dict[str, Any] = {
        "auth": {"auth": wanted | {"token": token}},
        "query and header": {"query": wanted, "headers": {"Authorization": f"Bearer {token}"}},
        "query and auth": {"query": wanted | {"latest_event_id": "0"}, "auth": {"token": token, **wanted}},
    }[place]
    client = await connect_raw(site, transport=transport, **options)
    answer = await first_answer(client)
    assert (answer["session_id"], answer["token"], answer["reset"]) == (session_id, token, False)
    await client.wait(lambda: numbers(writer)[-1] in numbers(client), "the replay")
    assert numbers(client) == list(range(2, numbers(writer)[-1] + 1))
    done = await client.act("message", {"content": "at once"})
    await writer.wait_event(observation="echo", cause=done["id"])


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_refusal_while_connecting_says_why_and_attaches_nobody(
    site: Site, connect_raw: Connect, transport: str
) -> None:
    _, token, session_id = await begin(connect_raw, site)
    other = "b2f3c3de-0000-4000-8000-000000000000"
    attached = site.query(ATTACHED)
    unknown, invalid = (404, "unknown_session"), (401, "invalid_token")
    for auth, query, (code, reason) in (
        ({"conversation_id": session_id}, {}, unknown),  # a stranger without a token
        ({"conversation_id": other}, {}, unknown),
        ({"conversation_id": "../../etc"}, {}, unknown),
        ({"conversation_id": session_id, "token": "nonsense"}, {}, invalid),
        ({"conversation_id": other, "token": token}, {}, invalid),
        ({}, {"conversation_id": session_id, "token": token}, unknown),  # the token in the query is ignored
        ({"conversation_id": 5}, {}, (400, "malformed")),
        ({"conversation_id": session_id, "token": "\ud800"}, {}, (400, "not_json")),
    ):
        client = await connect_raw(site, transport=transport, auth=auth, query=query)
        assert client.refused is not None
        assert set(client.refused) == {"message", "data"}
        assert client.refused["data"] == {"error_code": code, "reason": reason}
        assert client.packets == []
    assert site.query(ATTACHED) == attached


async def test_a_logged_in_owner_needs_no_token_and_nobody_else_gets_in(
    site: Site, connect_raw: Connect
) -> None:
    make = "from django.contrib.auth import get_user_model as m; [m().objects.create_superuser(n, password=n)"
    await asyncio.to_thread(site.manage, "shell", "-c", make + " for n in ('ann', 'bob')]")
    cookies = {name: await asyncio.to_thread(log_in, site, name) for name in ("ann", "bob")}
    ann = await connect_raw(site, headers=cookies["ann"])
    session_id = (await ann.act("initialize", {"runtime": "echo"}))["session_id"]
    await ann.wait_notice(notice="presence", connections=1, users=["ann"])
    wanted = {"conversation_id": session_id}
    again = await connect_raw(site, auth=wanted, headers=cookies["ann"])
    assert (await first_answer(again))["role"] == "owner"
    bob = await connect_raw(site, auth=wanted, headers=cookies["bob"])
    assert bob.refused is not None
    assert bob.refused["data"] == {"error_code": 404, "reason": "unknown_session"}


def log_in(site: Site, name: str) -> dict[str, str]:
    """Return the headers of a browser in which this user has logged in. The password is the name."""
    with requests.Session() as browser:
        address = f"{site.url}/admin/login/"
        browser.get(address, timeout=10)
        form = {"username": name, "password": name, "csrfmiddlewaretoken": browser.cookies["csrftoken"]}
        response = browser.post(address, data=form | {"next": "/admin/"}, timeout=10)
        assert response.url == f"{site.url}/admin/"
        return {"Cookie": f"sessionid={browser.cookies['sessionid']}"}
