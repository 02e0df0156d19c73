"""How the event loop reaches the database: through threads of this process that live as long as it does.

asgiref's `sync_to_async` sends all calls of a process through one thread, where one slow query delays every
other (measured: 1 s of one is 1 s of all), so nothing here uses it. Each thread keeps a connection of its
own. On SQLite every write goes through one of them, the writer (a second one would only wait for the lock);
PostgreSQL gets a few for life-cycle transactions, which may wait for row locks. The writer never does, and of
the others only some, for a short time each: a row that somebody holds must not keep the rest waiting.

Writes of one kind are gathered: what has come in while the last transaction ran makes up the next one (group
commit: 10 to 20 times the throughput of one transaction each, measured; nothing waits when the writer idles).
"""

from __future__ import annotations

from ohsessions.database.causes import NO_ROOM, describe, is_disk_full, storage
from ohsessions.database.clock import as_aware, as_stored, database_clock, database_now
from ohsessions.database.connections import means_lost_connection
from ohsessions.database.lanes import LATER, Later
from ohsessions.database.rowlocks import lock_name, lock_rows, lock_wait
from ohsessions.database.threads import THREADS, Database

__all__ = [
    "LATER",
    "NO_ROOM",
    "THREADS",
    "Database",
    "Later",
    "as_aware",
    "as_stored",
    "database_clock",
    "database_now",
    "describe",
    "is_disk_full",
    "lock_name",
    "lock_rows",
    "lock_wait",
    "means_lost_connection",
    "storage",
]
