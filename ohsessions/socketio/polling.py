"""
The two requests of long polling: a GET that waits for packets, and a POST that brings some.

Owns the waiting, for packets or for a body, and its end if the client leaves. Knows nothing of handshakes
and of the headers of answers: see consumer.
"""

import asyncio

from ohsessions.socketio.asgi import Receive, Scope
from ohsessions.socketio.connection import EngineConnection
from ohsessions.socketio.engine import EngineIO
from ohsessions.socketio.errors import RequestRefused
from ohsessions.socketio.requests import header

__all__ = ["ClientGone", "poll", "post"]


class ClientGone(Exception):
    """The client closed its request, so no answer is possible."""


async def poll(connection: EngineConnection, receive: Receive) -> str:
    """
    Wait for the answer to a GET and return it.

    Raises ClientGone, and ends the connection, if the client gives up before. Raises RequestRefused if
    another GET waits.
    """
    connection.act(EngineIO.begin_poll)
    try:
        if not connection.engine.poll_is_ready:
            await _wait_poll(connection, receive)
    except (ClientGone, asyncio.CancelledError):
        connection.act(EngineIO.cancel_poll)
        raise
    return connection.act(EngineIO.end_poll)


async def post(connection: EngineConnection, scope: Scope, receive: Receive) -> None:
    """
    Read the body of a POST and handle its packets.

    Raises ClientGone if the client gives up before. Raises RequestRefused if the body is refused, or if
    another POST is being read; that ends the connection.
    """
    if connection.is_posting:
        connection.abort("overlapping posts")
        raise RequestRefused.bad_request()
    connection.is_posting = True
    try:
        body = await _read_body(scope, receive, connection.input_limit)
        if not await connection.receive_payload(body):
            raise RequestRefused.bad_request()
    finally:
        connection.is_posting = False


async def _wait_poll(connection: EngineConnection, receive: Receive) -> None:
    ready = asyncio.create_task(connection.wait_poll(), name=f"poll {connection.engine.sid}")
    leave = asyncio.create_task(_wait_disconnect(receive), name=f"poller {connection.engine.sid}")
    try:
        await asyncio.wait({ready, leave}, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            raise ClientGone
    finally:
        ready.cancel()
        leave.cancel()
        await asyncio.gather(ready, leave, return_exceptions=True)


async def _wait_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the body of a POST. Raises RequestRefused as soon as it is known to be too large."""
    announced = header(scope, b"content-length")
    if announced is not None and announced.isdecimal() and int(announced[:20]) > limit:
        raise RequestRefused.too_large()
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise RequestRefused.too_large()
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)
