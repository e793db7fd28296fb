"""Riskless sets against the local exchange over REST: found, bought, kept, paid; broken ones sold again.

First the program's own parts with time and the exit desk in the test's hands; then the whole daemon.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from base.app.discovery import Discovery
from base.app.entries import EntryDesk
from base.app.entry_sets import SetDesk, SetResult
from base.app.hedge_book import HedgeBook
from base.app.live_gateway import LiveGateway
from base.clock import SystemClock
from base.execution.exits import ExitDesk
from base.execution.gateway import PriceView
from base.kalshi.documents import to_position
from base.kalshi.order_connection import OrderConnection
from base.kalshi.rate_limit import Quota, RateLimiter, RequestStats
from base.kalshi.rest_client import RestClient
from base.kalshi.server_clock import ServerClock
from base.kalshi.signing import load_signer
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.model.market import OutcomeSide
from base.model.rules import ExitReason, ExitRule, Hold, HoldReason, RuleState
from base.risk.exit_rules import evaluate
from base.risk.limits import Limits
from base.risk.trading_state import TradingState
from base.sandbox.happenings import Filled, Happening
from base.sandbox.scenario import parse_scenario
from base.sandbox.server import SandboxServer
from base.sandbox.venue import Venue
from base.store.journal import Journal
from base.store.portfolio import READ_LAG_S, Portfolio
from base.store.records import HedgeRecord, Remembered
from base.strategy.interface import MarketFilter, MarketView, SetIntent, StrategyView
from base.strategy.riskless_set import RisklessSet
from tests.fakes.clock import FakeClock
from tests.integration.rig import Daemon

D = Decimal
EVENT = "KXN-1"
A, B, C = f"{EVENT}-A", f"{EVENT}-B", f"{EVENT}-C"
SCENARIO = """
[[event]]
ticker = "KXN-1"
result = "KXN-1-B"
cheap_every_s = 30
cheap_for_s = 20
cheap_by = "0.12"
[[market]]
ticker = "KXN-1-A"
bid = "0.44"
ask = "0.46"
close_after_s = 3600
[[market]]
ticker = "KXN-1-B"
bid = "0.30"
ask = "0.32"
size = "6"
close_after_s = 3600
[[market]]
ticker = "KXN-1-C"
bid = "0.19"
ask = "0.21"
close_after_s = 3600
"""
LIMITS = Limits(
    max_order_cost=D(50), max_position_cost=D(50), max_total_exposure=D(500), max_daily_loss=D(50)
)
STOP = ExitRule(stop_loss_price=D("0.40"))


class Required:
    """The stream's place: there is none."""

    def watch(self, tickers: Any) -> None:
        self.tickers = frozenset(tickers)


