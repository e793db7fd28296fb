"""The gateway against a local exchange: batches, look-ups, shards, a skewed clock, a dead key."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import responses

from base.app.exchange import with_slack
from base.app.live_gateway import LiveGateway
from base.errors import (
    AuthError,
    BotError,
    OrderOutcomeUnknown,
    OrderRejected,
    RateLimitedError,
    RequestRejected,
    TransientError,
)
from base.execution.gateway import OrderSender
from base.kalshi.order_connection import OrderConnection
from base.kalshi.rate_limit import AccountLimits, Lane, Quota, RateLimiter, RequestStats
from base.kalshi.rest_client import RestClient
from base.kalshi.server_clock import ServerClock
from base.kalshi.signing import load_signer
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.model.market import BookSide
from base.model.order import OrderAck, OrderRequest, OrderStatus, TimeInForce
from base.sandbox.scenario import Scenario, parse_scenario
from base.sandbox.server import SandboxServer
from tests.fakes.clock import FakeClock
from tests.kalshi.bodies import FILL, HTML, ORDER, TICKER, but
from tests.kalshi.keys import signer

YES, NO = "KXA-1-YES", "KXA-1-NO"
ORDERS = "/portfolio/events/orders"
SCENARIO = """
[[market]]
ticker = "KXA-1-YES"
bid = "0.52"
ask = "0.54"
position = { side = "yes", count = "50", entry = "0.60" }
[[market]]
ticker = "KXA-1-NO"
bid = "0.40"
ask = "0.42"
exchange_index = 2
position = { side = "no", count = "50", entry = "0.55" }
"""


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return parse_scenario(SCENARIO)


@pytest.fixture(scope="module")
def key_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


class Bench:
    """A local exchange and a gateway to it; `ahead_s` is how far the exchange's clock is ahead of ours."""

    def __init__(self, scenario: Scenario, key_dir: Path, ahead_s: float = 0.0) -> None:
        self.exchange_clock, self.clock = FakeClock(1_790_000_000 + ahead_s), FakeClock(1_790_000_000)
        self.server = SandboxServer(scenario, key_dir=key_dir, clock=self.exchange_clock)
        self.server.start()
        self.limiter = RateLimiter(self.clock, Quota(200, 200), Quota(100, 100))
        key = load_signer(self.server.key_id, self.server.key_file)
        self.server_clock = ServerClock(self.clock)
        stats = RequestStats(self.clock)
        common = (self.clock, self.server_clock, self.limiter)
        self.rest = RestClient(self.server.rest_url, key, *common, stats=stats)
        self.gateway = LiveGateway(
            self.rest,
            lambda: OrderConnection(
                self.server.rest_url, key, self.server_clock, self.clock, self.limiter, stats=stats
            ),
            WebsocketPriceCache(self.clock, 60.0),
            self.clock,
        )
        self.sender: OrderSender = self.gateway.open_sender()

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.exchange_clock.advance(seconds)

    def held(self, ticker: str = YES) -> Decimal:
        return self.server.call(lambda venue: venue.exchange.ledger.position_count(ticker))

    def submitted(self) -> list[tuple[str, str, str]]:
        rows: Any = self.server.ledger()["submissions"]
        return [(s["client_order_id"], s["outcome"], s["fill_count"]) for s in rows]

    def close(self) -> None:
        self.sender.close()
        self.rest.close()
        self.server.stop()


@pytest.fixture
def open_bench(scenario: Scenario, key_dir: Path) -> Iterator[Any]:
    opened: list[Bench] = []

    def start(ahead_s: float = 0.0) -> Bench:
        opened.append(Bench(scenario, key_dir, ahead_s))
        return opened[-1]

    yield start
    for bench in opened:
        bench.close()


@pytest.fixture
def bench(open_bench: Any) -> Bench:
    started: Bench = open_bench()
    return started


