"""The checker, pass by pass: real cache, portfolio and desk, no thread, time told by the test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from decimal import Decimal

import pytest

from base.app.price_reads import PriceReads
from base.execution.exits import ExitDesk
from base.kalshi.websocket_client import FeedState
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.model.events import Lifecycle, LifecycleKind
from base.model.market import Market, MarketStatus, OutcomeSide, PriceSource, Quote
from base.model.position import Position
from base.model.rules import ExitRule, Hold, HoldReason
from base.risk.price_needs import Refresh, Why
from base.risk.stop_loss import CheckerSettings, StopLossChecker
from base.store.portfolio import AGREEMENT_S, Portfolio
from base.store.records import DecisionRecord, Record, RuleStateRecord
from tests.fakes.clock import FakeClock
from tests.fakes.feed import FakeFeed
from tests.fakes.gateway import FakeExchange
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
    ) -> None:
        self.records: list[Record] = []
        self.clock = FakeClock()
        self.cache = WebsocketPriceCache(self.clock, STALE_S)
        self.portfolio = Portfolio(self.clock)
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


# --- one position's trouble -------------------------------------------------------------------------


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


def test_history_counts_equal_looks_as_one_row_and_forgets_what_is_not_held() -> None:
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
    assert rig.checker.history(A) is None


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
