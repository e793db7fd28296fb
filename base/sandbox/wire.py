"""The sandbox's values as the exchange's JSON: REST bodies and stream messages. Pure.

Shapes from docs.kalshi.com (OpenAPI 3.34.0, AsyncAPI of 2026-10-26) and the recordings of 2026.
"""

from __future__ import annotations

from decimal import Decimal

from base.model.market import BookSide, MarketStatus, OutcomeSide
from base.sandbox.fixed_point import (
    ONE,
    ZERO,
    count_text,
    dollars_text,
    milliseconds,
    price_text,
    second_text,
    time_text,
)
from base.sandbox.happenings import LevelChanged, LifecycleChanged, LifecycleEvent
from base.sandbox.market import SandboxMarket
from base.sandbox.records import (
    FillRecord,
    OrderRecord,
    PositionRecord,
    SettlementRecord,
    TradeRecord,
    UpdateReason,
)

Json = dict[str, object]
USER_ID = "5a6d6b0e-0000-4000-8000-00005a6db0c5"
SETTLEMENT_TIMER_S = 5


# REST: markets


def market_json(market: SandboxMarket) -> Json:
    top = market.top()
    bid, ask = top.yes_bid, top.yes_ask
    is_unquoted = market.status in (MarketStatus.INITIALIZED, MarketStatus.ACTIVE) and not (
        top.yes_bid_size or top.yes_ask_size
    )
    if is_unquoted:
        # Recorded 2026-06/07: an unopened market and an active one with an empty book show 0 and 0.
        ask = ZERO
    grid = market.spec.grid
    body: Json = {
        "ticker": market.ticker,
        "event_ticker": market.spec.event,
        "market_type": "binary",
        "title": market.spec.title or market.ticker,
        "subtitle": "",
        "yes_sub_title": market.spec.yes_sub_title,
        "no_sub_title": f"Not {market.spec.yes_sub_title}",
        "created_time": time_text(market.created_at),
        "updated_time": time_text(market.updated_at),
        "open_time": second_text(market.spec.open_time),
        "close_time": time_text(market.close_time),
        "expected_expiration_time": time_text(market.close_time),
        "expiration_time": time_text(market.close_time),
        "latest_expiration_time": time_text(market.close_time),
        "settlement_timer_seconds": SETTLEMENT_TIMER_S,
        "status": market.status.value,
        "notional_value_dollars": price_text(ONE),
        "yes_bid_dollars": price_text(bid),
        "yes_ask_dollars": price_text(ask),
        "no_bid_dollars": price_text(ONE - ask),
        "no_ask_dollars": price_text(ONE - bid),
        "yes_bid_size_fp": count_text(top.yes_bid_size),
        "yes_ask_size_fp": count_text(top.yes_ask_size),
        "last_price_dollars": price_text(market.last_price),
        "previous_yes_bid_dollars": price_text(ZERO),
        "previous_yes_ask_dollars": price_text(ZERO),
        "previous_price_dollars": price_text(ZERO),
        "volume_fp": count_text(market.volume),
        "volume_24h_fp": count_text(market.volume),
        "open_interest_fp": count_text(market.open_interest),
        "result": market.result.value if market.result else "",
        "can_close_early": True,
        "early_close_condition": "This market closes early when its outcome is known.",
        "expiration_value": market.result.value if market.result else "",
        "rules_primary": f"If the outcome of {market.ticker} occurs, the market resolves to Yes.",
        "rules_secondary": "",
        "price_level_structure": market.spec.grid_name,
        "price_ranges": [
            {"start": price_text(r.start), "end": price_text(r.end), "step": price_text(r.step)}
            for r in grid.ranges
        ],
        "settlement_bounds_type": "default",
        "exchange_index": market.spec.exchange_index,
    }
    if market.result is not None:
        body["settlement_value_dollars"] = price_text(ONE if market.result is OutcomeSide.YES else ZERO)
    if market.settled_at is not None:
        body["settlement_ts"] = time_text(market.settled_at)
    return body


def book_levels(market: SandboxMarket, side: BookSide, *, use_yes_price: bool = False) -> list[list[str]]:
    """Bids of one outcome, worst first and best last (docs, orderbook responses)."""
    levels = reversed(market.book.levels(side))
    if side is BookSide.BID or use_yes_price:
        return [[price_text(price), count_text(size)] for price, size in levels]
    return [[price_text(ONE - price), count_text(size)] for price, size in levels]


def orderbook_json(market: SandboxMarket, depth: int = 0) -> Json:
    return {
        "yes_dollars": book_levels(market, BookSide.BID)[-depth:],
        "no_dollars": book_levels(market, BookSide.ASK)[-depth:],
    }


