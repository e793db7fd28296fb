"""Log lines leave through a bounded queue and a thread of their own.

Whoever reads the log may hang (`| less`, a terminal with Ctrl-S, a full disk); the thread that says a stop
has triggered must not wait for it. So logging is one append to a queue, and only the thread `log-…` of a sink
ever waits. While the sink takes nothing, lines are kept up to a bound, the less important ones are dropped
first, and what was dropped is counted and said where the gap is.
"""

from __future__ import annotations

import copy
import logging
import os
import select
import threading
from collections import Counter, deque
from contextlib import suppress
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Protocol

from base.clock import Clock
from base.log import FIELDS_ATTRIBUTE, EventFields, RepeatedWarnings, log_event, text_of

logger = logging.getLogger(__name__)

_VALUES = (str, int, float, Decimal, Enum, type(None))

LINES_MAX = 8_000
"""Lines that wait at most; a quarter of the room is for WARNING and above alone, half of it not for DEBUG."""
GATHER_S = 0.01
"""How long a line waits before it is written: an order that follows a trigger leaves first, undisturbed."""
RETRY_S = 0.25
BLOCKED_AFTER_S = 2.0
"""A sink that takes nothing for so long is said to be blocked; one that fails is at once."""
FLUSH_S = 1.0
"""How long the end of the process waits for what has not been written."""
PIPE_BYTES = 4_096
"""A pipe that is ready takes so many without blocking (PIPE_BUF)."""


class Sink(Protocol):
    """Where lines go. Only the writer's thread calls it, but for `close`."""

    name: str

    def begin_line(self, size: int) -> None:
        """A whole line of so many bytes comes next."""

    def write(self, data: bytes) -> int:
        """Write some of it, and say how much. Raises OSError; BlockingIOError where it has to wait."""

    def close(self) -> None: ...


