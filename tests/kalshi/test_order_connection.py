"""The exit path: one warm connection, one send, and never a blind second one."""

from __future__ import annotations

import base64
import json
import random
import socket
import threading
import time
from dataclasses import replace
from decimal import Decimal as D
from email.utils import formatdate
from pathlib import Path

import pytest

from base.clock import SystemClock
from base.errors import (
    AuthError,
    InvariantError,
    OrderOutcomeUnknown,
    OrderRejected,
    RateLimitedError,
    TransientError,
)
from base.kalshi.account_documents import API_PREFIX, EndpointCosts
from base.kalshi.order_connection import OrderConnection
from base.kalshi.rate_limit import AccountLimits, Lane, Quota, RateLimiter, RequestStats
from base.kalshi.server_clock import ServerClock
from base.kalshi.transport import CA_FILE
from base.model.market import BookSide
from base.model.order import OrderAck, OrderRequest, TimeInForce
from tests.fakes.clock import FakeClock
from tests.fakes.scripted_http import (
    Received,
    ScriptedServer,
    Step,
    answer,
    close_without_answer,
    echo_order,
    hang,
    raw,
    reset,
    response_bytes,
    then_close,
    then_hang,
    then_reset,
    trickle,
)

from .bodies import BAD_SIGNATURE, DUPLICATE, EXPIRED, HTML, NOT_FOUND, TOO_MANY
from .keys import KEY_ID, ed25519_key, signer, tls_server

PATH = "/trade-api/v2/portfolio/events/orders"
BATCH_PATH = f"{PATH}/batched"
PLENTY = Quota(1_000, 1_000)
BASIC_WRITE = Quota(100, 100)
STATUS_ANSWER = answer(200, {"exchange_active": True, "trading_active": True})

PROVED = {
    "order_id": "X",
    "client_order_id": "bs-1",
    "fill_count": "3.00",
    "remaining_count": "0.00",
    "ts_ms": 1,
}
ANOTHER_ORDER = PROVED | {"client_order_id": "another"}


def order(number: int = 1) -> OrderRequest:
    return OrderRequest(
        ticker="KXHIGHNY-26NOV22-T50",
        client_order_id=f"bs-{number}",
        book_side=BookSide.ASK,
        count=D("3"),
        price=D("0.01"),
        time_in_force=TimeInForce.IMMEDIATE_OR_CANCEL,
        reduce_only=True,
    )


def echo_batch(filled: str = "1.00") -> Step:
    """Answer a batch with 201 and its own client order ids, in order."""

    def step(connection: socket.socket, request: Received, stop: threading.Event) -> bool:
        rows = [
            {
                "order_id": f"X-{order['client_order_id']}",
                "client_order_id": order["client_order_id"],
                "fill_count": filled,
                "remaining_count": "0.00",
                "average_fill_price": "0.5200",
                "average_fee_paid": "0.0175",
                "ts_ms": 1_781_159_370_164,
                "error": None,
            }
            for order in json.loads(request.body)["orders"]
        ]
        connection.sendall(response_bytes(201, {"orders": rows}))
        return True

    return step


class Route:
    """A connection with everything around it."""

    def __init__(self, base_url: str, clock=None, ca_file: str = CA_FILE) -> None:
        self.clock = clock or SystemClock()
        self.stats = RequestStats(self.clock)
        self.limiter = RateLimiter(self.clock, PLENTY, PLENTY)
        self.server_clock = ServerClock(self.clock)
        self.connection = OrderConnection(
            base_url,
            signer(),
            self.server_clock,
            self.clock,
            self.limiter,
            stats=self.stats,
            ca_file=ca_file,
        )


@pytest.fixture
def serve():
    """Start a scripted server and an order connection to it."""
    opened: list = []

    def start(*steps: Step, clock=None) -> tuple[ScriptedServer, Route]:
        server = ScriptedServer(*steps)
        server.__enter__()
        path = Route(server.base_url, clock)
        opened.append((server, path))
        return server, path

    yield start
    for server, path in opened:
        path.connection.close()
        server.__exit__(None, None, None)


