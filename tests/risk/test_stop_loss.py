"""The checker, pass by pass: real cache, portfolio and desk, no thread, time told by the test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from decimal import Decimal

import pytest

from base.app.price_reads import PriceReads
from base.execution.exits import ExitDesk, ExitOrder
from base.kalshi.feed import FeedState
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.model.events import Lifecycle, LifecycleKind
from base.model.market import Market, MarketStatus, OutcomeSide, PriceSource, Quote
from base.model.position import Position
from base.model.rules import Exit, ExitReason, ExitRule, Hold, HoldReason
from base.risk.price_needs import Refresh, Why
from base.risk.stop_loss import GUARDED_LOOK_S, REMIND_S, CheckerSettings, StopLossChecker
from base.store.portfolio import AGREEMENT_S, Portfolio
from base.store.records import (
    DecisionRecord,
    EpisodeRecord,
    PositionRecord,
    Record,
    Remembered,
    RuleStateRecord,
)
from tests.fakes.clock import FakeClock
from tests.fakes.feed import FakeFeed
from tests.fakes.gateway import FakeExchange, FakeSender, KilledHere
from tests.fakes.journal import MemoryJournal
from tests.fakes.positions import by_ticker

A, B, C = "KXA-26NOV22-T1", "KXB-26NOV22-T1", "KXC-26NOV22-T1"
YES, NO = OutcomeSide.YES, OutcomeSide.NO
STOP_25 = ExitRule(stop_loss_pct=Decimal(25))
INTERVAL_S = 2.0
STALE_S = 60.0


class Rig:
    """A checker with everything it looks at; its exits are triggered and never sent."""

    def __init__(
        self,
        *positions: Position,
        rule: ExitRule = STOP_25,
        remembered: Iterable[RuleStateRecord] = (),
        resumed: Iterable[EpisodeRecord] = (),
        positions_before: Iterable[PositionRecord] = (),
    ) -> None:
        self.is_halted = False
        self.records: list[Record] = []
        self.clock = FakeClock()
        self.cache = WebsocketPriceCache(self.clock, STALE_S)
        self.portfolio = Portfolio(self.clock)
        self.portfolio.restore(Remembered(positions=tuple(positions_before)))
        self.feed = FakeFeed()
        self.rules: dict[str, ExitRule] = {}
        self.rule = rule
        self.requests: list[Refresh] = []
        self.sweeps = 0
        self.exchange = FakeExchange(self.clock)
        self.desk = ExitDesk(
            self.exchange, self.portfolio, self.exchange.prices.get, lambda: None, self.clock
        )
        self.on_rule: Callable[[str], None] = lambda ticker: None
        self.checker = StopLossChecker(
            CheckerSettings(INTERVAL_S, STALE_S, Decimal("0.01")),
            self.cache,
            self.portfolio,
            self.feed,
            self._rule_of,
            self.desk,
            self.requests.append,
            self._swept,
            self.clock,
            self,
            remembered,
            resumed,
            lambda: self.is_halted,
        )
        self.holds(*positions)

    def _rule_of(self, ticker: str) -> ExitRule:
        self.on_rule(ticker)
        return self.rules.get(ticker, self.rule)

    def write(self, records: Iterable[Record]) -> None:
        """The rig is the journal too."""
        self.records += records

    def commit(self, records: Iterable[Record]) -> bool:
        self.write(records)
        return True

    def rule_states(self) -> list[RuleStateRecord]:
        return [r for r in self.records if isinstance(r, RuleStateRecord)]

    def _swept(self) -> None:
        self.sweeps += 1

    def holds(self, *positions: Position) -> None:
        """What is held from now on; two reads, because one does not prove that something is gone."""
        now = self.clock.monotonic()
        for started_at in (now - AGREEMENT_S, now):
            self.portfolio.apply_read(by_ticker(positions), started_at)
        held = [p.ticker for p in positions]
        self.cache.require(held, held)
        self.feed.confirmed = set(held)
        self.feed.required = frozenset(held)

    def price(
        self,
        ticker: str,
        bid: str,
        ask: str | None = None,
        *,
        size: str = "100",
        source: PriceSource = PriceSource.WS,
        status: MarketStatus = MarketStatus.ACTIVE,
    ) -> None:
        known = self.cache.get(ticker)
        if known is None or known.market.status is not status:
            self.cache.apply_market(Market(ticker, status=status))
        self.cache.apply(
            Quote(
                ticker,
                Decimal(bid),
                Decimal(bid) + Decimal("0.01") if ask is None else Decimal(ask),
                Decimal(size),
                Decimal(size),
                None,
                0,
                self.clock.monotonic(),
                self.clock.now(),
                source,
                1,
            )
        )

    def sweep(self) -> None:
        self.clock.advance(INTERVAL_S)
        self.checker.run_once()

    def reason(self, ticker: str) -> str:
        """Why it is unprotected, "" when it is protected."""
        return dict(self.checker.coverage().unprotected).get(ticker, "")

    def decision(self, ticker: str) -> object:
        rows = self.checker.history(ticker)
        assert rows
        return rows[-1].evaluation.decision


def yes(ticker: str = A, entry: str = "0.52", count: str = "10") -> Position:
    return Position(ticker, YES, Decimal(count), Decimal(entry))


def no(ticker: str = A, entry: str = "0.52", count: str = "10") -> Position:
    return Position(ticker, NO, Decimal(count), Decimal(entry))


# --- triggers ---------------------------------------------------------------------------------------


def test_a_change_is_looked_at_at_once_and_not_at_the_next_sweep() -> None:
    rig = Rig(yes())
    rig.price(A, "0.50")
    rig.sweep()
    assert not rig.desk.is_active(A)
    rig.price(A, "0.39")
    assert rig.cache.changed.is_set()
    rig.clock.advance(0.001)
    rig.checker.run_once()
    assert rig.desk.is_active(A)
    assert rig.sweeps == 1


@pytest.mark.parametrize(
    ("position", "bid", "ask", "fires"),
    [
        (yes(), "0.39", "0.41", True),
        (yes(), "0.3901", "0.41", False),
        (no(), "0.59", "0.61", True),
        (no(), "0.59", "0.6099", False),
    ],
    ids=["yes at the stop", "yes just above", "no at the stop: the mirror", "no just above"],
)
def test_the_stop_sits_at_a_quarter_under_entry(position: Position, bid: str, ask: str, fires: bool) -> None:
    rig = Rig(position)
    rig.price(A, bid, ask)
    rig.sweep()
    assert rig.desk.is_active(A) is fires


def test_a_sweep_alone_finds_what_no_change_told_of() -> None:
    rig = Rig(yes())
    rig.price(A, "0.30")
    rig.cache.take_changes()  # the wake-up is lost
    rig.sweep()
    assert rig.desk.is_active(A)


def test_sweep_soon_does_not_wait_for_the_interval() -> None:
    rig = Rig(yes())
    rig.price(A, "0.50")
    rig.sweep()
    rig.rule = ExitRule(stop_loss_price=Decimal("0.51"))  # the rules were reloaded
    rig.checker.sweep_soon()
    assert rig.cache.changed.is_set()
    rig.checker.run_once()
    assert rig.desk.is_active(A)


def test_an_exit_never_asks_less_than_its_rule_allows() -> None:
    rig = Rig(yes(), rule=replace(STOP_25, hold_below_price=Decimal("0.20")))
    rig.price(A, "0.30")
    rig.sweep()
    assert rig.desk.is_active(A)
    rig.exchange.prices.set(A, "0.19")  # it falls on before the order is priced
    rig.desk.run_once(rig.exchange.open_sender())
    assert rig.exchange.requests == []
    rig.exchange.prices.set(A, "0.21")
    rig.clock.advance(2)
    rig.desk.run_once(rig.exchange.open_sender())
    assert [r.price for r in rig.exchange.requests] == [Decimal("0.20")]


def test_a_waiting_exit_goes_on_at_the_change_that_it_waits_for() -> None:
    rig = Rig(yes())
    rig.price(A, "0.30")
    rig.exchange.prices.set(A, "0.00", "1.00", size="0")
    rig.sweep()
    sender = rig.exchange.open_sender()
    rig.desk.run_once(sender)
    assert rig.desk.views()[-1].why == "no_bid"
    assert not rig.desk.run_once(sender), "it waits a second"
    rig.exchange.prices.set(A, "0.29")
    rig.price(A, "0.29")
    rig.checker.run_once()
    assert rig.desk.run_once(sender)
    assert len(rig.exchange.requests) == 1


def test_a_price_below_what_the_rule_allows_is_held_and_says_so() -> None:
    rig = Rig(yes(), rule=replace(STOP_25, hold_below_price=Decimal("0.20")))
    rig.price(A, "0.15")
    rig.sweep()
    assert not rig.desk.is_active(A)
    assert rig.decision(A) == Hold(HoldReason.HOLD_BELOW, rig.decision(A).detail)  # type: ignore[attr-defined]


def test_an_exit_that_a_rule_holds_back_is_said_once_and_again_after_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig(yes(), rule=replace(STOP_25, hold_below_price=Decimal("0.20")))
    rig.price(A, "0.15")
    for _ in range(3):
        rig.sweep()
    assert events(caplog).count("exit_held") == 1
    rig.clock.advance(REMIND_S)
    rig.price(A, "0.15")
    rig.sweep()
    assert events(caplog).count("exit_held") == 2


def test_no_total_is_told_before_it_is_known_what_a_restart_still_holds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig()
    rig.portfolio.restore(Remembered(positions=(held_before(A, rig.clock.now()),)))
    with caplog.at_level("INFO"):
        rig.sweep()
        assert rig.portfolio.unshown == (A,)
        assert "coverage" not in events(caplog), "0/0 would say that nothing is held"
        rig.holds()
        rig.sweep()
        assert "coverage" in events(caplog)


# --- one position's trouble -------------------------------------------------------------------------


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.event_fields["event"] for record in caplog.records if hasattr(record, "event_fields")]


def broken(ticker: str) -> Callable[[str], None]:
    def raise_for(asked: str) -> None:
        if asked == ticker:
            raise ZeroDivisionError("a bug in the rules of one market")

    return raise_for


def test_one_positions_exception_does_not_cost_another_its_check() -> None:
    rig = Rig(yes(A), yes(B), yes(C))
    for ticker in (A, B, C):
        rig.price(ticker, "0.30")
    rig.on_rule = broken(A)
    rig.sweep()
    assert rig.desk.is_active(B)
    assert rig.desk.is_active(C)
    assert rig.sweeps == 1
    assert rig.reason(A) == "not_checked"
    assert rig.checker.coverage().open == 3


def test_trouble_after_the_evaluation_stays_with_its_position() -> None:
    rig = Rig(yes(A), yes(B))
    rig.price(A, "0.30")
    rig.price(B, "0.30")
    asked: list[str] = []

    def raise_second_time(ticker: str) -> None:
        asked.append(ticker)
        if ticker == A and asked.count(A) == 2:
            raise ZeroDivisionError("between the decision and the exit")

    rig.on_rule = raise_second_time
    rig.sweep()
    assert rig.desk.is_active(B)
    rig.on_rule = lambda ticker: None
    rig.sweep()
    assert rig.desk.is_active(A), "the next sweep hands it over"


def test_a_position_that_cannot_be_evaluated_any_more_counts_as_not_checked() -> None:
    rig = Rig(yes(A))
    rig.price(A, "0.50")
    rig.sweep()
    assert rig.reason(A) == ""
    rig.portfolio.apply_read(by_ticker([yes(A, entry="NaN")]), rig.clock.monotonic())
    rig.sweep()
    assert rig.reason(A) != ""


# --- prices that are missing ------------------------------------------------------------------------


def test_what_is_missing_is_asked_for_in_one_batch() -> None:
    rig = Rig(yes(A), yes(B), yes(C))
    rig.price(A, "0.50")
    rig.sweep()
    assert rig.requests == [Refresh((B, C), Why.MISSING)]


def test_a_dead_feed_asks_for_everything_at_once() -> None:
    rig = Rig(yes(A), yes(B))
    rig.price(A, "0.50")
    rig.price(B, "0.50")
    rig.feed.state = FeedState.DOWN
    rig.sweep()
    assert rig.requests == [Refresh((A, B), Why.FEED_DOWN)]


def test_a_quiet_confirmed_market_is_acted_on_however_old_its_quote_is() -> None:
    rig = Rig(yes())
    rig.price(A, "0.50")
    rig.clock.advance(3_600)
    rig.sweep()
    assert rig.reason(A) == ""
    rig.feed.state = FeedState.DOWN
    rig.sweep()
    assert rig.reason(A) == "stale_price"
    rig.price(A, "0.30", source=PriceSource.REST)
    rig.sweep()
    assert rig.desk.is_active(A), "a price read through REST carries the stop"


class PricedRig(Rig):
    """Answers the checker's requests as the thread `price-reads` and the exchange would."""

    def __init__(self, count: int) -> None:
        super().__init__(*[yes(f"KX{i:03d}-26NOV22-T1") for i in range(count)])
        self.reads: list[float] = []
        self.price_reads = PriceReads(self._read, self.cache, self.feed.is_confirmed, list, self.clock)

    def _read(self, tickers: object) -> int:
        wanted = list(tickers)  # type: ignore[call-overload]
        self.reads.append(self.clock.monotonic())
        for ticker in wanted:
            self.price(ticker, "0.50", source=PriceSource.REST)
        return len(wanted)

    def run(self, minutes: int, *, ticks: bool = False) -> int:
        """Reads in the busiest minute."""
        for _ in range(int(minutes * 60 / INTERVAL_S)):
            if ticks:
                for ticker in self.cache.required:
                    self.price(ticker, "0.50")
            self.sweep()
            for request in self.requests:
                self.price_reads.request(request)
            self.requests.clear()
            self.price_reads.run_once()
        return max((sum(at <= r < at + 60 for r in self.reads) for at in self.reads), default=0)


