"""Markets, positions, orders and fills from what the exchange was recorded to send."""

from __future__ import annotations

import json
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.errors import WireError
from base.kalshi.documents import (
    PositionRow,
    UnreadableRow,
    parse_fill_page,
    parse_market,
    parse_market_page,
    parse_order,
    parse_order_page,
    parse_position_page,
    to_position,
)
from base.model.market import BookSide, MarketStatus, OutcomeSide, PriceSource
from base.model.order import OrderStatus

from .bodies import FILL, MARKET, ORDER, POSITION, TICKER, but

RECORDED = Path(__file__).parents[3] / "shared" / "recorded"


def page(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def market(**changes: Any):
    return parse_market(but(MARKET, **changes), sent_monotonic=7.5, sent_at=1_790_000_000.0)


def position_rows(*rows: dict[str, Any]):
    return parse_position_page(page(market_positions=list(rows), event_positions=[], cursor=""))[0]


# --- markets


def test_market_document_becomes_market_and_quote() -> None:
    snapshot = market()

    assert snapshot.market.ticker == TICKER
    assert snapshot.market.status is MarketStatus.ACTIVE
    assert snapshot.market.close_time == 1_782_403_200
    assert snapshot.market.exchange_index == 3
    assert snapshot.market.event_ticker == "KXWTACHALLENGERMATCH-26JUN11JIMLEP"
    assert snapshot.market.grid.floor(D("0.479")) == D("0.47")
    quote = snapshot.quote
    assert (quote.yes_bid, quote.yes_ask) == (D("0.47"), D("0.52"))
    assert (quote.yes_bid_size, quote.yes_ask_size) == (D("263.5"), D("3"))
    assert quote.last_price == D("0.99")
    assert (quote.received_monotonic, quote.received_at) == (7.5, 1_790_000_000.0)
    assert quote.source is PriceSource.REST
    assert quote.ts_ms == 0


@pytest.mark.parametrize("status", [s.value for s in MarketStatus if s is not MarketStatus.UNKNOWN])
def test_every_documented_status_is_known(status: str) -> None:
    assert market(status=status).market.status.value == status


def test_status_added_later_is_unknown() -> None:
    assert market(status="quarantined").market.status is MarketStatus.UNKNOWN


def test_absent_sizes_are_unknown_not_zero() -> None:
    quote = market(yes_bid_size_fp=..., yes_ask_size_fp=None, last_price_dollars=...).quote

    assert (quote.yes_bid_size, quote.yes_ask_size, quote.last_price) == (None, None, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"yes_bid_dollars": ...},
        {"yes_ask_dollars": ...},
        {"yes_bid_dollars": None},
        {"yes_bid_dollars": ""},
        {"yes_bid_dollars": 0.47},
        {"yes_bid_dollars": 47},
        {"yes_bid_dollars": "NaN"},
        {"yes_bid_dollars": "1.0001"},
        {"yes_ask_dollars": "-0.1"},
        {"yes_ask_size_fp": "-3.00"},
        {"yes_ask_size_fp": "1e3"},
        {"last_price_dollars": 0.99},
    ],
    ids=str,
)
def test_a_document_that_proves_no_price_still_tells_its_market(changes: dict[str, Any]) -> None:
    snapshot = market(**changes)
    assert snapshot.quote is None
    assert snapshot.why_no_quote
    assert snapshot.market == market().market
    assert snapshot.asked_at == 7.5, "an answer from before a pause does not undo it"


@pytest.mark.parametrize(
    "changes",
    [{"ticker": "../orders"}, {"ticker": ...}, {"status": ...}, {"status": 1}, {"close_time": "soon"}],
    ids=str,
)
def test_a_document_that_does_not_prove_its_market_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        market(**changes)


def test_tapered_grid_comes_from_its_ranges() -> None:
    grid = market(
        price_ranges=[
            {"start": "0.1000", "end": "0.9000", "step": "0.0100"},
            {"start": "0.0000", "end": "0.1000", "step": "0.0010"},
            {"start": "0.9000", "end": "1.0000", "step": "0.0010"},
        ]
    ).market.grid

    assert grid.lowest == D("0.001")
    assert grid.floor(D("0.4567")) == D("0.45")


@pytest.mark.parametrize(
    "ranges",
    [
        None,
        [],
        [{"start": "0.0000", "end": "1.0000", "step": "0"}],
        [{"start": "1", "end": "0", "step": "0.01"}],
    ],
)
def test_senseless_grid_falls_back_to_whole_cents(ranges: Any) -> None:
    assert market(price_ranges=ranges).market.grid.lowest == D("0.01")


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.3500", D("0.35")), ("1.0000", D(1)), ("0.0000", D(0)), (None, None), (..., None), ("", None)],
    ids=["in between", "yes", "no", "null", "absent", "empty"],
)
def test_what_a_market_pays_is_told_with_its_result(text: Any, value: D | None) -> None:
    ended = market(status="finalized", result="scalar", settlement_value_dollars=text).market
    assert (ended.result, ended.settlement_value) == ("scalar", value)


