"""Pass after pass: what the strategy sees, what becomes of its intents, and what shows of its faults."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from base.app.strategy_runner import FILLS_MAX, StrategyRunner, ViewSources
from base.errors import ConfigError, TransientError
from base.kalshi.feed import FeedState
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.model.market import BookSide, Event, Market, MarketStatus, OutcomeSide, PriceSource, Quote
from base.model.order import EntryOrder, EntryState
from base.model.position import Fill, Position
from base.strategy.interface import (
    AmendIntent,
    CancelIntent,
    Intent,
    MarketFilter,
    OrderIntent,
    SetIntent,
    StrategyView,
)
from tests.fakes.clock import FakeClock
from tests.fakes.feed import FakeFeed

D = Decimal
T = "KXHIGHNY-26NOV22-T60"
BUY = OrderIntent(T, OutcomeSide.YES, D(5), D("0.57"), "cheap")
INTERVAL_S = 10.0


@dataclass(frozen=True)
class Outcome:
    placed: bool
    why: str = ""


class Desk:
    """Takes down what it is handed; answers as told."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, Any]] = []
        self.refuses = ""
        self.raises: Exception | None = None

    def place(self, intent: OrderIntent, strategy: str, /) -> Outcome:
        return self._placed("place", intent)

    def place_set(self, intent: SetIntent, strategy: str, /) -> Outcome:
        return self._placed("place_set", intent)

    def amend(self, intent: AmendIntent, /) -> str:
        self.taken.append(("amend", intent))
        return self.refuses

    def cancel(self, intent: CancelIntent, why: str, /) -> str:
        self.taken.append(("cancel", (intent, why)))
        return self.refuses

    def _placed(self, what: str, intent: Intent) -> Outcome:
        self.taken.append((what, intent))
        if self.raises is not None:
            raised, self.raises = self.raises, None
            raise raised
        return Outcome(not self.refuses, self.refuses)


class Scripted:
    """A strategy that does what the test says."""

    def __init__(self) -> None:
        self.views: list[StrategyView] = []
        self.answer: Callable[[StrategyView], Any] = lambda view: []

    def decide(self, view: StrategyView) -> Iterable[Intent]:
        self.views.append(view)
        answer: Iterable[Intent] = self.answer(view)
        return answer


class WatchingToo(Scripted):
    def __init__(self) -> None:
        super().__init__()
        self.wanted: Any = []

    def watches(self) -> Any:
        return self.wanted


class Rig:
    def __init__(self, strategy: Scripted | None = None) -> None:
        self.clock = FakeClock()
        self.feed = FakeFeed()
        self.cache = WebsocketPriceCache(self.clock, 15.0)
        self.cache.require([T], [])
        self.desk = Desk()
        self.strategy = strategy or Scripted()
        self.positions: dict[str, Position] = {}
        self.orders: dict[str, EntryOrder] = {}
        self.may_enter = True
        self.balance: Decimal | None = D("123.45")
        self.watched: list[tuple[frozenset[str], frozenset[MarketFilter]]] = []
        self.traded = 0
        self.runner = self.runner_of(lambda settings: self.strategy)
        self.runner.make()

    def runner_of(self, make: Callable[[Mapping[str, str]], Any]) -> StrategyRunner:
        sources = ViewSources(
            prices=self.cache.snapshot,
            feed=self.feed.status,
            positions=lambda: self.positions,
            may_enter=lambda: self.may_enter,
            orders=lambda: self.orders,
            events=lambda: {"E": Event("E", (T,), mutually_exclusive=True)},
            balance=lambda: self.balance,
            watch=lambda tickers, filters: self.watched.append((tickers, filters)),
            traded=self._note_traded,
        )
        return StrategyRunner("mine", {"STRATEGY_X": "1"}, sources, self.desk, self.clock, INTERVAL_S,
                              {"mine": make})  # fmt: skip

    def _note_traded(self) -> None:
        self.traded += 1

    def returns(self, answer: Any) -> None:
        self.strategy.answer = lambda view: answer

    def raises(self, exc: BaseException) -> None:
        def fail(view: StrategyView) -> Any:
            raise exc

        self.strategy.answer = fail

    def run_pass(self) -> dict[str, Any]:
        self.runner.run_pass()
        return self.runner.status()

    def tick(self) -> None:
        now = self.clock.monotonic()
        self.cache.apply_market(Market(T, status=MarketStatus.ACTIVE))
        self.cache.apply(
            Quote(T, D("0.55"), D("0.57"), D(9), D(9), None, 1, now, self.clock.now(), PriceSource.WS, 1)
        )


