"""Log lines on standard output and in a rotating file, as text or JSON, without secrets.

Whatever a message, a field, an exception or a traceback brings along passes through `redact` in the
formatter, the last place before the line is written; JSON is redacted value by value, so that it stays JSON.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

from base.errors import ConfigError
from base.log import FIELDS_ATTRIBUTE, escape, format_fields

FILE_BYTES_MAX = 10_000_000
FILES_KEPT = 5
SECRET_CHARACTERS_MIN = 4
"""Shorter secrets are not searched for: they would blank out ordinary words."""
LEVEL_WIDTH = 5
THREAD_WIDTH = 12
QUIET_LOGGERS = ("urllib3", "websocket", "waitress", "werkzeug", "requests", "apprise")
"""Third-party loggers; below WARNING some print headers and URLs."""

HANDLER_NAME = "backstop"
HIDDEN = "[redacted]"

_PATTERNS = (
    # A PEM block, or its beginning when the rest was cut off. `.` because escaping may have joined its lines.
    re.compile(r"-----BEGIN [A-Z0-9 ]+-----(?:.*?-----END [A-Z0-9 ]+-----|.*)", re.DOTALL),
    # Headers as `Name: value`, `'Name': 'value'`, `('Name', 'value')` or `Name=value`.
    re.compile(r"(?i)(KALSHI[-_]ACCESS[-_](?:KEY|SIGNATURE|TIMESTAMP)\W{1,8}(?:b['\"])?)[\w.+/=-]+"),
    re.compile(
        r"(?i)(authorization\W{1,8}(?:b['\"])?)(?:(?:bearer|basic|digest|token)\s+)?[^\s\"',;)}\]\\]+"
    ),
    re.compile(r"(?i)\b(bearer\s+)[^\s\"',;)}\]\\]+"),
    # Credentials inside a URL: scheme://user:password@host.
    re.compile(r"(://)[^\s/@\"']+(?=@)"),
)
_MAY_HOLD_HEADERS = re.compile(r"(?i)kalshi[-_]access|authorization|bearer")


class _Secrets:
    """The strings that must never be logged. Any thread may add to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the writes below; readers take the finished pattern
        self._known: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, secret: str) -> None:
        if len(secret) < SECRET_CHARACTERS_MIN:
            return
        with self._lock:
            self._known |= {secret, escape(secret), json.dumps(secret)[1:-1]}
            longest_first = sorted(self._known, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def remove_from(self, text: str) -> str:
        pattern = self._pattern
        return pattern.sub(HIDDEN, text) if pattern else text


_SECRETS = _Secrets()


def register_secret(secret: str) -> None:
    """Keep this string out of every log line from now on: the UI token, the full key id, alert URLs."""
    _SECRETS.add(secret)


def redact(text: str) -> str:
    """Take secrets out of a text."""
    text = _SECRETS.remove_from(text)
    if "-----BEGIN" not in text and "://" not in text and not _MAY_HOLD_HEADERS.search(text):
        return text  # nearly every line
    for pattern in _PATTERNS:
        text = pattern.sub(lambda match: (match[1] if match.re.groups else "") + HIDDEN, text)
    return text


class TextFormatter(logging.Formatter):
    """`2026-11-22T15:00:00.123Z INFO  stop-loss    event=… key=value`; a traceback follows, indented.

    `marks` are fields that every event ends with, unless it has them itself.
    """

    def __init__(self, marks: Mapping[str, object]) -> None:
        super().__init__()
        self._marks = marks

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if not hasattr(record, FIELDS_ATTRIBUTE):  # events are escaped already
            message = escape(redact(message))
        elif missing := _missing(self._marks, record):
            message = f"{message} {format_fields(missing)}"
        line = (
            f"{_utc(record.created)} {record.levelname:<{LEVEL_WIDTH}} "
            f"{escape(record.threadName or '-'):<{THREAD_WIDTH}} {message}"
        )
        trace = _traceback(self, record)
        # Redacted before it is indented: a key's lines must still look like a key.
        return "\n    | ".join([redact(line), *map(escape, redact(trace).splitlines())])


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the same fields as the text."""

    def __init__(self, marks: Mapping[str, object]) -> None:
        super().__init__()
        self._marks = marks

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _utc(record.created),
            "level": record.levelname,
            "thread": record.threadName,
            "logger": record.name,
        }
        fields: Mapping[str, object] = {"message": record.getMessage()}
        if hasattr(record, FIELDS_ATTRIBUTE):
            fields = {**getattr(record, FIELDS_ATTRIBUTE), **_missing(self._marks, record)}
        line |= {f"{key}_" if key in line else key: _field(key, value) for key, value in fields.items()}
        trace = _traceback(self, record)
        if trace:
            line["traceback"] = redact(trace)
        return json.dumps(line, ensure_ascii=True)


class _RotatingFile(RotatingFileHandler):
    """A log file that only its owner can read."""

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding=self.encoding, opener=_open_private)


def configure_logging(
    level: str,
    fmt: str,
    file: Path | None,
    *,
    stream: TextIO | None = None,
    marks: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Send all logs to standard output (or `stream`), and to a file that rotates at 10 MB, five kept; every
    event bears the `marks`.

    Calling it again replaces the handlers. A disk that is full costs the file's lines, not the daemon.
    Raises ConfigError when the file cannot be opened.
    """
    root = logging.getLogger()
    handlers: list[logging.Handler] = [logging.StreamHandler(stream if stream is not None else sys.stdout)]
    if file is not None:
        handlers.append(_file_handler(file))
    for old in root.handlers[:]:
        if old.name == HANDLER_NAME:
            root.removeHandler(old)
            old.close()
    for handler in handlers:
        handler.name = HANDLER_NAME
        handler.setFormatter(JsonFormatter(marks) if fmt == "json" else TextFormatter(marks))
        root.addHandler(handler)
    root.setLevel(level)
    logging.raiseExceptions = False  # a full disk or closed pipe must not print tracebacks line after line
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def _file_handler(file: Path) -> logging.Handler:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _RotatingFile(file, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT - 1, encoding="utf-8")
    except OSError as exc:
        remedy = "write the path of a file that this user can create, or remove the line"
        raise ConfigError([f"LOG_FILE={escape(str(file))}: {exc.strerror}; {remedy}"]) from exc


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _missing(marks: Mapping[str, object], record: logging.LogRecord) -> dict[str, object]:
    """The marks that an event does not have itself."""
    fields = getattr(record, FIELDS_ATTRIBUTE)
    return {key: mark for key, mark in marks.items() if key not in fields}


def _utc(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """The traceback's text, empty when there is none."""
    if record.exc_info and record.exc_info[0] is not None:
        return formatter.formatException(record.exc_info)
    return ""


def _field(name: str, value: object) -> object:
    """A field's value; hidden when its name alone says that it is a secret."""
    return HIDDEN if value is not None and _MAY_HOLD_HEADERS.search(name) else _jsonable(value)


def _jsonable(value: object) -> object:
    """A field as JSON takes it: exact numbers stay strings, text loses its secrets."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, Enum):
        return _jsonable(value.value)
    if isinstance(value, Decimal):
        return str(value)
    text = str(value)
    if isinstance(value, (Mapping, list, tuple, set, frozenset)) and redact(text) == text:
        return _structure(value)
    return redact(text)  # a container with a secret somewhere inside goes out as redacted text


def _structure(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    assert isinstance(value, (list, tuple, set, frozenset))
    return [
        _jsonable(item) for item in (sorted(value, key=str) if isinstance(value, (set, frozenset)) else value)
    ]
