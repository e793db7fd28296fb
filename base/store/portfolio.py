"""The positions that all threads share, lock-guarded; the exchange's word is the truth, made prompt.

Three sources tell of one change: the answer to our order, the `fill` message, and the next complete
read. Each contract must count once, and reads lag writes, so:
- fills are known by trade id, and per order the larger of "sum of its fills" and "what its answer said"
  has been applied;
- a `fill` says the position after it, which wins when it is newer than what is applied; a `fill` that
  comes late is part of the newer one's position already;
- a read that started before a change had time to show (`READ_LAG_S`) says nothing about that ticker, nor
  does one that comes while an order's answer is awaited: it may hold the fill, which the answer would
  then take off a second time;
- a position vanishes from a read only when two complete reads agree. A failed read never gets here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

from base.clock import Clock
from base.model.events import PositionUpdate
from base.model.market import ZERO, BookSide, OutcomeSide
from base.model.order import to_yes_leg
from base.model.position import Fill, Position

READ_LAG_S = 3.0
"""A read that began less than this after a change may not show it yet (recorded: 360 ms and more)."""
AGREEMENT_S = 10.0
"""Two reads that do not show a position agree only when so much time lies between them: a backend that
answers with an empty list for a moment answers so to every read of that moment."""
TOLD_S_MAX = 5.0
"""So long after a `market_position` message the fills that led to it may still come."""
REMEMBERED_MAX = 20_000
"""Trade and order ids remembered; older ones are forgotten first."""


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


@dataclass(frozen=True, slots=True)
class HeldRead:
    """One complete read of what is held, by ticker; `unreadable` names positions that are there and whose
    row cannot be proved."""

    positions: Mapping[str, Position]
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ledger:
    """Realized money of the trading day (UTC), from our own fills; dollars."""

    day: str
    realized: Decimal
    fees: Decimal


@dataclass(frozen=True, slots=True)
class _Told:
    """A change that a `market_position` message told: signed counts, monotonic time."""

    before: Decimal
    after: Decimal
    at: float


@dataclass(slots=True)
class _OrderCount:
    """Contracts of one order applied so far, by the two sources that report them."""

    from_fills: Decimal = ZERO
    from_answer: Decimal = ZERO
    unseen: Decimal = ZERO
    """Contracts that a `post_position` held already although no source has reported them yet."""
    last_post: Decimal | None = None
    value: Decimal = ZERO
    """YES-leg dollars of the contracts whose money is booked."""
    fees: Decimal = ZERO
    """Fees booked."""
    basis: Position | None = None
    """What was held before the order; its late fills are judged by it when nothing is held any more."""
    closed: Decimal = ZERO
    """Contracts of `basis` that it has closed."""

    @property
    def applied(self) -> Decimal:
        return max(self.from_fills, self.from_answer)


class Portfolio:
    """Positions by market ticker; thread-safe. Prices are dollars of the held side, counts contracts."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
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
        self._missing_since: dict[str, float] = {}  # held here, and missing from reads since then
        self._trades: OrderedDict[str, None] = OrderedDict()
        self._orders: OrderedDict[str, _OrderCount] = OrderedDict()
        self._is_loaded = False
        self._day = ""
        self._realized = ZERO
        self._fees = ZERO

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

    def next_read_s(self) -> float | None:
        """In how many seconds another read has to judge what the last one could not; None: no hurry."""
        with self._lock:
            if self._was_skipped:
                return READ_LAG_S + 0.1
            return AGREEMENT_S + 0.1 if self._missing_since else None

    @property
    def last_read_at(self) -> float | None:
        """Monotonic time at which the newest complete read left, None before the first."""
        with self._lock:
            return self._last_read_at

    def is_doubted(self, ticker: str) -> bool:
        """Whether the newest complete read did not show this position; the next one decides."""
        with self._lock:
            return ticker in self._missing_since

    def ledger(self) -> Ledger:
        with self._lock:
            self._roll_day_locked()
            return Ledger(self._day, self._realized, self._fees)

    # --- writers ------------------------------------------------------------------------------------

    def order_left(self, ticker: str, client_order_id: str) -> None:
        """An order is about to leave: until it is settled, reads say nothing about this ticker."""
        with self._lock:
            self._in_flight[client_order_id] = ticker

    def order_settled(self, client_order_id: str) -> None:
        """The order's outcome has been taken in, or given up."""
        with self._lock:
            self._in_flight.pop(client_order_id, None)

    def apply_fill(self, fill: Fill) -> Change | None:
        """Take in a `fill` message; None when it was known or changed nothing."""
        with self._lock:
            if fill.subaccount != 0 or self._is_known_trade_locked(fill.trade_id):
                return None
            order = self._order_locked(fill.order_id)
            applied = order.applied
            order.from_fills += fill.count
            fresh = order.applied - applied
            if fresh <= 0:
                # The order's answer told of it: its `post_position` may be a step on the way there.
                return None
            before = self._positions.get(fill.ticker)
            target = self._position_after_locked(fill, order, fresh)
            value, fees = fresh * fill.yes_price, fill.fee * fresh / fill.count
            self._book_money_locked(order, before, fill.book_side, fresh, value, fees)
            return self._set_locked(fill.ticker, target, fill.yes_price, "fill", fill.exchange_index)

    def _position_after_locked(self, fill: Fill, order: _OrderCount, fresh: Decimal) -> Decimal:
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
            order = self._order_locked(order_id)
            applied = order.applied
            order.from_answer = max(order.from_answer, fill_count)
            fresh = order.applied - applied
            if fresh <= 0:
                return None
            before = self._positions.get(ticker)
            price = average_yes_price
            if price is None:
                price = to_yes_leg(before.entry_price, before.outcome_side) if before is not None else ZERO
            # The fills booked so far are part of the average: what is left of it is the rest's.
            value = max(ZERO, price * fill_count - order.value)
            self._book_money_locked(order, before, book_side, fresh, value, max(ZERO, fees - order.fees))
            signed = before.signed_count if before is not None else ZERO
            direction = 1 if book_side is BookSide.BID else -1
            moved = max(ZERO, fresh - order.unseen)
            order.unseen = max(ZERO, order.unseen - fresh)
            if reduce_only:
                moved = min(moved, max(ZERO, -direction * signed))
            self._answer_ts_ms[ticker] = max(self._answer_ts_ms.get(ticker, 0), ts_ms)
            return self._set_locked(ticker, signed + direction * moved, price, "order", None)

    def apply_update(self, update: PositionUpdate) -> Change | None:
        """Take in a `market_position` message that opens, grows or flips a position.

        One that shrinks it is left to its fill, which carries the price, and to the next read, for which
        it counts as a first witness: callers ask for one when this returns None and the counts differ.
        """
        with self._lock:
            before = self._positions.get(update.ticker)
            held = before.signed_count if before is not None else ZERO
            if update.subaccount != 0:
                return None
            if held == update.count:
                self._missing_since.pop(update.ticker, None)  # it is there after all
                return None
            if abs(update.count) < abs(held) and update.count * held >= 0:
                if update.count == 0:
                    self._missing_since[update.ticker] = self._clock.monotonic() - AGREEMENT_S + READ_LAG_S
                return None
            changed_at = self._changed_at.get(update.ticker)
            is_settling = changed_at is not None and self._clock.monotonic() - changed_at < READ_LAG_S
            if is_settling or update.ticker in self._in_flight.values():
                # It carries no time: beside a fill that has just been applied it may be the older word,
                # and beside an order under way it would be counted again with the answer.
                return None
            price = abs(update.cost / update.count) if update.count else ZERO
            side = OutcomeSide.YES if update.count > 0 else OutcomeSide.NO
            change = self._set_locked(
                update.ticker, update.count, to_yes_leg(min(price, Decimal(1)), side), "market_position", None
            )
            self._told[update.ticker] = _Told(held, update.count, self._clock.monotonic())
            if change is not None and change.after is not None and 0 < price < 1:
                # The message tells the cost of the whole position, not of what was added.
                exact = replace(change.after, entry_price=price)
                self._positions[update.ticker] = exact
                change = replace(change, after=exact)
            return change

    def apply_read(
        self, rows: Mapping[str, Position], started_at: float, *, is_whole: bool = True
    ) -> list[Change]:
        """Take in one *complete* read of all positions that left at monotonic `started_at`.

        Where single rows of it could not be read (`is_whole` False), it adds and changes what it shows
        and says nothing about what it does not show.
        """
        changes: list[Change] = []
        with self._lock:
            awaited = set(self._in_flight.values())
            known = {*rows, *self._positions} if is_whole else set(rows)
            self._was_skipped = False
            for ticker in known - awaited:
                changed_at = self._changed_at.get(ticker)
                if changed_at is not None and started_at - changed_at < READ_LAG_S:
                    self._was_skipped = True
                    continue
                change = self._apply_row_locked(ticker, rows.get(ticker), started_at)
                if change is not None:
                    changes.append(change)
            self._missing_since = {t: at for t, at in self._missing_since.items() if t in self._positions}
            if is_whole:
                self._is_loaded = True
                self._last_read_at = started_at
        return changes

    def _apply_row_locked(self, ticker: str, row: Position | None, started_at: float) -> Change | None:
        before = self._positions.get(ticker)
        if row is None:
            since = self._missing_since.setdefault(ticker, started_at)
            if started_at - since < AGREEMENT_S:
                return None
            del self._missing_since[ticker]
            del self._positions[ticker]
            return Change(ticker, before, None, "reconciled")
        self._missing_since.pop(ticker, None)
        if before is None or before.outcome_side is not row.outcome_side:
            self._epochs[ticker] = self._epochs.get(ticker, 0) + 1
            # A read does not say since when; without a time no `exit_after_entry_s` would ever run out.
            since = row.opened_at if row.opened_at is not None else self._clock.now()
            row = replace(row, opened_at=since)
        else:
            row = replace(row, opened_at=before.opened_at)
        self._positions[ticker] = row
        if before is not None and before.signed_count == row.signed_count:
            return None
        return Change(ticker, before, self._positions[ticker], "reconciled")

    def _set_locked(
        self, ticker: str, signed: Decimal, yes_price: Decimal, why: str, exchange_index: int | None
    ) -> Change | None:
        before = self._positions.get(ticker)
        self._changed_at[ticker] = self._clock.monotonic()
        self._missing_since.pop(ticker, None)
        held = before.signed_count if before is not None else ZERO
        if signed == held:
            return None
        if signed == 0:
            del self._positions[ticker]
            return Change(ticker, before, None, why)
        side = OutcomeSide.YES if signed > 0 else OutcomeSide.NO
        price = to_yes_leg(yes_price, side)
        if before is None or before.outcome_side is not side:
            self._epochs[ticker] = self._epochs.get(ticker, 0) + 1
            after = Position(ticker, side, abs(signed), price, exchange_index, self._clock.now())
        elif abs(signed) > before.count:
            added = abs(signed) - before.count
            cost = before.cost + added * price
            after = replace(before, count=abs(signed), entry_price=cost / abs(signed))
        else:
            after = replace(before, count=abs(signed))
        self._positions[ticker] = after
        return Change(ticker, before, after, why)

    # --- bookkeeping --------------------------------------------------------------------------------

    def _book_money_locked(
        self,
        order: _OrderCount,
        before: Position | None,
        book_side: BookSide,
        count: Decimal,
        yes_value: Decimal,
        fees: Decimal,
    ) -> None:
        """Book `count` contracts for `yes_value` dollars of the YES leg: their fees, and the gain of those
        that reduce `before`."""
        self._roll_day_locked()
        order.value += yes_value
        order.fees += fees
        self._fees += fees
        basis = order.basis = order.basis if order.basis is not None else before
        if basis is None:
            return
        reduces = (book_side is BookSide.ASK) == (basis.outcome_side is OutcomeSide.YES)
        if reduces:
            closed = min(count, basis.count - order.closed)
            order.closed += closed
            price = to_yes_leg(yes_value / count, basis.outcome_side)
            self._realized += closed * (price - basis.entry_price)

    def _roll_day_locked(self) -> None:
        today = datetime.fromtimestamp(self._clock.now(), UTC).date().isoformat()
        if today != self._day:
            self._day, self._realized, self._fees = today, ZERO, ZERO

    def _is_known_trade_locked(self, trade_id: str) -> bool:
        if trade_id in self._trades:
            return True
        self._trades[trade_id] = None
        if len(self._trades) > REMEMBERED_MAX:
            self._trades.popitem(last=False)
        return False

    def _order_locked(self, order_id: str) -> _OrderCount:
        if order_id not in self._orders:
            self._orders[order_id] = _OrderCount()
            if len(self._orders) > REMEMBERED_MAX:
                self._orders.popitem(last=False)
        return self._orders[order_id]


def by_ticker(positions: Iterable[Position]) -> dict[str, Position]:
    """Positions keyed by their ticker."""
    return {p.ticker: p for p in positions}
