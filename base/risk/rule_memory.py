"""What is remembered of each position between two looks: the rules' state, the last verdicts, and what the
journal was given of them, so that a trailing stop, a break-even and a mark outlive a restart.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Container, Iterable
from dataclasses import dataclass
from decimal import Decimal

from base.log import log_event
from base.model.position import Position
from base.model.rules import Evaluation, Exit, Hold, RuleState
from base.store.records import DecisionRecord, Record, Recorder, RuleStateRecord

logger = logging.getLogger(__name__)

ENDED_MAX = 200
HISTORY_MAX = 60
"""Evaluations remembered a position for `explain`; equal ones in a row count as one."""
SAME_ENTRY_TOLERANCE = Decimal("0.001")
"""By which an entry price may differ for a position to be the one that the last run remembered."""


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """The last of so many equal evaluations in a row, the position that it looked at, and when the first
    of them was (wall time; None: then too)."""

    evaluation: Evaluation
    repeats: int = 1
    position: Position | None = None
    since: float | None = None


@dataclass(slots=True)
class _Record:
    """What the checker remembers of one position."""

    epoch: int
    state: RuleState
    history: deque[HistoryRow]
    evaluation: Evaluation | None = None
    checked_at: float | None = None
    hold_since: float | None = None
    has_failed: bool = False
    """Since the last evaluation, looking at it has raised."""
    written: tuple[Decimal | None, bool, Decimal, str] | None = None
    """What the journal was last given: best exit value, break-even, entry price, why it goes along."""


@dataclass(frozen=True, slots=True)
class LastLook:
    """The last evaluation, and when (monotonic): `checked_at` None when there was none that succeeded,
    `hold_since` the first of those in a row with the same verdict."""

    evaluation: Evaluation | None = None
    checked_at: float | None = None
    hold_since: float | None = None


class RuleMemory:
    """Written by the checker thread alone, read by any; `rule_states` is what a run before remembered."""

    def __init__(self, recorder: Recorder, rule_states: Iterable[RuleStateRecord]) -> None:
        self._recorder = recorder
        self._remembered = {r.ticker: r for r in rule_states}  # owned by the checker thread; each used once
        self._lock = threading.Lock()  # guards the field below; never held during I/O or callbacks
        self._records: dict[str, _Record] = {}
        self._ended: OrderedDict[str, list[HistoryRow]] = OrderedDict()  # of what is held no more

    def state_of(self, position: Position, epoch: int) -> RuleState:
        """What the rules remember of this very position; a new epoch is another position."""
        with self._lock:
            record = self._records.get(position.ticker)
            if record is not None and record.epoch == epoch:
                return record.state
        record = _Record(epoch, self._first_state(position), deque(maxlen=HISTORY_MAX))
        with self._lock:
            self._records[position.ticker] = record
        return record.state

    def keep_state(self, ticker: str, state: RuleState) -> None:
        with self._lock:
            self._records[ticker].state = state

    def is_marked(self, ticker: str, epoch: int) -> bool:
        """Whether this very position goes along with another one of its event."""
        with self._lock:
            record = self._records.get(ticker)
            return record is not None and record.epoch == epoch and record.state.leave_with != ""

    def note(self, position: Position, evaluation: Evaluation, now: float) -> None:
        """Keep an evaluation, and hand the journal what it changes; `now` is monotonic."""
        with self._lock:
            record = self._records[position.ticker]
            previous = record.evaluation
            record.state = evaluation.state
            record.checked_at = now
            record.has_failed = False
            if previous is None or _why(previous) != _why(evaluation):
                record.hold_since = now
            record.evaluation = evaluation
            last = record.history[-1] if record.history else None
            if last is not None and _is_alike(last.evaluation, evaluation):
                record.history[-1] = HistoryRow(evaluation, last.repeats + 1, position, last.since)
            else:
                record.history.append(HistoryRow(evaluation, 1, position, evaluation.at))
        self._write_down(position, record, previous, evaluation)

    def note_failure(self, ticker: str) -> None:
        """It could not be looked at: what was seen before does not count as checked."""
        with self._lock:
            if ticker in self._records:
                self._records[ticker].has_failed = True

    def keep_only(self, tickers: Container[str]) -> None:
        """Forget what is not held any more, but for what was seen of it last: "why was it sold?" is asked
        afterwards."""
        with self._lock:
            for gone in [t for t in self._records if t not in tickers]:
                self._ended[gone] = list(self._records.pop(gone).history)
                self._ended.move_to_end(gone)
                if len(self._ended) > ENDED_MAX:
                    self._ended.popitem(last=False)

    def last_look(self, ticker: str) -> LastLook:
        with self._lock:
            record = self._records.get(ticker)
            if record is None:
                return LastLook()
            checked_at = None if record.has_failed else record.checked_at
            return LastLook(record.evaluation, checked_at, record.hold_since)

    def history(self, ticker: str) -> list[HistoryRow] | None:
        """The last evaluations of one position, oldest first, also of one that has lately been left; None
        when nothing is known of it."""
        with self._lock:
            record = self._records.get(ticker)
            return self._ended.get(ticker) if record is None else list(record.history)

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
            leave_with=remembered.leave_with or None,
        )
        return RuleState(
            best_exit_value=remembered.best_exit_value,
            break_even_armed=remembered.break_even_armed,
            leave_with=remembered.leave_with,
        )

    def _write_down(
        self, position: Position, record: _Record, previous: Evaluation | None, evaluation: Evaluation
    ) -> None:
        """Hand the journal what has changed: what the rules remember, and the verdict."""
        records: list[Record] = []
        state = evaluation.state
        memory = (state.best_exit_value, state.break_even_armed, position.entry_price, state.leave_with)
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
                    state.leave_with,
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


def _why(evaluation: Evaluation) -> str:
    decision = evaluation.decision
    return decision.why.value if isinstance(decision, Hold) else decision.reason.value


def _is_alike(one: Evaluation, other: Evaluation) -> bool:
    return (
        _why(one) == _why(other)
        and one.exit_value == other.exit_value
        and one.stop_price == other.stop_price
        and one.take_profit_price == other.take_profit_price
        and one.price_source == other.price_source
    )