@pytest.mark.parametrize(
    ("state", "ticks", "most"),
    [(FeedState.LIVE, False, 2), (FeedState.LIVE, True, 0), (FeedState.DOWN, False, 30)],
    ids=["quiet", "ticking", "feed down"],
)
def test_price_reads_of_many_positions_stay_in_their_budget(state: FeedState, ticks: bool, most: int) -> None:
    rig = PricedRig(30)
    for i, ticker in enumerate(sorted(rig.cache.required)):
        rig.clock.advance(i / 10)  # their first prices come at different times
        rig.price(ticker, "0.50")
    rig.feed.state = state
    assert rig.run(5, ticks=ticks) <= most
    assert rig.checker.coverage().protected == 30


# --- coverage ---------------------------------------------------------------------------------------


def test_nobody_bids_is_an_instant_for_ten_seconds_and_then_unprotected() -> None:
    rig = Rig(yes())
    rig.price(A, "0.00", "1.00", size="0")
    rig.sweep()
    assert not rig.desk.is_active(A), "an empty book is not a price of nothing"
    assert rig.reason(A) == ""
    for _ in range(6):
        rig.sweep()
    assert rig.reason(A) == "no_bid"
    rig.price(A, "0.50")
    rig.sweep()
    assert rig.reason(A) == ""


