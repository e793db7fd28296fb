"""Answers and frames against the official specs, where those lie beside the project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from base.sandbox.scenario import Scenario
from base.sandbox.server import SandboxServer
from tests.fakes.clock import FakeClock
from tests.sandbox.client import Client

yaml = pytest.importorskip("yaml")
SPECS = Path(__file__).parents[2].parent / "shared" / "specs"
pytestmark = pytest.mark.skipif(not SPECS.is_dir(), reason="the official specs are not beside the project")
YES, NO, FLAT = "KXA-1-YES", "KXA-1-NO", "KXB-2-FLAT"
ORDERS = "/portfolio/events/orders"
_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}


class Spec:
    """A validator of required fields, types, enumerations and constants over one spec file."""

    def __init__(self, path: Path) -> None:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self.document: dict[str, Any] = yaml.load(path.read_text(), Loader=loader)

    def resolve(self, schema: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in schema:
            node: Any = self.document
            for part in schema["$ref"].removeprefix("#/").split("/"):
                node = node[part]
            schema = {**node, **{k: v for k, v in schema.items() if k != "$ref"}}
        return schema

    def problems(self, schema: dict[str, Any], value: object, where: str = "") -> list[str]:
        schema = self.resolve(schema)
        kinds = schema.get("type", [])
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if value is None:
            may_be_null = schema.get("nullable") or "null" in kinds or not kinds
            return [] if may_be_null else [f"{where}: null"]
        found = [p for part in schema.get("allOf", []) for p in self.problems(part, value, where)]
        wanted = [_TYPES[k] for k in kinds if k != "null"]
        is_bool = isinstance(value, bool) and "boolean" not in kinds
        if wanted and (is_bool or not any(isinstance(value, w) for w in wanted)):
            return [*found, f"{where}: {value!r} is not {kinds}"]
        if "enum" in schema and value not in schema["enum"]:
            found.append(f"{where}: {value!r} is none of {schema['enum']}")
        if "const" in schema and value != schema["const"]:
            found.append(f"{where}: {value!r} is not {schema['const']!r}")
        if isinstance(value, dict):
            found += [f"{where}.{name}: missing" for name in schema.get("required", []) if name not in value]
            for name, part in schema.get("properties", {}).items():
                if name in value:
                    found += self.problems(part, value[name], f"{where}.{name}")
        if isinstance(value, list) and "items" in schema:
            for index, item in enumerate(value):
                found += self.problems(schema["items"], item, f"{where}[{index}]")
        return found


@pytest.fixture(scope="module")
def openapi() -> Spec:
    return Spec(SPECS / "openapi.yaml")


@pytest.fixture(scope="module")
def asyncapi() -> Spec:
    return Spec(SPECS / "asyncapi.yaml")


def answer_problems(spec: Spec, method: str, path: str, status: int, body: object) -> list[str]:
    response = spec.resolve(spec.document["paths"][path][method.lower()]["responses"][str(status)])
    schema = response["content"]["application/json"]["schema"]
    return spec.problems(schema, body, f"{method} {path}")


def test_the_validator_sees_a_missing_field(openapi: Spec) -> None:
    schema = {"$ref": "#/components/schemas/PriceRange"}
    assert openapi.problems(schema, {"start": "0", "end": 1}) == [
        ".step: missing",
        ".end: 1 is not ['string']",
    ]


def test_rest_answers(quiet: Scenario, key_dir: Path, openapi: Spec) -> None:
    clock = FakeClock()
    with SandboxServer(quiet, key_dir=key_dir, clock=clock) as server, Client(server, clock.now) as client:
        resting = client.order(
            FLAT, "bid", "2", "0.10", time_in_force="good_till_canceled", client_order_id="r"
        )
        filled = client.order(YES, "ask", "3", "0.01", reduce_only=True)
        calls: list[tuple[str, str, str, object]] = [
            ("GET", path, path, None)
            for path in (
                "/exchange/status", "/exchange/schedule", "/exchange/user_data_timestamp",
                "/account/limits", "/account/endpoint_costs", "/api_keys", "/series", "/events", "/markets",
                "/markets/trades", "/portfolio/balance", "/portfolio/positions", "/portfolio/fills",
                "/portfolio/orders",
            )
        ]  # fmt: skip
        order_id = resting.json()["order_id"]
        calls += [
            ("GET", "/series/{series_ticker}", "/series/KXA", None),
            ("GET", "/events/{event_ticker}", "/events/KXA-1?with_nested_markets=true", None),
            ("GET", "/events", "/events?with_nested_markets=true", None),
            ("GET", "/markets/{ticker}", f"/markets/{NO}", None),
            ("GET", "/markets/{ticker}/orderbook", f"/markets/{NO}/orderbook", None),
            ("GET", "/markets/orderbooks", f"/markets/orderbooks?tickers={NO}", None),
            ("GET", "/portfolio/orders/{order_id}", f"/portfolio/orders/{order_id}", None),
            ("POST", ORDERS + "/{order_id}/amend", f"{ORDERS}/{order_id}/amend",
             {"ticker": FLAT, "side": "bid", "price": "0.12", "count": "2"}),
            ("POST", ORDERS + "/{order_id}/decrease", f"{ORDERS}/{order_id}/decrease", {"reduce_by": "1"}),
            ("DELETE", ORDERS + "/{order_id}", f"{ORDERS}/{order_id}?market_ticker={FLAT}", None),
        ]  # fmt: skip
        problems = answer_problems(openapi, "POST", ORDERS, 201, resting.json())
        problems += answer_problems(openapi, "POST", ORDERS, 201, filled.json())
        for method, template, path, body in calls:
            clock.advance(0.2)
            answer = client.call(method, path, body)
            assert answer.status_code == 200, (path, answer.text)
            problems += answer_problems(openapi, method, template, 200, answer.json())
        batch = client.call(
            "POST",
            ORDERS + "/batched",
            {
                "orders": [
                    {
                        "ticker": FLAT,
                        "side": "bid",
                        "count": "1",
                        "price": price,
                        "time_in_force": "good_till_canceled",
                        "self_trade_prevention_type": "maker",
                    }
                    for price in ("0.05", "0.055")
                ]
            },
        )
        problems += answer_problems(openapi, "POST", ORDERS + "/batched", 201, batch.json())
        ids = [{"order_id": row.get("order_id", "none")} for row in batch.json()["orders"]]
        gone = client.call("DELETE", ORDERS + "/batched", {"orders": ids})
        problems += answer_problems(openapi, "DELETE", ORDERS + "/batched", 200, gone.json())
        server.set_market(YES, result="yes", close_in_s=0)
        for _ in range(20):
            clock.advance(1)
            server.call(lambda venue: venue.step())
        for path in ("/portfolio/settlements", "/markets", "/portfolio/positions"):
            problems += answer_problems(openapi, "GET", path, 200, client.get(path))
        assert client.get("/portfolio/settlements")["settlements"]
    assert problems == []


def test_stream_frames(quiet: Scenario, key_dir: Path, asyncapi: Spec) -> None:
    names = {
        "subscribed": "subscribedResponsePayload",
        "unsubscribed": "unsubscribedResponsePayload",
        "error": "errorResponsePayload",
        "orderbook_snapshot": "orderbookSnapshotPayload",
        "orderbook_delta": "orderbookDeltaPayload",
        "ticker": "tickerPayload",
        "trade": "tradePayload",
        "fill": "fillPayload",
        "user_order": "userOrderPayload",
        "market_position": "marketPositionPayload",
        "market_lifecycle_v2": "marketLifecycleV2Payload",
    }
    clock = FakeClock()
    with (
        SandboxServer(quiet, key_dir=key_dir, clock=clock) as server,
        Client(server, clock.now) as client,
        client.stream() as stream,
    ):
        stream.subscribe(
            "ticker", "orderbook_delta", "trade", "fill", "user_orders", "market_positions", "surprise",
            market_tickers=[YES], send_initial_snapshot=True, use_yes_price=False,
        )  # fmt: skip
        stream.subscribe("market_lifecycle_v2", command_id=2)
        while stream.expect("subscribed")["msg"]["channel"] != "market_lifecycle_v2":
            continue
        client.order(YES, "ask", "3", "0.01", reduce_only=True)
        client.order(YES, "bid", "1", "0.10", time_in_force="good_till_canceled")
        server.set_faults(pause_market=YES)
        server.set_faults(resume_market=YES)
        server.set_market(YES, result="yes", close_in_s=0)
        for _ in range(20):
            clock.advance(1)
            server.call(lambda venue: venue.step())
        stream.send({"id": 3, "cmd": "unsubscribe", "params": {"sids": [1, 2]}})
        stream.expect("unsubscribed")
        params = {"sid": 3, "action": "add_markets", "market_tickers": [NO]}
        stream.send({"id": 4, "cmd": "update_subscription", "params": params})
        ok = stream.expect("ok")
        stream.send({"id": 5, "cmd": "list_subscriptions"})
        listed = stream.expect("ok")
    schemas = asyncapi.document["components"]["schemas"]
    problems = asyncapi.problems(schemas["okResponsePayload"], ok, "ok")
    problems += asyncapi.problems(schemas["listSubscriptionsResponsePayload"], listed, "listed")
    for frame in stream.seen:
        if frame["type"] != "ok":
            problems += asyncapi.problems(schemas[names[frame["type"]]], frame, frame["type"])
    assert problems == []
    assert {f["type"] for f in stream.seen} == set(names) | {"ok"}
