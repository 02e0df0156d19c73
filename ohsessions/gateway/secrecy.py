"""A gateway's copy of a session's secrets, to remove them from the actions of the session's clients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from uuid import UUID

from ohsessions import vault
from ohsessions.core import wire
from ohsessions.core.redaction import Redactor
from ohsessions.processes.store import Store

Clean = Callable[[str], str]


class Secrecy:
    """The secrets of one session, read at its first action, and again when they have changed.

    A session that never had secrets costs nothing. `version` is the newest version that is known to exist.
    """

    def __init__(self, store: Store, session_id: UUID) -> None:
        self.version = 0
        self._store = store
        self._session_id = session_id
        self._known = 0
        self._redactor = Redactor(())

    def notice(self, version: int) -> None:
        """Set the version that the session's secrets have now."""
        self.version = version

    async def clean(self, act: wire.Act) -> tuple[wire.Act, int, Clean | None]:
        """Return an action without the secrets, their version, and a function that removes them from a body.

        The function is None if there are no secrets. Raises WireError if the secrets cannot be read.
        """
        if self.version != self._known:
            known = await self._store.database.read(vault.read, self._session_id)
            self._redactor = Redactor(known.texts)
            self.version = self._known = known.version
        if not self._known:
            return act, 0, None
        return wire.redact_act(act, self._redactor), self._known, partial(_clean, self._redactor)


def _clean(redactor: Redactor, body: str) -> str:
    return wire.redact_body(body, redactor)