def signed_text(request) -> bytes:
    return f"{request.headers['kalshi-access-timestamp']}{request.method}{request.path}".encode()


def test_order_arrives_signed_and_its_answer_is_proved(serve) -> None:
    server, path = serve(echo_order("3.00"))

    ack = path.connection.create_order(order())

    assert (ack.client_order_id, ack.fill_count, ack.fees) == ("bs-1", 3, D("0.0525"))
    (request,) = server.requests
    assert (request.method, request.target) == ("POST", PATH)
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["kalshi-access-key"] == KEY_ID
    assert json.loads(request.body)["reduce_only"] is True
    signature = base64.b64decode(request.headers["kalshi-access-signature"])
    ed25519_key().public_key().verify(signature, signed_text(request))
    assert path.stats.counts().writes == 1


def test_orders_share_one_connection(serve) -> None:
    server, path = serve(echo_order())

    for number in range(5):
        path.connection.create_order(order(number))

    assert (len(server.requests), server.connections) == (5, 1)


def test_announced_close_is_followed_by_a_new_connection(serve) -> None:
    server, path = serve(then_close(answer(409, DUPLICATE, headers={"Connection": "close"})), echo_order())

    with pytest.raises(OrderRejected):
        path.connection.create_order(order(1))
    assert not path.connection.is_connected
    path.connection.create_order(order(2))
    assert server.connections == 2


def test_chunked_answer_is_read(serve) -> None:
    body = json.dumps(
        {
            "order_id": "X",
            "client_order_id": "bs-1",
            "fill_count": "0.00",
            "remaining_count": "0.00",
            "ts_ms": 1,
        }
    ).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:10], body[10:])) + b"0\r\n\r\n"
    _, path = serve(raw(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks))

    assert path.connection.create_order(order()).fill_count == 0


# --- signed ahead


def test_prepared_headers_are_used_once_and_stay_fresh(serve) -> None:
    clock = FakeClock()
    server, path = serve(echo_order(), clock=clock)
    connection = path.connection
    prepared_at_ms = round(clock.now() * 1000)

    connection.prepare()
    clock.advance(0.9)
    connection.prepare()  # within a second: not signed again
    connection.create_order(order(1))
    connection.create_order(order(2))  # the set was used: signed inline
    connection.prepare()
    clock.advance(1.6)
    connection.create_order(order(3))  # the set is too old: signed inline
    clock.advance(1.0)
    connection.prepare()
    clock.advance(1.0)
    connection.prepare()  # renewed
    clock.advance(1.4)
    connection.create_order(order(4))

    stamps = [int(r.headers["kalshi-access-timestamp"]) - prepared_at_ms for r in server.requests]
    assert stamps == [0, 900, 2500, 4500]
    assert len({r.headers["kalshi-access-signature"] for r in server.requests}) == 4


def test_expired_timestamp_is_learned_and_signed_again_once(serve) -> None:
    clock = FakeClock()
    late = answer(401, EXPIRED, headers={"Date": "Mon, 21 Sep 2026 14:14:20 GMT"})  # 60 s ahead of the clock
    server, path = serve(late, echo_order(), clock=clock)
    path.connection.prepare()

    assert path.connection.create_order(order()).fill_count == 1
    first, second = (int(r.headers["kalshi-access-timestamp"]) for r in server.requests)
    assert second - first == pytest.approx(60_000, abs=1_000)
    assert server.requests[0].body == server.requests[1].body


def test_timestamp_that_stays_expired_is_an_auth_error_that_says_so(serve) -> None:
    server, path = serve(answer(401, EXPIRED))

    with pytest.raises(AuthError) as single:
        path.connection.create_order(order())
    assert len(server.requests) == 2
    batch = path.connection.create_orders([order(1), order(2)])
    assert len(server.requests) == 4
    errors = [single.value, *batch]
    assert all(isinstance(error, AuthError) for error in errors)
    assert {(e.status, e.code) for e in errors} == {(401, "header_timestamp_expired")}


