"""Which markets a strategy's wishes bring in, when they leave again, and what a failed read costs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from decimal import Decimal

import pytest

from base.app.discovery import MARKETS_MAX, READ_EVERY_S, Discovery
from base.errors import TransientError
from base.kalshi.documents import MarketSnapshot
from base.kalshi.rate_limit import Lane
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.model.events import Lifecycle, LifecycleKind
from base.model.market import Event, Market, MarketStatus, PriceSource, Quote
from base.strategy.interface import MarketFilter
from tests.fakes.clock import FakeClock

D = Decimal
HOUR_S = 3_600.0
NONE: frozenset[str] = frozenset()
SERIES = MarketFilter(series="KXHIGHNY")


class FakeExchange:
    """Lists markets; every read is taken down with its lane."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.markets: dict[str, Market] = {}
        self.events: dict[str, Event] = {}
        self.reads: list[tuple[str, object]] = []
        self.lanes: set[Lane] = set()
        self.fails: Callable[[str], bool] = lambda what: False
        self.meanwhile: Callable[[], None] = lambda: None

    def lists(self, *tickers: str, close_in_s: float | None = HOUR_S) -> None:
        for ticker in tickers:
            event = ticker.rpartition("-")[0]
            closes = None if close_in_s is None else self.clock.now() + close_in_s
            self.markets[ticker] = Market(ticker, event, MarketStatus.ACTIVE, closes)
        for ticker in tickers:
            event = ticker.rpartition("-")[0]
            of_event = tuple(t for t, m in self.markets.items() if m.event_ticker == event)
            self.events[event] = Event(event, of_event, mutually_exclusive=True)

    def _note(self, what: str, asked: object, lane: Lane) -> None:
        self.reads.append((what, asked))
        self.lanes.add(lane)
        if self.fails(what):
            raise TransientError(f"{what}: the exchange is away")

    def _snapshot(self, market: Market) -> MarketSnapshot:
        left_at = self.clock.monotonic()
        wall = self.clock.now()
        quote = Quote(
            market.ticker, D("0.40"), D("0.42"), D(10), D(10), None, 0, left_at, wall, PriceSource.REST
        )
        return MarketSnapshot(market, quote, left_at)

    def get_markets(self, tickers: Sequence[str], lane: Lane) -> list[MarketSnapshot]:
        self._note("markets", list(tickers), lane)
        return [self._snapshot(self.markets[t]) for t in tickers if t in self.markets]

    def list_markets(
        self,
        series_ticker: str | None,
        event_ticker: str | None,
        status: str | None,
        limit_total: int,
        lane: Lane,
    ) -> list[MarketSnapshot]:
        self._note("list", series_ticker or event_ticker, lane)
        assert status == "open"
        found = [
            self._snapshot(m)
            for m in self.markets.values()
            if m.status is MarketStatus.ACTIVE
            and series_ticker in (None, m.series_ticker)
            and event_ticker in (None, m.event_ticker)
        ]
        self.meanwhile()
        return found[:limit_total]

    def get_events(self, tickers: Sequence[str], lane: Lane) -> list[Event]:
        self._note("events", list(tickers), lane)
        return [self.events[t] for t in tickers if t in self.events]

    def count(self, what: str) -> int:
        return sum(w == what for w, _ in self.reads)


class Directory:
    """Requires of the cache what it is told to watch."""

    def __init__(self, cache: WebsocketPriceCache) -> None:
        self.cache = cache
        self.told: list[frozenset[str]] = []

    def watch(self, tickers: Iterable[str]) -> None:
        self.told.append(frozenset(tickers))
        self.cache.require(self.told[-1], [])


class Rig:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.exchange = FakeExchange(self.clock)
        self.cache = WebsocketPriceCache(self.clock, 15.0)
        self.directory = Directory(self.cache)
        self.confirmed: set[str] = set()
        self.ordered: set[str] = set()
        self.discovery = Discovery(
            self.exchange,
            self.cache,
            self.directory,
            self.clock,
            is_confirmed=self.confirmed.__contains__,
            kept=lambda: self.ordered,
        )

    def want(self, *tickers: str, filters: Iterable[MarketFilter] = ()) -> None:
        self.discovery.want(frozenset(tickers), frozenset(filters))

    def run(self, after_s: float = 0.0) -> bool:
        self.clock.advance(after_s)
        return self.discovery.service.run_guarded()

    @property
    def watched(self) -> frozenset[str]:
        return self.directory.told[-1] if self.directory.told else NONE


