"""One exit from trigger to flat: its states, what it remembers, and what lost answers prove. Pure.

TRIGGERED ─► SENDING ─► (answer) ─► TRIGGERED for the rest ─► … ─► CLOSED
                └─► UNKNOWN  (time-out, reset, 5xx, a crash: it may have acted; looked up before anything new)
TRIGGERED ─► BLOCKED (paused, no bid, no funds, …: probed slowly, announced) ─► SENDING
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from base.errors import InvariantError
from base.execution.refusals import BlockedWhy
from base.model.market import ZERO, OutcomeSide
from base.model.order import OrderRequest, TimeInForce, to_yes_leg
from base.model.rules import ExitReason
from base.store.portfolio import READ_LAG_S
from base.store.records import AttemptOutcome, AttemptRecord, EpisodeRecord


class EpisodeState(StrEnum):
    TRIGGERED = "triggered"
    """The next order is to be decided."""
    SENDING = "sending"
    """An order has been written down and leaves; its answer is awaited."""
    UNKNOWN = "unknown"
    """An order may have acted: it is looked up before anything new is sent."""
    BLOCKED = "blocked"
    """The exchange or the book does not take an order now; probed slowly."""
    CLOSED = "closed"
    """Nothing more is sent, whatever still arrives."""


_T, _S, _U = EpisodeState.TRIGGERED, EpisodeState.SENDING, EpisodeState.UNKNOWN
_B, _C = EpisodeState.BLOCKED, EpisodeState.CLOSED

TRANSITIONS: Mapping[tuple[EpisodeState, EpisodeState], str] = {
    (_T, _S): "an order leaves, written down before",
    (_T, _B): "the book or the market takes no order now",
    (_T, _C): "gone before an order left: sold by hand, settled, or filled by an order that was given up",
    (_S, _T): "answered: on with the rest, or it never left",
    (_S, _U): "no answer, or the program died meanwhile: the order may have acted",
    (_S, _B): "refused for a reason that lasts",
    (_S, _C): "answered: nothing is left",
    (_U, _S): "the same order under the same id: if the first one did arrive, that is a 409",
    (_U, _T): "found, or given up to a fresh read of the position",
    (_U, _B): "found: it had filled nothing, again",
    (_U, _C): "found: it had filled everything",
    (_B, _S): "the probe says open, or the order itself is the probe",
    (_B, _B): "something else stands in the way now",
    (_B, _C): "gone meanwhile: sold by hand, or the market closed for good",
}
"""Every legal step. What is missing is impossible: nothing leaves CLOSED, and nothing leaves UNKNOWN but by
evidence or by giving the order up; TRIGGERED never becomes UNKNOWN, since nothing has been sent."""

ENTRY_TOLERANCE = Decimal("0.005")
"""An entry price that has moved by more between two runs belongs to another position."""


@dataclass(slots=True)
class Episode:
    """The state of one exit. Owned by the worker that steps it; times monotonic unless said otherwise."""

    id: str
    ticker: str
    outcome_side: OutcomeSide
    reason: ExitReason
    trigger_price: Decimal | None
    exit_value: Decimal
    floor: Decimal
    """Least price asked, dollars of the held side."""
    entry_price: Decimal
    count: Decimal
    """Held at the trigger: no more than that is ever sold by this exit."""
    opened_at: float
    """Wall time of the trigger."""
    attempts: int = 0
    rung: int = 0
    zero_fills: int = 0
    filled: Decimal = ZERO
    proceeds: Decimal = ZERO
    """Dollars of the held side taken in by `filled`, as far as their price is known."""
    fees: Decimal = ZERO
    blocked_why: BlockedWhy | None = None
    blocked_times: int = 0
    blocked_since: float | None = None
    waits_for_all: bool = False
    """It is blocked by what every order of the account meets: due again as soon as one was taken."""
    order: OrderRequest | None = None
    """The order whose answer is awaited or unknown."""
    order_written_at: float = 0.0
    """Wall time at which the order was written down."""
    sent_at_wall: float = 0.0
    sent_at: float = -math.inf
    unknown_since: float | None = None
    """Since when the order's outcome is unknown; a resend does not start it anew."""
    read_awaited_since: float | None = None
    """Nothing is sized before a complete read of positions that left later."""
    read_asks: int = 0
    read_asked_at: float = -math.inf
    looked_up_at: float = -math.inf
    """When the newest read that was judged for the unknown order had left."""
    lookups: int = 0
    lookups_in_all: int = 0
    """Since the outcome became unknown, resends included; sets the pace."""
    resends: int = 0
    failed_probes: int = 0
    exists_at_exchange: bool = False
    """The exchange has said that it knows the order's id (409)."""
    is_from_before: bool = False
    """The order was sent by a run of the program that ended: reads may hold its fills already."""
    is_resumed: bool = False
    """Taken up after a restart, and not yet held against a fresh read of the position."""
    resumed_at: float = -math.inf
    is_announced: bool = False
    """It is on disk and has been logged."""
    outcome: str = ""
    closed_at: float | None = None
    _state: EpisodeState = EpisodeState.TRIGGERED

    @property
    def state(self) -> EpisodeState:
        return self._state

    def move(self, after: EpisodeState) -> str:
        """Change the state; return why that is legal. Raises InvariantError for what is not."""
        why = TRANSITIONS.get((self._state, after))
        if why is None:
            raise InvariantError(f"exit {self.id} cannot go from {self._state.value} to {after.value}")
        self._state = after
        return why

    @property
    def next_client_order_id(self) -> str:
        """The id of the next attempt; derived, so that the same attempt always has the same id."""
        return f"{self.id}-{self.attempts + 1}"

    @property
    def average_price(self) -> Decimal | None:
        """Dollars of the held side a contract over all fills, None before the first."""
        return self.proceeds / self.filled if self.filled else None

    @property
    def left(self) -> Decimal:
        """Contracts of those held at the trigger that are not known to be sold."""
        return max(ZERO, self.count - self.filled)

    @property
    def expected_loss(self) -> Decimal:
        """Dollars that this exit loses against the entry at the price that triggered it; below 0: a gain."""
        return self.count * (self.entry_price - self.exit_value)

    @property
    def urgency(self) -> tuple[Decimal, Decimal]:
        """The larger goes first: the largest expected loss, then what is still at stake."""
        return self.expected_loss, self.count * self.exit_value

    def record(self) -> EpisodeRecord:
        return EpisodeRecord(
            id=self.id,
            ticker=self.ticker,
            outcome_side=self.outcome_side,
            reason=self.reason,
            trigger_price=self.trigger_price,
            exit_value=self.exit_value,
            floor=self.floor,
            entry_price=self.entry_price,
            count=self.count,
            opened_at=self.opened_at,
            state=self._state.value,
            blocked_why=self.blocked_why.value if self.blocked_why is not None else "",
            attempts=self.attempts,
            rung=self.rung,
            zero_fills=self.zero_fills,
            filled=self.filled,
            proceeds=self.proceeds,
            fees=self.fees,
            outcome=self.outcome,
            closed_at=self.closed_at,
        )

    def attempt_record(self, request: OrderRequest) -> AttemptRecord:
        """The order as it is written down before it leaves."""
        return AttemptRecord(
            client_order_id=request.client_order_id,
            episode_id=self.id,
            number=self.attempts,
            ticker=request.ticker,
            book_side=request.book_side,
            count=request.count,
            price=request.price,
            exchange_index=request.exchange_index,
            written_at=self.order_written_at,
        )


