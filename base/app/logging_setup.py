"""Log lines on standard output and in a rotating file, as text or JSON, without secrets.

Whatever a message, a field, an exception or a traceback brings along passes through `redact` in the
formatter, the last place before the line is written; JSON is redacted value by value, so that it stays JSON.
Who writes, and what happens when nobody reads, is in `log_writer.py`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TextIO
from urllib.parse import quote, quote_plus, unquote

from base.app.config import read_log_level
from base.app.log_writer import DescriptorSink, QueuedHandler, RotatingFile
from base.clock import Clock, SystemClock
from base.errors import ConfigError
from base.log import FIELDS_ATTRIBUTE, escape, format_fields, log_event, text_of

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

logger = logging.getLogger(__name__)

FILE_BYTES_MAX = 10_000_000
FILES_KEPT = 5
SECRET_CHARACTERS_MIN = 4
"""Shorter secrets are not searched for: they would blank out ordinary words."""
KEY_LINE_CHARACTERS_MIN = 16
LEVEL_WIDTH = len("CRITICAL")
THREAD_WIDTH = 14
COLORS = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "1;31"}
SILENT_LOGGERS = ("waitress.queue",)
"""They warn of what is no trouble: a request that waits for a moment."""
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
_URL_CREDENTIALS = re.compile(r"[\w+.-]+://([^\s/@]+)@")
_MAY_HOLD_HEADERS = re.compile(r"(?i)kalshi[-_]access|authorization|bearer")


class _Secrets:
    """The strings that must never be logged. Any thread may add to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the writes below; readers take the finished tuple
        self._longest_first: tuple[str, ...] = ()

    def add(self, secret: str) -> None:
        if len(secret) < SECRET_CHARACTERS_MIN:
            return
        forms = {secret, escape(secret), json.dumps(secret)[1:-1], quote(secret, safe=""), quote_plus(secret)}
        with self._lock:
            known = forms | set(self._longest_first)
            self._longest_first = tuple(sorted(known, key=len, reverse=True))

    def remove_from(self, text: str) -> str:
        for secret in self._longest_first:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        return text


_SECRETS = _Secrets()


def register_secret(secret: str) -> None:
    """Keep this string out of every log line from now on: the UI token, the full key id, alert URLs, of which
    a password is kept out by itself too."""
    _SECRETS.add(secret)
    credentials = _URL_CREDENTIALS.match(secret)
    if credentials is not None:
        password = credentials[1].partition(":")[2]
        _SECRETS.add(password)
        _SECRETS.add(unquote(password))


