"""Exit episodes against a scripted exchange whose ledger is the judge. No thread, no waiting."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.execution.exits import GATHER_FROM, GATHER_S, REMEMBERED_EPISODES_MAX, ExitDesk, ExitOrder
from base.model.events import OrderUpdate
from base.model.market import BookSide, MarketStatus
from base.model.order import OrderAck, OrderRequest, OrderStatus
from base.model.position import Fill as AccountFill
from base.model.rules import ExitReason
from base.store.portfolio import READ_LAG_S, Portfolio
from base.store.records import AttemptRecord, EpisodeRecord, Record, Remembered
from tests.fakes.clock import FakeClock
from tests.fakes.gateway import (
    Crash,
    FakeExchange,
    FakeSender,
    Fill,
    Lost,
    NotSent,
    RateLimited,
    Reject,
    Step,
)

T = "KXHIGHNY-26NOV22-T60"
OTHER = "KXBTCD-26NOV22-T95000"
PAUSED = Reject(409, "trading_is_paused")


class Notebook:
    """A journal in memory. `seen` is how many orders the exchange had when each order was written down."""

    def __init__(self, exchange: FakeExchange) -> None:
        self._exchange = exchange
        self.rows: dict[tuple[type, str], EpisodeRecord | AttemptRecord] = {}
        self.seen: dict[str, int] = {}
        self.committed: set[str] = set()
        self.works = True

    def write(self, records: Iterable[Record]) -> None:
        for record in records:
            if isinstance(record, EpisodeRecord | AttemptRecord):
                self.rows[type(record), record.key] = record

    def commit(self, records: Iterable[Record]) -> bool:
        records = list(records)
        self.committed |= {r.ticker for r in records if isinstance(r, EpisodeRecord)}
        for record in records:
            if isinstance(record, AttemptRecord):
                self.seen.setdefault(record.client_order_id, len(self._exchange.requests))
        if self.works:
            self.write(records)
        return self.works

    def remembered(self) -> Remembered:
        episodes = [r for r in self.rows.values() if isinstance(r, EpisodeRecord) and r.state != "closed"]
        return Remembered(
            episodes=tuple(episodes),
            attempts=tuple(r for r in self.rows.values() if isinstance(r, AttemptRecord)),
        )


class Rig:
    """A desk without threads, its exchange, and a driver that lets time pass."""

    def __init__(self, *, caps: bool = False) -> None:
        self.clock = FakeClock()
        self.exchange = FakeExchange(self.clock, caps=caps)
        self.reads_wanted = 0
        self.begun: list[str] = []
        self.is_reading = True
        self._ids = iter(range(1, 10_000))
        self.notebook = Notebook(self.exchange)
        self.portfolio = Portfolio(self.clock)
        self.desk = self._new_desk()
        self.sender = FakeSender(self.exchange)
        self._wanted = False
        self._last_read = self.clock.monotonic()

    def _new_desk(self) -> ExitDesk:
        return ExitDesk(
            self.exchange,
            self.portfolio,
            self.exchange.prices.get,
            self._want_read,
            self.clock,
            workers=1,
            new_id=lambda: f"e{next(self._ids)}",
            recorder=self.notebook,
            began=self._note_begun,
        )

    def _note_begun(self, ticker: str) -> None:
        assert self.desk.is_active(ticker)  # and so nothing is held that others wait for
        self.begun.append(ticker)

    def restart(self, away_s: float = 2.0) -> None:
        """The program is killed here and starts again: all it knows is what was written down."""
        self.clock.advance(away_s)
        self.portfolio = Portfolio(self.clock)
        self.desk = self._new_desk()
        self.desk.resume(self.notebook.remembered())
        self._wanted = True

    def _want_read(self) -> None:
        self.reads_wanted += 1
        self._wanted = True

    def hold(self, ticker: str, signed: str, bid: str = "0.40") -> None:
        self.exchange.holds(ticker, signed)
        self.exchange.prices.set(ticker, bid)
        self.read()

    def read(self) -> None:
        self.portfolio.apply_read(self.exchange.positions(), self.clock.monotonic())
        self.desk.positions_read()

    def trigger(self, ticker: str = T, floor: str = "0.01") -> bool:
        return self.desk.trigger(
            ExitOrder(ticker, ExitReason.STOP_LOSS, Decimal("0.40"), Decimal("0.42"), Decimal(floor))
        )

    def drive(self, seconds: float, *, steps_max: int = 5_000) -> None:
        """Let the worker and the reconciliation work for this long."""
        until = self.clock.monotonic() + seconds
        for _ in range(steps_max):
            if self.desk.run_once(self.sender):
                continue
            now = self.clock.monotonic()
            if now >= until:
                return
            if self.is_reading and self._wanted and now - self._last_read >= 1.0:
                self._wanted, self._last_read = False, now
                self.read()
            self.clock.advance(0.05)
        raise AssertionError("the desk never came to rest: an exit that spins")

    @property
    def orders(self) -> list[OrderRequest]:
        return self.exchange.requests

    def view(self):  # type: ignore[no-untyped-def]
        return self.desk.views()[-1]


def started_again_in_mid_exit() -> Rig:
    """Ten are held, their stop has triggered, its one order was refused because the market was paused, and
    the program was killed and has started again."""
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.script[T].append(PAUSED)
    rig.trigger()
    rig.desk.run_once(rig.sender)
    rig.restart()
    return rig


def assert_one_id_at_a_time(rig: Rig) -> None:
    """An id is never come back to once another has been used: outcomes are settled one by one."""
    ids = [r.client_order_id for r in rig.orders]
    firsts = list(dict.fromkeys(ids))
    assert [i for n, i in enumerate(ids) if n == 0 or ids[n - 1] != i] == firsts


@dataclass(frozen=True)
class Case:
    name: str
    script: tuple[Step, ...]
    orders: int
    """Requests that leave."""
    ids: int
    """Different client order ids among them."""


CASES = [
    Case("one order fills all", (Fill(),), 1, 1),
    Case("three of ten, then the rest", (Fill("3"),), 2, 2),
    Case("nothing, then three, then the rest", (Fill("0"), Fill("3")), 3, 3),
    Case("answer lost, it had filled", (Lost(),), 1, 1),
    Case("answer lost, it had filled a part", (Lost("4"),), 2, 2),
    Case("answer lost, shown only by the fourth read", (Lost(shown_after_reads=3),), 1, 1),
    Case("answer lost, it had filled nothing", (Lost("0"),), 2, 2),
    Case("request lost: the same id again", (Lost(acted=False),), 2, 1),
    Case("request lost twice", (Lost(acted=False), Lost(acted=False)), 3, 1),
    Case("request lost, the resend fills and is lost too", (Lost(acted=False), Lost()), 2, 1),
    Case("request lost, the resend does not leave", (Lost(acted=False), NotSent()), 3, 1),
    Case("request lost, the resend is limited", (Lost(acted=False), RateLimited()), 3, 1),
    Case("request lost, the resend meets a pause", (Lost(acted=False), PAUSED), 3, 1),
    Case("request lost, the resend is refused", (Lost(acted=False), Reject(400, "invalid_order")), 3, 1),
    Case("the program breaks on the answer", (Crash(),), 1, 1),
    Case("rate limited: it did not act, and keeps its id", (RateLimited(), RateLimited()), 3, 1),
    Case("not sent: its id is as good as new", (NotSent(),), 2, 1),
    Case("paused", (PAUSED,), 2, 2),
    Case("exchange paused", (Reject(409, "exchange_is_paused"),), 2, 2),
    Case("off the grid", (Reject(400, "invalid_price"),), 2, 2),
    Case("no funds on the shard", (Reject(400, "insufficient_balance"),), 2, 2),
    Case("key refused", (Reject(401, ""),), 2, 2),
    Case("endpoint gone", (Reject(410, "deprecated_v1_order_endpoint"),), 2, 2),
    Case("a refusal nobody has seen", (Reject(418, "teapot"),), 2, 2),
]


@pytest.mark.parametrize("signed", ["10", "-10"], ids=["yes", "no"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_sells_what_is_held_and_nothing_more(case: Case, signed: str) -> None:
    rig = Rig()
    rig.hold(T, signed)
    rig.exchange.script[T].extend(case.script)
    assert rig.trigger()
    rig.drive(90)

    assert rig.exchange.held[T] == 0
    assert rig.portfolio.get(T) is None
    assert not rig.desk.is_active(T)
    assert len(rig.orders) == case.orders
    assert len({r.client_order_id for r in rig.orders}) == case.ids
    assert_one_id_at_a_time(rig)
    assert rig.view().state == "closed"
    assert rig.view().filled == Decimal(10)
    for request in rig.orders:
        assert request.reduce_only
        assert request.time_in_force.value == "immediate_or_cancel"
        assert request.book_side is (BookSide.ASK if signed == "10" else BookSide.BID)


def test_an_order_that_exists_is_looked_up_and_not_replaced() -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.script[T].extend([Lost(shown_after_reads=6)])
    rig.trigger()
    rig.drive(30)
    # The resend after two blind reads answers 409: evidence, after which only reads follow.
    assert [r.client_order_id for r in rig.orders] == ["e1-1", "e1-1"]
    assert rig.exchange.held[T] == 0
    assert rig.view().filled == Decimal(10)


def test_without_word_of_completeness_absence_takes_four_seconds() -> None:
    rig = Rig()
    rig.exchange.as_of_lag_s = None
    rig.hold(T, "10")
    rig.exchange.script[T].append(Lost(acted=False))
    rig.trigger()
    rig.drive(20)
    assert rig.exchange.held[T] == 0
    assert rig.exchange.sent_at[1] - rig.exchange.sent_at[0] >= 4.0


def test_lookups_that_fail_do_not_latch_the_exit_off() -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.script[T].append(Lost(acted=False))
    rig.exchange.reads_fail = True
    rig.trigger()
    rig.drive(30)
    assert rig.exchange.held[T] == 0
    assert {r.client_order_id for r in rig.orders} == {"e1-1"}


def test_an_order_never_found_is_given_up_after_a_minute_and_sized_from_a_new_read() -> None:
    rig = Rig()
    rig.hold(T, "10")
    # It acted in part, is never shown, and answers 409 to its resend.
    rig.exchange.script[T].append(Lost("4", shown_after_reads=10_000))
    rig.trigger()
    rig.drive(120)
    assert rig.exchange.held[T] == 0
    new = [r for r in rig.orders if r.client_order_id != "e1-1"]
    assert [r.count for r in new] == [Decimal(6)]


def test_an_order_never_found_that_sold_everything_is_not_followed_by_another() -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.script[T].append(Lost(shown_after_reads=10_000))
    rig.trigger()
    rig.drive(150)
    assert rig.exchange.held[T] == 0
    assert {r.client_order_id for r in rig.orders} == {"e1-1"}
    assert not rig.desk.is_active(T)


def test_a_read_while_the_answer_is_awaited_does_not_count_the_fill_twice() -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.script[T].append(Lost("6", shown_after_reads=1))
    rig.trigger()
    assert rig.desk.run_once(rig.sender)
    rig.clock.advance(5)
    rig.read()  # shows 4; the look-up will say that 6 were filled
    rig.drive(30)
    assert rig.exchange.held[T] == 0
    assert [r.count for r in rig.orders] == [Decimal(10), Decimal(4)]


def test_a_resend_never_asks_for_more_than_is_held_now() -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.script[T].append(Lost(acted=False))
    rig.trigger()
    rig.desk.run_once(rig.sender)
    # Sold by hand meanwhile, as the stream tells.
    rig.exchange.holds(T, "7")
    rig.portfolio.apply_fill(
        AccountFill(
            "t1", "by-hand", T, BookSide.ASK, Decimal(3), Decimal("0.4"), Decimal(0), 1, "", Decimal(7)
        )
    )
    rig.drive(30)
    assert [r.count for r in rig.orders] == [Decimal(10), Decimal(7)]
    assert rig.exchange.held[T] == 0


def test_one_episode_a_market() -> None:
    rig = Rig()
    rig.hold(T, "10")
    assert rig.trigger()
    assert not rig.trigger()
    rig.drive(5)
    assert len(rig.orders) == 1
    assert not rig.trigger(), "nothing is held any more"


def test_a_blocked_market_does_not_delay_another() -> None:
    rig = Rig()
    rig.hold(T, "1000")  # more at risk: it is served first
    rig.hold(OTHER, "10")
    rig.exchange.script[T].extend([PAUSED] * 1_000)
    rig.exchange.on_refresh[T] = MarketStatus.INACTIVE
    rig.trigger(T)
    rig.trigger(OTHER)
    started = rig.clock.monotonic()
    rig.drive(1)
    assert rig.exchange.held[OTHER] == 0
    at = rig.exchange.sent_at[[r.ticker for r in rig.orders].index(OTHER)]
    assert at - started <= 0.1
    assert rig.exchange.held[T] == 1000


@pytest.mark.parametrize("is_whole_exchange", [False, True], ids=["market paused", "exchange paused"])
def test_a_pause_is_probed_slowly_and_left_within_five_seconds(is_whole_exchange: bool) -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.trigger()
    rig.exchange.script[T].append(PAUSED)
    if is_whole_exchange:
        rig.exchange.is_active = False
    else:
        rig.exchange.on_refresh[T] = MarketStatus.INACTIVE
    probed: list[float] = []
    for _ in range(300):  # 30 s, with every look at the market poking the episode as the checker does
        before = len(rig.exchange.refreshes)
        rig.desk.poke(T)
        rig.desk.run_once(rig.sender)
        probed.extend([rig.clock.monotonic()] * (len(rig.exchange.refreshes) - before))
        rig.clock.advance(0.1)
    assert len(rig.orders) == 1
    assert 10 <= len(probed) <= 17
    assert all(b - a >= 1.99 for a, b in itertools.pairwise(probed))

    rig.exchange.is_active = True
    rig.exchange.on_refresh[T] = MarketStatus.ACTIVE
    reopened = rig.clock.monotonic()
    rig.drive(5)
    assert rig.exchange.held[T] == 0
    assert rig.exchange.sent_at[-1] - reopened <= 5.0


def test_a_pause_that_status_reads_do_not_show_is_asked_at_most_once_in_two_seconds() -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.script[T].extend([PAUSED] * 10)
    rig.trigger()
    for _ in range(600):
        rig.desk.poke(T)
        rig.desk.run_once(rig.sender)
        rig.clock.advance(0.1)
    gaps = [b - a for a, b in itertools.pairwise(rig.exchange.sent_at)]
    assert all(gap >= 1.99 for gap in gaps)
    assert all(gap <= 5.0 for gap in gaps)
    assert rig.exchange.held[T] == 0


def test_probes_that_fail_do_not_latch_the_exit_off() -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.script[T].append(PAUSED)
    rig.exchange.reads_fail = True
    rig.trigger()
    rig.drive(15)
    assert rig.exchange.held[T] == 0


def test_a_paused_market_gets_no_order_at_all() -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.prices.set_status(T, MarketStatus.INACTIVE)
    rig.exchange.on_refresh[T] = MarketStatus.INACTIVE
    rig.trigger()
    rig.drive(20)
    assert rig.orders == []
    assert rig.view().state == "blocked"
    assert rig.view().why == "paused"


def test_an_exit_is_told_as_blocked_since_its_first_obstacle_and_until_it_goes_on() -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.prices.set_status(T, MarketStatus.INACTIVE)
    rig.exchange.on_refresh[T] = MarketStatus.INACTIVE
    rig.trigger()
    triggered_at = rig.clock.monotonic()
    rig.drive(20)
    told = rig.desk.blocked()[T]
    assert (told.why, rig.clock.monotonic() - told.since) == ("paused", rig.clock.monotonic() - triggered_at)
    rig.exchange.prices.set_status(T, MarketStatus.ACTIVE)
    rig.exchange.on_refresh[T] = MarketStatus.ACTIVE
    rig.drive(20)
    assert rig.view().state == "closed"
    assert rig.desk.blocked() == {}


def test_the_stream_resolves_an_unknown_outcome() -> None:
    rig = Rig()
    rig.hold(T, "-10")
    rig.exchange.script[T].append(Lost(shown_after_reads=10_000))
    rig.trigger()
    rig.desk.run_once(rig.sender)
    assert rig.view().state == "unknown"
    rig.desk.order_update(order_update("e1-1", filled="10", cost="6.10"))
    assert rig.desk.run_once(rig.sender), "the update makes the episode due at once"
    assert rig.view().state == "closed"
    assert rig.view().average_price == Decimal("0.39")  # NO, left by buying YES at 0.61
    assert len(rig.orders) == 1


def test_the_stream_says_how_many_and_a_read_at_what_price() -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.script[T].append(Lost())
    rig.trigger()
    rig.desk.run_once(rig.sender)
    rig.desk.order_update(order_update("e1-1", filled="10", cost="0", side=BookSide.ASK))
    rig.desk.run_once(rig.sender)
    assert rig.view().state == "closed"
    # Sold at 0.38 (the rung below the bid) what had cost 0.50: the loss is booked at its real price.
    assert rig.portfolio.ledger().realized == Decimal("-1.20")


def test_an_update_of_a_resting_order_resolves_nothing() -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.script[T].append(Lost(shown_after_reads=10_000))
    rig.trigger()
    rig.desk.run_once(rig.sender)
    rig.desk.order_update(replace(order_update("e1-1", filled="0", cost="0"), status=OrderStatus.RESTING))
    rig.desk.run_once(rig.sender)
    assert rig.view().state == "unknown"


def order_update(
    client_order_id: str, *, filled: str, cost: str, side: BookSide = BookSide.BID
) -> OrderUpdate:
    return OrderUpdate(
        order_id=f"order-{client_order_id}",
        client_order_id=client_order_id,
        ticker=T,
        book_side=side,
        status=OrderStatus.EXECUTED,
        fill_count=Decimal(filled),
        remaining_count=Decimal(0),
        initial_count=Decimal(10),
        fees=Decimal("0.10"),
        fill_cost=Decimal(cost),
    )


def test_zero_fills_go_down_the_ladder_and_slow_down() -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.script[T].extend([Fill("0")] * 1_000)
    rig.trigger()
    rig.drive(60)
    prices = [r.price for r in rig.orders]
    assert prices[:6] == [Decimal(p) for p in ("0.38", "0.36", "0.32", "0.24", "0.01", "0.01")]
    assert len(rig.orders) <= 20, "an order that nobody takes is not repeated fast"
    assert rig.view().state == "blocked"
    assert rig.view().why == "no_fill"
    assert rig.reads_wanted >= 1, "perhaps nothing is held any more: a complete read is asked for"


def test_a_position_closed_by_hand_ends_the_episode() -> None:
    rig = Rig(caps=True)
    rig.hold(T, "10")
    rig.exchange.holds(T, "0")
    rig.trigger()
    rig.drive(30)
    assert not rig.desk.is_active(T)
    assert rig.view().state == "closed"
    assert rig.exchange.held[T] == 0


def test_a_position_that_flipped_is_not_sold_on_the_old_side() -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.script[T].append(NotSent())
    rig.trigger()
    rig.desk.run_once(rig.sender)
    rig.clock.advance(10)
    rig.exchange.holds(T, "-4")
    rig.read()
    rig.drive(10)
    assert len(rig.orders) == 1
    assert rig.exchange.held[T] == -4
    assert not rig.desk.is_active(T)


def test_a_market_that_closed_ends_the_episode_with_its_reason() -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.script[T].append(Reject(409, "market_inactive"))
    rig.exchange.on_refresh[T] = MarketStatus.CLOSED
    rig.trigger()
    rig.drive(20)
    assert rig.view().state == "closed"
    assert rig.view().why == "market_closed"
    assert len(rig.orders) == 1


def test_nobody_bids_waits_and_a_poke_resumes_at_once() -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.prices.set(T, "0.00", "0.02", size="0")
    rig.trigger()
    rig.drive(5)
    assert rig.orders == []
    assert rig.view().why == "no_bid"
    rig.exchange.prices.set(T, "0.30")
    rig.desk.poke(T)
    assert rig.desk.run_once(rig.sender)
    assert rig.exchange.held[T] == 0


def test_a_bid_below_the_floor_is_not_sold_to() -> None:
    rig = Rig()
    rig.hold(T, "10", bid="0.04")
    rig.trigger(floor="0.05")
    rig.drive(10)
    assert rig.orders == []
    assert rig.view().why == "below_floor"


def test_an_old_unvouched_price_is_read_again_before_an_order_is_priced_on_it() -> None:
    rig = Rig()
    rig.hold(T, "10")
    view = rig.exchange.prices.views[T]
    rig.exchange.prices.views[T] = replace(view, is_vouched=False, age_s=6.0)
    rig.trigger()
    rig.desk.run_once(rig.sender)
    assert rig.exchange.refreshes == [(T,)]
    assert rig.exchange.held[T] == 0, "prices that cannot be read anew are better than no exit"


def test_the_largest_loss_goes_first() -> None:
    rig = Rig()
    rig.hold(T, "5")
    rig.hold(OTHER, "500")
    rig.trigger(T)
    rig.trigger(OTHER)
    rig.desk.run_once(rig.sender)
    assert rig.orders[0].ticker == OTHER


def test_an_idle_worker_keeps_its_connection_ready() -> None:
    rig = Rig()
    assert not rig.desk.run_once(rig.sender)
    assert rig.exchange.prepared == 1


# --- written down, and taken up again -----------------------------------------------------------------


def test_every_order_is_written_down_before_it_leaves() -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.script[T].extend([Fill("3"), Lost(acted=False), Fill("2")])
    rig.trigger()
    rig.drive(60)
    assert rig.exchange.held[T] == 0
    sent = [r.client_order_id for r in rig.orders]
    assert set(rig.notebook.seen) == set(sent)
    for client_order_id, seen in rig.notebook.seen.items():
        assert seen == sent.index(client_order_id), "no more orders had left than those before it"


def test_an_exit_goes_out_from_memory_when_the_disk_fails() -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.notebook.works = False
    rig.trigger()
    rig.drive(5)
    assert rig.exchange.held[T] == 0
    assert len(rig.orders) == 1


class Killed(BaseException):
    """The program is killed at this very point."""


class DyingSender(FakeSender):
    """Dies before the order leaves, or with the answer on its way back."""

    def __init__(self, exchange: FakeExchange, *, acts: bool) -> None:
        super().__init__(exchange)
        self._acts = acts

    def create_order(self, request: OrderRequest) -> OrderAck:
        if self._acts:
            super().create_order(request)
        raise Killed


@dataclass(frozen=True)
class KillCase:
    name: str
    acts: bool
    script: tuple[Step, ...] = ()
    bid_after: str = "0.40"
    orders: int = 1


KILLS = [
    KillCase("written down, never sent", acts=False),
    KillCase("sent and filled, answer lost with the program", acts=True),
    KillCase("a part filled, then killed", acts=True, script=(Fill("1"),), orders=2),
    KillCase("nothing filled, then killed", acts=True, script=(Fill("0"),), orders=2),
    KillCase("the price has recovered meanwhile: triggered is triggered", acts=False, bid_after="0.90"),
]


@pytest.mark.parametrize("signed", ["10", "-2.55"], ids=["yes", "no"])
@pytest.mark.parametrize("case", KILLS, ids=lambda c: c.name)
def test_killed_and_started_again_it_sells_what_was_held_once(case: KillCase, signed: str) -> None:
    rig = Rig()
    rig.hold(T, signed)
    rig.exchange.script[T].extend(case.script)
    rig.trigger()
    with pytest.raises(Killed):
        rig.desk.run_once(DyingSender(rig.exchange, acts=case.acts))
    rig.restart()
    bid = case.bid_after if not signed.startswith("-") else "0.40"
    rig.exchange.prices.set(T, bid)
    rig.drive(60)
    assert rig.exchange.held[T] == 0
    assert len(rig.orders) == case.orders
    assert_one_id_at_a_time(rig)
    assert not rig.desk.is_active(T)
    assert rig.view().filled == abs(Decimal(signed))


def test_nothing_is_sent_after_a_restart_before_the_position_has_been_read() -> None:
    rig = started_again_in_mid_exit()
    rig.is_reading = False
    rig.drive(30)
    assert len(rig.orders) == 1
    assert rig.desk.is_active(T), "it waits, and is not taken for flat"
    rig.is_reading = True
    rig.drive(10)
    assert rig.exchange.held[T] == 0


def test_after_a_restart_the_exit_goes_on_as_soon_as_the_position_has_been_read() -> None:
    rig = started_again_in_mid_exit()
    rig.is_reading = False
    rig.portfolio.apply_read(rig.exchange.positions(), rig.clock.monotonic() - 5)  # left too early
    rig.drive(READ_LAG_S + 1.0)
    assert len(rig.orders) == 1, "it waits for a read that has seen what the last run did"
    rig.read()
    rig.drive(0.05)
    assert rig.exchange.held[T] == 0


@pytest.mark.parametrize("first_read_s", [0.0, 0.5, 0.9])
def test_the_read_that_an_exit_waits_for_is_asked_for_when_it_counts_and_not_a_second_later(
    first_read_s: float,
) -> None:
    """Reads come a second apart: one that leaves too early to count puts off the one that does."""
    rig = started_again_in_mid_exit()
    restarted_at = rig.clock.monotonic()
    rig.is_reading = False
    rig.drive(first_read_s)
    rig.is_reading = True
    while rig.exchange.held[T] and rig.clock.monotonic() < restarted_at + 10:
        rig.drive(0.05)
    assert READ_LAG_S < rig.clock.monotonic() - restarted_at <= READ_LAG_S + 0.3


def test_one_read_after_a_restart_that_does_not_show_the_position_ends_no_exit() -> None:
    rig = started_again_in_mid_exit()
    rig.is_reading = False
    rig.portfolio.apply_read({}, rig.clock.monotonic() + READ_LAG_S)
    rig.drive(6)
    assert rig.desk.is_active(T)
    rig.is_reading = True
    rig.drive(20)
    assert rig.exchange.held[T] == 0


@pytest.mark.parametrize("signed", ["0", "-4"], ids=["sold by hand", "flipped by hand"])
def test_traded_away_while_nobody_watched_it_sells_nothing(signed: str) -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.script[T].append(PAUSED)
    rig.trigger()
    rig.desk.run_once(rig.sender)
    rig.exchange.holds(T, signed)
    rig.restart()
    rig.drive(30)
    assert len(rig.orders) == 1
    assert rig.exchange.held[T] == Decimal(signed)
    assert rig.view().state == "closed"


def test_bought_anew_while_nobody_watched_the_rules_judge_it_afresh() -> None:
    rig = started_again_in_mid_exit()
    rig.is_reading = False
    rig.clock.advance(READ_LAG_S + 0.1)
    bought = {t: replace(p, entry_price=Decimal("0.30")) for t, p in rig.exchange.positions().items()}
    rig.portfolio.apply_read(bought, rig.clock.monotonic())
    rig.drive(10)
    assert len(rig.orders) == 1
    assert rig.view().why == "position_changed"


def test_what_is_added_by_hand_while_nobody_watched_is_left_to_the_rules_too() -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.script[T].append(PAUSED)
    rig.trigger()
    rig.desk.run_once(rig.sender)
    rig.exchange.holds(T, "16")
    rig.restart()
    rig.is_reading = False
    rig.clock.advance(READ_LAG_S + 0.1)
    grown = {t: replace(p, entry_price=Decimal("0.38")) for t, p in rig.exchange.positions().items()}
    rig.portfolio.apply_read(grown, rig.clock.monotonic())
    rig.drive(10)
    assert rig.exchange.held[T] == Decimal(6)
    assert rig.view().filled == Decimal(10)


def test_of_two_exits_of_one_market_the_newer_goes_on() -> None:
    """The end of the older one could not be written down: the disk failed then, and the program died."""
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.script[T].append(PAUSED)
    rig.trigger()
    rig.desk.run_once(rig.sender)
    (newer,) = rig.notebook.remembered().episodes
    rig.notebook.write([replace(newer, id="e0", opened_at=newer.opened_at - 60)])
    rig.restart()
    rig.drive(20)
    assert rig.exchange.held[T] == 0
    assert {r.client_order_id.partition("-")[0] for r in rig.orders} == {newer.id}
    assert rig.notebook.remembered().episodes == (), "neither is left open"


# --- how much, and in which order -----------------------------------------------------------------------


def test_what_is_bought_by_hand_during_an_exit_is_left_to_the_rules() -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.script[T].append(PAUSED)
    rig.trigger()
    rig.desk.run_once(rig.sender)
    rig.exchange.holds(T, "25")
    rig.read()
    rig.drive(10)
    assert rig.exchange.held[T] == Decimal(15)
    assert rig.view().filled == Decimal(10)
    assert not rig.desk.is_active(T)


def crash_many(rig: Rig, counts: dict[str, str]) -> None:
    for ticker, count in counts.items():
        rig.hold(ticker, count)
    rig.desk.trigger_all(order_for(t) for t in counts)


COUNTS_OF_MANY = {f"KXMANY-{i}": str(i) for i in range(1, 31)}


@pytest.mark.parametrize("batch_max", [1, 10], ids=["one by one", "in batches"])
def test_with_a_small_budget_the_largest_loss_goes_first_and_none_is_lost(batch_max: int) -> None:
    rig = Rig()
    rig.exchange.batch_max = batch_max
    rig.exchange.budget = 10
    crash_many(rig, COUNTS_OF_MANY)
    for _ in range(2_000):
        if not rig.desk.run_once(rig.sender):
            rig.clock.advance(0.02)
            rig.exchange.budget += 0.2
    assert [r.count for r in rig.orders] == sorted((r.count for r in rig.orders), reverse=True)
    assert len(rig.orders) == 30
    assert all(held == 0 for held in rig.exchange.held.values())
    assert (max(rig.exchange.batches, default=1) > 1) is (batch_max > 1)


def test_an_exit_that_waits_for_the_budget_is_on_disk_and_announced_meanwhile() -> None:
    rig = Rig()
    rig.exchange.budget = 0
    crash_many(rig, {"KXMANY-1": "1", "KXMANY-2": "2"})
    for _ in range(10):
        rig.desk.run_once(rig.sender)
    assert not rig.orders
    assert rig.notebook.committed == {"KXMANY-1", "KXMANY-2"}


def test_each_exit_that_begins_is_told_of_once() -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.hold(OTHER, "20")
    nothing_held = "KXNONE-1"
    rig.desk.trigger_all([order_for(T), order_for(nothing_held), order_for(OTHER)])
    rig.desk.trigger_all([order_for(T)])
    assert rig.begun == [T, OTHER]


def test_an_exit_that_goes_on_is_shown_however_many_have_ended_since() -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.script[T].append(PAUSED)
    rig.trigger()
    rig.desk.run_once(rig.sender)
    for number in range(REMEMBERED_EPISODES_MAX + 5):
        ticker = f"KXMANY-{number}"
        rig.hold(ticker, "1")
        rig.desk.trigger_all([order_for(ticker)])
        while rig.desk.run_once(rig.sender):
            assert len(rig.orders) < 2 * REMEMBERED_EPISODES_MAX
    views = rig.desk.views()
    assert len(views) == REMEMBERED_EPISODES_MAX
    assert (views[0].ticker, views[0].state) == (T, "blocked")
    assert {view.state for view in views[1:]} == {"closed"}


@dataclass(frozen=True)
class TimesCase:
    name: str
    script: tuple[Step, ...]
    sends: int
    """The order that has filled first."""


@pytest.mark.parametrize(
    "case",
    [
        TimesCase("filled at once", (Fill(),), 0),
        TimesCase("the first order fills nothing", (Fill("0"), Fill("0"), Fill()), 2),
        TimesCase("a part, then the rest", (Fill("3"), Fill("0"), Fill()), 0),
        TimesCase("paused first", (PAUSED, Fill()), 1),
    ],
    ids=lambda c: c.name,
)
def test_an_exit_shows_when_its_first_order_left_and_when_its_first_fill_was_learned(case: TimesCase) -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.script[T].extend(case.script)
    assert (rig.desk.views(), rig.trigger()) == ([], True)
    assert (rig.view().sent_at, rig.view().filled_at) == (None, None), "nothing has left yet"
    to_wall_s = rig.clock.now() - rig.clock.monotonic()
    rig.drive(90)
    view = rig.view()
    left = [at + to_wall_s for at in rig.exchange.sent_at]
    assert view.sent_at == pytest.approx(left[0])
    assert view.filled_at == pytest.approx(left[case.sends], abs=0.06), "the fake answers at once"
    assert view.opened_at <= view.sent_at <= view.filled_at <= view.closed_at


def test_after_a_restart_an_exit_does_not_claim_to_know_when_it_was_filled_before() -> None:
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.script[T].extend([Fill("3"), PAUSED])
    rig.trigger()
    rig.drive(0.3)
    opened_at = rig.view().opened_at
    rig.restart(60.0)
    rig.drive(30)
    assert rig.exchange.held[T] == 0
    view = rig.view()
    assert view.filled == 10
    assert view.opened_at == pytest.approx(opened_at)
    assert view.filled_at is None


def test_losses_in_dollars_decide_not_contracts() -> None:
    rig = Rig()
    rig.hold(T, "100")
    rig.hold(OTHER, "20")
    cheap = replace(rig.exchange.positions()[T], entry_price=Decimal("0.41"))
    dear = replace(rig.exchange.positions()[OTHER], entry_price=Decimal("0.95"))
    rig.portfolio.apply_read({T: cheap, OTHER: dear}, rig.clock.monotonic())
    rig.desk.trigger_all([order_for(T), order_for(OTHER)])
    rig.desk.run_once(rig.sender)
    assert rig.orders[0].ticker == OTHER


def test_each_order_of_a_batch_has_its_own_fate() -> None:
    rig = Rig()
    rig.exchange.batch_max = 10
    tickers = [f"KXMANY-{i}" for i in range(5)]
    steps: list[Step] = [Fill(), Lost(), Lost(acted=False), Reject(400, "invalid_price"), Fill("0")]
    for ticker, step in zip(tickers, steps, strict=True):
        rig.exchange.script[ticker].append(step)
    crash_many(rig, dict.fromkeys(tickers, "10"))
    rig.drive(60)
    assert rig.exchange.batches[0] == 5
    assert all(rig.exchange.held[t] == 0 for t in tickers)
    ids = [r.client_order_id for r in rig.orders]
    assert len(ids) == len(set(ids)) + 1, "only the one that was never seen was sent again"


def test_lost_orders_are_looked_up_with_one_read_for_all() -> None:
    rig = Rig()
    tickers = [f"KXMANY-{i}" for i in range(20)]
    for ticker in tickers:
        rig.exchange.script[ticker].append(Lost(shown_after_reads=3))
    crash_many(rig, dict.fromkeys(tickers, "10"))
    rig.drive(30)
    assert all(rig.exchange.held[t] == 0 for t in tickers)
    assert rig.exchange.finds <= 20, "not twenty times as many"
    assert len(rig.exchange.sought[-1]) > 1


def test_many_paused_markets_are_probed_with_one_read() -> None:
    rig = Rig()
    tickers = [f"KXMANY-{i}" for i in range(20)]
    for ticker in tickers:
        rig.exchange.script[ticker].append(PAUSED)
    rig.exchange.is_active = False
    crash_many(rig, dict.fromkeys(tickers, "10"))
    rig.drive(1.0)
    rig.exchange.refreshes.clear()
    rig.drive(20)
    assert len(rig.exchange.refreshes) <= 14
    rig.exchange.is_active = True
    rig.drive(5)
    assert all(rig.exchange.held[t] == 0 for t in tickers)


@pytest.mark.parametrize(
    ("refusal", "reads"),
    [(Reject(401, "authentication_error"), 1), (Reject(403, "forbidden"), 1), (PAUSED, 0)],
    ids=["a dead key", "a key that may not", "a pause"],
)
def test_a_refused_key_has_positions_read_at_once_and_once(refusal: Reject, reads: int) -> None:
    """Whether anything of the account is protected at all is found out by what fails to be read."""
    rig = Rig()
    rig.hold(T, "10")
    rig.exchange.script[T].extend([refusal] * 20)
    rig.trigger()
    rig.desk.run_once(rig.sender)
    assert rig.view().state == "blocked"
    assert rig.reads_wanted == reads
    rig.drive(60)
    assert len(rig.orders) > 2, "it has been probed"
    assert rig.reads_wanted == reads


def test_with_a_dead_key_one_exit_asks_for_all() -> None:
    rig = Rig()
    tickers = [f"KXMANY-{i}" for i in range(20)]
    for ticker in tickers:
        rig.exchange.script[ticker].extend([Reject(401, "authentication_error")] * 3)
    crash_many(rig, dict.fromkeys(tickers, "10"))
    rig.drive(30)
    asked = len(rig.orders)
    assert asked <= 12
    for ticker in tickers:
        rig.exchange.script[ticker].clear()
    rig.drive(40)
    assert all(rig.exchange.held[t] == 0 for t in tickers)


@pytest.mark.parametrize(
    ("bid", "left", "why"),
    [
        ("0.91", "0", "filled"),
        ("0.89", "0", "filled"),
        ("0.87", "6", "price_left"),
        ("0.40", "6", "price_left"),
    ],
    ids=["there still", "a step below", "gone", "far gone"],
)
def test_a_profit_is_only_taken_where_there_is_one(bid: str, left: str, why: str) -> None:
    rig = Rig()
    rig.hold(T, "10", bid="0.90")
    rig.exchange.script[T].append(Fill("4"))
    rig.desk.trigger(ExitOrder(T, ExitReason.TAKE_PROFIT, Decimal("0.90"), Decimal("0.90"), Decimal("0.01")))
    rig.desk.run_once(rig.sender)
    rig.exchange.prices.set(T, bid)
    rig.drive(10)
    assert rig.exchange.held[T] == Decimal(left)
    assert rig.view().why == why
    assert all(request.price >= Decimal("0.88") for request in rig.orders)
    assert rig.trigger() is (left != "0"), "a stop may have the rest now"


def test_a_profit_is_never_taken_below_what_was_paid() -> None:
    rig = Rig()
    rig.hold(T, "10", bid="0.51")
    rig.desk.trigger(ExitOrder(T, ExitReason.TAKE_PROFIT, Decimal("0.51"), Decimal("0.51"), Decimal("0.01")))
    rig.desk.run_once(rig.sender)
    assert rig.orders[0].price == Decimal("0.50"), "entered at 0.50"


def test_when_many_trigger_frame_by_frame_the_budget_is_for_the_largest_losses() -> None:
    rig = Rig()
    for ticker, count in COUNTS_OF_MANY.items():
        rig.hold(ticker, count)
    for ticker in COUNTS_OF_MANY:  # the smallest first, one after another, with no time to send between
        rig.trigger(ticker)
    rig.clock.advance(GATHER_S)
    while rig.desk.run_once(rig.sender) and len(rig.orders) < 10:
        rig.clock.advance(0.0)
    assert [r.count for r in rig.orders] == [Decimal(n) for n in range(30, 20, -1)]


def test_a_few_exits_wait_for_nobody() -> None:
    rig = Rig()
    tickers = [f"KXMANY-{i}" for i in range(GATHER_FROM - 1)]
    for ticker in tickers:
        rig.hold(ticker, "10")
        rig.trigger(ticker)
    for _ in tickers:
        assert rig.desk.run_once(rig.sender)
    assert len(rig.orders) == len(tickers)


# --- with threads -----------------------------------------------------------------------------------


class HeldSender(FakeSender):
    """Sends when the test lets it."""

    def __init__(self, exchange: FakeExchange) -> None:
        super().__init__(exchange)
        self.is_sending = threading.Event()
        self.may_answer = threading.Event()

    def create_order(self, request: OrderRequest):  # type: ignore[no-untyped-def]
        self.is_sending.set()
        assert self.may_answer.wait(5)
        return super().create_order(request)


class HeldExchange(FakeExchange):
    """Opens one `HeldSender`; opening fails as often as it is told to."""

    def __init__(self, clock: FakeClock, failures: int = 0) -> None:
        super().__init__(clock)
        self.sender = HeldSender(self)
        self.failures = failures

    def open_sender(self) -> FakeSender:
        if self.failures:
            self.failures -= 1
            raise OSError("no file descriptor left")
        return self.sender


class RealWaitClock(FakeClock):
    """Waits for events in real time, so that threads meet; its own time moves only when told."""

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        self.advance(0.001)
        return event.wait(min(timeout_s, 0.01))


def threaded(failures: int = 0) -> tuple[ExitDesk, HeldExchange]:
    clock = RealWaitClock()
    exchange = HeldExchange(clock, failures)
    exchange.holds(T, "10")
    exchange.prices.set(T, "0.40")
    portfolio = Portfolio(clock)
    portfolio.apply_read(exchange.positions(), clock.monotonic())
    desk = ExitDesk(exchange, portfolio, exchange.prices.get, lambda: None, clock, workers=1)
    return desk, exchange


def trigger(desk: ExitDesk) -> bool:
    return desk.trigger(ExitOrder(T, ExitReason.STOP_LOSS, Decimal("0.40"), None, Decimal("0.01")))


def test_stop_finishes_what_is_in_flight_and_takes_nothing_new() -> None:
    desk, exchange = threaded()
    desk.start()
    assert trigger(desk)
    assert exchange.sender.is_sending.wait(5)
    assert desk.views()[-1].state == "sending"
    finished: list[bool] = []
    stopping = threading.Thread(target=lambda: finished.append(desk.stop(5.0)))
    stopping.start()
    exchange.sender.may_answer.set()
    stopping.join(5)
    assert finished == [True]
    assert exchange.held[T] == 0
    assert exchange.sender.is_closed
    assert not trigger(desk)


def test_a_worker_survives_a_connection_that_cannot_be_opened() -> None:
    desk, exchange = threaded(failures=2)
    exchange.sender.may_answer.set()
    desk.start()
    assert trigger(desk)
    assert exchange.sender.is_sending.wait(5)
    assert desk.stop(5.0)
    assert exchange.held[T] == 0


def test_a_desk_says_whether_its_workers_live() -> None:
    desk, _ = threaded()
    assert not desk.is_alive
    desk.start()
    assert desk.is_alive
    desk.stop(1.0)
    assert not desk.is_alive


# --- any script ---------------------------------------------------------------------------------------

COUNTS = st.sampled_from(["0", "0.5", "1", "3", "7", None])
STEPS = st.one_of(
    st.builds(Fill, COUNTS),
    st.builds(Lost, COUNTS, st.booleans(), st.integers(0, 8)),
    st.builds(
        Reject,
        st.sampled_from([400, 401, 404, 409, 410]),
        st.sampled_from(
            ["trading_is_paused", "order_already_exists", "invalid_price", "insufficient_balance", "x", ""]
        ),
    ),
    st.just(RateLimited()),
    st.just(NotSent()),
    st.just(Crash()),
)


@settings(max_examples=120, deadline=None)
@given(
    scripts=st.tuples(st.lists(STEPS, max_size=8), st.lists(STEPS, max_size=8)),
    signed=st.tuples(st.sampled_from(["10", "-10", "2.55"]), st.sampled_from(["4", "-7.5"])),
    knows_as_of=st.booleans(),
)
def test_whatever_the_exchange_answers_the_ledger_ends_flat_and_never_flips(
    scripts: tuple[list[Step], list[Step]], signed: tuple[str, str], knows_as_of: bool
) -> None:
    rig = Rig()
    rig.exchange.as_of_lag_s = 0.0 if knows_as_of else None
    for ticker, script, count in zip((T, OTHER), scripts, signed, strict=True):
        rig.hold(ticker, count)
        rig.exchange.script[ticker].extend(script)
        rig.trigger(ticker)
    for _ in range(400):
        rig.drive(1)
        for ticker, count in zip((T, OTHER), signed, strict=True):
            assert 0 <= rig.exchange.held[ticker] / Decimal(count) <= 1, "sold more than was held"
        if not rig.desk.is_active(T) and not rig.desk.is_active(OTHER):
            break
    for ticker in (T, OTHER):
        assert rig.exchange.held[ticker] == 0
        assert rig.portfolio.get(ticker) is None
    assert len(rig.orders) <= 60


class StuckExchange(FakeExchange):
    """Every order of market `T` hangs until released; the others are answered at once."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.release = threading.Event()
        self.hanging = threading.Semaphore(0)

    def open_sender(self) -> FakeSender:
        return StuckSender(self)


