"""What the paper account holds: the exchange's positions with what was simulated laid over them.

A simulated exit takes contracts off what the exchange reports, a simulated entry opens a position that
exists only here. Both survive a restart. What the exchange's own position does meanwhile, by hand or by
another program, is seen in the complete reads:

- It **grows**: the new contracts are held, what was sold here stays sold.
- It **shrinks**: no more can be sold of it than there is; what is less lapses.
- It is **closed or turned**: what was sold of it lapses, and the new side is held in full at once.
- It was **sold and bought anew**, so that it is there with another entry: what was sold here lapses, and the
  new contracts are held. This is also judged after a restart, by the count and entry that were last seen.
  One that was bought anew in the same number and at the same price cannot be told from one that never
  moved: it stays sold here.

One read that shows less proves nothing (reads fail, lag, and answer with empty lists): what lapses because
of it lapses when reads have said so for `AGREEMENT_S`. A contract that was sold here and is sold at the
exchange too brings money twice; when it lapses, the second is taken off again at what the book pays then.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

from base.model.market import ONE, ZERO, BookSide, OutcomeSide
from base.model.order import to_yes_leg
from base.model.position import Position
from base.store.realized import Payout
from base.store.reconcile import AGREEMENT_S
from base.store.records import PaperRecord

ENTRY_TOLERANCE = Decimal("0.0001")
"""Entries of the exchange (exposure over count) that differ by less are the same."""
ENDED_MAX = 2_000
"""Markets remembered as paid; the oldest are forgotten first."""
CASH = ""
"""The ticker of the record that holds the money."""


@dataclass(slots=True)
class _Simulated:
    """What was simulated in one market. While `taken_off` is above 0, `seen` is the exchange's position of
    which it was taken; `less_since` is the monotonic time since which reads show less than was taken."""

    taken_off: Decimal = ZERO
    seen: Position | None = None
    opened: Position | None = None
    less_since: float | None = None

    def taken_of(self, side: OutcomeSide) -> Decimal:
        return self.taken_off if self.seen is not None and self.seen.outcome_side is side else ZERO


class PaperAccount:
    """Positions and money of the paper account; not thread-safe.

    `paid` are the markets whose end has been paid before a restart.
    """

    def __init__(self, records: Iterable[PaperRecord] = (), paid: Iterable[str] = ()) -> None:
        self._simulated: dict[str, _Simulated] = {}
        self._real: dict[str, Position] = {}  # as the exchange last said
        self._ended: OrderedDict[str, None] = OrderedDict.fromkeys(paid)
        self._changed: set[str] = set()
        self._lapsed: list[tuple[str, Decimal]] = []
        self.cash = ZERO
        """Dollars that the paper account has more than the exchange's."""
        for record in records:
            if record.ticker == CASH:
                self.cash = record.entry_price
            else:
                self._simulated[record.ticker] = _restored(record)

    # --- what is held -------------------------------------------------------------------------------

    def held(self, ticker: str) -> Position | None:
        if ticker in self._ended:
            return None
        simulated = self._simulated.get(ticker)
        real = self._real.get(ticker)
        if simulated is None:
            return real
        opened = simulated.opened
        left = ZERO if real is None else real.count - simulated.taken_of(real.outcome_side)
        if real is None or left <= 0:
            return opened
        if opened is None:
            return replace(real, count=left)
        if opened.outcome_side is not real.outcome_side:
            # Bought here on one side and at the exchange on the other: they net, as they would there.
            bigger, net = (
                (real, left - opened.count) if left >= opened.count else (opened, opened.count - left)
            )
            return replace(bigger, count=net) if net else None
        cost = left * real.entry_price + opened.cost
        return replace(real, count=left + opened.count, entry_price=cost / (left + opened.count))

    def positions(self) -> dict[str, Position]:
        tickers = {*self._real, *self._simulated}
        return {t: position for t in sorted(tickers) if (position := self.held(t)) is not None}

    @property
    def tickers(self) -> frozenset[str]:
        """Markets in which something is held here or at the exchange."""
        return frozenset({*self._real, *self._simulated} - self._ended.keys())

    @property
    def simulated_tickers(self) -> frozenset[str]:
        """Markets in which something was bought or sold here that has not ended or lapsed."""
        return frozenset(t for t, s in self._simulated.items() if s.opened is not None or s.taken_off > 0)

    def is_missing(self, ticker: str, real: Mapping[str, Position]) -> bool:
        """Whether the exchange held something there that this read does not show."""
        return ticker in self._real and ticker not in real

    # --- what the exchange says ---------------------------------------------------------------------

    def take_read(
        self,
        real: Mapping[str, Position],
        now: float,
        value_of: Callable[[str, OutcomeSide], Decimal | None],
        *,
        is_whole: bool,
    ) -> None:
        """Take in one read of the exchange's positions; one that is not whole says nothing about what it
        does not show. `now` is monotonic; `value_of` says what a contract of a side fetches now."""
        for ticker in list(self._simulated):
            simulated = self._simulated[ticker]
            if simulated.seen is None or (ticker not in real and not is_whole):
                continue
            lapses, is_sure = _lapses(simulated, simulated.seen, real.get(ticker))
            if lapses > 0 and not is_sure:
                if simulated.less_since is None:
                    simulated.less_since = now
                if now - simulated.less_since < AGREEMENT_S:
                    continue
            simulated.less_since = None
            if lapses > 0:
                self._lapse(ticker, lapses, value_of(ticker, simulated.seen.outcome_side))
            seen = real.get(ticker)
            if simulated.taken_off > 0 and seen is not None and seen != simulated.seen:
                simulated.seen = seen
                self._changed.add(ticker)
        self._real = dict(real) if is_whole else {**self._real, **real}

    def _lapse(self, ticker: str, count: Decimal, value: Decimal | None) -> None:
        simulated = self._simulated[ticker]
        assert simulated.seen is not None, "contracts were taken off something"
        self.cash -= count * (simulated.seen.entry_price if value is None else value)
        simulated.taken_off -= count
        self._lapsed.append((ticker, count))
        if simulated.taken_off == 0:
            simulated.seen = simulated.less_since = None
        self._changed |= {ticker, CASH}

    def take_lapses(self) -> list[tuple[str, Decimal]]:
        """Contracts by market whose sale here has lapsed since this was last asked."""
        lapsed, self._lapsed = self._lapsed, []
        return lapsed

    # --- what is traded here ------------------------------------------------------------------------

    def opening_count(self, ticker: str, book_side: BookSide, count: Decimal) -> Decimal:
        """The part of an order that would open risk rather than close the position."""
        held = self.held(ticker)
        is_closing = held is not None and held.outcome_side is not _side_of(book_side)
        return max(ZERO, count - held.count) if held is not None and is_closing else count

    def fill(
        self,
        ticker: str,
        book_side: BookSide,
        count: Decimal,
        yes_price: Decimal,
        fee: Decimal,
        exchange_index: int | None,
        now: float,
    ) -> Decimal:
        """Book one execution; return what is held after it, signed. `now` is wall time."""
        side = _side_of(book_side)
        price = to_yes_leg(yes_price, side)
        held = self.held(ticker)
        closed = count - self.opening_count(ticker, book_side, count)
        self.cash += closed * (ONE - price) - (count - closed) * price - fee
        if held is not None and closed > 0:
            self._reduce(held, closed)
        self._open(Position(ticker, side, count - closed, price, exchange_index, now))
        self._changed |= {ticker, CASH}
        after = self.held(ticker)
        return ZERO if after is None else after.signed_count

    def _reduce(self, held: Position, count: Decimal) -> None:
        """Sell `count` contracts of what is held: those that exist only here first."""
        simulated = self._simulated.setdefault(held.ticker, _Simulated())
        opened = simulated.opened
        if opened is not None and opened.outcome_side is held.outcome_side:
            from_opened = min(count, opened.count)
            simulated.opened = _less(opened, from_opened)
            count -= from_opened
        if count == 0:
            return
        real = self._real[held.ticker]
        if simulated.seen is not None and simulated.seen.outcome_side is not real.outcome_side:
            self._lapse(held.ticker, simulated.taken_off, None)  # it has turned, and that is acted on
        simulated.seen = simulated.seen or real
        simulated.taken_off += count

    def _open(self, bought: Position) -> None:
        """Add what was bought, less what lies here on the other side: they net."""
        if bought.count == 0:
            return
        simulated = self._simulated.setdefault(bought.ticker, _Simulated())
        opened = simulated.opened
        if opened is None:
            simulated.opened = bought
        elif opened.outcome_side is bought.outcome_side:
            total = opened.count + bought.count
            price = (opened.cost + bought.cost) / total
            simulated.opened = replace(opened, count=total, entry_price=price)
        else:
            netted = min(opened.count, bought.count)
            # A pair of both sides is a dollar, whatever happens.
            self.cash += netted
            simulated.opened = _less(opened, netted) or _less(bought, netted)

    # --- the end of a market ------------------------------------------------------------------------

    def settle(self, ticker: str, yes_value: Decimal, ts_ms: int) -> Payout | None:
        """The market has ended and pays `yes_value` dollars for a YES contract. Returns what all that is
        held was paid, None when nothing is; a market is paid once.

        What the exchange pays for contracts that were sold here is not this account's.
        """
        held = self.held(ticker)
        simulated = self._simulated.pop(ticker, _Simulated())
        if simulated.opened is not None:
            self.cash += simulated.opened.count * to_yes_leg(yes_value, simulated.opened.outcome_side)
        if simulated.seen is not None:
            self.cash -= simulated.taken_off * to_yes_leg(yes_value, simulated.seen.outcome_side)
        self._real.pop(ticker, None)
        self._ended[ticker] = None
        if len(self._ended) > ENDED_MAX:
            self._ended.popitem(last=False)
        self._changed |= {ticker, CASH}
        if held is None:
            return None
        revenue = held.count * to_yes_leg(yes_value, held.outcome_side)
        return Payout(ticker, ts_ms, held.signed_count, held.cost, revenue)

    # --- what is remembered -------------------------------------------------------------------------

    def take_records(self) -> list[PaperRecord]:
        """What has to be remembered since this was last asked."""
        changed, self._changed = sorted(self._changed), set()
        return [
            PaperRecord(CASH, ZERO, ONE, self.cash, None) if t == CASH else self._record(t) for t in changed
        ]

    def _record(self, ticker: str) -> PaperRecord:
        simulated = self._simulated.get(ticker, _Simulated())
        opened, seen = simulated.opened, simulated.seen
        if opened is None and seen is None:
            self._simulated.pop(ticker, None)
        return PaperRecord(
            ticker,
            simulated.taken_off,
            ZERO if opened is None else opened.signed_count,
            ZERO if opened is None else opened.entry_price,
            None if opened is None else opened.opened_at,
            ZERO if seen is None else seen.signed_count,
            seen.entry_price if seen is not None and seen.entry_price.is_finite() else ZERO,
        )


