"""The REST client: what it asks, what it makes of the answers, and what it does when there are none."""

from __future__ import annotations

import base64
import gzip
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal as D
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import responses

from base.clock import SystemClock
from base.errors import (
    AuthError,
    OrderOutcomeUnknown,
    OrderRejected,
    RateLimitedError,
    RequestRejected,
    TransientError,
    WireError,
)
from base.kalshi.rate_limit import Lane, Quota, RateLimiter, RequestStats
from base.kalshi.rest_client import RestClient, UnreadablePositions
from base.kalshi.server_clock import ServerClock
from base.kalshi.transport import CA_FILE
from base.model.market import BookSide
from base.model.order import OrderRequest, OrderStatus, TimeInForce
from tests.fakes.clock import FakeClock
from tests.fakes.scripted_http import (
    ScriptedServer,
    Step,
    answer,
    close_without_answer,
    echo_order,
    hang,
    raw,
    reset,
    then_close,
    trickle,
)

from .bodies import (
    BAD_SIGNATURE,
    DUPLICATE,
    EXPIRED,
    FILL,
    HTML,
    LIMITS,
    MARKET,
    NOT_FOUND,
    ORDER,
    POSITION,
    SETTLEMENT,
    TOO_MANY,
    but,
)
from .keys import ed25519_key, signer, tls_server

BASE = "https://external-api.demo.kalshi.co/trade-api/v2"
PLENTY = Quota(10_000, 10_000)
ENTRY = OrderRequest(
    ticker="KXHIGHNY-26NOV22-T50",
    client_order_id="bs-entry-1",
    book_side=BookSide.BID,
    count=D("3"),
    price=D("0.56"),
    time_in_force=TimeInForce.GOOD_TILL_CANCELED,
    reduce_only=False,
)