class Bench:
    """The program's parts around one account of a running sandbox. Another one takes over after a crash."""

    def __init__(
        self, server: SandboxServer, exchange_clock: FakeClock, clock: FakeClock, journal: Journal
    ) -> None:
        self.server, self.exchange_clock, self.clock, self.journal = server, exchange_clock, clock, journal
        limiter = RateLimiter(clock, Quota(200, 200), Quota(100, 100))
        key = load_signer(server.key_id, server.key_file)
        server_clock, stats = ServerClock(clock), RequestStats(clock)
        self.rest = RestClient(server.rest_url, key, clock, server_clock, limiter, stats=stats)
        self.cache = WebsocketPriceCache(clock, 60.0)
        gateway = LiveGateway(
            self.rest,
            lambda: OrderConnection(server.rest_url, key, server_clock, clock, limiter, stats=stats),
            self.cache,
            clock,
        )
        remembered: Remembered = journal.load()
        self.portfolio = Portfolio(clock, journal)
        self.portfolio.restore(remembered)
        self.discovery = Discovery(self.rest, self.cache, Required(), clock)
        self.discovery.want(frozenset(), frozenset({MarketFilter(series="KXN")}))
        self.exits = ExitDesk(gateway, self.portfolio, self._price_of, lambda: None, clock, recorder=journal)
        self.sender = gateway.open_sender()
        self.entries = EntryDesk(
            gateway,
            self.portfolio,
            self.cache,
            LIMITS,
            lambda: TradingState.ACTIVE,
            lambda ticker, strategy: None,
            clock,
            recorder=journal,
            is_exiting=self.exits.is_active,
        )
        self.book = HedgeBook(
            self.portfolio,
            clock,
            journal,
            awaited=lambda: {order.ticker for order in self.entries.orders().values()},
        )
        self.sets = SetDesk(
            self.entries,
            self.book,
            self.portfolio,
            self.discovery.events,
            self._price_of,
            self.exits.trigger_all,
            clock,
            floor=D("0.01"),
            is_exiting=self.exits.is_active,
        )
        self.entries.resume(remembered)
        self.book.restore(remembered)
        self.exits.resume(remembered)
        self.strategy = RisklessSet({"STRATEGY_SERIES": "KXN", "STRATEGY_COUNT": "10"})
        self.cache.require([A, B, C], [])
        self.read()

    def close(self) -> None:
        self.sender.close()
        self.rest.close()
        self.journal.stop()
        self.journal.join(2.0)

    def _price_of(self, ticker: str) -> PriceView | None:
        entry = self.cache.get(ticker)
        if entry is None:
            return None
        return PriceView(entry.market, entry.quote, entry.age_s(self.clock.monotonic()), False)

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.exchange_clock.advance(seconds)
        self.server.call(lambda venue: venue.step())

    def read(self) -> None:
        """One complete read of positions, and newer prices."""
        started_at = self.clock.monotonic()
        rows = self.rest.get_positions()
        self.portfolio.apply_read({r.ticker: to_position(r) for r in rows if r.signed_count}, started_at)
        self.discovery.run_once()

    def view(self) -> StrategyView:
        positions, entries = self.portfolio.positions(), self.cache.snapshot()
        return StrategyView(
            self.clock.now(),
            {t: MarketView(e.market, e.quote, positions.get(t)) for t, e in entries.items()},
            positions,
            may_enter=True,
            feed_is_live=True,
            exposure_dollars=D(0),
            events=self.discovery.events(),
            orders=self.entries.orders(),
        )

    def decide(self) -> SetIntent:
        """What the strategy wants once a set has become cheap."""
        self.advance(46)  # the discovery reads every 45 s; sets are cheap from 30 s to 50 s
        self.read()
        (wanted,) = self.strategy.decide(self.view())
        assert isinstance(wanted, SetIntent)
        return wanted

    def buy(self) -> SetResult:
        return self.sets.place_set(self.decide(), "riskless_set")

    def run_exits(self) -> None:
        for _ in range(40):
            self.exits.run_once(self.sender)
            self.advance(0.1)

    def held(self) -> dict[str, Decimal]:
        """What the exchange says, signed."""
        return self.server.call(lambda venue: {t: venue.exchange.ledger.position_count(t) for t in (A, B, C)})

    def balance(self) -> Decimal:
        return self.server.call(lambda venue: venue.exchange.ledger.balance)

    def submissions(self) -> list[tuple[str, bool]]:
        rows: Any = self.server.ledger()["submissions"]
        return [(row["ticker"], row["reduce_only"]) for row in rows]


NOTHING = {A: D(0), B: D(0), C: D(0)}
WHOLE = {A: D(-6), B: D(-6), C: D(-6)}


def open_journal(directory: Path) -> Journal:
    journal = Journal.open(directory / "journal.sqlite", SystemClock(), account="test")
    journal.start()
    return journal


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    exchange_clock, clock = FakeClock(), FakeClock()
    with SandboxServer(parse_scenario(SCENARIO), key_dir=tmp_path, clock=exchange_clock) as server:
        made = Bench(server, exchange_clock, clock, open_journal(tmp_path))
        yield made
        made.close()


