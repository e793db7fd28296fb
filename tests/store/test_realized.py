"""What executions gained, from nothing but the executions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.model.market import ONE, ZERO, BookSide, OutcomeSide
from base.model.order import to_yes_leg
from base.model.position import Fill, Position
from base.store.realized import (
    Holding,
    Payout,
    Step,
    in_time_order,
    only_open,
    opening_entry,
    replay,
    settling_fee,
    signed_count,
)

T = "KXHIGHNY-26NOV22-T60"
D = Decimal
fast = settings(deadline=None, max_examples=150, database=None)


def trade(text: str, number: int = 1) -> Fill:
    """`"+4 0.40"` buys 4 YES at 0.40, `"-4 0.40"` sells them (or buys NO at 0.60)."""
    count, price = text.split()
    side = BookSide.BID if count.startswith("+") else BookSide.ASK
    return Fill(f"t{number}", f"o{number}", T, side, abs(D(count)), D(price), D("0.01"), number)


def trades(*texts: str) -> list[Fill]:
    return [trade(text, number) for number, text in enumerate(texts, 1)]


def mirror(fills: Sequence[Fill]) -> list[Fill]:
    """The same money on the other outcome."""
    turned = {BookSide.BID: BookSide.ASK, BookSide.ASK: BookSide.BID}
    return [replace(f, book_side=turned[f.book_side], yes_price=ONE - f.yes_price) for f in fills]


def gained(steps: Sequence[Step]) -> list[Decimal | None]:
    return [step.realized for step in steps]


CASES = [
    (["+10 0.50"], ["0"], "10", "0.50"),
    (["+10 0.50", "-10 0.70"], ["0", "2.00"], "0", None),
    (["+10 0.50", "-4 0.40", "-6 0.30"], ["0", "-0.40", "-1.20"], "0", None),
    (["+10 0.50", "+10 0.70", "-5 0.60"], ["0", "0", "0"], "15", "0.60"),
    (["+10 0.50", "-4 0.40", "+4 0.80"], ["0", "-0.40", "0"], "10", "0.62"),
    (["+10 0.50", "-15 0.70"], ["0", "2.00"], "-5", "0.30"),
    (["+10 0.50", "-15 0.70", "+5 0.60"], ["0", "2.00", "0.50"], "0", None),
    (["+0.01 0.50", "-0.01 0.99"], ["0", "0.0049"], "0", None),
    (["+10 0.50", "-10 0.70", "-3 0.20"], ["0", "2.00", "0"], "-3", "0.80"),
]
IDS = [
    "bought",
    "bought and sold",
    "left in two fills",
    "averaged up, partly sold",
    "partly sold, bought again",
    "sold through zero",
    "sold through zero and back to flat",
    "a hundredth of a contract",
    "opened anew on the other side",
]


@pytest.mark.parametrize("is_mirrored", [False, True], ids=["yes", "no"])
@pytest.mark.parametrize(("texts", "realized", "signed", "entry"), CASES, ids=IDS)
def test_average_cost(
    texts: list[str], realized: list[str], signed: str, entry: str | None, is_mirrored: bool
) -> None:
    fills = trades(*texts)
    steps = replay(mirror(fills) if is_mirrored else fills)
    assert gained(steps) == [D(r) for r in realized]
    after = steps[-1].after
    assert after.signed == (-D(signed) if is_mirrored else D(signed))
    assert after.entry == (None if entry is None else D(entry))


@pytest.mark.parametrize(
    ("opening", "texts", "realized"),
    [
        (Holding(D(10), D("0.50")), ["-4 0.70"], [D("0.80")]),
        (Holding(D(-10), D("0.50")), ["+4 0.70"], [D("-0.80")]),
        (Holding(D(10)), ["-4 0.70"], [None]),
        (Holding(D(10)), ["+4 0.70", "-4 0.70"], [ZERO, None]),
        (Holding(D(10)), ["-10 0.70", "+5 0.50", "-5 0.60"], [None, ZERO, D("0.50")]),
        (Holding(D(10)), ["-15 0.70", "+5 0.60"], [None, D("0.50")]),
    ],
    ids=[
        "a known entry",
        "a known entry of NO",
        "nobody knows what it cost",
        "what is added does not tell what the rest cost",
        "known again once it was flat",
        "known again once it has turned",
    ],
)
def test_what_was_held_before(opening: Holding, texts: list[str], realized: list[Decimal | None]) -> None:
    assert gained(replay(trades(*texts), opening)) == realized


@pytest.mark.parametrize(
    ("texts", "held", "is_so"),
    [
        (["+4 0.40"], "4", True),
        (["+4 0.40", "+2 0.40"], "10", True),
        (["-4 0.40"], "-4", True),
        (["+4 0.40"], "3", False),
        (["+4 0.40"], "0", False),
        (["+4 0.40"], "-6", False),
        (["+4 0.40", "-1 0.40"], "10", False),
        (["-1 0.40"], "10", False),
    ],
    ids=[
        "opened",
        "grown in two",
        "NO opened",
        "part of it closed NO",
        "all of it closed NO, or is gone",
        "it closed NO",
        "both ways",
        "sold",
    ],
)
def test_fills_that_certainly_closed_nothing(texts: list[str], held: str, is_so: bool) -> None:
    assert only_open(trades(*texts), D(held)) is is_so


@pytest.mark.parametrize("is_newest_first", [True, False], ids=["newest first", "oldest first"])
def test_fills_are_put_into_the_order_of_time(is_newest_first: bool) -> None:
    fills = [replace(trade("+1 0.50", n), ts_ms=ms) for n, ms in ((1, 10), (2, 20), (3, 20), (4, 30))]
    listed = list(reversed(fills)) if is_newest_first else fills
    assert [f.trade_id for f in in_time_order(listed)] == ["t1", "t2", "t3", "t4"]


def test_nothing_is_in_order() -> None:
    assert in_time_order([]) == []


prices = st.integers(1, 99).map(lambda cents: D(cents) / 100)
signed_trades = st.lists(
    st.tuples(st.integers(-2_000, 2_000).filter(bool).map(lambda n: D(n) / 100), prices), max_size=12
)


def as_fills(pairs: Sequence[tuple[Decimal, Decimal]]) -> list[Fill]:
    return [
        Fill(f"t{n}", f"o{n}", T, BookSide.BID if c > 0 else BookSide.ASK, abs(c), price, ZERO, n)
        for n, (c, price) in enumerate(pairs)
    ]


@fast
@given(signed_trades)
def test_what_was_gained_and_what_is_still_in_it_is_what_was_paid_and_received(
    pairs: list[tuple[Decimal, Decimal]],
) -> None:
    fills = as_fills(pairs)
    steps = replay(fills)
    cash = -sum((signed_count(f) * f.yes_price for f in fills), ZERO)
    last = steps[-1].after if steps else Holding()
    assert last.signed == sum((signed_count(f) for f in fills), ZERO)
    # Valued at the entry, in YES-leg dollars: NO cost 1 - p, and so has received p.
    worth = last.signed * to_yes_leg(last.entry, last.side) if last.entry is not None else ZERO
    realized = sum((s.realized for s in steps if s.realized is not None), ZERO)
    assert abs(realized - (cash + worth)) < D("1e-18")


@fast
@given(signed_trades)
def test_no_is_the_mirror_of_yes(pairs: list[tuple[Decimal, Decimal]]) -> None:
    fills = as_fills(pairs)
    for ours, mirrored in zip(replay(fills), replay(mirror(fills)), strict=True):
        assert ours.realized is not None
        assert mirrored.realized is not None
        assert abs(ours.realized - mirrored.realized) < D("1e-18")
        assert ours.after.signed == -mirrored.after.signed


@fast
@given(
    st.integers(1, 500), prices, st.lists(st.tuples(st.integers(-40, 200).filter(bool), prices), max_size=6)
)
def test_what_contracts_had_cost_is_told_by_what_is_held_now(
    count: int, entry: Decimal, pairs: list[tuple[int, Decimal]]
) -> None:
    fills = as_fills([(D(c), price) for c, price in pairs])
    steps = replay(fills, Holding(D(count), entry))
    end = steps[-1].after if steps else Holding(D(count), entry)
    found = None
    if end.signed > 0 and end.entry is not None:
        found = opening_entry(fills, D(count), Position(T, OutcomeSide.YES, end.signed, end.entry))
    if all(step.after.signed > 0 for step in steps):
        assert found is not None
        assert abs(found - entry) < D("1e-9")
    else:
        assert found is None


def test_what_contracts_had_cost_is_not_told_by_another_position() -> None:
    fills = trades("-4 0.70")
    assert opening_entry(fills, D(10), None) is None
    assert opening_entry(fills, D(10), Position(T, OutcomeSide.YES, D(5), D("0.50"))) is None


@pytest.mark.parametrize(
    ("fees_paid", "signed", "counts", "fee"),
    [
        ("0.0269", "10", ["10"], "0.0169"),
        ("0.0100", "10", ["10"], "0"),
        ("0.0050", "10", ["10"], "0"),
        ("0.0300", "10", ["6"], "0"),
        ("0.0300", "10", [], "0"),
        (None, "10", ["10"], "0"),
    ],
    ids=[
        "more than its fills tell",
        "just what they tell",
        "less than they tell",
        "older fills are not listed",
        "none is listed",
        "the exchange does not say",
    ],
)
def test_what_settling_itself_cost(fees_paid: str | None, signed: str, counts: list[str], fee: str) -> None:
    fills = [
        Fill(f"t{n}", "o", T, BookSide.BID, Decimal(count), Decimal("0.04"), Decimal("0.01"), n)
        for n, count in enumerate(counts)
    ]
    paid = None if fees_paid is None else Decimal(fees_paid)
    payout = Payout(T, 9, Decimal(signed), Decimal("0.40"), Decimal(0), paid)
    assert settling_fee(payout, fills) == Decimal(fee)
