"""Which positions are part of a set that cannot lose, so that no stop leaves one of them alone.

What holds stops back, and for how long, is decided in `base/risk/hedges.py`; its text says what can break a
set and what then happens. Here is what is known of each set, from the disk, the positions and the orders.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from base.clock import Clock
from base.log import log_event
from base.model.rules import ExitRule
from base.risk import hedges
from base.risk.hedges import Hedge, HedgeState, Holdings
from base.store.portfolio import READ_LAG_S, Portfolio
from base.store.records import HedgeRecord, NoRecorder, Recorder, Remembered

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Kept:
    """One set that has not ended; guarded by the book's lock."""

    hedge: Hedge
    record: HedgeRecord
    told_more: set[str] = field(default_factory=set)
    awaited_at: dict[str, float] = field(default_factory=dict)
    """When an order of ours was last known to be able to fill, by market; monotonic."""


class HedgeBook:
    """Which positions are part of a set; thread-safe.

    `awaited` gives the markets in which an order of ours may still fill.
    """

    def __init__(
        self,
        portfolio: Portfolio,
        clock: Clock,
        recorder: Recorder | None = None,
        awaited: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._portfolio = portfolio
        self._clock = clock
        self._recorder: Recorder = recorder if recorder is not None else NoRecorder()
        self._awaited = awaited
        self._lock = threading.Lock()  # guards the fields below; never held during I/O or callbacks
        self._kept: dict[str, _Kept] = {}
        self._set_of: dict[str, str] = {}  # market ticker -> id of its set

    def restore(self, remembered: Remembered) -> int:
        """Take up the sets that the last run has left; before any thread starts. Return how many."""
        held = {p.ticker: p for p in remembered.positions}
        now = self._clock.monotonic()
        with self._lock:
            for record in remembered.hedges:
                tickers = tuple(record.tickers.split())
                was_whole = all(
                    t in held
                    and held[t].outcome_side is record.outcome_side
                    and held[t].count >= record.count
                    for t in tickers
                )
                hedge = Hedge(
                    record.id,
                    tickers,
                    record.outcome_side,
                    record.count,
                    HedgeState.RESTORED,
                    now,
                    was_whole,
                )
                self._keep_locked(hedge, record)
            return len(self._kept)

    # --- readers ------------------------------------------------------------------------------------

    def is_hedged(self, ticker: str) -> bool:
        """Whether no rule may leave this position now, because it is part of a set."""
        with self._lock:
            kept = self._kept.get(self._set_of.get(ticker, ""))
            if kept is None:
                return False
            hedge = kept.hedge
        holdings = self._holdings(hedge)
        hedge = self._advance(hedge, holdings)
        position = holdings.positions.get(ticker)
        if hedge.state is HedgeState.WHOLE and hedges.is_more_than(hedge, position):
            self._tell_more(hedge, ticker)
        return hedges.is_hedged(hedge, ticker, holdings, self._clock.monotonic())

    def sets(self) -> list[Hedge]:
        """All that have not ended, for display."""
        with self._lock:
            return [kept.hedge for kept in self._kept.values()]

    def rules(self, rule_of: Callable[[str], ExitRule]) -> Callable[[str], ExitRule]:
        """The same rules, but with `hedged` set where it holds."""

        def hedged_rule_of(ticker: str) -> ExitRule:
            rule = rule_of(ticker)
            return replace(rule, hedged=True) if self.is_hedged(ticker) else rule

        return hedged_rule_of

    # --- writers ------------------------------------------------------------------------------------

    def begin(self, record: HedgeRecord) -> str:
        """Write a set down that is about to be bought; return why it must not be, "" when it may."""
        tickers = tuple(record.tickers.split())
        building = Hedge(
            record.id,
            tickers,
            record.outcome_side,
            record.count,
            HedgeState.BUILDING,
            self._clock.monotonic(),
        )
        with self._lock:
            taken = [t for t in tickers if t in self._set_of]
            if not taken:
                self._keep_locked(building, record)
        if taken:
            return f"{taken[0]} is part of another set"
        if not self._recorder.commit([record]):
            self._move(building, HedgeState.ENDED)
            return "it cannot be written down"
        self._move(building, HedgeState.BUILDING)  # its time begins when the first leg may leave
        return ""

    def completed(self, hedge_id: str) -> None:
        """Every leg was bought in full."""
        self._decide(hedge_id, HedgeState.WHOLE)

    def broke(self, hedge_id: str) -> None:
        """A leg could not be had: what is held of the set is to be sold again."""
        self._decide(hedge_id, HedgeState.BROKEN)

    def to_sell_again(self) -> list[str]:
        """Look at every set; return the markets in which broken ones are still held."""
        found: list[str] = []
        for hedge in self.sets():
            holdings = self._holdings(hedge)
            now = self._advance(hedge, holdings)
            if now.state is HedgeState.BROKEN:
                found += hedges.legs_to_sell(now, holdings.positions)
        return found

    # --- inside -------------------------------------------------------------------------------------

    def _holdings(self, hedge: Hedge) -> Holdings:
        # First whether they have been read: what is read after that shows at least what that read did.
        is_loaded = self._portfolio.is_loaded
        doubtful: Collection[str] = ()
        if hedge.state not in (HedgeState.WHOLE, HedgeState.BUILDING):
            # Before the positions, likewise: what fills meanwhile is held or awaited, or both.
            doubtful = self._doubtful(hedge)
        return Holdings(self._portfolio.positions(), is_loaded, doubtful)

    def _doubtful(self, hedge: Hedge) -> set[str]:
        """Legs of which what is shown is not the last word. What a lost order has bought is known by a read
        that left well after its outcome became known, not before."""
        awaited, now = set(self._awaited()), self._clock.monotonic()
        with self._lock:
            kept = self._kept.get(hedge.id)
            awaited_at = {} if kept is None else kept.awaited_at
            awaited_at |= {t: now for t in hedge.tickers if t in awaited}
            last = dict(awaited_at)
        unread = (t for t, at in last.items() if not self._is_read_since(t, at + READ_LAG_S))
        return {*unread, *self._portfolio.unshown}

    def _is_read_since(self, ticker: str, at: float) -> bool:
        judged_at = self._portfolio.judged_at(ticker)
        return judged_at is not None and judged_at >= at

    def _advance(self, hedge: Hedge, holdings: Holdings) -> Hedge:
        state = hedges.next_state(hedge, holdings)
        if state is hedge.state:
            return hedge
        missing = hedges.missing_legs(hedge, holdings.positions)
        return self._move(hedge, state, missing, hedges.held_legs(hedge, holdings.positions))

    def _decide(self, hedge_id: str, state: HedgeState) -> None:
        with self._lock:
            kept = self._kept.get(hedge_id)
        if kept is not None:
            self._move(kept.hedge, state)

    def _move(
        self, before: Hedge, state: HedgeState, missing: Collection[str] = (), held: Collection[str] = ()
    ) -> Hedge:
        """Take a set from one state to another, unless another thread was first; return where it is now."""
        after = replace(before, state=state, since=self._clock.monotonic())
        ended = None
        with self._lock:
            kept = self._kept.get(before.id)
            if kept is None:
                return replace(before, state=HedgeState.ENDED)
            if kept.hedge is not before:
                return kept.hedge
            kept.hedge = after
            if state is HedgeState.ENDED:
                ended = replace(kept.record, ended_at=self._clock.now())
                del self._kept[before.id]
                for ticker in before.tickers:
                    self._set_of.pop(ticker, None)
        if ended is not None:
            self._recorder.write([ended])
        if state is not before.state:
            self._tell(before, after, missing, held)
        return after

    def _tell(self, before: Hedge, after: Hedge, missing: Collection[str], held: Collection[str]) -> None:
        is_bad = after.state is HedgeState.BROKEN or (after.state is HedgeState.ENDED and bool(held))
        log_event(
            logger,
            logging.WARNING if is_bad else logging.INFO,
            f"set_{after.state.value}",
            id=after.id,
            was=before.state.value,
            why=_why(before, after),
            missing=" ".join(missing) or None,
            held=" ".join(held) or None,
        )

    def _tell_more(self, hedge: Hedge, ticker: str) -> None:
        with self._lock:
            kept = self._kept.get(hedge.id)
            is_new = kept is not None and ticker not in kept.told_more
            if kept is not None:
                kept.told_more.add(ticker)
        if is_new:
            log_event(
                logger,
                logging.WARNING,
                "set_exceeded",
                ticker=ticker,
                id=hedge.id,
                why="more is held than the set needs: its ordinary rules judge all of it",
            )

    def _keep_locked(self, hedge: Hedge, record: HedgeRecord) -> None:
        self._kept[hedge.id] = _Kept(hedge, record)
        self._set_of.update(dict.fromkeys(hedge.tickers, hedge.id))


def _why(before: Hedge, after: Hedge) -> str:
    """What its new state means, for the log."""
    match after.state:
        case HedgeState.WHOLE:
            return "all of it is held: no stop leaves one of its legs"
        case HedgeState.UNPROVED:
            return "reads do not show all of it yet, and do not prove that it is gone"
        case HedgeState.BROKEN:
            return "a leg was not bought: what is held of it is sold again, at once or when a read shows it"
        case HedgeState.ENDED if before.state is HedgeState.WHOLE:
            return "a leg is gone or smaller: what is held of it is under its own rules now"
        case HedgeState.ENDED:
            return "nothing of it is held as a set any more"
        case _:
            return ""
