"""One order that opens or adds to a position: its states, what it may still cost, what comes next. Pure.

SENDING ─► DONE                       filled, canceled at once, refused, or never sent
   ├─────► RESTING ─► CANCELING ─► DONE
   └─────► UNKNOWN   an answer was lost: looked up, never sent again under another id
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum

from base.errors import InvariantError
from base.execution.gateway import FoundOrder
from base.model.market import ZERO, BookSide, OutcomeSide
from base.model.order import EntryOrder, EntryState, Order, OrderStatus, to_yes_leg
from base.risk.limits import entry_cost

_S, _U, _R = EntryState.SENDING, EntryState.UNKNOWN, EntryState.RESTING
_C, _D = EntryState.CANCELING, EntryState.DONE

TRANSITIONS: Mapping[tuple[EntryState, EntryState], str] = {
    (_S, _R): "answered: what did not fill at once rests",
    (_S, _U): "no answer, or the program died meanwhile: the order may have acted",
    (_S, _D): "answered: nothing rests; or refused, or never sent",
    (_U, _R): "found in the book",
    (_U, _D): "found, and it cannot fill any more; or proved not to have arrived",
    (_R, _C): "it is to go",
    (_R, _U): "an amend's answer does not say all, or the exchange does not list it any more",
    (_R, _D): "executed, expired, or canceled by the exchange or by hand",
    (_C, _U): "the cancel's answer proves nothing: executed and unknown orders answer alike",
    (_C, _D): "the cancel is confirmed, or it executed before",
}
"""Every legal step. What is missing is impossible: nothing leaves DONE, a cancel that is wanted is never
taken back, and what is unknown is looked up before anything is canceled."""

CANCEL_DELAYS_S = (0.25, 0.5, 1.0, 2.0, 5.0)
"""Between cancels of one order that did not go through."""
CANCEL_ANSWERED_S = 15.0
"""Longer than any cancel waits for its answer: none is sent again before it has come or is given up."""
LOOKUP_DELAYS_S = (0.25, 0.5, 1.0, 2.0, 5.0)
COMPARED_EVERY_S = 30.0
"""A resting order is compared with the exchange's list this often."""
ABSENT_AFTER_S = 30.0
"""Reads that are complete up to so long after the order left, and do not show it, begin to prove that it
never arrived. Longer than any request lives on the way."""
PATIENCE_S = 60.0
"""The same where the exchange does not say how complete its reads are."""
ABSENT_AGREE_S = 3.0
"""Two such reads, so far apart, have to agree: one may be a bad moment's."""
SETTLING_S = 3.0
"""Contracts that the stream has reported as bought stay reserved so long: its word on the order may come
before the fill that moves the position."""