def checks_timestamps(clock: FakeClock, ahead_s: float, then: Step) -> Step:
    """An exchange whose clock is `ahead_s` ahead of ours and that takes timestamps within 10 s of it."""

    def step(connection, request, stop) -> bool:
        now = clock.now() + ahead_s
        if abs(int(request.headers["kalshi-access-timestamp"]) / 1000 - now) > 10:
            date = formatdate(now, usegmt=True)
            return answer(401, EXPIRED, headers={"Date": date})(connection, request, stop)
        return then(connection, request, stop)

    return step


@pytest.mark.parametrize("ahead_s", [-40, 40], ids=["our clock is ahead", "our clock is behind"])
@pytest.mark.parametrize("is_batch", [False, True], ids=["order", "batch"])
def test_skewed_clock_is_healed_by_the_exit_itself(serve, ahead_s: float, is_batch: bool) -> None:
    clock = FakeClock()
    then = echo_batch() if is_batch else echo_order()
    server, path = serve(checks_timestamps(clock, ahead_s, then), clock=clock)
    path.connection.prepare()

    def send(number: int) -> OrderAck:
        if is_batch:
            return path.connection.create_orders([order(number), order(-number)])[0]
        return path.connection.create_order(order(number))

    assert send(1).fill_count == 1
    assert len(server.requests) == 2
    path.connection.prepare()
    assert send(2).fill_count == 1
    assert len(server.requests) == 3, "healed for good"
    assert path.server_clock.offset_s == pytest.approx(ahead_s, abs=1)


def test_what_was_signed_ahead_by_the_wrong_clock_is_not_used(serve) -> None:
    clock = FakeClock()
    late = answer(401, EXPIRED, headers={"Date": formatdate(clock.now() + 60, usegmt=True)})
    server, path = serve(late, echo_order(), echo_batch(), clock=clock)
    path.connection.prepare()
    path.connection.create_order(order(1))
    path.connection.create_orders(orders(2, 3))

    stamps = [int(r.headers["kalshi-access-timestamp"]) / 1000 - clock.now() for r in server.requests]
    assert stamps == pytest.approx([0, 60, 60], abs=1)


@pytest.mark.parametrize(
    ("capacity", "tokens_left"), [(1_000, 980), (15, 0), (10, 0)], ids=["plenty", "a part", "none"]
)
def test_order_signed_again_goes_out_whether_there_is_budget_or_not(
    serve, capacity: float, tokens_left: float
) -> None:
    clock = FakeClock()
    late = answer(401, EXPIRED, headers={"Date": formatdate(clock.now() + 60, usegmt=True)})
    server, path = serve(late, echo_order(), clock=clock)
    path.limiter.reseed(AccountLimits(PLENTY, Quota(capacity, 1)))
    assert path.connection.reserve(1) == 0

    assert path.connection.create_order(order()).fill_count == 1
    assert len(server.requests) == 2
    assert path.limiter.snapshot().write.tokens == tokens_left


@pytest.mark.parametrize("code", ["missing_scope", "region_attestation_expired"])
def test_what_a_403_is_about_is_told(serve, code: str) -> None:
    _, path = serve(answer(403, {"error": {"code": code, "message": "no"}}))

    with pytest.raises(AuthError) as single:
        path.connection.create_order(order())
    errors = [single.value, *path.connection.create_orders([order(1), order(2)])]
    assert [(e.status, e.code) for e in errors] == [(403, code)] * 3


# --- what a failure means


def test_nobody_listening_is_certainly_not_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    path = Route(f"http://127.0.0.1:{port}/trade-api/v2")

    with pytest.raises(TransientError):
        path.connection.create_order(order())


def test_unknown_host_is_certainly_not_sent() -> None:
    path = Route("http://nowhere.invalid:1/trade-api/v2")

    with pytest.raises(TransientError):
        path.connection.create_order(order())


