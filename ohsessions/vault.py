"""A session's secrets: at rest encrypted in its row, in use known by name to its runtime and to gateways.

`Session.secrets_version` is raised by each change, so who has read them can tell that there are newer ones.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field, replace
from uuid import UUID

from django.utils.module_loading import import_string

from ohsessions import access
from ohsessions.conf import conf
from ohsessions.core import wire
from ohsessions.core.errors import WireError
from ohsessions.core.runtime import JSON
from ohsessions.core.secret_settings import cut_out, take_declared, take_secrets
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


@dataclass(frozen=True, slots=True)
class Known:
    """A version of a session's secrets in use: by name, and all texts that are to be cut out for them."""

    version: int
    values: Mapping[str, str]
    texts: Set[str]


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


def read(session_id: UUID) -> Known:
    """Return the secrets that a session has now. Raises as unseal()."""
    row = Session.objects.filter(pk=session_id).values_list("secrets_version", "secrets").first()
    return unlock(*row) if row is not None else unlock(0, "")


def unlock(version: int, sealed: str, settings: Mapping[str, JSON] | None = None, runtime: str = "") -> Known:
    """Return secrets as they stand in a row. Raises as unseal(). Settings of megabytes take a second or more.

    Those among the `settings` are cut out too: older versions left them there, and so do gateways that cannot
    import the code of the `runtime`, which declares them.
    """
    kept = unseal(sealed)
    strays = take_secrets(settings, declared(runtime))[1] if settings else {}
    texts = cut_out([*kept.values.values(), *kept.former, *strays.values()])
    return Known(version, kept.values, texts)


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


def declared(*runtimes: str) -> Collection[str]:
    """Return the settings that runtimes, by their aliases, declare to be secrets."""
    names: set[str] = set()
    for runtime in runtimes:
        try:
            backend = import_string(conf.RUNTIMES[runtime]["BACKEND"])
            names.update(name.lower() for name in getattr(backend, "secret_settings", ()))
        except Exception as error:
            # Its sessions do not start, and their worker says why.
            logger.debug("What the runtime %s declares cannot be read: %r", runtime, error)
    return names


def apart(init: wire.Init, *runtimes: str) -> wire.Init:
    """Return an INIT with the settings that one of these runtimes declares among its secrets."""
    names = declared(*runtimes) if init.settings else ()
    if not names:
        return init
    settings, secrets = take_declared(init.settings, names)
    return replace(init, settings=settings, secrets=init.secrets | secrets)
