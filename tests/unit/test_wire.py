"""The payloads of the protocol: golden strings for the outgoing ones, any values for the incoming ones."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohsessions.core import wire
from ohsessions.core.errors import InvalidEvent, Unavailable, WireError

MOMENT = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)
LIMIT = 1_000_000


def parse(payload, max_bytes=LIMIT):
    return wire.parse_request([payload], max_bytes=max_bytes)


def refusal(*args, max_bytes=LIMIT) -> tuple[int, str]:
    with pytest.raises(WireError) as caught:
        wire.parse_request(list(args), max_bytes=max_bytes)
    return caught.value.code, caught.value.reason


def init(**payload) -> wire.Init:
    request = parse({"action": "initialize", **payload})
    assert isinstance(request, wire.Init)
    return request


def act(args=None, kind="run", **payload) -> wire.Act:
    request = parse({"action": kind, "args": args, **payload})
    assert isinstance(request, wire.Act)
    return request


# Outgoing payloads


GOLDEN = {
    "observation": (
        wire.event_body(observation="run", content="ä", extras={"exit_code": 0}, cause=3),
        '{"source":"agent","message":"","cause":3,"observation":"run","content":"ä","extras":{"exit_code":0}}',
    ),
    "action of the agent": (
        wire.event_body(action="run", args={"command": "ls"}, message="Running command: ls"),
        '{"source":"agent","message":"Running command: ls","action":"run","args":{"command":"ls"}}',
    ),
    "agent state": (
        wire.agent_state("init"),
        '{"source":"environment","message":"","observation":"agent_state_changed","content":"",'
        '"extras":{"agent_state":"init"}}',
    ),
    "event": (
        wire.stamp(wire.agent_state("init"), 7, MOMENT),
        '{"id":7,"timestamp":"2026-11-22T10:00:00.000000+00:00","source":"environment","message":"",'
        '"observation":"agent_state_changed","content":"","extras":{"agent_state":"init"}}',
    ),
    "first answer": (
        wire.encode(
            wire.first_answer(
                token="t", session_id="s", state="running", role="owner", head=-1, first_event_id=None
            )
        ),
        '{"token":"t","status":"ok","session_id":"s","state":"running","role":"owner","head":-1,"reset":false}',
    ),
    "first answer with a reset": (
        wire.encode(
            wire.first_answer(token="t", session_id="s", state="x", role="viewer", head=9, first_event_id=4)
        ),
        '{"token":"t","status":"ok","session_id":"s","state":"x","role":"viewer","head":9,"reset":true,'
        '"first_event_id":4}',
    ),
    "error": (
        wire.encode(wire.error_event(WireError(409, "session_closed", "Closed.", client_id="c"))),
        '{"error":true,"error_code":409,"reason":"session_closed","message":"Closed.","client_id":"c"}',
    ),
    "stored error": (
        wire.stored_error("interrupted", "Cut off.", 7),
        '{"source":"environment","message":"Cut off.","cause":7,"observation":"error","content":"Cut off.",'
        '"extras":{"reason":"interrupted"}}',
    ),
    "error 401": (
        wire.encode(wire.error_event(WireError(401, "invalid_token", "No."))),
        '{"error":"Invalid token","error_code":401,"reason":"invalid_token","message":"No."}',
    ),
    "error acknowledgement": (
        wire.encode(wire.error_ack(Unavailable())),
        '{"status":"error","error_code":503,"reason":"unavailable",'
        '"message":"The database cannot be reached at the moment. Try again.","retry_after":1.0}',
    ),
    "status": (
        wire.encode(wire.status("info", "STARTING", "Starting")),
        '{"status_update":true,"type":"info","id":"STATUS$STARTING","message":"Starting"}',
    ),
    "notice": (
        wire.encode(wire.notice("draining", reconnect_in=2.5)),
        '{"notice":"draining","reconnect_in":2.5}',
    ),
    "packet": (wire.event_packet('{"id":0}'), '2["oh_event",{"id":0}]'),
    "packet of many": (wire.batch_packet(['{"id":0}', '{"id":1}']), '2["oh_events",[{"id":0},{"id":1}]]'),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_what_goes_out_is_this_to_the_byte(name):
    made, golden = GOLDEN[name]
    assert made == golden


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (MOMENT, "2026-11-22T10:00:00.000000+00:00"),
        (MOMENT + timedelta(microseconds=5), "2026-11-22T10:00:00.000005+00:00"),
        (MOMENT.astimezone(timezone(timedelta(hours=-7))), "2026-11-22T10:00:00.000000+00:00"),
    ],
)
def test_a_timestamp_is_utc_and_has_six_digits(moment, text):
    assert wire.timestamp(moment) == text


@given(st.text(), st.integers(0, 2**62), st.datetimes(timezones=st.just(UTC)))
def test_what_is_stamped_is_unstamped_and_is_json(text, number, moment):
    body = wire.encode({"source": "user", "message": text.encode(errors="replace").decode()})
    data = wire.stamp(body, number, moment)
    assert wire.unstamp(data) == body
    assert json.loads(data)["id"] == number


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"observation": "a", "action": "b"},
        {"observation": "a", "source": "nobody"},
        {"observation": "a", "extras": {1: 2}},
        {"observation": "a", "extras": {"a": b""}},
        {"observation": "a", "extras": {"a": float("nan")}},
        {"observation": "a", "extras": {"a": {1}}},
        {"observation": "a", "content": "\0"},
        {"observation": "a", "content": "\ud800"},
    ],
)
def test_a_runtime_cannot_emit_what_the_wire_cannot_carry(event):
    with pytest.raises(InvalidEvent):
        wire.event_body(**event)


# Incoming payloads: any action


@pytest.mark.parametrize(
    "args",
    [
        [],
        [{"action": "run"}, {}],
        ["run"],
        [None],
        [[]],
        [{}],
        [{"action": None}],
        [{"action": ""}],
        [{"action": 1}],
        [{"action": "x" * 65}],
        [{"action": "run", "args": []}],
        [{"action": "run", "args": "ls"}],
        [{"action": "run", "client_id": 1}],
        [{"action": "run", "client_id": ""}],
        [{"action": "run", "client_id": "x" * 65}],
        [{"action": "initialize", "args": 1}],
        [{"action": "initialize", "token": 1}],
        [{"action": "initialize", "client_id": "x" * 15}],
    ],
)
def test_what_has_the_wrong_shape_is_malformed(args):
    assert refusal(*args) == (400, "malformed")


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        -float("inf"),
        10**309,
        -(10**309),
        pytest.param(10**5000, id="longer than int() takes"),
        b"binary",
        bytearray(b""),
        {1},
        "\0",
        "a\0b",
        "\\\0",
        "\ud800",
        {"\0": 1},
        {"\udfff": 1},
        {1: 1},
        {None: 1},
    ],
)
def test_what_parsers_and_databases_disagree_on_is_not_json(value):
    for payload in ({"action": "run", "args": {"deep": [{"x": value}]}}, {"action": "run", "other": value}):
        assert refusal(payload) == (400, "not_json")


@pytest.mark.parametrize(
    "value", ["\\u0000", "\\\\u0000", "u0000", 10**308, -1.5e308, 0.1, "😀", "\u2028", True]
)
def test_what_only_looks_dangerous_is_taken(value):
    request = act({"x": value})
    assert json.loads(request.body)["args"] == {"x": value}


def nested(levels: int, outer: type = list):
    value: object = 1
    for _ in range(levels):
        value = [value] if outer is list else {"x": value}
    return value


@pytest.mark.parametrize("outer", [list, dict])
def test_json_may_be_nested_sixty_four_levels_deep(outer):
    assert act({"x": nested(62, outer)})
    assert refusal({"action": "run", "args": {"x": nested(63, outer)}}) == (400, "too_deep")
    assert refusal({"action": "run", "args": {"x": nested(900, outer)}}) == (400, "too_deep")


def test_the_size_is_that_of_the_json_in_bytes():
    payload = {"action": "run", "args": {"x": "ä" * 100}}
    size = len(wire.encode(payload).encode())
    assert parse(payload, max_bytes=size)
    assert refusal(payload, max_bytes=size - 1) == (413, "too_large")


@pytest.mark.parametrize("client_id", ["mine", "ä" * 64])
def test_an_error_names_the_action_that_it_is_about(client_id):
    with pytest.raises(WireError) as caught:
        parse({"action": "run", "args": 1, "client_id": client_id})
    assert caught.value.extra == {"client_id": client_id}


@pytest.mark.parametrize("client_id", [None, 1, {}, "\ud800", "\0"])
def test_an_error_repeats_nothing_that_cannot_be_sent(client_id):
    with pytest.raises(WireError) as caught:
        parse({"action": "run", "args": float("nan"), "client_id": client_id})
    wire.encode(wire.error_event(caught.value)).encode()
    assert "client_id" not in caught.value.extra


KEYS = st.sampled_from(
    ["action", "args", "token", "client_id", "latest_event_id", "replay", "role", "github_token", "hidden"]
)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, categories=None, exclude_categories=()))
    | st.binary(max_size=3)
    | st.sampled_from(
        ["initialize", "leave", "close", "run", "batch", "viewer", "-3", "\0", "x" * 70, 10**400]
    ),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=20,
)


@given(st.lists(st.dictionaries(KEYS, ANYTHING, max_size=8) | ANYTHING, max_size=2), st.integers(1, 500))
def test_whatever_comes_in_is_a_request_or_a_refusal_that_can_be_sent(args, max_bytes):
    outcome: object
    try:
        outcome = wire.parse_request(args, max_bytes=max_bytes)
    except WireError as error:
        outcome = error
    if isinstance(outcome, WireError):
        assert outcome.code in (400, 413)
        wire.encode(wire.error_event(outcome)).encode()
    elif isinstance(outcome, wire.Act):
        assert json.loads(outcome.body.encode())["source"] == "user"
    else:
        assert isinstance(outcome, wire.Init | wire.Leave | wire.Close)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0")), inner)
    ),
    max_leaves=30,
)


@given(JSON)
def test_any_json_passes_unchanged(value):
    assert json.loads(wire.check_json(value)) == value


# Incoming payloads: INIT


def test_the_init_of_openhands_is_understood():
    args = {
        "LLM_MODEL": "m",
        "LLM_BASE_URL": "",
        "AGENT": "CodeActAgent",
        "LANGUAGE": "en",
        "LLM_API_KEY": "sk",
        "CONFIRMATION_MODE": False,
        "SECURITY_ANALYZER": "",
    }
    assert init(
        args=args, token="t", github_token="gh", selected_repository=None, latest_event_id=3
    ) == wire.Init(
        settings={
            "llm_model": "m",
            "llm_base_url": "",
            "agent": "CodeActAgent",
            "language": "en",
            "confirmation_mode": False,
            "security_analyzer": "",
        },
        secrets={"llm_api_key": "sk", "github_token": "gh"},
        runtime=None,
        token="t",
        cursor=3,
        client_id=None,
        batch=False,
        as_viewer=False,
    )


def test_the_smallest_init_is_a_new_session_from_the_beginning():
    assert init(args=None) == wire.Init({}, {}, None, None, -1, None, False, False)


def test_options_of_an_init():
    request = init(args={"Runtime": "shell"}, client_id="x" * 16, replay="batch", role="viewer", token="")
    assert (request.runtime, request.client_id, request.batch, request.as_viewer) == (
        "shell",
        "x" * 16,
        True,
        True,
    )
    assert request.token is None
    assert request.settings == {}
    assert refusal({"action": "initialize", "args": {"runtime": 1}}) == (400, "unknown_runtime")


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        ("LLM_API_KEY", True),
        ("Github_Token", True),
        ("aws_secret_access_key", True),
        ("aws_access_key_id", True),
        ("db_password", True),
        ("client_secret", True),
        ("max_input_tokens", False),
        ("token_limit", False),
        ("keyboard", False),
    ],
)
def test_secrets_are_told_by_their_names(name, is_secret):
    request = init(args={name: 4096})
    secrets, settings = ({name.lower(): "4096"}, {}) if is_secret else ({}, {name.lower(): 4096})
    assert (request.secrets, request.settings) == (secrets, settings)


@pytest.mark.parametrize(
    ("value", "cursor"),
    [
        (7, 7),
        ("7", 7),
        ("007", 7),
        (0, 0),
        (-1, -1),
        (-5, -1),
        ("-5", -1),
        (10**30, 10**30),
        ("9" * 30, int("9" * 30)),
        *[
            (value, -1)
            for value in (
                None,
                "undefined",
                "",
                " 7",
                "7 ",
                "+7",
                "1.5",
                "0x7",
                "٣",
                True,
                False,
                1.5,
                [],
                {},
            )
        ],
    ],
)
def test_a_cursor_is_an_integer_or_its_string(value, cursor):
    assert wire.parse_cursor(value) == cursor
    assert init(latest_event_id=value).cursor == cursor


@pytest.mark.parametrize("digits", [1001, 5000, 100_000])
def test_a_cursor_of_any_length_lies_above_every_head(digits):
    assert wire.parse_cursor("9" * digits) > 2**63
    assert wire.parse_cursor("-" + "9" * digits) == -1


# Incoming payloads: other actions


def test_what_a_client_says_of_itself_is_ignored():
    request = act({"command": "ls"}, id=7, source="agent", timestamp="now", message="no", other=1)
    golden = '{"source":"user","message":"Running command: ls","action":"run","args":{"command":"ls"}}'
    assert (request.body, request.hidden, request.client_id) == (golden, None, None)


def test_a_message_is_its_own_description():
    request = act({"content": "hi", "image_urls": []}, kind="message", client_id="c")
    assert request.body == (
        '{"source":"user","message":"hi","action":"message","args":{"content":"hi","image_urls":[]}}'
    )
    assert request.client_id == "c"


def test_hidden_arguments_are_masked_and_kept_apart():
    args = {"command": "export A=1", "hidden": True, "n": 5, "list": [1], "object": {"a": 1}, "none": None}
    request = act(args)
    assert request.body == (
        '{"source":"user","message":"","action":"run","args":'
        '{"command":"","hidden":true,"n":null,"list":[],"object":{},"none":null}}'
    )
    assert json.loads(request.hidden or "") == args


@pytest.mark.parametrize("value", [True, 1, -1, 0.5, "true", "True", "1", "yes", "hide", [0], {"a": 1}])
def test_whatever_says_that_an_action_is_hidden_hides_it(value):
    request = act({"command": "export A=1", "hidden": value})
    assert request.body.endswith('"args":{"command":"","hidden":true}}')
    assert json.loads(request.hidden or "") == {"command": "export A=1", "hidden": value}


@pytest.mark.parametrize("value", [False, 0, 0.0, None, "", "false", " No ", "0", "null", "off", [], {}])
def test_whatever_says_that_an_action_is_not_hidden_leaves_it_in_the_open(value):
    request = act({"command": "ls", "hidden": value})
    assert request.hidden is None
    assert json.loads(request.body)["args"] == {"command": "ls", "hidden": value}


def test_only_a_change_of_the_agents_state_is_an_interrupt():
    assert act({"agent_state": "stopped"}, kind="change_agent_state").is_interrupt
    assert not act({}, kind="run").is_interrupt


def test_leave_and_close_have_no_arguments():
    assert parse({"action": "leave", "args": 1}) == wire.Leave()
    assert parse({"action": "close"}) == wire.Close()
