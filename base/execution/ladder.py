"""At which price an exit asks. Pure.

Of 996 recorded immediate-or-cancel exits priced *at* the bid just displayed, 43 % filled nothing: the
book had moved. So the first rung goes through the displayed price by a few steps, each further rung goes
deeper, and the last one asks the floor where the reason is urgent.

A limit is only a bound: the exchange gives price improvement (recorded: an order that would have paid
0.99 filled at 0.52), so a deeper one costs nothing while the better levels are there. A rung that can
fill only a part, on the other hand, costs another round trip, at a bid that the first part has just worn
down. So where the displayed book is known, already the first rung asks deep enough for all of the count,
as far as the deepest configured step.

Prices are always on the market's own grid, rounded towards filling, and never ask less than the floor
for a contract of the held side. All is reckoned in dollars of that side, on the grid as it looks from
there, so that NO mirrors YES whatever the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from base.model.market import CENT, ONE, ZERO, BookSide, Level, Market, OutcomeSide, PriceGrid, Quote
from base.model.order import exit_book_side

STEPS_THROUGH = (2, 4, 8, 16)
"""Steps below the displayed bid that rung 0, 1, … asks, where nothing else is configured."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One order's side and YES-leg limit price."""

    book_side: BookSide
    price: Decimal


def exit_rung(
    side: OutcomeSide,
    quote: Quote,
    market: Market,
    rung: int,
    floor: Decimal,
    *,
    count: Decimal,
    bids: Sequence[Level],
    steps: Sequence[int] = STEPS_THROUGH,
    is_urgent: bool = True,
) -> Rung:
    """The order that leaves `count` contracts of `side` at the given rung (0 is the first).

    `floor` is in dollars of the held side; callers have checked that the bid is not below it. `bids` is
    the displayed book of that side, best first, empty when it is not known. After the last of `steps` an
    urgent exit asks the floor; one that is not urgent never goes below the last step.
    """
    grid = _HeldGrid(market.grid, side)
    bid = quote.best_bid(side)
    least = max(grid.ceil(floor), grid.lowest)
    deepest = max(grid.floor(grid.through(bid, steps[-1])), least)
    if rung < len(steps):
        asked = grid.floor(grid.through(bid, steps[rung]))
    else:
        asked = least if is_urgent else deepest
    price = max(least, min(asked, grid.floor(_completing_level(count, bids, bid, deepest))))
    return Rung(exit_book_side(side), price if side is OutcomeSide.YES else ONE - price)


def _completing_level(count: Decimal, bids: Sequence[Level], bid: Decimal, deepest: Decimal) -> Decimal:
    """The level down to which the displayed contracts make up `count`; the lowest one not below `deepest`
    when they do not, and `bid` when none is displayed.

    A level above `bid` is from before the quote, which is the newest that is known: it is not counted on.
    """
    level, displayed = bid, ZERO
    for price, contracts in bids:
        if price < deepest or displayed >= count:
            break
        if price <= bid:
            level = price
            displayed += contracts
    return level


@dataclass(frozen=True, slots=True)
class _HeldGrid:
    """A market's grid in dollars of the held side."""

    grid: PriceGrid
    side: OutcomeSide

    @property
    def lowest(self) -> Decimal:
        return self.grid.lowest if self.side is OutcomeSide.YES else ONE - self.grid.highest

    def floor(self, price: Decimal) -> Decimal:
        return self.grid.floor(price) if self.side is OutcomeSide.YES else ONE - self.grid.ceil(ONE - price)

    def ceil(self, price: Decimal) -> Decimal:
        return self.grid.ceil(price) if self.side is OutcomeSide.YES else ONE - self.grid.floor(ONE - price)

    def through(self, bid: Decimal, steps: int) -> Decimal:
        """So many steps below `bid`: of the grid, but at least a cent each all together, so that a finer
        grid does not make an exit timid."""
        cents = bid - steps * CENT
        if all(r.step <= CENT for r in self.grid.ranges):
            return cents
        if self.side is OutcomeSide.YES:
            return min(cents, self.grid.below(bid, steps))
        return min(cents, ONE - self.grid.above(ONE - bid, steps))