@pytest.fixture
def rig() -> Rig:
    return Rig()


A, B, C = (f"KXHIGHNY-26NOV22-T{n}" for n in (60, 61, 62))
X = "KXBTC-26NOV22-T95000"


def test_nothing_wanted_reads_and_watches_nothing(rig: Rig) -> None:
    assert rig.run()
    assert (rig.exchange.reads, rig.directory.told) == ([], [])


def test_a_series_is_read_streamed_and_priced_in_the_strategys_lane(rig: Rig) -> None:
    rig.exchange.lists(A, B, X)
    rig.want(filters=[SERIES])
    assert rig.run()
    assert rig.watched == {A, B}
    entry = rig.cache.get(A)
    assert entry is not None
    assert (entry.market.status, entry.yes_bid) == (MarketStatus.ACTIVE, D("0.40"))
    assert rig.exchange.lanes == {Lane.STRATEGY}
    event = rig.discovery.events()["KXHIGHNY-26NOV22"]
    assert (event.mutually_exclusive, event.market_tickers) == (True, (A, B))


def test_an_event_is_read_likewise(rig: Rig) -> None:
    rig.exchange.lists(A, B, X)
    rig.want(filters=[MarketFilter(event="KXBTC-26NOV22")])
    rig.run()
    assert rig.watched == {X}
    assert rig.discovery.events().keys() == {"KXBTC-26NOV22"}


def test_new_markets_come_in_and_closed_ones_leave_within_a_minute(rig: Rig) -> None:
    assert READ_EVERY_S <= 50
    rig.exchange.lists(A)
    rig.want(filters=[SERIES])
    rig.run()
    rig.exchange.lists(B)
    rig.exchange.markets[A] = replace(rig.exchange.markets[A], status=MarketStatus.CLOSED)
    assert rig.run(after_s=READ_EVERY_S)
    assert rig.watched == {B}


def test_a_market_leaves_when_its_time_is_over_or_the_stream_says_so(rig: Rig) -> None:
    rig.exchange.lists(A, close_in_s=20)
    rig.exchange.lists(B, C)
    rig.want(filters=[SERIES])
    rig.run()
    rig.cache.apply_lifecycle(Lifecycle(B, LifecycleKind.DETERMINED, 1, None, MarketStatus.DETERMINED))
    reads = len(rig.exchange.reads)
    rig.run(after_s=21)
    assert rig.watched == {C}
    assert len(rig.exchange.reads) == reads  # nothing had to be read for it


def test_a_series_without_an_open_market_is_named(rig: Rig) -> None:
    rig.exchange.lists(A, B, X)
    rig.want(filters=[MarketFilter(series="KXHIGHNYC"), SERIES])
    rig.run()
    assert rig.discovery.status()["nothing_for"] == ["KXHIGHNYC"]
    rig.want(filters=[SERIES])
    rig.run()
    assert rig.discovery.status()["nothing_for"] == []


def test_what_is_wanted_no_longer_leaves_at_once(rig: Rig) -> None:
    rig.exchange.lists(A, X)
    rig.want(X, filters=[SERIES])
    rig.run()
    assert rig.watched == {A, X}
    rig.want(X)
    rig.run()
    assert rig.watched == {X}
    assert rig.discovery.events().keys() == {"KXBTC-26NOV22"}


def test_markets_with_orders_of_ours_stay(rig: Rig) -> None:
    rig.exchange.lists(A)
    rig.want(A)
    rig.run()
    rig.ordered = {A}
    rig.want()
    rig.run()
    assert rig.watched == {A}
    rig.ordered = set()
    rig.run()
    assert rig.watched == NONE


