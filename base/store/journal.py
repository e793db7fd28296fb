"""The daemon's durable record: what a new start must know, on disk before an order leaves.

Any thread hands records over; the thread `journal` alone talks to the disk. Threads that wait share one
transaction, and with it one wait for the disk. While the disk does not take writes, exits go on from
memory: nobody waits, live rows stay in the mirror, and both reach the disk when it takes them again.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from base.clock import Clock
from base.errors import BotError, ConfigError
from base.log import RepeatedWarnings, log_event
from base.store.journal_file import (
    Connect,
    Content,
    JournalFile,
    JournalUnavailable,
    connect,
    delete,
    explain,
    identity,
    set_aside,
)
from base.store.journal_mirror import Mirror
from base.store.journal_opening import open_or_begin
from base.store.journal_schema import EPISODES, MIGRATIONS, Row, encode
from base.store.records import Record, Remembered

logger = logging.getLogger(__name__)

COMMIT_S_MAX = 1.0
"""Longest wait of `commit`; a disk that takes longer for anything is down."""
WRITE_S_MAX = 0.25
"""So long records of `write` wait for others to go with them."""
RETRY_S = 2.0
LOOK_S = 5.0
"""How often an idle journal looks whether its file is still there, and how long the log has grown."""
RETENTION_S = 3_600.0
ADDED_MAX = 20_000
"""Transitions and decisions that wait for the disk; the oldest are dropped first, and counted."""
REPLACING_MAX = 50_000
"""Rows with a key that wait for the disk; the oldest leave first, and are lost if no longer live."""
HANGING = (f"the disk has not answered within {COMMIT_S_MAX:g} s", "look for what keeps the disk busy")


@dataclass(frozen=True, slots=True)
class JournalStatus:
    """How the journal is."""

    ok: bool
    why: str
    """Why it is not ok, "" when it is."""
    down_since: float | None
    """Monotonic time."""
    waiting: int
    """Records that are not on disk yet."""
    dropped: int
    """Records that were lost because too many waited, or because no column takes them."""
    commits: int
    last_commit_ms: float
    size_bytes: int
    """Of the file and its log, as of the last look."""


@dataclass(slots=True)
class _Batch:
    """Those who wait for the same transaction. The journal's lock guards all but the event."""

    is_awaited: bool = False
    is_settled: bool = False
    is_durable: bool = False
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class _Outage:
    since: float
    why: str
    remedy: str
    number: int


