"""Signed REST client for reads, entries and cancels; every failure becomes one of our errors.

Exits take the lighter `order_connection.py`; both read an order's answer with the same functions of
`documents.py` and count into the same `RequestStats`.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import requests
import requests.adapters
import urllib3

from base.clock import Clock
from base.errors import (
    AuthError,
    BotError,
    OrderOutcomeUnknown,
    RateLimitedError,
    TransientError,
    WireError,
)
from base.kalshi import account_documents, documents, order_entry
from base.kalshi.account_documents import (
    ApiKeys,
    Balance,
    EndpointCosts,
    ExchangeSchedule,
    ExchangeStatus,
    Settlement,
)
from base.kalshi.backoff import Backoff
from base.kalshi.documents import MarketSnapshot, PositionRow, UnreadableRow
from base.kalshi.order_entry import ORDERS_PATH, CancelAck
from base.kalshi.rate_limit import (
    AccountLimits,
    Lane,
    RateLimiter,
    RequestCounts,
    RequestKind,
    RequestStats,
    area_of,
)
from base.kalshi.server_clock import ServerClock
from base.kalshi.signing import Signer
from base.kalshi.strict_json import parse_json
from base.kalshi.transport import CA_FILE, BoundedSocket, Deadline
from base.kalshi.wire import parse_ticker
from base.log import RepeatedWarnings, log_event
from base.model.market import Event
from base.model.order import Order, OrderAck, OrderRequest
from base.model.position import Fill

logger = logging.getLogger(__name__)

PUBLIC_PATHS = ("/markets", "/events", "/exchange/", "/account/endpoint_costs")
"""What the exchange answers without a signature (OpenAPI, `security`)."""

BODY_BYTES_MAX = 8 * 1024 * 1024
READ_ATTEMPTS_MAX = 3
READ_BACKOFF = Backoff(initial_s=0.2, max_s=2.0)
PAGES_MAX = 50
PAGED_READ_S_MAX = 60.0
"""A read of many pages may take this long in all, and each of its requests the total deadline."""
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
_CHUNK_BYTES = 65_536

_R = TypeVar("_R")


class UnreadablePositions(WireError):
    """Some rows of a complete list cannot be proved; `rows` are those that can."""

    def __init__(self, rows: tuple[PositionRow, ...], unreadable: tuple[UnreadableRow, ...]) -> None:
        first = unreadable[0]
        super().__init__(f"{len(unreadable)} position(s) unreadable, first {first.ticker!r}: {first.why}")
        self.rows = rows
        self.unreadable = unreadable


class RestClient:
    """The exchange's REST interface. Any thread may use it; each gets a session of its own.

    Reads are repeated a few times inside `total_deadline_s`; an order is sent once. Without a signer only
    public endpoints work. `timeout_s` is (connect, receive); the total deadline also bounds a server that
    trickles.
    """

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
        self._base_url = base_url.rstrip("/")
        self._base_path = urlsplit(self._base_url).path
        self._signer = signer
        self._clock = clock
        self._server_clock = server_clock
        self._limiter = limiter
        self._stats = stats or RequestStats(clock)
        self._timeout_s = timeout_s
        self._total_deadline_s = total_deadline_s
        self._max_body_bytes = max_body_bytes
        self._ca_file = ca_file
        self._rng = rng or random.Random()
        self._warnings = RepeatedWarnings()
        self._closed = threading.Event()
        self._threads = threading.local()  # a session and a deadline for each thread
        self._costs = EndpointCosts()  # immutable; replaced as a whole

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
        def read(page_params: Mapping[str, str], deadline_s: float) -> _Page[Event]:
            page = documents.parse_event_page(
                self._get("/events", lane, page_params, deadline_s=deadline_s).body
            )
            if page.unusable:
                self._warn("event_unusable", count=len(page.unusable), first=page.unusable[0])
            return _Page(page.events, page.cursor, page.rows)

        return self._pages("events", params, read)

    def _market_pages(self, params: Mapping[str, str], lane: Lane) -> Iterator[tuple[MarketSnapshot, ...]]:
        def read(page_params: Mapping[str, str], deadline_s: float) -> _Page[MarketSnapshot]:
            answer = self._get("/markets", lane, page_params, deadline_s=deadline_s)
            page = documents.parse_market_page(
                answer.body, sent_monotonic=answer.sent_monotonic, sent_at=answer.sent_at
            )
            if page.unusable:
                count, first = len(page.unusable), page.unusable[0]
                self._warn("market_unusable", count=count, first=first)
            return _Page(page.snapshots, page.cursor, page.rows)

        return self._pages("markets", params, read)

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
        for page in self._rows("/portfolio/positions", params, lane, documents.parse_position_page):
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
        pages = self._rows("/portfolio/orders", params, lane, documents.parse_order_page)
        return [order for page in pages for order in page]

    def get_order(self, order_id: str, lane: Lane = Lane.RECONCILE) -> Order:
        """One order by the exchange's id. RequestRejected with status 404 when it is not (yet) known."""
        answer = self._get(f"/portfolio/orders/{_segment(order_id)}", lane)
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
        pages = self._rows("/portfolio/fills", params, lane, documents.parse_fill_page)
        return [fill for page in pages for fill in page]

    def get_settlements(
        self, ticker: str | None = None, min_ts: int | None = None, lane: Lane = Lane.RECONCILE
    ) -> list[Settlement]:
        """All settlements, optionally of one market or since `min_ts` (epoch seconds)."""
        params = _given(ticker=ticker, min_ts=min_ts, limit=ORDERS_PER_PAGE)
        pages = self._rows("/portfolio/settlements", params, lane, account_documents.parse_settlement_page)
        return [settlement for page in pages for settlement in page]

    def get_balance(self, lane: Lane = Lane.DISPLAY) -> Balance:
        """The money in the account. The exchange allows one such request a second."""
        return account_documents.parse_balance(
            self._get("/portfolio/balance", lane, kind=RequestKind.BALANCE).body
        )

    # --- account and exchange -----------------------------------------------------------------------------

    def get_account_limits(self, lane: Lane = Lane.RECONCILE) -> AccountLimits:
        """The account's buckets; hand them to `RateLimiter.reseed`."""
        return account_documents.parse_account_limits(self._get("/account/limits", lane).body)

    def get_endpoint_costs(self, lane: Lane = Lane.RECONCILE) -> EndpointCosts:
        """What each endpoint costs; from then on this client charges by it."""
        self._costs = account_documents.parse_endpoint_costs(self._get("/account/endpoint_costs", lane).body)
        return self._costs

    def get_exchange_status(self, lane: Lane = Lane.RECONCILE) -> ExchangeStatus:
        """Whether the exchange is open. It tells so with status 200, 500, 503 or 504 (OpenAPI)."""
        answer = self._get("/exchange/status", lane, accepted=(200, 500, 503, 504))
        try:
            return account_documents.parse_exchange_status(answer.body)
        except WireError as exc:
            if answer.status == 200:
                raise
            raise order_entry.read_error(answer.status, answer.body, "GET /exchange/status") from exc

    def get_exchange_schedule(self, lane: Lane = Lane.DISPLAY) -> ExchangeSchedule:
        """Opening hours and maintenance windows."""
        return account_documents.parse_exchange_schedule(self._get("/exchange/schedule", lane).body)

    def get_user_data_timestamp(self, lane: Lane = Lane.RECONCILE) -> float:
        """Our own wall time up to which portfolio reads are complete: reads lag writes.

        The exchange tells it by its clock. Where ours is behind, reads would look fresher than they are, so
        that is taken off; where ours is ahead they look older, which only takes patience.
        """
        answer = self._get("/exchange/user_data_timestamp", lane)
        as_of = account_documents.parse_user_data_timestamp(answer.body)
        return as_of - max(0.0, _beyond_resolution(answer.offset_s))

    def get_api_keys(self, lane: Lane = Lane.DISPLAY) -> ApiKeys:
        """The account's keys and the end of the location attestation."""
        return account_documents.parse_api_keys(self._get("/api_keys", lane).body)

    def get_document(self, path: str, params: Mapping[str, str], lane: Lane = Lane.DISPLAY) -> dict[str, Any]:
        """An answer as it came, for who holds it against what this program needs of it."""
        return parse_json(self._get(path, lane, params, kind=RequestKind.READ).body)

    # --- orders -------------------------------------------------------------------------------------------

    def create_order(self, request: OrderRequest, lane: Lane = Lane.STRATEGY) -> OrderAck:
        """Send one order, once.

        TransientError: it was certainly not sent. OrderRejected, AuthError, RateLimitedError: certainly not
        acted on. OrderOutcomeUnknown: find it by client order id before anything else.
        """
        body = order_entry.order_body(request)
        answer = self._write("POST", ORDERS_PATH, lane, f"order {request.client_order_id}", body=body)
        return order_entry.read_create_answer(answer.status, answer.body, request)

    def amend_order(self, order_id: str, request: OrderRequest, lane: Lane = Lane.STRATEGY) -> OrderAck:
        """Move a resting order to the request's price and count (filled contracts included), once.

        Errors mean what they mean for a new order; OrderRejected with status 404 says that it does not
        rest, whatever became of it.
        """
        path = f"{ORDERS_PATH}/{_segment(order_id)}/amend"
        body = order_entry.amend_body(request)
        answer = self._write("POST", path, lane, f"amend of order {order_id}", body=body)
        return order_entry.read_amend_answer(answer.status, answer.body, order_id, request)

    def cancel_order(self, order_id: str, ticker: str, lane: Lane = Lane.STRATEGY) -> CancelAck:
        """Cancel a resting order. The ticker routes it to the market's shard.

        RequestRejected with status 404 proves no cancel: executed and unknown orders answer the same.
        """
        path = f"{ORDERS_PATH}/{_segment(order_id)}"
        params = {"market_ticker": parse_ticker(ticker)}
        answer = self._write("DELETE", path, lane, f"cancel of order {order_id}", params=params)
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
        return self._costs

    def close(self) -> None:
        """End waits between attempts; a call under way then fails with TransientError."""
        self._closed.set()

    def _warn(self, event: str, **fields: Any) -> None:
        """Log a warning, at most once a minute for each event."""
        held_back = self._warnings.allow(event, self._clock.monotonic())
        if held_back is not None:
            log_event(logger, logging.WARNING, event, held_back=held_back, **fields)

    # --- reading ------------------------------------------------------------------------------------------

    def _rows(
        self,
        path: str,
        params: Mapping[str, str],
        lane: Lane,
        parse: Callable[[bytes], tuple[tuple[_R, ...], str | None]],
    ) -> Iterator[tuple[_R, ...]]:
        def read(page_params: Mapping[str, str], deadline_s: float) -> _Page[_R]:
            rows, cursor = parse(self._get(path, lane, page_params, deadline_s=deadline_s).body)
            return _Page(rows, cursor, len(rows))

        return self._pages(path, params, read)

    def _pages(
        self,
        what: str,
        params: Mapping[str, str],
        read: Callable[[Mapping[str, str], float], _Page[_R]],
    ) -> Iterator[tuple[_R, ...]]:
        """Follow cursors to the end. Raises rather than end early.

        A cursor that the exchange does not know starts at the first page again without an error (recorded
        2026-06-11), so a repeated cursor is a loop.
        """
        seen: set[str] = set()
        cursor = ""
        give_up_at = self._clock.monotonic() + PAGED_READ_S_MAX
        for _ in range(PAGES_MAX):
            remaining_s = give_up_at - self._clock.monotonic()
            if remaining_s <= 0:
                raise TransientError(f"{what}: not all pages came within {PAGED_READ_S_MAX:.0f} s")
            page_params = dict(params) | ({"cursor": cursor} if cursor else {})
            page = read(page_params, min(remaining_s, self._total_deadline_s))
            yield page.rows
            if page.cursor is None and page.count >= int(params["limit"]):
                raise WireError(f"{what}: a full page without a cursor does not say whether more follows")
            if not page.cursor:
                return
            if page.cursor in seen:
                raise WireError(f"{what}: the exchange repeats a page cursor, so the list has no end")
            cursor = page.cursor
            seen.add(cursor)
        raise WireError(f"{what}: more than {PAGES_MAX} pages")

    def _get(
        self,
        path: str,
        lane: Lane,
        params: Mapping[str, str] | None = None,
        *,
        kind: RequestKind = RequestKind.READ,
        accepted: tuple[int, ...] = (200,),
        deadline_s: float | None = None,
    ) -> _Answer:
        """Read with a bounded number of attempts inside one deadline."""
        what = f"GET {path}"
        give_up_at = self._clock.monotonic() + (deadline_s or self._total_deadline_s)
        backoff = READ_BACKOFF
        signer = self._signer
        is_resigned = False
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = self._attempt(
                    "GET", path, lane, kind, what, signer=signer, params=params, give_up_at=give_up_at
                )
                if answer.status in accepted:
                    return answer
                raise order_entry.read_error(answer.status, answer.body, what)
            except AuthError as exc:
                attempt -= 1  # each way out of here is taken once
                if exc.code == order_entry.HEADER_TIMESTAMP_EXPIRED and not is_resigned:
                    is_resigned = True
                    self._server_clock.apply_observed()
                elif signer is not None and path.startswith(PUBLIC_PATHS):
                    signer = None  # prices must not depend on a key or a clock that has gone bad
                else:
                    raise
            except TransientError as exc:
                delay_s, backoff = backoff.next_delay(self._rng)
                is_over = self._clock.monotonic() + delay_s >= give_up_at
                if attempt >= READ_ATTEMPTS_MAX or is_over or isinstance(exc, _NoBudget):
                    raise
                if self._clock.wait(self._closed, delay_s):
                    raise TransientError(f"{what}: the client is closing") from exc

    # --- writing ------------------------------------------------------------------------------------------

    def _write(
        self,
        method: str,
        path: str,
        lane: Lane,
        what: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> _Answer:
        """Send once; a second time only after the exchange has refused the signature's timestamp."""
        give_up_at = self._clock.monotonic() + self._total_deadline_s
        answer = None
        for _ in range(2):
            answer = self._attempt(
                method,
                path,
                lane,
                RequestKind.WRITE,
                what,
                signer=self._signer,
                params=params,
                body=body,
                give_up_at=give_up_at,
            )
            error = order_entry.parse_error(answer.body) if answer.status == 401 else None
            if error is None or error.code != order_entry.HEADER_TIMESTAMP_EXPIRED:
                break
            self._server_clock.apply_observed()
        assert answer is not None, "the loop runs at least once"
        return answer

    # --- one attempt --------------------------------------------------------------------------------------

    def _attempt(
        self,
        method: str,
        path: str,
        lane: Lane,
        kind: RequestKind,
        what: str,
        *,
        signer: Signer | None,
        give_up_at: float,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> _Answer:
        """One request with a signature of its own, charged and counted."""
        full_path = self._base_path + path
        cost = 1 if kind is RequestKind.BALANCE else self._costs.cost(method, full_path)
        # An order keeps half of its time for the sending: one that leaves at the last moment can only end
        # as an unknown outcome.
        budget_s = (give_up_at - self._clock.monotonic()) * (0.5 if kind is RequestKind.WRITE else 1.0)
        if not self._limiter.acquire(kind, lane, cost, budget_s):
            raise _NoBudget(f"{what}: no {kind} budget left for lane {lane.name.lower()}; it was not sent")
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "backstop"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if signer is not None:
            headers |= signer.headers(method, full_path, self._server_clock.now_ms())
        if kind is RequestKind.WRITE:
            self._stats.count_write()
        else:
            self._stats.count_read(is_price=path.startswith("/markets"))
        url = self._base_url + path + (f"?{urlencode(params, safe=',')}" if params else "")
        try:
            answer = self._send(method, url, headers, body, what, give_up_at)
        except BotError:
            self._stats.count_answer(lane, area_of(path), None)
            raise
        self._stats.count_answer(lane, area_of(path), answer.status)
        if answer.status == 429:
            self._stats.count_rate_limited()
            self._limiter.penalize(lane)
        return answer

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        what: str,
        give_up_at: float,
    ) -> _Answer:
        session, deadline = self._session()
        sent_monotonic, sent_at = self._clock.monotonic(), self._clock.now()
        deadline.start(give_up_at - sent_monotonic)
        try:
            response = session.request(
                method,
                url,
                data=body,
                headers=dict(headers),
                timeout=self._timeouts(deadline),
                allow_redirects=False,  # a redirect would carry the signature, and the order, elsewhere
                stream=True,
                verify=self._ca_file,
            )
            with closing(response):
                offset_s = self._server_clock.observe_date(response.headers.get("Date"))
                content = self._body(response, deadline)
        except _TooLarge as exc:
            if method == "GET":
                raise WireError(f"{what}: {exc}") from exc
            raise OrderOutcomeUnknown(f"{what}: {exc}") from exc
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as exc:
            if method == "GET":
                raise TransientError(f"{what} failed: {_reason(exc)}") from exc
            if _was_not_sent(exc, deadline):
                raise TransientError(f"{what} was not sent: {_reason(exc)}") from exc
            raise OrderOutcomeUnknown(f"{what}, no usable answer: {_reason(exc)}") from exc
        return _Answer(response.status_code, content, sent_monotonic, sent_at, offset_s)

    def _timeouts(self, deadline: Deadline) -> tuple[float, float]:
        remaining_s = deadline.require_s()
        connect_s, receive_s = self._timeout_s
        return min(connect_s, remaining_s), min(receive_s, remaining_s)

    def _body(self, response: requests.Response, deadline: Deadline) -> bytes:
        """The whole body, not unpacked; urllib3 checks it against its announced length."""
        received = bytearray()
        while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=False):
            received += chunk
            if len(received) > self._max_body_bytes:
                raise _TooLarge(f"the answer is larger than {self._max_body_bytes} bytes")
            deadline.require_s()
        return bytes(received)

    def _session(self) -> tuple[requests.Session, Deadline]:
        """This thread's own session: one is not safe to share (psf/requests#1871)."""
        if not hasattr(self._threads, "session"):
            deadline = Deadline(self._clock)
            session = requests.Session()
            session.trust_env = False  # no proxies, .netrc or CA bundle from the environment
            session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
            adapter = _BoundedAdapter(deadline)
            session.mount("https://", adapter)
            session.mount("http://", adapter)
            self._threads.session, self._threads.deadline = session, deadline
        return self._threads.session, self._threads.deadline


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    sent_monotonic: float
    sent_at: float
    offset_s: float | None
    """The exchange's clock minus ours, None when the answer does not tell."""