@pytest.mark.parametrize(
    "step",
    [
        close_without_answer,
        reset,
        raw(b"HTTP/1.1 201 Created\r\nContent-Length: 500\r\n\r\n" + json.dumps(PROVED).encode()),
        raw(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"),
        raw(b"not http at all\r\n\r\n"),
        raw(b"HTTP/1.1 201 Created\r\n\r\n{}"),
        answer(201, HTML),
        answer(201, ANOTHER_ORDER),
        answer(502, HTML),
        answer(503, {"error": {"code": "service_unavailable"}}),
        answer(201, b"x" * (1024 * 1024 + 1)),
    ],
    ids=[
        "closed",
        "reset",
        "cut",
        "cut chunk",
        "not http",
        "empty",
        "html",
        "another order",
        "502",
        "503",
        "huge",
    ],
)
def test_order_that_may_have_acted_is_unknown_and_sent_once(serve, step: Step) -> None:
    server, path = serve(step)

    with pytest.raises(OrderOutcomeUnknown):
        path.connection.create_order(order())
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "step",
    [
        hang,
        trickle(b"HTTP/1.1 201 Created\r\nContent-Length: 40\r\n\r\n" + b" " * 4_000),
        trickle(b"HTTP/1.1 201 Created\r\nX-Header: " + b"x" * 4_000),
    ],
    ids=["silent", "trickled body", "trickled headers"],
)
def test_deadline_holds_however_slowly_the_server_talks(serve, step: Step) -> None:
    _, path = serve(step)
    started = time.monotonic()

    with pytest.raises(OrderOutcomeUnknown):
        path.connection.create_order(order(), deadline_s=0.3)
    assert time.monotonic() - started < 1.5
    assert not path.connection.is_connected


def test_order_without_any_time_left_is_certainly_not_sent(serve) -> None:
    server, path = serve(echo_order(), clock=FakeClock())

    for is_connected in (False, True):
        assert path.connection.is_connected is is_connected
        with pytest.raises(TransientError):
            path.connection.create_order(order(1), deadline_s=0)
        path.connection.keep_warm(path.clock.monotonic() + 2)
    assert server.requests == []


def test_429_pauses_the_lane_and_is_counted(serve) -> None:
    _, path = serve(answer(429, TOO_MANY), echo_order())

    with pytest.raises(RateLimitedError):
        path.connection.create_order(order(1))
    assert path.stats.counts().rate_limited == 1
    assert path.limiter.snapshot().penalized_s[Lane.EXIT] > 0
    assert path.connection.create_order(order(1)).fill_count == 1


# --- the budget


@pytest.fixture
def basic() -> Route:
    """A route with the budget of the basic tier; nothing is sent over it."""
    path = Route("http://127.0.0.1:1/trade-api/v2", FakeClock())
    path.limiter.reseed(AccountLimits(PLENTY, BASIC_WRITE))
    return path


def test_orders_take_their_budget_at_once_or_say_when_to_come_back(basic: Route) -> None:
    connection = basic.connection
    assert connection.reserve(8) == 0
    assert connection.reserve(3) == pytest.approx(0.1)
    assert connection.reserve(2) == 0
    assert connection.reserve(1) == pytest.approx(0.1)
    basic.clock.advance(0.1)
    assert connection.reserve(1) == 0


def test_reserving_waits_for_the_end_of_a_pause(basic: Route) -> None:
    basic.limiter.penalize(Lane.EXIT)
    assert basic.connection.reserve(1) == pytest.approx(0.125)
    assert basic.connection.batch_max == 1
    basic.clock.advance(0.125)
    assert basic.connection.reserve(1) == 0


def test_order_that_was_reserved_takes_no_budget_again(serve) -> None:
    _, path = serve(echo_order(), clock=FakeClock())
    path.limiter.reseed(AccountLimits(PLENTY, Quota(10, 0.01)))
    assert path.connection.reserve(1) == 0

    assert path.connection.create_order(order(1)).fill_count == 1
    assert path.limiter.snapshot().write.tokens == pytest.approx(0, abs=0.1)
    assert path.limiter.snapshot().refused == 0


def test_batch_holds_what_the_budget_holds_now(basic: Route) -> None:
    sizes = [basic.connection.batch_max]
    for orders in (3, 6, 1):
        assert basic.connection.reserve(orders) == 0
        sizes.append(basic.connection.batch_max)
    basic.clock.advance(0.3)
    sizes.append(basic.connection.batch_max)
    basic.limiter.reseed(AccountLimits(PLENTY, Quota(3_600, 1_200)))
    basic.clock.advance(3)
    sizes.append(basic.connection.batch_max)
    assert sizes == [10, 7, 1, 1, 3, 20]


