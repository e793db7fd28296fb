"""Simulated fills against live quotes: no order leaves the process.

The account starts as the exchange says it is. A simulated exit takes contracts off what the exchange
reports, a simulated entry adds a position of its own; both are kept here and laid over every read, so
that the rest of the program sees one consistent account. Fills take what is displayed at the top of the
book, at its price, with the exchange's taker fee (0.07·C·P·(1−P), rounded up to $0.0001; docs, fee
rounding), and nothing beyond the displayed size.
"""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_UP, Decimal

from base.clock import Clock
from base.errors import BotError, OrderRejected
from base.execution.gateway import FoundOrder, OrderLookup, OrderSender, PriceView, TradingShards
from base.model.market import ONE, ZERO, BookSide, MarketStatus, OutcomeSide
from base.model.order import OrderAck, OrderRequest, OrderStatus, TimeInForce, to_yes_leg
from base.model.position import Position

FEE_RATE = Decimal("0.07")
FEE_STEP = Decimal("0.0001")
REMEMBERED_ORDERS_MAX = 2_000


def taker_fee(count: Decimal, price: Decimal) -> Decimal:
    """Dollars for taking `count` contracts at `price`."""
    return (FEE_RATE * count * price * (ONE - price)).quantize(FEE_STEP, ROUND_UP)


