"""One market's order book: price-time priority on the YES leg.

Simulated participants and the account's own orders rest in the same queues. Participants set their
size per level; what they add goes to the back of the queue, what they take away comes from the back.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from base.model.market import BookSide
from base.sandbox.fixed_point import ZERO


@dataclass(slots=True)
class Resting:
    """One entry of a level's queue; `order_id` is None for the simulated participants."""

    order_id: str | None
    remaining: Decimal


def opposite(side: BookSide) -> BookSide:
    return BookSide.ASK if side is BookSide.BID else BookSide.BID


class Book:
    """Owned by the exchange, which is owned by one thread."""

    def __init__(self) -> None:
        self._levels: dict[BookSide, dict[Decimal, list[Resting]]] = {BookSide.BID: {}, BookSide.ASK: {}}

    def best(self, side: BookSide) -> Decimal | None:
        prices = self._levels[side]
        if not prices:
            return None
        return max(prices) if side is BookSide.BID else min(prices)

    def size_at(self, side: BookSide, price: Decimal) -> Decimal:
        return sum((r.remaining for r in self._levels[side].get(price, ())), ZERO)

    def participants_size_at(self, side: BookSide, price: Decimal) -> Decimal:
        queue = self._levels[side].get(price, ())
        return sum((r.remaining for r in queue if r.order_id is None), ZERO)

    def levels(self, side: BookSide) -> list[tuple[Decimal, Decimal]]:
        """Price and size of every level, best first."""
        prices = sorted(self._levels[side], reverse=side is BookSide.BID)
        return [(price, self.size_at(side, price)) for price in prices]

    def participants_prices(self, side: BookSide) -> list[Decimal]:
        return [p for p, queue in self._levels[side].items() if any(r.order_id is None for r in queue)]

    def set_participants_size(self, side: BookSide, price: Decimal, size: Decimal) -> Decimal:
        """Make the participants' size of a level `size`; return the signed change."""
        change = size - self.participants_size_at(side, price)
        if change > 0:
            queue = self._levels[side].setdefault(price, [])
            if queue and queue[-1].order_id is None:
                queue[-1].remaining += change
            else:
                queue.append(Resting(None, change))
        elif change < 0:
            left = -change
            for resting in reversed([r for r in self._levels[side][price] if r.order_id is None]):
                taken = min(left, resting.remaining)
                resting.remaining -= taken
                left -= taken
            self._drop_empty(side, price)
        return change

    def rest(self, order_id: str, side: BookSide, price: Decimal, count: Decimal) -> None:
        self._levels[side].setdefault(price, []).append(Resting(order_id, count))

    def reduce_order(self, order_id: str, side: BookSide, price: Decimal, by: Decimal) -> None:
        """Take `by` contracts off a resting order without moving it in the queue."""
        for resting in self._levels[side][price]:
            if resting.order_id == order_id:
                resting.remaining -= by
        self._drop_empty(side, price)

    def front(self, side: BookSide, limit: Decimal) -> tuple[Decimal, Resting] | None:
        """The first entry that an order from the other side with this limit would meet."""
        best = self.best(side)
        if best is None or (best < limit if side is BookSide.BID else best > limit):
            return None
        return best, self._levels[side][best][0]

    def take_front(self, side: BookSide, price: Decimal, count: Decimal) -> None:
        self._levels[side][price][0].remaining -= count
        self._drop_empty(side, price)

    def available(self, side: BookSide, limit: Decimal) -> Decimal:
        """Contracts of `side` within `limit`, the account's own included."""
        inside = (
            size
            for price, size in self.levels(side)
            if (price >= limit if side is BookSide.BID else price <= limit)
        )
        return sum(inside, ZERO)

    def _drop_empty(self, side: BookSide, price: Decimal) -> None:
        queue = [r for r in self._levels[side][price] if r.remaining > 0]
        if queue:
            self._levels[side][price] = queue
        else:
            del self._levels[side][price]
