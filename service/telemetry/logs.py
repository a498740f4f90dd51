"""Log on stderr: JSON lines, or readable text on a terminal."""

import logging
import re
import sys
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def configure() -> None:
    """Send the log of this process to stderr."""
    # Unused fields that cost each record a system call or two (logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    handler = logging.StreamHandler()
    handler.addFilter(_add_activity)
    handler.setFormatter(_Readable() if sys.stderr.isatty() else _JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


ACTIVITY: ContextVar[str] = ContextVar("activity")
"""Activity ID of the current request, which is added to each of its log lines."""

MAX_CHARACTERS = 200
"""Maximum length of a field that comes from the client."""


@dataclass(slots=True)
class RequestRecord:
    """Fields of a request's log line, filled in while it is handled."""

    activity_id: str
    trace_id: str | None
    method: str = ""
    path: str = ""
    client: str | None = None
    forwarded_for: str | None = None
    user_agent: str | None = None
    reason: str | None = None
    caller: str | None = None
    database: str | None = None
    bytes: int | None = None
    outcomes: Counter[int] = field(default_factory=Counter)

    def fields(self, status: int, seconds: float) -> dict[str, Any]:
        """Return the fields of the request's line."""
        fields: dict[str, Any] = {
            "activityID": self.activity_id,
            "traceID": self.trace_id,
            "method": _escape(self.method),
            "path": _escape(self.path),
            "status": status,
            "reason": self.reason,
            "caller": self.caller,
            "database": self.database,
            "client": self.client,
            "forwardedFor": _escape(self.forwarded_for),
            "userAgent": _escape(self.user_agent),
            "items": sum(self.outcomes.values()) or None,
            "bytes": self.bytes,
            "outcomes": dict(self.outcomes) or None,
            "seconds": round(seconds, 4),
        }
        return {name: value for name, value in fields.items() if value is not None}


def _escape(text: str | None) -> str | None:
    """Return the beginning of a client's string, with control characters escaped."""
    if text is None:
        return None
    return ascii(text[:MAX_CHARACTERS])[1:-1]


def _add_activity(record: logging.LogRecord) -> bool:
    activity_id = ACTIVITY.get(None)
    if activity_id is not None and not hasattr(record, "activityID"):
        record.activityID = activity_id
    return True


def without_message(error: Exception) -> BaseException:
    """Return an error with the type and traceback only; messages can contain field values."""
    return RuntimeError(type(error).__name__).with_traceback(error.__traceback__)


def parse_trace_id(traceparent: str) -> str | None:
    """Return the trace ID of a W3C ``traceparent`` header; None if it is not valid."""
    match = _TRACEPARENT.fullmatch(traceparent)
    return match[1] if match and match[1] != "0" * 32 else None


def _get_extras(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_get_extras(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=repr).decode()


class _Readable(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the message, followed by the fields."""
        fields = " ".join(f"{name}={value}" for name, value in _get_extras(record).items())
        return f"{super().formatMessage(record)}  {fields}".rstrip()