class PaperGateway:
    """A `Gateway` that fills immediate-or-cancel orders against the quotes of the cache; thread-safe."""

    def __init__(
        self,
        price_of: Callable[[str], PriceView | None],
        refresh: Callable[[Sequence[str]], object],
        clock: Clock,
    ) -> None:
        self._price_of = price_of
        self._refresh = refresh
        self._clock = clock
        self._lock = threading.Lock()  # guards the fields below; never held during I/O or callbacks
        self._taken_off: dict[str, Decimal] = {}  # contracts of the exchange's position that were sold here
        self._opened: dict[str, Position] = {}  # positions that exist only here
        self._real: dict[str, Position] = {}  # as the exchange last said
        self._orders: OrderedDict[str, FoundOrder] = OrderedDict()

    # --- the account as the program sees it ---------------------------------------------------------

    def overlay(self, real: Mapping[str, Position]) -> dict[str, Position]:
        """The exchange's positions with what was simulated laid over them."""
        with self._lock:
            for ticker in list(self._taken_off):
                now, before = real.get(ticker), self._real.get(ticker)
                if now is None or (before is not None and now.outcome_side is not before.outcome_side):
                    # Closed or turned at the exchange: what was simulated has nothing left to lie over.
                    del self._taken_off[ticker]
            self._real = dict(real)
            return {
                ticker: position
                for ticker in {*real, *self._opened}
                if (position := self._held_locked(ticker)) is not None
            }

    def _held_locked(self, ticker: str) -> Position | None:
        opened = self._opened.get(ticker)
        real = self._real.get(ticker)
        left = ZERO if real is None else real.count - self._taken_off.get(ticker, ZERO)
        if real is None or left <= 0:
            return opened
        if opened is None:
            return replace(real, count=left)
        if opened.outcome_side is not real.outcome_side:
            # Bought here on one side and at the exchange on the other: they net, as they would there.
            bigger, net = (
                (real, left - opened.count) if left >= opened.count else (opened, opened.count - left)
            )
            return replace(bigger, count=net) if net else None
        cost = left * real.entry_price + opened.cost
        return replace(real, count=left + opened.count, entry_price=cost / (left + opened.count))

    # --- the gateway --------------------------------------------------------------------------------

    def open_sender(self) -> OrderSender:
        return _PaperSender(self)

    def create_entry(self, request: OrderRequest) -> OrderAck:
        return self.fill(request)

    def find_orders(self, client_order_ids: Mapping[str, str], since: float) -> OrderLookup:
        with self._lock:
            found = {i: order for i in client_order_ids if (order := self._orders.get(i)) is not None}
        return OrderLookup(found, as_of=self._clock.now())

    def refresh_markets(self, tickers: Sequence[str]) -> None:
        self._refresh(tickers)

    def trading_shards(self) -> TradingShards:
        return TradingShards(default=True, shards={})

    def fill(self, request: OrderRequest) -> OrderAck:
        """Fill what the displayed quote gives, at its price. Raises OrderRejected as the exchange would."""
        if request.time_in_force is not TimeInForce.IMMEDIATE_OR_CANCEL:
            raise OrderRejected(
                "paper mode fills immediate-or-cancel orders only", status=400, code="invalid_order"
            )
        view = self._price_of(request.ticker)
        if view is None or view.quote is None:
            raise OrderRejected("no price to fill against", status=409, code="market_inactive")
        status = view.market.status_at(self._clock.now())
        if status is MarketStatus.INACTIVE:
            raise OrderRejected("trading is paused", status=409, code="trading_is_paused")
        if status is not MarketStatus.ACTIVE:
            raise OrderRejected(f"market is {status.value}", status=409, code="market_inactive")
        taker = OutcomeSide.NO if request.book_side is BookSide.BID else OutcomeSide.YES
        price = view.quote.yes_ask if request.book_side is BookSide.BID else view.quote.yes_bid
        is_marketable = (
            price <= request.price if request.book_side is BookSide.BID else price >= request.price
        )
        shown = view.quote.bid_size(taker)
        is_real = ZERO < price < ONE and (shown is None or shown > 0)
        with self._lock:
            held = self._held_locked(request.ticker)
            count = request.count if shown is None else min(request.count, shown)
            if request.reduce_only:
                is_reducing = held is not None and held.outcome_side is taker
                count = min(count, held.count) if held is not None and is_reducing else ZERO
            if not is_marketable or not is_real:
                count = ZERO
            if count > 0:
                self._book_locked(request, held, count, price)
            fees = taker_fee(count, price) if count > 0 else ZERO
            ack = OrderAck(
                order_id=f"paper-{uuid.uuid4().hex}",
                client_order_id=request.client_order_id,
                fill_count=count,
                remaining_count=ZERO,
                average_fill_price=price if count > 0 else None,
                fees=fees,
                ts_ms=int(self._clock.now() * 1000),
            )
            self._orders[request.client_order_id] = FoundOrder(
                ack.order_id, OrderStatus.EXECUTED, count, ack.average_fill_price, fees
            )
            while len(self._orders) > REMEMBERED_ORDERS_MAX:
                self._orders.popitem(last=False)
        return ack

    def _book_locked(
        self, request: OrderRequest, held: Position | None, count: Decimal, yes_price: Decimal
    ) -> None:
        side = OutcomeSide.YES if request.book_side is BookSide.BID else OutcomeSide.NO
        if held is not None and held.outcome_side is not side:
            self._reduce_locked(held, min(count, held.count))
            count -= min(count, held.count)
        against = self._opened.get(request.ticker)
        if against is not None and against.outcome_side is not side:
            netted = min(count, against.count)
            self._take_from_opened_locked(against, netted)
            count -= netted
        if count <= 0:
            return
        price = to_yes_leg(yes_price, side)
        opened = self._opened.get(request.ticker)
        if opened is None:
            self._opened[request.ticker] = Position(
                request.ticker, side, count, price, request.exchange_index, self._clock.now()
            )
        else:
            total = opened.count + count
            self._opened[request.ticker] = replace(
                opened, count=total, entry_price=(opened.cost + count * price) / total
            )

    def _reduce_locked(self, held: Position, count: Decimal) -> None:
        opened = self._opened.get(held.ticker)
        if opened is not None and opened.outcome_side is held.outcome_side:
            from_opened = min(count, opened.count)
            count -= from_opened
            self._take_from_opened_locked(opened, from_opened)
        if count > 0:
            self._taken_off[held.ticker] = self._taken_off.get(held.ticker, ZERO) + count

    def _take_from_opened_locked(self, opened: Position, count: Decimal) -> None:
        if count == opened.count:
            del self._opened[opened.ticker]
        else:
            self._opened[opened.ticker] = replace(opened, count=opened.count - count)


class _PaperSender:
    """A sender that has no connection to keep."""

    def __init__(self, gateway: PaperGateway) -> None:
        self._gateway = gateway

    def reserve(self, orders: int) -> float:
        return 0.0  # no exchange counts them

    @property
    def batch_max(self) -> int:
        return 1

    def create_order(self, request: OrderRequest) -> OrderAck:
        return self._gateway.fill(request)

    def create_orders(self, requests: Sequence[OrderRequest]) -> list[OrderAck | BotError]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: OrderRequest) -> OrderAck | BotError:
        try:
            return self._gateway.fill(request)
        except BotError as exc:
            return exc

    def prepare(self) -> None:
        """Nothing to keep warm: no order leaves the process."""

    def close(self) -> None:
        """Nothing to close."""
