"""
The settings of ohsessions.

A site writes them as one dict, ``OHSESSIONS = {"CLOSE_DELAY": 60, …}``; whatever it leaves out has the
default below. `Settings` is their list, their types and their documentation; `conf` is how code reads them.
Nothing here validates: mistakes are system checks (`ohsessions.checks`).
"""

import tempfile
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from django.conf import settings as django_settings


class RuntimeEntry(TypedDict):
    """One entry of RUNTIMES: which class runs sessions of this alias, and what its instances are given."""

    BACKEND: str
    OPTIONS: NotRequired[dict[str, Any]]


class Settings:
    """
    Every attribute is read from the site's ``OHSESSIONS`` at each access, so that ``override_settings`` works
    and nothing is frozen at import. Times are in seconds, sizes in bytes.
    """

    # What runs
    RUNTIMES: dict[str, RuntimeEntry] = {
        "echo": {"BACKEND": "ohsessions.runtimes.echo.EchoRuntime", "OPTIONS": {}}
    }
    """The runtimes that a client may ask for, by alias."""

    @property
    def DEFAULT_RUNTIME(self) -> str:
        """The alias of the runtime of sessions that ask for none. Default: the first of RUNTIMES."""
        return next(iter(self.RUNTIMES), "")

    @property
    def WORKSPACE_ROOT(self) -> str | Path:
        """
        The directory below which runtimes keep one directory per session. Workers on several hosts need a
        shared one, each site one of its own: a worker removes what belongs to no session. Default:
        ``var/workspaces`` in the site's BASE_DIR, else in the temporary directory.
        """
        base = getattr(django_settings, "BASE_DIR", None)
        if base is None:
            return Path(tempfile.gettempdir()) / "ohsessions" / "workspaces"
        return Path(base) / "var" / "workspaces"

    # How long a session lives
    CLOSE_DELAY: float | None = 15
    """How long after its last connection went a session is passivated. 0: at once. None: never."""

    MAX_BUSY: float = 3600
    """How long an action that runs or waits, or a runtime that says it is busy, can put off a passivation
    that is due. Then the action is cut off, and its sender told."""

    START_TIMEOUT: float = 60
    """How long a runtime may take to be ready, counted from a worker's claim."""

    PASSIVATE_TIMEOUT: float = 30
    """How long a runtime may take to save its state before it is killed; its last checkpoint counts then."""

    # How long rows are kept. None: for ever. A worker deletes them; what is needed still is never deleted.
    EVENT_RETENTION: float | None = None
    """The age beyond which handled events are trimmed. Clients whose cursor lies below start anew."""

    EVENT_RETENTION_BYTES: int | None = None
    """The size of a session's log beyond which its oldest handled events are trimmed."""

    CONNECTION_RETENTION: float | None = 30 * 24 * 3600
    """How long the rows of connections, and of links that were given out, are kept after their end."""

    PROCESS_RETENTION: float | None = 30 * 24 * 3600
    """How long the rows of processes that are gone are kept; longer while a connection's row names them."""

    TRANSITION_RETENTION: float | None = 90 * 24 * 3600
    """The age beyond which transitions are deleted; the newest 20 of each session stay."""

    CLOSED_RETENTION: float | None = 365 * 24 * 3600
    """How long closed sessions can be read before they are deleted with all that is theirs."""

    ANONYMOUS_RETENTION: float | None = 30 * 24 * 3600
    """How long a session without an owner is kept that nobody uses. Its token is not valid for longer."""

    # Processes
    HEARTBEAT: float = 2
    """How often each process renews its lease."""

    LEASE_TTL: float = 10
    """How long a lease holds without renewal. At least 3 × HEARTBEAT; the same in all processes."""

    # Connections
    PATH: str = "socket.io/"
    """Where Socket.IO is served: without a leading slash, with a trailing one."""

    PING_INTERVAL: float = 12
    """How often an Engine.IO PING is sent. Proxies cut silent connections after as little as 16 s."""

    PING_TIMEOUT: float = 20
    """How long a client may take to answer a PING before it counts as gone."""

    SLOW_TIMEOUT: float = 60
    """How long a client may leave unread what was sent before it is disconnected as slow."""

    MAX_ACTION_BYTES: int = 4 * 1024 * 1024
    """The largest action, as JSON. Images come inside messages."""

    # How much a client may ask. None: any. These count in each gateway process for itself.
    MAX_ACTION_VALUES: int = 50_000
    """The values that an action may have as JSON, at every depth: they cost more than their bytes."""

    @property
    def PACKET_RATE(self) -> float | None:
        """
        Packets per second, sustained, of one connection, whatever they are; ten seconds' worth may come at
        once. More closes the connection as flooding. None: any. Default: 200, or 4 × RATE_LIMIT if that is
        more.
        """
        return None if self.RATE_LIMIT is None else max(200, 4 * self.RATE_LIMIT)

    BYTE_RATE: float | None = 4 * 1024 * 1024
    """The same in bytes per second; two of the largest messages may always come at once."""

    RATE_LIMIT: float | None = 50
    """Actions per second, sustained, of one connection; ten seconds' worth may come at once. An action counts
    once more for each 16 KiB that it has. None: any."""

    USER_RATE_LIMIT: float | None = 200
    """The same for all connections of one user together, or of all without a login that share an address."""

    INIT_RATE: float | None = 60
    """INITs per minute of one connection; a minute's worth may come at once. None: any."""

    INIT_RATE_PER_USER: float | None = 600
    """The same for all connections of one user."""

    INIT_RATE_PER_ADDRESS: float | None = 3000
    """The same for all connections without a login that share an address: an office reconnects at once."""

    START_RATE: float | None = 30
    """New sessions per minute of one user, or of all without a login that share an address."""

    MAX_CONNECTIONS_PER_USER: int | None = 200
    """How many connections one user may have."""

    MAX_CONNECTIONS_PER_ADDRESS: int | None = 2000
    """How many connections without a login may come from one address."""

    MAX_UNATTACHED_PER_ADDRESS: int | None = 1000
    """How many of these may be unattached: INIT has not come, or they left their session."""

    MAX_UNATTACHED: int | None = 3000
    """How many unattached connections without a login there may be in all."""

    # How many sessions there may be. None: any number. These are counted in the database, for all gateways.
    MAX_RUNNING_PER_USER: int | None = 32
    """How many sessions of one user may be awake at a time."""

    MAX_RUNNING_PER_ADDRESS: int | None = 24
    """How many sessions without an owner, which visitors from one address made, may be awake at a time."""

    QUOTA_ACTION: str = "refuse"
    """What happens to one more: ``refuse`` it, or ``evict`` the session of the same user or address that has
    been idle for longest: it is passivated, whoever is attached."""

    MAX_SESSIONS_PER_VISITOR: int | None = 1000
    """How many sessions one user, or all visitors from one address, may have that are not closed."""

    MAX_RUNNING_PER_WORKER: int | None = 1000
    """How many sessions one worker claims at most; what is over waits for another one."""

    TRUSTED_PROXIES: list[str] = []
    """Networks of proxies, as ``10.0.0.0/8``, whose FORWARDED_HEADER says where a client is; ``unix`` stands
    for whoever connects over a Unix socket. Empty: nobody is believed, the peer is the client."""

    FORWARDED_HEADER: str = "x-forwarded-for"
    """The header that these proxies extend: ``x-forwarded-for`` or ``forwarded``. No other one is read, since
    a proxy passes on those that it does not know as the client wrote them."""

    # Who may do what
    ALLOWED_ORIGINS: list[str] | None = None
    """Origins of pages that may connect, as ``https://example.org``; ``*`` allows any. None: same host."""

    @property
    def ALLOW_ANONYMOUS(self) -> bool:
        """Whether somebody who is not logged in may start sessions. Default: only with DEBUG."""
        return bool(django_settings.DEBUG)

    ACCESS_POLICY: str = "ohsessions.access.AccessPolicy"
    """The dotted path of the class that decides who may do what with a session."""

    GITHUB_TOKEN_CHECK: str | None = None
    """
    The dotted path of the class that is asked about the ``github_token`` of each INIT, for instance
    ``ohsessions.access.github.AllowedLogins``. None: nobody asks.
    """

    GITHUB_LOGINS: list[str] = []
    """Whom AllowedLogins lets in: GitHub's names of people, in any case."""

    GITHUB_API_URL: str = "https://api.github.com"
    """Where AllowedLogins asks whose a token is. It is sent there."""

    TOKEN_MAX_AGE: int = 30 * 24 * 3600
    """How long a session's token is valid after it was issued."""

    ALLOW_TOKEN_IN_QUERY: bool = False
    """Whether a token is accepted in the query string, where proxies and servers log it."""

    SECRETS_KEYS: list[str] = []
    """Keys for secrets and snapshots at rest: the first encrypts, all decrypt. Empty: that of SECRET_KEY."""

    def __getattribute__(self, name: str) -> Any:
        if name.isupper():
            site = getattr(django_settings, "OHSESSIONS", {})
            if name in site:
                return site[name]
        return super().__getattribute__(name)


conf = Settings()
