"""Attacks of strangers on the transport: the answers, and the costs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from tests.acceptance.frames import CONTINUATION, PING, FrameSocket, frame
from tests.acceptance.raw import RawClient
from tests.acceptance.site import Client, Site
from tests.acceptance.test_backpressure import resident_megabytes
from tests.requirements import wait_until

MIB = 1024 * 1024
MakeSite = Callable[..., Site]
Connect = Callable[..., Awaitable[Client]]
ConnectRaw = Callable[..., Awaitable[RawClient]]
LIMIT = 15.0
WAVES = 5
HANDSHAKE = {"EIO": "4"}


async def statuses(site: Site, **headers: str) -> dict[str, int]:
    """Return the status that answers each kind of handshake with these headers."""
    found: dict[str, int] = {}
    address = f"{site.url}/socket.io/"
    async with aiohttp.ClientSession() as http:
        for method, kind in (("GET", "polling"), ("OPTIONS", "preflight")):
            query = HANDSHAKE | {"transport": "polling"}
            async with http.request(method, address, params=query, headers=headers) as response:
                found[kind] = response.status
                assert response.headers["x-content-type-options"] == "nosniff"
        query = HANDSHAKE | {"transport": "websocket"}
        try:
            async with http.ws_connect(address, params=query, headers=headers):
                found["websocket"] = 101
        except aiohttp.WSServerHandshakeError as error:
            found["websocket"] = error.status
    return found


ACCEPTED = {"polling": 200, "preflight": 204, "websocket": 101}


@pytest.fixture(scope="module")
def shared(make_shared_site: MakeSite) -> Site:
    return make_shared_site(PACKET_RATE=200)  # the other limits are off, this one is tested


async def test_a_host_that_is_not_ours_is_refused_whatever_the_origin_says(shared: Site) -> None:
    evil = f"evil.example:{shared.port}"
    refused = {"polling": 400, "preflight": 400, "websocket": 403}
    assert await statuses(shared, Host=evil, Origin=f"http://{evil}") == refused
    assert await statuses(shared, Host=evil) == refused
    assert await statuses(shared, Origin=shared.url) == ACCEPTED
    assert await statuses(shared) == ACCEPTED


@pytest.mark.parametrize("origin", ["http://[", "null", "http://evil.example", "http://127.0.0.1:1"])
async def test_an_origin_that_is_foreign_or_none_is_refused_and_no_fault_of_ours(
    shared: Site, origin: str
) -> None:
    refused = await statuses(shared, Origin=origin)
    # daphne itself answers 400 to a websocket whose origin it cannot parse.
    assert refused.pop("websocket") in (400, 403)
    assert refused == {"polling": 403, "preflight": 403}
    assert "Traceback" not in shared.log.read_text()


@pytest.mark.parametrize("sid", ["%ff", "%00%c3", "\xff"])
async def test_a_query_that_is_no_text_is_refused_and_no_fault_of_ours(shared: Site, sid: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", shared.port)
    target = f"/socket.io/?EIO=4&transport=polling&sid={sid}"
    writer.write(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode("latin-1"))
    assert b" 400 " in await reader.readline()
    writer.close()
    assert "Traceback" not in shared.log.read_text()


async def test_a_site_for_https_takes_no_plain_connections(make_site: MakeSite) -> None:
    site = make_site(environment={"DJANGO_HTTPS": "1", "DJANGO_TRUST_PROXY": "1"})
    assert await statuses(site) == {"polling": 403, "preflight": 403, "websocket": 403}
    assert await statuses(site, **{"X-Forwarded-Proto": "https"}) == ACCEPTED


# Packets and frames


FLOODS = {
    "pongs": frame(b"3") * 20_000,
    "empty messages": frame(b"6") * 20_000,
    "websocket pings": frame(b"", PING) * 20_000,
    "parts of a message": frame(b"4", is_last=False) + frame(b"", CONTINUATION, is_last=False) * 20_000,
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_of_small_frames_ends_its_connection_and_hurts_no_other(
    shared: Site, connect: Connect, kind: str
) -> None:
    other = await connect(shared)
    await other.initialize("echo")
    socket = await FrameSocket.open(shared.port)
    await socket.send(FLOODS[kind])
    assert await socket.ended()
    done = await other.act("message", {"content": "still here"})
    await other.wait_for(observation="echo", cause=done["id"])
    await socket.close()


async def test_two_pongs_for_one_ping_end_the_connection(make_site: MakeSite) -> None:
    site = make_site(PING_INTERVAL=1)
    socket = await FrameSocket.open(site.port)
    await socket.send(frame(b"40"))
    async with asyncio.timeout(LIMIT):
        while b"\x012" not in await socket.reader.read(65536):  # a frame of one byte: PING
            pass
    await socket.send(frame(b"3") + frame(b"3"))
    assert await socket.ended()
    await socket.close()


async def test_a_post_of_100_000_packets_is_refused_and_ends_its_connection(shared: Site) -> None:
    address, query = f"{shared.url}/socket.io/", HANDSHAKE | {"transport": "polling"}
    async with aiohttp.ClientSession() as http:
        async with http.get(address, params=query) as response:
            query["sid"] = (await response.text()).partition('"sid":"')[2].partition('"')[0]
        body = b"\x1e".join([b"6"] * 100_000)
        async with http.post(address, params=query, data=body) as response:
            assert response.status == 413
        async with http.get(address, params=query) as response:
            assert (response.status, await response.text()) == (200, "1")


# Messages that never end


def open_sockets(pid: int) -> int:
    """Return the number of a process's open sockets. One that is closed meanwhile does not count."""
    found = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += str(file.readlink()).startswith("socket:")
    return found