def test_a_wish_wakes_the_thread_only_when_it_is_new(rig: Rig) -> None:
    rig.want(A)
    assert rig.discovery.service.is_wanted
    service = rig.discovery.service
    service.start()
    service.stop()
    assert service.join(2.0)
    other = Rig()
    other.want()
    assert not other.discovery.service.is_wanted


def test_a_strategy_that_changes_its_mind_each_pass_costs_no_more_reads(rig: Rig) -> None:
    rig.exchange.lists(A, X)
    rig.want(A, X, filters=[SERIES])
    rig.run()
    reads = len(rig.exchange.reads)
    for _ in range(20):
        rig.want(A, X, filters=[SERIES])
        rig.run(after_s=1.0)
    assert len(rig.exchange.reads) == reads


def test_a_ticker_that_does_not_exist_is_not_streamed_and_named(rig: Rig) -> None:
    rig.exchange.lists(A)
    rig.want(A, "KXTYPO-1")
    rig.run()
    assert rig.watched == {A}
    assert rig.discovery.status()["unknown"] == ["KXTYPO-1"]
    rig.run(after_s=5.0)
    assert rig.exchange.count("markets") == 1
    rig.exchange.lists("KXTYPO-1")
    rig.run(after_s=READ_EVERY_S)
    assert rig.watched == {A, "KXTYPO-1"}
    assert rig.exchange.reads.count(("markets", ["KXTYPO-1"])) == 1


@pytest.mark.parametrize(
    ("wanted", "watched"),
    [
        (MarketFilter("KXHIGHNY", closes_within_s=100), {A}),
        (MarketFilter("KXHIGHNY", closes_within_s=1_000), {A, B}),
        (MarketFilter("KXHIGHNY"), {A, B, C}),
        (MarketFilter("KXHIGHNY", markets_max=1), {A}),
        (MarketFilter("KXHIGHNY", markets_max=2), {A, B}),
    ],
    ids=["soon", "later", "whenever", "the first to close", "the first two"],
)
def test_what_a_filter_keeps(rig: Rig, wanted: MarketFilter, watched: set[str]) -> None:
    rig.exchange.lists(C, close_in_s=None)
    rig.exchange.lists(B, close_in_s=1_000)
    rig.exchange.lists(A, close_in_s=100)
    rig.want(filters=[wanted])
    rig.run()
    assert rig.watched == watched
    assert rig.discovery.status()["left_out"] == (3 - len(watched) if wanted.markets_max < 3 else 0)


def test_a_market_comes_in_as_its_close_comes_near(rig: Rig) -> None:
    rig.exchange.lists(A, close_in_s=130)
    rig.want(filters=[MarketFilter("KXHIGHNY", closes_within_s=100)])
    rig.run()
    assert rig.watched == NONE
    rig.run(after_s=31)
    assert rig.watched == {A}


def test_no_more_than_the_stream_can_carry_and_named_ones_first(rig: Rig) -> None:
    rig.exchange.lists(*(f"KXHIGHNY-D-{n:04}" for n in range(400)))
    rig.exchange.lists(*(f"KXBTC-D-{n:04}" for n in range(400)))
    rig.exchange.lists(X)
    rig.want(X, filters=[MarketFilter("KXHIGHNY", markets_max=400), MarketFilter("KXBTC", markets_max=400)])
    rig.run()
    assert len(rig.watched) == MARKETS_MAX
    assert X in rig.watched
    # X is one of the second series too, which asks for it once more.
    assert rig.discovery.status()["left_out"] == 801 - MARKETS_MAX


def test_a_failed_read_keeps_the_last_answer_and_is_counted(rig: Rig) -> None:
    rig.exchange.lists(A, X)
    rig.want(filters=[SERIES, MarketFilter(series="KXBTC")])
    rig.run()
    rig.exchange.lists(B)
    rig.exchange.fails = lambda what: what == "list"
    assert not rig.run(after_s=READ_EVERY_S)
    assert rig.watched == {A, X}
    assert rig.discovery.events().keys() == {"KXHIGHNY-26NOV22", "KXBTC-26NOV22"}
    status = rig.discovery.status()
    assert (status["failures"], status["last_error"]) == (2, "list: the exchange is away")
    rig.exchange.fails = lambda what: False
    assert rig.run(after_s=1.0)
    assert rig.watched == {A, B, X}