def trade_json(trade: TradeRecord) -> Json:
    outcome = _outcome(trade.taker_side)
    return {
        "trade_id": trade.trade_id,
        "ticker": trade.ticker,
        "count_fp": count_text(trade.count),
        "yes_price_dollars": price_text(trade.yes_price),
        "no_price_dollars": price_text(ONE - trade.yes_price),
        "taker_side": outcome,
        "taker_outcome_side": outcome,
        "taker_book_side": trade.taker_side.value,
        "created_time": time_text(trade.at),
        "is_block_trade": False,
    }


def event_json(event_ticker: str, markets: list[SandboxMarket], *, is_nested: bool) -> Json:
    first = markets[0]
    body: Json = {
        "event_ticker": event_ticker,
        "series_ticker": first.spec.series,
        "sub_title": "",
        "title": first.spec.title or event_ticker,
        "collateral_return_type": "",
        "mutually_exclusive": first.spec.is_exclusive,
        "category": "Sandbox",
        "settlement_sources": [],
        "exchange_index": first.spec.exchange_index,
    }
    if is_nested:
        body["markets"] = [market_json(m) for m in markets]
    return body


def series_json(series_ticker: str, exchange_index: int) -> Json:
    return {
        "ticker": series_ticker,
        "frequency": "custom",
        "title": series_ticker,
        "category": "Sandbox",
        "categories": ["Sandbox"],
        "tags": [],
        "settlement_sources": [],
        "contract_url": "",
        "contract_terms_url": "",
        "fee_type": "quadratic",
        "fee_multiplier": 1,
        "additional_prohibitions": [],
        "exchange_index": exchange_index,
    }


# REST: portfolio


def position_json(position: PositionRecord) -> Json:
    return {
        "ticker": position.ticker,
        "exchange_index": position.exchange_index,
        "total_traded_dollars": dollars_text(position.total_traded),
        "position_fp": count_text(position.count),
        "market_exposure_dollars": dollars_text(position.cost),
        "realized_pnl_dollars": dollars_text(position.realized_pnl),
        "fees_paid_dollars": dollars_text(position.fees_paid),
        "last_updated_ts": time_text(position.updated_at),
    }


def event_position_json(event_ticker: str, positions: list[PositionRecord]) -> Json:
    return {
        "event_ticker": event_ticker,
        "total_cost_dollars": dollars_text(sum((p.total_traded for p in positions), ZERO)),
        "total_cost_shares_fp": count_text(sum((p.volume for p in positions), ZERO)),
        "event_exposure_dollars": dollars_text(sum((p.cost for p in positions), ZERO)),
        "realized_pnl_dollars": dollars_text(sum((p.realized_pnl for p in positions), ZERO)),
        "fees_paid_dollars": dollars_text(sum((p.fees_paid for p in positions), ZERO)),
    }


def fill_json(fill: FillRecord) -> Json:
    return {
        "fill_id": fill.trade_id,
        "exchange_index": fill.exchange_index,
        "trade_id": fill.trade_id,
        "order_id": fill.order_id,
        "ticker": fill.ticker,
        "market_ticker": fill.ticker,
        "side": fill.outcome_side.value,
        "action": _action(fill),
        "outcome_side": fill.outcome_side.value,
        "book_side": fill.side.value,
        "count_fp": count_text(fill.count),
        "yes_price_dollars": price_text(fill.yes_price),
        "no_price_dollars": price_text(ONE - fill.yes_price),
        "is_taker": fill.is_taker,
        "created_time": time_text(fill.at),
        "fee_cost": dollars_text(fill.fee),
        "subaccount_number": 0,
        "ts": int(fill.at),
    }


def order_json(order: OrderRecord) -> Json:
    """An order as REST lists it: no time in force, no reduce-only, no reason (docs, get orders)."""
    body: Json = {
        "order_id": order.order_id,
        "user_id": USER_ID,
        "client_order_id": order.client_order_id,
        "ticker": order.ticker,
        "side": order.outcome_side.value,
        "action": "buy",
        "outcome_side": order.outcome_side.value,
        "book_side": order.side.value,
        "type": "limit",
        "status": order.status.value,
        "yes_price_dollars": price_text(order.price),
        "no_price_dollars": price_text(ONE - order.price),
        "fill_count_fp": count_text(order.fill_count),
        "remaining_count_fp": count_text(order.remaining_count),
        "initial_count_fp": count_text(order.initial_count),
        "taker_fees_dollars": dollars_text(order.taker_fees),
        "maker_fees_dollars": dollars_text(order.maker_fees),
        "taker_fill_cost_dollars": dollars_text(order.taker_fill_cost),
        "maker_fill_cost_dollars": dollars_text(order.maker_fill_cost),
        "created_time": time_text(order.created_at),
        "last_update_time": time_text(order.updated_at),
        "self_trade_prevention_type": order.self_trade_prevention.value,
        "cancel_order_on_pause": order.cancel_order_on_pause,
        "subaccount_number": 0,
        "exchange_index": order.exchange_index,
    }
    if order.expiration_time_s is not None:
        body["expiration_time"] = second_text(order.expiration_time_s)
    return body


