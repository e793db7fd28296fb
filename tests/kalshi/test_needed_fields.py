"""Recorded answers have all that is needed; each way of losing a field is found, and only that one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from base.errors import WireError
from base.kalshi.documents import MarketPage, UnreadableRow, parse_market_page, parse_position_page
from base.kalshi.frames import decode_frame
from base.kalshi.needed_fields import (
    NEEDED,
    Examination,
    Form,
    NeededField,
    Source,
    examine_markets,
    examine_positions,
    examine_ticker,
)
from tests.fakes.stream_server import ticker
from tests.kalshi.bodies import MARKET, POSITION, but

TICKER: dict[str, Any] = ticker("KXA-1")["msg"]
CENTS = {"market_ticker": "KXA-1", "yes_bid": 65, "yes_ask": 67}
ROWS = {Source.MARKET: MARKET, Source.POSITION: POSITION, Source.TICKER: TICKER}


def examine(source: Source, row: Mapping[str, Any]) -> Examination:
    if source is Source.MARKET:
        return examine_markets({"markets": [row], "cursor": ""})
    if source is Source.POSITION:
        return examine_positions({"market_positions": [row], "cursor": ""})
    return examine_ticker(json.dumps({"type": "ticker", "sid": 1, "msg": row}).encode())


def lost(found: Examination) -> list[str]:
    return [drift.field for drift in found.drifts]


def is_decoded(source: Source, row: Mapping[str, Any]) -> bool:
    """Whether the program's own decoder takes the row."""
    if source is Source.MARKET:
        body = json.dumps({"markets": [row], "cursor": ""}).encode()
        page: MarketPage = parse_market_page(body, sent_monotonic=0.0, sent_at=0.0)
        return page.unusable == ()
    if source is Source.POSITION:
        (read,), _ = parse_position_page(json.dumps({"market_positions": [row], "cursor": ""}).encode())
        return not isinstance(read, UnreadableRow)
    try:
        decode_frame(json.dumps({"type": "ticker", "sid": 1, "msg": row}))
    except WireError:
        return False
    return True


@pytest.mark.parametrize("source", Source)
def test_recorded_answers_have_all_that_is_needed(source: Source) -> None:
    found = examine(source, ROWS[source])
    assert found.rows == 1
    assert found.drifts == ()
    assert found.news == ()


@pytest.mark.parametrize("field", NEEDED, ids=lambda f: f"{f.source.name.lower()} {f.name}")
def test_a_field_that_is_gone_is_the_one_that_is_named(field: NeededField) -> None:
    for gone in (..., None):
        found = examine(field.source, but(ROWS[field.source], **{field.name: gone}))
        assert lost(found) == ([] if field.may_be_absent else [field.name])


@pytest.mark.parametrize("field", NEEDED, ids=lambda f: f"{f.source.name.lower()} {f.name}")
def test_a_field_in_another_form_is_named(field: NeededField) -> None:
    other: dict[Form, list[Any]] = {
        Form.TICKER: [7, "a/b", ""],
        Form.PRICE: [0.45, 45, "45", "NaN", "1.5"],
        Form.DOLLARS: [2.5, 250, "2,50", ""],
        Form.SIZE: [3, "-3.00", "3e2"],
        Form.SIGNED_COUNT: [3, -3.0, "three"],
        Form.TIME: [1_790_000_000, "2026-10-26", "tomorrow"],
        Form.TEXT: [1, ["active"]],
        Form.INTEGER: ["1", True, 1.5],
        Form.CENTS: [],
        Form.GRID: ["0.01", [{"start": "0"}], [["0", "1", "0.01"]]],
    }
    assert other[field.form]
    for value in other[field.form]:
        found = examine(field.source, but(ROWS[field.source], **{field.name: value}))
        assert lost(found) == [field.name], value
        assert found.drifts[0].effect == field.without_it