@contextmanager
def restarted(bench: Bench, directory: Path) -> Iterator[Bench]:
    """The program again after its end: with what is on disk, and nothing else."""
    bench.close()
    bench.advance(READ_LAG_S + 1)
    after = Bench(bench.server, bench.exchange_clock, bench.clock, open_journal(directory))
    yield after
    after.close()


def test_nothing_is_bought_while_sets_cost_what_they_pay(bench: Bench) -> None:
    assert bench.discovery.events()[EVENT].mutually_exclusive
    assert list(bench.strategy.decide(bench.view())) == []


def test_a_cheap_set_is_bought_whole_and_pays_more_than_it_cost(bench: Bench) -> None:
    before = bench.balance()
    wanted = bench.decide()
    assert wanted.legs[0].ticker == B, "the scarcest leg first"
    assert bench.sets.place_set(wanted, "riskless_set").filled == 6
    assert bench.held() == WHOLE
    assert all(p.outcome_side is OutcomeSide.NO for p in bench.portfolio.positions().values())
    assert list(bench.strategy.decide(bench.view())) == [], "what is held is not bought again"
    for ticker in (A, B, C):
        bench.server.set_market(ticker, status="closed")
    for _ in range(20):
        bench.advance(1)
    assert bench.held() == NOTHING
    paid = 6 * (len(wanted.legs) - 1)
    cost = sum((leg.price * leg.count for leg in wanted.legs), D(0))
    gain = bench.balance() - before
    assert D("0.01") * 6 <= gain < paid - cost
    bench.clock.advance(15)
    bench.read()
    bench.clock.advance(15)
    bench.read()
    bench.sets.step()
    assert bench.book.sets() == []
    assert bench.exits.views() == []


def test_no_stop_leaves_a_leg_that_falls_while_the_set_is_held(bench: Bench) -> None:
    bench.buy()
    bench.server.set_market(A, bid="0.90", ask="0.92")  # NO of A falls to 0.08, far below its stop
    bench.advance(46)
    bench.read()
    decision = judge(bench, A)
    assert isinstance(decision, Hold)
    assert decision.why is HoldReason.HEDGED
    bench.server.add_position(B, "yes", "6", "0.40")  # B is sold by hand
    bench.advance(READ_LAG_S + 1)
    bench.read()
    bench.advance(15)
    bench.read()
    assert bench.portfolio.get(B) is None
    assert not isinstance(judge(bench, A), Hold)


def judge(bench: Bench, ticker: str) -> object:
    seen, position = bench.cache.get(ticker), bench.portfolio.get(ticker)
    assert seen is not None
    assert position is not None
    rule = bench.book.rules(lambda ticker: STOP)(ticker)
    return evaluate(
        position,
        seen.quote,
        seen.market,
        rule,
        RuleState(),
        now_wall=bench.clock.now(),
        now_monotonic=bench.clock.monotonic(),
        floor=D("0.01"),
        price_age_s=0.0,
    ).decision


def test_where_a_leg_is_gone_those_before_it_are_sold_again_at_once(bench: Bench) -> None:
    wanted = bench.decide()
    last = wanted.legs[-1].ticker
    bench.server.set_market(last, bid="0.05", ask="0.07")
    result = bench.sets.place_set(wanted, "riskless_set")
    assert (result.placed, result.filled) == (True, 0)
    bench.run_exits()
    assert bench.held() == NOTHING
    assert [e.reason for e in bench.exits.views()] == [ExitReason.SET_BROKEN.value] * 2
    assert [is_exit for _, is_exit in bench.submissions()].count(True) == 2
    bench.sets.step()
    assert bench.book.sets() == []
    assert bench.entries.orders() == {}


