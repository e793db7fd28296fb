"""The order we send, and what each answer proves: an order that may have acted is never called refused."""

from __future__ import annotations

import json
import random
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
    amend_body,
    batch_body,
    order_body,
    parse_error,
    read_amend_answer,
    read_batch_answer,
    read_cancel_answer,
    read_create_answer,
    read_error,
)
from base.model.market import BookSide
from base.model.order import OrderAck, OrderRequest, TimeInForce

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
        (403, {"error": {"code": "MISSING_SCOPE"}}, AuthError, "missing_scope"),
        (403, {"code": "region_expired", "message": "renew"}, AuthError, "region_expired"),
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


# --- the answer to a batch

BATCH = [replace(EXIT, client_order_id=name) for name in "abc"]
PAUSED = {"code": "trading_is_paused", "message": "trading is paused", "details": ""}
NULLS = {
    "fill_count": None,
    "remaining_count": None,
    "average_fill_price": None,
    "average_fee_paid": None,
    "ts_ms": None,
}


def filled(name: str | None, **changes: Any) -> dict[str, Any]:
    return but(ACK, **({"client_order_id": name, "order_id": f"X-{name}", "error": None} | changes))


def refused(name: str | None, code: str = "trading_is_paused", **changes: Any) -> dict[str, Any]:
    row = {"order_id": None, "client_order_id": name, **NULLS, "error": but(PAUSED, code=code)}
    return but(row, **changes)


def read(rows: Any, status: int = 201) -> list[str]:
    """What is proved of each order: its fill count, or the error and its code."""
    body = encoded({"orders": rows}) if isinstance(rows, list) else encoded(rows)
    return [shown(result) for result in read_batch_answer(status, body, BATCH)]


def shown(result: Any) -> str:
    if isinstance(result, OrderAck):
        return f"{result.fill_count} of {result.client_order_id}"
    code = getattr(result, "code", None)
    return type(result).__name__ + ("" if code is None else f" {result.status} {code}")


UNKNOWN = "OrderOutcomeUnknown"
PAUSE = "OrderRejected 409 trading_is_paused"