@pytest.mark.parametrize("text", ["1.5000", "-0.1", "n/a"])
def test_a_payment_that_makes_no_sense_is_not_known_and_costs_no_price(text: str) -> None:
    snapshot = market(settlement_value_dollars=text)
    assert snapshot.market.settlement_value is None
    assert snapshot.quote.yes_bid == D("0.47")


def test_one_bad_market_costs_no_other_its_price() -> None:
    body = page(
        markets=[
            but(MARKET, ticker="A", yes_bid_dollars=...),
            but(MARKET, ticker="B"),
            but(MARKET, ticker=5),
        ],
        cursor="next",
    )
    result = parse_market_page(body, sent_monotonic=1, sent_at=2)

    assert [(s.market.ticker, s.quote is not None) for s in result.snapshots] == [("A", False), ("B", True)]
    assert len(result.unusable) == 2
    assert result.unusable[0].startswith("A: ")
    assert (result.cursor, result.rows) == ("next", 3)


@pytest.mark.parametrize(
    "body", [b"{}", b'{"markets": null}', b'{"markets": {}}', b'{"error": {"code": "x"}}']
)
def test_page_without_markets_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        parse_market_page(body, sent_monotonic=1, sent_at=2)


# --- positions


def test_long_and_short_rows() -> None:
    long, short, flat = position_rows(
        POSITION,
        but(POSITION, ticker="B", position_fp="-1.00", market_exposure_dollars="0.520000", exchange_index=2),
        but(POSITION, ticker="C", position_fp="0.00", market_exposure_dollars="0.000000"),
    )

    held = to_position(long)
    assert held is not None
    assert (held.outcome_side, held.count) == (OutcomeSide.YES, 3)
    assert held.entry_price == D("0.833333")
    assert held.fees_paid == D("0.0189")
    held = to_position(short)
    assert held is not None
    assert (held.outcome_side, held.count, held.entry_price) == (OutcomeSide.NO, 1, D("0.52"))
    assert held.exchange_index == 2
    assert to_position(flat) is None


@given(cents=st.integers(0, 10_000), count=st.integers(100, 1_000_000), sign=st.sampled_from([1, -1]))
def test_entry_times_count_is_the_exposure(cents: int, count: int, sign: int) -> None:
    size = D(count) / 100
    exposure = (size * D(cents) / 10_000).quantize(D("0.000001"))
    (row,) = position_rows(
        but(POSITION, position_fp=f"{size * sign:.2f}", market_exposure_dollars=f"{exposure:.6f}")
    )
    held = to_position(row)

    assert held is not None
    assert held.signed_count == size * sign
    assert abs(held.entry_price * held.count - exposure) <= held.count * D("0.0000005")


@pytest.mark.parametrize(
    "changes",
    [
        {"position_fp": ...},
        {"position_fp": 3},
        {"position_fp": "three"},
        {"market_exposure_dollars": ...},
        {"market_exposure_dollars": "-2.50"},
        {"market_exposure_dollars": "3.01"},
        {"market_exposure_dollars": "NaN"},
        {"ticker": ...},
    ],
    ids=str,
)
def test_a_bad_row_is_told_and_costs_the_others_nothing(changes: dict[str, Any]) -> None:
    good, bad = position_rows(POSITION, but(POSITION, **changes))
    assert isinstance(good, PositionRow)
    assert isinstance(bad, UnreadableRow)
    assert bad.ticker == ("" if "ticker" in changes else POSITION["ticker"])
    assert bad.why


@pytest.mark.parametrize(
    "changes",
    [
        {"fees_paid_dollars": ...},
        {"fees_paid_dollars": None},
        {"fees_paid_dollars": 1},
        {"fees_paid_dollars": "none"},
        {"realized_pnl_dollars": ...},
        {"last_updated_ts": "never"},
        {"last_updated_ts": 5},
    ],
    ids=str,
)
def test_what_no_stop_needs_costs_no_position_its_stop(changes: dict[str, Any]) -> None:
    (row,) = position_rows(but(POSITION, **changes))
    assert isinstance(row, PositionRow)
    held = to_position(row)
    assert held is not None
    assert (held.count, held.entry_price) == (3, D("0.833333"))
    assert held.fees_paid == (0 if "fees_paid_dollars" in changes else D("0.0189"))


@pytest.mark.parametrize(
    "body", [b"{}", b'{"market_positions": null}', b'{"event_positions": []}', b'{"positions": []}']
)
def test_page_without_positions_does_not_mean_flat(body: bytes) -> None:
    with pytest.raises(WireError):
        parse_position_page(body)


# --- orders


