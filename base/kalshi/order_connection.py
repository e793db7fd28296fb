"""The exits' way to the exchange: one warm connection, headers signed ahead, one write a request.

`requests` costs 0.9 to 1.3 ms an order on a warm connection, this a quarter of it (performance.md). The
answer is read with the same functions as in `rest_client.py`.
"""

from __future__ import annotations

import http.client
import logging
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from base.clock import Clock
from base.errors import BotError, InvariantError, OrderOutcomeUnknown, RateLimitedError, TransientError
from base.kalshi import order_entry
from base.kalshi.account_documents import COST_DEFAULT, EndpointCosts
from base.kalshi.order_entry import BATCH_PATH, ORDERS_PATH
from base.kalshi.rate_limit import Lane, RateLimiter, RequestArea, RequestKind, RequestStats
from base.kalshi.server_clock import ServerClock
from base.kalshi.signing import Signer
from base.kalshi.transport import CA_FILE, BoundedSocket, Deadline, tls_context
from base.log import RepeatedWarnings, log_event
from base.model.order import OrderAck, OrderRequest

logger = logging.getLogger(__name__)

STATUS_PATH = "/exchange/status"

CONNECT_S_MAX = 3.0
RECEIVE_S_MAX = 5.0
PREPARE_EVERY_S = 1.0
PREPARED_AGE_S_MAX = 1.5
"""A prepared signature is not used when older: its timestamp has to stay within 2 s of the truth."""
IDLE_S_MAX = 20.0
UNTRUSTED_AFTER_S = 30.0
"""A connection that nobody kept warm for so long carries no order: it may have died without a sign, and
an order sent into it can only end as an unknown outcome."""
KEEP_WARM_S_MAX = 1.5
"""Keeping warm may hold up its worker, and with it an exit, for so long."""
RECONNECT_EVERY_S = 1.0
BODY_BYTES_MAX = 1024 * 1024
BATCH_ORDERS_MAX = 20
"""In one request. All its answers are lost together, so that more would put too much in doubt at once."""

_CHUNK_BYTES = 65_536


@dataclass(slots=True)
class _Route:
    """Where orders go, and the headers signed ahead for the next request there."""

    path: str
    prepared: tuple[float, bytes] | None = None
    """Monotonic time of signing, and header lines."""