@pytest.mark.parametrize(
    ("batched", "expected"),
    [(10, 10), (5, 20), (11, 1), (0, 20)],
    ids=["as dear as singly", "half", "dearer than singly", "free"],
)
def test_batch_is_charged_what_the_exchange_says(basic: Route, batched: int, expected: int) -> None:
    basic.connection.costs = EndpointCosts(
        10, (("POST", f"{API_PREFIX}/portfolio/events/orders/batched", batched),)
    )

    assert basic.connection.batch_max == expected
    assert basic.connection.reserve(4) == 0
    assert basic.limiter.snapshot().write.tokens == 100 - 4 * batched
    assert basic.connection.reserve(1) == 0
    assert basic.limiter.snapshot().write.tokens == 90 - 4 * batched


# --- several orders in one request


def results(answers) -> list[str]:
    return [a.client_order_id if isinstance(a, OrderAck) else type(a).__name__ for a in answers]


def orders(*numbers: int) -> list[OrderRequest]:
    return [order(number) for number in numbers]


def sent_ids(server: ScriptedServer) -> list[list[str]]:
    """The client order ids of each request."""
    documents = [json.loads(r.body) for r in server.requests]
    return [[o["client_order_id"] for o in d.get("orders", [d])] for d in documents]


def test_batch_arrives_signed_for_its_own_path_and_every_answer_is_proved(serve) -> None:
    server, path = serve(echo_batch("3.00"), echo_order("3.00"))
    path.connection.prepare()

    answers = path.connection.create_orders(orders(1, 2, 3))
    path.connection.create_order(order(4))

    assert [(a.client_order_id, a.fill_count, a.fees) for a in answers] == [
        (f"bs-{n}", 3, D("0.0525")) for n in (1, 2, 3)
    ]
    assert [r.path for r in server.requests] == [BATCH_PATH, PATH]
    for request in server.requests:
        signature = base64.b64decode(request.headers["kalshi-access-signature"])
        ed25519_key().public_key().verify(signature, signed_text(request))
    assert (path.stats.counts().writes, server.connections) == (2, 1)


def test_batch_headers_are_signed_ahead_and_used_once(serve) -> None:
    clock = FakeClock()
    server, path = serve(echo_batch(), clock=clock)
    start_ms = round(clock.now() * 1000)
    path.connection.prepare()
    clock.advance(0.5)
    path.connection.create_orders(orders(1, 2))
    path.connection.create_orders(orders(3, 4))

    stamps = [int(r.headers["kalshi-access-timestamp"]) - start_ms for r in server.requests]
    assert stamps == [0, 500]


def test_batch_of_one_is_an_order(serve) -> None:
    server, path = serve(echo_order(), answer(409, DUPLICATE))

    assert results(path.connection.create_orders(orders(1))) == ["bs-1"]
    assert results(path.connection.create_orders(orders(1))) == ["OrderRejected"]
    assert path.connection.create_orders([]) == []
    assert [r.path for r in server.requests] == [PATH, PATH]


def test_order_that_no_market_can_take_does_not_hold_up_its_batch(serve) -> None:
    server, path = serve(echo_batch())
    bad = replace(order(2), count=D(0))

    answers = path.connection.create_orders([order(1), bad, order(3), order(1)])
    assert results(answers) == ["bs-1", "InvariantError", "bs-3", "InvariantError"]
    assert isinstance(answers[1], InvariantError)
    assert sent_ids(server) == [["bs-1", "bs-3"]]


def test_nobody_listening_leaves_a_whole_batch_certainly_unsent(basic: Route) -> None:
    answers = basic.connection.create_orders(orders(1, 2))

    assert results(answers) == ["TransientError"] * 2
    assert answers[0] is not answers[1]


