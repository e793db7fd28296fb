"""The order we send, and what each answer proves: an order that may have acted is never called refused."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal as D
from typing import Any

import pytest

from base.errors import (
    AuthError,
    InvariantError,
    OrderOutcomeUnknown,
    OrderRejected,
    RateLimitedError,
    RequestRejected,
    TransientError,
    WireError,
)
from base.kalshi.order_entry import (
    ApiError,
    order_body,
    parse_error,
    read_cancel_answer,
    read_create_answer,
    read_error,
)
from base.model.market import BookSide
from base.model.order import OrderRequest, TimeInForce

from .bodies import BAD_SIGNATURE, DUPLICATE, EXPIRED, HTML, NOT_FOUND, TOO_MANY, but

EXIT = OrderRequest(
    ticker="KXHIGHNY-26NOV22-T50",
    client_order_id="bs-0a1b-1",
    book_side=BookSide.ASK,
    count=D("3"),
    price=D("0.01"),
    time_in_force=TimeInForce.IMMEDIATE_OR_CANCEL,
    reduce_only=True,
    exchange_index=2,
)
ENTRY = replace(
    EXIT,
    time_in_force=TimeInForce.GOOD_TILL_CANCELED,
    reduce_only=False,
    exchange_index=None,
    price=D("0.56"),
)
ACK = {
    "order_id": "97ec18b7",
    "client_order_id": EXIT.client_order_id,
    "fill_count": "2.00",
    "remaining_count": "0.00",
    "average_fill_price": "0.5200",
    "average_fee_paid": "0.0175",
    "ts_ms": 1781159370164,
}


def encoded(document: Any) -> bytes:
    return document if isinstance(document, bytes) else json.dumps(document).encode()


# --- the body


def test_exit_body_is_what_the_exchange_documents() -> None:
    assert json.loads(order_body(EXIT)) == {
        "ticker": "KXHIGHNY-26NOV22-T50",
        "client_order_id": "bs-0a1b-1",
        "side": "ask",
        "count": "3.00",
        "price": "0.0100",
        "time_in_force": "immediate_or_cancel",
        "self_trade_prevention_type": "maker",
        "reduce_only": True,
        "exchange_index": 2,
    }


def test_entry_body() -> None:
    document = json.loads(order_body(replace(ENTRY, post_only=True, expiration_time_s=1_795_687_200)))

    assert document["self_trade_prevention_type"] == "taker_at_cross"
    assert (document["post_only"], document["expiration_time"]) == (True, 1_795_687_200)
    assert "exchange_index" not in document


@pytest.mark.parametrize(
    "changes",
    [
        {"time_in_force": TimeInForce.GOOD_TILL_CANCELED},
        {"time_in_force": TimeInForce.FILL_OR_KILL},
        {"expiration_time_s": 1},
        {"count": D(0)},
        {"count": D("-1")},
        {"count": D("0.001")},
        {"price": D(0)},
        {"price": D(1)},
        {"price": D("0.00001")},
        {"client_order_id": ""},
        {"client_order_id": "a.b"},
        {"client_order_id": "x" * 65},
        {"ticker": "a/b"},
    ],
    ids=str,
)
def test_order_that_no_market_can_take_is_a_bug(changes: dict[str, Any]) -> None:
    with pytest.raises(InvariantError):
        order_body(replace(EXIT, **changes))


# --- the answer to a create


def test_proved_fill() -> None:
    ack = read_create_answer(201, encoded(ACK), EXIT)

    assert (ack.order_id, ack.client_order_id, ack.ts_ms) == ("97ec18b7", EXIT.client_order_id, 1781159370164)
    assert (ack.fill_count, ack.remaining_count) == (2, 0)
    assert (ack.average_fill_price, ack.fees) == (D("0.52"), D("0.035"))


def test_proved_miss_of_an_immediate_order() -> None:
    miss = but(ACK, fill_count="0.00", average_fill_price=..., average_fee_paid=...)
    ack = read_create_answer(201, encoded(miss), EXIT)

    assert (ack.fill_count, ack.average_fill_price, ack.fees) == (0, None, 0)


def test_resting_entry() -> None:
    ack = read_create_answer(201, encoded(but(ACK, fill_count="1.00", remaining_count="2.00")), ENTRY)

    assert (ack.fill_count, ack.remaining_count) == (1, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"order_id": ...},
        {"order_id": ""},
        {"client_order_id": ...},
        {"client_order_id": "another-order"},
        {"fill_count": ...},
        {"fill_count": "3.01"},
        {"fill_count": "-1.00"},
        {"fill_count": 2},
        {"remaining_count": "1.00"},
        {"remaining_count": "2.00"},
        {"average_fill_price": "52"},
        {"average_fee_paid": "NaN"},
        {"ts_ms": ...},
    ],
    ids=str,
)
def test_201_that_does_not_add_up_is_unknown(changes: dict[str, Any]) -> None:
    with pytest.raises(OrderOutcomeUnknown):
        read_create_answer(201, encoded(but(ACK, **changes)), EXIT)


@pytest.mark.parametrize(
    ("status", "body", "error", "code"),
    [
        (
            400,
            {"error": {"code": "invalid_price", "message": "invalid price"}},
            OrderRejected,
            "invalid_price",
        ),
        (
            400,
            {"code": "bad_request", "message": "bad request", "details": "json"},
            OrderRejected,
            "bad_request",
        ),
        (400, {"msg": "Parameter validation failed"}, OrderRejected, ""),
        (400, {"error": {"code": "MARKET_INACTIVE"}}, OrderRejected, "market_inactive"),
        (404, NOT_FOUND, OrderRejected, "not_found"),
        (409, DUPLICATE, OrderRejected, "order_already_exists"),
        (409, {"error": {"code": "trading_is_paused"}}, OrderRejected, "trading_is_paused"),
        (
            410,
            {"error": {"code": "deprecated_v1_order_endpoint"}},
            OrderRejected,
            "deprecated_v1_order_endpoint",
        ),
        (
            200,
            {"error": {"code": "deprecated_v1_order_endpoint"}},
            OrderRejected,
            "deprecated_v1_order_endpoint",
        ),
        (201, {"error": {"code": "insufficient_balance"}}, OrderRejected, "insufficient_balance"),
        (401, EXPIRED, AuthError, "header_timestamp_expired"),
        (401, BAD_SIGNATURE, AuthError, "authentication_error"),
        (403, HTML, AuthError, ""),
        (429, TOO_MANY, RateLimitedError, None),
        (
            429,
            {"error": {"code": "too_many_requests", "message": "too many requests"}},
            RateLimitedError,
            None,
        ),
        # in doubt
        (200, ACK, OrderOutcomeUnknown, None),
        (202, ACK, OrderOutcomeUnknown, None),
        (200, {"error": {"code": "brand_new_code"}}, OrderOutcomeUnknown, None),
        (201, {"error": {"code": "internal_error"}}, OrderOutcomeUnknown, None),
        (201, b"", OrderOutcomeUnknown, None),
        (201, b"null", OrderOutcomeUnknown, None),
        (201, HTML, OrderOutcomeUnknown, None),
        (302, b"", OrderOutcomeUnknown, None),
        (400, HTML, OrderOutcomeUnknown, None),
        (404, b"", OrderOutcomeUnknown, None),
        (408, {"error": {"code": "timeout"}}, OrderOutcomeUnknown, None),
        (429, HTML, OrderOutcomeUnknown, None),
        (429, {"error": {"code": "surprise"}}, OrderOutcomeUnknown, None),
        (500, {"error": {"code": "internal_error"}}, OrderOutcomeUnknown, None),
        (502, HTML, OrderOutcomeUnknown, None),
        (503, {"error": {"code": "service_unavailable"}}, OrderOutcomeUnknown, None),
        (504, b"", OrderOutcomeUnknown, None),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_an_answer_proves(status: int, body: Any, error: type[Exception], code: str | None) -> None:
    with pytest.raises(error) as caught:
        read_create_answer(status, encoded(body), EXIT)

    assert type(caught.value) is error
    if code is not None:
        assert caught.value.code == code
        assert caught.value.status == status


# --- the answer to a cancel

CANCELED = {"order_id": "X1", "client_order_id": "c", "reduced_by": "1.00", "ts_ms": 1781159364112}


def test_proved_cancel() -> None:
    ack = read_cancel_answer(200, encoded(CANCELED), "X1")

    assert (ack.order_id, ack.reduced_by, ack.ts_ms) == ("X1", 1, 1781159364112)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (404, NOT_FOUND, RequestRejected),
        (409, {"error": {"code": "exchange_is_paused"}}, RequestRejected),
        (401, BAD_SIGNATURE, AuthError),
        (429, TOO_MANY, RateLimitedError),
        (200, but(CANCELED, order_id="X2"), OrderOutcomeUnknown),
        (200, b"", OrderOutcomeUnknown),
        (404, HTML, OrderOutcomeUnknown),
        (429, HTML, OrderOutcomeUnknown),
        (500, b"", OrderOutcomeUnknown),
        (503, {"error": {"code": "service_unavailable"}}, OrderOutcomeUnknown),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_the_answer_to_a_cancel_proves(status: int, body: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        read_cancel_answer(status, encoded(body), "X1")

    assert type(caught.value) is error


# --- errors


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            BAD_SIGNATURE,
            ApiError("authentication_error", "authentication_error", "INCORRECT_API_KEY_SIGNATURE"),
        ),
        ({"error": {"code": "a", "service": "exchange"}}, ApiError("a")),
        ({"code": "bad_request", "message": "m", "details": "d"}, ApiError("bad_request", "m", "d")),
        ({"msg": "Parameter validation failed"}, ApiError("", "Parameter validation failed")),
        (TOO_MANY, ApiError("too_many_requests", "too many requests")),
        ({"error": {"code": 7}}, ApiError()),
        ({"error": None, "order_id": "x"}, None),
        ({"error": ""}, None),
        (ACK, None),
        (b"", None),
        (HTML, None),
    ],
    ids=lambda value: str(value)[:50],
)
def test_error_shapes(body: Any, expected: ApiError | None) -> None:
    assert parse_error(encoded(body)) == expected


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, {"msg": "Parameter validation failed"}, RequestRejected),
        (404, NOT_FOUND, RequestRejected),
        (401, EXPIRED, AuthError),
        (403, HTML, AuthError),
        (408, b"", TransientError),
        (429, b"", RateLimitedError),
        (500, HTML, TransientError),
        (503, b"", TransientError),
        (301, b"", WireError),
        (204, b"", WireError),
    ],
    ids=lambda value: str(value)[:30],
)
def test_error_of_a_read(status: int, body: Any, error: type[Exception]) -> None:
    assert type(read_error(status, encoded(body), "GET /markets")) is error
