"""How the journal's file is opened: with suspicion. A damaged one is set aside, an old one migrated.

A zero-byte file is a new one: a crash between creating and filling it leaves exactly that. A zero-byte or
missing file beside a log that holds something has lost its content and counts as damaged.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from base.log import log_event
from base.store.journal_file import (
    BUSY_S_MAX,
    WAL_BYTES_MAX,
    Connect,
    Content,
    JournalFile,
    JournalUnavailable,
    columns_of,
    connect,
    explain,
    layout,
    parts,
    result_code,
    set_aside,
    sync_directory,
)
from base.store.journal_schema import MIGRATIONS, JournalDamaged, checksum
from base.store.journal_wal import commit_frames, is_header_damaged

logger = logging.getLogger(__name__)

FULL = 2  # the value of `PRAGMA synchronous` that waits for the disk at every commit
WAL_PAGES = 1_000
"""Pages in the log at which SQLite copies it into the file within a commit."""
_DAMAGE = {
    sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE,
}  # fmt: skip


def open_or_begin(
    path: Path,
    *,
    account: str,
    now: float,
    connect: Connect = connect,
    migrations: tuple[str, ...] = MIGRATIONS,
    is_checked_by_row: bool = True,
) -> tuple[JournalFile, Content, Path | None]:
    """Open the journal, or begin a new one where the file is missing, empty or damaged.

    A damaged file is set aside, and its new path is the last of what is returned. Raises
    JournalUnavailable. Without `is_checked_by_row` rows are neither checked nor read.
    """
    opening = _Opening(path, account, now, connect, migrations, is_checked_by_row)
    try:
        try:
            return *opening.run(), None
        except JournalDamaged as exc:
            log_event(
                logger, logging.CRITICAL, "journal_damaged", why=exc, path=path, set_aside=opening.set_aside,
                remedy="compare orders and positions with the exchange, and find out what damaged the file",
            )  # fmt: skip
            return *opening.run(), opening.set_aside
    except (sqlite3.Error, OSError, JournalDamaged) as exc:
        raise explain(exc) from exc


class _Opening:
    def __init__(
        self,
        path: Path,
        account: str,
        now: float,
        connect: Connect,
        migrations: tuple[str, ...],
        is_checked_by_row: bool,
    ) -> None:
        self._path = path
        self._account = account
        self._now = now
        self._connect = connect
        self._migrations = migrations
        self._is_checked_by_row = is_checked_by_row
        self.set_aside: Path | None = None

    def run(self) -> tuple[JournalFile, Content]:
        """Raises JournalDamaged after the file has been set aside."""
        connection: sqlite3.Connection | None = None
        try:
            _create_or_look_at(self._path)
            commits_at = _commits_in_log(self._path)
            connection = self._connect(self._path)
            self._check(connection, commits_at)
            self._prove(connection)
            file = JournalFile(self._path, connection)
            return file, file.read(self._now) if self._is_checked_by_row else Content((), None, 1)
        except BaseException as exc:
            is_damaged = _is_damage(exc)
            if is_damaged:
                # Renamed before it is closed: closing deletes the log, which may hold the better part.
                self.set_aside = set_aside(self._path, "damaged", self._now)
            if connection is not None:
                connection.close()
            if is_damaged and not isinstance(exc, JournalDamaged):
                raise JournalDamaged(str(exc)) from exc
            raise

    def _check(self, connection: sqlite3.Connection, commits_at: list[int]) -> None:
        execute = connection.execute
        execute(f"PRAGMA busy_timeout = {int(BUSY_S_MAX * 1000)}")
        execute("PRAGMA cell_size_check = ON")
        execute("PRAGMA mmap_size = 0")  # a file cut short under a mapping would end the process
        _set_pragma(connection, "synchronous", FULL, "FULL")
        connection.create_function("row_checksum", -1, checksum, deterministic=True)
        (verdict,) = execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise JournalDamaged(str(verdict))
        _check_log(execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1], commits_at, self._path)
        _set_pragma(connection, "journal_mode", "wal", "WAL")
        execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}")
        version = self._check_version(connection)
        if version and layout(connection) != _layout_of(self._migrations[:version]):
            raise JournalDamaged("its tables are not those of its version")
        if version and self._is_checked_by_row:
            for table, names in columns_of(connection).items():
                listed = _listed(names)
                (wrong,) = execute(
                    f"SELECT count(*) FROM {table} WHERE checksum IS NOT row_checksum('{table}', {listed})"
                ).fetchone()
                if wrong:
                    raise JournalDamaged(f"{wrong} rows of {table} do not match their checksums")
        self._migrate(connection, version)

    def _check_version(self, connection: sqlite3.Connection) -> int:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if not columns_of(connection) and version == 0:
            return 0
        meta: dict[str, str] = {}
        for key, value, found in connection.execute("SELECT key, value, checksum FROM meta"):
            if found != checksum("meta", key, value):
                raise JournalDamaged("a row of meta does not match its checksum")
            meta[key] = value
        if meta.get("schema") != str(version):
            raise JournalDamaged(f"its version is {version} in its header and {meta.get('schema')} in meta")
        if meta.get("account") is None:
            raise JournalDamaged("it names no account")
        if meta["account"] != self._account:
            raise JournalUnavailable(
                "it belongs to another account",
                "use another STATE_DIR for this account, or the right API key",
            )
        if version > len(self._migrations):
            raise JournalUnavailable(
                f"a newer version of this program has written it (schema {version}, "
                f"this one knows {len(self._migrations)})",
                "start the newer version",
            )
        return cast(int, version)

    def _migrate(self, connection: sqlite3.Connection, version: int) -> None:
        for number, script in enumerate(self._migrations[version:], version + 1):
            connection.executescript(f"BEGIN IMMEDIATE;{script}")
            if number == 1:
                created_at = datetime.fromtimestamp(self._now, UTC).isoformat()
                _put_meta(connection, account=self._account, created_at=created_at)
            for table, names in columns_of(connection).items():
                connection.execute(f"UPDATE {table} SET checksum = row_checksum('{table}', {_listed(names)})")
            _put_meta(connection, schema=str(number))
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")

    def _prove(self, connection: sqlite3.Connection) -> None:
        """Commit something: only that shows that the disk takes a write."""
        connection.execute("BEGIN IMMEDIATE")
        _put_meta(connection, opened_at=datetime.fromtimestamp(self._now, UTC).isoformat())
        connection.execute("COMMIT")


def _create_or_look_at(path: Path) -> None:
    """Make sure that there is a private regular file; its content is SQLite's to judge, but for what
    would make SQLite take damage for a missing permission."""
    log = parts(path)[1]
    is_log_filled = log.exists() and log.stat().st_size > 0
    try:
        status = path.lstat()
    except FileNotFoundError:
        if is_log_filled:
            raise JournalDamaged("its log is there and it is not") from None
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        sync_directory(path.parent)
        return
    if not stat.S_ISREG(status.st_mode):
        raise JournalUnavailable("it is not a regular file", "remove it")
    if status.st_mode & 0o077:
        path.chmod(0o600)
    if status.st_size == 0 and is_log_filled:
        raise JournalDamaged("it is empty and its log is not")
    with path.open("rb") as file:
        head = file.read(20)
    if head and (head[:16] != b"SQLite format 3\0" or head[18] not in (1, 2) or head[19] not in (1, 2)):
        raise JournalDamaged("it is not a SQLite database of a known version")


def _commits_in_log(path: Path) -> list[int]:
    log = parts(path)[1]
    if not log.exists():
        return []
    with log.open("rb") as file:
        if is_header_damaged(file):
            raise JournalDamaged("the header of its log does not match its checksum")
        return commit_frames(file)


def _check_log(frames_taken: int, commits_at: list[int], path: Path) -> None:
    """Compare how much of the log SQLite took with what is in it.

    It stops silently at the first frame that fails its checksum. A power cut leaves at most one such
    transaction, the last, which nobody was told was durable. More than that is damage.
    """
    lost = sum(1 for at in commits_at if at > frames_taken)
    if lost > 1:
        raise JournalDamaged(f"its log is broken before the last {lost} transactions")
    if lost:
        log_event(logger, logging.WARNING, "journal_tail_dropped", path=path, transactions=lost)


def _set_pragma(connection: sqlite3.Connection, name: str, wanted: str | int, value: str) -> None:
    connection.execute(f"PRAGMA {name} = {value}").fetchone()
    (found,) = connection.execute(f"PRAGMA {name}").fetchone()
    if found != wanted:
        raise JournalUnavailable(
            f"SQLite refuses {name}={value} here (it stays {found})", "move STATE_DIR to a local disk"
        )


def _layout_of(migrations: tuple[str, ...]) -> dict[str, set[tuple[object, ...]]]:
    with closing(sqlite3.connect(":memory:")) as model:
        for script in migrations:
            model.executescript(script)
        return layout(model)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _put_meta(connection: sqlite3.Connection, **values: str) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO meta (key, value, checksum) VALUES (?, ?, ?)",
        [(key, value, checksum("meta", key, value)) for key, value in values.items()],
    )


def _is_damage(exc: BaseException) -> bool:
    """Whether an error of reading says that the content is wrong, not that it cannot be reached."""
    if isinstance(exc, sqlite3.Error):
        if getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_SHORT_READ:
            return True
        code = result_code(exc)
        is_undecodable = code is None and type(exc) is sqlite3.OperationalError
        return is_undecodable or code in _DAMAGE
    # SQLite's own complaint quotes the broken text, which Python's driver then cannot decode.
    return isinstance(exc, JournalDamaged | UnicodeDecodeError)
