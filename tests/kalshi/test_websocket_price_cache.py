"""The cache never goes back in time, whoever writes, and wakes the checker for what is held."""

from __future__ import annotations

import threading
from decimal import Decimal as D

import pytest

from base.kalshi.websocket_price_cache import REORDER_S_MAX, WebsocketPriceCache
from base.model.events import Lifecycle, LifecycleKind
from base.model.market import Market, MarketStatus, PriceGrid, PriceRange, PriceSource, Quote
from tests.fakes.clock import FakeClock

WS, SNAPSHOT, REST = PriceSource.WS, PriceSource.SNAPSHOT, PriceSource.REST


def quote(
    bid: str = "0.40",
    *,
    ticker: str = "KXA",
    ts_ms: int = 0,
    at: float = 1_000.0,
    source: PriceSource = WS,
    connection: int = 1,
    size: str | None = "10",
) -> Quote:
    return Quote(
        ticker=ticker,
        yes_bid=D(bid),
        yes_ask=D("0.90"),
        yes_bid_size=None if size is None else D(size),
        yes_ask_size=D(10),
        last_price=None,
        ts_ms=ts_ms,
        received_monotonic=at,
        received_at=1_790_000_000.0,
        source=source,
        connection=0 if source is REST else connection,
    )


@pytest.fixture
def cache() -> WebsocketPriceCache:
    cache = WebsocketPriceCache(FakeClock(), stale_after_s=60.0)
    cache.require(["KXA", "KXB"], watched=["KXA"])
    return cache


def bid(cache: WebsocketPriceCache, ticker: str = "KXA") -> D | None:
    entry = cache.get(ticker)
    return None if entry is None else entry.yes_bid


T = 1_790_000_000_000

SEQUENCES = [
    pytest.param([quote("0.40", ts_ms=T), quote("0.41", ts_ms=T + 1)], "0.41", id="newer tick replaces"),
    pytest.param([quote("0.40", ts_ms=T), quote("0.41", ts_ms=T)], "0.41", id="same time: the later frame"),
    pytest.param(
        [quote("0.40", ts_ms=T), quote("0.39", ts_ms=T - 1, at=1_000.1)],
        "0.40",
        id="an older tick comes late",
    ),
    pytest.param(
        [
            quote("0.40", ts_ms=T),
            quote("0.41", at=1_000.1, source=SNAPSHOT),
            quote("0.39", ts_ms=T - 1, at=1_000.2),
        ],
        "0.41",
        id="a snapshot without time does not let an older tick in",
    ),
    pytest.param(
        [
            quote("0.40", ts_ms=T),
            quote("0.41", at=1_000.1, source=REST),
            quote("0.39", ts_ms=T - 1, at=1_000.2),
        ],
        "0.41",
        id="nor does a REST read",
    ),
    pytest.param(
        [quote("0.40", ts_ms=T + 10**9), quote("0.41", ts_ms=T, at=1_000.0 + REORDER_S_MAX + 0.1)],
        "0.41",
        id="a wrong time far ahead does not shut the feed out for ever",
    ),
    pytest.param(
        [quote("0.40", ts_ms=T), quote("0.41", ts_ms=T - 1, connection=2)],
        "0.41",
        id="a new connection starts anew",
    ),
    pytest.param(
        [quote("0.40", ts_ms=T), quote("0.41", ts_ms=0, at=1_000.1)], "0.41", id="a tick of the older form"
    ),
    pytest.param(
        [quote("0.40", at=1_000.0), quote("0.20", source=REST, at=999.9)],
        "0.40",
        id="a REST answer to a request from before the tick",
    ),
    pytest.param(
        [quote("0.40", at=1_000.0), quote("0.20", source=REST, at=1_000.1)], "0.20", id="a newer REST read"
    ),
    pytest.param(
        [quote("0.20", source=REST, at=1_000.1), quote("0.10", source=REST, at=1_000.0)],
        "0.20",
        id="REST answers out of order",
    ),
    pytest.param(
        [quote("0.20", source=REST, at=1_000.0), quote("0.40", ts_ms=T, at=1_000.1)],
        "0.40",
        id="the stream after REST",
    ),
]