@pytest.mark.parametrize("action", ["act_then_reset", "reset_before"], ids=["it had filled", "it had not"])
def test_a_leg_whose_answer_is_lost_leaves_nothing_held_in_the_end(bench: Bench, action: str) -> None:
    wanted = bench.decide()
    call = {"method": "POST", "path": "/portfolio/events/orders", "times": 1, "action": action}
    bench.server.set_faults(calls=[call])
    result = bench.sets.place_set(wanted, "riskless_set")
    assert result.filled == 0
    for _ in range(12):
        bench.entries.service.run_guarded()
        bench.run_exits()
        bench.read()
        bench.sets.step()
    assert bench.held() == NOTHING
    assert bench.book.sets() == []


def test_a_crash_between_two_legs_sells_the_first_again(bench: Bench, tmp_path: Path) -> None:
    wanted = bench.decide()
    first = wanted.legs[0]
    tickers = " ".join(leg.ticker for leg in wanted.legs)
    record = HedgeRecord("set-1", tickers, first.outcome_side, first.count, "riskless_set", bench.clock.now())
    assert bench.book.begin(record) == ""
    assert bench.entries.place(first, "riskless_set", fill_or_kill=True).filled == first.count
    assert bench.held()[first.ticker] == -first.count
    with restarted(bench, tmp_path) as after:
        after.sets.step()
        after.run_exits()
        assert after.held() == NOTHING
        after.sets.step()
        assert after.book.sets() == []
        assert after.exits.views()[-1].reason == ExitReason.SET_BROKEN.value


def test_a_crash_after_the_last_leg_keeps_the_set(bench: Bench, tmp_path: Path) -> None:
    assert bench.buy().filled == 6
    with restarted(bench, tmp_path) as after:
        after.sets.step()
        after.run_exits()
        assert after.held() == WHOLE
        assert all(after.book.is_hedged(t) for t in (A, B, C))


# --- the whole daemon as a process ----------------------------------------------------------------------

FAIR = {A: ("0.44", "0.46"), B: ("0.30", "0.32"), C: ("0.19", "0.21")}
CHEAP = {A: ("0.48", "0.50"), B: ("0.34", "0.36"), C: ("0.30", "0.32")}
STILL = SCENARIO.replace("cheap_every_s = 30", "cheap_every_s = 0")


@pytest.fixture
def exchange() -> Iterator[SandboxServer]:
    with SandboxServer(parse_scenario(STILL)) as running:
        running.call(settle_soon)
        yield running


def settle_soon(venue: Venue) -> None:
    for ticker in (A, B, C):
        market = venue.exchange.market(ticker)
        market.spec = replace(market.spec, determine_after_s=1.0, finalize_after_s=1.0)


def open_daemon(directory: Path, server: SandboxServer) -> Daemon:
    return Daemon(
        directory,
        server,
        STRATEGY="riskless_set",
        STRATEGY_SERIES="KXN",
        STRATEGY_INTERVAL_S="0.2",
        STRATEGY_COOLDOWN_S="2",
        RECONCILE_INTERVAL_S="2",
        STOP_LOSS_INTERVAL_S="0.5",
        RECONNECT_DELAY_MAX_S="1",
    )


def quote(server: SandboxServer, prices: Mapping[str, tuple[str, str]]) -> None:
    def act(venue: Venue) -> None:
        for ticker, (bid, ask) in prices.items():
            venue.set_market(ticker, {"bid": bid, "ask": ask})

    server.call(act)


def signed(server: SandboxServer) -> dict[str, Decimal]:
    return server.call(lambda venue: {t: venue.exchange.ledger.position_count(t) for t in (A, B, C)})


def legs(server: SandboxServer, *, sold: bool) -> dict[str, Decimal]:
    """Contracts bought by entries, or sold by exits, in each market."""
    rows: Any = server.ledger()["fills"]
    sums: dict[str, Decimal] = {}
    for row in rows:
        if (not row["client_order_id"].startswith("backstop-entry-")) == sold:
            sums[row["ticker"]] = sums.get(row["ticker"], D(0)) + D(row["count"])
    return sums


