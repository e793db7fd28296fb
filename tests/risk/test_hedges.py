"""When a set holds back the stops of its legs, and what becomes of it."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.model.market import OutcomeSide
from base.model.position import Position
from base.risk.hedges import (
    BUILDING_S_MAX,
    Hedge,
    HedgeState,
    Holdings,
    is_hedged,
    is_more_than,
    legs_to_sell,
    missing_legs,
    next_state,
)

D = Decimal
YES, NO = OutcomeSide.YES, OutcomeSide.NO
A, B, C = "KXA-1-A", "KXA-1-B", "KXA-1-C"
HEDGE = Hedge("set-1", (A, B, C), NO, D(10), HedgeState.WHOLE, since=100.0)
NOW = 105.0
R, U, G, W, X, E = (
    HedgeState.RESTORED,
    HedgeState.UNPROVED,
    HedgeState.BUILDING,
    HedgeState.WHOLE,
    HedgeState.BROKEN,
    HedgeState.ENDED,
)


def holding(**counts: str) -> dict[str, Position]:
    """Positions of NO by the last letter of their market; a count below 0 is YES."""
    found = {}
    for letter, count in counts.items():
        ticker, number = f"KXA-1-{letter.upper()}", D(count)
        found[ticker] = Position(ticker, NO if number > 0 else YES, abs(number), D("0.6"))
    return found


ALL = holding(a="10", b="10", c="10")


@pytest.mark.parametrize(
    ("state", "positions", "at", "hedged"),
    [
        (W, ALL, NOW, True),
        (W, ALL, NOW + 1e6, True),
        (W, holding(a="10", b="10"), NOW, False),
        (W, holding(a="10", b="10", c="9.99"), NOW, False),
        (W, holding(a="10", b="10", c="-10"), NOW, False),
        (W, holding(a="10", b="12", c="10"), NOW, True),
        (W, holding(a="12", b="10", c="10"), NOW, False),
        (W, holding(a="9.99", b="10", c="10"), NOW, False),
        (W, holding(a="-10", b="10", c="10"), NOW, False),
        (W, holding(b="10", c="10"), NOW, False),
        (G, holding(a="10"), 100.0 + BUILDING_S_MAX - 0.01, True),
        (G, holding(a="10"), 100.0 + BUILDING_S_MAX, False),
        (G, holding(a="11"), NOW, False),
        (U, holding(a="10"), 100.0 + BUILDING_S_MAX - 0.01, True),
        (U, holding(a="10"), 100.0 + BUILDING_S_MAX, False),
        (R, holding(a="10"), NOW + 1e6, True),
        (R, holding(a="11"), NOW, False),
        (X, ALL, NOW, False),
        (E, ALL, NOW, False),
    ],
    ids=[
        "all legs are held",
        "all legs are held for days",
        "another leg is gone",
        "another leg was sold in part",
        "another leg was turned round",
        "of another leg more is held",
        "of this leg more is held than the set needs",
        "this leg was sold in part",
        "this leg was turned round",
        "this leg is gone",
        "the next leg is being bought",
        "buying took too long",
        "more than the set was bought meanwhile",
        "after a restart a leg is not proved gone",
        "after a restart it was not shown for too long",
        "positions have not been read yet",
        "positions have not been read, but more is held",
        "a broken set",
        "an ended set",
    ],
)
def test_whether_stops_of_the_first_leg_are_held_back(
    state: HedgeState, positions: dict[str, Position], at: float, hedged: bool
) -> None:
    assert is_hedged(replace(HEDGE, state=state), A, Holdings(positions, True), at) is hedged


@pytest.mark.parametrize(
    ("state", "was_whole", "loaded", "positions", "doubtful", "after"),
    [
        (R, False, False, {}, (), R),
        (R, False, False, holding(a="10"), (), R),
        (R, False, True, ALL, (), W),
        (R, False, True, holding(a="10"), (), X),
        (R, False, True, holding(a="10"), (B, C), U),
        (R, False, True, holding(a="10"), (B,), X),
        (R, False, True, {}, (), X),
        (R, True, True, holding(a="10"), (), E),
        (R, True, True, holding(a="10"), (B, C), U),
        (U, False, True, holding(a="10"), (B, C), U),
        (U, False, True, ALL, (), W),
        (U, False, True, holding(a="10", b="10"), (), X),
        (U, True, True, holding(a="10", b="10"), (), E),
        (G, False, True, {}, (), G),
        (G, False, True, ALL, (), G),
        (W, False, True, ALL, (), W),
        (W, False, True, holding(a="10", b="10"), (), E),
        (W, False, True, holding(a="10", b="10", c="3"), (), E),
        (W, False, True, holding(a="12", b="10", c="10"), (), W),
        (X, False, True, holding(a="10"), (), X),
        (X, False, True, {}, (C,), X),
        (X, False, True, {}, (), E),
        (X, False, True, holding(a="15"), (), E),
        (X, False, True, holding(a="-10"), (), E),
        (E, False, True, ALL, (), E),
    ],
    ids=[
        "restart: nothing has been read",
        "restart: told of one leg before the first read",
        "restart: all is held",
        "restart between legs: the second was never bought",
        "restart between legs: nobody knows of the others yet",
        "restart between legs: of one it is known",
        "restart: nothing was bought",
        "restart: a whole set lost legs meanwhile",
        "restart: the read of a bad moment does not show the legs of a whole set",
        "still nobody knows",
        "the late legs are shown",
        "the late leg is proved missing",
        "the leg of a whole set is proved gone",
        "being bought: nothing is held yet",
        "being bought: only the buyer says when it is done",
        "whole and held",
        "a leg was sold by hand, or settled alone",
        "a leg was flattened in part",
        "more of a leg was bought",
        "broken: a leg is still held",
        "broken: an order may still fill",
        "broken: all was sold again",
        "broken: what is held there is more than the set, so it is somebody else's",
        "broken: the other side is held there",
        "ended stays ended",
    ],
)
def test_what_becomes_of_a_set(
    state: HedgeState,
    was_whole: bool,
    loaded: bool,
    positions: dict[str, Position],
    doubtful: tuple[str, ...],
    after: HedgeState,
) -> None:
    hedge = replace(HEDGE, state=state, was_whole=was_whole)
    assert next_state(hedge, Holdings(positions, loaded, doubtful)) is after


def test_only_what_belongs_to_a_broken_set_is_sold_again() -> None:
    positions = holding(a="10", b="4", c="11") | {"KXB-1-Z": Position("KXB-1-Z", NO, D(1), D("0.5"))}
    assert legs_to_sell(HEDGE, positions) == (A, B)
    assert legs_to_sell(HEDGE, holding(a="-10")) == ()


COUNT = st.sampled_from(["-10", "3", "9.99", "10", "10.01", "25"])


@given(
    counts=st.fixed_dictionaries({}, optional={"a": COUNT, "b": COUNT, "c": COUNT}),
    state=st.sampled_from(HedgeState),
    loaded=st.booleans(),
    age=st.floats(0, 100),
)
def test_stops_are_never_held_back_for_long_without_the_whole_set(
    counts: dict[str, str], state: HedgeState, loaded: bool, age: float
) -> None:
    """Once positions are known, a hedged leg has all other legs beside it, or the set is seconds old."""
    positions = holding(**counts)
    hedge = replace(HEDGE, state=state)
    holdings = Holdings(positions, loaded)
    hedge = replace(hedge, state=next_state(hedge, holdings))
    for ticker in hedge.tickers:
        if is_hedged(hedge, ticker, holdings, hedge.since + age):
            assert positions[ticker].outcome_side is NO
            assert not is_more_than(hedge, positions[ticker])
            is_young = hedge.state in (HedgeState.BUILDING, HedgeState.UNPROVED) and age < BUILDING_S_MAX
            is_unread = hedge.state is HedgeState.RESTORED and not loaded
            assert is_young or is_unread or not missing_legs(hedge, positions)