def test_a_paused_market_is_open_and_unprotected_and_its_stop_fires_when_it_reopens() -> None:
    rig = Rig(yes())
    rig.price(A, "0.30", status=MarketStatus.INACTIVE)
    rig.sweep()
    assert rig.reason(A) == "paused"
    assert rig.checker.coverage().open == 1
    assert not rig.desk.is_active(A)
    rig.cache.take_changes()
    rig.cache.apply_lifecycle(Lifecycle(A, LifecycleKind.ACTIVATED, 1, 1, status=MarketStatus.ACTIVE))
    rig.checker.run_once()
    assert rig.desk.is_active(A)


def test_a_market_whose_close_time_has_passed_is_neither_open_nor_sold() -> None:
    rig = Rig(yes())
    rig.price(A, "0.50")
    rig.cache.apply_market(Market(A, status=MarketStatus.ACTIVE, close_time=rig.clock.now() + INTERVAL_S / 2))
    rig.price(A, "0.10")
    rig.sweep()
    assert not rig.desk.is_active(A)
    assert rig.checker.coverage().open == 0


def test_a_checker_that_makes_no_pass_leaves_nothing_protected() -> None:
    rig = Rig(yes())
    rig.price(A, "0.50")
    rig.sweep()
    assert rig.reason(A) == ""
    rig.clock.advance(3 * INTERVAL_S + 0.1)
    assert rig.reason(A) == "not_checked"


