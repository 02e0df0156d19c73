"""A time limit for the queries of a list: a search through millions of rows must not stop a site.

PostgreSQL cancels a statement by itself. SQLite regularly calls a function that can stop it. (SQLite does not
call it while Python code works for it, as for a regular expression. No list uses one.)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import OperationalError, connections, transaction

LIST_SECONDS = 5.0
"""Seconds for each statement on PostgreSQL, for all statements of the list together on SQLite."""
STEPS = 10_000
"""SQLite's instructions between two looks at the clock. They take well under a millisecond."""
QUERY_CANCELED = "57014"


class TooSlow(Exception):
    """A query took too long and was stopped."""


@contextmanager
def limited(alias: str) -> Iterator[None]:
    """Raise TooSlow if the queries inside take longer than LIST_SECONDS."""
    connection = connections[alias]
    limit = _limited_sqlite if connection.vendor == "sqlite" else _limited_postgresql
    try:
        with limit(connection):
            yield
    except OperationalError as error:
        if str(error) == "interrupted" or getattr(error.__cause__, "sqlstate", None) == QUERY_CANCELED:
            raise TooSlow from error
        raise


@contextmanager
def _limited_postgresql(connection: Any) -> Iterator[None]:
    with transaction.atomic(using=connection.alias):  # SET LOCAL lasts until its end
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {round(LIST_SECONDS * 1000)}")
        yield


@contextmanager
def _limited_sqlite(connection: Any) -> Iterator[None]:
    connection.ensure_connection()
    end = time.monotonic() + LIST_SECONDS
    connection.connection.set_progress_handler(lambda: time.monotonic() > end, STEPS)
    try:
        yield
    finally:
        connection.connection.set_progress_handler(None, 0)