def resume(
    record: EpisodeRecord, attempts: tuple[AttemptRecord, ...], now_wall: float, now: float
) -> Episode:
    """An exit as a new run takes it up: an order that was written down and has no answer may have acted.

    Whatever else it was doing, its position is read first, late enough for the read to show what its
    orders have filled.
    """
    answered = [a for a in attempts if a.fill_count > 0]
    # An answer and the exit's own row are two rows: the program may have died between them.
    filled = max(record.filled, sum((a.fill_count for a in answered), ZERO))
    is_row_behind = filled > record.filled
    episode = Episode(
        id=record.id,
        ticker=record.ticker,
        outcome_side=record.outcome_side,
        reason=record.reason,
        trigger_price=record.trigger_price,
        exit_value=record.exit_value,
        floor=record.floor,
        entry_price=record.entry_price,
        count=record.count,
        opened_at=record.opened_at,
        attempts=max([record.attempts, *(a.number for a in attempts)]),
        rung=record.rung,
        zero_fills=record.zero_fills,
        filled=filled,
        proceeds=sum((_proceeds(a, record.outcome_side) for a in answered), ZERO)
        if is_row_behind
        else record.proceeds,
        fees=sum((a.fees for a in answered), ZERO) if is_row_behind else record.fees,
        read_awaited_since=now + READ_LAG_S if attempts else now,
        is_resumed=True,
        resumed_at=now,
        is_announced=True,
    )
    open_attempts = [a for a in attempts if a.outcome is AttemptOutcome.OPEN]
    if not open_attempts:
        return episode
    last = max(open_attempts, key=lambda a: a.number)
    episode.order = OrderRequest(
        ticker=last.ticker,
        client_order_id=last.client_order_id,
        book_side=last.book_side,
        count=last.count,
        price=last.price,
        time_in_force=TimeInForce.IMMEDIATE_OR_CANCEL,
        reduce_only=True,
        exchange_index=last.exchange_index,
    )
    episode.order_written_at = last.written_at
    # It left before the old run ended, so before now: reads that are complete up to now would show it.
    episode.sent_at, episode.sent_at_wall = now, now_wall
    # Restarts do not begin the minute anew, or a program that dies every half minute never gives it up.
    episode.unknown_since = now - min(max(0.0, now_wall - last.written_at), UNKNOWN_S_MAX)
    episode.is_from_before = True
    episode.move(EpisodeState.SENDING)
    episode.move(EpisodeState.UNKNOWN)
    return episode


