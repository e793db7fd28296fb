"""Entries: limits, one reservation each, never a worse price than allowed, and nothing left resting."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.app.entries import ENTRY_ID_PREFIX, REST_S, REST_S_MAX, EntryDesk, EntryResult
from base.app.foreign_orders import ForeignOrders
from base.execution.entry_orders import ABSENT_AFTER_S, COMPARED_EVERY_S, SETTLING_S
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.model.events import OrderUpdate
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
from base.model.order import EntryOrder, EntryState, OrderRequest, OrderStatus, TimeInForce, to_yes_leg
from base.risk.limits import Limits
from base.risk.trading_state import TradingState
from base.store.portfolio import Portfolio
from base.store.records import Record, Remembered
from base.strategy.interface import AmendIntent, CancelIntent, OrderIntent
from tests.fakes.clock import FakeClock
from tests.fakes.gateway import Crash, FakeExchange, Fill, Lost, NotSent, RateLimited, Reject, Step
from tests.fakes.positions import by_ticker

T, OTHER, ELSEWHERE = "KXA-26NOV22-T1", "KXA-26NOV22-T2", "KXB-26NOV22-T1"
YES, NO = OutcomeSide.YES, OutcomeSide.NO
CLOSE_S = 7_200.0
LIMITS = Limits(
    max_order_cost=Decimal(50),
    max_position_cost=Decimal(80),
    max_total_exposure=Decimal(100),
    max_daily_loss=Decimal(10),
    max_event_cost=Decimal(90),
    collar=Decimal("0.10"),
    entries_per_minute=30,
    min_time_left_s=300.0,
)


class Disk:
    """A recorder that keeps the newest record of each order, and can be full."""

    def __init__(self) -> None:
        self.is_full = False
        self.entries: dict[str, EntryOrder] = {}
        self.committed: list[EntryOrder] = []

    def write(self, records: Iterable[Record]) -> None:
        self.entries |= {r.key: r for r in records if isinstance(r, EntryOrder)}

    def commit(self, records: Iterable[Record]) -> bool:
        if self.is_full:
            return False
        kept = [r for r in records if isinstance(r, EntryOrder)]
        self.committed += kept
        self.write(kept)
        return True

    def remembered(self) -> Remembered:
        return Remembered(entries=tuple(r for r in self.entries.values() if r.state is not EntryState.DONE))


class Rig:
    def __init__(self, limits: Limits = LIMITS) -> None:
        self.clock = FakeClock()
        self.exchange = FakeExchange(self.clock)
        self.disk = Disk()
        self.state = TradingState.ACTIVE
        self.feed_is_live = True
        self.pause_at: float | None = None
        self.opened: list[tuple[str, str]] = []
        self.exiting: set[str] = set()
        self.reads_wanted = 0
        self.limits = limits
        self.portfolio = Portfolio(self.clock)
        self.cache = WebsocketPriceCache(self.clock, 60.0)
        self.cache.require([T, OTHER, ELSEWHERE], [])
        for ticker in (T, OTHER, ELSEWHERE):
            self.cache.apply_market(self.market(ticker))
            self.quote(ticker)
        self.entries = self.desk()

    def desk(self) -> EntryDesk:
        return EntryDesk(
            self.exchange,
            self.portfolio,
            self.cache,
            self.limits,
            lambda: self.state,
            lambda ticker, strategy: self.opened.append((ticker, strategy)),
            self.clock,
            recorder=self.disk,
            is_exiting=self.exiting.__contains__,
            request_reconcile=self._want_read,
            feed_is_live=lambda: self.feed_is_live,
            next_pause_at=lambda: self.pause_at,
            read_resting=self.exchange.read_resting,
        )

    def _want_read(self) -> None:
        self.reads_wanted += 1

    def market(self, ticker: str) -> Market:
        return Market(ticker, status=MarketStatus.ACTIVE, close_time=self.clock.now() + CLOSE_S)

    def quote(self, ticker: str, bid: str = "0.49", ask: str = "0.50") -> None:
        self.cache.apply(
            Quote(
                ticker,
                yes_bid=Decimal(bid),
                yes_ask=Decimal(ask),
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
        self.cache.apply_market(replace(self.market(T), grid=grid))

    def place(self, count: str = "10", price: str = "0.50", side: OutcomeSide = YES, ticker: str = T) -> bool:
        """Whether anything was bought at once."""
        return self.entries.place(OrderIntent(ticker, side, Decimal(count), Decimal(price))).filled > 0

    def rest(self, count: str = "10", price: str = "0.40", at_once: str = "0", **fields: object) -> str:
        """Place an order that rests, of which `at_once` fills; return its client order id."""
        self.script(Fill(at_once))
        result = self.rests(count, price, **fields)
        assert result.order is not None
        assert result.order.state is EntryState.RESTING
        return result.order.client_order_id

    def rests(self, count: str = "10", price: str = "0.40", **fields: object) -> EntryResult:
        intent = OrderIntent(T, YES, Decimal(count), Decimal(price), rests=True)
        return self.entries.place(replace(intent, **fields), "mine")  # type: ignore[arg-type]

    def script(self, *steps: Step) -> None:
        self.exchange.script[T].extend(steps)

    def passes(self, count: int = 1, each_s: float = 0.0) -> None:
        for _ in range(count):
            self.clock.advance(each_s)
            assert self.entries.service.run_guarded()

    def state_of(self, client_order_id: str) -> EntryState | None:
        """None once it is done."""
        order = self.entries.orders().get(client_order_id)
        return order.state if order is not None else None

    def reserved(self) -> Decimal:
        """How much an order may cost now, up to 80 dollars in this market, by asking for it."""
        free = Decimal(0)
        for cents in range(0, 8_000, 100):
            intent = OrderIntent(T, YES, Decimal(cents) / 50 or Decimal("0.01"), Decimal("0.50"))
            if self.entries.check_together([intent]):
                break
            free = intent.count
        return 80 - free * Decimal("0.5175")

    def read_positions(self) -> None:
        self.portfolio.apply_read(self.exchange.positions(), self.clock.monotonic())


def update_of(rig: Rig, client_order_id: str, status: OrderStatus, filled: str) -> OrderUpdate:
    order = rig.entries.orders()[client_order_id]
    count, taken = order.count, Decimal(filled)
    left = count - taken if status is OrderStatus.RESTING else Decimal(0)
    side, zero = BookSide.BID, Decimal(0)
    return OrderUpdate(
        f"order-{client_order_id}",
        client_order_id,
        order.ticker,
        side,
        status,
        taken,
        left,
        count,
        zero,
        zero,
    )


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
    assert rig.opened == [(T, "")]


@pytest.mark.parametrize(
    ("count", "price"),
    [("97", "0.50"), ("0", "0.50"), ("0.004", "0.50"), ("10", "0.004"), ("10", "1.00"), ("10", "1.5")],
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
    assert not rig.place("80", "0.50"), "90 + 80 contracts cost 86 dollars, the market's limit is 80"
    assert rig.place("60", "0.50")
    assert not rig.place("40", "0.50", ticker=OTHER), "95 dollars in the event, the limit is 90"
    assert rig.place("20", "0.50", ticker=OTHER)
    assert not rig.place("40", "0.50", ticker=ELSEWHERE), "105 dollars in all, the limit is 100"
    assert rig.place("25", "0.50", ticker=ELSEWHERE)


def test_an_order_at_its_limit_has_no_room_for_its_fee() -> None:
    rig = Rig()
    assert not rig.place("100", "0.50")
    assert rig.place("96", "0.50"), "96 contracts cost 49.68 dollars with the fee of taking"


def test_a_cost_of_unknown_outcome_stays_reserved_until_it_is_proved() -> None:
    rig = Rig()
    rig.script(Lost(acted=False), Fill())
    assert not rig.place("90", "0.50")
    assert rig.reads_wanted == 1, "the position may be there, and unprotected until it is known"
    for _ in range(int(ABSENT_AFTER_S / 5)):
        assert not rig.place("90", "0.50"), "45 dollars may be in the market already"
        rig.passes(1, each_s=5)
    rig.passes(2, each_s=5)
    rig.quote(T)
    assert rig.place("90", "0.50")
    assert len(rig.exchange.requests) == 2, "never a second order for the same intent by the desk itself"


def test_what_an_unknown_order_bought_is_reserved_until_the_position_shows_it() -> None:
    rig = Rig()
    rig.script(Lost("90"))
    rig.place("90", "0.50")
    rig.passes()
    assert rig.entries.orders() == {}, "found: executed"
    assert not rig.place("90", "0.50"), "no read of positions has shown it yet"
    rig.clock.advance(4)
    rig.read_positions()
    assert rig.portfolio.positions()[T].count == 90
    assert not rig.place("80", "0.50")
    assert rig.place("60", "0.50")


def test_reads_that_fail_prove_nothing() -> None:
    rig = Rig()
    rig.script(Lost(acted=False))
    rig.place("90", "0.50")
    rig.exchange.reads_fail = True
    rig.passes(60, each_s=5)
    rig.quote(T)
    assert not rig.place("90", "0.50")


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
    rig = Rig(replace(LIMITS, collar=ONE))
    rig.grid(*ranges)
    allowed = Decimal(price) / 10_000
    rig.quote(T, "0", "1")
    rig.entries.place(OrderIntent(T, side, Decimal(1), allowed, post_only=True))
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
    rig.cache.apply_market(replace(rig.market(T), status=status))
    assert not rig.place("10", "0.50")
    assert rig.exchange.requests == []


def test_nothing_is_bought_without_a_fresh_price() -> None:
    rig = Rig()
    assert not rig.place("10", "0.50", ticker="KXUNWATCHED-1")
    rig.clock.advance(61)
    assert not rig.place("10", "0.50")
    rig.quote(T)
    assert rig.place("10", "0.50")


# --- the limits that need more than money


def test_no_more_orders_a_minute_than_allowed() -> None:
    rig = Rig(replace(LIMITS, entries_per_minute=3))
    assert [rig.place("1") for _ in range(4)] == [True, True, True, False]
    rig.clock.advance(59.9)
    rig.quote(T)
    assert not rig.place("1")
    rig.clock.advance(0.1)
    assert rig.place("1")


@pytest.mark.parametrize(
    ("closes_in_s", "pauses_in_s", "is_bought"),
    [
        (300.0, None, True),
        (299.0, None, False),
        (None, None, False),
        (7_200.0, 300.0, True),
        (7_200.0, 299.0, False),
        (7_200.0, -5.0, False),
    ],
    ids=["just enough", "about to close", "unknown close", "a pause ahead", "a pause soon", "a pause now"],
)
def test_nothing_is_bought_that_cannot_be_sold_for_long(
    closes_in_s: float | None, pauses_in_s: float | None, is_bought: bool
) -> None:
    rig = Rig()
    close = None if closes_in_s is None else rig.clock.now() + closes_in_s
    rig.cache.apply_market(replace(rig.market(T), close_time=close))
    rig.pause_at = None if pauses_in_s is None else rig.clock.now() + pauses_in_s
    assert rig.place() is is_bought


@pytest.mark.parametrize(
    ("price", "is_bought"), [("0.60", True), ("0.61", False)], ids=["at the collar", "a cent beyond"]
)
def test_an_entry_pays_no_more_than_the_collar_above_the_ask(price: str, is_bought: bool) -> None:
    assert Rig().place("10", price) is is_bought


def test_without_an_ask_only_a_post_only_order_goes() -> None:
    rig = Rig()
    rig.quote(T, "0.49", "1")
    assert not rig.place()
    assert not rig.rests(price="0.50").placed
    assert rig.rests(price="0.50", post_only=True).placed


def test_orders_that_are_one_set_pass_the_limits_together() -> None:
    rig = Rig()
    legs = [OrderIntent(t, YES, Decimal(80), Decimal("0.50")) for t in (T, OTHER, ELSEWHERE)]
    assert rig.entries.check_together(legs[:2]) == ""
    assert "MAX_TOTAL_EXPOSURE_DOLLARS" in rig.entries.check_together(legs)
    assert "MAX_POSITION_COST_DOLLARS" in rig.entries.check_together([legs[0], legs[0]])
    dearer = replace(legs[1], count=Decimal(95))
    assert "MAX_EVENT_COST_DOLLARS" in rig.entries.check_together([legs[0], dearer])
    assert "no order" in rig.entries.check_together([replace(legs[0], count=Decimal("NaN"))])
    assert rig.exchange.requests == []


def test_a_set_may_not_be_more_orders_than_the_minute_allows() -> None:
    rig = Rig(replace(LIMITS, entries_per_minute=2))
    legs = [OrderIntent(t, YES, Decimal(1), Decimal("0.50")) for t in (T, OTHER, ELSEWHERE)]
    assert rig.entries.check_together(legs[:2]) == ""
    assert "MAX_ENTRIES_PER_MINUTE" in rig.entries.check_together(legs)


# --- the order that leaves


def sent(rig: Rig) -> OrderRequest:
    return rig.exchange.requests[-1]


@pytest.mark.parametrize(
    ("wanted_s", "lives_s"),
    [(None, REST_S), (60.0, 60.0), (10 * REST_S_MAX, CLOSE_S - 300.0)],
    ids=["as long as is usual", "as long as it says", "not into the close"],
)
def test_a_resting_order_expires_by_itself_at_the_exchange_too(
    wanted_s: float | None, lives_s: float
) -> None:
    rig = Rig()
    client_order_id = rig.rest(expires_after_s=wanted_s)
    order = rig.entries.orders()[client_order_id]
    assert order.expires_at == rig.clock.now() + lives_s
    request = sent(rig)
    assert request.time_in_force is TimeInForce.GOOD_TILL_CANCELED
    assert request.expiration_time_s is not None
    assert order.expires_at < request.expiration_time_s <= order.expires_at + 3


def test_no_order_rests_for_days() -> None:
    rig = Rig()
    rig.cache.apply_market(replace(rig.market(T), close_time=rig.clock.now() + 30 * REST_S_MAX))
    client_order_id = rig.rest(expires_after_s=20 * REST_S_MAX)
    order = rig.entries.orders()[client_order_id]
    assert order.expires_at == rig.clock.now() + REST_S_MAX


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan])
def test_a_time_to_rest_that_is_none_is_denied(seconds: float) -> None:
    rig = Rig()
    assert not rig.rests(expires_after_s=seconds).placed
    assert rig.exchange.requests == []


def test_a_post_only_order_rests_and_says_so() -> None:
    rig = Rig()
    rig.script(Fill("0"))
    result = rig.entries.place(OrderIntent(T, NO, Decimal(10), Decimal("0.40"), post_only=True), "mine")
    request = sent(rig)
    assert (request.post_only, request.time_in_force) == (True, TimeInForce.GOOD_TILL_CANCELED)
    assert (request.book_side, request.price) == (BookSide.ASK, Decimal("0.60"))
    assert result.placed
    assert rig.opened == [(T, "mine")]


def test_a_leg_of_a_set_fills_at_once_or_not_at_all() -> None:
    rig = Rig()
    rig.script(Reject(409, "fill_or_kill_insufficient_resting_volume"))
    leg = OrderIntent(T, YES, Decimal(10), Decimal("0.50"), rests=True)
    killed = rig.entries.place(leg, fill_or_kill=True)
    assert sent(rig).time_in_force is TimeInForce.FILL_OR_KILL
    assert sent(rig).expiration_time_s is None
    assert (killed.placed, killed.filled, bool(killed.why)) == (False, 0, True)
    assert rig.entries.place(leg, fill_or_kill=True).filled == 10
    assert rig.entries.orders() == {}


def test_an_order_is_on_disk_before_it_leaves() -> None:
    rig = Rig()
    on_disk: list[tuple[str, EntryState]] = []
    rig.exchange.on_request = lambda request: on_disk.extend(
        (r.client_order_id, r.state) for r in rig.disk.committed
    )
    rig.place()
    assert on_disk == [(sent(rig).client_order_id, EntryState.SENDING)]
    assert sent(rig).client_order_id.startswith(ENTRY_ID_PREFIX)
    assert [r.state for r in rig.disk.entries.values()] == [EntryState.DONE]


def test_without_the_journal_nothing_leaves_and_nothing_stays_reserved() -> None:
    rig = Rig()
    rig.disk.is_full = True
    assert not rig.place("90")
    assert (rig.exchange.requests, rig.opened, rig.entries.orders()) == ([], [], {})
    rig.disk.is_full = False
    assert rig.place("90")


def test_an_exit_that_begins_between_the_check_and_the_sending_comes_first() -> None:
    rig = Rig()
    commit = rig.disk.commit

    def slow_disk(records: Iterable[Record]) -> bool:
        rig.entries.exit_began(T)
        return commit(records)

    rig.disk.commit = slow_disk  # type: ignore[method-assign]
    assert not rig.place()
    assert rig.exchange.requests == []
    assert rig.entries.orders() == {}


def test_an_exit_that_begins_while_the_answer_is_awaited_cancels_what_then_rests() -> None:
    rig = Rig()
    rig.exchange.on_request = lambda request: rig.entries.exit_began(T)
    rig.script(Fill("3"))
    rig.rests()
    rig.passes()
    assert rig.exchange.resting == {}
    assert rig.entries.orders() == {}


def test_a_bug_between_the_wire_and_the_answer_leaves_the_outcome_unknown() -> None:
    rig = Rig()
    rig.script(Crash())
    with pytest.raises(ZeroDivisionError):
        rig.place("90")
    (order,) = rig.entries.orders().values()
    assert order.state is EntryState.UNKNOWN
    rig.passes()
    assert rig.entries.orders() == {}


def test_an_id_that_exists_already_did_arrive() -> None:
    rig = Rig()
    rig.script(Reject(409, "order_already_exists"))
    result = rig.entries.place(OrderIntent(T, YES, Decimal(90), Decimal("0.50")))
    assert result.placed
    assert result.order is not None
    assert result.order.state is EntryState.UNKNOWN


def test_the_other_side_is_not_bought_beside_a_resting_order() -> None:
    rig = Rig()
    rig.rest()
    assert not rig.place(side=NO)
    assert rig.place(side=NO, ticker=OTHER)


# --- what rests


def test_what_rests_stays_reserved_and_what_it_buys_is_held() -> None:
    rig = Rig()
    client_order_id = rig.rest("100", "0.40", at_once="30")
    position = rig.portfolio.get(T)
    assert position is not None
    assert position.count == 30
    order = rig.entries.orders()[client_order_id]
    assert (order.filled, order.remaining) == (30, 70)
    assert not rig.place("80", "0.50"), "12 dollars are held, 29.18 reserved, the limit is 80"
    assert rig.place("70", "0.50")


def test_a_resting_order_does_not_keep_reads_from_judging_its_market() -> None:
    rig = Rig()
    client_order_id = rig.rest("10")
    rig.clock.advance(5)
    rig.exchange.fill_resting(f"order-{client_order_id}", "4")
    rig.read_positions()
    position = rig.portfolio.get(T)
    assert position is not None
    assert position.count == 4


def test_one_fill_told_by_three_sources_counts_once() -> None:
    rig = Rig()
    client_order_id = rig.rest("10", at_once="3")
    execution = rig.exchange.fill_resting(f"order-{client_order_id}", "4")
    rig.entries.order_update(update_of(rig, client_order_id, OrderStatus.RESTING, "7"))
    rig.portfolio.apply_fill(execution.fill())
    rig.passes(1, each_s=COMPARED_EVERY_S)
    rig.read_positions()
    rig.portfolio.apply_fill(execution.fill())
    position = rig.portfolio.get(T)
    assert position is not None
    assert position.count == 7
    assert rig.entries.orders()[client_order_id].filled == 7


def test_a_contract_on_its_way_from_the_order_to_the_position_stays_counted() -> None:
    rig = Rig()
    client_order_id = rig.rest("100", "0.40")
    rig.entries.order_update(update_of(rig, client_order_id, OrderStatus.EXECUTED, "100"))
    assert rig.entries.orders() == {}
    assert not rig.place("90", "0.50"), "the fill has not come yet"
    rig.clock.advance(SETTLING_S)
    assert rig.place("90", "0.50"), "and did not come at all: reads will tell"


class GoCase(NamedTuple):
    name: str
    goes: bool
    state: TradingState = TradingState.ACTIVE
    feed_is_live: bool = True
    keeps: bool = False
    is_exiting: bool = False
    passed_s: float = 0.0
    closes_in_s: float = CLOSE_S


GO = [
    GoCase("all is well", False),
    GoCase("the feed is lost", True, feed_is_live=False),
    GoCase("the feed is lost, and it may stay", False, feed_is_live=False, keeps=True),
    GoCase("reducing", True, state=TradingState.REDUCING),
    GoCase("the kill switch", True, state=TradingState.HALTED, keeps=True),
    GoCase("an exit is under way", True, is_exiting=True, keeps=True),
    GoCase("about to expire", False, passed_s=REST_S - 1),
    GoCase("expired", True, passed_s=REST_S),
    GoCase("the close is near", True, closes_in_s=299.0),
]


@pytest.mark.parametrize("case", GO, ids=lambda case: case.name)
def test_what_must_not_rest_is_canceled(case: GoCase) -> None:
    rig = Rig()
    client_order_id = rig.rest(keep_on_feed_loss=case.keeps)
    rig.state, rig.feed_is_live = case.state, case.feed_is_live
    rig.clock.advance(case.passed_s)
    rig.cache.apply_market(replace(rig.market(T), close_time=rig.clock.now() + case.closes_in_s))
    if case.is_exiting:
        rig.exiting.add(T)
    rig.passes()
    assert (rig.exchange.resting == {}) is case.goes
    assert rig.state_of(client_order_id) is (None if case.goes else EntryState.RESTING)
    expected = EntryState.DONE if case.goes else EntryState.RESTING
    assert rig.disk.entries[client_order_id].state is expected


def test_nothing_new_rests_while_the_feed_is_lost_unless_it_may_stay() -> None:
    rig = Rig()
    rig.feed_is_live = False
    assert not rig.rests().placed
    assert rig.rests(keep_on_feed_loss=True).placed
    assert rig.place(), "what fills at once or not at all needs no feed"


def test_an_exit_that_begins_cancels_its_market_and_no_other_and_does_not_wait() -> None:
    rig = Rig()
    client_order_id = rig.rest()
    rig.exchange.script[OTHER].append(Fill("0"))
    rig.entries.place(OrderIntent(OTHER, YES, Decimal(10), Decimal("0.40"), rests=True))
    rig.entries.exit_began(T)
    assert rig.exchange.cancels == [], "the network is the desk's own thread's"
    assert rig.entries.service.is_wanted
    assert rig.state_of(client_order_id) is EntryState.CANCELING
    rig.passes()
    assert rig.exchange.cancels == [f"order-{client_order_id}"]
    assert [order.ticker for order in rig.entries.orders().values()] == [OTHER]


def test_a_strategy_cancels_its_order_once() -> None:
    rig = Rig()
    client_order_id = rig.rest()
    assert rig.entries.cancel(CancelIntent(client_order_id, "changed my mind"), "strategy") == ""
    assert rig.entries.cancel(client_order_id, "again") == "", "it is under way"
    rig.passes()
    assert rig.exchange.cancels == [f"order-{client_order_id}"]
    assert rig.entries.cancel(client_order_id, "once more") != ""
    assert rig.entries.cancel("nobody's", "") != ""


def test_a_404_to_a_cancel_proves_nothing_and_the_order_is_looked_up() -> None:
    rig = Rig()
    client_order_id = rig.rest("10")
    rig.exchange.fill_resting(f"order-{client_order_id}", "10")
    rig.entries.cancel(client_order_id, "")
    rig.passes()
    assert rig.state_of(client_order_id) is EntryState.UNKNOWN
    wanted = rig.reads_wanted
    rig.passes()
    assert rig.state_of(client_order_id) is None
    assert rig.disk.entries[client_order_id].filled == 10
    assert rig.reads_wanted > wanted, "it bought ten contracts that nobody told of"


def test_reads_that_lag_behind_a_404_keep_the_order_reserved() -> None:
    rig = Rig()
    client_order_id = rig.rest("10")
    order_id = f"order-{client_order_id}"
    rig.exchange.cancel_script.extend([Reject(404, "not_found")] * 3)
    rig.entries.cancel(client_order_id, "")
    for _ in range(6):
        rig.passes(1, each_s=1.0)
        assert rig.state_of(client_order_id) is not None or order_id not in rig.exchange.resting
    rig.passes(10, each_s=2.0)
    assert rig.exchange.resting == {}
    assert len(rig.exchange.cancels) == 4


@pytest.mark.parametrize(
    "step",
    [Lost(), Lost(acted=False), RateLimited(), NotSent(), Reject(409, "exchange_is_paused")],
    ids=["acted, answer lost", "lost on the way", "too many", "no connection", "paused"],
)
def test_a_cancel_that_did_not_go_through_is_repeated_until_it_is_proved(step: Step) -> None:
    rig = Rig()
    client_order_id = rig.rest("10", at_once="3")
    rig.exchange.cancel_script.append(step)
    rig.entries.cancel(client_order_id, "")
    rig.passes()
    assert rig.state_of(client_order_id) in (EntryState.CANCELING, EntryState.UNKNOWN)
    rig.passes(5, each_s=1.0)
    assert rig.state_of(client_order_id) is None
    assert rig.exchange.resting == {}
    assert rig.disk.entries[client_order_id].filled == 3


def test_a_cancel_without_an_answer_is_repeated_even_when_reads_fail() -> None:
    rig = Rig()
    client_order_id = rig.rest("10")
    rig.exchange.reads_fail = True
    rig.exchange.cancel_script.append(Lost(acted=False))
    rig.entries.cancel(client_order_id, "")
    rig.passes(2, each_s=1.0)
    assert rig.exchange.resting == {}
    assert rig.state_of(client_order_id) is None


def test_a_cancel_that_tells_of_more_that_was_bought_asks_for_a_read() -> None:
    rig = Rig()
    client_order_id = rig.rest("10")
    rig.exchange.fill_resting(f"order-{client_order_id}", "4")  # and the stream is cut
    rig.entries.cancel(client_order_id, "")
    rig.passes()
    assert rig.reads_wanted == 1
    assert rig.disk.entries[client_order_id].filled == 4


def test_what_the_exchange_ended_unasked_is_found_by_the_next_comparison() -> None:
    rig = Rig()
    client_order_id = rig.rest("10")
    rig.exchange.fill_resting(f"order-{client_order_id}", "4")
    rig.exchange.end_resting(f"order-{client_order_id}")
    rig.passes(1, each_s=COMPARED_EVERY_S - 1)
    assert rig.state_of(client_order_id) is EntryState.RESTING
    rig.passes(1, each_s=1)
    assert rig.state_of(client_order_id) is None
    assert rig.disk.entries[client_order_id].filled == 4
    assert rig.exchange.cancels == []


def test_many_orders_are_compared_with_one_read() -> None:
    rig = Rig(replace(LIMITS, entries_per_minute=100))
    for _ in range(20):
        rig.rest("1")
    rig.passes()
    before = len(rig.exchange.sought)
    rig.passes(1, each_s=COMPARED_EVERY_S)
    assert [len(asked) for asked in rig.exchange.sought[before:]] == [20]


# --- the stream's word


def test_the_stream_says_what_became_of_an_order_whose_answer_was_lost() -> None:
    rig = Rig()
    rig.exchange.reads_fail = True
    rig.script(Lost("10"))
    rig.place("10")
    (client_order_id,) = rig.entries.orders()
    rig.entries.order_update(update_of(rig, client_order_id, OrderStatus.EXECUTED, "10"))
    assert rig.entries.orders() == {}


def test_the_stream_may_be_faster_than_an_answer_that_is_then_lost() -> None:
    rig = Rig()
    rig.exchange.on_execution = lambda execution: rig.entries.order_update(execution.order_update())
    rig.script(Lost("10"))
    result = rig.entries.place(OrderIntent(T, YES, Decimal(10), Decimal("0.50")))
    assert (result.placed, result.filled, rig.entries.orders()) == (True, 10, {})


def test_an_answer_that_is_older_than_the_streams_word_brings_nothing_back() -> None:
    rig = Rig()

    def sold_at_once(request: OrderRequest) -> None:
        rig.exchange.on_execution = lambda execution: None
        rig.exchange.fill_resting(f"order-{request.client_order_id}", "10")
        rig.entries.order_update(update_of(rig, request.client_order_id, OrderStatus.EXECUTED, "10"))

    rig.exchange.on_execution = lambda execution: sold_at_once(sent(rig))
    rig.script(Fill("0"))
    result = rig.rests("10")
    assert result.order is not None
    assert (result.order.state, result.filled, rig.entries.orders()) == (EntryState.DONE, 10, {})


def test_an_old_word_of_the_stream_does_not_answer_what_became_of_a_cancel() -> None:
    rig = Rig()
    client_order_id = rig.rest("10")
    old = update_of(rig, client_order_id, OrderStatus.RESTING, "0")
    rig.exchange.fill_resting(f"order-{client_order_id}", "10")
    rig.entries.cancel(client_order_id, "")
    rig.passes()
    rig.entries.order_update(old)
    assert rig.state_of(client_order_id) is EntryState.UNKNOWN
    rig.passes()
    assert rig.state_of(client_order_id) is None


def test_an_order_that_the_stream_shows_resting_after_its_answer_was_lost_is_looked_after() -> None:
    rig = Rig()
    rig.exchange.reads_fail = True
    rig.script(Lost("0"))
    rig.rests("10")
    (client_order_id,) = rig.entries.orders()
    rig.entries.order_update(update_of(rig, client_order_id, OrderStatus.RESTING, "0"))
    assert rig.state_of(client_order_id) is EntryState.RESTING
    rig.entries.exit_began(T)
    rig.passes()
    assert rig.exchange.resting == {}


def test_orders_of_others_are_none_of_ours() -> None:
    rig = Rig()
    client_order_id = rig.rest()
    update = update_of(rig, client_order_id, OrderStatus.EXECUTED, "10")
    rig.entries.order_update(replace(update, client_order_id="by-hand"))
    assert rig.state_of(client_order_id) is EntryState.RESTING
    assert rig.entries.is_own(client_order_id)
    assert not rig.entries.is_own("by-hand")


# --- amending


def test_an_amend_moves_the_order() -> None:
    rig = Rig()
    client_order_id = rig.rest("10", "0.40")
    assert rig.entries.amend(AmendIntent(client_order_id, price=Decimal("0.42"), count=Decimal(20))) == ""
    order = rig.entries.orders()[client_order_id]
    assert (order.price, order.count, order.state) == (Decimal("0.42"), 20, EntryState.RESTING)
    (request,) = rig.exchange.amends
    assert (request.price, request.count, request.client_order_id) == (
        Decimal("0.42"),
        20,
        client_order_id,
    )
    assert (rig.disk.entries[client_order_id].price, rig.disk.entries[client_order_id].count) == (
        Decimal("0.42"),
        20,
    )


@pytest.mark.parametrize(
    ("price", "count", "why"),
    [
        ("0.40", "200", "MAX_ORDER_COST_DOLLARS"),
        ("0.40", "110", "MAX_POSITION_COST_DOLLARS"),
        ("0.61", "10", "ENTRY_COLLAR_DOLLARS"),
        ("0.40", "3", "bought already"),
        ("0.40", "0", "no order"),
        ("1", "10", "no order"),
        ("NaN", "10", "no order"),
    ],
    ids=["order too large", "position too large", "too dear", "less than it bought", "no count", "1", "NaN"],
)
def test_an_amend_passes_the_limits(price: str, count: str, why: str) -> None:
    rig = Rig(replace(LIMITS, max_position_cost=Decimal(42)))
    client_order_id = rig.rest("10", "0.40", at_once="3")
    answer = rig.entries.amend(AmendIntent(client_order_id, Decimal(price), Decimal(count)))
    assert why in answer
    assert rig.exchange.amends == []
    assert rig.state_of(client_order_id) is EntryState.RESTING


def test_an_amend_that_adds_is_denied_where_an_entry_is_and_one_that_takes_back_is_not() -> None:
    rig = Rig()
    client_order_id = rig.rest("10", "0.40")
    rig.clock.advance(61)  # no fresh price
    assert rig.entries.amend(AmendIntent(client_order_id, count=Decimal(11))) != ""
    assert rig.entries.amend(AmendIntent(client_order_id, count=Decimal(9))) == ""
    assert rig.entries.amend(AmendIntent(client_order_id, price=Decimal("0.39"))) == ""


def test_amends_count_against_the_orders_of_a_minute() -> None:
    rig = Rig(replace(LIMITS, entries_per_minute=3))
    client_order_id = rig.rest("10")
    answers = [rig.entries.amend(AmendIntent(client_order_id, count=Decimal(n))) for n in (9, 8, 7)]
    assert [answer == "" for answer in answers] == [True, True, False]


def test_while_an_amend_is_under_way_the_larger_of_both_is_reserved() -> None:
    rig = Rig()
    client_order_id = rig.rest("100", "0.40")
    seen: list[Decimal] = []
    amend = rig.exchange.amend_entry

    def watched(order_id: str, request: OrderRequest) -> object:
        seen.append(rig.reserved())
        return amend(order_id, request)

    rig.exchange.amend_entry = watched  # type: ignore[method-assign, assignment]
    before = rig.reserved()
    rig.entries.amend(AmendIntent(client_order_id, count=Decimal(10)))
    rig.entries.amend(AmendIntent(client_order_id, count=Decimal(90)))
    assert seen[0] == before, "smaller: the old one is reserved till the answer"
    assert seen[1] > rig.reserved() - 2, "larger: reserved before it leaves"
    assert len(seen) == 2


@pytest.mark.parametrize(
    "step", [Lost(), Lost("4"), Lost(acted=False)], ids=["acted", "filled", "never came"]
)
def test_an_order_whose_amend_got_no_answer_is_canceled(step: Step) -> None:
    rig = Rig()
    client_order_id = rig.rest("10", "0.40")
    rig.exchange.amend_script.append(step)
    assert rig.entries.amend(AmendIntent(client_order_id, count=Decimal(20))) != ""
    assert rig.entries.amend(AmendIntent(client_order_id, count=Decimal(5))) != "", "it is to go"
    rig.passes(3, each_s=1)
    assert rig.exchange.resting == {}
    assert rig.state_of(client_order_id) is None
    assert rig.disk.entries[client_order_id].filled == (4 if step == Lost("4") else 0)


def test_an_amend_of_what_does_not_rest_any_more_is_looked_up() -> None:
    rig = Rig()
    client_order_id = rig.rest("10", "0.40")
    rig.exchange.fill_resting(f"order-{client_order_id}", "10")
    assert rig.entries.amend(AmendIntent(client_order_id, price=Decimal("0.41"))) != ""
    assert rig.state_of(client_order_id) is EntryState.UNKNOWN
    rig.passes()
    assert rig.state_of(client_order_id) is None
    assert rig.disk.entries[client_order_id].filled == 10


def test_an_amend_that_buys_is_looked_up_and_the_position_read() -> None:
    rig = Rig()
    client_order_id = rig.rest("10", "0.40", at_once="1")
    rig.exchange.amend_script.append(Fill("4"))
    assert rig.entries.amend(AmendIntent(client_order_id, price=Decimal("0.50"))) == ""
    assert rig.reads_wanted == 1
    rig.passes()
    order = rig.entries.orders()[client_order_id]
    assert (order.filled, order.state) == (5, EntryState.RESTING)


@pytest.mark.parametrize("step", [Reject(400, "invalid_price"), NotSent()], ids=["refused", "not sent"])
def test_an_amend_that_did_not_act_changes_nothing(step: Step) -> None:
    rig = Rig()
    client_order_id = rig.rest("10", "0.40")
    before = rig.reserved()
    rig.exchange.amend_script.append(step)
    assert rig.entries.amend(AmendIntent(client_order_id, count=Decimal(50))) != ""
    order = rig.entries.orders()[client_order_id]
    assert (order.count, order.state, rig.reserved()) == (10, EntryState.RESTING, before)


def test_an_amend_that_adds_is_on_disk_before_it_leaves_or_does_not_leave() -> None:
    rig = Rig()
    client_order_id = rig.rest("10", "0.40")
    rig.disk.is_full = True
    assert rig.entries.amend(AmendIntent(client_order_id, count=Decimal(50))) != ""
    assert rig.exchange.amends == []
    rig.disk.is_full = False
    assert rig.entries.amend(AmendIntent(client_order_id, count=Decimal(50))) == ""
    assert rig.disk.committed[-1].count == 50


# --- the end of a run, and the start of the next


def test_stopping_leaves_nothing_resting_and_opens_nothing() -> None:
    rig = Rig()
    rig.rest()
    assert rig.entries.stop(5.0)
    assert rig.exchange.resting == {}
    assert not rig.place()
    assert rig.exchange.cancels


def test_stopping_in_vain_says_so() -> None:
    rig = Rig()
    rig.rest()
    rig.exchange.cancel_script.extend([NotSent()] * 1_000)
    assert not rig.entries.stop(5.0)
    assert len(rig.exchange.resting) == 1


def test_a_cancel_without_proof_is_no_end() -> None:
    rig = Rig()
    rig.rest()
    rig.exchange.cancel_script.extend([Reject(404, "not_found")] * 1_000)
    rig.exchange.reads_fail = True
    assert not rig.entries.stop(5.0)


def test_what_is_blocked_opens_nothing_and_nothing_rests_on() -> None:
    rig = Rig()
    rig.rest()
    rig.entries.block("trouble")
    assert not rig.place()
    rig.passes()
    assert rig.exchange.resting == {}


def test_what_the_last_run_left_is_looked_up_and_canceled_and_reserved_till_then() -> None:
    rig = Rig()
    client_order_id = rig.rest("100", "0.40", at_once="10")
    remembered = rig.disk.remembered()
    rig.clock.advance(50)
    rig.quote(T)
    rig.entries = rig.desk()
    rig.opened.clear()
    rig.entries.resume(remembered)
    assert rig.opened == [(T, "mine")], "what it buys is still that strategy's"
    assert rig.entries.is_own(client_order_id)
    assert not rig.place("90", "0.50")
    rig.passes()
    assert rig.state_of(client_order_id) is not EntryState.DONE
    rig.passes()
    assert rig.exchange.resting == {}
    assert rig.disk.remembered().entries == ()
    rig.clock.advance(4)
    rig.read_positions()
    rig.quote(T)
    assert rig.place("90", "0.50")


def test_what_the_last_run_wrote_down_and_never_sent_is_given_up_with_proof() -> None:
    rig = Rig()
    order = EntryOrder(
        f"{ENTRY_ID_PREFIX}1", T, YES, Decimal(90), Decimal("0.50"), "", EntryState.SENDING, rig.clock.now()
    )
    rig.entries.resume(Remembered(entries=(order,)))
    rig.passes(int(ABSENT_AFTER_S / 5) - 1, each_s=5)
    assert len(rig.entries.orders()) == 1
    rig.passes(4, each_s=5)
    assert rig.entries.orders() == {}
    assert rig.disk.entries[order.client_order_id].state is EntryState.DONE


def test_a_resting_order_of_ours_that_no_journal_knows_is_canceled() -> None:
    rig = Rig()
    client_order_id = rig.rest()
    rig.clock.advance(10)
    rig.disk.entries.clear()
    rig.entries = rig.desk()
    rig.passes(2)
    assert rig.exchange.resting == {}
    assert rig.entries.is_own(client_order_id)


def test_the_search_for_left_over_orders_is_repeated_until_it_succeeds() -> None:
    rig = Rig()
    rig.rest()
    rig.clock.advance(10)
    rig.entries = rig.desk()
    rig.exchange.reads_fail = True
    rig.passes(3, each_s=5)
    rig.exchange.reads_fail = False
    rig.passes(2, each_s=5)
    assert rig.exchange.resting == {}


@pytest.mark.parametrize(
    ("client_order_id", "is_older"),
    [("by-hand", False), ("by-hand", True), (f"{ENTRY_ID_PREFIX}x", False)],
    ids=["by hand", "by hand before the start", "another instance's"],
)
def test_orders_of_others_are_left_alone(client_order_id: str, is_older: bool) -> None:
    """One of our form that is younger than this run is another instance's; somebody else says so."""
    rig = Rig()
    rig.clock.advance(1)
    rig.script(Fill("0"))
    gtc = TimeInForce.GOOD_TILL_CANCELED
    rig.exchange.create_entry(
        OrderRequest(T, client_order_id, BookSide.BID, Decimal(10), Decimal("0.40"), gtc, reduce_only=False)
    )
    if is_older:
        rig.clock.advance(1)
        rig.entries = rig.desk()
    rig.passes(5, each_s=60)
    assert len(rig.exchange.resting) == 1


