"""Entries: limits, one reservation each, and never a worse price than the strategy allowed."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.app.entries import RESERVED_S, EntryDesk
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.model.market import (
    ONE,
    BookSide,
    Market,
    MarketStatus,
    OutcomeSide,
    PriceGrid,
    PriceRange,
    PriceSource,
    Quote,
)
from base.model.order import TimeInForce, to_yes_leg
from base.risk.limits import Limits
from base.risk.trading_state import TradingState
from base.store.portfolio import Portfolio
from base.strategy.interface import OrderIntent
from tests.fakes.clock import FakeClock
from tests.fakes.gateway import FakeExchange, Fill, Lost, NotSent, Reject, Step
from tests.fakes.positions import by_ticker

T, OTHER = "KXA-26NOV22-T1", "KXB-26NOV22-T1"
YES, NO = OutcomeSide.YES, OutcomeSide.NO
LIMITS = Limits(
    max_order_cost=Decimal(50),
    max_position_cost=Decimal(80),
    max_total_exposure=Decimal(100),
    max_daily_loss=Decimal(10),
)


class Rig:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.exchange = FakeExchange(self.clock)
        self.portfolio = Portfolio(self.clock)
        self.cache = WebsocketPriceCache(self.clock, 60.0)
        self.cache.require([T, OTHER], [])
        for ticker in (T, OTHER):
            self.cache.apply_market(Market(ticker, status=MarketStatus.ACTIVE))
            self.quote(ticker)
        self.state = TradingState.ACTIVE
        self.opened: list[str] = []
        self.exiting: set[str] = set()
        self.reads_wanted = 0
        self.entries = EntryDesk(
            self.exchange,
            self.portfolio,
            self.cache,
            LIMITS,
            lambda: self.state,
            self.opened.append,
            self.clock,
            is_exiting=self.exiting.__contains__,
            request_reconcile=self._want_read,
        )

    def _want_read(self) -> None:
        self.reads_wanted += 1

    def quote(self, ticker: str) -> None:
        """A price of this moment; entries look only at its being there and fresh."""
        self.cache.apply(
            Quote(
                ticker,
                yes_bid=Decimal("0.49"),
                yes_ask=Decimal("0.50"),
                yes_bid_size=None,
                yes_ask_size=None,
                last_price=None,
                ts_ms=0,
                received_monotonic=self.clock.monotonic(),
                received_at=self.clock.now(),
                source=PriceSource.REST,
            )
        )

    def grid(self, *ranges: tuple[str, str, str]) -> None:
        grid = PriceGrid(tuple(PriceRange(Decimal(a), Decimal(b), Decimal(s)) for a, b, s in ranges))
        self.cache.apply_market(Market(T, status=MarketStatus.ACTIVE, grid=grid))

    def place(self, count: str = "10", price: str = "0.50", side: OutcomeSide = YES, ticker: str = T) -> bool:
        return self.entries.place(OrderIntent(ticker, side, Decimal(count), Decimal(price)))

    def script(self, *steps: Step) -> None:
        self.exchange.script[T].extend(steps)


@pytest.mark.parametrize(
    ("side", "book_side", "yes_price"), [(YES, BookSide.BID, "0.30"), (NO, BookSide.ASK, "0.70")]
)
def test_an_entry_is_one_immediate_order_on_the_yes_book(
    side: OutcomeSide, book_side: BookSide, yes_price: str
) -> None:
    rig = Rig()
    assert rig.place("10", "0.30", side)
    (request,) = rig.exchange.requests
    assert (request.book_side, request.price) == (book_side, Decimal(yes_price))
    assert request.time_in_force is TimeInForce.IMMEDIATE_OR_CANCEL
    assert not request.reduce_only
    position = rig.portfolio.get(T)
    assert position is not None
    assert (position.outcome_side, position.count, position.entry_price) == (side, 10, Decimal("0.30"))
    assert rig.opened == [T]


@pytest.mark.parametrize(
    ("count", "price"),
    [("101", "0.50"), ("0", "0.50"), ("0.004", "0.50"), ("10", "0.004"), ("10", "1.00"), ("10", "1.5")],
    ids=["over the order limit", "nothing", "less than the smallest lot", "under the grid", "1", "over 1"],
)
def test_what_is_denied_never_leaves(count: str, price: str) -> None:
    rig = Rig()
    assert not rig.place(count, price)
    assert not rig.place(count, price, NO)
    assert rig.exchange.requests == []


def test_limits_count_what_is_held_in_the_market_and_in_all() -> None:
    rig = Rig()
    assert rig.place("90", "0.50")
    assert not rig.place("80", "0.50"), "90 + 80 contracts cost 85 dollars, the market's limit is 80"
    assert rig.place("60", "0.50")
    assert not rig.place("60", "0.50", ticker=OTHER), "105 dollars in all, the limit is 100"
    assert rig.place("50", "0.50", ticker=OTHER)


def test_a_cost_of_unknown_outcome_stays_reserved_until_reads_can_tell() -> None:
    rig = Rig()
    rig.script(Lost(), Fill())
    assert not rig.place("90", "0.50")
    assert rig.reads_wanted == 1, "the position may be there, and unprotected until it is known"
    assert not rig.place("90", "0.50"), "45 dollars may be in the market already"
    rig.clock.advance(RESERVED_S + 1)
    rig.quote(T)
    assert rig.place("90", "0.50")


@pytest.mark.parametrize("step", [Reject(400, "insufficient_balance"), NotSent(), Fill("0")])
def test_a_cost_that_was_not_spent_is_free_again(step: Step) -> None:
    rig = Rig()
    rig.script(step)
    assert not rig.place("90", "0.50")
    assert rig.place("90", "0.50")


def test_reads_count_again_once_the_answer_is_in_or_lost() -> None:
    rig = Rig()
    rig.script(Lost("4"))
    rig.place()
    rig.clock.advance(60)
    rig.portfolio.apply_read(rig.exchange.positions(), rig.clock.monotonic())
    position = rig.portfolio.get(T)
    assert position is not None
    assert position.count == 4


def test_the_other_side_is_not_bought_because_that_would_reduce() -> None:
    rig = Rig()
    rig.exchange.holds(T, "10")
    rig.portfolio.apply_read(by_ticker(rig.exchange.positions().values()), rig.clock.monotonic())
    assert not rig.place(side=NO)
    assert rig.place(side=YES)


def test_nothing_is_bought_where_an_exit_is_under_way() -> None:
    rig = Rig()
    rig.exiting.add(T)
    assert not rig.place()
    assert rig.exchange.requests == []


@pytest.mark.parametrize("state", [TradingState.REDUCING, TradingState.HALTED])
def test_nothing_is_bought_unless_trading_is_active(state: TradingState) -> None:
    rig = Rig()
    rig.state = state
    assert not rig.place()
    assert rig.exchange.requests == []


@settings(max_examples=100, deadline=None)
@given(
    ranges=st.sampled_from(
        [
            (("0", "1", "0.01"),),
            (("0", "1", "0.001"),),
            (("0", "0.1", "0.001"), ("0.1", "0.9", "0.01"), ("0.9", "1", "0.001")),
            (("0", "1", "0.02"),),
        ]
    ),
    price=st.integers(1, 9_999),
    side=st.sampled_from([YES, NO]),
)
def test_rounding_to_the_grid_never_pays_more_than_allowed(
    ranges: tuple[tuple[str, str, str], ...], price: int, side: OutcomeSide
) -> None:
    rig = Rig()
    rig.grid(*ranges)
    allowed = Decimal(price) / 10_000
    rig.entries.place(OrderIntent(T, side, Decimal(1), allowed))
    for request in rig.exchange.requests:
        paid = to_yes_leg(request.price, side)
        assert 0 < paid <= allowed
        assert allowed - paid < Decimal("0.02")
        market = rig.cache.get(T)
        assert market is not None
        assert market.market.grid.floor(request.price) == request.price
        assert request.price < ONE


@pytest.mark.parametrize(
    "status", [s for s in MarketStatus if s is not MarketStatus.ACTIVE], ids=lambda s: s.value
)
def test_nothing_is_bought_in_a_market_that_is_not_open(status: MarketStatus) -> None:
    rig = Rig()
    rig.cache.apply_market(Market(T, status=status))
    assert not rig.place("10", "0.50")
    assert rig.exchange.requests == []


def test_nothing_is_bought_without_a_fresh_price() -> None:
    rig = Rig()
    assert not rig.place("10", "0.50", ticker="KXUNWATCHED-1")
    rig.clock.advance(61)
    assert not rig.place("10", "0.50")
    rig.quote(T)
    assert rig.place("10", "0.50")