def test_order_document() -> None:
    order = parse_order(page(order=ORDER))

    assert order.order_id == ORDER["order_id"]
    assert order.client_order_id == ORDER["client_order_id"]
    assert order.book_side is BookSide.BID
    assert order.status is OrderStatus.EXECUTED
    assert order.price == D("0.99")
    assert (order.initial_count, order.fill_count, order.remaining_count) == (1, 1, 0)
    assert (order.fill_cost, order.fees) == (D("0.52"), D("0.0175"))
    assert order.created_ts_ms == 1_781_159_360_867


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"book_side": "ask", "outcome_side": "no"}, BookSide.ASK),
        ({"book_side": ..., "outcome_side": "no"}, BookSide.ASK),
        ({"book_side": "ask", "outcome_side": ..., "action": "buy", "side": "yes"}, BookSide.ASK),
        ({"book_side": ..., "outcome_side": ..., "action": "buy", "side": "yes"}, BookSide.BID),
        ({"book_side": ..., "outcome_side": ..., "action": "buy", "side": "no"}, BookSide.ASK),
        ({"book_side": "ask", "outcome_side": "yes"}, None),
        ({"book_side": "sideways"}, None),
        ({"book_side": ..., "outcome_side": ..., "action": "sell", "side": "yes"}, None),
        ({"book_side": ..., "outcome_side": ..., "action": ..., "side": ...}, None),
    ],
    ids=str,
)
def test_direction_of_an_order(fields: dict[str, Any], expected: BookSide | None) -> None:
    body = page(order=but(ORDER, **fields))
    if expected is None:
        with pytest.raises(WireError):
            parse_order(body)
    else:
        assert parse_order(body).book_side is expected


def test_status_of_an_order_added_later_is_unknown() -> None:
    assert parse_order(page(order=but(ORDER, status="hibernating"))).status is OrderStatus.UNKNOWN


@pytest.mark.parametrize(
    "name", ["order_id", "ticker", "status", "fill_count_fp", "initial_count_fp", "taker_fees_dollars"]
)
def test_order_without_a_required_field_is_refused(name: str) -> None:
    with pytest.raises(WireError):
        parse_order_page(page(orders=[but(ORDER, **{name: ...})], cursor=""))


# --- fills


def test_fill_document() -> None:
    (fill,), cursor = parse_fill_page(page(fills=[but(FILL, exchange_index=2)], cursor="more"))

    assert cursor == "more"
    assert (fill.trade_id, fill.order_id, fill.ticker) == (FILL["trade_id"], FILL["order_id"], TICKER)
    assert (fill.book_side, fill.count, fill.yes_price, fill.fee) == (BookSide.BID, 1, D("0.52"), D("0.0175"))
    assert fill.ts_ms == 1_781_159_370_165
    assert fill.exchange_index == 2


@pytest.mark.parametrize(
    ("action", "side", "expected"),
    [
        ("buy", "yes", BookSide.BID),
        ("buy", "no", BookSide.ASK),
        ("sell", "no", BookSide.ASK),  # a YES bought at 0.77, closed at 0.06 (recorded 2026-05-08)
        ("sell", "yes", BookSide.BID),  # a NO closed (recorded 2026-05-07)
    ],
)
def test_old_fill_moves_to_its_side_also_on_sales(action: str, side: str, expected: BookSide) -> None:
    old = but(FILL, book_side=..., outcome_side=..., action=action, side=side)

    assert parse_fill_page(page(fills=[old]))[0][0].book_side is expected


def test_fill_side_is_not_read_when_the_new_fields_are_there() -> None:
    fill = but(FILL, book_side="ask", outcome_side="no", action="sell", side="yes")

    assert parse_fill_page(page(fills=[fill]))[0][0].book_side is BookSide.ASK


@pytest.mark.parametrize(
    "changes",
    [
        {"trade_id": ..., "fill_id": ...},
        {"count_fp": "-1.00"},
        {"yes_price_dollars": ...},
        {"book_side": ..., "outcome_side": ..., "side": ...},
        {"ticker": ..., "market_ticker": ...},
    ],
    ids=str,
)
def test_fill_that_cannot_be_proved_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        parse_fill_page(page(fills=[but(FILL, **changes)]))


# --- recordings


@pytest.mark.skipif(
    not RECORDED.exists(), reason="the recordings are reference data, not part of the project"
)
def test_every_recorded_document_is_understood() -> None:
    recorded = json.loads((RECORDED / "responses.json").read_text())
    understood = 0
    for name, entry in recorded.items():
        body = json.dumps(entry["response"]).encode()
        if entry["status"] != 200:
            continue
        if "markets" in entry["response"]:
            result = parse_market_page(body, sent_monotonic=1, sent_at=2)
            assert result.unusable == (), name
            assert len(result.snapshots) == result.rows
        elif "market_positions" in entry["response"]:
            assert parse_position_page(body)[0], name
        elif "fills" in entry["response"]:
            assert parse_fill_page(body)[0], name
        elif "order" in entry["response"]:
            assert parse_order(body).order_id, name
        elif "orders" in entry["response"]:
            assert parse_order_page(body)[0], name
        else:
            continue
        understood += 1
    assert understood >= 15
