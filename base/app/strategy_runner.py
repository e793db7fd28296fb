"""Runs the strategy: view, decision, checked intents, orders; and keeps whatever it does to itself.

The strategy is somebody else's code on the main thread. It may raise, leave, never return or return
nonsense: each is counted and shown, `/healthz` names the strategy until it has made a good pass again,
and no other thread waits for it.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Protocol

from base.app.intents import INTENTS_MAX, read_intents, read_watched
from base.app.strategy_loading import (
    STRATEGIES,
    Registry,
    StrategyError,
    check_strategy_name,
    describe_error,
    load_strategy,
)
from base.app.ui_metrics import ThreadHealth
from base.clock import Clock
from base.errors import BotError
from base.kalshi.feed import FeedStatus
from base.kalshi.websocket_price_cache import PriceEntry
from base.log import RepeatedWarnings, log_event
from base.model.market import Event
from base.model.order import EntryOrder
from base.model.position import Fill, Position
from base.strategy.interface import (
    AmendIntent,
    CancelIntent,
    Intent,
    MarketFilter,
    MarketView,
    OrderIntent,
    SetIntent,
    Strategy,
    StrategyView,
    Watching,
)

logger = logging.getLogger(__name__)

FILLS_MAX = 500
"""Fills kept for the next pass; of more the oldest are dropped and counted."""
TRADES_REMEMBERED = 2_000
"""The stream tells a fill again after a reconnect: by so many trade ids each is handed on once."""
LATE_S = 3.0
"""Beyond two intervals, a pass may take so long before `/healthz` names it: with a second for the document
and a reader's own, it is seen five seconds beyond them."""


class EntryOutcome(Protocol):
    """What became of an order or a set."""

    @property
    def placed(self) -> bool: ...
    @property
    def why(self) -> str: ...


class IntentTaker(Protocol):
    """Where checked intents go. `amend` and `cancel` return "" or why not; nothing is raised for a denial."""

    def place(self, intent: OrderIntent, strategy: str, /) -> EntryOutcome: ...
    def place_set(self, intent: SetIntent, strategy: str, /) -> EntryOutcome: ...
    def amend(self, intent: AmendIntent, /) -> str: ...
    def cancel(self, intent: CancelIntent, why: str, /) -> str: ...


@dataclass(frozen=True, slots=True)
class ViewSources:
    """Where a view comes from and who hears of a pass; called on the strategy's thread, each returns at once.

    `watch` hears before each pass what the strategy wants streamed; `traded` hears that something was
    bought or rests now, so that its protection need not wait for a sweep.
    """

    prices: Callable[[], Mapping[str, PriceEntry]]
    feed: Callable[[], FeedStatus]
    positions: Callable[[], Mapping[str, Position]]
    may_enter: Callable[[], bool]
    orders: Callable[[], Mapping[str, EntryOrder]] = dict
    events: Callable[[], Mapping[str, Event]] = dict
    balance: Callable[[], Decimal | None] = lambda: None
    watch: Callable[[frozenset[str], frozenset[MarketFilter]], None] = lambda tickers, filters: None
    traded: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class _Health:
    """What has come of the strategy so far; replaced as a whole."""

    doing: str = ""
    """What is going on now, "" between passes."""
    since: float = 0.0
    """Monotonic time at which the pass, or the constructor, began."""
    last_pass_at: float | None = None
    last_pass_s: float = 0.0
    passes: int = 0
    errors: int = 0
    failed_in_a_row: int = 0
    last_error: str = ""
    intents: int = 0
    refused: int = 0
    last_refused: str = ""
    overruns: int = 0
    fills_dropped: int = 0


