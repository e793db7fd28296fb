"""Our own resting bid is no buyer for what we hold: YES and its mirror."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import pytest

from base.model.market import ONE, Level, OutcomeSide, PriceSource, Quote
from base.risk.own_orders import is_only_ours, without_own

D = Decimal
TEN = D(10)
BOOK = ((D("0.40"), D(10)), (D("0.38"), D(6)), (D("0.30"), D(20)))


@dataclass(frozen=True)
class Case:
    name: str
    own: dict[Decimal, Decimal]
    bid: str
    size: str
    only_ours: bool = False
    levels: tuple[Level, ...] = BOOK


CASES = [
    Case("nothing of ours rests", {}, "0.40", "10"),
    Case("ours is a part of the best bid", {D("0.40"): D(4)}, "0.40", "6"),
    Case("ours rests further down", {D("0.30"): D(20)}, "0.40", "10"),
    Case("ours rests above what is shown yet", {D("0.41"): D(5)}, "0.40", "10"),
    Case("nobody else pays the best bid", {D("0.40"): D(10)}, "0.38", "6", only_ours=True),
    Case("more of ours than is shown, a fill is on its way", {D("0.40"): D(12)}, "0.38", "6", only_ours=True),
    Case("ours is the best bid and the next", {D("0.40"): D(10), D("0.38"): D(6)}, "0.30", "20", True),
    Case("ours is a part of the next", {D("0.40"): D(10), D("0.38"): D(2)}, "0.38", "4", only_ours=True),
    Case("everything is ours", {D("0.40"): D(10), D("0.38"): D(6), D("0.30"): D(20)}, "0", "0", True),
    Case("the book below is not known", {D("0.40"): D(10)}, "0", "0", only_ours=True, levels=()),
]


def quote(side: OutcomeSide, size: Decimal | None = TEN) -> Quote:
    bid = D("0.40")
    yes = side is OutcomeSide.YES
    return Quote(
        "KXTEST-A", bid if yes else D("0.55"), D("0.45") if yes else ONE - bid,
        size if yes else D(3), D(3) if yes else size, None, 5, 1.0, 2.0, PriceSource.WS, 1,
    )  # fmt: skip


@pytest.mark.parametrize("side", OutcomeSide)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_others_pay(case: Case, side: OutcomeSide) -> None:
    found = without_own(quote(side), side, case.own, case.levels)
    assert (found.best_bid(side), found.bid_size(side)) == (D(case.bid), D(case.size))
    assert found.best_ask(side) == quote(side).best_ask(side)
    assert found.ask_size(side) == quote(side).ask_size(side)
    assert is_only_ours(quote(side), side, case.own) is case.only_ours


@pytest.mark.parametrize("side", OutcomeSide)
def test_a_size_that_nobody_told_is_left_alone(side: OutcomeSide) -> None:
    untold = quote(side, size=None)
    assert without_own(untold, side, {D("0.40"): D(10)}, BOOK) == untold
    assert not is_only_ours(untold, side, {D("0.40"): D(10)})
