"""Markets, quotes and the price grid.

Prices are dollars a contract as exact decimals between 0 and 1; counts are contracts (hundredths are
the smallest step). Everything is quoted on the YES book; `OutcomeSide.NO` is its mirror at 1 - price.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from enum import StrEnum

ZERO = Decimal(0)
ONE = Decimal(1)
CENT = Decimal("0.01")

Level = tuple[Decimal, Decimal]
"""One price of a book, in dollars of the side that it bids for, and the contracts bid for at it."""


class MarketStatus(StrEnum):
    """Where a market is in its life. Only `ACTIVE` can trade; `UNKNOWN` until the exchange has said."""

    UNKNOWN = "unknown"
    INITIALIZED = "initialized"
    ACTIVE = "active"
    INACTIVE = "inactive"
    """Paused: orders are refused with 409 until it is active again."""
    CLOSED = "closed"
    DETERMINED = "determined"
    DISPUTED = "disputed"
    AMENDED = "amended"
    FINALIZED = "finalized"

    @property
    def can_still_trade(self) -> bool:
        """Whether a position in this market still needs protection (paused and unknown count)."""
        return self in (
            MarketStatus.UNKNOWN,
            MarketStatus.INITIALIZED,
            MarketStatus.ACTIVE,
            MarketStatus.INACTIVE,
        )


class OutcomeSide(StrEnum):
    """Which outcome a position holds."""

    YES = "yes"
    NO = "no"

    @property
    def opposite(self) -> OutcomeSide:
        return OutcomeSide.NO if self is OutcomeSide.YES else OutcomeSide.YES


class BookSide(StrEnum):
    """Side of the one YES book: a bid buys YES (or sells NO), an ask sells YES (or buys NO)."""

    BID = "bid"
    ASK = "ask"


class PriceSource(StrEnum):
    """Where a quote came from: a stream frame, the stream's start snapshot, or a REST read."""

    WS = "ws"
    SNAPSHOT = "snapshot"
    REST = "rest"


@dataclass(frozen=True, slots=True)
class PriceRange:
    """One stretch of a market's grid: prices `start`, `start + step`, … up to `end`."""

    start: Decimal
    end: Decimal
    step: Decimal


@dataclass(frozen=True, slots=True)
class PriceGrid:
    """The prices that a market accepts, from its `price_ranges`; never keyed on the structure's name.

    An order off the grid is refused with `invalid_price`. Whole cents are valid in every structure
    (docs.kalshi.com, price level structures), so they are the default while the ranges are unknown.
    """

    ranges: tuple[PriceRange, ...] = (PriceRange(ZERO, ONE, CENT),)

    @property
    def lowest(self) -> Decimal:
        """The lowest price an order may carry (the grid's first step above 0)."""
        return self.ceil(Decimal("0.000001"))

    @property
    def highest(self) -> Decimal:
        """The highest price an order may carry (the grid's last step below 1)."""
        return self.floor(Decimal("0.999999"))

    def floor(self, price: Decimal) -> Decimal:
        """The highest grid price at or below `price`."""
        best = self.ranges[0].start
        for r in self.ranges:
            if price >= r.start:
                steps = ((min(price, r.end) - r.start) / r.step).to_integral_value(ROUND_FLOOR)
                best = max(best, r.start + steps * r.step)
        return best

    def ceil(self, price: Decimal) -> Decimal:
        """The lowest grid price at or above `price`."""
        best = self.ranges[-1].end
        for r in self.ranges:
            if price <= r.end:
                steps = ((max(price, r.start) - r.start) / r.step).to_integral_value(ROUND_CEILING)
                best = min(best, r.start + steps * r.step)
        return best

    def below(self, price: Decimal, steps: int) -> Decimal:
        """The tradable grid price `steps` steps below `price`, not lower than the lowest."""
        for _ in range(steps):
            lower = self.floor(price - Decimal("0.000001"))
            if lower <= ZERO:
                return self.lowest
            price = lower
        return price

    def above(self, price: Decimal, steps: int) -> Decimal:
        """The tradable grid price `steps` steps above `price`, not higher than the highest."""
        for _ in range(steps):
            higher = self.ceil(price + Decimal("0.000001"))
            if higher >= ONE:
                return self.highest
            price = higher
        return price


@dataclass(frozen=True, slots=True)
class Market:
    """What the daemon needs to know of a market beside its prices.

    `close_time` and `open_time` are seconds since the epoch, None when unknown. `exchange_index` is the
    shard. `series_ticker` is what stands before the first dash of the ticker.
    """

    ticker: str
    event_ticker: str = ""
    status: MarketStatus = MarketStatus.UNKNOWN
    close_time: float | None = None
    open_time: float | None = None
    grid: PriceGrid = PriceGrid()
    exchange_index: int | None = None
    result: str = ""
    title: str = ""
    settlement_value: Decimal | None = None
    """Dollars that a YES contract is paid, where the exchange has said; it decides a `scalar` result."""

    @property
    def series_ticker(self) -> str:
        return self.ticker.partition("-")[0]

    def status_at(self, now: float) -> MarketStatus:
        """The status, with a passed close time counted as closed.

        No stream event says that a market closed because its time passed (docs.kalshi.com, market
        lifecycle), so the clock has to.
        """
        if (
            self.close_time is not None
            and now >= self.close_time
            and self.status in (MarketStatus.ACTIVE, MarketStatus.INACTIVE, MarketStatus.UNKNOWN)
        ):
            return MarketStatus.CLOSED
        return self.status


@dataclass(frozen=True, slots=True)
class Event:
    """A question and the markets that answer it. `mutually_exclusive`: at most one of them ends as YES."""

    ticker: str
    market_tickers: tuple[str, ...]
    mutually_exclusive: bool = False
    series_ticker: str = ""
    title: str = ""


@dataclass(frozen=True, slots=True)
class Quote:
    """Top of the YES book at one moment.

    An empty side is bid 0 / ask 1 with size 0. Sizes are None when the source does not tell them.
    `ts_ms` is the exchange's time, 0 when the source has none. `received_monotonic` orders and ages;
    for a REST read it is the moment the request *left*, so that an answer can never count as newer
    than a tick that came while it was under way. `received_at` is wall time for people.
    """

    ticker: str
    yes_bid: Decimal
    yes_ask: Decimal
    yes_bid_size: Decimal | None
    yes_ask_size: Decimal | None
    last_price: Decimal | None
    ts_ms: int
    received_monotonic: float
    received_at: float
    source: PriceSource
    connection: int = 0
    """Number of the connection it came through; 0 for REST."""

    def best_bid(self, side: OutcomeSide) -> Decimal:
        """What the book pays for a contract of `side` now, in that side's dollars (0 = nobody)."""
        return self.yes_bid if side is OutcomeSide.YES else ONE - self.yes_ask

    def best_ask(self, side: OutcomeSide) -> Decimal:
        """What a contract of `side` costs now, in that side's dollars (1 = nobody offers)."""
        return self.yes_ask if side is OutcomeSide.YES else ONE - self.yes_bid

    def bid_size(self, side: OutcomeSide) -> Decimal | None:
        """Contracts at `best_bid(side)`, None when unknown."""
        return self.yes_bid_size if side is OutcomeSide.YES else self.yes_ask_size

    def ask_size(self, side: OutcomeSide) -> Decimal | None:
        """Contracts at `best_ask(side)`, None when unknown."""
        return self.yes_ask_size if side is OutcomeSide.YES else self.yes_bid_size
