"""The consumer and the server over an ASGI server of the test's own: admission, delivery, no leftovers."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from ohsessions.socketio import (
    LARGE_TEXT,
    Ack,
    ConnectionRefused,
    EngineSettings,
    MalformedEvent,
    RequestRefused,
    Socket,
    SocketClosedError,
    SocketIOConsumer,
    SocketIOServer,
    encode_event,
)
from ohsessions.socketio.codec import Packet, parse_event
from ohsessions.socketio.dispatcher import LARGE_AT_ONCE, MAX_REFUSALS
from ohsessions.socketio.namespaces import MAX_CONNECTS
from ohsessions.testing import WebSocket
from tests.tasks import check_tasks

LIMIT = 5.0
Headers = dict[str, str]


class Recorder:
    """A handler that records its calls and obeys the test."""

    def __init__(self, world: "World", socket: Socket) -> None:
        self.world = world
        self.socket = socket

    async def connect(self, auth: object) -> None:
        await self.world.note("connect", auth)
        if isinstance(auth, dict) and "refuse" in auth:
            raise ConnectionRefused("no", auth["refuse"])
        if auth == {"crash": 1}:
            raise RuntimeError("crashed as asked")

    async def event(self, name: str, args: list[Any], ack: Ack | None) -> None:
        await self.world.note("event", name, *args)
        if name == "crash":
            raise RuntimeError("crashed as asked")
        if ack is not None:
            ack(*args)
            ack("a second time")

    async def malformed(self, problem: MalformedEvent, ack: Ack | None) -> None:
        await self.world.note("malformed", problem.reason, problem.name)
        if ack is not None:
            ack(problem.reason)

    async def refused(self, error: Exception, ack: Ack | None) -> None:
        if ack is not None:
            ack(str(error))

    async def disconnect(self, reason: str) -> None:
        await self.world.note("disconnect", reason)


@dataclass
class Response:
    status: int
    headers: dict[bytes, bytes]
    body: str


class Request:
    """An HTTP request under way."""

    def __init__(
        self, world: "World", method: str, query: str, chunks: list[bytes], headers: Headers
    ) -> None:
        self.read = 0
        self._chunks = chunks
        self._gone = asyncio.Event()
        self._sent: list[dict[str, Any]] = []
        scope = world.scope("http", query, headers) | {"method": method}
        self.task = asyncio.create_task(world.app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self.read < len(self._chunks):
            self.read += 1
            more = self.read < len(self._chunks)
            return {"type": "http.request", "body": self._chunks[self.read - 1], "more_body": more}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self._sent.append(message)

    async def give_up(self) -> None:
        self._gone.set()
        async with asyncio.timeout(LIMIT):
            await self.task

    async def response(self) -> Response:
        async with asyncio.timeout(LIMIT):
            await self.task
        start, body = self._sent
        return Response(start["status"], dict(start["headers"]), body["body"].decode())


@dataclass
class World:
    """A server with a recording handler, and ways to reach it."""

    settings: dict[str, Any] = field(default_factory=dict)
    notes: asyncio.Queue[tuple[Any, ...]] = field(default_factory=asyncio.Queue)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    handlers: list[Recorder] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server = SocketIOServer(
            self._make_handler,
            namespaces=("/", "/custom"),
            settings=lambda scope: EngineSettings(**self.settings),
            admit=self._admit,
            cookie=lambda scope: "; Path=/socket.io; SameSite=Lax",
            farewell=lambda socket, reason: socket.emit("farewell", reason),
        )
        app: Callable[..., Awaitable[None]] = SocketIOConsumer.as_asgi(server=self.server)
        self.app = app

    def _make_handler(self, socket: Socket) -> Recorder:
        self.handlers.append(Recorder(self, socket))
        return self.handlers[-1]

    @staticmethod
    def _admit(scope: Any) -> None:
        if dict(scope["headers"]).get(b"origin") == b"https://evil.example":
            raise RequestRefused.forbidden()

    @staticmethod
    def scope(kind: str, query: str, headers: Headers) -> dict[str, Any]:
        pairs = [(key.encode(), value.encode()) for key, value in headers.items()]
        address = headers.get("x-test-address", "192.0.2.1")
        return {
            "type": kind,
            "path": "/socket.io/",
            "query_string": query.encode(),
            "headers": pairs,
            "client": [address, 5],
        }

    async def note(self, *what: Any) -> None:
        """Record a call, and wait if the test holds this kind of call back."""
        self.notes.put_nowait(what)
        if what[0] in self.gates:
            await self.gates[what[0]].wait()

    async def noted(self) -> tuple[Any, ...]:
        async with asyncio.timeout(LIMIT):
            return await self.notes.get()

    def request(self, method: str, query: str, body: bytes = b"", **headers: str) -> Request:
        return Request(self, method, "EIO=4&" + query, [body], headers)

    async def ask(self, method: str, query: str, body: bytes = b"", **headers: str) -> Response:
        return await self.request(method, query, body, **headers).response()

    async def open_polling(self, **headers: str) -> str:
        """Return the query string of a new connection that polls."""
        response = await self.ask("GET", "transport=polling", **headers)
        assert response.status == 200
        return f"transport=polling&sid={json.loads(response.body[1:])['sid']}"

    async def websocket(self, query: str = "transport=websocket", **headers: str) -> WebSocket:
        """Open a websocket and return it. Raise ConnectionError if it is refused."""
        scope = self.scope("websocket", "EIO=4&" + query, headers)
        websocket = WebSocket(self.app, scope, timeout=LIMIT)
        await websocket.open()
        return websocket

    async def connected(self) -> tuple[WebSocket, Recorder]:
        """Return a websocket that is connected to the main namespace, and its handler."""
        websocket = await self.websocket()
        assert str(await websocket.receive_packet()).startswith("0{")
        websocket.send_packet("40")
        assert str(await websocket.receive_packet()).startswith('40{"sid":')
        assert await self.noted() == ("connect", {})
        return websocket, self.handlers[-1]


async def expect_close(websocket: WebSocket) -> None:
    """Check that the websocket ends without another packet."""
    with pytest.raises(ConnectionError, match="before the connection ended"):
        await websocket.receive_packet()
    await websocket.wait_ended()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Yield a world, and check at its end that no task, timer or socket is left."""
    world = World()
    yield world
    await world.server.close("end of the test")
    current = asyncio.current_task()
    assert current is not None
    for _ in range(10):  # turns of the loop, in which requests return
        await asyncio.sleep(0)
    check_tasks({current})
    assert dict(world.server.sockets) == {}
    assert dict(world.server.connections) == {}


