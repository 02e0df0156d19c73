"""A session's secrets: stored encrypted in its row, and used by name in its runtime and in gateways.

Each change raises `Session.secrets_version`, so that their readers notice newer ones.
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
"""Replaced secrets that are still cut out of events: a shell may have them in its variables."""
_FORMER = ""
"""The name under which replaced secrets are stored. No secret has it."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A session's secrets by name, and the replaced ones."""

    values: Mapping[str, str] = field(default_factory=dict)
    former: tuple[str, ...] = ()

    def renewed(self, secrets: Mapping[str, str]) -> Kept:
        """Return these secrets with newer ones. Raises WireError 413 if they are too large together."""
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
    """A version of a session's secrets in use: their values by name, and all texts to cut out for them."""

    version: int
    values: Mapping[str, str]
    texts: Set[str]


def seal(kept: Kept) -> str:
    """Return secrets as a row stores them: encrypted, or an empty string if there are none."""
    content = {**kept.values, **({_FORMER: kept.former} if kept.former else {})}
    return access.encrypt(wire.encode(content)) if content else ""


def unseal(text: str) -> Kept:
    """Return the secrets from a row's text. Raises WireError 500 if no key of SECRETS_KEYS fits."""
    if not text:
        return Kept()
    values = json.loads(access.decrypt(text))
    former = values.pop(_FORMER, ())
    return Kept(values, tuple(former))


def read(session_id: UUID) -> Known:
    """Return the secrets that a session has now, none if it does not exist. Raises what unseal() raises."""
    row = Session.objects.filter(pk=session_id).values_list("secrets_version", "secrets").first()
    return unlock(*row) if row is not None else unlock(0, "")


def unlock(version: int, sealed: str, settings: Mapping[str, JSON] | None = None, runtime: str = "") -> Known:
    """Return the secrets from a row's text. Raises what unseal() raises. Takes a second or more for settings
    of megabytes.

    Secrets among the `settings` are cut out, too. Older versions left them there, and so does a gateway that
    cannot import the code of the `runtime` that declares them.
    """
    kept = unseal(sealed)
    strays = take_secrets(settings, declared(runtime))[1] if settings else {}
    texts = cut_out([*kept.values.values(), *kept.former, *strays.values()])
    return Known(version, kept.values, texts)


def renew(session: Session, secrets: Mapping[str, str]) -> None:
    """Add secrets to a locked session, or replace older ones. The caller saves the session.

    Raises what unseal() and Kept.renewed() raise. Makes a query if the row was read without its secrets.
    """
    if not secrets:
        return
    before = unseal(session.secrets)
    after = before.renewed(secrets)
    if after != before:
        session.secrets = seal(after)
        session.secrets_version += 1


def declared(*runtimes: str) -> Collection[str]:
    """Return the names of the settings that these runtimes declare as secrets. `runtimes` are aliases."""
    names: set[str] = set()
    for runtime in runtimes:
        try:
            backend = import_string(conf.RUNTIMES[runtime]["BACKEND"])
            names.update(name.lower() for name in getattr(backend, "secret_settings", ()))
        except Exception as error:
            # Sessions of this runtime do not start, and their worker logs the reason.
            logger.debug("What the runtime %s declares cannot be read: %r", runtime, error)
    return names


def apart(init: wire.Init, *runtimes: str) -> wire.Init:
    """Return an INIT whose settings that one of these runtimes declares as secrets are among its secrets."""
    names = declared(*runtimes) if init.settings else ()
    if not names:
        return init
    settings, secrets = take_declared(init.settings, names)
    return replace(init, settings=settings, secrets=init.secrets | secrets)
