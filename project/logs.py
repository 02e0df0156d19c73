"""Log lines: each record is exactly one line, so that nobody can forge a second one in its text."""

import logging


def is_no_probe(record: logging.LogRecord) -> bool:
    """Return False for the requests of /readyz. Django logs each 503 of theirs, which may come each second;
    ohsessions.processes.health logs the failure once."""
    return getattr(getattr(record, "request", None), "path", None) != "/readyz"


class LineFormatter(logging.Formatter):
    """A formatter that writes a record on one line, its traceback included."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\r", "\\r").replace("\n", "\\n")