def _proceeds(attempt: AttemptRecord, side: OutcomeSide) -> Decimal:
    price = attempt.average_yes_price if attempt.average_yes_price is not None else attempt.price
    return attempt.fill_count * to_yes_leg(price, side)


PATIENCE_S = (0.15, 0.3, 0.6, 1.2, 2.5, 5.0)
"""Waits after the first, second, … order in a row that filled nothing."""
PATIENCE_S_MAX = 15.0
IMPATIENT_FILLS_MAX = 20


def patience_after(zero_fills: int) -> float:
    """Seconds before the next order after so many in a row that filled nothing (1 = the first)."""
    if zero_fills <= 0:
        return 0.05
    if zero_fills > IMPATIENT_FILLS_MAX:
        return PATIENCE_S_MAX
    return PATIENCE_S[min(zero_fills, len(PATIENCE_S)) - 1]


LOOKUP_DELAYS_S = (0.1, 0.25, 0.5, 1.0, 1.0, 2.0, 3.0, 5.0)
"""Between look-ups of one unknown order; a resend does not start over."""
READ_BARRIER_S = 1.0
"""Reads that are complete up to this long after the order left would show it."""
LOOKUP_PATIENCE_S = 4.0
"""Without word of how complete reads are: this long and three reads."""
UNREAD_PATIENCE_S = 10.0
"""When reads fail altogether, the same order is sent again after this long: its id makes that safe."""
UNKNOWN_S_MAX = 60.0
"""No outcome stays unknown for longer: an exit must never be latched off for good."""
RESENDS_MAX = 5
LOOKUPS_MAX = 40
RESEND_AGE_S_MAX = 600.0
"""An order written down longer ago is not sent again: ids are unique among *recent* orders only
(docs.kalshi.com, changelog 2026-09-03), so the same id would prove nothing."""


class LookupVerdict(StrEnum):
    WAIT = "wait"
    RESEND = "resend"
    """Send the same order again under the same id: if the first one did arrive, that is a 409."""
    GIVE_UP = "give_up"
    """Leave it to reconciliation by position; the next order takes a new id (and is reduce-only)."""


def judge_absence(episode: Episode, data_as_of: float | None, now: float, now_wall: float) -> LookupVerdict:
    """What a look-up that did not show the order means. One read never proves absence: reads lag writes.

    `data_as_of` is the exchange's word on how complete its reads are (wall time), `now` monotonic.
    """
    if episode.lookups >= LOOKUPS_MAX or (_is_overdue(episode, now) and episode.lookups >= 2):
        return LookupVerdict.GIVE_UP
    if episode.exists_at_exchange:
        return LookupVerdict.WAIT
    is_past_barrier = data_as_of is not None and data_as_of >= episode.sent_at_wall + READ_BARRIER_S
    is_long_ago = now - episode.sent_at >= LOOKUP_PATIENCE_S and episode.lookups >= 3
    if not ((is_past_barrier and episode.lookups >= 2) or is_long_ago):
        return LookupVerdict.WAIT
    return LookupVerdict.RESEND if _may_resend(episode, now_wall) else LookupVerdict.GIVE_UP


def judge_unread(episode: Episode, now: float, now_wall: float) -> LookupVerdict:
    """What to do while reads fail, so that nothing at all is known of the order; `now` is monotonic."""
    if _is_overdue(episode, now):
        return LookupVerdict.GIVE_UP
    is_long_ago = now - episode.sent_at >= UNREAD_PATIENCE_S
    if is_long_ago and not episode.exists_at_exchange and _may_resend(episode, now_wall):
        return LookupVerdict.RESEND
    return LookupVerdict.WAIT


def _may_resend(episode: Episode, now_wall: float) -> bool:
    is_recent = now_wall - episode.order_written_at <= RESEND_AGE_S_MAX
    return is_recent and episode.resends < RESENDS_MAX


def _is_overdue(episode: Episode, now: float) -> bool:
    return episode.unknown_since is not None and now - episode.unknown_since >= UNKNOWN_S_MAX


def lookup_pace_s(episode: Episode) -> float:
    """Seconds to the next look-up: slower the longer the outcome is unknown, resends included."""
    return LOOKUP_DELAYS_S[min(episode.lookups_in_all, len(LOOKUP_DELAYS_S) - 1)]
