"""Several orders in one request: each on its own, under every fault that a single order meets."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import requests

from base.sandbox.scenario import Scenario
from base.sandbox.server import SandboxServer
from tests.fakes.clock import FakeClock
from tests.sandbox.client import ORDERS, Client, order_body

YES, NO, FLAT = "KXA-1-YES", "KXA-1-NO", "KXB-2-FLAT"
BATCH = ORDERS + "/batched"


def exits(*names: str, count: str = "2") -> list[dict[str, object]]:
    return [order_body(YES, "ask", count, "0.01", reduce_only=True, client_order_id=name) for name in names]


def held(server: SandboxServer, ticker: str = YES) -> Decimal:
    return server.call(lambda venue: venue.exchange.ledger.position_count(ticker))


def outcomes(answer: requests.Response) -> list[str]:
    """What became of each item: its fill count, or its error's code."""
    assert answer.status_code == 201, answer.text
    return [row["error"]["code"] if row["error"] else row["fill_count"] for row in answer.json()["orders"]]


def script(action: str, **fields: object) -> list[dict[str, object]]:
    return [{"method": "POST", "path": BATCH, "action": action, **fields}]


def test_each_item_is_filled_or_refused_by_itself(client: Client, server: SandboxServer) -> None:
    client.order(FLAT, "bid", "1", "0.40", client_order_id="used")
    answer = client.batch(
        *exits("a"),
        order_body(FLAT, "bid", "1", "0.40", client_order_id="used"),
        order_body(FLAT, "bid", "1", "0.405", client_order_id="off-grid"),
        order_body("KX-NOBODY", "ask", "1", "0.01", client_order_id="nobody"),
        order_body(FLAT, "bid", "none", "0.40", client_order_id="malformed"),
        *exits("b", "b"),
    )
    assert outcomes(answer) == [
        "2.00",
        "order_already_exists",
        "invalid_price",
        "not_found",
        "invalid_order_size",
        "2.00",
        "order_already_exists",
    ]
    rows = answer.json()["orders"]
    assert [row["client_order_id"] for row in rows][:3] == ["a", "used", "off-grid"]
    assert held(server) == 6


def test_the_ledger_lists_every_item_with_its_time_and_outcome(quiet: Scenario, key_dir: Path) -> None:
    clock = FakeClock()
    with SandboxServer(quiet, key_dir=key_dir, clock=clock) as server, Client(server, clock.now) as client:
        client.batch(*exits("a"), *exits("b", count="9"), order_body(FLAT, "bid", "x", "0.40"))
        clock.advance(1)
        client.order(YES, "ask", "1", "0.01", reduce_only=True, client_order_id="c")
        submissions: Any = server.ledger()["submissions"]
        start = clock.now() - 1
    assert [
        (s["at"] - start, s["client_order_id"], s["count"], s["outcome"], s["fill_count"])
        for s in submissions
    ] == [
        (0, "a", "2.00", "accepted", "2.00"),
        (0, "b", "9.00", "accepted", "8.00"),
        (0, "", "x", "invalid_order_size", "0.00"),
        (1, "c", "1.00", "accepted", "0.00"),
    ]


def test_a_batch_is_charged_by_its_size_and_fits_as_a_whole_or_not_at_all(
    quiet: Scenario, key_dir: Path
) -> None:
    clock = FakeClock()
    with SandboxServer(quiet, key_dir=key_dir, clock=clock) as server, Client(server, clock.now) as client:
        assert outcomes(client.batch(*exits(*"abcdef", count="1"))) == ["1.00"] * 6
        refused = client.batch(*exits(*"ghijk", count="1"))
        assert (refused.status_code, held(server)) == (429, 4)
        assert client.batch(*exits(*"ghij", count="1")).status_code == 201
        clock.advance(0.5)
        assert client.batch(*exits(*"lmnopq", count="1")).status_code == 429
        clock.advance(10)  # a bucket of 100 tokens, however long it fills
        assert client.batch(*exits(*[f"r{n}" for n in range(11)], count="1")).status_code == 429


@pytest.mark.parametrize(
    ("action", "status", "left"),
    [("act_then_500", 500, 6), ("503", 503, 10), ("429", 429, 10)],
)
def test_a_scripted_answer_to_a_batch_acts_or_not(
    client: Client, server: SandboxServer, action: str, status: int, left: int
) -> None:
    server.set_faults(calls=script(action))
    assert client.batch(*exits("a", "b")).status_code == status
    assert held(server) == left
    again = ["order_already_exists"] * 2 if left == 6 else ["2.00"] * 2
    assert outcomes(client.batch(*exits("a", "b"))) == again


@pytest.mark.parametrize(("action", "left"), [("act_then_reset", 6), ("reset_before", 10)])
def test_a_reset_leaves_the_outcome_of_every_item_open(
    client: Client, server: SandboxServer, action: str, left: int
) -> None:
    server.set_faults(calls=script(action))
    with pytest.raises(requests.ConnectionError):
        client.batch(*exits("a", "b"))
    assert held(server) == left


def test_a_batch_can_act_without_an_answer(client: Client, server: SandboxServer) -> None:
    server.set_faults(calls=script("act_then_timeout"))
    with pytest.raises(requests.Timeout):
        requests.post(
            server.rest_url + BATCH,
            json={"orders": exits("a", "b")},
            headers=client.headers("POST", "/trade-api/v2" + BATCH),
            timeout=0.2,
        )
    assert held(server) == 6


def test_a_script_for_single_orders_leaves_batches_alone(client: Client, server: SandboxServer) -> None:
    server.set_faults(calls=[{"method": "POST", "path": ORDERS, "action": "503"}])
    assert outcomes(client.batch(*exits("a"))) == ["2.00"]
    assert client.order(FLAT, "bid", "1", "0.40").status_code == 503


def test_matching_faults_count_the_items_of_a_batch(client: Client, server: SandboxServer) -> None:
    server.set_faults(max_fill_per_order="1", zero_fill_orders=1)
    assert outcomes(client.batch(*exits("a", "b", "c"))) == ["0.00", "1.00", "1.00"]


def test_a_paused_market_refuses_its_items_only(client: Client, server: SandboxServer) -> None:
    server.set_faults(pause_market=YES)
    answer = client.batch(*exits("a"), order_body(FLAT, "bid", "1", "0.40"))
    assert outcomes(answer) == ["trading_is_paused", "1.00"]


def test_latency_comes_before_the_whole_batch(client: Client, server: SandboxServer) -> None:
    server.set_faults(latency_s=0.2)
    with pytest.raises(requests.Timeout):
        requests.post(
            server.rest_url + BATCH,
            json={"orders": exits("a", "b")},
            headers=client.headers("POST", "/trade-api/v2" + BATCH),
            timeout=0.05,
        )
    assert held(server) == 10