class DescriptorSink:
    """An open descriptor that another program may read: standard output. It is never closed here."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def begin_line(self, size: int) -> None:
        """Nothing to prepare."""

    def write(self, data: bytes) -> int:
        if not self._poll.poll(RETRY_S * 1000):
            raise BlockingIOError("nobody reads it")
        return os.write(self._descriptor, data[:PIPE_BYTES])

    def close(self) -> None:
        """Others may still write to it."""


class RotatingFile:
    """A file that only its owner can read. It is moved to `name.1`, and so on, when it is full, and opened
    anew when somebody else has moved it. Raises OSError when it cannot be opened."""

    def __init__(self, path: Path, bytes_max: int, files_kept: int) -> None:
        self.name = "file"
        self._path = Path(os.path.abspath(path))
        self._bytes_max = bytes_max
        self._files_kept = files_kept
        self._is_stuck = False  # it could not be rotated, and that has been said
        self._descriptor = -1
        self._open()

    def begin_line(self, size: int) -> None:
        """A file that cannot be rotated grows on: better than no log."""
        try:
            if self._is_moved():
                self._reopen()
            elif self._size and self._size + size > self._bytes_max:
                self._shift()
                self._reopen()
            self._is_stuck = False
        except OSError as exc:
            if not self._is_stuck:
                self._is_stuck = True
                log_event(logger, logging.WARNING, "log_not_rotated", file=self._path, why=exc.strerror)

    def write(self, data: bytes) -> int:
        written = os.write(self._descriptor, data)
        self._size += written
        return written

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        found = os.fstat(self._descriptor)
        self._size, self._identity = found.st_size, (found.st_dev, found.st_ino)

    def _reopen(self) -> None:
        old = self._descriptor
        self._open()  # where this fails, the old one stays in use
        os.close(old)

    def _is_moved(self) -> bool:
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return True
        return (found.st_dev, found.st_ino) != self._identity

    def _shift(self) -> None:
        names = [self._path, *(Path(f"{self._path}.{n}") for n in range(1, self._files_kept))]
        for older, newer in zip(reversed(names), list(reversed(names))[1:], strict=False):
            with suppress(FileNotFoundError):
                os.replace(newer, older)


class QueuedHandler(logging.Handler):
    """Takes records from any thread without waiting, and writes them from its own."""

    def __init__(self, sink: Sink, clock: Clock, lines_max: int = LINES_MAX, encoding: str = "utf-8") -> None:
        super().__init__()
        self._sink = sink
        self._clock = clock
        self._encoding = encoding
        self._room = {logging.DEBUG: lines_max // 2, logging.INFO: lines_max * 3 // 4}
        self._lines_max = lines_max
        self._blocked_brake = RepeatedWarnings()
        self._wake = threading.Event()
        self._idle = threading.Event()  # everything has been written
        self._idle.set()
        self._closing = threading.Event()
        # Guards the fields below; never held during I/O. Reentrant: a finalizer may log in between.
        self._lock = threading.RLock()
        self._queue: deque[logging.LogRecord] = deque()
        self._gap: Counter[str] = Counter()  # dropped since the last line that was taken, by level
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name=f"log-{sink.name}", daemon=True)
        self._thread.start()

    def createLock(self) -> None:
        """None: logging would hold it around `emit` and `flush`, and others would wait for that."""
        self.lock = None

    @property
    def dropped(self) -> int:
        """Lines that were never written, so far."""
        with self._lock:
            return self._dropped

    @property
    def waiting(self) -> int:
        """Lines that are still to be written."""
        with self._lock:
            return len(self._queue)

    # --- any thread ---------------------------------------------------------------------------------

    def emit(self, record: logging.LogRecord) -> None:
        frozen = self._freeze(record)
        with self._lock:
            if self._closing.is_set() or len(self._queue) >= self._room_for(record.levelno):
                self._gap[record.levelname.lower()] += 1
                self._dropped += 1
                return
            if self._gap and len(self._queue) < self._lines_max - 1:
                self._queue.append(self._gap_record(record, self._gap))
                self._gap = Counter()
            self._queue.append(frozen)
            self._idle.clear()
        if not self._wake.is_set():
            self._wake.set()

    def flush(self) -> None:
        """Wait until everything is written, within bounds: the reader may never come back."""
        if threading.current_thread() is not self._thread:
            self._clock.wait(self._idle, FLUSH_S)

    def close(self) -> None:
        """Write what can be written now, and end."""
        self._closing.set()
        self._wake.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(FLUSH_S)
            if not self._thread.is_alive():
                self._sink.close()
        super().close()

    def _room_for(self, level: int) -> int:
        return next((room for highest, room in self._room.items() if level <= highest), self._lines_max)

    def _freeze(self, record: logging.LogRecord) -> logging.LogRecord:
        """The record as it is now: what its values are made of may change before it is written."""
        frozen = copy.copy(record)
        fields = getattr(record, FIELDS_ATTRIBUTE, None)
        if fields is None:
            frozen.msg, frozen.args = record.getMessage(), None
        else:
            frozen.msg = EventFields({key: _frozen(value) for key, value in fields.items()})
            setattr(frozen, FIELDS_ATTRIBUTE, frozen.msg)
        if record.exc_info and not record.exc_text:
            frozen.exc_text = logging.Formatter().formatException(record.exc_info)
        frozen.exc_info = None  # frames would keep alive what they refer to
        return frozen

    def _gap_record(self, before: logging.LogRecord, gap: Counter[str]) -> logging.LogRecord:
        return _event_record(
            before.created,
            logging.WARNING,
            "log_lines_dropped",
            count=gap.total(),
            sink=self._sink.name,
            **gap,
        )

    # --- its own thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._clock.wait(self._closing, GATHER_S)
            self._wake.clear()
            try:
                self._write_all()
            except Exception:  # safety net: a log that ends would be the quietest failure of all
                with self._lock:
                    self._dropped += 1
                    self._gap["error"] += 1
            if self._closing.is_set():
                return

    def _write_all(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._idle.set()
                    return
                record = self._queue.popleft()
            if not self._write(self._render(record)):
                with self._lock:
                    self._dropped += len(self._queue) + 1
                    self._queue.clear()
                    self._idle.set()
                return

    def _render(self, record: logging.LogRecord) -> bytes:
        try:
            line = self.format(record)
        except Exception as exc:  # safety net: what cannot be shown must not cost the lines after it
            line = self.format(
                _event_record(record.created, logging.ERROR, "log_line_unprintable", why=type(exc).__name__)
            )
        return f"{line}\n".encode(self._encoding, "backslashreplace")

    def _write(self, data: bytes) -> bool:
        """Write one line, however long that takes; False when the process ends first."""
        rest = memoryview(data)
        stuck_since: float | None = None
        announced = False
        self._sink.begin_line(len(data))
        while rest:
            try:
                rest = rest[self._sink.write(bytes(rest)) :]
            except OSError as exc:
                now = self._clock.monotonic()
                stuck_since = now if stuck_since is None else stuck_since
                waits = isinstance(exc, BlockingIOError)
                if not announced and (not waits or now - stuck_since >= BLOCKED_AFTER_S):
                    announced = self._announce(exc, now)
                if self._closing.is_set():
                    return False
                if not waits:
                    self._clock.wait(self._closing, RETRY_S)
        if announced and stuck_since is not None:
            blocked_s = self._clock.monotonic() - stuck_since
            log_event(
                logger,
                logging.WARNING,
                "log_works_again",
                sink=self._sink.name,
                blocked_s=blocked_s,
                dropped=self.dropped,
            )
        return True

    def _announce(self, exc: OSError, now: float) -> bool:
        """The other sink, if there is one, says it at once; this one when it works again."""
        held_back = self._blocked_brake.allow("blocked", now)
        if held_back is None:
            return False
        why = exc.strerror or str(exc)
        log_event(
            logger, logging.ERROR, "log_blocked", sink=self._sink.name, why=why, also_since_last=held_back
        )
        return True


def _event_record(created: float, level: int, event: str, **fields: object) -> logging.LogRecord:
    """An event that goes into one sink's queue alone."""
    pairs = EventFields(event=event, **fields)
    record = logging.LogRecord(logger.name, level, "", 0, pairs, None, None)
    record.created = created
    setattr(record, FIELDS_ATTRIBUTE, pairs)
    return record


def _frozen(value: object) -> object:
    """What may change is copied; what is not a plain value becomes its text."""
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return frozenset(map(_frozen, value))
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    return value if isinstance(value, _VALUES) else text_of(value)
