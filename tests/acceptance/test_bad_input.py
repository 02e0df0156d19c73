"""Bad input is answered to its sender alone, by the protocol's table of errors, and harms no other client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import requests
from django.core import signing

from ohsessions.access import Role, issue_token
from ohsessions.access.tokens import TOKEN_SALT
from ohsessions.models import Session
from tests.acceptance.policies import FLAG
from tests.acceptance.raw import RawClient
from tests.acceptance.site import Site

Connect = Callable[..., Awaitable[RawClient]]
MAX_ACTION_BYTES = 20_000
ROOM = MAX_ACTION_BYTES - len('{"action":"message","args":{"content":""}}')
DEEP = 100_000
transports = pytest.mark.parametrize("transport", ["websocket", "polling"])


@pytest.fixture(scope="module")
def site(make_shared_site: Callable[..., Site]) -> Site:
    policy = "tests.acceptance.policies.BreakablePolicy"
    return make_shared_site(MAX_ACTION_BYTES=MAX_ACTION_BYTES, ACCESS_POLICY=policy, CLOSE_DELAY=60)


@pytest.fixture(scope="module")
def strict_site(make_shared_site: Callable[..., Site]) -> Site:
    return make_shared_site(ALLOW_ANONYMOUS=False, RATE_LIMIT=2)


def action(args: str, kind: str = "message") -> str:
    return f'["oh_action",{{"action":"{kind}","args":{args}}}]'


def initialize(fields: str) -> str:
    return f'["oh_action",{{"action":"initialize",{fields}}}]'


def nested(levels: int, payload_levels: int = 2) -> str:
    """Return an action with this many nested levels. The payload and its args are two of them."""
    lists = levels - payload_levels
    return action('{"content":' + "[" * lists + "1" + "]" * lists + "}")


MALFORMED = {
    "no argument": '["oh_action"]',
    "two arguments": '["oh_action",{"action":"message"},{"action":"message"}]',
    "a string": '["oh_action","message"]',
    "a number": '["oh_action",5]',
    "null": '["oh_action",null]',
    "an array": '["oh_action",[{"action":"message"}]]',
    "no action": '["oh_action",{"args":{}}]',
    "an action that is a number": '["oh_action",{"action":5}]',
    "an empty action": '["oh_action",{"action":""}]',
    "an action that is too long": f'["oh_action",{{"action":"{"a" * 65}"}}]',
    "args that are a list": action("[]"),
    "args that are a string": action('"hello"'),
    "a client_id that is a number": '["oh_action",{"action":"message","client_id":5}]',
    "a client_id that is empty": '["oh_action",{"action":"message","client_id":""}]',
    "a client_id that is too long": f'["oh_action",{{"action":"message","client_id":"{"c" * 65}"}}]',
    "an unknown event": '["shout",{"action":"message"}]',
    "an unknown event with a strange name": '["\\ud800\\u0000",{"action":"message"}]',
    "an event whose name is a number": '[5,{"action":"message"}]',
    "an event without a name": "[]",
    "an INIT whose args are a list": initialize('"args":[]'),
    "an INIT whose token is a number": initialize('"token":5'),
    "an INIT whose client_id is short": initialize('"client_id":"short"'),
}
NOT_JSON = {
    "NaN": action('{"content":NaN}'),
    "Infinity": action('{"content":Infinity}'),
    "-Infinity": action('{"content":[-Infinity]}'),
    "a float beyond doubles": action('{"content":1e999}'),
    "an integer beyond doubles": action('{"content":1' + "0" * 400 + "}"),
    "an integer of 5000 digits": action('{"content":' + "9" * 5000 + "}"),
    "a lone surrogate": action('{"content":"\\ud800"}'),
    "a lone surrogate in a key": action('{"\\udfff":1}'),
    "a lone surrogate as client_id": '["oh_action",{"action":"message","client_id":"\\ud800"}]',
    "a NUL": action('{"content":"a\\u0000b"}'),
    "a NUL in the action": '["oh_action",{"action":"mess\\u0000age"}]',
    "half an object": '["oh_action",{"action":"message"',
    "what follows": '["oh_action",{"action":"message"}] and more',
    "single quotes": "[\"oh_action\",{'action':'message'}]",
}
TOO_DEEP = {"65 levels": nested(65), "100,000 levels": nested(DEEP), "an unclosed depth": action("[" * DEEP)}
UNKNOWN_RUNTIME = {
    "an alias that is none": initialize('"args":{"runtime":"nope"}'),
    "an alias in another case": initialize('"args":{"RUNTIME":"Echo"}'),
    "an alias that is a number": initialize('"args":{"runtime":5}'),
}
INVALID_TOKEN = {
    "nonsense": initialize('"token":"nonsense"'),
    "nonsense in another script": initialize('"token":"знак:знак:знак"'),
    "a forged signature": initialize('"token":"eyJzIjoiYWJjIn0:1w0000:' + "A" * 43 + '"'),
}
TOO_LARGE = {
    "one byte too many": action('{"content":"' + "x" * (ROOM + 1) + '"}'),
    "characters of many bytes": action('{"content":"' + "€" * (MAX_ACTION_BYTES // 3) + '"}'),
    "an INIT": initialize('"args":{"x":"' + "x" * MAX_ACTION_BYTES + '"}'),
}
REFUSED: dict[tuple[int, str], dict[str, str]] = {
    (400, "malformed"): MALFORMED,
    (400, "not_json"): NOT_JSON,
    (400, "too_deep"): TOO_DEEP,
    (400, "unknown_runtime"): UNKNOWN_RUNTIME,
    (401, "invalid_token"): INVALID_TOKEN,
    (413, "too_large"): TOO_LARGE,
}
CASES = [
    pytest.param(code, reason, array, id=f"{reason}: {name}")
    for (code, reason), arrays in REFUSED.items()
    for name, array in arrays.items()
]


class Pair:
    """A client that sends bad input, and a witness in the same session that must not notice it."""

    def __init__(self, sender: RawClient, witness: RawClient, token: str) -> None:
        self.sender = sender
        self.witness = witness
        self.token = token
        self._seen = len(witness.packets)

    @classmethod
    async def attach(cls, connect_raw: Connect, site: Site, transport: str, **options: Any) -> Pair:
        sender = await connect_raw(site, transport=transport)
        token = (await sender.act("initialize", {"runtime": "echo"}))["token"]
        witness = await connect_raw(site)
        assert (await witness.act("initialize", token=token))["token"] == token
        await witness.wait(lambda: '"agent_state":"init"' in "".join(witness.packets), "init")
        await witness.wait_notice(notice="presence", connections=2)
        return cls(sender, witness, token)

    async def check_refused(
        self, code: int, reason: str, array: str, *attachments: bytes, **extra: Any
    ) -> dict[str, Any]:
        """Send the array with and without an acknowledgement, check both answers, and return the error."""
        answer = await self.sender.ask(array, *attachments)
        fields = {"error_code": code, "reason": reason, "message": answer["message"]} | extra
        assert answer == {"status": "error"} | fields
        assert isinstance(answer["message"], str)
        assert answer["message"]
        before = len(self.sender.packets)
        await self.sender.tell(array, *attachments)
        sender = self.sender
        await sender.wait(lambda: [e for e in sender.got("oh_event", before) if "error" in e], "the error")
        (event,) = [e for e in sender.got("oh_event", before) if "error" in e]
        assert event == {"error": "Invalid token" if reason == "invalid_token" else True} | fields
        return event

    async def check_unharmed(self) -> None:
        """Check that the sender can act, and that the witness gets only that action and its echo."""
        done = await self.sender.act("message", {"content": "still here"})
        assert done["status"] == "ok"
        await self.witness.wait_event(observation="echo", cause=done["id"])
        seen = self.witness.got("oh_event", self._seen)
        assert [event["id"] for event in seen] == [done["id"], done["id"] + 1]
        for notice in self.witness.got("oh_notice", self._seen):
            assert notice["notice"] in ("presence", "session_state")
            assert notice.get("connections", 2) == 2
            assert notice.get("state", "running") == "running"


def client_id_in(array: str) -> dict[str, str]:
    """Return the client_id that the error must contain, cut to the longest allowed one."""
    try:
        payload = json.loads(array)[1]
        return {"client_id": payload["client_id"][:64]}
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}


@transports
@pytest.mark.parametrize(("code", "reason", "array"), CASES)
async def test_bad_input_is_answered_to_its_sender_only(
    site: Site, connect_raw: Connect, transport: str, code: int, reason: str, array: str
) -> None:
    pair = await Pair.attach(connect_raw, site, transport)
    await pair.check_refused(code, reason, array, **client_id_in(array))
    await pair.check_unharmed()


@transports
async def test_binary_is_refused_with_its_attachments(
    site: Site, connect_raw: Connect, transport: str
) -> None:
    pair = await Pair.attach(connect_raw, site, transport)
    placeholder = '{"_placeholder":true,"num":%d}'
    array = action(f'{{"content":{placeholder % 0},"more":{placeholder % 1}}}')
    event = await pair.check_refused(400, "not_json", array, b"\x00\xff", b"more")
    assert event["message"] == "binary data is not supported"
    await pair.check_unharmed()


@transports
async def test_64_levels_and_the_largest_action_are_accepted(
    site: Site, connect_raw: Connect, transport: str
) -> None:
    pair = await Pair.attach(connect_raw, site, transport)
    for array in (nested(64), action('{"content":"' + "x" * ROOM + '"}')):
        done = await pair.sender.ask(array)
        assert done["status"] == "ok"
        await pair.witness.wait_event(observation="echo", cause=done["id"])


@transports
async def test_the_largest_message_is_delivered_live_and_again(
    make_site: Callable[..., Site], connect_raw: Connect, transport: str
) -> None:
    """The event of the largest message has the content twice, and must still fit through the server."""
    site = make_site()
    content = "€" * (4 * 1024 * 1024 // 3 - 100)
    sender = await connect_raw(site, transport=transport)
    token = (await sender.act("initialize", {"runtime": "echo"}))["token"]
    array = '["oh_action",{"action":"message","args":{"content":"' + content + '"}}]'
    done = await sender.ask(array)
    assert done["status"] == "ok"
    live = await sender.wait_event(observation="echo", cause=done["id"])
    assert live["content"] == content
    again = await connect_raw(site, transport=transport)
    await again.act("initialize", token=token)
    await again.wait_event(observation="echo", cause=done["id"])
    assert again.stored() == sender.stored()


@transports
async def test_a_client_id_is_not_reused_for_other_content(
    site: Site, connect_raw: Connect, transport: str
) -> None:
    pair = await Pair.attach(connect_raw, site, transport)
    first = await pair.sender.act("message", {"content": "one"}, client_id="mine")
    assert await pair.sender.act("message", {"content": "one"}, client_id="mine") == first
    await pair.witness.wait_event(observation="echo", cause=first["id"])
    for other in (
        '{"content":"two"}',
        '{"content":"one","image_urls":[]}',
        '{"content":"one","hidden":true}',
    ):
        array = f'["oh_action",{{"action":"message","client_id":"mine","args":{other}}}]'
        await pair.check_refused(400, "client_id_reused", array, client_id="mine")
    done = await pair.sender.act("message", {"content": "three"}, client_id="another")
    assert done == {"status": "ok", "id": first["id"] + 2}


# Tokens


class SignedLongAgo(signing.TimestampSigner):
    def timestamp(self) -> str:
        return signing.b62_encode(int(datetime(2020, 1, 1, tzinfo=UTC).timestamp()))


def expired_token(session_id: str) -> str:
    content = {"s": UUID(session_id).hex, "r": "owner", "v": 1}
    return str(SignedLongAgo(salt=TOKEN_SALT).sign_object(content))


async def check_invalid_token(pair: Pair, token: str) -> None:
    array = json.dumps(["oh_action", {"action": "initialize", "token": token}])
    await pair.check_refused(401, "invalid_token", array)
    await pair.check_unharmed()


@transports
async def test_an_expired_token_is_refused(site: Site, connect_raw: Connect, transport: str) -> None:
    pair = await Pair.attach(connect_raw, site, transport)
    session_id = pair.sender.got("oh_event")[0]["session_id"]
    good = issue_token(Session(pk=UUID(session_id), token_version=1), Role.EDITOR)
    assert (await pair.sender.act("initialize", token=good))["token"] == good
    await check_invalid_token(pair, expired_token(session_id))


@transports
async def test_a_revoked_token_is_refused(site: Site, connect_raw: Connect, transport: str) -> None:
    pair = await Pair.attach(connect_raw, site, transport)
    other = await connect_raw(site)
    token = (await other.act("initialize", {"runtime": "echo"}))["token"]
    session_id = other.got("oh_event")[0]["session_id"].replace("-", "")
    site.execute("UPDATE ohsessions_session SET token_version = 2 WHERE id = ?", session_id)
    await check_invalid_token(pair, token)


async def test_a_token_whose_role_was_tampered_with_is_refused(site: Site, connect_raw: Connect) -> None:
    pair = await Pair.attach(connect_raw, site, "websocket")
    session_id = pair.sender.got("oh_event")[0]["session_id"]
    viewer = issue_token(Session(pk=UUID(session_id), token_version=1), Role.VIEWER)
    owner = issue_token(Session(pk=UUID(session_id), token_version=1), Role.OWNER)
    await check_invalid_token(pair, owner.partition(":")[0] + ":" + viewer.partition(":")[2])


@transports
async def test_a_token_of_a_session_that_is_no_more_is_refused(
    site: Site, connect_raw: Connect, transport: str
) -> None:
    pair = await Pair.attach(connect_raw, site, transport)
    await check_invalid_token(pair, issue_token(Session(pk=uuid4(), token_version=1), Role.OWNER))


@transports
async def test_strangers_are_asked_to_log_in_where_the_site_wants_it(
    strict_site: Site, connect_raw: Connect, transport: str
) -> None:
    client = await connect_raw(strict_site, transport=transport)
    expected = {"error_code": 401, "reason": "login_required", "message": "Log in to start a session."}
    assert await client.act("initialize") == {"status": "error"} | expected
    await client.tell('["oh_action",{"action":"initialize"}]')
    assert await client.wait_event(error_code=401) == {"error": "Login required"} | expected
    assert strict_site.query("SELECT id FROM ohsessions_session") == []


# Roles


def share(site: Site, session_id: str, token: str, role: str) -> str:
    """Return a token for others, from the API."""
    address = f"{site.url}/api/sessions/{session_id}/share/"
    headers = {"Authorization": f"Bearer {token}"}
    response = requests.post(address, json={"role": role}, headers=headers, timeout=10)
    assert response.status_code == 200, response.text
    return str(response.json()["token"])


@transports
@pytest.mark.parametrize(
    ("role", "kind", "message"),
    [
        ("viewer", "message", "You may watch this session, not act in it."),
        ("viewer", "change_agent_state", "You may watch this session, not act in it."),
        ("viewer", "close", "Only its owner may close a session."),
        ("editor", "close", "Only its owner may close a session."),
    ],
)
async def test_a_role_does_not_do_more_than_it_may(
    site: Site, connect_raw: Connect, transport: str, role: str, kind: str, message: str
) -> None:
    pair = await Pair.attach(connect_raw, site, "websocket")
    session_id = pair.witness.got("oh_event")[0]["session_id"]
    token = await asyncio.to_thread(share, site, session_id, pair.token, role)
    client = await connect_raw(site, transport=transport)
    await client.act("initialize", token=token)
    assert client.got("oh_event")[0]["role"] == role
    refusal = {"error_code": 403, "reason": "role", "message": message, "client_id": "x"}
    array = f'["oh_action",{{"action":"{kind}","client_id":"x"}}]'
    assert await client.ask(array) == {"status": "error"} | refusal
    await client.tell(array)
    assert await client.wait_event(error_code=403) == {"error": True} | refusal
    assert site.state(session_id) == "running"
    done = await pair.sender.act("message", {"content": "still here"})
    await client.wait_event(observation="echo", cause=done["id"])


# What the session's state forbids


@transports
async def test_a_closed_session_takes_no_action_and_can_be_read(
    site: Site, connect_raw: Connect, transport: str
) -> None:
    client = await connect_raw(site, transport=transport)
    token = (await client.act("initialize", {"runtime": "echo"}))["token"]
    await client.wait(lambda: '"agent_state":"init"' in "".join(client.packets), "init")
    assert await client.act("close") == {"status": "ok"}
    await client.wait_notice(notice="session_state", state="closed")
    message = "This session was closed, and can only be read. Start a new one to go on."
    refusal = {"error_code": 409, "reason": "session_closed", "message": message}
    assert await client.act("message") == {"status": "error"} | refusal
    await client.tell(action("{}"))
    assert await client.wait_event(error_code=409) == {"error": True} | refusal
    reader = await connect_raw(site)
    assert (await reader.act("initialize", token=token))["token"] == token
    assert reader.got("oh_event")[0]["state"] == "closed"
    await reader.wait(lambda: reader.stored() == client.stored(), "the whole log")


# Actions before INIT


async def test_actions_that_wait_too_long_for_init_are_refused_in_order(
    site: Site, connect_raw: Connect
) -> None:
    message = "No INIT came before this action. Send INIT first."
    refusal = {"error_code": 409, "reason": "not_attached", "message": message}

    async def check(transport: str) -> None:
        client = await connect_raw(site, transport=transport)
        await client.tell('["oh_action",{"action":"message","client_id":"first"}]')
        answer = await client.ask('["oh_action",{"action":"message"}]')
        assert answer == {"status": "error"} | refusal
        assert client.got("oh_event") == [{"error": True} | refusal | {"client_id": "first"}]
        assert (await client.act("initialize", {"runtime": "echo"}))["status"] == "ok"
        assert (await client.act("message"))["status"] == "ok"

    await asyncio.gather(check("websocket"), check("polling"))


@transports
async def test_too_many_actions_before_init_are_refused_and_the_others_handled(
    site: Site, connect_raw: Connect, transport: str
) -> None:
    client = await connect_raw(site, transport=transport)
    arrays = [action(f'{{"content":"{number}"}}') for number in range(101)]
    for number, array in enumerate(arrays, 1001):
        await client.send(f"2{number}{array}")
    message = "Too many actions are waiting for INIT. Send INIT first."
    refusal = {"status": "error", "error_code": 409, "reason": "not_attached", "message": message}
    assert await client.acknowledgement(1101) == refusal
    large = action('{"content":"' + "x" * (MAX_ACTION_BYTES - 1000) + '"}')
    assert await client.ask(large) == refusal
    await client.act("initialize", {"runtime": "echo"})
    answers = [await client.acknowledgement(number) for number in range(1001, 1101)]
    assert all(answer["status"] == "ok" for answer in answers)
    ids = [answer["id"] for answer in answers]
    assert ids == sorted(set(ids))
    await client.wait_event(observation="echo", cause=ids[-1])
    echoes = [e for e in client.got("oh_event") if e.get("observation") == "echo"]
    assert [echo["content"] for echo in echoes] == [str(number) for number in range(100)]


# Limits and faults


@transports
async def test_who_acts_too_often_is_told_when_to_go_on(
    strict_site: Site, connect_raw: Connect, transport: str
) -> None:
    client = await connect_raw(strict_site, transport=transport)
    wrong = '["oh_action",{"action":"message","client_id":5}]'
    answers = [await client.ask(wrong) for _ in range(30)]
    reasons = [answer["reason"] for answer in answers]
    assert reasons[:20] == ["malformed"] * 20
    assert "rate" in reasons
    limited = next(answer for answer in answers if answer["reason"] == "rate")
    message = "This connection may send 2 actions per second. Send more slowly."
    assert 0 < limited["retry_after"] <= 0.501
    rest = {"status": "error", "error_code": 429, "reason": "rate", "message": message}
    assert limited == rest | {"retry_after": limited["retry_after"]}
    # Another connection has a limit of its own.
    other = await connect_raw(strict_site, transport=transport)
    assert (await other.ask(wrong))["reason"] == "malformed"


@transports
async def test_a_fault_of_ours_is_told_by_a_reference_that_is_in_the_log(
    site: Site, connect_raw: Connect, transport: str
) -> None:
    pair = await Pair.attach(connect_raw, site, transport)
    flag = Path(site.folder) / "workspaces" / FLAG
    flag.parent.mkdir(exist_ok=True)
    flag.touch()
    try:
        answer = await pair.sender.act("initialize", {"runtime": "echo"})
        await pair.sender.tell('["oh_action",{"action":"initialize"}]')
        event = await pair.sender.wait_event(error_code=500)
    finally:
        flag.unlink()
    references = []
    for error in (answer, event):
        message, _, reference = error["message"].rpartition(" ")
        assert message == "The server had an error. Try again, or report to its operator the reference"
        references.append(reference.removesuffix("."))
    text = {"error_code": 500, "reason": "internal"}
    assert answer == {"status": "error", "message": answer["message"]} | text
    assert event == {"error": True, "message": event["message"]} | text
    log = site.log.read_text()
    for reference in references:
        assert log.count(f"failed (reference {reference})") == 1
    assert "LookupError" in log
    assert "hunter2" not in "".join(pair.sender.packets)
    await pair.check_unharmed()