@pytest.mark.parametrize(("quotes", "expected"), SEQUENCES)
def test_the_newest_price_stays(cache: WebsocketPriceCache, quotes: list[Quote], expected: str) -> None:
    accepted = [cache.apply(q) for q in quotes]
    assert bid(cache) == D(expected)
    assert accepted[0]
    assert accepted[-1] == (quotes[-1].yes_bid == D(expected))


def test_a_market_that_nobody_requires_is_not_kept(cache: WebsocketPriceCache) -> None:
    assert not cache.apply(quote(ticker="KXC"))
    cache.apply_market(Market("KXC"))
    assert not cache.apply_lifecycle(Lifecycle("KXC", LifecycleKind.DEACTIVATED, 4, 1))
    assert cache.get("KXC") is None


def test_what_is_no_longer_required_is_forgotten_with_its_times(cache: WebsocketPriceCache) -> None:
    cache.apply(quote("0.40", ts_ms=T))
    cache.require(["KXB"], watched=[])
    assert cache.get("KXA") is None
    assert cache.take_changes() == frozenset()
    cache.require(["KXA"], watched=[])
    assert cache.apply(quote("0.39", ts_ms=T - 1, at=1_000.1)), "nothing to be older than"


def test_only_watched_markets_wake_the_checker(cache: WebsocketPriceCache) -> None:
    cache.apply(quote(ticker="KXB"))
    cache.apply_market(Market("KXB", status=MarketStatus.ACTIVE))
    cache.apply_lifecycle(Lifecycle("KXB", LifecycleKind.DEACTIVATED, 4, 1, status=MarketStatus.INACTIVE))
    assert not cache.changed.is_set()
    assert cache.take_changes() == frozenset()
    cache.apply(quote(ticker="KXA"))
    assert cache.changed.is_set()
    assert cache.take_changes() == {"KXA"}
    assert not cache.changed.is_set()


@pytest.mark.parametrize(
    ("second", "is_change"),
    [
        pytest.param(quote("0.41", at=1_001.0), True, id="price moved"),
        pytest.param(quote("0.40", at=1_001.0, size="9"), True, id="size moved"),
        pytest.param(quote("0.40", at=1_001.0), False, id="the same again"),
        pytest.param(quote("0.20", at=999.0, source=REST), False, id="refused as older"),
    ],
)
def test_a_change_is_a_moved_top_of_book(cache: WebsocketPriceCache, second: Quote, is_change: bool) -> None:
    cache.apply(quote("0.40"))
    cache.take_changes()
    cache.apply(second)
    assert bool(cache.take_changes()) == is_change


def test_a_repeated_price_still_renews_its_age(cache: WebsocketPriceCache) -> None:
    cache.apply(quote("0.40", at=1_000.0))
    cache.apply(quote("0.40", at=1_050.0))
    entry = cache.get("KXA")
    assert entry is not None
    assert entry.age_s(1_060.0) == 10.0
    assert not entry.is_stale(1_110.0)
    assert entry.is_stale(1_110.1)


def test_an_entry_tells_what_is_known_and_what_is_not(cache: WebsocketPriceCache) -> None:
    cache.apply_market(Market("KXA", status=MarketStatus.ACTIVE))
    entry = cache.get("KXA")
    assert entry is not None
    assert (entry.yes_bid, entry.yes_ask, entry.last_update, entry.age_s(0)) == (None,) * 4
    assert entry.is_stale(0)
    cache.apply(quote())
    entry = cache.get("KXA")
    assert entry is not None
    assert (entry.yes_bid, entry.yes_ask, entry.last_update) == (D("0.40"), D("0.90"), 1_790_000_000.0)
    assert entry.market.status is MarketStatus.ACTIVE, "a quote leaves the market's facts alone"


def test_lifecycle_events_change_the_facts_and_leave_the_quote(cache: WebsocketPriceCache) -> None:
    cache.apply(quote())
    cache.take_changes()
    grid = PriceGrid((PriceRange(D(0), D(1), D("0.001")),))
    for event in (
        Lifecycle("KXA", LifecycleKind.DEACTIVATED, 4, 1, status=MarketStatus.INACTIVE),
        Lifecycle("KXA", LifecycleKind.CLOSE_DATE_UPDATED, 4, 2, close_time=1_790_000_500.0),
        Lifecycle("KXA", LifecycleKind.PRICE_LEVEL_STRUCTURE_UPDATED, 4, 3, grid=grid),
    ):
        assert cache.apply_lifecycle(event)
        assert cache.changed.is_set()
        assert cache.take_changes() == {"KXA"}
    entry = cache.get("KXA")
    assert entry is not None
    assert (entry.market.status, entry.market.close_time) == (MarketStatus.INACTIVE, 1_790_000_500.0)
    assert entry.market.grid == grid
    assert entry.yes_bid == D("0.40")


