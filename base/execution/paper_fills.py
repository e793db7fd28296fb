"""How orders fill on paper. Pure.

The market is real, the order is not: it meets what the market displays, and the market never learns of it.

- An order acts `PAPER_LATENCY_MS` after it was sent (orders took 47 ms at the median), against the quote
  that is known *then*. The answer comes as it acts.
- **Taking.** What crosses takes the displayed levels from the best price on, each at its own price, down to
  the limit and never more than is displayed: the book of a held market, else the size at its best price.
  A size that nobody told is no size. A quote that no live feed vouches for is read anew once it is older
  than `QUOTE_AGE_S_MAX`; while it cannot be, nothing fills. A market whose book is not streamed is read
  anew for every order but an exit: a ticker comes at most once a second, and what it offers may be gone.
- **What was taken is gone** until the market shows something newer: a quote of a later exchange time, or
  another size at that price. The same quote read again is nothing new.
- **Immediate-or-cancel** cancels the rest, **fill-or-kill** fills all or is refused,
  **good-till-canceled** rests with what is left. **Post-only** is refused where it would take anything.
  **Reduce-only** goes with immediate-or-cancel only and is capped to what is held.
- **Resting.** A resting order fills when the other side's best price comes to its limit or better: at its
  limit, at most as many as are displayed there. That its own price is the best one, or that somebody
  traded there, fills nothing: no place in the queue is assumed. The real exchange fills at least these and
  often more. A cancel or an order that arrives afterwards does not undo it: a bid that the market falls
  through is bought before the exit's cancel comes. Bids that fill only in the real queue are not bought
  here, and those are the ones that lose more often than not: in what rests, paper can look better.
- **Our own orders in the way**, as the exchange does it: an exit (reduce-only, `maker`) cancels the
  resting order and goes on; any other order (`taker_at_cross`) is stopped there: what is displayed at
  better prices fills, the rest is canceled.
- A paused market or exchange takes no orders (`trading_is_paused`), nor does one that is not open
  (`market_inactive`). Resting orders end at their expiry, with the close, and when a pause ends.
- **Fees**, a fill: a taker pays 0.07 × count × price × (1 − price), rounded up to $0.0001; a resting
  order pays nothing, the rule of most series. Series with maker fees (0.0175 instead of 0.07) and with a
  multiplier of their own are not told apart.

Beyond the latency, paper and live differ by what others do in those milliseconds, by our own orders'
effect on the market, and by queues. Resting paper orders end with the process; what is held does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from base.execution.gateway import PriceView
from base.model.fees import taker_fee
from base.model.market import ONE, ZERO, BookSide, Level, OutcomeSide, Quote

QUOTE_AGE_S_MAX = 5.0


def fee_of(count: Decimal, yes_price: Decimal, *, is_taker: bool) -> Decimal:
    """Dollars of fee for one fill."""
    return taker_fee(count, yes_price) if is_taker else ZERO


def opposite(side: BookSide) -> BookSide:
    return BookSide.ASK if side is BookSide.BID else BookSide.BID


def is_within(price: Decimal, limit: Decimal, side: BookSide) -> bool:
    """Whether an order of `side` with this YES-leg limit trades at `price`."""
    return price <= limit if side is BookSide.BID else price >= limit


def is_believable(view: PriceView) -> bool:
    """Whether its quote may fill an order: vouched for by the live feed, or fresh."""
    is_fresh = view.age_s is not None and view.age_s <= QUOTE_AGE_S_MAX
    return view.quote is not None and (view.is_vouched or is_fresh)


def levels_met(view: PriceView, side: BookSide) -> tuple[Level, ...]:
    """What is displayed against an order of `side`, best first, in YES-leg dollars."""
    if view.quote is None or not is_believable(view) or view.quote.yes_bid >= view.quote.yes_ask:
        return ()
    if side is BookSide.ASK:
        return _bids(view.quote, OutcomeSide.YES, view.yes_bids)
    return tuple((ONE - price, size) for price, size in _bids(view.quote, OutcomeSide.NO, view.no_bids))


def _bids(quote: Quote, outcome: OutcomeSide, depth: Sequence[Level]) -> tuple[Level, ...]:
    """The bids for an outcome in its dollars. The quote is newer than the depth: levels above its best
    price are gone, and at that price the smaller of both sizes counts."""
    best, size = quote.best_bid(outcome), quote.bid_size(outcome)
    if not ZERO < best < ONE or size == ZERO:
        return ()
    sizes = [level[1] for level in depth if level[0] == best]
    # Depth that does not know the best price is from another moment.
    behind = tuple(level for level in depth if level[0] < best) if sizes else ()
    if size is not None:
        sizes.append(size)
    if not sizes:
        return ()
    return ((best, min(sizes)), *behind)


@dataclass(frozen=True, slots=True)
class Part:
    """One price at which an order fills; YES-leg dollars."""

    yes_price: Decimal
    count: Decimal


def take(levels: Sequence[Level], side: BookSide, limit: Decimal, count: Decimal) -> list[Part]:
    """What an order takes of the levels that it meets, each at its own price."""
    parts: list[Part] = []
    for price, size in levels:
        if count <= 0 or not is_within(price, limit, side):
            break
        part = min(count, size)
        parts.append(Part(price, part))
        count -= part
    return parts


def available(levels: Sequence[Level], side: BookSide, limit: Decimal) -> Decimal:
    """Contracts displayed within the limit of an order of `side`."""
    return sum((size for price, size in levels if is_within(price, limit, side)), ZERO)


@dataclass(frozen=True, slots=True)
class _Taken:
    shown: Decimal
    count: Decimal


class DisplayedMarket:
    """What one market displays, less what paper orders have taken of it. Not thread-safe."""

    def __init__(self) -> None:
        self._ts_ms = 0
        self._levels: dict[BookSide, tuple[Level, ...]] = {}
        self._taken: dict[tuple[BookSide, Decimal], _Taken] = {}

    def show(self, view: PriceView) -> None:
        """Take in what is displayed now."""
        ts_ms = 0 if view.quote is None else view.quote.ts_ms
        if ts_ms > self._ts_ms:
            self._taken.clear()
            self._ts_ms = ts_ms
        for side in BookSide:
            self._levels[side] = levels_met(view, side)
            for price, size in self._levels[side]:
                taken = self._taken.get((side, price))
                if taken is not None and taken.shown != size:
                    del self._taken[side, price]

    def left(self, side: BookSide) -> list[Level]:
        """What an order of `side` meets, best first, in YES-leg dollars."""
        levels = []
        for price, size in self._levels.get(side, ()):
            taken = self._taken.get((side, price))
            rest = size if taken is None else size - taken.count
            if rest > 0:
                levels.append((price, rest))
        return levels

    def note_taken(self, side: BookSide, parts: Sequence[Part]) -> None:
        """An order of `side` has taken these, each at the price of its level."""
        sizes = dict(self._levels.get(side, ()))
        for part in parts:
            before = self._taken.get((side, part.yes_price))
            count = part.count if before is None else before.count + part.count
            self._taken[side, part.yes_price] = _Taken(sizes[part.yes_price], count)
