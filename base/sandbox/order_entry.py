"""The account's orders: placing, matching, canceling, amending, crediting. No I/O; callers pass `now`.

Semantics from docs.kalshi.com (create order V2 and after) and the recordings of 2026-06-11.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING

from base.model.market import BookSide, MarketStatus, OutcomeSide
from base.model.order import OrderStatus, TimeInForce
from base.sandbox.book import opposite
from base.sandbox.fixed_point import ONE, ZERO
from base.sandbox.happenings import Filled, OrderChanged, PositionChanged
from base.sandbox.ledger import taker_fee
from base.sandbox.market import SandboxMarket
from base.sandbox.records import (
    FillRecord,
    NewOrder,
    OrderRecord,
    PositionRecord,
    SelfTradePrevention,
    UpdateReason,
    outcome_price,
)
from base.sandbox.refusals import Refused, invalid_order, invalid_parameters, not_found

if TYPE_CHECKING:
    from base.sandbox.exchange import Exchange


@dataclass(slots=True)
class MatchLimits:
    """Faults of matching: how much an order may fill, and how many orders get nothing at all."""

    max_fill_per_order: Decimal | None = None
    zero_fill_orders: int = 0


class OrderEntry:
    """Belongs to the exchange and its thread."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.limits = MatchLimits()

    # Placing

    def place(self, new: NewOrder, now: float) -> OrderRecord:
        """Accept and match an order, or raise Refused."""
        ledger = self._exchange.ledger
        market = self._check(new, now)
        count = new.count
        if new.reduce_only:
            held = ledger.position_count(new.ticker)
            count = min(count, max(ZERO, held if new.side is BookSide.ASK else -held))
        self._check_funds(market, new, count)
        ledger.client_order_ids.add(new.client_order_id)
        if (
            new.time_in_force is TimeInForce.FILL_OR_KILL
            and market.book.available(opposite(new.side), new.price) < count
        ):
            # A killed order uses its client order id up (seen in production).
            raise Refused(409, "fill_or_kill_insufficient_resting_volume")
        order = OrderRecord(
            order_id=self._exchange.new_id(),
            client_order_id=new.client_order_id,
            ticker=new.ticker,
            exchange_index=market.spec.exchange_index,
            side=new.side,
            price=new.price,
            initial_count=new.count,
            fill_count=ZERO,
            remaining_count=count,
            status=OrderStatus.RESTING,
            self_trade_prevention=new.self_trade_prevention,
            created_at=now,
            updated_at=now,
            expiration_time_s=new.expiration_time_s,
            cancel_order_on_pause=new.cancel_order_on_pause,
        )
        order, is_stopped = self._match(market, order, now)
        return self._place_rest(market, order, new, count, is_stopped, now)

    def _place_rest(
        self,
        market: SandboxMarket,
        order: OrderRecord,
        new: NewOrder,
        count: Decimal,
        is_stopped: bool,
        now: float,
    ) -> OrderRecord:
        """Rest, cancel or finish what matching left of a new order."""
        rests = (
            new.time_in_force is TimeInForce.GOOD_TILL_CANCELED
            and not is_stopped
            and order.remaining_count > 0
        )
        if rests:
            self._exchange.ledger.put_order(order)
            market.book.rest(order.order_id, order.side, order.price, order.remaining_count)
            self._note(market, order, order.remaining_count, now)
        else:
            is_full = order.fill_count == new.count
            reason = order.reason
            if not is_full and new.reduce_only and count < new.count:
                reason = UpdateReason.REDUCE_ONLY_CANCEL
            order = replace(
                order,
                status=OrderStatus.EXECUTED if is_full else OrderStatus.CANCELED,
                remaining_count=ZERO,
                reason=reason,
            )
            self._exchange.ledger.put_order(order)
        self._exchange.sink(OrderChanged(order))
        return order

    def _check(self, new: NewOrder, now: float) -> SandboxMarket:
        exchange = self._exchange
        market = exchange.market(new.ticker)
        self._check_shard(market)
        if new.exchange_index not in (None, -1, market.spec.exchange_index):
            raise not_found()
        self._check_market(market)
        if new.reduce_only and new.time_in_force is not TimeInForce.IMMEDIATE_OR_CANCEL:
            raise invalid_order("reduce_only can only be used with IoC orders")
        if new.expiration_time_s is not None:
            if new.time_in_force is not TimeInForce.GOOD_TILL_CANCELED:
                raise invalid_order("expiration_time can only be used with good_till_canceled orders")
            if new.expiration_time_s <= now:
                raise invalid_order("expiration_time must be in the future")
        if not market.is_on_grid(new.price):
            raise Refused(400, "invalid_price")
        if new.client_order_id in exchange.ledger.client_order_ids:
            raise Refused(409, "order_already_exists")
        if new.post_only:
            if new.time_in_force is not TimeInForce.GOOD_TILL_CANCELED:
                raise invalid_order("post_only can only be used with good_till_canceled orders")
            if market.book.front(opposite(new.side), new.price) is not None:
                raise invalid_order("post only cross")
        return market

    def _check_shard(self, market: SandboxMarket) -> None:
        is_active, takes_orders = self._exchange.shard_flags(market.spec.exchange_index)
        if not is_active:
            raise Refused(409, "exchange_is_paused")
        if not takes_orders:
            raise Refused(409, "trading_is_paused")

    @staticmethod
    def _check_market(market: SandboxMarket) -> None:
        if market.status is MarketStatus.INACTIVE:
            raise Refused(409, "trading_is_paused")
        if market.status is not MarketStatus.ACTIVE:
            raise Refused(409, "market_inactive")

    def _check_funds(self, market: SandboxMarket, new: NewOrder, count: Decimal) -> None:
        """Only the part that opens risk needs money (docs, netting); on a shard without any, every order."""
        ledger = self._exchange.ledger
        on_shard = self._exchange.shard_balances.get(market.spec.exchange_index)
        if on_shard == 0:
            raise Refused(400, "insufficient_balance")
        opening = ledger.opening_count(new.ticker, new.side, count)
        needed = opening * outcome_price(new.side, new.price) + taker_fee(opening, new.price)
        available = ledger.available()
        if needed > (available if on_shard is None else min(on_shard, available)):
            raise Refused(400, "insufficient_balance")

    # Matching

    def _match(self, market: SandboxMarket, order: OrderRecord, now: float) -> tuple[OrderRecord, bool]:
        """Match against the other side of the book; the second value says that matching was stopped short."""
        budget = order.remaining_count
        if self.limits.zero_fill_orders > 0:
            self.limits.zero_fill_orders -= 1
            return order, True
        is_capped = self.limits.max_fill_per_order is not None and self.limits.max_fill_per_order < budget
        if is_capped:
            budget = self.limits.max_fill_per_order or ZERO
        other = opposite(order.side)
        while budget > 0:
            found = market.book.front(other, order.price)
            if found is None:
                return order, False
            price, resting = found
            if resting.order_id is not None:
                if order.self_trade_prevention is SelfTradePrevention.TAKER_AT_CROSS:
                    return replace(order, reason=UpdateReason.SELF_TRADE_CANCEL), True
                own = self._exchange.ledger.orders[resting.order_id]
                self._cancel(market, own, UpdateReason.SELF_TRADE_CANCEL, now)
                continue
            count = min(budget, resting.remaining)
            market.book.take_front(other, price, count)
            self._exchange.note_level(market, other, price, -count, now)
            order = self._fill(market, order, price, count, now, is_taker=True)
            budget -= count
        return order, is_capped

    def hit_resting(
        self, market: SandboxMarket, side: BookSide, limit: Decimal, count: Decimal, now: float
    ) -> Decimal:
        """Let participants take the account's resting orders that cross; return what they took."""
        taken = ZERO
        while taken < count:
            found = market.book.front(opposite(side), limit)
            if found is None or found[1].order_id is None:
                break
            price, resting = found
            order = self._exchange.ledger.orders[resting.order_id or ""]
            part = min(count - taken, resting.remaining)
            market.book.take_front(order.side, price, part)
            self._note(market, order, -part, now)
            order = self._fill(market, order, price, part, now, is_taker=False)
            if order.remaining_count == 0:
                order = replace(order, status=OrderStatus.EXECUTED)
            self._exchange.ledger.put_order(order)
            self._exchange.sink(OrderChanged(order))
            taken += part
        return taken

    def _fill(
        self,
        market: SandboxMarket,
        order: OrderRecord,
        price: Decimal,
        count: Decimal,
        now: float,
        *,
        is_taker: bool,
    ) -> OrderRecord:
        """Book one execution: trade, position, fill. Makers pay nothing in a `quadratic` series."""
        ledger = self._exchange.ledger
        fee = taker_fee(count, price) if is_taker else ZERO
        taker_side = order.side if is_taker else opposite(order.side)
        trade = self._exchange.note_trade(market, price, count, taker_side, now)
        opening = ledger.opening_count(market.ticker, order.side, count)
        position = ledger.apply_fill(self._position(market), order.side, count, price, fee, now)
        fill = FillRecord(
            trade_id=trade.trade_id,
            order_id=order.order_id,
            client_order_id=order.client_order_id,
            ticker=market.ticker,
            exchange_index=market.spec.exchange_index,
            side=order.side,
            count=count,
            yes_price=price,
            is_taker=is_taker,
            fee=fee,
            at=now,
            post_position=position.count,
            reduces=opening < count,
        )
        ledger.fills.append(fill)
        self._exchange.sink(Filled(fill))
        self._exchange.sink(PositionChanged(position))
        cost = count * outcome_price(order.side, price)
        return replace(
            order,
            fill_count=order.fill_count + count,
            remaining_count=order.remaining_count - count,
            yes_value=order.yes_value + count * price,
            taker_fees=order.taker_fees + (fee if is_taker else ZERO),
            maker_fees=order.maker_fees + (ZERO if is_taker else fee),
            taker_fill_cost=order.taker_fill_cost + (cost if is_taker else ZERO),
            maker_fill_cost=order.maker_fill_cost + (ZERO if is_taker else cost),
            updated_at=now,
            reason=UpdateReason.TRADE,
        )

    def _position(self, market: SandboxMarket) -> PositionRecord:
        known = self._exchange.ledger.positions.get(market.ticker)
        return known or PositionRecord(market.ticker, market.spec.event, market.spec.exchange_index)

    # Canceling and changing

    def find_resting(self, order_id: str, exchange_index: int | None) -> OrderRecord:
        """The resting order, or 404: unknown, canceled and executed answer alike (recorded 2026-06-11)."""
        order = self._exchange.ledger.orders.get(order_id)
        if order is None or order.status is not OrderStatus.RESTING:
            raise not_found()
        if exchange_index is not None and exchange_index not in (-1, order.exchange_index):
            raise not_found()
        return order

    def cancel(
        self, order_id: str, now: float, *, exchange_index: int | None = None
    ) -> tuple[OrderRecord, Decimal]:
        """Cancel a resting order; return it and by how much it was reduced."""
        order = self.find_resting(order_id, exchange_index)
        market = self._exchange.market(order.ticker)
        if not self._exchange.shard_flags(market.spec.exchange_index)[0]:
            raise Refused(409, "exchange_is_paused")
        if market.status not in (MarketStatus.ACTIVE, MarketStatus.INACTIVE):
            raise Refused(409, "market_inactive")
        return self._cancel(market, order, UpdateReason.NONE, now), order.remaining_count

    def cancel_all(self, now: float) -> None:
        if not self._exchange.exchange_active:
            raise Refused(409, "exchange_is_paused")
        for order in self._exchange.ledger.resting_orders():
            if self._exchange.shard_flags(order.exchange_index)[0]:
                self._cancel(self._exchange.market(order.ticker), order, UpdateReason.NONE, now)

    def cancel_resting(
        self,
        market: SandboxMarket,
        reason: UpdateReason,
        now: float,
        only: Callable[[OrderRecord], bool] = lambda order: True,
    ) -> None:
        """Cancel the market's resting orders for a reason of the exchange's own."""
        for order in self._exchange.ledger.resting_orders(market.ticker):
            if only(order):
                self._cancel(market, order, reason, now)

    def expire(self, now: float) -> None:
        for order in self._exchange.ledger.resting_orders():
            if order.expiration_time_s is not None and now >= order.expiration_time_s:
                market = self._exchange.market(order.ticker)
                self._cancel(market, order, UpdateReason.EXPIRY_CANCEL, now)

    def amend(
        self,
        order_id: str,
        *,
        ticker: str,
        side: BookSide,
        price: Decimal,
        count: Decimal,
        client_order_id: str | None,
        new_client_order_id: str | None,
        expiration_time_s: int | None,
        exchange_index: int | None,
        now: float,
    ) -> tuple[OrderRecord, OrderRecord]:
        """Change price, total count or expiry of a resting order; return it before and after.

        `count` is what has filled plus what should remain (docs, amend order). An expiry of 0 clears it.
        """
        before = self.find_resting(order_id, exchange_index)
        market = self._exchange.market(before.ticker)
        self._check_shard(market)
        self._check_market(market)
        for is_wrong, what in (
            (client_order_id not in (None, before.client_order_id), "order_id_and_client_order_id"),
            (ticker != before.ticker, "order_ticker"),
            (side is not before.side, "order_side"),
        ):
            if is_wrong:
                raise Refused(400, f"{what}_mismatch")
        if not market.is_on_grid(price):
            raise Refused(400, "invalid_price")
        ledger = self._exchange.ledger
        if new_client_order_id and new_client_order_id != before.client_order_id:
            if new_client_order_id in ledger.client_order_ids:
                raise Refused(409, "order_already_exists")
            ledger.client_order_ids.add(new_client_order_id)
        remaining = count - before.fill_count
        if remaining <= 0:
            raise invalid_parameters("count must be above what has filled; cancel the order instead")
        expiry = before.expiration_time_s if expiration_time_s is None else expiration_time_s or None
        after = replace(
            before,
            client_order_id=new_client_order_id or before.client_order_id,
            price=price,
            initial_count=count,
            remaining_count=remaining,
            expiration_time_s=expiry,
            updated_at=now,
            reason=UpdateReason.AMEND,
        )
        if price == before.price and remaining <= before.remaining_count:
            by = before.remaining_count - remaining
            if by:
                market.book.reduce_order(order_id, side, price, by)
                self._note(market, after, -by, now)
            ledger.put_order(after)
            self._exchange.sink(OrderChanged(after))
            return before, after
        return before, self._move(market, before, after, now)

    def _move(
        self, market: SandboxMarket, before: OrderRecord, after: OrderRecord, now: float
    ) -> OrderRecord:
        """Take an order out of the book and place it anew; it may match."""
        ledger = self._exchange.ledger
        market.book.reduce_order(before.order_id, before.side, before.price, before.remaining_count)
        self._note(market, before, -before.remaining_count, now)
        after, is_stopped = self._match(market, after, now)
        if after.remaining_count == 0:
            after = replace(after, status=OrderStatus.EXECUTED)
        elif is_stopped:
            after = replace(after, status=OrderStatus.CANCELED, remaining_count=ZERO)
        else:
            market.book.rest(after.order_id, after.side, after.price, after.remaining_count)
            self._note(market, after, after.remaining_count, now)
        ledger.put_order(after)
        self._exchange.sink(OrderChanged(after))
        return after

    def decrease(
        self,
        order_id: str,
        *,
        reduce_by: Decimal | None,
        reduce_to: Decimal | None,
        exchange_index: int | None,
        now: float,
    ) -> OrderRecord:
        """Make a resting order smaller; exactly one of the two counts is given."""
        order = self.find_resting(order_id, exchange_index)
        market = self._exchange.market(order.ticker)
        self._check_shard(market)
        self._check_market(market)
        target = order.remaining_count - reduce_by if reduce_by is not None else reduce_to
        if target is None or target > order.remaining_count:
            raise invalid_parameters("reduce_to must not be above the remaining count")
        target = max(ZERO, target)
        by = order.remaining_count - target
        if by:
            market.book.reduce_order(order_id, order.side, order.price, by)
            self._note(market, order, -by, now)
        order = replace(
            order,
            remaining_count=target,
            status=OrderStatus.RESTING if target else OrderStatus.CANCELED,
            updated_at=now,
            reason=UpdateReason.DECREASE,
        )
        self._exchange.ledger.put_order(order)
        self._exchange.sink(OrderChanged(order))
        return order

    def _cancel(
        self, market: SandboxMarket, order: OrderRecord, reason: UpdateReason, now: float
    ) -> OrderRecord:
        market.book.reduce_order(order.order_id, order.side, order.price, order.remaining_count)
        self._note(market, order, -order.remaining_count, now)
        order = replace(
            order, status=OrderStatus.CANCELED, remaining_count=ZERO, updated_at=now, reason=reason
        )
        self._exchange.ledger.put_order(order)
        self._exchange.sink(OrderChanged(order))
        return order

    def _note(self, market: SandboxMarket, order: OrderRecord, change: Decimal, now: float) -> None:
        self._exchange.note_level(market, order.side, order.price, change, now, order.client_order_id)

    # By hand

    def credit(
        self, ticker: str, side: OutcomeSide, count: Decimal, price: Decimal, now: float
    ) -> FillRecord:
        """Give the account a position as if it had been bought by hand at `price` of that side.

        Missing money is deposited first, so that a fleet of positions never fails for lack of funds.
        """
        ledger = self._exchange.ledger
        market = self._exchange.market(ticker)
        book_side = BookSide.BID if side is OutcomeSide.YES else BookSide.ASK
        yes_price = price if side is OutcomeSide.YES else ONE - price
        ledger.balance += max(ZERO, count * price + taker_fee(count, price) - ledger.available())
        order = OrderRecord(
            order_id=self._exchange.new_id(),
            client_order_id=f"hand-{self._exchange.new_id()}",
            ticker=ticker,
            exchange_index=market.spec.exchange_index,
            side=book_side,
            price=yes_price,
            initial_count=count,
            fill_count=ZERO,
            remaining_count=count,
            status=OrderStatus.RESTING,
            self_trade_prevention=SelfTradePrevention.TAKER_AT_CROSS,
            created_at=now,
            updated_at=now,
        )
        ledger.client_order_ids.add(order.client_order_id)
        order = self._fill(market, order, yes_price, count, now, is_taker=True)
        order = replace(order, status=OrderStatus.EXECUTED)
        ledger.put_order(order)
        self._exchange.sink(OrderChanged(order))
        return ledger.fills[-1]
