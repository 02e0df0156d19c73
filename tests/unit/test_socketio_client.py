"""The client of `ohsessions.testing`, against applications that behave as a test defines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ohsessions.core.errors import WireError
from ohsessions.testing import SocketIOClient, WebSocket
from tests.tasks import check_tasks

SHORT = 0.01
"""Seconds of a wait that should end in vain."""


class Server:
    """An application that accepts and connects, and answers packets as `answers` defines."""

    def __init__(self, answers: dict[str, list[str]] | None = None, *, stays: bool = False) -> None:
        self.answers = {"40": ['40{"sid":"a"}']} | (answers or {})
        self.stays = stays
        self.scope: dict[str, Any] = {}
        self.messages: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        self.scope = scope
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": '0{"sid":"e"}'})
        while (message := await receive())["type"] != "websocket.disconnect":
            self.messages.append(message)
            for answer in self.answers.get(message.get("text", ""), []):
                if answer == "close":
                    await send({"type": "websocket.close"})
                    return
                if answer == "fail":
                    raise ZeroDivisionError
                await send({"type": "websocket.send", "text": answer})
        self.messages.append(message)
        if self.stays:
            await asyncio.Event().wait()

    @property
    def texts(self) -> list[str]:
        return [message["text"] for message in self.messages if "text" in message]


async def test_a_wait_in_vain_shows_what_came_instead() -> None:
    server = Server({"x": ['42["oh_event",{"id":0,"observation":"echo"}]']})
    async with SocketIOClient(server) as client:
        client.send_packet("x")
        await client.event(id=0)
        with pytest.raises(TimeoutError) as caught:
            await client.event(observation="run", timeout=SHORT)
    assert str(caught.value).splitlines() == [
        "an oh_event with {'observation': 'run'} did not come within 0.01 s. 3 packets came; the last ones:",
        """  '0{"sid":"e"}'""",
        """  '40{"sid":"a"}'""",
        """  '42["oh_event",{"id":0,"observation":"echo"}]'""",
    ]


async def test_a_wait_ends_with_the_connection() -> None:
    async with SocketIOClient(Server({"x": ["6", "close"]}), timeout=3600) as client:
        client.send_packet("x")
        with pytest.raises(ConnectionError, match="an oh_notice did not come") as caught:
            await client.notice()
        assert [await client.receive_packet() for _ in range(3)] == client.packets
    assert str(caught.value).splitlines()[-1] == "  '6'"


async def test_an_application_that_fails_fails_the_test() -> None:
    client = await SocketIOClient(Server({"x": ["fail"]}), timeout=3600).connect()
    client.send_packet("x")
    with pytest.raises(ZeroDivisionError):
        await client.notice()
    with pytest.raises(ZeroDivisionError):
        await client.disconnect()


async def test_an_application_that_does_not_return_fails_the_test() -> None:
    client = await SocketIOClient(Server(stays=True)).connect()
    client.timeout = SHORT
    with pytest.raises(TimeoutError, match="did not return"):
        await client.disconnect()
    client.cancel()
    await client.wait_ended()


async def test_a_websocket_that_is_refused_is_an_error() -> None:
    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close"})

    with pytest.raises(ConnectionError, match="was not accepted"):
        await SocketIOClient(refuse).connect()


@pytest.mark.parametrize(
    ("packet", "code", "reason"),
    [
        (
            '44{"message":"no","data":{"error_code":404,"reason":"unknown_session"}}',
            404,
            "unknown_session",
        ),
        ('44{"message":"no"}', 500, "internal"),
    ],
)
async def test_a_refused_connect_is_an_error_with_its_code(packet: str, code: int, reason: str) -> None:
    before = asyncio.all_tasks()
    with pytest.raises(WireError, match="no") as caught:
        await SocketIOClient(Server({"40": [packet]})).connect()
    assert (caught.value.code, caught.value.reason) == (code, reason)
    check_tasks(before)


async def test_a_refused_action_is_an_error_with_all_its_keys() -> None:
    answer = '{"status":"error","error_code":429,"reason":"rate","message":"slower","retry_after":2}'
    server = Server({'421["oh_action",{"action":"message","args":{"content":"é"}}]': [f"431[{answer}]"]})
    async with SocketIOClient(server) as client:
        with pytest.raises(WireError, match="slower") as caught:
            await client.act("message", {"content": "é"})
    assert (caught.value.code, caught.value.reason, caught.value.extra) == (429, "rate", {"retry_after": 2})


async def test_the_handshake_has_what_was_asked_for() -> None:
    server = Server({'40{"token":"t"}': ['40{"sid":"a"}']})
    asked: dict[str, Any] = {"query": {"a": "b c"}, "headers": {"Authorization": "Bearer x"}}
    async with SocketIOClient(server, auth={"token": "t"}, scope={"user": "ann"}, **asked):
        assert server.scope["path"] == "/socket.io/"
        assert server.scope["query_string"] == b"EIO=4&transport=websocket&a=b+c"
        assert server.scope["headers"] == [(b"host", b"testserver"), (b"authorization", b"Bearer x")]
        assert server.scope["user"] == "ann"


async def test_everything_that_comes_has_its_place() -> None:
    first = '{"token":"t","session_id":"s","head":1}'
    batch = '42["oh_events",[{"id":0,"action":"message"},{"id":1,"observation":"echo"}]]'
    status = '42["oh_event",{"status_update":true,"id":"STATUS$X"}]'
    server = Server({"x": [f'42["oh_event",{first}]', batch, status, '42["oh_notice",{"notice":"queue"}]']})
    async with SocketIOClient(server) as client:
        client.send_packet("x", b"\1")
        await client.notice(notice="queue")
        assert [event.get("id") for event in client.events] == [None, 0, 1, "STATUS$X"]
        assert (client.token, client.session_id, client.latest_event_id) == ("t", "s", 1)
        assert await client.event(lambda event: event.get("id") == 1) == {"id": 1, "observation": "echo"}
        assert [await client.receive_packet() for _ in range(3)] == client.packets[:3]
    assert server.messages[2] == {"type": "websocket.receive", "bytes": b"\1"}


async def test_a_session_that_is_another_one_has_no_latest_event_yet() -> None:
    server = Server(
        {
            "x": ['42["oh_event",{"token":"t","session_id":"s"}]', '42["oh_event",{"id":5}]'],
            "y": ['42["oh_event",{"token":"t","session_id":"s"}]'],
            "z": ['42["oh_event",{"token":"u","session_id":"r"}]', '42["oh_notice",{}]'],
        }
    )
    async with SocketIOClient(server) as client:
        client.send_packet("x", "y")
        await client.wait(lambda: len(client.events) == 3, "both answers")
        assert client.latest_event_id == 5
        client.send_packet("z")
        await client.notice()
        assert client.latest_event_id == -1


async def test_a_ping_is_answered() -> None:
    server = Server({"x": ["2"]})
    async with SocketIOClient(server) as client:
        client.send_packet("x")
        await client.wait(lambda: "3" in server.texts, "a PONG")


async def test_a_bare_websocket_answers_nothing() -> None:
    server = Server({"x": ["2", "end"]})
    websocket = WebSocket(server, {})
    await websocket.open()
    websocket.send_packet("x")
    assert [await websocket.receive_packet() for _ in range(3)] == ['0{"sid":"e"}', "2", "end"]
    await websocket.leave()
    assert [message.get("text") for message in server.messages] == ["x", None]


@pytest.mark.parametrize(
    ("how", "code", "texts"), [("disconnect", 1000, ["40", "41", "1"]), ("leave", 1006, ["40"])]
)
async def test_a_client_ends_in_order_or_breaks_off(how: str, code: int, texts: list[str]) -> None:
    before = asyncio.all_tasks()
    server = Server()
    client = await SocketIOClient(server).connect()
    await getattr(client, how)()
    assert server.texts == texts
    assert server.messages[-1] == {"type": "websocket.disconnect", "code": code}
    check_tasks(before)
    await client.disconnect()  # it has nothing left to do
    assert server.texts == texts


async def test_what_was_never_opened_is_not_waited_for() -> None:
    client = SocketIOClient(Server(), timeout=3600)
    with pytest.raises(ConnectionError, match="not opened"):
        await client.event()
    await client.leave()