def exit_order(name: str, count: str = "1", ticker: str = YES) -> OrderRequest:
    side, price = (BookSide.ASK, "0.01") if ticker == YES else (BookSide.BID, "0.99")
    return OrderRequest(
        ticker, name, side, Decimal(count), Decimal(price), TimeInForce.IMMEDIATE_OR_CANCEL, reduce_only=True
    )


def shown(answers: list[OrderAck | BotError]) -> list[str]:
    return [
        str(a.fill_count)
        if isinstance(a, OrderAck)
        else f"{type(a).__name__} {getattr(a, 'code', '')}".strip()
        for a in answers
    ]


# --- sending


def test_a_mass_exit_takes_what_the_budget_holds_and_not_one_order_more(bench: Bench) -> None:
    waiting = [exit_order(f"x{n}") for n in range(25)]
    requests = 0
    while waiting:
        assert requests < 50
        size = min(bench.sender.batch_max, len(waiting))
        wait_s = bench.sender.reserve(size)
        if wait_s > 0:
            bench.advance(wait_s + 0.001)  # floats
            continue
        answers = bench.sender.create_orders(waiting[:size])
        assert shown(answers) == ["1.00"] * size
        del waiting[:size]
        requests += 1
    assert bench.held() == 25
    assert bench.submitted() == [(f"x{n}", "accepted", "1.00") for n in range(25)]
    assert bench.clock.monotonic() - 1_000 == pytest.approx(1.5, abs=0.05), "15 orders beyond the first ten"


def test_each_order_of_a_batch_has_its_own_answer(bench: Bench) -> None:
    bench.server.set_faults(pause_market=NO)
    batch = [exit_order("a", "60"), exit_order("b", ticker=NO), exit_order("c")]
    assert shown(bench.sender.create_orders(batch)) == ["50.00", "OrderRejected trading_is_paused", "0.00"]
    assert shown(bench.sender.create_orders(batch))[0] == "OrderRejected order_already_exists"


@pytest.mark.parametrize(
    ("action", "error", "left"),
    [
        ("act_then_500", OrderOutcomeUnknown, 48),
        ("act_then_reset", OrderOutcomeUnknown, 48),
        ("503", OrderOutcomeUnknown, 50),
        ("429", RateLimitedError, 50),
    ],
)
def test_what_a_batch_did_is_never_misreported(
    bench: Bench, action: str, error: type[BotError], left: int
) -> None:
    bench.server.set_faults(calls=[{"method": "POST", "path": ORDERS + "/batched", "action": action}])
    answers = bench.sender.create_orders([exit_order("a"), exit_order("b")])
    assert [type(a) for a in answers] == [error, error]
    assert bench.held() == left


def test_an_exchange_without_these_endpoints_is_asked_one_by_one_and_refuses(bench: Bench) -> None:
    bench.server.set_faults(gone=True)
    assert bench.sender.batch_max == 10
    answers = bench.sender.create_orders([exit_order("a"), exit_order("b")])
    assert [type(a) for a in answers] == [TransientError, TransientError]
    assert bench.sender.batch_max == 1
    with pytest.raises(OrderRejected) as refused:
        bench.sender.create_order(exit_order("a"))
    assert (refused.value.status, refused.value.code) == (410, "deprecated_v1_order_endpoint")


def test_connections_opened_early_charge_what_the_exchange_told_later(bench: Bench) -> None:
    document = {"default_cost": 25, "endpoint_costs": []}
    script = {"method": "GET", "path": "/account/endpoint_costs", "action": "status", "status": 200}
    bench.server.set_faults(calls=[script | {"body": document}])
    bench.rest.get_endpoint_costs()
    assert bench.sender.batch_max == 10
    bench.sender.prepare()
    assert bench.sender.batch_max == 4


# --- the key and the clock


