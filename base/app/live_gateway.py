"""Orders that go to the exchange: the gateway over REST and warm connections."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from decimal import Decimal

from base.clock import Clock
from base.errors import BotError
from base.execution.gateway import FoundOrder, OrderSender
from base.kalshi.order_connection import OrderConnection
from base.kalshi.rate_limit import Lane
from base.kalshi.rest_client import RestClient
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.model.order import OrderAck, OrderRequest

logger = logging.getLogger(__name__)


class _WarmConnection:
    """An `OrderConnection` of one worker, kept warm with the Clock."""

    def __init__(self, connection: OrderConnection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def create_order(self, request: OrderRequest) -> OrderAck:
        return self._connection.create_order(request)

    def prepare(self) -> None:
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
        return _WarmConnection(self._open_connection(), self._clock)

    # Look-ups stand behind price reads: in an outage many orders are unknown at once, and their questions
    # must not cost the other positions their prices.

    def find_order(self, ticker: str, client_order_id: str) -> FoundOrder | None:
        # There is no client_order_id filter (OpenAPI 3.34): list the market's orders and match.
        for order in self._rest.get_orders(ticker=ticker, lane=Lane.RECONCILE):
            if order.client_order_id == client_order_id:
                price = self._average_price(order.order_id) if order.fill_count > 0 else None
                return FoundOrder(order.order_id, order.status, order.fill_count, price, order.fees)
        return None

    def _average_price(self, order_id: str) -> Decimal | None:
        """YES-leg dollars a contract; from the fills, because an order's own price is its limit."""
        fills = self._rest.get_fills(order_id=order_id, lane=Lane.RECONCILE)
        count = sum((f.count for f in fills), Decimal(0))
        return sum((f.count * f.yes_price for f in fills), Decimal(0)) / count if count else None

    def data_as_of(self) -> float | None:
        try:
            return self._rest.get_user_data_timestamp(lane=Lane.RECONCILE)
        except BotError as exc:
            # Without its word on how fresh reads are, patience has to do; a look-up must not fail on it.
            logger.debug("user_data_timestamp: %s", exc)
            return None

    def refresh_markets(self, tickers: Sequence[str]) -> None:
        for snapshot in self._rest.get_markets(tickers, lane=Lane.EXIT):
            self._cache.apply_market(snapshot.market, snapshot.quote.received_monotonic)
            self._cache.apply(snapshot.quote)

    def is_trading_active(self, exchange_index: int | None) -> bool:
        return self._rest.get_exchange_status(lane=Lane.EXIT).can_trade(exchange_index)

    def create_entry(self, request: OrderRequest) -> OrderAck:
        return self._rest.create_order(request, lane=Lane.STRATEGY)
