"""The event loop's access to the database: threads that live as long as the process.

asgiref's `sync_to_async` runs all calls of a process in one thread, where one slow query delays all others
(measured: 1 s of one is 1 s of all), so this package does not use it. Each thread keeps its own connection.
On SQLite one thread, the writer, does all writes (a second one would only wait for the lock). On PostgreSQL a
few more threads run life-cycle transactions, which may wait for row locks. Only some of these threads wait,
for a short time each: a locked row must not delay the rest. The writer's batches skip locked rows; its
heartbeats wait for a locked row as long as `lock_timeout` allows.

Writes of one kind are gathered: values that arrive during a transaction are stored by the next one (group
commit: 10 to 20 times the throughput of one transaction each, measured). An idle writer writes at once.
"""

from __future__ import annotations

from ohsessions.database.attempts import means_lost_connection
from ohsessions.database.causes import NO_ROOM, describe, storage
from ohsessions.database.database import THREADS, Database
from ohsessions.database.lanes import LATER, Later
from ohsessions.database.now import as_aware, as_stored, database_clock, database_now
from ohsessions.database.rowlocks import lock_name, lock_rows, lock_wait

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
    "lock_name",
    "lock_rows",
    "lock_wait",
    "means_lost_connection",
    "storage",
]
