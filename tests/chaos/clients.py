"""The clients: they attach, act, leave, vanish and come back. Each has a random number generator of its own.

A client keeps each action until it is acknowledged, and sends it again until then, with the same client_id.
Three clients share a session. At times all of them stay away, for about as long as CLOSE_DELAY or longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

from tests.chaos.actions import COUNT, CRASH, INTERRUPT, SLOW, make_payload
from tests.chaos.history import FOREVER, Attachment, Departure, Sent, digest
from tests.chaos.proxy import Proxy
from tests.chaos.shared import SharedSession
from tests.chaos.sockets import ClientSocket, Lost, OnEvent

CALL_LIMIT = 4.0
TRANSIENT = frozenset({409, 429, 503})
"""Error codes after which an action is sent again."""


class Detached(Exception):
    """The server answered that this connection is not attached."""


class ChaosClient:
    """One client of one session."""

    def __init__(
        self,
        name: str,
        session: SharedSession,
        opens: bool,
        make_socket: Callable[[OnEvent], ClientSocket],
        proxies: list[Proxy],
        random: Random,
        now: Callable[[], float],
        slow: float,
    ) -> None:
        """`slow`: see Options."""
        self.name = name
        self.session = session
        self.sent: list[Sent] = []
        self.attachments: list[Attachment] = []
        self.departures: list[Departure] = []
        self.cursor = -1
        self.settling = asyncio.Event()
        """Set when the client must send no new actions."""
        self.leaving = asyncio.Event()
        """Set when the client must leave, for good."""
        self.errors: dict[str, int] = {}
        self._opens = opens
        self._make_socket = make_socket
        self._proxies = proxies
        self._random = random
        self._now = now
        self._slow = slow
        self._socket: ClientSocket | None = None
        self._asked_cursor = -1
        self._order = 0

    @property
    def unacknowledged(self) -> list[Sent]:
        return [one for one in self.sent if one.number is None and not one.refusal]

    @property
    def attachment(self) -> Attachment | None:
        last = self.attachments[-1] if self.attachments else None
        return last if last is not None and last.ended_at == FOREVER else None

    async def run(self) -> None:
        """Attach, act and come back, until `leaving` is set."""
        if not self._opens:
            await self.session.opened.wait()
        while not self.leaving.is_set():
            back = self.session.back_at(self._now())
            if back > self._now() and not self.settling.is_set():
                await self._pause(back - self._now() + self._random.uniform(0, 0.3))
            try:
                await self._live()
            except (Lost, TimeoutError, Detached) as error:
                word = type(error).__name__
                self.errors[word] = self.errors.get(word, 0) + 1
            finally:
                await self._disconnect()
            if not self.leaving.is_set():
                await self._pause(self._random.uniform(0.05, 0.8))

    async def _pause(self, seconds: float) -> None:
        """Sleep. Return earlier if the client must settle or leave."""
        hurry = self.settling.is_set()
        try:
            async with asyncio.timeout(min(seconds, 0.2) if hurry else seconds):
                await (self.leaving if hurry else self.settling).wait()
        except TimeoutError:
            pass

    # One connection

    async def _live(self) -> None:
        proxy = self._random.choice(self._proxies)
        self._socket = socket = self._make_socket(self._on_event)
        self._gateway = proxy.name
        await socket.connect(proxy.url)
        await self._attach(socket)
        while not self.leaving.is_set():
            if socket.closed:
                raise Lost("the connection ended")
            if self.settling.is_set():
                if self.unacknowledged:
                    await self._send(socket, self.unacknowledged[:5])
                else:
                    await self._pause_until_end(socket)
            elif self.session.back_at(self._now()) > self._now():
                if not await self._go_away(socket, proxy):
                    return
            elif not await self._do_something(socket, proxy):
                return

    async def _pause_until_end(self, socket: ClientSocket) -> None:
        while not self.leaving.is_set() and not socket.closed:  # noqa: ASYNC110 - either may end it
            await asyncio.sleep(0.05)

    async def _do_something(self, socket: ClientSocket, proxy: Proxy) -> bool:
        """Do one random step. Return False if the connection is no longer wanted."""
        dice = self._random.random()
        if dice < 0.75:
            await self._send(socket, self.unacknowledged[:3] or self._invent())
        elif dice < 0.79:
            await self._attach(socket)
        elif dice < 0.83:
            await self._leave(socket)
            await self._pause(self._random.uniform(0.0, 1.0))
            await self._attach(socket)
        elif dice < 0.87:
            proxy.cut(socket.port)
            return False
        elif dice < 0.90:
            return False
        await self._pause(self._random.uniform(0.05, 1.0))
        return True

    async def _go_away(self, socket: ClientSocket, proxy: Proxy) -> bool:
        """Stay away while the session must be without clients. Return True if the connection was kept."""
        await self._pause(self._random.uniform(0.0, 0.3))
        dice = self._random.random()
        if dice < 0.4:
            proxy.cut(socket.port)
            return False
        if dice < 0.7:
            return False
        await self._leave(socket)
        await self._pause(self.session.back_at(self._now()) - self._now())
        await self._attach(socket)
        return True

    async def _disconnect(self) -> None:
        socket, self._socket = self._socket, None
        if socket is None:
            return
        current = self.attachment
        if current is not None and socket.sid:
            self.departures.append(
                Departure(self.name, current.session, socket.sid, current.gateway, self._now())
            )
        await socket.close()
        self._end_attachment()

    # Requests

    async def _attach(self, socket: ClientSocket) -> None:
        self._asked_cursor = -1 if self._random.random() < 0.05 else self.cursor
        payload: dict[str, Any] = {
            "action": "initialize",
            "args": {"runtime": self.session.runtime, **self.session.settings},
            "latest_event_id": self._asked_cursor,
        }
        if self.session.token:
            payload["token"] = self.session.token
        else:
            payload["client_id"] = self.session.client_id
        if self._random.random() < 0.2:
            payload["replay"] = "batch"
        answer = await socket.call(payload, CALL_LIMIT)
        if answer.get("status") != "ok":
            self._count_error(answer)
            raise Detached(f"INIT was refused: {answer}")
        if not self.session.opened.is_set():
            self.session.id, self.session.token = answer["session_id"], answer["token"]
            self.session.opened.set()

    async def _leave(self, socket: ClientSocket) -> None:
        answer = await socket.call({"action": "leave"}, CALL_LIMIT)
        if answer.get("status") == "ok":
            self._end_attachment()
        else:
            self._count_error(answer)
            raise Detached(f"leave was refused: {answer}")

    def _invent(self) -> list[Sent]:
        """Return new actions that are sent at once."""
        if self.session.crash_at <= self._now():
            self.session.crash_at = FOREVER
            return [self._new(CRASH)]
        if self._random.random() < 0.08:
            return [self._new(SLOW), self._new(INTERRUPT)]
        kind = SLOW if self._random.random() < self._slow else COUNT
        return [self._new(kind) for _ in range(self._random.choice((1, 1, 1, 3)))]

    def _new(self, kind: str) -> Sent:
        one = Sent(f"{self.name}-{len(self.sent)}", self.session.id, self.name, kind=kind)
        self.sent.append(one)
        return one

    async def _send(self, socket: ClientSocket, burst: list[Sent]) -> None:
        """Send some actions at once, and wait for the outcome of each."""
        outcomes = await asyncio.gather(
            *(self._send_one(socket, one) for one in burst), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _send_one(self, socket: ClientSocket, one: Sent) -> None:
        one.sends += 1
        if one.sends == 1:
            one.sent_at, one.gateway = self._now(), self._gateway
        self._order += 1
        order, attachment = self._order, len(self.attachments) - 1
        payload = make_payload(one.kind, one.tag, f"{self.session.client_id}/{one.tag}")
        answer = await socket.call(payload, CALL_LIMIT)
        if answer.get("status") == "ok":
            one.number, one.acknowledged_at = answer["id"], self._now()
            if one.sends == 1:
                one.order, one.attachment = order, attachment
            return
        self._count_error(answer)
        if answer.get("error_code") not in TRANSIENT:
            one.refusal = f"{answer.get('error_code')} {answer.get('reason')}: {answer.get('message')}"
        elif answer.get("error_code") == 409:
            raise Detached(str(answer))
        else:
            await asyncio.sleep(0.3)

    def _count_error(self, answer: dict[str, Any]) -> None:
        word = f"{answer.get('error_code')} {answer.get('reason')}"
        self.errors[word] = self.errors.get(word, 0) + 1

    # Incoming events

    def _on_event(self, name: str, payload: Any, text: str | None) -> None:
        if name == "oh_event" and "session_id" in payload and "token" in payload:
            self._on_first_answer(payload)
        elif name == "oh_event" and isinstance(payload.get("id"), int):
            self._on_stored(payload, text)
        elif name == "oh_events":
            for event in payload:
                self._on_stored(event, None)
        elif name == "oh_event":
            self._count_error(payload)
        elif name == "oh_notice" and payload.get("notice") == "disconnecting":
            word = f"disconnecting {payload.get('reason')}"
            self.errors[word] = self.errors.get(word, 0) + 1

    def _on_first_answer(self, payload: dict[str, Any]) -> None:
        last = self.attachments[-1] if self.attachments else None
        if payload.get("reset") and last is not None and last.ended_at == FOREVER:
            self.errors["reset"] = self.errors.get("reset", 0) + 1
        self._end_attachment()
        cursor = payload["first_event_id"] - 1 if payload.get("reset") else self._asked_cursor
        assert self._socket is not None
        self.attachments.append(
            Attachment(self.name, payload["session_id"], self._now(), cursor, self._socket.raw, self._gateway)
        )

    def _on_stored(self, event: dict[str, Any], text: str | None) -> None:
        if not self.attachments:
            return
        current = self.attachments[-1]
        # The events of a batch have no text of their own. They are compared by value, as those of a library
        # are.
        name = f"text {digest(text)}" if text is not None else f"value {digest(event)}"
        current.received.append((event["id"], name, self._now()))
        self.cursor = max(self.cursor, event["id"])

    def _end_attachment(self) -> None:
        current = self.attachment
        if current is not None:
            current.ended_at = self._now()
