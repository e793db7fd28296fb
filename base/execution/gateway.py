"""The port through which orders leave and answers come back.

The live implementation is `base/app/live_gateway.py`, the simulated one `base/execution/paper.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from base.model.market import Market, Quote
from base.model.order import OrderAck, OrderRequest, OrderStatus


@dataclass(frozen=True, slots=True)
class FoundOrder:
    """One of our orders as the exchange lists it; prices are YES-leg dollars, fees of the whole order."""

    order_id: str
    status: OrderStatus
    fill_count: Decimal
    average_yes_price: Decimal | None
    fees: Decimal


@dataclass(frozen=True, slots=True)
class PriceView:
    """A market and its newest quote, as an exit needs them.

    `is_vouched` says that the live feed vouches for the quote whatever its age; `age_s` is None without
    a quote.
    """

    market: Market
    quote: Quote | None
    age_s: float | None
    is_vouched: bool


class OrderSender(Protocol):
    """One worker's way to the exchange; not shared between threads.

    Errors say what to do: TransientError and RateLimitedError were definitely not sent, OrderRejected
    and AuthError definitely did not act, OrderOutcomeUnknown may have acted.
    """

    def create_order(self, request: OrderRequest) -> OrderAck: ...

    def prepare(self) -> None:
        """Sign ahead and keep the connection warm; called while idle."""

    def close(self) -> None: ...


class Gateway(Protocol):
    """What exits and entries need of an exchange; thread-safe but for the senders it opens."""

    def open_sender(self) -> OrderSender: ...

    def find_order(self, ticker: str, client_order_id: str) -> FoundOrder | None:
        """The order as the exchange lists it, None when this read does not show it (which proves
        nothing: reads lag writes)."""

    def data_as_of(self) -> float | None:
        """Wall time up to which portfolio reads are complete, None when the exchange does not say."""

    def refresh_markets(self, tickers: Sequence[str]) -> None:
        """Read these markets' status and prices again, into the cache."""

    def is_trading_active(self, exchange_index: int | None) -> bool:
        """Whether the exchange takes orders on this shard now."""

    def create_entry(self, request: OrderRequest) -> OrderAck:
        """Place an order that opens or adds risk, in the lane behind exits."""
