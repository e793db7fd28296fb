"""The portfolio, what is required of the stream, and the reads stay in step."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import pytest

from base.app.account import Account, Adoption, MarketDirectory
from base.errors import TransientError
from base.execution.exits import ExitDesk, ExitOrder
from base.kalshi.websocket_client import FeedState
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.model.events import Lifecycle, LifecycleKind, OrderUpdate, PositionUpdate
from base.model.market import BookSide, Market, MarketStatus, OutcomeSide
from base.model.order import OrderStatus
from base.model.position import Fill, Position
from base.model.rules import ExitReason, ExitRule
from base.risk.price_needs import Refresh, Why
from base.store.portfolio import HeldRead, Portfolio, by_ticker
from tests.fakes.clock import FakeClock
from tests.fakes.feed import FakeFeed
from tests.fakes.gateway import FakeExchange, Lost

A, B = "KXA-26NOV22-T1", "KXB-26NOV22-T1"


class Rig:
    def __init__(self, *, is_paper: bool = False) -> None:
        self.clock = FakeClock()
        self.portfolio = Portfolio(self.clock)
        self.cache = WebsocketPriceCache(self.clock, 60.0)
        self.feed = FakeFeed()
        self.directory = MarketDirectory(self.portfolio, self.cache, self.feed, self.clock)
        self.rows: Mapping[str, Position] | Exception = {}
        self.requests: list[Refresh] = []
        self.sweeps = 0
        self.account = Account(
            self.portfolio,
            self.directory,
            self._read,
            self.requests.append,
            30.0,
            self.clock,
            is_paper=is_paper,
        )
        self.exchange = FakeExchange(self.clock)
        self.desk = ExitDesk(
            self.exchange, self.portfolio, self.exchange.prices.get, self.account.service.wake, self.clock
        )
        self.account.attach(self.desk, self._sweep_soon)

    def _read(self) -> HeldRead:
        if isinstance(self.rows, Exception):
            raise self.rows
        return HeldRead(self.rows)

    def _sweep_soon(self) -> None:
        self.sweeps += 1

    def reads(self, *rows: Position) -> None:
        self.rows = by_ticker(rows)
        self.account.reconcile()


def held(ticker: str = A, count: str = "10") -> Position:
    return Position(ticker, OutcomeSide.YES, Decimal(count), Decimal("0.50"))


def fill(count: str = "4", post: str = "4", side: BookSide = BookSide.BID) -> Fill:
    return Fill(
        "t1", "o1", A, side, Decimal(count), Decimal("0.5"), Decimal(0), 1, post_position=Decimal(post)
    )


def test_a_position_found_by_a_read_is_streamed_priced_and_looked_at() -> None:
    rig = Rig()
    rig.reads(held())
    assert rig.cache.required == {A}
    assert (rig.feed.required, rig.feed.held) == ({A}, {A})
    assert rig.requests == [Refresh((A,), Why.MISSING)]
    assert rig.sweeps == 1


def test_a_position_opened_elsewhere_is_protected_from_its_fill_on() -> None:
    rig = Rig()
    rig.reads()
    rig.account.fill(fill())
    assert rig.portfolio.get(A) is not None
    assert rig.feed.held == {A}
    assert rig.requests == [Refresh((A,), Why.MISSING)]


def test_a_read_that_fails_changes_nothing() -> None:
    rig = Rig()
    rig.reads(held())
    rig.rows = TransientError("page 2 of 2 is missing")
    for _ in range(3):
        with pytest.raises(TransientError):
            rig.account.reconcile()
    assert rig.portfolio.get(A) is not None
    assert not rig.account.service.run_guarded()


def test_a_watched_market_is_streamed_without_its_book() -> None:
    rig = Rig()
    rig.reads(held(A))
    rig.directory.watch([B])
    assert rig.feed.required == {A, B}
    assert rig.feed.held == {A}
    assert rig.directory.watched == {B}


def test_a_held_market_that_waits_for_settlement_is_kept_but_not_streamed() -> None:
    rig = Rig()
    rig.reads(held(A))
    rig.cache.apply_market(Market(A, status=MarketStatus.DETERMINED))
    rig.directory.refresh()
    assert rig.cache.required == {A}
    assert rig.feed.required == frozenset()


def test_a_closed_position_is_forgotten_by_stream_and_cache() -> None:
    rig = Rig()
    rig.reads(held(A))
    rig.account.fill(fill("10", "0", BookSide.ASK))
    assert rig.cache.required == frozenset()
    assert rig.feed.required == frozenset()


@pytest.mark.parametrize(
    ("count", "is_applied", "wakes"),
    [("12", True, False), ("3", False, True), ("0", False, True), ("10", False, False)],
    ids=["grows", "shrinks: a read is asked for", "flat: a read is asked for", "the same"],
)
def test_a_market_position_is_applied_or_asked_about(count: str, is_applied: bool, wakes: bool) -> None:
    rig = Rig()
    rig.reads(held())
    rig.account.position_update(PositionUpdate(A, Decimal(count), Decimal(5), Decimal(0), Decimal(0)))
    position = rig.portfolio.get(A)
    assert position is not None
    assert position.count == (Decimal(count) if is_applied else 10)
    assert rig.account.service.is_wanted is wakes


def test_the_feed_coming_back_asks_for_a_read_and_every_change_for_a_sweep() -> None:
    rig = Rig()
    rig.account.feed_changed(FeedState.DOWN)
    assert (rig.sweeps, rig.account.service.is_wanted) == (1, False)
    rig.account.feed_changed(FeedState.LIVE)
    assert (rig.sweeps, rig.account.service.is_wanted) == (2, True)


def test_in_paper_mode_the_stream_of_the_real_account_only_asks_for_reads() -> None:
    rig = Rig(is_paper=True)
    rig.reads()
    rig.account.fill(fill())
    assert rig.portfolio.get(A) is None
    assert rig.account.service.is_wanted
    rig.account.position_update(PositionUpdate(A, Decimal(4), Decimal(2), Decimal(0), Decimal(0)))
    assert rig.portfolio.get(A) is None


def test_an_order_update_reaches_the_exit_that_waits_for_it() -> None:
    rig = Rig()
    rig.exchange.holds(A, "10")
    rig.exchange.prices.set(A, "0.40")
    rig.exchange.script[A].append(Lost(shown_after_reads=1_000))
    rig.reads(held(A))
    rig.desk.trigger(ExitOrder(A, ExitReason.STOP_LOSS, Decimal("0.4"), None, Decimal("0.01")))
    sender = rig.exchange.open_sender()
    rig.desk.run_once(sender)
    rig.account.order_update(
        OrderUpdate(
            "o1",
            rig.exchange.requests[0].client_order_id,
            A,
            BookSide.ASK,
            OrderStatus.CANCELED,
            Decimal(0),
            Decimal(0),
            Decimal(10),
            Decimal(0),
            Decimal(0),
        )
    )
    rig.desk.run_once(sender)
    assert rig.desk.views()[-1].state == "triggered"


def test_a_market_that_is_active_again_wakes_its_exit() -> None:
    rig = Rig()
    rig.exchange.holds(A, "10")
    rig.exchange.prices.set(A, "0.40", status=MarketStatus.INACTIVE)
    rig.reads(held(A))
    rig.desk.trigger(ExitOrder(A, ExitReason.STOP_LOSS, Decimal("0.4"), None, Decimal("0.01")))
    sender = rig.exchange.open_sender()
    rig.desk.run_once(sender)
    assert rig.desk.views()[-1].why == "paused"
    assert not rig.desk.run_once(sender)
    rig.exchange.prices.set_status(A, MarketStatus.ACTIVE)
    rig.account.lifecycle(Lifecycle(A, LifecycleKind.ACTIVATED, 1, 1, status=MarketStatus.ACTIVE))
    assert rig.desk.run_once(sender)
    assert rig.exchange.held[A] == 0


def test_a_lifecycle_event_of_a_held_market_updates_what_is_streamed() -> None:
    rig = Rig()
    rig.reads(held(A))
    rig.cache.apply_market(Market(A, status=MarketStatus.ACTIVE))
    event = Lifecycle(A, LifecycleKind.DETERMINED, 1, 1, status=MarketStatus.DETERMINED, result="yes")
    rig.cache.apply_lifecycle(event)
    rig.account.lifecycle(event)
    assert rig.feed.required == frozenset()


@pytest.mark.parametrize(
    ("adopts", "is_own", "protects"),
    [(True, False, True), (False, False, False), (False, True, True)],
    ids=["adopted", "left alone by choice", "our own is always protected"],
)
def test_whose_positions_are_protected(adopts: bool, is_own: bool, protects: bool) -> None:
    adoption = Adoption(lambda ticker: ExitRule(stop_loss_pct=Decimal(25)), lambda: [], adopts=adopts)
    if is_own:
        adoption.opened_by_us(A)
    assert adoption.rule_of(A).protect is protects


def test_after_a_restart_our_own_positions_are_known_as_soon_as_the_exchange_answers() -> None:
    answers: list[list[str] | TransientError] = [TransientError("503"), [A]]

    def entered() -> list[str]:
        answer = answers.pop(0)
        if isinstance(answer, TransientError):
            raise answer
        return answer

    adoption = Adoption(lambda ticker: ExitRule(stop_loss_pct=Decimal(25)), entered, adopts=False)
    with pytest.raises(TransientError):
        adoption.remember()
    assert not adoption.is_known
    assert not adoption.rule_of(A).protect
    adoption.remember()
    adoption.remember()  # known: nobody is asked again
    assert adoption.is_known
    assert adoption.rule_of(A).protect
