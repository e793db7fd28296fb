"""Account and exchange documents."""

from __future__ import annotations

import json
from decimal import Decimal as D
from typing import Any

import pytest

from base.errors import WireError
from base.kalshi import account_documents as documents
from base.kalshi.account_documents import EndpointCosts
from base.kalshi.rate_limit import Quota

from .bodies import LIMITS, SETTLEMENT, but


def body(document: Any) -> bytes:
    return json.dumps(document).encode()


def test_balance_in_dollars_is_exact_where_cents_are_truncated() -> None:
    balance = documents.parse_balance(
        body(
            {
                "balance": 9801,
                "balance_dollars": "98.0186",
                "portfolio_value": 198,
                "updated_ts": 1781159348,
                "balance_breakdown": [{"exchange_index": 2, "balance": "98.0186"}],
            }
        )
    )

    assert (balance.available, balance.portfolio_value) == (D("98.0186"), D("1.98"))
    assert balance.by_shard == {2: D("98.0186")}


def test_balance_of_an_old_document_is_in_cents() -> None:
    assert documents.parse_balance(b'{"balance": 9801}').available == D("98.01")


@pytest.mark.parametrize(
    ("document", "read", "write"),
    [
        (LIMITS, Quota(400, 200), Quota(100, 100)),
        ({"read": {"refill_rate": 300}, "write": {"refill_rate": 50}}, Quota(300, 300), Quota(50, 50)),
        ({"usage_tier": "basic", "read_limit": 20, "write_limit": 10}, Quota(20, 20), Quota(10, 10)),
    ],
    ids=["recorded", "without capacity", "plain rates"],
)
def test_account_limits(document: Any, read: Quota, write: Quota) -> None:
    limits = documents.parse_account_limits(body(document))

    assert (limits.read, limits.write) == (read, write)


@pytest.mark.parametrize(
    "document",
    [
        {},
        but(LIMITS, write=...),
        but(LIMITS, write={"bucket_capacity": 0, "refill_rate": 0}),
        but(LIMITS, read="200"),
    ],
    ids=str,
)
def test_limits_that_make_no_sense_are_refused(document: Any) -> None:
    with pytest.raises(WireError):
        documents.parse_account_limits(body(document))


COSTS = {
    "default_cost": 10,
    "endpoint_costs": [
        {"cost": 150, "method": "GET", "path": "/trade-api/v2/cfbenchmarks/*endpoint"},
        {"cost": 2, "method": "DELETE", "path": "/trade-api/v2/portfolio/events/orders/:order_id"},
        {"cost": 7, "method": "DELETE", "path": "/trade-api/v2/portfolio/events/orders/batched"},
        {"cost": 2, "method": "GET", "path": "/trade-api/v2/portfolio/orders/:order_id"},
    ],
}


@pytest.mark.parametrize(
    ("method", "path", "cost"),
    [
        ("GET", "/markets", 10),
        ("POST", "/portfolio/events/orders", 10),
        ("DELETE", "/portfolio/events/orders", 10),
        ("DELETE", "/portfolio/events/orders/abc", 2),
        ("DELETE", "/portfolio/events/orders/batched", 7),
        ("GET", "/portfolio/orders/abc", 2),
        ("GET", "/portfolio/orders", 10),
        ("GET", "/portfolio/orders/abc/queue_position", 10),
        ("GET", "/cfbenchmarks/a/b", 150),
    ],
)
def test_cost_of_a_request(method: str, path: str, cost: int) -> None:
    assert documents.parse_endpoint_costs(body(COSTS)).cost(method, f"/trade-api/v2{path}") == cost


def test_costs_before_they_are_read() -> None:
    costs = EndpointCosts()

    assert costs.cost("POST", "/trade-api/v2/portfolio/events/orders") == 10
    assert costs.cost("DELETE", "/trade-api/v2/portfolio/events/orders/x") == 2


def test_exchange_status_by_shard() -> None:
    status = documents.parse_exchange_status(
        body(
            {
                "exchange_active": True,
                "trading_active": True,
                "exchange_estimated_resume_time": "2026-11-26T10:00:00Z",
                "exchange_index_statuses": [
                    {
                        "exchange_index": 2,
                        "description": "crypto",
                        "exchange_active": True,
                        "trading_active": False,
                    }
                ],
            }
        )
    )

    assert status.can_trade(0)
    assert status.can_trade(None)
    assert not status.can_trade(2)
    assert status.estimated_resume_time == 1_795_687_200


@pytest.mark.parametrize("flags", [(True, False), (False, True), (False, False)])
def test_exchange_that_takes_no_orders_cannot_trade(flags: tuple[bool, bool]) -> None:
    status = documents.parse_exchange_status(body({"exchange_active": flags[0], "trading_active": flags[1]}))

    assert not status.can_trade(0)


def test_exchange_status_with_missing_flags_is_refused() -> None:
    with pytest.raises(WireError):
        documents.parse_exchange_status(b'{"exchange_active": true}')


def test_exchange_schedule() -> None:
    hours = {
        day: [{"open_time": "00:00", "close_time": "24:00"}]
        for day in ("monday", "tuesday", "wednesday", "friday", "saturday", "sunday")
    }
    thursday = [{"open_time": "00:00", "close_time": "03:00"}, {"open_time": "05:00", "close_time": "24:00"}]
    week = {"start_time": "2026-01-01T00:00:00Z", "end_time": "2027-01-01T00:00:00Z", "thursday": thursday}
    window = {"start_datetime": "2026-11-26T08:00:00Z", "end_datetime": "2026-11-26T10:00:00Z"}
    schedule = documents.parse_exchange_schedule(
        body({"schedule": {"standard_hours": [week | hours], "maintenance_windows": [window]}})
    )

    assert schedule.maintenance_windows == ((1_795_680_000.0, 1_795_687_200.0),)
    assert schedule.standard_hours[0].days[3] == (("00:00", "03:00"), ("05:00", "24:00"))


def test_user_data_timestamp() -> None:
    assert documents.parse_user_data_timestamp(b'{"as_of_time": "2026-11-26T10:00:00.5Z"}') == 1_795_687_200.5


def test_api_keys_and_the_end_of_the_attestation() -> None:
    keys = documents.parse_api_keys(
        body(
            {
                "api_keys": [
                    {"api_key_id": "a", "name": "bot", "scopes": ["read", "write::trade"], "subaccount": 3}
                ],
                "api_key_region_expiration_ts": 1_800_000_000,
            }
        )
    )

    assert keys.region_expiration_ts == 1_800_000_000
    assert (keys.keys[0].scopes, keys.keys[0].subaccount) == (("read", "write::trade"), 3)
    assert documents.parse_api_keys(b'{"api_keys": []}').region_expiration_ts is None


def test_settlement_amounts_are_dollars() -> None:
    (settlement,), cursor = documents.parse_settlement_page(body({"settlements": [SETTLEMENT], "cursor": ""}))

    assert cursor == ""
    assert (settlement.revenue, settlement.yes_value, settlement.yes_cost) == (10, 1, D("0.4"))
    assert settlement.settled_time == 1_786_975_200
    with pytest.raises(WireError):
        documents.parse_settlement_page(body({"settlements": [but(SETTLEMENT, revenue=...)], "cursor": ""}))