class Shortest(random.Random):
    """Never waits between attempts."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0


def client_of(base_url: str, clock: Any = None, **options: Any) -> RestClient:
    clock = clock or SystemClock()
    options = {"signer": signer(), "rng": Shortest()} | options
    limiter = options.pop("limiter", None) or RateLimiter(clock, PLENTY, PLENTY)
    return RestClient(base_url, options.pop("signer"), clock, ServerClock(clock), limiter, **options)


@pytest.fixture
def exchange() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def client(clock: FakeClock) -> RestClient:
    return client_of(BASE, clock)


@pytest.fixture
def serve() -> Iterator[Any]:
    servers: list[ScriptedServer] = []

    def start(*steps: Step, **options: Any) -> tuple[ScriptedServer, RestClient]:
        server = ScriptedServer(*steps)
        server.__enter__()
        servers.append(server)
        return server, client_of(server.base_url, **options)

    yield start
    for server in servers:
        server.__exit__(None, None, None)


def query(call: Any) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(call.request.url).query).items()}


def markets(*tickers: str, cursor: str = "") -> dict[str, Any]:
    return {"markets": [but(MARKET, ticker=t) for t in tickers], "cursor": cursor}


# --- prices


def test_prices_of_many_markets_come_in_one_signed_request(exchange, client) -> None:
    exchange.get(f"{BASE}/markets", json=markets("A", "B"))

    found = client.get_markets(["A", "B", "A"])

    assert [s.market.ticker for s in found] == ["A", "B"]
    (call,) = exchange.calls
    assert query(call) == {"tickers": "A,B", "limit": "1000"}
    headers = call.request.headers
    signed = f"{headers['KALSHI-ACCESS-TIMESTAMP']}GET/trade-api/v2/markets"
    ed25519_key().public_key().verify(base64.b64decode(headers["KALSHI-ACCESS-SIGNATURE"]), signed.encode())
    assert headers["Accept-Encoding"] == "identity"


def test_quote_counts_from_when_its_request_left(clock) -> None:
    """An answer must never count as newer than a tick that came while it was under way."""
    client = client_of(BASE, clock)

    def slow(request: Any) -> tuple[int, dict[str, str], str]:
        clock.advance(3)
        return 200, {}, json.dumps(markets("A"))

    with responses.RequestsMock() as exchange:
        exchange.add_callback(responses.GET, f"{BASE}/markets", slow)
        (snapshot,) = client.get_markets(["A"])

    assert snapshot.quote.received_monotonic == clock.monotonic() - 3
    assert snapshot.quote.received_at == clock.now() - 3


def test_requests_stay_within_200_tickers_and_6_kilobytes(clock) -> None:
    asked: list[list[str]] = []

    def reply(request: Any) -> tuple[int, dict[str, str], str]:
        tickers = parse_qs(urlsplit(request.url).query)["tickers"][0].split(",")
        asked.append(tickers)
        assert len(request.url) < 6_300
        return 200, {}, json.dumps(markets(*tickers))

    names = [f"KX{n:03}" for n in range(450)] + [f"KXLONG{n:03}-{'X' * 90}" for n in range(100)]
    with responses.RequestsMock() as exchange:
        exchange.add_callback(responses.GET, f"{BASE}/markets", reply)
        found = client_of(BASE, clock).get_markets(names)

    assert {s.market.ticker for s in found} == set(names)
    assert max(map(len, asked)) == 200
    assert sum(map(len, asked)) == 550


def test_all_pages_are_read_until_every_ticker_is_there(exchange, client) -> None:
    exchange.get(f"{BASE}/markets", json=markets("A", cursor="p2"))
    exchange.get(f"{BASE}/markets", json=markets("B", cursor="p3"))

    assert len(client.get_markets(["A", "B"])) == 2
    assert query(exchange.calls[1])["cursor"] == "p2"
    assert client.stats().price_reads == 2


def test_unknown_market_is_missing_not_invented(exchange, client) -> None:
    exchange.get(f"{BASE}/markets", json=markets("A", "NOT-ASKED-FOR"))

    assert [s.market.ticker for s in client.get_markets(["A", "GONE"])] == ["A"]


def test_nothing_asked_sends_nothing(client) -> None:
    assert client.get_markets([]) == []


def test_ticker_that_could_escape_its_parameter_is_refused(client) -> None:
    with pytest.raises(WireError):
        client.get_markets(["A&status=settled"])


def test_failure_of_a_later_request_keeps_the_prices_that_came(clock) -> None:
    calls = []

    def reply(request: Any) -> tuple[int, dict[str, str], str]:
        calls.append(request)
        tickers = parse_qs(urlsplit(request.url).query)["tickers"][0].split(",")
        return (200, {}, json.dumps(markets(*tickers))) if len(calls) == 1 else (503, {}, "")

    names = [f"KX{n:03}" for n in range(300)]
    with responses.RequestsMock() as exchange:
        exchange.add_callback(responses.GET, f"{BASE}/markets", reply)
        assert len(client_of(BASE, clock).get_markets(names)) == 200
        with pytest.raises(TransientError):
            client_of(BASE, clock).get_markets(names)


def test_list_markets_stops_at_the_total(exchange, client) -> None:
    exchange.get(f"{BASE}/markets", json=markets("A", "B", cursor="p2"))
    exchange.get(f"{BASE}/markets", json=markets("C", "D", cursor="p3"))

    found = client.list_markets(series_ticker="KXHIGHNY", limit_total=3)

    assert [s.market.ticker for s in found] == ["A", "B", "C"]
    assert query(exchange.calls[0]) == {"series_ticker": "KXHIGHNY", "status": "open", "limit": "3"}


# --- positions: whole or unknown


def positions(*tickers: str, **fields: Any) -> dict[str, Any]:
    return {"market_positions": [but(POSITION, ticker=t) for t in tickers], "event_positions": []} | fields


def test_positions_of_all_pages(exchange, client) -> None:
    exchange.get(f"{BASE}/portfolio/positions", json=positions("A", "B", cursor="p2"))
    exchange.get(f"{BASE}/portfolio/positions", json=positions("C", cursor=""))

    assert [row.ticker for row in client.get_positions()] == ["A", "B", "C"]
    assert query(exchange.calls[0]) == {
        "settlement_status": "unsettled",
        "count_filter": "position",
        "limit": "1000",
    }


def test_an_unreadable_row_is_told_with_the_readable_ones(exchange, client) -> None:
    page = positions("A", "B", cursor="")
    page["market_positions"][0]["position_fp"] = "three"
    exchange.get(f"{BASE}/portfolio/positions", json=page)

    with pytest.raises(UnreadablePositions) as unreadable:
        client.get_positions()
    assert [row.ticker for row in unreadable.value.rows] == ["B"]
    assert [row.ticker for row in unreadable.value.unreadable] == ["A"]


def test_account_without_positions(exchange, client) -> None:
    exchange.get(f"{BASE}/portfolio/positions", json=positions(cursor=""))

    assert client.get_positions() == []


def test_row_that_moved_between_pages_counts_once_as_read_last(exchange, client) -> None:
    exchange.get(f"{BASE}/portfolio/positions", json=positions("A", cursor="p2"))
    later = {"market_positions": [but(POSITION, ticker="A", position_fp="4.00")], "cursor": ""}
    exchange.get(f"{BASE}/portfolio/positions", json=later)

    (row,) = client.get_positions()
    assert row.signed_count == 4


@pytest.mark.parametrize(
    "second", [positions("B", cursor="p2"), positions("A", cursor="p2")], ids=["new", "same"]
)
def test_repeated_cursor_is_not_the_end_of_the_list(exchange, client, second: dict[str, Any]) -> None:
    exchange.get(f"{BASE}/portfolio/positions", json=positions("A", cursor="p2"))
    exchange.get(f"{BASE}/portfolio/positions", json=second)

    with pytest.raises(WireError, match="cursor"):
        client.get_positions()


def test_list_without_end_is_given_up(client, clock) -> None:
    count = 0

    def reply(request: Any) -> tuple[int, dict[str, str], str]:
        nonlocal count
        count += 1
        return 200, {}, json.dumps(positions("A", cursor=f"p{count}"))

    with responses.RequestsMock() as exchange:
        exchange.add_callback(responses.GET, f"{BASE}/portfolio/positions", reply)
        with pytest.raises(WireError, match="pages"):
            client.get_positions()
    assert count == 50


def test_slow_pages_are_given_up(client, clock) -> None:
    count = 0

    def reply(request: Any) -> tuple[int, dict[str, str], str]:
        nonlocal count
        count += 1
        clock.advance(9)
        return 200, {}, json.dumps(positions("A", cursor=f"p{count}"))

    with responses.RequestsMock() as exchange:
        exchange.add_callback(responses.GET, f"{BASE}/portfolio/positions", reply)
        with pytest.raises(TransientError):
            client.get_positions()
    assert count <= 8


def test_full_page_without_a_cursor_is_incomplete(exchange, client) -> None:
    exchange.get(f"{BASE}/portfolio/positions", json=positions(*(f"KX{n}" for n in range(1000))))

    with pytest.raises(WireError, match="full page"):
        client.get_positions()


@pytest.mark.parametrize(
    "second",
    [
        {"json": {"market_positions": None, "cursor": ""}},
        {"json": {"cursor": ""}},
        {"json": {"market_positions": [but(POSITION, position_fp=...)], "cursor": ""}},
        {"body": HTML},
        {"body": b"{"},
        {"body": b""},
    ],
    ids=["null", "absent", "bad row", "html", "cut", "empty"],
)
def test_incomplete_read_raises_and_returns_no_part(exchange, client, second: dict[str, Any]) -> None:
    exchange.get(f"{BASE}/portfolio/positions", json=positions("A", cursor="p2"))
    exchange.get(f"{BASE}/portfolio/positions", **second)

    with pytest.raises(WireError):
        client.get_positions()


# --- other reads


def test_orders_fills_and_settlements(exchange, client) -> None:
    exchange.get(f"{BASE}/portfolio/orders", json={"orders": [ORDER], "cursor": ""})
    exchange.get(f"{BASE}/portfolio/orders/{ORDER['order_id']}", json={"order": ORDER})
    exchange.get(f"{BASE}/portfolio/fills", json={"fills": [FILL], "cursor": ""})
    exchange.get(f"{BASE}/portfolio/settlements", json={"settlements": [SETTLEMENT], "cursor": ""})

    assert client.get_orders(ticker="A", status="resting", min_ts=5)[0].status is OrderStatus.EXECUTED
    assert client.get_order(ORDER["order_id"]).client_order_id == ORDER["client_order_id"]
    assert client.get_fills(order_id="X")[0].trade_id == FILL["trade_id"]
    assert client.get_settlements()[0].revenue == 10
    assert query(exchange.calls[0]) == {"ticker": "A", "status": "resting", "min_ts": "5", "limit": "200"}
    assert client.stats().reads == 4
    assert client.stats().price_reads == 0


def test_answer_about_another_order_is_refused(exchange, client) -> None:
    exchange.get(f"{BASE}/portfolio/orders/mine", json={"order": ORDER})

    with pytest.raises(WireError):
        client.get_order("mine")


def test_order_id_cannot_lead_to_another_path(exchange, client) -> None:
    exchange.get(f"{BASE}/portfolio/orders/..%2Fapi_keys", json=NOT_FOUND, status=404)

    with pytest.raises(RequestRejected) as caught:
        client.get_order("../api_keys")
    assert (caught.value.status, caught.value.code) == (404, "not_found")
    for order_id in ("", ".", ".."):
        with pytest.raises(WireError):
            client.get_order(order_id)


def test_account_and_exchange_documents(exchange, client) -> None:
    exchange.get(f"{BASE}/portfolio/balance", json={"balance": 9801, "balance_dollars": "98.0186"})
    exchange.get(f"{BASE}/account/limits", json=LIMITS)
    exchange.get(f"{BASE}/exchange/user_data_timestamp", json={"as_of_time": "2026-11-26T10:00:00Z"})
    exchange.get(f"{BASE}/api_keys", json={"api_keys": [], "api_key_region_expiration_ts": 7})
    schedule = {"schedule": {"standard_hours": [], "maintenance_windows": []}}
    exchange.get(f"{BASE}/exchange/schedule", json=schedule)

    assert client.get_balance().available == D("98.0186")
    assert client.get_account_limits().read == Quota(400, 200)
    assert client.get_user_data_timestamp() == 1_795_687_200
    assert client.get_api_keys().region_expiration_ts == 7
    assert client.get_exchange_schedule().maintenance_windows == ()


def test_endpoint_costs_are_charged_once_known(exchange, clock) -> None:
    limiter = RateLimiter(clock, Quota(100, 1), Quota(100, 1))
    client = client_of(BASE, clock, limiter=limiter)
    costs = [{"method": "GET", "path": "/trade-api/v2/account/limits", "cost": 33}]
    exchange.get(f"{BASE}/account/endpoint_costs", json={"default_cost": 10, "endpoint_costs": costs})
    exchange.get(f"{BASE}/account/limits", json=LIMITS)

    client.get_endpoint_costs()
    assert limiter.snapshot().read.tokens == 90
    client.get_account_limits()
    assert limiter.snapshot().read.tokens == 57


@pytest.mark.parametrize("status", [200, 500, 503, 504])
def test_exchange_status_comes_with_any_of_four_codes(exchange, client, status: int) -> None:
    document = {"exchange_active": True, "trading_active": False}
    exchange.get(f"{BASE}/exchange/status", json=document, status=status)

    assert not client.get_exchange_status().trading_active
    assert len(exchange.calls) == 1


@pytest.mark.parametrize(
    ("status", "error"), [(200, WireError), (503, TransientError), (404, RequestRejected)]
)
def test_exchange_status_without_a_document(exchange, client, status: int, error: type[Exception]) -> None:
    exchange.get(f"{BASE}/exchange/status", body=HTML, status=status)

    with pytest.raises(error):
        client.get_exchange_status()


# --- reads that fail


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_failed_read_is_retried_with_a_new_signature(exchange, clock, status: int) -> None:
    client = client_of(BASE, clock, rng=random.Random(3))
    exchange.get(f"{BASE}/account/limits", body=HTML, status=status)
    exchange.get(f"{BASE}/account/limits", json=LIMITS)

    assert client.get_account_limits().usage_tier == "basic"
    first, second = (call.request.headers for call in exchange.calls)
    assert int(first["KALSHI-ACCESS-TIMESTAMP"]) < int(second["KALSHI-ACCESS-TIMESTAMP"])
    assert first["KALSHI-ACCESS-SIGNATURE"] != second["KALSHI-ACCESS-SIGNATURE"]
    assert client.stats().rate_limited == (status == 429)


@pytest.mark.parametrize(("status", "error"), [(503, TransientError), (429, RateLimitedError)])
def test_reads_are_given_up_after_three_attempts(
    exchange, client, status: int, error: type[Exception]
) -> None:
    exchange.get(f"{BASE}/account/limits", json=TOO_MANY, status=status)

    with pytest.raises(error):
        client.get_account_limits()
    assert len(exchange.calls) == 3


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, {"msg": "Parameter validation failed"}, RequestRejected),
        (404, NOT_FOUND, RequestRejected),
        (401, BAD_SIGNATURE, AuthError),
        (403, {"error": {"code": "forbidden"}}, AuthError),
        (302, {}, WireError),
        (307, {}, WireError),
    ],
    ids=str,
)
def test_definite_failure_of_a_read_is_not_retried(
    exchange, client, status: int, body: Any, error: type[Exception]
) -> None:
    exchange.get(f"{BASE}/api_keys", json=body, status=status, headers={"Location": "https://evil.test/"})

    with pytest.raises(error):
        client.get_api_keys()
    assert len(exchange.calls) == 1


def test_expired_timestamp_is_learned_and_signed_again_once(exchange, client, clock) -> None:
    date = "Mon, 21 Sep 2026 14:14:20 GMT"  # 60 s ahead of the clock
    exchange.get(f"{BASE}/api_keys", json=EXPIRED, status=401, headers={"Date": date})
    exchange.get(f"{BASE}/api_keys", json={"api_keys": []})

    assert client.get_api_keys().keys == ()
    first, second = (int(call.request.headers["KALSHI-ACCESS-TIMESTAMP"]) for call in exchange.calls)
    assert second - first == 60_500


def test_timestamp_that_stays_expired_is_an_auth_error(exchange, client) -> None:
    exchange.get(f"{BASE}/api_keys", json=EXPIRED, status=401)

    with pytest.raises(AuthError, match="clock") as caught:
        client.get_api_keys()
    assert (caught.value.status, caught.value.code) == (401, "header_timestamp_expired")
    assert len(exchange.calls) == 2


@pytest.mark.parametrize("code", ["missing_scope", "region_attestation_expired"])
def test_what_a_403_is_about_is_told(exchange, client, code: str) -> None:
    error = {"error": {"code": code, "message": "no"}}
    exchange.get(f"{BASE}/api_keys", json=error, status=403)
    exchange.post(f"{BASE}/portfolio/events/orders", json=error, status=403)

    for call in (client.get_api_keys, lambda: client.create_order(ENTRY)):
        with pytest.raises(AuthError) as caught:
            call()
        assert (caught.value.status, caught.value.code) == (403, code)


@pytest.mark.parametrize(
    ("date", "expected_s", "ahead_s"),
    [
        (None, 0, 0),
        ("Mon, 21 Sep 2026 14:13:20 GMT", 0, 0),
        ("Mon, 21 Sep 2026 14:13:21 GMT", 0, 0),
        ("Mon, 21 Sep 2026 14:14:00 GMT", -40.5, 40.5),
        ("Mon, 21 Sep 2026 14:12:40 GMT", 0, -39.5),
    ],
    ids=["no date", "the same second", "the next one", "our clock is behind", "our clock is ahead"],
)
def test_reads_never_count_as_fresher_than_they_are_by_our_clock(
    exchange, client, date: str | None, expected_s: float, ahead_s: float
) -> None:
    headers = {} if date is None else {"Date": date}
    document = {"as_of_time": "2026-09-21T14:13:18Z"}
    exchange.get(f"{BASE}/exchange/user_data_timestamp", json=document, headers=headers)

    assert client.get_user_data_timestamp() == 1_789_999_998 + expected_s
    assert client.exchange_ahead_s == ahead_s


def test_prices_come_unsigned_when_the_key_has_gone_bad(exchange, client) -> None:
    exchange.get(f"{BASE}/markets", json=BAD_SIGNATURE, status=401)
    exchange.get(f"{BASE}/markets", json=markets("A"))

    assert len(client.get_markets(["A"])) == 1
    assert "KALSHI-ACCESS-SIGNATURE" not in exchange.calls[1].request.headers


def test_client_without_a_key_signs_nothing(exchange, clock) -> None:
    exchange.get(f"{BASE}/markets", json=markets("A"))
    client_of(BASE, clock, signer=None).get_markets(["A"])

    assert not any(name.startswith("KALSHI") for name in exchange.calls[0].request.headers)


def test_own_budget_stops_a_request_before_it_leaves(clock) -> None:
    limiter = RateLimiter(clock, Quota(10, 0.1), Quota(10, 0.1))
    client = client_of(BASE, clock, limiter=limiter)
    assert limiter.try_acquire("read", Lane.EXIT, 10)

    with pytest.raises(RateLimitedError):
        client.get_account_limits()
    with pytest.raises(RateLimitedError):
        client.create_order(ENTRY)
    assert client.stats().reads == client.stats().writes == 0


def test_closing_ends_the_wait_between_attempts(exchange, clock) -> None:
    client = client_of(BASE, clock)
    client.close()
    exchange.get(f"{BASE}/account/limits", body=b"", status=503)

    with pytest.raises(TransientError, match="closing"):
        client.get_account_limits()
    assert len(exchange.calls) == 1


# --- orders


ACK = {
    "order_id": "X1",
    "client_order_id": "bs-entry-1",
    "fill_count": "0.00",
    "remaining_count": "3.00",
    "ts_ms": 5,
}


def test_entry_is_sent_and_proved(exchange, client) -> None:
    exchange.post(f"{BASE}/portfolio/events/orders", json=ACK, status=201)

    assert client.create_order(ENTRY).order_id == "X1"
    request = exchange.calls[0].request
    assert json.loads(request.body)["price"] == "0.5600"
    signed = f"{request.headers['KALSHI-ACCESS-TIMESTAMP']}POST/trade-api/v2/portfolio/events/orders"
    signature = base64.b64decode(request.headers["KALSHI-ACCESS-SIGNATURE"])
    ed25519_key().public_key().verify(signature, signed.encode())
    assert (client.stats().writes, client.stats().reads) == (1, 0)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (409, DUPLICATE, OrderRejected),
        (401, BAD_SIGNATURE, AuthError),
        (429, TOO_MANY, RateLimitedError),
        (429, {"error": "slow down"}, OrderOutcomeUnknown),
        (500, {}, OrderOutcomeUnknown),
        (503, {"error": {"code": "service_unavailable"}}, OrderOutcomeUnknown),
        (307, {}, OrderOutcomeUnknown),
        (201, but(ACK, client_order_id="other"), OrderOutcomeUnknown),
    ],
    ids=str,
)
def test_order_is_sent_once_whatever_is_answered(
    exchange, client, status: int, body: Any, error: type[Exception]
) -> None:
    location = {"Location": f"{BASE}/elsewhere"}
    exchange.post(f"{BASE}/portfolio/events/orders", json=body, status=status, headers=location)

    with pytest.raises(error) as caught:
        client.create_order(ENTRY)
    assert type(caught.value) is error
    assert len(exchange.calls) == 1


def test_order_with_an_expired_timestamp_is_signed_again_once(exchange, client) -> None:
    exchange.post(f"{BASE}/portfolio/events/orders", json=EXPIRED, status=401)
    exchange.post(f"{BASE}/portfolio/events/orders", json=ACK, status=201)

    assert client.create_order(ENTRY).order_id == "X1"
    assert exchange.calls[0].request.body == exchange.calls[1].request.body


def test_order_whose_timestamp_stays_expired_says_so(exchange, client) -> None:
    exchange.post(f"{BASE}/portfolio/events/orders", json=EXPIRED, status=401)

    with pytest.raises(AuthError) as caught:
        client.create_order(ENTRY)
    assert (caught.value.status, caught.value.code) == (401, "header_timestamp_expired")
    assert len(exchange.calls) == 2


def test_cancel_names_the_market_and_is_proved(exchange, client) -> None:
    document = {"order_id": "X1", "reduced_by": "3.00", "ts_ms": 1}
    exchange.delete(f"{BASE}/portfolio/events/orders/X1", json=document)

    assert client.cancel_order("X1", "KXHIGHNY-26NOV22-T50").reduced_by == 3
    assert query(exchange.calls[0]) == {"market_ticker": "KXHIGHNY-26NOV22-T50"}


def test_cancel_of_an_order_that_is_gone(exchange, client) -> None:
    exchange.delete(f"{BASE}/portfolio/events/orders/X1", json=NOT_FOUND, status=404)

    with pytest.raises(RequestRejected) as caught:
        client.cancel_order("X1", "A")
    assert (type(caught.value), caught.value.status) == (RequestRejected, 404)


AMENDED = {"order_id": "X1", "fill_count": "0.00", "remaining_count": "3.00", "ts_ms": 1}
AMEND = f"{BASE}/portfolio/events/orders/X1/amend"


def test_an_amend_is_sent_once_and_proved(exchange, client) -> None:
    exchange.post(AMEND, json=AMENDED)

    assert client.amend_order("X1", ENTRY).remaining_count == 3
    (call,) = exchange.calls
    sent = json.loads(call.request.body)
    assert (sent["client_order_id"], sent["price"]) == (ENTRY.client_order_id, "0.5600")


def test_an_amend_costs_as_much_as_an_order(exchange) -> None:
    clock = FakeClock()
    limiter = RateLimiter(clock, Quota(1_000, 1_000), Quota(100, 10))
    client = RestClient(BASE, signer(), clock, ServerClock(clock), limiter)
    exchange.post(AMEND, json=AMENDED)

    client.amend_order("X1", ENTRY)
    assert limiter.snapshot().write.tokens == 90


def test_an_amend_of_an_order_that_is_gone(exchange, client) -> None:
    exchange.post(AMEND, json=NOT_FOUND, status=404)

    with pytest.raises(OrderRejected) as caught:
        client.amend_order("X1", ENTRY)
    assert caught.value.status == 404


def test_an_amend_without_a_usable_answer_may_have_acted(exchange, client) -> None:
    exchange.post(AMEND, body=requests.exceptions.ReadTimeout("timed out"))

    with pytest.raises(OrderOutcomeUnknown):
        client.amend_order("X1", ENTRY)
    assert len(exchange.calls) == 1


# --- on the wire


def test_nobody_listening_means_not_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = client_of(f"http://127.0.0.1:{port}/trade-api/v2")

    for call in (lambda: client.create_order(ENTRY), client.get_positions):
        with pytest.raises(TransientError) as caught:
            call()
        assert type(caught.value) is TransientError


def test_unknown_host_means_not_sent() -> None:
    client = client_of("http://nowhere.invalid:1/trade-api/v2")

    with pytest.raises(TransientError):
        client.create_order(ENTRY)


def test_connect_time_out_means_not_sent() -> None:
    """A listener whose queue is full: the handshake gets no answer."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        client = client_of(f"http://127.0.0.1:{listener.getsockname()[1]}/trade-api/v2", timeout_s=(0.2, 0.2))

        with pytest.raises(TransientError):
            client.create_order(ENTRY)
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize(
    "step",
    [
        close_without_answer,
        reset,
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + json.dumps(LIMITS).encode()),
        raw(b"junk\r\n\r\n"),
    ],
    ids=["closed", "reset", "cut", "not http"],
)
def test_broken_answer_is_unknown_for_an_order_and_retried_for_a_read(serve, step: Step) -> None:
    server, client = serve(step, step, answer(200, LIMITS))

    with pytest.raises(OrderOutcomeUnknown):
        client.create_order(ENTRY)
    assert len(server.requests) == 1
    assert client.get_account_limits().usage_tier == "basic"
    assert len(server.requests) == 3
    assert (client.stats().reads, client.stats().writes) == (2, 1)  # nobody below us repeats anything


