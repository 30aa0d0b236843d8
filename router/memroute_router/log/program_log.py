"""The program's own events, beside the lines of requests: text or JSON, one line each."""

import logging
from typing import Final

from memroute_router.log.log_lines import LogFormat, json_line, json_stamp, printable

# Of an exception, in a line of JSON. Unit: characters. Source: chosen by hand; a deep traceback of
# this program has 10,000.
MAX_TRACEBACK_CHARACTERS: Final = 32_768


class TextFormatter(logging.Formatter):
    """The program's own events as text: one line each; a traceback is indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the lines of its traceback."""
        head = printable(
            f"{self.formatTime(record)} {record.levelname} {record.name} {record.getMessage()}"
        )
        traceback = _traceback(self, record)
        if not traceback:
            return head
        # split: an exception's message may hold any character that ends a line somewhere.
        return head + "".join("\n  " + printable(line) for line in traceback.split("\n"))


class JsonFormatter(logging.Formatter):
    """The program's own events as JSON: one line each, its traceback inside."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        document: dict[str, object] = {
            "time": json_stamp(record.created),
            "level": record.levelname.lower(),
            "event": "log",
            "logger": record.name,
            "message": record.getMessage(),
        }
        traceback = _traceback(self, record)
        if traceback:
            document["traceback"] = traceback[-MAX_TRACEBACK_CHARACTERS:]
        return json_line(document)


def formatter(log_format: LogFormat) -> logging.Formatter:
    """The formatter of the program's own events."""
    return JsonFormatter() if log_format is LogFormat.JSON else TextFormatter()


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info else []
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)
