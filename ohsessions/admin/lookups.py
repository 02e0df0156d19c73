"""Limits on the address of a list: it can use the filters that the list offers, and nothing else.

Django's admin accepts any lookup on a table's own columns. So a user could read a column that no page shows,
letter by letter (`?snapshot__icontains=…`: is the row still listed?), or make the database try a regular
expression for hours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

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
"""Characters of a search: the database looks for each of its words in each row."""
YEARS = range(1, 9999)
"""The years that a date filter accepts. Django adds a month to them in Python, whose last year is 9999."""


def declared(list_filter: Any, date_hierarchy: str | None) -> Iterator[str]:
    """Yield the parameters of a list's filters and of its date hierarchy."""
    for item in list_filter:
        if isinstance(item, type) and issubclass(item, SimpleListFilter):
            yield str(item.parameter_name)
        else:
            field, filter_class = item
            yield from (f"{field}__{lookup}" for lookup in filter_class.declared_lookups)
    if date_hierarchy:
        yield from (f"{date_hierarchy}__{part}" for part in ("year", "month", "day"))


def is_of_a_popup(model: type[Model], lookup: str, value: str) -> bool:
    """Return whether the pop-up window of a site's own field with `limit_choices_to` sends this parameter."""
    limits = [limit() if callable(limit) else limit for limit in model._meta.related_fkey_lookups]
    return any((lookup, value) in url_params_from_lookup_dict(limit).items() for limit in limits)


def is_column(model: type[Model], lookup: str) -> bool:
    """Return whether a parameter begins with the name of a column or relation of a table."""
    name = lookup.partition(LOOKUP_SEP)[0]
    try:
        model._meta.get_field(name)
    except FieldDoesNotExist:
        return name == "pk"
    return True


def is_sound(lookup: str, value: str) -> bool:
    """Return whether a value can be used in a query: others make Django or the database raise."""
    if lookup.endswith("__year"):
        return not value or (value.isascii() and value.isdigit() and int(value[:5]) in YEARS)
    return "\0" not in value


def uuid_or_none(text: str) -> UUID | None:
    """Return the UUID in a text, with or without hyphens; None if there is none."""
    try:
        return UUID(text.strip())
    except ValueError:
        return None


class SearchForm(forms.Form):
    """The search form of a list, with a limit on its length."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields = {SEARCH_VAR: forms.CharField(required=False, strip=False, max_length=MOST_SEARCHED)}


class DeclaredChangeList(ChangeList):
    """A change list that accepts only the filters and the order that it offers."""

    search_form_class = SearchForm

    def get_filters_params(self, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return only the last value of each parameter. SQLite refuses a query with a filter 1,000 times."""
        given: dict[str, Any] = super().get_filters_params(params)
        return {name: values[-1:] for name, values in given.items()}

    def get_filters(self, request: HttpRequest) -> Any:
        """Raise IncorrectLookupParameters for a parameter that is neither a column nor a filter.

        It is a typing mistake, or belongs to something else: Django then shows the whole list. For a column
        that the list does not offer Django raises DisallowedModelAdminLookup, since that is an attack."""
        for name in self.get_filters_params():
            if not (is_column(self.model, name) or self.model_admin.lookup_allowed(name, "", request)):
                raise IncorrectLookupParameters(name)
        return super().get_filters(request)

    def get_ordering_field(self, field_name: Any) -> Any:
        """Return None for a column outside `sortable_by`. Django does not offer it, but would accept it."""
        return super().get_ordering_field(field_name) if field_name in (self.sortable_by or ()) else None

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> Any:
        return list(dict.fromkeys(super().get_ordering(request, queryset)))
