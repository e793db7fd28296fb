"""The official SDK drives the sandbox unchanged; skipped where it is not installed."""

from __future__ import annotations

import pytest

from base.sandbox.server import SandboxServer

sdk = pytest.importorskip("kalshi_python_sync", exc_type=ImportError)
YES, FLAT = "KXA-1-YES", "KXB-2-FLAT"


def test_it_lists_places_and_cancels(server: SandboxServer) -> None:
    configuration = sdk.Configuration(host=server.rest_url)
    configuration.api_key_id = server.key_id
    configuration.private_key_pem = server.key_file.read_text()
    client = sdk.KalshiClient(configuration)
    markets = client.get_markets(tickers=f"{YES},{FLAT}", limit=5).markets
    assert [m.ticker for m in markets] == [YES, FLAT]
    positions = client.get_positions(limit=10).market_positions
    assert {p.ticker: p.position_fp for p in positions}[YES] == "10.00"
    common = {"self_trade_prevention_type": "taker_at_cross"}
    exit_order = client.create_order_v2(
        ticker=YES,
        client_order_id="sdk-exit",
        side="ask",
        count="3.00",
        price="0.0100",
        time_in_force="immediate_or_cancel",
        reduce_only=True,
        **common,
    )
    assert exit_order.fill_count == "3.00"
    resting = client.create_order_v2(
        ticker=FLAT,
        client_order_id="sdk-rest",
        side="bid",
        count="1.00",
        price="0.0500",
        time_in_force="good_till_canceled",
        **common,
    )
    assert client.cancel_order_v2(resting.order_id, market_ticker=FLAT).reduced_by == "1.00"
    assert client.get_balance().balance_dollars
    assert {o.client_order_id for o in client.get_orders(limit=10).orders} >= {"sdk-exit", "sdk-rest"}
    assert client.get_fills(limit=10).fills[0].fee_cost
