"""Attacks by single requests: foreign pages, junk, slowness, probes, connections of other clients."""

from __future__ import annotations

import asyncio
import gzip
import json
import time

from tests.attack.sockets import PATH, Gone, Wire, action, connect, join, open_poll, request
from tests.attack.world import World, attack

BALANCER = "127.0.0.9"
ORIGINS = (
    "http://[",
    "http://]",
    "http://[::1",
    "http://[]",
    "null",
    "http://evil.example",
    "https://127.0.0.1@evil.example",
    "http://127.0.0.1.evil.example",
    "http://127.0.0.1:1",
    "//127.0.0.1",
    "file://",
    "http://\xff\xfe",
    "a" * 8000,
    "http://127.0.0.1:99999999",
    "http://evil.example\u00a0",
    "javascript:alert(1)",
)


async def _refused(world: World, headers: dict[str, str], what: str) -> None:
    """Check that three kinds of requests with these headers are refused, and do not break the server."""
    for kind in ("websocket", "polling", "preflight"):
        wire = await Wire.open(world.port)
        try:
            if kind == "websocket":
                status, _ = await wire.upgrade(PATH + kind, headers)
            else:
                method = "GET" if kind == "polling" else "OPTIONS"
                status, _, _ = await wire.ask(method, PATH + "polling", headers)
        finally:
            wire.abort()
        if status not in (400, 403):
            world.problem(f"{what}: {kind} answered {status}")


@attack("none")
async def nobody(world: World) -> None:
    """Nobody attacks: the numbers that the machine itself causes"""
    await asyncio.sleep(world.left)


@attack("edge", debug=True)
async def rebinding_debug(world: World) -> None:
    """A page of evil.example whose name now resolves to this machine (DEBUG)"""
    evil = f"evil.example:{world.port}"
    await world.repeat(
        lambda: _refused(world, {"Host": evil, "Origin": f"http://{evil}"}, "Host evil.example")
    )


@attack("edge")
async def rebinding(world: World) -> None:
    """A page of evil.example whose name now resolves to this machine"""
    evil = f"evil.example:{world.port}"
    await world.repeat(
        lambda: _refused(world, {"Host": evil, "Origin": f"http://{evil}"}, "Host evil.example")
    )


@attack("edge")
async def odd_origins(world: World) -> None:
    """Origins that are malformed, or that belong to nobody"""

    async def all_of_them() -> None:
        for origin in ORIGINS:
            await _refused(world, {"Origin": origin}, f"Origin {origin[:30]!r}")

    await world.repeat(all_of_them)


@attack("edge", environment={"DJANGO_HTTPS": "1", "DJANGO_TRUST_PROXY": "1"})
async def plain_http(world: World) -> None:
    """Socket.IO without TLS on a site that requires it"""

    async def once() -> None:
        for kind in ("websocket", "polling"):
            wire = await Wire.open(world.port)
            try:
                if kind == "websocket":
                    status, _ = await wire.upgrade(PATH + kind)
                else:
                    status, _, _ = await wire.ask("GET", PATH + kind)
            finally:
                wire.abort()
            if status in (101, 200):
                world.problem(f"{kind} over plain HTTP answered {status}")

    await world.repeat(once)


