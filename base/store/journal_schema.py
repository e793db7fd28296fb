"""How records lie in the journal's tables: columns, a checksum for each row, and the way back. Pure.

SQLite's own checks find broken pages, not a flipped digit; the checksum does. It covers a row's values in
the order of their column names, so that a migration may add columns anywhere.
"""

from __future__ import annotations

import math
import types
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from decimal import Decimal
from enum import StrEnum
from typing import Any, Union, get_args, get_origin, get_type_hints

from base.errors import BotError
from base.model.order import EntryOrder
from base.store.records import (
    AttemptRecord,
    DecisionRecord,
    EpisodeRecord,
    FillRecord,
    HedgeRecord,
    LedgerRecord,
    OrderRecord,
    PaperRecord,
    PositionRecord,
    Record,
    ResultRecord,
    RuleStateRecord,
    TransitionRecord,
)

SqlValue = str | int | float | None

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE meta (
        key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL, checksum INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE episodes (
        id TEXT PRIMARY KEY NOT NULL, ticker TEXT NOT NULL, outcome_side TEXT NOT NULL,
        reason TEXT NOT NULL, trigger_price TEXT, exit_value TEXT NOT NULL, floor TEXT NOT NULL,
        entry_price TEXT NOT NULL, count TEXT NOT NULL, opened_at REAL NOT NULL, state TEXT NOT NULL,
        blocked_why TEXT NOT NULL, attempts INTEGER NOT NULL, rung INTEGER NOT NULL,
        zero_fills INTEGER NOT NULL, filled TEXT NOT NULL, proceeds TEXT NOT NULL, fees TEXT NOT NULL,
        outcome TEXT NOT NULL, closed_at REAL, recorded_at REAL NOT NULL, checksum INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE attempts (
        client_order_id TEXT PRIMARY KEY NOT NULL, episode_id TEXT NOT NULL, number INTEGER NOT NULL,
        ticker TEXT NOT NULL, book_side TEXT NOT NULL, count TEXT NOT NULL, price TEXT NOT NULL,
        exchange_index INTEGER, outcome TEXT NOT NULL, order_id TEXT NOT NULL, fill_count TEXT NOT NULL,
        average_yes_price TEXT, fees TEXT NOT NULL, why TEXT NOT NULL, written_at REAL NOT NULL,
        recorded_at REAL NOT NULL, checksum INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE transitions (
        seq INTEGER PRIMARY KEY NOT NULL, at REAL NOT NULL, episode_id TEXT NOT NULL,
        before TEXT NOT NULL, after TEXT NOT NULL, why TEXT NOT NULL,
        recorded_at REAL NOT NULL, checksum INTEGER NOT NULL
    );
    CREATE TABLE rule_states (
        ticker TEXT PRIMARY KEY NOT NULL, outcome_side TEXT NOT NULL, entry_price TEXT NOT NULL,
        best_exit_value TEXT, break_even_armed INTEGER NOT NULL, updated_at REAL NOT NULL,
        recorded_at REAL NOT NULL, checksum INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE positions (
        ticker TEXT PRIMARY KEY NOT NULL, outcome_side TEXT NOT NULL, count TEXT NOT NULL,
        entry_price TEXT NOT NULL, opened_at REAL, recorded_at REAL NOT NULL, checksum INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE orders (
        order_id TEXT PRIMARY KEY NOT NULL, ticker TEXT NOT NULL, from_fills TEXT NOT NULL,
        from_answer TEXT NOT NULL, value TEXT NOT NULL, fees TEXT NOT NULL, updated_at REAL NOT NULL,
        recorded_at REAL NOT NULL, checksum INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE fills (
        trade_id TEXT PRIMARY KEY NOT NULL, order_id TEXT NOT NULL, ticker TEXT NOT NULL,
        book_side TEXT NOT NULL, count TEXT NOT NULL, yes_price TEXT NOT NULL, fee TEXT NOT NULL,
        ts_ms INTEGER NOT NULL, recorded_at REAL NOT NULL, checksum INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE ledgers (
        day TEXT PRIMARY KEY NOT NULL, realized TEXT NOT NULL, fees TEXT NOT NULL,
        recorded_at REAL NOT NULL, checksum INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE decisions (
        seq INTEGER PRIMARY KEY NOT NULL, at REAL NOT NULL, ticker TEXT NOT NULL, verdict TEXT NOT NULL,
        why TEXT NOT NULL, exit_value TEXT, detail TEXT NOT NULL,
        recorded_at REAL NOT NULL, checksum INTEGER NOT NULL
    );
    """,
    """
    ALTER TABLE rule_states ADD COLUMN leave_with TEXT NOT NULL DEFAULT '';
    ALTER TABLE positions ADD COLUMN strategy TEXT NOT NULL DEFAULT '';
    ALTER TABLE orders ADD COLUMN strategy TEXT NOT NULL DEFAULT '';
    ALTER TABLE ledgers ADD COLUMN zone TEXT NOT NULL DEFAULT 'UTC';
    CREATE TABLE results (
        id TEXT PRIMARY KEY NOT NULL, day TEXT NOT NULL, ticker TEXT NOT NULL, strategy TEXT NOT NULL,
        realized TEXT NOT NULL, fees TEXT NOT NULL, recorded_at REAL NOT NULL, checksum INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE entries (
        client_order_id TEXT PRIMARY KEY NOT NULL, ticker TEXT NOT NULL, outcome_side TEXT NOT NULL,
        count TEXT NOT NULL, price TEXT NOT NULL, strategy TEXT NOT NULL, state TEXT NOT NULL,
        placed_at REAL NOT NULL, filled TEXT NOT NULL, order_id TEXT NOT NULL, expires_at REAL,
        keep_on_feed_loss INTEGER NOT NULL, why TEXT NOT NULL,
        recorded_at REAL NOT NULL, checksum INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE hedges (
        id TEXT PRIMARY KEY NOT NULL, tickers TEXT NOT NULL, outcome_side TEXT NOT NULL, count TEXT NOT NULL,
        strategy TEXT NOT NULL, made_at REAL NOT NULL, ended_at REAL,
        recorded_at REAL NOT NULL, checksum INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE paper (
        ticker TEXT PRIMARY KEY NOT NULL, taken_off TEXT NOT NULL, opened TEXT NOT NULL,
        entry_price TEXT NOT NULL, opened_at REAL, seen TEXT NOT NULL, seen_price TEXT NOT NULL,
        recorded_at REAL NOT NULL, checksum INTEGER NOT NULL
    ) WITHOUT ROWID;
    """,
)
"""Script n brings a file of version n to version n + 1. What has been published is never edited: a change
is one more script, and a new column needs a default that its record can be read back from."""

INTEGER_MAX = 2**63 - 1


class JournalDamaged(BotError):
    """The file does not hold what was written into it: set it aside, never act on it."""


@dataclass(frozen=True, slots=True)
class Column:
    """One field of a record; `encode` raises ValueError for what could not be read back."""

    name: str
    encode: Callable[[Any], SqlValue]
    decode: Callable[[Any], object]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Where records of one type go. Keyed rows replace each other; others are numbered by `seq`."""

    name: str
    record_type: type[Any]
    is_keyed: bool
    columns: tuple[Column, ...]
    names: tuple[str, ...]
    """Of all columns but the checksum, sorted."""
    insert: str
    select: str


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A record ready for its table."""

    table: Table
    key: str | int
    record: Record
    values: tuple[SqlValue, ...]
    recorded_at: float
    """Wall time at which the journal was told; a column of every table."""


def checksum(table: str, *values: SqlValue) -> int:
    """Of a row's values, in the order of their column names; also runs as SQL function `row_checksum`."""
    return zlib.crc32(repr((table, values)).encode("utf-8", "surrogatepass"))


def encode(record: Record, seq: int, recorded_at: float) -> Row:
    """Make a row. Raises ValueError when the record holds what no column takes."""
    table = TABLES[type(record)]
    by_name: dict[str, SqlValue] = {"recorded_at": _real(recorded_at)}
    for column in table.columns:
        try:
            by_name[column.name] = column.encode(getattr(record, column.name))
        except ValueError as exc:
            raise ValueError(f"{type(record).__name__}.{column.name}: {exc}") from exc
    if not table.is_keyed:
        by_name["seq"] = seq
    values = tuple([by_name[name] for name in table.names])
    key = by_name[table.columns[0].name] if table.is_keyed else seq
    assert isinstance(key, str | int)
    return Row(table, key, record, (*values, checksum(table.name, *values)), recorded_at)


def decode(table: Table, values: tuple[Any, ...]) -> Row:
    """Make a row from what `table.select` returned, checksums having been compared. Raises JournalDamaged
    for what was written whole and still means nothing."""
    by_name = dict(zip(table.names, values[:-1], strict=True))
    try:
        record = table.record_type(**{c.name: c.decode(by_name[c.name]) for c in table.columns})
    except (ValueError, TypeError, ArithmeticError) as exc:
        raise JournalDamaged(f"a row of {table.name} cannot be read: {exc}") from exc
    key = by_name[table.columns[0].name] if table.is_keyed else by_name["seq"]
    return Row(table, key, record, values, by_name["recorded_at"])


# --- columns ------------------------------------------------------------------------------------------


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"no text: {value!r}")
    # Half a surrogate pair cannot be stored: better written out than lost with all that waits beside it.
    return str(value) if value.isascii() else value.encode("utf-8", "backslashreplace").decode()


def _integer(value: object) -> int:
    if not isinstance(value, int) or abs(value) > INTEGER_MAX:
        raise ValueError(f"no 64-bit integer: {value!r}")
    return int(value)


def _real(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"no finite number: {value!r}")
    return float(value) + 0.0  # SQLite gives -0.0 back as 0.0


def _decimal(value: object) -> str:
    if not isinstance(value, Decimal) or not value.is_finite():
        raise ValueError(f"no finite decimal: {value!r}")
    return str(value)


def _read_as(kind: type[Any]) -> Callable[[object], object]:
    def read(value: object) -> object:
        if not isinstance(value, kind):
            raise TypeError(f"{value!r} is not of type {kind.__name__}")
        return value

    return read


def _read_decimal(value: object) -> Decimal:
    number = Decimal(_text(value))
    if not number.is_finite():
        raise ValueError(f"no finite decimal: {value!r}")
    return number


def _read_bool(value: object) -> bool:
    if value not in (0, 1):
        raise ValueError(f"neither 0 nor 1: {value!r}")
    return bool(value)


def _enum_writer(kind: type[StrEnum]) -> Callable[[object], str]:
    def write(value: object) -> str:
        if not isinstance(value, kind):
            raise ValueError(f"no {kind.__name__}: {value!r}")
        return value.value

    return write


def _column(name: str, hint: Any) -> Column:
    if get_origin(hint) in (Union, types.UnionType):
        (plain,) = (kind for kind in get_args(hint) if kind is not type(None))
        inner = _column(name, plain)
        return Column(
            name,
            lambda value: None if value is None else inner.encode(value),
            lambda value: None if value is None else inner.decode(value),
        )
    if issubclass(hint, StrEnum):
        return Column(name, _enum_writer(hint), hint)
    encode_kind, decode_kind = _KINDS[hint]
    return Column(name, encode_kind, decode_kind)


_KINDS: dict[type[Any], tuple[Callable[[Any], SqlValue], Callable[[Any], object]]] = {
    str: (_text, _read_as(str)),
    bool: (_integer, _read_bool),
    int: (_integer, _read_as(int)),
    float: (_real, _read_as(float)),
    Decimal: (_decimal, _read_decimal),
}


def _table(name: str, record_type: type[Any]) -> Table:
    hints = get_type_hints(record_type)
    columns = tuple(_column(f.name, hints[f.name]) for f in fields(record_type))
    is_keyed = hasattr(record_type, "key")
    names = sorted([c.name for c in columns] + ["recorded_at"] + ([] if is_keyed else ["seq"]))
    listed = ", ".join(f'"{n}"' for n in (*names, "checksum"))
    marks = ", ".join("?" * (len(names) + 1))
    return Table(
        name,
        record_type,
        is_keyed,
        columns,
        tuple(names),
        f"INSERT OR REPLACE INTO {name} ({listed}) VALUES ({marks})",
        f"SELECT {listed} FROM {name}",
    )


EPISODES = _table("episodes", EpisodeRecord)
ATTEMPTS = _table("attempts", AttemptRecord)
TRANSITIONS = _table("transitions", TransitionRecord)
RULE_STATES = _table("rule_states", RuleStateRecord)
POSITIONS = _table("positions", PositionRecord)
ORDERS = _table("orders", OrderRecord)
FILLS = _table("fills", FillRecord)
LEDGERS = _table("ledgers", LedgerRecord)
RESULTS = _table("results", ResultRecord)
ENTRIES = _table("entries", EntryOrder)
HEDGES = _table("hedges", HedgeRecord)
PAPER = _table("paper", PaperRecord)
DECISIONS = _table("decisions", DecisionRecord)

TABLES: dict[type[Any], Table] = {
    table.record_type: table
    for table in (
        EPISODES, ATTEMPTS, TRANSITIONS, RULE_STATES, POSITIONS, ORDERS, FILLS, LEDGERS, RESULTS, ENTRIES,
        HEDGES, PAPER, DECISIONS,
    )
}  # fmt: skip
