"""Template filters that show values as the admin's lists do; see `ohsessions.admin.display`."""

from __future__ import annotations

from django import template

from ohsessions.admin import display
from ohsessions.admin.events import gist

register = template.Library()
register.filter("actor", display.actor)
register.filter("badge", display.badge)
register.filter("gist", gist)
register.filter("process_link", display.process_link)
register.filter("short", display.short)
register.filter("when", display.when)