# -- admission


@pytest.mark.parametrize(
    ("method", "query", "body"),
    [
        ("GET", "EIO=4", '{"code":0,"message":"Transport unknown"}'),
        ("GET", "EIO=4&transport=abc", '{"code":0,"message":"Transport unknown"}'),
        ("GET", "EIO=4&transport=polling&sid=abc", '{"code":1,"message":"Session ID unknown"}'),
        ("POST", "EIO=4&transport=polling", '{"code":2,"message":"Bad handshake method"}'),
        ("PUT", "EIO=4&transport=polling", '{"code":2,"message":"Bad handshake method"}'),
        ("GET", "EIO=4&transport=websocket", '{"code":3,"message":"Bad request"}'),
        ("GET", "EIO=3&transport=polling", '{"code":5,"message":"Unsupported protocol version"}'),
        ("GET", "transport=polling", '{"code":5,"message":"Unsupported protocol version"}'),
    ],
)
async def test_a_bad_handshake_is_answered_as_engine_io_specifies(
    world: World, method: str, query: str, body: str
) -> None:
    response = await Request(world, method, query, [b""], {}).response()
    assert (response.status, response.body) == (400, body)


@pytest.mark.parametrize("query", ["", "transport=polling", "transport=abc", "transport=websocket&sid=abc"])
async def test_a_bad_websocket_is_closed_before_it_is_accepted(world: World, query: str) -> None:
    with pytest.raises(ConnectionError, match="was not accepted"):
        await world.websocket(query)


async def test_a_foreign_origin_is_refused_on_both_transports_and_later_requests(world: World) -> None:
    evil = {"origin": "https://evil.example"}
    assert (await world.ask("GET", "transport=polling", **evil)).status == 403
    query = await world.open_polling()
    response = await world.ask("POST", query, b"40", **evil)
    assert (response.status, response.body) == (403, '{"code":4,"message":"Forbidden"}')
    assert b"access-control-allow-origin" not in response.headers
    assert (await world.ask("OPTIONS", query, **evil)).status == 403
    with pytest.raises(ConnectionError, match="was not accepted"):
        await world.websocket(**evil)