# --- memory -----------------------------------------------------------------------------------------

TRAILING = ExitRule(trailing_stop_price=Decimal("0.10"))


@pytest.mark.parametrize(
    ("position", "prices"),
    [(yes(entry="0.50"), ("0.80", "0.50")), (no(entry="0.50"), ("0.19", "0.49"))],
    ids=["yes", "no"],
)
def test_a_position_opened_anew_does_not_inherit_the_high_water_mark(
    position: Position, prices: tuple[str, str]
) -> None:
    rig = Rig(position, rule=TRAILING)
    rig.price(A, prices[0])  # worth 0.80 of its side
    rig.sweep()
    rig.holds()
    rig.sweep()
    rig.holds(position)
    rig.price(A, prices[1])  # 0.50: 30 cents under the old peak
    rig.sweep()
    assert not rig.desk.is_active(A)


def test_a_position_reopened_between_two_looks_does_not_inherit_it_either() -> None:
    rig = Rig(yes(entry="0.50"), rule=TRAILING)
    rig.price(A, "0.80")
    rig.sweep()
    for started_at in (rig.clock.monotonic() - AGREEMENT_S, rig.clock.monotonic()):
        rig.portfolio.apply_read({}, started_at)
    rig.holds(yes(entry="0.50"))
    rig.price(A, "0.50")
    rig.sweep()
    assert not rig.desk.is_active(A)


def test_the_trailing_stop_follows_the_peak_and_fires_under_it() -> None:
    rig = Rig(yes(entry="0.50"), rule=TRAILING)
    for bid in ("0.50", "0.80", "0.71"):
        rig.price(A, bid)
        rig.sweep()
    assert not rig.desk.is_active(A)
    rig.price(A, "0.70")
    rig.sweep()
    assert rig.desk.is_active(A)


PEAK = RuleStateRecord(A, YES, Decimal("0.50"), Decimal("0.80"), True, 0.0)


@pytest.mark.parametrize(
    ("position", "is_taken_up"),
    [
        (yes(entry="0.50"), True),
        (yes(entry="0.5004"), True),
        (yes(entry="0.62"), False),
        (no(entry="0.50"), False),
    ],
    ids=["the same position", "but for rounding", "bought anew at another price", "turned to the other side"],
)
def test_a_peak_survives_a_restart_for_the_same_position_only(position: Position, is_taken_up: bool) -> None:
    rig = Rig(position, rule=TRAILING, remembered=[PEAK])
    rig.price(A, "0.70" if position.outcome_side is YES else "0.30")
    rig.sweep()
    assert rig.desk.is_active(A) is is_taken_up, "ten cents under the peak of the run before"


def test_what_the_rules_remember_is_written_when_it_changes_and_only_then() -> None:
    rig = Rig(yes(entry="0.50"), rule=TRAILING)
    for bid in ("0.60", "0.60", "0.59", "0.80"):
        rig.price(A, bid)
        rig.sweep()
    assert [r.best_exit_value for r in rig.rule_states()] == [Decimal("0.60"), Decimal("0.80")]
    rig.holds(yes(entry="0.55", count="12"))
    rig.sweep()
    assert rig.rule_states()[-1].entry_price == Decimal("0.55"), "a grown position is known by its new entry"


