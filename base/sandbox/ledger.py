"""The account: balance, positions, orders, fills, settlements. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal

from base.model.market import BookSide, OutcomeSide
from base.model.order import OrderStatus
from base.sandbox.fixed_point import ONE, ZERO
from base.sandbox.records import (
    FillRecord,
    OrderRecord,
    PositionRecord,
    SettlementRecord,
    outcome_price,
)

TAKER_FEE_RATE = Decimal("0.07")
_FEE_STEP = Decimal("0.0001")


def taker_fee(count: Decimal, price: Decimal, multiplier: Decimal = ONE) -> Decimal:
    """0.07 x count x price x (1 - price), rounded up to a hundredth of a cent.

    docs.kalshi.com, fee rounding; recorded 2026-06-11: 1 at 0.52 costs 0.0175, 1 at 0.99 costs 0.0007.
    """
    fee = TAKER_FEE_RATE * count * price * (ONE - price) * multiplier
    return fee.quantize(_FEE_STEP, ROUND_CEILING)


@dataclass(frozen=True, slots=True)
class Portfolio:
    """Everything a portfolio read may tell, at one moment."""

    balance: Decimal
    positions: dict[str, PositionRecord]
    orders: dict[str, OrderRecord]
    fills: tuple[FillRecord, ...]
    settlements: tuple[SettlementRecord, ...]


class Ledger:
    """Owned by the exchange. `version` grows with every change."""

    def __init__(self, balance: Decimal) -> None:
        self.balance = balance
        self.positions: dict[str, PositionRecord] = {}
        self.orders: dict[str, OrderRecord] = {}
        self.fills: list[FillRecord] = []
        self.settlements: list[SettlementRecord] = []
        self.client_order_ids: set[str] = set()
        self.resting: dict[str, None] = {}  # ids of orders with a part in a book, oldest first
        self.version = 0

    def snapshot(self) -> Portfolio:
        return Portfolio(
            self.balance, dict(self.positions), dict(self.orders), tuple(self.fills), tuple(self.settlements)
        )

    def position_count(self, ticker: str) -> Decimal:
        position = self.positions.get(ticker)
        return position.count if position else ZERO

    def put_order(self, order: OrderRecord) -> None:
        self.orders[order.order_id] = order
        if order.status is OrderStatus.RESTING:
            self.resting[order.order_id] = None
        else:
            self.resting.pop(order.order_id, None)
        self.version += 1

    def resting_orders(self, ticker: str | None = None) -> list[OrderRecord]:
        found = (self.orders[order_id] for order_id in self.resting)
        return [o for o in found if ticker is None or o.ticker == ticker]

    def available(self) -> Decimal:
        """Balance that resting orders do not hold as collateral."""
        held = sum((o.remaining_count * outcome_price(o.side, o.price) for o in self.resting_orders()), ZERO)
        return self.balance - held

    def opening_count(self, ticker: str, side: BookSide, count: Decimal) -> Decimal:
        """The part of an order that would open risk rather than close the position."""
        held = self.position_count(ticker)
        closing = max(ZERO, -held) if side is BookSide.BID else max(ZERO, held)
        return max(ZERO, count - closing)

    def apply_fill(
        self,
        position: PositionRecord,
        side: BookSide,
        count: Decimal,
        yes_price: Decimal,
        fee: Decimal,
        at: float,
    ) -> PositionRecord:
        """Net one execution into the position; a sale beyond what is held flips it (docs, netting)."""
        opening = self.opening_count(position.ticker, side, count)
        closing = count - opening
        price = outcome_price(side, yes_price)
        held = abs(position.count)
        closed_cost = position.cost * closing / held if closing else ZERO
        proceeds = closing * (ONE - price)
        signed = count if side is BookSide.BID else -count
        updated = replace(
            position,
            count=position.count + signed,
            cost=position.cost - closed_cost + opening * price,
            realized_pnl=position.realized_pnl + proceeds - closed_cost,
            fees_paid=position.fees_paid + fee,
            total_traded=position.total_traded + count * price,
            volume=position.volume + count,
            updated_at=at,
        )
        self.balance += proceeds - opening * price - fee
        self.positions[position.ticker] = updated
        self.version += 1
        return updated

    def settle(self, ticker: str, result: OutcomeSide, at: float) -> SettlementRecord | None:
        """Pay out 1.00 or 0.00 a contract; None when the account never traded the market."""
        position = self.positions.get(ticker)
        if position is None or position.is_settled:
            return None
        held_side = OutcomeSide.YES if position.count > 0 else OutcomeSide.NO
        revenue = abs(position.count) if held_side is result else ZERO
        settlement = SettlementRecord(
            ticker,
            position.event_ticker,
            position.exchange_index,
            result,
            position.count,
            position.cost,
            revenue,
            position.fees_paid,
            at,
        )
        self.balance += revenue
        self.positions[ticker] = replace(
            position,
            count=ZERO,
            cost=ZERO,
            realized_pnl=position.realized_pnl + revenue - position.cost,
            updated_at=at,
            is_settled=True,
        )
        if position.count:
            self.settlements.append(settlement)
        self.version += 1
        return settlement if position.count else None
