"""The port through which orders leave and answers come back.

The live implementation is `base/app/live_gateway.py`, the simulated one `base/execution/paper.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from base.errors import BotError
from base.model.market import Level, Market, Quote
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
class OrderLookup:
    """One read of our orders. What it does not show proves nothing by itself: reads lag writes.

    `as_of` is the wall time up to which reads are complete, None when the exchange does not say.
    """

    found: Mapping[str, FoundOrder]
    """By client order id."""
    as_of: float | None


@dataclass(frozen=True, slots=True)
class PriceView:
    """A market and its newest quote, as an exit needs them.

    `is_vouched` says that the live feed vouches for the quote whatever its age; `age_s` is None without
    a quote. `yes_bids` and `no_bids` are the displayed book, best first, empty when it is not known.
    """

    market: Market
    quote: Quote | None
    age_s: float | None
    is_vouched: bool
    yes_bids: tuple[Level, ...] = ()
    no_bids: tuple[Level, ...] = ()


class OrderSender(Protocol):
    """One worker's way to the exchange; not shared between threads.

    Errors say what to do: TransientError and RateLimitedError were definitely not sent, OrderRejected
    and AuthError definitely did not act, OrderOutcomeUnknown may have acted.
    """

    def reserve(self, orders: int) -> float:
        """Take the write budget of so many orders; return 0.0 when it was taken, else the seconds until
        it may be there. Every order that is sent has been reserved before."""

    @property
    def batch_max(self) -> int:
        """The most orders that one request may carry now: 1 where a batch is of no use. Never more than
        the write budget holds at once."""

    def create_order(self, request: OrderRequest) -> OrderAck: ...

    def create_orders(self, requests: Sequence[OrderRequest]) -> list[OrderAck | BotError]:
        """Send several orders in one request; one answer each, in order. Raises nothing of BotError:
        what failed as a whole is every order's answer."""

    def prepare(self) -> None:
        """Sign ahead and keep the connection warm; called while idle."""

    def close(self) -> None: ...


class Gateway(Protocol):
    """What exits need of an exchange; thread-safe but for the senders it opens."""

    def open_sender(self) -> OrderSender: ...

    def find_orders(self, client_order_ids: Mapping[str, str], since: float) -> OrderLookup:
        """Look for our orders (client order id -> market ticker) that were sent after wall time `since`,
        with one read for all of them. Raises BotError when the read fails."""

    def refresh_markets(self, tickers: Sequence[str]) -> None:
        """Read these markets' status and prices again, into the cache."""

    def trading_shards(self) -> TradingShards:
        """Where the exchange takes orders now. Raises BotError."""


class EntryGateway(Protocol):
    """What orders that open or add risk need of an exchange, in the lane behind exits; thread-safe.

    Errors as for `OrderSender`.
    """

    def create_entry(self, request: OrderRequest) -> OrderAck:
        """Place an order that opens or adds risk."""

    def amend_entry(self, order_id: str, request: OrderRequest) -> OrderAck:
        """Move a resting order: `request` has its new price and its new count, filled ones included.

        Errors like those of a new order; RequestRejected with status 404 says that it does not rest (any
        more), whatever became of it.
        """

    def cancel_entry(self, order_id: str, ticker: str) -> Decimal:
        """Cancel a resting order; return how many contracts were still resting.

        RequestRejected with status 404 proves no cancel: canceled, executed and unknown orders answer alike.
        """

    def find_orders(self, client_order_ids: Mapping[str, str], since: float) -> OrderLookup:
        """Like `Gateway.find_orders`."""


@dataclass(frozen=True, slots=True)
class TradingShards:
    """One answer of `GET /exchange/status`. `shards` says for each shard whether it takes orders;
    `default` speaks for a shard that is not listed or not known. `resumes_at` is the exchange's own
    estimate in words, "" when it gives none."""

    default: bool
    shards: Mapping[int, bool]
    resumes_at: str = ""

    def takes_orders(self, exchange_index: int | None) -> bool:
        return self.default if exchange_index is None else self.shards.get(exchange_index, self.default)
