"""The stop-loss checker thread: cache -> rules -> exits.

It wakes when a held market's price or status changes and looks at that market; every
`STOP_LOSS_INTERVAL_S` it sweeps all positions, and asks for a batched REST read of the prices that no
live subscription vouches for. It never waits for the network: reads and exits are other threads' work.
An exception while looking at one position is that position's trouble alone.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from base.clock import Clock
from base.execution.exits import ExitDesk, ExitOrder
from base.kalshi.websocket_client import FeedStatus
from base.kalshi.websocket_price_cache import PriceEntry, WebsocketPriceCache
from base.log import RepeatedWarnings, log_event
from base.model.market import Market
from base.model.position import Position
from base.model.rules import Evaluation, Exit, ExitRule, Hold, HoldReason, RuleState
from base.risk.coverage import NOT_CHECKED, Coverage, PositionFacts, Protection, assess, summarize
from base.risk.exit_rules import can_ever_exit, evaluate
from base.risk.price_needs import MarketNeed, Refresh, decide_refresh
from base.store.portfolio import Portfolio
from base.store.records import DecisionRecord, NoRecorder, Record, Recorder, RuleStateRecord

logger = logging.getLogger(__name__)

HISTORY_MAX = 60
"""Evaluations remembered a position for `explain`; equal ones in a row count as one."""
ANNOUNCE_AFTER_S = 1.0
REMIND_S = 300.0
"""An unprotected position is announced again this often."""
SAME_ENTRY_TOLERANCE = Decimal("0.001")
"""By which an entry price may differ for a position to be the one that the last run remembered."""
TRIGGERS_TOGETHER_MAX = 64
"""So many exits of one pass are handed over together; the first must not wait for a long sweep to end."""


class FeedView(Protocol):
    """What the checker needs to know of the stream."""

    def is_confirmed(self, ticker: str) -> bool: ...

    def status(self) -> FeedStatus: ...


@dataclass(frozen=True, slots=True)
class CheckerSettings:
    """Durations in seconds; `floor` is EXIT_FLOOR_DOLLARS."""

    interval_s: float
    stale_after_s: float
    floor: Decimal


@dataclass(slots=True)
class HistoryRow:
    """One evaluation, and how many equal ones followed it."""

    evaluation: Evaluation
    repeats: int = 1


@dataclass(slots=True)
class _Record:
    """What the checker remembers of one position."""

    epoch: int
    state: RuleState
    rule: ExitRule
    history: deque[HistoryRow]
    evaluation: Evaluation | None = None
    checked_at: float | None = None
    hold_since: float | None = None
    error: str = ""
    written: tuple[Decimal | None, bool, Decimal] | None = None
    """What the journal was last given: best exit value, break-even, entry price."""


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
    remember and each new verdict; `rule_states` is what a run before this one remembered."""

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
        self._recorder: Recorder = recorder if recorder is not None else NoRecorder()
        self._remembered = {r.ticker: r for r in rule_states}  # owned by the checker thread; each used once
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._triggered: list[ExitOrder] = []  # owned by the checker thread: the exits of this pass
        self._next_sweep = 0.0
        self._reminders = RepeatedWarnings(REMIND_S)
        # Owned by the checker thread: what was announced, and since when it has been so.
        self._unprotected: dict[str, str] = {}
        self._unprotected_since: dict[str, float] = {}
        self._announced_totals: tuple[int, int] | None = None
        self._lock = threading.Lock()  # guards the fields below; never held during I/O or callbacks
        self._records: dict[str, _Record] = {}
        self._last_sweep_at: float | None = None
        self._sweep_wanted = False

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

    def sweep_soon(self) -> None:
        """Sweep now instead of at the end of the interval (the feed went down, rules changed)."""
        with self._lock:
            self._sweep_wanted = True
        self._cache.changed.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._clock.wait(self._cache.changed, self._next_sweep - self._clock.monotonic())
            if self._stop.is_set():
                return
            try:
                self.run_once()
            except Exception:  # safety net: the next pass must come
                logger.exception("event=stop_loss_error")
                self._clock.wait(self._stop, 0.2)

    # --- one pass -----------------------------------------------------------------------------------

    def run_once(self) -> None:
        """Look at what changed, or at everything when the sweep is due."""
        now = self._clock.monotonic()
        changed = self._cache.take_changes()
        with self._lock:
            wanted, self._sweep_wanted = self._sweep_wanted, False
        if wanted or now >= self._next_sweep:
            self._next_sweep = now + self._settings.interval_s
            self.sweep()
            return
        for ticker in changed:
            position = self._portfolio.get(ticker)
            if position is not None:
                self._check(position, self._feed.is_confirmed(ticker))
        self._hand_over()
        if self._announced_totals is not None and self._announced_totals[0] < self._announced_totals[1]:
            self._announce()  # good news need not wait for the sweep

    def sweep(self) -> None:
        """Look at every position, ask for the prices that are missing, announce what is unprotected."""
        feed = self._feed.status()
        positions = self._portfolio.positions()
        for ticker, position in positions.items():
            self._check(position, feed.is_live and ticker in feed.confirmed)
        self._hand_over()
        now = self._clock.monotonic()
        with self._lock:
            for gone in [t for t in self._records if t not in positions]:
                del self._records[gone]
            self._last_sweep_at = now
        refresh = decide_refresh(self._needs(feed), feed_is_live=feed.is_live)
        if refresh is not None:
            self._request_prices(refresh)
        self._announce()
        self._swept()

    def _needs(self, feed: FeedStatus) -> list[MarketNeed]:
        now, wall = self._clock.monotonic(), self._clock.now()
        entries = self._cache.snapshot()
        needs = []
        for ticker in self._cache.required:
            entry = entries.get(ticker)
            market = entry.market if entry is not None else Market(ticker)
            needs.append(
                MarketNeed(
                    ticker=ticker,
                    status=market.status_at(wall),
                    age_s=entry.age_s(now) if entry is not None else None,
                    stale_after_s=self._settings.stale_after_s,
                    is_confirmed=feed.is_live and ticker in feed.confirmed,
                )
            )
        return needs

    def _check(self, position: Position, is_confirmed: bool) -> None:
        ticker = position.ticker
        try:
            self._look_at(position, is_confirmed)
        except Exception as exc:  # safety net: the other positions must still be looked at
            with self._lock:
                if ticker in self._records:
                    self._records[ticker].error = f"{type(exc).__name__}: {exc}"
            held_back = self._reminders.allow(f"check_failed {ticker}", self._clock.monotonic())
            if held_back is not None:
                logger.exception("event=check_failed ticker=%s also_since_last=%s", ticker, held_back)

    def _look_at(self, position: Position, is_confirmed: bool) -> None:
        """Evaluate one position, and hand it over where a rule says so."""
        ticker = position.ticker
        evaluation = self._evaluate(position, is_confirmed)
        if isinstance(evaluation.decision, Exit):
            rule = self._rule_of(ticker)
            self._triggered.append(
                ExitOrder(
                    ticker=ticker,
                    reason=evaluation.decision.reason,
                    exit_value=evaluation.decision.exit_value,
                    trigger_price=evaluation.decision.trigger_price,
                    floor=max(self._settings.floor, rule.hold_below_price or Decimal(0)),
                )
            )
            if len(self._triggered) >= TRIGGERS_TOGETHER_MAX:
                self._hand_over()
        self._desk.poke(ticker)

    def _hand_over(self) -> None:
        """Give the exits of this pass to the desk together: the largest expected loss is served first."""
        triggered, self._triggered = self._triggered, []
        if triggered:
            self._desk.trigger_all(triggered)

    def _evaluate(self, position: Position, is_confirmed: bool) -> Evaluation:
        ticker = position.ticker
        entry = self._cache.get(ticker)
        rule = self._rule_of(ticker)
        now = self._clock.monotonic()
        epoch = self._portfolio.epoch(ticker)
        with self._lock:
            record = self._records.get(ticker)
            if record is None or record.epoch != epoch:
                record = _Record(epoch, self._first_state(position), rule, deque(maxlen=HISTORY_MAX))
                self._records[ticker] = record
            state = record.state
        evaluation = evaluate(
            position,
            entry.quote if entry is not None else None,
            entry.market if entry is not None else Market(ticker),
            rule,
            state,
            now_wall=self._clock.now(),
            now_monotonic=now,
            floor=self._settings.floor,
            price_age_s=entry.age_s(now) if entry is not None else None,
            no_price_reason=self._why_unusable(entry, is_confirmed, now),
        )
        with self._lock:
            previous = record.evaluation
            record.state = evaluation.state
            record.rule = rule
            record.checked_at = now
            record.error = ""
            if previous is None or _why(previous) != _why(evaluation):
                record.hold_since = now
            record.evaluation = evaluation
            last = record.history[-1] if record.history else None
            if last is not None and _is_alike(last.evaluation, evaluation):
                last.repeats += 1
            else:
                record.history.append(HistoryRow(evaluation))
        self._write_down(position, record, previous, evaluation)
        return evaluation

    def _first_state(self, position: Position) -> RuleState:
        """What the rules start with: what the last run remembered, if it is of this very position.

        A position opened anew must not inherit the high-water mark of the one before.
        """
        remembered = self._remembered.pop(position.ticker, None)
        if remembered is None:
            return RuleState()
        is_same_side = remembered.outcome_side is position.outcome_side
        if not is_same_side or abs(remembered.entry_price - position.entry_price) > SAME_ENTRY_TOLERANCE:
            log_event(
                logger,
                logging.WARNING,
                "rule_state_dropped",
                ticker=position.ticker,
                why="traded while nobody watched: trailing and break-even start afresh",
                remembered_entry=remembered.entry_price,
                entry=position.entry_price,
            )
            return RuleState()
        log_event(
            logger,
            logging.INFO,
            "rule_state_taken_up",
            ticker=position.ticker,
            best_exit_value=remembered.best_exit_value,
            break_even_armed=remembered.break_even_armed,
        )
        return RuleState(
            best_exit_value=remembered.best_exit_value, break_even_armed=remembered.break_even_armed
        )

    def _write_down(
        self, position: Position, record: _Record, previous: Evaluation | None, evaluation: Evaluation
    ) -> None:
        """Hand the journal what has changed: what the rules remember, and the verdict."""
        records: list[Record] = []
        state = evaluation.state
        memory = (state.best_exit_value, state.break_even_armed, position.entry_price)
        if memory != record.written:
            record.written = memory
            records.append(
                RuleStateRecord(
                    position.ticker,
                    position.outcome_side,
                    position.entry_price,
                    state.best_exit_value,
                    state.break_even_armed,
                    evaluation.at,
                )
            )
        if previous is None or _why(previous) != _why(evaluation):
            decision = evaluation.decision
            records.append(
                DecisionRecord(
                    evaluation.at,
                    position.ticker,
                    "exit" if isinstance(decision, Exit) else "hold",
                    decision.reason.value if isinstance(decision, Exit) else decision.why.value,
                    evaluation.exit_value,
                    decision.detail,
                )
            )
        if records:
            self._recorder.write(records)

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
        return [self._assess_guarded(positions[t], feed) for t in sorted(positions)]

    def coverage(self) -> Coverage:
        return summarize((c.position.ticker, c.protection) for c in self.checked_positions())

    def history(self, ticker: str) -> list[HistoryRow] | None:
        """The last evaluations of one position, oldest first; None when it is not held."""
        with self._lock:
            record = self._records.get(ticker)
            return None if record is None else [HistoryRow(r.evaluation, r.repeats) for r in record.history]

    def _assess_guarded(self, position: Position, feed: FeedStatus) -> CheckedPosition:
        try:
            return self._assess(position, feed)
        except Exception:  # safety net: a position that cannot be judged is shown, and hides no other
            held_back = self._reminders.allow(f"assess_failed {position.ticker}", self._clock.monotonic())
            if held_back is not None:
                logger.exception("event=assess_failed ticker=%s", position.ticker)
            return CheckedPosition(
                position=position,
                market=Market(position.ticker),
                evaluation=None,
                price_age_s=None,
                price_source="none",
                protection=Protection(open=True, protected=False, reason=NOT_CHECKED),
            )

    def _assess(self, position: Position, feed: FeedStatus) -> CheckedPosition:
        ticker = position.ticker
        now, wall = self._clock.monotonic(), self._clock.now()
        entry = self._cache.get(ticker)
        market = entry.market if entry is not None else Market(ticker)
        quote = entry.quote if entry is not None else None
        rule = self._rule_of(ticker)
        with self._lock:
            record = self._records.get(ticker)
            evaluation = record.evaluation if record is not None else None
            checked_at = record.checked_at if record is not None and not record.error else None
            hold_since = record.hold_since if record is not None else None
        hold = evaluation.decision if evaluation is not None else None
        facts = PositionFacts(
            ticker=ticker,
            market_status=market.status_at(wall),
            is_armed=can_ever_exit(position, rule),
            is_by_choice=not rule.protect,
            checked_age_s=None if checked_at is None else now - checked_at,
            sweep_interval_s=self._settings.interval_s,
            hold_reason=hold.why if isinstance(hold, Hold) else None,
            hold_age_s=None if hold_since is None else now - hold_since,
            price_source=quote.source if quote is not None else None,
            price_age_s=entry.age_s(now) if entry is not None else None,
            is_streamed=feed.is_live and ticker in feed.confirmed,
            stale_after_s=self._settings.stale_after_s,
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
        if totals != self._announced_totals and self._portfolio.is_loaded:
            self._announced_totals = totals
            log_event(logger, logging.INFO, "coverage", protected=f"{totals[0]}/{totals[1]}")
        current = dict(coverage.unprotected)
        self._unprotected_since = {t: self._unprotected_since.get(t, now) for t in current}
        for ticker, why in current.items():
            if now - self._unprotected_since[ticker] < ANNOUNCE_AFTER_S:
                continue
            is_due = self._reminders.allow(ticker, now) is not None
            if self._unprotected.get(ticker) != why or is_due:
                log_event(logger, logging.WARNING, "unprotected", ticker=ticker, why=why)
            self._unprotected[ticker] = why
        for ticker in self._unprotected.keys() - current.keys():
            del self._unprotected[ticker]
            if self._portfolio.get(ticker) is not None:
                log_event(logger, logging.INFO, "protected", ticker=ticker)


def _why(evaluation: Evaluation) -> str:
    decision = evaluation.decision
    return decision.why.value if isinstance(decision, Hold) else decision.reason.value


def _is_alike(one: Evaluation, other: Evaluation) -> bool:
    return (
        _why(one) == _why(other)
        and one.exit_value == other.exit_value
        and one.stop_price == other.stop_price
        and one.price_source == other.price_source
    )
