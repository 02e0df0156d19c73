"""python-socketio's client against the consumer under real servers, over all transports."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import requests
import socketio
import websocket

from tests.acceptance.socketio.conftest import Server, running
from tests.requirements import MissingRequirement, require

LIMIT = 20.0
TRANSPORTS = [["websocket"], ["polling"], ["polling", "websocket"]]


class Client:
    """A connected client and the events that it got."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self.io = socketio.AsyncClient(reconnection=False, http_session=http)
        self.received: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        for namespace in ("/", "/custom"):
            self.io.on("*", self._note, namespace=namespace)
            self.io.on("question", lambda question: question + "!", namespace=namespace)

    async def _note(self, name: str, *args: Any) -> None:
        self.received.put_nowait((name, *args))

    async def next(self) -> tuple[Any, ...]:
        async with asyncio.timeout(LIMIT):
            return await self.received.get()


@asynccontextmanager
async def connected(
    url: str, transports: list[str], auth: object = None, namespace: str = "/"
) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as http:
        client = Client(http)
        await client.io.connect(url, transports=transports, auth=auth, namespaces=[namespace])
        try:
            yield client
        finally:
            await client.io.disconnect()


@pytest.fixture(scope="module", params=["daphne", "uvicorn", "hypercorn"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    context = running(request.param)
    server = require(context.__enter__)
    yield server
    context.__exit__(None, None, None)


@pytest.mark.parametrize("transports", TRANSPORTS, ids="+".join)
async def test_events_and_acknowledgements_go_both_ways(server: Server, transports: list[str]) -> None:
    async with connected(server.url, transports, {"token": "é"}) as client:
        assert client.io.transport() == transports[-1]
        assert await client.next() == ("auth", {"token": "é"})
        assert await client.io.call("double", {"a": [1, "\u2028", None]}) == {"a": [1, "\u2028", None]}
        await client.io.emit("hello", ("w", 1))
        assert await client.next() == ("hello-back", "w", 1)
        await client.io.emit("ask", "who")
        assert await client.next() == ("asked", ["who!"])


@pytest.mark.parametrize("transports", TRANSPORTS, ids="+".join)
async def test_what_cannot_be_read_is_answered_and_costs_no_connection(
    server: Server, transports: list[str]
) -> None:
    async with connected(server.url, transports) as client:
        answer = await client.io.call("a", {"image": b"123", "second": b"456"})
        assert (answer["reason"], answer["name"]) == ("not_json", "a")
        assert (await client.io.call("b", float("nan")))["reason"] == "not_json"
        assert await client.io.call("still", "here") == "here"


@pytest.mark.parametrize("transports", TRANSPORTS, ids="+".join)
async def test_megabytes_arrive_whole_and_in_order(server: Server, transports: list[str]) -> None:
    async with connected(server.url, transports) as client:
        await client.next()
        await client.io.emit("flood", (1000, 5000))
        for number in range(1000):
            name, got, text = await client.next()
            assert (name, got, len(text)) == ("data", number, 5000)


@pytest.mark.parametrize("transports", TRANSPORTS, ids="+".join)
async def test_events_of_a_client_are_handled_in_order(server: Server, transports: list[str]) -> None:
    async with connected(server.url, transports) as client:
        await client.next()
        for number in range(500):
            await client.io.emit("n", number)
        assert [await client.next() for _ in range(500)] == [("n-back", number) for number in range(500)]


@pytest.mark.parametrize("transports", TRANSPORTS, ids="+".join)
async def test_the_server_says_its_last_word_before_it_disconnects(
    server: Server, transports: list[str]
) -> None:
    async with connected(server.url, transports, namespace="/custom") as client:
        assert await client.next() == ("auth", {})
        await client.io.emit("leave", namespace="/custom")
        assert await client.next() == ("bye",)
        async with asyncio.timeout(LIMIT):
            await client.io.wait()


@pytest.mark.parametrize("transports", TRANSPORTS, ids="+".join)
async def test_a_refused_client_gets_message_and_data(daphne: Server, transports: list[str]) -> None:
    refusals: list[object] = []
    async with aiohttp.ClientSession() as http:
        client = Client(http)
        client.io.on("connect_error", refusals.append)
        with pytest.raises(socketio.exceptions.ConnectionError):
            await client.io.connect(daphne.url, transports=transports, auth={"refuse": "login_required"})
    assert refusals == [{"message": "no", "data": {"error_code": 401, "reason": "login_required"}}]


# -- clients that vanish, and clients that do not read


async def watch(client: Client) -> None:
    await client.io.emit("watch")
    while (await client.next())[0] != "watching":
        pass


async def test_a_poll_that_is_aborted_is_noticed_at_once(daphne: Server) -> None:
    async with connected(daphne.url, ["websocket"]) as watcher, aiohttp.ClientSession() as http:
        await watch(watcher)
        url = f"{daphne.url}/socket.io/?EIO=4&transport=polling"
        async with http.get(url) as response:
            url += "&sid=" + json.loads((await response.text())[1:])["sid"]
        await (await http.post(url, data="40")).read()
        await (await http.get(url)).read()
        with pytest.raises(TimeoutError):
            await http.get(url, timeout=aiohttp.ClientTimeout(total=0.2))
        name, _, reason = await watcher.next()
        assert (name, reason) == ("left", "transport close")


async def test_a_silent_client_is_cut_by_the_ping_timeout(daphne: Server) -> None:
    async with connected(daphne.url, ["websocket"]) as watcher, aiohttp.ClientSession() as http:
        await watch(watcher)
        url = f"{daphne.url}/socket.io/?EIO=4&transport=websocket"
        async with http.ws_connect(url) as silent:
            await silent.receive()
            await silent.send_str("40")
            name, _, reason = await watcher.next()
            assert (name, reason) == ("left", "ping timeout")


def resident_megabytes(pid: int) -> float:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def open_websocket(server: Server) -> websocket.WebSocket:
    address = server.url.replace("http", "ws")
    connection = websocket.create_connection(f"{address}/socket.io/?EIO=4&transport=websocket")
    connection.settimeout(LIMIT)
    connection.recv()
    connection.send("40")
    connection.recv()
    return connection


def test_a_client_that_reads_nothing_costs_little_and_is_alive_when_it_reads(daphne: Server) -> None:
    others = [open_websocket(daphne) for _ in range(3)]
    for connection in others:  # so that the process has reached its largest size before
        connection.send('42["flood",100,10000]')
    for connection in others:
        seen = 0
        while seen < 100:
            text = connection.recv()
            seen += '"data"' in text
            if text == "2":
                connection.send("3")
        connection.close()
    before = resident_megabytes(daphne.pid)
    lazy = open_websocket(daphne)
    lazy.send('42["flood",20000,10000]')
    response = requests.get(f"{daphne.url}/socket.io/?EIO=4&transport=polling", timeout=LIMIT)
    assert response.status_code == 200  # other clients are served meanwhile
    grown = resident_megabytes(daphne.pid) - before
    numbers = []
    while len(numbers) < 500:
        text = lazy.recv()
        if text == "2":
            lazy.send("3")
        elif '"data"' in text:
            numbers.append(json.loads(text[2:])[1])
    lazy.close()
    assert grown < 2
    assert numbers == list(range(500))


def test_what_is_missing_is_said() -> None:
    with pytest.raises(MissingRequirement), running("no_such_server"):
        pass
