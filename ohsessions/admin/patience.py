"""How long a list may keep the database busy: a search through millions of rows must not stop a site.

PostgreSQL ends a statement by itself; SQLite asks now and then whether it is to go on. (What Python does for
SQLite inside of a row, like regular expressions, is not asked: no list uses any.)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import OperationalError, connections, transaction

LIMIT = 5.0
"""Seconds: of a statement on PostgreSQL, of all statements of the list on SQLite."""
STEPS = 10_000
"""Instructions of SQLite's between two looks at the clock: well under a millisecond."""
QUERY_CANCELED = "57014"


class TooSlow(Exception):
    """The database was stopped."""


@contextmanager
def limited(alias: str) -> Iterator[None]:
    """Raises TooSlow where what is inside takes the database longer than LIMIT; other vendors have none."""
    connection = connections[alias]
    limits = {"postgresql": _limited_postgresql, "sqlite": _limited_sqlite}
    if connection.vendor not in limits:
        yield
        return
    with limits[connection.vendor](connection):
        yield


@contextmanager
def _limited_postgresql(connection: Any) -> Iterator[None]:
    try:
        with transaction.atomic(using=connection.alias):  # for the setting to end with it
            with connection.cursor() as cursor:
                cursor.execute(f"SET LOCAL statement_timeout = {round(LIMIT * 1000)}")
            yield
    except OperationalError as error:
        if getattr(error.__cause__, "sqlstate", None) == QUERY_CANCELED:
            raise TooSlow from error
        raise


@contextmanager
def _limited_sqlite(connection: Any) -> Iterator[None]:
    connection.ensure_connection()
    end = time.monotonic() + LIMIT
    connection.connection.set_progress_handler(lambda: time.monotonic() > end, STEPS)
    try:
        yield
    except OperationalError as error:
        if str(error) == "interrupted":
            raise TooSlow from error
        raise
    finally:
        connection.connection.set_progress_handler(None, 0)