@pytest.fixture
def rig() -> Rig:
    return Rig()


def fill(number: int) -> Fill:
    return Fill(f"trade-{number}", "o", T, BookSide.BID, D(1), D("0.5"), D(0), 1)


# --- the view -----------------------------------------------------------------------------------------


def test_the_view_holds_all_that_a_strategy_may_know(rig: Rig) -> None:
    held = Position(T, OutcomeSide.YES, D(4), D("0.50"))
    order = EntryOrder("id", T, OutcomeSide.YES, D(5), D("0.5"), "mine", EntryState.RESTING, 0.0)
    rig.positions, rig.orders = {T: held}, {"id": order}
    rig.tick()
    rig.runner.note_fill(fill(1))
    rig.run_pass()
    (view,) = rig.strategy.views
    assert view.now == rig.clock.now()
    assert view.markets[T].quote is not None
    assert view.markets[T].position == held
    assert (view.positions, view.orders) == ({T: held}, {"id": order})
    assert (view.may_enter, view.feed_is_live) == (True, True)
    assert (view.exposure_dollars, view.balance_dollars) == (D("2.00"), D("123.45"))
    assert view.events["E"].mutually_exclusive
    assert view.fills == (fill(1),)


@pytest.mark.parametrize(
    ("age_s", "state", "is_confirmed", "is_shown"),
    [
        (14.0, FeedState.DOWN, False, True),
        (16.0, FeedState.LIVE, False, False),
        (16.0, FeedState.LIVE, True, True),
        (16.0, FeedState.DOWN, True, False),
    ],
    ids=["fresh by its age", "old and unconfirmed", "old and vouched for by the stream", "old, feed down"],
)
def test_only_a_fresh_quote_is_shown(
    rig: Rig, age_s: float, state: FeedState, is_confirmed: bool, is_shown: bool
) -> None:
    rig.tick()
    rig.clock.advance(age_s)
    rig.feed.state = state
    rig.feed.confirmed = {T} if is_confirmed else set()
    rig.run_pass()
    assert (rig.strategy.views[0].markets[T].quote is not None) is is_shown


def test_what_a_strategy_does_to_its_view_changes_nothing(rig: Rig) -> None:
    rig.positions = {T: Position(T, OutcomeSide.YES, D(4), D("0.50"))}

    shown_markets = []

    def spoil(view: StrategyView) -> list[Intent]:
        shown_markets.append(set(view.markets))
        for shown in (view.positions, view.markets, view.orders, view.events):
            shown.clear()  # type: ignore[attr-defined]
        return []

    rig.strategy.answer = spoil
    rig.tick()
    rig.run_pass()
    rig.run_pass()
    assert shown_markets == [{T}, {T}]
    assert rig.positions.keys() == {T}


def test_each_fill_is_handed_on_once_and_to_one_pass(rig: Rig) -> None:
    for number in (1, 2, 1):
        rig.runner.note_fill(fill(number))
    rig.run_pass()
    rig.runner.note_fill(fill(2))
    rig.runner.note_fill(fill(3))
    rig.run_pass()
    assert [[f.trade_id for f in v.fills] for v in rig.strategy.views] == [
        ["trade-1", "trade-2"],
        ["trade-3"],
    ]


def test_of_too_many_fills_the_newest_are_kept_and_the_others_counted(rig: Rig) -> None:
    for number in range(FILLS_MAX + 7):
        rig.runner.note_fill(fill(number))
    status = rig.run_pass()
    fills = rig.strategy.views[0].fills
    assert (len(fills), fills[0].trade_id, status["fills_dropped"]) == (FILLS_MAX, "trade-7", 7)


def test_fills_come_from_another_thread(rig: Rig) -> None:
    threads = [
        threading.Thread(target=lambda base=n: [rig.runner.note_fill(fill(base + i)) for i in range(100)])
        for n in (0, 1000, 2000, 3000)
    ]
    for thread in threads:
        thread.start()
    while any(t.is_alive() for t in threads):
        rig.run_pass()
    rig.run_pass()
    seen = [f.trade_id for v in rig.strategy.views for f in v.fills]
    assert len(seen) == len(set(seen)) == 400


# --- intents ------------------------------------------------------------------------------------------


