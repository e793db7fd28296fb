"""What the tables of this folder are written in: quotes, markets and positions from short strings."""

from __future__ import annotations

from decimal import Decimal

from base.model.market import ONE, Market, MarketStatus, OutcomeSide, PriceSource, Quote
from base.model.position import Position

YES, NO = OutcomeSide.YES, OutcomeSide.NO
NOW = 1_790_000_000.0
MONOTONIC = 1_000.0
FLOOR = Decimal("0.01")
TICKER = "KXHIGHNY-26DEC19-T61"


def quote(
    bid: str,
    ask: str = "",
    bid_size: str | None = "100",
    ask_size: str | None = "100",
    *,
    at: float = MONOTONIC,
) -> Quote:
    """A YES quote; without an ask, one cent above the bid."""
    yes_bid = Decimal(bid)
    return Quote(
        ticker=TICKER,
        yes_bid=yes_bid,
        yes_ask=Decimal(ask) if ask else yes_bid + Decimal("0.01"),
        yes_bid_size=None if bid_size is None else Decimal(bid_size),
        yes_ask_size=None if ask_size is None else Decimal(ask_size),
        last_price=None,
        ts_ms=0,
        received_monotonic=at,
        received_at=NOW,
        source=PriceSource.WS,
        connection=1,
    )


def mirrored(of: Quote) -> Quote:
    """The same book seen from the other outcome: bid and ask change places at 1 - price."""
    return Quote(
        ticker=of.ticker,
        yes_bid=ONE - of.yes_ask,
        yes_ask=ONE - of.yes_bid,
        yes_bid_size=of.yes_ask_size,
        yes_ask_size=of.yes_bid_size,
        last_price=None,
        ts_ms=of.ts_ms,
        received_monotonic=of.received_monotonic,
        received_at=of.received_at,
        source=of.source,
        connection=of.connection,
    )


def market(status: MarketStatus = MarketStatus.ACTIVE, closes_in_s: float | None = None) -> Market:
    close_time = None if closes_in_s is None else NOW + closes_in_s
    return Market(TICKER, status=status, close_time=close_time)


def position(
    entry: str = "0.52",
    count: str = "10",
    side: OutcomeSide = YES,
    *,
    held_s: float | None = None,
    fees: str = "0",
) -> Position:
    opened_at = None if held_s is None else NOW - held_s
    return Position(
        TICKER, side, Decimal(count), Decimal(entry), opened_at=opened_at, fees_paid=Decimal(fees)
    )