def test_a_pause_before_the_first_price_is_remembered(cache: WebsocketPriceCache) -> None:
    paused = Lifecycle("KXA", LifecycleKind.DEACTIVATED, 4, 1, status=MarketStatus.INACTIVE)
    assert cache.apply_lifecycle(paused)
    cache.apply(quote())
    entry = cache.get("KXA")
    assert entry is not None
    assert entry.market.status is MarketStatus.INACTIVE


def test_a_closed_market_whose_close_moves_is_unknown_until_read(cache: WebsocketPriceCache) -> None:
    cache.apply_market(Market("KXA", status=MarketStatus.CLOSED))
    cache.apply_lifecycle(
        Lifecycle("KXA", LifecycleKind.CLOSE_DATE_UPDATED, 4, 2, close_time=1_790_000_500.0)
    )
    entry = cache.get("KXA")
    assert entry is not None
    assert entry.market.status is MarketStatus.UNKNOWN


def test_a_result_is_kept(cache: WebsocketPriceCache) -> None:
    cache.apply_lifecycle(
        Lifecycle("KXA", LifecycleKind.DETERMINED, 4, 1, status=MarketStatus.DETERMINED, result="no")
    )
    entry = cache.get("KXA")
    assert entry is not None
    assert (entry.market.status, entry.market.result) == (MarketStatus.DETERMINED, "no")


def test_writers_and_readers_on_many_threads_see_whole_quotes() -> None:
    """Each writer sends rising times; a reader must never see one go back or a torn quote."""
    cache = WebsocketPriceCache(FakeClock(), stale_after_s=60.0)
    tickers = ["KXA", "KXB"]
    cache.require(tickers, watched=tickers)
    done = threading.Event()
    faults: list[str] = []
    start = threading.Barrier(4)

    def write(ticker: str) -> None:
        start.wait(5)
        for n in range(1, 1_500):
            price = D(n % 100) / 100
            cache.apply(
                Quote(ticker, price, price, D(n), D(n), None, n, float(n), float(n), WS, connection=1)
            )

    def read() -> None:
        start.wait(5)
        last = dict.fromkeys(tickers, 0)
        while not done.is_set():
            cache.take_changes()
            for ticker, entry in cache.snapshot().items():
                q = entry.quote
                if q is None or q.yes_bid_size != q.ts_ms or q.yes_bid != D(q.ts_ms % 100) / 100:
                    faults.append(f"torn: {q}")
                elif q.ts_ms < last[ticker]:
                    faults.append(f"{ticker} went back")
                else:
                    last[ticker] = q.ts_ms

    writers = [threading.Thread(target=write, args=(t,)) for t in tickers]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in (*writers, *readers):
        thread.start()
    for thread in writers:
        thread.join(10)
    done.set()
    for thread in readers:
        thread.join(10)
    assert faults == []
    assert {t: e.quote.ts_ms for t, e in cache.snapshot().items() if e.quote} == dict.fromkeys(tickers, 1_499)


def test_an_answer_from_before_a_pause_does_not_undo_it() -> None:
    clock = FakeClock()
    cache = WebsocketPriceCache(clock, stale_after_s=60.0)
    cache.require(["KXA"], watched=["KXA"])
    asked_at = clock.monotonic()
    clock.advance(0.2)
    cache.apply_lifecycle(Lifecycle("KXA", LifecycleKind.DEACTIVATED, 4, 1, status=MarketStatus.INACTIVE))
    cache.apply_market(Market("KXA", status=MarketStatus.ACTIVE), asked_at)
    entry = cache.get("KXA")
    assert entry is not None
    assert entry.market.status is MarketStatus.INACTIVE
    clock.advance(0.1)
    cache.apply_market(Market("KXA", status=MarketStatus.ACTIVE), clock.monotonic())
    entry = cache.get("KXA")
    assert entry is not None
    assert entry.market.status is MarketStatus.ACTIVE
