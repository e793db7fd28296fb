"""Orders that go to the exchange: the gateway over REST and warm connections."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal

from base.clock import Clock
from base.errors import BotError
from base.execution.gateway import FoundOrder, OrderLookup, OrderSender, TradingShards
from base.kalshi.account_documents import EndpointCosts
from base.kalshi.order_connection import OrderConnection
from base.kalshi.rate_limit import Lane
from base.kalshi.rest_client import RestClient
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.log import log_event
from base.model.order import Order, OrderAck, OrderRequest

logger = logging.getLogger(__name__)

LOOK_BACK_S = 60
"""How much earlier than it was sent an order is looked for."""


class _WarmConnection:
    """An `OrderConnection` of one worker, kept warm with the Clock and charged what the exchange charges."""

    def __init__(self, connection: OrderConnection, clock: Clock, costs: Callable[[], EndpointCosts]) -> None:
        self._connection = connection
        self._clock = clock
        self._costs = costs

    def reserve(self, orders: int) -> float:
        return self._connection.reserve(orders)

    @property
    def batch_max(self) -> int:
        return self._connection.batch_max

    def create_order(self, request: OrderRequest) -> OrderAck:
        return self._connection.create_order(request)

    def create_orders(self, requests: Sequence[OrderRequest]) -> list[OrderAck | BotError]:
        return self._connection.create_orders(requests)

    def prepare(self) -> None:
        # Workers open their connections before the exchange has been asked what it charges.
        self._connection.costs = self._costs()
        self._connection.prepare()
        self._connection.keep_warm(self._clock.monotonic())

    def close(self) -> None:
        self._connection.close()


class LiveGateway:
    """Orders go to the exchange."""

    def __init__(
        self,
        rest: RestClient,
        open_connection: Callable[[], OrderConnection],
        cache: WebsocketPriceCache,
        clock: Clock,
    ) -> None:
        self._rest = rest
        self._open_connection = open_connection
        self._cache = cache
        self._clock = clock

    def open_sender(self) -> OrderSender:
        return _WarmConnection(self._open_connection(), self._clock, lambda: self._rest.costs)

    # Look-ups stand behind price reads: in an outage many orders are unknown at once, and their questions
    # must not cost the other positions their prices.

    def find_orders(self, client_order_ids: Mapping[str, str], since: float) -> OrderLookup:
        # How complete reads are is asked first: asked afterwards, the answer could be newer than the orders
        # that were read, and an order would be missing for good that had only not shown up yet.
        as_of = self._as_of()
        tickers = set(client_order_ids.values())
        ticker = tickers.pop() if len(tickers) == 1 else None
        # By the exchange's clock, whichever of the two is behind.
        min_ts = int(since + min(0.0, self._rest.exchange_ahead_s)) - LOOK_BACK_S
        # There is no client_order_id filter (OpenAPI 3.34): list and match.
        orders = [
            order
            for order in self._rest.get_orders(ticker=ticker, min_ts=min_ts, lane=Lane.RECONCILE)
            if order.client_order_id in client_order_ids
        ]
        prices = self._average_prices([o.order_id for o in orders if o.fill_count > 0], ticker, min_ts)
        return OrderLookup({o.client_order_id: _found(o, prices.get(o.order_id)) for o in orders}, as_of)

    def _average_prices(
        self, order_ids: Sequence[str], ticker: str | None, min_ts: int
    ) -> dict[str, Decimal]:
        """YES-leg dollars a contract by order id; from fills, because an order's own price is its limit."""
        if not order_ids:
            return {}
        only = order_ids[0] if len(order_ids) == 1 else None
        try:
            fills = self._rest.get_fills(ticker=ticker, order_id=only, min_ts=min_ts, lane=Lane.RECONCILE)
        except BotError as exc:
            # How many contracts were sold is known, and must not wait for what they fetched.
            log_event(logger, logging.DEBUG, "fills_unread", why=exc)
            return {}
        counts: defaultdict[str, Decimal] = defaultdict(Decimal)
        values: defaultdict[str, Decimal] = defaultdict(Decimal)
        for fill in fills:
            counts[fill.order_id] += fill.count
            values[fill.order_id] += fill.count * fill.yes_price
        return {order_id: values[order_id] / count for order_id, count in counts.items() if count}

    def _as_of(self) -> float | None:
        try:
            return self._rest.get_user_data_timestamp(lane=Lane.RECONCILE)
        except BotError as exc:
            # Without its word on how fresh reads are, patience has to do; a look-up must not fail on it.
            log_event(logger, logging.DEBUG, "user_data_timestamp_unread", why=exc)
            return None

    def refresh_markets(self, tickers: Sequence[str]) -> None:
        for snapshot in self._rest.get_markets(tickers, lane=Lane.EXIT):
            self._cache.apply_market(snapshot.market, snapshot.asked_at)
            if snapshot.quote is not None:
                self._cache.apply(snapshot.quote)

    def trading_shards(self) -> TradingShards:
        status = self._rest.get_exchange_status(lane=Lane.EXIT)
        resumes_at = status.estimated_resume_time
        return TradingShards(
            default=status.exchange_active and status.trading_active,
            shards={index: all(flags) for index, flags in status.shards.items()},
            resumes_at="" if resumes_at is None else f"{datetime.fromtimestamp(resumes_at, UTC):%F %T} UTC",
        )

    def create_entry(self, request: OrderRequest) -> OrderAck:
        return self._rest.create_order(request, lane=Lane.STRATEGY)

    def amend_entry(self, order_id: str, request: OrderRequest) -> OrderAck:
        return self._rest.amend_order(order_id, request, lane=Lane.STRATEGY)

    def cancel_entry(self, order_id: str, ticker: str) -> Decimal:
        # Beside the exits, not behind them: while a mass exit takes the whole budget, what still buys must
        # be stopped. A cancel is cheap, and at most three are under way.
        return self._rest.cancel_order(order_id, ticker, lane=Lane.EXIT).reduced_by


def _found(order: Order, price: Decimal | None) -> FoundOrder:
    return FoundOrder(order.order_id, order.status, order.fill_count, price, order.fees)
