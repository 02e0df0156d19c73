"""Every error that ohsessions raises on purpose.

    OhSessionsError
    ├── WireError               sent to the client that caused it, with the protocol's code and reason
    │   └── Unavailable         the database cannot be reached; the client may try again later
    │       └── RowLocked       another transaction has locked the row for too long
    ├── IllegalTransition       the table of states has no such transition; nothing was changed
    ├── IllegalMove             a move that a table of phases does not have; nothing was changed
    ├── StaleEpoch              the writer no longer owns the session; nothing was written
    ├── StaleSecrets            a gateway does not know all secrets of a session; nothing was written
    ├── InvalidEvent            a runtime emitted an event that cannot be sent; nothing was written
    ├── RuntimeFailure          a runtime could not be started, or broke
    │   └── NotFed              its worker's lease has run out; the runtime is not at fault
    └── ProcessGone             another process declared this one gone

The default message of an error is the first line of its docstring, if its class makes no message itself.
"""

from __future__ import annotations

from typing import Any


class OhSessionsError(Exception):
    """Something went wrong in ohsessions."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").split("\n")[0])


class WireError(OhSessionsError):
    """The request was refused.

    `code` and `reason` are those of the protocol's table of error codes; `extra` are further keys of the
    answer (`retry_after` in seconds, `client_id`).
    """

    def __init__(self, code: int, reason: str, message: str, **extra: Any) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.extra = extra


class Unavailable(WireError):
    """The database cannot be reached at the moment."""

    def __init__(self, retry_after: float = 1.0) -> None:
        message = "The database cannot be reached at the moment. Try again."
        super().__init__(503, "unavailable", message, retry_after=retry_after)


class RowLocked(Unavailable):
    """Another transaction has locked a row for too long; nothing was written."""


class IllegalTransition(OhSessionsError):
    """This cannot happen to a session in this state."""

    def __init__(self, origin: str | None, trigger: str) -> None:
        super().__init__(f"A session that is {origin or 'new'} has no transition for {trigger}.")
        self.origin = origin
        self.trigger = trigger


class IllegalMove(OhSessionsError):
    """An object in memory cannot move between these phases."""

    def __init__(self, origin: str, target: str) -> None:
        super().__init__(f"The phase {target} cannot follow {origin}.")


class StaleEpoch(OhSessionsError):
    """Another process owns this session now; nothing was written."""


class StaleSecrets(OhSessionsError):
    """The session has other secrets than its gateway knows; nothing was written."""

    def __init__(self, version: int) -> None:
        """`version`: the version of the secrets that the session has."""
        super().__init__()
        self.version = version


class InvalidEvent(OhSessionsError):
    """The event cannot be sent as JSON: use str, int, float, bool, None, lists and dicts with str keys."""


class RuntimeFailure(OhSessionsError):
    """The runtime failed."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class NotFed(RuntimeFailure):
    """The worker's lease has run out, so nothing is started any more."""

    def __init__(self, message: str) -> None:
        super().__init__("not_fed", message)


class ProcessGone(OhSessionsError):
    """Another process declared this one gone, because it renewed its lease too late."""