def settlement_json(settlement: SettlementRecord) -> Json:
    is_yes = settlement.count > 0
    nothing = (count_text(ZERO), dollars_text(ZERO))
    held = (count_text(abs(settlement.count)), dollars_text(settlement.cost))
    yes, no = (held, nothing) if is_yes else (nothing, held)
    return {
        "ticker": settlement.ticker,
        "exchange_index": settlement.exchange_index,
        "event_ticker": settlement.event_ticker,
        "market_result": settlement.result.value,
        "yes_count_fp": yes[0],
        "yes_total_cost_dollars": yes[1],
        "no_count_fp": no[0],
        "no_total_cost_dollars": no[1],
        "revenue": int(settlement.revenue * 100),
        "settled_time": time_text(settlement.at),
        "fee_cost": dollars_text(settlement.fees),
        "value": 100 if settlement.result is OutcomeSide.YES else 0,
    }


# REST: order entry


def ack_json(order: OrderRecord, now: float, filled_before: OrderRecord | None = None) -> Json:
    """The 201 of a create order, or what an amendment adds to `filled_before`."""
    count, value, fees = order.fill_count, order.yes_value, order.fees
    if filled_before is not None:
        count -= filled_before.fill_count
        value -= filled_before.yes_value
        fees -= filled_before.fees
    body: Json = {
        "order_id": order.order_id,
        "client_order_id": order.client_order_id,
        "fill_count": count_text(order.fill_count),
        "remaining_count": count_text(order.remaining_count),
        "ts_ms": milliseconds(now),
    }
    if count > 0:
        body["average_fill_price"] = price_text(value / count)
        body["average_fee_paid"] = price_text(fees / count)
    return body


def cancel_json(order: OrderRecord, reduced_by: Decimal, now: float) -> Json:
    return {
        "order_id": order.order_id,
        "client_order_id": order.client_order_id,
        "reduced_by": count_text(reduced_by),
        "ts_ms": milliseconds(now),
    }


# Stream messages (the `msg` of a frame)


def ticker_msg(market: SandboxMarket) -> Json:
    top = market.top()
    return {
        "market_id": market.spec.market_id,
        "market_ticker": market.ticker,
        "price_dollars": price_text(market.last_price),
        "yes_bid_dollars": price_text(top.yes_bid),
        "yes_ask_dollars": price_text(top.yes_ask),
        "volume_fp": count_text(market.volume),
        "open_interest_fp": count_text(market.open_interest),
        "dollar_volume": int(market.volume / 2),  # half the contracts, as in every recorded frame
        "dollar_open_interest": int(market.open_interest / 2),
        "yes_bid_size_fp": count_text(top.yes_bid_size),
        "yes_ask_size_fp": count_text(top.yes_ask_size),
        "last_trade_size_fp": count_text(market.last_trade_size),
        "ts": market.ticker_ts_ms // 1000,
        "ts_ms": market.ticker_ts_ms,
        "time": time_text(market.ticker_ts_ms / 1000),
    }


def snapshot_msg(market: SandboxMarket, *, use_yes_price: bool) -> Json:
    """A whole book; the key of an empty side is absent (recorded)."""
    msg: Json = {"market_ticker": market.ticker, "market_id": market.spec.market_id, "clock": market.clock}
    yes = book_levels(market, BookSide.BID)
    no = book_levels(market, BookSide.ASK, use_yes_price=use_yes_price)
    if yes:
        msg["yes_dollars_fp"] = yes
    if no:
        msg["no_dollars_fp"] = no
    return msg


def delta_msg(market: SandboxMarket, change: LevelChanged, *, use_yes_price: bool) -> Json:
    is_bid = change.side is BookSide.BID
    msg: Json = {
        "market_ticker": change.ticker,
        "market_id": market.spec.market_id,
        "clock": change.clock,
        "price_dollars": price_text(change.price if is_bid or use_yes_price else ONE - change.price),
        "delta_fp": count_text(change.change),
        "side": _outcome(change.side),
        "ts": time_text(change.at),
        "ts_ms": milliseconds(change.at),
    }
    if change.client_order_id:
        msg["client_order_id"] = change.client_order_id
        msg["subaccount"] = 0
    return msg


def trade_msg(trade: TradeRecord) -> Json:
    outcome = _outcome(trade.taker_side)
    return {
        "trade_id": trade.trade_id,
        "market_ticker": trade.ticker,
        "yes_price_dollars": price_text(trade.yes_price),
        "no_price_dollars": price_text(ONE - trade.yes_price),
        "count_fp": count_text(trade.count),
        "taker_side": outcome,
        "taker_outcome_side": outcome,
        "taker_book_side": trade.taker_side.value,
        "is_block_trade": False,
        "ts": int(trade.at),
        "ts_ms": milliseconds(trade.at),
    }