def register_key_file(path: Path | None) -> None:
    """Likewise every line of a private key, as far as it can be read."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines() if path is not None else []
    except OSError:
        return  # who needs the key says what is wrong with the file
    for line in lines:
        if len(line) >= KEY_LINE_CHARACTERS_MIN and not line.startswith("-----"):
            register_secret(line)


def redact(text: str) -> str:
    """Take secrets out of a text."""
    text = _SECRETS.remove_from(text)
    if "-----BEGIN" not in text and "://" not in text and not _MAY_HOLD_HEADERS.search(text):
        return text  # nearly every line
    for pattern in _PATTERNS:
        text = pattern.sub(lambda match: (match[1] if match.re.groups else "") + HIDDEN, text)
    return text


class TextFormatter(logging.Formatter):
    """`2026-11-22T15:00:00.123Z WARNING  stop-loss      event=… key=value`; a traceback follows, indented.

    The columns keep their width: a thread's name that is too long is cut. Only one space parts the event
    from its fields, because scripts match lines by that. `marks` are fields that every event ends with,
    unless it has them itself. Colors are for terminals.
    """

    def __init__(self, marks: Mapping[str, object], *, color: bool = False) -> None:
        super().__init__()
        self._marks = marks
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        if hasattr(record, FIELDS_ATTRIBUTE):  # events are escaped already
            message = record.getMessage()
            if missing := _missing(self._marks, record):
                message = f"{message} {format_fields(missing)}"
        else:
            message = format_fields(_message_fields(record) | {"logger": record.name})
        line = redact(
            f"{_utc(record.created)} {record.levelname:<{LEVEL_WIDTH}} {_column(record.threadName)} {message}"
        )
        if self._color:
            line = _colored(line, record.levelno)
        # Redacted before it is indented: a key's lines must still look like a key.
        return "\n    | ".join([line, *map(escape, redact(_traceback(self, record)).splitlines())])


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
        fields: Mapping[str, object] = _message_fields(record)
        if hasattr(record, FIELDS_ATTRIBUTE):
            fields = {**getattr(record, FIELDS_ATTRIBUTE), **_missing(self._marks, record)}
        line |= {f"{key}_" if key in line else key: _field(key, value) for key, value in fields.items()}
        trace = _traceback(self, record)
        if trace:
            line["traceback"] = redact(trace)
        return json.dumps(line, ensure_ascii=True)


def dropped_lines() -> int:
    """Log lines that were never written, because nobody took them."""
    return sum(handler.dropped for handler in _queued())


def flush_logs() -> None:
    """Wait, within bounds, until all is written."""
    for handler in _queued():
        handler.flush()


def reload_level(environ: Mapping[str, str], directory: Path) -> None:
    """Log from the level on that the configuration says now; libraries stay quiet. What is wrong with it is
    said, and the level in force stays."""
    try:
        level, source = read_log_level(environ, directory)
    except ConfigError as exc:
        for problem in exc.problems:
            log_event(logger, logging.ERROR, "log_level_refused", why=problem)
        return
    root = logging.getLogger()
    was = root.level
    root.setLevel(min(was, logging.INFO))  # at either level it is said what holds, and where that is written
    log_event(
        logger, logging.INFO, "log_level", level=level.value, was=logging.getLevelName(was), source=source
    )
    root.setLevel(level.value)


def configure_logging(
    level: str,
    fmt: str,
    file: Path | None,
    *,
    stream: TextIO | None = None,
    queued: bool = True,
    marks: Mapping[str, object] = MappingProxyType({}),
    clock: Clock | None = None,
) -> None:
    """Send all logs to standard output (or `stream`), and to a file that rotates at 10 MB, five kept; every
    event bears the `marks`.

    Neither can hold up who logs. Not `queued`, the stream is written to by whoever logs, which suits commands
    that soon end. Calling it again replaces the handlers. Exceptions that nobody catches and warnings are
    logged too: printed, they would not be redacted. Raises ConfigError when the file cannot be opened.
    """
    clock = clock or SystemClock()
    root = logging.getLogger()
    target = sys.stdout if stream is None else stream
    on_file = None if file is None else QueuedHandler(_open_file(file), clock)
    if on_file is not None:
        on_file.setFormatter(JsonFormatter(marks) if fmt == "json" else TextFormatter(marks))
    handlers: list[logging.Handler] = [] if on_file is None else [on_file]
    if target is not None:  # standard output may be closed, and its number in use by somebody else
        on_stream = _stream_handler(target, clock, queued=queued)
        color = fmt != "json" and _takes_colors(target)
        on_stream.setFormatter(JsonFormatter(marks) if fmt == "json" else TextFormatter(marks, color=color))
        handlers.append(on_stream)
    for old in root.handlers[:]:
        if old.name == HANDLER_NAME:
            root.removeHandler(old)
            old.close()
    for handler in handlers:
        handler.name = HANDLER_NAME
        root.addHandler(handler)
    root.setLevel(level)
    logging.raiseExceptions = False  # a full disk or closed pipe must not print tracebacks line after line
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in SILENT_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.captureWarnings(True)
    threading.excepthook = _log_thread_crash
    sys.unraisablehook = _log_unraisable


def _queued() -> list[QueuedHandler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, QueuedHandler)]


def log_stacks() -> None:
    """Where every thread is, one line each. Not faulthandler: it writes with everything else at a stop, and
    for ever when nobody reads."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        calls = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in traceback.extract_stack(frame)]
        stack = " < ".join(reversed(calls))
        log_event(logger, logging.CRITICAL, "thread_stack", of=names.get(ident, ident), stack=stack)


def _stream_handler(target: TextIO, clock: Clock, *, queued: bool) -> logging.Handler:
    if queued:
        try:
            descriptor = target.fileno()
        except (OSError, ValueError, AttributeError):
            return logging.StreamHandler(target)  # replaced by something in memory
        return QueuedHandler(
            DescriptorSink("stdout", descriptor), clock, encoding=getattr(target, "encoding", None) or "utf-8"
        )
    return logging.StreamHandler(target)


def _takes_colors(target: TextIO) -> bool:
    is_plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return target.isatty() and not is_plain


def _open_file(file: Path) -> RotatingFile:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return RotatingFile(file, FILE_BYTES_MAX, FILES_KEPT)
    except OSError as exc:
        remedy = "write the path of a file that this user can create, or remove the line"
        raise ConfigError([f"LOG_FILE={escape(str(file))}: {exc.strerror}; {remedy}"]) from exc


def _log_thread_crash(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit:
        return
    name = args.thread.name if args.thread is not None else None
    log_event(logger, logging.ERROR, "thread_crashed", exc_info=args.exc_value or True, of=name)


def _log_unraisable(args: UnraisableHookArgs) -> None:
    where = args.err_msg or type(args.object).__name__
    log_event(logger, logging.ERROR, "exception_ignored", exc_info=args.exc_value or True, where=where)


def _message_fields(record: logging.LogRecord) -> dict[str, object]:
    """What a library has to say, as an event."""
    return {"event": "message", "text": redact(record.getMessage())}


def _column(thread: str | None) -> str:
    name = escape(thread or "-")
    return f"{name:<{THREAD_WIDTH}}" if len(name) <= THREAD_WIDTH else f"{name[: THREAD_WIDTH - 1]}…"


def _colored(line: str, level: int) -> str:
    """The level's color for what is wrong, and bold for the event's name."""
    line = re.sub(r"event=(\S+)", "event=\x1b[1m\\1\x1b[22m", line, count=1)
    color = COLORS.get(level)
    return f"\x1b[{color}m{line}\x1b[0m" if color else line


def _missing(marks: Mapping[str, object], record: logging.LogRecord) -> dict[str, object]:
    """The marks that an event does not have itself."""
    fields = getattr(record, FIELDS_ATTRIBUTE)
    return {key: mark for key, mark in marks.items() if key not in fields}


def _utc(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """The traceback's text, empty when there is none."""
    if record.exc_text:
        return record.exc_text
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
    text = text_of(value)
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
