"""Public endpoints: exchange, account limits, series, events, markets, books, trades."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aiohttp import web

from base.model.market import MarketStatus
from base.sandbox.fixed_point import second_text, time_text
from base.sandbox.market import SandboxMarket
from base.sandbox.queries import integer_of, is_in_time, limit_of, list_of, page
from base.sandbox.rate_limit import costs_json, limits_json
from base.sandbox.refusals import Refused, bad_request, not_found
from base.sandbox.venue import Venue
from base.sandbox.wire import Json, event_json, market_json, orderbook_json, series_json, trade_json

PREFIX = "/trade-api/v2"
BOOKS_MAX = 100
_SHARDS = ("Default", "Combos", "Crypto and commodities", "Tennis, baseball and basketball")
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
# docs.kalshi.com, market lifecycle: what each value of the status filter covers.
_STATUS_FILTERS: dict[str, frozenset[MarketStatus]] = {
    "unopened": frozenset({MarketStatus.INITIALIZED}),
    "open": frozenset({MarketStatus.ACTIVE}),
    "paused": frozenset({MarketStatus.INACTIVE}),
    "closed": frozenset(
        {MarketStatus.CLOSED, MarketStatus.DETERMINED, MarketStatus.DISPUTED, MarketStatus.AMENDED}
    ),
    "settled": frozenset({MarketStatus.FINALIZED}),
}


class MarketData:
    """Handlers; they only read the venue."""

    def __init__(self, venue: Venue) -> None:
        self._venue = venue

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get(PREFIX + "/exchange/status", self.status),
            web.get(PREFIX + "/exchange/schedule", self.schedule),
            web.get(PREFIX + "/exchange/user_data_timestamp", self.user_data_timestamp),
            web.get(PREFIX + "/account/limits", self.limits),
            web.get(PREFIX + "/account/endpoint_costs", self.costs),
            web.get(PREFIX + "/series", self.series_list),
            web.get(PREFIX + "/series/{series_ticker}", self.series),
            web.get(PREFIX + "/events", self.events),
            web.get(PREFIX + "/events/{event_ticker}", self.event),
            web.get(PREFIX + "/markets", self.markets),
            web.get(PREFIX + "/markets/trades", self.trades),
            web.get(PREFIX + "/markets/orderbooks", self.orderbooks),
            web.get(PREFIX + "/markets/{ticker}", self.market),
            web.get(PREFIX + "/markets/{ticker}/orderbook", self.orderbook),
        ]

    async def status(self, request: web.Request) -> web.Response:
        rows = [
            {"exchange_index": index, "description": name, **self._flags(index)}
            for index, name in enumerate(_SHARDS)
        ]
        return web.json_response(
            {
                **self._flags(0),  # the top level speaks of shard 0 (OpenAPI)
                "exchange_estimated_resume_time": None,
                "exchange_index_statuses": rows,
            }
        )

    def _flags(self, exchange_index: int) -> Json:
        is_active, takes_orders = self._venue.exchange.shard_flags(exchange_index)
        return {
            "exchange_active": is_active,
            "trading_active": takes_orders,
            "intra_exchange_transfers_active": is_active,
        }

    async def schedule(self, request: web.Request) -> web.Response:
        all_day = [{"open_time": "00:00", "close_time": "23:59"}]
        now = self._venue.clock.now()
        hours: Json = {"start_time": second_text(now - 86_400), "end_time": second_text(now + 365 * 86_400)}
        hours |= dict.fromkeys(_DAYS, all_day)
        windows = [
            {"start_datetime": second_text(start), "end_datetime": second_text(end)}
            for start, end in self._venue.faults.maintenance_windows
        ]
        return web.json_response({"schedule": {"standard_hours": [hours], "maintenance_windows": windows}})

    async def user_data_timestamp(self, request: web.Request) -> web.Response:
        as_of = self._venue.clock.now() - self._venue.faults.read_lag_s
        return web.json_response({"as_of_time": time_text(as_of)})

    async def limits(self, request: web.Request) -> web.Response:
        return web.json_response(limits_json(self._venue.tier))

    async def costs(self, request: web.Request) -> web.Response:
        return web.json_response(costs_json(PREFIX))

    async def series_list(self, request: web.Request) -> web.Response:
        known = {m.spec.series: m.spec.exchange_index for m in self._all()}
        return web.json_response({"series": [series_json(s, index) for s, index in known.items()]})

    async def series(self, request: web.Request) -> web.Response:
        wanted = request.match_info["series_ticker"]
        for market in self._all():
            if market.spec.series == wanted:
                return web.json_response({"series": series_json(wanted, market.spec.exchange_index)})
        raise not_found()

    async def events(self, request: web.Request) -> web.Response:
        query = request.query
        limit = limit_of(query, "GetEvents", top=200)
        wanted = list_of(query, "tickers")
        groups: dict[str, list[SandboxMarket]] = {}
        for market in self._filtered(query):
            if wanted is None or market.spec.event in wanted:
                groups.setdefault(market.spec.event, []).append(market)
        chosen, cursor = page(list(groups), str, query.get("cursor", ""), limit)
        is_nested = query.get("with_nested_markets") == "true"
        rows = [event_json(event, groups[event], is_nested=is_nested) for event in chosen]
        return web.json_response({"events": rows, "milestones": [], "cursor": cursor})

    async def event(self, request: web.Request) -> web.Response:
        wanted = request.match_info["event_ticker"]
        markets = [m for m in self._all() if m.spec.event == wanted]
        if not markets:
            raise not_found()
        is_nested = request.query.get("with_nested_markets") == "true"
        listed = [] if is_nested else [market_json(m) for m in markets]
        return web.json_response(
            {"event": event_json(wanted, markets, is_nested=is_nested), "markets": listed}
        )

    async def markets(self, request: web.Request) -> web.Response:
        query = request.query
        limit = limit_of(query, "GetMarkets", bottom=0)
        wanted = list_of(query, "tickers")
        found = [m for m in self._filtered(query) if wanted is None or m.ticker in wanted]
        chosen, cursor = page(found, lambda m: m.ticker, query.get("cursor", ""), limit)
        return web.json_response({"markets": [market_json(m) for m in chosen], "cursor": cursor})

    async def market(self, request: web.Request) -> web.Response:
        market = self._venue.exchange.market(request.match_info["ticker"])
        return web.json_response({"market": market_json(market)})

    async def orderbook(self, request: web.Request) -> web.Response:
        depth = integer_of(request.query, "depth") or 0
        if not 0 <= depth <= 100:
            raise bad_request("depth must lie between 0 and 100")
        market = self._venue.exchange.market(request.match_info["ticker"])
        return web.json_response({"orderbook_fp": orderbook_json(market, depth)})

    async def orderbooks(self, request: web.Request) -> web.Response:
        tickers = request.query.getall("tickers", [])
        if not 1 <= len(tickers) <= BOOKS_MAX:
            raise bad_request(f"give 1 to {BOOKS_MAX} tickers, each as tickers=…")
        markets = self._venue.exchange.markets
        rows = [{"ticker": t, "orderbook_fp": orderbook_json(markets[t])} for t in tickers if t in markets]
        return web.json_response({"orderbooks": rows})

    async def trades(self, request: web.Request) -> web.Response:
        query = request.query
        limit = limit_of(query, "GetTrades", bottom=0)
        ticker = query.get("ticker")
        is_block = query.get("is_block_trade") == "true"
        found = [
            t
            for t in reversed(self._venue.exchange.trades)
            if (not ticker or t.ticker == ticker) and is_in_time(query, t.at) and not is_block
        ]
        chosen, cursor = page(found, lambda t: t.trade_id, query.get("cursor", ""), limit)
        return web.json_response({"trades": [trade_json(t) for t in chosen], "cursor": cursor})

    def _all(self) -> Iterable[SandboxMarket]:
        return self._venue.exchange.markets.values()

    def _filtered(self, query: Mapping[str, str]) -> list[SandboxMarket]:
        """Markets by event, series, status and times; the filters that /markets and /events share."""
        status = query.get("status")
        if status and status not in _STATUS_FILTERS:
            # Recorded 2026-08-08 for status=finalized.
            raise Refused(400, "bad_request", details="invalid status filter")
        if query.get("mve_filter") == "only":
            return []
        event, series = query.get("event_ticker"), query.get("series_ticker")
        return [
            m
            for m in self._all()
            if (not status or m.status in _STATUS_FILTERS[status])
            and (not event or m.spec.event == event)
            and (not series or m.spec.series == series)
            and is_in_time(query, m.close_time, "close_")
            and is_in_time(query, m.created_at, "created_")
            and is_in_time(query, m.updated_at, "updated_")
            and _is_settled_in_time(query, m)
        ]


def _is_settled_in_time(query: Mapping[str, str], market: SandboxMarket) -> bool:
    if "min_settled_ts" not in query and "max_settled_ts" not in query:
        return True
    return market.settled_at is not None and is_in_time(query, market.settled_at, "settled_")
