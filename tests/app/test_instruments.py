"""What the checker, the exits and the connections tell of themselves, up to what Prometheus reads."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from base.app.instruments import KINDS_OF_END_MAX, TICK_BOUNDS_S, Histogram, Instruments
from base.clock import SystemClock
from base.errors import BotError
from base.execution.exits import ExitDesk
from base.kalshi.order_connection import OrderConnection
from base.kalshi.rate_limit import (
    Lane,
    Quota,
    RateLimiter,
    RequestArea,
    RequestKind,
    RequestStats,
    area_of,
)
from base.kalshi.rest_client import RestClient
from base.kalshi.server_clock import ServerClock
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.model.market import BookSide, Market, MarketStatus, OutcomeSide, PriceSource, Quote
from base.model.order import OrderRequest, TimeInForce
from base.model.position import Position
from base.model.rules import ExitRule
from base.risk.stop_loss import CheckerSettings, StopLossChecker
from base.store.portfolio import Portfolio
from base.ui.metrics import render_metrics
from tests.fakes.clock import FakeClock
from tests.fakes.feed import FakeFeed
from tests.fakes.gateway import FakeExchange, FakeSender, Fill, Reject
from tests.fakes.scripted_http import ScriptedServer, answer, close_without_answer, echo_order
from tests.kalshi.keys import signer

T = "KXHIGHNY-26NOV22-T60"
PLENTY = Quota(1_000, 1_000)


class Notes:
    """Measures, written down one by one."""

    def __init__(self) -> None:
        self.ticks: list[float] = []
        self.ages: list[float] = []
        self.answers: list[float] = []
        self.ends: list[tuple[str, str]] = []

    def tick_decided(self, seconds: float) -> None:
        self.ticks.append(round(seconds, 6))

    def exit_triggered(self, price_age_s: float) -> None:
        self.ages.append(round(price_age_s, 6))

    def order_answered(self, seconds: float) -> None:
        self.answers.append(round(seconds, 6))

    def exit_ended(self, reason: str, outcome: str) -> None:
        self.ends.append((reason, outcome))


class Rig:
    """A checker and its desk over one long position with a stop at 0.45, without threads."""

    def __init__(self) -> None:
        self.notes = Notes()
        self.clock = FakeClock()
        self.exchange = FakeExchange(self.clock)
        self.portfolio = Portfolio(self.clock)
        self.cache = WebsocketPriceCache(self.clock, 60.0)
        feed = FakeFeed()
        feed.confirmed = {T}
        self.desk = ExitDesk(
            self.exchange,
            self.portfolio,
            self.exchange.prices.get,
            lambda: None,
            self.clock,
            workers=1,
            measures=self.notes,
        )
        self.checker = StopLossChecker(
            CheckerSettings(2.0, 60.0, Decimal("0.01")),
            self.cache,
            self.portfolio,
            feed,
            lambda ticker: ExitRule(stop_loss_pct=Decimal(25)),
            self.desk,
            lambda refresh: None,
            lambda: None,
            self.clock,
            measures=self.notes,
        )
        self.exchange.holds(T, "10")
        position = Position(T, OutcomeSide.YES, Decimal(10), Decimal("0.60"))
        self.portfolio.apply_read({T: position}, self.clock.monotonic())
        self.cache.require([T], [T])
        self.cache.apply_market(Market(T, status=MarketStatus.ACTIVE))
        self.price("0.60")
        self.checker.run_once()  # a sweep
        self.sender = FakeSender(self.exchange)

    def price(self, bid: str, source: PriceSource = PriceSource.WS) -> None:
        self.exchange.prices.set(T, bid)
        quote = Quote(
            T, Decimal(bid), Decimal(bid) + Decimal("0.01"), Decimal(100), Decimal(100), None, 0,
            self.clock.monotonic(), self.clock.now(), source, 1,
        )  # fmt: skip
        self.cache.apply(quote)

    def look(self, after_s: float) -> None:
        self.clock.advance(after_s)
        self.checker.run_once()

    def work(self, seconds: float = 3.0) -> None:
        until = self.clock.monotonic() + seconds
        while self.desk.run_once(self.sender) or self.clock.monotonic() < until:
            self.clock.advance(0.05)


# --- ticks and decisions ------------------------------------------------------------------------------


def test_a_tick_is_timed_from_its_frame_to_the_look_at_it() -> None:
    rig = Rig()
    rig.price("0.58")
    rig.look(after_s=0.004)
    assert rig.notes.ticks == [0.004]


def test_what_is_no_tick_is_not_timed_as_one() -> None:
    rig = Rig()
    rig.price("0.58")
    rig.look(after_s=0.001)
    rig.clock.advance(0.5)
    rig.cache.apply_market(Market(T, status=MarketStatus.INACTIVE))  # the price is the old one
    rig.look(after_s=0.001)
    rig.cache.apply_market(Market(T, status=MarketStatus.ACTIVE))
    rig.price("0.57", PriceSource.REST)  # read, not streamed: counted from when the request left
    rig.look(after_s=0.001)
    assert rig.notes.ticks == [0.001]


def test_an_exit_tells_the_age_of_its_price_and_when_its_order_was_answered() -> None:
    rig = Rig()
    rig.exchange.on_request = lambda request: rig.clock.advance(0.03)
    rig.price("0.40")
    rig.look(after_s=0.002)
    assert rig.notes.ages == [0.002]
    rig.desk.run_once(rig.sender)
    assert rig.notes.answers == [0.03]
    rig.work()
    assert rig.notes.ends == [("stop_loss", "filled")]
    assert len(rig.notes.answers) == len(rig.notes.ages) == 1, "once an exit"


def test_an_exit_in_two_orders_is_timed_by_the_first() -> None:
    rig = Rig()
    rig.exchange.script[T].append(Fill("4"))
    rig.price("0.40")
    rig.look(after_s=0.002)
    rig.work(seconds=10)
    assert len(rig.exchange.requests) == 2
    assert len(rig.notes.answers) == 1
    assert rig.notes.ends == [("stop_loss", "filled")]


def test_a_wait_for_the_write_budget_is_part_of_the_time_to_the_answer() -> None:
    rig = Rig()
    rig.exchange.budget = 0
    rig.price("0.40")
    rig.look(after_s=0.002)
    rig.work(seconds=1.0)
    assert rig.notes.answers == []
    rig.exchange.budget = 5
    rig.work()
    assert len(rig.notes.answers) == 1
    assert rig.notes.answers[0] >= 1.0


def test_a_refusal_is_no_acknowledgement() -> None:
    rig = Rig()
    rig.exchange.script[T].append(Reject(400, "insufficient_balance"))
    rig.price("0.40")
    rig.look(after_s=0.002)
    rig.desk.run_once(rig.sender)
    assert rig.notes.answers == []
    rig.clock.advance(20)
    rig.work(seconds=20)
    assert len(rig.notes.answers) == 1
    assert rig.notes.answers[0] >= 20


# --- requests -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "area"),
    [
        ("/markets", RequestArea.PRICES),
        ("/markets/KXA/orderbook", RequestArea.PRICES),
        ("/portfolio/orders", RequestArea.ORDERS),
        ("/portfolio/events/orders/batched", RequestArea.ORDERS),
        ("/portfolio/orders/9d2c/amend", RequestArea.ORDERS),
        ("/portfolio/positions", RequestArea.PORTFOLIO),
        ("/exchange/status", RequestArea.EXCHANGE),
        ("/account/limits", RequestArea.OTHER),
        ("/a-path-of-a-later-version/KXA", RequestArea.OTHER),
    ],
)
def test_every_path_has_an_area(path: str, area: RequestArea) -> None:
    assert area_of(path) is area


def test_reads_are_counted_by_lane_area_and_answer() -> None:
    clock = SystemClock()
    stats = RequestStats(clock)
    limiter = RateLimiter(clock, PLENTY, PLENTY)
    refused = answer(404, {"error": {"code": "not_found", "message": "no"}})
    with ScriptedServer(refused, close_without_answer, close_without_answer, close_without_answer) as server:
        client = RestClient(
            server.base_url, signer(), clock, ServerClock(clock), limiter, stats=stats, rng=_Shortest()
        )
        for _ in range(2):
            with pytest.raises(BotError):
                client.get_exchange_status()
        client.close()
    counted = stats.answers()
    assert {area for _, area, _ in counted} == {RequestArea.EXCHANGE}
    by_status = {status: count for (_, _, status), count in counted.items()}
    assert by_status[404] == 1
    assert by_status[None] >= 1
    assert sum(by_status.values()) == stats.counts().reads, "every request once"


class _Shortest(random.Random):
    """Never waits between attempts."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0