async def test_an_allowed_foreign_origin_may_read_answers_and_errors(world: World) -> None:
    friend = {"origin": "https://friend.example", "access-control-request-headers": "authorization"}
    preflight = await world.ask("OPTIONS", "transport=polling", **friend)
    assert (preflight.status, preflight.headers[b"access-control-allow-headers"]) == (204, b"authorization")
    for query in ("transport=polling", "transport=abc"):
        response = await world.ask("GET", query, **friend)
        assert response.headers[b"access-control-allow-origin"] == b"https://friend.example"
        assert response.headers[b"access-control-allow-credentials"] == b"true"


@pytest.mark.parametrize(
    "stranger",
    [{}, {"cookie": "sessionid=bob"}, {"cookie": "sessionid=ann", "authorization": "Bearer x"}],
)
async def test_a_sid_is_of_no_use_to_anybody_else(world: World, stranger: Headers) -> None:
    owner = {"cookie": "theme=dark; sessionid=ann"}
    query = await world.open_polling(**owner)
    assert (await world.ask("GET", query, **stranger)).status == 403
    assert (await world.ask("POST", query, b"1", **stranger)).status == 403
    with pytest.raises(ConnectionError, match="was not accepted"):
        await world.websocket(query.replace("polling", "websocket"), **stranger)
    response = await world.ask("POST", query, b"40", cookie="sessionid=ann")
    assert (response.status, response.body) == (200, "ok")


async def test_a_polling_client_that_keeps_cookies_must_show_its_own_always(world: World) -> None:
    response = await world.ask("GET", "transport=polling", **{"user-agent": "browser"})
    query = f"transport=polling&sid={json.loads(response.body[1:])['sid']}"
    pair, _, attributes = response.headers[b"set-cookie"].decode().partition("; ")
    assert attributes == "HttpOnly; Path=/socket.io; SameSite=Lax"
    own = {"cookie": f"a=b; {pair}"}
    assert (await world.ask("POST", query, b"40", **own)).status == 200
    for stranger in ({"user-agent": "browser"}, {"cookie": pair[:-1]}, {"cookie": pair + "x"}):
        assert (await world.ask("GET", query, **stranger)).status == 403
        assert (await world.ask("POST", query, b"1", **stranger)).status == 403
        with pytest.raises(ConnectionError, match="was not accepted"):
            await world.websocket(query.replace("polling", "websocket"), **stranger)
    moved = {"user-agent": "another", "x-test-address": "192.0.2.2"}
    assert (await world.ask("GET", query, **own, **moved)).status == 200


async def test_a_polling_client_without_cookies_is_known_by_its_agent_and_address(world: World) -> None:
    own = {"user-agent": "program"}
    query = await world.open_polling(**own)
    strangers: list[Headers] = [
        {},
        {"user-agent": "other"},
        {"user-agent": "program", "x-test-address": "192.0.2.2"},
        {"user-agent": "other", "cookie": "ohsessions_polling=" + "x" * 32},
    ]
    for stranger in strangers:
        assert (await world.ask("GET", query, **stranger)).status == 403
    for stranger in strangers[1:]:
        with pytest.raises(ConnectionError, match="was not accepted"):
            await world.websocket(query.replace("polling", "websocket"), **stranger)
    assert (await world.ask("POST", query, b"40", **own)).status == 200
    websocket = await world.websocket(query.replace("polling", "websocket"))  # Node's sends no User-Agent
    await websocket.leave()


async def test_the_tabs_of_a_browser_share_one_cookie(world: World) -> None:
    first = await world.ask("GET", "transport=polling")
    own = {"cookie": first.headers[b"set-cookie"].decode().partition(";")[0]}
    second = await world.ask("GET", "transport=polling", **own)
    assert b"set-cookie" not in second.headers
    for response in (first, second):
        query = f"transport=polling&sid={json.loads(response.body[1:])['sid']}"
        assert (await world.ask("POST", query, b"40", **own)).status == 200


