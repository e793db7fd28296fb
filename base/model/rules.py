"""Exit rules, what they remember between evaluations, and the verdicts they return."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum


class ExitReason(StrEnum):
    """Why a position is left; the order is the order in which reasons win.

    What sells at whatever is paid comes before a take-profit: its exit asks for its profit, and would stand
    in the way of one that has to go.
    """

    STOP_LOSS = "stop_loss"
    BREAK_EVEN = "break_even"
    TRAILING_STOP = "trailing_stop"
    TIME_STOP = "time_stop"
    EVENT_GROUP = "event_group"
    """Another position of the same event was left, and the rule says that this one goes with it."""
    TAKE_PROFIT = "take_profit"
    SET_BROKEN = "set_broken"
    """Part of a set that was not bought whole: alone it is a bet that nobody wanted."""
    FLATTEN = "flatten"

    @property
    def is_urgent(self) -> bool:
        """Whether it sells at whatever is paid; a profit is only taken where there is one."""
        return self is not ExitReason.TAKE_PROFIT


class HoldReason(StrEnum):
    """Why a position is kept; from `NO_PRICE` to `NOT_OPEN` because there is no price to act on."""

    WITHIN_RULES = "within_rules"
    GUARDED = "guarded"
    """A rule has triggered and a guard delays it, inside its time box."""
    HOLD_BELOW = "hold_below"
    """A rule has triggered but the price is below `hold_below_price`."""
    NO_STOP_NEAR_CLOSE = "no_stop_near_close"
    NO_RULE = "no_rule"
    BY_CHOICE = "by_choice"
    """The rule says `protect = false`."""
    HEDGED = "hedged"
    """Part of a set that cannot lose: no rule leaves it while all of the set is held."""
    NO_PRICE = "no_price"
    """No quote at all, or none that is fresh."""
    STALE_PRICE = "stale_price"
    NO_BID = "no_bid"
    BELOW_FLOOR = "below_floor"
    CROSSED = "crossed"
    PAUSED = "paused"
    CLOSED = "closed"
    NOT_OPEN = "not_open"
    """The market has not opened, or its status is unknown."""
    HALTED = "halted"
    """The kill switch is on: nothing is sent, exits neither."""


@dataclass(frozen=True, slots=True)
class ExitRule:
    """What leaves a position, in dollars of the held side; None switches a field off.

    Field for field the rules file of the README; percentages are of the entry price.
    """

    stop_loss_price: Decimal | None = None
    stop_loss_pct: Decimal | None = None
    stop_loss_dollars: Decimal | None = None
    """Loss of the whole position at which it is left."""
    take_profit_price: Decimal | None = None
    take_profit_pct: Decimal | None = None
    trailing_stop_pct: Decimal | None = None
    """Giveback from the best exit value seen."""
    trailing_stop_price: Decimal | None = None
    """The same in dollars."""
    trailing_activation_pct: Decimal | None = None
    """Gain from which on the trailing stop follows."""
    trailing_activation_price: Decimal | None = None
    """The same in dollars a contract."""
    break_even_after_pct: Decimal | None = None
    """Gain after which the stop is what pays back the entry and all fees."""
    break_even_after_price: Decimal | None = None
    """The same in dollars a contract."""
    exit_before_close_s: float | None = None
    exit_after_entry_s: float | None = None
    no_stop_before_close_s: float | None = None
    hold_below_price: Decimal | None = None
    exit_with_event: bool = False
    """Leaves when another position of its event is left by a rule."""
    confirm_ms: int = 0
    confirm_updates: int = 1
    max_spread: Decimal | None = None
    min_bid_size: Decimal | None = None
    wick_drop: Decimal | None = None
    """A fall of at least so many dollars from one quote to the next may be a wick (somebody swept a thin
    book): the stop that it meets waits for the bid to come back."""
    wick_wait_ms: int = 5_000
    """So long after such a fall at most."""
    guard_patience_ms: int = 10_000
    protect: bool = True
    hedged: bool = False
    """Not of the rules file: set for a position that is part of a complete set."""

    @property
    def is_armed(self) -> bool:
        """Whether anything in it can ever end the position on the losing side or in time."""
        return (
            self.protect
            and not self.hedged
            and any(
                value is not None
                for value in (
                    self.stop_loss_price,
                    self.stop_loss_pct,
                    self.stop_loss_dollars,
                    self.take_profit_price,
                    self.take_profit_pct,
                    self.trailing_stop_pct,
                    self.trailing_stop_price,
                    self.break_even_after_pct,
                    self.break_even_after_price,
                    self.exit_before_close_s,
                    self.exit_after_entry_s,
                )
            )
        )


@dataclass(frozen=True, slots=True)
class RuleState:
    """What a rule remembers of one position between evaluations. Owned by the checker thread.

    Times are monotonic seconds. A new position (or the other side) starts from a fresh one, so that a
    trailing stop never inherits an old peak.
    """

    best_exit_value: Decimal | None = None
    """High-water mark of the exit value."""
    break_even_armed: bool = False
    triggered_at: float | None = None
    """Since when a rule has been triggered without a break; the guards' time box starts here."""
    triggered_updates: int = 0
    """Distinct quotes seen since then that kept it triggered."""
    last_quote_at: float | None = None
    """`received_monotonic` of the last quote counted."""
    last_value: Decimal | None = None
    """The last price that there was; kept only where the rule has a `wick_drop`."""
    fell_at: float | None = None
    """When the bid last fell by `wick_drop` from one quote to the next while nothing was triggered."""
    leave_with: str = ""
    """Why this position goes with another one of its event, "" when it does not; for people."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep the position; `detail` is for people."""

    why: HoldReason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Exit:
    """Leave the position.

    `exit_value` is what the book pays now, `trigger_price` the level that was crossed, both in dollars
    of the held side.
    """

    reason: ExitReason
    exit_value: Decimal
    trigger_price: Decimal | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One look at one position: the verdict, what it was based on, and what to remember.

    `stop_price` and `take_profit_price` are the levels in force now (the tightest stop of all kinds),
    None when there is none. `exit_value` is None when there is no price to act on.
    """

    ticker: str
    decision: Hold | Exit
    state: RuleState
    exit_value: Decimal | None
    bid_size: Decimal | None
    stop_price: Decimal | None
    take_profit_price: Decimal | None
    price_age_s: float | None
    price_source: str
    at: float
    """Wall time of the evaluation."""
    stop_basis: str = ""
    """What `stop_price` comes from, for people; likewise the next."""
    take_profit_basis: str = ""
    guards: str = ""
    """What the guards said of a rule that has triggered, "" when none has."""
