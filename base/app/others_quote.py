"""A market as others make it, for the checker and for exits: see `base/risk/own_orders.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal

from base.clock import Clock
from base.execution.gateway import PriceView
from base.kalshi.feed import Depth
from base.model.market import OutcomeSide, Quote
from base.model.position import Position
from base.risk.own_orders import is_only_ours, levels_without_own, without_own

MASKED_S = 1.0
"""Where nobody but us pays the best bid, so long the displayed price is still taken: an order of ours that
has just filled is known as resting for a moment more, and its place in the book is another's by then."""


class OthersQuotes:
    """`resting_in` gives what our orders may still buy, by price; `cancel` takes those of a market off the
    book. `quote_for` is called by the checker's thread alone."""

    def __init__(
        self,
        resting_in: Callable[[str, OutcomeSide], Mapping[Decimal, Decimal]],
        depth: Callable[[str], Depth],
        cancel: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self._resting_in = resting_in
        self._depth = depth
        self._cancel = cancel
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
        levels = yes_bids if side is OutcomeSide.YES else no_bids
        if not levels:
            self._cancel(ticker)  # nobody can see past it to what others pay
        return without_own(quote, side, own, levels)

    def view_for(self, view: PriceView) -> PriceView:
        """What an exit meets in the book: our own orders are canceled as it begins. Any thread."""
        ticker = view.market.ticker
        own_yes = self._resting_in(ticker, OutcomeSide.YES)
        own_no = self._resting_in(ticker, OutcomeSide.NO)
        if not own_yes and not own_no:
            return view
        quote = view.quote
        if quote is not None:
            quote = without_own(quote, OutcomeSide.YES, own_yes, view.yes_bids)
            quote = without_own(quote, OutcomeSide.NO, own_no, view.no_bids)
        return replace(
            view,
            quote=quote,
            yes_bids=levels_without_own(view.yes_bids, own_yes),
            no_bids=levels_without_own(view.no_bids, own_no),
        )