async def test_a_websocket_has_no_second_one_by_its_sid(world: World) -> None:
    websocket = await world.websocket()
    sid = json.loads(str(await websocket.receive_packet())[1:])["sid"]
    assert (await world.ask("GET", f"transport=polling&sid={sid}")).status == 400
    await websocket.leave()


# -- polling


async def test_events_travel_both_ways_by_polling(world: World) -> None:
    query = await world.open_polling()
    poll = world.request("GET", query)
    assert (await world.ask("POST", query, b'40\x1e421["a",2]\x1e42["b"]')).body == "ok"
    assert [await world.noted() for _ in range(3)] == [("connect", {}), ("event", "a", 2), ("event", "b")]
    sid = world.handlers[0].socket.sid
    assert (await poll.response()).body == f'40{{"sid":"{sid}"}}\x1e431[2]'


async def test_a_post_over_the_limit_is_refused_before_it_is_read(world: World) -> None:
    world.settings["max_payload"] = 100
    query = await world.open_polling()
    announced = world.request("POST", query, b"4" * 101, **{"content-length": "101"})
    assert ((await announced.response()).status, announced.read) == (413, 0)
    streamed = Request(world, "POST", "EIO=4&" + query, [b"4" * 60] * 5, {})
    assert ((await streamed.response()).status, streamed.read) == (413, 2)
    assert (await world.ask("POST", query, b"40")).status == 200


@pytest.mark.parametrize(
    "body", [b"abc", b"", b"4abc", b"\xff", b"42{}", b"b!", b"4\x1eb", b'42["x"]', b"bAQI="]
)
async def test_a_bad_packet_in_a_post_closes_the_connection(world: World, body: bytes) -> None:
    query = await world.open_polling()
    assert (await world.ask("POST", query, body)).status == 400
    assert (await world.ask("GET", query)).status == 400


async def test_overlapping_polls_end_the_connection(world: World) -> None:
    query = await world.open_polling()
    first = world.request("GET", query)
    await asyncio.sleep(0)
    assert (await world.ask("GET", query)).status == 400
    assert (await first.response()).body == "1"


async def test_a_poll_that_is_given_up_is_noticed_at_once(world: World) -> None:
    query = await world.open_polling()
    await world.ask("POST", query, b"40")
    await world.ask("GET", query)
    assert await world.noted() == ("connect", {})
    poll = world.request("GET", query)
    await asyncio.sleep(0)
    await poll.give_up()
    assert await world.noted() == ("disconnect", "transport close")


async def test_a_put_to_a_connection_is_a_bad_request(world: World) -> None:
    assert (await world.ask("PUT", await world.open_polling(), b"40")).status == 400


async def test_an_upgraded_connection_is_polled_no_more_and_loses_nothing(world: World) -> None:
    query = await world.open_polling()
    await world.ask("POST", query, b"40")
    websocket = await world.websocket(query.replace("polling", "websocket"))
    websocket.send_packet("2probe")
    assert await websocket.receive_packet() == "3probe"
    assert (await world.ask("GET", query)).body.startswith("40{")
    world.handlers[0].socket.emit("a")
    websocket.send_packet("5", '42["b"]')
    assert await websocket.receive_packet() == '42["a"]'
    assert (await world.ask("GET", query)).status == 400
    assert world.handlers[0].socket.transport == "websocket"
    second = await world.websocket(query.replace("polling", "websocket"))
    await expect_close(second)
    await websocket.leave()


# -- Socket.IO


async def test_an_unknown_namespace_is_refused_and_the_connection_lives(world: World) -> None:
    websocket, _ = await world.connected()
    websocket.send_packet("40/random,", "40/custom,")
    assert await websocket.receive_packet() == '44/random,{"message":"Invalid namespace"}'
    assert str(await websocket.receive_packet()).startswith('40/custom,{"sid":"')


async def test_a_client_that_tries_namespace_after_namespace_is_disconnected(world: World) -> None:
    websocket, _ = await world.connected()
    for number in range(MAX_CONNECTS - 1):  # connected() has made one connection
        websocket.send_packet(f"40/random{number},")
        assert str(await websocket.receive_packet()).startswith(f"44/random{number},")
    websocket.send_packet("40/one too many,")
    assert await world.noted() == ("disconnect", "parse error")


