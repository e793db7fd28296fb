"""What the bot may send at all: nothing, exits only, or exits and entries. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class TradingState(StrEnum):
    """Ordered from the safest. `REDUCING` holds until the first complete reconciliation."""

    HALTED = "halted"
    """The kill switch: nothing is sent, exits neither. Only an operator wants this."""
    REDUCING = "reducing"
    """Exits are sent, entries are denied."""
    ACTIVE = "active"
    """Exits and entries."""

    @property
    def may_exit(self) -> bool:
        return self is not TradingState.HALTED

    @property
    def may_enter(self) -> bool:
        return self is TradingState.ACTIVE


@dataclass(frozen=True, slots=True)
class StateInputs:
    """What decides the state now; the defaults are those of a process that has just started."""

    reconciled_once: bool = False
    """One complete comparison with the exchange has succeeded since the start."""
    journal_ok: bool = True
    """The write-ahead record can be written. Exits go on from memory without it, entries do not."""
    api_trouble: str = ""
    """What keeps the exchange's answers from being relied on, "" once they have been looked at and have every
    field that is needed. Exits do not ask."""
    daily_loss_hit: bool = False
    """Today's realized loss has reached the limit; the caller keeps it until the next trading day, whatever
    is won back meanwhile."""
    exposure_hit: bool = False
    """What is held has cost as much as the limit allows, or more."""
    service_died: bool = False
    """A thread ended that should not have. Recovery is a new start, so the caller never clears this."""
    entries_blocked: bool = False
    """`flatten` has left its mark: the user wants nothing opened until it is removed."""
    kill_switch: bool = False
    """Nothing is sent, exits neither."""


@dataclass(frozen=True, slots=True)
class StateChange:
    """The audit of one transition: `why` says what keeps `current` from being active, "" when it is."""

    previous: TradingState
    current: TradingState
    why: str

    @property
    def changed(self) -> bool:
        return self.previous is not self.current


def next_state(previous: TradingState, inputs: StateInputs) -> StateChange:
    """Decide the state from what is true now; every reason is named, not only the first."""
    reasons = [
        text
        for applies, text in (
            (
                inputs.kill_switch,
                "the kill switch is on: nothing is sent, exits neither, until STATE_DIR/halted is removed",
            ),
            (not inputs.reconciled_once, "positions have not been compared with the exchange yet"),
            (not inputs.journal_ok, "the journal cannot be written: free disk space or fix its permissions"),
            (bool(inputs.api_trouble), f"{inputs.api_trouble}: entries are off, exits go on"),
            (
                inputs.daily_loss_hit,
                "today's loss has reached MAX_DAILY_LOSS_DOLLARS: entries resume on the next trading day",
            ),
            (inputs.exposure_hit, "MAX_TOTAL_EXPOSURE_DOLLARS is reached: entries resume when less is held"),
            (inputs.entries_blocked, "flatten has blocked entries: remove STATE_DIR/entries-blocked"),
            (inputs.service_died, "a thread has died: the daemon has to be started again"),
        )
        if applies
    ]
    if inputs.kill_switch:
        current = TradingState.HALTED
    elif reasons:
        current = TradingState.REDUCING
    else:
        current = TradingState.ACTIVE
    return StateChange(previous, current, "; ".join(reasons))
