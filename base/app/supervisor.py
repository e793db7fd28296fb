"""The thread `supervisor`: signals, the watch over the other threads, the trading state, the way out.

A thread that dies is restarted once; if it dies again the process leaves with code 4 so that the service
manager starts a clean one. A checker that makes no pass for `STALLED_S` is as good as dead, and cannot
be restarted from inside: code 4 too. Either way the bot only reduces from the first trouble on.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from base.app.logging_setup import log_stacks
from base.app.ui_metrics import Phase, ThreadHealth
from base.clock import Clock
from base.errors import ExitCode
from base.log import log_event
from base.model.market import ZERO
from base.risk.limits import Limits, is_daily_loss_hit
from base.risk.trading_state import StateInputs, TradingState, next_state
from base.store.portfolio import Portfolio

logger = logging.getLogger(__name__)

TICK_S = 0.25
STALLED_S = 60.0
STARTING_S = 10.0
"""So long after the start a thread that has not begun is no trouble."""
MAIN_GRACE_S = 1.0
"""How long main may take to come out of the strategy after everything else has stopped."""
_LEVELS = {
    TradingState.HALTED: logging.CRITICAL,
    TradingState.REDUCING: logging.WARNING,
    TradingState.ACTIVE: logging.INFO,
}


@dataclass(frozen=True, slots=True)
class Watched:
    """One thread: how to see and restart it. `last_pass_at` is None for one that only works on demand."""

    name: str
    is_alive: Callable[[], bool]
    last_pass_at: Callable[[], float | None] | None
    restart: Callable[[], None]
    late_after_s: float
    last_end_at: Callable[[], float | None] | None = None
    """When a pass last ended, failed ones too, where that differs: while the exchange cannot be reached no
    pass of `reconcile` is completed, and yet the thread is not frozen."""


class Supervisor:
    """`shut_down` stops everything else in order and says whether it ended in time."""

    def __init__(
        self,
        watched: list[Watched],
        signals: queue.SimpleQueue[int],
        reload_rules: Callable[[], bool],
        enforce_liveness: Callable[[], None],
        portfolio: Portfolio,
        limits: Limits,
        stop: threading.Event,
        shut_down: Callable[[], bool],
        clock: Clock,
        leave: Callable[[int], None] = os._exit,
        entries_blocked: Callable[[], bool] = lambda: False,
        journal_ok: Callable[[], bool] = lambda: True,
        api_trouble: Callable[[], str] = str,
        halted: Callable[[], bool] = lambda: False,
        rules_changed: Callable[[], None] = lambda: None,
        looked: Callable[[], None] = lambda: None,
        stopping: Callable[[], None] = lambda: None,
    ) -> None:
        self._watched = watched
        self._signals = signals
        self._reload_rules = reload_rules
        self._enforce_liveness = enforce_liveness
        self._portfolio = portfolio
        self._limits = limits
        self._stop = stop
        self._shut_down = shut_down
        self._clock = clock
        self._leave = leave
        self._entries_blocked = entries_blocked
        self._journal_ok = journal_ok
        self._api_trouble = api_trouble
        self._halted = halted
        self._rules_changed = rules_changed
        self._looked = looked
        self._stopping = stopping
        self._said_why = ""  # owned by the supervisor thread: the reasons that the log has named
        self._loss_day = ""  # owned by the supervisor thread: the day whose loss has reached the limit
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._done = threading.Event()
        self._main_left = threading.Event()
        self._lock = threading.Lock()  # guards the fields below
        # A kill switch that is on at the start holds from the start: an exit could leave before a first look.
        self._state = TradingState.HALTED if halted() else TradingState.REDUCING
        self._state_why = "starting"
        self._exit_code: int = ExitCode.OK
        self._deaths: dict[str, int] = {}
        self._is_watching = False
        self._watching_since = 0.0
        self._made_at = clock.monotonic()  # never changed

    # --- what others may ask ------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def watch_threads(self) -> None:
        """All threads have been started: from now on a dead one is trouble."""
        with self._lock:
            self._is_watching = True
            self._watching_since = self._clock.monotonic()

    def trading_state(self) -> tuple[TradingState, str]:
        with self._lock:
            return self._state, self._state_why

    @property
    def exit_code(self) -> int:
        """What the process will end with, as far as it is decided."""
        with self._lock:
            return self._exit_code

    def thread_health(self) -> dict[str, ThreadHealth]:
        now = self._clock.monotonic()
        with self._lock:
            since = self._watching_since
        health = {}
        for w in self._watched:
            if w.last_pass_at is None:
                age: float | None = 0.0
            else:
                last = w.last_pass_at()
                age = None if last is None else now - last
                if last is None and now - since < w.late_after_s:
                    age = now - since  # it has only just been started
            health[w.name] = ThreadHealth(w.is_alive(), age, w.late_after_s)
        return health

    def in_phase(self, threads: Mapping[str, ThreadHealth]) -> dict[str, ThreadHealth]:
        """The same threads, told as what they are: one that has not begun yet is not dead, and neither is
        one that has been asked to end."""
        age_s = self._clock.monotonic() - self._made_at
        with self._lock:
            is_watching = self._is_watching
        told = {}
        for name, health in threads.items():
            is_new = health.last_pass_age_s is None and health.alive
            limit_s = max(STARTING_S, health.late_after_s if is_new else 0.0)
            if self._stop.is_set():
                phase = Phase.STOPPING
            elif (is_new or not is_watching) and age_s < limit_s:
                phase = Phase.STARTING
            else:
                phase = Phase.RUNNING
            told[name] = replace(health, phase=phase)
        return told

    def late_threads(self) -> list[str]:
        """Threads that are dead, or have ended no pass in time; all of them until they are watched."""
        now = self._clock.monotonic()
        with self._lock:
            since = self._watching_since if self._is_watching else None
        if since is None:
            return [w.name for w in self._watched]
        late = []
        for w in self._watched:
            last_end_at = w.last_end_at or w.last_pass_at
            ended_at = now if last_end_at is None else max(last_end_at() or since, since)
            if not w.is_alive() or now - ended_at > w.late_after_s:
                late.append(w.name)
        return late

    def wait_for_exit_code(self) -> int:
        """For main, after its loop: wait until all else has stopped."""
        self._main_left.set()
        self._clock.wait(self._done, 15.0)
        with self._lock:
            return self._exit_code

    # --- the thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.run_once(self._next_signal())
            except Exception:  # safety net: nobody watches the watcher
                log_event(logger, logging.ERROR, "supervisor_error", exc_info=True)
        self._end()

    def _next_signal(self) -> int | None:
        try:
            return self._signals.get(timeout=TICK_S)
        except queue.Empty:
            return None

    def run_once(self, number: int | None) -> None:
        """One look around, after a signal or none."""
        if number == signal.SIGHUP:
            if self._reload_rules():
                self._rules_changed()
        elif number is not None:
            self._stop.set()
            log_event(logger, logging.INFO, "stopping", signal=signal.Signals(number).name)
            return
        self._enforce_liveness()
        self._look_after_threads()
        self._update_trading_state()
        self._looked()

    def _look_after_threads(self) -> None:
        with self._lock:
            if not self._is_watching:
                return
            since = self._watching_since
        now = self._clock.monotonic()
        for w in self._watched:
            if not w.is_alive():
                self._revive(w)
            elif w.last_pass_at is not None and w.name == "stop-loss":
                last = w.last_pass_at() or since
                if now - last > STALLED_S + w.late_after_s:
                    log_event(logger, logging.CRITICAL, "thread_stalled", thread=w.name, age_s=now - last)
                    log_stacks()
                    self._give_up()

    def _revive(self, w: Watched) -> None:
        with self._lock:
            deaths = self._deaths[w.name] = self._deaths.get(w.name, 0) + 1
        if deaths > 1:
            log_event(logger, logging.CRITICAL, "thread_died_again", thread=w.name)
            self._give_up()
            return
        log_event(logger, logging.CRITICAL, "thread_died", thread=w.name, action="restarted once")
        w.restart()

    def stop_with(self, code: int) -> None:
        """Stop everything in order and leave with this exit code; any thread may call it."""
        with self._lock:
            self._exit_code = code
        self._stop.set()

    def _give_up(self) -> None:
        with self._lock:
            self._exit_code = ExitCode.UNSAFE
        self._stop.set()

    def _update_trading_state(self) -> None:
        kill_switch = self._halted()
        inputs = StateInputs(
            reconciled_once=self._portfolio.is_loaded and not self._portfolio.unshown,
            journal_ok=self._journal_ok(),
            api_trouble=self._api_trouble(),
            daily_loss_hit=self._is_loss_of_the_day_hit(),
            exposure_hit=self._is_exposure_hit(),
            service_died=bool(self._deaths) or self._exit_code == ExitCode.UNSAFE,
            entries_blocked=self._entries_blocked(),
            kill_switch=kill_switch,
        )
        with self._lock:
            change = next_state(self._state, inputs)
            self._state, self._state_why = change.current, change.why
        # A reason that was there from the start changes no state, and still has to be read somewhere.
        is_new_why = change.why != self._said_why and (inputs.reconciled_once or kill_switch)
        if change.changed or is_new_why:
            self._said_why = change.why
            log_event(
                logger,
                _LEVELS[change.current],
                "trading_state",
                state=change.current.value,
                was=change.previous.value,
                why=change.why or None,
            )

    def _is_loss_of_the_day_hit(self) -> bool:
        """Whether the day's loss has once reached the limit: what is won back later opens nothing anew."""
        ledger = self._portfolio.ledger()
        if is_daily_loss_hit(ledger.realized - ledger.fees, self._limits):
            self._loss_day = ledger.day
        return self._loss_day == ledger.day

    def _is_exposure_hit(self) -> bool:
        """Whether what is held has cost as much as may be held in all; an unknown cost has."""
        cost = sum((p.cost for p in self._portfolio.positions().values()), ZERO)
        return not cost.is_finite() or cost >= self._limits.max_total_exposure

    def _end(self) -> None:
        """Stop everything in order, then end the process even if main never comes out of the strategy."""
        try:
            self._stopping()
            in_time = self._shut_down()
        except Exception:  # safety net: the process must end
            log_event(logger, logging.ERROR, "shutdown_error", exc_info=True)
            in_time = False
        with self._lock:
            code = self._exit_code
        log_event(logger, logging.INFO, "stopped", code=code, in_time=in_time)
        self._done.set()
        if not self._main_left.is_set():
            self._clock.wait(self._main_left, MAIN_GRACE_S)
        if not self._main_left.is_set():
            log_event(logger, logging.WARNING, "strategy_abandoned", why="it did not return in time")
            logging.shutdown()
            self._leave(code)