@pytest.mark.parametrize(
    "step",
    [
        close_without_answer,
        reset,
        raw(b"HTTP/1.1 201 Created\r\nContent-Length: 500\r\n\r\n{"),
        raw(b"not http at all\r\n\r\n"),
        answer(201, HTML),
        answer(201, {"orders": []}),
        answer(201, {"orders": [ANOTHER_ORDER, ANOTHER_ORDER]}),
        answer(502, HTML),
        answer(503, {"error": {"code": "service_unavailable"}}),
    ],
    ids=["closed", "reset", "cut", "not http", "html", "no items", "other orders", "502", "503"],
)
def test_batch_that_may_have_acted_is_unknown_sent_once_and_followed_by_single_orders(
    serve, step: Step
) -> None:
    server, path = serve(step, echo_order())

    assert results(path.connection.create_orders(orders(1, 2))) == ["OrderOutcomeUnknown"] * 2
    assert len(server.requests) == 1
    assert not path.connection.is_connected
    path.connection.create_order(order(3))
    assert server.connections == 2


def test_batch_obeys_its_deadline(serve) -> None:
    _, path = serve(hang)
    started = time.monotonic()

    assert results(path.connection.create_orders(orders(1, 2), deadline_s=0.3)) == ["OrderOutcomeUnknown"] * 2
    assert time.monotonic() - started < 1.5
    assert path.connection.batch_max == 1, "no more orders than one in doubt at once"


def test_batch_that_does_not_fit_is_halved_until_it_does_and_grows_again(serve) -> None:
    """Another program may use the same budget: our own count of it is then too high."""
    clock = FakeClock()
    server, path = serve(*[answer(429, TOO_MANY)] * 2, echo_batch(), clock=clock)
    sizes = []
    for _ in range(5):
        sizes.append(path.connection.batch_max)
        answers = path.connection.create_orders(orders(*range(sizes[-1])))
        assert len(set(results(answers))) == (1 if len(sizes) <= 2 else sizes[-1])
        clock.advance(1)  # the pause that a 429 brings
    assert sizes == [20, 10, 5, 10, 20]
    assert path.stats.counts().rate_limited == 2
    assert len(server.requests) == 5


def test_item_that_came_too_early_slows_the_lane_down(serve) -> None:
    rows = [
        PROVED | {"error": None},
        {"client_order_id": "bs-2", "error": {"code": "too_many_requests", "message": "m"}},
    ]
    _, path = serve(answer(201, {"orders": rows}))

    assert results(path.connection.create_orders(orders(1, 2))) == ["bs-1", "RateLimitedError"]
    assert path.limiter.snapshot().penalized_s[Lane.EXIT] > 0
    assert path.stats.counts().rate_limited == 1


@pytest.mark.parametrize("status", [404, 405, 410])
def test_exchange_without_batches_is_asked_once(serve, status: int) -> None:
    server, path = serve(answer(status, NOT_FOUND), echo_order())

    assert path.connection.batch_max == 20
    assert results(path.connection.create_orders(orders(1, 2))) == ["TransientError"] * 2
    for number in (1, 2, 3):
        assert path.connection.batch_max == 1
        path.connection.create_order(order(number))
    assert sent_ids(server) == [["bs-1", "bs-2"], ["bs-1"], ["bs-2"], ["bs-3"]]


@pytest.mark.parametrize(
    ("status", "document", "error"),
    [
        (400, {"code": "bad_request", "message": "m"}, "OrderRejected"),
        (403, {"error": {"code": "forbidden"}}, "AuthError"),
    ],
)
def test_after_a_batch_was_refused_as_a_whole_orders_go_singly(
    serve, status: int, document: object, error: str
) -> None:
    """One bad order, or a rule for the endpoint, must not keep good exits from going out."""
    _, path = serve(answer(status, document), echo_order())

    assert results(path.connection.create_orders(orders(1, 2))) == [error] * 2
    sizes = [path.connection.batch_max]
    for number in range(5):
        path.connection.create_order(order(number))
        sizes.append(path.connection.batch_max)
    assert sizes == [1, 2, 4, 8, 16, 20]


@pytest.mark.parametrize("end", [then_close, then_reset])
def test_connection_ended_while_idle_is_replaced_and_the_batch_sent_once(serve, end) -> None:
    server, path = serve(end(echo_batch()), echo_batch())
    path.connection.create_orders(orders(1, 2))
    wait_until_closed(path)

    assert results(path.connection.create_orders(orders(3, 4))) == ["bs-3", "bs-4"]
    assert sent_ids(server) == [["bs-1", "bs-2"], ["bs-3", "bs-4"]]


