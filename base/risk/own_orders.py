"""What others pay: our own resting bids are no buyers for what we hold. Pure.

A strategy that adds to a position may itself be the best bid. The value of the position would then stand
at that price however far everybody else has gone, and its stop with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from base.model.market import ONE, ZERO, Level, OutcomeSide, Quote


def is_only_ours(quote: Quote, side: OutcomeSide, own: Mapping[Decimal, Decimal]) -> bool:
    """Whether nobody but us pays the best bid of `side`; `own` is contracts by price, dollars of `side`."""
    mine = own.get(quote.best_bid(side), ZERO)
    size = quote.bid_size(side)
    return mine > ZERO and size is not None and size <= mine


def without_own(
    quote: Quote, side: OutcomeSide, own: Mapping[Decimal, Decimal], levels: Sequence[Level]
) -> Quote:
    """The quote with our own bids of `side` taken out; `levels` is the displayed book of that side, best
    first, empty when it is not known: then nobody else is known to bid where the best bid is ours alone."""
    best, size = quote.best_bid(side), quote.bid_size(side)
    mine = own.get(best, ZERO)
    if mine <= ZERO or size is None:
        return quote
    if size > mine:
        return _with_bid(quote, side, best, size - mine)
    for price, shown in levels:
        others = shown - own.get(price, ZERO)
        if price < best and others > ZERO:
            return _with_bid(quote, side, price, others)
    return _with_bid(quote, side, ZERO, ZERO)


def levels_without_own(levels: Sequence[Level], own: Mapping[Decimal, Decimal]) -> tuple[Level, ...]:
    """A displayed book's side with our own contracts taken out."""
    others = ((price, shown - own.get(price, ZERO)) for price, shown in levels)
    return tuple((price, size) for price, size in others if size > ZERO)


def _with_bid(quote: Quote, side: OutcomeSide, price: Decimal, size: Decimal) -> Quote:
    if side is OutcomeSide.YES:
        return replace(quote, yes_bid=price, yes_bid_size=size)
    return replace(quote, yes_ask=ONE - price, yes_ask_size=size)
