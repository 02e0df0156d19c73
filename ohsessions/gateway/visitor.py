"""The person at the other end of a connection, or a stranger, as the handshake shows them."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.contrib.auth.models import AnonymousUser

from ohsessions import access, lifecycle
from ohsessions.access import Role
from ohsessions.conf import conf
from ohsessions.core.errors import WireError
from ohsessions.gateway.handshake import describe
from ohsessions.processes.store import Store
from ohsessions.socketio import Socket

LOGIN_TRUSTED = 1.0
"""Seconds for which a login is trusted after it was checked. A later INIT checks it again."""
HANDSHAKE_AT = "ohsessions.handshake_at"
"""The key in a scope of the time at which its login was checked, by time.monotonic()."""


class Visitor:
    """The user and the login of one connection, and the policy's decisions about them."""

    def __init__(self, socket: Socket) -> None:
        scope = socket.scope
        self.user: Any = scope.get("user") or AnonymousUser()
        self.login = access.login_of(self.user, scope.get("session"))
        """The login of the handshake; None for a stranger."""
        self.login_seen_at = scope.get(HANDSHAKE_AT, -LOGIN_TRUSTED)
        self._socket = socket
        self._policy = access.policy()
        self._connected_at = datetime.now(UTC)
        self._may_start = self.user.is_authenticated or conf.ALLOW_ANONYMOUS
        """False until the policy has allowed the visitor to start sessions; it stays True then."""

    def describe(self, gateway: UUID) -> lifecycle.Arrival:
        """Return the values of the connection that are stored."""
        is_doubted = time.monotonic() - self.login_seen_at > LOGIN_TRUSTED
        login = {"login": self.login, "is_doubted": is_doubted}
        return describe(self._socket, self.user, gateway, self._connected_at, **login)

    def author(self, token: str) -> str:
        """Return the scope in which a client_id is unique: the user, or the token for strangers."""
        if self.user.is_authenticated:
            return f"u{self.user.pk}"
        return "t" + hashlib.sha256(token.encode()).hexdigest()[:16]

    def check_may_act(self, role: Role, action: str) -> None:
        """Raise WireError 403 if the visitor may not send actions of this type in this role."""
        if not self._policy.may_act(self.user, role, action):
            raise WireError(403, "role", "You may watch this session, not act in it.")

    async def check_may_start(self, store: Store) -> None:
        """Raise WireError 401 if the visitor may not start sessions, so that an INIT will need a token."""
        if not self._may_start:
            await store.database.read(access.check_may_open, self.user)
            self._may_start = True
