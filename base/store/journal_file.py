"""The journal's file as one thread holds it: written in whole transactions, thrown away after an error."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import cast

from base.errors import BotError
from base.store.journal_mirror import RECENT_S, first_day
from base.store.journal_schema import (
    ATTEMPTS,
    ENTRIES,
    EPISODES,
    FILLS,
    HEDGES,
    LEDGERS,
    ORDERS,
    PAPER,
    POSITIONS,
    RESULTS,
    RULE_STATES,
    Row,
    Table,
    decode,
)
from base.store.records import EpisodeRecord

Connect = Callable[[Path], sqlite3.Connection]

BUSY_S_MAX = 0.5
"""So long another program may hold the file before that counts as trouble."""
WAL_BYTES_IDLE = 256 * 1024
"""Bytes in the log above which it is copied when nobody waits."""
WAL_BYTES_MAX = 8 * 1024 * 1024
"""Above this the log is cut. Below, it is written over: that commits in half the time of growing it."""
KEPT_S = 30 * 86_400.0
RESULTS_KEPT_S = 366 * 86_400.0
ADDED_KEPT_MAX = 100_000
"""Newest transitions, and decisions, kept whatever their age: all rows are checked at each start."""
ENDED_MAX = 50
"""Exits that are over, told to a new start."""
DELETED_MAX = 500
"""Rows of a table that one step deletes."""

_REMEDIES = {
    sqlite3.SQLITE_FULL: "free disk space",
    sqlite3.SQLITE_READONLY: "make the file, its directory and the file system writable for this user",
    sqlite3.SQLITE_PERM: "make the file and its directory writable for this user",
    sqlite3.SQLITE_CANTOPEN: "see that its directory exists and is writable, and that files may be opened",
    sqlite3.SQLITE_BUSY: "close the other program that holds the journal open",
    sqlite3.SQLITE_LOCKED: "close the other program that holds the journal open",
    sqlite3.SQLITE_IOERR: "look for disk errors and quotas in the system log, replace the disk if it fails",
}
_REMEDIES_BY_ERRNO = {
    errno.ENOSPC: "free disk space",
    errno.EDQUOT: "free disk space: the quota is used up",
    errno.EROFS: "make the file system writable",
    errno.EACCES: "make the file and its directory writable for this user",
    errno.EPERM: "make the file and its directory writable for this user",
    errno.ENOENT: "create its directory",
    errno.EMFILE: "raise the limit of open files",
}
_REMEDY = "look into the system log for the cause"

Identity = tuple[tuple[int, int] | None, tuple[int, int] | None]


class JournalUnavailable(BotError):
    """The file cannot be used as things stand; nothing is wrong with what it holds."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(f"{why}; {remedy}")
        self.why = why
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Content:
    """What an opened file holds."""

    rows: tuple[Row, ...]
    """Live ones, oldest first."""
    written_at: float | None
    next_seq: int
    ended: tuple[EpisodeRecord, ...] = ()
    """The last exits that are closed, oldest first."""


def explain(exc: BaseException) -> JournalUnavailable:
    """What went wrong and what to do about it."""
    if isinstance(exc, JournalUnavailable):
        return exc
    if isinstance(exc, sqlite3.Error):
        name = getattr(exc, "sqlite_errorname", "")
        return JournalUnavailable(
            f"{exc} ({name})" if name else str(exc), _REMEDIES.get(result_code(exc) or 0, _REMEDY)
        )
    if isinstance(exc, OSError):
        return JournalUnavailable(exc.strerror or str(exc), _REMEDIES_BY_ERRNO.get(exc.errno or 0, _REMEDY))
    if isinstance(exc, BotError):
        return JournalUnavailable(str(exc), _REMEDY)
    return JournalUnavailable(f"{type(exc).__name__}: {exc}", _REMEDY)


