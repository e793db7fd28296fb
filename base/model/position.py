"""Positions and fills."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from base.model.market import BookSide, OutcomeSide


@dataclass(frozen=True, slots=True)
class Position:
    """What is held in one market.

    `count` is contracts and always above 0; `entry_price` is dollars a contract of the held side,
    without fees (the exchange gives no average price: exposure over count).
    """

    ticker: str
    outcome_side: OutcomeSide
    count: Decimal
    entry_price: Decimal
    exchange_index: int | None = None
    opened_at: float | None = None
    """Wall time at which this position was first known, seconds since the epoch."""
    fees_paid: Decimal = Decimal(0)
    """What entering the contracts held has cost in fees, where their fills tell; else what the exchange
    has charged in this market in all, exits and earlier positions included."""
    strategy: str = ""
    """Whose entry opened it; "" when it was opened elsewhere."""

    @property
    def signed_count(self) -> Decimal:
        """The exchange's form: above 0 is YES, below 0 is NO."""
        return self.count if self.outcome_side is OutcomeSide.YES else -self.count

    @property
    def cost(self) -> Decimal:
        """Dollars paid for the whole position, without fees."""
        return self.count * self.entry_price


@dataclass(frozen=True, slots=True)
class Fill:
    """One execution of ours.

    `yes_price` is on the YES book. `book_side` says the direction (an ask reduces YES or adds NO); the
    wire's `side` and `action` are deprecated and say the opposite on closing sales, so they are not read.
    `post_position` is the signed position after the fill, None when the source does not tell it.
    """

    trade_id: str
    order_id: str
    ticker: str
    book_side: BookSide
    count: Decimal
    yes_price: Decimal
    fee: Decimal
    ts_ms: int
    client_order_id: str = ""
    post_position: Decimal | None = None
    subaccount: int = 0
    exchange_index: int | None = None
