"""Order entry: the bodies we send, and what an answer proves. Also how errors read. Pure.

One rule above all: an order that may have acted is never reported as refused or as not sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from base.errors import (
    AuthError,
    BotError,
    InvariantError,
    OrderOutcomeUnknown,
    OrderRejected,
    RateLimitedError,
    RequestRejected,
    TransientError,
    WireError,
)
from base.kalshi.strict_json import convert, excerpt, parse_json, prepare
from base.kalshi.wire import format_count, format_price, parse_dollars, parse_price, parse_size, parse_ticker
from base.model.order import OrderAck, OrderRequest, TimeInForce

ORDERS_PATH = "/portfolio/events/orders"
BATCH_PATH = f"{ORDERS_PATH}/batched"

# --- errors ---------------------------------------------------------------------------------------------

HEADER_TIMESTAMP_EXPIRED = "header_timestamp_expired"

DEFINITE_CODES = frozenset(
    {
        "deprecated_v1_order_endpoint",
        "invalid_order",
        "invalid_price",
        "invalid_parameters",
        "invalid_order_size",
        "bad_request",
        "insufficient_balance",
        "available_balance_too_low",
        "order_already_exists",
        "fill_or_kill_insufficient_resting_volume",
        "trading_is_paused",
        "exchange_is_paused",
        "market_inactive",
        "not_found",
    }
)
"""Codes that say for certain that an order did not act, whatever HTTP status they came with (a refusal with
a 2xx status has been seen in the field)."""

AUTH_CODES = frozenset(
    {HEADER_TIMESTAMP_EXPIRED, "authentication_error", "signature_is_missing_from_headers"}
)
TOO_MANY_REQUESTS = "too_many_requests"

_CONFLICT_CODES = frozenset(
    {
        "order_already_exists",
        "fill_or_kill_insufficient_resting_volume",
        "trading_is_paused",
        "exchange_is_paused",
        "market_inactive",
    }
)
_STATUS_OF_CODE = (
    dict.fromkeys(DEFINITE_CODES, 400)
    | dict.fromkeys(_CONFLICT_CODES, 409)
    | dict.fromkeys(AUTH_CODES, 401)
    | {"not_found": 404, "deprecated_v1_order_endpoint": 410}
)
"""The HTTP status that a code comes with when it answers a single order: in a batch it has none."""

WITHOUT_BATCHES = frozenset({404, 405, 410})
"""Statuses of a whole batch that say that there is no such endpoint."""


@dataclass(frozen=True, slots=True)
class ApiError:
    """An error body; fields the exchange did not send are empty. `code` is in lower case."""

    code: str = ""
    message: str = ""
    details: str = ""

    def __str__(self) -> str:
        parts = (self.code, self.message, self.details)
        return ": ".join(part for part in parts if part) or "no reason given"


def parse_error(body: bytes) -> ApiError | None:
    """The error in a body, in any of the four shapes the exchange uses; None when it holds none."""
    try:
        document = parse_json(body)
    except WireError:
        return None
    error = document.get("error")
    if isinstance(error, Mapping):
        return _api_error(error)
    if isinstance(error, str) and error:
        # {"error": "too many requests"} (docs.kalshi.com, rate_limits)
        return ApiError(code=error.strip().lower().replace(" ", "_"), message=error)
    if isinstance(document.get("msg"), str):
        return ApiError(message=document["msg"])  # query validation, recorded 2026-06-11
    if isinstance(document.get("code"), str):
        return _api_error(document)
    return None


def _api_error(fields: Mapping[str, Any]) -> ApiError:
    def text(name: str) -> str:
        value = fields.get(name)
        return value[:500] if isinstance(value, str) else ""

    return ApiError(text("code").lower(), text("message"), text("details"))


def read_error(status: int, body: bytes, what: str) -> BotError:
    """The error to raise for a read that was not answered with 200; `what` names the request."""
    error = parse_error(body)
    reason = f"{what} answered {status}: {error or excerpt(body)}"
    code = error.code if error else ""
    if status in (401, 403):
        return AuthError(f"{reason}{_auth_remedy(code)}", status=status, code=code)
    if status == 429:
        return RateLimitedError(reason)
    if status in (408, 425) or status >= 500:
        return TransientError(reason)
    if 400 <= status < 500:
        return RequestRejected(reason, status=status, code=code)
    if 300 <= status < 400:
        return WireError(f"{reason}; redirects are not followed: correct KALSHI_REST_URL")
    return WireError(reason)


def _auth_remedy(code: str) -> str:
    if code == HEADER_TIMESTAMP_EXPIRED:
        return " (set this machine's clock: it must be within 2 s of true time)"
    if code == "signature_is_missing_from_headers":
        return " (no API key is configured: set KALSHI_API_KEY_ID and KALSHI_PRIVATE_KEY_PATH)"
    return " (check that key id, key file and KALSHI_ENV belong together, and the key's scopes)"


# --- sending orders -------------------------------------------------------------------------------------

_CLIENT_ORDER_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


def order_body(request: OrderRequest) -> bytes:
    """The body of `POST /portfolio/events/orders`. Raises InvariantError for an order no market can take.

    A reduce-only order prevents self-trades by cancelling our own resting order, so that an exit is never
    the one that gives way.
    """
    return _encode(_order_document(request))


def batch_body(requests: Sequence[OrderRequest]) -> bytes:
    """The body of `POST /portfolio/events/orders/batched`; raises like `order_body`."""
    return _encode({"orders": [_order_document(request) for request in requests]})


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def _order_document(request: OrderRequest) -> dict[str, Any]:
    check_order(request)
    document: dict[str, Any] = {
        "ticker": request.ticker,
        "client_order_id": request.client_order_id,
        "side": request.book_side.value,
        "count": format_count(request.count),
        "price": format_price(request.price),
        "time_in_force": request.time_in_force.value,
        "self_trade_prevention_type": "maker" if request.reduce_only else "taker_at_cross",
        "reduce_only": request.reduce_only,
    }
    if request.post_only:
        document["post_only"] = True
    if request.expiration_time_s is not None:
        document["expiration_time"] = request.expiration_time_s
    if request.exchange_index is not None:
        document["exchange_index"] = request.exchange_index
    return document


def check_order(request: OrderRequest) -> None:
    """Raise InvariantError for an order that no market can take."""
    is_ioc = request.time_in_force is TimeInForce.IMMEDIATE_OR_CANCEL
    is_gtc = request.time_in_force is TimeInForce.GOOD_TILL_CANCELED
    try:
        parse_ticker(request.ticker)
        format_count(request.count)
        format_price(request.price)
    except WireError as exc:
        raise InvariantError(f"order {request.client_order_id}: {exc}") from exc
    if not _CLIENT_ORDER_ID.fullmatch(request.client_order_id):
        raise InvariantError(f"not a client order id: {request.client_order_id!r}")
    if not (request.count > 0 and 0 < request.price < 1):
        raise InvariantError(
            f"order {request.client_order_id}: count {request.count} at price {request.price} cannot trade"
        )
    if request.reduce_only and not is_ioc:
        raise InvariantError(f"order {request.client_order_id}: reduce_only needs immediate_or_cancel")
    if request.expiration_time_s is not None and not is_gtc:
        raise InvariantError(f"order {request.client_order_id}: an expiration needs good_till_canceled")


class _CreateAnswer(msgspec.Struct):
    order_id: str
    client_order_id: str
    fill_count: str
    remaining_count: str
    ts_ms: int
    average_fill_price: str | None = None
    average_fee_paid: str | None = None


def read_create_answer(status: int, body: bytes, request: OrderRequest) -> OrderAck:
    """What the answer to a create order proves.

    Returns only for a 201 that names this very order and adds up. Raises OrderRejected, AuthError or
    RateLimitedError when the order did certainly not act, OrderOutcomeUnknown for everything else.
    """
    error = parse_error(body)
    if error is None and status == 201:
        try:
            answer = convert(body, _CreateAnswer)
        except WireError as exc:
            raise OrderOutcomeUnknown(f"order {request.client_order_id}: {exc}") from exc
        return _order_ack(answer, request)
    what = f"order {request.client_order_id} answered {status}: {error or excerpt(body)}"
    code = error.code if error else ""
    if status in (401, 403):
        raise AuthError(f"{what}{_auth_remedy(code)}", status=status, code=code)
    if error is not None and status == 429 and code == TOO_MANY_REQUESTS:
        raise RateLimitedError(what)
    if error is not None and _is_refusal(status, code):
        raise OrderRejected(what, status=status, code=code)
    raise OrderOutcomeUnknown(what)


def _is_refusal(status: int, code: str) -> bool:
    """Whether an error body with this status proves that nothing acted."""
    is_client_error = 400 <= status < 500 and status not in (408, 425, 429)
    return is_client_error or (200 <= status < 300 and code in DEFINITE_CODES)


def _order_ack(m: _CreateAnswer, request: OrderRequest) -> OrderAck:
    who = f"order {request.client_order_id}"
    try:
        filled, remaining = parse_size(m.fill_count), parse_size(m.remaining_count)
        price = None if m.average_fill_price is None else parse_price(m.average_fill_price)
        fee = Decimal(0) if m.average_fee_paid is None else parse_dollars(m.average_fee_paid)
    except WireError as exc:
        raise OrderOutcomeUnknown(f"{who}: {exc}") from exc
    if not m.order_id or m.client_order_id != request.client_order_id:
        # Answers that describe another order have been seen (docs.kalshi.com, changelog 2026-05-21).
        raise OrderOutcomeUnknown(f"{who}: the answer is about order {m.client_order_id!r}")
    # An immediate order leaves nothing behind, so "remaining" beside it means that it rests.
    rests = remaining > 0 and request.time_in_force is not TimeInForce.GOOD_TILL_CANCELED
    if filled + remaining > request.count or rests:
        raise OrderOutcomeUnknown(
            f"{who}: {filled} filled and {remaining} remaining of {request.count} do not add up"
        )
    return OrderAck(
        order_id=m.order_id,
        client_order_id=m.client_order_id,
        fill_count=filled,
        remaining_count=remaining,
        average_fill_price=price if filled else None,
        fees=fee * filled,
        ts_ms=m.ts_ms,
    )


# --- several orders in one request ----------------------------------------------------------------------


class _BatchAnswer(msgspec.Struct):
    orders: list[dict[str, Any]]


class _BatchItem(msgspec.Struct):
    """What tells the items of a batch apart; all of it may be null (OpenAPI, BatchCreateOrdersV2Response)."""

    order_id: str | None = None
    client_order_id: str | None = None
    fill_count: str | None = None
    remaining_count: str | None = None
    error: dict[str, Any] | None = None


def read_batch_answer(
    status: int, body: bytes, requests: Sequence[OrderRequest]
) -> list[OrderAck | BotError]:
    """What the answer to a batch proves of each order, in order.

    As with a single order, an error is returned where it certainly did not act (also TransientError, where
    the exchange has no such endpoint), OrderOutcomeUnknown for everything that is not proved.
    """
    error = parse_error(body)
    if error is None and status == 201:
        return _read_items(body, requests)
    code = error.code if error else ""
    may_have_acted = error is None or _names_orders(body)

    def failure(request: OrderRequest) -> BotError:
        what = (
            f"order {request.client_order_id} in a batch of {len(requests)} answered {status}: "
            f"{error or excerpt(body)}"
        )
        if status in (401, 403):
            return AuthError(f"{what}{_auth_remedy(code)}", status=status, code=code)
        if may_have_acted:
            return OrderOutcomeUnknown(what)
        if status == 429 and code == TOO_MANY_REQUESTS:
            return RateLimitedError(what)
        if status in WITHOUT_BATCHES:
            return TransientError(f"{what}; from now on orders are sent one by one")
        if _is_refusal(status, code):
            return OrderRejected(what, status=status, code=code)
        return OrderOutcomeUnknown(what)

    return [failure(request) for request in requests]


def _names_orders(body: bytes) -> bool:
    """Whether an error body tells of single orders beside the error: some of them may have acted."""
    return bool(parse_json(body).get("orders"))


def _read_items(body: bytes, requests: Sequence[OrderRequest]) -> list[OrderAck | BotError]:
    try:
        rows = convert(body, _BatchAnswer).orders
    except WireError as exc:
        return [OrderOutcomeUnknown(f"order {r.client_order_id} in a batch: {exc}") for r in requests]
    items = [_item(row) for row in rows]
    names = [item.client_order_id if item else None for item in items]
    is_anonymous_proved = _are_anonymous_refused(items, requests)
    results: list[OrderAck | BotError] = []
    for index, request in enumerate(requests):
        item = items[index] if index < len(items) else None
        is_named = names[index : index + 1] == [request.client_order_id] and names.count(names[index]) == 1
        if item is None or not (is_named or (is_anonymous_proved and item.client_order_id is None)):
            why = "no item of the answer proves its outcome"
            results.append(OrderOutcomeUnknown(f"order {request.client_order_id} in a batch: {why}"))
        else:
            results.append(_read_item(rows[index], item, request))
    return results


def _item(row: Mapping[str, Any]) -> _BatchItem | None:
    """The item, None when it is none."""
    try:
        return msgspec.convert(row, _BatchItem)
    except msgspec.ValidationError:
        return None


def _are_anonymous_refused(items: Sequence[_BatchItem | None], requests: Sequence[OrderRequest]) -> bool:
    """Whether items without a client order id prove that the orders at their places did not act.

    The schema allows a refusal without the id. Where every other item is at its own place, such an item
    speaks of one of the orders that no item names; of which does not matter when all are refused for good.
    """
    if len(items) != len(requests):
        return False
    for item, request in zip(items, requests, strict=True):
        if item is None:
            return False
        if item.client_order_id is not None:
            if item.client_order_id != request.client_order_id:
                return False
        elif not isinstance(_refusal(item, request), OrderRejected) or _exists(item):
            return False
    return True


def _exists(item: _BatchItem) -> bool:
    """Whether it is refused because the exchange has it already: then it may have acted earlier."""
    return _api_error(item.error or {}).code == "order_already_exists"


def _read_item(row: Mapping[str, Any], item: _BatchItem, request: OrderRequest) -> OrderAck | BotError:
    if item.error is not None:
        return _refusal(item, request)
    try:
        return _order_ack(msgspec.convert(row, _CreateAnswer), request)
    except msgspec.ValidationError as exc:
        return OrderOutcomeUnknown(f"order {request.client_order_id} in a batch: {exc}")
    except OrderOutcomeUnknown as exc:
        return exc


def _refusal(item: _BatchItem, request: OrderRequest) -> BotError:
    """What an item with an error proves: nothing where its code is not known or it also tells of an order."""
    error = _api_error(item.error or {})
    what = f"order {request.client_order_id} in a batch: {error}"
    has_traces = bool(item.order_id) or any(
        count is not None and not _is_none(count) for count in (item.fill_count, item.remaining_count)
    )
    if has_traces:
        return OrderOutcomeUnknown(f"{what}, yet it has an order id or a count")
    if error.code == TOO_MANY_REQUESTS:
        return RateLimitedError(what)
    status = _STATUS_OF_CODE.get(error.code)
    if status is None:
        return OrderOutcomeUnknown(what)
    if error.code in AUTH_CODES:
        return AuthError(f"{what}{_auth_remedy(error.code)}", status=status, code=error.code)
    return OrderRejected(what, status=status, code=error.code)


def _is_none(count: str) -> bool:
    """Whether a count certainly is zero."""
    try:
        return parse_size(count) == 0
    except WireError:
        return False


# --- cancels --------------------------------------------------------------------------------------------


class _CancelAnswer(msgspec.Struct):
    order_id: str
    reduced_by: str
    ts_ms: int = 0


@dataclass(frozen=True, slots=True)
class CancelAck:
    """A confirmed cancel; `reduced_by` is how many contracts were still resting."""

    order_id: str
    reduced_by: Decimal
    ts_ms: int


def read_cancel_answer(status: int, body: bytes, order_id: str) -> CancelAck:
    """What the answer to a cancel proves; raises like `read_create_answer`, RequestRejected for a refusal.

    A 404 does not prove a cancel: canceled, executed and unknown orders get the same one (recorded
    2026-06-11).
    """
    what = f"cancel of order {order_id}"
    if status != 200:
        error = read_error(status, body, what)
        is_certain = isinstance(error, RequestRejected | RateLimitedError) and parse_error(body) is not None
        if is_certain or isinstance(error, AuthError):
            raise error
        raise OrderOutcomeUnknown(str(error)) from error
    try:
        m = convert(body, _CancelAnswer)
        reduced_by = parse_size(m.reduced_by)
    except WireError as exc:
        raise OrderOutcomeUnknown(f"{what}: {exc}") from exc
    if m.order_id != order_id:
        raise OrderOutcomeUnknown(f"{what}: the answer is about order {m.order_id!r}")
    return CancelAck(m.order_id, reduced_by, m.ts_ms)


# --- amends ---------------------------------------------------------------------------------------------


def amend_body(request: OrderRequest) -> bytes:
    """The body of `POST /portfolio/events/orders/{order_id}/amend`; raises like `order_body`.

    `count` is what has filled and what should rest together. What is left out stays as it is: the client
    order id and the expiration.
    """
    check_order(request)
    if request.time_in_force is not TimeInForce.GOOD_TILL_CANCELED or request.reduce_only:
        raise InvariantError(f"order {request.client_order_id}: only an entry that rests can be amended")
    document: dict[str, Any] = {
        "ticker": request.ticker,
        "side": request.book_side.value,
        "count": format_count(request.count),
        "price": format_price(request.price),
        "client_order_id": request.client_order_id,
    }
    if request.exchange_index is not None:
        document["exchange_index"] = request.exchange_index
    return _encode(document)


class _AmendAnswer(msgspec.Struct):
    """Counts may be null: they come only where the amend filled something or changed what rests."""

    order_id: str
    ts_ms: int
    client_order_id: str | None = None
    fill_count: str | None = None
    remaining_count: str | None = None
    average_fill_price: str | None = None
    average_fee_paid: str | None = None


def read_amend_answer(status: int, body: bytes, order_id: str, request: OrderRequest) -> OrderAck:
    """What the answer to an amend proves; raises like `read_create_answer`.

    `fill_count` is what the amend itself filled, not the order in all. `remaining_count` is what rests
    after it; where the answer does not tell, at most that: the whole count.
    """
    what = f"amend of order {order_id}"
    error = parse_error(body)
    if error is not None or status != 200:
        said = f"{what} answered {status}: {error or excerpt(body)}"
        code = error.code if error else ""
        if status in (401, 403):
            raise AuthError(f"{said}{_auth_remedy(code)}", status=status, code=code)
        if error is not None and status == 429 and code == TOO_MANY_REQUESTS:
            raise RateLimitedError(said)
        if error is not None and _is_refusal(status, code):
            raise OrderRejected(said, status=status, code=code)
        raise OrderOutcomeUnknown(said)
    try:
        m = convert(body, _AmendAnswer)
        filled = Decimal(0) if m.fill_count is None else parse_size(m.fill_count)
        remaining = None if m.remaining_count is None else parse_size(m.remaining_count)
        price = None if m.average_fill_price is None else parse_price(m.average_fill_price)
        fee = Decimal(0) if m.average_fee_paid is None else parse_dollars(m.average_fee_paid)
    except WireError as exc:
        raise OrderOutcomeUnknown(f"{what}: {exc}") from exc
    if m.order_id != order_id or m.client_order_id not in (None, "", request.client_order_id):
        # Answers that describe another order have been seen (docs.kalshi.com, changelog 2026-05-21).
        raise OrderOutcomeUnknown(f"{what}: the answer is about order {m.order_id!r} {m.client_order_id!r}")
    if filled + (remaining or 0) > request.count:
        raise OrderOutcomeUnknown(
            f"{what}: {filled} filled and {remaining} remaining of {request.count} do not add up"
        )
    return OrderAck(
        order_id=m.order_id,
        client_order_id=request.client_order_id,
        fill_count=filled,
        remaining_count=request.count if remaining is None else remaining,
        average_fill_price=price if filled else None,
        fees=fee * filled,
        ts_ms=m.ts_ms,
    )


prepare(globals())