class StrategyRunner:
    """One strategy from its constructor to the end of the run; `make`, `run_pass` and `run` belong to main.

    `note_fill` and what tells of its health may be called by any thread. Raises ConfigError for a name
    that can be no strategy.
    """

    def __init__(
        self,
        name: str,
        settings: Mapping[str, str],
        sources: ViewSources,
        desk: IntentTaker,
        clock: Clock,
        interval_s: float,
        registry: Registry = STRATEGIES,
    ) -> None:
        check_strategy_name(name, registry)
        self._name = name
        self._settings = settings
        self._sources = sources
        self._desk = desk
        self._clock = clock
        self._interval_s = interval_s
        self._registry = registry
        self._late_after_s = 2 * interval_s + LATE_S
        self._warnings = RepeatedWarnings()
        self._stop = threading.Event()
        self._strategy: Strategy | None = None
        self._lock = threading.Lock()  # guards the fields below; never held while others' code runs
        self._health = _Health()
        self._fills: list[Fill] = []  # since the last pass, oldest first
        self._trades: OrderedDict[str, None] = OrderedDict()  # ids of fills that were taken in

    # --- main ---------------------------------------------------------------------------------------

    def make(self) -> None:
        """Construct the strategy. Raises ConfigError; any other failure is contained and shown."""
        self._begin("its constructor")
        try:
            self._strategy = load_strategy(self._name, self._settings, self._registry)
        except StrategyError as exc:
            self._note_failure(exc, str(exc))
        finally:
            self._doing("")

    def run(self, stop: threading.Event) -> None:
        """A pass every interval until `stop` is set; after one that took longer the next comes at once."""
        self._stop = stop
        while not stop.is_set():
            started = self._clock.monotonic()
            self.run_pass()
            self._clock.wait(stop, self._interval_s - (self._clock.monotonic() - started))

    def run_pass(self) -> None:
        """Watch, view, decide, check, execute. Whatever the strategy does, this returns."""
        strategy = self._strategy
        if strategy is None:
            with self._lock:
                self._health = replace(self._health, last_pass_at=self._clock.monotonic())
            return
        self._begin("watches()")
        error: BaseException | None = None
        try:
            self._pass(strategy)
        except BaseException as exc:  # the user's code: even its sys.exit() must not end protection
            error = exc
        self._end()
        if error is not None:
            self._note_failure(error, describe_error(error))

    def _pass(self, strategy: Strategy) -> None:
        if isinstance(strategy, Watching):
            self._sources.watch(*read_watched(strategy.watches()))
        view = self._view()
        self._doing("decide()")
        intents, is_cut = read_intents(strategy.decide(view))
        self._doing("its orders")
        with self._lock:
            self._health = replace(
                self._health, intents=self._health.intents + len(intents), failed_in_a_row=0
            )
        if is_cut and self._warnings.allow("cut", self._clock.monotonic()) is not None:
            log_event(logger, logging.WARNING, "intents_cut_off", strategy=self._name, taken=INTENTS_MAX)
        for intent in intents:
            if self._stop.is_set():
                return
            self._execute(intent)

    def _execute(self, intent: Intent) -> None:
        """Hand on one intent; the next gets its turn whatever becomes of this one."""
        try:
            why_not = self._hand_on(intent)
        except BotError as exc:
            why_not = describe_error(exc)
        except Exception as exc:  # safety net: a bug of ours in one order
            why_not = ""
            self._note_failure(exc, f"{type(intent).__name__} not carried out: {describe_error(exc)}")
        if why_not:
            with self._lock:
                health = self._health
                self._health = replace(health, refused=health.refused + 1, last_refused=why_not)
            log_event(
                logger,
                logging.DEBUG,
                "intent_refused",
                strategy=self._name,
                intent=type(intent).__name__,
                why=why_not,
            )

    def _hand_on(self, intent: Intent) -> str:
        """Why it was not done; "" when it was."""
        match intent:
            case AmendIntent():
                return self._desk.amend(intent)
            case CancelIntent():
                return self._desk.cancel(intent, intent.why or f"strategy {self._name}")
            case SetIntent():
                outcome = self._desk.place_set(intent, self._name)
            case OrderIntent():
                outcome = self._desk.place(intent, self._name)
        if outcome.placed:
            self._sources.traded()
            return ""
        return outcome.why or "not placed"

    # --- the view -----------------------------------------------------------------------------------

    def note_fill(self, fill: Fill) -> None:
        """A fill of the account, for the next pass; called by the stream's thread and returns at once."""
        with self._lock:
            if fill.trade_id in self._trades:
                return
            self._trades[fill.trade_id] = None
            if len(self._trades) > TRADES_REMEMBERED:
                self._trades.popitem(last=False)
            self._fills.append(fill)
            if len(self._fills) > FILLS_MAX:
                del self._fills[0]
                self._health = replace(self._health, fills_dropped=self._health.fills_dropped + 1)

    def _view(self) -> StrategyView:
        sources = self._sources
        feed = sources.feed()
        now = self._clock.monotonic()
        positions = dict(sources.positions())
        with self._lock:
            fills, self._fills = tuple(self._fills), []
        markets = {}
        for ticker, entry in sources.prices().items():
            is_fresh = (feed.is_live and ticker in feed.confirmed) or not entry.is_stale(now)
            markets[ticker] = MarketView(
                entry.market, entry.quote if is_fresh else None, positions.get(ticker)
            )
        return StrategyView(
            now=self._clock.now(),
            markets=markets,
            positions=positions,
            may_enter=sources.may_enter(),
            feed_is_live=feed.is_live,
            exposure_dollars=sum((p.cost for p in positions.values()), Decimal(0)),
            events=dict(sources.events()),
            orders=dict(sources.orders()),
            fills=fills,
            balance_dollars=sources.balance(),
        )

    # --- how it does --------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """For the status document."""
        h = self._now()
        running_s = self._clock.monotonic() - h.since if h.doing else None
        return {
            "name": self._name,
            "passes": h.passes,
            "errors": h.errors,
            "failing": h.failed_in_a_row > 0,
            "failed_in_a_row": h.failed_in_a_row,
            "last_error": h.last_error,
            "intents": h.intents,
            "refused": h.refused,
            "last_refused": h.last_refused,
            "overruns": h.overruns,
            "last_pass_s": round(h.last_pass_s, 3),
            "running_s": None if running_s is None else round(running_s, 1),
            "fills_dropped": h.fills_dropped,
        }

    def health(self) -> ThreadHealth:
        """The main thread as far as it is the strategy's."""
        last = self._now().last_pass_at
        return ThreadHealth(
            threading.main_thread().is_alive(),
            None if last is None else self._clock.monotonic() - last,
            self._interval_s + self._late_after_s,
        )

    def doubts(self) -> list[str]:
        """What `/healthz` has to say of it, naming it."""
        h = self._now()
        doubts = []
        if h.failed_in_a_row:
            times = "once" if h.failed_in_a_row == 1 else f"{h.failed_in_a_row} times"
            doubts.append(f"strategy {self._name} has failed {times}: {h.last_error}")
        running_s = self._clock.monotonic() - h.since
        if h.doing and running_s > self._late_after_s:
            doubts.append(f"strategy {self._name} is late: not back from {h.doing} after {running_s:.0f} s")
        return doubts

    def _now(self) -> _Health:
        with self._lock:
            return self._health

    def _begin(self, doing: str) -> None:
        now = self._clock.monotonic()
        with self._lock:
            self._health = replace(self._health, doing=doing, since=now)

    def _doing(self, doing: str) -> None:
        with self._lock:
            self._health = replace(self._health, doing=doing)

    def _end(self) -> None:
        now = self._clock.monotonic()
        with self._lock:
            h = self._health
            took_s = now - h.since
            is_over = took_s > self._interval_s
            self._health = replace(
                h,
                doing="",
                passes=h.passes + 1,
                last_pass_at=now,
                last_pass_s=took_s,
                overruns=h.overruns + is_over,
            )
        if is_over and (held_back := self._warnings.allow("overrun", now)) is not None:
            log_event(
                logger,
                logging.WARNING,
                "strategy_overrun",
                strategy=self._name,
                pass_s=took_s,
                interval_s=self._interval_s,
                also_since_last=held_back,
            )

    def _note_failure(self, exc: BaseException, words: str) -> None:
        """Count it, and log it with its traceback, once a minute for each kind."""
        with self._lock:
            h = self._health
            self._health = replace(
                h, errors=h.errors + 1, failed_in_a_row=h.failed_in_a_row + 1, last_error=words
            )
        held_back = self._warnings.allow(type(exc).__name__, self._clock.monotonic())
        if held_back is None:
            return
        log_event(
            logger,
            logging.ERROR,
            "strategy_failed",
            strategy=self._name,
            why=words,
            also_since_last=held_back,
        )
        try:
            log_event(logger, logging.ERROR, "strategy_traceback", exc_info=exc, strategy=self._name)
        except BaseException as broken:  # the user's exception is printed, by the user's code
            log_event(logger, logging.ERROR, "strategy_traceback_unprintable", why=describe_error(broken))
