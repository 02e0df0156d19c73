"""A session's secrets: at rest encrypted in its row, in use known by name to its runtime and to gateways.

`Session.secrets_version` is raised by each change, so who has read them can tell that there are newer ones.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

from django.utils.module_loading import import_string

from ohsessions import access
from ohsessions.conf import conf
from ohsessions.core import wire
from ohsessions.core.errors import WireError
from ohsessions.core.secret_settings import cut_out, take_declared
from ohsessions.models import Session

logger = logging.getLogger(__name__)

MOST_FORMER = 20
"""Secrets that newer ones replaced and that are still cut out: a shell may have them in its variables."""
_FORMER = ""
"""The name, which no secret has, under which those are stored."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A session's secrets by name, and those that newer ones replaced."""

    values: Mapping[str, str] = field(default_factory=dict)
    former: tuple[str, ...] = ()

    def renewed(self, secrets: Mapping[str, str]) -> Kept:
        """Return these with newer ones. Raises WireError 413 if that is too much for a row."""
        values = {**self.values, **secrets}
        replaced = [old for name, old in self.values.items() if values[name] != old]
        former = [old for old in dict.fromkeys((*self.former, *replaced)) if old not in values.values()]
        former = former[-MOST_FORMER:]
        room = conf.MAX_ACTION_BYTES - sum(map(len, values.values()))
        if room < 0:
            raise WireError(
                413,
                "too_large",
                f"The secrets of a session may have at most {conf.MAX_ACTION_BYTES} characters together.",
            )
        while sum(map(len, former)) > room:
            del former[0]
        return Kept(values, tuple(former))

    def texts(self) -> set[str]:
        """Return all that is to be cut out of what the session says."""
        return cut_out([*self.values.values(), *self.former])


def seal(kept: Kept) -> str:
    """Return secrets as they stand in a row: encrypted, or nothing."""
    content = {**kept.values, **({_FORMER: kept.former} if kept.former else {})}
    return access.encrypt(wire.encode(content)) if content else ""


def unseal(text: str) -> Kept:
    """Return the secrets that stand in a row. Raises WireError 500 if no key of SECRETS_KEYS fits."""
    if not text:
        return Kept()
    values = json.loads(access.decrypt(text))
    former = values.pop(_FORMER, ())
    return Kept(values, tuple(former))


def read(session_id: UUID) -> tuple[int, Kept]:
    """Return the version of a session's secrets, and the secrets. Raises as unseal()."""
    row = Session.objects.filter(pk=session_id).values_list("secrets_version", "secrets").first()
    return (row[0], unseal(row[1])) if row is not None else (0, Kept())


def renew(session: Session, secrets: Mapping[str, str]) -> None:
    """Have a locked session keep further secrets, or newer ones; to be saved by the caller.

    Raises as unseal() and Kept.renewed(). Costs a query where the row was read without its secrets.
    """
    if not secrets:
        return
    before = unseal(session.secrets)
    after = before.renewed(secrets)
    if after != before:
        session.secrets = seal(after)
        session.secrets_version += 1


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