def test_each_new_verdict_is_written_once() -> None:
    rig = Rig(yes(entry="0.50"))
    for bid in ("0.50", "0.49", "0.20", "0.20"):
        rig.price(A, bid)
        rig.sweep()
    decisions = [(r.verdict, r.why) for r in rig.records if isinstance(r, DecisionRecord)]
    assert decisions == [("hold", "within_rules"), ("exit", "stop_loss")]


def test_exits_of_one_look_are_handed_over_together_largest_loss_first() -> None:
    rig = Rig(yes(A, count="5"), yes(B, count="500"), yes(C, count="50"))
    for ticker in (A, B, C):
        rig.exchange.holds(ticker, "500")
        rig.exchange.prices.set(ticker, "0.20")
        rig.price(ticker, "0.20")
    rig.sweep()
    sender = rig.exchange.open_sender()
    while rig.desk.run_once(sender):
        rig.clock.advance(0.0)
    assert [r.ticker for r in rig.exchange.requests] == [B, C, A]


def test_history_counts_equal_looks_as_one_row_and_outlives_the_position() -> None:
    rig = Rig(yes())
    rig.price(A, "0.50")
    for _ in range(3):
        rig.sweep()
    rig.price(A, "0.51")
    rig.sweep()
    rows = rig.checker.history(A)
    assert rows is not None
    assert [r.repeats for r in rows] == [3, 1]
    rig.holds()
    rig.sweep()
    assert rig.checker.history(A) == rows, "why it was left is asked afterwards"
    assert rig.checker.history("KXNEVER-1") is None


# --- the thread -------------------------------------------------------------------------------------


def test_the_thread_starts_sweeps_and_stops() -> None:
    rig = Rig(yes())
    rig.price(A, "0.30")
    rig.checker.start()
    for _ in range(200):
        if rig.desk.is_active(A):
            break
        rig.checker.sweep_soon()
        rig.checker.join(0.01)
    rig.checker.stop()
    assert rig.checker.join(5)
    assert rig.desk.is_active(A)
    assert rig.checker.last_pass_at is not None


def test_a_guard_ends_on_time_though_no_other_price_comes() -> None:
    rig = Rig(yes(), rule=replace(STOP_25, confirm_ms=100))
    rig.price(A, "0.50")
    rig.sweep()
    rig.price(A, "0.30")
    rig.checker.run_once()
    assert not rig.desk.is_active(A)
    assert rig.checker.next_look_at == rig.clock.monotonic() + GUARDED_LOOK_S
    for _ in range(2):
        rig.clock.advance(rig.checker.next_look_at - rig.clock.monotonic())
        rig.checker.run_once()
    assert rig.desk.is_active(A)
    assert rig.checker.next_look_at > rig.clock.monotonic() + GUARDED_LOOK_S, "nothing is guarded any more"


def test_a_guarded_position_whose_look_fails_is_not_looked_at_without_pause() -> None:
    rig = Rig(yes(), rule=replace(STOP_25, confirm_ms=1000))
    rig.price(A, "0.30")
    rig.sweep()
    rig.clock.advance(GUARDED_LOOK_S)
    rig.on_rule = broken(A)
    rig.checker.run_once()
    assert rig.checker.next_look_at == rig.clock.monotonic() + GUARDED_LOOK_S


def test_history_tells_since_when_a_row_stands_and_what_was_held() -> None:
    rig = Rig(yes())
    rig.price(A, "0.50")
    rig.sweep()
    first_at = rig.clock.now()
    rig.sweep()
    rows = rig.checker.history(A)
    assert rows is not None
    [row] = rows
    assert (row.since, row.evaluation.at, row.repeats) == (first_at, first_at + INTERVAL_S, 2)
    assert row.position == rig.portfolio.get(A)


def test_reloaded_rules_show_their_levels_at_once() -> None:
    rig = Rig(yes(A), yes(B))
    rig.price(A, "0.50")
    rig.price(B, "0.50")
    rig.sweep()
    rig.rule = ExitRule(stop_loss_price=Decimal("0.45"), take_profit_price=Decimal("0.90"))
    rig.checker.sweep_soon()
    rig.checker.run_once()
    shown = [c.evaluation for c in rig.checker.checked_positions()]
    assert [(e.stop_price, e.take_profit_price) for e in shown if e is not None] == [
        (Decimal("0.45"), Decimal("0.90"))
    ] * 2
    rows = rig.checker.history(A)
    assert rows is not None
    assert [row.evaluation.stop_price for row in rows] == [Decimal("0.39"), Decimal("0.45")]


# --- sets and the kill switch -----------------------------------------------------------------------


def test_a_part_of_a_set_is_left_by_nothing_and_comes_under_its_rule_when_the_set_ends() -> None:
    rig = Rig(yes(A), yes(B))
    rig.rules[A] = replace(STOP_25, hedged=True)
    rig.price(A, "0.10")
    rig.price(B, "0.50")
    rig.sweep()
    assert not rig.desk.is_active(A)
    assert rig.reason(A) == "hedged"
    coverage = rig.checker.coverage()
    assert (coverage.open, coverage.protected, coverage.is_complete) == (1, 1, True)
    rig.rules[A] = STOP_25
    rig.sweep()
    assert rig.desk.is_active(A)


