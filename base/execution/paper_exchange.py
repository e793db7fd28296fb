"""The simulated exchange: order entry, what rests, and the end of markets, for the one paper account.

No clock, no lock and no callback: whoever calls passes the market as it is displayed and the time, one
call at a time, and takes away what happened. The rules are in the text of `paper_fills.py`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from base.errors import OrderRejected, RequestRejected
from base.execution.gateway import PriceView, TradingShards
from base.execution.paper_account import PaperAccount
from base.execution.paper_fills import (
    DisplayedMarket,
    Part,
    available,
    fee_of,
    is_within,
    opposite,
    take,
)
from base.execution.paper_orders import (
    PaperOrder,
    PaperOrders,
    paid_markets,
    reserved_dollars,
)
from base.model.events import OrderUpdate
from base.model.fees import taker_fee
from base.model.market import ONE, ZERO, BookSide, Level, Market, MarketStatus
from base.model.order import OrderAck, OrderRequest, OrderStatus, TimeInForce
from base.model.position import Fill
from base.store.realized import Payout
from base.store.records import FillRecord, Record, Remembered

MARKETS_MAX = 5_000
"""Displayed markets remembered; the oldest are forgotten first, with what was taken of them."""

_PAYS = {"yes": ONE, "no": ZERO}

Event = Fill | OrderUpdate | Payout


class PaperExchange:
    """Orders, positions and money of the paper account; not thread-safe. Times are wall seconds."""

    def __init__(self, remembered: Remembered) -> None:
        self.account = PaperAccount(remembered.paper, paid_markets(remembered))
        self.orders = PaperOrders(remembered)
        self.real_balance: Decimal | None = None
        """The newest balance of the exchange's own account; while it is not known, funds are not checked."""
        self._displayed: OrderedDict[str, DisplayedMarket] = OrderedDict()
        self._records: list[Record] = []
        self._events: list[Event] = []

    def take_happenings(self) -> tuple[list[Record], list[Event]]:
        """What has to be remembered, and then told, since this was last asked; oldest first."""
        records, events = self._records, self._events
        self._records, self._events = [], []
        return [*records, *self.account.take_records()], events

    # --- orders -------------------------------------------------------------------------------------

    def place(
        self, request: OrderRequest, view: PriceView | None, shards: TradingShards, now: float
    ) -> OrderAck:
        """An order arrives. Raises OrderRejected as the exchange would."""
        side, limit = request.book_side, request.price
        levels = self._levels(request, view, shards, now)
        self._check(request, now)
        own = None if request.reduce_only else self._own_in_the_way(request)
        if request.post_only and (own is not None or available(levels, side, limit) > 0):
            raise OrderRejected("post only cross", status=400, code="invalid_order")
        count = request.count
        if request.reduce_only:
            count -= self.account.opening_count(request.ticker, side, count)
        self._check_funds(request, count)
        order = PaperOrder(request)
        if request.time_in_force is TimeInForce.FILL_OR_KILL and available(levels, side, limit) < count:
            self.orders.note(order)  # its id is used up all the same (seen in production)
            code = "fill_or_kill_insufficient_resting_volume"
            raise OrderRejected("not enough is displayed", status=409, code=code)
        if request.reduce_only:
            self._clear_way(request, levels, count)
        self._match(order, count, own, now)
        if order.filled == request.count:
            self._finish(order, OrderStatus.EXECUTED, "Trade")
        elif request.time_in_force is TimeInForce.GOOD_TILL_CANCELED and own is None:
            self._finish(order, OrderStatus.RESTING, "Trade" if order.filled else "")
        else:
            reason = "ReduceOnlyCancel" if count < request.count else "SelfTradeCancel" if own else ""
            self._finish(order, OrderStatus.CANCELED, reason)
        return order.ack(_ts_ms(now))

    def amend(
        self,
        order_id: str,
        request: OrderRequest,
        view: PriceView | None,
        shards: TradingShards,
        now: float,
    ) -> OrderAck:
        """A resting order moves. The answer says what the move itself has filled, as the exchange's does.
        Raises RequestRejected."""
        order = self.orders.resting(order_id)
        before = replace(order)
        for is_wrong, what in (
            (request.client_order_id != order.request.client_order_id, "order_id_and_client_order_id"),
            (request.ticker != order.request.ticker, "order_ticker"),
            (request.book_side is not order.request.book_side, "order_side"),
        ):
            if is_wrong:
                raise OrderRejected("it is another order", status=400, code=f"{what}_mismatch")
        levels = self._levels(request, view, shards, now)
        if request.count <= order.filled:
            raise OrderRejected("count must be above what has filled", status=400, code="invalid_parameters")
        own = self._own_in_the_way(request)
        crosses = own is not None or available(levels, request.book_side, request.price) > 0
        if order.request.post_only and crosses:
            raise OrderRejected("post only cross", status=400, code="invalid_order")
        self._check_funds(request, request.count - order.filled, instead_of=order)
        expiry = request.expiration_time_s
        order.request = replace(
            order.request,
            count=request.count,
            price=request.price,
            expiration_time_s=order.request.expiration_time_s if expiry is None else expiry or None,
        )
        self._match(order, order.remaining, own, now)
        if order.remaining == 0:
            self._finish(order, OrderStatus.EXECUTED, "Trade")
        elif own is not None:
            self._finish(order, OrderStatus.CANCELED, "SelfTradeCancel")
        else:
            self._finish(order, OrderStatus.RESTING, "Amend")
        return order.ack(_ts_ms(now), before)

    def cancel(self, order_id: str, ticker: str, view: PriceView | None, now: float) -> Decimal:
        """Cancel a resting order; return how much of it was left. Raises RequestRejected."""
        order = self.orders.resting(order_id)
        if order.request.ticker != ticker:
            raise RequestRejected("not found", status=404, code="not_found")
        if view is not None and not view.market.status_at(now).can_still_trade:
            raise RequestRejected("the market has closed", status=409, code="market_inactive")
        remaining = order.remaining
        self._finish(order, OrderStatus.CANCELED, "")
        return remaining

    def cancel_all(self) -> None:
        for order in self.orders.in_turn():
            self._finish(order, OrderStatus.CANCELED, "")

    def step(self, views: Mapping[str, PriceView | None], shards: TradingShards, now: float) -> None:
        """Fill, expire and cancel what rests in these markets."""
        for ticker, view in views.items():
            for order in self.orders.in_turn(ticker):
                self._step(order, view, shards, now)

    def fill_crossed(self, ticker: str, view: PriceView | None, shards: TradingShards, now: float) -> None:
        """Fill what rests in a market that has come to it: it did so before what arrives now."""
        if view is None or view.market.status_at(now) is not MarketStatus.ACTIVE:
            return
        for order in self.orders.in_turn(ticker):
            expiry = order.request.expiration_time_s
            is_live = not order.has_paused and (expiry is None or now < expiry)
            if is_live and shards.takes_orders(view.market.exchange_index):
                self._fill_resting(order, view, now)

    def _step(self, order: PaperOrder, view: PriceView | None, shards: TradingShards, now: float) -> None:
        expiry = order.request.expiration_time_s
        status = MarketStatus.UNKNOWN if view is None else view.market.status_at(now)
        if expiry is not None and now >= expiry:
            self._finish(order, OrderStatus.CANCELED, "ExpiryCancel")
        elif not status.can_still_trade:
            self._finish(order, OrderStatus.CANCELED, "CloseCancel")
        elif status is MarketStatus.INACTIVE:
            order.has_paused = True
        elif status is MarketStatus.ACTIVE and order.has_paused:
            self._finish(order, OrderStatus.CANCELED, "HaltCancel")  # a pause's end cancels all that rests
        elif (
            status is MarketStatus.ACTIVE
            and view is not None
            and shards.takes_orders(view.market.exchange_index)
        ):
            self._fill_resting(order, view, now)

    def _fill_resting(self, order: PaperOrder, view: PriceView, now: float) -> None:
        side, limit = order.request.book_side, order.request.price
        displayed = self._show(order.request.ticker, view)
        parts = take(displayed.left(side), side, limit, order.remaining)
        if not parts:
            return
        displayed.note_taken(side, parts)
        count = sum((part.count for part in parts), ZERO)
        self._fill(order, Part(limit, count), now, is_taker=False)
        is_done = order.remaining == 0
        self._finish(order, OrderStatus.EXECUTED if is_done else OrderStatus.RESTING, "Trade")

    # --- what an order must meet --------------------------------------------------------------------

    def _levels(
        self, request: OrderRequest, view: PriceView | None, shards: TradingShards, now: float
    ) -> list[Level]:
        """What is displayed against the order, in a market that takes it."""
        if view is None or view.quote is None:
            raise OrderRejected("no price to fill against", status=409, code="market_inactive")
        status = view.market.status_at(now)
        if status is MarketStatus.INACTIVE or not shards.takes_orders(view.market.exchange_index):
            raise OrderRejected("trading is paused", status=409, code="trading_is_paused")
        if status is not MarketStatus.ACTIVE:
            raise OrderRejected(f"market is {status.value}", status=409, code="market_inactive")
        if request.count <= 0:
            raise OrderRejected("count must be above 0", status=400, code="invalid_parameters")
        if not ZERO < request.price < ONE or view.market.grid.floor(request.price) != request.price:
            raise OrderRejected(f"{request.price} is off the grid", status=400, code="invalid_price")
        return self._show(request.ticker, view).left(request.book_side)

    def _check(self, request: OrderRequest, now: float) -> None:
        is_gtc = request.time_in_force is TimeInForce.GOOD_TILL_CANCELED
        expiry = request.expiration_time_s
        why = ""
        if request.reduce_only and request.time_in_force is not TimeInForce.IMMEDIATE_OR_CANCEL:
            why = "reduce_only can only be used with IoC orders"
        elif (expiry is not None or request.post_only) and not is_gtc:
            why = "expiration_time and post_only go with good_till_canceled"
        elif expiry is not None and expiry <= now:
            why = "expiration_time must be in the future"
        elif is_gtc and self.orders.is_full:
            why = "too many orders rest"
        if why:
            raise OrderRejected(why, status=400, code="invalid_order")
        if self.orders.find(request.client_order_id) is not None:
            raise OrderRejected("order already exists", status=409, code="order_already_exists")

    def _own_in_the_way(self, request: OrderRequest) -> Decimal | None:
        """The price at which an order of ours would be met, None when none would."""
        own = self.orders.best_price(request.ticker, opposite(request.book_side))
        return own if own is not None and is_within(own, request.price, request.book_side) else None

    def _clear_way(self, request: OrderRequest, levels: Sequence[Level], count: Decimal) -> None:
        """Cancel what of ours an exit of `count` contracts meets: an exit never gives way. Where an order
        of ours stands in its level's queue is not known, so it is met before the others there."""
        side, met = request.book_side, opposite(request.book_side)
        for own in self.orders.in_turn(request.ticker):
            price = own.request.price
            if own.request.book_side is not met or not is_within(price, request.price, side):
                continue
            better = [level for level in levels if level[0] != price]
            if available(better, side, price) < count:
                self._finish(own, OrderStatus.CANCELED, "SelfTradeCancel")

    def _check_funds(
        self, request: OrderRequest, count: Decimal, instead_of: PaperOrder | None = None
    ) -> None:
        """Only the part that opens risk needs money."""
        opening = self.account.opening_count(request.ticker, request.book_side, count)
        if self.real_balance is None or opening <= 0:
            return
        price = request.price if request.book_side is BookSide.BID else ONE - request.price
        reserved = sum((reserved_dollars(o) for o in self.orders.in_turn() if o is not instead_of), ZERO)
        free = self.real_balance + self.account.cash - reserved
        if opening * price + taker_fee(opening, request.price) > free:
            raise OrderRejected("not enough money", status=400, code="insufficient_balance")

    # --- fills --------------------------------------------------------------------------------------

    def _match(self, order: PaperOrder, count: Decimal, own: Decimal | None, now: float) -> None:
        """Take what is displayed; `own` is the price at which an order of ours stands in the way."""
        side = order.request.book_side
        displayed = self._displayed[order.request.ticker]
        levels = displayed.left(side)
        if own is not None:
            levels = [level for level in levels if level[0] != own and is_within(level[0], own, side)]
        parts = take(levels, side, order.request.price, count)
        displayed.note_taken(side, parts)
        for part in parts:
            self._fill(order, part, now, is_taker=True)

    def _fill(self, order: PaperOrder, part: Part, now: float, *, is_taker: bool) -> None:
        request = order.request
        fee = fee_of(part.count, part.yes_price, is_taker=is_taker)
        post = self.account.fill(
            request.ticker, request.book_side, part.count, part.yes_price, fee, request.exchange_index, now
        )
        fill = Fill(
            trade_id=order.add(part.count, part.yes_price, fee),
            order_id=order.order_id,
            ticker=request.ticker,
            book_side=request.book_side,
            count=part.count,
            yes_price=part.yes_price,
            fee=fee,
            ts_ms=_ts_ms(now),
            client_order_id=request.client_order_id,
            post_position=post,
            exchange_index=request.exchange_index,
        )
        self._records.append(FillRecord.of(fill))
        self._events.append(fill)

    def _finish(self, order: PaperOrder, status: OrderStatus, reason: str) -> None:
        order.status = status
        self.orders.note(order)
        self._events.append(order.update(reason))

    def _show(self, ticker: str, view: PriceView) -> DisplayedMarket:
        displayed = self._displayed.setdefault(ticker, DisplayedMarket())
        self._displayed.move_to_end(ticker)
        if len(self._displayed) > MARKETS_MAX:
            self._displayed.popitem(last=False)
        displayed.show(view)
        return displayed

    # --- the end of a market ------------------------------------------------------------------------

    def settle(self, market: Market, now: float) -> bool:
        """Pay for what is held in a market that has ended, once; False where it does not say what it pays."""
        value = yes_value(market)
        if value is None:
            return False
        payout = self.account.settle(market.ticker, value, _ts_ms(now))
        if payout is not None:
            self._events.append(payout)
        return True


def yes_value(market: Market) -> Decimal | None:
    """Dollars that the market pays for a YES contract, None while it does not say: a `scalar` result
    without its value, or no result that is known."""
    result = market.result.lower()
    return market.settlement_value if result == "scalar" else _PAYS.get(result)


def _ts_ms(now: float) -> int:
    return int(now * 1000)
