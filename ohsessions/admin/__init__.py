"""Operators' view of the five tables: read-only, except that a session can be passivated.

Nothing here writes: what an operator may do is asked of `ohsessions.lifecycle`. Nothing here shows a secret,
a snapshot's contents or what an action hides.
"""

from . import connections, events, processes, sessions, transitions

__all__ = ["connections", "events", "processes", "sessions", "transitions"]
