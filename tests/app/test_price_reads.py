"""Requests are merged, failures are survived, and a stream that misses a move is suspected."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from base.app.price_reads import DEFERRED_S_MAX, NEW_SPACING_S, SPACING_S, PriceReads
from base.errors import TransientError
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.model.market import PriceSource, Quote
from base.risk.price_needs import Refresh, Why
from tests.fakes.clock import FakeClock


class Rig:
    def __init__(self, *required: str) -> None:
        self.clock = FakeClock()
        self.cache = WebsocketPriceCache(self.clock, 60.0)
        self.cache.require(required, required)
        self.reads: list[tuple[str, ...]] = []
        self.suspected: list[str] = []
        self.is_failing = False
        self.answer: dict[str, str] = {}
        self.price_reads = PriceReads(
            self._read, self.cache, lambda ticker: True, self.suspected.extend, self.clock
        )

    def _read(self, tickers: Sequence[str]) -> int:
        self.reads.append(tuple(tickers))
        if self.is_failing:
            raise TransientError("502")
        for ticker in tickers:
            self.price(ticker, self.answer.get(ticker, "0.50"), PriceSource.REST)
        return len(tickers)

    def price(self, ticker: str, bid: str, source: PriceSource = PriceSource.WS) -> None:
        self.clock.advance(0.1)
        self.cache.apply(
            Quote(
                ticker,
                Decimal(bid),
                Decimal(bid) + Decimal("0.01"),
                Decimal(5),
                Decimal(5),
                None,
                0,
                self.clock.monotonic(),
                self.clock.now(),
                source,
                1,
            )
        )

    def ask(self, *tickers: str, why: Why = Why.STALE) -> None:
        self.price_reads.request(Refresh(tickers, why))


def test_requests_become_one_read_and_then_none() -> None:
    rig = Rig("A", "B", "C")
    rig.ask("B")
    rig.ask("A", "B", why=Why.FEED_DOWN)
    rig.price_reads.run_once()
    rig.price_reads.run_once()
    assert rig.reads == [("A", "B")]


def test_what_nobody_requires_any_more_is_not_read() -> None:
    rig = Rig("A")
    rig.ask("GONE")
    rig.price_reads.run_once()
    assert rig.reads == []


def test_a_failed_read_ends_its_pass_and_not_the_next() -> None:
    rig = Rig("A")
    rig.is_failing = True
    rig.ask("A")
    rig.price_reads.run_once()
    rig.is_failing = False
    rig.clock.advance(SPACING_S - DEFERRED_S_MAX)
    rig.ask("A")
    assert rig.price_reads.run_once() == DEFERRED_S_MAX, "a little early, and not forgotten"
    rig.clock.advance(DEFERRED_S_MAX)
    rig.price_reads.run_once()
    assert rig.reads == [("A",), ("A",)]
    entry = rig.cache.get("A")
    assert entry is not None
    assert entry.yes_bid == Decimal("0.50")


def test_a_market_of_which_nothing_is_known_is_read_at_once_between_other_reads() -> None:
    rig = Rig("A", "B")
    rig.ask("A")
    assert rig.price_reads.run_once() is None
    rig.clock.advance(NEW_SPACING_S)
    rig.ask("A", "B")
    assert rig.price_reads.run_once() is None
    assert rig.reads == [("A",), ("A", "B")]


def test_a_request_that_comes_much_too_early_is_left_to_the_next_sweep() -> None:
    rig = Rig("A")
    rig.ask("A")
    rig.price_reads.run_once()
    rig.clock.advance(0.1)
    rig.ask("A")
    assert rig.price_reads.run_once() is None
    rig.clock.advance(SPACING_S)
    assert rig.price_reads.run_once() is None
    assert rig.reads == [("A",)], "the stream may have brought its price meanwhile"


def test_the_first_request_after_the_start_is_not_kept_waiting() -> None:
    rig = Rig("A")
    assert rig.price_reads.run_once() is None, "the thread's first pass finds nothing to do"
    rig.ask("A")
    assert rig.price_reads.run_once() is None
    assert rig.reads == [("A",)]


def test_a_confirmed_market_that_moved_unseen_is_suspected() -> None:
    rig = Rig("A", "B", "C")
    for ticker in ("A", "B"):
        rig.price(ticker, "0.50")
    rig.answer = {"B": "0.40", "C": "0.40"}
    rig.ask("A", "B", "C")
    rig.price_reads.run_once()
    assert rig.suspected == ["B"], "A is unchanged and C had no price to compare with"


def test_thirty_reads_a_minute_are_the_most_whatever_is_asked() -> None:
    rig = Rig("A")
    for _ in range(600):
        rig.ask("A")
        rig.price_reads.run_once()
        rig.clock.advance(0.1)
    assert 29 <= len(rig.reads) <= 31
