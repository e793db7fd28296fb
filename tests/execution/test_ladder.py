"""Rungs lie on the market's grid, towards filling, never under the floor; NO mirrors YES."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from base.execution.gateway import Level
from base.execution.ladder import STEPS_THROUGH, exit_rung
from base.model.market import (
    CENT,
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
FLOOR = Decimal("0.01")


def grid(*ranges: tuple[str, str, str]) -> PriceGrid:
    return PriceGrid(tuple(PriceRange(Decimal(a), Decimal(b), Decimal(s)) for a, b, s in ranges))


CENTS = grid(("0", "1", "0.01"))
TENTHS = grid(("0", "1", "0.001"))
TAPERED = grid(("0", "0.1", "0.001"), ("0.1", "0.9", "0.01"), ("0.9", "1", "0.001"))
"""Finer near both ends (recorded: tapered_deci_cent)."""
CENTI_EDGES = grid(("0", "0.01", "0.0001"), ("0.01", "0.99", "0.001"), ("0.99", "1", "0.0001"))
TWO_CENTS = grid(("0", "1", "0.02"))
FINE_BELOW = grid(("0", "0.1", "0.001"), ("0.1", "1", "0.01"))
"""Not symmetric: what YES sees near 0 is what NO sees near 1."""
COARSE_ABOVE = grid(("0", "0.5", "0.001"), ("0.5", "1", "0.05"))
GRIDS = {
    "cents": CENTS,
    "tenths": TENTHS,
    "tapered": TAPERED,
    "centi-cents at the edges": CENTI_EDGES,
    "two cents": TWO_CENTS,
    "fine below": FINE_BELOW,
    "coarse above": COARSE_ABOVE,
}


def mirrored(of: PriceGrid) -> PriceGrid:
    return PriceGrid(tuple(PriceRange(ONE - r.end, ONE - r.start, r.step) for r in reversed(of.ranges)))


def quote(side: OutcomeSide, bid: Decimal) -> Quote:
    """A book that bids `bid` for `side`; the other side of it is empty."""
    yes_bid, yes_ask = (bid, ONE) if side is YES else (ZERO, ONE - bid)
    return Quote("T", yes_bid, yes_ask, Decimal(5), Decimal(5), None, 0, 0.0, 0.0, PriceSource.WS, 1)


def is_on(of: PriceGrid, price: Decimal) -> bool:
    return of.floor(price) == price == of.ceil(price)


def asked(
    side: OutcomeSide,
    bid: Decimal,
    of: PriceGrid,
    rung: int,
    floor: Decimal = FLOOR,
    count: Decimal = Decimal(10),
    bids: Sequence[Level] = (),
    steps: Sequence[int] = STEPS_THROUGH,
    *,
    is_urgent: bool = True,
) -> Decimal:
    """The limit in dollars of the held side; `of` is the grid as that side sees it."""
    market = Market("T", grid=of if side is YES else mirrored(of))
    got = exit_rung(
        side, quote(side, bid), market, rung, floor, count=count, bids=bids, steps=steps, is_urgent=is_urgent
    )
    assert got.book_side is (BookSide.ASK if side is YES else BookSide.BID)
    return got.price if side is YES else ONE - got.price


def levels(*pairs: tuple[str, str]) -> tuple[Level, ...]:
    return tuple((Decimal(price), Decimal(count)) for price, count in pairs)


@dataclass(frozen=True)
class Case:
    name: str
    asks: str
    bid: str = "0.45"
    rung: int = 0
    count: str = "10"
    bids: tuple[Level, ...] = ()
    of: PriceGrid = CENTS
    floor: str = "0.01"
    steps: tuple[int, ...] = STEPS_THROUGH
    is_urgent: bool = True


DISTANCES = [
    Case("the first rung goes two cents through", "0.43"),
    Case("the second four", "0.41", rung=1),
    Case("the third eight", "0.37", rung=2),
    Case("the fourth sixteen", "0.29", rung=3),
    Case("then the floor", "0.01", rung=4),
    Case("and nothing is below it", "0.01", rung=99),
    Case("a low bid leaves no room", "0.01", bid="0.02"),
    Case("a position that is to be held below 0.40", "0.40", rung=2, floor="0.40"),
    Case("a floor between two prices asks the one above", "0.41", rung=9, floor="0.405"),
    Case("steps of one's own", "0.45", steps=(0, 3)),
    Case("steps of one's own, the second", "0.42", rung=1, steps=(0, 3)),
    Case("steps of one's own, then the floor", "0.01", rung=2, steps=(0, 3)),
    Case("a take-profit stops at the deepest step", "0.29", rung=4, is_urgent=False),
    Case("a take-profit never asks the floor", "0.29", rung=99, is_urgent=False),
    Case("a finer grid is no reason to be timid", "0.4340", bid="0.4540", of=TENTHS),
    Case("tenths near the end of the grid", "0.979", bid="0.999", of=TAPERED),
    Case("from tenths into cents", "0.88", bid="0.905", of=TAPERED),
    Case("from cents into tenths", "0.035", bid="0.115", rung=2, of=TAPERED),
    Case("hundredths of a cent at the end", "0.0001", bid="0.0105", of=CENTI_EDGES, floor="0"),
    Case("a step of a coarser grid is a whole one", "0.40", bid="0.44", of=TWO_CENTS),
    Case("a step of five cents, then one of a tenth", "0.499", bid="0.55", of=COARSE_ABOVE, steps=(2,)),
    Case("a coarse stretch elsewhere shortens nothing", "0.43", of=COARSE_ABOVE),
    Case("a bid off the grid is rounded towards filling", "0.43", bid="0.4599", of=CENTS, steps=(2, 5)),
]
BOOK = levels(("0.45", "4"), ("0.44", "3"), ("0.40", "3"), ("0.31", "50"), ("0.20", "500"))
DEPTHS = [
    Case("the best level alone is enough", "0.43", count="4", bids=BOOK),
    Case("the levels that the rung reaches anyway", "0.43", count="7", bids=BOOK),
    Case("a large position reaches down at once", "0.40", count="10", bids=BOOK),
    Case("a hundredth more needs the next level", "0.31", count="10.01", bids=BOOK),
    Case("exactly what the book holds within reach", "0.31", count="60", bids=BOOK),
    Case("more than the book holds within reach", "0.31", count="61", bids=BOOK),
    Case("the deepest level within reach is above the rung", "0.41", count="99", bids=BOOK[:2], rung=1),
    Case("a deeper rung is never shallower for the book", "0.29", count="4", bids=BOOK, rung=3),
    Case("the last rung asks the floor whatever is displayed", "0.01", count="4", bids=BOOK, rung=4),
    Case("a take-profit reaches down as well", "0.31", count="60", bids=BOOK, is_urgent=False),
    Case("a take-profit goes no deeper for more", "0.29", count="999", bids=BOOK, rung=7, is_urgent=False),
    Case("the floor ends the reach", "0.40", count="60", bids=BOOK, floor="0.35"),
    Case("narrow steps end the reach", "0.44", count="60", bids=BOOK, steps=(1, 4)),
    Case("levels above the bid are gone", "0.31", bid="0.44", count="7", bids=BOOK),
    Case("a book that is above the bid altogether", "0.18", bid="0.20", count="7", bids=BOOK[:4]),
    Case("a level off the grid is rounded towards filling", "0.40", count="5",
         bids=levels(("0.45", "4"), ("0.405", "1"))),
    Case("a level in tenths is met exactly", "0.405", count="5", of=TENTHS,
         bids=levels(("0.45", "4"), ("0.405", "1"))),
]  # fmt: skip


@pytest.mark.parametrize("case", [*DISTANCES, *DEPTHS], ids=lambda c: c.name)
@pytest.mark.parametrize("side", [YES, NO])
def test_what_is_asked(case: Case, side: OutcomeSide) -> None:
    got = asked(
        side,
        Decimal(case.bid),
        case.of,
        case.rung,
        Decimal(case.floor),
        Decimal(case.count),
        case.bids,
        case.steps,
        is_urgent=case.is_urgent,
    )
    assert got == Decimal(case.asks)


STEPS = st.lists(st.integers(0, 99), min_size=1, max_size=8, unique=True).map(sorted)
LEVELS = st.lists(
    st.tuples(st.integers(1, 9_999), st.integers(1, 3_000)), max_size=8, unique_by=lambda level: level[0]
).map(lambda drawn: tuple((Decimal(p) / 10_000, Decimal(c) / 100) for p, c in sorted(drawn, reverse=True)))


@settings(max_examples=500, deadline=None)
@given(
    of=st.sampled_from(list(GRIDS.values())),
    ten_thousandths=st.integers(1, 9_999),
    floor_ten_thousandths=st.integers(0, 9_999),
    rung=st.integers(0, 9),
    steps=STEPS,
    count=st.integers(1, 10_000).map(lambda hundredths: Decimal(hundredths) / 100),
    raw_levels=LEVELS,
    is_urgent=st.booleans(),
)
def test_on_every_grid_with_every_book_a_rung_is_valid_fills_and_mirrors(
    of: PriceGrid,
    ten_thousandths: int,
    floor_ten_thousandths: int,
    rung: int,
    steps: list[int],
    count: Decimal,
    raw_levels: tuple[Level, ...],
    is_urgent: bool,
) -> None:
    bid = of.floor(Decimal(ten_thousandths) / 10_000)
    floor = Decimal(floor_ten_thousandths) / 10_000
    # An exit is only priced where the bid is a real one, and some valid price is between floor and bid.
    assume(of.lowest <= bid <= of.highest)
    assume(of.ceil(floor) <= bid)
    on_grid = {of.floor(price): contracts for price, contracts in raw_levels if of.floor(price) > 0}
    bids = tuple(sorted(on_grid.items(), reverse=True))

    def at(side: OutcomeSide, rung: int, bids: tuple[Level, ...] = bids) -> Decimal:
        return asked(side, bid, of, rung, floor, count, bids, steps, is_urgent=is_urgent)

    price = at(YES, rung)
    assert is_on(of, price)
    assert ZERO < price < ONE
    assert floor <= price <= bid, "never below the floor, always marketable at the displayed bid"
    assert at(YES, rung + 1) <= price, "deeper with each rung"
    assert price <= at(YES, rung, ()), "never shallower than without the book"
    assert at(NO, rung) == price, "the same dollars on the mirrored grid"

    deepest = at(YES, len(steps) - 1, ())
    assert deepest <= of.floor(max(bid - steps[-1] * CENT, of.lowest)) or deepest == max(
        of.ceil(floor), of.lowest
    ), "at least a cent for each step"
    if not is_urgent or rung < len(steps):
        assert price >= deepest, "only an urgent exit goes below the deepest step, and only at the end"
    within = [level for level in bids if deepest <= level[0] <= bid]
    reached = sum((contracts for level, contracts in within if level >= price), ZERO)
    displayed = sum((contracts for _, contracts in within), ZERO)
    assert reached >= min(count, displayed), "all that is displayed within reach, as far as it is needed"
    if price < at(YES, rung, ()):
        above = sum((contracts for level, contracts in within if level > price), ZERO)
        assert above < count, "no deeper than the book makes it worthwhile"
