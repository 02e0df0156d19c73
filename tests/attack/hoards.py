"""Attacks that hold resources: messages that never end, connections that never start, at once or in waves."""

from __future__ import annotations

import asyncio
import itertools

from tests.attack.sockets import PATH, TEXT, Gone, Wire, connect, frame, join, open_poll, request, text_frame
from tests.attack.world import World, attack

ADDRESSES = tuple(f"127.0.0.{last}" for last in range(20, 28))
UNFINISHED = 8 * 2**20
ANNOUNCED = 9_000_000
MANY = 5000


async def _torn(world: World, address: str, wait: float) -> None:
    """Send most of a large message, wait, and close the connection without an end."""
    wire = await connect(world.port, address)
    try:
        await wire.send(frame(TEXT, b"4" + b"2" * UNFINISHED, announced=ANNOUNCED))
        await asyncio.sleep(wait)
    finally:
        wire.abort()


@attack("edge", seconds=15)
async def torn_messages(world: World) -> None:
    """Waves of 30 sockets that end in the middle of a message of 9 MB"""
    while world.goes_on:
        await world.together((_torn(world, "127.0.0.2", 0.5) for _ in range(30)), 30)
        world.counts["waves"] += 1


@attack("edge", seconds=15)
async def torn_messages_from_many(world: World) -> None:
    """The same from eight addresses"""
    while world.goes_on:
        addresses = itertools.islice(itertools.cycle(ADDRESSES), 40)
        await world.together((_torn(world, address, 0.5) for address in addresses), 40)
        world.counts["waves"] += 1


@attack("edge", seconds=15)
async def torn_one_by_one(world: World) -> None:
    """300 sockets, one after the other, that end in the middle of a message"""
    for _ in range(300):
        if not world.goes_on:
            break
        try:
            await _torn(world, "127.0.0.2", 0)
            world.counts["done"] += 1
        except Gone:
            world.counts["refused"] += 1


@attack("edge", seconds=15)
async def torn_posts(world: World) -> None:
    """Waves of 30 POSTs of 9 MB that end in the middle"""

    async def one() -> None:
        wire = await Wire.open(world.port)
        try:
            sid, _ = await open_poll(wire)
            head = {"Host": wire.host, "Content-Length": str(ANNOUNCED)}
            await wire.send(request("POST", f"{PATH}polling&sid={sid}", head) + b"4" * UNFINISHED)
            await asyncio.sleep(0.5)
        finally:
            wire.abort()

    while world.goes_on:
        await world.together((one() for _ in range(30)), 30)
        world.counts["waves"] += 1


async def _hold(world: World) -> None:
    """Open 60 connections of one address that each send 3.9 MB before INIT, and stay."""
    data = text_frame(f'42["oh_action",{{"action":"message","args":{{"content":"{"x" * 3_900_000}"}}}}]')

    async def one() -> None:
        wire = await connect(world.port)
        try:
            await join(wire)
            await wire.send(data)
            await wire.wait_text("9", world.left + 0.1)
        finally:
            wire.abort()

    results = await world.together((one() for _ in range(60)), 60)
    world.counts["refused"] += sum(isinstance(found, Gone) for found in results)


@attack("limits", seconds=10)
async def held_actions(world: World) -> None:
    """60 strangers of one address hold actions before INIT"""
    await _hold(world)


@attack("limits", debug=True, seconds=10)
async def held_actions_debug(world: World) -> None:
    """The same where anybody may start a session"""
    await _hold(world)


async def _keep(world: World, make: object) -> list[Wire]:
    assert callable(make)
    results = await world.together((make(number) for number in range(MANY)), 100)
    kept = [found for found in results if isinstance(found, Wire)]
    world.counts["let in"] = len(kept)
    world.counts["refused"] = MANY - len(kept)
    await asyncio.sleep(min(5.0, world.left))
    open_now = sum(wire.is_open for wire in kept)
    for wire in kept:
        wire.abort()
    if open_now > MANY // 5:
        world.problem(f"{open_now} of {MANY} were let in and kept")
    return kept


@attack("limits", seconds=20)
async def unattached(world: World) -> None:
    """5,000 websockets of one address that say nothing"""

    async def one(number: int) -> Wire:
        return await connect(world.port)

    await _keep(world, one)


@attack("limits", debug=True, seconds=20)
async def unattached_in_debug(world: World) -> None:
    """5,000 websockets of eight addresses that CONNECT and send no INIT, where anybody may start a session"""

    async def one(number: int) -> Wire:
        wire = await connect(world.port, ADDRESSES[number % len(ADDRESSES)])
        await wire.text("40")
        return wire

    await _keep(world, one)


@attack("limits", seconds=15)
async def polling_hoard(world: World) -> None:
    """5,000 handshakes by polling that are never polled"""
    sids = 0

    async def some() -> None:
        nonlocal sids
        wire = await Wire.open(world.port)
        try:
            for _ in range(250):
                await open_poll(wire)
                sids += 1
        finally:
            wire.abort()

    await world.together((some() for _ in range(20)), 4)
    world.counts["let in"] = sids
    if sids > MANY // 5:
        world.problem(f"{sids} connections of one address by polling")


@attack("edge", seconds=15)
async def half_open_upgrades(world: World) -> None:
    """500 upgrades from polling that probe and never end"""

    async def one() -> Wire:
        wire = await Wire.open(world.port)
        sid, got = await open_poll(wire)
        cookie = {"Cookie": got.get("set-cookie", "").partition(";")[0]}
        second = await Wire.open(world.port)
        status, _ = await second.upgrade(f"{PATH}websocket&sid={sid}", cookie)
        if status != 101:
            raise Gone(str(status))
        await second.text("2probe")
        await second.wait_text("3probe", 5)
        wire.abort()
        return second

    results = await world.together((one() for _ in range(500)), 50)
    held = [found for found in results if isinstance(found, Wire)]
    world.counts["held"] = len(held)
    await asyncio.sleep(world.left)
    for wire in held:
        wire.abort()
