"""Sets of positions that together cannot lose: when no stop may leave one of them. Pure.

A set is hedged only while *all* of its legs are held on its side, each with at least the count of the set:
what one leg loses another one gains, and selling one of them alone would make a bet of the rest. A leg of
which more is held than the set needs is judged by its ordinary rules as a whole.

What is covered and what is not, of what can happen to a set:

- *being bought*: no stop fires between the first leg and the last, for `BUILDING_S_MAX` at the most;
- *a leg that could not be had*, or of which nobody knows: what was bought is sold again, and a leg that
  turns out to be held after all is sold too (`BROKEN`), until nothing of it is held or may still come;
- *a restart in between*: likewise, once reads and lost orders have been given the time to show the rest;
- *a leg gone or smaller later* (sold by hand, a partial `flatten`, settled alone because its market closed
  early): nothing is sold because of it; the rest comes under its ordinary rules at once;
- *one market paused*: nothing changes, since nothing need be sold;
- *a void, or a settlement that is neither yes nor no*: not covered. The set is riskless only as long as the
  exchange settles as it says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from base.model.market import OutcomeSide
from base.model.position import Position

BUILDING_S_MAX = 10.0
"""Longer than that nothing holds the stops of a set back that is not complete."""


class HedgeState(StrEnum):
    """What is known of a set."""

    RESTORED = "restored"
    """From the run before, and positions have not been read yet: what is held of it is kept."""
    UNPROVED = "unproved"
    """From the run before; a leg is not shown but not proved gone: kept like one that is being bought."""
    BUILDING = "building"
    """Its legs are being bought, by somebody who says how that ended."""
    WHOLE = "whole"
    BROKEN = "broken"
    """It was never whole: what is held of it is sold again."""
    ENDED = "ended"
    """Nothing of it is of any account any more."""


@dataclass(frozen=True, slots=True)
class Hedge:
    """`count` contracts of `outcome_side` in each of `tickers`. `since` is the monotonic time of its state;
    `was_whole` says that all of it was held when the last run ended."""

    id: str
    tickers: tuple[str, ...]
    outcome_side: OutcomeSide
    count: Decimal
    state: HedgeState
    since: float
    was_whole: bool = False


@dataclass(frozen=True, slots=True)
class Holdings:
    """What is known of the account at one moment. `doubtful` are markets of which what is shown is not the
    last word: held before and not shown since, or with an order that may still fill."""

    positions: Mapping[str, Position]
    is_loaded: bool
    doubtful: Collection[str] = ()


def held_legs(hedge: Hedge, positions: Mapping[str, Position]) -> tuple[str, ...]:
    """The markets in which anything of its side is held."""
    return tuple(t for t in hedge.tickers if _is_held(hedge, positions.get(t)))


def missing_legs(hedge: Hedge, positions: Mapping[str, Position]) -> tuple[str, ...]:
    """The markets in which it is not held in full."""
    return tuple(t for t in hedge.tickers if not _is_full(hedge, positions.get(t)))


def is_more_than(hedge: Hedge, position: Position | None) -> bool:
    """Whether more is held in a market than the set needs."""
    return _is_full(hedge, position) and position is not None and position.count > hedge.count


def legs_to_sell(hedge: Hedge, positions: Mapping[str, Position]) -> tuple[str, ...]:
    """What is sold again of a broken set: never more than the set, since the rest is somebody else's."""
    return tuple(t for t in held_legs(hedge, positions) if positions[t].count <= hedge.count)


def is_hedged(hedge: Hedge, ticker: str, holdings: Holdings, now: float) -> bool:
    """Whether no rule may leave this leg now."""
    position = holdings.positions.get(ticker)
    if position is None or not _is_held(hedge, position) or position.count > hedge.count:
        return False
    match hedge.state:
        case HedgeState.RESTORED:
            return True
        case HedgeState.BUILDING | HedgeState.UNPROVED:
            return now - hedge.since < BUILDING_S_MAX
        case HedgeState.WHOLE:
            return not missing_legs(hedge, holdings.positions)
        case _:
            return False


def next_state(hedge: Hedge, holdings: Holdings) -> HedgeState:
    """What the holdings make of a set; being bought is ended only by who buys it."""
    missing = missing_legs(hedge, holdings.positions)
    match hedge.state:
        case HedgeState.RESTORED | HedgeState.UNPROVED:
            return _state_after_restart(hedge, holdings, missing)
        case HedgeState.WHOLE if missing:
            return HedgeState.ENDED
        case HedgeState.BROKEN if not legs_to_sell(hedge, holdings.positions) and not any(
            t in holdings.doubtful for t in hedge.tickers
        ):
            return HedgeState.ENDED
        case state:
            return state


def _state_after_restart(hedge: Hedge, holdings: Holdings, missing: tuple[str, ...]) -> HedgeState:
    if not holdings.is_loaded:
        return HedgeState.RESTORED
    if not missing:
        return HedgeState.WHOLE
    if all(t in holdings.doubtful for t in missing):
        return HedgeState.UNPROVED
    # What was whole has lost a leg as it may at any time; what never was is a bet that nobody wanted.
    return HedgeState.ENDED if hedge.was_whole else HedgeState.BROKEN


def _is_held(hedge: Hedge, position: Position | None) -> bool:
    return position is not None and position.outcome_side is hedge.outcome_side


def _is_full(hedge: Hedge, position: Position | None) -> bool:
    return position is not None and _is_held(hedge, position) and position.count >= hedge.count
