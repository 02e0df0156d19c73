"""
The settings of ohsessions.

A site writes them as one dict, ``OHSESSIONS = {"CLOSE_DELAY": 60, …}``. A setting that is left out has the
default below. `Settings` is their list, their types and their documentation; code reads them from `conf`.
Nothing here validates: system checks report mistakes (`ohsessions.checks`).
"""

import tempfile
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from django.conf import settings as django_settings


class RuntimeEntry(TypedDict):
    """One entry of RUNTIMES: the class that runs sessions of this alias, and the options of its instances."""

    BACKEND: str
    OPTIONS: NotRequired[dict[str, Any]]


class Settings:
    """
    The settings with their types and defaults. Each access reads the site's ``OHSESSIONS``, so
    ``override_settings`` works and no value is frozen at import. Times are in seconds, sizes in bytes.
    """

    # Runtimes
    RUNTIMES: dict[str, RuntimeEntry] = {
        "echo": {"BACKEND": "ohsessions.runtimes.echo.EchoRuntime", "OPTIONS": {}}
    }
    """The runtimes that a client may ask for, by alias."""

    @property
    def DEFAULT_RUNTIME(self) -> str:
        """The alias of the runtime of sessions that ask for none. Default: the first alias in RUNTIMES."""
        return next(iter(self.RUNTIMES), "")

    @property
    def WORKSPACE_ROOT(self) -> str | Path:
        """
        The directory that contains one directory per session, for the files of runtimes. Workers on several
        hosts need a shared one. Each site needs its own: a worker removes directories that belong to no
        session. Default: ``var/workspaces`` in the site's BASE_DIR, else
        ``ohsessions/workspaces`` in the temporary directory.
        """
        base = getattr(django_settings, "BASE_DIR", None)
        if base is None:
            return Path(tempfile.gettempdir()) / "ohsessions" / "workspaces"
        return Path(base) / "var" / "workspaces"

    # How long a session lives
    CLOSE_DELAY: float | None = 15
    """How long after the end of its last connection a session is passivated. 0: at once. None: never."""

    MAX_BUSY: float = 3600
    """How long a pending action, or a busy runtime, can postpone a passivation that is due. After that,
    pending actions are cut off or given up, and their senders are notified."""

    START_TIMEOUT: float = 60
    """How long a runtime may take to be ready, counted from a worker's claim."""

    PASSIVATE_TIMEOUT: float = 30
    """How long a runtime may take to save its state. After that it is killed, and its last checkpoint is
    kept. Storing a checkpoint, and the action under way in a worker that stops, have the same limit."""

    # How long rows are kept. None: for ever. A worker deletes them, but never rows that are still needed.
    EVENT_RETENTION: float | None = None
    """The age beyond which handled events are trimmed. A client with an older cursor is reset."""

    EVENT_RETENTION_BYTES: int | None = None
    """The size of a session's log beyond which its oldest handled events are trimmed."""

    CONNECTION_RETENTION: float | None = 30 * 24 * 3600
    """How long the rows of connections and of links are kept after their end."""

    PROCESS_RETENTION: float | None = 30 * 24 * 3600
    """How long the rows of processes that are gone are kept; longer if a connection's row names them."""

    TRANSITION_RETENTION: float | None = 90 * 24 * 3600
    """The age beyond which transitions are deleted, except the newest 20 of each session."""

    CLOSED_RETENTION: float | None = 365 * 24 * 3600
    """How long closed sessions can be read. Then they are deleted with all their rows and files."""

    ANONYMOUS_RETENTION: float | None = 30 * 24 * 3600
    """How long an unused session without an owner is kept. By default its token is valid for no longer."""

    # Processes
    HEARTBEAT: float = 2
    """How often each process renews its lease."""

    LEASE_TTL: float = 10
    """How long a lease holds without renewal. At least 3 × HEARTBEAT; the same in all processes."""

    # Connections
    PATH: str = "socket.io/"
    """The path of Socket.IO: without a leading slash, with a trailing one."""

    PING_INTERVAL: float = 12
    """How often an Engine.IO PING is sent. Proxies cut silent connections after as little as 16 s."""

    PING_TIMEOUT: float = 20
    """How long a client may take to answer a PING before it counts as gone."""

    SLOW_TIMEOUT: float = 60
    """How long a client may leave sent data unread before it is disconnected as slow. A PONG to a PING
    behind the data, or its next poll, shows that it has read the data."""

    MAX_ACTION_BYTES: int = 4 * 1024 * 1024
    """The size of the largest action, as JSON. Images come inside messages."""

    # How much a client may ask for. None: no limit. Each gateway process counts for itself.
    MAX_ACTION_VALUES: int = 50_000
    """The JSON values that an action may have, at every depth: they cost more than their bytes."""

    @property
    def PACKET_RATE(self) -> float | None:
        """
        Packets of any kind per second, sustained, of one connection; ten seconds' worth may come at once.
        More closes the connection as flooding. None: no limit. Default: 200, or 4 × RATE_LIMIT if that is
        more; None if RATE_LIMIT is None.
        """
        return None if self.RATE_LIMIT is None else max(200, 4 * self.RATE_LIMIT)

    BYTE_RATE: float | None = 4 * 1024 * 1024
    """The same limit in bytes per second. Two messages of the largest size may always come at once."""

    RATE_LIMIT: float | None = 50
    """Actions per second, sustained, of one connection; ten seconds' worth may come at once. An action counts
    once more for each 16 KiB of its size. None: no limit."""

    USER_RATE_LIMIT: float | None = 200
    """The same limit for all connections of one user, or all connections without a login of one address."""

    INIT_RATE: float | None = 60
    """INITs per minute of one connection; a minute's worth may come at once. None: no limit."""

    INIT_RATE_PER_USER: float | None = 600
    """The same limit for all connections of one user."""

    INIT_RATE_PER_ADDRESS: float | None = 3000
    """The same limit for all connections without a login of one address: an office reconnects at once."""

    START_RATE: float | None = 30
    """New sessions per minute of one user, or of all clients without a login at one address."""

    MAX_CONNECTIONS_PER_USER: int | None = 200
    """How many connections one user may have."""

    MAX_CONNECTIONS_PER_ADDRESS: int | None = 2000
    """How many connections without a login may come from one address."""

    MAX_UNATTACHED_PER_ADDRESS: int | None = 1000
    """How many of these may be unattached: they have not sent INIT, or have left their session."""

    MAX_UNATTACHED: int | None = 3000
    """How many unattached connections without a login there may be in total."""

    # How many sessions there may be. None: no limit. The database counts them, for all gateways.
    MAX_RUNNING_PER_USER: int | None = 32
    """How many sessions of one user may be awake at a time."""

    MAX_RUNNING_PER_ADDRESS: int | None = 24
    """How many sessions without an owner, made by visitors from one address, may be awake at a time."""

    QUOTA_ACTION: str = "refuse"
    """The reaction to one session more: ``refuse`` it, or ``evict`` the session of the same user or address
    that has been idle for longest. That session is passivated, even if clients are attached."""

    MAX_SESSIONS_PER_VISITOR: int | None = 1000
    """How many sessions that are not closed one user, or all visitors from one address, may have."""

    MAX_RUNNING_PER_WORKER: int | None = 1000
    """How many sessions one worker may own. Further sessions wait for another worker."""

    TRUSTED_PROXIES: list[str] = []
    """Networks of proxies, as ``10.0.0.0/8``, that are trusted to name a client's address in
    FORWARDED_HEADER. ``unix`` stands for a peer on a Unix socket. Empty: the peer is always the client."""

    FORWARDED_HEADER: str = "x-forwarded-for"
    """The header that these proxies extend: ``x-forwarded-for`` or ``forwarded``. Other headers are not read:
    a proxy passes on a header that it does not know as the client wrote it."""

    # Permissions
    ALLOWED_ORIGINS: list[str] | None = None
    """Origins of pages that may connect, as ``https://example.org``; ``*`` allows any. None: same host."""

    @property
    def ALLOW_ANONYMOUS(self) -> bool:
        """True if clients without a login may start sessions. Default: only with DEBUG."""
        return bool(django_settings.DEBUG)

    ACCESS_POLICY: str = "ohsessions.access.AccessPolicy"
    """The dotted path of the class that decides about permissions on sessions."""

    GITHUB_TOKEN_CHECK: str | None = None
    """
    The dotted path of the class that checks the ``github_token`` of each INIT, for instance
    ``ohsessions.access.github.AllowedLogins``. None: no check.
    """

    GITHUB_LOGINS: list[str] = []
    """The GitHub logins that AllowedLogins accepts. Upper and lower case count as the same."""

    GITHUB_API_URL: str = "https://api.github.com"
    """The address to which AllowedLogins sends a token, to learn its login."""

    TOKEN_MAX_AGE: int = 30 * 24 * 3600
    """How long a session's token is valid after it was issued."""

    ALLOW_TOKEN_IN_QUERY: bool = False
    """True if a token is accepted in the query string, which proxies and servers log."""

    SECRETS_KEYS: list[str] = []
    """Keys for secrets and snapshots at rest: the first encrypts, all decrypt. Empty: SECRET_KEY and
    SECRET_KEY_FALLBACKS."""

    def __getattribute__(self, name: str) -> Any:
        if name.isupper():
            site = getattr(django_settings, "OHSESSIONS", {})
            if name in site:
                return site[name]
        return super().__getattribute__(name)


conf = Settings()