@pytest.mark.parametrize("ahead_s", [40, -40], ids=["our clock is behind", "our clock is ahead"])
def test_a_skewed_clock_is_healed_on_the_exit_path_and_on_reads(open_bench: Any, ahead_s: float) -> None:
    for is_batch in (False, True):
        bench = open_bench(ahead_s)
        bench.sender.prepare()
        if is_batch:
            assert shown(bench.sender.create_orders([exit_order("a"), exit_order("b")])) == ["1.00", "1.00"]
        else:
            assert bench.sender.create_order(exit_order("a")).fill_count == 1
        assert bench.server_clock.offset_s == pytest.approx(ahead_s, abs=1)
        lookup = bench.gateway.find_orders({"a": YES}, since=bench.clock.now())
        assert lookup.found["a"].fill_count == 1
        assert lookup.as_of is not None
        assert lookup.as_of <= bench.clock.now() + 0.5, "by our own clock, never later than now"


@pytest.mark.parametrize(
    ("auth", "code"), [("skewed", "header_timestamp_expired"), ("dead", "authentication_error")]
)
def test_a_clock_that_cannot_be_healed_is_told_from_a_dead_key(bench: Bench, auth: str, code: str) -> None:
    bench.server.set_faults(auth=auth)
    with pytest.raises(AuthError) as single:
        bench.sender.create_order(exit_order("a"))
    with pytest.raises(AuthError) as read:
        bench.gateway.find_orders({"a": YES}, since=bench.clock.now())
    batch = bench.sender.create_orders([exit_order("b"), exit_order("c")])
    assert [getattr(e, "code", None) for e in (single.value, read.value, *batch)] == [code] * 4
    assert bench.held() == 50


# --- looking up


def test_one_look_up_finds_orders_of_several_markets_with_their_prices(bench: Bench) -> None:
    since = bench.clock.now()
    bench.sender.create_order(exit_order("a", "2"))
    bench.sender.create_order(exit_order("b", "3", NO))
    bench.sender.create_order(exit_order("foreign"))
    before = bench.rest.stats().reads

    lookup = bench.gateway.find_orders({"a": YES, "b": NO, "never": NO}, since)
    assert {n: (o.fill_count, o.average_yes_price, o.status) for n, o in lookup.found.items()} == {
        "a": (2, Decimal("0.52"), OrderStatus.EXECUTED),
        "b": (3, Decimal("0.42"), OrderStatus.EXECUTED),
    }
    assert lookup.found["a"].fees == Decimal("0.0350")
    assert lookup.as_of == pytest.approx(bench.clock.now(), abs=1e-3)
    assert bench.rest.stats().reads - before == 3


def test_reads_that_lag_show_nothing_and_say_so(bench: Bench) -> None:
    bench.server.set_faults(read_lag_s=3)
    since = bench.clock.now()
    bench.sender.create_order(exit_order("a"))

    lookup = bench.gateway.find_orders({"a": YES}, since)
    assert (lookup.found, lookup.as_of) == ({}, pytest.approx(since - 3, abs=1e-3))
    bench.advance(3.5)
    lookup = bench.gateway.find_orders({"a": YES}, since)
    assert lookup.found["a"].fill_count == 1
    assert lookup.as_of == pytest.approx(since + 0.5, abs=1e-3)


# --- entries that rest


def entry_order(client_order_id: str, count: str = "10", price: str = "0.53") -> OrderRequest:
    gtc = TimeInForce.GOOD_TILL_CANCELED
    return OrderRequest(
        YES, client_order_id, BookSide.BID, Decimal(count), Decimal(price), gtc, reduce_only=False
    )


def refused(ask: Any) -> None:
    with pytest.raises(RequestRejected):
        ask()


def status_of(bench: Bench, client_order_id: str) -> tuple[OrderStatus, Decimal]:
    found = bench.gateway.find_orders({client_order_id: YES}, bench.clock.now()).found[client_order_id]
    return found.status, found.fill_count


