"""What the five tables have in common: read-only, and bounded in what a page costs and may be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db import router
from django.db.models import CharField, F, Model, QuerySet, Value
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.functional import cached_property

from ohsessions import access
from ohsessions.admin import lookups, patience

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
        return access.visible(request.user, rows.defer(*self.hidden))

    # What a list can be asked, and for how long

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        if lookups.is_of_a_popup(self.model, lookup, value):
            return True
        list_filter = self.list_filter if request is None else self.get_list_filter(request)
        return lookup in lookups.declared(list_filter, self.date_hierarchy) and lookups.is_sound(
            lookup, value
        )

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[lookups.DeclaredChangeList]:
        return lookups.DeclaredChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        # A site's own field that completes what is typed has no form with a limit.
        term = search_term.replace("\0", "")[: lookups.MOST_SEARCHED]
        return (self.search(request, queryset, term), False) if term.strip() else (queryset, False)

    def search(self, request: HttpRequest, rows: QuerySet[Any], term: str) -> QuerySet[Any]:
        """The rows that a search finds. (`search_fields` says only that there is one.)"""
        raise NotImplementedError

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        title = str(self.opts.verbose_name_plural).capitalize()
        try:
            with patience.limited(router.db_for_read(self.model)):
                response = super().changelist_view(request, {"title": title} | (extra_context or {}))
                # Here, not later: the filters and the dates are read while the page is rendered.
                return response.render() if isinstance(response, TemplateResponse) else response
        except patience.TooSlow:
            return self._give_up(request, title)

    def _give_up(self, request: HttpRequest, title: str) -> HttpResponse:
        """Says so, on a page that asks the database for nothing."""
        told = f"This list took the database longer than {patience.LIMIT:g} s, and was given up."
        messages.warning(request, f"{told} Search for less, or for an id, or filter.")
        context = self.admin_site.each_context(request) | {
            "title": title,
            "opts": self.opts,
            "media": self.media,
        }
        return TemplateResponse(request, "admin/ohsessions/too_slow.html", context)

    def heading(self, row: Any) -> str:
        """What a row's page is called."""
        return str(row)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        # Not the row's own text: a connection's is its sid, which is as good as a password.
        context |= {"title": self.heading(context["original"]), "subtitle": None}
        return super().render_change_form(request, context, *args, **kwargs)


def may_see_sessions(request: HttpRequest) -> bool:
    """Whether a user may look at sessions; who may not sees their ids only, and no title."""
    return any(request.user.has_perm(f"ohsessions.{verb}_session") for verb in ("view", "change"))


def with_titles(rows: QuerySet[Any], request: HttpRequest) -> QuerySet[Any]:
    """Rows with `session_title`, for display.session_link: None where the user may not see it.

    Of the session nothing else is read: each row would bring its snapshot along.
    """
    hidden = Value(None, output_field=CharField(null=True))
    titled: QuerySet[Any] = rows.annotate(
        session_title=F("session__title") if may_see_sessions(request) else hidden
    )
    return titled
