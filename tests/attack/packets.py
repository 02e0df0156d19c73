"""Attacks by the content of one connection: too much, too deep, too often, out of place."""

from __future__ import annotations

import asyncio

from tests.attack.sockets import (
    PATH,
    PING,
    Gone,
    Wire,
    action,
    connect,
    frame,
    join,
    open_poll,
    text_frame,
)
from tests.attack.world import World, attack

BIG = 3_984_588
"""3.8 MiB: less than the largest action."""


async def _burst(
    world: World, data: bytes, *, joined: bool = True, reads: bool = True, rest: float = 5.0
) -> None:
    """Send all data on a new connection, and wait a little for the end of the connection."""
    wire = await connect(world.port)
    try:
        if joined:
            await join(wire)
        reading = asyncio.create_task(_drain(wire)) if reads else None
        try:
            await asyncio.wait_for(wire.send(data), max(1.0, world.left))
            if reading is not None:
                await asyncio.wait([reading], timeout=min(rest, world.left))
        except TimeoutError:
            pass
        finally:
            if reading is not None:
                reading.cancel()
    finally:
        wire.abort()


async def _drain(wire: Wire) -> None:
    while await wire.reader.read(65536):
        pass


@attack("limits")
async def nested_frame(world: World) -> None:
    """A frame of 3.8 MiB with lists nested 59 deep, before INIT"""
    unit = "[" * 57 + "]" * 57
    lists = ",".join([unit] * (BIG // (len(unit) + 1)))
    data = text_frame(f'42["oh_action",{{"action":"message","args":{{"content":[{lists}]}}}}]')
    await world.repeat(lambda: _burst(world, data))


@attack("limits", debug=True)
async def nested_frame_debug(world: World) -> None:
    """A frame of 3.8 MiB with lists nested 59 deep, before INIT, where anybody may start a session"""
    unit = "[" * 57 + "]" * 57
    lists = ",".join([unit] * (BIG // (len(unit) + 1)))
    data = text_frame(f'42["oh_action",{{"action":"message","args":{{"content":[{lists}]}}}}]')
    await world.repeat(lambda: _burst(world, data))


@attack("limits")
async def many_objects(world: World) -> None:
    """40 frames of 3.8 MiB of empty objects"""
    objects = ",".join(["{}"] * (BIG // 3))
    data = text_frame(f'42["oh_action",{{"action":"message","args":{{"content":[{objects}]}}}}]')
    await world.repeat(lambda: _burst(world, data * 40, rest=20))


@attack("limits")
async def deep_connect(world: World) -> None:
    """A CONNECT whose auth has 3.8 MiB of lists"""
    lists = ",".join(["[[[]]]"] * (BIG // 7))
    await world.repeat(lambda: _burst(world, text_frame(f'40{{"a":[{lists}]}}'), joined=False))


@attack("edge")
async def pongs(world: World) -> None:
    """500,000 PONGs without a PING"""
    data = text_frame("3") * 500_000
    await world.repeat(lambda: _burst(world, data))


@attack("edge")
async def websocket_pings(world: World) -> None:
    """200,000 websocket pings, and no reading of the pongs"""
    data = frame(PING) * 200_000
    await world.repeat(lambda: _burst(world, data, reads=False))


@attack("edge")
async def websocket_pings_with_payload(world: World) -> None:
    """200,000 websocket pings with 125 bytes each"""
    data = frame(PING, bytes(125)) * 200_000
    await world.repeat(lambda: _burst(world, data))


@attack("edge")
async def fragments(world: World) -> None:
    """A message in 500,000 fragments of one byte"""
    data = frame(1, b"4", fin=False) + frame(0, b"2", fin=False) * 500_000
    await world.repeat(lambda: _burst(world, data))


@attack("edge")
async def small_packets_in_a_post(world: World) -> None:
    """POSTs of 100,000 small packets"""
    bodies = [b"\x1e".join([one] * 100_000) for one in (b"6", b"3", b'42["x"]', b"b", b"")]
    number = 0

    async def once() -> None:
        nonlocal number
        number += 1
        wire = await Wire.open(world.port)
        try:
            sid, _ = await open_poll(wire)
            target = f"{PATH}polling&sid={sid}"
            await wire.ask("POST", target, {}, b"40")
            await wire.ask("POST", target, {}, bodies[number % len(bodies)])
        finally:
            wire.abort()

    await world.repeat(once)


@attack("edge")
async def namespaces(world: World) -> None:
    """CONNECT to 100,000 namespaces that do not exist"""
    data = b"".join(text_frame(f"40/n{number},") for number in range(100_000))
    await world.repeat(lambda: _burst(world, data))


@attack("edge")
async def connects_and_disconnects(world: World) -> None:
    """CONNECT and DISCONNECT, 50,000 times on one connection"""
    await world.repeat(lambda: _burst(world, (text_frame("41") + text_frame("40")) * 50_000))


@attack("edge")
async def acknowledgements(world: World) -> None:
    """500,000 acknowledgements of events that were never sent"""
    await world.repeat(lambda: _burst(world, text_frame("437[]") * 500_000))


@attack("limits")
async def bad_events(world: World) -> None:
    """200,000 malformed events that ask for acknowledgements, and no reading of the answers"""
    await world.repeat(lambda: _burst(world, text_frame('421["x"]') * 200_000, reads=False))


@attack("limits")
async def bad_json(world: World) -> None:
    """200,000 events that are not JSON, and reading of the answers"""
    await world.repeat(lambda: _burst(world, text_frame('421["x",') * 200_000))


@attack("limits", debug=True)
async def actions_in_a_session(world: World) -> None:
    """Actions of 3.8 MiB without pause, in the attacker's own session"""
    data = text_frame(action("message", {"content": "x" * BIG}))

    async def once() -> None:
        wire = await connect(world.port)
        try:
            await join(wire)
            await wire.text(action("initialize", {"runtime": "echo"}, 1))
            await wire.wait_text("431")
            reading = asyncio.create_task(_drain(wire))
            try:
                for _ in range(20):
                    if not world.goes_on or reading.done():
                        break
                    await wire.send(data)
            finally:
                reading.cancel()
        finally:
            wire.abort()

    await world.repeat(once)


@attack("edge", seconds=12)
async def never_reads(world: World) -> None:
    """300 connections that ask for answers and read none"""
    data = text_frame('421["x"]') * 2000

    async def one() -> None:
        wire = await connect(world.port, receive_buffer=4096)
        try:
            await wire.send(text_frame("40") + data)
            await asyncio.sleep(world.left)
        finally:
            wire.abort()

    results = await world.together((one() for _ in range(300)), 300)
    world.counts["refused"] += sum(isinstance(found, Gone) for found in results)