def test_bad_signature_is_an_auth_error(serve) -> None:
    _, path = serve(answer(401, BAD_SIGNATURE))

    with pytest.raises(AuthError) as caught:
        path.connection.create_order(order())
    assert KEY_ID not in str(caught.value)


def test_answer_about_another_order_ends_the_connection(serve) -> None:
    """A connection one answer behind would tell every later order about the one before it."""
    server, path = serve(answer(201, ANOTHER_ORDER), echo_order())

    with pytest.raises(OrderOutcomeUnknown):
        path.connection.create_order(order(1))
    path.connection.create_order(order(2))
    assert server.connections == 2


# --- staying warm


def wait_until_closed(path: Route) -> None:
    """Wait until the server's FIN has arrived."""
    for _ in range(200):
        if path.connection._is_stale(path.connection._sock):
            return
        threading.Event().wait(0.005)
    raise AssertionError("the server never closed the connection")


@pytest.mark.parametrize("end", [then_close, then_reset])
def test_connection_ended_while_idle_is_replaced_and_the_order_sent_once(serve, end) -> None:
    server, path = serve(end(echo_order()), echo_order())
    path.connection.create_order(order(1))
    wait_until_closed(path)

    assert path.connection.create_order(order(2)).client_order_id == "bs-2"
    assert [json.loads(r.body)["client_order_id"] for r in server.requests] == ["bs-1", "bs-2"]
    assert server.connections == 2


def test_connection_refusing_the_first_byte_is_replaced(serve) -> None:
    """The socket is dead without a visible FIN: the first send is refused, so nothing has left."""
    server, path = serve(then_hang(echo_order()), echo_order())
    path.connection.create_order(order(1))
    path.connection._sock.shutdown(socket.SHUT_WR)

    path.connection.create_order(order(2))
    assert [json.loads(r.body)["client_order_id"] for r in server.requests] == ["bs-1", "bs-2"]


def test_connection_that_nobody_kept_warm_carries_no_order(serve) -> None:
    clock = FakeClock()
    server, path = serve(echo_order(), clock=clock)
    path.connection.create_order(order(1))
    clock.advance(29)
    path.connection.create_order(order(2))
    assert server.connections == 1
    clock.advance(31)
    path.connection.create_order(order(3))
    assert server.connections == 2


def test_keep_warm_connects_ahead_and_leaves_a_fresh_connection_alone(serve) -> None:
    server, path = serve(echo_order())

    assert path.connection.keep_warm(path.clock.monotonic())
    assert path.connection.keep_warm(path.clock.monotonic() + 5)
    path.connection.create_order(order())
    assert (server.connections, len(server.requests)) == (1, 1)


def test_keep_warm_asks_an_idle_connection_for_the_status(serve) -> None:
    clock = FakeClock()
    server, path = serve(STATUS_ANSWER, STATUS_ANSWER, echo_order(), clock=clock)
    path.connection.keep_warm(clock.monotonic())
    clock.advance(19)
    path.connection.keep_warm(clock.monotonic())
    assert server.requests == []
    clock.advance(2)
    assert path.connection.keep_warm(clock.monotonic())
    assert path.connection.keep_warm(clock.monotonic())  # just used: not asked again

    (request,) = server.requests
    assert (request.method, request.path) == ("GET", "/trade-api/v2/exchange/status")
    assert not any(name.startswith("kalshi-") for name in request.headers)
    assert path.stats.counts().reads == 1
    assert path.stats.counts().price_reads == 0
    assert server.connections == 1


def test_keep_warm_replaces_a_connection_that_the_server_closed(serve) -> None:
    server, path = serve(then_close(echo_order()), echo_order())
    path.connection.create_order(order(1))
    wait_until_closed(path)

    assert path.connection.keep_warm(path.clock.monotonic() + 10)
    assert path.connection.is_connected
    path.connection.create_order(order(2))
    assert server.connections == 2


