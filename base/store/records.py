"""What the journal remembers, one frozen value a row. Prices and counts are exact decimals.

`key` says which row of its table a value replaces; what has no key is only ever added.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

from base.model.market import ZERO, BookSide, OutcomeSide
from base.model.order import EntryOrder
from base.model.position import Fill
from base.model.rules import ExitReason


class AttemptOutcome(StrEnum):
    """What is known of one order of an exit."""

    OPEN = "open"
    """Written before it left: it may or may not have been sent, and may have acted."""
    ANSWERED = "answered"
    """The exchange said what it filled."""
    REFUSED = "refused"
    """The exchange refused it, or it was never sent: it did not act and will not."""
    GIVEN_UP = "given_up"
    """Its outcome could not be found out; a fresh read of the position decides."""


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """One exit. `state` and `blocked_why` are the words of `base/execution/episode.py`; times are wall."""

    id: str
    ticker: str
    outcome_side: OutcomeSide
    reason: ExitReason
    trigger_price: Decimal | None
    exit_value: Decimal
    floor: Decimal
    entry_price: Decimal
    """Of the position when it was triggered: what its fills are judged by."""
    count: Decimal
    """Held when it was triggered."""
    opened_at: float
    state: str
    blocked_why: str = ""
    attempts: int = 0
    rung: int = 0
    zero_fills: int = 0
    filled: Decimal = ZERO
    proceeds: Decimal = ZERO
    fees: Decimal = ZERO
    outcome: str = ""
    closed_at: float | None = None

    @property
    def key(self) -> str:
        return self.id


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One order of an exit, written before it leaves. `price` is the YES-leg limit."""

    client_order_id: str
    episode_id: str
    number: int
    ticker: str
    book_side: BookSide
    count: Decimal
    price: Decimal
    exchange_index: int | None
    written_at: float
    outcome: AttemptOutcome = AttemptOutcome.OPEN
    order_id: str = ""
    fill_count: Decimal = ZERO
    average_yes_price: Decimal | None = None
    fees: Decimal = ZERO
    why: str = ""

    @property
    def key(self) -> str:
        return self.client_order_id


@dataclass(frozen=True, slots=True)
class TransitionRecord:
    """One step of an exit's state machine; only added."""

    at: float
    episode_id: str
    before: str
    after: str
    why: str


@dataclass(frozen=True, slots=True)
class RuleStateRecord:
    """What the rules remember of a position. It is taken up again only for the same side and entry."""

    ticker: str
    outcome_side: OutcomeSide
    entry_price: Decimal
    best_exit_value: Decimal | None
    break_even_armed: bool
    updated_at: float
    leave_with: str = ""
    """Why it goes with another position of its event, "" when it does not."""

    @property
    def key(self) -> str:
        return self.ticker


@dataclass(frozen=True, slots=True)
class PositionRecord:
    """What was held when it was last known; never the truth, only what a new start compares with.

    `count` 0 says that the position is gone.
    """

    ticker: str
    outcome_side: OutcomeSide
    count: Decimal
    entry_price: Decimal
    opened_at: float | None
    strategy: str = ""
    """Whose entry opened it; "" when it was opened elsewhere."""

    @property
    def key(self) -> str:
        return self.ticker


@dataclass(frozen=True, slots=True)
class OrderRecord:
    """How much of an order has been counted and booked, so that nothing counts twice after a restart."""

    order_id: str
    ticker: str
    from_fills: Decimal
    from_answer: Decimal
    value: Decimal
    """YES-leg dollars of what has been booked."""
    fees: Decimal
    updated_at: float
    strategy: str = ""
    """Whose result it is."""

    @property
    def key(self) -> str:
        return self.order_id


@dataclass(frozen=True, slots=True)
class FillRecord:
    """One execution of the account, known by its trade id."""

    trade_id: str
    order_id: str
    ticker: str
    book_side: BookSide
    count: Decimal
    yes_price: Decimal
    fee: Decimal
    ts_ms: int

    @classmethod
    def of(cls, fill: Fill) -> FillRecord:
        return cls(
            trade_id=fill.trade_id,
            order_id=fill.order_id,
            ticker=fill.ticker,
            book_side=fill.book_side,
            count=fill.count,
            yes_price=fill.yes_price,
            fee=fill.fee,
            ts_ms=fill.ts_ms,
        )

    @property
    def key(self) -> str:
        return self.trade_id


