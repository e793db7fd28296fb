"""A few seeded kills around entries; `tests/benchmarks/kill_entries.py` makes hundreds of them."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from base.model.market import BookSide, OutcomeSide
from base.model.order import OrderStatus
from base.sandbox.happenings import Filled, OrderChanged
from base.sandbox.ledger import Ledger
from base.sandbox.records import FillRecord, OrderRecord, PositionRecord, SelfTradePrevention
from tests.benchmarks.entry_judge import (
    ENTRY_ID_PREFIX,
    Caps,
    Crime,
    Watch,
    exposed,
    over_limits,
    stakes_of,
    strangers,
)
from tests.benchmarks.kill_entries import TICKERS, Lane, Moment, draw_round
from tests.benchmarks.restless import side_of

D = Decimal
T, SAME_EVENT, ELSEWHERE = "KXJUDGED-1-A", "KXJUDGED-1-B", "KXJUDGED-2-A"
CAPS = Caps(order=D(4), position=D(6), event=D(9), total=D(12))


@pytest.mark.timeout(90)
def test_killed_around_its_entries_it_keeps_to_its_limits_and_forgets_no_order(tmp_path: Path) -> None:
    directory = tmp_path / "daemon"
    directory.mkdir()
    tally = Lane(directory, tmp_path / "kept", 21, "T").run(3, violations_max=1)
    assert tally.violations == []
    assert tally.kills >= 3
    assert tally.bought > 0


def test_what_is_drawn_depends_on_the_seed_alone() -> None:
    first, second = random.Random(5), random.Random(5)
    rounds = [draw_round(first, n) for n in range(60)]
    assert rounds == [draw_round(second, n) for n in range(60)]
    assert {kill.moment for one in rounds for kill in one.kills} == set(Moment)
    assert {one.is_stopped for one in rounds} == {one.crash_first for one in rounds} == {True, False}
    assert {side_of(t) for t in TICKERS} == set(OutcomeSide)


# --- the judge itself: it must be able to find each crime ------------------------------------------------


def order(ticker: str = T, count: str = "10", price: str = "0.50", **fields: object) -> OrderRecord:
    made = OrderRecord(
        order_id=f"{ticker}-{count}-{price}",
        client_order_id=f"{ENTRY_ID_PREFIX}1",
        ticker=ticker,
        exchange_index=0,
        side=BookSide.BID,
        price=D(price),
        initial_count=D(count),
        fill_count=D(0),
        remaining_count=D(count),
        status=OrderStatus.RESTING,
        self_trade_prevention=SelfTradePrevention.TAKER_AT_CROSS,
        created_at=100.0,
        updated_at=100.0,
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def held(ticker: str, count: str, cost: str) -> PositionRecord:
    return PositionRecord(ticker, ticker.rpartition("-")[0], 0, D(count), D(cost))


def ledger_of(*rows: OrderRecord | PositionRecord) -> Ledger:
    ledger = Ledger(D(1000))
    for row in rows:
        if isinstance(row, OrderRecord):
            ledger.put_order(row)
        else:
            ledger.positions[row.ticker] = row
    return ledger


@pytest.mark.parametrize(
    ("rows", "over"),
    [
        pytest.param([held(T, "6", "3"), order(count="6")], [], id="held and resting, just within"),
        pytest.param([held(T, "6", "3"), order(count="6.02")], [T], id="a cent too much in one market"),
        pytest.param(
            [held(T, "-8", "5.50"), held(SAME_EVENT, "8", "3.51")],
            ["KXJUDGED-1"],
            id="each within, both beyond their event",
        ),
        pytest.param(
            [held(T, "8", "5"), order(SAME_EVENT, "6"), order(ELSEWHERE, "8.02")],
            ["all"],
            id="each event within, all beyond the whole",
        ),
        pytest.param(
            [order(side=BookSide.ASK, price="0.30", count="9")],
            [T],
            id="a resting sale of YES at 0.30 costs 0.70 each",
        ),
    ],
)
def test_the_judge_adds_up_what_is_at_stake(
    rows: list[OrderRecord | PositionRecord], over: list[str]
) -> None:
    assert [v.ticker for v in over_limits(stakes_of(ledger_of(*rows)), CAPS)] == over


def filled(client_order_id: str, side: BookSide, count: str, position: str) -> FillRecord:
    return FillRecord(
        "t", "o", client_order_id, T, 0, side, D(count), D("0.5"), True, D(0), 1.0, D(position), False
    )


BUY, SELL = BookSide.BID, BookSide.ASK


@pytest.mark.parametrize(
    ("fill", "crimes"),
    [
        pytest.param(filled(f"{ENTRY_ID_PREFIX}1", BUY, "4", "10"), [], id="an entry adds to YES"),
        pytest.param(filled(f"{ENTRY_ID_PREFIX}1", SELL, "4", "-10"), [], id="an entry adds to NO"),
        pytest.param(filled("bsx-1", SELL, "4", "0"), [], id="an exit sells all"),
        pytest.param(filled("bsx-1", SELL, "4", "-1"), [Crime.FLIPPED], id="an exit sells more than all"),
        pytest.param(filled("bsx-1", SELL, "4", "-4"), [Crime.FLIPPED], id="an exit sells what is gone"),
        pytest.param(filled(f"{ENTRY_ID_PREFIX}1", SELL, "4", "2"), [Crime.FLIPPED], id="an entry sells"),
    ],
)
def test_the_judge_tells_buying_from_selling(fill: FillRecord, crimes: list[Crime]) -> None:
    watch = Watch(CAPS, lambda: ledger_of())
    watch.hear(Filled(fill))
    assert [v.crime for v in watch.violations] == crimes


@pytest.mark.parametrize(
    ("changed", "crimes"),
    [
        pytest.param(order(count="8"), [], id="an order as large as allowed"),
        pytest.param(order(count="8.02"), [Crime.OVER_LIMIT], id="an order too large"),
        pytest.param(
            order(client_order_id="bsx-1", side=SELL, count="9", fill_count=D(4)), [], id="an exit of all"
        ),
        pytest.param(
            order(client_order_id="bsx-1", side=SELL, count="9.01", fill_count=D(4)),
            [Crime.OVERASKED],
            id="an exit for more than was held",
        ),
    ],
)
def test_the_judge_looks_at_each_order(changed: OrderRecord, crimes: list[Crime]) -> None:
    watch = Watch(CAPS, lambda: ledger_of(held(T, "5", "2.50")))
    watch.hear(OrderChanged(changed))
    assert [v.crime for v in watch.violations] == crimes


@pytest.mark.parametrize(
    ("created_at", "shown", "now", "crimes"),
    [
        pytest.param(100.0, (), 205.0, [], id="left behind, and time enough to cancel it"),
        pytest.param(100.0, (), 211.0, [Crime.FORGOTTEN], id="left behind, and still there"),
        pytest.param(100.0, (f"{ENTRY_ID_PREFIX}1",), 211.0, [Crime.FORGOTTEN], id="shown, but still there"),
        pytest.param(300.0, (), 305.0, [], id="new and not shown yet"),
        pytest.param(300.0, (), 311.0, [Crime.UNKNOWN], id="never shown"),
        pytest.param(300.0, (f"{ENTRY_ID_PREFIX}1",), 311.0, [], id="of this run, and shown"),
    ],
)
def test_the_judge_finds_orders_that_nobody_looks_after(
    created_at: float, shown: tuple[str, ...], now: float, crimes: list[Crime]
) -> None:
    found = strangers([order(created_at=created_at)], shown, now, 200.0, 10.0)
    assert [v.crime for v in found] == crimes


@pytest.mark.parametrize(
    ("shown", "is_exposed"),
    [
        pytest.param([("5.00", True)], False, id="all of it protected"),
        pytest.param([], True, id="not shown"),
        pytest.param([("5.00", False)], True, id="shown without protection"),
        pytest.param([("4.00", True)], True, id="a contract is missing"),
    ],
)
def test_the_judge_finds_what_is_not_protected(shown: list[tuple[str, bool]], is_exposed: bool) -> None:
    rows = [{"ticker": T, "count": count, "protected": ok, "reason": ""} for count, ok in shown]
    assert bool(exposed({T: D(-5)}, {"positions": rows})) == is_exposed