async def test_a_handler_can_refuse_with_data(world: World) -> None:
    websocket, _ = await world.connected()
    websocket.send_packet('40/custom,{"refuse":{"error_code":401}}')
    assert await websocket.receive_packet() == '44/custom,{"message":"no","data":{"error_code":401}}'
    assert await world.noted() == ("connect", {"refuse": {"error_code": 401}})
    assert await world.noted() == ("disconnect", "refused")
    websocket.send_packet('421["still here",1]')
    assert await websocket.receive_packet() == "431[1]"


async def test_a_connect_handler_that_crashes_tells_the_client_nothing_more(world: World) -> None:
    websocket, _ = await world.connected()
    websocket.send_packet('40/custom,{"crash":1}')
    assert await websocket.receive_packet() == '44/custom,{"message":"Internal error"}'


async def test_an_auth_that_is_no_json_is_refused(world: World) -> None:
    websocket, _ = await world.connected()
    websocket.send_packet('40/custom,{"a":NaN}')
    assert await websocket.receive_packet() == '44/custom,{"message":"Invalid payload"}'


async def test_what_is_emitted_while_connecting_comes_after_the_answer(world: World) -> None:
    world.gates["connect"] = asyncio.Event()
    websocket = await world.websocket()
    await websocket.receive_packet()
    websocket.send_packet("40")
    await world.noted()
    socket = world.handlers[0].socket
    socket.emit("early")
    socket.send_text(encode_event("earlier", 1))
    world.gates["connect"].set()
    assert await websocket.receive_packet() == f'40{{"sid":"{socket.sid}"}}'
    assert await websocket.receive_packet() == '42["early"]'
    assert await websocket.receive_packet() == '42["earlier",1]'


async def test_an_acknowledgement_is_sent_once(world: World) -> None:
    websocket, _ = await world.connected()
    websocket.send_packet('421["a",5]', '422["a",6]')
    assert [await websocket.receive_packet(), await websocket.receive_packet()] == ["431[5]", "432[6]"]


async def test_malformed_events_reach_the_handler_in_their_place_and_cost_no_connection(world: World) -> None:
    websocket, _ = await world.connected()
    websocket.send_packet(
        '42["a"]', '421["b",NaN]', '452-2["c",{"_placeholder":true,"num":0}]', b"1", b"2", '42["d"]'
    )
    assert [await world.noted() for _ in range(4)] == [
        ("event", "a"),
        ("malformed", "not_json", "b"),
        ("malformed", "not_json", "c"),
        ("event", "d"),
    ]
    assert await websocket.receive_packet() == '431["not_json"]'
    assert await websocket.receive_packet() == '432["not_json"]'


@pytest.mark.parametrize(
    "packets",
    [
        ["4abc"],
        ["42{}"],
        ["42abc[]"],
        [b"1"],
        ["40"],
        ['42/custom,["a"]'],
        ["451-[]", '42["a"]'],
        ["2"],
        [""],
    ],
)
async def test_a_broken_packet_closes_the_connection(world: World, packets: list[str | bytes]) -> None:
    websocket, _ = await world.connected()
    websocket.send_packet(*packets)
    await expect_close(websocket)
    assert ("disconnect", "parse error") in [await world.noted() for _ in range(world.notes.qsize() or 1)]


async def test_a_message_over_the_limit_closes_the_connection(world: World) -> None:
    world.settings["max_payload"] = 100
    websocket, _ = await world.connected()
    websocket.send_packet('42["' + "x" * 100 + '"]')
    await expect_close(websocket)
    assert await world.noted() == ("disconnect", "payload too large")


async def test_the_client_acknowledges_what_it_is_asked(world: World) -> None:
    websocket, handler = await world.connected()
    call = asyncio.create_task(handler.socket.call("question", 1, timeout=LIMIT))
    assert await websocket.receive_packet() == '420["question",1]'
    websocket.send_packet("437[1]", '430["yes"]', '430["again"]')
    assert await call == ["yes"]


async def test_a_client_that_leaves_acknowledges_nothing(world: World) -> None:
    websocket, handler = await world.connected()
    call = asyncio.create_task(handler.socket.call("question"))
    await websocket.receive_packet()
    await websocket.leave()
    with pytest.raises(SocketClosedError):
        await call


