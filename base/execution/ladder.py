"""At which price and for how many an exit asks. Pure.

Of 996 recorded immediate-or-cancel exits priced *at* the bid just displayed, 43 % filled nothing: the
book had moved. So the first rung goes through the displayed price by a few grid steps (the exchange
gives price improvement: recorded, a bid of 0.99 filled at 0.52), each further rung goes deeper, and the
last one asks the floor. Prices are always on the market's own grid, rounded towards filling, and never
ask less than the floor for a contract of the held side.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from base.model.market import CENT, ONE, BookSide, Market, OutcomeSide, Quote
from base.model.order import exit_book_side

STEPS_THROUGH = (2, 4, 8, 16)
"""Cents below the displayed bid that rung 1, 2, … asks; after the last one the floor is asked."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One order's side and YES-leg limit price."""

    book_side: BookSide
    price: Decimal


def exit_rung(side: OutcomeSide, quote: Quote, market: Market, rung: int, floor: Decimal) -> Rung:
    """The order that leaves a position of `side` at the given rung (0 is the first).

    `floor` is in dollars of the held side; callers have checked that the bid is not below it.
    """
    grid = market.grid
    bid = quote.best_bid(side)
    asked = floor if rung >= len(STEPS_THROUGH) else max(floor, bid - STEPS_THROUGH[rung] * CENT)
    if side is OutcomeSide.YES:
        # Rounded down, towards filling, but not under the floor, which is rounded up.
        price = max(grid.floor(asked), grid.ceil(floor), grid.lowest)
        return Rung(exit_book_side(side), min(price, max(grid.floor(bid), grid.ceil(floor), grid.lowest)))
    price = min(grid.ceil(ONE - asked), grid.floor(ONE - floor), grid.highest)
    best = min(grid.ceil(ONE - bid), grid.floor(ONE - floor), grid.highest)
    return Rung(exit_book_side(side), max(price, best))
