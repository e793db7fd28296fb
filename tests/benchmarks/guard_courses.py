"""A market's course on a tape as a position sees it: where it is entered, and where a rule leaves it."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from base.app.replay import (
    BACK_WITHIN_S,
    CUT_OFF_S,
    ENTRY_HIGH,
    ENTRY_LOW,
    FLOOR,
    SWEEP_S,
    close_time_of,
    settlement_of,
)
from base.model.market import ONE, ZERO, Market, MarketStatus, OutcomeSide, Quote
from base.model.position import Position
from base.model.rules import Exit, ExitRule, Hold, HoldReason, RuleState
from base.risk.exit_rules import evaluate

LATENCY_S = 0.05
LOOKS_BEFORE_S = 60.0
"""The walk along a tape skips what lies clear of the stop, but not the minute before it is met: guards
remember the recent past."""


@dataclass(frozen=True, slots=True)
class Course:
    """One market of a tape as one outcome side sees it."""

    market: Market
    side: OutcomeSide
    quotes: Sequence[Quote]
    times: Sequence[float]
    bids: Sequence[Decimal]
    """The bid of the held side, whatever it is."""
    is_real: Sequence[bool]
    settlement: Decimal | None

    def next_real(self, start: int) -> int | None:
        return next((i for i in range(start, len(self.bids)) if self.is_real[i]), None)


@dataclass(frozen=True, slots=True)
class Sale:
    """How one rule ended one position; `late_price` None: after the latency nobody bought it any more."""

    index: int
    at: float
    price: Decimal
    late_price: Decimal | None
    is_by_close: bool
    """The quote that was acted on had no buyer, and none came after it."""
    is_false: bool
    """The bid was above the stop again within a minute."""


def course_of(ticker: str, quotes: Sequence[Quote], side: OutcomeSide) -> Course:
    close = close_time_of(ticker)
    is_cut_off = close is not None and quotes[-1].received_at < close - CUT_OFF_S
    settlement = None if is_cut_off else settlement_of(quotes)
    if settlement is not None and side is OutcomeSide.NO:
        settlement = ONE - settlement
    bids = [quote.best_bid(side) for quote in quotes]
    sizes = [quote.bid_size(side) for quote in quotes]
    # Judged here and not by the exit rules, so that the table can convict them.
    is_real = [
        ZERO < bid < ONE and (size is None or size > ZERO) and (close is None or quote.received_at < close)
        for bid, size, quote in zip(bids, sizes, quotes, strict=True)
    ]
    times = [quote.received_at for quote in quotes]
    return Course(
        Market(ticker, "", MarketStatus.ACTIVE, close), side, quotes, times, bids, is_real, settlement
    )


def entry_points(course: Course, entries: int) -> list[int]:
    """Where a position is entered: at most once in each part of the market's time."""
    first, last = course.times[0], course.times[-1]
    found: set[int] = set()
    for part in range(entries):
        start = bisect.bisect_left(course.times, first + (last - first) * part / entries)
        for index in range(start, len(course.bids)):
            if course.is_real[index] and ENTRY_LOW <= course.bids[index] <= ENTRY_HIGH:
                found.add(index)
                break
    return sorted(found)


def walk(
    course: Course, start: int, position: Position, rule: ExitRule, met: Sequence[int]
) -> tuple[int, float] | None:
    """Where the daemon would leave, as quote and time: every quote while the stop is met, and the sweeps
    that look again while a guard waits."""
    index, state, is_clear = start, RuleState(), True
    while index < len(course.quotes):
        if is_clear:
            # Clear of the stop nothing happens: on to where it is met next, and the minute before.
            ahead = bisect.bisect_left(met, index)
            if ahead == len(met):
                return None
            index = max(index, _before(course, met[ahead], LOOKS_BEFORE_S))
        until = course.times[index + 1] if index + 1 < len(course.quotes) else float("inf")
        for sweep in range(rule.guard_patience_ms // int(SWEEP_S * 1000) + 2):
            now = course.times[index] + sweep * SWEEP_S
            if sweep and now >= until:
                break
            seen = evaluate(
                position, course.quotes[index], course.market, rule, state,
                now_wall=now, now_monotonic=now, floor=FLOOR, price_age_s=0.0,
            )  # fmt: skip
            state = seen.state
            if isinstance(seen.decision, Exit):
                return index, now
            if isinstance(seen.decision, Hold) and seen.decision.why is not HoldReason.GUARDED:
                break
        index += 1
        is_clear = state.triggered_at is None
    return None


def _before(course: Course, index: int, seconds: float) -> int:
    """The first quote of the last `seconds` before `index`, and one more that is a price."""
    start = bisect.bisect_left(course.times, course.times[index] - seconds)
    return next((i for i in range(min(start, index) - 1, -1, -1) if course.is_real[i]), 0)


def sale_at(course: Course, index: int, at: float, stop: Decimal, *, is_naive: bool = False) -> Sale:
    last = len(course.quotes) - 1
    later = bisect.bisect_left(course.times, at + LATENCY_S, lo=index)
    late_price: Decimal | None
    if later > last:
        late_price = course.bids[index]  # the tape ends before the book could move
    elif is_naive:
        late_price = course.bids[later]
    else:
        real = course.next_real(later)
        late_price = None if real is None else course.bids[real]
    back = range(index + 1, bisect.bisect_right(course.times, at + BACK_WITHIN_S))
    return Sale(
        index=index,
        at=at,
        price=course.bids[index],
        late_price=late_price,
        is_by_close=course.next_real(index) is None,
        is_false=any(course.is_real[i] and course.bids[i] > stop for i in back),
    )
