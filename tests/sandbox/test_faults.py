"""REST faults on demand, and bad control requests."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
import requests

from base.sandbox.faults import BadFaultRequest, parse_faults
from base.sandbox.scenario import Scenario
from base.sandbox.server import SandboxServer
from tests.fakes.clock import FakeClock
from tests.sandbox.client import Client

YES = "KXA-1-YES"
ORDERS = "/portfolio/events/orders"


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