def test_while_the_kill_switch_is_on_nothing_is_protected() -> None:
    rig = Rig(yes(A), yes(B))
    rig.rules[B] = replace(STOP_25, protect=False)
    rig.price(A, "0.50")
    rig.price(B, "0.50")
    rig.sweep()
    assert rig.checker.coverage().is_complete
    rig.is_halted = True
    assert rig.reason(A) == "halted"
    assert (rig.checker.coverage().open, rig.checker.coverage().protected) == (1, 0)
    rig.is_halted = False
    assert rig.checker.coverage().is_complete


# --- event groups -----------------------------------------------------------------------------------

B1, B2, B3 = "KXE-26NOV22-B1", "KXE-26NOV22-B2", "KXE-26NOV22-B3"
ALONG = replace(STOP_25, exit_with_event=True)
GUARDED_ALONG = replace(ALONG, min_bid_size=Decimal(500), no_stop_before_close_s=1e6)


class Quoted(Rig):
    """Everything held is worth 0.50 and was looked at once."""

    def __init__(self, *positions: Position, **others: object) -> None:
        super().__init__(*positions, **others)  # type: ignore[arg-type]
        for each in positions:
            self.price(each.ticker, "0.50")
        self.sweep()


def group_exit(rig: Rig, ticker: str) -> bool:
    decision = rig.decision(ticker)
    return isinstance(decision, Exit) and decision.reason is ExitReason.EVENT_GROUP


def test_when_one_position_of_an_event_is_stopped_the_rest_goes_in_the_same_look() -> None:
    rig = Quoted(yes(B1), no(B2), yes(B3), yes(A), rule=ALONG)
    rig.rules[B1] = STOP_25  # the one that is left need not go along itself
    rig.rules[B3] = STOP_25
    rig.price(B1, "0.30")
    rig.checker.run_once()
    assert [t for t in (B1, B2, B3, A) if rig.desk.is_active(t)] == [B1, B2]
    assert group_exit(rig, B2)
    decision = rig.decision(B2)
    assert isinstance(decision, Exit)
    assert decision.detail == f"{B1} was left by its stop_loss"


@pytest.mark.parametrize(
    ("rule", "bid"),
    [
        pytest.param(ExitRule(take_profit_price=Decimal("0.90")), "0.92", id="take-profit"),
        pytest.param(ExitRule(exit_after_entry_s=1.0), "0.51", id="time stop"),
    ],
)
def test_every_rule_takes_the_event_along(rule: ExitRule, bid: str) -> None:
    rig = Rig(yes(B1), yes(B2), rule=ALONG)
    rig.rules[B1] = STOP_25
    rig.price(B2, "0.50")
    rig.price(B1, "0.50")
    rig.sweep()
    rig.rules[B1] = rule
    rig.price(B1, bid)
    rig.sweep()
    assert rig.desk.is_active(B1)
    assert group_exit(rig, B2)


def test_neither_a_guard_nor_a_resting_stop_delays_what_goes_along() -> None:
    rig = Quoted(yes(B1), yes(B2), rule=GUARDED_ALONG)
    for ticker in (B1, B2):
        close_time = rig.clock.now() + 3_600
        rig.cache.apply_market(Market(ticker, status=MarketStatus.ACTIVE, close_time=close_time))
    rig.rules[B1] = STOP_25
    rig.price(B1, "0.30")
    rig.sweep()
    assert rig.desk.is_active(B2)


def test_what_has_no_price_goes_along_with_its_first_one() -> None:
    rig = Quoted(yes(B1), yes(B2), rule=ALONG)
    rig.price(B2, "0.00", "1.00", size="0")
    rig.price(B1, "0.30")
    rig.sweep()
    assert not rig.desk.is_active(B2)
    rig.price(B1, "0.60")  # the first one's price has come back: the mark stands
    rig.price(B2, "0.55")
    rig.checker.run_once()
    assert rig.desk.is_active(B2)


def test_what_is_sold_elsewhere_or_refused_by_the_desk_takes_nothing_along() -> None:
    rig = Quoted(yes(B1), yes(B2), rule=ALONG)
    rig.holds(yes(B2))  # B1 was closed by hand
    rig.sweep()
    assert not rig.desk.is_active(B2)
    stopping = Quoted(yes(B1), yes(B2), rule=ALONG)
    stopping.desk.stop(0.0)
    stopping.price(B1, "0.30")
    stopping.sweep()
    assert isinstance(stopping.decision(B1), Exit)
    assert isinstance(stopping.decision(B2), Hold), "the exit of B1 was never begun"


def test_a_companion_opened_while_the_exit_is_under_way_is_a_new_bet() -> None:
    rig = Quoted(yes(B1), rule=ALONG)
    rig.price(B1, "0.30")
    rig.sweep()
    assert rig.desk.is_active(B1)
    rig.holds(yes(B1), yes(B2))
    rig.price(B2, "0.50")
    rig.sweep()
    rig.sweep()
    assert not rig.desk.is_active(B2)


