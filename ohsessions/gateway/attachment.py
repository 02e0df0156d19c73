"""The attachment of a client to its session, and the phases in which a client has one or not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from ohsessions.access import Login, Role
from ohsessions.core import wire
from ohsessions.core.errors import StaleSecrets, Unavailable
from ohsessions.core.runtime import JSON
from ohsessions.gateway.pump import Pump
from ohsessions.journal import Append, Appended, NewEvent
from ohsessions.lifecycle import Attached
from ohsessions.processes.store import Store

MOST_TRIES = 5
"""Tries to store an action, if the session's secrets change during each try."""


class ClientPhase(StrEnum):
    """The phases of a client, and the moves between them:

        new → changing
        changing → new, attached, detached
        attached → changing, detached
        detached → changing

    A request that fails goes back from `changing` to the phase before. The gateway can end a connection in
    each phase: a client that is attached is then detached. A client that is changing loses its attachment,
    and stays in this phase until the change is over.
    """

    NEW = "new"
    """It was never attached: the database has no row of it."""
    CHANGING = "changing"
    """An INIT or a leave is under way: the attachment here may differ from the stored one."""
    ATTACHED = "attached"
    """It gets the events of its session."""
    DETACHED = "detached"
    """It was attached before: the database has a row of it."""


MOVES: dict[ClientPhase, frozenset[ClientPhase]] = {
    ClientPhase.NEW: frozenset({ClientPhase.CHANGING}),
    ClientPhase.CHANGING: frozenset({ClientPhase.NEW, ClientPhase.ATTACHED, ClientPhase.DETACHED}),
    ClientPhase.ATTACHED: frozenset({ClientPhase.CHANGING, ClientPhase.DETACHED}),
    ClientPhase.DETACHED: frozenset({ClientPhase.CHANGING}),
}


@dataclass(frozen=True, slots=True, eq=False)
class Attachment:
    """One attachment of a client, from the answer to its INIT to the end."""

    pump: Pump
    role: Role
    author: str
    """See Visitor.author()."""
    issued_to: Login | None
    """The login of another person, if the client is attached by a token that depends on it."""
    answer: dict[str, JSON]
    """The answer to the INIT."""

    @classmethod
    def of(cls, attached: Attached, pump: Pump, author: str) -> Attachment:
        """Return the attachment that an INIT has made."""
        change = attached.change
        answer = wire.first_answer(
            token=attached.token,
            session_id=str(change.session_id),
            state=change.state,
            role=attached.role.value,
            head=change.head,
            first_event_id=attached.first_number if attached.resets else None,
        )
        return cls(pump, attached.role, author, attached.issued_to, answer)

    @property
    def session_id(self) -> UUID:
        return self.pump.session_id

    async def append(self, store: Store, sid: str, act: wire.Act) -> Appended:
        """Store an action without the session's secrets. Try again if they have changed meanwhile."""
        secrecy = self.pump.secrecy
        key: dict[str, Any] = {"write_key": f"c:{self.author}:{act.client_id}"} if act.client_id else {}
        for _ in range(MOST_TRIES):
            shown, version, clean = await secrecy.clean(act)
            options = {"hidden": shown.hidden, "clean": clean, "waits": not act.is_interrupt} | key
            event = NewEvent("user", act.type, shown.body, **options)
            try:
                return await store.append(Append(self.session_id, [event], sid=sid, secrets_version=version))
            except StaleSecrets as error:
                secrecy.notice(error.version)
        raise Unavailable
