"""Signals, dead and stalled threads, the trading state, and a way out that a strategy cannot block."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable
from decimal import Decimal

import pytest

from base.app.supervisor import STALLED_S, STARTING_S, Supervisor, Watched
from base.app.ui_metrics import ThreadHealth
from base.clock import SystemClock
from base.errors import ExitCode
from base.model.market import BookSide, OutcomeSide
from base.model.position import Position
from base.risk.limits import Limits
from base.risk.trading_state import TradingState
from base.store.portfolio import Portfolio
from base.store.records import LedgerRecord, PositionRecord, Remembered
from tests.fakes.clock import FakeClock

LIMITS = Limits(Decimal(50), Decimal(200), Decimal(1_000), Decimal(100))
T = "KXA-26NOV22-T1"


class Thread:
    """A watched thread as the test wants it."""

    def __init__(self, name: str = "websocket", *, restarts: bool = True) -> None:
        self.name = name
        self.alive = True
        self.last_pass_at: float | None = None
        self.restarts = 0
        self._comes_back = restarts

    def restart(self) -> None:
        self.restarts += 1
        self.alive = self._comes_back

    def watched(self) -> Watched:
        return Watched(self.name, lambda: self.alive, lambda: self.last_pass_at, self.restart, 7.0)


class Rig:
    def __init__(
        self, *threads: Thread, reload: Callable[[], bool] = lambda: True, halted: bool = False
    ) -> None:
        self.halted = halted
        self.judged = 0
        self.clock = FakeClock()
        self.portfolio = Portfolio(self.clock)
        self.stop = threading.Event()
        self.signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.looks = 0
        self.blocked = False
        self.is_journal_ok = True
        self.supervisor = Supervisor(
            [t.watched() for t in threads],
            self.signals,
            reload,
            self._enforce,
            self.portfolio,
            LIMITS,
            self.stop,
            lambda: True,
            self.clock,
            leave=lambda code: None,
            entries_blocked=lambda: self.blocked,
            journal_ok=lambda: self.is_journal_ok,
            halted=lambda: self.halted,
            rules_changed=self._judge,
        )

    def _judge(self) -> None:
        self.judged += 1

    def _enforce(self) -> None:
        self.looks += 1

    def tick(self, number: int | None = None) -> None:
        self.clock.advance(0.25)
        self.supervisor.run_once(number)

    @property
    def state(self) -> TradingState:
        return self.supervisor.trading_state()[0]

    @property
    def exit_code(self) -> int:
        return self.supervisor.wait_for_exit_code()


# --- signals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_stops(number: int) -> None:
    rig = Rig()
    rig.tick(number)
    assert rig.stop.is_set()
    assert rig.exit_code == ExitCode.OK


def test_a_hangup_reloads_the_rules_and_goes_on() -> None:
    reloads: list[int] = []

    def reload() -> bool:
        reloads.append(1)
        return False

    rig = Rig(reload=reload)
    rig.tick(signal.SIGHUP)
    assert reloads == [1]
    assert not rig.stop.is_set()
    assert rig.looks == 1, "a signal does not cost the look at the feed"


@pytest.mark.parametrize("is_taken", [True, False], ids=["the new rules hold", "the file is refused"])
def test_new_rules_judge_every_position_at_once(is_taken: bool) -> None:
    rig = Rig(reload=lambda: is_taken)
    rig.tick(signal.SIGHUP)
    assert rig.judged == int(is_taken)
    rig.tick()
    assert rig.judged == int(is_taken)


# --- threads ----------------------------------------------------------------------------------------


def test_a_thread_that_dies_once_is_restarted_and_the_bot_only_reduces() -> None:
    thread = Thread()
    rig = Rig(thread)
    rig.portfolio.apply_read({}, rig.clock.monotonic())
    rig.supervisor.watch_threads()
    rig.tick()
    assert rig.state is TradingState.ACTIVE
    thread.alive = False
    rig.tick()
    assert thread.restarts == 1
    assert not rig.stop.is_set()
    assert rig.state is TradingState.REDUCING


@pytest.mark.parametrize("comes_back", [True, False], ids=["dies again later", "does not come back"])
def test_a_thread_that_dies_twice_ends_the_process_with_code_4(comes_back: bool) -> None:
    thread = Thread(restarts=comes_back)
    rig = Rig(thread)
    rig.supervisor.watch_threads()
    thread.alive = False
    rig.tick()
    rig.tick()
    thread.alive = False
    rig.tick()
    assert rig.stop.is_set()
    assert rig.exit_code == ExitCode.UNSAFE
    assert thread.restarts == 1


def test_threads_that_have_not_been_started_yet_are_not_dead() -> None:
    thread = Thread()
    thread.alive = False
    rig = Rig(thread)
    rig.tick()
    assert thread.restarts == 0
    assert not rig.supervisor.thread_health()["websocket"].is_on_time


def told(rig: Rig, *, alive: bool = False, age_s: float | None = None, late_after_s: float = 7.0) -> str:
    """The word for a thread that is not on time."""
    return rig.supervisor.in_phase({"x": ThreadHealth(alive, age_s, late_after_s)})["x"].state


def test_a_thread_that_has_not_begun_is_starting_and_not_dead() -> None:
    rig = Rig()
    assert (told(rig), told(rig, alive=True)) == ("starting", "starting")
    rig.clock.advance(STARTING_S + 1)
    assert (told(rig), told(rig, alive=True)) == ("dead", "late"), "that is no start any more"
    assert told(rig, alive=True, late_after_s=60.0) == "starting", "its first pass is not due yet"


def test_once_all_were_started_a_thread_that_has_ended_is_dead() -> None:
    rig = Rig()
    rig.supervisor.watch_threads()
    assert (told(rig), told(rig, age_s=1.0)) == ("dead", "dead")
    assert told(rig, alive=True) == "starting", "main comes to the strategy last"
    assert told(rig, alive=True, age_s=8.0) == "late"


def test_a_thread_that_was_asked_to_end_is_not_dead() -> None:
    rig = Rig()
    rig.supervisor.watch_threads()
    rig.tick(signal.SIGTERM)
    assert told(rig, age_s=1.0) == "stopped"


def test_a_checker_without_passes_ends_the_process_with_code_4() -> None:
    checker = Thread("stop-loss")
    rig = Rig(checker)
    rig.portfolio.apply_read({}, rig.clock.monotonic())
    rig.supervisor.watch_threads()
    checker.last_pass_at = rig.clock.monotonic()
    rig.clock.advance(STALLED_S + 6)
    rig.tick()
    assert not rig.stop.is_set()
    rig.clock.advance(1)
    rig.tick()
    assert rig.stop.is_set()
    assert rig.exit_code == ExitCode.UNSAFE
    assert rig.state is TradingState.REDUCING, "nothing is opened on the way out"


def test_a_checker_that_never_made_a_pass_is_stalled_too() -> None:
    rig = Rig(Thread("stop-loss"))
    rig.supervisor.watch_threads()
    rig.clock.advance(STALLED_S + 8)
    rig.tick()
    assert rig.exit_code == ExitCode.UNSAFE


def test_another_thread_that_is_late_is_shown_and_not_killed() -> None:
    thread = Thread("reconcile")
    rig = Rig(thread)
    rig.supervisor.watch_threads()
    thread.last_pass_at = rig.clock.monotonic()
    rig.clock.advance(600)
    rig.tick()
    assert not rig.stop.is_set()
    health = rig.supervisor.thread_health()["reconcile"]
    assert health.alive
    assert not health.is_on_time


def test_a_thread_just_started_is_on_time_before_its_first_pass() -> None:
    rig = Rig(Thread())
    rig.supervisor.watch_threads()
    rig.clock.advance(5)
    assert rig.supervisor.thread_health()["websocket"].is_on_time
    rig.clock.advance(5)
    assert not rig.supervisor.thread_health()["websocket"].is_on_time


# --- trading state ----------------------------------------------------------------------------------


def test_the_state_follows_what_is_true() -> None:
    rig = Rig()
    assert rig.state is TradingState.REDUCING
    rig.tick()
    assert rig.state is TradingState.REDUCING, "not reconciled yet"
    held = Position(T, OutcomeSide.YES, Decimal(1_000), Decimal("0.50"))
    rig.portfolio.apply_read({T: held}, rig.clock.monotonic())
    rig.tick()
    assert rig.state is TradingState.ACTIVE
    rig.blocked = True
    rig.tick()
    assert rig.state is TradingState.REDUCING
    rig.blocked = False
    rig.portfolio.apply_answer(
        T, "o1", BookSide.ASK, Decimal(1_000), Decimal("0.41"), Decimal(9), reduce_only=True
    )
    rig.tick()
    assert rig.state is TradingState.ACTIVE, "99 dollars are lost with fees, the limit is 100"
    rig.portfolio.apply_answer(T, "o2", BookSide.BID, Decimal(1), Decimal("0.5"), Decimal(1))
    rig.tick()
    assert rig.state is TradingState.REDUCING
    rig.clock.advance(86_400)
    rig.tick()
    assert rig.state is TradingState.ACTIVE, "the next trading day"


def test_nothing_is_opened_while_a_position_of_before_the_restart_is_missing() -> None:
    rig = Rig()
    before = PositionRecord(T, OutcomeSide.YES, Decimal(10), Decimal("0.5"), None)
    rig.portfolio.restore(Remembered(positions=(before,)))
    rig.portfolio.apply_read({}, rig.clock.monotonic())
    rig.tick()
    assert rig.state is TradingState.REDUCING
    held = Position(T, OutcomeSide.YES, Decimal(10), Decimal("0.5"))
    rig.portfolio.apply_read({T: held}, rig.clock.monotonic())
    rig.tick()
    assert rig.state is TradingState.ACTIVE


def test_while_the_journal_cannot_be_written_nothing_is_opened() -> None:
    rig = Rig()
    rig.portfolio.apply_read({}, rig.clock.monotonic())
    rig.is_journal_ok = False
    rig.tick()
    assert rig.state is TradingState.REDUCING
    rig.is_journal_ok = True
    rig.tick()
    assert rig.state is TradingState.ACTIVE


def test_a_loss_of_the_day_stays_a_loss_though_it_is_won_back() -> None:
    rig = Rig()
    held = Position(T, OutcomeSide.YES, Decimal(1_000), Decimal("0.50"))
    rig.portfolio.apply_read({T: held}, rig.clock.monotonic())
    sell(rig, "o1", "500", "0.29")
    rig.tick()
    assert rig.state is TradingState.REDUCING, "105 dollars are lost, the limit is 100"
    sell(rig, "o2", "300", "0.90")
    rig.tick()
    ledger = rig.portfolio.ledger()
    assert ledger.realized - ledger.fees > -LIMITS.max_daily_loss
    assert rig.state is TradingState.REDUCING, "what was won back opens nothing anew today"
    rig.clock.advance(86_400)
    rig.tick()
    assert rig.state is TradingState.ACTIVE


def test_after_a_restart_the_ledger_alone_says_whether_the_day_is_lost() -> None:
    rig = Rig()
    day = rig.portfolio.ledger().day
    rig.portfolio.restore(Remembered(ledgers=(LedgerRecord(day, Decimal(-95), Decimal(5)),)))
    rig.portfolio.apply_read({}, rig.clock.monotonic())
    rig.tick()
    assert rig.state is TradingState.REDUCING


def sell(rig: Rig, order: str, count: str, price: str) -> None:
    rig.portfolio.apply_answer(
        T, order, BookSide.ASK, Decimal(count), Decimal(price), Decimal(0), reduce_only=True
    )


@pytest.mark.parametrize(
    ("count", "entry", "expected"),
    [
        pytest.param("1999.98", "0.50", TradingState.ACTIVE, id="a cent less than the limit"),
        pytest.param("2000", "0.50", TradingState.REDUCING, id="at the limit"),
        pytest.param("3000", "0.50", TradingState.REDUCING, id="above it"),
        pytest.param("1", "NaN", TradingState.REDUCING, id="a cost that is not known"),
    ],
)
def test_what_is_held_may_cost_less_than_the_limit_of_total_exposure(
    count: str, entry: str, expected: TradingState
) -> None:
    rig = Rig()
    held = Position(T, OutcomeSide.YES, Decimal(count), Decimal(entry))
    rig.portfolio.apply_read({T: held}, rig.clock.monotonic())
    rig.tick()
    assert rig.state is expected


def test_entries_come_back_when_less_is_held() -> None:
    rig = Rig()
    held = Position(T, OutcomeSide.YES, Decimal(2_000), Decimal("0.50"))
    rig.portfolio.apply_read({T: held}, rig.clock.monotonic())
    rig.tick()
    assert rig.state is TradingState.REDUCING
    assert "MAX_TOTAL_EXPOSURE_DOLLARS" in rig.supervisor.trading_state()[1]
    sell(rig, "o1", "1", "0.50")
    rig.tick()
    assert rig.state is TradingState.ACTIVE


def test_the_kill_switch_halts_and_its_end_brings_the_state_back() -> None:
    rig = Rig()
    rig.portfolio.apply_read({}, rig.clock.monotonic())
    rig.tick()
    assert rig.state is TradingState.ACTIVE
    rig.halted = True
    rig.tick()
    assert rig.state is TradingState.HALTED
    assert not rig.state.may_exit
    rig.halted = False
    rig.tick()
    assert rig.state is TradingState.ACTIVE


def test_a_kill_switch_that_is_on_at_the_start_holds_before_the_first_look() -> None:
    assert Rig(halted=True).state is TradingState.HALTED


@pytest.mark.parametrize("halted", [True, False], ids=["the kill switch", "blocked entries"])
def test_a_reason_that_was_there_from_the_start_is_named_once(
    halted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(halted=halted)
    rig.blocked = not halted
    rig.portfolio.apply_read({}, rig.clock.monotonic())
    for _ in range(3):
        rig.tick()
    said = [
        r.event_fields
        for r in caplog.records
        if getattr(r, "event_fields", {}).get("event") == "trading_state"
    ]
    assert [(s["state"], bool(s["why"])) for s in said] == [("halted" if halted else "reducing", True)]


# --- the way out ------------------------------------------------------------------------------------


def threaded(
    shut_down: Callable[[], bool], left: list[int], reload: Callable[[], bool] = lambda: True
) -> tuple[Supervisor, queue.SimpleQueue[int], threading.Event]:
    clock = SystemClock()
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    stop = threading.Event()
    gone = threading.Event()

    def leave(code: int) -> None:
        left.append(code)
        gone.set()

    supervisor = Supervisor(
        [], signals, reload, lambda: None, Portfolio(clock), LIMITS, stop, shut_down, clock, leave=leave
    )
    return supervisor, signals, gone


def test_a_strategy_that_never_returns_is_abandoned() -> None:
    left: list[int] = []
    supervisor, signals, gone = threaded(lambda: True, left)
    supervisor.start()
    signals.put(signal.SIGTERM)
    assert gone.wait(5), "main never calls wait_for_exit_code"
    assert left == [ExitCode.OK]


def test_main_leaves_by_itself_when_it_can() -> None:
    left: list[int] = []
    shut: list[int] = []

    def shut_down() -> bool:
        shut.append(1)
        return True

    supervisor, signals, gone = threaded(shut_down, left)
    supervisor.start()
    signals.put(signal.SIGTERM)
    assert supervisor.wait_for_exit_code() == ExitCode.OK
    assert not gone.wait(0.05)
    assert (left, shut) == ([], [1])


def test_a_reload_or_an_end_that_raises_does_not_keep_the_process() -> None:
    def fail() -> bool:
        raise ZeroDivisionError("a bug on the way out")

    left: list[int] = []
    supervisor, signals, _ = threaded(fail, left, reload=fail)
    supervisor.start()
    signals.put(signal.SIGHUP)
    signals.put(signal.SIGTERM)
    assert supervisor.wait_for_exit_code() == ExitCode.OK