def test_an_entry_rests_is_moved_and_is_canceled(bench: Bench) -> None:
    ack = bench.gateway.create_entry(entry_order("e"))
    assert (ack.fill_count, ack.remaining_count) == (0, 10)
    moved = bench.gateway.amend_entry(ack.order_id, entry_order("e", "8", "0.51"))
    assert (moved.fill_count, moved.remaining_count) == (0, 8)
    (listed,) = bench.rest.get_orders(status="resting")
    assert (listed.price, listed.remaining_count, listed.client_order_id) == (Decimal("0.51"), 8, "e")
    assert bench.gateway.cancel_entry(ack.order_id, YES) == 8
    assert status_of(bench, "e") == (OrderStatus.CANCELED, 0)


def test_an_amend_through_the_book_tells_that_it_filled(bench: Bench) -> None:
    ack = bench.gateway.create_entry(entry_order("e"))
    moved = bench.gateway.amend_entry(ack.order_id, entry_order("e", "10", "0.54"))
    assert (moved.fill_count, moved.remaining_count, moved.average_fill_price) == (10, 0, Decimal("0.54"))
    assert status_of(bench, "e") == (OrderStatus.EXECUTED, 10)


@pytest.mark.parametrize("ended_by", ["canceled", "executed", "never there"])
def test_a_404_does_not_tell_what_became_of_an_order(bench: Bench, ended_by: str) -> None:
    ack = bench.gateway.create_entry(entry_order("e", price="0.54" if ended_by == "executed" else "0.53"))
    if ended_by == "canceled":
        bench.gateway.cancel_entry(ack.order_id, YES)
    order_id = "unknown" if ended_by == "never there" else ack.order_id
    for ask in (
        lambda: bench.gateway.cancel_entry(order_id, YES),
        lambda: bench.gateway.amend_entry(order_id, entry_order("e", "8")),
    ):
        with pytest.raises(RequestRejected) as refused:
            ask()
        assert (refused.value.status, refused.value.code) == (404, "not_found")


@pytest.mark.parametrize("action", ["act_then_500", "act_then_reset"])
def test_a_cancel_or_amend_without_an_answer_is_never_misreported(bench: Bench, action: str) -> None:
    ack = bench.gateway.create_entry(entry_order("e"))
    for method, path, ask in (
        ("POST", f"{ORDERS}/{ack.order_id}/amend", lambda: bench.gateway.amend_entry(
            ack.order_id, entry_order("e", "8")
        )),
        ("DELETE", f"{ORDERS}/{ack.order_id}", lambda: bench.gateway.cancel_entry(ack.order_id, YES)),
    ):  # fmt: skip
        bench.server.set_faults(calls=[{"method": method, "path": path, "action": action}])
        with pytest.raises(OrderOutcomeUnknown):
            ask()
    bench.server.clear_faults()
    assert status_of(bench, "e") == (OrderStatus.CANCELED, 0)


def test_our_own_resting_order_never_stops_an_exit(bench: Bench) -> None:
    """It is the best bid that the exit meets first: the exchange cancels it, and the exit sells below it."""
    bench.gateway.create_entry(entry_order("e", "10", "0.53"))
    ack = bench.sender.create_order(exit_order("x", "50"))
    assert (ack.fill_count, ack.average_fill_price) == (50, Decimal("0.52"))
    assert bench.held() == 0
    assert status_of(bench, "e") == (OrderStatus.CANCELED, 0)


def test_an_entry_gives_way_to_our_own_resting_order(bench: Bench) -> None:
    bench.gateway.create_entry(entry_order("e", "10", "0.53"))
    gtc = TimeInForce.GOOD_TILL_CANCELED
    other = OrderRequest(YES, "o", BookSide.ASK, Decimal(5), Decimal("0.53"), gtc, reduce_only=False)
    assert bench.gateway.create_entry(other).fill_count == 0
    assert status_of(bench, "e") == (OrderStatus.RESTING, 0)


BASE = "https://external-api.demo.kalshi.co/trade-api/v2"
AS_OF = {"as_of_time": "2026-09-21T14:13:20Z"}