@dataclass(frozen=True, slots=True)
class LedgerRecord:
    """Realized money of one trading day, without and with the exchange's fees; dollars."""

    day: str
    realized: Decimal
    fees: Decimal
    zone: str = "UTC"
    """The time zone that the day is of."""

    @property
    def key(self) -> str:
        return self.day


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """Realized money of one trading day in one market for one strategy ("" for what was opened
    elsewhere), without fees, and the exchange's fees; dollars."""

    id: str
    """Day, market ticker and strategy, separated by `|`."""
    day: str
    ticker: str
    strategy: str
    realized: Decimal
    fees: Decimal

    @property
    def key(self) -> str:
        return self.id


@dataclass(frozen=True, slots=True)
class HedgeRecord:
    """Positions that together cannot lose, bought as one: while all of `tickers` are held with `count`
    contracts each of `outcome_side`, no stop leaves any of them. `ended_at` says that this is over."""

    id: str
    tickers: str
    """Separated by spaces."""
    outcome_side: OutcomeSide
    count: Decimal
    strategy: str
    made_at: float
    ended_at: float | None = None

    @property
    def key(self) -> str:
        return self.id


@dataclass(frozen=True, slots=True)
class PaperRecord:
    """What the paper account holds of one market beside the exchange's word: `taken_off` contracts of the
    exchange's position were sold here, and `opened` (above 0 is YES) are held only here, for
    `entry_price` dollars of their side each.

    The row without a ticker is its money: `entry_price` dollars that it has more than the exchange's
    account, and `opened` is 1.
    """

    ticker: str
    taken_off: Decimal
    opened: Decimal
    entry_price: Decimal
    opened_at: float | None
    seen: Decimal = ZERO
    """The exchange's position (above 0 is YES) of which `taken_off` was sold, as it was last seen."""
    seen_price: Decimal = ZERO
    """What a contract of it had cost."""

    @property
    def key(self) -> str:
        return self.ticker


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """A verdict on one position that differs from the one before; only added."""

    at: float
    ticker: str
    verdict: str
    why: str
    exit_value: Decimal | None
    detail: str = ""


Record = (
    EpisodeRecord
    | AttemptRecord
    | TransitionRecord
    | RuleStateRecord
    | PositionRecord
    | OrderRecord
    | FillRecord
    | LedgerRecord
    | ResultRecord
    | EntryOrder
    | HedgeRecord
    | PaperRecord
    | DecisionRecord
)


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a new start takes up from the journal."""

    episodes: tuple[EpisodeRecord, ...] = ()
    """Those that are not closed, oldest first."""
    attempts: tuple[AttemptRecord, ...] = ()
    """All attempts of those episodes, in order."""
    rule_states: tuple[RuleStateRecord, ...] = ()
    positions: tuple[PositionRecord, ...] = ()
    """With a count above 0."""
    orders: tuple[OrderRecord, ...] = ()
    """Of the last two days."""
    fills: tuple[FillRecord, ...] = ()
    """Of the last two days."""
    ledgers: tuple[LedgerRecord, ...] = ()
    """Of the last week, oldest first."""
    results: tuple[ResultRecord, ...] = ()
    """Of the last week, oldest day first."""
    entries: tuple[EntryOrder, ...] = ()
    """Those that may still fill, oldest first."""
    hedges: tuple[HedgeRecord, ...] = ()
    """Those that have not ended."""
    paper: tuple[PaperRecord, ...] = ()
    written_at: float | None = None
    """Wall time of the newest write, None for a new journal."""
    ended: tuple[EpisodeRecord, ...] = ()
    """The last exits of the last two days that are closed, oldest first: for people, nothing acts on them."""


class Recorder(Protocol):
    """Where records go; the journal, or nothing. Any thread may call it."""

    def write(self, records: Iterable[Record]) -> None:
        """Hand records over and return at once; they are on disk within a second."""

    def commit(self, records: Iterable[Record]) -> bool:
        """Return when they are on disk; False when they could not be brought there in time, which must
        not keep an exit from going out. They are written as soon as the disk takes them again."""


class NoRecorder:
    """Remembers nothing: for commands that run once, and for tests."""

    def write(self, records: Iterable[Record]) -> None:
        """Nothing is kept."""

    def commit(self, records: Iterable[Record]) -> bool:
        """Nothing is kept, and nobody waits for it."""
        return True
