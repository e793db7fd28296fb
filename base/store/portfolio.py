"""The positions that all threads share, lock-guarded; the exchange's word is the truth, made prompt.

Three sources tell of one change: the answer to our order, the `fill` message, and the next complete
read. Each contract must count once, and reads lag writes, so:
- fills are known by trade id, and per order the larger of "sum of its fills" and "what its answer said"
  has been applied;
- a `fill` says the position after it, which wins when it is newer than what is applied; a `fill` that
  comes late is part of the newer one's position already;
- what a read means is judged by `reconcile.py`, on a view of what is known here; a market that changes
  between the view and the correction is left to the next read. A failed read never gets here.

The money is kept by `books.py`: what is booked late moves no position, and a `fill` whose money is
booked may still have to.

What must survive a restart is written to the recorder, in order and outside the lock.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, tzinfo
from decimal import Decimal

from base.clock import Clock
from base.model.events import PositionUpdate
from base.model.market import ZERO, BookSide, OutcomeSide
from base.model.order import entry_book_side, to_yes_leg
from base.model.position import Fill, Position
from base.store.books import Books, OrderCount, Owners, price_or_entry
from base.store.day_results import Ledger
from base.store.realized import Payout, Step
from base.store.reconcile import (
    AGREEMENT_S,
    READ_LAG_S,
    Correction,
    CorrectionKind,
    KnownMarket,
    compare,
)
from base.store.records import (
    NoRecorder,
    PositionRecord,
    Record,
    Recorder,
    Remembered,
)

__all__ = ["AGREEMENT_S", "READ_LAG_S", "Change", "HeldRead", "Ledger", "Portfolio"]

UNSHOWN_READ_S = 2.0
"""How soon it is read again when a read does not show what was held before a restart."""
TOLD_S_MAX = 5.0
"""So long after a `market_position` message the fills that led to it may still come."""
REMEMBERED_MAX = 20_000
"""Trade, order and client order ids remembered; older ones are forgotten first."""
SAME_ENTRY = Decimal("0.000001")
"""A read tells an entry with six decimals: one known from fills that is the same to within this is the more
exact one."""


@dataclass(frozen=True, slots=True)
class Change:
    """What one message or read changed: `before` or `after` is None where nothing was or is held."""

    ticker: str
    before: Position | None
    after: Position | None
    why: str

    @property
    def is_opened(self) -> bool:
        return self.before is None and self.after is not None

    @property
    def is_closed(self) -> bool:
        return self.before is not None and self.after is None


NO_TICKER = "?"


@dataclass(frozen=True, slots=True)
class HeldRead:
    """One complete read of what is held, by ticker; `unreadable` names positions that are there and whose
    row cannot be proved, `NO_TICKER` where not even that can be read."""

    positions: Mapping[str, Position]
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Told:
    """A change that a `market_position` message told: signed counts, monotonic time."""

    before: Decimal
    after: Decimal
    at: float


@dataclass(slots=True)
class _Order:
    """What the position knows of one order's executions."""

    applied: OrderCount = field(default_factory=OrderCount)
    unseen: Decimal = ZERO
    """Contracts that a `post_position` held already although no source has reported them yet."""
    last_post: Decimal | None = None


