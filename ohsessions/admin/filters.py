"""The filters of the admin's lists."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import Exists, F, Model, OuterRef, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from ohsessions.access import Role
from ohsessions.admin.base import may_see_sessions
from ohsessions.admin.lookups import uuid_or_none
from ohsessions.conf import conf
from ohsessions.core.states import AWAKE, State
from ohsessions.models import Connection, Process, Session

Rows = QuerySet[Any]


def _where(column: str, value: str, rows: Rows) -> Rows:
    return rows.filter(**{column: value})


class Filter(admin.SimpleListFilter):
    """Django's filter, with our template."""

    template = "admin/ohsessions/filter.html"


class ChoiceFilter(Filter):
    """A filter with fixed choices. Each has a word for the address, a label and a function to filter rows."""

    options: dict[str, tuple[str, Callable[[Rows], Rows]]]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(word, label) for word, (label, _) in self.options.items()]

    def queryset(self, request: HttpRequest, queryset: Rows) -> Rows:
        option = self.options.get(self.value() or "")
        return option[1](queryset) if option else queryset


class RelatedFilter(Filter):
    """A filter for the rows that belong to one row of another table.

    It is shown only if the address already has its parameter. A list of all rows to choose from would need a
    query over a whole table.
    """

    model: type[Model]
    named_by: tuple[str, ...] = ()
    """The columns that label() and the row's str() need."""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        value = self.value()
        if value is None:
            return []
        row = self.model._default_manager.filter(pk=self.key()).only(*self.named_by).first()
        return [(value, self.label(row, request) if row else "unknown")]

    def label(self, row: Any, request: HttpRequest) -> str:
        return str(row)

    def key(self) -> UUID | None:
        """Return the id in the address. Returns None if it is not a UUID; the list is empty then."""
        return uuid_or_none(self.value() or "")

    def queryset(self, request: HttpRequest, queryset: Rows) -> Rows:
        if self.value() is None:
            return queryset
        key = self.key()
        return queryset.filter(**{str(self.parameter_name): key}) if key else queryset.none()


class SessionFilter(RelatedFilter):
    title = parameter_name = "session"
    model = Session
    named_by = ("id", "title")

    def label(self, row: Session, request: HttpRequest) -> str:
        return (row.title if may_see_sessions(request) else "") or str(row.pk)


class GatewayFilter(RelatedFilter):
    title = parameter_name = "gateway"
    model = Process
    named_by = ("kind", "host", "pid")


class WorkerFilter(RelatedFilter):
    """A filter by worker. It lists the workers that own a session now: past workers are too many."""

    title = parameter_name = "worker"
    NONE = "none"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        owners = Process.objects.filter(pk__in=Session.objects.exclude(worker=None).values("worker"))
        if asked := self.key():  # the worker in a link may own no session any more
            owners |= Process.objects.filter(pk=asked)
        return [(self.NONE, "None"), *((str(row.pk), str(row)) for row in owners[:50])]

    def queryset(self, request: HttpRequest, queryset: Rows) -> Rows:
        if self.value() == self.NONE:
            return queryset.filter(worker=None)
        return super().queryset(request, queryset)


def attached_to_it() -> Exists:
    return Exists(Connection.objects.attached().filter(session=OuterRef("pk")))


class ConnectedFilter(ChoiceFilter):
    title = "connections"
    parameter_name = "connected"
    options = {
        "yes": ("Attached", lambda rows: rows.filter(attached_to_it())),
        "no": ("None", lambda rows: rows.exclude(attached_to_it())),
    }


class DueFilter(ChoiceFilter):
    title = "passivation"
    parameter_name = "due"
    options = {
        "now": ("Due now", lambda rows: rows.filter(passivate_at__lte=timezone.now())),
        "later": ("Due later", lambda rows: rows.filter(passivate_at__gt=timezone.now())),
        "no": ("Not due", lambda rows: rows.filter(passivate_at=None)),
    }


class TroubleFilter(ChoiceFilter):
    """A filter for the sessions that operators look for first."""

    title = "trouble"
    parameter_name = "trouble"
    options = {
        "unowned": ("Awake without worker", lambda rows: rows.filter(state__in=AWAKE, worker=None)),
        "pending": ("Pending actions", lambda rows: rows.filter(last_action_number__gt=F("handled_number"))),
        "crashes": ("Crashed", lambda rows: rows.filter(crashes__gt=0)),
    }


class ConnectionFilter(ChoiceFilter):
    title = parameter_name = "status"
    options = {
        "attached": ("Attached", lambda rows: rows.filter(ended_at=None, session__isnull=False)),
        "unattached": ("Not attached", lambda rows: rows.filter(ended_at=None, session=None)),
        "ended": ("Ended", lambda rows: rows.filter(ended_at__isnull=False)),
    }


class RoleFilter(ChoiceFilter):
    title = parameter_name = "role"
    options = {role.value: (role.value.capitalize(), partial(_where, "role", role.value)) for role in Role}


class TargetFilter(ChoiceFilter):
    title = "new state"
    parameter_name = "to"
    options = {state.value: (state.value, partial(_where, "target", state.value)) for state in State}


class SourceFilter(ChoiceFilter):
    title = parameter_name = "source"
    options = {
        word: (word.capitalize(), partial(_where, "source", word))
        for word in ("user", "agent", "environment")
    }


class FieldFilter(admin.ChoicesFieldListFilter):
    """Django's filter of a column with choices, with the template of the other filters."""

    template = "admin/ohsessions/filter.html"
    declared_lookups = ("exact",)
    """The lookups of this filter that an address may have; see admin.lookups."""


class RuntimeFilter(Filter):
    """A filter by the aliases in RUNTIMES. Those of all sessions would need a query over the whole table."""

    title = parameter_name = "runtime"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        value = self.value()
        asked = [value] if value else []  # its alias may have been removed from RUNTIMES
        return [(alias, alias) for alias in dict.fromkeys([*conf.RUNTIMES, *asked])]

    def queryset(self, request: HttpRequest, queryset: Rows) -> Rows:
        return queryset.filter(runtime=self.value()) if self.value() is not None else queryset