def test_orders_of_exits_are_counted_with_their_answer_or_without_one() -> None:
    clock = SystemClock()
    stats = RequestStats(clock)
    with ScriptedServer(echo_order(), close_without_answer) as server:
        connection = OrderConnection(
            server.base_url,
            signer(),
            ServerClock(clock),
            clock,
            RateLimiter(clock, PLENTY, PLENTY),
            stats=stats,
        )
        connection.create_order(_order(1))
        with pytest.raises(BotError):
            connection.create_order(_order(2))
        connection.close()
    assert stats.answers() == {
        (Lane.EXIT, RequestArea.ORDERS, 201): 1,
        (Lane.EXIT, RequestArea.ORDERS, None): 1,
    }


def _order(number: int) -> OrderRequest:
    return OrderRequest(
        T,
        f"bs-{number}",
        BookSide.ASK,
        Decimal(1),
        Decimal("0.01"),
        TimeInForce.IMMEDIATE_OR_CANCEL,
        reduce_only=True,
    )


# --- histograms and the text --------------------------------------------------------------------------


def test_an_observation_on_a_bound_counts_below_it_and_a_huge_one_above_all() -> None:
    histogram = Histogram((0.001, 0.01))
    for seconds in (0.0, 0.001, 0.0011, 0.01, 500.0):
        histogram.observe(seconds)
    state = histogram.state()
    assert state.counts == (2, 2, 1)
    assert state.total_s == pytest.approx(500.0121)


