"""REST faults on demand, and bad control requests."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
import requests

from base.sandbox.faults import BadFaultRequest, parse_faults
from base.sandbox.scenario import Scenario
from base.sandbox.server import SandboxServer
from tests.fakes.clock import FakeClock
from tests.sandbox.client import ORDERS, Client, order_body

YES = "KXA-1-YES"
NO = "KXA-1-NO"  # on shard 2
FLAT = "KXB-2-FLAT"


def exit_orders(client: Client) -> requests.Response:
    return client.order(YES, "ask", "4", "0.01", reduce_only=True, client_order_id="x")


def script(action: str, **fields: object) -> list[dict[str, object]]:
    return [{"method": "POST", "path": ORDERS, "action": action, **fields}]


def held(server: SandboxServer) -> Decimal:
    return server.call(lambda venue: venue.exchange.ledger.position_count(YES))


@pytest.mark.parametrize(
    ("action", "status", "left"),
    [("act_then_500", 500, 6), ("503", 503, 10), ("429", 429, 10)],
)
def test_a_scripted_answer_acts_or_not(
    client: Client, server: SandboxServer, action: str, status: int, left: int
) -> None:
    server.set_faults(calls=script(action))
    assert exit_orders(client).status_code == status
    assert held(server) == left
    expected = 409 if left == 6 else 201  # the script is used up; the id is taken when the first one acted
    assert exit_orders(client).status_code == expected


@pytest.mark.parametrize(("action", "left"), [("act_then_reset", 6), ("reset_before", 10)])
def test_a_reset_leaves_the_outcome_open(
    client: Client, server: SandboxServer, action: str, left: int
) -> None:
    server.set_faults(calls=script(action))
    with pytest.raises(requests.ConnectionError):
        exit_orders(client)
    assert held(server) == left


def test_an_order_can_act_without_an_answer(client: Client, server: SandboxServer) -> None:
    server.set_faults(calls=script("act_then_timeout"))
    with pytest.raises(requests.Timeout):
        requests.post(
            server.rest_url + ORDERS,
            json={
                "ticker": YES,
                "side": "ask",
                "count": "4",
                "price": "0.01",
                "time_in_force": "immediate_or_cancel",
                "self_trade_prevention_type": "taker_at_cross",
            },
            headers=client.headers("POST", "/trade-api/v2" + ORDERS),
            timeout=0.2,
        )
    assert held(server) == 6


def test_a_status_with_a_body_and_an_empty_list(client: Client, server: SandboxServer) -> None:
    body = {"error": {"code": "trading_is_paused", "message": "trading is paused"}}
    server.set_faults(
        calls=[
            {"method": "POST", "path": "/portfolio/*", "action": "status", "status": 409, "body": body},
            {"method": "GET", "path": "/portfolio/positions", "action": "empty_list"},
        ]
    )
    answer = exit_orders(client)
    assert (answer.status_code, answer.json()) == (409, body)
    assert client.get("/portfolio/positions") == {
        "cursor": "",
        "event_positions": [],
        "market_positions": [],
    }
    assert client.get("/portfolio/positions")["market_positions"]


def test_reads_lag_behind_writes(quiet: Scenario, key_dir: Path) -> None:
    clock = FakeClock()
    with SandboxServer(quiet, key_dir=key_dir, clock=clock) as server, Client(server, clock.now) as client:
        server.set_faults(read_lag_s=2)
        order_id = exit_orders(client).json()["order_id"]

        def seen() -> str:
            rows = client.get(f"/portfolio/positions?ticker={YES}")["market_positions"]
            return str(rows[0]["position_fp"])

        assert seen() == "10.00"
        assert client.call("GET", f"/portfolio/orders/{order_id}").status_code == 404
        clock.advance(1.9)
        assert seen() == "10.00"
        clock.advance(0.2)
        assert seen() == "6.00"
        assert client.call("GET", f"/portfolio/orders/{order_id}").status_code == 200


def test_reads_that_lag_show_one_moment_and_say_which(quiet: Scenario, key_dir: Path) -> None:
    """Positions, orders and fills of one moment, complete up to what `user_data_timestamp` says."""
    clock = FakeClock()
    with SandboxServer(quiet, key_dir=key_dir, clock=clock) as server, Client(server, clock.now) as client:
        start = clock.now()
        server.set_faults(read_lag_s=2)
        done: list[tuple[float, str]] = []  # when and which order
        resting = client.order(FLAT, "bid", "1", "0.05", time_in_force="good_till_canceled").json()
        canceled_at = 0.0
        for step in range(14):
            if step % 2 == 0 and step < 8:
                answer = client.order(YES, "ask", "1", "0.01", reduce_only=True)
                done.append((clock.now(), answer.json()["order_id"]))
            if step == 5:
                canceled_at = clock.now()
                path = f"{ORDERS}/{resting['order_id']}?market_ticker={FLAT}"
                assert client.call("DELETE", path).status_code == 200
            clock.advance(0.4)
            as_of_time = client.get("/exchange/user_data_timestamp")["as_of_time"]
            as_of = start - 2 + (step + 1) * 0.4
            assert as_of_time.startswith(f"2026-09-21T14:13:{as_of % 60:04.1f}"), as_of_time
            orders = {o["order_id"]: o["status"] for o in client.get("/portfolio/orders")["orders"]}
            sold = {f["order_id"] for f in client.get("/portfolio/fills")["fills"]} & {i for _, i in done}
            (position,) = client.get(f"/portfolio/positions?ticker={YES}")["market_positions"]
            assert sold == {order_id for at, order_id in done if at <= as_of + 1e-6}
            assert sold == {order_id for _, order_id in done if order_id in orders}
            assert Decimal(position["position_fp"]) == 10 - len(sold)
            is_canceled = 0 < canceled_at <= as_of + 1e-6
            expected = "canceled" if is_canceled else "resting"
            assert orders.get(resting["order_id"], "resting") == expected
        assert len(sold) == 4


def test_one_shard_stops_and_the_others_trade_on(client: Client, server: SandboxServer) -> None:
    resting = client.order(NO, "bid", "1", "0.05", time_in_force="good_till_canceled").json()["order_id"]
    for state, code, flags in (
        (False, "trading_is_paused", (True, False)),
        ("exchange_paused", "exchange_is_paused", (False, False)),
    ):
        server.set_faults(shard_active={"2": state})
        status = client.get("/exchange/status")
        rows = {r["exchange_index"]: r for r in status["exchange_index_statuses"]}
        assert (rows[2]["exchange_active"], rows[2]["trading_active"]) == flags
        assert (status["exchange_active"], status["trading_active"], rows[3]["trading_active"]) == (True,) * 3
        refused = client.order(NO, "bid", "1", "0.99", reduce_only=True)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, code)
        assert client.order(YES, "ask", "1", "0.01", reduce_only=True).status_code == 201
    canceled = client.call("DELETE", f"{ORDERS}/{resting}?market_ticker={NO}")
    assert canceled.json()["error"]["code"] == "exchange_is_paused"
    server.set_faults(shard_active={"2": False})
    assert client.call("DELETE", f"{ORDERS}/{resting}?market_ticker={NO}").status_code == 200
    server.set_faults(shard_active={"2": True})
    assert client.order(NO, "bid", "1", "0.99", reduce_only=True).status_code == 201


def test_the_top_level_of_the_status_speaks_of_shard_0(client: Client, server: SandboxServer) -> None:
    server.set_faults(shard_active={"0": False})
    assert client.get("/exchange/status")["trading_active"] is False
    assert client.order(NO, "bid", "1", "0.99", reduce_only=True).status_code == 201
    server.clear_faults()
    assert client.get("/exchange/status")["trading_active"] is True


def test_a_shard_without_money_refuses_even_exits(client: Client, server: SandboxServer) -> None:
    server.set_faults(shard_balance={"2": "0"})
    batch = client.batch(
        order_body(NO, "bid", "1", "0.99", reduce_only=True), order_body(YES, "ask", "1", "0.01")
    )
    single = client.order(NO, "bid", "1", "0.99", reduce_only=True)
    assert (single.status_code, single.json()["error"]["code"]) == (400, "insufficient_balance")
    assert [(r["error"] or {}).get("code") for r in batch.json()["orders"]] == ["insufficient_balance", None]
    shards = client.get("/portfolio/balance")["balance_breakdown"]
    assert {"exchange_index": 2, "balance": "0.0000"} in shards
    server.set_faults(shard_balance={"2": "0.50"})
    assert client.order(NO, "bid", "1", "0.99", reduce_only=True).status_code == 201
    dear = client.order(NO, "ask", "2", "0.40")  # costs 1.20
    assert dear.json()["error"]["code"] == "insufficient_balance"


@pytest.mark.parametrize(
    ("auth", "code"), [("dead", "authentication_error"), ("skewed", "header_timestamp_expired")]
)
def test_a_key_or_a_clock_that_counts_as_bad(
    client: Client, server: SandboxServer, auth: str, code: str
) -> None:
    server.set_faults(auth=auth)
    for answer in (
        exit_orders(client),
        client.call("GET", "/portfolio/positions"),
        client.call("GET", "/markets"),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, code)
    assert client.call("GET", "/markets", headers={}).status_code == 200
    assert held(server) == 10
    server.set_faults(auth="ok")
    assert exit_orders(client).status_code == 201


def test_order_writes_can_be_gone(client: Client, server: SandboxServer) -> None:
    server.set_faults(gone=True)
    for answer in (
        exit_orders(client),
        client.batch(order_body(YES, "ask", "1", "0.01")),
        client.call("DELETE", f"{ORDERS}/some-id?market_ticker={YES}"),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (410, "deprecated_v1_order_endpoint")
    assert client.call("GET", "/portfolio/orders").status_code == 200
    assert held(server) == 10


def test_maintenance_is_announced_and_nothing_else(quiet: Scenario, key_dir: Path) -> None:
    clock = FakeClock(now=1_790_000_000.0)  # 2026-09-21T14:13:20Z
    with SandboxServer(quiet, key_dir=key_dir, clock=clock) as server, Client(server, clock.now) as client:
        server.set_faults(maintenance_windows=[{"start_in_s": -20, "end_in_s": 40}])
        clock.advance(5)
        assert client.get("/exchange/schedule")["schedule"]["maintenance_windows"] == [
            {"start_datetime": "2026-09-21T14:13:00Z", "end_datetime": "2026-09-21T14:14:00Z"}
        ]
        assert exit_orders(client).status_code == 201


@pytest.mark.parametrize("ends_in_s", [86_400, -60], ids=["ends tomorrow", "has ended"])
def test_the_end_of_the_key_s_attestation_is_told(quiet: Scenario, key_dir: Path, ends_in_s: int) -> None:
    clock = FakeClock(now=1_790_000_000.0)
    with SandboxServer(quiet, key_dir=key_dir, clock=clock) as server, Client(server, clock.now) as client:
        assert client.get("/api_keys")["api_key_region_expiration_ts"] is None
        server.set_faults(attestation_ends_in_s=ends_in_s)
        assert client.get("/api_keys")["api_key_region_expiration_ts"] == 1_790_000_000 + ends_in_s


def test_answers_without_a_time(server: SandboxServer, client: Client) -> None:
    def date() -> str:
        return requests.get(f"{server.rest_url}/exchange/status", timeout=5).headers["Date"]

    assert date().endswith("GMT")
    server.set_faults(date=False)
    assert date() == ""
    server.clear_faults()
    assert date().endswith("GMT")


POSTER = """
import sys, urllib.request
url, body, *headers = sys.argv[1:]
request = urllib.request.Request(url, body.encode(), dict(h.split(": ", 1) for h in headers), method="POST")
print("sending", flush=True)
urllib.request.urlopen(request, timeout=30)
"""


def wait_until(holds: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < give_up_at, "it never came"
        threading.Event().wait(0.005)


@pytest.mark.parametrize(
    ("on_disconnect", "left"), [(None, 6), ("drop", 10)], ids=["acts by default", "dropped on request"]
)
@pytest.mark.parametrize("path", [ORDERS, ORDERS + "/batched"], ids=["order", "batch"])
def test_a_client_killed_while_its_order_waits(
    client: Client, server: SandboxServer, on_disconnect: str | None, left: int, path: str
) -> None:

    server.set_faults(latency_s=1.5, **({} if on_disconnect is None else {"on_disconnect": on_disconnect}))
    order = order_body(YES, "ask", "4", "0.01", reduce_only=True, client_order_id="killed")
    body = json.dumps({"orders": [order]} if path.endswith("batched") else order)
    headers = client.headers("POST", "/trade-api/v2" + path) | {"Content-Type": "application/json"}
    arguments = [server.rest_url + path, body, *(f"{name}: {value}" for name, value in headers.items())]
    process = subprocess.Popen([sys.executable, "-c", POSTER, *arguments])
    try:
        wait_until(lambda: f"POST {path}" in server.ledger()["requests"])  # type: ignore[operator]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert held(server) == 10
    server.set_faults(latency_s=0)
    if left == 6:
        wait_until(lambda: held(server) == 6)
    else:
        # Its own turn would have come by then: a later call that waits as long has been answered.
        server.set_faults(latency_s=1.6)
        client.get("/markets")
    assert held(server) == left


def test_pauses_refuse_orders_until_mended(client: Client, server: SandboxServer) -> None:
    for fault, code in (
        ({"pause_market": YES}, "trading_is_paused"),
        ({"trading_active": False}, "trading_is_paused"),
        ({"exchange_active": False}, "exchange_is_paused"),
    ):
        server.set_faults(**fault)
        answer = exit_orders(client)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, code)
        server.clear_faults()
    assert exit_orders(client).status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        {"nonsense": 1},
        {"silent_s": "long"},
        {"drop_acks": True},
        {"refuse_ws": 5},
        {"calls": [{"action": "explode"}]},
        {"mute_tickers": "all"},
        {"max_fill_per_order": 3},
        {"max_fill_per_order": "NaN"},
        {"shard_active": [2]},
        {"shard_active": {"two": False}},
        {"shard_active": {"2": "maybe"}},
        {"shard_active": {"2": 0}},
        {"shard_balance": {"2": 0}},
        {"shard_balance": {"2": None}},
        {"auth": "expired"},
        {"gone": 1},
        {"on_disconnect": "both"},
        {"maintenance_windows": {"start_in_s": 1}},
        {"maintenance_windows": [{"start_in_s": 2, "end_in_s": 1}]},
        {"maintenance_windows": [{"start_in_s": False, "end_in_s": 1}]},
        {"date": "none"},
        {"attestation_ends_in_s": "soon"},
        {"attestation_ends_in_s": True},
        {"attestation_ends_in_s": float("nan")},
    ],
)
def test_bad_fault_requests_say_what_is_wrong(body: dict[str, object]) -> None:
    with pytest.raises(BadFaultRequest):
        parse_faults(body)


def test_control_over_http(server: SandboxServer, client: Client) -> None:
    def post(path: str, body: object) -> requests.Response:
        return requests.post(server.control_url + path, json=body, timeout=5)

    assert post("/market/" + YES, {"bid": "0.30", "ask": "0.31", "bid_size": "7"}).status_code == 200
    market = client.get(f"/markets/{YES}")["market"]
    assert (market["yes_bid_dollars"], market["yes_bid_size_fp"]) == ("0.3000", "7.00")
    assert post("/market/" + YES, {"bid": "0.305"}).status_code == 400
    assert post("/market/" + YES, {"bid": 0.3}).status_code == 400
    assert post("/market/KX-NOBODY", {"bid": "0.30"}).status_code == 404
    added = {"ticker": "KXB-2-FLAT", "side": "yes", "count": "2", "price": "0.31"}
    assert post("/position", added).status_code == 200
    assert post("/faults", {"nonsense": 1}).status_code == 400
    assert post("/faults", {}).status_code == 200
    ledger = requests.get(server.control_url + "/ledger", timeout=5).json()
    assert ledger["positions"]["KXB-2-FLAT"]["count"] == "2.00"