def connect(path: Path) -> sqlite3.Connection:
    """Connect to a file that exists. The opening thread hands the connection on to the writer."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=BUSY_S_MAX,
        isolation_level=None,
        check_same_thread=False,
    )


class JournalFile:
    """One connection, used by one thread at a time. After an error it is not trusted again: close it."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self.identity = identity(path)

    def write(self, rows: Iterable[Row]) -> None:
        """Bring rows to disk, all or none. The same rows may be written again."""
        self.check_in_place()
        values: dict[str, list[Sequence[object]]] = {}
        for row in rows:
            values.setdefault(row.table.insert, []).append(row.values)
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        for insert, batch in values.items():
            if len(batch) == 1:
                execute(insert, batch[0])
            else:
                self._connection.executemany(insert, batch)
        execute("COMMIT")

    def check_in_place(self) -> None:
        """Raise JournalUnavailable when the path has come to mean another file, or none."""
        if identity(self.path) != self.identity:
            raise JournalUnavailable(
                "the file or its log was deleted or replaced", "leave the state directory alone"
            )

    def size_bytes(self) -> int:
        """Of the file and its log."""
        return sum(part.stat().st_size for part in parts(self.path)[:2] if part.exists())

    def tidy_log(self) -> None:
        """Copy a long log into the file, and cut one that has grown too long. Waits for no reader."""
        log = parts(self.path)[1]
        size = log.stat().st_size if log.exists() else 0
        if size > WAL_BYTES_IDLE:
            self._connection.execute("PRAGMA busy_timeout = 0")
            mode = "TRUNCATE" if size > WAL_BYTES_MAX else "PASSIVE"
            self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
            self._connection.execute(f"PRAGMA busy_timeout = {int(BUSY_S_MAX * 1000)}")

    def delete_old(self, now: float) -> int:
        """Delete a few rows that are too old; return how many, 0 when none are left. `now` is wall time."""
        before = now - KEPT_S
        gone = "CAST(count AS REAL) = 0.0"
        deleted = self._delete("episodes", "id", "closed_at IS NOT NULL AND recorded_at < ?", before)
        deleted += self._delete("entries", "client_order_id", "state = 'done' AND recorded_at < ?", before)
        deleted += self._delete("hedges", "id", "ended_at IS NOT NULL AND recorded_at < ?", before)
        deleted += self._delete("results", "id", "recorded_at < ?", now - RESULTS_KEPT_S)
        nothing = "CAST(taken_off AS REAL) = 0.0 AND CAST(opened AS REAL) = 0.0"
        deleted += self._delete("paper", "ticker", f"recorded_at < ? AND {nothing}", before)
        for table, key in (("attempts", "client_order_id"), ("transitions", "seq")):
            orphaned = "recorded_at < ? AND episode_id NOT IN (SELECT id FROM episodes)"
            deleted += self._delete(table, key, orphaned, before)
        for table, key in (("orders", "order_id"), ("fills", "trade_id"), ("decisions", "seq")):
            deleted += self._delete(table, key, "recorded_at < ?", before)
        for table in ("transitions", "decisions"):
            beyond = f"seq <= (SELECT seq FROM {table} ORDER BY seq DESC LIMIT 1 OFFSET ?)"
            deleted += self._delete(table, "seq", beyond, ADDED_KEPT_MAX)
        held = f"SELECT ticker FROM positions WHERE NOT {gone}"
        deleted += self._delete(
            "rule_states", "ticker", f"recorded_at < ? AND ticker NOT IN ({held})", before
        )
        deleted += self._delete("positions", "ticker", f"recorded_at < ? AND {gone}", before)
        return deleted

    def _delete(self, table: str, key: str, where: str, parameter: float) -> int:
        chosen = f"SELECT {key} FROM {table} WHERE {where} LIMIT {DELETED_MAX}"
        return self._connection.execute(
            f"DELETE FROM {table} WHERE {key} IN ({chosen})", (parameter,)
        ).rowcount

    def read(self, now: float) -> Content:
        """Read what a new start needs. Raises JournalDamaged."""
        open_episodes = self._rows(EPISODES, "closed_at IS NULL")
        rows = [
            *self._rows(ATTEMPTS, "episode_id IN (SELECT id FROM episodes WHERE closed_at IS NULL)"),
            *self._rows(RULE_STATES),
            *(r for r in self._rows(POSITIONS) if getattr(r.record, "count", 0) != 0),
            *self._rows(ORDERS, "recorded_at >= ?", now - RECENT_S),
            *self._rows(FILLS, "recorded_at >= ?", now - RECENT_S),
            *self._rows(LEDGERS, "day >= ?", first_day(now)),
            *self._rows(RESULTS, "day >= ?", first_day(now)),
            *self._rows(ENTRIES, "state <> 'done'"),
            *self._rows(HEDGES, "ended_at IS NULL"),
            *self._rows(PAPER),
        ]
        rows.sort(key=lambda row: row.recorded_at)
        written_at, last_seq = None, 0
        for table, names in columns_of(self._connection).items():
            if "recorded_at" in names:
                (newest,) = self._connection.execute(f"SELECT max(recorded_at) FROM {table}").fetchone()
                written_at = newest if written_at is None else max(written_at, newest or written_at)
            if "seq" in names:
                (seq,) = self._connection.execute(f"SELECT max(seq) FROM {table}").fetchone()
                last_seq = max(last_seq, seq or 0)
        return Content((*open_episodes, *rows), written_at, last_seq + 1, self._ended(now))

    def _ended(self, now: float) -> tuple[EpisodeRecord, ...]:
        last = f"closed_at >= ? ORDER BY closed_at DESC LIMIT {ENDED_MAX}"
        rows = self._rows(EPISODES, last, now - RECENT_S)
        return tuple(cast(EpisodeRecord, row.record) for row in reversed(rows))

    def _rows(self, table: Table, where: str = "1", *parameters: object) -> list[Row]:
        found = self._connection.execute(f"{table.select} WHERE {where}", parameters)
        return [decode(table, values) for values in found]

    def close(self) -> None:
        """Close, which copies the log into the file when the disk takes it."""
        self._connection.close()


