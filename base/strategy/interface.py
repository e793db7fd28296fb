"""What a strategy sees and what it returns.

A strategy is a class that is constructed with its settings (the `STRATEGY_*` variables by their full
names) and asked once a pass:

    class Mine:
        def __init__(self, settings): ...
        def watches(self): return [MarketFilter(series="KXHIGHNY")]   # optional: markets to stream
        def decide(self, view): return [OrderIntent(...)]

It never gets an exchange client. Its intents pass the pre-trade limits, are reserved, and are sent as
limit orders that fill at once or are canceled, or that rest when it says so. What it opens is protected
like everything else from the first contract on, and whatever it raises or however long it takes,
protection goes on without it.

When the feed is lost (`feed_is_live` False) resting orders are canceled, but for those placed with
`keep_on_feed_loss`, because nobody sees what they would buy into; quotes then come from REST, seconds old.
When `may_enter` is False (start-up, a loss limit, the kill switch, trouble) all resting orders are canceled
and every new one is denied. A strategy need do nothing about either; it is asked all the same, so that it
can keep its own accounts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol, runtime_checkable

from base.model.market import Event, Market, OutcomeSide, Quote
from base.model.order import EntryOrder
from base.model.position import Fill, Position


@dataclass(frozen=True, slots=True)
class OrderIntent:
    """A wish to buy `count` contracts of `outcome_side` at `price` dollars or less; `why` is for people.

    `rests` leaves what does not fill at once in the book until it fills, is canceled, or
    `expires_after_s` seconds have passed; `post_only` only ever rests (it is refused where it would fill).
    """

    ticker: str
    outcome_side: OutcomeSide
    count: Decimal
    price: Decimal
    why: str = ""
    rests: bool = False
    expires_after_s: float | None = None
    post_only: bool = False
    keep_on_feed_loss: bool = False


@dataclass(frozen=True, slots=True)
class SetIntent:
    """Orders that make sense only together: bought one after the other, the scarcest first, each at once
    or not at all; if one does not fill, those before it are sold again.

    While every leg is held in full, no stop leaves any of them: their values move against each other. So
    only what cannot lose is taken: the same count of one side in markets of one mutually exclusive event
    (of YES in all of them) that costs no more than it pays at the least, and none of them held or busy.
    """

    legs: tuple[OrderIntent, ...]
    why: str = ""


@dataclass(frozen=True, slots=True)
class AmendIntent:
    """A wish to move a resting order: `price` and `count` (contracts in all, filled ones included) are
    left as they are where None."""

    client_order_id: str
    price: Decimal | None = None
    count: Decimal | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class CancelIntent:
    """A wish to cancel a resting order; what has filled stays."""

    client_order_id: str
    why: str = ""


Intent = OrderIntent | SetIntent | AmendIntent | CancelIntent


@dataclass(frozen=True, slots=True)
class MarketFilter:
    """Open markets of a series or of an event to discover and stream; `closes_within_s` keeps those that
    close so soon, and of more than `markets_max` the first to close are taken."""

    series: str = ""
    event: str = ""
    closes_within_s: float | None = None
    markets_max: int = 100


@dataclass(frozen=True, slots=True)
class MarketView:
    """One market now; `quote` is None when no price is fresh, and then nothing should be opened in it."""

    market: Market
    quote: Quote | None
    position: Position | None


@dataclass(frozen=True, slots=True)
class StrategyView:
    """All that a strategy may know at one pass. `now` is seconds since the epoch, money is dollars.

    `orders` are this program's own that may still fill, by client order id; `fills` are the account's
    since the last pass, oldest first, at most a few hundred; `balance_dollars` is None while it is not
    known.
    """

    now: float
    markets: Mapping[str, MarketView]
    positions: Mapping[str, Position]
    may_enter: bool
    feed_is_live: bool
    exposure_dollars: Decimal
    events: Mapping[str, Event] = field(default_factory=dict)
    orders: Mapping[str, EntryOrder] = field(default_factory=dict)
    fills: tuple[Fill, ...] = ()
    balance_dollars: Decimal | None = None


class Strategy(Protocol):
    """See the module's text; `watches` is optional (see `Watching`)."""

    def decide(self, view: StrategyView) -> Iterable[Intent]:
        """What to do now, most wanted first; all or nothing: where one of them is no intent, or the iterable
        raises half-way, none is carried out."""


@runtime_checkable
class Watching(Protocol):
    """A strategy that wants markets streamed that are not held."""

    def watches(self) -> Iterable[str | MarketFilter]:
        """Market tickers and filters; asked before each pass."""