def is_hedged(daemon: Daemon, tickers: Iterable[str] = (A, B, C)) -> bool:
    """Whether so many positions are shown as parts of a set, and none is counted as unprotected."""
    status = daemon.status()
    shown = {p["ticker"]: p["reason"] for p in status.get("positions", [])}
    return shown == dict.fromkeys(tickers, "hedged") and status["coverage"]["open"] == 0


def test_the_daemon_buys_a_set_keeps_it_through_a_restart_and_is_paid(
    exchange: SandboxServer, tmp_path: Path
) -> None:
    before = exchange.call(lambda venue: venue.exchange.ledger.balance)
    with open_daemon(tmp_path, exchange) as daemon:
        daemon.until(lambda: daemon.is_streaming(3), "its markets are found and streamed")
        quote(exchange, CHEAP)
        daemon.until(lambda: is_hedged(daemon), "a set is held")
        quote(exchange, FAIR)
        assert set(signed(exchange).values()) == {D(-6)}
        daemon.until(lambda: daemon.health()[0] == 200, "healthy")
        quote(exchange, {A: ("0.90", "0.92")})  # NO of A falls to 0.08: far below any stop
        assert daemon.terminate() == 0
        exchange.call(lambda venue: venue.step())
        seen = len(daemon.lines())
        daemon.restart()
        daemon.until(lambda: is_hedged(daemon), "it is kept as a set")
        daemon.until(lambda: bool(daemon.events_after(seen, "set_whole")), "and said to be one")
        assert legs(exchange, sold=True) == {}
        for ticker in (A, B, C):
            exchange.set_market(ticker, status="closed")
        daemon.until(lambda: set(signed(exchange).values()) == {D(0)}, "it is paid")
        daemon.until(lambda: daemon.status()["positions"] == [], "and nothing is held", 25)
        assert daemon.events("exit_triggered") == []
    gain = exchange.call(lambda venue: venue.exchange.ledger.balance) - before
    assert D("0.06") <= gain < D("0.72")


@pytest.mark.parametrize(
    ("on_disconnect", "bought"),
    [("drop", 1), ("act", 2)],
    ids=["the second leg dies with it", "the second leg arrives when it runs again"],
)
def test_killed_between_two_legs_it_sells_again_what_was_bought_once(
    exchange: SandboxServer, tmp_path: Path, on_disconnect: str, bought: int
) -> None:
    first_filled = threading.Event()

    def slow_down(venue: Venue, happening: Happening) -> None:
        if isinstance(happening, Filled) and not first_filled.is_set():
            venue.faults.latency_s = 2.0
            first_filled.set()

    with open_daemon(tmp_path, exchange) as daemon:
        daemon.until(lambda: daemon.is_streaming(3), "its markets are found and streamed")
        exchange.set_faults(on_disconnect=on_disconnect)
        exchange.call(lambda venue: venue.listeners.append(lambda happening: slow_down(venue, happening)))
        quote(exchange, CHEAP)
        sent = "the second leg has left"
        daemon.until(lambda: first_filled.is_set() and len(daemon.events("entry_sent")) == 2, sent)
        daemon.kill()
        quote(exchange, FAIR | {A: CHEAP[A]})  # no set is cheap any more, and the second leg still fills
        exchange.set_faults(latency_s=0.0, on_disconnect="act")
        daemon.restart()
        daemon.until(lambda: len(legs(exchange, sold=True)) == bought, "what it bought is sold", 30)
        daemon.until(lambda: set(signed(exchange).values()) == {D(0)}, "all of it", 30)
        assert legs(exchange, sold=True) == legs(exchange, sold=False)
        assert len(legs(exchange, sold=False)) == bought
        rows: Any = exchange.ledger()["submissions"]
        exits = [row for row in rows if row["reduce_only"]]
        assert sorted(row["ticker"] for row in exits) == sorted(legs(exchange, sold=True))
        assert all(D(row["count"]) == 6 for row in exits)