HOST = b" HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POLLING = b"/socket.io/?EIO=4&transport=polling"
SOCKET = (
    b"GET /socket.io/?EIO=4&transport=websocket" + HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
ODD = (
    b"GET " + POLLING + b"\r\n\r\n",
    b"GET " + POLLING + b" HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET " + POLLING + b"&sid=%ff%00%c3" + HOST + b"\r\n",
    b"GET /socket.io/%2e%2e/%00" + HOST + b"\r\n",
    b"GET http://evil.example" + POLLING + b" HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"POST " + POLLING + b"&sid=x" + HOST + b"Content-Length: -5\r\n\r\n",
    b"POST " + POLLING + b"&sid=x" + HOST + b"Content-Length: 9999999999999\r\n\r\n",
    b"POST " + POLLING + HOST + CHUNKED + b"Content-Length: 3\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    b"POST /api/sessions/" + HOST + CHUNKED + b"\r\nffffffffffffff\r\n",
    b"TRACE /" + HOST + b"\r\n",
    b"G\x00T /" + HOST + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
    b"GET /" + HOST + b"No colon at all\r\n\r\n",
    b"GET /" + HOST + b"Cookie: " + b"a=b; " * 2000 + b"\r\n\r\n",
    b"GET /?" + b"a" * 60_000 + HOST + b"\r\n",
    b"GET /" + HOST + b"X: y\r\n" * 20_000 + b"\r\n",
    SOCKET + b"Sec-WebSocket-Version: 99\r\nSec-WebSocket-Key: x\r\n\r\n",
    SOCKET + b"Sec-WebSocket-Version: 13\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    b"\x00" * 100_000,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    (b"GET /readyz" + HOST + b"\r\n") * 300,
)


@attack("edge")
async def odd_http(world: World) -> None:
    """Malformed requests: smuggled, endless, negative, binary, pipelined"""

    async def once() -> None:
        for raw in ODD:
            wire = await Wire.open(world.port)
            try:
                await wire.send(raw)
                try:
                    async with asyncio.timeout(0.5):
                        answer = await wire.reader.read(4096)
                except (TimeoutError, OSError):
                    answer = b""
            except Gone:
                continue
            finally:
                wire.abort()
            status = answer[9:12]
            if status.startswith(b"5") and status != b"505":
                world.problem(f"{raw[:40]!r}… answered {status.decode()}")

    await world.repeat(once, 4)


@attack("edge", seconds=70)
async def slow_headers(world: World) -> None:
    """200 handshakes that send one header byte per second, and 50 that send nothing"""
    begun: list[Wire] = []
    for number in range(250):
        try:
            wire = await Wire.open(world.port)
            if number % 5:
                await wire.send(
                    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "
                )
            begun.append(wire)
        except Gone:
            world.counts["refused"] += 1

    async def trickle(number: int, wire: Wire) -> None:
        try:
            while world.goes_on and wire.is_open:
                if number % 5:
                    await wire.send(b"a")
                async with asyncio.timeout(1):
                    await wire.reader.read(1000)
        except TimeoutError:
            await trickle(number, wire)
        except (Gone, OSError):
            pass

    await asyncio.gather(*(trickle(number, wire) for number, wire in enumerate(begun)))
    held = sum(wire.is_open for wire in begun)
    world.counts["held"] = held
    if held:
        world.problem(f"{held} of 250 unfinished handshakes are open after {world.seconds:.0f} s")


@attack("edge", seconds=45)
async def slow_bodies(world: World) -> None:
    """100 POSTs that send one byte of their body per second"""

    async def one() -> bool:
        wire = await Wire.open(world.port)
        sid, _ = await open_poll(wire)
        head = {"Host": wire.host, "Content-Length": "1000000"}
        await wire.send(request("POST", f"{PATH}polling&sid={sid}", head))
        while world.goes_on:
            await wire.send(b"6")
            try:
                async with asyncio.timeout(1):
                    if not await wire.reader.read(1000):
                        return False
            except TimeoutError:
                pass
        return wire.is_open

    held = sum(found is True for found in await world.together((one() for _ in range(100)), 100))
    world.counts["held"] = held
    if held:
        world.problem(f"{held} of 100 unfinished bodies are open after {world.seconds:.0f} s")


@attack("field")
async def readyz(world: World) -> None:
    """8 strangers that ask /readyz without pause, and a load balancer that asks four times a second"""

    async def stranger() -> None:
        wire = await Wire.open(world.port)
        try:
            for _ in range(50):
                await wire.ask("GET", "/readyz", {"Host": "localhost"})
        finally:
            wire.abort()

    async def balancer() -> None:
        while world.goes_on:
            begun = time.monotonic()
            try:
                wire = await Wire.open(world.port, BALANCER)
                status, _, _ = await wire.ask("GET", "/readyz", {"Host": "localhost"}, limit=5)
                wire.abort()
            except Gone:
                status = 0
            took = time.monotonic() - begun
            world.counts["probes"] += 1
            if status != 200 or took > 1:
                world.counts["bad probes"] += 1
                world.problem("the balancer's probes fail, or take more than a second")
            await asyncio.sleep(0.25)

    await asyncio.gather(world.repeat(stranger, 8), balancer())


@attack("edge", debug=True)
async def sid_theft(world: World) -> None:
    """A stranger that has read a polling client's sid in a log"""

    async def once() -> None:
        victim, thief = await Wire.open(world.port, "127.0.0.3"), await Wire.open(world.port)
        try:
            sid, got = await open_poll(victim, {"User-Agent": "victim"})
            mine = {"User-Agent": "victim", "Cookie": got.get("set-cookie", "").partition(";")[0]}
            target = f"{PATH}polling&sid={sid}"
            await victim.ask("POST", target, mine, b"40\x1e" + action("initialize").encode())
            status, _, body = await thief.ask("GET", target, {"User-Agent": "thief"}, limit=5)
            if status == 200:
                world.problem(
                    f"a GET without the cookie read {'the token' if b'token' in body else 'packets'}"
                )
            status, _, _ = await thief.ask("POST", target, {"User-Agent": "thief"}, b"6", limit=5)
            if status == 200:
                world.problem("a POST without the cookie was taken")
            status, _ = await (await Wire.open(world.port)).upgrade(f"{PATH}websocket&sid={sid}")
            if status == 101:
                world.problem("a websocket without the cookie was let in")
        finally:
            victim.abort()
            thief.abort()

    await world.repeat(once, 2)


@attack("edge", debug=True)
async def bombs(world: World) -> None:
    """200 MB of zeros, compressed: by permessage-deflate, and in a POST"""
    bomb = gzip.compress(bytes(200 * 2**20), 9)

    async def once() -> None:
        wire = await Wire.open(world.port)
        try:
            offer = {"Sec-WebSocket-Extensions": "permessage-deflate"}
            _, got = await wire.upgrade(PATH + "websocket", offer)
            if "deflate" in got.get("sec-websocket-extensions", ""):
                world.problem("permessage-deflate is spoken")
            await wire.send(_compressed(bomb[10:-8]))
            await wire.reader.read(100)
        finally:
            wire.abort()
        wire = await Wire.open(world.port)
        try:
            headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
            status, _, _ = await wire.ask("POST", "/api/sessions/", headers, bomb)
            if status >= 500:
                world.problem(f"a compressed POST was answered {status}")
        finally:
            wire.abort()

    await world.repeat(once, 2)


def _compressed(deflated: bytes) -> bytes:
    from tests.attack.sockets import TEXT, frame

    return frame(TEXT, deflated, rsv=4)


@attack("access")
async def password_guessing(world: World) -> None:
    """One address that guesses a password at the login"""
    wire = await Wire.open(world.port)
    _, got, body = await wire.ask("GET", "/admin/login/")
    wire.abort()
    cookie = got.get("set-cookie", "").partition(";")[0]
    found = body.partition(b'name="csrfmiddlewaretoken" value="')[2].partition(b'"')[0].decode()
    headers = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
    evaluated = 0

    async def guess() -> None:
        nonlocal evaluated
        wire = await Wire.open(world.port)
        try:
            form = f"csrfmiddlewaretoken={found}&username=ann&password=guess{evaluated}&next=/admin/"
            status, _, _ = await wire.ask("POST", "/admin/login/", headers, form.encode())
            world.counts[str(status)] += 1
            evaluated += status == 200
        finally:
            wire.abort()

    await world.repeat(guess, 4)
    if evaluated > 5 * world.seconds:
        world.problem(f"{evaluated} passwords were tried in {world.seconds:.0f} s")


@attack("access", debug=True)
async def token_guessing(world: World) -> None:
    """INIT with one wrong token after the other"""

    async def once() -> None:
        wire = await connect(world.port)
        try:
            await join(wire)
            for number in range(500):
                await wire.text(action("initialize", number=number, token=f"eyJ{number}:1w0000:{'A' * 43}"))
                answer = await wire.wait_text(f"43{number}", 5)
                world.counts[str(json.loads(answer[answer.index("[") :])[0].get("error_code"))] += 1
        finally:
            wire.abort()

    await world.repeat(once, 4)