@pytest.fixture
def exchange() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def gateway() -> LiveGateway:
    clock = FakeClock()
    limiter = RateLimiter(clock, Quota(1_000, 1_000), Quota(100, 100))
    rest = RestClient(BASE, signer(), clock, ServerClock(clock), limiter)

    def never() -> OrderConnection:
        raise AssertionError("nothing is sent")

    return LiveGateway(rest, never, WebsocketPriceCache(clock, 60.0), clock)


def asked(exchange: responses.RequestsMock) -> list[tuple[str, dict[str, str]]]:
    urls = [urlsplit(call.request.url) for call in exchange.calls]
    return [
        (
            u.path.removeprefix("/trade-api/v2"),
            {k: v[0] for k, v in parse_qs(u.query).items() if k != "limit"},
        )
        for u in urls
    ]


def listing(*orders: dict[str, Any]) -> dict[str, Any]:
    return {"orders": list(orders), "cursor": ""}


def test_how_complete_reads_are_is_asked_before_they_are_read(
    exchange: responses.RequestsMock, gateway: LiveGateway
) -> None:
    """Asked afterwards it may speak of a moment after the order came, which the read before did not show."""
    exchange.get(f"{BASE}/exchange/user_data_timestamp", json=AS_OF)
    exchange.get(f"{BASE}/portfolio/orders", json=listing())

    lookup = gateway.find_orders({"a": TICKER}, since=1_790_000_000.9)
    assert (lookup.found, lookup.as_of) == ({}, 1_790_000_000)
    assert asked(exchange) == [
        ("/exchange/user_data_timestamp", {}),
        ("/portfolio/orders", {"ticker": TICKER, "min_ts": "1789999940"}),
    ]


def test_orders_of_an_exchange_whose_clock_is_behind_are_looked_for_further_back(
    exchange: responses.RequestsMock, gateway: LiveGateway
) -> None:
    date = {"Date": "Mon, 21 Sep 2026 14:11:20 GMT"}
    exchange.get(f"{BASE}/exchange/user_data_timestamp", json=AS_OF, headers=date)
    exchange.get(f"{BASE}/portfolio/orders", json=listing())

    gateway.find_orders({"a": TICKER, "b": "B"}, since=1_790_000_000)
    assert asked(exchange)[1] == ("/portfolio/orders", {"min_ts": "1789999820"})


def test_prices_of_many_orders_come_with_one_read(
    exchange: responses.RequestsMock, gateway: LiveGateway
) -> None:
    rows = [
        but(
            ORDER, order_id=f"X-{n}", client_order_id=n, fill_count_fp=f"{filled}.00", initial_count_fp="9.00"
        )
        for n, filled in (("a", 3), ("b", 2), ("none", 0), ("other", 5))
    ]
    fills = [
        but(FILL, order_id=f"X-{n}", trade_id=f"t{i}", count_fp=count, yes_price_dollars=price)
        for i, (n, count, price) in enumerate(
            (
                ("a", "1.00", "0.5000"),
                ("b", "2.00", "0.4000"),
                ("a", "2.00", "0.4700"),
                ("other", "5.00", "0.1000"),
            )
        )
    ]
    exchange.get(f"{BASE}/exchange/user_data_timestamp", body=HTML, status=404)
    exchange.get(f"{BASE}/portfolio/orders", json=listing(*rows))
    exchange.get(f"{BASE}/portfolio/fills", json={"fills": fills, "cursor": ""})

    lookup = gateway.find_orders(dict.fromkeys(("a", "b", "none", "missing"), TICKER), since=1_790_000_000)
    assert {n: (o.fill_count, o.average_yes_price) for n, o in lookup.found.items()} == {
        "a": (3, Decimal("0.48")),
        "b": (2, Decimal("0.40")),
        "none": (0, None),
    }
    assert lookup.as_of is None
    assert asked(exchange)[2:] == [("/portfolio/fills", {"ticker": TICKER, "min_ts": "1789999940"})]


