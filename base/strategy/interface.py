"""What a strategy sees and what it returns.

A strategy is a class that is constructed with its settings (the `STRATEGY_*` variables by their full
names) and asked once a pass:

    class Mine:
        def __init__(self, settings): ...
        def watches(self): return ["KXHIGHNY-26NOV22-B53.5"]      # optional: markets to stream
        def decide(self, view): return [OrderIntent(...)]

It never gets an exchange client. Its intents pass the pre-trade limits, are reserved, and are sent as
limit orders that fill at once or are canceled. What it opens is protected like everything else, and
whatever it raises or however long it takes, protection goes on without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol, runtime_checkable

from base.model.market import Market, OutcomeSide, Quote
from base.model.position import Position


@dataclass(frozen=True, slots=True)
class OrderIntent:
    """A wish to buy `count` contracts of `outcome_side` at `price` dollars or less; `why` is for people."""

    ticker: str
    outcome_side: OutcomeSide
    count: Decimal
    price: Decimal
    why: str = ""


@dataclass(frozen=True, slots=True)
class MarketView:
    """One market now; `quote` is None when no price is fresh, and then nothing should be opened in it."""

    market: Market
    quote: Quote | None
    position: Position | None


@dataclass(frozen=True, slots=True)
class StrategyView:
    """All that a strategy may know at one pass. `now` is seconds since the epoch.

    `may_enter` is False while the bot only reduces (start-up, loss limit, trouble): intents are denied
    then. `feed_is_live` is False while prices come from REST only.
    """

    now: float
    markets: Mapping[str, MarketView]
    positions: Mapping[str, Position]
    may_enter: bool
    feed_is_live: bool
    exposure_dollars: Decimal


class Strategy(Protocol):
    """See the module's text; `watches` is optional (see `Watching`)."""

    def decide(self, view: StrategyView) -> Iterable[OrderIntent]:
        """The orders to place now, most wanted first."""


@runtime_checkable
class Watching(Protocol):
    """A strategy that wants markets streamed that are not held."""

    def watches(self) -> Iterable[str]:
        """Market tickers; asked before each pass."""
