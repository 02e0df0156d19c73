"""Log lines: a record is one line, whatever it says, so that nobody can write a second one into it."""

import logging


def is_no_probe(record: logging.LogRecord) -> bool:
    """Django logs each answer of 503; those of /readyz come each second, and ohsessions.health tells once."""
    return getattr(getattr(record, "request", None), "path", None) != "/readyz"


class LineFormatter(logging.Formatter):
    """A traceback, too, stays on the line of its record."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\r", "\\r").replace("\n", "\\n")
