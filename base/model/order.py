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


class EntryState(StrEnum):
    """Where an order that opens or adds risk is."""

    SENDING = "sending"
    """Written down; it may or may not have reached the exchange."""
    UNKNOWN = "unknown"
    """Its answer was lost: it may rest, may have filled, may not exist. It is looked up."""
    RESTING = "resting"
    CANCELING = "canceling"
    """A cancel is wanted or under way; until it is proved, the order may still fill."""
    DONE = "done"
    """It cannot fill any more."""

    @property
    def may_fill(self) -> bool:
        return self is not EntryState.DONE


@dataclass(frozen=True, slots=True)
class EntryOrder:
    """One of our orders that opens or adds to a position, in dollars of the side that it buys.

    `count` is what was asked for, `filled` what is known to be bought; times are wall seconds.
    """

    client_order_id: str
    ticker: str
    outcome_side: OutcomeSide
    count: Decimal
    price: Decimal
    strategy: str
    state: EntryState
    placed_at: float
    filled: Decimal = Decimal(0)
    order_id: str = ""
    """The exchange's id, "" until it has answered."""
    expires_at: float | None = None
    keep_on_feed_loss: bool = False
    why: str = ""

    @property
    def key(self) -> str:
        """Which row of the journal it replaces: the order is written down as it is, before it leaves."""
        return self.client_order_id

    @property
    def remaining(self) -> Decimal:
        """Contracts that may still be bought."""
        return self.count - self.filled if self.state.may_fill else Decimal(0)

    @property
    def reserved(self) -> Decimal:
        """Dollars that it may still spend, without fees."""
        return self.remaining * self.price


def exit_book_side(side: OutcomeSide) -> BookSide:
    """The side of the YES book that leaves a position: YES is sold (ask), NO is left by buying YES (bid)."""
    return BookSide.ASK if side is OutcomeSide.YES else BookSide.BID


def entry_book_side(side: OutcomeSide) -> BookSide:
    """The side of the YES book that opens a position: a NO purchase is an ask."""
    return BookSide.BID if side is OutcomeSide.YES else BookSide.ASK


def to_yes_leg(price: Decimal, side: OutcomeSide) -> Decimal:
    """A price of `side` as the YES-leg price that the order endpoint takes (its own inverse)."""
    return price if side is OutcomeSide.YES else ONE - price
