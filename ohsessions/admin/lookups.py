"""What the address of a list may ask for: the filters that the list offers, and nothing else.

Django's admin takes any lookup on a table's own columns. So an address can read a column that no page shows,
letter by letter (`?snapshot__icontains=…`: is the row still listed?), or have the database try a regular
expression for hours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django import forms
from django.contrib.admin import SimpleListFilter
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import SEARCH_VAR, ChangeList
from django.contrib.admin.widgets import url_params_from_lookup_dict
from django.core.exceptions import FieldDoesNotExist
from django.db.models import Model, QuerySet
from django.db.models.constants import LOOKUP_SEP
from django.http import HttpRequest

MOST_SEARCHED = 200
"""Characters of a search: each word of it is looked for in each row."""
YEARS = range(1, 9999)
"""Django adds a month to them, in Python."""


def declared(list_filter: Any, date_hierarchy: str | None) -> Iterator[str]:
    """The parameters of a list's filters, and of its dates."""
    for item in list_filter:
        if isinstance(item, type) and issubclass(item, SimpleListFilter):
            yield str(item.parameter_name)
        else:
            field, filter_class = item
            yield from (f"{field}__{lookup}" for lookup in filter_class.declared_lookups)
    if date_hierarchy:
        yield from (f"{date_hierarchy}__{part}" for part in ("year", "month", "day"))


def is_of_a_popup(model: type[Model], lookup: str, value: str) -> bool:
    """Whether a site's own field with `limit_choices_to` asks for just this, from its pop-up window."""
    limits = [limit() if callable(limit) else limit for limit in model._meta.related_fkey_lookups]
    return any((lookup, value) in url_params_from_lookup_dict(limit).items() for limit in limits)


def is_column(model: type[Model], lookup: str) -> bool:
    """Whether a parameter begins with a column or a relation of a table."""
    name = lookup.partition(LOOKUP_SEP)[0]
    try:
        model._meta.get_field(name)
    except FieldDoesNotExist:
        return name == "pk"
    return True


def is_sound(lookup: str, value: str) -> bool:
    """Whether a value can be asked for at all: others make Django or the database raise."""
    if lookup.endswith("__year"):
        return not value or (value.isascii() and value.isdigit() and int(value[:5]) in YEARS)
    return "\0" not in value


class SearchForm(forms.Form):
    """That of a list, with a limit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields = {SEARCH_VAR: forms.CharField(required=False, strip=False, max_length=MOST_SEARCHED)}


class DeclaredChangeList(ChangeList):
    """A list that is narrowed and ordered by what it offers only."""

    search_form_class = SearchForm

    def get_filters_params(self, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """The last value of each: a thousand times the same filter is a query that SQLite refuses."""
        given: dict[str, Any] = super().get_filters_params(params)
        return {name: values[-1:] for name, values in given.items()}

    def get_filters(self, request: HttpRequest) -> Any:
        """Django refuses what a list may not be asked for: an attack. What is no column is a slip, or a
        parameter of something else: it leads to the whole list."""
        for name in self.get_filters_params():
            if not (is_column(self.model, name) or self.model_admin.lookup_allowed(name, "", request)):
                raise IncorrectLookupParameters(name)
        return super().get_filters(request)

    def get_ordering_field(self, field_name: Any) -> Any:
        """Django offers no column outside `sortable_by`, but takes it from the address."""
        return super().get_ordering_field(field_name) if field_name in (self.sortable_by or ()) else None

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> Any:
        return list(dict.fromkeys(super().get_ordering(request, queryset)))