def fill_msg(fill: FillRecord) -> Json:
    return {
        "trade_id": fill.trade_id,
        "order_id": fill.order_id,
        "client_order_id": fill.client_order_id,
        "market_ticker": fill.ticker,
        "exchange_index": fill.exchange_index,
        "is_taker": fill.is_taker,
        "side": fill.outcome_side.value,
        "yes_price_dollars": price_text(fill.yes_price),
        "count_fp": count_text(fill.count),
        "fee_cost": dollars_text(fill.fee),
        "action": _action(fill),
        "ts": int(fill.at),
        "ts_ms": milliseconds(fill.at),
        "post_position_fp": count_text(fill.post_position),
        "purchased_side": fill.outcome_side.value,
        "outcome_side": fill.outcome_side.value,
        "book_side": fill.side.value,
        "subaccount": 0,
    }


def user_order_msg(order: OrderRecord) -> Json:
    msg: Json = {
        "order_id": order.order_id,
        "user_id": USER_ID,
        "ticker": order.ticker,
        "exchange_index": order.exchange_index,
        "status": order.status.value,
        "side": order.outcome_side.value,
        "is_yes": order.outcome_side is OutcomeSide.YES,
        "outcome_side": order.outcome_side.value,
        "book_side": order.side.value,
        "yes_price_dollars": price_text(order.price),
        "fill_count_fp": count_text(order.fill_count),
        "remaining_count_fp": count_text(order.remaining_count),
        "initial_count_fp": count_text(order.initial_count),
        "taker_fill_cost_dollars": dollars_text(order.taker_fill_cost),
        "maker_fill_cost_dollars": dollars_text(order.maker_fill_cost),
        "taker_fees_dollars": dollars_text(order.taker_fees),
        "maker_fees_dollars": dollars_text(order.maker_fees),
        "client_order_id": order.client_order_id,
        "self_trade_prevention_type": order.self_trade_prevention.value,
        "created_time": time_text(order.created_at),
        "created_ts_ms": milliseconds(order.created_at),
        "last_updated_ts_ms": milliseconds(order.updated_at),
        "subaccount_number": 0,
    }
    if order.expiration_time_s is not None:
        msg["expiration_time"] = second_text(order.expiration_time_s)
        msg["expiration_ts_ms"] = order.expiration_time_s * 1000
    if order.reason is not UpdateReason.NONE:
        msg["last_update_reason"] = order.reason.value
    return msg


def market_position_msg(position: PositionRecord) -> Json:
    return {
        "user_id": USER_ID,
        "market_ticker": position.ticker,
        "position_fp": count_text(position.count),
        "position_cost_dollars": dollars_text(position.cost),
        "realized_pnl_dollars": dollars_text(position.realized_pnl),
        "fees_paid_dollars": dollars_text(position.fees_paid),
        "position_fee_cost_dollars": dollars_text(position.fees_paid),
        "volume_fp": count_text(position.volume),
        "subaccount": 0,
    }


def lifecycle_msg(market: SandboxMarket, change: LifecycleChanged) -> Json:
    msg: Json = {"market_ticker": change.ticker, "event_type": change.event.value}
    match change.event:
        case LifecycleEvent.CREATED:
            msg["exchange_index"] = market.spec.exchange_index
            msg["open_ts"] = int(market.spec.open_time)
            msg["close_ts"] = int(market.close_time)
            msg["price_level_structure"] = market.spec.grid_name
            msg["price_ranges"] = market_json(market)["price_ranges"]
        case LifecycleEvent.CLOSE_DATE_UPDATED:
            msg["close_ts"] = int(market.close_time)
        case LifecycleEvent.DETERMINED:
            msg["determination_ts"] = int(change.at)
            msg["result"] = market.result.value if market.result else ""
            msg["settlement_value"] = price_text(ONE if market.result is OutcomeSide.YES else ZERO)
        case LifecycleEvent.SETTLED:
            msg["settled_ts"] = int(change.at)
        case LifecycleEvent.ACTIVATED | LifecycleEvent.DEACTIVATED:
            msg["is_deactivated"] = change.event is LifecycleEvent.DEACTIVATED
    return msg


def _outcome(side: BookSide) -> str:
    """The outcome that this side of the YES book buys."""
    return "yes" if side is BookSide.BID else "no"


def _action(fill: FillRecord) -> str:
    """Deprecated; a closing sale says "sell" with the opposite `side` (recorded 2026-05-08)."""
    return "sell" if fill.reduces else "buy"
