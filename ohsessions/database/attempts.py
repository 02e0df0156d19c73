"""Detect connections that broke, or that lead to the wrong server; close them, and log that once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    connection,
    connections,
)

from ohsessions.concurrency.outages import Outage
from ohsessions.core.errors import Unavailable
from ohsessions.database.causes import NO_ROOM, describe, is_disk_full, storage

logger = logging.getLogger(__name__)
T = TypeVar("T")

LEFT_SERVER = frozenset({"25006", "57P01", "57P02", "57P03"})
"""The codes of a server that must be left: it was demoted and is read-only, was shut down by an operator,
crashed, or accepts no connections yet. Source: Appendix A of PostgreSQL's manual."""

_outage = Outage(logger, "The database", "db")
_servers_left = 0
"""The number of connections that led to a server of LEFT_SERVER. If it grows, all threads reconnect."""


def servers_left() -> int:
    """Return a counter. When it grows, all threads must drop their connections (see drop_connection)."""
    return _servers_left


def drop_broken_connection() -> bool:
    """Close the connection if it is broken; return whether it was.

    A server that restarted, or a firewall, ends idle connections without notice.
    """
    broken = connection.connection is not None and not connection.is_usable()
    if broken:
        connection.close()
    return broken


def means_lost_connection(error: Exception) -> bool:
    """Return whether an error means that the connection has ended, and nothing about the data.

    Drivers raise many classes for that (InternalError for a transaction that idled too long). Django has
    closed the connection already if it could not roll back.
    """
    driver_error = connection.Database.Error  # type: ignore[attr-defined]
    # A statement that failed (a missing table, …) is no lost connection, even if it closed the connection.
    is_of_data = isinstance(error, (DataError, IntegrityError, ProgrammingError))
    if is_of_data or not isinstance(error, (DatabaseError, driver_error)):
        return False
    diagnosis = getattr(error.__cause__ or error, "diag", None)
    if getattr(diagnosis, "sqlstate", None) in LEFT_SERVER:
        _leave_server()
    elif getattr(diagnosis, "severity_nonlocalized", None) in ("FATAL", "PANIC"):
        connection.close()  # the server has ended it; the driver notices that only later
    return connection.connection is None or drop_broken_connection()


def _leave_server() -> None:
    global _servers_left
    _servers_left += 1
    drop_connection()


def drop_connection() -> None:
    """Close a connection that may work, but leads to the wrong server.

    The driver's connection is closed, too: a pool would hand it out again, since it passes any check.
    """
    if connection.connection is not None:
        connection.connection.close()
    connection.close()


def guarded(function: Callable[[], T], tries: int = 1) -> T:
    """Run a unit of work. Close a connection that broke, so that the next unit gets a new one.

    Work that may be repeated is run up to `tries` times. Raises Unavailable.
    """
    if connection.vendor == "sqlite":
        tries = 1  # SQLite loses no connection: another process held its lock, and this one waited already
    while True:
        tries -= 1
        try:
            result = function()
            _outage.worked()
            return result
        except (OperationalError, InterfaceError) as error:
            lost = means_lost_connection(error)
            connections.close_all()
            if tries == 0 or is_disk_full(error):
                tell(error, lost)
                raise Unavailable from error
        except Exception as error:
            if not means_lost_connection(error):
                raise
            if tries == 0:
                tell(error, True)
                raise Unavailable from error


def tell(error: Exception, lost: bool) -> None:
    """Log an outage or a full disk once. Log any other failure (a lock that was not free in time, …) each
    time."""
    if is_disk_full(error):
        storage.failed(f"{describe(error)}. {NO_ROOM}")
    elif lost:
        _outage.failed(f"{describe(error)}. Clients get error 503; other work is tried again.")
    else:
        logger.warning("A transaction failed: %s", describe(error), extra={"verb": "db_failed"})