async def wave(port: int, message: bytes, count: int) -> None:
    """Send the beginning of a message on many sockets, and leave."""
    sockets = [await FrameSocket.open(port) for _ in range(count)]
    await asyncio.gather(*(socket.send(message) for socket in sockets))
    for socket in sockets:
        await socket.close()


@pytest.mark.parametrize(("size", "count"), [(8 * MIB, 30), (4 * MIB, 30), (60_000, 200)])
async def test_waves_of_half_messages_leave_no_memory_taken(shared: Site, size: int, count: int) -> None:
    assert shared.process is not None
    pid = shared.process.pid
    sockets, memory = open_sockets(pid), resident_megabytes(pid)
    for _ in range(WAVES):
        await wave(shared.port, frame(b"4" + bytes(size), announced=size + 1000), count)
    # By then the server has read all that was sent.
    await asyncio.to_thread(wait_until, lambda: open_sockets(pid) <= sockets, "the end of all sockets")
    # malloc returns somewhat later what was freed. A wave that stays takes 12 MB or more.
    enough = memory + 8 * WAVES
    await asyncio.to_thread(wait_until, lambda: resident_megabytes(pid) < enough, f"less than {enough} MB")


async def test_half_messages_of_one_address_share_a_budget(shared: Site) -> None:
    half = frame(b"4" + bytes(3 * MIB), announced=4 * MIB)
    sockets = [await FrameSocket.open(shared.port) for _ in range(8)]
    try:
        await asyncio.gather(*(socket.send(half) for socket in sockets))
        ended = await asyncio.gather(*(socket.ended() for socket in sockets))
        assert 3 <= sum(ended) < 8  # five of them have 15 MiB
    finally:
        for socket in sockets:
            await socket.close()


async def test_strangers_who_start_no_sessions_send_little_until_they_are_attached(
    make_site: MakeSite, connect_raw: ConnectRaw
) -> None:
    site = make_site(ALLOW_ANONYMOUS=False)
    socket = await FrameSocket.open(site.port)
    await socket.send(frame(b"4" + bytes(70_000)))
    assert await socket.ended()
    await socket.close()
    client = await connect_raw(site, transport="polling")
    data, query = b"4" + bytes(70_000), client._query
    async with client._http.post(client.address, params=query, data=data) as response:
        assert response.status == 413
    assert (await client.act("initialize"))["error_code"] == 401


# Polling connections of other clients


@pytest.mark.parametrize("keeps_cookies", [False, True])
async def test_a_sid_from_a_log_does_not_read_somebody_elses_polling(
    shared: Site, keeps_cookies: bool
) -> None:
    address, query = f"{shared.url}/socket.io/", HANDSHAKE | {"transport": "polling"}
    jar = aiohttp.CookieJar(unsafe=True) if keeps_cookies else aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(cookie_jar=jar) as own, aiohttp.ClientSession() as other:
        async with own.get(address, params=query) as response:
            query["sid"] = (await response.text()).partition('"sid":"')[2].partition('"')[0]
            assert "HttpOnly" in response.headers["set-cookie"]
        async with own.post(address, params=query, data=b"40") as response:
            assert response.status == 200
        agents = [{"User-Agent": "other"}] + [{}] * keeps_cookies
        for headers in agents:
            async with other.get(address, params=query, headers=headers) as response:
                assert response.status == 403
            websocket = query | {"transport": "websocket"}
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await other.ws_connect(address, params=websocket, headers=headers)
        async with own.get(address, params=query) as response:
            assert '40{"sid"' in await response.text()


# Events that are not parsed


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@pytest.mark.parametrize(
    ("value", "code", "reason"),
    [
        ("[" + "{}," * 50_000 + "{}]", 413, "too_large"),
        ("[" + '"a",' * 50_000 + '"a"]', 413, "too_large"),
        ("[" + ("[" * 59 + "]" * 59 + ",") * 1000 + "1]", 413, "too_large"),
        ("[" * 200 + "]" * 200, 400, "too_deep"),
    ],
)
async def test_what_has_too_many_values_or_levels_is_refused_to_its_sender_only(
    shared: Site, connect_raw: ConnectRaw, transport: str, value: str, code: int, reason: str
) -> None:
    client = await connect_raw(shared, transport=transport)
    await client.act("initialize", {"runtime": "echo"})
    answer = await client.ask(f'["oh_action",{{"action":"message","args":{{"x":{value}}}}}]')
    assert (answer["error_code"], answer["reason"]) == (code, reason)
    assert (await client.act("message", {"content": "still here"}))["status"] == "ok"


async def test_large_actions_keep_their_order_among_small_ones(shared: Site, connect_raw: ConnectRaw) -> None:
    client = await connect_raw(shared)
    await client.act("initialize", {"runtime": "echo"})
    sizes = [1, 100_000, 2, 1_000_000, 3]
    for size in sizes:
        await client.tell('["oh_action",{"action":"message","args":{"content":"' + "x" * size + '"}}]')
    await client.wait(
        lambda: sum(e.get("observation") == "echo" for e in client.got("oh_event")) == len(sizes),
        "the echoes",
    )
    echoes = [e for e in client.got("oh_event") if e.get("observation") == "echo"]
    assert [len(echo["content"]) for echo in echoes] == sizes
