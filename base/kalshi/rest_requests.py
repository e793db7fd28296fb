"""Signed requests to the REST interface: charged, bounded, repeated where that is safe.

What they ask and what the answers say is for others. Every failure becomes one of our errors.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode, urlsplit

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
from base.kalshi import order_entry
from base.kalshi.account_documents import EndpointCosts
from base.kalshi.backoff import Backoff
from base.kalshi.rate_limit import Lane, RateLimiter, RequestKind, RequestStats, area_of
from base.kalshi.server_clock import ServerClock
from base.kalshi.signing import Signer
from base.kalshi.transport import BoundedSocket, Deadline

PUBLIC_PATHS = ("/markets", "/events", "/exchange/", "/account/endpoint_costs")
"""What the exchange answers without a signature (OpenAPI, `security`)."""

BODY_BYTES_MAX = 8 * 1024 * 1024
READ_ATTEMPTS_MAX = 3
READ_BACKOFF = Backoff(initial_s=0.2, max_s=2.0)
PAGES_MAX = 50
PAGED_READ_S_MAX = 60.0
"""A read of many pages may take this long in all, and each of its requests the total deadline."""
_CHUNK_BYTES = 65_536

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    sent_monotonic: float
    sent_at: float
    offset_s: float | None
    """The exchange's clock minus ours, None when the answer does not tell."""


@dataclass(frozen=True, slots=True)
class Page(Generic[_R]):
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


class SignedRequests:
    """Any thread may use it; each gets a session of its own.

    Reads are repeated a few times inside `total_deadline_s`; a write is sent once. Without a signer only
    public endpoints work. `timeout_s` is (connect, receive); the total deadline also bounds a server that
    trickles. `costs` are the endpoint costs that it charges by; immutable, replaced as a whole.
    """

    def __init__(
        self,
        base_url: str,
        signer: Signer | None,
        clock: Clock,
        server_clock: ServerClock,
        limiter: RateLimiter,
        stats: RequestStats,
        *,
        timeout_s: tuple[float, float],
        total_deadline_s: float,
        max_body_bytes: int,
        ca_file: str,
        rng: random.Random,
    ) -> None:
        self.costs = EndpointCosts()
        self._base_url = base_url.rstrip("/")
        self._base_path = urlsplit(self._base_url).path
        self._signer = signer
        self._clock = clock
        self._server_clock = server_clock
        self._limiter = limiter
        self._stats = stats
        self._timeout_s = timeout_s
        self._total_deadline_s = total_deadline_s
        self._max_body_bytes = max_body_bytes
        self._ca_file = ca_file
        self._rng = rng
        self._closed = threading.Event()
        self._threads = threading.local()  # a session and a deadline for each thread

    def close(self) -> None:
        """End waits between attempts; a call under way then fails with TransientError."""
        self._closed.set()

    # --- reading ------------------------------------------------------------------------------------------

    def rows(
        self,
        path: str,
        params: Mapping[str, str],
        lane: Lane,
        parse: Callable[[bytes], tuple[tuple[_R, ...], str | None]],
    ) -> Iterator[tuple[_R, ...]]:
        def read(page_params: Mapping[str, str], deadline_s: float) -> Page[_R]:
            rows, cursor = parse(self.get(path, lane, page_params, deadline_s=deadline_s).body)
            return Page(rows, cursor, len(rows))

        return self.pages(path, params, read)

    def pages(
        self,
        what: str,
        params: Mapping[str, str],
        read: Callable[[Mapping[str, str], float], Page[_R]],
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

    def get(
        self,
        path: str,
        lane: Lane,
        params: Mapping[str, str] | None = None,
        *,
        kind: RequestKind = RequestKind.READ,
        accepted: tuple[int, ...] = (200,),
        deadline_s: float | None = None,
    ) -> Answer:
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

    def write(
        self,
        method: str,
        path: str,
        lane: Lane,
        what: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
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
    ) -> Answer:
        """One request with a signature of its own, charged and counted."""
        full_path = self._base_path + path
        cost = 1 if kind is RequestKind.BALANCE else self.costs.cost(method, full_path)
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
    ) -> Answer:
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
        return Answer(response.status_code, content, sent_monotonic, sent_at, offset_s)

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
