"""Realized money from executions alone: replay a market's fills with average cost. Pure.

The exchange nets: one signed position a market (above 0 is YES), and a sale beyond what is held flips it.
Fees are never part of a gain; they stand in the fills.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from base.model.market import ONE, ZERO, BookSide, OutcomeSide
from base.model.order import to_yes_leg
from base.model.position import Fill, Position


@dataclass(frozen=True, slots=True)
class Holding:
    """A signed count and what a contract of the held side cost; `entry` is None when nobody knows."""

    signed: Decimal = ZERO
    entry: Decimal | None = None

    @property
    def side(self) -> OutcomeSide:
        return OutcomeSide.YES if self.signed > 0 else OutcomeSide.NO


FLAT = Holding()


@dataclass(frozen=True, slots=True)
class Step:
    """What one fill did. `realized` is None where it closed contracts whose entry nobody knows."""

    fill: Fill
    before: Holding
    after: Holding
    closed: Decimal
    realized: Decimal | None


@dataclass(frozen=True, slots=True)
class Payout:
    """What the end of a market paid for what was held, `signed` contracts that had cost `cost` dollars."""

    ticker: str
    settled_ts_ms: int
    signed: Decimal
    cost: Decimal
    revenue: Decimal
    fees_paid: Decimal | None = None
    """What the exchange says that the market has cost in fees in all, its fills' fees included."""
    fee: Decimal = ZERO
    """What the end itself cost; see `settling_fee`."""

    @property
    def side(self) -> OutcomeSide:
        return OutcomeSide.YES if self.signed > 0 else OutcomeSide.NO

    @property
    def trade_id(self) -> str:
        """It is remembered like an execution, under a name of its own."""
        return f"settlement:{self.ticker}:{self.settled_ts_ms}"


def in_time_order(fills: Sequence[Fill]) -> list[Fill]:
    """Oldest first; those of one millisecond in the order in which the exchange lists them, which is
    newest first unless the times say otherwise."""
    is_ascending = bool(fills) and fills[0].ts_ms < fills[-1].ts_ms
    return sorted(fills if is_ascending else reversed(fills), key=lambda fill: fill.ts_ms)


def signed_count(fill: Fill) -> Decimal:
    """What a fill adds to the signed position."""
    return fill.count if fill.book_side is BookSide.BID else -fill.count


def replay(fills: Iterable[Fill], opening: Holding = FLAT) -> list[Step]:
    """Go through the fills of one market in time order, from what was held before them."""
    steps: list[Step] = []
    holding = opening
    for fill in fills:
        step = _step(holding, fill)
        steps.append(step)
        holding = step.after
    return steps


def _step(before: Holding, fill: Fill) -> Step:
    signed = before.signed + signed_count(fill)
    if before.signed * signed_count(fill) >= 0:
        return Step(fill, before, Holding(signed, _average(before, fill)), ZERO, ZERO)
    closed = min(fill.count, abs(before.signed))
    realized = None
    if before.entry is not None:
        realized = closed * (to_yes_leg(fill.yes_price, before.side) - before.entry)
    if signed == 0:
        after = FLAT
    elif closed < fill.count:  # through zero: the rest opens the other side
        after = Holding(signed, to_yes_leg(fill.yes_price, before.side.opposite))
    else:
        after = Holding(signed, before.entry)
    return Step(fill, before, after, closed, realized)


def _average(before: Holding, fill: Fill) -> Decimal | None:
    side = OutcomeSide.YES if fill.book_side is BookSide.BID else OutcomeSide.NO
    price = to_yes_leg(fill.yes_price, side)
    if before.signed == 0:
        return price
    if before.entry is None:
        return None
    held = abs(before.signed)
    return (held * before.entry + fill.count * price) / (held + fill.count)


def settling_fee(payout: Payout, fills: Sequence[Fill]) -> Decimal:
    """What of the fees of an ended market its fills do not tell, 0 unless these are all its fills.

    The exchange gives one sum for trading and settling (`fee_cost`; recorded 2026-08-17: it is what the
    purchases had cost, to the hundredth of a cent), and the fills' fees have been booked on their days.
    """
    count = sum((signed_count(fill) for fill in fills), ZERO)
    if payout.fees_paid is None or not fills or count != payout.signed:
        return ZERO
    return max(ZERO, payout.fees_paid - sum((fill.fee for fill in fills), ZERO))


def only_open(fills: Sequence[Fill], held: Decimal) -> bool:
    """Whether these newest fills of a market have certainly closed nothing, as `held` (signed) is left."""
    total = sum((signed_count(fill) for fill in fills), ZERO)
    is_one_way = abs(total) == sum((fill.count for fill in fills), ZERO)
    return is_one_way and held * total > 0 and abs(held) >= abs(total)


def opening_entry(fills: Sequence[Fill], signed: Decimal, held: Position | None) -> Decimal | None:
    """What `signed` contracts must have cost before these fills, so that what is held now cost what it
    did; None when that cannot be told.

    While the position never crosses zero, the entry after the fills is a straight line in the entry
    before them: two points give it.
    """
    if held is None:
        return None
    ends = []
    for entry in (ZERO, ONE):
        steps = replay(fills, Holding(signed, entry))
        if any(step.after.signed * signed <= 0 for step in steps):
            return None
        end = steps[-1].after if steps else Holding(signed, entry)
        if end.signed != held.signed_count or end.entry is None:
            return None
        ends.append(end.entry)
    slope = ends[1] - ends[0]
    found = (held.entry_price - ends[0]) / slope if slope else ZERO
    return found if ZERO < found < ONE else None
