"""One market of the sandbox: what it is, where it is in its life, its book."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from decimal import Decimal

from base.model.market import BookSide, MarketStatus, OutcomeSide, PriceGrid, PriceRange
from base.sandbox.book import Book
from base.sandbox.fixed_point import CENT, ONE, ZERO
from base.sandbox.happenings import Top

_MILL = Decimal("0.001")
_TENTH = Decimal("0.1")
GRIDS: dict[str, PriceGrid] = {
    "linear_cent": PriceGrid((PriceRange(ZERO, ONE, CENT),)),
    "deci_cent": PriceGrid((PriceRange(ZERO, ONE, _MILL),)),
    "tapered_deci_cent": PriceGrid(
        (
            PriceRange(ZERO, _TENTH, _MILL),
            PriceRange(_TENTH, ONE - _TENTH, CENT),
            PriceRange(ONE - _TENTH, ONE, _MILL),
        )
    ),
}
_NAMESPACE = uuid.UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")
NO_QUOTE = Top(ZERO, ONE, ZERO, ZERO)


def event_of(ticker: str) -> str:
    """The event ticker: everything before the last dash."""
    return ticker.rpartition("-")[0] or ticker


@dataclass(frozen=True, slots=True)
class MarketSpec:
    """What does not change about a market."""

    ticker: str
    event_ticker: str = ""
    title: str = ""
    yes_sub_title: str = "Yes"
    grid_name: str = "linear_cent"
    exchange_index: int = 0
    open_time: float = 0.0
    determine_after_s: float = 10.0
    """Seconds from the close to the result."""
    finalize_after_s: float = 5.0
    """Seconds from the result to the payment."""
    result: OutcomeSide | None = None
    """The result, when it is fixed beforehand; otherwise the last real price decides."""
    is_exclusive: bool = False
    """At most one market of its event ends YES."""

    @property
    def event(self) -> str:
        return self.event_ticker or event_of(self.ticker)

    @property
    def series(self) -> str:
        return self.ticker.partition("-")[0]

    @property
    def grid(self) -> PriceGrid:
        return GRIDS[self.grid_name]

    @property
    def market_id(self) -> str:
        return str(uuid.uuid5(_NAMESPACE, self.ticker))


@dataclass(slots=True)
class SandboxMarket:
    """Owned by the exchange. Times are wall seconds; None means not scheduled."""

    spec: MarketSpec
    close_time: float
    created_at: float
    status: MarketStatus = MarketStatus.ACTIVE
    book: Book = field(default_factory=Book)
    result: OutcomeSide | None = None
    last_price: Decimal = ZERO
    last_trade_size: Decimal = ZERO
    volume: Decimal = ZERO
    open_interest: Decimal = ZERO
    last_real_price: Decimal = ZERO
    """The last price that somebody quoted or paid while the market was active."""
    clock: int = 1
    updated_at: float = 0.0
    determined_at: float | None = None
    settled_at: float | None = None
    follows_recording: bool = False
    """Ticker frames come when a recording says so instead of once a second on a change."""
    ticker_ts_ms: int = 0
    ticker_sent_at: float = 0.0
    ticker_sent: tuple[object, ...] = ()
    is_ticker_due: bool = False
    close_ticker_at: float | None = None
    close_snapshot_at: float | None = None

    @property
    def ticker(self) -> str:
        return self.spec.ticker

    def top(self) -> Top:
        """Best bid and ask. After the close 0 / 1 without sizes, winners included (112 of 112 recorded)."""
        if self.status not in (MarketStatus.ACTIVE, MarketStatus.INACTIVE):
            return NO_QUOTE
        bid, ask = self.book.best(BookSide.BID), self.book.best(BookSide.ASK)
        return Top(
            ZERO if bid is None else bid,
            ONE if ask is None else ask,
            ZERO if bid is None else self.book.size_at(BookSide.BID, bid),
            ZERO if ask is None else self.book.size_at(BookSide.ASK, ask),
        )

    def is_on_grid(self, price: Decimal) -> bool:
        return ZERO < price < ONE and self.spec.grid.floor(price) == price

    def ticker_content(self) -> tuple[object, ...]:
        """What a ticker frame would say; a frame is due only when this changed."""
        return self.top(), self.last_price, self.last_trade_size, self.volume, self.open_interest