def test_a_mark_is_of_this_very_position_and_does_not_pass_to_the_next_one() -> None:
    rig = Quoted(yes(B1), yes(B2), rule=ALONG)
    rig.price(B2, "0.00", "1.00", size="0")
    rig.price(B1, "0.30")
    rig.sweep()
    assert [r.leave_with for r in rig.rule_states() if r.ticker == B2][
        -1
    ] == f"{B1} was left by its stop_loss"
    rig.holds()
    rig.holds(yes(B2))
    rig.price(B2, "0.50")
    rig.sweep()
    assert not rig.desk.is_active(B2)
    assert [r.leave_with for r in rig.rule_states() if r.ticker == B2][-1] == ""


def test_a_companion_whose_rule_breaks_costs_the_others_nothing_and_keeps_its_mark() -> None:
    rig = Quoted(yes(B1), yes(B2), yes(B3), rule=ALONG)
    rig.price(B1, "0.30")
    asked: list[str] = []

    def fail_at_the_check(ticker: str) -> None:
        if ticker == B2:
            asked.append(ticker)
            if len(asked) == 2:  # the first time it is asked whether it goes along, then it is checked
                raise ZeroDivisionError("a bug in the rules of one market")

    rig.on_rule = fail_at_the_check
    rig.checker.run_once()
    assert rig.desk.is_active(B3)
    assert not rig.desk.is_active(B2)
    rig.on_rule = lambda ticker: None
    rig.price(B2, "0.51")
    rig.checker.run_once()
    assert rig.desk.is_active(B2)


def left(
    ticker: str, reason: ExitReason = ExitReason.STOP_LOSS, at: float = 1_790_000_000.0
) -> EpisodeRecord:
    """An exit that the run before has left open."""
    return EpisodeRecord(
        ticker, ticker, YES, reason, None, Decimal("0.30"), Decimal("0.01"), Decimal("0.52"), Decimal(10), at,
        "triggered",
    )  # fmt: skip


def held_before(ticker: str, opened_at: float) -> PositionRecord:
    return PositionRecord(ticker, YES, Decimal(10), Decimal("0.52"), opened_at)


BEFORE, SINCE = 1_789_999_000.0, 1_790_000_001.0


@pytest.mark.parametrize(
    ("record", "opened_at", "rule", "goes"),
    [
        pytest.param(left(B1), BEFORE, ALONG, True, id="killed between the exit and its mark"),
        pytest.param(left(B1), SINCE, ALONG, False, id="opened after that exit"),
        pytest.param(left(B1), BEFORE, STOP_25, False, id="its rule does not go along"),
        pytest.param(left(B1, ExitReason.EVENT_GROUP), BEFORE, ALONG, False, id="itself only went along"),
        pytest.param(left(A), BEFORE, ALONG, False, id="an exit of another event"),
        pytest.param(left(B2), BEFORE, ALONG, False, id="its own exit"),
    ],
)
def test_an_exit_of_the_run_before_takes_its_event_along(
    record: EpisodeRecord, opened_at: float, rule: ExitRule, goes: bool
) -> None:
    rig = Quoted(
        yes(B1), yes(B2), rule=rule, resumed=[record],
        positions_before=[held_before(B1, BEFORE), held_before(B2, opened_at)],
    )  # fmt: skip
    assert rig.desk.is_active(B2) is goes


def test_a_mark_survives_a_restart_without_the_exit_that_made_it() -> None:
    marked = RuleStateRecord(B2, YES, Decimal("0.52"), None, False, 0.0, f"{B1} was left by its stop_loss")
    rig = Quoted(yes(B2), rule=ALONG, remembered=[marked])
    assert group_exit(rig, B2)
    other_entry = Quoted(yes(B2, entry="0.60"), rule=ALONG, remembered=[marked])
    assert not other_entry.desk.is_active(B2)


class EagerDesk(ExitDesk):
    """Its worker is as fast as can be: an exit is over, and on disk, before the checker goes on."""

    sender: FakeSender
    journal: MemoryJournal

    def trigger_all(self, orders: Iterable[ExitOrder]) -> int:
        started = super().trigger_all(orders)
        while self.run_once(self.sender):
            continue
        self.journal.flush()
        return started