# -- order, bounds and ends


async def test_what_was_sent_before_leaving_is_handled_before_disconnect(world: World) -> None:
    world.gates["event"] = asyncio.Event()
    websocket, _ = await world.connected()
    websocket.send_packet('42["a"]', '42["b"]', "41")
    await websocket.leave()
    assert await world.noted() == ("event", "a")
    assert world.notes.empty()
    world.gates["event"].set()
    assert await world.noted() == ("event", "b")
    assert await world.noted() == ("disconnect", "client disconnect")


async def test_disconnect_follows_a_connect_that_the_client_did_not_wait_for(world: World) -> None:
    world.gates["connect"] = asyncio.Event()
    websocket = await world.websocket()
    websocket.send_packet("40")
    assert await world.noted() == ("connect", {})
    await websocket.leave()
    assert dict(world.server.sockets) == {}
    world.gates["connect"].set()
    assert await world.noted() == ("disconnect", "transport close")


@pytest.mark.parametrize("settings", [{"packet_rate": 1}, {"byte_rate": 40, "max_payload": 100}])
async def test_a_client_that_sends_more_than_its_rate_is_told_and_closed(
    world: World, settings: dict[str, int]
) -> None:
    world.settings.update(settings)
    websocket, _ = await world.connected()
    websocket.send_packet(*[f'42["{"x" * 40}"]'] * 20)
    assert await websocket.receive_packet() == '42["farewell","flooding"]'
    assert await websocket.receive_packet() == "41"
    await expect_close(websocket)


async def test_a_client_that_sends_too_fast_by_polling_is_told_by_its_next_poll(world: World) -> None:
    world.settings.update({"packet_rate": 1})
    query = await world.open_polling()
    assert (await world.ask("POST", query, b"40")).status == 200
    assert '40{"sid"' in (await world.ask("GET", query)).body
    body = "\x1e".join(['42["x"]'] * 20).encode()
    assert (await world.ask("POST", query, body)).status == 200
    assert (await world.ask("GET", query)).body == '42["farewell","flooding"]\x1e41'


