"""The portfolio, what is required of the stream, and the reads stay in step."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

import pytest

from base.app.account import LONG_OUTAGE_S, Account, Adoption, MarketDirectory
from base.app.foreign_orders import FLATTEN_ID_PREFIX, INSTANCE_DOUBTED_S
from base.errors import AuthError, TransientError
from base.execution.exits import ExitDesk, ExitOrder
from base.kalshi.feed import FeedState
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.log import FIELDS_ATTRIBUTE
from base.model.events import Lifecycle, LifecycleKind, OrderUpdate, PositionUpdate
from base.model.market import BookSide, Market, MarketStatus, OutcomeSide
from base.model.order import Order, OrderStatus
from base.model.position import Fill, Position
from base.model.rules import ExitReason, ExitRule
from base.risk.price_needs import Refresh, Why
from base.store.portfolio import AGREEMENT_S, HeldRead, Portfolio
from base.store.realized import Payout
from tests.fakes.clock import FakeClock
from tests.fakes.feed import FakeFeed
from tests.fakes.gateway import FakeExchange, Lost
from tests.fakes.positions import by_ticker

A, B = "KXA-26NOV22-T1", "KXB-26NOV22-T1"


class NoHistory:
    """An account of which nothing but resting orders is listed."""

    def __init__(self) -> None:
        self.resting: list[Order] = []

    def read_fills(self, since_s: int | None = None, tickers: Sequence[str] = ()) -> list[Fill]:
        return []

    def read_settlements(self, since_s: int) -> list[Payout]:
        return []

    def read_resting(self) -> list[Order]:
        return list(self.resting)


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
        self.history = NoHistory()
        self.journal: set[str] = set()
        self.account = Account(
            self.portfolio,
            self.directory,
            self._read,
            self.requests.append,
            30.0,
            self.clock,
            is_paper=is_paper,
            history=self.history,
        )
        self.exchange = FakeExchange(self.clock)
        self.desk = ExitDesk(
            self.exchange, self.portfolio, self.exchange.prices.get, self.account.service.wake, self.clock
        )
        self.account.attach(self.desk, self._sweep_soon, self.journal.__contains__)

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


def test_a_key_that_is_refused_again_is_said_until_it_is_taken() -> None:
    rig = Rig()
    rig.reads(held())
    rig.rows = AuthError("the key is not known", status=401)
    with pytest.raises(AuthError):
        rig.account.reconcile()
    assert not rig.account.is_key_refused, "one may be a clock that is being learned"
    with pytest.raises(AuthError):
        rig.account.reconcile()
    assert rig.account.is_key_refused
    assert any("refuses the API key" in doubt for doubt in rig.account.doubts())
    rig.rows = TransientError("503")
    with pytest.raises(TransientError):
        rig.account.reconcile()
    assert rig.account.is_key_refused, "no answer proves nothing"
    rig.reads(held())
    assert not rig.account.is_key_refused


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


# --- reads that correct -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "is_gone"),
    [
        (MarketStatus.DETERMINED, True),
        (MarketStatus.FINALIZED, True),
        (MarketStatus.AMENDED, True),
        (MarketStatus.DISPUTED, False),
        (MarketStatus.CLOSED, False),
        (MarketStatus.ACTIVE, False),
    ],
)
def test_one_read_is_enough_where_the_market_has_a_result(status: MarketStatus, is_gone: bool) -> None:
    rig = Rig()
    rig.reads(held())
    rig.cache.apply_market(Market(A, status=status))
    rig.clock.advance(60)
    rig.reads()
    assert (rig.portfolio.get(A) is None) is is_gone
    rig.clock.advance(AGREEMENT_S)
    rig.reads()
    assert rig.portfolio.get(A) is None


def test_a_corrected_position_has_its_fills_looked_for_and_a_known_one_has_not() -> None:
    rig = Rig()
    assert rig.account.books is not None
    service = rig.account.books.service
    rig.reads()
    assert not service.is_wanted
    rig.reads(held())
    assert service.is_wanted


@pytest.mark.parametrize(
    ("down_s", "is_looked_for"), [(LONG_OUTAGE_S - 1, False), (LONG_OUTAGE_S, True)], ids=["short", "long"]
)
def test_after_a_long_outage_of_the_stream_missed_fills_are_looked_for(
    down_s: float, is_looked_for: bool
) -> None:
    rig = Rig()
    assert rig.account.books is not None
    rig.account.feed_changed(FeedState.LIVE)
    rig.account.feed_changed(FeedState.DOWN)
    rig.clock.advance(down_s / 2)
    rig.account.feed_changed(FeedState.CONNECTING)
    rig.clock.advance(down_s / 2)
    rig.account.feed_changed(FeedState.LIVE)
    assert rig.account.books.service.is_wanted is is_looked_for


def test_in_paper_mode_the_real_accounts_money_is_not_booked() -> None:
    assert Rig(is_paper=True).account.books is None


# --- orders of others -------------------------------------------------------------------------------

EXIT_ID = "bs0123456789abcdef0123-4"
ENTRY_ID = "backstop-entry-0123456789abcdef01234567"
BY_HAND = "8c35ecb3-328f-4f52-8c7c-0f4b9862f8d1"


def order_of(client_order_id: str, ticker: str = A, order_id: str = "o7") -> Order:
    return Order(
        order_id,
        client_order_id,
        ticker,
        BookSide.BID,
        OrderStatus.RESTING,
        Decimal("0.40"),
        Decimal(5),
        Decimal(0),
        Decimal(5),
        Decimal(0),
        Decimal(0),
    )


def update_of(client_order_id: str, status: OrderStatus = OrderStatus.EXECUTED) -> OrderUpdate:
    zero = Decimal(0)
    return OrderUpdate(
        "o7", client_order_id, A, BookSide.BID, status, Decimal(5), zero, Decimal(5), zero, zero
    )


@pytest.mark.parametrize(
    ("client_order_id", "is_another"),
    [
        (EXIT_ID, True),
        (ENTRY_ID, True),
        (BY_HAND, False),
        ("", False),
        ("bs-4", False),
        ("bs0123456789abcdef0123", False),
        (f"x{EXIT_ID}", False),
    ],
    ids=["exit", "entry", "by hand", "no id", "another program", "no attempt", "only contains it"],
)
@pytest.mark.parametrize("source", ["fill", "update", "resting"])
def test_an_order_of_our_form_that_nobody_here_sent_is_another_instances(
    client_order_id: str, is_another: bool, source: str
) -> None:
    rig = Rig()
    rig.reads()
    if source == "fill":
        rig.account.fill(replace(fill(), client_order_id=client_order_id))
    elif source == "update":
        rig.account.order_update(update_of(client_order_id))
    else:
        rig.history.resting.append(order_of(client_order_id))
        assert rig.account.books is not None
        rig.account.books.run_once()
    assert bool(rig.account.doubts()) is is_another
    rig.clock.advance(INSTANCE_DOUBTED_S + 1)
    rig.reads(held())
    assert rig.account.doubts() == []


@pytest.mark.parametrize("known_by", ["portfolio", "journal"])
def test_an_order_that_left_here_is_nobody_elses(known_by: str) -> None:
    rig = Rig()
    rig.reads()
    if known_by == "portfolio":
        rig.portfolio.order_left(A, EXIT_ID)
        rig.portfolio.order_settled(EXIT_ID)
    else:
        rig.journal.add(EXIT_ID)
    rig.account.fill(replace(fill(), client_order_id=EXIT_ID))
    rig.account.order_update(update_of(EXIT_ID))
    assert rig.account.doubts() == []


def test_in_paper_mode_the_real_accounts_orders_are_nobodys_business() -> None:
    rig = Rig(is_paper=True)
    rig.reads()
    rig.account.order_update(update_of(EXIT_ID))
    assert rig.account.doubts() == []


class Events(logging.Handler):
    """Counts logged events by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.by = ""

    def emit(self, record: logging.LogRecord) -> None:
        fields = getattr(record, FIELDS_ATTRIBUTE, {})
        name = str(fields.get("event"))
        self.counts[name] = self.counts.get(name, 0) + 1
        self.by = str(fields.get("by", ""))