def test_batch_body_holds_the_bodies_of_its_orders() -> None:
    assert json.loads(batch_body(BATCH)) == {"orders": [json.loads(order_body(r)) for r in BATCH]}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param(
            [filled("a"), filled("b", fill_count="3.00"), refused("c")],
            ["2.00 of a", "3.00 of b", PAUSE],
            id="fills and a refusal",
        ),
        pytest.param(
            [{k: v for k, v in filled(n).items() if k != "error"} for n in "abc"],
            ["2.00 of a", "2.00 of b", "2.00 of c"],
            id="no error field at all",
        ),
        pytest.param(
            [filled("a"), filled("b")], ["2.00 of a", "2.00 of b", UNKNOWN], id="the last is missing"
        ),
        pytest.param(
            [filled("b"), filled("c")], [UNKNOWN] * 3, id="the first is missing and the others moved up"
        ),
        pytest.param(
            [filled("b"), filled("a"), filled("c")], [UNKNOWN, UNKNOWN, "2.00 of c"], id="two swapped"
        ),
        pytest.param(
            [filled("a"), filled("a"), filled("c")], [UNKNOWN, UNKNOWN, "2.00 of c"], id="one is doubled"
        ),
        pytest.param(
            [refused("a"), refused("a"), refused("c")], [UNKNOWN, UNKNOWN, PAUSE], id="a refusal doubled"
        ),
        pytest.param(
            [filled("a"), filled("zzz"), filled("c")],
            ["2.00 of a", UNKNOWN, "2.00 of c"],
            id="a foreign order",
        ),
        pytest.param(
            [filled("a"), filled("b"), filled("c"), filled("d")],
            ["2.00 of a", "2.00 of b", "2.00 of c"],
            id="one too many",
        ),
        pytest.param(
            [filled("a"), {}, refused("c")], ["2.00 of a", UNKNOWN, PAUSE], id="an item that says nothing"
        ),
        pytest.param(
            [filled("a"), filled(None), filled("c")],
            ["2.00 of a", UNKNOWN, "2.00 of c"],
            id="a fill of nobody",
        ),
        pytest.param(
            [filled("a"), refused(None), refused(None, "market_inactive")],
            ["2.00 of a", PAUSE, "OrderRejected 409 market_inactive"],
            id="refusals without a name, all others at their places",
        ),
        pytest.param(
            [filled("b"), refused(None), refused(None)], [UNKNOWN] * 3, id="a name at another's place"
        ),
        pytest.param([refused(None), refused(None)], [UNKNOWN] * 3, id="too few without a name"),
        pytest.param(
            [refused(None), refused(None, "order_already_exists"), refused("c")],
            [UNKNOWN, UNKNOWN, PAUSE],
            id="one without a name exists already, and may have acted",
        ),
        pytest.param(
            [refused(None), refused(None, "internal_error"), refused("c")],
            [UNKNOWN, UNKNOWN, PAUSE],
            id="one without a name is in doubt",
        ),
        pytest.param(
            [
                filled("a", fill_count="3.01"),
                filled("b", remaining_count="1.00"),
                filled("c", fill_count=None),
            ],
            [UNKNOWN] * 3,
            id="counts that do not add up",
        ),
        pytest.param(
            [filled("a", fill_count=2), filled("b", order_id=""), filled("c", average_fill_price="52")],
            [UNKNOWN] * 3,
            id="values that prove nothing",
        ),
        pytest.param(
            [refused("a", order_id="X"), refused("b", fill_count="1.00"), refused("c", remaining_count="x")],
            [UNKNOWN] * 3,
            id="refused, yet with traces of an order",
        ),
        pytest.param(
            [refused("a", order_id="", fill_count="0.00", remaining_count="0.00"), filled("b"), filled("c")],
            [PAUSE, "2.00 of b", "2.00 of c"],
            id="refused with zeros",
        ),
        pytest.param(
            [refused("a", "internal_error"), refused("b", "brand_new"), refused("c", "")],
            [UNKNOWN] * 3,
            id="codes that prove nothing",
        ),
        pytest.param(
            [refused("a", error="paused"), refused("b", error=[]), refused("c", error={})],
            [UNKNOWN] * 3,
            id="errors of other shapes",
        ),
    ],
)
def test_what_the_items_of_a_batch_prove(rows: list[Any], expected: list[str]) -> None:
    assert read(rows) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("order_already_exists", "OrderRejected 409 order_already_exists"),
        ("exchange_is_paused", "OrderRejected 409 exchange_is_paused"),
        ("MARKET_INACTIVE", "OrderRejected 409 market_inactive"),
        ("insufficient_balance", "OrderRejected 400 insufficient_balance"),
        ("invalid_price", "OrderRejected 400 invalid_price"),
        ("not_found", "OrderRejected 404 not_found"),
        ("deprecated_v1_order_endpoint", "OrderRejected 410 deprecated_v1_order_endpoint"),
        ("header_timestamp_expired", "AuthError 401 header_timestamp_expired"),
        ("authentication_error", "AuthError 401 authentication_error"),
        ("too_many_requests", "RateLimitedError"),
    ],
)
def test_the_code_of_an_item_says_what_to_do(code: str, expected: str) -> None:
    assert read([filled("a"), refused("b", code), filled("c")])[1] == expected


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, EXPIRED, "AuthError 401 header_timestamp_expired"),
        (401, BAD_SIGNATURE, "AuthError 401 authentication_error"),
        (403, {"error": {"code": "missing_scope"}}, "AuthError 403 missing_scope"),
        (403, HTML, "AuthError 403 "),
        (429, TOO_MANY, "RateLimitedError"),
        (400, {"code": "bad_request", "message": "m"}, "OrderRejected 400 bad_request"),
        (409, {"error": {"code": "exchange_is_paused"}}, "OrderRejected 409 exchange_is_paused"),
        (200, {"error": {"code": "insufficient_balance"}}, "OrderRejected 200 insufficient_balance"),
        (404, NOT_FOUND, "TransientError"),
        (405, {"error": {"code": "method_not_allowed"}}, "TransientError"),
        (410, {"error": {"code": "deprecated_v1_order_endpoint"}}, "TransientError"),
        # in doubt
        (200, {"orders": []}, UNKNOWN),
        (201, {"orders": None}, UNKNOWN),
        (201, {"orders": {}}, UNKNOWN),
        (201, {"orders": ["a", "b", "c"]}, UNKNOWN),
        (201, {"orders": []}, UNKNOWN),
        (201, {}, UNKNOWN),
        (201, b"", UNKNOWN),
        (201, HTML, UNKNOWN),
        (201, ACK, UNKNOWN),
        (201, {"error": {"code": "internal_error"}}, UNKNOWN),
        (400, {"error": {"code": "bad_request"}, "orders": [{"order_id": "X"}]}, UNKNOWN),
        (201, {"error": {"code": "invalid_order"}, "orders": [{"order_id": "X"}]}, UNKNOWN),
        (400, HTML, UNKNOWN),
        (404, HTML, UNKNOWN),
        (408, {"error": {"code": "timeout"}}, UNKNOWN),
        (429, HTML, UNKNOWN),
        (429, {"error": {"code": "surprise"}}, UNKNOWN),
        (500, {"error": {"code": "internal_error"}}, UNKNOWN),
        (502, HTML, UNKNOWN),
        (503, {"error": {"code": "service_unavailable"}}, UNKNOWN),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_the_answer_to_a_whole_batch_proves(status: int, body: Any, expected: str) -> None:
    assert read(body, status) == [expected] * 3


