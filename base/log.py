"""One log line an event, and a brake on warnings that repeat.

Every package logs through `log_event`, so that a line reads the same wherever it comes from and the
formatters of `base/app/logging_setup.py` can write its fields as JSON without parsing text.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from types import TracebackType

FIELDS_ATTRIBUTE = "event_fields"
"""Attribute of a `LogRecord` with the event and its fields, in the order in which they were given."""

VALUE_CHARACTERS_MAX = 2_000
WINDOW_S = 60.0
KEYS_MAX = 10_000


def log_event(
    logger: logging.Logger,
    level: int,
    event: str,
    /,
    *,
    exc_info: bool | BaseException = False,
    **fields: object,
) -> None:
    """Log one event as `event=… key=value …`.

    `also_since_last`, what `RepeatedWarnings` has held back, is left out when it is 0. `exc_info=True` inside
    an `except` block adds the traceback; elsewhere hand the exception in.
    """
    if not logger.isEnabledFor(level):
        return
    if fields.get("also_since_last") == 0:
        del fields["also_since_last"]  # nothing was held back: nothing to say
    pairs = EventFields(event=event, **fields)
    caught = sys.exc_info() if exc_info is True else _exc_info(exc_info)
    # Made here, because `Logger.log` would search the stack for a line number that nobody is shown.
    record = logger.makeRecord(logger.name, level, "", 0, pairs, (), caught, extra={FIELDS_ATTRIBUTE: pairs})
    logger.handle(record)


class EventFields(dict[str, object]):
    """An event and its fields; its text is made only when somebody writes it."""

    def __str__(self) -> str:
        return format_fields(self)


def format_fields(pairs: Mapping[str, object]) -> str:
    """Fields as `key=value` text: always one line, and no value can pass for another field."""
    return " ".join(f"{key}={format_value(value)}" for key, value in pairs.items())


def format_value(value: object) -> str:
    """One value as text: None is `-`, floats are short, what would break the line is escaped."""
    if value is None:
        return "-"
    text = escape(_plain(value))
    if text in ("", "-") or any(mark in text for mark in ' "='):
        text = text.replace('"', '\\"')
        return f'"{text}"'
    return text


def text_of(value: object) -> str:
    """`str(value)` for a log: a value that cannot be shown must not cost the line, nor who wrote it."""
    try:
        return str(value)
    except Exception:  # safety net: `__str__` may be anybody's code
        return f"({type(value).__name__} that cannot be shown)"


def escape(text: str) -> str:
    """Make `text` safe for one line: control, formatting and line-breaking characters are written out."""
    if len(text) > VALUE_CHARACTERS_MAX:
        text = f"{text[:VALUE_CHARACTERS_MAX]}…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class RepeatedWarnings:
    """Lets one warning a key through in each window and counts the rest. Any thread may call it.

    At most `KEYS_MAX` keys are remembered; the one let through longest ago is forgotten first, and may
    then be logged again early.
    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._lock = threading.Lock()  # guards the field below; never held during I/O
        self._seen: OrderedDict[str, tuple[float, int]] = (
            OrderedDict()
        )  # key -> (last let through, held back)

    def allow(self, key: str, now: float) -> int | None:
        """Ask before logging; `now` is monotonic seconds.

        None: hold it back. Otherwise log it, with the number held back since the last one.
        """
        with self._lock:
            last, held_back = self._seen.get(key, (None, 0))
            if last is not None and now - last < self._window_s:
                self._seen[key] = (last, held_back + 1)
                return None
            self._seen[key] = (now, 0)
            self._seen.move_to_end(key)
            if len(self._seen) > KEYS_MAX:
                self._seen.popitem(last=False)
            return held_back


def _exc_info(
    exc: BaseException | bool,
) -> tuple[type[BaseException], BaseException, TracebackType | None] | None:
    return (type(exc), exc, exc.__traceback__) if isinstance(exc, BaseException) else None


def _plain(value: object) -> str:
    """The text of a value before quoting."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, float):
        return _short(value)
    if isinstance(value, (set, frozenset)):
        return ",".join(sorted(map(_plain, value)))
    if isinstance(value, (list, tuple)):
        return ",".join(map(_plain, value))
    if isinstance(value, Decimal):
        return _exact(value)
    return "-" if value is None else text_of(value)


def _exact(value: Decimal) -> str:
    """All digits that say something, and at least cents where there is a fraction."""
    if not value.is_finite() or value == value.to_integral_value():
        return f"{value:.2f}" if value.is_finite() and value.as_tuple().exponent != 0 else str(value)
    text = f"{value:f}".rstrip("0")
    return text if len(text.partition(".")[2]) >= 2 else f"{value:.2f}"


def _short(value: float) -> str:
    """Three decimals without trailing zeros; very small values keep three digits."""
    if value != 0 and abs(value) < 0.001:
        return f"{value:.3g}"
    text = f"{value:.3f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"