@pytest.mark.parametrize("field", NEEDED, ids=lambda f: f"{f.source.name.lower()} {f.name}")
def test_whatever_costs_the_decoder_the_row_is_told(field: NeededField) -> None:
    """The table may ask for more than the decoders do, never for less."""
    for value in (..., None, 0.45, 7, "x", "", [], {}, True):
        row = but(ROWS[field.source], **{field.name: value})
        assert is_decoded(field.source, row) or lost(examine(field.source, row)) == [field.name], value


@pytest.mark.parametrize(
    ("body", "gone"),
    [
        (CENTS, []),
        (CENTS | {"ts": 1_790_000_000}, []),
        (but(CENTS, yes_ask=...), ["yes_ask_dollars", "yes_bid_size_fp", "yes_ask_size_fp", "ts_ms"]),
        (but(CENTS, yes_bid=165),
         ["yes_bid_dollars", "yes_bid_size_fp", "yes_ask_size_fp", "ts_ms"]),
        (CENTS | TICKER, []),
        (CENTS | but(TICKER, yes_bid_size_fp=...), ["yes_bid_size_fp"]),
        (but(TICKER, ts_ms=..., ts=1_790_000_000), []),
        (but(TICKER, ts_ms=..., ts="2026-10-26T00:00:00Z"), ["ts_ms"]),
    ],
    ids=["whole cents", "whole cents with a time", "cents of one side", "cents above a dollar", "both forms",
         "both forms without a size", "an old time", "a time as text"],
)  # fmt: skip
def test_a_ticker_in_the_older_form(body: dict[str, Any], gone: list[str]) -> None:
    for envelope in ("msg", "data"):
        frame = json.dumps({"type": "ticker", "sid": 1, envelope: body}).encode()
        assert lost(examine_ticker(frame)) == gone


@pytest.mark.parametrize(
    "frame",
    [b"not json", b"{", b'{"type":"fill","msg":{}}', b'{"type":"user_order","msg":{"ticker":"A"}}', b"[]"],
)
def test_what_is_no_ticker_proves_nothing(frame: bytes) -> None:
    assert examine_ticker(frame) == Examination(Source.TICKER, 0)


def test_a_ticker_without_its_envelope() -> None:
    assert lost(examine_ticker(b'{"type":"ticker","sid":1,"payload":{}}')) == ["msg"]


@pytest.mark.parametrize(
    ("document", "gone", "rows"),
    [
        ({"markets": [], "cursor": ""}, [], 0),
        ({"cursor": ""}, ["markets"], 1),
        ({"markets": {}, "cursor": ""}, ["markets"], 1),
        ({"markets": ["KXA"], "cursor": ""}, ["markets"], 1),
        ({"markets": []}, ["cursor"], 1),
        ({"markets": [MARKET], "cursor": None}, ["cursor"], 1),
        ({"markets": [MARKET, but(MARKET, status=...), but(MARKET, status=1)], "cursor": ""}, ["status"], 3),
    ],
    ids=["nothing listed", "no list", "an object", "a list of names", "an empty list without a cursor",
         "no cursor", "two bad rows of three"],
)  # fmt: skip
def test_a_page(document: dict[str, Any], gone: list[str], rows: int) -> None:
    found = examine_markets(document)
    assert (lost(found), found.rows) == (gone, rows)


def test_what_is_new_is_told_and_nothing_is_missed_for_it() -> None:
    found = examine(Source.MARKET, but(MARKET, status="napping", tomorrow=1, market_type="vector"))
    assert found.drifts == ()
    assert [(n.field, n.value) for n in found.news] == [
        ("market_type", "vector"),
        ("status", "napping"),
        ("tomorrow", ""),
    ]


def test_a_complaint_is_short_and_says_what_was_wanted() -> None:
    (drift,) = examine(Source.MARKET, but(MARKET, yes_bid_dollars="9" * 500)).drifts
    assert len(str(drift)) < 150
    assert "a price as a string" in str(drift)


def test_every_effect_is_said() -> None:
    assert all(field.used_by and field.without_it for field in NEEDED)
    assert len({(field.source, field.name) for field in NEEDED}) == len(NEEDED)
