"""What the journal's tests share: records of every kind, disks that fail or hang, and a reader."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from base.model.market import BookSide, OutcomeSide
from base.model.order import EntryOrder, EntryState
from base.model.rules import ExitReason
from base.store.records import (
    AttemptOutcome,
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

T = "KXHIGHNY-26NOV22-T60"
ACCOUNT = "key-1"
DAY_S = 86_400.0


def episode(id: str = "e1", *, closed_at: float | None = None, state: str = "sending") -> EpisodeRecord:
    return EpisodeRecord(
        id=id,
        ticker=T,
        outcome_side=OutcomeSide.NO,
        reason=ExitReason.TRAILING_STOP,
        trigger_price=None,
        exit_value=Decimal("0.4100"),
        floor=Decimal("0.01"),
        entry_price=Decimal("0.60"),
        count=Decimal("10.50"),
        opened_at=1_790_000_000.25,
        state=state,
        attempts=2,
        rung=1,
        filled=Decimal("3"),
        proceeds=Decimal("1.23"),
        fees=Decimal("0.0175"),
        closed_at=closed_at,
    )


def attempt(id: str = "e1-1", *, of: str = "e1", number: int = 1, why: str = "") -> AttemptRecord:
    return AttemptRecord(
        client_order_id=id,
        episode_id=of,
        number=number,
        ticker=T,
        book_side=BookSide.BID,
        count=Decimal("10.50"),
        price=Decimal("0.59"),
        exchange_index=1,
        written_at=1_790_000_001.5,
        outcome=AttemptOutcome.ANSWERED,
        order_id="o-1",
        fill_count=Decimal("3"),
        average_yes_price=Decimal("0.5866666666666666666666666667"),
        why=why,
    )


def transition(number: int = 1, episode_id: str = "e1") -> TransitionRecord:
    return TransitionRecord(float(number), episode_id, "triggered", "sending", f"step {number}")


def rule_state(ticker: str = T) -> RuleStateRecord:
    return RuleStateRecord(ticker, OutcomeSide.YES, Decimal("0.50"), Decimal("0.90"), True, 1_790_000_000.0)


def position(ticker: str = T, count: str = "10") -> PositionRecord:
    return PositionRecord(ticker, OutcomeSide.YES, Decimal(count), Decimal("0.50"), None)


def order(id: str = "o-1") -> OrderRecord:
    return OrderRecord(id, T, Decimal("3"), Decimal("3.0"), Decimal("1.76"), Decimal("0.02"), 1.79e9)


def fill(id: str = "f-1") -> FillRecord:
    return FillRecord(
        id, "o-1", T, BookSide.ASK, Decimal("3"), Decimal("0.5866"), Decimal("0"), 1_790_000_000_123
    )


def ledger(day: str = "2026-09-21", realized: str = "-1.30") -> LedgerRecord:
    return LedgerRecord(day, Decimal(realized), Decimal("0.04"))


def decision(number: int = 1) -> DecisionRecord:
    return DecisionRecord(float(number), T, "hold", "within_rules", Decimal("0.41"), f"detail {number}")


def result(day: str = "2026-09-21") -> ResultRecord:
    return ResultRecord(f"{day}|{T}|value", day, T, "value", Decimal("-1.30"), Decimal("0.04"))


def entry(id: str = "en-1", *, state: EntryState = EntryState.RESTING) -> EntryOrder:
    return EntryOrder(
        client_order_id=id,
        ticker=T,
        outcome_side=OutcomeSide.NO,
        count=Decimal("10"),
        price=Decimal("0.41"),
        strategy="value",
        state=state,
        placed_at=1_790_000_000.5,
        filled=Decimal("2.50"),
        order_id="o-9",
        expires_at=1_790_000_600.0,
    )


def hedge(id: str = "h-1", *, ended_at: float | None = None) -> HedgeRecord:
    return HedgeRecord(id, f"{T} {T}2", OutcomeSide.YES, Decimal("5"), "riskless", 1_790_000_000.0, ended_at)


def paper(ticker: str = T) -> PaperRecord:
    return PaperRecord(ticker, Decimal("3"), Decimal("-2.50"), Decimal("0.41"), 1_790_000_000.0)


def one_of_each() -> list[Record]:
    return [
        episode(), attempt(), transition(), rule_state(), position(), order(), fill(), ledger(), decision(),
        result(), entry(), hedge(), paper(),
    ]  # fmt: skip


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    """What another program reads from the file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


@dataclass
class Disk:
    """A `connect` for the journal whose connections fail, hang or count on demand."""

    before: Callable[[str], None] = lambda sql: None
    """Called before each statement; it may raise, or wait."""
    after: Callable[[str], None] = lambda sql: None
    pages_max: int | None = None
    opened: list[sqlite3.Connection] = field(default_factory=list)

    def __call__(self, path: Path) -> sqlite3.Connection:
        disk = self

        class Watched(sqlite3.Connection):
            def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
                disk.before(sql)
                cursor = super().execute(sql, *parameters)
                disk.after(sql)
                return cursor

        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=0.1,
            isolation_level=None,
            check_same_thread=False,
            factory=Watched,
        )
        if self.pages_max is not None:
            connection.execute(f"PRAGMA max_page_count = {self.pages_max}")
        self.opened.append(connection)
        return connection

    def fail_at(self, statement: str, error: Exception) -> None:
        """Fail each statement that begins so, until `heal`."""

        def raise_at(sql: str) -> None:
            if sql.startswith(statement):
                raise error

        self.before = raise_at

    def hang_at(self, statement: str) -> threading.Event:
        """Hang at each statement that begins so, until the event returned is set."""
        released = threading.Event()

        def wait_at(sql: str) -> None:
            if sql.startswith(statement):
                assert released.wait(30.0), "nobody released the disk"

        self.before = wait_at
        return released

    def heal(self) -> None:
        self.before = self.after = lambda sql: None
        self.pages_max = None

    def fill_up(self) -> None:
        """Real SQLITE_FULL for everything that needs another page, until `heal`."""
        self.pages_max = 1  # SQLite takes the present size where that is more
        sqlite3.Connection.execute(self.opened[-1], "PRAGMA max_page_count = 1")


def disk_error(name: str = "SQLITE_IOERR_FSYNC") -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = getattr(sqlite3, name)
    error.sqlite_errorname = name
    return error


@contextmanager
def mounted(directory: Path, size: str) -> Iterator[Path]:
    """A small file system of its own; raises CalledProcessError where mounting is not allowed."""
    directory.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)], check=True, timeout=10
    )
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True, timeout=10)


def remount(directory: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(directory)], check=True, timeout=10)
