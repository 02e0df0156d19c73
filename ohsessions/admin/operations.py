"""Ask, then do: what operators do to rows, each with a page that says before what will happen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.text import slugify

from ohsessions.access import policy
from ohsessions.admin import display
from ohsessions.admin.base import ReadOnlyAdmin
from ohsessions.admin.filters import uuid_or_none
from ohsessions.core.errors import OhSessionsError

REFUSED = "This site's policy does not let you do that."
MOST = 200
"""Rows at a time. Each is a transaction of its own, while the operator waits for the answer."""


class Operation(ABC):
    """One thing that operators do to the rows of a table."""

    verb: ClassVar[str]
    intro: ClassVar[str]
    """What it means, whatever the row."""
    is_disturbing: ClassVar[bool] = True
    """Whether somebody may notice: its button then is red."""
    permission: ClassVar[str] = "operate"
    """Which of the admin's permissions it needs: `has_…_permission()`."""

    @abstractmethod
    def applies_to(self, row: Any) -> bool:
        """Whether it would do anything."""

    @abstractmethod
    def consequence(self, row: Any) -> str:
        """What it does to a row that it applies to."""

    def warnings(self, rows: Sequence[Any]) -> list[str]:
        """What an operator should not overlook; `rows` are those it applies to."""
        return []

    @abstractmethod
    def do(self, key: UUID, by: str) -> str:
        """Does it; gives what happens now, in words. Raises OhSessionsError if it cannot be done."""

    @property
    def name(self) -> str:
        """Its name in addresses, and for the site's policy."""
        return slugify(self.verb)

    def said_of(self, row: Any) -> str:
        return (
            self.consequence(row) if self.applies_to(row) else f"Nothing happens: its state is {row.state}."
        )


class OperatedAdmin(ReadOnlyAdmin):
    """Rows that nobody edits, and that operators do something to."""

    operations: ClassVar[tuple[Operation, ...]] = ()

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Nobody edits the rows, so the right to change them is the right to operate them."""
        return bool(request.user.has_perm(f"{self.opts.app_label}.change_{self.opts.model_name}"))

    def get_urls(self) -> list[URLPattern]:
        views = [
            path(
                f"{operation.name}/",
                self.admin_site.admin_view(partial(self.operate_view, operation=operation)),
                name=f"ohsessions_{self.opts.model_name}_{operation.name}",
            )
            for operation in self.operations
        ]
        return [*views, *super().get_urls()]

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Offers what applies to the row."""
        row = context["original"]
        context["history_url"] = reverse(f"admin:ohsessions_{self.opts.model_name}_history", args=[row.pk])
        context["offers"] = [
            (operation, f"{self.url_of(operation)}?{self.opts.model_name}={row.pk}")
            for operation in self.operations
            if self._has_permission(request, operation) and self._is_for(request, operation, row)
        ]
        return super().render_change_form(request, context, *args, **kwargs)

    def _has_permission(self, request: HttpRequest, operation: Operation) -> bool:
        return bool(getattr(self, f"has_{operation.permission}_permission")(request))

    def _is_for(self, request: HttpRequest, operation: Operation, row: Any) -> bool:
        """Whether it would do anything to this row, and the site's policy lets this user do it."""
        return operation.applies_to(row) and policy().may_operate(request.user, operation.name, row)

    def url_of(self, operation: Operation) -> str:
        return reverse(f"admin:ohsessions_{self.opts.model_name}_{operation.name}")

    def operate_view(self, request: HttpRequest, operation: Operation) -> HttpResponse:
        """Asks at a GET, does it at a POST. Both name the rows by the model's name, as often as needed."""
        if not self._has_permission(request, operation):
            raise PermissionDenied
        values = request.POST if request.method == "POST" else request.GET
        named = values.getlist(str(self.opts.model_name))
        keys = [key for key in map(uuid_or_none, named) if key]
        return (self._do if request.method == "POST" else self._ask)(request, operation, keys)

    def ask_about(self, request: HttpRequest, operation: Operation, rows: QuerySet[Any]) -> HttpResponse:
        """The same page for what was selected in the list."""
        return self._ask(request, operation, list(rows.values_list("pk", flat=True)[: MOST + 1]))

    def _ask(self, request: HttpRequest, operation: Operation, keys: Sequence[UUID]) -> HttpResponse:
        """The page on which the operator confirms."""
        rows: list[Model] = list(self.get_queryset(request).filter(pk__in=keys[:MOST]))
        if not rows or len(keys) > MOST:
            many = f"Select at most {MOST} {self.opts.verbose_name_plural} at a time."
            messages.error(request, many if rows else f"There is no such {self.opts.verbose_name}.")
            return HttpResponseRedirect(display.list_of(self.model))
        concerned = [row for row in rows if self._is_for(request, operation, row)]
        plural = f"{len(concerned)} {self.opts.verbose_name_plural} " if len(concerned) > 1 else ""
        context = self.admin_site.each_context(request) | {
            "title": f"{operation.verb} now?",
            "opts": self.opts,
            "media": self.media,
            "operation": operation,
            "action": self.url_of(operation),
            "lines": [(row, self.heading(row), self._said_of(request, operation, row)) for row in rows],
            "warnings": operation.warnings(concerned),
            "button": f"{operation.verb} {plural}now" if concerned else "",
            "back": self._after(keys),
        }
        return TemplateResponse(request, "admin/ohsessions/confirmation.html", context)

    def _said_of(self, request: HttpRequest, operation: Operation, row: Any) -> str:
        refused = operation.applies_to(row) and not self._is_for(request, operation, row)
        return REFUSED if refused else operation.said_of(row)

    def _do(self, request: HttpRequest, operation: Operation, keys: Sequence[UUID]) -> HttpResponse:
        """Does it to each row in turn, and tells the operator what came of it: each outcome once."""
        by = f"operator {request.user.get_username()}"
        outcomes: Counter[tuple[int, str]] = Counter()
        rows = self.get_queryset(request).in_bulk(keys[:MOST])
        for key in keys[:MOST]:
            row = rows.get(key)
            if row is None:
                outcomes[messages.ERROR, f"There is no such {self.opts.verbose_name}."] += 1
                continue
            if not policy().may_operate(request.user, operation.name, row):
                outcomes[messages.ERROR, REFUSED] += 1
                continue
            try:
                outcome = operation.do(key, by)
            except OhSessionsError as error:
                outcomes[messages.ERROR, str(error)] += 1
            else:
                outcomes[messages.SUCCESS, outcome] += 1
                self.log_change(request, row, f"{operation.verb} now: {outcome}")
        for (level, outcome), count in outcomes.items():
            text = f"{count} {self.opts.verbose_name_plural}: {outcome}" if count > 1 else outcome
            messages.add_message(request, level, text)
        return HttpResponseRedirect(self._after(keys))

    def _after(self, keys: Sequence[UUID]) -> str:
        """Where to go then: to the row, or to the list if there were several."""
        if len(keys) == 1:
            return reverse(f"admin:ohsessions_{self.opts.model_name}_change", args=[keys[0]])
        return display.list_of(self.model)
