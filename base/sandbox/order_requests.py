"""Checks order-entry bodies field by field, as strictly as the exchange does. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from typing import TypeVar

from base.model.market import BookSide
from base.model.order import TimeInForce
from base.sandbox.fixed_point import CENT, parse_count, parse_price
from base.sandbox.records import NewOrder, SelfTradePrevention
from base.sandbox.refusals import Refused, bad_request, invalid_parameters

CLIENT_ORDER_ID_LENGTH_MAX = 64
_Choice = TypeVar("_Choice", bound=StrEnum)
_JSON_KINDS: dict[type, str] = {
    int: "number",
    float: "number",
    str: "string",
    bool: "bool",
    dict: "object",
    list: "array",
}
_GO_KINDS: dict[type, str] = {str: "string", bool: "bool", int: "int64", list: "slice"}
CREATE_FIELDS: dict[str, type] = {
    "ticker": str,
    "client_order_id": str,
    "side": str,
    "count": str,
    "price": str,
    "expiration_time": int,
    "time_in_force": str,
    "post_only": bool,
    "self_trade_prevention_type": str,
    "cancel_order_on_pause": bool,
    "reduce_only": bool,
    "subaccount": int,
    "order_group_id": str,
    "exchange_index": int,
}
AMEND_FIELDS: dict[str, type] = {
    "ticker": str,
    "side": str,
    "price": str,
    "count": str,
    "client_order_id": str,
    "updated_client_order_id": str,
    "expiration_time": int,
    "exchange_index": int,
}
DECREASE_FIELDS: dict[str, type] = {
    "reduce_by": str,
    "reduce_to": str,
    "exchange_index": int,
    "market_ticker": str,
}
CANCEL_FIELDS: dict[str, type] = {
    "order_id": str,
    "subaccount": int,
    "exchange_index": int,
    "market_ticker": str,
}


def decode_object(raw: bytes) -> dict[str, object]:
    """The JSON object of a request body. Raises Refused."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise bad_request(f"invalid JSON: {exc}") from exc
    if not isinstance(body, dict):
        raise bad_request("json: the request body must be an object")
    return body


def check_types(body: Mapping[str, object], fields: Mapping[str, type], struct: str) -> None:
    """Refuse a wrong JSON type in the words recorded on 2026-06-11."""
    for name, wanted in fields.items():
        value = body.get(name)
        if value is None:
            continue
        if type(value) is not wanted:
            kind = _JSON_KINDS.get(type(value), "value")
            field = f"Go struct field {struct}.{name} of type {_GO_KINDS[wanted]}"
            raise bad_request(f"json: cannot unmarshal {kind} into {field}")


def parse_new_order(body: Mapping[str, object], new_id: str) -> NewOrder:
    """A create-order request. `new_id` stands in for a missing client order id. Raises Refused."""
    check_types(body, CREATE_FIELDS, "CreateOrderV2Request")
    client_order_id = optional_text(body, "client_order_id") or new_id
    if len(client_order_id) > CLIENT_ORDER_ID_LENGTH_MAX:
        raise invalid_parameters(f"client_order_id must have at most {CLIENT_ORDER_ID_LENGTH_MAX} characters")
    if not all(c.isalnum() or c in "_-" for c in client_order_id) or not client_order_id.isascii():
        raise invalid_parameters("client_order_id may hold letters, digits, '_' and '-' only")
    if optional_integer(body, "subaccount") not in (None, 0):
        raise invalid_parameters("the sandbox has only the primary subaccount 0")
    return NewOrder(
        ticker=required_text(body, "ticker"),
        side=choice(body, "side", BookSide),
        count=count_of(body, "count"),
        price=price_of(body, "price"),
        time_in_force=choice(body, "time_in_force", TimeInForce),
        self_trade_prevention=choice(body, "self_trade_prevention_type", SelfTradePrevention),
        client_order_id=client_order_id,
        reduce_only=body.get("reduce_only") is True,
        post_only=body.get("post_only") is True,
        cancel_order_on_pause=body.get("cancel_order_on_pause") is True,
        expiration_time_s=optional_integer(body, "expiration_time"),
        exchange_index=optional_integer(body, "exchange_index"),
    )


def required_text(body: Mapping[str, object], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise invalid_parameters(f"{name} is required")
    return value


def optional_text(body: Mapping[str, object], name: str) -> str | None:
    value = body.get(name)
    return value if isinstance(value, str) and value else None


def optional_integer(body: Mapping[str, object], name: str) -> int | None:
    value = body.get(name)
    return value if isinstance(value, int) else None


def choice(body: Mapping[str, object], name: str, known: type[_Choice]) -> _Choice:
    text = required_text(body, name)
    try:
        return known(text)
    except ValueError as exc:
        raise invalid_parameters(f"{name} must be one of {', '.join(known)}") from exc


def count_of(body: Mapping[str, object], name: str, *, bottom: Decimal = CENT) -> Decimal:
    count = parse_count(required_text(body, name))
    if count is None or count < bottom:
        raise Refused(
            400, "invalid_order_size", details=f"{name} must be at least {bottom} with at most two decimals"
        )
    return count


def price_of(body: Mapping[str, object], name: str) -> Decimal:
    price = parse_price(required_text(body, name))
    if price is None:
        raise Refused(400, "invalid_price")
    return price
