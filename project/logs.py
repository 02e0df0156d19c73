"""Log lines: a record is one line, whatever it says, so that nobody can write a second one into it."""

import logging


class LineFormatter(logging.Formatter):
    """A traceback, too, stays on the line of its record."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\r", "\\r").replace("\n", "\\n")
