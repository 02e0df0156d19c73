"""The echo runtime, and the fake context in which it is tested."""

from __future__ import annotations

import pytest

from ohsessions.core.errors import InvalidEvent
from ohsessions.runtimes.echo import EchoRuntime
from ohsessions.testing import RecordingContext


@pytest.fixture
async def context(tmp_path):
    async with RecordingContext(tmp_path) as context:
        yield context


async def test_an_action_is_said_back_as_the_protocol_says(context):
    echo = EchoRuntime(context)
    await echo.start(None)
    await context.act(echo, "message", content="hello", image_urls=[])
    assert context.events == [
        {
            "id": 0,
            "source": "user",
            "message": "",
            "action": "message",
            "args": {"content": "hello", "image_urls": []},
        },
        {
            "id": 1,
            "source": "agent",
            "message": "",
            "cause": 0,
            "observation": "echo",
            "content": "hello",
            "extras": {"action": "message", "args": {"content": "hello", "image_urls": []}},
        },
    ]


@pytest.mark.parametrize("args", [{}, {"content": None}, {"content": 5}, {"content": ["a"]}])
async def test_the_content_is_empty_when_the_action_has_no_text(context, args):
    await context.act(EchoRuntime(context), "anything", **args)
    (event,) = context.observations("echo")
    assert (event["content"], event["extras"]) == ("", {"action": "anything", "args": args})


async def test_what_is_hidden_is_not_said_back(context):
    await context.act(EchoRuntime(context), "message", hidden=True, content="between us")
    assert "between us" not in repr(context.events)


async def test_an_event_that_is_no_json_is_refused_as_in_a_session(context):
    with pytest.raises(InvalidEvent):
        await context.emit(observation="echo", extras={"number": float("nan")})
    with pytest.raises(InvalidEvent):
        await context.emit(observation="echo", content="\ud800")
    with pytest.raises(InvalidEvent):
        await context.emit(content="neither")


async def test_waiting_for_an_event_that_does_not_come_ends(context):
    with pytest.raises(TimeoutError):
        await context.wait_for_event(lambda event: True, timeout=0.01)