class Portfolio:
    """Positions by market ticker; thread-safe. Prices are dollars of the held side, counts contracts."""

    def __init__(
        self,
        clock: Clock,
        recorder: Recorder | None = None,
        zone: tzinfo = UTC,
        *,
        is_listed_elsewhere: bool = True,
    ) -> None:
        """`zone` says when the trading day begins; `is_listed_elsewhere` that an exchange lists its fills."""
        self._clock = clock
        self._recorder: Recorder = recorder if recorder is not None else NoRecorder()
        self._lock = threading.Lock()  # guards the fields below; never held during I/O or callbacks
        self._positions: dict[str, Position] = {}
        self._epochs: dict[str, int] = {}
        self._changed_at: dict[str, float] = {}
        self._post_ts_ms: dict[str, int] = {}  # of the newest `post_position` applied
        self._answer_ts_ms: dict[str, int] = {}  # of the newest answer applied
        self._in_flight: dict[str, str] = {}  # client order id -> ticker: answers awaited
        self._last_read_at: float | None = None
        self._told: dict[str, _Told] = {}
        self._was_skipped = False
        self._judged_before: dict[str, float | None] = {}  # markets that the newest read said nothing of
        self._missing_since: dict[str, float] = {}  # held here, and missing from reads since then
        self._versions: dict[str, int] = {}  # grows with whatever a comparison must not overlook
        self._trades: OrderedDict[str, None] = OrderedDict()  # that the position knows of
        self._orders: OrderedDict[str, _Order] = OrderedDict()
        self._books = Books(zone, is_listed_elsewhere=is_listed_elsewhere)
        self._sent: OrderedDict[str, None] = OrderedDict()  # client order ids of ours
        self._remembered: dict[str, PositionRecord] = {}  # held before a restart, not yet seen again
        self._gone_since: dict[str, float] = {}  # of those, what reads have not shown since then
        self._last_held: dict[str, PositionRecord] = {}  # the newest record of each that was held
        self._held_before: dict[str, PositionRecord] = {}  # when the last run ended
        self._entry_fees: dict[str, Decimal] = {}  # of what is held, where its executions tell them
        self._noted: OrderedDict[str, str] = OrderedDict()  # market -> strategy of its newest entry of ours
        self._entering: set[str] = set()  # of those, where nothing has been held since that was left
        self._unclaimed: set[str] = set()  # positions that appeared while nobody told which order opened them
        self._outbox: list[Record] = []
        self._is_handing_over = False
        self._is_loaded = False

    # --- readers ------------------------------------------------------------------------------------

    def positions(self) -> dict[str, Position]:
        """All positions, as they are at one moment."""
        with self._lock:
            return dict(self._positions)

    def get(self, ticker: str) -> Position | None:
        with self._lock:
            return self._positions.get(ticker)

    def epoch(self, ticker: str) -> int:
        """Number that changes when a position is opened anew or flips; rules start afresh with it."""
        with self._lock:
            return self._epochs.get(ticker, 0)

    @property
    def is_loaded(self) -> bool:
        """Whether one complete read has been taken in."""
        with self._lock:
            return self._is_loaded

    @property
    def unseen(self) -> tuple[str, ...]:
        """Markets that were held before a restart and that no read has shown since, the first included."""
        with self._lock:
            return tuple(sorted(self._remembered))

    @property
    def unshown(self) -> tuple[str, ...]:
        """Markets that were held before a restart and that no read has shown since: one read, or several
        of one bad moment, do not prove them gone. Empty before the first read."""
        with self._lock:
            return tuple(sorted(self._remembered)) if self._is_loaded else ()

    def next_read_s(self) -> float | None:
        """In how many seconds another read has to judge what the last one could not; None: no hurry."""
        with self._lock:
            if self._remembered:
                return UNSHOWN_READ_S
            if self._was_skipped:
                return READ_LAG_S + 0.1
            return AGREEMENT_S + 0.1 if self._missing_since else None

    @property
    def last_read_at(self) -> float | None:
        """Monotonic time at which the newest complete read left, None before the first."""
        with self._lock:
            return self._last_read_at

    def judged_at(self, ticker: str) -> float | None:
        """Monotonic time at which the newest complete read left that had a say on this market: one that
        was skipped for it, because an answer was awaited or a change too fresh, says nothing of it."""
        with self._lock:
            return self._judged_before.get(ticker, self._last_read_at)

    def is_doubted(self, ticker: str) -> bool:
        """Whether the newest complete read did not show this position; the next one decides."""
        with self._lock:
            return ticker in self._missing_since

    def ledger(self) -> Ledger:
        with self._lock:
            return self._books.ledger(self._clock.now())

    def was_sent(self, client_order_id: str) -> bool:
        """Whether an order with this id left from here, as far back as is remembered."""
        with self._lock:
            return client_order_id in self._sent

    def last_entry(self, ticker: str, side: OutcomeSide) -> Decimal | None:
        """What a contract cost when `side` of this market was last held, None when it never was."""
        with self._lock:
            last = self._last_held.get(ticker)
            return last.entry_price if last is not None and last.outcome_side is side else None

    def entry_before(self, ticker: str, signed: Decimal) -> Decimal | None:
        """What a contract had cost when the last run ended, if exactly `signed` of them were held then."""
        with self._lock:
            last = self._held_before.get(ticker)
        if last is None or last.count != abs(signed):
            return None
        return last.entry_price if (last.outcome_side is OutcomeSide.YES) == (signed > 0) else None

    def compared_state(self) -> dict[str, KnownMarket]:
        """What a comparison with a read needs, as it is at one moment."""
        with self._lock:
            awaited = set(self._in_flight.values())
            return {
                ticker: KnownMarket(
                    self._positions.get(ticker),
                    self._versions.get(ticker, 0),
                    self._changed_at.get(ticker),
                    ticker in awaited,
                    self._missing_since.get(ticker),
                )
                for ticker in {*self._positions, *self._changed_at, *self._versions, *awaited}
            }

    # --- writers ------------------------------------------------------------------------------------

    def restore(self, remembered: Remembered) -> None:
        """Take up what a journal remembers; before the first read, and before any thread starts.

        Positions are not among it: what is held, the exchange says. Since when it is held, the first
        read that shows the same side takes from here.
        """
        with self._lock:
            self._books.restore(remembered, self._clock.now())
            for record in remembered.orders:
                self._order_locked(record.order_id).applied = OrderCount(
                    record.from_fills, record.from_answer
                )
            for fill in remembered.fills:
                self._know_trade_locked(fill.trade_id)
            for attempt in remembered.attempts:
                self._note_sent_locked(attempt.client_order_id)
            for entry in remembered.entries:
                self._note_sent_locked(entry.client_order_id)
                self._note_entry_locked(entry.ticker, entry.strategy)
            for ticker, traded_at in _last_trades(remembered).items():
                # A read that leaves at once may not show yet what was sold just before the restart.
                age_s = max(0.0, self._clock.now() - traded_at)
                if age_s < READ_LAG_S:
                    self._changed_at[ticker] = self._clock.monotonic() - age_s
            held = {p.ticker: p for p in remembered.positions if p.count > 0}
            self._remembered, self._last_held, self._held_before = dict(held), dict(held), held

    def note_entry(self, ticker: str, strategy: str) -> None:
        """An entry of this strategy is about to leave, into a market where nothing is held or what is held
        is the strategy's: what it opens is the strategy's, however that is learned."""
        with self._lock:
            self._note_entry_locked(ticker, strategy)

    def order_left(self, ticker: str, client_order_id: str) -> None:
        """An order is about to leave: until it is settled, reads say nothing about this ticker."""
        with self._lock:
            self._in_flight[client_order_id] = ticker
            self._note_sent_locked(client_order_id)
            self._touch_locked(ticker)

    def order_settled(self, client_order_id: str) -> None:
        """The order's outcome has been taken in, or given up."""
        with self._lock:
            ticker = self._in_flight.pop(client_order_id, None)
            if ticker is not None:
                self._touch_locked(ticker)

    def apply_fill(self, fill: Fill) -> Change | None:
        """Take in a `fill` message; None when it was known or changed nothing."""
        with self._lock:
            change = self._apply_fill_locked(fill)
        self._hand_over()
        return change

    def _apply_fill_locked(self, fill: Fill) -> Change | None:
        if fill.subaccount != 0 or fill.trade_id in self._trades:
            return None
        self._know_trade_locked(fill.trade_id)
        if self._is_ours_locked(fill):
            self._claim_locked(fill.ticker, fill.book_side, self._noted.get(fill.ticker, ""))
        if self._is_loaded:
            opener = self._opener_locked(fill.ticker, self._is_ours_locked(fill))
            self._books.book_fill(fill, self._positions.get(fill.ticker), self._clock.now(), opener)
        # Else nobody knows what it closes: it is found among the day's fills (`book_missed`).
        order = self._order_locked(fill.order_id)
        fresh = order.applied.add_fill(fill.count)
        if fresh <= 0:
            # The order's answer told of it: its `post_position` may be a step on the way there.
            return None
        target = self._position_after_locked(fill, order, fresh)
        return self._set_locked(
            fill.ticker,
            target,
            fill.yes_price,
            "fill",
            fill.exchange_index,
            is_ours=self._is_ours_locked(fill),
            fee_each=fill.fee / fill.count,
        )

    def _position_after_locked(self, fill: Fill, order: _Order, fresh: Decimal) -> Decimal:
        """The signed count after a fill of which `fresh` contracts are news."""
        before = self._positions.get(fill.ticker)
        signed = before.signed_count if before is not None else ZERO
        direction = 1 if fill.book_side is BookSide.BID else -1
        post = fill.post_position
        if post is None:
            return signed + direction * fresh
        if self._is_told_locked(fill.ticker, post, direction):
            return signed  # a step on the way to what a `market_position` message has already told
        is_late = fill.ts_ms < self._post_ts_ms.get(fill.ticker, 0) or (
            # Fills of one order go one way, which also orders those of the same millisecond.
            order.last_post is not None and direction * (post - order.last_post) < 0
        )
        if is_late:
            order.unseen = max(ZERO, order.unseen - fill.count)
            return signed
        if fill.ts_ms < self._answer_ts_ms.get(fill.ticker, 0):
            return signed + direction * fresh  # of another order, from before the one answered since
        self._post_ts_ms[fill.ticker] = fill.ts_ms
        order.last_post = post
        order.unseen += max(ZERO, direction * (post - signed) - fresh)
        return post

    def _is_told_locked(self, ticker: str, post: Decimal, direction: int) -> bool:
        """Whether a fill that leads to `post` is part of a change that came by `market_position` first."""
        told = self._told.get(ticker)
        if told is None or self._clock.monotonic() - told.at > TOLD_S_MAX:
            return False
        moved, left = (post - told.before) * direction, (told.after - post) * direction
        return moved > 0 and left >= 0

    def apply_answer(
        self,
        ticker: str,
        order_id: str,
        book_side: BookSide,
        fill_count: Decimal,
        average_yes_price: Decimal | None,
        fees: Decimal,
        ts_ms: int = 0,
        *,
        reduce_only: bool = False,
    ) -> Change | None:
        """Take in how much of an order has filled in all, from its answer or a look-up.

        A `reduce_only` order never opens or flips a position, whatever was known of it before.
        """
        with self._lock:
            if fill_count > 0 and not reduce_only:
                self._claim_locked(ticker, book_side, self._noted.get(ticker, ""))
            before = self._positions.get(ticker)
            told_price = self._books.book_answer(
                order_id,
                ticker,
                before,
                book_side,
                fill_count,
                average_yes_price,
                fees,
                self._clock.now(),
                ts_ms=ts_ms,
                opener=self._owner_locked(ticker) if reduce_only else self._noted.get(ticker, ""),
            )
            order = self._order_locked(order_id)
            change = None
            fresh = order.applied.take_answer(fill_count)
            if fresh > 0:
                # The answer's average is of the whole order: what its fills have told is not news.
                price = told_price if told_price is not None else price_or_entry(average_yes_price, before)
                signed = before.signed_count if before is not None else ZERO
                direction = 1 if book_side is BookSide.BID else -1
                moved = max(ZERO, fresh - order.unseen)
                order.unseen = max(ZERO, order.unseen - fresh)
                if reduce_only:
                    moved = min(moved, max(ZERO, -direction * signed))
                self._answer_ts_ms[ticker] = max(self._answer_ts_ms.get(ticker, 0), ts_ms)
                change = self._set_locked(
                    ticker,
                    signed + direction * moved,
                    price,
                    "order",
                    None,
                    is_ours=True,
                    fee_each=fees / fill_count,
                )
        self._hand_over()
        return change

    def book_answer(
        self,
        order_id: str,
        ticker: str,
        book_side: BookSide,
        fill_count: Decimal,
        average_yes_price: Decimal | None,
        fees: Decimal,
        *,
        outcome_side: OutcomeSide,
        entry_price: Decimal,
    ) -> None:
        """Book the money of an order of ours that was found after a restart; the position does not move.

        Whoever asks waits for a read that shows it. The order closed contracts of `outcome_side` that had
        cost `entry_price`. Its later fills, or another answer, book nothing twice.
        """
        with self._lock:
            owner = self._owner_locked(ticker)
            basis = Position(ticker, outcome_side, fill_count, entry_price, strategy=owner)
            self._books.book_answer(
                order_id, ticker, basis, book_side, fill_count, average_yes_price, fees, self._clock.now()
            )
            # What is held by the next read is without these contracts.
            self._order_locked(order_id).applied.take_answer(fill_count)
        self._hand_over()

    def book_missed(
        self, day: str, steps: Sequence[Step], payouts: Sequence[Payout] = (), *, is_all: bool = False
    ) -> int | None:
        """Book what happened on trading day `day` and was not known here; no position moves.

        `steps` are all fills of that day, as far as they have been read, of the markets concerned, and
        with `is_all` of all markets. Returns how many were news, None when that day is over.
        """
        with self._lock:
            for fill in (step.fill for step in steps):
                self._claim_locked(fill.ticker, fill.book_side, self._books.strategy_of(fill.order_id))
            tickers = {step.fill.ticker for step in steps} | {payout.ticker for payout in payouts}
            owners = Owners(
                {ticker: self._owner_locked(ticker) for ticker in tickers},
                {ticker: self._opened_by_locked(ticker) for ticker in tickers},
            )
            news = self._books.book_missed(
                day, steps, payouts, self._clock.now(), is_all=is_all, owners=owners
            )
        self._hand_over()
        return news

    def book_payout(self, payout: Payout) -> bool:
        """Book what the end of a market paid; no position moves. False when it was booked before."""
        with self._lock:
            is_news = self._books.book_payout(payout, self._owner_locked(payout.ticker), self._clock.now())
        self._hand_over()
        return is_news

    def apply_update(self, update: PositionUpdate) -> Change | None:
        """Take in a `market_position` message that opens, grows or flips a position.

        One that shrinks it is left to its fill, which carries the price, and to the next read, for which
        it counts as a first witness: callers ask for one when this returns None and the counts differ.
        """
        with self._lock:
            change = self._apply_update_locked(update)
        self._hand_over()
        return change

    def _apply_update_locked(self, update: PositionUpdate) -> Change | None:
        before = self._positions.get(update.ticker)
        held = before.signed_count if before is not None else ZERO
        if update.subaccount != 0:
            return None
        if held == update.count:
            self._missing_since.pop(update.ticker, None)  # it is there after all
            self._touch_locked(update.ticker)
            return None
        if abs(update.count) < abs(held) and update.count * held >= 0:
            if update.count == 0:
                self._missing_since[update.ticker] = self._clock.monotonic() - AGREEMENT_S + READ_LAG_S
                self._touch_locked(update.ticker)
            return None
        changed_at = self._changed_at.get(update.ticker)
        is_settling = changed_at is not None and self._clock.monotonic() - changed_at < READ_LAG_S
        if is_settling or update.ticker in self._in_flight.values():
            # It carries no time: beside a fill that has just been applied it may be the older word,
            # and beside an order under way it would be counted again with the answer.
            return None
        price = abs(update.cost / update.count) if update.count else ZERO
        side = OutcomeSide.YES if update.count > 0 else OutcomeSide.NO
        yes_price = to_yes_leg(min(price, Decimal(1)), side)
        change = self._set_locked(update.ticker, update.count, yes_price, "market_position", None)
        self._told[update.ticker] = _Told(held, update.count, self._clock.monotonic())
        if change is not None and change.after is not None and 0 < price < 1:
            # The message tells the cost of the whole position, not of what was added.
            exact = replace(change.after, entry_price=price)
            self._positions[update.ticker] = exact
            self._record_position_locked(update.ticker)
            change = replace(change, after=exact)
        return change

    def apply_read(
        self, rows: Mapping[str, Position], started_at: float, *, is_whole: bool = True
    ) -> list[Change]:
        """Take in one *complete* read of all positions that left at monotonic `started_at`.

        Where single rows of it could not be read (`is_whole` False), it adds and changes what it shows
        and says nothing about what it does not show.
        """
        corrections = compare(self.compared_state(), rows, started_at, is_whole=is_whole)
        return self.apply_corrections(corrections, started_at, is_whole=is_whole)

    def apply_corrections(
        self, corrections: Sequence[Correction], started_at: float, *, is_whole: bool = True
    ) -> list[Change]:
        """Take in what a comparison with the read that left at `started_at` has found.

        A market that has changed since the view for it was taken is skipped, and another read wanted.
        """
        changes: list[Change] = []
        skipped: set[str] = set()
        with self._lock:
            self._was_skipped = False
            for correction in corrections:
                ticker = correction.ticker
                is_outdated = self._versions.get(ticker, 0) != correction.version
                if is_outdated or correction.kind is CorrectionKind.SKIPPED:
                    self._was_skipped |= is_outdated or correction.wants_read
                    skipped.add(ticker)
                    continue
                change = self._correct_locked(correction, started_at)
                if change is not None:
                    changes.append(change)
            self._missing_since = {t: at for t, at in self._missing_since.items() if t in self._positions}
            if is_whole:
                self._is_loaded = True
                self._judged_before = {t: self._judged_before.get(t, self._last_read_at) for t in skipped}
                self._last_read_at = started_at
                self._forget_what_is_gone_locked(corrections, started_at)
        self._hand_over()
        return changes

    def _correct_locked(self, correction: Correction, started_at: float) -> Change | None:
        ticker, row = correction.ticker, correction.after
        before = self._positions.get(ticker)
        self._touch_locked(ticker)
        if correction.kind is CorrectionKind.MISSING:
            self._missing_since.setdefault(ticker, started_at)
            return None
        self._missing_since.pop(ticker, None)
        if row is None:
            assert before is not None, "only what is held can be given up"
            self._close_locked(before)
            is_settled = correction.kind is CorrectionKind.SETTLED
            return Change(ticker, before, None, "settled" if is_settled else "reconciled")
        if before is None or before.outcome_side is not row.outcome_side:
            self._epochs[ticker] = self._epochs.get(ticker, 0) + 1
            # A read does not say since when; without a time no `exit_after_entry_s` would ever run out.
            strategy = self._strategy_locked(ticker, row.outcome_side, None, is_read=True)
            since = self._held_since_locked(ticker, row.outcome_side, is_read=True)
            opened_at = row.opened_at if row.opened_at is not None else since
            row = replace(row, opened_at=opened_at, strategy=strategy)
            self._entry_fees.pop(ticker, None)
        else:
            row = self._continued_locked(before, row)
        self._entering.discard(ticker)
        self._positions[ticker] = row
        if row != before:
            self._record_position_locked(ticker)
        if before is not None and before.signed_count == row.signed_count:
            return None
        return Change(ticker, before, row, "reconciled")

    def _continued_locked(self, before: Position, row: Position) -> Position:
        """What a read shows of a position that is known here, with what only is known here."""
        row = replace(row, opened_at=before.opened_at, strategy=before.strategy)
        if row.count != before.count:
            self._entry_fees.pop(row.ticker, None)
            return row
        moved = row.entry_price - before.entry_price
        if moved.is_finite() and abs(moved) <= SAME_ENTRY:
            row = replace(row, entry_price=before.entry_price)
        fees = self._entry_fees.get(row.ticker)
        return row if fees is None else replace(row, fees_paid=fees)

    def _held_since_locked(self, ticker: str, side: OutcomeSide, *, is_read: bool) -> float:
        """Since when a position that appears now is held: since before a restart, if it was then."""
        remembered = self._remembered.pop(ticker, None)
        if remembered is None or remembered.outcome_side is not side or remembered.opened_at is None:
            return self._clock.now()
        return remembered.opened_at if is_read or not self._is_loaded else self._clock.now()

    def _forget_what_is_gone_locked(self, corrections: Sequence[Correction], started_at: float) -> None:
        """What was held before a restart, and is not shown by two reads that agree, is gone."""
        for ticker, record in list(self._remembered.items()):
            if any(c.ticker == ticker for c in corrections):
                continue
            since = self._gone_since.setdefault(ticker, started_at)
            if started_at - since >= AGREEMENT_S:
                del self._remembered[ticker], self._gone_since[ticker]
                self._outbox.append(replace(record, count=ZERO))

    def _set_locked(
        self,
        ticker: str,
        signed: Decimal,
        yes_price: Decimal,
        why: str,
        exchange_index: int | None,
        *,
        is_ours: bool | None = None,
        fee_each: Decimal | None = None,
    ) -> Change | None:
        """Move a position; `is_ours` says whether an order of ours did, `fee_each` what a contract of it
        cost in fees, both None where that is not told."""
        before = self._positions.get(ticker)
        self._changed_at[ticker] = self._clock.monotonic()
        self._missing_since.pop(ticker, None)
        self._touch_locked(ticker)
        held = before.signed_count if before is not None else ZERO
        if signed == held:
            return None
        if signed == 0:
            assert before is not None, "the counts differ"
            self._close_locked(before)
            return Change(ticker, before, None, why)
        side = OutcomeSide.YES if signed > 0 else OutcomeSide.NO
        price = to_yes_leg(yes_price, side)
        count = abs(signed)
        if before is None or before.outcome_side is not side:
            self._epochs[ticker] = self._epochs.get(ticker, 0) + 1
            strategy = self._strategy_locked(ticker, side, is_ours, is_read=False)
            price = self._entry_with_remembered_locked(ticker, side, count, price)
            since = self._held_since_locked(ticker, side, is_read=False)
            fees = self._take_fees_locked(ticker, ZERO, count, fee_each)
            after = Position(ticker, side, count, price, exchange_index, since, fees or ZERO, strategy)
            self._entering.discard(ticker)
        elif count > before.count:
            added = count - before.count
            cost = before.cost + added * price
            fees = self._take_fees_locked(ticker, self._entry_fees.get(ticker), added, fee_each)
            after = replace(before, count=count, entry_price=cost / count)
            after = after if fees is None else replace(after, fees_paid=fees)
        else:
            known = self._entry_fees.get(ticker)
            kept = None if known is None else known * count / before.count
            fees = self._take_fees_locked(ticker, kept, ZERO, ZERO)
            after = replace(before, count=count)
            after = after if fees is None else replace(after, fees_paid=fees)
        self._positions[ticker] = after
        self._record_position_locked(ticker)
        return Change(ticker, before, after, why)

    def _entry_with_remembered_locked(
        self, ticker: str, side: OutcomeSide, count: Decimal, price: Decimal
    ) -> Decimal:
        """What a contract of a position has cost that a message shows before the first read does: the last
        run knew what most of it cost, and a stop must not be reckoned from the newest contracts alone."""
        known = None if self._is_loaded else self._remembered.get(ticker)
        if known is None or known.outcome_side is not side:
            return price
        added = max(ZERO, count - known.count)
        return ((count - added) * known.entry_price + added * price) / count

    def _take_fees_locked(
        self, ticker: str, known: Decimal | None, added: Decimal, fee_each: Decimal | None
    ) -> Decimal | None:
        """Remember what entering a position has cost in fees; None where its executions do not tell."""
        fees = None if known is None or fee_each is None else known + added * fee_each
        if fees is None:
            self._entry_fees.pop(ticker, None)
        else:
            self._entry_fees[ticker] = fees
        return fees

    def _close_locked(self, before: Position) -> None:
        del self._positions[before.ticker]
        self._entry_fees.pop(before.ticker, None)
        self._entering.discard(before.ticker)
        self._unclaimed.discard(before.ticker)
        self._record_position_locked(before.ticker, gone=before)

    # --- whose it is --------------------------------------------------------------------------------

    def _note_entry_locked(self, ticker: str, strategy: str) -> None:
        self._noted[ticker] = strategy
        self._noted.move_to_end(ticker)
        if len(self._noted) > REMEMBERED_MAX:
            self._entering.discard(self._noted.popitem(last=False)[0])
        self._entering.add(ticker)

    def _is_ours_locked(self, fill: Fill) -> bool | None:
        return fill.client_order_id in self._sent if fill.client_order_id else None

    def _opener_locked(self, ticker: str, is_ours: bool | None) -> str:
        """Whose is what is opened now by an order of ours, of somebody else, or (None) of nobody knows whom:
        then it is that of the entry that is awaited, if one is."""
        if is_ours is None:
            is_ours = ticker in self._entering
        return self._noted.get(ticker, "") if is_ours else ""

    def _strategy_locked(self, ticker: str, side: OutcomeSide, is_ours: bool | None, *, is_read: bool) -> str:
        """Whose a position is that appears now: whose it was before a restart, if it was held then."""
        remembered = self._remembered.get(ticker)
        if remembered is not None and remembered.outcome_side is side and (is_read or not self._is_loaded):
            return remembered.strategy
        strategy = self._opener_locked(ticker, is_ours)
        if strategy or is_ours is not None:
            self._unclaimed.discard(ticker)
        else:
            self._unclaimed.add(ticker)
        return strategy

    def _claim_locked(self, ticker: str, book_side: BookSide, strategy: str) -> None:
        """An entry of this strategy has filled: a position of that side of which nobody knew is its."""
        held = self._positions.get(ticker)
        if held is None or not strategy or ticker not in self._unclaimed:
            return
        if book_side is entry_book_side(held.outcome_side):
            self._positions[ticker] = replace(held, strategy=strategy)
            self._unclaimed.discard(ticker)
            self._record_position_locked(ticker)

    def _opened_by_locked(self, ticker: str) -> str:
        position = self._positions.get(ticker)
        return position.strategy if position is not None else self._opener_locked(ticker, None)

    def _owner_locked(self, ticker: str) -> str:
        """Whose is what is held, or was held last."""
        held = self._positions.get(ticker)
        if held is not None:
            return held.strategy
        last = self._last_held.get(ticker)
        return last.strategy if last is not None else ""

    # --- what is remembered -------------------------------------------------------------------------

    def _touch_locked(self, ticker: str) -> None:
        self._versions[ticker] = self._versions.get(ticker, 0) + 1

    def _know_trade_locked(self, trade_id: str) -> None:
        self._trades[trade_id] = None
        if len(self._trades) > REMEMBERED_MAX:
            self._trades.popitem(last=False)

    def _note_sent_locked(self, client_order_id: str) -> None:
        self._sent[client_order_id] = None
        if len(self._sent) > REMEMBERED_MAX:
            self._sent.popitem(last=False)

    def _order_locked(self, order_id: str) -> _Order:
        if order_id not in self._orders:
            self._orders[order_id] = _Order()
            if len(self._orders) > REMEMBERED_MAX:
                self._orders.popitem(last=False)
        return self._orders[order_id]

    # --- the recorder -------------------------------------------------------------------------------

    def _record_position_locked(self, ticker: str, *, gone: Position | None = None) -> None:
        position = gone if gone is not None else self._positions[ticker]
        count = position.count if gone is None else ZERO
        record = PositionRecord(
            ticker,
            position.outcome_side,
            count,
            position.entry_price,
            position.opened_at,
            position.strategy,
        )
        self._outbox.append(record)
        if count:
            self._last_held[ticker] = record

    def _hand_over(self) -> None:
        """Give the recorder what has been noted, one thread at a time so that nothing overtakes a newer
        word; a thread that finds another at it leaves its notes to that one."""
        batch = self._next_batch(is_first=True)
        while batch:
            try:
                self._recorder.write(batch)
            except BaseException:
                with self._lock:
                    self._is_handing_over = False
                raise
            batch = self._next_batch(is_first=False)

    def _next_batch(self, *, is_first: bool) -> list[Record]:
        with self._lock:
            if is_first and self._is_handing_over:
                return []
            batch, self._outbox = self._outbox + self._books.take_records(), []
            self._is_handing_over = bool(batch)
            return batch


def _last_trades(remembered: Remembered) -> dict[str, float]:
    """When each market was last traded in, wall time: by the fills of an order where all of them are
    known, else by when its answer was taken in."""
    filled: dict[str, Decimal] = {}
    newest_ms: dict[str, int] = {}
    for fill in remembered.fills:
        filled[fill.order_id] = filled.get(fill.order_id, ZERO) + fill.count
        newest_ms[fill.order_id] = max(newest_ms.get(fill.order_id, 0), fill.ts_ms)
    traded_at: dict[str, float] = {}
    for order in remembered.orders:
        is_whole = filled.get(order.order_id, ZERO) >= max(order.from_fills, order.from_answer)
        at = (
            newest_ms[order.order_id] / 1000 if is_whole and order.order_id in newest_ms else order.updated_at
        )
        traded_at[order.ticker] = max(traded_at.get(order.ticker, 0.0), at)
    return traded_at