# --- paths and errors ---------------------------------------------------------------------------------


def identity(path: Path) -> Identity:
    """Device and inode of the file and of its log; None where there is none."""
    file, log, _ = (_inode(part) for part in parts(path))
    return file, log


def delete(path: Path) -> None:
    """Delete the journal with its log, if it is there. Raises JournalUnavailable."""
    try:
        if path.exists() and not path.is_file():
            raise JournalUnavailable("it is not a regular file", "remove it")
        for part in parts(path):
            part.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as exc:
        raise explain(exc) from exc


def set_aside(path: Path, label: str, now: float) -> Path:
    """Rename the file, its log and its index to a dated name; return it."""
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    names = (path.with_name(f"{path.name}.{label}-{stamp}-{number}") for number in count(1))
    new = next(name for name in names if not any(part.exists() for part in parts(name)))
    for part, new_part in zip(parts(path), parts(new), strict=True):
        if part.exists():
            part.rename(new_part)
    sync_directory(path.parent)
    return new


def parts(path: Path) -> tuple[Path, Path, Path]:
    return path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def layout(connection: sqlite3.Connection) -> dict[str, set[tuple[object, ...]]]:
    """What is defined, by name: its kind, and names, types and keys of its columns."""
    defined = connection.execute("SELECT name, type FROM sqlite_master").fetchall()
    columns = 'SELECT name, type, "notnull", pk FROM pragma_table_info(?)'
    return {name: {(kind,), *connection.execute(columns, (name,))} for name, kind in defined}


def columns_of(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """Tables with their columns but the checksum, sorted."""
    return {
        table: sorted(str(column[0]) for column in columns if len(column) > 1 and column[0] != "checksum")
        for table, columns in layout(connection).items()
    }


def result_code(exc: sqlite3.Error) -> int | None:
    """Primary result code; None where Python and not SQLite has raised."""
    code = getattr(exc, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