class Journal:
    """A `Recorder` on disk. `load` before `start`; a journal that never starts is closed by `stop`."""

    def __init__(
        self,
        file: JournalFile,
        content: Content,
        clock: Clock,
        *,
        account: str,
        was_damaged: bool,
        connect: Connect = connect,
        migrations: tuple[str, ...] = MIGRATIONS,
    ) -> None:
        self.path = file.path
        self.was_damaged = was_damaged
        self._clock = clock
        self._account = account
        self._connect = connect
        self._migrations = migrations
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._warnings = RepeatedWarnings()
        # Owned by the writer thread once it runs.
        self._file: JournalFile | None = file
        self._identity = file.identity
        self._retry_at = self._look_at = self._retention_at = clock.monotonic()
        self._lock = threading.Lock()  # guards the fields below; never held during I/O or waits
        self._mirror = Mirror()
        for row in content.rows:
            self._mirror.put(row)
        self._written_at = content.written_at
        self._ended = content.ended
        self._next_seq = content.next_seq
        self._replacing: dict[tuple[str, str | int], Row] = {}  # newest by table and key, oldest first
        self._added: deque[Row] = deque()
        self._in_flight = 0
        self._batch = _Batch()
        self._is_running = False
        self._busy_since: float | None = None  # since when the writer has been waiting for the disk
        self._outage: _Outage | None = None
        self._outages = 0
        self._dropped = 0
        self._commits = 0
        self._last_commit_ms = 0.0
        self._size_bytes = 0
        self._last_pass_at: float | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        clock: Clock,
        *,
        account: str,
        fresh: bool = False,
        connect: Connect = connect,
        migrations: tuple[str, ...] = MIGRATIONS,
    ) -> Journal:
        """Open the journal of an account, or begin one, and prove that it can be written.

        A damaged file is set aside beside the new one. `fresh` deletes what is there. Raises ConfigError.
        """
        try:
            if fresh:
                delete(path)
            file, content, aside = open_or_begin(
                path, account=account, now=clock.now(), connect=connect, migrations=migrations
            )
        except JournalUnavailable as exc:
            raise ConfigError([f"journal {path}: {exc}"]) from exc
        return cls(
            file,
            content,
            clock,
            account=account,
            was_damaged=aside is not None,
            connect=connect,
            migrations=migrations,
        )

    def load(self) -> Remembered:
        """What the last run left; ask before `start`."""
        with self._lock:
            return replace(self._mirror.remembered(self._written_at), ended=self._ended)

    # --- any thread ---------------------------------------------------------------------------------

    def write(self, records: Iterable[Record]) -> None:
        """Queue records; they are on disk within `WRITE_S_MAX` and a transaction."""
        rows, _ = self._encode(records)
        with self._lock:
            self._queue_locked(rows)
            self._notice_hanging_locked()
        self._announce()

    def commit(self, records: Iterable[Record]) -> bool:
        """Wait until these records and all queued before them are on disk.

        False after `COMMIT_S_MAX`, or at once when the disk is known not to take them.
        """
        rows, is_whole = self._encode(records)
        with self._lock:
            self._queue_locked(rows)
            self._notice_hanging_locked()
            is_hopeless = self._outage is not None or not self._is_running
            batch = self._batch
            if not is_hopeless:
                batch.is_awaited = True
        if is_hopeless:
            self._announce()
            return False
        self._wake.set()
        self._clock.wait(batch.done, COMMIT_S_MAX)
        with self._lock:
            if not batch.is_settled:
                self._set_outage_locked(
                    f"the disk has not answered within {COMMIT_S_MAX:g} s",
                    "look for what keeps the disk busy",
                )
            is_durable = batch.is_durable
        self._announce()
        return is_durable and is_whole

    def status(self) -> JournalStatus:
        with self._lock:
            self._notice_hanging_locked()
            outage = self._outage
            why = outage.why if outage is not None else ""
            if self._is_running and not self.is_alive:
                why = why or "its thread has ended"
            status = JournalStatus(
                ok=not why,
                why=why,
                down_since=outage.since if outage is not None else None,
                waiting=len(self._replacing) + len(self._added) + self._in_flight,
                dropped=self._dropped,
                commits=self._commits,
                last_commit_ms=self._last_commit_ms,
                size_bytes=self._size_bytes,
            )
        self._announce()
        return status

    def _encode(self, records: Iterable[Record]) -> tuple[list[Row], bool]:
        """Rows of the records, and whether all of them could be made into one.

        What cannot is a bug, and still must not keep an exit from going out or the rest from the disk.
        """
        told = list(records)
        with self._lock:
            seq = self._next_seq
            self._next_seq += len(told)
        recorded_at = self._clock.now()
        rows = []
        for number, record in enumerate(told, seq):
            try:
                rows.append(encode(record, number, recorded_at))
            except ValueError as exc:
                with self._lock:
                    self._dropped += 1
                if self._warnings.allow(f"refused {type(record)}", self._clock.monotonic()) is not None:
                    log_event(logger, logging.CRITICAL, "journal_record_refused", why=exc, record=record)
        rows.sort(key=lambda row: row.table is not EPISODES)  # an attempt is live only with its episode
        return rows, len(rows) == len(told)

    def _queue_locked(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if row.table.is_keyed:
                key = (row.table.name, row.key)
                self._replacing.pop(key, None)
                self._replacing[key] = row
                self._mirror.put(row)
            else:
                self._added.append(row)
        self._bound_locked()

    def _bound_locked(self) -> None:
        while len(self._added) > ADDED_MAX:
            self._added.popleft()
            self._dropped += 1
        while len(self._replacing) > REPLACING_MAX:
            row = self._replacing.pop(next(iter(self._replacing)))
            self._dropped += not self._mirror.holds(row)

    def _notice_hanging_locked(self) -> None:
        if self._busy_since is None or self._outage is not None:
            return
        if self._clock.monotonic() - self._busy_since > COMMIT_S_MAX:
            self._set_outage_locked(*HANGING)

    def _set_outage_locked(self, why: str, remedy: str) -> None:
        if self._outage is None:
            self._outages += 1
            self._outage = _Outage(self._clock.monotonic(), why, remedy, self._outages)
        else:
            self._outage = replace(self._outage, why=why, remedy=remedy)

    def _announce(self) -> None:
        """Log an outage, once and then once a minute; also the threads that wait do, the writer may hang."""
        with self._lock:
            outage = self._outage
            waiting = len(self._replacing) + len(self._added) + self._in_flight
        if outage is None:
            return
        now = self._clock.monotonic()
        if self._warnings.allow(f"down {outage.number}", now) is not None:
            log_event(
                logger, logging.CRITICAL, "journal_down", why=outage.why, remedy=outage.remedy,
                path=self.path, down_s=now - outage.since, waiting=waiting,
            )  # fmt: skip

    # --- the writer's thread ------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread, or a new one where the last has died."""
        if self.is_alive:
            return
        with self._lock:
            self._is_running = True
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Have what waits written and the file closed."""
        self._stop.set()
        self._wake.set()
        if self._thread is None and self._file is not None:
            self._finish()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; return whether it has ended."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self.is_alive

    @property
    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def last_pass_at(self) -> float | None:
        """Monotonic time at which the last pass was completed, None before the first."""
        with self._lock:
            return self._last_pass_at

    def run_once(self) -> None:
        """One pass: what waits is written, or a lost disk tried again when that is due."""
        now = self._clock.monotonic()
        with self._lock:
            batch, self._batch = self._batch, _Batch()
            is_due = self._file is not None or now >= self._retry_at
            rows = self._take_locked() if is_due else []
            self._busy_since = now if is_due else None
        try:
            if is_due:
                self._bring_to_disk(rows, is_idle=not batch.is_awaited)
        except Exception as exc:  # safety net: whatever it was, the rows must wait for the next try
            if not isinstance(exc, sqlite3.Error | OSError | BotError):
                log_event(logger, logging.ERROR, "journal_failed", exc_info=True)
            self._put_back(rows, exc)
        else:
            with self._lock:
                batch.is_durable = is_due
        with self._lock:
            batch.is_settled = True
            self._in_flight = 0
            self._busy_since = None
            self._last_pass_at = self._clock.monotonic()
        batch.done.set()
        self._announce()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.run_once()
            self._clock.wait(self._wake, WRITE_S_MAX)
            self._wake.clear()
        self._finish()

    def _finish(self) -> None:
        self._retry_at = self._clock.monotonic()
        self.run_once()
        with self._lock:
            self._is_running = False
        self.run_once()  # for those who came in between
        self._discard_file()

    def _take_locked(self) -> list[Row]:
        rows = [*self._replacing.values(), *self._added]
        self._replacing.clear()
        self._added.clear()
        self._in_flight = len(rows)
        return rows

    def _bring_to_disk(self, rows: list[Row], *, is_idle: bool) -> None:
        started = self._clock.monotonic()
        if self._file is None:
            self._reopen(rows)
        elif rows:
            self._file.write(rows)
        else:
            self._look_after_file(is_idle)
        ended = self._clock.monotonic()
        with self._lock:
            if rows:
                self._commits += 1
                self._last_commit_ms = (ended - started) * 1_000
            self._mirror.forget_closed(rows)
            outage, self._outage = self._outage, None
        if outage is not None:
            log_event(
                logger, logging.WARNING, "journal_recovered", down_s=ended - outage.since, records=len(rows)
            )

    def _reopen(self, rows: list[Row]) -> None:
        """Open the file anew and write all that is live and all that waits, in one transaction."""
        now = self._clock.now()
        found = identity(self.path)[0]
        if found is not None and found != self._identity[0]:
            # An older copy may hold exits as open that have long ended: it must not be taken up.
            aside = set_aside(self.path, "replaced", now)
            log_event(logger, logging.CRITICAL, "journal_replaced", path=self.path, set_aside=aside)
        try:
            self._file, _, _ = open_or_begin(
                self.path,
                account=self._account,
                now=now,
                connect=self._connect,
                migrations=self._migrations,
                is_checked_by_row=False,
            )
        finally:
            self._identity = identity(self.path)  # a file that could only be begun is ours too
        with self._lock:
            live = self._mirror.rows()
        self._file.write([*live, *rows])  # what has been told since then waits for the next pass

    def _look_after_file(self, is_idle: bool) -> None:
        file, now = self._file, self._clock.monotonic()
        if file is None or not is_idle:
            return
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            file.check_in_place()
            file.tidy_log()
            size_bytes = file.size_bytes()
            with self._lock:
                self._size_bytes = size_bytes
        elif now >= self._retention_at and file.delete_old(self._clock.now()) == 0:
            self._retention_at = now + RETENTION_S
            with self._lock:
                self._mirror.forget_old(self._clock.now())

    def _put_back(self, rows: list[Row], exc: Exception) -> None:
        trouble = explain(exc)
        self._retry_at = self._clock.monotonic() + RETRY_S
        with self._lock:
            self._set_outage_locked(trouble.why, trouble.remedy)
            old = {(row.table.name, row.key): row for row in rows if row.table.is_keyed}
            self._replacing = {**old, **self._replacing}
            self._added.extendleft(reversed([row for row in rows if not row.table.is_keyed]))
            self._bound_locked()
        self._discard_file()

    def _discard_file(self) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        try:
            file.close()
        except sqlite3.Error as exc:
            log_event(logger, logging.WARNING, "journal_close_failed", why=explain(exc).why)
