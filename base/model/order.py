"""Orders as we send them and what the exchange answers."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from base.model.market import ONE, BookSide, OutcomeSide


class TimeInForce(StrEnum):
    IMMEDIATE_OR_CANCEL = "immediate_or_cancel"
    GOOD_TILL_CANCELED = "good_till_canceled"
    FILL_OR_KILL = "fill_or_kill"


class OrderStatus(StrEnum):
    """`UNKNOWN` until the exchange has said; decide on `fill_count`, not on the status."""

    UNKNOWN = "unknown"
    RESTING = "resting"
    CANCELED = "canceled"
    EXECUTED = "executed"


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """One order on the YES book (`price` is the YES-leg price, on the market's grid)."""

    ticker: str
    client_order_id: str
    book_side: BookSide
    count: Decimal
    price: Decimal
    time_in_force: TimeInForce
    reduce_only: bool
    exchange_index: int | None = None
    expiration_time_s: int | None = None
    post_only: bool = False


@dataclass(frozen=True, slots=True)
class OrderAck:
    """The validated 201 of a create order. Prices are YES-leg dollars, fees dollars of the whole order."""

    order_id: str
    client_order_id: str
    fill_count: Decimal
    remaining_count: Decimal
    average_fill_price: Decimal | None
    fees: Decimal
    ts_ms: int


@dataclass(frozen=True, slots=True)
class Order:
    """An order as the exchange lists it; `price` is its limit on the YES leg."""

    order_id: str
    client_order_id: str
    ticker: str
    book_side: BookSide
    status: OrderStatus
    price: Decimal
    initial_count: Decimal
    fill_count: Decimal
    remaining_count: Decimal
    fill_cost: Decimal
    """Dollars exchanged by the fills so far, in the terms the exchange reports."""
    fees: Decimal
    exchange_index: int | None = None
    created_ts_ms: int = 0


def exit_book_side(side: OutcomeSide) -> BookSide:
    """The side of the YES book that leaves a position: YES is sold (ask), NO is left by buying YES (bid)."""
    return BookSide.ASK if side is OutcomeSide.YES else BookSide.BID


def entry_book_side(side: OutcomeSide) -> BookSide:
    """The side of the YES book that opens a position: a NO purchase is an ask."""
    return BookSide.BID if side is OutcomeSide.YES else BookSide.ASK


def to_yes_leg(price: Decimal, side: OutcomeSide) -> Decimal:
    """A price of `side` as the YES-leg price that the order endpoint takes (its own inverse)."""
    return price if side is OutcomeSide.YES else ONE - price
