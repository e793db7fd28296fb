"""The money of the trading day: what of each order is booked, and what its contracts gained.

Money is counted apart from contracts, by the same rule: fills are known by trade id, and per order the
larger of "sum of its fills" and "what its answer said" is booked. Once all fills of an order are known
they replace what its answer said, whose averages are rounded. It belongs to the day of the exchange's own
time, so that what is told just after midnight is yesterday's, and to the strategy whose position it opened
or closed. Not thread-safe: the portfolio's lock guards it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from decimal import Decimal

from base.model.market import ONE, ZERO, BookSide
from base.model.order import exit_book_side, to_yes_leg
from base.model.position import Fill, Position
from base.model.trading_day import day_start_s, trading_day
from base.store.day_results import DayResults, Key, Ledger
from base.store.realized import Payout, Step
from base.store.records import FillRecord, OrderRecord, Record, Remembered

REMEMBERED_MAX = 20_000
"""Trade and order ids remembered; older ones are forgotten first."""
DAYS_KEPT = 3
"""Yesterday's late messages are yesterday's money, and clocks disagree about when tomorrow begins."""
TOLD_LATE_S_MAX = 43_200.0
"""A time that is further from now than this is no time of an execution that is told now."""


@dataclass(frozen=True, slots=True)
class Owners:
    """Strategies by market ticker, "" where one is not named: whose is what was held there last, and whose
    is what is opened there now. They decide for orders of which nothing is known yet."""

    of_held: Mapping[str, str] = field(default_factory=dict)
    of_opened: Mapping[str, str] = field(default_factory=dict)


NOBODY = Owners()


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
    strategy: str | None = None
    """Whose result it is, None until something is booked."""

    def add_known(self, count: Decimal, yes_price: Decimal, fee: Decimal) -> None:
        self.known_count += count
        self.known_value += count * yes_price
        self.known_fees += fee

    @property
    def key(self) -> Key:
        return self.ticker, self.strategy or ""

    def attribute(self, before: Position | None, opener: str) -> None:
        """Note whose it is: the strategy's whose position it meets, else `opener`'s."""
        if self.strategy is None:
            self.strategy = before.strategy if before is not None else opener

    @property
    def is_known_by_fills(self) -> bool:
        """Whether its fills, each by its trade id, add up to all that is booked."""
        return ZERO < self.known_count == self.booked.from_fills >= self.booked.from_answer


class Books:
    """The ledgers of the last trading days, and the orders and executions they were booked from."""

    def __init__(self, zone: tzinfo = UTC, *, is_listed_elsewhere: bool = True) -> None:
        """`is_listed_elsewhere`: an exchange lists the day's fills, so that it can be booked anew."""
        self._zone = zone
        self._is_listed_elsewhere = is_listed_elsewhere
        self._days: dict[str, DayResults] = {}
        self._orders: OrderedDict[str, _Order] = OrderedDict()
        self._trades: OrderedDict[str, None] = OrderedDict()
        self._records: list[Record] = []

    def restore(self, remembered: Remembered, now: float) -> None:
        """Take up what was booked.

        Days of another time zone are other days: what it booked is then forgotten as far as it is of
        today, and booked anew from the fills that the exchange lists; where nobody else lists them, days
        of one name count as the same.
        """
        newest = max(remembered.ledgers, key=lambda ledger: ledger.day, default=None)
        is_same_zone = newest is None or newest.zone == str(self._zone) or not self._is_listed_elsewhere
        yesterday = trading_day(day_start_s(now, self._zone) - 1, self._zone)
        for ledger in remembered.ledgers if is_same_zone else ():
            if ledger.day in (yesterday, trading_day(now, self._zone)):
                self._day(ledger.day).restore(ledger, [r for r in remembered.results if r.day == ledger.day])
        today = self._today(now)
        for record in remembered.orders:
            order = self._order(record.order_id, record.ticker)
            order.closed, order.strategy = None, record.strategy
            day = trading_day(record.updated_at, self._zone)
            if is_same_zone or day != today.day:
                order.booked = OrderCount(record.from_fills, record.from_answer)
                order.value, order.fees = record.value, record.fees
                if day in self._days:
                    self._days[day].orders.add(record.order_id)
        for fill in remembered.fills:
            day = trading_day(fill.ts_ms / 1000, self._zone)
            if is_same_zone or day != today.day:
                self._restore_fill(fill, day, is_counted=is_same_zone)

    def _restore_fill(self, fill: FillRecord, day: str, *, is_counted: bool) -> None:
        self._know(fill.trade_id)
        if day in self._days:
            self._days[day].trades.add(fill.trade_id)
        order = self._orders.get(fill.order_id)
        if order is None:
            return
        order.add_known(fill.count, fill.yes_price, fill.fee)
        if not is_counted and order.booked.total < order.known_count:
            # A part of an order of which the rest is booked anew.
            order.booked.add_fill(fill.count)
            order.value += fill.count * fill.yes_price
            order.fees += fill.fee

    def ledger(self, now: float) -> Ledger:
        return self._today(now).ledger()

    def strategy_of(self, order_id: str) -> str:
        """Whose an order is, "" when that is not known."""
        order = self._orders.get(order_id)
        return (order.strategy or "") if order is not None else ""

    def take_records(self) -> list[Record]:
        """What has to be remembered since this was last asked."""
        records, self._records = self._records, []
        return records

    # --- booking ------------------------------------------------------------------------------------

    def book_fill(self, fill: Fill, before: Position | None, now: float, opener: str = "") -> None:
        """Book a fill, as far as its order's answer has not told of it; `before` is what was held, and
        `opener` whose it is where nothing was."""
        if fill.trade_id in self._trades:
            return
        day = self._day_at(fill.ts_ms, now)
        order = self._order(fill.order_id, fill.ticker)
        order.attribute(before, opener)
        fresh = self._know_fill(order, fill, day)
        if fresh > 0:
            value, fees = fresh * fill.yes_price, fill.fee * fresh / fill.count
            self._book(order, day, before, fill.book_side, fresh, value, fees)
        if order.closed is not None and order.is_known_by_fills:
            self._replace_answer(order, fill.book_side, order.closed / order.booked.total, day)
        self._record(fill.order_id, order, now, day)

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
        *,
        ts_ms: int = 0,
        opener: str = "",
    ) -> Decimal | None:
        """Book what an order filled in all, as far as its fills have not told of it; return the average
        YES-leg price of that, None when it is nothing."""
        order = self._order(order_id, ticker)
        order.attribute(before, opener)  # its later fills may be read from a list that names no client id
        fresh = order.booked.take_answer(fill_count)
        if fresh <= 0:
            return None
        day = self._day_at(ts_ms, now)
        # The fills booked so far are part of the average: what is left of it is the rest's.
        value = max(ZERO, price_or_entry(average_yes_price, before) * fill_count - order.value)
        self._book(order, day, before, book_side, fresh, value, max(ZERO, fees - order.fees))
        self._record(order_id, order, now, day)
        return min(value / fresh, ONE)

    def book_missed(
        self,
        day: str,
        steps: Sequence[Step],
        payouts: Sequence[Payout],
        now: float,
        *,
        is_all: bool,
        owners: Owners = NOBODY,
    ) -> int | None:
        """Book fills and payouts of trading day `day` that are not known; None when that day is over.

        Where they are all there are (`is_all`), and nothing else is booked, their sums are the ledger:
        what was booked as it came may have been judged by an entry that later proved wrong.
        """
        today = self._today(now)
        if day != today.day:
            return None
        holders = self._attribute(steps, owners)
        whose = {
            p.trade_id: (p.ticker, holders.get(p.ticker, owners.of_held.get(p.ticker, ""))) for p in payouts
        }
        news = sum(self._book_step(step, now, today) for step in steps)
        news += sum(self._book_payout(payout, whose[payout.trade_id], today) for payout in payouts)
        self._replace_answers(steps, now, today)
        if is_all:
            self._take_sums(steps, payouts, whose, today)
        return news

    def book_payout(self, payout: Payout, strategy: str, now: float) -> bool:
        """Book what the end of a market paid; False when it was known."""
        day = self._day_at(payout.settled_ts_ms, now)
        return bool(self._book_payout(payout, (payout.ticker, strategy), day))

    def _attribute(self, steps: Sequence[Step], owners: Owners) -> dict[str, str]:
        """Note whose each order is; return whose is what is held after the steps."""
        holders: dict[str, str] = {}
        for step in steps:
            ticker, order = step.fill.ticker, self._order(step.fill.order_id, step.fill.ticker)
            if order.strategy is None and step.before.signed == 0:
                order.strategy = owners.of_opened.get(ticker, "")
            elif order.strategy is None:
                order.strategy = holders.get(ticker, owners.of_held.get(ticker, ""))
            has_flipped = step.before.signed * step.after.signed < 0
            holders[ticker] = owners.of_opened.get(ticker, "") if has_flipped else order.strategy
        return holders

    def _take_sums(
        self, steps: Sequence[Step], payouts: Sequence[Payout], whose: Mapping[str, Key], today: DayResults
    ) -> None:
        listed = {step.fill.trade_id for step in steps} | {payout.trade_id for payout in payouts}
        is_known = today.trades <= listed and all(step.realized is not None for step in steps)
        if not is_known or not all(self._is_listed(order_id) for order_id in today.orders):
            return
        sums = DayResults(today.day, str(self._zone))
        for step in steps:
            sums.add(self._orders[step.fill.order_id].key, step.realized or ZERO, step.fill.fee)
        for payout in payouts:
            sums.add(whose[payout.trade_id], payout.revenue - payout.cost, payout.fee)
        if today.take(sums):
            self._records += today.all_records()

    def _is_listed(self, order_id: str) -> bool:
        order = self._orders.get(order_id)
        return order is not None and order.is_known_by_fills

    def _book(
        self,
        order: _Order,
        day: DayResults,
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
        basis = order.basis = order.basis if order.basis is not None else before
        gain = ZERO
        if basis is not None and book_side is exit_book_side(basis.outcome_side):
            closed = max(ZERO, min(count, basis.count - (order.closed or ZERO)))
            if order.closed is not None:
                order.closed += closed
            gain = closed * (to_yes_leg(yes_value / count, basis.outcome_side) - basis.entry_price)
        day.add(order.key, gain, fees)

    def _book_step(self, step: Step, now: float, today: DayResults) -> int:
        """Book what is news of a fill that was read late; 1 when it was not known."""
        fill = step.fill
        if fill.trade_id in self._trades:
            return 0
        order = self._order(fill.order_id, fill.ticker)
        fresh = self._know_fill(order, fill, today)
        if fresh > 0:
            share = fresh / fill.count
            order.value += fresh * fill.yes_price
            order.fees += fill.fee * share
            today.add(order.key, (step.realized or ZERO) * share, fill.fee * share)
            if order.closed is not None:
                order.closed += step.closed * share
            if order.basis is None and step.before.signed and step.before.entry is not None:
                held = abs(step.before.signed)
                order.basis = Position(fill.ticker, step.before.side, held, step.before.entry)
        self._record(fill.order_id, order, now, today)
        return 1

    def _book_payout(self, payout: Payout, key: Key, day: DayResults) -> int:
        """Book what the end of a market paid; 1 when it was not known. It is remembered as the execution
        that it amounts to."""
        if payout.trade_id in self._trades:
            return 0
        self._know(payout.trade_id)
        day.trades.add(payout.trade_id)
        day.add(key, payout.revenue - payout.cost, payout.fee)
        count = abs(payout.signed)
        price = to_yes_leg(payout.revenue / count, payout.side) if count else ZERO
        book_side = exit_book_side(payout.side)
        self._records.append(
            FillRecord(
                payout.trade_id, "", payout.ticker, book_side, count, price, payout.fee, payout.settled_ts_ms
            )
        )
        self._records += day.records_of(key)
        return 1

    # --- fills in the place of answers --------------------------------------------------------------

    def _replace_answers(self, steps: Sequence[Step], now: float, today: DayResults) -> None:
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
            if self._replace_answer(order, parts[0].fill.book_side, closed / count, today):
                self._record(order_id, order, now, today)

    def _replace_answer(
        self, order: _Order, book_side: BookSide, closed_share: Decimal, day: DayResults
    ) -> bool:
        """Book the difference between an order's fills and what was booked; False when there is none."""
        value, fees = order.known_value - order.value, order.known_fees - order.fees
        order.value, order.fees = order.known_value, order.known_fees
        gain = (value if book_side is BookSide.ASK else -value) * closed_share
        day.add(order.key, gain, fees)
        return bool(value or fees)

    # --- what is known ------------------------------------------------------------------------------

    def _know_fill(self, order: _Order, fill: Fill, day: DayResults) -> Decimal:
        """Remember an execution; return how many of its contracts are not booked."""
        self._know(fill.trade_id)
        day.trades.add(fill.trade_id)
        order.add_known(fill.count, fill.yes_price, fill.fee)
        self._records.append(FillRecord.of(fill))
        return order.booked.add_fill(fill.count)

    def _know(self, trade_id: str) -> None:
        self._trades[trade_id] = None
        if len(self._trades) > REMEMBERED_MAX:
            self._trades.popitem(last=False)

    def _order(self, order_id: str, ticker: str) -> _Order:
        if order_id not in self._orders:
            self._orders[order_id] = _Order(ticker)
            if len(self._orders) > REMEMBERED_MAX:
                self._orders.popitem(last=False)
        return self._orders[order_id]

    def _record(self, order_id: str, order: _Order, now: float, day: DayResults) -> None:
        booked = order.booked
        day.orders.add(order_id)
        self._records.append(
            OrderRecord(
                order_id,
                order.ticker,
                booked.from_fills,
                booked.from_answer,
                order.value,
                order.fees,
                now,
                order.strategy or "",
            )
        )
        self._records += day.records_of(order.key)

    # --- days ---------------------------------------------------------------------------------------

    def _today(self, now: float) -> DayResults:
        return self._day(trading_day(now, self._zone))

    def _day_at(self, ts_ms: int, now: float) -> DayResults:
        """The day of the exchange's time of something that is told now."""
        is_time = abs(ts_ms / 1000 - now) <= TOLD_LATE_S_MAX
        return self._day(trading_day(ts_ms / 1000 if is_time else now, self._zone))

    def _day(self, day: str) -> DayResults:
        if day not in self._days:
            self._days[day] = DayResults(day, str(self._zone))
            if len(self._days) > DAYS_KEPT:
                del self._days[next(iter(self._days))]
        return self._days[day]


def price_or_entry(average_yes_price: Decimal | None, held: Position | None) -> Decimal:
    """An order's average price on the YES leg; where it is not told, its contracts gained nothing."""
    if average_yes_price is not None:
        return average_yes_price
    return to_yes_leg(held.entry_price, held.outcome_side) if held is not None else ZERO
