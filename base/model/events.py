"""What the stream tells us, decoded. Frozen; numbers exact; unknown things keep their name only."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from base.model.market import BookSide, MarketStatus, OutcomeSide, PriceGrid
from base.model.order import OrderStatus
from base.model.position import Fill


@dataclass(frozen=True, slots=True)
class Ticker:
    """One `ticker` frame: the top of the YES book at `ts_ms` (0 when the frame has no time)."""

    ticker: str
    yes_bid: Decimal
    yes_ask: Decimal
    yes_bid_size: Decimal | None
    yes_ask_size: Decimal | None
    last_price: Decimal | None
    ts_ms: int
    sid: int


@dataclass(frozen=True, slots=True)
class BookSnapshot:
    """A whole order book. Both sides are bids, `no_levels` priced in NO dollars."""

    ticker: str
    sid: int
    seq: int | None
    yes_levels: tuple[tuple[Decimal, Decimal], ...]
    no_levels: tuple[tuple[Decimal, Decimal], ...]


@dataclass(frozen=True, slots=True)
class BookDelta:
    """A signed change of one level; `price` is in dollars of `side`."""

    ticker: str
    sid: int
    seq: int | None
    side: OutcomeSide
    price: Decimal
    delta: Decimal
    ts_ms: int


@dataclass(frozen=True, slots=True)
class FillEvent:
    fill: Fill


@dataclass(frozen=True, slots=True)
class OrderUpdate:
    """One of our orders changed. `reason` is the exchange's `last_update_reason`, "" when absent."""

    order_id: str
    client_order_id: str
    ticker: str
    book_side: BookSide
    status: OrderStatus
    fill_count: Decimal
    remaining_count: Decimal
    initial_count: Decimal
    fees: Decimal
    fill_cost: Decimal
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PositionUpdate:
    """The exchange's word on one position; `count` signed (below 0 is NO), `cost` dollars."""

    ticker: str
    count: Decimal
    cost: Decimal
    realized_pnl: Decimal
    fees_paid: Decimal
    subaccount: int = 0


class LifecycleKind(StrEnum):
    CREATED = "created"
    ACTIVATED = "activated"
    DEACTIVATED = "deactivated"
    CLOSE_DATE_UPDATED = "close_date_updated"
    DETERMINED = "determined"
    SETTLED = "settled"
    PRICE_LEVEL_STRUCTURE_UPDATED = "price_level_structure_updated"
    METADATA_UPDATED = "metadata_updated"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """A market changed; `status`, `close_time` (epoch seconds), `grid` and `result` only where it says so."""

    ticker: str
    kind: LifecycleKind
    sid: int
    seq: int | None
    status: MarketStatus | None = None
    close_time: float | None = None
    grid: PriceGrid | None = None
    result: str = ""


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The acknowledgement of one channel of a subscribe command."""

    command_id: int
    channel: str
    sid: int


@dataclass(frozen=True, slots=True)
class Ok:
    """The acknowledgement of an update; `tickers` is the subscription's full list, None when not told."""

    command_id: int
    sid: int | None
    seq: int | None
    tickers: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    command_id: int
    sid: int | None
    seq: int | None


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error of a command (`command_id` above 0) or of a subscription (`sid`)."""

    command_id: int
    code: int
    message: str
    sid: int | None
    seq: int | None
    tickers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ignored:
    """A frame of a type we do not use; counted by its name. `sid`/`seq` still feed the gap detector."""

    type: str
    sid: int | None = None
    seq: int | None = None


StreamEvent = (
    Ticker
    | BookSnapshot
    | BookDelta
    | FillEvent
    | OrderUpdate
    | PositionUpdate
    | Lifecycle
    | Subscribed
    | Ok
    | Unsubscribed
    | ErrorReply
    | Ignored
)
