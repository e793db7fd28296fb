"""How many open positions are protected right now, and why not the others. Pure.

The words are those of the README's HTTP section; `/healthz`, `/api/status` and the alerts all read
this one answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from base.model.market import MarketStatus, PriceSource
from base.model.rules import HoldReason

GRACE_S = 10.0
"""How long a book without a bid, a crossed one, or an exit that cannot be sent is taken for an instant and
not for a state."""
SWEEPS_MAX = 3
"""A position that the checker has not passed for this many sweeps is not protected."""

BY_CHOICE = HoldReason.BY_CHOICE.value
HEDGED = HoldReason.HEDGED.value
NOT_CHECKED = "not_checked"
KEY_REFUSED = "auth"
"""The word for the same trouble of an exit (`BlockedWhy.AUTH`)."""
NOT_COUNTED = frozenset({BY_CHOICE, HEDGED})
"""Positions that no rule leaves on purpose: shown, in no total and no alarm."""

_PASSING = frozenset({HoldReason.NO_BID, HoldReason.CROSSED})
_UNPRICED = _PASSING | {
    HoldReason.NO_PRICE,
    HoldReason.STALE_PRICE,
    HoldReason.BELOW_FLOOR,
    HoldReason.PAUSED,
    HoldReason.CLOSED,
    HoldReason.NOT_OPEN,
}


@dataclass(frozen=True, slots=True)
class PositionFacts:
    """What is known of one position at one moment."""

    ticker: str
    market_status: MarketStatus
    """With a passed close time counted (`Market.status_at`)."""
    is_armed: bool
    """A rule can leave this position (`levels.can_ever_exit`)."""
    is_by_choice: bool
    """Its rule says `protect = false`."""
    checked_age_s: float | None
    """Since the checker last passed it, None when it never has."""
    sweep_interval_s: float
    hold_reason: HoldReason | None
    """Of the last evaluation; None when it was an exit. Reasons of the rules count as a known price."""
    hold_age_s: float | None
    """How long that reason has stood without a break, None when unknown."""
    price_source: PriceSource | None
    price_age_s: float | None
    is_streamed: bool
    """Its subscription is confirmed and the feed is live."""
    stale_after_s: float
    is_hedged: bool = False
    """Part of a set that cannot lose: no rule leaves it."""
    is_halted: bool = False
    """The kill switch is on: no exit is sent."""
    is_key_refused: bool = False
    """The exchange refuses the account's key: no exit can be sent."""
    blocked_why: str = ""
    """Of its exit, "" where none is under way or it can go on: a word of `BlockedWhy`."""
    blocked_for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Protection:
    """Whether one position is open and protected; `reason` says why not, "" when it is protected."""

    open: bool
    protected: bool
    reason: str

    @property
    def is_counted(self) -> bool:
        """Whether it counts in the totals: open, and not left without rules on purpose."""
        return self.open and self.reason not in NOT_COUNTED


@dataclass(frozen=True, slots=True)
class Coverage:
    """The totals. `unprotected` also lists what is left without rules on purpose, which `open` leaves out."""

    open: int
    protected: int
    unprotected: tuple[tuple[str, str], ...]

    @property
    def is_complete(self) -> bool:
        """Whether every position that counts is protected."""
        return self.protected == self.open


def assess(facts: PositionFacts) -> Protection:
    """Judge one position. The first reason that applies is the one to fix first."""
    if not facts.market_status.can_still_trade:
        return Protection(open=False, protected=False, reason=facts.market_status.value)
    reason = _why_unprotected(facts)
    return Protection(open=True, protected=not reason, reason=reason)


def summarize(protections: Iterable[tuple[str, Protection]]) -> Coverage:
    """Count (ticker, protection) pairs; positions that wait for settlement are in no number."""
    pairs = [(ticker, protection) for ticker, protection in protections if protection.open]
    counted = [protection for _, protection in pairs if protection.is_counted]
    return Coverage(
        open=len(counted),
        protected=sum(protection.protected for protection in counted),
        unprotected=tuple((ticker, each.reason) for ticker, each in pairs if not each.protected),
    )


def _why_unprotected(facts: PositionFacts) -> str:
    # NaN compares false with everything, so each limit is written as what has to hold.
    if facts.is_by_choice:
        return BY_CHOICE
    if facts.is_hedged:
        return HEDGED
    if facts.is_halted:
        return HoldReason.HALTED.value
    if facts.market_status is MarketStatus.INACTIVE:
        return HoldReason.PAUSED.value
    if facts.market_status is not MarketStatus.ACTIVE:
        return HoldReason.NOT_OPEN.value
    if not facts.is_armed:
        return HoldReason.NO_RULE.value
    if facts.is_key_refused:
        return KEY_REFUSED
    checked_limit_s = SWEEPS_MAX * facts.sweep_interval_s
    if facts.checked_age_s is None or not facts.checked_age_s <= checked_limit_s:
        return NOT_CHECKED
    if facts.hold_reason in _UNPRICED:
        is_instant = (
            facts.hold_reason in _PASSING and facts.hold_age_s is not None and facts.hold_age_s <= GRACE_S
        )
        if not is_instant:
            return facts.hold_reason.value
    if facts.blocked_why and not facts.blocked_for_s <= GRACE_S:
        return facts.blocked_why  # a stop that has triggered and cannot sell protects nothing
    if facts.price_age_s is None or facts.price_source is None:
        return HoldReason.NO_PRICE.value
    if not facts.is_streamed and not facts.price_age_s <= facts.stale_after_s:
        return HoldReason.STALE_PRICE.value
    return ""
