"""The admin of five tables. Rows are read-only, but operators can run operations on sessions and processes.

The operations are: passivate and wake a session, revoke its links, and drain a process. This package does not
write to the five tables: it calls `ohsessions.api` and `ohsessions.processes.leases`. It never shows a
secret, the contents of a snapshot or the hidden arguments of an action.
"""

from . import connections, events, processes, sessions, transitions

__all__ = ["connections", "events", "processes", "sessions", "transitions"]
