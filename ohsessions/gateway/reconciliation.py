"""The comparison of a gateway's state with the database, and the correction of differences.

One read returns the head of each session's log. So an event that the channel layer lost is late by one
interval. Another read returns the connections that the database counts as this gateway's. A connection that
only one side knows is ended. A third read, for all clients together, returns the logins that have ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from uuid import UUID

from ohsessions import access, journal, lifecycle
from ohsessions.conf import conf
from ohsessions.core import policy, wire
from ohsessions.core.errors import WireError
from ohsessions.core.states import State
from ohsessions.database import database_now
from ohsessions.gateway.attachment import ClientPhase
from ohsessions.gateway.client import Client
from ohsessions.gateway.pump import Pump
from ohsessions.gateway.refusals import farewell, wire_reason
from ohsessions.gateway.subscriptions import Subscriptions
from ohsessions.journal import Head
from ohsessions.processes.store import Store

CHANGING = ClientPhase.CHANGING


class Reconciliation:
    """The reconciliation of one gateway. `clients` are by sid, `pumps` by session."""

    def __init__(
        self,
        store: Store,
        own_id: Callable[[], UUID],
        clients: Mapping[str, Client],
        pumps: Mapping[UUID, Pump],
        subscriptions: Subscriptions,
    ) -> None:
        self._store = store
        self._own_id = own_id
        self._clients = clients
        self._pumps = pumps
        self._subscriptions = subscriptions

    async def logs(self, session_ids: list[UUID]) -> None:
        """Update the pumps of these sessions; notify their clients if no worker takes the session."""
        if not session_ids:
            return
        heads, now = await self._store.read_patiently(_heads, session_ids)
        for session_id, head in heads.items():
            pump = self._pumps.get(session_id)
            if pump is None:
                continue
            if pump.reconcile(head):
                self._subscriptions.doubt(session_id)
            waits = head.state == State.STARTING and head.worker is None
            wanted_at = max(head.state_at, head.retry_at or head.state_at)
            starved = waits and policy.seconds_since(wanted_at, now) > conf.START_TIMEOUT
            if starved and not pump.starved:
                message = "No worker has taken this session yet. It starts as soon as one takes it."
                pump.send(wire.error_event(WireError(503, "no_worker", message)))
            pump.starved = starved

    async def connections(self) -> None:
        """Compare the connections here with those in the database; end those that only one side has."""
        clients = self._clients.values()
        before = {client: client.generation for client in clients if client.phase is not CHANGING}
        rows, revoked = await self._store.database.read(_connections, self._own_id())
        for sid, session_id in rows.items():
            client = self._clients.get(sid)
            if client is None:
                await self._detach(sid, session_id, "gone")
            elif sid in revoked:
                await self._detach(sid, session_id, "revoked")
                await self.end_ended([client])
            elif _is_unchanged(client, before) and client.session_id != session_id:
                # The attach was committed but its answer was lost, so the client got an error.
                await self._detach(sid, session_id, "gateway_lost")
        lost = [c for c in before if c.session_id is not None and c.sid not in rows]
        await self.end_ended([client for client in lost if _is_unchanged(client, before)], "gateway_lost")

    async def logins(self) -> None:
        """End the clients whose login has ended, and those attached by a token of such a login."""
        clients = list(self._clients.values())
        issued = {client: _issued_to(client) for client in clients}
        asked = {login for client in clients for login in (client.visitor.login, issued[client]) if login}
        if not asked:
            return
        began = time.monotonic()
        ended = await self._store.database.read(access.ended_logins, asked)
        for client in clients:
            if client.visitor.login in ended:
                # Even during an INIT: it would run with a login that has ended.
                await client.end("logged_out")
                continue
            client.visitor.login_seen_at = began
            if client.session_id is not None and issued[client] in ended and _issued_to(client) in ended:
                await self._detach(client.sid, client.session_id, "revoked")
                await self.end_ended([client])

    async def _detach(self, sid: str, session_id: UUID, reason: str) -> None:
        """Detach a connection. If another transaction has locked the session, a later look tries again."""
        if await self._store.try_change(lifecycle.detach, sid, reason) is not None:
            self._store.announce_presence(session_id)

    async def end_ended(self, clients: Iterable[Client], otherwise: str | None = None) -> None:
        """End those of these clients whose connection was ended in the database.

        `otherwise` is the reason for clients that were not ended there; None: they stay.
        """
        before = {client: client.generation for client in clients if client.phase is not CHANGING}
        if not before:
            return
        sids = [client.sid for client in before]
        reasons = await self._store.read_patiently(lifecycle.end_reasons, sids)
        for client in before:
            reason = reasons.get(client.sid, otherwise)
            if reason is not None and _is_unchanged(client, before):
                await client.end(wire_reason(reason), farewell(reason))


def _is_unchanged(client: Client, before: dict[Client, int]) -> bool:
    """Return True if the client was not attached or detached since `before`, and is not now."""
    return client.phase is not CHANGING and before.get(client) == client.generation


def _issued_to(client: Client) -> access.Login | None:
    """Return the login of another person whose token has attached the client, if its token depends on it."""
    return None if client.attachment is None else client.attachment.issued_to


def _heads(session_ids: list[UUID]) -> tuple[dict[UUID, Head], Any]:
    return journal.heads(session_ids), database_now()


def _connections(gateway: UUID) -> tuple[dict[str, UUID], set[str]]:
    return lifecycle.open_connections(gateway), lifecycle.revoked(gateway)