def test_a_batch_answer_never_calls_an_order_refused_that_acted() -> None:
    """Whatever of the true answer is lost, doubled, moved or renamed: no lie about what acted."""
    rng = random.Random(5)
    names = [request.client_order_id for request in BATCH]
    seen: set[str] = set()
    for _ in range(4_000):
        truth = {n: rng.choice(["filled", "paused", "exists"]) for n in names}
        rows = [
            filled(n)
            if t == "filled"
            else refused(n, "trading_is_paused" if t == "paused" else "order_already_exists")
            for n, t in truth.items()
        ]
        for _ in range(rng.randrange(4)):
            index = rng.randrange(len(rows)) if rows else 0
            match rng.randrange(5) if rows else 5:
                case 0:
                    del rows[index]
                case 1:
                    rows.append(rng.choice(rows))
                case 2:
                    rng.shuffle(rows)
                case 3:
                    rows[index] = rows[index] | {"client_order_id": None}
                case 4:
                    rows[index] = rows[index] | {rng.choice(list(rows[index])): None}
        results = read_batch_answer(201, encoded({"orders": rows}), BATCH)
        assert len(results) == len(BATCH)
        for request, result in zip(BATCH, results, strict=True):
            seen.add(type(result).__name__)
            acted = truth[request.client_order_id]
            if isinstance(result, OrderAck):
                assert acted == "filled"
                assert result.client_order_id == request.client_order_id
            elif isinstance(result, OrderRejected):
                code = "trading_is_paused" if acted == "paused" else "order_already_exists"
                assert acted != "filled"
                assert result.code == code
            else:
                assert isinstance(result, OrderOutcomeUnknown)
    assert seen == {"OrderAck", "OrderRejected", "OrderOutcomeUnknown"}


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


# --- amends

REST = replace(ENTRY, client_order_id="e1", count=D("8"), price=D("0.57"))
AMENDED = {
    "order_id": "X1",
    "client_order_id": "e1",
    "fill_count": "2.00",
    "remaining_count": "5.00",
    "average_fill_price": "0.5600",
    "average_fee_paid": "0.0175",
    "ts_ms": 1715793690123,
}


def test_amend_body_is_what_the_exchange_documents() -> None:
    assert json.loads(amend_body(replace(REST, exchange_index=0))) == {
        "ticker": "KXHIGHNY-26NOV22-T50",
        "side": "ask",
        "price": "0.5700",
        "count": "8.00",
        "client_order_id": "e1",
        "exchange_index": 0,
    }


def test_an_amend_keeps_the_expiration_by_not_naming_it() -> None:
    assert "expiration_time" not in json.loads(amend_body(replace(REST, expiration_time_s=1_795_687_200)))


@pytest.mark.parametrize("request_", [EXIT, replace(REST, count=D(0)), replace(REST, price=D(1))])
def test_what_cannot_rest_is_not_amended(request_: OrderRequest) -> None:
    with pytest.raises(InvariantError):
        amend_body(request_)


def test_proved_amend_tells_what_the_amend_itself_filled() -> None:
    ack = read_amend_answer(200, encoded(AMENDED), "X1", REST)

    assert (ack.order_id, ack.fill_count, ack.remaining_count) == ("X1", 2, 5)
    assert (ack.average_fill_price, ack.fees) == (D("0.56"), D("0.035"))


@pytest.mark.parametrize("absent", [None, "missing"])
def test_an_amend_that_filled_nothing_need_not_say_so(absent: str | None) -> None:
    counts = ("fill_count", "remaining_count", "average_fill_price", "average_fee_paid", "client_order_id")
    document = {k: v for k, v in AMENDED.items() if k not in counts}
    if absent is None:
        document |= dict.fromkeys(counts)

    ack = read_amend_answer(200, encoded(document), "X1", REST)

    assert (ack.fill_count, ack.remaining_count, ack.average_fill_price, ack.fees) == (0, 8, None, 0)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (404, NOT_FOUND, OrderRejected),
        (400, {"error": {"code": "order_side_mismatch"}}, OrderRejected),
        (409, {"error": {"code": "trading_is_paused"}}, OrderRejected),
        (200, {"error": {"code": "invalid_price"}}, OrderRejected),
        (401, BAD_SIGNATURE, AuthError),
        (429, TOO_MANY, RateLimitedError),
        (200, {"error": {"code": "a_new_code"}}, OrderOutcomeUnknown),
        (200, but(AMENDED, order_id="X2"), OrderOutcomeUnknown),
        (200, but(AMENDED, client_order_id="e2"), OrderOutcomeUnknown),
        (200, but(AMENDED, fill_count="4.00"), OrderOutcomeUnknown),
        (200, but(AMENDED, remaining_count="9.00"), OrderOutcomeUnknown),
        (200, but(AMENDED, fill_count="-1.00"), OrderOutcomeUnknown),
        (200, but(AMENDED, average_fill_price="1.50"), OrderOutcomeUnknown),
        (200, {"order_id": "X1"}, OrderOutcomeUnknown),
        (201, AMENDED, OrderOutcomeUnknown),
        (200, b"", OrderOutcomeUnknown),
        (404, HTML, OrderOutcomeUnknown),
        (408, {"error": {"code": "request_timeout"}}, OrderOutcomeUnknown),
        (429, HTML, OrderOutcomeUnknown),
        (500, b"", OrderOutcomeUnknown),
        (503, {"error": {"code": "service_unavailable"}}, OrderOutcomeUnknown),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_the_answer_to_an_amend_proves(status: int, body: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        read_amend_answer(status, encoded(body), "X1", REST)

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