def _lapses(simulated: _Simulated, seen: Position, real: Position | None) -> tuple[Decimal, bool]:
    """How much of what was sold here has nothing left to lie over, and whether one read proves it."""
    taken = simulated.taken_off
    if real is None or real.outcome_side is not seen.outcome_side:
        return taken, False
    if real.count < seen.count:
        return max(ZERO, taken - real.count), False
    if not real.entry_price.is_finite() or not seen.entry_price.is_finite():
        return ZERO, False
    added = real.count - seen.count
    paid = real.cost - seen.cost
    slack = ENTRY_TOLERANCE * real.count
    is_anew = paid < -slack or paid > added + slack
    return (taken, True) if is_anew else (ZERO, False)


def _side_of(book_side: BookSide) -> OutcomeSide:
    return OutcomeSide.YES if book_side is BookSide.BID else OutcomeSide.NO


def _less(position: Position, count: Decimal) -> Position | None:
    return None if count == position.count else replace(position, count=position.count - count)


def _restored(record: PaperRecord) -> _Simulated:
    simulated = _Simulated(record.taken_off)
    if record.taken_off > 0:
        simulated.seen = _position(record.ticker, record.seen, record.seen_price, None)
    if record.opened != 0:
        simulated.opened = _position(record.ticker, record.opened, record.entry_price, record.opened_at)
    return simulated


def _position(ticker: str, signed: Decimal, price: Decimal, opened_at: float | None) -> Position:
    side = OutcomeSide.YES if signed > 0 else OutcomeSide.NO
    return Position(ticker, side, abs(signed), price, None, opened_at)