def test_what_was_sold_is_told_even_when_its_price_cannot_be_read(
    exchange: responses.RequestsMock, gateway: LiveGateway
) -> None:
    exchange.get(f"{BASE}/exchange/user_data_timestamp", json=AS_OF)
    exchange.get(f"{BASE}/portfolio/orders", json=listing(ORDER))
    exchange.get(f"{BASE}/portfolio/fills", body=HTML, status=404)

    lookup = gateway.find_orders({ORDER["client_order_id"]: TICKER}, since=1_790_000_000)
    (found,) = lookup.found.values()
    assert (found.fill_count, found.average_yes_price) == (1, None)
    assert asked(exchange)[2][1]["order_id"] == ORDER["order_id"]


def test_orders_that_cannot_be_read_are_an_error(
    exchange: responses.RequestsMock, gateway: LiveGateway
) -> None:
    exchange.get(f"{BASE}/exchange/user_data_timestamp", json=AS_OF)
    exchange.get(f"{BASE}/portfolio/orders", body=HTML, status=404)

    with pytest.raises(BotError):
        gateway.find_orders({"a": TICKER}, since=1_790_000_000)


# --- where orders are taken


def test_shards_are_told_apart(bench: Bench) -> None:
    bench.server.set_faults(shard_active={"2": False})
    shards = bench.gateway.trading_shards()
    assert [shards.takes_orders(index) for index in (None, 0, 1, 2, 3, 9)] == [
        True,
        True,
        True,
        False,
        True,
        True,
    ]
    bench.server.set_faults(shard_active={"0": "exchange_paused"})
    shards = bench.gateway.trading_shards()
    assert [shards.takes_orders(index) for index in (None, 0, 1, 2)] == [False, False, True, False]
    bench.server.clear_faults()
    assert bench.gateway.trading_shards().takes_orders(2)


@pytest.mark.parametrize("status", [200, 500, 503, 504])
def test_an_exchange_that_is_down_still_says_so(bench: Bench, status: int) -> None:
    body = {
        "exchange_active": False,
        "trading_active": False,
        "exchange_estimated_resume_time": "2026-09-21T16:00:00Z",
    }
    script = {"method": "GET", "path": "/exchange/status", "action": "status", "status": status, "body": body}
    bench.server.set_faults(calls=[script])
    shards = bench.gateway.trading_shards()
    assert (shards.takes_orders(None), shards.takes_orders(3)) == (False, False)
    assert shards.resumes_at == "2026-09-21 16:00:00 UTC"


@pytest.mark.parametrize(
    ("lane", "ask"),
    [
        (Lane.EXIT, lambda gateway, now: gateway.trading_shards()),
        (Lane.RECONCILE, lambda gateway, now: gateway.find_orders({"a": YES}, now)),
        (Lane.STRATEGY, lambda gateway, now: gateway.create_entry(entry_order("e"))),
        (Lane.EXIT, lambda gateway, now: refused(lambda: gateway.cancel_entry("x", YES))),
        (Lane.STRATEGY, lambda gateway, now: refused(lambda: gateway.amend_entry("x", entry_order("e")))),
    ],
    ids=[
        "the exchange's status with the exits",
        "look-ups behind the price reads",
        "entries behind both",
        "cancels with the exits",
        "amends behind them",
    ],
)
def test_each_question_has_its_lane(bench: Bench, lane: Lane, ask: Any) -> None:
    for other in Lane:
        if other is not lane:
            bench.limiter.penalize(other)
    started = bench.clock.monotonic()
    ask(bench.gateway, bench.clock.now())
    assert bench.clock.monotonic() == started, "it waited for the end of another lane's pause"


def test_the_write_budget_keeps_some_slack_for_what_arrives_later_than_it_was_taken() -> None:
    limits = with_slack(AccountLimits(Quota(600, 200), Quota(100, 100), "basic"))
    assert limits.write == Quota(90, 100)
    assert limits.read == Quota(600, 200)
