"""Private endpoints: portfolio reads and order entry."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from aiohttp import web

from base.model.market import BookSide
from base.sandbox.fixed_point import ONE, ZERO, count_text, dollars_text, milliseconds
from base.sandbox.ledger import Portfolio
from base.sandbox.market import event_of
from base.sandbox.order_requests import (
    AMEND_FIELDS,
    CANCEL_FIELDS,
    DECREASE_FIELDS,
    check_types,
    choice,
    count_of,
    decode_object,
    optional_integer,
    optional_text,
    parse_new_order,
    price_of,
    required_text,
)
from base.sandbox.queries import integer_of, is_in_time, limit_of, list_of, page
from base.sandbox.rate_limit import RateLimits
from base.sandbox.records import PositionRecord
from base.sandbox.refusals import Refused, bad_request, gone, invalid_parameters, not_found
from base.sandbox.rest_market_data import PREFIX
from base.sandbox.venue import Venue
from base.sandbox.wire import (
    Json,
    ack_json,
    cancel_json,
    event_position_json,
    fill_json,
    order_json,
    position_json,
    settlement_json,
)

ORDERS = "/portfolio/events/orders"
BATCH_MAX = 100


class PortfolioEndpoints:
    """Handlers of everything that concerns the account."""

    def __init__(self, venue: Venue, limits: RateLimits, key_id: str) -> None:
        self._venue = venue
        self._limits = limits
        self._key_id = key_id

    def routes(self) -> list[web.RouteDef]:
        legacy = "/portfolio/orders"
        return [
            web.get(PREFIX + "/api_keys", self.api_keys),
            web.get(PREFIX + "/portfolio/balance", self.balance),
            web.get(PREFIX + "/portfolio/positions", self.positions),
            web.get(PREFIX + "/portfolio/fills", self.fills),
            web.get(PREFIX + "/portfolio/settlements", self.settlements),
            web.get(PREFIX + legacy, self.orders),
            web.get(PREFIX + legacy + "/{order_id}", self.order),
            web.post(PREFIX + ORDERS, self.create),
            web.delete(PREFIX + ORDERS, self.cancel_all),
            web.post(PREFIX + ORDERS + "/batched", self.create_batch),
            web.delete(PREFIX + ORDERS + "/batched", self.cancel_batch),
            web.delete(PREFIX + ORDERS + "/{order_id}", self.cancel),
            web.post(PREFIX + ORDERS + "/{order_id}/amend", self.amend),
            web.post(PREFIX + ORDERS + "/{order_id}/decrease", self.decrease),
            web.post(PREFIX + legacy, self.retired),
            web.post(PREFIX + legacy + "/batched", self.retired),
            web.delete(PREFIX + legacy + "/batched", self.retired),
            web.delete(PREFIX + legacy + "/{order_id}", self.retired),
            web.post(PREFIX + legacy + "/{order_id}/amend", self.retired),
            web.post(PREFIX + legacy + "/{order_id}/decrease", self.retired),
        ]

    # Reads

    async def api_keys(self, request: web.Request) -> web.Response:
        key = {"api_key_id": self._key_id, "name": "sandbox", "scopes": ["read", "write"]}
        end = self._venue.faults.attestation_ends_at
        return web.json_response(
            {"api_keys": [key], "api_key_region_expiration_ts": None if end is None else int(end)}
        )

    async def balance(self, request: web.Request) -> web.Response:
        portfolio = self._venue.portfolio()
        value = sum((self._value(p) for p in portfolio.positions.values()), ZERO)
        index = integer_of(request.query, "exchange_index")
        kept = self._venue.exchange.shard_balances
        shards = (
            {0: portfolio.balance} | kept if index is None else {index: kept.get(index, portfolio.balance)}
        )
        return web.json_response(
            {
                "balance": int(portfolio.balance * 100),
                "balance_dollars": dollars_text(portfolio.balance)[:-2],
                "portfolio_value": int(value * 100),
                "updated_ts": int(self._venue.clock.now()),
                "balance_breakdown": [
                    {"exchange_index": shard, "balance": dollars_text(dollars)[:-2]}
                    for shard, dollars in shards.items()
                ],
            }
        )

    def _value(self, position: PositionRecord) -> Decimal:
        """What a position would fetch now: a NO contract is worth what a YES one is not."""
        bid, ask = self._venue.exchange.yes_values(position.ticker)
        return position.count * bid if position.count >= 0 else -position.count * (ONE - ask)

    async def positions(self, request: web.Request) -> web.Response:
        query = request.query
        limit = limit_of(query, "GetPositions")
        status = query.get("settlement_status", "unsettled") or "unsettled"
        if status not in ("unsettled", "settled", "all"):
            raise Refused(400, "bad_request", details="invalid settlement_status")
        nonzero = list_of(query, "count_filter") or frozenset()
        if nonzero - {"position", "total_traded"}:
            raise Refused(400, "bad_request", details="invalid count_filter")
        found = [
            p
            for _, p in sorted(self._own(query).positions.items())
            if (status == "all" or p.is_settled == (status == "settled"))
            and _is_asked_for(query, p.ticker, p.event_ticker, p.exchange_index)
            and ("position" not in nonzero or p.count)
            and ("total_traded" not in nonzero or p.total_traded)
        ]
        chosen, cursor = page(found, lambda p: p.ticker, query.get("cursor", ""), limit)
        events: dict[str, list[PositionRecord]] = {}
        for position in chosen:
            events.setdefault(position.event_ticker, []).append(position)
        return web.json_response(
            {
                "cursor": cursor,
                "event_positions": [event_position_json(e, rows) for e, rows in events.items()],
                "market_positions": [position_json(p) for p in chosen],
            }
        )

    async def fills(self, request: web.Request) -> web.Response:
        query = request.query
        limit = limit_of(query, "GetFills")
        order_id = query.get("order_id")
        found = [
            f
            for f in reversed(self._own(query).fills)
            if _is_asked_for(query, f.ticker, event_of(f.ticker), f.exchange_index)
            and (not order_id or f.order_id == order_id)
            and is_in_time(query, f.at)
        ]
        chosen, cursor = page(found, lambda f: f.trade_id, query.get("cursor", ""), limit)
        return web.json_response({"cursor": cursor, "fills": [fill_json(f) for f in chosen]})

    async def orders(self, request: web.Request) -> web.Response:
        query = request.query
        limit = limit_of(query, "GetOrders")
        status = query.get("status")
        if status and status not in ("resting", "canceled", "executed"):
            raise Refused(400, "bad_request", details="invalid status filter")
        markets = self._venue.exchange.markets
        found = [
            o
            for o in reversed(self._own(query).orders.values())
            if _is_asked_for(query, o.ticker, markets[o.ticker].spec.event, o.exchange_index)
            and (not status or o.status.value == status)
            and is_in_time(query, o.created_at)
        ]
        chosen, cursor = page(found, lambda o: o.order_id, query.get("cursor", ""), limit)
        return web.json_response({"cursor": cursor, "orders": [order_json(o) for o in chosen]})

    async def order(self, request: web.Request) -> web.Response:
        order = self._venue.portfolio().orders.get(request.match_info["order_id"])
        if order is None:
            raise not_found()
        return web.json_response({"order": order_json(order)})

    async def settlements(self, request: web.Request) -> web.Response:
        query = request.query
        limit = limit_of(query, "GetSettlements")
        found = [
            s
            for s in reversed(self._own(query).settlements)
            if _is_asked_for(query, s.ticker, s.event_ticker, s.exchange_index) and is_in_time(query, s.at)
        ]
        chosen, cursor = page(found, lambda s: s.ticker, query.get("cursor", ""), limit)
        return web.json_response({"cursor": cursor, "settlements": [settlement_json(s) for s in chosen]})

    def _own(self, query: Mapping[str, str]) -> Portfolio:
        """The portfolio; every subaccount but the primary is empty."""
        if integer_of(query, "subaccount") not in (None, 0):
            return Portfolio(ZERO, {}, {}, (), ())
        return self._venue.portfolio()

    # Order entry

    async def create(self, request: web.Request) -> web.Response:
        return web.json_response(self._create(decode_object(await request.read())), status=201)

    def _create(self, body: Mapping[str, object]) -> Json:
        try:
            new = parse_new_order(body, self._venue.exchange.new_id())
        except Refused as refused:
            self._venue.note_malformed(body, refused)
            raise
        order = self._venue.place(new)
        return ack_json(order, self._venue.clock.now())

    async def create_batch(self, request: web.Request) -> web.Response:
        items = self._batch(await request.read(), "POST")
        rows: list[Json] = []
        for item in items:
            try:
                rows.append({**self._create(item), "error": None})
            except Refused as refused:
                rows.append({"client_order_id": item.get("client_order_id"), "error": _plain(refused)})
        return web.json_response({"orders": rows}, status=201)

    async def cancel(self, request: web.Request) -> web.Response:
        query = request.query
        return web.json_response(
            self._cancel(
                request.match_info["order_id"],
                query.get("market_ticker"),
                integer_of(query, "exchange_index"),
            )
        )

    def _cancel(self, order_id: str, market_ticker: str | None, exchange_index: int | None) -> Json:
        """Cancel one order; without market ticker and shard it is sought on shard 0 only (docs)."""
        now = self._venue.clock.now()
        known = self._venue.exchange.ledger.orders.get(order_id)
        if market_ticker and known is not None and known.ticker != market_ticker:
            raise not_found()
        shard = exchange_index if exchange_index is not None or market_ticker else 0
        order, reduced_by = self._venue.exchange.orders.cancel(order_id, now, exchange_index=shard)
        return cancel_json(order, reduced_by, now)

    async def cancel_batch(self, request: web.Request) -> web.Response:
        items = self._batch(await request.read(), "DELETE")
        rows: list[Json] = []
        for item in items:
            check_types(item, CANCEL_FIELDS, "BatchCancelOrdersV2RequestOrder")
            order_id = optional_text(item, "order_id") or ""
            try:
                row = self._cancel(
                    order_id, optional_text(item, "market_ticker"), optional_integer(item, "exchange_index")
                )
                rows.append({**row, "error": None})
            except Refused as refused:
                rows.append({"order_id": order_id, "reduced_by": "0.00", "error": _plain(refused)})
        return web.json_response({"orders": rows})

    def _batch(self, raw: bytes, method: str) -> list[dict[str, object]]:
        """The items of a batch, paid for: the whole batch must fit the token bucket (docs, rate limits)."""
        items = decode_object(raw).get("orders")
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise bad_request("orders must be a list of objects")
        if not 1 <= len(items) <= BATCH_MAX:
            raise invalid_parameters(f"a batch holds 1 to {BATCH_MAX} orders")
        self._limits.charge(method, ORDERS + "/batched", self._venue.clock.now(), times=len(items))
        return items

    async def cancel_all(self, request: web.Request) -> web.Response:
        self._venue.exchange.orders.cancel_all(self._venue.clock.now())
        return web.Response(status=204)

    async def amend(self, request: web.Request) -> web.Response:
        body = decode_object(await request.read())
        check_types(body, AMEND_FIELDS, "AmendOrderV2Request")
        now = self._venue.clock.now()
        before, after = self._venue.exchange.orders.amend(
            request.match_info["order_id"],
            ticker=required_text(body, "ticker"),
            side=choice(body, "side", BookSide),
            price=price_of(body, "price"),
            count=count_of(body, "count"),
            client_order_id=optional_text(body, "client_order_id"),
            new_client_order_id=optional_text(body, "updated_client_order_id"),
            expiration_time_s=optional_integer(body, "expiration_time"),
            exchange_index=optional_integer(body, "exchange_index"),
            now=now,
        )
        return web.json_response(ack_json(after, now, filled_before=before))

    async def decrease(self, request: web.Request) -> web.Response:
        body = decode_object(await request.read())
        check_types(body, DECREASE_FIELDS, "DecreaseOrderV2Request")
        by, to = optional_text(body, "reduce_by"), optional_text(body, "reduce_to")
        if (by is None) == (to is None):
            raise invalid_parameters("give exactly one of reduce_by and reduce_to")
        now = self._venue.clock.now()
        order = self._venue.exchange.orders.decrease(
            request.match_info["order_id"],
            reduce_by=count_of(body, "reduce_by") if by is not None else None,
            reduce_to=count_of(body, "reduce_to", bottom=ZERO) if to is not None else None,
            exchange_index=optional_integer(body, "exchange_index"),
            now=now,
        )
        return web.json_response(
            {
                "order_id": order.order_id,
                "client_order_id": order.client_order_id,
                "remaining_count": count_text(order.remaining_count),
                "ts_ms": milliseconds(now),
            }
        )

    async def retired(self, request: web.Request) -> web.Response:
        """Writes on the legacy path (gone since 2026-06)."""
        raise gone()


def _plain(refused: Refused) -> Json:
    """A batch item's error: the flat shape (OpenAPI, ErrorResponse)."""
    return {"code": refused.code, "message": refused.message, "details": refused.details}


def _is_asked_for(query: Mapping[str, str], ticker: str, event_ticker: str, exchange_index: int) -> bool:
    tickers, events = list_of(query, "ticker"), list_of(query, "event_ticker")
    shard = integer_of(query, "exchange_index")
    return (
        (tickers is None or ticker in tickers)
        and (events is None or event_ticker in events)
        and (shard is None or shard == exchange_index)
    )
