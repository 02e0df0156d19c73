"""
System checks of the default database: its vendor, routers and pool. No check connects to it.
E020 a database that is neither SQLite nor PostgreSQL     W020 a pool with few connections to spare
E021 a router that sends a model to another database
E022 a pool with fewer connections than a process has threads
"""

from __future__ import annotations

from collections.abc import Iterator

from django.apps import apps
from django.contrib.auth import get_user_model
from django.core.checks import CheckMessage, Error, Warning
from django.db import DEFAULT_DB_ALIAS, connections, router
from django.db.models import Model

from ohsessions.checks import check
from ohsessions.database import THREADS

VENDORS = frozenset({"sqlite", "postgresql"})
PAGES = 4
"""Connections that a pool needs beside those of a process's threads: for Django's pages and /readyz."""
POOL_DEFAULT = 4
"""Connections of a psycopg pool without a configured size."""
ROUTED_TRIES = 8
"""The number of times that a router is asked: it may choose a replica at random."""


@check()
def check_vendor() -> Iterator[CheckMessage]:
    vendor = connections[DEFAULT_DB_ALIAS].vendor
    if vendor not in VENDORS:
        yield Error(
            f"The default database is of the vendor {vendor!r}, which ohsessions does not work with.",
            hint="SQLite for one process, PostgreSQL 13 or later for more: locks, partial indexes and"
            " statements differ elsewhere.",
            id="ohsessions.E020",
        )


@check()
def check_routers() -> Iterator[CheckMessage]:
    """Check that all models are in one database: reads and writes of a transaction need its locks."""
    models: list[type[Model]] = [*apps.get_app_config("ohsessions").get_models(), get_user_model()]
    for alias, label in sorted({(alias, model._meta.label) for model in models for alias in _aliases(model)}):
        yield Error(
            f"The database router sends {label} to {alias!r}, for reading or for writing.",
            hint=f"ohsessions reads and writes its tables, and joins the users', in {DEFAULT_DB_ALIAS!r}"
            " alone, and never on a replica: have db_for_read and db_for_write return None or 'default' for"
            " ohsessions and for the app of the user model.",
            id="ohsessions.E021",
        )


def _aliases(model: type[Model]) -> set[str]:
    """Return the databases that a model is routed to, except the default one."""
    asked = (router.db_for_read, router.db_for_write)
    return {ask(model) for ask in asked for _ in range(ROUTED_TRIES)} - {DEFAULT_DB_ALIAS}


@check()
def check_pool() -> Iterator[CheckMessage]:
    pool = connections[DEFAULT_DB_ALIAS].settings_dict.get("OPTIONS", {}).get("pool")
    if not pool:
        return
    options = pool if isinstance(pool, dict) else {}
    # As psycopg_pool reads them: without max_size the pool never has more than min_size.
    size = options.get("max_size") or options.get("min_size", POOL_DEFAULT)
    if size >= THREADS + PAGES:
        return
    what = f"The default database's pool has {size} connections at most; a process's threads keep {THREADS}."
    hint = (
        f'OPTIONS = {{"pool": {{"min_size": 1, "max_size": 16}}}}: {THREADS + PAGES} at least, since the'
        " site's pages and /readyz need some too. PostgreSQL's max_connections has to allow that for each"
        " process."
    )
    if size < THREADS:
        yield Error(f"{what} They would wait for each other.", hint=hint, id="ohsessions.E022")
    else:
        yield Warning(f"{what} Few are left for pages.", hint=hint, id="ohsessions.W020")
