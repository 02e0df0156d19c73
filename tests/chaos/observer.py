"""The state of the database: a few times a second during the run, and all of it at the end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import psycopg

from tests.chaos.history import Event, Leftover, Move, Sample, SessionRow, digest

SAMPLE_EVERY = 0.2

SAMPLE = """
SELECT s.id, s.state, p.pid, s.last_action_number > s.handled_number,
       (SELECT count(*) FROM ohsessions_connection c WHERE c.session_id = s.id AND c.ended_at IS NULL)
  FROM ohsessions_session s LEFT JOIN ohsessions_process p ON p.id = s.worker_id
"""
EVENTS = "SELECT session_id, number, created_at, source, kind, write_key, data FROM ohsessions_event"
MOVES = 'SELECT session_id, at, "from", "to", reason, "by", epoch FROM ohsessions_transition ORDER BY id'
SESSIONS = """
SELECT id, runtime, state, next_number - 1, last_action_number, handled_number, snapshot_file
  FROM ohsessions_session
"""
OPEN_CONNECTIONS = "SELECT sid, session_id, end_reason FROM ohsessions_connection WHERE ended_at IS NULL"


class Observer:
    """A reader of the database, with a connection of its own. If the database is away, it tries again."""

    def __init__(self, url: str, now: Callable[[], float]) -> None:
        self.samples: list[Sample] = []
        self._url = url
        self._now = now
        self._epoch = time.time() - now()
        """The wall clock's time when the run began. PostgreSQL runs on this machine."""

    async def watch(self) -> None:
        """Take samples for ever."""
        while True:
            try:
                async with await self._connect() as connection:
                    while True:
                        rows = await (await connection.execute(SAMPLE)).fetchall()
                        at = self._now()
                        self.samples += [
                            Sample(at, row[0].hex, row[1], row[2], row[4], row[3]) for row in rows
                        ]
                        await asyncio.sleep(SAMPLE_EVERY)
            except psycopg.Error:
                await asyncio.sleep(SAMPLE_EVERY)

    async def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        async with await self._connect() as connection:
            return await (await connection.execute(sql, parameters or None)).fetchall()

    async def wait(self, sql: str, limit: float) -> list[tuple[Any, ...]]:
        """Wait until a query returns no rows. Return the rows that are left after `limit` seconds."""
        end = self._now() + limit
        while True:
            try:
                rows = await self.query(sql)
            except psycopg.Error as error:
                rows = [(f"the database: {type(error).__name__}",)]
            if not rows or self._now() > end:
                return rows
            await asyncio.sleep(0.1)

    async def heads(self) -> dict[str, int]:
        rows = await self.query("SELECT id, next_number - 1 FROM ohsessions_session")
        return {row[0].hex: row[1] for row in rows}

    async def events(self) -> list[Event]:
        return [self._event(*row) for row in await self.query(EVENTS)]

    def _event(
        self, session: Any, number: int, at: Any, source: str, kind: str, key: str, data: str
    ) -> Event:
        value = json.loads(data)
        extras = value.get("extras") or {}
        details = value.get("args") or extras
        return Event(
            session=session.hex,
            number=number,
            at=at.timestamp() - self._epoch,
            source=source,
            kind=kind,
            key=key,
            text_digest=digest(data),
            value_digest=digest(value),
            tag=details.get("tag"),
            cause=value.get("cause"),
            reason=extras.get("reason"),
            last=extras.get("last") is True,
            counter=extras.get("counter"),
        )

    async def moves(self) -> list[Move]:
        rows = await self.query(MOVES)
        return [Move(row[0].hex, row[1].timestamp() - self._epoch, *row[2:]) for row in rows]

    async def sessions(self) -> tuple[list[SessionRow], set[str]]:
        """Return the rows of sessions, and the names of their snapshot files."""
        rows = await self.query(SESSIONS)
        return [SessionRow(row[0].hex, *row[1:6]) for row in rows], {row[6] for row in rows if row[6]}

    async def open_connections(self) -> list[Leftover]:
        """Return the connection rows that did not end, although every client is gone."""
        return [
            Leftover("connection row", f"{sid} ({reason or 'attached'})", session.hex if session else "")
            for sid, session, reason in await self.query(OPEN_CONNECTIONS)
        ]

    async def ends(self) -> dict[str, float]:
        """Return the time at which each connection ended, by sid."""
        rows = await self.query("SELECT sid, ended_at FROM ohsessions_connection WHERE ended_at IS NOT NULL")
        return {sid: at.timestamp() - self._epoch for sid, at in rows}

    async def _connect(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        return await psycopg.AsyncConnection.connect(self._url, connect_timeout=2, autocommit=True)
