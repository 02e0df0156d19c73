"""What the five tables have in common: read-only, bounded in what a page costs, and linked to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.functional import cached_property

if TYPE_CHECKING:  # Django's own is not subscriptable
    ModelAdmin = admin.ModelAdmin[Any]
    RowPaginator = Paginator[Any]
else:
    ModelAdmin = admin.ModelAdmin
    RowPaginator = Paginator

MOST_COUNTED = 10_000


class BoundedPaginator(RowPaginator):
    """Counts up to MOST_COUNTED rows and pages through those: a COUNT over millions takes seconds, each time.

    Whoever looks for more needs a filter, not page 217.
    """

    @cached_property
    def _counted(self) -> int:
        rows: Any = self.object_list
        # Only the key: else it would compute for each counted row what the list shows of a hundred.
        counted: int = rows.order_by().values("pk")[: MOST_COUNTED + 1].count()
        return counted

    @property
    def count(self) -> int:
        return min(self._counted, MOST_COUNTED)

    @property
    def is_cut(self) -> bool:
        """Whether there are more rows than counted."""
        return self._counted > MOST_COUNTED


class ReadOnlyAdmin(ModelAdmin):
    """Rows are looked at, never edited: what writes them holds locks and rules that a form does not know."""

    actions: Any = None
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # counting is unbounded
    paginator = BoundedPaginator
    list_per_page = 100
    list_max_show_all = 200
    hidden: tuple[str, ...] = ()
    """Columns that are neither shown nor, in lists, read."""

    class Media:
        css = {"all": ["ohsessions/admin/admin.css"]}
        js = ["ohsessions/admin/admin.js"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        return rows.defer(*self.hidden)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        title = str(self.opts.verbose_name_plural).capitalize()
        return super().changelist_view(request, {"title": title} | (extra_context or {}))

    def heading(self, row: Any) -> str:
        """What a row's page is called."""
        return str(row)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        # Not the row's own text: a connection's is its sid, which is as good as a password.
        context |= {"title": self.heading(context["original"]), "subtitle": None}
        return super().render_change_form(request, context, *args, **kwargs)
