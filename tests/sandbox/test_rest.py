"""REST on the wire: recorded bodies, signatures, paging, limits, order entry."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from base.sandbox.scenario import Scenario, parse_scenario
from base.sandbox.server import SandboxServer
from tests.fakes.clock import FakeClock
from tests.sandbox.client import API, Client, order_body

YES, NO, FLAT = "KXA-1-YES", "KXA-1-NO", "KXB-2-FLAT"
ORDERS = "/portfolio/events/orders"


MISSING = {"code": "signature_is_missing_from_headers", "message": "signature is missing from headers"}
UNAUTHENTICATED = {"code": "authentication_error", "message": "authentication_error"}
OVER_LIMIT = (
    "Parameter validation failed for GetMarkets: Key: 'GetMarketsParams.Limit' "
    "Error:Field validation for 'Limit' failed on the 'lte' tag"
)
WRONG_TYPE = "json: cannot unmarshal number into Go struct field CreateOrderV2Request.count of type string"
BAD_STATUS = {"code": "bad_request", "message": "bad request", "details": "invalid status filter"}
NOT_FOUND = {"error": {"code": "not_found", "message": "not found"}}


@pytest.mark.parametrize(
    ("change", "body"),
    [
        ({"KALSHI-ACCESS-SIGNATURE": ""}, MISSING),
        ({"KALSHI-ACCESS-SIGNATURE": "AAAA"}, {**UNAUTHENTICATED, "details": "INCORRECT_API_KEY_SIGNATURE"}),
        ({"KALSHI-ACCESS-KEY": "nobody"}, {**UNAUTHENTICATED, "details": "NOT_FOUND"}),
    ],
    ids=["no signature", "bad signature", "unknown key"],
)
def test_unauthenticated_calls_get_the_recorded_401(
    client: Client, change: dict[str, str], body: dict[str, str]
) -> None:
    headers = {**client.headers("GET", API + "/portfolio/positions"), **change}
    for path in ("/portfolio/positions", "/markets"):  # a bad signature is refused on public paths too
        signed = headers if path != "/markets" else {**client.headers("GET", API + path), **change}
        answer = client.call("GET", path, headers=signed)
        assert (answer.status_code, answer.json()) == (401, {"error": body})


@pytest.mark.parametrize(("skew_s", "status"), [(-30, 401), (-9, 200), (9, 200), (30, 401)])
def test_the_timestamp_window(client: Client, skew_s: float, status: int) -> None:
    headers = client.headers("GET", API + "/portfolio/positions", skew_s=skew_s)
    answer = client.call("GET", "/portfolio/positions", headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert answer.json() == {
            "error": {"code": "header_timestamp_expired", "message": "header timestamp expired"}
        }


def test_public_calls_need_no_signature_and_private_ones_do(client: Client) -> None:
    assert client.call("GET", "/markets", headers={}).status_code == 200
    assert client.call("GET", "/portfolio/orders", headers={}).status_code == 401


def test_an_ed25519_key_signs_too(quiet: Scenario, tmp_path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "key.pem").write_bytes(pem)
    with SandboxServer(quiet, key_dir=tmp_path) as server, Client(server) as client:
        assert client.call("GET", "/portfolio/positions").status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/markets?limit=1001", 400, {"msg": OVER_LIMIT}),
        ("/markets?status=finalized", 400, {"error": BAD_STATUS}),
        ("/markets/KX-NOBODY", 404, NOT_FOUND),
        ("/nowhere", 404, NOT_FOUND),
    ],
)
def test_recorded_error_bodies(client: Client, path: str, status: int, body: object) -> None:
    answer = client.call("GET", path)
    assert (answer.status_code, answer.json()) == (status, body)


def test_json_numbers_are_refused_as_recorded(client: Client) -> None:
    answer = client.call("POST", ORDERS, {"ticker": YES, "side": "ask", "count": 1, "price": 0.01})
    assert (answer.status_code, answer.json()) == (
        400,
        {
            "code": "bad_request",
            "message": "bad request",
            "details": WRONG_TYPE,
        },
    )


def test_legacy_order_writes_are_gone(client: Client) -> None:
    for method, path in (("POST", "/portfolio/orders"), ("DELETE", "/portfolio/orders/some-id")):
        answer = client.call(method, path, {})
        assert answer.status_code == 410
        assert answer.json()["error"]["code"] == "deprecated_v1_order_endpoint"


def test_an_exit_from_post_to_position(client: Client) -> None:
    answer = client.order(YES, "ask", "25.00", "0.0100", reduce_only=True, client_order_id="stop-1")
    assert answer.status_code == 201
    body = answer.json()
    assert (body["fill_count"], body["remaining_count"]) == ("10.00", "0.00")
    assert (body["average_fill_price"], body["client_order_id"]) == ("0.5200", "stop-1")
    row = next(p for p in client.get("/portfolio/positions")["market_positions"] if p["ticker"] == YES)
    assert (row["position_fp"], row["market_exposure_dollars"], row["realized_pnl_dollars"]) == (
        "0.00",
        "0.000000",
        "-0.800000",
    )
    (fill,) = client.get(f"/portfolio/fills?order_id={body['order_id']}")["fills"]
    assert (fill["book_side"], fill["outcome_side"], fill["action"]) == ("ask", "no", "sell")
    order = client.get(f"/portfolio/orders/{body['order_id']}")["order"]
    assert (order["status"], order["client_order_id"], order["yes_price_dollars"]) == (
        "canceled",
        "stop-1",
        "0.0100",
    )
    again = client.order(YES, "ask", "25.00", "0.0100", reduce_only=True, client_order_id="stop-1")
    assert (again.status_code, again.json()) == (
        409,
        {"error": {"code": "order_already_exists", "message": "order already exists"}},
    )


def test_cancel_looks_on_shard_0_unless_told_the_market(client: Client) -> None:
    order = client.order(NO, "bid", "2", "0.10", time_in_force="good_till_canceled").json()
    path = f"{ORDERS}/{order['order_id']}"
    assert client.call("DELETE", path).status_code == 404
    answer = client.call("DELETE", f"{path}?market_ticker={NO}")
    assert (answer.status_code, answer.json()["reduced_by"]) == (200, "2.00")
    again = client.call("DELETE", f"{path}?market_ticker={NO}")
    assert (again.status_code, again.json()) == (
        404,
        NOT_FOUND,
    )


def test_amend_decrease_batches_and_cancel_all(client: Client) -> None:
    base = {
        "ticker": FLAT,
        "side": "bid",
        "time_in_force": "good_till_canceled",
        "self_trade_prevention_type": "taker_at_cross",
    }
    batch = client.call(
        "POST",
        ORDERS + "/batched",
        {"orders": [{**base, "count": "5", "price": "0.10"}, {**base, "count": "5", "price": "0.105"}]},
    )
    good, bad = batch.json()["orders"]
    assert (batch.status_code, good["error"], bad["error"]["code"]) == (201, None, "invalid_price")
    path = f"{ORDERS}/{good['order_id']}"
    amended = client.call(
        "POST", path + "/amend", {"ticker": FLAT, "side": "bid", "price": "0.11", "count": "4"}
    )
    assert (amended.status_code, amended.json()["remaining_count"]) == (200, "4.00")
    decreased = client.call("POST", path + "/decrease", {"reduce_to": "1", "market_ticker": FLAT})
    assert (decreased.status_code, decreased.json()["remaining_count"]) == (200, "1.00")
    items = [{"order_id": good["order_id"], "market_ticker": FLAT}, {"order_id": "x"}]
    gone = client.call("DELETE", ORDERS + "/batched", {"orders": items})
    assert [r["reduced_by"] for r in gone.json()["orders"]] == ["1.00", "0.00"]
    client.order(FLAT, "bid", "1", "0.05", time_in_force="good_till_canceled")
    assert client.call("DELETE", ORDERS).status_code == 204
    assert client.get("/portfolio/orders?status=resting")["orders"] == []


def test_paging_visits_everything_once_and_garbage_starts_over(client: Client) -> None:
    seen: list[str] = []
    cursor = ""
    for _ in range(5):
        body = client.get(f"/markets?limit=2&cursor={cursor}")
        seen += [m["ticker"] for m in body["markets"]]
        cursor = body["cursor"]
        if not cursor:
            break
    assert seen == [YES, NO, FLAT]
    assert [m["ticker"] for m in client.get("/markets?limit=1&cursor=garbage")["markets"]] == [YES]


def test_filters(client: Client) -> None:
    def tickers(path: str) -> list[str]:
        return [m["ticker"] for m in client.get(path)["markets"]]

    assert tickers(f"/markets?tickers={NO},{FLAT},KX-NOBODY") == [NO, FLAT]
    assert tickers("/markets?event_ticker=KXB-2") == [FLAT]
    assert tickers("/markets?series_ticker=KXA&status=open") == [YES, NO]
    assert tickers("/markets?status=settled") == []
    rows = client.get(f"/portfolio/positions?count_filter=position&ticker={NO}")["market_positions"]
    assert [(r["ticker"], r["position_fp"], r["exchange_index"]) for r in rows] == [(NO, "-5.00", 2)]
    books = client.get(f"/markets/orderbooks?tickers={YES}&tickers={FLAT}")["orderbooks"]
    assert [b["ticker"] for b in books] == [YES, FLAT]
    assert books[0]["orderbook_fp"]["yes_dollars"][-1] == ["0.5200", "100.00"]
    assert books[0]["orderbook_fp"]["no_dollars"][-1] == ["0.4600", "100.00"]


def test_the_write_bucket_empties_and_refills(quiet: Scenario, key_dir: Path) -> None:
    clock = FakeClock()
    with SandboxServer(quiet, key_dir=key_dir, clock=clock) as server, Client(server, clock.now) as client:
        statuses = [client.order(FLAT, "bid", "1", "0.05").status_code for _ in range(11)]
        assert statuses == [201] * 10 + [429]
        refused = client.order(FLAT, "bid", "1", "0.05")
        assert refused.json() == {"error": {"code": "too_many_requests", "message": "too many requests"}}
        assert "Retry-After" not in refused.headers
        clock.advance(0.11)
        assert client.order(FLAT, "bid", "1", "0.05").status_code == 201
        assert client.call("GET", "/portfolio/balance").status_code == 200
        assert client.call("GET", "/portfolio/balance").status_code == 429


@pytest.mark.parametrize(
    ("tier", "read", "write"),
    [
        ("basic", (200, 600), (100, 100)),
        ("advanced", (300, 900), (300, 900)),
        ("premier", (1200,) * 2, (1200, 3600)),
    ],
)
def test_a_tier_has_the_limits_that_it_tells(
    key_dir: Path, tier: str, read: tuple[int, int], write: tuple[int, int]
) -> None:
    scenario = parse_scenario(f'tier = "{tier}"\n[[market]]\nticker = "{FLAT}"')
    clock = FakeClock()
    with SandboxServer(scenario, key_dir=key_dir, clock=clock) as server, Client(server, clock.now) as client:
        told = client.get("/account/limits")
        assert told["usage_tier"] == tier
        assert (told["read"]["refill_rate"], told["read"]["bucket_capacity"]) == read
        assert (told["write"]["refill_rate"], told["write"]["bucket_capacity"]) == write
        batch = [order_body(FLAT, "bid", "1", "0.05")] * 10
        fits = 0
        while client.batch(*batch).status_code == 201:
            fits += 1
        assert fits == write[1] // 100


def test_a_market_lives_through_its_close_to_its_payment(quiet: Scenario, key_dir: Path) -> None:
    clock = FakeClock()
    with SandboxServer(quiet, key_dir=key_dir, clock=clock) as server, Client(server, clock.now) as client:
        server.set_market(YES, result="yes", close_in_s=1)
        clock.advance(1)
        server.call(lambda venue: venue.step())
        market = client.get(f"/markets/{YES}")["market"]
        assert (market["status"], market["yes_bid_dollars"], market["yes_ask_dollars"]) == (
            "closed",
            "0.0000",
            "1.0000",
        )
        refused = client.order(YES, "ask", "1", "0.50", reduce_only=True)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "market_inactive")
        for _ in range(20):
            clock.advance(1)
            server.call(lambda venue: venue.step())
        (settlement,) = client.get("/portfolio/settlements")["settlements"]
        assert (settlement["ticker"], settlement["market_result"], settlement["revenue"]) == (
            YES,
            "yes",
            1000,
        )
        listed = [p["ticker"] for p in client.get("/portfolio/positions")["market_positions"]]
        settled = client.get("/portfolio/positions?settlement_status=settled")["market_positions"]
        assert YES not in listed
        assert [p["ticker"] for p in settled] == [YES]


def test_the_ledger_tells_every_submission_and_request(client: Client, server: SandboxServer) -> None:
    client.order(FLAT, "bid", "2", "0.40", client_order_id="a")
    client.order(FLAT, "bid", "2", "0.405", client_order_id="b")
    ledger = server.ledger()
    submissions = ledger["submissions"]
    assert isinstance(submissions, list)
    assert [(s["client_order_id"], s["outcome"], s["fill_count"]) for s in submissions] == [
        ("a", "accepted", "2.00"),
        ("b", "invalid_price", "0.00"),
    ]
    requests = ledger["requests"]
    assert isinstance(requests, dict)
    assert requests["POST /portfolio/events/orders"]["count"] == 2
    positions = ledger["positions"]
    assert isinstance(positions, dict)
    assert Decimal(positions[FLAT]["count"]) == 2