class OrderConnection:
    """Sends exit orders over a connection of its own. Owned by one thread.

    Between orders its owner calls `prepare()` about once a second and `keep_warm(now)`, so that an order
    needs neither a signature nor a handshake. `costs` is what its orders are charged; the owner replaces it
    when the exchange has told its own.
    """

    def __init__(
        self,
        base_url: str,
        signer: Signer,
        server_clock: ServerClock,
        clock: Clock,
        limiter: RateLimiter,
        *,
        stats: RequestStats,
        costs: EndpointCosts | None = None,
        ca_file: str = CA_FILE,
    ) -> None:
        url = urlsplit(base_url.rstrip("/"))
        self._host = url.hostname or ""
        self._is_tls = url.scheme == "https"
        self._port = url.port or (443 if self._is_tls else 80)
        self._host_header = url.netloc.rpartition("@")[2]
        self._base_path = url.path
        self._single = _Route(url.path + ORDERS_PATH)
        self._batch = _Route(url.path + BATCH_PATH)
        self.costs = costs or EndpointCosts()
        self._batch_orders_max = BATCH_ORDERS_MAX  # 1 where the exchange takes no batches
        self._batch_orders = BATCH_ORDERS_MAX  # fewer after one that failed, doubled by each success
        self._tls = tls_context(ca_file) if self._is_tls else None
        self._signer = signer
        self._server_clock = server_clock
        self._clock = clock
        self._limiter = limiter
        self._stats = stats
        self._warnings = RepeatedWarnings()
        self._deadline = Deadline(clock)
        self._sock: BoundedSocket | None = None
        self._last_used_at = clock.monotonic()
        self._last_connect_at: float | None = None

    def reserve(self, orders: int) -> float:
        """Take the write budget of so many orders and return 0.0, else the seconds until it may be there."""
        return self._limiter.reserve(RequestKind.WRITE, Lane.EXIT, self._cost(orders))

    @property
    def batch_max(self) -> int:
        """The most orders that one request may carry now; what is reserved for them at once is there."""
        cost = self._cost(2) / 2
        if self._batch_orders_max == 1 or cost > self._cost(1):
            return 1
        most = min(self._batch_orders_max, self._batch_orders)
        if cost > 0:
            most = min(most, int(self._limiter.available(RequestKind.WRITE, Lane.EXIT) / cost))
        return max(1, most)

    def create_order(self, request: OrderRequest, deadline_s: float = 5.0) -> OrderAck:
        """Send one order that has been reserved, once, within `deadline_s`. Raises as
        `RestClient.create_order` does.

        A connection that turns out dead before it took a byte of the request is replaced and the order
        sent over the new one; a refused timestamp is signed again. Neither can have acted.
        """
        body = order_entry.order_body(request)
        status, answer = self._deliver(self._single, body, f"order {request.client_order_id}", 1, deadline_s)
        try:
            return order_entry.read_create_answer(status, answer, request)
        except OrderOutcomeUnknown:
            self.close()  # the connection may be out of step, one answer behind
            raise

    def create_orders(
        self, requests: Sequence[OrderRequest], deadline_s: float = 5.0
    ) -> list[OrderAck | BotError]:
        """Send orders that have been reserved in one request, once; one answer for each, in order.

        Raises no BotError: what failed as a whole is every order's answer. InvariantError is that of an
        order that no market can take or whose client order id another one before it has; it is left out.
        """
        refused: dict[int, BotError] = {}
        sent: dict[str, OrderRequest] = {}
        for index, request in enumerate(requests):
            try:
                order_entry.check_order(request)
            except InvariantError as exc:
                refused[index] = exc
                continue
            if request.client_order_id in sent:
                refused[index] = InvariantError(f"order {request.client_order_id} is twice in a batch")
            else:
                sent[request.client_order_id] = request
        answers = iter(self._create_together(list(sent.values()), deadline_s) if sent else ())
        return [refused[i] if i in refused else next(answers) for i in range(len(requests))]

    def _create_together(
        self, requests: Sequence[OrderRequest], deadline_s: float
    ) -> list[OrderAck | BotError]:
        if len(requests) == 1:
            try:
                return [self.create_order(requests[0], deadline_s)]
            except BotError as exc:
                return [exc]
        what = f"a batch of {len(requests)} orders from {requests[0].client_order_id} on"
        try:
            status, answer = self._deliver(
                self._batch, order_entry.batch_body(requests), what, len(requests), deadline_s
            )
        except (TransientError, OrderOutcomeUnknown) as exc:
            self._batch_orders = 1
            return [type(exc)(str(exc)) for _ in requests]
        answers = order_entry.read_batch_answer(status, answer, requests)
        if status in order_entry.WITHOUT_BATCHES:
            self._batch_orders_max = 1
        if any(isinstance(a, RateLimitedError) for a in answers):
            # A batch only ever fits as a whole, and somebody else may use this budget too.
            self._batch_orders = max(1, len(requests) // 2)
            if status != 429:
                self._slow_down()
        elif status != 201:
            self._batch_orders = 1  # one bad order, or the endpoint itself, must not hold up the others
        if any(isinstance(a, OrderOutcomeUnknown) for a in answers):
            self.close()  # as with a single order
        return answers

    def prepare(self) -> None:
        """Sign the headers of the next order and of the next batch, at most once a second."""
        now = self._clock.monotonic()
        for route in (self._single, self._batch):
            if route.prepared is None or now - route.prepared[0] >= PREPARE_EVERY_S:
                route.prepared = (now, self._sign(route))

    def keep_warm(self, now: float) -> bool:
        """Make sure that there is a live connection; `now` is monotonic seconds. Return whether there is.

        Connects when there is none (at most once a second), and asks a connection that has been idle for
        20 s for the exchange's status, which finds one that died silently. Never raises for the network.
        """
        if self._sock is not None and self._is_stale(self._sock):
            self.close()
        try:
            if self._sock is None:
                if self._last_connect_at is not None and now - self._last_connect_at < RECONNECT_EVERY_S:
                    return False
                self._deadline.start(KEEP_WARM_S_MAX)
                self._connect()
            elif now - self._last_used_at >= IDLE_S_MAX:
                self._ask_status()
        except (OSError, http.client.HTTPException) as exc:
            self.close()
            held_back = self._warnings.allow("down", now)
            if held_back is not None:
                log_event(
                    logger, logging.WARNING, "exit_connection_down", held_back=held_back, why=_reason(exc)
                )
            return False
        return self._sock is not None

    def close(self) -> None:
        """Close the connection; the next order opens a new one."""
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    @property
    def is_connected(self) -> bool:
        return self._sock is not None

    # --- one request --------------------------------------------------------------------------------------

    def _cost(self, orders: int) -> float:
        """Tokens of a request with so many orders; a batch is billed for each (docs, batch create orders)."""
        return orders * self.costs.cost("POST", (self._batch if orders > 1 else self._single).path)

    def _deliver(
        self, route: _Route, body: bytes, what: str, orders: int, deadline_s: float
    ) -> tuple[int, bytes]:
        """Send a request, a second time only after the exchange has refused its timestamp."""
        give_up_at = self._clock.monotonic() + deadline_s
        status, answer = self._post(route, body, what, give_up_at)
        error = order_entry.parse_error(answer) if status == 401 else None
        if error is not None and error.code == order_entry.HEADER_TIMESTAMP_EXPIRED:
            self._server_clock.apply_observed()
            self._single.prepared = self._batch.prepared = None
            # Sent whether there is budget for it or not: a refused signature may have cost nothing, and if
            # it did, a 429 is the worst that follows, which costs an eighth of a second.
            self._limiter.charge(RequestKind.WRITE, self._cost(orders))
            status, answer = self._post(route, body, what, give_up_at)
        if status == 429:
            self._slow_down()
        elif status == 201:
            self._batch_orders = min(BATCH_ORDERS_MAX, self._batch_orders * 2)
        return status, answer

    def _slow_down(self) -> None:
        self._stats.count_rate_limited()
        self._limiter.penalize(Lane.EXIT)

    def _post(self, route: _Route, body: bytes, what: str, give_up_at: float) -> tuple[int, bytes]:
        """Send the request and read its answer, whatever it says."""
        self._deadline.start(give_up_at - self._clock.monotonic())
        self._stats.count_write()
        status: int | None = None
        try:
            status, answer = self._ask(route, body, what)
        finally:
            self._stats.count_answer(Lane.EXIT, RequestArea.ORDERS, status)
        return status, answer

    def _ask(self, route: _Route, body: bytes, what: str) -> tuple[int, bytes]:
        try:
            sock = self._send_somehow(route, body)
        except _PartlySent as exc:
            self.close()
            raise OrderOutcomeUnknown(f"{what}: the connection failed while it was sent: {exc}") from exc
        except OSError as exc:
            self.close()
            raise TransientError(f"{what} was not sent: {_reason(exc)}") from exc
        try:
            return self._receive(sock, "POST")
        except (OSError, http.client.HTTPException, ValueError) as exc:
            self.close()
            raise OrderOutcomeUnknown(f"{what}, no usable answer: {_reason(exc)}") from exc

    def _send_somehow(self, route: _Route, body: bytes) -> BoundedSocket:
        """Send over the open connection, or over a new one if that is dead before it takes a byte."""
        is_trusted = self._clock.monotonic() - self._last_used_at < UNTRUSTED_AFTER_S
        if self._sock is not None and is_trusted and not self._is_stale(self._sock):
            try:
                self._send_all(self._sock, self._post_head(route, len(body)) + body)
            except ConnectionError:
                # The first send call was refused: the kernel took nothing of the request.
                self.close()
            else:
                return self._sock
        else:
            self.close()
        sock = self._connect()
        self._send_all(sock, self._post_head(route, len(body)) + body)
        return sock

    def _send_all(self, sock: BoundedSocket, data: bytes) -> None:
        """Send everything. An OSError that passes as itself says that nothing of it had left."""
        try:
            sent = sock.send(data)
        except OSError as exc:
            if isinstance(exc, ConnectionError) or not self._deadline.has_sent:
                raise
            raise _PartlySent(_reason(exc)) from exc
        try:
            while sent < len(data):
                sent += sock.send(data[sent:])
        except OSError as exc:
            raise _PartlySent(_reason(exc)) from exc

    def _receive(self, sock: BoundedSocket, method: str) -> tuple[int, bytes]:
        response = http.client.HTTPResponse(sock, method=method)  # type: ignore[arg-type]
        try:
            response.begin()
            self._server_clock.observe_date(response.getheader("Date"))
            body = self._read_body(response)
        except BaseException:
            self.close()  # what is left of this answer must never be taken for the next one's
            raise
        finally:
            response.close()
        if response.will_close:
            self.close()
        self._last_used_at = self._clock.monotonic()
        return response.status, body

    def _read_body(self, response: http.client.HTTPResponse) -> bytes:
        announced = response.length
        received = bytearray()
        while chunk := response.read1(_CHUNK_BYTES):
            received += chunk
            if len(received) > BODY_BYTES_MAX:
                raise ValueError(f"the answer is larger than {BODY_BYTES_MAX} bytes")
            if announced is not None and len(received) >= announced:
                break
        if announced is not None and len(received) != announced:
            raise http.client.IncompleteRead(bytes(received), announced - len(received))
        return bytes(received)

    def _post_head(self, route: _Route, length: int) -> bytes:
        """Request line and headers; each signed set is used once."""
        prepared, route.prepared = route.prepared, None
        if prepared is None or self._clock.monotonic() - prepared[0] > PREPARED_AGE_S_MAX:
            signed = self._sign(route)
        else:
            signed = prepared[1]
        return (
            (
                f"POST {route.path} HTTP/1.1\r\n"
                f"Host: {self._host_header}\r\n"
                "User-Agent: backstop\r\n"
                "Accept: application/json\r\n"
                "Accept-Encoding: identity\r\n"
                "Content-Type: application/json\r\n"
                f"Content-Length: {length}\r\n"
            ).encode("ascii")
            + signed
            + b"\r\n"
        )

    def _sign(self, route: _Route) -> bytes:
        headers = self._signer.headers("POST", route.path, self._server_clock.now_ms())
        return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("ascii")

    # --- the connection -----------------------------------------------------------------------------------

    def _connect(self) -> BoundedSocket:
        """Open a connection within the deadline. Raises OSError."""
        self._last_connect_at = self._clock.monotonic()
        raw = self._connect_to_any()
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                raw.settimeout(min(CONNECT_S_MAX, self._deadline.require_s()))
                raw = self._tls.wrap_socket(raw, server_hostname=self._host)
            raw.settimeout(RECEIVE_S_MAX)
        except BaseException:
            raw.close()
            raise
        self._sock = BoundedSocket(raw, self._deadline)
        self._last_used_at = self._clock.monotonic()
        return self._sock

    def _connect_to_any(self) -> socket.socket:
        """The first address that answers; together they get no more time than one."""
        give_up_at = self._clock.monotonic() + min(CONNECT_S_MAX, self._deadline.require_s())
        failure: OSError = OSError(f"no address for {self._host}")
        for family, kind, protocol, _, address in socket.getaddrinfo(
            self._host, self._port, type=socket.SOCK_STREAM
        ):
            remaining_s = give_up_at - self._clock.monotonic()
            if remaining_s <= 0:
                break
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(remaining_s)
                sock.connect(address)
            except OSError as exc:
                sock.close()
                failure = exc
            else:
                return sock
        raise failure

    def _is_stale(self, sock: BoundedSocket) -> bool:
        """Whether an idle connection is of no more use: closed, broken, or talking without being asked.

        Being readable is not enough: a TLS server sends session tickets after the handshake.
        """
        sock.settimeout(0.0)
        try:
            sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        finally:
            sock.settimeout(RECEIVE_S_MAX)
        return True

    def _ask_status(self) -> None:
        """Send the cheapest request there is. Raises OSError or HTTPException when nobody answers."""
        path = self._base_path + STATUS_PATH
        if not self._limiter.try_acquire(RequestKind.READ, Lane.DISPLAY, COST_DEFAULT):
            return  # no budget to spare: the next call tries again
        assert self._sock is not None, "only an open connection is asked"
        self._deadline.start(KEEP_WARM_S_MAX)
        self._stats.count_read()
        self._sock.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {self._host_header}\r\nUser-Agent: backstop\r\n"
            "Accept-Encoding: identity\r\n\r\n".encode("ascii")
        )
        status: int | None = None
        try:
            status, _ = self._receive(self._sock, "GET")
        except ValueError as exc:
            raise http.client.HTTPException(str(exc)) from exc
        finally:
            self._stats.count_answer(Lane.DISPLAY, RequestArea.EXCHANGE, status)


class _PartlySent(Exception):
    """The connection failed when some of the request may have left already."""


def _reason(exc: Exception) -> str:
    return f"{type(exc).__name__}: {str(exc)[:300]}"
