"""The exchange's REST interface, call by call: reads, entries and cancels.

Exits take the lighter `order_connection.py`; both read an order's answer with the same functions of
`documents.py` and count into the same `RequestStats`.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from base.clock import Clock
from base.errors import TransientError, WireError
from base.kalshi import account_documents, documents, order_entry
from base.kalshi.account_documents import (
    ApiKeys,
    Balance,
    EndpointCosts,
    ExchangeSchedule,
    ExchangeStatus,
    Settlement,
)
from base.kalshi.documents import MarketSnapshot, PositionRow, UnreadableRow
from base.kalshi.order_entry import ORDERS_PATH, CancelAck
from base.kalshi.rate_limit import (
    AccountLimits,
    Lane,
    RateLimiter,
    RequestCounts,
    RequestKind,
    RequestStats,
)
from base.kalshi.rest_requests import BODY_BYTES_MAX, Page, SignedRequests
from base.kalshi.server_clock import ServerClock
from base.kalshi.signing import Signer
from base.kalshi.strict_json import parse_json
from base.kalshi.transport import CA_FILE
from base.kalshi.wire import parse_ticker
from base.log import RepeatedWarnings, log_event
from base.model.market import Event
from base.model.order import Order, OrderAck, OrderRequest
from base.model.position import Fill

logger = logging.getLogger(__name__)

TICKERS_PER_REQUEST_MAX = 200
TICKERS_BYTES_MAX = 6_000
MARKETS_PER_PAGE = 200
"""Pages of markets are kept small: decoding a large one stops every thread (performance.md)."""
EVENTS_PER_REQUEST = 10
"""Each comes with all of its markets."""
ROWS_PER_PAGE = 1_000
ORDERS_PER_PAGE = 200
CLOCKS_AGREE_S = 1.5
"""Clocks that differ by no more count as equal: a `Date` header has a resolution of one second."""


class UnreadablePositions(WireError):
    """Some rows of a complete list cannot be proved; `rows` are those that can."""

    def __init__(self, rows: tuple[PositionRow, ...], unreadable: tuple[UnreadableRow, ...]) -> None:
        first = unreadable[0]
        super().__init__(f"{len(unreadable)} position(s) unreadable, first {first.ticker!r}: {first.why}")
        self.rows = rows
        self.unreadable = unreadable


class RestClient:
    """Any thread may use it. What its arguments mean for a request: `SignedRequests`."""

    def __init__(
        self,
        base_url: str,
        signer: Signer | None,
        clock: Clock,
        server_clock: ServerClock,
        limiter: RateLimiter,
        *,
        stats: RequestStats | None = None,
        timeout_s: tuple[float, float] = (3.0, 5.0),
        total_deadline_s: float = 10.0,
        max_body_bytes: int = BODY_BYTES_MAX,
        ca_file: str = CA_FILE,
        rng: random.Random | None = None,
    ) -> None:
        self._clock = clock
        self._server_clock = server_clock
        self._stats = stats or RequestStats(clock)
        self._http = SignedRequests(
            base_url,
            signer,
            clock,
            server_clock,
            limiter,
            self._stats,
            timeout_s=timeout_s,
            total_deadline_s=total_deadline_s,
            max_body_bytes=max_body_bytes,
            ca_file=ca_file,
            rng=rng or random.Random(),
        )
        self._warnings = RepeatedWarnings()

    # --- market data --------------------------------------------------------------------------------------

    def get_markets(self, tickers: Sequence[str], lane: Lane = Lane.PRICE) -> list[MarketSnapshot]:
        """The named markets with their prices, in as few requests as possible.

        A market that the exchange does not know, or whose document does not prove it, is missing from the
        result; one without a provable price has no quote. Missing too are the markets of a later request
        that failed, when an earlier one brought some: prices that came are worth having.
        """
        found: dict[str, MarketSnapshot] = {}
        for chunk in _chunks(tickers):
            try:
                found |= self._markets_of(chunk, lane)
            except (TransientError, WireError) as exc:
                if not found:
                    raise
                self._warn("prices_incomplete", missing_from=chunk[0], why=exc)
                break
        return list(found.values())

    def _markets_of(self, chunk: Sequence[str], lane: Lane) -> dict[str, MarketSnapshot]:
        wanted = set(chunk)
        found: dict[str, MarketSnapshot] = {}
        params = {"tickers": ",".join(chunk), "limit": str(ROWS_PER_PAGE)}
        for page in self._market_pages(params, lane):
            found |= {s.market.ticker: s for s in page if s.market.ticker in wanted}
            if len(found) == len(wanted):
                break
        return found

    def list_markets(
        self,
        series_ticker: str | None = None,
        event_ticker: str | None = None,
        status: str | None = "open",
        limit_total: int = 1_000,
        lane: Lane = Lane.STRATEGY,
    ) -> list[MarketSnapshot]:
        """Up to `limit_total` markets of a series or event, in the exchange's order."""
        params = _given(
            series_ticker=series_ticker,
            event_ticker=event_ticker,
            status=status,
            limit=min(MARKETS_PER_PAGE, limit_total),
        )
        found: list[MarketSnapshot] = []
        for page in self._market_pages(params, lane):
            found.extend(page)
            if len(found) >= limit_total:
                break
        return found[:limit_total]

    def get_events(self, tickers: Sequence[str], lane: Lane = Lane.STRATEGY) -> list[Event]:
        """The named events with all of their markets, those that are over included.

        An event that the exchange does not list (combos), or whose document does not say what it must, is
        missing from the result.
        """
        wanted = list(dict.fromkeys(map(parse_ticker, tickers)))
        found: dict[str, Event] = {}
        for start in range(0, len(wanted), EVENTS_PER_REQUEST):
            chunk = wanted[start : start + EVENTS_PER_REQUEST]
            params = {"tickers": ",".join(chunk), "with_nested_markets": "true"}
            for page in self._event_pages(params | {"limit": str(EVENTS_PER_REQUEST)}, lane):
                found |= {event.ticker: event for event in page if event.ticker in chunk}
                if len(found.keys() & set(chunk)) == len(chunk):
                    break
        return list(found.values())

    def _event_pages(self, params: Mapping[str, str], lane: Lane) -> Iterator[tuple[Event, ...]]:
        def read(page_params: Mapping[str, str], deadline_s: float) -> Page[Event]:
            page = documents.parse_event_page(
                self._http.get("/events", lane, page_params, deadline_s=deadline_s).body
            )
            if page.unusable:
                self._warn("event_unusable", count=len(page.unusable), first=page.unusable[0])
            return Page(page.events, page.cursor, page.rows)

        return self._http.pages("events", params, read)

    def _market_pages(self, params: Mapping[str, str], lane: Lane) -> Iterator[tuple[MarketSnapshot, ...]]:
        def read(page_params: Mapping[str, str], deadline_s: float) -> Page[MarketSnapshot]:
            answer = self._http.get("/markets", lane, page_params, deadline_s=deadline_s)
            page = documents.parse_market_page(
                answer.body, sent_monotonic=answer.sent_monotonic, sent_at=answer.sent_at
            )
            if page.unusable:
                count, first = len(page.unusable), page.unusable[0]
                self._warn("market_unusable", count=count, first=first)
            return Page(page.snapshots, page.cursor, page.rows)

        return self._http.pages("markets", params, read)

    # --- portfolio ----------------------------------------------------------------------------------------

    def get_positions(self, lane: Lane = Lane.RECONCILE) -> list[PositionRow]:
        """All unsettled positions. Raises rather than return an incomplete list: absence here means flat.

        Where single rows cannot be proved it raises `UnreadablePositions`, which carries the others.
        """
        params = {
            "settlement_status": "unsettled",
            "count_filter": "position",
            "limit": str(ROWS_PER_PAGE),
        }
        rows: dict[str, PositionRow] = {}
        unreadable: list[UnreadableRow] = []
        for page in self._http.rows("/portfolio/positions", params, lane, documents.parse_position_page):
            for row in page:  # a row that moved while paging: the later read counts
                if isinstance(row, UnreadableRow):
                    unreadable.append(row)
                else:
                    rows[row.ticker] = row
        if unreadable:
            raise UnreadablePositions(tuple(rows.values()), tuple(unreadable))
        return list(rows.values())

    def get_orders(
        self,
        ticker: str | None = None,
        status: str | None = None,
        min_ts: int | None = None,
        lane: Lane = Lane.RECONCILE,
    ) -> list[Order]:
        """All orders of the live window, optionally of one market, status or since `min_ts` (epoch s)."""
        params = _given(ticker=ticker, status=status, min_ts=min_ts, limit=ORDERS_PER_PAGE)
        pages = self._http.rows("/portfolio/orders", params, lane, documents.parse_order_page)
        return [order for page in pages for order in page]

    def get_order(self, order_id: str, lane: Lane = Lane.RECONCILE) -> Order:
        """One order by the exchange's id. RequestRejected with status 404 when it is not (yet) known."""
        answer = self._http.get(f"/portfolio/orders/{_segment(order_id)}", lane)
        order = documents.parse_order(answer.body)
        if order.order_id != order_id:
            raise WireError(f"asked for order {order_id}, was told about {order.order_id!r}")
        return order

    def get_fills(
        self,
        ticker: str | None = None,
        order_id: str | None = None,
        min_ts: int | None = None,
        lane: Lane = Lane.RECONCILE,
    ) -> list[Fill]:
        """All fills, optionally of one market, one order or since `min_ts` (epoch seconds)."""
        params = _given(ticker=ticker, order_id=order_id, min_ts=min_ts, limit=ORDERS_PER_PAGE)
        pages = self._http.rows("/portfolio/fills", params, lane, documents.parse_fill_page)
        return [fill for page in pages for fill in page]

    def get_settlements(
        self, ticker: str | None = None, min_ts: int | None = None, lane: Lane = Lane.RECONCILE
    ) -> list[Settlement]:
        """All settlements, optionally of one market or since `min_ts` (epoch seconds)."""
        params = _given(ticker=ticker, min_ts=min_ts, limit=ORDERS_PER_PAGE)
        pages = self._http.rows(
            "/portfolio/settlements", params, lane, account_documents.parse_settlement_page
        )
        return [settlement for page in pages for settlement in page]

    def get_balance(self, lane: Lane = Lane.DISPLAY) -> Balance:
        """The money in the account. The exchange allows one such request a second."""
        return account_documents.parse_balance(
            self._http.get("/portfolio/balance", lane, kind=RequestKind.BALANCE).body
        )

    # --- account and exchange -----------------------------------------------------------------------------

    def get_account_limits(self, lane: Lane = Lane.RECONCILE) -> AccountLimits:
        """The account's buckets; hand them to `RateLimiter.reseed`."""
        return account_documents.parse_account_limits(self._http.get("/account/limits", lane).body)

    def get_endpoint_costs(self, lane: Lane = Lane.RECONCILE) -> EndpointCosts:
        """What each endpoint costs; from then on this client charges by it."""
        self._http.costs = account_documents.parse_endpoint_costs(
            self._http.get("/account/endpoint_costs", lane).body
        )
        return self._http.costs

    def get_exchange_status(self, lane: Lane = Lane.RECONCILE) -> ExchangeStatus:
        """Whether the exchange is open. It tells so with status 200, 500, 503 or 504 (OpenAPI)."""
        answer = self._http.get("/exchange/status", lane, accepted=(200, 500, 503, 504))
        try:
            return account_documents.parse_exchange_status(answer.body)
        except WireError as exc:
            if answer.status == 200:
                raise
            raise order_entry.read_error(answer.status, answer.body, "GET /exchange/status") from exc

    def get_exchange_schedule(self, lane: Lane = Lane.DISPLAY) -> ExchangeSchedule:
        """Opening hours and maintenance windows."""
        return account_documents.parse_exchange_schedule(self._http.get("/exchange/schedule", lane).body)

    def get_user_data_timestamp(self, lane: Lane = Lane.RECONCILE) -> float:
        """Our own wall time up to which portfolio reads are complete: reads lag writes.

        The exchange tells it by its clock. Where ours is behind, reads would look fresher than they are, so
        that is taken off; where ours is ahead they look older, which only takes patience.
        """
        answer = self._http.get("/exchange/user_data_timestamp", lane)
        as_of = account_documents.parse_user_data_timestamp(answer.body)
        return as_of - max(0.0, _beyond_resolution(answer.offset_s))

    def get_api_keys(self, lane: Lane = Lane.DISPLAY) -> ApiKeys:
        """The account's keys and the end of the location attestation."""
        return account_documents.parse_api_keys(self._http.get("/api_keys", lane).body)

    def get_document(self, path: str, params: Mapping[str, str], lane: Lane = Lane.DISPLAY) -> dict[str, Any]:
        """An answer as it came, for who holds it against what this program needs of it."""
        return parse_json(self._http.get(path, lane, params, kind=RequestKind.READ).body)

    # --- orders -------------------------------------------------------------------------------------------

    def create_order(self, request: OrderRequest, lane: Lane = Lane.STRATEGY) -> OrderAck:
        """Send one order, once.

        TransientError: it was certainly not sent. OrderRejected, AuthError, RateLimitedError: certainly not
        acted on. OrderOutcomeUnknown: find it by client order id before anything else.
        """
        body = order_entry.order_body(request)
        answer = self._http.write("POST", ORDERS_PATH, lane, f"order {request.client_order_id}", body=body)
        return order_entry.read_create_answer(answer.status, answer.body, request)

    def amend_order(self, order_id: str, request: OrderRequest, lane: Lane = Lane.STRATEGY) -> OrderAck:
        """Move a resting order to the request's price and count (filled contracts included), once.

        Errors mean what they mean for a new order; OrderRejected with status 404 says that it does not
        rest, whatever became of it.
        """
        path = f"{ORDERS_PATH}/{_segment(order_id)}/amend"
        body = order_entry.amend_body(request)
        answer = self._http.write("POST", path, lane, f"amend of order {order_id}", body=body)
        return order_entry.read_amend_answer(answer.status, answer.body, order_id, request)

    def cancel_order(self, order_id: str, ticker: str, lane: Lane = Lane.STRATEGY) -> CancelAck:
        """Cancel a resting order. The ticker routes it to the market's shard.

        RequestRejected with status 404 proves no cancel: executed and unknown orders answer the same.
        """
        path = f"{ORDERS_PATH}/{_segment(order_id)}"
        params = {"market_ticker": parse_ticker(ticker)}
        answer = self._http.write("DELETE", path, lane, f"cancel of order {order_id}", params=params)
        return order_entry.read_cancel_answer(answer.status, answer.body, order_id)

    # --- this client --------------------------------------------------------------------------------------

    def stats(self) -> RequestCounts:
        """Requests of the last 60 s, those of the order connections that share the counter included."""
        return self._stats.counts()

    @property
    def exchange_ahead_s(self) -> float:
        """How far the exchange's clock was seen to be ahead of ours; 0.0 where they agree."""
        return _beyond_resolution(self._server_clock.observed_offset_s)

    @property
    def costs(self) -> EndpointCosts:
        """The endpoint costs in force."""
        return self._http.costs

    def close(self) -> None:
        """End waits between attempts; a call under way then fails with TransientError."""
        self._http.close()

    def _warn(self, event: str, **fields: Any) -> None:
        """Log a warning, at most once a minute for each event."""
        held_back = self._warnings.allow(event, self._clock.monotonic())
        if held_back is not None:
            log_event(logger, logging.WARNING, event, held_back=held_back, **fields)


def _beyond_resolution(offset_s: float | None) -> float:
    return 0.0 if offset_s is None or abs(offset_s) <= CLOCKS_AGREE_S else offset_s


def _chunks(tickers: Sequence[str]) -> Iterator[list[str]]:
    """Tickers, each once, in groups that fit one request."""
    chunk: list[str] = []
    size = 0
    for ticker in dict.fromkeys(map(parse_ticker, tickers)):
        if chunk and (len(chunk) >= TICKERS_PER_REQUEST_MAX or size + len(ticker) >= TICKERS_BYTES_MAX):
            yield chunk
            chunk, size = [], 0
        chunk.append(ticker)
        size += len(ticker) + 1
    if chunk:
        yield chunk


def _given(**params: str | int | None) -> dict[str, str]:
    return {name: str(value) for name, value in params.items() if value is not None}


def _segment(text: str) -> str:
    """An id as one path segment: nothing in it may lead elsewhere."""
    if not text or text in (".", ".."):
        raise WireError(f"not an order id: {text!r}")
    return quote(text, safe="")
