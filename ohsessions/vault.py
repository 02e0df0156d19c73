"""A session's secrets: at rest encrypted in its row, in use known by name to its runtime and to gateways."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace

from django.utils.module_loading import import_string

from ohsessions.conf import conf
from ohsessions.core import wire
from ohsessions.core.secret_settings import take_declared

logger = logging.getLogger(__name__)


def declared(runtime: str) -> Collection[str]:
    """Return the settings that a runtime, by its alias, declares to be secrets."""
    try:
        backend = import_string(conf.RUNTIMES[runtime]["BACKEND"])
        return {name.lower() for name in getattr(backend, "secret_settings", ())}
    except Exception as error:
        # Its sessions do not start, and their worker says why.
        logger.debug("What the runtime %s declares cannot be read: %r", runtime, error)
        return ()


def apart(init: wire.Init, runtime: str) -> wire.Init:
    """Return an INIT with the settings that this runtime declares among its secrets."""
    names = declared(runtime) if init.settings else ()
    if not names:
        return init
    settings, secrets = take_declared(init.settings, names)
    return replace(init, settings=settings, secrets=init.secrets | secrets)