def test_every_kind_of_intent_goes_where_it_belongs(rig: Rig) -> None:
    other = replace(BUY, ticker="KXHIGHNY-26NOV22-T61")
    intents = [BUY, SetIntent((BUY, other)), AmendIntent("a", price=D("0.5")), CancelIntent("c", "enough")]
    rig.returns(iter(intents))
    status = rig.run_pass()
    assert rig.desk.taken == [
        ("place", intents[0]),
        ("place_set", intents[1]),
        ("amend", intents[2]),
        ("cancel", (intents[3], "enough")),
    ]
    assert (status["intents"], status["refused"], rig.traded) == (4, 0, 2)


def test_a_refusal_is_counted_and_shown_and_is_no_fault(rig: Rig) -> None:
    rig.desk.refuses = "max_order_cost: 5 dollars"
    rig.returns([BUY, AmendIntent("a", price=D("0.5")), CancelIntent("c")])
    status = rig.run_pass()
    assert (status["refused"], status["last_refused"], rig.traded) == (3, "max_order_cost: 5 dollars", 0)
    assert rig.runner.doubts() == []


def test_one_bad_intent_and_none_of_the_pass_is_carried_out(rig: Rig) -> None:
    rig.returns([BUY, replace(BUY, price=D("NaN"))])
    status = rig.run_pass()
    assert rig.desk.taken == []
    assert status["errors"] == 1
    assert "NaN" in status["last_error"]


@pytest.mark.parametrize(
    ("error", "is_fault"), [(TransientError("no budget"), False), (KeyError("a bug"), True)]
)
def test_an_order_that_fails_costs_the_next_nothing(rig: Rig, error: Exception, is_fault: bool) -> None:
    rig.desk.raises = error
    rig.returns([BUY, BUY])
    rig.run_pass()
    assert len(rig.desk.taken) == 2
    assert bool(rig.runner.doubts()) is is_fault


def test_nothing_is_sent_any_more_once_the_end_has_come(rig: Rig) -> None:
    stop = threading.Event()

    def stop_now(view: StrategyView) -> list[Intent]:
        stop.set()
        return [BUY]

    rig.strategy.answer = stop_now
    rig.runner.run(stop)
    assert rig.desk.taken == []
    assert rig.runner.status()["passes"] == 1


# --- what it watches ----------------------------------------------------------------------------------


def test_what_it_watches_is_asked_before_each_pass() -> None:
    strategy = WatchingToo()
    rig = Rig(strategy)
    wanted = MarketFilter(series="KXHIGHNY")
    strategy.wanted = [T, wanted]
    rig.run_pass()
    strategy.wanted = iter([])
    rig.run_pass()
    assert rig.watched == [(frozenset({T}), frozenset({wanted})), (frozenset(), frozenset())]


def test_nonsense_in_watches_costs_the_pass_and_keeps_what_was_watched() -> None:
    strategy = WatchingToo()
    rig = Rig(strategy)
    strategy.wanted = [None]
    status = rig.run_pass()
    assert (rig.watched, strategy.views, status["errors"]) == ([], [], 1)
    assert "watches()" in rig.runner.doubts()[0]


# --- faults -------------------------------------------------------------------------------------------


