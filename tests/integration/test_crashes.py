"""A few seeded kills around exits; `tests/benchmarks/kill_exits.py` makes hundreds of them."""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path

import pytest

from base.model.market import OutcomeSide
from tests.benchmarks.judge import Crime, Holding, Ledger
from tests.benchmarks.kill_exits import HELD_MAX, Lane, Moment, draw_round

HELD = Holding("KXJUDGED-YES", OutcomeSide.YES, Decimal(10))
HELD_NO = Holding("KXJUDGED-NO", OutcomeSide.NO, Decimal(10))


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("seed", "kills"), [(11, 3), (12, 3)])
def test_killed_around_its_exits_it_sells_what_it_held_once_and_forgets_nothing(
    tmp_path: Path, seed: int, kills: int
) -> None:
    directory = tmp_path / "daemon"
    directory.mkdir()
    lane = Lane(directory, tmp_path / "kept", seed, "T", closed_within_s=0)
    tally = lane.run(kills, violations_max=1)
    assert tally.violations == []
    assert tally.kills >= kills
    assert tally.sold == tally.triggered > 0
    assert max(tally.flat_s) < 30


def test_what_is_drawn_depends_on_the_seed_alone() -> None:
    first, second = random.Random(5), random.Random(5)
    rounds = [draw_round(first, n, n % HELD_MAX, "A") for n in range(50)]
    assert rounds == [draw_round(second, n, n % HELD_MAX, "A") for n in range(50)]
    assert {kill.moment for one in rounds for kill in one.kills} == set(Moment)
    assert {one.recovers for one in rounds} == {True, False}
    assert {h.side for one in rounds for h in one.bought} == set(OutcomeSide)


# --- the judge itself: it must be able to find each crime ------------------------------------------------


def fill(ticker: str, order_id: str, side: str, count: str, position: str) -> dict[str, object]:
    return {
        "ticker": ticker,
        "client_order_id": order_id,
        "side": side,
        "count": count,
        "post_position": position,
        "at": 1.0,
    }


def sent(ticker: str, order_id: str) -> dict[str, object]:
    return {"ticker": ticker, "client_order_id": order_id}


def ledger(fills: list[dict[str, object]]) -> Ledger:
    submissions = [
        sent(str(f["ticker"]), str(f["client_order_id"]))
        for f in fills
        if str(f["client_order_id"]).startswith("bs")
    ]
    return Ledger({"now": 2.0, "fills": fills, "submissions": submissions, "orders": [], "requests": {}})


@pytest.mark.parametrize(
    ("holding", "fills", "must_be_flat", "may_be_sold", "crimes"),
    [
        pytest.param(
            HELD,
            [("hand-1", "bid", "10", "10"), ("bsa-1", "ask", "4", "6"), ("bsa-2", "ask", "6", "0")],
            True,
            True,
            [],
            id="sold once in two parts",
        ),
        pytest.param(
            HELD_NO,
            [("hand-1", "ask", "10", "-10"), ("bsa-1", "bid", "10", "0")],
            True,
            True,
            [],
            id="a NO position bought back once",
        ),
        pytest.param(
            HELD,
            [("hand-1", "bid", "10", "10"), ("bsa-1", "ask", "10", "0"), ("bsb-1", "ask", "10", "-10")],
            True,
            True,
            [Crime.OVERSOLD, Crime.FLIPPED],
            id="sold twice",
        ),
        pytest.param(
            HELD_NO,
            [("hand-1", "ask", "10", "-10"), ("bsa-1", "bid", "10.01", "0.01")],
            False,
            True,
            [Crime.OVERSOLD, Crime.FLIPPED],
            id="a hundredth of a contract too much",
        ),
        pytest.param(
            HELD,
            [
                ("hand-1", "bid", "10", "10"),
                ("bsa-1", "ask", "10", "0"),
                ("bsb-1", "ask", "2", "-2"),
                ("bsb-2", "bid", "2", "0"),
            ],
            True,
            True,
            [Crime.OVERSOLD, Crime.FLIPPED],
            id="on the other side for a moment",
        ),
        pytest.param(
            HELD,
            [("hand-1", "bid", "10", "10"), ("hand-2", "ask", "5", "5"), ("bsa-1", "ask", "6", "-1")],
            False,
            True,
            [Crime.OVERSOLD, Crime.FLIPPED],
            id="more than its owner had left",
        ),
        pytest.param(
            HELD, [("hand-1", "bid", "10", "10")], True, True, [Crime.FORGOTTEN], id="triggered and not sold"
        ),
        pytest.param(
            HELD,
            [("hand-1", "bid", "10", "10"), ("bsa-1", "ask", "3", "7")],
            True,
            True,
            [Crime.FORGOTTEN],
            id="a rest forgotten",
        ),
        pytest.param(
            HELD,
            [("hand-1", "bid", "10", "10"), ("bsa-1", "ask", "10", "0")],
            False,
            False,
            [Crime.UNPROVOKED],
            id="sold without a cause",
        ),
    ],
)
def test_the_judge_finds_the_crime(
    holding: Holding,
    fills: list[tuple[str, str, str, str]],
    must_be_flat: bool,
    may_be_sold: bool,
    crimes: list[Crime],
) -> None:
    book = ledger([fill(holding.ticker, *row) for row in fills])
    found = book.course(holding).crimes(must_be_flat=must_be_flat, may_be_sold=may_be_sold)
    assert [violation.crime for violation in found] == crimes