def test_an_order_that_acts_after_it_was_given_up_is_canceled_again() -> None:
    rig = Rig()
    rig.script(Lost(acted=False))
    rig.rests("10")
    (client_order_id,) = rig.entries.orders()
    rig.passes(10, each_s=5)
    assert rig.entries.orders() == {}
    request = sent(rig)
    rig.script(Fill("0"))
    rig.exchange.take(request)
    zero = Decimal(0)
    rig.entries.order_update(
        OrderUpdate(
            f"order-{client_order_id}", client_order_id, T, BookSide.BID, OrderStatus.RESTING, zero,
            Decimal(10), Decimal(10), zero, zero,
        )
    )  # fmt: skip
    rig.passes(2)
    assert rig.exchange.resting == {}


@pytest.mark.parametrize("whose", ["of this run", "left over", "another instance's"])
def test_only_another_instances_resting_entry_raises_a_doubt(whose: str) -> None:
    rig = Rig()
    if whose == "left over":
        rig.rest()
        rig.clock.advance(1)
        rig.portfolio = Portfolio(rig.clock)
        rig.entries = rig.desk()
    foreign = ForeignOrders(rig.portfolio, rig.clock)
    foreign.attach(rig.entries.is_own)
    if whose != "left over":
        rig.rest()
    listed = rig.exchange.read_resting()
    if whose == "another instance's":
        listed = [replace(order, client_order_id=f"{ENTRY_ID_PREFIX}x") for order in listed]
    foreign.resting(listed)
    assert bool(foreign.doubts()) is (whose == "another instance's")


# --- several threads


def test_two_threads_cannot_both_have_the_last_dollars() -> None:
    rig = Rig(replace(LIMITS, entries_per_minute=1_000))
    gate = threading.Barrier(4)

    def buy() -> None:
        gate.wait(5)
        for _ in range(20):
            rig.place("10")

    threads = [threading.Thread(target=buy) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    position = rig.portfolio.get(T)
    assert position is not None
    assert position.cost <= LIMITS.max_position_cost
    assert position.count == 150, "and not one order less than fits"
