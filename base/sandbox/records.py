"""What the sandbox keeps: orders, fills, positions, settlements, trades. Frozen; replaced, never changed.

Field names follow docs.kalshi.com; rendering to JSON is in `wire.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from base.model.market import BookSide, OutcomeSide
from base.model.order import OrderStatus, TimeInForce
from base.sandbox.fixed_point import ONE, ZERO


class SelfTradePrevention(StrEnum):
    """Who gives way when an order would meet the account's own."""

    TAKER_AT_CROSS = "taker_at_cross"
    MAKER = "maker"


class UpdateReason(StrEnum):
    """`last_update_reason` of the user_orders channel (AsyncAPI, lastUpdateReason)."""

    NONE = ""
    DECREASE = "Decrease"
    AMEND = "Amend"
    SELF_TRADE_CANCEL = "SelfTradeCancel"
    EXPIRY_CANCEL = "ExpiryCancel"
    CLOSE_CANCEL = "CloseCancel"
    HALT_CANCEL = "HaltCancel"
    TRADE = "Trade"
    REDUCE_ONLY_CANCEL = "ReduceOnlyCancel"


class ShardState(StrEnum):
    """What one exchange instance takes: everything, no orders (cancels go through), or nothing."""

    ACTIVE = "active"
    TRADING_PAUSED = "trading_paused"
    EXCHANGE_PAUSED = "exchange_paused"


@dataclass(frozen=True, slots=True)
class NewOrder:
    """A create-order request whose fields have been checked one by one."""

    ticker: str
    side: BookSide
    count: Decimal
    price: Decimal
    time_in_force: TimeInForce
    self_trade_prevention: SelfTradePrevention
    client_order_id: str
    reduce_only: bool = False
    post_only: bool = False
    cancel_order_on_pause: bool = False
    expiration_time_s: int | None = None
    exchange_index: int | None = None


@dataclass(frozen=True, slots=True)
class OrderRecord:
    """One order of the account. `price` is its limit on the YES leg.

    Fill costs are in dollars of the outcome that the order buys (an ask buys NO at 1 - price), as
    `total_traded_dollars` counts them (recorded 2026-05-08, a sale of YES at 0.094 added 0.906).
    """

    order_id: str
    client_order_id: str
    ticker: str
    exchange_index: int
    side: BookSide
    price: Decimal
    initial_count: Decimal
    fill_count: Decimal
    remaining_count: Decimal
    status: OrderStatus
    self_trade_prevention: SelfTradePrevention
    created_at: float
    updated_at: float
    taker_fees: Decimal = ZERO
    maker_fees: Decimal = ZERO
    taker_fill_cost: Decimal = ZERO
    maker_fill_cost: Decimal = ZERO
    yes_value: Decimal = ZERO
    """Sum of count times YES price over all fills; the average fill price comes from it."""
    expiration_time_s: int | None = None
    cancel_order_on_pause: bool = False
    reason: UpdateReason = UpdateReason.NONE

    @property
    def outcome_side(self) -> OutcomeSide:
        return OutcomeSide.YES if self.side is BookSide.BID else OutcomeSide.NO

    @property
    def fees(self) -> Decimal:
        return self.taker_fees + self.maker_fees


@dataclass(frozen=True, slots=True)
class FillRecord:
    """One execution of the account."""

    trade_id: str
    order_id: str
    client_order_id: str
    ticker: str
    exchange_index: int
    side: BookSide
    count: Decimal
    yes_price: Decimal
    is_taker: bool
    fee: Decimal
    at: float
    post_position: Decimal
    reduces: bool
    """Whether it took a position down; `action` is then "sell" (recorded 2026-05-08)."""

    @property
    def outcome_side(self) -> OutcomeSide:
        return OutcomeSide.YES if self.side is BookSide.BID else OutcomeSide.NO


@dataclass(frozen=True, slots=True)
class TradeRecord:
    """One public trade."""

    trade_id: str
    ticker: str
    count: Decimal
    yes_price: Decimal
    taker_side: BookSide
    at: float


@dataclass(frozen=True, slots=True)
class PositionRecord:
    """The one signed position of a market: above 0 is YES, below 0 is NO. `cost` is what is still in it."""

    ticker: str
    event_ticker: str
    exchange_index: int
    count: Decimal = ZERO
    cost: Decimal = ZERO
    realized_pnl: Decimal = ZERO
    fees_paid: Decimal = ZERO
    total_traded: Decimal = ZERO
    volume: Decimal = ZERO
    updated_at: float = 0.0
    is_settled: bool = False


@dataclass(frozen=True, slots=True)
class SettlementRecord:
    """What a market paid at its end."""

    ticker: str
    event_ticker: str
    exchange_index: int
    result: OutcomeSide
    count: Decimal
    cost: Decimal
    revenue: Decimal
    fees: Decimal
    at: float


def outcome_price(side: BookSide, yes_price: Decimal) -> Decimal:
    """What the contract bought by this side costs: a bid buys YES, an ask buys NO."""
    return yes_price if side is BookSide.BID else ONE - yes_price
