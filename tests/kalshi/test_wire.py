"""Numbers from the wire are exact or refused."""

from __future__ import annotations

import contextlib
from decimal import Decimal as D

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.errors import WireError
from base.kalshi.wire import (
    format_count,
    format_price,
    parse_cents,
    parse_count,
    parse_dollars,
    parse_price,
    parse_size,
    parse_ticker,
    parse_time,
)

BAD_NUMBERS = [
    pytest.param("", id="empty"),
    pytest.param("NaN", id="NaN"),
    pytest.param("sNaN", id="signalling NaN"),
    pytest.param("Infinity", id="infinity"),
    pytest.param("1e400", id="exponent"),
    pytest.param("1E-1", id="small exponent"),
    pytest.param("0_5", id="underscore"),
    pytest.param("٠.٤٥", id="Arabic digits"),
    pytest.param("０.45", id="full-width digit"),
    pytest.param(" 0.45", id="leading space"),
    pytest.param("0.45\n", id="trailing newline"),
    pytest.param("0,45", id="comma"),
    pytest.param("+0.45", id="plus sign"),
    pytest.param(".45", id="no digit before the point"),
    pytest.param("0.", id="no digit after the point"),
    pytest.param("0.1234567", id="more decimals than the exchange has"),
    pytest.param("0x1", id="hexadecimal"),
    pytest.param("--1", id="two signs"),
]
NOT_TEXT = [
    pytest.param(0.45, id="float"),
    pytest.param(1, id="integer"),
    pytest.param(True, id="boolean"),
    pytest.param(None, id="nothing"),
    pytest.param(b"0.45", id="bytes"),
    pytest.param(D("0.45"), id="decimal"),
]


@pytest.mark.parametrize("text", ["0", "1", "0.4500", "1.0000", "0.000001", "0.9990"])
def test_a_price_is_taken_exactly(text: str) -> None:
    assert parse_price(text) == D(text)


@pytest.mark.parametrize("text", [*BAD_NUMBERS, "-0.45", "1.0001", "1.000001", "2", "45", "00.45"])
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(WireError):
        parse_price(text)


@pytest.mark.parametrize("parse", [parse_price, parse_count, parse_size, parse_dollars, parse_ticker])
@pytest.mark.parametrize("value", NOT_TEXT)
def test_only_text_is_a_number(parse, value) -> None:
    with pytest.raises(WireError):
        parse(value)


@pytest.mark.parametrize("parse", [parse_count, parse_size, parse_dollars])
@pytest.mark.parametrize("text", [*BAD_NUMBERS, "1" * 16])
def test_what_is_no_count_is_refused(parse, text: str) -> None:
    with pytest.raises(WireError):
        parse(text)


@pytest.mark.parametrize("text", ["-54.00", "0.00", "1406474.86", "278"])
def test_a_count_may_be_negative_and_has_hundredths(text: str) -> None:
    assert parse_count(text) == D(text)
    assert parse_dollars(text) == D(text)


def test_a_size_is_never_negative() -> None:
    assert parse_size("300.00") == 300
    with pytest.raises(WireError):
        parse_size("-0.01")


@pytest.mark.parametrize(("cents", "dollars"), [(0, "0"), (1, "0.01"), (65, "0.65"), (100, "1")])
def test_whole_cents_become_dollars(cents: int, dollars: str) -> None:
    assert parse_cents(cents) == D(dollars)


@pytest.mark.parametrize("cents", [-1, 101, True, 65.0, "65", None])
def test_what_is_no_whole_cent_is_refused(cents) -> None:
    with pytest.raises(WireError):
        parse_cents(cents)


@pytest.mark.parametrize("text", ["../orders", "A/B", "A B", "A?x=1", "A%2F", "", "Ａ", "A\n", "A" * 129])
def test_a_ticker_cannot_escape_a_path(text: str) -> None:
    with pytest.raises(WireError):
        parse_ticker(text)


def test_recorded_tickers_are_taken() -> None:
    for text in ("KXXRP-26FEB1317-B1.3899500", "KXCRYPTOLEAD15M-26SEP210100-XRP", "FED-23DEC-T3.00"):
        assert parse_ticker(text) == text


def test_a_time_needs_a_zone() -> None:
    assert parse_time("2026-08-08T22:54:42Z") == 1786229682.0
    assert parse_time("2026-01-10T05:00:45.569245Z") == pytest.approx(1768021245.569245)
    for text in ("2026-08-08T22:54:42", "yesterday", "", None):
        with pytest.raises(WireError):
            parse_time(text)  # type: ignore[arg-type]


def test_orders_carry_four_and_two_decimals() -> None:
    assert format_price(D("0.1")) == "0.1000"
    assert format_count(D("10")) == "10.00"


@pytest.mark.parametrize("value", ["0.00001", "NaN", "Infinity", "-Infinity"])
def test_a_price_or_count_that_would_be_altered_is_not_sent(value: str) -> None:
    with pytest.raises(WireError):
        format_price(D(value))
    with pytest.raises(WireError):
        format_count(D(value))


@given(st.integers(0, 10_000))
def test_every_price_of_the_grid_survives_both_ways(ten_thousandths: int) -> None:
    price = D(ten_thousandths) / 10_000
    assert parse_price(format_price(price)) == price


@given(st.text())
def test_any_text_is_a_number_or_a_wire_error(text: str) -> None:
    for parse in (parse_price, parse_count, parse_size, parse_dollars, parse_time, parse_ticker):
        with contextlib.suppress(WireError):
            parse(text)  # type: ignore[operator]