@dataclass(frozen=True, slots=True)
class _Page(Generic[_R]):
    rows: tuple[_R, ...]
    cursor: str | None
    """None when the page has no such field."""
    count: int
    """Rows on the page, unusable ones included."""


class _TooLarge(Exception):
    """The body passed the size limit."""


class _NoBudget(RateLimitedError):
    """Our own limiter had no token in time: nothing was sent, and trying again at once is of no use."""


class _BoundedAdapter(requests.adapters.HTTPAdapter):
    """One thread's connections, every socket of which obeys that thread's deadline. Never retries."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        super().__init__(pool_connections=2, pool_maxsize=2, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        deadline = self._deadline

        class Plain(urllib3.connection.HTTPConnection):
            def connect(self) -> None:
                super().connect()
                self.sock = BoundedSocket(self.sock, deadline)

        class Secure(urllib3.connection.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                self.sock = BoundedSocket(self.sock, deadline)

        class PlainPool(urllib3.HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(urllib3.HTTPSConnectionPool):
            ConnectionCls = Secure

        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}


def _was_not_sent(exc: Exception, deadline: Deadline) -> bool:
    """Whether an order's request certainly did not leave. Only positive evidence counts."""
    if isinstance(exc, requests.ConnectTimeout):
        return True
    if isinstance(exc, requests.exceptions.SSLError | TimeoutError):
        return not deadline.has_sent  # failed in the handshake, or out of time before sending
    cause = exc.args[0] if exc.args else None
    reason = getattr(cause, "reason", cause)
    return isinstance(reason, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError)


def _reason(exc: Exception) -> str:
    """What went wrong, without the URL around it and without the request, whose headers are secret."""
    cause = exc.args[0] if exc.args else None
    inner = getattr(cause, "reason", None)  # urllib3 wraps it in "Max retries exceeded", also without any
    if isinstance(inner, Exception):
        return (str(inner).partition(": ")[2] or str(inner))[:300]
    return f"{type(exc).__name__}: {str(exc)[:300]}"


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
