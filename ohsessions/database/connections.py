"""Connections that broke, or lead to the wrong server: noticed, given up, told once, replaced."""

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

from ohsessions.core.errors import Unavailable
from ohsessions.core.outages import Outage
from ohsessions.database.causes import NO_ROOM, describe, is_disk_full, storage

logger = logging.getLogger(__name__)
T = TypeVar("T")

LEFT_SERVER = frozenset({"25006", "57P01", "57P02", "57P03"})
"""What a server says that is no longer the one to talk to: it was demoted and only reads, was shut down by an
operator, crashed, or takes nobody yet. Source: Appendix A of PostgreSQL's manual."""

_outage = Outage(logger, "The database", "db")
_servers_left = 0
"""How often a connection turned out to lead to a server of LEFT_SERVER: those of other threads do, too."""


def servers_left() -> int:
    """Grows when connections of all threads are to be given up (see drop_connection)."""
    return _servers_left


def drop_broken_connection() -> bool:
    """A server that restarted, or a firewall, ends idle connections without a word. Says if it had."""
    broken = connection.connection is not None and not connection.is_usable()
    if broken:
        connection.close()
    return broken


def means_lost_connection(error: Exception) -> bool:
    """Whether an error comes from the end of the connection, and says nothing of what was to be written.

    Drivers have many words for that (one whose transaction idled too long has an InternalError); Django has
    closed the connection already if it could not roll back.
    """
    driver_error = connection.Database.Error  # type: ignore[attr-defined]
    # An error of the statement, such as a missing table, says nothing of a connection that was closed then.
    is_of_data = isinstance(error, (DataError, IntegrityError, ProgrammingError))
    if is_of_data or not isinstance(error, (DatabaseError, driver_error)):
        return False
    diagnosis = getattr(error.__cause__ or error, "diag", None)
    if getattr(diagnosis, "sqlstate", None) in LEFT_SERVER:
        _leave_server()
    elif getattr(diagnosis, "severity_nonlocalized", None) in ("FATAL", "PANIC"):
        connection.close()  # the server has ended it, which the driver notices only later
    return connection.connection is None or drop_broken_connection()


def _leave_server() -> None:
    global _servers_left
    _servers_left += 1
    drop_connection()


def drop_connection() -> None:
    """Ends a connection that may work, but to the wrong server. A pool would hand it out again: it passes any
    check."""
    if connection.connection is not None:
        connection.connection.close()
    connection.close()


def guarded(function: Callable[[], T], tries: int = 1) -> T:
    """Runs a unit of work; a connection that broke is given up, so that the next unit gets a new one.

    With `tries`, work that may be repeated is. Raises Unavailable.
    """
    if connection.vendor == "sqlite":
        tries = 1  # it has no connection to lose: somebody held its lock, and we have waited long enough
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
    """Log an outage, or a full disk, once. What else failed (a lock that was not to be had, …) is logged each
    time."""
    if is_disk_full(error):
        storage.failed(f"{describe(error)}. {NO_ROOM}")
    elif lost:
        _outage.failed(f"{describe(error)}. What can wait is tried again.")
    else:
        logger.warning("A transaction failed: %s", describe(error), extra={"verb": "db_failed"})
