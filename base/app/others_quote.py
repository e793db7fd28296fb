"""A held market's quote as others make it, for the checker: see `base/risk/own_orders.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal

from base.clock import Clock
from base.kalshi.websocket_client import Depth
from base.model.market import OutcomeSide, Quote
from base.model.position import Position
from base.risk.own_orders import is_only_ours, without_own

MASKED_S = 1.0
"""Where nobody but us pays the best bid, so long the displayed price is still taken: an order of ours that
has just filled is known as resting for a moment more, and its place in the book is another's by then."""


class OthersQuotes:
    """Called by the checker's thread alone. `resting_in` gives what our orders may still buy, by price."""

    def __init__(
        self,
        resting_in: Callable[[str, OutcomeSide], Mapping[Decimal, Decimal]],
        depth: Callable[[str], Depth],
        clock: Clock,
    ) -> None:
        self._resting_in = resting_in
        self._depth = depth
        self._clock = clock
        self._masked_since: dict[str, float] = {}

    def quote_for(self, position: Position, quote: Quote) -> Quote:
        """The quote without our own bids for the side that `position` sells to."""
        ticker, side = position.ticker, position.outcome_side
        own = self._resting_in(ticker, side)
        if not is_only_ours(quote, side, own):
            self._masked_since.pop(ticker, None)
            return without_own(quote, side, own, ()) if own else quote
        now = self._clock.monotonic()
        if now - self._masked_since.setdefault(ticker, now) < MASKED_S:
            return quote
        yes_bids, no_bids = self._depth(ticker)
        return without_own(quote, side, own, yes_bids if side is OutcomeSide.YES else no_bids)