@dataclass(slots=True)
class Entry:
    """One order and what is going on with it. Owned by the book that keeps it; times monotonic."""

    order: EntryOrder
    sent_at: float
    """When something that may have acted on it left last: the order, or an amend."""
    sent_at_wall: float
    cancel_why: str = ""
    """Why it is to go, "" while it may stay."""
    cancel_tries: int = 0
    lookups: int = 0
    next_try_at: float = -math.inf
    """No cancel and no look-up of it before."""
    compared_at: float = -math.inf
    """When the newest read that showed it left."""
    missing_since: float | None = None
    """When the first read left that is late enough to show it and does not."""
    is_ended: bool = False
    """The stream has said that it cannot fill any more, before its answer came."""
    is_given_up: bool = False
    """It is done because reads did not show it, not because the exchange said so."""
    amend_to: tuple[Decimal, Decimal] | None = None
    """Price and count that an amend under way, or of unknown outcome, asked for."""
    settling: Decimal = ZERO
    """Contracts bought that the position may not hold yet."""
    settling_since: float = -math.inf
    is_settled_by_time: bool = True
    """Whether the fills behind `settling` come by themselves, or only with the next read."""

    def move(self, after: EntryState, why: str = "") -> None:
        """Change the state. Raises InvariantError for a step that is not in the table."""
        before = self.order.state
        if (before, after) not in TRANSITIONS:
            raise InvariantError(
                f"entry {self.order.client_order_id} cannot go from {before.value} to {after.value}"
            )
        self.order = replace(self.order, state=after, why=why or self.order.why)

    def take_filled(self, filled: Decimal, now: float, *, is_prompt: bool = True) -> bool:
        """Take in how much is bought in all; it never shrinks. Return whether that is news.

        What is news stays reserved a while; with `is_prompt` its fill messages are on their way.
        """
        added = filled - self.order.filled
        if added <= 0:
            return False
        self.is_settled_by_time = is_prompt and (self.is_settled_by_time or self.settling == 0)
        self.settling += added
        self.settling_since = now
        # An amend of unknown outcome may have made it larger.
        self.order = replace(self.order, filled=filled, count=max(self.order.count, filled))
        return True

    def settle(self, now: float, judged_at: float | None) -> None:
        """Free what the position holds by now; `judged_at` is when the newest read left that judged it."""
        is_read = judged_at is not None and judged_at > self.settling_since
        if is_read or (self.is_settled_by_time and now - self.settling_since >= SETTLING_S):
            self.settling = ZERO

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do for it, nor to reserve."""
        return not self.order.state.may_fill and self.settling == 0

    @property
    def reserved(self) -> Decimal:
        """Dollars that it may still cost, fees included; while an amend is under way the larger of both."""
        order = self.order
        if not order.state.may_fill:
            return entry_cost(self.settling, order.price)
        costs = [entry_cost(order.remaining + self.settling, order.price)]
        if self.amend_to is not None:
            price, count = self.amend_to
            costs.append(entry_cost(max(ZERO, count - order.filled) + self.settling, price))
        return max(costs)


# --- what comes next ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Situation:
    """What decides about a resting order; `now` is wall time. `time_left_s` is how long its market still
    trades, None when that is not known."""

    now: float
    may_enter: bool = True
    is_stopping: bool = False
    feed_is_live: bool = True
    is_exiting: bool = False
    time_left_s: float | None = None
    min_time_left_s: float = 0.0


class StepKind(StrEnum):
    NOTHING = "nothing"
    CANCEL = "cancel"
    LOOK_UP = "look_up"


@dataclass(frozen=True, slots=True)
class Step:
    kind: StepKind
    why: str = ""


NOTHING = Step(StepKind.NOTHING)


def why_to_cancel(order: EntryOrder, situation: Situation) -> str:
    """Why an order must not rest any longer, "" when it may."""
    s = situation
    left = s.time_left_s
    reasons = (
        (s.is_exiting, "an exit of its market is under way"),
        (s.is_stopping, "the program stops"),
        (not s.may_enter, "entries are off"),
        (not s.feed_is_live and not order.keep_on_feed_loss, "the feed is lost"),
        (order.expires_at is not None and s.now >= order.expires_at, "it has expired"),
        (left is not None and left < s.min_time_left_s, "its market stops trading soon"),
    )
    return next((why for applies, why in reasons if applies), "")


def next_step(entry: Entry, situation: Situation, now: float) -> Step:
    """What to do with an order at monotonic `now`; the reason to cancel is kept by the caller."""
    state = entry.order.state
    if state in (EntryState.DONE, EntryState.SENDING):
        return NOTHING  # a sender waits for its answer and takes it in
    if state is EntryState.UNKNOWN:
        return Step(StepKind.LOOK_UP, "its outcome is unknown") if now >= entry.next_try_at else NOTHING
    why = entry.cancel_why or why_to_cancel(entry.order, situation)
    if why:
        # An order that has just been marked goes at once, whenever something was tried before.
        is_due = not entry.cancel_why or now >= entry.next_try_at
        return Step(StepKind.CANCEL, why) if is_due else NOTHING
    if now >= max(entry.compared_at + COMPARED_EVERY_S, entry.next_try_at):
        return Step(StepKind.LOOK_UP, "compared with the exchange's list")
    return NOTHING


def delay_s(delays_s: tuple[float, ...], tries: int) -> float:
    """Seconds before the next try after so many (1 = the first)."""
    return delays_s[min(max(tries, 1), len(delays_s)) - 1]


# --- what a read of our orders means --------------------------------------------------------------------


def take_found(entry: Entry, found: FoundOrder, left_at: float, now: float) -> bool:
    """Take in how the exchange lists the order, in a read that left at monotonic `left_at`; return
    whether it has bought more than was known."""
    entry.missing_since = None
    if found.order_id:
        entry.order = replace(entry.order, order_id=found.order_id)
    is_news = entry.take_filled(found.fill_count, now, is_prompt=False)
    if left_at < entry.sent_at:
        return is_news  # it left before the amend whose outcome is asked for
    entry.compared_at = left_at
    state = entry.order.state
    if found.status in (OrderStatus.CANCELED, OrderStatus.EXECUTED):
        if state.may_fill:
            entry.move(EntryState.DONE)
    elif found.status is OrderStatus.RESTING and state is EntryState.UNKNOWN:
        entry.move(EntryState.RESTING)
    if entry.order.state is not EntryState.UNKNOWN:
        entry.lookups = 0
    return is_news


def take_missing(entry: Entry, as_of: float | None, left_at: float) -> bool:
    """Take in that a read that left at monotonic `left_at` does not show the order; `as_of` is the wall
    time up to which it is complete, None where nobody says. Return whether that proves it is not there."""
    if as_of is None:
        is_late = left_at - entry.sent_at >= PATIENCE_S
    else:
        is_late = as_of - entry.sent_at_wall >= ABSENT_AFTER_S
    if entry.order.state is EntryState.RESTING:
        entry.move(EntryState.UNKNOWN)
    if not is_late or entry.order.state is not EntryState.UNKNOWN:
        entry.missing_since = None
        return False
    if entry.missing_since is None:
        entry.missing_since = left_at
    if left_at - entry.missing_since < ABSENT_AGREE_S:
        return False
    entry.move(EntryState.DONE, "the exchange does not know it")
    entry.is_given_up = True
    return True


# --- reservations ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reserved:
    """Dollars that orders may still cost: in one market, in its event, in all."""

    ticker: Decimal
    event: Decimal
    total: Decimal


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one order may still cost, fees included."""

    ticker: str
    cost: Decimal