class StuckSender(FakeSender):
    def __init__(self, exchange: StuckExchange) -> None:
        super().__init__(exchange)
        self._stuck = exchange

    def create_order(self, request: OrderRequest) -> OrderAck:
        if request.ticker.startswith("KXSTUCK"):
            self._stuck.hanging.release()
            assert self._stuck.release.wait(10)
        return super().create_order(request)


def test_orders_that_hang_hold_up_no_other_market() -> None:
    clock = RealWaitClock()
    exchange = StuckExchange(clock)
    stuck = [f"KXSTUCK-{i}" for i in range(6)]
    for ticker in [*stuck, "KXFREE-1"]:
        exchange.holds(ticker, "10")
        exchange.prices.set(ticker, "0.40")
    portfolio = Portfolio(clock)
    portfolio.apply_read(exchange.positions(), clock.monotonic())
    desk = ExitDesk(exchange, portfolio, exchange.prices.get, lambda: None, clock, workers=2)
    desk.start()
    try:
        for ticker in stuck:
            assert desk.trigger(order_for(ticker))
            assert exchange.hanging.acquire(timeout=5), "each gets a worker, though only two stand ready"
        assert desk.trigger(order_for("KXFREE-1"))
        give_up = 500
        while exchange.held["KXFREE-1"] and give_up:
            threading.Event().wait(0.01)
            give_up -= 1
        assert exchange.held["KXFREE-1"] == 0
    finally:
        exchange.release.set()
        assert desk.stop(5.0)
    assert all(exchange.held[t] == 0 for t in stuck)


def order_for(ticker: str) -> ExitOrder:
    return ExitOrder(ticker, ExitReason.STOP_LOSS, Decimal("0.40"), None, Decimal("0.01"))


def test_a_trigger_that_overtakes_the_end_of_its_own_exit_starts_no_second_one() -> None:
    clock = FakeClock()
    exchange = FakeExchange(clock)
    exchange.holds(T, "10")
    exchange.prices.set(T, "0.40")
    portfolio = Portfolio(clock)
    portfolio.apply_read(exchange.positions(), clock.monotonic())
    ids = iter(("first", "second"))

    def new_id() -> str:
        """Asked between the look at the position and the start: another trigger's whole exit fits in."""
        own = next(ids)
        if own == "first":
            assert trigger(desk)
            assert desk.run_once(exchange.open_sender())
        return own

    desk = ExitDesk(exchange, portfolio, exchange.prices.get, lambda: None, clock, new_id=new_id)
    assert not trigger(desk)
    assert [view.id for view in desk.views()] == ["second"]
    assert exchange.held[T] == 0
