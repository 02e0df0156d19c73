"""Operations on the rows of a table. A page first explains the consequences and asks for confirmation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, ClassVar
from uuid import UUID

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.text import slugify

from ohsessions.access import policy
from ohsessions.admin import display
from ohsessions.admin.base import ReadOnlyAdmin
from ohsessions.admin.lookups import uuid_or_none
from ohsessions.core.errors import OhSessionsError

REFUSED = "This site's policy does not let you do that."
MOST = 200
"""The most rows at a time. Each row takes a transaction, and the operator waits for all of them."""


class Operation(ABC):
    """One operation that operators can run on the rows of a table."""

    verb: ClassVar[str]
    intro: ClassVar[str]
    """Explains the operation, for any row."""
    is_disturbing: ClassVar[bool] = True
    """True if users may notice the operation: its button is red then."""
    permission: ClassVar[str] = "operate"
    """The permission that it needs: the admin's method `has_…_permission()`."""

    states: ClassVar[Collection[str]]
    """The states of the rows for which the operation would change anything."""

    def applies_to(self, row: Any) -> bool:
        return row.state in self.states

    @abstractmethod
    def consequence(self, row: Any) -> str:
        """Return what the operation does to a row that it applies to, as sentences."""

    def warnings(self, rows: Sequence[Any]) -> list[str]:
        """Return warnings for the operator; `rows` are the rows that the operation applies to."""
        return []

    @abstractmethod
    def do(self, key: UUID, by: str) -> str:
        """Run the operation and return its outcome in words. Raises OhSessionsError if it is impossible."""

    @property
    def name(self) -> str:
        """The name in addresses, and for the site's policy."""
        return slugify(self.verb)


def action_of(operation: Operation) -> Callable[..., HttpResponse]:
    """Return the action of a list that asks about an operation on the selected rows."""

    @admin.action(description=f"{operation.verb} now …", permissions=[operation.permission])
    def ask(model_admin: OperatedAdmin, request: HttpRequest, rows: QuerySet[Any]) -> HttpResponse:
        return model_admin._ask(request, operation, list(rows.values_list("pk", flat=True)[: MOST + 1]))

    ask.__name__ = f"{operation.name}_now".replace("-", "_")
    return ask


class OperatedAdmin(ReadOnlyAdmin):
    """A read-only admin with operations."""

    operations: ClassVar[tuple[Operation, ...]] = ()

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Return whether the user has Django's change permission. Nobody edits the rows in another way."""
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

    def beside(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """Add the operations that apply to the row, and that the user may run."""
        history = reverse(f"admin:ohsessions_{self.opts.model_name}_history", args=[row.pk])
        offers = [
            (operation, f"{self.url_of(operation)}?{self.opts.model_name}={row.pk}")
            for operation in self.operations
            if self._has_permission(request, operation) and self._is_for(request, operation, row)
        ]
        return super().beside(request, row) | {"history_url": history, "offers": offers}

    def _has_permission(self, request: HttpRequest, operation: Operation) -> bool:
        return bool(getattr(self, f"has_{operation.permission}_permission")(request))

    def _is_for(self, request: HttpRequest, operation: Operation, row: Any) -> bool:
        """Return whether the operation applies to this row and the site's policy allows it to this user."""
        return operation.applies_to(row) and policy().may_operate(request.user, operation.name, row)

    def url_of(self, operation: Operation) -> str:
        return reverse(f"admin:ohsessions_{self.opts.model_name}_{operation.name}")

    def operate_view(self, request: HttpRequest, operation: Operation) -> HttpResponse:
        """Show the page to confirm on GET, run the operation on POST.

        The parameter with the model's name has the id of a row. It may be repeated.
        """
        if not self._has_permission(request, operation):
            raise PermissionDenied
        values = request.POST if request.method == "POST" else request.GET
        named = values.getlist(str(self.opts.model_name))
        keys = [key for key in map(uuid_or_none, named) if key]
        return (self._do if request.method == "POST" else self._ask)(request, operation, keys)

    def _ask(self, request: HttpRequest, operation: Operation, keys: Sequence[UUID]) -> HttpResponse:
        """Return the page on which the operator confirms the operation."""
        rows: list[Model] = list(self.get_queryset(request).filter(pk__in=keys[:MOST]))
        if not rows or len(keys) > MOST:
            many = f"Select at most {MOST} {self.opts.verbose_name_plural} at a time."
            messages.error(request, many if rows else f"There is no such {self.opts.verbose_name}.")
            return HttpResponseRedirect(display.list_of(self.model))
        concerned = [row for row in rows if self._is_for(request, operation, row)]
        plural = f"{len(concerned)} {self.opts.verbose_name_plural} " if len(concerned) > 1 else ""
        return self.page(
            request,
            "confirmation",
            title=f"{operation.verb} now?",
            operation=operation,
            action=self.url_of(operation),
            lines=[(row, self.heading(row), self._said_of(request, operation, row)) for row in rows],
            warnings=operation.warnings(concerned),
            button=f"{operation.verb} {plural}now" if concerned else "",
            back=self._after(keys),
        )

    def _said_of(self, request: HttpRequest, operation: Operation, row: Any) -> str:
        if not operation.applies_to(row):
            return f"Nothing happens: its state is {row.state}."
        return operation.consequence(row) if self._is_for(request, operation, row) else REFUSED

    def _do(self, request: HttpRequest, operation: Operation, keys: Sequence[UUID]) -> HttpResponse:
        """Run the operation on each row in turn, and show the operator each outcome once, with its count."""
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
        """Return the address to go to afterwards: the page of a single row, or the list."""
        if len(keys) == 1:
            return reverse(f"admin:ohsessions_{self.opts.model_name}_change", args=[keys[0]])
        return display.list_of(self.model)
