"""What a gateway knows of a session's secrets, to keep them out of what the session's clients say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from uuid import UUID

from ohsessions import vault
from ohsessions.core import wire
from ohsessions.core.redaction import Redactor
from ohsessions.services import Services

Clean = Callable[[str], str]


class Secrecy:
    """The secrets of one session, read when its first action comes, and again when there are other ones.

    A session that never had any costs nothing. `version` is that of what is cut out.
    """

    def __init__(self, services: Services, session_id: UUID) -> None:
        self.version = 0
        self._services = services
        self._session_id = session_id
        self._known = 0
        self._redactor = Redactor(())

    def notice(self, version: int) -> None:
        """The session's secrets have this version."""
        self.version = version

    async def clean(self, act: wire.Act) -> tuple[wire.Act, int, Clean | None]:
        """Return an action as it is to be stored, the version of the secrets that were cut out, and how to do
        the same to another body, None if there are no secrets.

        Raises WireError if they cannot be read.
        """
        if self.version != self._known:
            known = await self._services.database.read(vault.read, self._session_id)
            self._redactor = Redactor(known.texts)
            self.version = self._known = known.version
        if not self._known:
            return act, 0, None
        return wire.redact_act(act, self._redactor), self._known, partial(_clean, self._redactor)


def _clean(redactor: Redactor, body: str) -> str:
    return wire.redact_body(body, redactor)