def samples(instruments: Instruments, stats: RequestStats, limiter: RateLimiter) -> dict[Any, float]:
    measured = instruments.measurements(stats, limiter.snapshot(), {"stop-loss": 7})
    text = render_metrics({}, measured).decode()
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_everything_measured_reaches_prometheus() -> None:
    clock = FakeClock()
    instruments, stats = Instruments(), RequestStats(clock)
    limiter = RateLimiter(clock, Quota(200, 200), Quota(100, 100))
    assert limiter.try_acquire(RequestKind.WRITE, Lane.EXIT, 30)
    instruments.tick_decided(0.0004)
    instruments.exit_triggered(0.0004)
    instruments.order_answered(0.04)
    instruments.exit_ended("stop_loss", "filled")
    stats.count_answer(Lane.PRICE, RequestArea.PRICES, None)
    found = samples(instruments, stats, limiter)
    expected = {
        ("backstop_tick_to_decision_seconds_bucket", "0.0003"): 0,
        ("backstop_tick_to_decision_seconds_bucket", "0.0005"): 1,
        ("backstop_tick_to_decision_seconds_bucket", "+Inf"): 1,
        ("backstop_tick_to_decision_seconds_count",): 1,
        ("backstop_tick_to_decision_seconds_sum",): 0.0004,
        ("backstop_exit_price_age_seconds_count",): 1,
        ("backstop_decision_to_ack_seconds_bucket", "0.03"): 0,
        ("backstop_decision_to_ack_seconds_bucket", "0.05"): 1,
        ("backstop_exits_ended_total", "filled", "stop_loss"): 1,
        ("backstop_rest_requests_total", "none", "price", "prices"): 1,
        ("backstop_rest_tokens", "write"): 70,
        ("backstop_rest_tokens_capacity", "read"): 200,
        ("backstop_thread_passes_total", "stop-loss"): 7,
    }
    assert {name: found.get(name) for name in expected} == expected


def test_ends_of_exits_stay_a_closed_set_whatever_words_come() -> None:
    instruments, clock = Instruments(), FakeClock()
    for number in range(KINDS_OF_END_MAX + 50):
        instruments.exit_ended("stop_loss", f"word-{number}")
    found = samples(instruments, RequestStats(clock), RateLimiter(clock, PLENTY, PLENTY))
    ends = {name: value for name, value in found.items() if name[0] == "backstop_exits_ended_total"}
    assert len(ends) == KINDS_OF_END_MAX + 1
    assert ends["backstop_exits_ended_total", "other", "other"] == 50


def test_the_slots_of_a_tick_go_from_below_a_decision_to_above_a_sweep() -> None:
    assert list(TICK_BOUNDS_S) == sorted(set(TICK_BOUNDS_S))
    assert TICK_BOUNDS_S[0] < 0.0001
    assert TICK_BOUNDS_S[-1] > 2.0