async def test_a_post_of_too_many_packets_is_refused_before_it_is_split(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = await world.open_polling()
    assert (await world.ask("POST", query, b"40")).status == 200
    assert '40{"sid"' in (await world.ask("GET", query)).body
    monkeypatch.setattr("ohsessions.socketio.connection.decode_payload", lambda body: pytest.fail("split"))
    assert (await world.ask("POST", query, b"3\x1e" * 100_000)).status == 413
    assert (await world.ask("GET", query)).body == '42["farewell","flooding"]\x1e41'


async def test_a_large_event_is_parsed_in_a_thread_and_keeps_its_place(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed_by: list[int] = []

    def parse(packet: Packet, most: int | None) -> tuple[str, list[Any]]:
        parsed_by.append(threading.get_ident())
        return parse_event(packet, most)

    monkeypatch.setattr("ohsessions.socketio.dispatcher.parse_event", parse)
    websocket, _ = await world.connected()
    large = "x" * 70_000
    websocket.send_packet('42["a"]', f'42["b","{large}"]', '42["c"]')
    found = [await world.noted() for _ in range(3)]
    assert found == [("event", "a"), ("event", "b", large), ("event", "c")]
    here = threading.get_ident()
    assert [ident == here for ident in parsed_by] == [True, False, True]


async def test_few_large_events_are_parsed_at_once_and_small_ones_do_not_wait_for_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    going_on = threading.Event()
    begun: list[str] = []

    def parse(packet: Packet, most: int | None) -> tuple[str, list[Any]]:
        if len(packet.data) > LARGE_TEXT:
            begun.append("large")
            assert going_on.wait(LIMIT)
        return parse_event(packet, most)

    monkeypatch.setattr("ohsessions.socketio.dispatcher.parse_event", parse)
    *large, small = [(await world.connected())[0] for _ in range(LARGE_AT_ONCE + 2)]
    for websocket in large:
        websocket.send_packet(f'42["large","{"x" * LARGE_TEXT}"]')
    small.send_packet('42["small"]')
    assert await world.noted() == ("event", "small")
    async with asyncio.timeout(LIMIT):
        while len(begun) < LARGE_AT_ONCE:  # noqa: ASYNC110 - a thread counts, and has no event of the loop
            await asyncio.sleep(0)
    assert len(begun) == LARGE_AT_ONCE
    going_on.set()
    for _ in large:
        assert (await world.noted())[:2] == ("event", "large")


async def test_a_large_event_that_is_handled_does_not_keep_others_from_being_handled(world: World) -> None:
    world.gates["event"] = asyncio.Event()
    for _ in range(LARGE_AT_ONCE + 1):
        (await world.connected())[0].send_packet(f'42["large","{"x" * LARGE_TEXT}"]')
    for _ in range(LARGE_AT_ONCE + 1):
        assert (await world.noted())[:2] == ("event", "large")
    world.gates["event"].set()


class Porter:
    """A guest that refuses each of its events as one too many."""

    def arriving(self, size: int) -> Exception | None:
        return ValueError("too many")

    def handled(self, size: int) -> None: ...

    def leave(self) -> None: ...


@pytest.mark.parametrize("known", [True, False])
async def test_a_stranger_who_sends_on_without_waiting_for_refusals_floods(world: World, known: bool) -> None:
    world.settings["first_payload"] = None if known else 1000
    world.server._make_guest = lambda scope: Porter()
    websocket, _ = await world.connected()
    for number in range(2 * MAX_REFUSALS):  # with a wait for each refusal
        websocket.send_packet(f'42{number}["a"]')
        assert await websocket.receive_packet() == f'43{number}["too many"]'
    websocket.send_packet(*[f'42{number}["a"]' for number in range(MAX_REFUSALS + 1)])
    if known:
        for number in range(MAX_REFUSALS + 1):
            assert await websocket.receive_packet() == f'43{number}["too many"]'
        return
    assert await websocket.receive_packet() == '42["farewell","flooding"]'
    assert await websocket.receive_packet() == "41"
    await expect_close(websocket)
    assert await world.noted() == ("disconnect", "flooding")


async def test_a_stranger_who_reads_no_answers_gets_no_more_until_it_reads(world: World) -> None:
    world.settings.update({"first_payload": 1000, "first_barrier_bytes": 400})
    websocket, _ = await world.connected()
    websocket.send_packet(*[f'42{number}["{"x" * 50}","{"y" * 50}"]' for number in range(20)])
    answers = 0
    while (packet := await websocket.receive_packet()) != "2":
        answers += str(packet).startswith("43")
    assert answers < 8
    while not world.notes.empty():
        await world.noted()
    await asyncio.sleep(0)
    assert world.notes.empty()
    while answers < 20:
        if packet == "2":
            websocket.send_packet("3")
        packet = await websocket.receive_packet()
        answers += str(packet).startswith("43")


async def test_a_stranger_who_reads_no_answers_and_sends_on_floods(world: World) -> None:
    world.settings.update({"first_payload": 1000, "first_barrier_bytes": 400, "first_inbox_events": 5})
    websocket, handler = await world.connected()
    event = f'["{"x" * 50}","{"y" * 50}"]'
    websocket.send_packet(*[f"42{number}{event}" for number in range(5)])
    while await websocket.receive_packet() != "2":
        pass
    websocket.send_packet(*[f"42{number}{event}" for number in range(10, 20)])
    while await websocket.receive_packet() != '42["farewell","flooding"]':
        pass
    await websocket.wait_ended()
    assert handler.socket.closed


async def test_a_known_client_is_answered_whatever_it_has_read(world: World) -> None:
    world.settings.update({"first_payload": 1000, "first_barrier_bytes": 400})
    websocket, handler = await world.connected()
    handler.socket.lift_limit()
    websocket.send_packet(*[f'42{number}["{"x" * 50}","{"y" * 50}"]' for number in range(20)])
    for _ in range(20):
        assert str(await websocket.receive_packet()).startswith("43")


async def test_a_handler_that_crashes_gets_the_next_event(world: World) -> None:
    websocket, _ = await world.connected()
    websocket.send_packet('42["crash"]', '42["a"]')
    assert [await world.noted(), await world.noted()] == [("event", "crash"), ("event", "a")]


@pytest.mark.parametrize(
    ("settings", "size"), [({"inbox_events": 3}, 1), ({"inbox_bytes": 400, "max_payload": 200}, 100)]
)
async def test_a_client_that_floods_is_told_and_closed(
    world: World, settings: dict[str, int], size: int
) -> None:
    world.settings.update(settings)
    world.gates["event"] = asyncio.Event()
    websocket, handler = await world.connected()
    websocket.send_packet('42["first"]')
    assert await world.noted() == ("event", "first")
    websocket.send_packet(*[f'42["{"x" * size}"]'] * 6)
    assert await websocket.receive_packet() == '42["farewell","flooding"]'
    assert await websocket.receive_packet() == "41"
    await expect_close(websocket)
    assert handler.socket.closed
    world.gates["event"].set()
    assert await world.noted() == ("disconnect", "flooding")


async def test_a_burst_that_the_handler_keeps_up_with_is_no_flood(world: World) -> None:
    world.settings["inbox_events"] = 200
    websocket, _ = await world.connected()
    websocket.send_packet(*['42["a"]'] * 1000)
    for _ in range(1000):
        assert await world.noted() == ("event", "a")
    query = await world.open_polling()
    await world.ask("POST", query, b"\x1e".join([b"40", *[b'42["b"]'] * 1000]))
    assert await world.noted() == ("connect", {})
    for _ in range(1000):
        assert await world.noted() == ("event", "b")


async def test_connecting_and_disconnecting_in_circles_is_bounded(world: World) -> None:
    world.gates["disconnect"] = asyncio.Event()
    websocket = await world.websocket()
    websocket.send_packet(*["40", "41"] * 100)
    await websocket.wait_ended()
    assert len(world.handlers) < 100
    world.gates["disconnect"].set()


async def test_a_socket_is_not_writable_until_the_client_read(world: World) -> None:
    world.settings["barrier_bytes"] = 1000
    websocket, handler = await world.connected()
    handler.socket.emit("a", "x" * 1000)
    assert not handler.socket.writable
    wait = asyncio.create_task(handler.socket.wait_writable())
    await websocket.receive_packet()
    assert await websocket.receive_packet() == "2"
    assert not wait.done()
    websocket.send_packet("3")
    await wait
    assert handler.socket.writable


async def test_waiting_for_writable_ends_with_the_connection(world: World) -> None:
    world.settings["barrier_bytes"] = 1000
    websocket, handler = await world.connected()
    handler.socket.emit("a", "x" * 1000)
    wait = asyncio.create_task(handler.socket.wait_writable())
    await websocket.leave()
    await wait
    assert handler.socket.closed


async def test_our_disconnect_says_so_after_what_is_queued(world: World) -> None:
    websocket, handler = await world.connected()
    handler.socket.emit("last")
    await handler.socket.disconnect("enough")
    handler.socket.emit("too late")
    assert [await websocket.receive_packet(), await websocket.receive_packet()] == ['42["last"]', "41"]
    await expect_close(websocket)
    assert await world.noted() == ("disconnect", "enough")


async def test_a_client_that_shall_come_back_is_not_told_to_stay_away(world: World) -> None:
    websocket, handler = await world.connected()
    await handler.socket.disconnect("draining", reconnect=True)
    await expect_close(websocket)
    assert await world.noted() == ("disconnect", "draining")


async def test_a_connection_without_a_namespace_is_closed(world: World) -> None:
    world.settings["connect_timeout"] = 0.01
    websocket = await world.websocket()
    await websocket.receive_packet()
    await expect_close(websocket)


async def test_a_stop_ends_all_and_lets_nobody_in(world: World) -> None:
    websocket, handler = await world.connected()
    query = await world.open_polling()
    handler.socket.emit("last")
    await world.server.close("stopping")
    assert await websocket.receive_packet() == '42["last"]'
    await expect_close(websocket)
    assert await world.noted() == ("disconnect", "stopping")
    assert (await world.ask("GET", query)).status == 400
    assert (await world.ask("GET", "transport=polling")).status == 503


async def test_a_request_that_the_server_cancels_leaves_nothing(world: World) -> None:
    websocket, _ = await world.connected()
    websocket.cancel()
    assert await world.noted() == ("disconnect", "transport close")
    query = await world.open_polling()
    poll = world.request("GET", query)
    await asyncio.sleep(0)
    poll.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await poll.task
    assert (await world.ask("GET", query)).status == 400
