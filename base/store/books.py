"""The money of the trading day: what of each order is booked, and what its contracts gained.

Money is counted apart from contracts, by the same rule: fills are known by trade id, and per order the
larger of "sum of its fills" and "what its answer said" is booked. Once all fills of an order are known
they replace what its answer said, whose averages are rounded. Not thread-safe: the portfolio's lock
guards it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from base.model.market import ZERO, BookSide
from base.model.order import exit_book_side, to_yes_leg
from base.model.position import Fill, Position
from base.store.realized import Payout, Step
from base.store.records import FillRecord, LedgerRecord, OrderRecord, Record, Remembered

REMEMBERED_MAX = 20_000
"""Trade and order ids remembered; older ones are forgotten first."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Realized money of the trading day (UTC), from our own fills; dollars."""

    day: str
    realized: Decimal
    fees: Decimal


@dataclass(slots=True)
class OrderCount:
    """Contracts of one order, by the two sources that report them; the larger one is right."""

    from_fills: Decimal = ZERO
    from_answer: Decimal = ZERO

    @property
    def total(self) -> Decimal:
        return max(self.from_fills, self.from_answer)

    def add_fill(self, count: Decimal) -> Decimal:
        """Return how much of it is news."""
        before = self.total
        self.from_fills += count
        return self.total - before

    def take_answer(self, count: Decimal) -> Decimal:
        """Return how much of it is news."""
        before = self.total
        self.from_answer = max(self.from_answer, count)
        return self.total - before


@dataclass(slots=True)
class _Order:
    """What is booked of one order: YES-leg dollars and fees."""

    ticker: str
    booked: OrderCount = field(default_factory=OrderCount)
    value: Decimal = ZERO
    fees: Decimal = ZERO
    basis: Position | None = None
    """What was held before the order; its late fills are judged by it when nothing is held any more."""
    closed: Decimal | None = ZERO
    """Contracts of `basis` that it has closed; None for an order from before a restart."""
    known_count: Decimal = ZERO
    known_value: Decimal = ZERO
    known_fees: Decimal = ZERO
    """Sums over the fills known by trade id."""

    def add_known(self, count: Decimal, yes_price: Decimal, fee: Decimal) -> None:
        self.known_count += count
        self.known_value += count * yes_price
        self.known_fees += fee

    @property
    def is_known_by_fills(self) -> bool:
        """Whether its fills, each by its trade id, add up to all that is booked."""
        return ZERO < self.known_count == self.booked.from_fills >= self.booked.from_answer


