"""Functions that format times, states and links for the admin, as text or as small pieces of safe HTML."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin
from django.db.models import Model
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from ohsessions.database import as_aware
from ohsessions.models import Process, Session

NOTHING = "–"
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def relative(moment: datetime, now: datetime) -> str:
    """Return `3 min ago`, `in 12 s` or `now`: the largest unit only, rounded down, to be read at a glance."""
    seconds = int((moment - now).total_seconds())
    if seconds == 0:
        return "now"
    size, unit = next(((size, unit) for size, unit in _UNITS if abs(seconds) >= size), (1, "s"))
    text = f"{abs(seconds) // size} {unit}"
    return f"in {text}" if seconds > 0 else f"{text} ago"


def when(moment: datetime | None) -> str:
    """Return a moment as relative text, with the absolute time as its title."""
    if moment is None:
        return NOTHING
    return timed(moment, relative(moment, timezone.now()))


def timed(moment: datetime, text: str, style: str = "oh-time") -> SafeString:
    """Return any text about a moment, with the absolute time as its title."""
    exact = timezone.localtime(as_aware(moment))
    return format_html(
        '<time class="{}" datetime="{}" title="{}">{}</time>',
        style,
        exact.isoformat(),
        f"{exact:%Y-%m-%d %H:%M:%S.%f} {exact.tzname()}",
        text,
    )


def time_column(column: str, description: str, ordering: str | None = None) -> Callable[[Any, Model], str]:
    """Return a column of a list that shows a time of its rows as when() does."""

    @admin.display(description=description, ordering=ordering)
    def show(model_admin: Any, row: Model) -> str:
        return when(getattr(row, column))

    return show


def badge(word: str) -> SafeString:
    """Return a state as HTML that the style sheet colours."""
    return format_html('<span class="oh-badge oh-badge-{}">{}</span>', word, word)


def warning(text: str, title: str = "") -> SafeString:
    """Return a text as HTML that an operator should not overlook."""
    return format_html('<span class="oh-warning" title="{}">{}</span>', title, text)


def quiet(text: str) -> SafeString:
    return format_html('<span class="oh-quiet">{}</span>', text)


def short(identifier: UUID | str) -> str:
    """Return the first part of an id: enough to recognize it, and not enough to use it."""
    return str(identifier)[:8]


def identifier(key: UUID) -> SafeString:
    """Return the first part of an id, with the whole id as its title."""
    return format_html('<code title="{}">{}</code>', key, short(key))


def link(row: Model, text: str) -> str:
    """Return a link to a row's page."""
    page = reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])
    return anchor(page, text)


def session_link(key: UUID | None, title: str | None) -> str:
    """Return a link to a session's page. Returns only its id if `title` is None: the user may not see it."""
    if key is None:
        return NOTHING
    if title is None:
        return identifier(key)
    return link(Session(pk=key), Truncator(title).chars(40) or short(key))


def process_link(process: Process | None) -> str:
    """Return a link to a process, and its id: containers may share host and pid."""
    if process is None:
        return NOTHING
    return format_html("{} {}", link(process, process.address), identifier(process.pk))


def actor(by: str) -> str:
    """Return a transition's `by` as HTML: a process as a link to its page, any other text unchanged."""
    kind, _, name = by.partition(" ")
    try:
        page = reverse("admin:ohsessions_process_change", args=[UUID(name)])
    except ValueError:
        return by or NOTHING
    return format_html('{} <a href="{}" title="{}">{}</a>', kind, page, name, short(name))


def anchor(url: str, text: str) -> SafeString:
    return format_html('<a href="{}">{}</a>', url, text)


def list_of(model: type[Model], **filters: Any) -> str:
    """Return the address of a table's list with these filters."""
    url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    return f"{url}?{urlencode(filters)}" if filters else url


def count_link(count: int, model: type[Model], **filters: Any) -> str:
    """Return a number as a link to the rows that it counts."""
    return anchor(list_of(model, **filters), f"{count:,}") if count else "0"


def plural(count: int, one: str, many: str) -> str:
    """Return a count with its noun: «1 session», «2 sessions»."""
    return f"{count} {one if count == 1 else many}"
