"""The stop-loss checker thread: cache -> rules -> exits.

It wakes when a held market's price or status changes and looks at that market; every
`STOP_LOSS_INTERVAL_S` it sweeps all positions, and asks for a batched REST read of the prices that no
live subscription vouches for. It never waits for the network: reads and exits are other threads' work.
An exception while looking at one position is that position's trouble alone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Protocol

from base.clock import Clock
from base.execution.exits import Blocked, ExitDesk, ExitOrder
from base.execution.measures import Measures, NoMeasures
from base.kalshi.feed import FeedStatus
from base.kalshi.websocket_price_cache import PriceEntry, WebsocketPriceCache
from base.log import RepeatedWarnings, log_event
from base.model.market import Market, PriceSource, Quote
from base.model.position import Position
from base.model.rules import Evaluation, Exit, ExitRule, Hold, HoldReason
from base.risk.coverage import (
    NOT_CHECKED,
    NOT_COUNTED,
    Coverage,
    PositionFacts,
    Protection,
    assess,
    summarize,
)
from base.risk.event_groups import (
    TAKES_ALONG,
    EventIndex,
    event_of,
    goes_along,
    was_held_at,
    why_along,
)
from base.risk.exit_rules import evaluate
from base.risk.levels import can_ever_exit
from base.risk.price_needs import MarketNeed, Refresh, decide_refresh
from base.risk.rule_memory import HistoryRow, RuleMemory
from base.store.portfolio import Portfolio
from base.store.records import (
    EpisodeRecord,
    NoRecorder,
    Recorder,
    RuleStateRecord,
)

logger = logging.getLogger(__name__)

ANNOUNCE_AFTER_S = 1.0
REMIND_S = 300.0
"""An unprotected position is announced again this often."""
HELD_BACK = (HoldReason.HOLD_BELOW, HoldReason.NO_STOP_NEAR_CLOSE)
"""A rule has triggered, and another field of the same rule holds the exit back for as long as it applies."""
GUARDED_LOOK_S = 0.05
TRIGGERS_TOGETHER_MAX = 64
"""So many exits of one pass are handed over together; the first must not wait for a long sweep to end."""


class FeedView(Protocol):
    """What the checker needs to know of the stream."""

    def is_confirmed(self, ticker: str) -> bool: ...

    def status(self) -> FeedStatus: ...


def _market_of(ticker: str, entry: PriceEntry | None) -> Market:
    """What is known of a market; its ticker at least."""
    return entry.market if entry is not None else Market(ticker)


@dataclass(frozen=True, slots=True)
class CheckerSettings:
    """Durations in seconds; `floor` is EXIT_FLOOR_DOLLARS."""

    interval_s: float
    stale_after_s: float
    floor: Decimal


@dataclass(frozen=True, slots=True)
class CheckedPosition:
    """One position with its market, last evaluation and protection, for display and coverage."""

    position: Position
    market: Market
    evaluation: Evaluation | None
    price_age_s: float | None
    price_source: str
    protection: Protection


class StopLossChecker:
    """The thread `stop-loss`. `rule_of` gives the rule in force for a ticker; `request_prices` asks for a
    REST read and returns at once; `swept` is told after each sweep; `recorder` keeps what the rules
    remember and each new verdict; `rule_states` is what a run before this one remembered, `resumed` the
    exits that it left open; `halted` says that the kill switch is on, `key_refused` that the exchange
    refuses the account's key; `others_quote` takes our own resting
    orders out of a quote; `measures` is told how soon a changed price was judged."""

    def __init__(
        self,
        settings: CheckerSettings,
        cache: WebsocketPriceCache,
        portfolio: Portfolio,
        feed: FeedView,
        rule_of: Callable[[str], ExitRule],
        desk: ExitDesk,
        request_prices: Callable[[Refresh], None],
        swept: Callable[[], None],
        clock: Clock,
        recorder: Recorder | None = None,
        rule_states: Iterable[RuleStateRecord] = (),
        resumed: Iterable[EpisodeRecord] = (),
        halted: Callable[[], bool] = lambda: False,
        key_refused: Callable[[], bool] = lambda: False,
        others_quote: Callable[[Position, Quote], Quote] = lambda position, quote: quote,
        measures: Measures | None = None,
    ) -> None:
        self._settings = settings
        self._cache = cache
        self._portfolio = portfolio
        self._feed = feed
        self._rule_of = rule_of
        self._desk = desk
        self._request_prices = request_prices
        self._swept = swept
        self._clock = clock
        self._memory = RuleMemory(recorder if recorder is not None else NoRecorder(), rule_states)
        # The run before may have ended between such an exit and the marks of its companions.
        self._left_before = tuple(r for r in resumed if r.reason in TAKES_ALONG)
        self._halted = halted
        self._key_refused = key_refused
        self._others_quote = others_quote
        self._measures: Measures = measures if measures is not None else NoMeasures()
        # Owned by the checker thread: why positions go along, with their epoch, until they are looked at.
        self._marks: dict[str, tuple[int, str]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        # Owned by the checker thread: when an exit that a guard delays is looked at again, at the latest.
        self._guarded: dict[str, float] = {}
        self._events = EventIndex()  # owned by the checker thread
        self._triggered: list[ExitOrder] = []  # owned by the checker thread: the exits of this pass
        self._next_sweep = 0.0
        self._seen_until = 0.0  # owned by the checker thread: when the last pass took the changes
        self._reminders = RepeatedWarnings(REMIND_S)
        # Owned by the checker thread: what was announced, and since when it has been so.
        self._unprotected: dict[str, str] = {}
        self._unprotected_since: dict[str, float] = {}
        self._announced_totals: tuple[int, int] | None = None
        self._lock = threading.Lock()  # guards the fields below; never held during I/O or callbacks
        self._last_sweep_at: float | None = None
        self._sweep_wanted = False
        self._sweeps = 0

    # --- lifecycle ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread, or a new one where the last has died."""
        self._thread = threading.Thread(target=self._run, name="stop-loss", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._cache.changed.set()

    def join(self, timeout_s: float) -> bool:
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self.is_alive

    @property
    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def last_pass_at(self) -> float | None:
        """Monotonic time of the last complete sweep."""
        with self._lock:
            return self._last_sweep_at

    @property
    def passes(self) -> int:
        """Complete sweeps so far."""
        with self._lock:
            return self._sweeps

    def sweep_soon(self) -> None:
        """Sweep now instead of at the end of the interval (the feed went down, rules changed)."""
        with self._lock:
            self._sweep_wanted = True
        self._cache.changed.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._clock.wait(self._cache.changed, self.next_look_at - self._clock.monotonic())
            if self._stop.is_set():
                return
            try:
                self.run_once()
            except Exception:  # safety net: the next pass must come
                log_event(logger, logging.ERROR, "stop_loss_error", exc_info=True)
                self._clock.wait(self._stop, 0.2)

    @property
    def next_look_at(self) -> float:
        """Monotonic time of the next pass if no price changes; of the checker's thread."""
        return min(self._next_sweep, *self._guarded.values()) if self._guarded else self._next_sweep

    # --- one pass -----------------------------------------------------------------------------------

    def run_once(self) -> None:
        """Look at what changed, or at everything when the sweep is due."""
        now = self._clock.monotonic()
        seen_until, self._seen_until = self._seen_until, now
        changed = self._cache.take_changes()
        with self._lock:
            wanted, self._sweep_wanted = self._sweep_wanted, False
        if wanted or now >= self._next_sweep:
            self._next_sweep = now + self._settings.interval_s
            self.sweep()
            return
        due = [ticker for ticker, at in self._guarded.items() if now >= at]
        for ticker in dict.fromkeys((*changed, *due)):
            position = self._portfolio.get(ticker)
            if position is None:
                self._guarded.pop(ticker, None)
            else:
                if ticker in self._guarded:  # also where the look fails: it must not come at once again
                    self._guarded[ticker] = now + GUARDED_LOOK_S
                self._check(position, self._feed.is_confirmed(ticker))
                self._hand_over_many()
        self._hand_over()
        self._measure(changed, seen_until)
        if self._announced_totals is not None and self._announced_totals[0] < self._announced_totals[1]:
            self._announce()  # good news need not wait for the sweep

    def _measure(self, changed: Iterable[str], seen_until: float) -> None:
        """Tell how long prices that came since the last pass have waited; after the exits, not before."""
        for ticker in changed:
            look = self._memory.last_look(ticker)
            evaluation, checked_at = look.evaluation, look.checked_at
            if evaluation is None or checked_at is None or evaluation.price_age_s is None:
                continue
            is_streamed = evaluation.price_source != PriceSource.REST.value
            # What came before is no tick: the market's status has changed, and its price was judged then.
            if is_streamed and checked_at - evaluation.price_age_s >= seen_until:
                self._measures.tick_decided(evaluation.price_age_s)

    def sweep(self) -> None:
        """Look at every position, ask for the prices that are missing, announce what is unprotected."""
        feed = self._feed.status()
        positions = self._portfolio.positions()
        entries = self._cache.snapshot()
        self._events.keep_only(positions)
        for ticker in positions:
            self._events.note(_market_of(ticker, entries.get(ticker)))
        for ticker, position in positions.items():
            self._check(position, feed.is_live and ticker in feed.confirmed)
            self._hand_over_many()
        self._hand_over()
        now = self._clock.monotonic()
        self._memory.keep_only(positions)
        with self._lock:
            self._last_sweep_at = now
            self._sweeps += 1
        refresh = decide_refresh(self._needs(feed, positions), feed_is_live=feed.is_live)
        if refresh is not None:
            self._request_prices(refresh)
        self._announce()
        self._swept()

    def _needs(self, feed: FeedStatus, positions: Mapping[str, Position]) -> list[MarketNeed]:
        now, wall = self._clock.monotonic(), self._clock.now()
        entries = self._cache.snapshot()
        needs = []
        for ticker in self._cache.required:
            entry = entries.get(ticker)
            market = _market_of(ticker, entry)
            needs.append(
                MarketNeed(
                    ticker=ticker,
                    status=market.status_at(wall),
                    age_s=entry.age_s(now) if entry is not None else None,
                    stale_after_s=self._settings.stale_after_s,
                    is_confirmed=feed.is_live and ticker in feed.confirmed,
                    is_held=ticker in positions,
                )
            )
        return needs

    def _check(self, position: Position, is_confirmed: bool) -> None:
        ticker = position.ticker
        try:
            self._look_at(position, is_confirmed)
        except Exception:  # safety net: the other positions must still be looked at
            self._memory.note_failure(ticker)
            held_back = self._reminders.allow(f"check_failed {ticker}", self._clock.monotonic())
            if held_back is not None:
                log_event(
                    logger,
                    logging.ERROR,
                    "check_failed",
                    exc_info=True,
                    ticker=ticker,
                    also_since_last=held_back,
                )

    def _look_at(self, position: Position, is_confirmed: bool) -> None:
        """Evaluate one position, and hand it over where a rule says so."""
        ticker = position.ticker
        evaluation = self._evaluate(position, is_confirmed)
        if isinstance(evaluation.decision, Hold) and evaluation.decision.why is HoldReason.GUARDED:
            # Its time runs out whether or not another price comes.
            self._guarded[ticker] = self._clock.monotonic() + GUARDED_LOOK_S
        else:
            self._guarded.pop(ticker, None)
        if isinstance(evaluation.decision, Hold) and evaluation.decision.why in HELD_BACK:
            self._announce_held(ticker, evaluation.decision)
        if isinstance(evaluation.decision, Exit):
            rule = self._rule_of(ticker)
            self._triggered.append(
                ExitOrder(
                    ticker=ticker,
                    reason=evaluation.decision.reason,
                    exit_value=evaluation.decision.exit_value,
                    trigger_price=evaluation.decision.trigger_price,
                    floor=max(self._settings.floor, rule.hold_below_price or Decimal(0)),
                    price_age_s=evaluation.price_age_s,
                )
            )
        self._desk.poke(ticker)

    def _announce_held(self, ticker: str, decision: Hold) -> None:
        """Said, because a position that meets its stop and stays looks like a stop that does not work."""
        key = f"held {ticker} {decision.why}"
        if self._reminders.allow(key, self._clock.monotonic()) is not None:
            log_event(
                logger,
                logging.WARNING,
                "exit_held",
                ticker=ticker,
                why=decision.why.value,
                detail=decision.detail,
            )

    def _hand_over_many(self) -> None:
        if len(self._triggered) >= TRIGGERS_TOGETHER_MAX:
            self._hand_over()

    def _hand_over(self) -> None:
        """Give the exits of this pass to the desk together: the largest expected loss is served first."""
        self._take_events_along()
        triggered, self._triggered = self._triggered, []
        if triggered:
            self._desk.trigger_all(triggered)

    def _take_events_along(self) -> None:
        """Mark the companions of what is about to be left, and look at them now.

        Marked before the exit begins: what is handed to the journal first is on disk first, so no exit that
        a kill leaves behind has lost its companions.
        """
        asked: set[str] = set()
        positions: dict[str, Position] = {}
        for order in self._triggered:  # companions that leave are appended, and each asks once
            if order.ticker in asked or order.reason not in TAKES_ALONG or not self._begins(order.ticker):
                continue
            asked.add(order.ticker)
            why = why_along(order.ticker, order.reason)
            if not positions:
                positions = self._portfolio.positions()
                for ticker in self._events.missing(positions):
                    self._events.note(self._market(ticker))
            for ticker in self._events.companions(self._market(order.ticker)):
                if ticker in positions and self._may_go_along(ticker):
                    log_event(logger, logging.WARNING, "event_group", ticker=ticker, why=why)
                    self._marks[ticker] = (self._portfolio.epoch(ticker), why)
                    self._check(positions[ticker], self._feed.is_confirmed(ticker))

    def _begins(self, ticker: str) -> bool:
        """Whether the desk will begin an exit here; one that is under way has taken its event along."""
        is_held = self._portfolio.get(ticker) is not None
        return is_held and self._desk.takes_exits and not self._desk.is_active(ticker)

    def _may_go_along(self, ticker: str) -> bool:
        """Whether it is to be marked now: by its own rule, and not marked already."""
        if self._memory.is_marked(ticker, self._portfolio.epoch(ticker)):
            return False
        try:
            return goes_along(self._rule_of(ticker))
        except Exception:  # safety net: its companions must still be asked; its own check says what is wrong
            log_event(logger, logging.ERROR, "event_group_failed", exc_info=True, ticker=ticker)
            return False

    def _market(self, ticker: str) -> Market:
        return _market_of(ticker, self._cache.get(ticker))

    def _mark(self, position: Position, epoch: int, rule: ExitRule) -> str:
        """Why this position is to go along with another one of its event, "" when it is not."""
        marked_epoch, why = self._marks.pop(position.ticker, (epoch, ""))
        if why and marked_epoch == epoch:
            return why
        if not self._left_before or not goes_along(rule):
            return ""
        event = event_of(self._market(position.ticker))
        for left in self._left_before:
            is_companion = left.ticker != position.ticker and event_of(self._market(left.ticker)) == event
            if is_companion and was_held_at(position, left.opened_at):
                return why_along(left.ticker, left.reason)
        return ""

    def _evaluate(self, position: Position, is_confirmed: bool) -> Evaluation:
        ticker = position.ticker
        entry = self._cache.get(ticker)
        rule = self._rule_of(ticker)
        now = self._clock.monotonic()
        epoch = self._portfolio.epoch(ticker)
        state = self._memory.state_of(position, epoch)
        if not state.leave_with and (why := self._mark(position, epoch, rule)):
            state = replace(state, leave_with=why)
            self._memory.keep_state(ticker, state)  # though the evaluation should fail
        quote = entry.quote if entry is not None else None
        evaluation = evaluate(
            position,
            None if quote is None else self._others_quote(position, quote),
            _market_of(ticker, entry),
            rule,
            state,
            now_wall=self._clock.now(),
            now_monotonic=now,
            floor=self._settings.floor,
            price_age_s=entry.age_s(now) if entry is not None else None,
            no_price_reason=self._why_unusable(entry, is_confirmed, now),
        )
        self._memory.note(position, evaluation, now)
        return evaluation

    def _why_unusable(self, entry: PriceEntry | None, is_confirmed: bool, now: float) -> HoldReason | None:
        """Why the cached quote may not be acted on, None when it may."""
        if entry is None or entry.quote is None:
            return HoldReason.NO_PRICE
        # Quiet is not stale: the exchange sends a ticker only when something changed.
        if is_confirmed or not entry.is_stale(now):
            return None
        return HoldReason.STALE_PRICE

    # --- what others may ask ------------------------------------------------------------------------

    def checked_positions(self) -> list[CheckedPosition]:
        """Every position with its last evaluation and whether it is protected now, by ticker."""
        feed = self._feed.status()
        positions = self._portfolio.positions()
        blocked = self._desk.blocked()
        return [self._assess_guarded(positions[t], feed, blocked.get(t)) for t in sorted(positions)]

    def coverage(self) -> Coverage:
        return summarize((c.position.ticker, c.protection) for c in self.checked_positions())

    def history(self, ticker: str) -> list[HistoryRow] | None:
        """The last evaluations of one position, oldest first; None when it is not held."""
        return self._memory.history(ticker)

    def _assess_guarded(
        self, position: Position, feed: FeedStatus, blocked: Blocked | None
    ) -> CheckedPosition:
        try:
            return self._assess(position, feed, blocked)
        except Exception:  # safety net: a position that cannot be judged is shown, and hides no other
            held_back = self._reminders.allow(f"assess_failed {position.ticker}", self._clock.monotonic())
            if held_back is not None:
                log_event(logger, logging.ERROR, "assess_failed", exc_info=True, ticker=position.ticker)
            return CheckedPosition(
                position=position,
                market=Market(position.ticker),
                evaluation=None,
                price_age_s=None,
                price_source="none",
                protection=Protection(open=True, protected=False, reason=NOT_CHECKED),
            )

    def _assess(self, position: Position, feed: FeedStatus, blocked: Blocked | None) -> CheckedPosition:
        ticker = position.ticker
        now, wall = self._clock.monotonic(), self._clock.now()
        entry = self._cache.get(ticker)
        market = _market_of(ticker, entry)
        quote = entry.quote if entry is not None else None
        rule = self._rule_of(ticker)
        last = self._memory.last_look(ticker)
        evaluation = last.evaluation
        hold = evaluation.decision if evaluation is not None else None
        facts = PositionFacts(
            ticker=ticker,
            market_status=market.status_at(wall),
            is_armed=can_ever_exit(position, rule),
            is_by_choice=not rule.protect,
            checked_age_s=None if last.checked_at is None else now - last.checked_at,
            sweep_interval_s=self._settings.interval_s,
            hold_reason=hold.why if isinstance(hold, Hold) else None,
            hold_age_s=None if last.hold_since is None else now - last.hold_since,
            price_source=quote.source if quote is not None else None,
            price_age_s=entry.age_s(now) if entry is not None else None,
            is_streamed=feed.is_live and ticker in feed.confirmed,
            stale_after_s=self._settings.stale_after_s,
            is_hedged=rule.hedged,
            is_halted=self._halted(),
            is_key_refused=self._key_refused(),
            blocked_why="" if blocked is None else blocked.why,
            blocked_for_s=0.0 if blocked is None else now - blocked.since,
        )
        return CheckedPosition(
            position=position,
            market=market,
            evaluation=evaluation,
            price_age_s=facts.price_age_s,
            price_source=quote.source.value if quote is not None else "none",
            protection=assess(facts),
        )

    def _announce(self) -> None:
        """Log the totals when they change, who became unprotected or protected again, and remind of those
        who stay unprotected.

        A position is named as unprotected once it has been so for `ANNOUNCE_AFTER_S`: one that has just
        been opened waits a moment for its market's first price.
        """
        now = self._clock.monotonic()
        coverage = self.coverage()
        totals = (coverage.protected, coverage.open)
        # While it is not known whether what was held before a restart is held still, no total is true.
        is_known = self._portfolio.is_loaded and not self._portfolio.unshown
        if totals != self._announced_totals and is_known:
            self._announced_totals = totals
            log_event(logger, logging.INFO, "coverage", protected=f"{totals[0]}/{totals[1]}")
        current = dict(coverage.unprotected)
        self._unprotected_since = {t: self._unprotected_since.get(t, now) for t in current}
        for ticker, why in current.items():
            if now - self._unprotected_since[ticker] < ANNOUNCE_AFTER_S:
                continue
            is_due = self._reminders.allow(ticker, now) is not None
            if self._unprotected.get(ticker) != why or is_due:
                # What is left alone on purpose is told, and is no alarm.
                level = logging.INFO if why in NOT_COUNTED else logging.WARNING
                log_event(logger, level, "unprotected", ticker=ticker, why=why)
            self._unprotected[ticker] = why
        for ticker in self._unprotected.keys() - current.keys():
            del self._unprotected[ticker]
            if self._portfolio.get(ticker) is not None:
                log_event(logger, logging.INFO, "protected", ticker=ticker)
