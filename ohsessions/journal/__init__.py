"""The event log: append, read, trim. No other code assigns numbers to events."""

from ohsessions.journal.appends import Append, Appended, NewEvent
from ohsessions.journal.batch import commit_appends
from ohsessions.journal.reading import Head, has_event, heads, new_actions, read_action, read_page
from ohsessions.journal.rows import new_row
from ohsessions.journal.trimming import Bytes, first_kept, trim, trim_to_size

__all__ = [
    "Append",
    "Appended",
    "Bytes",
    "Head",
    "NewEvent",
    "commit_appends",
    "first_kept",
    "has_event",
    "heads",
    "new_actions",
    "new_row",
    "read_action",
    "read_page",
    "trim",
    "trim_to_size",
]
