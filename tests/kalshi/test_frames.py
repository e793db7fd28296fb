"""Every documented frame is understood, and nothing that cannot be proved right gets through."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import WireError
from base.kalshi.frames import decode_frame, encode_command, parse_grid
from base.model.events import (
    BookDelta,
    BookSnapshot,
    ErrorReply,
    FillEvent,
    Ignored,
    Lifecycle,
    LifecycleKind,
    Ok,
    OrderUpdate,
    PositionUpdate,
    Subscribed,
    Ticker,
    Unsubscribed,
)
from base.model.market import BookSide, MarketStatus, OutcomeSide, PriceGrid, PriceRange
from base.model.order import OrderStatus
from base.model.position import Fill

TAPES = Path(__file__).parents[3] / "shared" / "tapes"


def encode(document: Any) -> bytes:
    return json.dumps(document).encode()


TICKER_MSG: dict[str, Any] = {
    "market_id": "9b0f6b43-5b68-4f9f-9f02-9a2d1b8ac1a1",
    "market_ticker": "FED-23DEC-T3.00",
    "price_dollars": "0.4800",
    "yes_bid_dollars": "0.4500",
    "yes_ask_dollars": "0.5300",
    "volume_fp": "33896.00",
    "open_interest_fp": "20422.00",
    "dollar_volume": 16948,
    "dollar_open_interest": 10211,
    "yes_bid_size_fp": "300.00",
    "yes_ask_size_fp": "150.00",
    "last_trade_size_fp": "25.00",
    "ts": 1669149841,
    "ts_ms": 1669149841000,
    "time": "2022-11-22T20:44:01Z",
}
DELTA_MSG: dict[str, Any] = {
    "market_ticker": "FED-23DEC-T3.00",
    "market_id": "9b0f6b43-5b68-4f9f-9f02-9a2d1b8ac1a1",
    "clock": 4182061,
    "price_dollars": "0.9600",
    "delta_fp": "-54.00",
    "side": "yes",
    "ts": "2022-11-22T20:44:01Z",
    "ts_ms": 1669149841000,
}
FILL_MSG: dict[str, Any] = {
    "trade_id": "d91bc706-ee49-470d-82d8-11418bda6fed",
    "order_id": "ee587a1c-8b87-4dcf-b721-9f6f790619fa",
    "client_order_id": "my-order-1",
    "market_ticker": "HIGHNY-22DEC23-B53.5",
    "exchange_index": 2,
    "is_taker": True,
    "side": "yes",
    "yes_price_dollars": "0.7500",
    "count_fp": "278.00",
    "fee_cost": "0.010000",
    "action": "buy",
    "ts": 1671899397,
    "ts_ms": 1671899397000,
    "post_position_fp": "500.00",
    "purchased_side": "yes",
    "outcome_side": "yes",
    "book_side": "bid",
    "subaccount": 3,
}
USER_ORDER_MSG: dict[str, Any] = {
    "order_id": "ee587a1c-8b87-4dcf-b721-9f6f790619fa",
    "user_id": "a1b2c3d4-e5f6-7890-abcd-ef1234567890",
    "ticker": "FED-23DEC-T3.00",
    "exchange_index": 2,
    "status": "executed",
    "side": "yes",
    "is_yes": True,
    "outcome_side": "no",
    "book_side": "ask",
    "yes_price_dollars": "0.3500",
    "fill_count_fp": "7.00",
    "remaining_count_fp": "3.00",
    "initial_count_fp": "10.00",
    "taker_fill_cost_dollars": "2.450000",
    "maker_fill_cost_dollars": "0.100000",
    "taker_fees_dollars": "0.120000",
    "maker_fees_dollars": "0.010000",
    "client_order_id": "my-order-1",
    "last_update_reason": "ReduceOnlyCancel",
    "created_time": "2024-12-01T10:00:00Z",
    "created_ts_ms": 1733047200000,
}

DOCUMENTED: list[Any] = [
    pytest.param(
        {"type": "ticker", "sending_ts_ms": 1669149841123, "sid": 11, "msg": TICKER_MSG},
        Ticker("FED-23DEC-T3.00", D("0.45"), D("0.53"), D(300), D(150), D("0.48"), 1669149841000, sid=11),
        id="ticker (AsyncAPI)",
    ),
    pytest.param(
        {
            "type": "ticker",
            "sid": 1,
            "msg": {
                "market_ticker": "KXXRP-26FEB1317-B1.3899500",
                "price": 14,
                "yes_bid": 4,
                "yes_ask": 95,
                "price_dollars": "0.1400",
                "yes_bid_dollars": "0.0400",
                "yes_ask_dollars": "0.9500",
                "volume": 13446,
                "yes_bid_size_fp": "14.00",
                "yes_ask_size_fp": "84.00",
                "ts": 1770897976,
                "Clock": 13281241747,
            },
        },
        Ticker(
            "KXXRP-26FEB1317-B1.3899500", D("0.04"), D("0.95"), D(14), D(84), D("0.14"), 1770897976000, sid=1
        ),
        id="ticker with cents and strings (recorded 2026-02)",
    ),
    pytest.param(
        {
            "type": "ticker",
            "sid": 6,
            "msg": {
                "market_ticker": "KXCRYPTOLEAD15M-26SEP210100-XRP",
                "price_dollars": "0.0100",
                "yes_bid_dollars": "0.0000",
                "yes_ask_dollars": "0.0100",
                "yes_bid_size_fp": "0.00",
                "yes_ask_size_fp": "78.00",
                "ts": 1789966800,
                "ts_ms": 1789966800000,
                "time": "2026-09-21T05:00:00Z",
            },
        },
        Ticker(
            "KXCRYPTOLEAD15M-26SEP210100-XRP", D(0), D("0.01"), D(0), D(78), D("0.01"), 1789966800000, sid=6
        ),
        id="ticker without a bid (recorded 2026-09)",
    ),
    pytest.param(
        {"type": "ticker", "data": {"market_ticker": "KXA", "yes_bid": 65, "yes_ask": 67}},
        Ticker("KXA", D("0.65"), D("0.67"), None, None, None, 0, sid=0),
        id="ticker of the older form, whole cents",
    ),
    pytest.param(
        {
            "type": "orderbook_snapshot",
            "sid": 2,
            "seq": 2,
            "msg": {
                "market_ticker": "FED-23DEC-T3.00",
                "clock": 4182057,
                "yes_dollars_fp": [["0.0800", "300.00"], ["0.2200", "333.00"]],
                "no_dollars_fp": [["0.5400", "20.00"], ["0.5600", "146.00"]],
            },
        },
        BookSnapshot(
            "FED-23DEC-T3.00",
            2,
            2,
            ((D("0.08"), D(300)), (D("0.22"), D(333))),
            ((D("0.54"), D(20)), (D("0.56"), D(146))),
        ),
        id="book snapshot (AsyncAPI)",
    ),
    pytest.param(
        {
            "type": "orderbook_snapshot",
            "sid": 2,
            "seq": 28039,
            "msg": {"market_ticker": "KXBTC15M-26MAY131145-45", "market_id": "8fbf73ce"},
        },
        BookSnapshot("KXBTC15M-26MAY131145-45", 2, 28039, (), ()),
        id="empty book after the close: both sides absent (recorded 2026-05-13)",
    ),
    pytest.param(
        {"type": "orderbook_delta", "sid": 2, "seq": 3, "msg": DELTA_MSG},
        BookDelta("FED-23DEC-T3.00", 2, 3, OutcomeSide.YES, D("0.96"), D(-54), 1669149841000),
        id="book delta (AsyncAPI)",
    ),
    pytest.param(
        {"type": "fill", "sending_ts_ms": 1671899397123, "sid": 13, "msg": FILL_MSG},
        FillEvent(
            Fill(
                "d91bc706-ee49-470d-82d8-11418bda6fed",
                "ee587a1c-8b87-4dcf-b721-9f6f790619fa",
                "HIGHNY-22DEC23-B53.5",
                BookSide.BID,
                D(278),
                D("0.75"),
                D("0.01"),
                1671899397000,
                "my-order-1",
                D(500),
                3,
                2,
            )
        ),
        id="fill (AsyncAPI)",
    ),
    pytest.param(
        {
            "type": "fill",
            "sid": 2,
            "msg": {
                "trade_id": "t",
                "order_id": "o",
                "market_ticker": "KXNEXTTEAMNBA-26LJAM-MIA",
                "is_taker": True,
                "side": "no",
                "ts": 1782873396,
                "ts_ms": 1782873396915,
                "yes_price_dollars": "0.1600",
                "count_fp": "1.16",
                "fee_cost": "0.011000",
                "action": "buy",
                "post_position_fp": "4.36",
                "purchased_side": "no",
                "outcome_side": "no",
                "book_side": "ask",
                "subaccount": 0,
            },
        },
        FillEvent(
            Fill(
                "t",
                "o",
                "KXNEXTTEAMNBA-26LJAM-MIA",
                BookSide.ASK,
                D("1.16"),
                D("0.16"),
                D("0.011"),
                1782873396915,
                post_position=D("4.36"),
            )
        ),
        id="closing fill: the side says no, the book side ask (recorded 2026-07)",
    ),
    pytest.param(
        {"type": "user_order", "sid": 22, "msg": USER_ORDER_MSG},
        OrderUpdate(
            "ee587a1c-8b87-4dcf-b721-9f6f790619fa",
            "my-order-1",
            "FED-23DEC-T3.00",
            BookSide.ASK,
            OrderStatus.EXECUTED,
            D(7),
            D(3),
            D(10),
            D("0.13"),
            D("2.55"),
            "ReduceOnlyCancel",
        ),
        id="user order (AsyncAPI)",
    ),
    pytest.param(
        {
            "type": "market_position",
            "sid": 14,
            "msg": {
                "user_id": "user123",
                "market_ticker": "FED-23DEC-T3.00",
                "position_fp": "-100.00",
                "position_cost_dollars": "50.0000",
                "realized_pnl_dollars": "-10.0000",
                "fees_paid_dollars": "1.0000",
                "position_fee_cost_dollars": "0.5000",
                "volume_fp": "15.00",
            },
        },
        PositionUpdate("FED-23DEC-T3.00", D(-100), D(50), D(-10), D(1)),
        id="market position, NO held (AsyncAPI)",
    ),
    pytest.param(
        {
            "type": "market_lifecycle_v2",
            "sid": 13,
            "seq": 3,
            "msg": {
                "market_ticker": "INXD-23SEP14-B4487",
                "event_type": "created",
                "open_ts": 1694635200,
                "close_ts": 1694721600,
                "price_level_structure": "linear_cent",
                "additional_metadata": {"name": "S&P 500", "can_close_early": True},
            },
        },
        Lifecycle("INXD-23SEP14-B4487", LifecycleKind.CREATED, 13, 3, close_time=1694721600.0),
        id="market created (AsyncAPI)",
    ),
    pytest.param(
        {
            "type": "market_lifecycle_v2",
            "sid": 13,
            "seq": 4,
            "msg": {
                "market_ticker": "INXD-23SEP14-B4487",
                "event_type": "price_level_structure_updated",
                "price_level_structure": "deci_cent",
                "price_ranges": [{"start": "0.0000", "end": "1.0000", "step": "0.0010"}],
            },
        },
        Lifecycle(
            "INXD-23SEP14-B4487",
            LifecycleKind.PRICE_LEVEL_STRUCTURE_UPDATED,
            13,
            4,
            grid=PriceGrid((PriceRange(D(0), D(1), D("0.001")),)),
        ),
        id="price grid changed (AsyncAPI)",
    ),
    pytest.param(
        {
            "type": "market_lifecycle_v2",
            "sid": 13,
            "seq": 5,
            "msg": {"market_ticker": "KXA", "event_type": "deactivated", "is_deactivated": True},
        },
        Lifecycle("KXA", LifecycleKind.DEACTIVATED, 13, 5, status=MarketStatus.INACTIVE),
        id="market paused",
    ),
    pytest.param(
        {
            "type": "market_lifecycle_v2",
            "sid": 13,
            "seq": 6,
            "msg": {
                "market_ticker": "KXA",
                "event_type": "determined",
                "determination_ts": 1694721600,
                "result": "yes",
                "settlement_value": "1.0000",
            },
        },
        Lifecycle("KXA", LifecycleKind.DETERMINED, 13, 6, status=MarketStatus.DETERMINED, result="yes"),
        id="market determined",
    ),
    pytest.param(
        {
            "type": "market_lifecycle_v2",
            "sid": 13,
            "seq": 7,
            "msg": {"market_ticker": "KXA", "event_type": "deactivated", "close_ts": None, "result": None},
        },
        Lifecycle("KXA", LifecycleKind.DEACTIVATED, 13, 7, status=MarketStatus.INACTIVE),
        id="a pause is not lost to a null beside it",
    ),
    pytest.param(
        {
            "type": "market_lifecycle_v2",
            "sid": 13,
            "seq": 8,
            "msg": {"market_ticker": "KXA", "event_type": "renamed"},
        },
        Lifecycle("KXA", LifecycleKind.OTHER, 13, 8),
        id="a lifecycle event that is not documented yet",
    ),
    pytest.param(
        {"id": 1, "type": "subscribed", "msg": {"channel": "orderbook_delta", "sid": 1}},
        Subscribed(1, "orderbook_delta", 1),
        id="subscribed (AsyncAPI)",
    ),
    pytest.param(
        {"id": 102, "sid": 2, "seq": 7, "type": "unsubscribed"}, Unsubscribed(102, 2, 7), id="unsubscribed"
    ),
    pytest.param(
        {"id": 123, "sid": 456, "seq": 222, "type": "ok", "msg": {"market_tickers": ["M-1", "M-2"]}},
        Ok(123, 456, 222, ("M-1", "M-2")),
        id="ok of an update (AsyncAPI)",
    ),
    pytest.param(
        {"id": 3, "type": "ok", "msg": [{"channel": "ticker", "sid": 2}]},
        Ok(3, None, None, None),
        id="ok of list_subscriptions: an array",
    ),
    pytest.param({"id": 4, "type": "ok", "sid": 2}, Ok(4, 2, None, None), id="ok without ticker list"),
    pytest.param(
        {"type": "error", "id": 1, "msg": {"code": 8, "msg": "Unknown channel name"}},
        ErrorReply(1, 8, "Unknown channel name", None, None),
        id="error 8 (recorded)",
    ),
    pytest.param(
        {"type": "error", "sid": 6, "seq": 9, "msg": {"code": 25, "msg": "Subscription buffer overflow"}},
        ErrorReply(0, 25, "Subscription buffer overflow", 6, 9),
        id="error of a subscription",
    ),
    pytest.param(
        {"type": "error", "id": 2, "msg": {"code": 16, "msg": "Market not found", "market_ticker": "KXA"}},
        ErrorReply(2, 16, "Market not found", None, None, ("KXA",)),
        id="error that names a market",
    ),
    pytest.param(
        {"type": "trade", "sid": 11, "seq": 2, "msg": {"trade_id": "d91bc706", "count_fp": "136.00"}},
        Ignored("trade", 11, 2),
        id="trade: not used, its number still counts",
    ),
    pytest.param(
        {"type": "event_fee_update", "sid": 13, "seq": 9}, Ignored("event_fee_update", 13, 9), id="new type"
    ),
]


@pytest.mark.parametrize(("document", "event"), DOCUMENTED)
def test_documented_and_recorded_frames_are_understood(document: Any, event: Any) -> None:
    assert decode_frame(encode(document)) == event
    assert decode_frame(json.dumps(document) + "\n") == event, "frames may end in a line feed"


def test_prices_and_counts_are_exact() -> None:
    tick = decode_frame(encode({"type": "ticker", "sid": 1, "msg": TICKER_MSG}))
    assert isinstance(tick, Ticker)
    assert {type(v) for v in (tick.yes_bid, tick.yes_ask, tick.yes_bid_size, tick.last_price)} == {D}


@pytest.mark.parametrize(
    "losing",
    [
        pytest.param({"yes_bid": 44, "yes_ask": 54, "price": 1}, id="rounded cents"),
        pytest.param({"yes_bid": 44.5, "yes_ask": "53.5"}, id="fractional cents"),
        pytest.param({"yes_bid": None, "price": -1}, id="null and negative cents"),
        pytest.param({"ts": "2022-11-22T20:44:01Z"}, id="deprecated time as text, as deltas have it"),
        pytest.param({"new_field": {"deep": [1.5, None]}}, id="a field added last month"),
    ],
)
def test_the_strings_win_whatever_stands_beside_them(losing: dict[str, Any]) -> None:
    tick = decode_frame(encode({"type": "ticker", "sid": 1, "msg": TICKER_MSG | losing}))
    assert isinstance(tick, Ticker)
    assert (tick.yes_bid, tick.yes_ask, tick.last_price) == (D("0.45"), D("0.53"), D("0.48"))
    assert tick.ts_ms == 1669149841000


def without(msg: dict[str, Any], *names: str) -> dict[str, Any]:
    return {k: v for k, v in msg.items() if k not in names}


BAD_PRICES = [
    "1.0100", "-0.0100", "NaN", "Infinity", "1e-1", "٠.٤٥", "0_4", "", " 0.45", "0.45\n",
    0.45, 45, True, None, [], {}, ["0.45"],
]  # fmt: skip
MALFORMED: list[Any] = [
    *(
        pytest.param("ticker", TICKER_MSG | {name: bad}, id=f"ticker {name} {bad!r}")
        for name in ("yes_bid_dollars", "yes_ask_dollars")
        for bad in BAD_PRICES
    ),
    *(
        pytest.param("ticker", TICKER_MSG | {"yes_bid_size_fp": bad}, id=f"ticker size {bad!r}")
        for bad in ("-1.00", "NaN", 100, 1.5, True, "1e9")
    ),
    *(
        pytest.param(
            "ticker", {"market_ticker": "KXA", "yes_bid": bad, "yes_ask": 67}, id=f"ticker cents {bad!r}"
        )
        for bad in (101, -1, 65.0, 0.65, 1.0, True, "65", None, [65])
    ),
    pytest.param("ticker", without(TICKER_MSG, "yes_bid_dollars"), id="ticker without bid"),
    pytest.param("ticker", without(TICKER_MSG, "yes_ask_dollars"), id="ticker without ask"),
    pytest.param("ticker", without(TICKER_MSG, "market_ticker"), id="ticker without market"),
    pytest.param("ticker", TICKER_MSG | {"market_ticker": "../x"}, id="ticker of a path"),
    pytest.param("ticker", TICKER_MSG | {"ts_ms": "1669149841000"}, id="ticker time as text"),
    *(
        pytest.param("orderbook_delta", DELTA_MSG | change, id=f"delta {change}")
        for change in (
            {"price_dollars": "1.5000"},
            {"price_dollars": 0.96},
            {"delta_fp": "many"},
            {"delta_fp": -54},
            {"delta_fp": "NaN"},
            {"side": "maybe"},
            {"side": True},
        )
    ),
    pytest.param("orderbook_delta", without(DELTA_MSG, "delta_fp"), id="delta without change"),
    *(
        pytest.param(
            "orderbook_snapshot", {"market_ticker": "KXA", "yes_dollars_fp": levels}, id=f"levels {levels}"
        )
        for levels in (
            [["0.4500"]],
            [["0.4500", "1.00", "x"]],
            [[0.45, 1]],
            [["0.4500", "-1.00"]],
            [["1.4500", "1.00"]],
            {"0.4500": "1.00"},
            "0.4500",
            None,
        )
    ),
    pytest.param("fill", without(FILL_MSG, "count_fp"), id="fill without count"),
    pytest.param("fill", FILL_MSG | {"count_fp": "-1.00"}, id="fill of a negative count"),
    pytest.param("fill", FILL_MSG | {"yes_price_dollars": "75"}, id="fill in cents"),
    pytest.param("fill", FILL_MSG | {"book_side": "long"}, id="fill of an unknown side"),
    pytest.param(
        "fill", without(FILL_MSG, "book_side", "outcome_side", "side"), id="fill that tells no side"
    ),
    pytest.param("fill", FILL_MSG | {"post_position_fp": "flat"}, id="fill with a bad position"),
    pytest.param("user_order", without(USER_ORDER_MSG, "order_id"), id="order without id"),
    pytest.param(
        "user_order",
        without(USER_ORDER_MSG, "book_side", "outcome_side"),
        id="an order that does not tell its side is not guessed to be a bid",
    ),
    pytest.param("user_order", USER_ORDER_MSG | {"fill_count_fp": "all"}, id="order with a bad count"),
    pytest.param("market_position", {"market_ticker": "KXA", "position_fp": 100}, id="position as a number"),
    pytest.param("market_position", {"market_ticker": "KXA"}, id="position without count"),
    pytest.param("market_lifecycle_v2", {"market_ticker": "KXA"}, id="lifecycle without event"),
    pytest.param(
        "market_lifecycle_v2",
        {
            "market_ticker": "KXA",
            "event_type": "price_level_structure_updated",
            "price_ranges": [{"start": "0.0000", "end": "1.0000", "step": "0.0000"}],
        },
        id="grid without steps",
    ),
    pytest.param("subscribed", {"channel": "ticker"}, id="acknowledgement without sid"),
    pytest.param("error", {"msg": "no code"}, id="error without code"),
    pytest.param("error", {"code": "8"}, id="error code as text"),
]


@pytest.mark.parametrize(("kind", "msg"), MALFORMED)
def test_what_cannot_be_proved_right_is_refused(kind: str, msg: Any) -> None:
    with pytest.raises(WireError):
        decode_frame(encode({"type": kind, "sid": 1, "seq": 1, "msg": msg}))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b'"ticker"',
        b"42",
        b"{",
        b"{}",
        b'{"type":null}',
        b'{"type":"ticker"}',
        b'{"type":"ticker","msg":null}',
        b'{"type":"ticker","msg":[]}',
        b'{"type":"ticker","sid":"1","msg":{}}',
        b'{"type":"ticker","sid":1.5,"msg":{}}',
        b'{"type":"ticker","msg":{"market_ticker":"A","yes_bid_dollars":NaN,"yes_ask_dollars":"0.5"}}',
        b'{"type":"ticker","msg":{"market_ticker":"A","yes_bid_dollars":"\xff","yes_ask_dollars":"0.5"}}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"type":"x","msg":' + b"[" * 100_000,
        "\ud800",
    ],
    ids=repr,
)
def test_what_is_no_frame_is_refused(text: bytes | str) -> None:
    with pytest.raises(WireError):
        decode_frame(text)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["0.45", "1.01", "-1.00", "NaN", "yes", "bid", "KXA", "٠.٤٥", "9" * 40]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KNOWN: list[dict[str, Any]] = [p.values[0] for p in DOCUMENTED]


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_wire_errors(data: bytes) -> None:
    decode_or_refuse(data)


@given(JSON)
def test_arbitrary_json_raises_nothing_but_wire_errors(document: Any) -> None:
    decode_or_refuse(encode(document))


@given(st.data())
@settings(max_examples=300)
def test_spoiled_frames_are_refused_or_hold_prices(data: st.DataObject) -> None:
    document = json.loads(encode(data.draw(st.sampled_from(KNOWN))))
    body = next((document[k] for k in ("msg", "data") if isinstance(document.get(k), dict)), document)
    target = data.draw(st.sampled_from([document, body]))
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(JSON)
    decode_or_refuse(encode(document))


def decode_or_refuse(text: bytes) -> None:
    try:
        event = decode_frame(text)
    except WireError:
        return
    if isinstance(event, Ticker):
        for price in (event.yes_bid, event.yes_ask):
            assert type(price) is D
            assert 0 <= price <= 1


def test_commands_are_json_with_their_id() -> None:
    text = encode_command(1, "subscribe", {"channels": ["ticker"], "market_tickers": ["KXA"]})
    assert json.loads(text) == {
        "id": 1,
        "cmd": "subscribe",
        "params": {"channels": ["ticker"], "market_tickers": ["KXA"]},
    }


def test_a_grid_is_sorted_and_none_without_ranges() -> None:
    assert parse_grid([]) is None
    grid = parse_grid([("0.1000", "1.0000", "0.0100"), ("0.0000", "0.1000", "0.0010")])
    assert grid is not None
    assert [r.step for r in grid.ranges] == [D("0.001"), D("0.01")]


@pytest.mark.skipif(not TAPES.is_dir(), reason="the recorded tapes are not here")
@pytest.mark.parametrize(
    "name", ["demo5_20260701_5min_raw", "kxbtc_hourly8_20260418_60s_raw", "sports12_20260807_60s_raw"]
)
def test_every_frame_of_the_recorded_tapes_is_understood(name: str) -> None:
    with gzip.open(TAPES / f"{name}.jsonl.gz", "rb") as lines:
        kinds = {type(decode_frame(line)) for line in lines if b'"type"' in line}
    assert {BookSnapshot, Subscribed} <= kinds
    assert Ignored not in kinds


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param(
            {"side": "no", "action": "sell"}, BookSide.ASK, id="yes sold, reported as no in 2026-05"
        ),
        pytest.param({"side": "yes", "action": "sell"}, BookSide.BID, id="no sold, reported as yes"),
        pytest.param({"side": "yes", "action": "buy"}, BookSide.BID, id="yes bought"),
        pytest.param({"side": "yes", "outcome_side": "no"}, BookSide.ASK, id="outcome_side wins over side"),
    ],
)
def test_an_older_fill_is_read_by_the_side_it_moves_to(fields: dict[str, str], expected: BookSide) -> None:
    msg = without(FILL_MSG, "book_side", "outcome_side", "side", "action") | fields
    event = decode_frame(json.dumps({"type": "fill", "sid": 1, "msg": msg}))
    assert isinstance(event, FillEvent)
    assert event.fill.book_side is expected
