"""What the exchange tells the stream, in the order it happened. Frozen values; no JSON here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from base.model.market import BookSide
from base.sandbox.records import FillRecord, OrderRecord, PositionRecord, TradeRecord


@dataclass(frozen=True, slots=True)
class Top:
    """Best bid and ask of the YES book; an empty side is 0 / 1 with size 0."""

    yes_bid: Decimal
    yes_ask: Decimal
    yes_bid_size: Decimal
    yes_ask_size: Decimal


@dataclass(frozen=True, slots=True)
class TickerChanged:
    """One `ticker` frame is due."""

    ticker: str
    ts_ms: int


@dataclass(frozen=True, slots=True)
class LevelChanged:
    """A level of the book grew or shrank; `price` is on the YES leg whatever the side."""

    ticker: str
    side: BookSide
    price: Decimal
    change: Decimal
    clock: int
    at: float
    client_order_id: str = ""


@dataclass(frozen=True, slots=True)
class SnapshotDue:
    """Every subscriber of the book gets a fresh snapshot unasked."""

    ticker: str


@dataclass(frozen=True, slots=True)
class Traded:
    trade: TradeRecord


@dataclass(frozen=True, slots=True)
class Filled:
    fill: FillRecord


@dataclass(frozen=True, slots=True)
class OrderChanged:
    order: OrderRecord


@dataclass(frozen=True, slots=True)
class PositionChanged:
    position: PositionRecord


class LifecycleEvent(StrEnum):
    """`event_type` of market_lifecycle_v2. Opening and closing by time send none (docs, market lifecycle)."""

    CREATED = "created"
    ACTIVATED = "activated"
    DEACTIVATED = "deactivated"
    CLOSE_DATE_UPDATED = "close_date_updated"
    DETERMINED = "determined"
    SETTLED = "settled"


@dataclass(frozen=True, slots=True)
class LifecycleChanged:
    ticker: str
    event: LifecycleEvent
    at: float


Happening = (
    TickerChanged
    | LevelChanged
    | SnapshotDue
    | Traded
    | Filled
    | OrderChanged
    | PositionChanged
    | LifecycleChanged
)
Sink = Callable[[Happening], None]