@pytest.mark.parametrize(
    "step", [close_without_answer, raw(b"nonsense\r\n\r\n"), answer(200, b"x" * 2_000_000)]
)
def test_keep_warm_that_fails_says_so_and_recovers(serve, step: Step) -> None:
    clock = FakeClock()
    server, path = serve(step, echo_order(), clock=clock)
    path.connection.keep_warm(clock.monotonic())
    clock.advance(21)

    assert not path.connection.keep_warm(clock.monotonic())
    assert not path.connection.is_connected
    assert path.connection.keep_warm(clock.monotonic())
    path.connection.create_order(order())
    assert server.connections == 2


def test_keep_warm_does_not_hammer_a_dead_exchange() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    clock = FakeClock()
    path = Route(f"http://127.0.0.1:{port}/trade-api/v2", clock)

    assert not path.connection.keep_warm(clock.monotonic())
    with ScriptedServerAt(port) as server:
        assert not path.connection.keep_warm(clock.monotonic() + 0.5)
        assert path.connection.keep_warm(clock.monotonic() + 1.1)
        assert server.accept()
    path.connection.close()


class ScriptedServerAt:
    """A listener that comes up at a port that was free a moment ago."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))

    def __enter__(self) -> ScriptedServerAt:
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.close()

    def accept(self) -> bool:
        self._listener.settimeout(5)
        connection, _ = self._listener.accept()
        connection.close()
        return True


# --- TLS


def test_tls_connection_stays_warm_and_carries_orders(tmp_path: Path) -> None:
    context, ca_file = tls_server(tmp_path)
    with ScriptedServer(echo_order(), tls=context) as server:
        path = Route(server.base_url, ca_file=ca_file)
        assert path.connection.keep_warm(path.clock.monotonic())
        for _ in range(3):  # session tickets make the socket readable; that is no reason to reconnect
            threading.Event().wait(0.02)
            assert path.connection.keep_warm(path.clock.monotonic() + 5)
        path.connection.create_order(order(1))
        path.connection.create_order(order(2))
        assert (server.connections, len(server.requests)) == (1, 2)
        path.connection.close()


def test_tls_server_that_nobody_vouches_for_gets_no_order(tmp_path: Path) -> None:
    context, _ = tls_server(tmp_path)
    with ScriptedServer(echo_order(), tls=context) as server:
        path = Route(server.base_url)

        with pytest.raises(TransientError):
            path.connection.create_order(order())
        assert not path.connection.keep_warm(path.clock.monotonic() + 10)
        assert server.requests == []


def test_random_faults_never_send_a_batch_twice_nor_call_an_order_refused_that_arrived(serve) -> None:
    rng = random.Random(12)
    faults = [echo_batch(), then_close(echo_batch()), close_without_answer, reset, answer(502, HTML)]
    steps = [rng.choice(faults) for _ in range(40)]
    server, path = serve(*steps, echo_batch())
    told: dict[str, str] = {}
    for number in range(40):
        requests = orders(3 * number, 3 * number + 1, 3 * number + 2)
        told |= dict(
            zip(
                (r.client_order_id for r in requests),
                results(path.connection.create_orders(requests)),
                strict=True,
            )
        )

    arrived = [i for ids in sent_ids(server) for i in ids]
    assert len(arrived) == len(set(arrived))
    assert {told[i] for i in arrived} <= {*arrived, "OrderOutcomeUnknown"}
    assert {told[i] for i in set(told) - set(arrived)} <= {"TransientError", "OrderOutcomeUnknown"}


def test_random_faults_never_send_an_order_twice(serve) -> None:
    """Whatever the server does, each client order id arrives at most once on a created-or-unknown path."""
    rng = random.Random(11)
    faults = [echo_order(), then_close(echo_order()), close_without_answer, reset, answer(502, HTML)]
    steps = [rng.choice(faults) for _ in range(60)]
    server, path = serve(*steps, echo_order())
    for number in range(60):
        try:
            path.connection.create_order(order(number))
        except (OrderOutcomeUnknown, TransientError):
            continue

    arrived = [json.loads(r.body)["client_order_id"] for r in server.requests]
    assert len(arrived) == len(set(arrived))
