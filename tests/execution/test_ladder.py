"""Rungs lie on the market's grid, towards filling, never under the floor; NO mirrors YES."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from base.execution.ladder import STEPS_THROUGH, exit_rung
from base.model.market import (
    ONE,
    ZERO,
    BookSide,
    Market,
    OutcomeSide,
    PriceGrid,
    PriceRange,
    PriceSource,
    Quote,
)

YES, NO = OutcomeSide.YES, OutcomeSide.NO


def grid(*ranges: tuple[str, str, str]) -> PriceGrid:
    return PriceGrid(tuple(PriceRange(Decimal(a), Decimal(b), Decimal(s)) for a, b, s in ranges))


CENTS = grid(("0", "1", "0.01"))
TENTHS = grid(("0", "1", "0.001"))
TAPERED = grid(("0", "0.1", "0.001"), ("0.1", "0.9", "0.01"), ("0.9", "1", "0.001"))
"""Finer near both ends (recorded: tapered_deci_cent)."""
TWO_CENTS = grid(("0", "1", "0.02"))
GRIDS = {"cents": CENTS, "tenths": TENTHS, "tapered": TAPERED, "two cents": TWO_CENTS}


def quote(side: OutcomeSide, bid: Decimal) -> Quote:
    """A book that bids `bid` for `side`; the other side of it is empty."""
    yes_bid, yes_ask = (bid, ONE) if side is YES else (ZERO, ONE - bid)
    return Quote("T", yes_bid, yes_ask, Decimal(5), Decimal(5), None, 0, 0.0, 0.0, PriceSource.WS, 1)


def market(of: PriceGrid) -> Market:
    return Market("T", grid=of)


def is_on(of: PriceGrid, price: Decimal) -> bool:
    return of.floor(price) == price == of.ceil(price)


@pytest.mark.parametrize(
    ("bid", "rung", "price"),
    [
        ("0.45", 0, "0.43"),
        ("0.45", 1, "0.41"),
        ("0.45", 2, "0.37"),
        ("0.45", 3, "0.29"),
        ("0.45", 4, "0.01"),
        ("0.45", 99, "0.01"),
        ("0.02", 0, "0.01"),
    ],
)
def test_each_rung_goes_deeper_and_the_last_asks_the_floor(bid: str, rung: int, price: str) -> None:
    floor = Decimal("0.01")
    yes = exit_rung(YES, quote(YES, Decimal(bid)), market(CENTS), rung, floor)
    assert (yes.book_side, yes.price) == (BookSide.ASK, Decimal(price))
    no = exit_rung(NO, quote(NO, Decimal(bid)), market(CENTS), rung, floor)
    assert (no.book_side, no.price) == (BookSide.BID, ONE - Decimal(price))


def test_a_sub_cent_bid_is_never_rounded_up_out_of_reach() -> None:
    """Recorded: an exit that rounded a bid of 0.999 to 1.00 was refused."""
    rung = exit_rung(YES, quote(YES, Decimal("0.999")), market(TAPERED), 0, Decimal("0.01"))
    assert rung.price == Decimal("0.979")


@settings(max_examples=300, deadline=None)
@given(
    of=st.sampled_from(list(GRIDS.values())),
    steps=st.integers(1, 999),
    floor_steps=st.integers(1, 999),
    rung=st.integers(0, len(STEPS_THROUGH) + 1),
)
def test_on_every_grid_a_rung_is_valid_fills_at_the_bid_and_mirrors(
    of: PriceGrid, steps: int, floor_steps: int, rung: int
) -> None:
    bid = of.floor(Decimal(steps) / 1000)
    floor = Decimal(floor_steps) / 1000
    # An exit is only priced where the bid is a real one, and some valid price is between floor and bid.
    assume(of.lowest <= bid <= of.highest)
    assume(of.ceil(floor) <= bid)
    yes = exit_rung(YES, quote(YES, bid), market(of), rung, floor)
    assert is_on(of, yes.price)
    assert floor <= yes.price <= bid
    assert ZERO < yes.price < ONE
    if rung + 1 <= len(STEPS_THROUGH):
        deeper = exit_rung(YES, quote(YES, bid), market(of), rung + 1, floor)
        assert deeper.price <= yes.price
    no = exit_rung(NO, quote(NO, bid), market(of), rung, floor)
    assert no.price == ONE - yes.price, "these grids are symmetric, so the mirror is exact"
    assert no.book_side is BookSide.BID