def sum_reserved(
    reservations: Iterable[Reservation], ticker: str, event_of: Callable[[str], str]
) -> Reserved:
    """What they come to beside an order in `ticker`."""
    event = event_of(ticker)
    in_market = in_event = in_all = ZERO
    for reservation in reservations:
        in_all += reservation.cost
        if reservation.ticker == ticker:
            in_market += reservation.cost
        if event_of(reservation.ticker) == event:
            in_event += reservation.cost
    return Reserved(in_market, in_event, in_all)


# --- records --------------------------------------------------------------------------------------------


def from_before(record: EntryOrder, now: float, now_wall: float) -> Entry:
    """An order that a run which has ended left behind: its outcome is unknown, and it is to go."""
    age_s = max(0.0, now_wall - record.placed_at)
    order = replace(record, state=EntryState.UNKNOWN)
    return Entry(order, now - age_s, now_wall - age_s, cancel_why="the run that wanted it has ended")


def left_over(order: Order, now: float, now_wall: float) -> Entry:
    """A resting order of ours that nobody here remembers: it is to go."""
    side = OutcomeSide.YES if order.book_side is BookSide.BID else OutcomeSide.NO
    known = EntryOrder(
        client_order_id=order.client_order_id,
        ticker=order.ticker,
        outcome_side=side,
        count=order.initial_count,
        price=to_yes_leg(order.price, side),
        strategy="",
        state=EntryState.RESTING,
        placed_at=order.created_ts_ms / 1000 or now_wall,
        filled=order.fill_count,
        order_id=order.order_id,
    )
    return Entry(known, now, now_wall, cancel_why="nobody here remembers it")