@pytest.fixture
def events() -> Iterator[Events]:
    handler = Events()
    watched = logging.getLogger("base.app.foreign_orders")
    watched.addHandler(handler)
    before = watched.level
    watched.setLevel(logging.INFO)
    yield handler
    watched.setLevel(before)
    watched.removeHandler(handler)


def test_trades_by_hand_are_told_where_they_concern_what_is_held(events: Events) -> None:
    rig = Rig()
    rig.reads(held())
    by_hand = replace(fill("10", "0", BookSide.ASK), client_order_id=BY_HAND)
    rig.account.fill(by_hand)
    rig.account.fill(replace(by_hand, trade_id="t2", ticker=B, post_position=Decimal(0)))
    assert events.counts == {"foreign_fill": 1}
    assert events.by == "somebody else"


def test_what_the_command_flatten_sold_is_told_as_such(events: Events) -> None:
    rig = Rig()
    rig.reads(held())
    rig.account.fill(replace(fill("10", "0", BookSide.ASK), client_order_id=f"{FLATTEN_ID_PREFIX}0a1b"))
    assert (events.counts, events.by) == ({"foreign_fill": 1}, "flatten")


def test_another_instance_is_told_once_a_minute(events: Events) -> None:
    rig = Rig()
    for _ in range(5):
        rig.account.order_update(update_of(EXIT_ID))
    assert events.counts == {"foreign_instance": 1}
    rig.clock.advance(60)
    rig.account.order_update(update_of(EXIT_ID))
    assert events.counts == {"foreign_instance": 2}


def test_resting_orders_are_told_once_where_something_is_held(events: Events) -> None:
    rig = Rig()
    rig.reads(held())
    rig.portfolio.order_left(A, EXIT_ID)
    rig.history.resting = [
        order_of(BY_HAND),
        order_of(BY_HAND, B, "o8"),
        order_of(EXIT_ID, A, "o9"),
    ]
    assert rig.account.books is not None
    for _ in range(2):
        rig.account.books.run_once()
        rig.account.order_update(update_of(BY_HAND, OrderStatus.RESTING))
        rig.clock.advance(601)
    assert events.counts == {"foreign_order_resting": 1, "own_order_resting": 2}