def test_one_filter_that_fails_costs_the_others_nothing(rig: Rig) -> None:
    rig.exchange.lists(A, X)
    failing = iter([True, False])
    rig.exchange.fails = lambda what: what == "list" and next(failing)
    rig.want(filters=[SERIES, MarketFilter(series="KXBTC")])
    assert not rig.run()
    assert rig.watched in ({A}, {X})


def test_named_tickers_that_cannot_be_read_are_asked_for_again_soon(rig: Rig) -> None:
    rig.exchange.lists(A)
    rig.exchange.fails = lambda what: what == "markets"
    rig.want(A)
    assert not rig.run()
    assert rig.watched == NONE
    assert rig.discovery.service.next_delay_s() == 1.0
    rig.exchange.fails = lambda what: False
    assert rig.run(after_s=1.0)
    assert rig.watched == {A}


def test_a_failed_read_of_events_costs_no_market(rig: Rig) -> None:
    rig.exchange.lists(A)
    rig.exchange.fails = lambda what: what == "events"
    rig.want(filters=[SERIES])
    assert not rig.run()
    assert rig.watched == {A}
    assert rig.discovery.events() == {}


def test_events_are_read_again_when_a_market_joins_them_and_else_seldom(rig: Rig) -> None:
    rig.exchange.lists(A)
    rig.want(filters=[SERIES])
    rig.run()
    for _ in range(5):
        rig.run(after_s=READ_EVERY_S)
    assert rig.exchange.count("events") == 1
    rig.exchange.lists(B)
    rig.run(after_s=READ_EVERY_S)
    assert rig.exchange.count("events") == 2
    assert rig.discovery.events()["KXHIGHNY-26NOV22"].market_tickers == (A, B)


def test_an_event_that_is_not_listed_is_not_asked_for_each_time(rig: Rig) -> None:
    rig.exchange.lists(A)
    rig.exchange.events = {}
    rig.want(filters=[SERIES])
    for _ in range(5):
        rig.run(after_s=READ_EVERY_S)
    assert rig.exchange.count("events") == 1


def test_a_price_that_the_stream_vouches_for_is_not_overwritten(rig: Rig) -> None:
    rig.exchange.lists(A)
    rig.want(filters=[SERIES])
    rig.run()
    now = rig.clock.monotonic()
    tick = Quote(A, D("0.50"), D("0.52"), D(9), D(9), None, 7, now, 0.0, PriceSource.WS, 1)
    rig.cache.apply(tick)
    rig.confirmed = {A}
    rig.discovery = Discovery(rig.exchange, rig.cache, rig.directory, rig.clock, rig.confirmed.__contains__)
    rig.want(filters=[SERIES])
    rig.run(after_s=5.0)
    entry = rig.cache.get(A)
    assert entry is not None
    assert entry.quote == tick


def test_a_tick_that_came_during_the_read_is_not_overwritten(rig: Rig) -> None:
    rig.exchange.lists(A)
    rig.cache.require([A], [])
    rig.want(filters=[SERIES])

    def tick() -> None:
        rig.clock.advance(0.2)
        rig.cache.apply(
            Quote(A, D("0.30"), D("0.32"), D(9), D(9), None, 7, rig.clock.monotonic(), 0.0, PriceSource.WS, 1)
        )

    rig.exchange.meanwhile = tick
    rig.run()
    entry = rig.cache.get(A)
    assert entry is not None
    assert entry.yes_bid == D("0.30")


def test_wishes_from_the_strategys_thread_while_it_reads(rig: Rig) -> None:
    rig.exchange.lists(A, B, X)
    rig.want(filters=[SERIES])
    changed = threading.Event()

    def change_its_mind() -> None:
        thread = threading.Thread(target=lambda: (rig.want(X), changed.set()))
        thread.start()
        thread.join(2.0)

    rig.exchange.meanwhile = change_its_mind
    rig.run()
    assert changed.is_set()
    assert rig.discovery.service.is_wanted
    rig.run()
    assert rig.watched == {X}
