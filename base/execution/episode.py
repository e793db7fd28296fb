"""One exit from trigger to flat: what it remembers and how refusals are answered. Pure.

TRIGGERED ─► SENDING ─► (answer) ─► TRIGGERED for the rest ─► … ─► CLOSED
                └─► UNKNOWN  (time-out, reset, 5xx: it may have acted; looked up before anything new)
TRIGGERED ─► BLOCKED (paused, no bid, no funds, …: probed slowly, announced once) ─► TRIGGERED
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from base.model.market import ZERO, OutcomeSide
from base.model.order import OrderRequest
from base.model.rules import ExitReason


class EpisodeState(StrEnum):
    TRIGGERED = "triggered"
    """The next order is to be decided."""
    SENDING = "sending"
    """An order has left and its answer is awaited."""
    UNKNOWN = "unknown"
    """An order may have acted: it is looked up before anything new is sent."""
    BLOCKED = "blocked"
    """The exchange or the book does not take an order now; probed slowly."""
    CLOSED = "closed"


class BlockedWhy(StrEnum):
    """What stands in the way, and so how it is probed."""

    PAUSED = "paused"
    NO_BID = "no_bid"
    BELOW_FLOOR = "below_floor"
    NO_PRICE = "no_price"
    NOT_OPEN = "not_open"
    NO_FUNDS = "no_funds"
    AUTH = "auth"
    ENDPOINT_GONE = "endpoint_gone"
    RATE = "rate"
    UNREACHABLE = "unreachable"
    REJECTED = "rejected"
    NO_FILL = "no_fill"
    MARKET_CLOSED = "market_closed"


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
    at_risk: Decimal
    """Dollars that stand to be lost; larger ones go first."""
    opened_at: float
    """Wall time of the trigger."""
    state: EpisodeState = EpisodeState.TRIGGERED
    attempts: int = 0
    rung: int = 0
    zero_fills: int = 0
    filled: Decimal = ZERO
    proceeds: Decimal = ZERO
    """Dollars of the held side taken in by `filled`, as far as their price is known."""
    fees: Decimal = ZERO
    blocked_why: BlockedWhy | None = None
    blocked_times: int = 0
    order: OrderRequest | None = None
    """The order whose answer is awaited or unknown."""
    sent_at_wall: float = 0.0
    sent_at: float = -math.inf
    unknown_since: float | None = None
    """Since when the order's outcome is unknown; a resend does not start it anew."""
    read_awaited_since: float | None = None
    """An unknown order was given up then: nothing is sized before a complete read that left later."""
    probed_at: float = -math.inf
    failed_probes: int = 0
    lookups: int = 0
    lookups_in_all: int = 0
    """Since the outcome became unknown, resends included; sets the pace."""
    resends: int = 0
    exists_at_exchange: bool = False
    """The exchange has said that it knows the order's id (409)."""
    outcome: str = ""
    closed_at: float | None = None
    history: list[str] = field(default_factory=list)

    def next_client_order_id(self) -> str:
        """The id of the next attempt; derived, so that the same attempt always has the same id."""
        return f"{self.id}-{self.attempts + 1}"

    @property
    def average_price(self) -> Decimal | None:
        """Dollars of the held side a contract over all fills, None before the first."""
        return self.proceeds / self.filled if self.filled else None


@dataclass(frozen=True, slots=True)
class Refusal:
    """What to do about a definite refusal: block for `why`, look again after `delay_s` (doubling up to
    `delay_s_max`), or look the order up because the exchange says that it exists."""

    why: BlockedWhy
    delay_s: float
    delay_s_max: float
    look_up: bool = False
    refresh_market: bool = False


_PAUSED = Refusal(BlockedWhy.PAUSED, 2.0, 4.0, refresh_market=True)
_CLOSED = Refusal(BlockedWhy.MARKET_CLOSED, 2.0, 10.0, refresh_market=True)
_BY_CODE: dict[str, Refusal] = {
    "trading_is_paused": _PAUSED,
    "exchange_is_paused": _PAUSED,
    "market_inactive": _CLOSED,
    "market_closed": _CLOSED,
    "order_already_exists": Refusal(BlockedWhy.REJECTED, 0.25, 2.0, look_up=True),
    "insufficient_balance": Refusal(BlockedWhy.NO_FUNDS, 5.0, 30.0),
    "available_balance_too_low": Refusal(BlockedWhy.NO_FUNDS, 5.0, 30.0),
    "invalid_price": Refusal(BlockedWhy.REJECTED, 0.25, 10.0, refresh_market=True),
    "deprecated_v1_order_endpoint": Refusal(BlockedWhy.ENDPOINT_GONE, 30.0, 60.0),
}
_AUTH = Refusal(BlockedWhy.AUTH, 5.0, 30.0)
_GONE = Refusal(BlockedWhy.ENDPOINT_GONE, 30.0, 60.0)
_OTHER = Refusal(BlockedWhy.REJECTED, 0.5, 30.0, refresh_market=True)


def answer_refusal(status: int, code: str) -> Refusal:
    """What to do about a refused order, from its HTTP status and the exchange's error code."""
    known = _BY_CODE.get(code.lower())
    if known is not None:
        return known
    if status in (401, 403):
        return _AUTH
    if status == 410:
        return _GONE
    return _OTHER


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


class LookupVerdict(StrEnum):
    WAIT = "wait"
    RESEND = "resend"
    """Send the same order again under the same id: if the first one did arrive, that is a 409."""
    GIVE_UP = "give_up"
    """Leave it to reconciliation by position; the next order takes a new id (and is reduce-only)."""


def judge_absence(episode: Episode, data_as_of: float | None, now: float) -> LookupVerdict:
    """What a look-up that did not show the order means. One read never proves absence: reads lag writes.

    `data_as_of` is the exchange's word on how complete its reads are (wall time), `now` monotonic.
    """
    if episode.lookups >= LOOKUPS_MAX or _is_overdue(episode, now):
        return LookupVerdict.GIVE_UP
    if episode.exists_at_exchange:
        return LookupVerdict.WAIT
    is_past_barrier = data_as_of is not None and data_as_of >= episode.sent_at_wall + READ_BARRIER_S
    is_long_ago = now - episode.sent_at >= LOOKUP_PATIENCE_S and episode.lookups >= 3
    if not ((is_past_barrier and episode.lookups >= 2) or is_long_ago):
        return LookupVerdict.WAIT
    return LookupVerdict.RESEND if episode.resends < RESENDS_MAX else LookupVerdict.GIVE_UP


def judge_unread(episode: Episode, now: float) -> LookupVerdict:
    """What to do while reads fail, so that nothing at all is known of the order; `now` is monotonic."""
    if _is_overdue(episode, now):
        return LookupVerdict.GIVE_UP
    is_long_ago = now - episode.sent_at >= UNREAD_PATIENCE_S
    if is_long_ago and not episode.exists_at_exchange and episode.resends < RESENDS_MAX:
        return LookupVerdict.RESEND
    return LookupVerdict.WAIT


def _is_overdue(episode: Episode, now: float) -> bool:
    return episode.unknown_since is not None and now - episode.unknown_since >= UNKNOWN_S_MAX