class Killed:
    """Two positions of one event over a journal, killed at the n-th point at which records are written."""

    def __init__(self, desk: type[ExitDesk]) -> None:
        self.journal = MemoryJournal()
        self.desk_type = desk
        self.points = 0
        self.clock = FakeClock()
        self.exchange = FakeExchange(self.clock)
        self.bids = {B1: "0.50", B2: "0.50"}
        for ticker in (B1, B2):
            self.exchange.holds(ticker, "10")

    def start(self) -> None:
        remembered = self.journal.remembered()
        self.cache = WebsocketPriceCache(self.clock, STALE_S)
        self.portfolio = Portfolio(self.clock, self.journal)
        self.portfolio.restore(remembered)
        feed = FakeFeed()
        feed.confirmed, feed.required = {B1, B2}, frozenset({B1, B2})
        self.cache.require([B1, B2], [B1, B2])
        self.desk = self.desk_type(
            self.exchange, self.portfolio, self.exchange.prices.get, self.read, self.clock,
            recorder=self.journal,
        )  # fmt: skip
        self.sender = FakeSender(self.exchange)
        if isinstance(self.desk, EagerDesk):
            self.desk.sender, self.desk.journal = self.sender, self.journal
        self.desk.resume(remembered)
        self.checker = StopLossChecker(
            CheckerSettings(INTERVAL_S, STALE_S, Decimal("0.01")), self.cache, self.portfolio, feed,
            lambda ticker: ALONG, self.desk, lambda refresh: None, lambda: None, self.clock, self.journal,
            remembered.rule_states, remembered.episodes,
        )  # fmt: skip
        self.read()

    def read(self) -> None:
        self.portfolio.apply_read(self.exchange.positions(), self.clock.monotonic())

    def run(self, passes: int = 3) -> None:
        for _ in range(passes):
            for ticker, bid in self.bids.items():
                self.exchange.prices.set(ticker, bid)
                self.cache.apply_market(Market(ticker, status=MarketStatus.ACTIVE))
                price = Decimal(bid)
                self.cache.apply(
                    Quote(
                        ticker, price, price + Decimal("0.01"), Decimal(100), Decimal(100), None, 0,
                        self.clock.monotonic(), self.clock.now(), PriceSource.WS, 1,
                    )
                )  # fmt: skip
            self.clock.advance(INTERVAL_S)
            self.read()
            self.checker.run_once()
            while self.desk.run_once(self.sender):
                continue

    def kill_at(self, point: int) -> None:
        def pass_point(name: str) -> None:
            self.points += 1
            if self.points == point:
                raise KilledHere

        self.journal.at_point = pass_point

    def restart(self) -> None:
        self.journal.crash()
        self.journal.at_point = lambda name: None
        self.clock.advance(5)
        self.bids[B1] = "0.50"  # it has come back meanwhile
        self.start()
        self.run(8)


@pytest.mark.parametrize(
    "desk", [ExitDesk, EagerDesk], ids=["the worker comes later", "the worker is faster"]
)
def test_whenever_it_is_killed_no_exit_that_was_begun_has_lost_its_companions(desk: type[ExitDesk]) -> None:
    outcomes = set()
    for point in range(1, 200):
        rig = Killed(desk)
        rig.start()
        rig.run(2)
        rig.journal.flush()
        rig.kill_at(point)
        rig.bids[B1] = "0.30"
        try:
            rig.run()
        except KilledHere:
            rig.restart()
        held = set(rig.exchange.positions())
        assert held in (set(), {B1, B2}, {B1}), f"killed at point {point}: B1 was left and B2 was not"
        outcomes.add(frozenset(held))
        if rig.points < point:
            break
    assert rig.points < point, "every point was tried"
    assert frozenset() in outcomes


def test_a_mark_that_could_not_be_looked_at_is_not_of_the_position_opened_after() -> None:
    rig = Quoted(yes(B1), yes(B2), rule=ALONG)
    asked: list[str] = []

    def fail_once_it_is_marked(ticker: str) -> None:
        if ticker == B2:
            asked.append(ticker)
            if len(asked) > 1:
                raise ZeroDivisionError("a bug in the rules of one market")

    rig.price(B1, "0.30")
    rig.on_rule = fail_once_it_is_marked
    rig.checker.run_once()
    rig.holds()
    rig.holds(yes(B2))
    rig.on_rule = lambda ticker: None
    rig.price(B2, "0.51")
    rig.sweep()
    assert not rig.desk.is_active(B2)


def test_a_mark_is_kept_though_the_look_that_took_it_failed() -> None:
    rig = Quoted(yes(B1), yes(B2), rule=ALONG)
    rig.rules[B2] = replace(ALONG, stop_loss_pct="broken")  # type: ignore[arg-type]
    rig.price(B1, "0.30")
    rig.checker.run_once()
    assert rig.desk.is_active(B1)
    del rig.rules[B2]
    rig.price(B2, "0.51")
    rig.checker.run_once()
    assert group_exit(rig, B2)


def test_where_all_of_an_event_is_stopped_at_once_each_is_looked_at_again_once() -> None:
    rig = Quoted(yes(B1), yes(B2), yes(B3), rule=ALONG)
    for ticker in (B1, B2, B3):
        rig.price(ticker, "0.30")
    rig.sweep()
    assert all(rig.desk.is_active(ticker) for ticker in (B1, B2, B3))
    for ticker in (B1, B2, B3):
        rows = rig.checker.history(ticker)
        assert rows is not None
        decision = rows[-1].evaluation.decision
        assert (rows[-1].repeats, getattr(decision, "reason", None)) == (2, ExitReason.STOP_LOSS)
