"""The base class of the five tables' admin: read-only, with limits on the cost and the filters of a page."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db import router
from django.db.models import CharField, F, Model, QuerySet, Value
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.functional import cached_property

from ohsessions import access
from ohsessions.admin import display, lookups, patience

MOST_COUNTED = 10_000


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """A paginator of the first MOST_COUNTED rows: a COUNT over millions of rows takes seconds, each time.

    Users who look for other rows need a filter, not page 217.
    """

    @cached_property
    def _counted(self) -> int:
        rows: Any = self.object_list
        # Only the key: else the database computes the list's annotations for all of these rows.
        counted: int = rows.order_by().values("pk")[: MOST_COUNTED + 1].count()
        return counted

    @property
    def count(self) -> int:
        return min(self._counted, MOST_COUNTED)

    @property
    def is_cut(self) -> bool:
        """True if there are more rows than counted."""
        return self._counted > MOST_COUNTED


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """A read-only admin: the code that writes the rows holds locks and rules that a form does not know.

    Nobody may change rows, so all `fieldsets` are read-only, also methods, without `readonly_fields`.
    """

    actions: Any = None
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # counting is unbounded
    paginator = BoundedPaginator
    list_per_page = 100
    list_max_show_all = 200
    hidden: tuple[str, ...] = ()
    """Columns that are not shown. The queries defer them."""

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

    # The filters that a list accepts, and its time limit

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
        # The search of an autocomplete field has no form that limits its length.
        term = search_term.replace("\0", "")[: lookups.MOST_SEARCHED]
        return (self.search(request, queryset, term), False) if term.strip() else (queryset, False)

    def search(self, request: HttpRequest, rows: QuerySet[Any], term: str) -> QuerySet[Any]:
        """Return the rows that a search finds. (`search_fields` only makes Django show the search box.)"""
        raise NotImplementedError

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        title = str(self.opts.verbose_name_plural).capitalize()
        try:
            with patience.limited(router.db_for_read(self.model)):
                response = super().changelist_view(request, {"title": title} | (extra_context or {}))
                # Rendered inside the limit: rendering runs the queries of the filters and the dates.
                return response.render() if isinstance(response, TemplateResponse) else response
        except patience.TooSlow:
            return self._give_up(request, title)

    def _give_up(self, request: HttpRequest, title: str) -> HttpResponse:
        """Return a page that says that the list was too slow. The page itself does not query the tables."""
        limit = f"The database needed more than {patience.LIST_SECONDS:g} s for this list, so it was stopped."
        messages.warning(request, f"{limit} Filter the list, or search for an id or a longer text.")
        return self.page(request, "too_slow", title=title)

    def page(self, request: HttpRequest, template: str, **context: Any) -> HttpResponse:
        """Return a page of ours beside the list and the pages of rows."""
        shown = self.admin_site.each_context(request) | {"opts": self.opts, "media": self.media} | context
        return TemplateResponse(request, f"admin/ohsessions/{template}.html", shown)

    def heading(self, row: Any) -> str:
        """Return the title of a row's page."""
        return str(row)

    def beside(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """Return the context of a row's page beside the fields of the row."""
        # The title is not str(row): for a connection that is its sid, which is as secret as a password.
        return {"title": self.heading(row), "subtitle": None}

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        context |= self.beside(request, context["original"])
        return super().render_change_form(request, context, *args, **kwargs)


def may_see_sessions(request: HttpRequest) -> bool:
    """Return whether the user may view sessions. Other users see the ids of sessions only, and no titles."""
    return any(request.user.has_perm(f"ohsessions.{verb}_session") for verb in ("view", "change"))


class OfSessionAdmin(ReadOnlyAdmin):
    """A read-only admin of rows that belong to a session, which an id in the search finds."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return rows with `session_title`: None if the user may not see it.

        No other column of the session is read: the whole row would include its snapshot.
        """
        hidden = Value(None, output_field=CharField(null=True))
        title = F("session__title") if may_see_sessions(request) else hidden
        titled: QuerySet[Any] = super().get_queryset(request).annotate(session_title=title)
        return titled

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if key := lookups.uuid_or_none(search_term):
            return queryset.filter(session=key), False
        return super().get_search_results(request, queryset, search_term)

    @admin.display(description="session")
    def session_link(self, row: Any) -> str:
        return display.session_link(row.session_id, row.session_title)