class MuteError(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class Poison(Exception):
    """Raises wherever it is looked at, as far as a class can."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(5)


@pytest.mark.parametrize(
    "make",
    [
        ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError, RecursionError, MuteError,
        Poison, lambda: ConfigError(["late"]), lambda: BaseExceptionGroup("both", [SystemExit(1)]),
    ],
    ids=[
        "an error", "it leaves", "an interrupt", "a generator's end", "no memory", "too deep",
        "an error that cannot be printed", "an error that cannot be looked at", "a setting, too late", "two",
    ],
)  # fmt: skip
def test_whatever_is_raised_the_pass_returns_and_the_fault_is_named(
    rig: Rig, make: Callable[[], BaseException]
) -> None:
    exc = make()
    rig.raises(exc)
    rig.run_pass()
    rig.run_pass()
    status = rig.runner.status()
    assert (status["errors"], status["failing"], status["passes"]) == (2, True, 2)
    (doubt,) = rig.runner.doubts()
    assert doubt.startswith("strategy mine has failed 2 times: ")
    assert type(exc).__name__ in doubt
    rig.returns([])
    status = rig.run_pass()
    assert rig.runner.doubts() == []
    assert (status["failing"], status["errors"]) == (False, 2)


def test_one_failure_is_said_to_be_one(rig: Rig) -> None:
    rig.raises(ValueError("wrong"))
    rig.run_pass()
    assert rig.runner.doubts() == ["strategy mine has failed once: ValueError: wrong"]


def takes(rig: Rig, seconds: float) -> None:
    def think(view: StrategyView) -> list[Intent]:
        rig.clock.advance(seconds)
        return []

    rig.strategy.answer = think


@pytest.mark.parametrize(("seconds", "overruns"), [(10.0, 0), (10.1, 1)])
def test_a_pass_longer_than_its_interval_is_counted(rig: Rig, seconds: float, overruns: int) -> None:
    takes(rig, seconds)
    status = rig.run_pass()
    assert (status["overruns"], status["last_pass_s"], status["running_s"]) == (overruns, seconds, None)
    assert rig.runner.doubts() == []


@pytest.mark.parametrize(("seconds", "is_named"), [(2 * INTERVAL_S + 2.9, False), (2 * INTERVAL_S + 5, True)])
def test_a_pass_that_does_not_come_back_is_named_while_it_lasts(
    rig: Rig, seconds: float, is_named: bool
) -> None:
    said: list[list[str]] = []

    def hang(view: StrategyView) -> list[Intent]:
        rig.clock.advance(seconds)
        said.append(rig.runner.doubts())
        return []

    rig.run_pass()
    rig.strategy.answer = hang
    rig.run_pass()
    assert bool(said[0]) is is_named
    if is_named:
        assert "strategy mine" in said[0][0]
        assert "decide()" in said[0][0]
    assert rig.runner.doubts() == []


def test_the_thread_is_late_when_no_pass_ends(rig: Rig) -> None:
    assert not rig.runner.health().is_on_time  # none has been made yet
    rig.run_pass()
    rig.clock.advance(INTERVAL_S)
    assert rig.runner.health().is_on_time
    rig.clock.advance(2 * INTERVAL_S + 5)
    assert not rig.runner.health().is_on_time


def test_a_constructor_that_hangs_is_named(rig: Rig) -> None:
    said: list[str] = []
    runner: StrategyRunner

    def make(settings: Mapping[str, str]) -> Scripted:
        rig.clock.advance(600)
        said.extend(runner.doubts())
        return Scripted()

    runner = rig.runner_of(make)
    runner.make()
    assert "its constructor" in said[0]
    assert runner.doubts() == []


def test_the_constructor_gets_its_settings_and_says_what_is_wrong_with_them(rig: Rig) -> None:
    got: list[Mapping[str, str]] = []

    def make(settings: Mapping[str, str]) -> Scripted:
        got.append(settings)
        raise ConfigError(["STRATEGY_X=1 is no good"])

    with pytest.raises(ConfigError):
        rig.runner_of(make).make()
    assert got == [{"STRATEGY_X": "1"}]


def test_a_name_that_can_be_no_strategy_is_refused_before_anything_runs(rig: Rig) -> None:
    sources = ViewSources(dict, rig.feed.status, dict, lambda: True)
    with pytest.raises(ConfigError):
        StrategyRunner("gaurd", {}, sources, rig.desk, rig.clock, 1.0)


def test_without_a_strategy_the_loop_goes_on_and_says_so_for_ever(
    rig: Rig, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_runner_mine.py").write_text(
        "class Mine:\n    def __init__(self, settings): raise ZeroDivisionError('mine')\n"
    )
    monkeypatch.chdir(tmp_path)
    sources = ViewSources(dict, rig.feed.status, dict, lambda: True)
    runner = StrategyRunner("broken_runner_mine:Mine", {}, sources, rig.desk, rig.clock, INTERVAL_S)
    runner.make()
    runner.run_pass()
    assert runner.health().is_on_time
    (doubt,) = runner.doubts()
    assert "broken_runner_mine:Mine" in doubt
    assert "ZeroDivisionError: mine" in doubt


def test_passes_keep_their_interval_whatever_they_take(rig: Rig) -> None:
    stop = threading.Event()
    starts: list[float] = []

    def think(view: StrategyView) -> list[Intent]:
        starts.append(rig.clock.monotonic())
        rig.clock.advance(4.0 if len(starts) < 3 else 25.0)
        if len(starts) == 4:
            stop.set()
        return []

    rig.strategy.answer = think
    rig.runner.run(stop)
    assert [b - a for a, b in pairwise(starts)] == [10.0, 10.0, 25.0]