class Books:
    """The ledger of the trading day and the orders and executions it was booked from."""

    def __init__(self) -> None:
        self._day = ""
        self._realized = ZERO
        self._fees = ZERO
        self._orders: OrderedDict[str, _Order] = OrderedDict()
        self._trades: OrderedDict[str, None] = OrderedDict()
        self._day_trades: set[str] = set()  # what today's ledger was booked from
        self._day_orders: set[str] = set()
        self._records: list[Record] = []

    def restore(self, remembered: Remembered, now: float) -> None:
        self._roll_day(now)
        for ledger in remembered.ledgers:
            if ledger.day == self._day:
                self._realized, self._fees = ledger.realized, ledger.fees
        for record in remembered.orders:
            order = self._order(record.order_id, record.ticker)
            order.booked = OrderCount(record.from_fills, record.from_answer)
            order.value, order.fees, order.closed = record.value, record.fees, None
            if trading_day(record.updated_at) == self._day:
                self._day_orders.add(record.order_id)
        for fill in remembered.fills:
            self._know(fill.trade_id, is_today=trading_day(fill.ts_ms / 1000) == self._day)
            if fill.order_id in self._orders:
                self._orders[fill.order_id].add_known(fill.count, fill.yes_price, fill.fee)

    def ledger(self, now: float) -> Ledger:
        self._roll_day(now)
        return Ledger(self._day, self._realized, self._fees)

    def is_booked(self, trade_id: str) -> bool:
        return trade_id in self._trades

    def take_records(self) -> list[Record]:
        """What has to be remembered since this was last asked."""
        records, self._records = self._records, []
        return records

    # --- booking ------------------------------------------------------------------------------------

    def book_fill(self, fill: Fill, before: Position | None, now: float) -> None:
        """Book a fill, as far as its order's answer has not told of it; `before` is what was held."""
        if fill.trade_id in self._trades:
            return
        self._roll_day(now)
        order = self._order(fill.order_id, fill.ticker)
        fresh = self._know_fill(order, fill)
        if fresh > 0:
            value, fees = fresh * fill.yes_price, fill.fee * fresh / fill.count
            self._book(order, before, fill.book_side, fresh, value, fees)
        if order.closed is not None and order.is_known_by_fills:
            self._replace_answer(order, fill.book_side, order.closed / order.booked.total)
        self._record(fill.order_id, order, now)

    def book_answer(
        self,
        order_id: str,
        ticker: str,
        before: Position | None,
        book_side: BookSide,
        fill_count: Decimal,
        average_yes_price: Decimal | None,
        fees: Decimal,
        now: float,
    ) -> None:
        """Book what an order filled in all, as far as its fills have not told of it."""
        order = self._order(order_id, ticker)
        fresh = order.booked.take_answer(fill_count)
        if fresh <= 0:
            return
        self._roll_day(now)
        # The fills booked so far are part of the average: what is left of it is the rest's.
        value = max(ZERO, price_or_entry(average_yes_price, before) * fill_count - order.value)
        self._book(order, before, book_side, fresh, value, max(ZERO, fees - order.fees))
        self._record(order_id, order, now)

    def book_missed(
        self, day: str, steps: Sequence[Step], payouts: Sequence[Payout], now: float, *, is_all: bool
    ) -> int | None:
        """Book fills and payouts of trading day `day` that are not known; None when that day is over.

        Where they are all there are (`is_all`), and nothing else is booked, their sum is the ledger: what
        was booked as it came may have been judged by an entry that later proved wrong.
        """
        self._roll_day(now)
        if day != self._day:
            return None
        news = sum(self._book_step(step, now) for step in steps)
        news += sum(self._book_payout(payout) for payout in payouts)
        self._replace_answers(steps, now)
        if is_all:
            self._take_sums(steps, payouts)
        return news

    def _take_sums(self, steps: Sequence[Step], payouts: Sequence[Payout]) -> None:
        listed = {step.fill.trade_id for step in steps} | {payout.trade_id for payout in payouts}
        gains = [step.realized for step in steps if step.realized is not None]
        is_known = len(gains) == len(steps) and self._day_trades <= listed
        if not is_known or not all(self._is_listed(order_id) for order_id in self._day_orders):
            return
        realized = sum(gains, ZERO) + sum((p.revenue - p.cost for p in payouts), ZERO)
        fees = sum((step.fill.fee for step in steps), ZERO)
        if (realized, fees) != (self._realized, self._fees):
            self._realized, self._fees = realized, fees
            self._records.append(LedgerRecord(self._day, realized, fees))

    def _is_listed(self, order_id: str) -> bool:
        order = self._orders.get(order_id)
        return order is not None and order.is_known_by_fills

    def _book(
        self,
        order: _Order,
        before: Position | None,
        book_side: BookSide,
        count: Decimal,
        yes_value: Decimal,
        fees: Decimal,
    ) -> None:
        """Book `count` contracts for `yes_value` dollars of the YES leg: their fees, and the gain of those
        that reduce `before`."""
        order.value += yes_value
        order.fees += fees
        self._fees += fees
        basis = order.basis = order.basis if order.basis is not None else before
        if basis is None or book_side is not exit_book_side(basis.outcome_side):
            return
        closed_before = order.closed or ZERO
        closed = max(ZERO, min(count, basis.count - closed_before))
        if order.closed is not None:
            order.closed += closed
        price = to_yes_leg(yes_value / count, basis.outcome_side)
        self._realized += closed * (price - basis.entry_price)

    def _book_step(self, step: Step, now: float) -> int:
        """Book what is news of a fill that was read late; 1 when it was not known."""
        fill = step.fill
        if fill.trade_id in self._trades:
            return 0
        order = self._order(fill.order_id, fill.ticker)
        fresh = self._know_fill(order, fill)
        if fresh > 0:
            share = fresh / fill.count
            order.value += fresh * fill.yes_price
            order.fees += fill.fee * share
            self._fees += fill.fee * share
            self._realized += (step.realized or ZERO) * share
            if order.closed is not None:
                order.closed += step.closed * share
            if order.basis is None and step.before.signed and step.before.entry is not None:
                held = abs(step.before.signed)
                order.basis = Position(fill.ticker, step.before.side, held, step.before.entry)
        self._record(fill.order_id, order, now)
        return 1

    def _book_payout(self, payout: Payout) -> int:
        """Book what the end of a market paid; 1 when it was not known. It is remembered as the execution
        that it amounts to."""
        if payout.trade_id in self._trades:
            return 0
        self._know(payout.trade_id)
        self._realized += payout.revenue - payout.cost
        count = abs(payout.signed)
        price = to_yes_leg(payout.revenue / count, payout.side) if count else ZERO
        book_side = exit_book_side(payout.side)
        self._records.append(
            FillRecord(
                payout.trade_id, "", payout.ticker, book_side, count, price, ZERO, payout.settled_ts_ms
            )
        )
        self._records.append(LedgerRecord(self._day, self._realized, self._fees))
        return 1

    # --- fills in the place of answers --------------------------------------------------------------

    def _replace_answers(self, steps: Sequence[Step], now: float) -> None:
        """Where all fills of an order are known now, they say what it brought."""
        by_order: dict[str, list[Step]] = {}
        for step in steps:
            by_order.setdefault(step.fill.order_id, []).append(step)
        for order_id, parts in by_order.items():
            order = self._orders.get(order_id)
            count = sum((step.fill.count for step in parts), ZERO)
            # Only where the steps are the whole order is their share of closed contracts the order's.
            if order is None or not order.is_known_by_fills or count != order.booked.total:
                continue
            closed = sum((step.closed for step in parts if step.realized is not None), ZERO)
            if self._replace_answer(order, parts[0].fill.book_side, closed / count):
                self._record(order_id, order, now)

    def _replace_answer(self, order: _Order, book_side: BookSide, closed_share: Decimal) -> bool:
        """Book the difference between an order's fills and what was booked; False when there is none."""
        value, fees = order.known_value - order.value, order.known_fees - order.fees
        order.value, order.fees = order.known_value, order.known_fees
        self._fees += fees
        self._realized += (value if book_side is BookSide.ASK else -value) * closed_share
        return bool(value or fees)

    # --- what is known ------------------------------------------------------------------------------

    def _know_fill(self, order: _Order, fill: Fill) -> Decimal:
        """Remember an execution; return how many of its contracts are not booked."""
        self._know(fill.trade_id)
        order.add_known(fill.count, fill.yes_price, fill.fee)
        self._records.append(
            FillRecord(
                fill.trade_id,
                fill.order_id,
                fill.ticker,
                fill.book_side,
                fill.count,
                fill.yes_price,
                fill.fee,
                fill.ts_ms,
            )
        )
        return order.booked.add_fill(fill.count)

    def _know(self, trade_id: str, *, is_today: bool = True) -> None:
        self._trades[trade_id] = None
        if is_today:
            self._day_trades.add(trade_id)
        if len(self._trades) > REMEMBERED_MAX:
            self._trades.popitem(last=False)

    def _order(self, order_id: str, ticker: str) -> _Order:
        if order_id not in self._orders:
            self._orders[order_id] = _Order(ticker)
            if len(self._orders) > REMEMBERED_MAX:
                self._orders.popitem(last=False)
        return self._orders[order_id]

    def _record(self, order_id: str, order: _Order, now: float) -> None:
        booked = order.booked
        self._day_orders.add(order_id)
        self._records.append(
            OrderRecord(
                order_id,
                order.ticker,
                booked.from_fills,
                booked.from_answer,
                order.value,
                order.fees,
                now,
            )
        )
        self._records.append(LedgerRecord(self._day, self._realized, self._fees))

    def _roll_day(self, now: float) -> None:
        today = trading_day(now)
        if today != self._day:
            self._day, self._realized, self._fees = today, ZERO, ZERO
            self._day_trades.clear()
            self._day_orders.clear()


def trading_day(wall: float) -> str:
    """The trading day (UTC) of a wall time."""
    return datetime.fromtimestamp(wall, UTC).date().isoformat()


def price_or_entry(average_yes_price: Decimal | None, held: Position | None) -> Decimal:
    """An order's average price on the YES leg; where it is not told, its contracts gained nothing."""
    if average_yes_price is not None:
        return average_yes_price
    return to_yes_leg(held.entry_price, held.outcome_side) if held is not None else ZERO
