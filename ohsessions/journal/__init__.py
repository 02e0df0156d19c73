"""The event log: append, read. The only code that gives events their numbers."""

from ohsessions.journal.appends import Append, Appended, NewEvent
from ohsessions.journal.batch import commit_appends
from ohsessions.journal.reading import Head, has_event, heads, new_actions, read_action, read_page
from ohsessions.journal.rows import new_row
from ohsessions.journal.trimming import trim

__all__ = [
    "Append",
    "Appended",
    "Head",
    "NewEvent",
    "commit_appends",
    "has_event",
    "heads",
    "new_actions",
    "new_row",
    "read_action",
    "read_page",
    "trim",
]
