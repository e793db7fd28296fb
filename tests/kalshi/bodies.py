"""REST bodies in the shapes that the exchange was recorded to send (demo and production, 2026)."""

from __future__ import annotations

import copy
from typing import Any

TICKER = "KXWTACHALLENGERMATCH-26JUN11JIMLEP-LEP"

MARKET: dict[str, Any] = {
    "can_close_early": True,
    "close_time": "2026-06-25T16:00:00Z",
    "created_time": "2026-06-11T05:12:22.338653Z",
    "event_ticker": "KXWTACHALLENGERMATCH-26JUN11JIMLEP",
    "exchange_index": 3,
    "last_price_dollars": "0.9900",
    "no_ask_dollars": "0.5300",
    "no_bid_dollars": "0.4800",
    "open_time": "2026-06-11T05:39:29Z",
    "price_level_structure": "linear_cent",
    "price_ranges": [{"end": "1.0000", "start": "0.0000", "step": "0.0100"}],
    "floor_strike": 91.89,
    "result": "",
    "status": "active",
    "ticker": TICKER,
    "title": "Will Varvara Lepchenko win?",
    "updated_time": "2026-06-11T05:39:31.28563Z",
    "yes_ask_dollars": "0.5200",
    "yes_ask_size_fp": "3.00",
    "yes_bid_dollars": "0.4700",
    "yes_bid_size_fp": "263.50",
}

POSITION: dict[str, Any] = {
    "fees_paid_dollars": "0.018900",
    "last_updated_ts": "2026-06-11T06:29:30.165032Z",
    "market_exposure_dollars": "2.500000",
    "position_fp": "3.00",
    "realized_pnl_dollars": "0.000000",
    "resting_orders_count": 0,
    "ticker": TICKER,
    "total_traded_dollars": "2.500000",
}

ORDER: dict[str, Any] = {
    "action": "buy",
    "book_side": "bid",
    "client_order_id": "2b8394e0-515e-4b89-b624-f34067756855",
    "created_time": "2026-06-11T06:29:20.866753Z",
    "fill_count_fp": "1.00",
    "initial_count_fp": "1.00",
    "maker_fees_dollars": "0.000000",
    "maker_fill_cost_dollars": "0.000000",
    "no_price_dollars": "0.0100",
    "order_id": "97ec18b7-10d3-4557-9de0-8598aad625f0",
    "outcome_side": "yes",
    "remaining_count_fp": "0.00",
    "side": "yes",
    "status": "executed",
    "taker_fees_dollars": "0.017500",
    "taker_fill_cost_dollars": "0.520000",
    "ticker": TICKER,
    "yes_price_dollars": "0.9900",
}

FILL: dict[str, Any] = {
    "action": "buy",
    "book_side": "bid",
    "count_fp": "1.00",
    "created_time": "2026-06-11T06:29:30.164956Z",
    "fee_cost": "0.017500",
    "fill_id": "f4a42159-b500-57c6-efa2-c31d94d916c1",
    "is_taker": True,
    "market_ticker": TICKER,
    "no_price_dollars": "0.4800",
    "order_id": "97ec18b7-10d3-4557-9de0-8598aad625f0",
    "outcome_side": "yes",
    "side": "yes",
    "subaccount_number": 0,
    "ticker": TICKER,
    "trade_id": "f4a42159-b500-57c6-efa2-c31d94d916c1",
    "ts": 1781159370,
    "yes_price_dollars": "0.5200",
}

SETTLEMENT: dict[str, Any] = {
    "event_ticker": "KXTRUMPSAY-26AUG",
    "fee_cost": "0.026900",
    "market_result": "yes",
    "no_count_fp": "0.00",
    "no_total_cost_dollars": "0.000000",
    "revenue": 1000,
    "settled_time": "2026-08-17T14:00:00Z",
    "ticker": "KXTRUMPSAY-26AUG-A",
    "value": 100,
    "yes_count_fp": "10.00",
    "yes_total_cost_dollars": "0.400000",
}

LIMITS: dict[str, Any] = {
    "grants": [],
    "read": {"bucket_capacity": 400, "refill_rate": 200},
    "usage_tier": "basic",
    "write": {"bucket_capacity": 100, "refill_rate": 100},
}

EXPIRED = {"error": {"code": "header_timestamp_expired", "message": "header timestamp expired"}}
BAD_SIGNATURE = {
    "error": {
        "code": "authentication_error",
        "message": "authentication_error",
        "details": "INCORRECT_API_KEY_SIGNATURE",
    }
}
NOT_FOUND = {"error": {"code": "not_found", "message": "not found"}}
TOO_MANY = {"error": "too many requests"}
DUPLICATE = {"error": {"code": "order_already_exists", "message": "order already exists"}}
HTML = b"<html><head><title>502 Bad Gateway</title></head></html>"


def but(document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy with some fields changed; `...` removes one."""
    result = copy.deepcopy(document) | changes
    return {name: value for name, value in result.items() if value is not ...}