@pytest.mark.parametrize(
    "step",
    [
        hang,
        trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n" + b" " * 4_000),
        trickle(b"HTTP/1.1 200 OK\r\nX-Header: " + b"x" * 4_000),
    ],
    ids=["silent", "trickled body", "trickled headers"],
)
def test_total_deadline_holds_however_slowly_the_server_talks(serve, step: Step) -> None:
    _, client = serve(step, total_deadline_s=0.4)
    started = time.monotonic()

    with pytest.raises(TransientError):
        client.get_positions()
    with pytest.raises(OrderOutcomeUnknown):
        client.create_order(ENTRY)
    assert time.monotonic() - started < 2


def test_answer_above_the_size_limit_is_cut_short(serve) -> None:
    _, client = serve(answer(200, b" " * 300_000), max_body_bytes=100_000)

    with pytest.raises(WireError, match="larger"):
        client.get_positions()
    with pytest.raises(OrderOutcomeUnknown):
        client.create_order(ENTRY)


def test_compressed_answer_is_not_unpacked(serve) -> None:
    packed = gzip.compress(json.dumps(positions(cursor="")).encode())
    _, client = serve(answer(200, packed, headers={"Content-Encoding": "gzip"}))

    with pytest.raises(WireError):
        client.get_positions()


def test_environment_cannot_redirect_or_add_credentials(serve, monkeypatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login thief password secret\n")
    netrc.chmod(0o600)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    server, client = serve(answer(200, LIMITS, headers={"Set-Cookie": "a=b"}))

    client.get_account_limits()
    client.get_account_limits()
    assert "authorization" not in server.requests[0].headers
    assert "cookie" not in server.requests[1].headers


def test_requests_of_a_thread_share_a_connection(serve) -> None:
    server, client = serve(answer(200, LIMITS), answer(404, NOT_FOUND), echo_order("0.00", "3.00"))

    client.get_account_limits()
    with pytest.raises(RequestRejected):
        client.get_account_limits()
    client.create_order(ENTRY)
    assert (len(server.requests), server.connections) == (3, 1)


def test_connection_closed_while_idle_is_replaced(serve) -> None:
    server, client = serve(then_close(answer(200, LIMITS)), answer(200, LIMITS))

    client.get_account_limits()
    client.get_account_limits()
    assert server.connections == 2


def test_fifty_threads_use_one_client(serve) -> None:
    server, client = serve(answer(200, LIMITS))
    done: list[str] = []
    together = threading.Barrier(50)

    def read_twice() -> None:
        together.wait(10)
        done.extend(client.get_account_limits().usage_tier for _ in range(2))

    threads = [threading.Thread(target=read_twice) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert done == ["basic"] * 100
    assert server.connections == 50
    assert client.stats().reads == 100


def test_tls_certificate_is_checked_whatever_the_environment_says(tmp_path: Path, monkeypatch) -> None:
    context, ca_file = tls_server(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", ca_file)
    monkeypatch.setenv("SSL_CERT_FILE", ca_file)
    with ScriptedServer(answer(200, LIMITS), tls=context) as server:
        assert client_of(server.base_url, ca_file=ca_file).get_account_limits().usage_tier == "basic"
        stranger = client_of(server.base_url, ca_file=CA_FILE)
        for call in (stranger.get_account_limits, lambda: stranger.create_order(ENTRY)):
            with pytest.raises(TransientError):
                call()
        assert len(server.requests) == 1


def test_no_secret_in_the_errors(serve) -> None:
    _, client = serve(reset)

    for call in (client.get_positions, lambda: client.create_order(replace(ENTRY, client_order_id="x"))):
        with pytest.raises((TransientError, OrderOutcomeUnknown)) as caught:
            call()
        assert "KALSHI-ACCESS" not in str(caught.value)


def test_counter_is_shared_with_the_order_connections(exchange, clock) -> None:
    stats = RequestStats(clock)
    client = client_of(BASE, clock, stats=stats)
    stats.count_write()

    assert client.stats().writes == 1
    with responses.RequestsMock() as mock:
        mock.get(f"{BASE}/account/limits", json=LIMITS)
        client.get_account_limits()
    assert stats.counts().reads == 1
