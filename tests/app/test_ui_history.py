"""What is kept for the page's graphs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from base.app.ui_history import (
    PNL_POINTS_MAX,
    PNL_STEP_S,
    POSITION_POINTS_MAX,
    POSITION_STEP_S,
    StatusHistory,
)
from tests.fakes.clock import FakeClock

T = "KX-A"


def document(
    *values: tuple[str, str | None], day: str = "2026-11-22", side: str = "yes", stop: str | None = "0.4500"
) -> dict[str, Any]:
    return {
        "positions": [
            {"ticker": ticker, "outcome_side": side, "exit_value": value, "stop_price": stop}
            for ticker, value in values
        ],
        "pnl": {"day": day, "realized_today": "-1.50", "unrealized": "0.20"},
    }


class Rig:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.clock.advance(PNL_STEP_S - self.clock.monotonic() % PNL_STEP_S)  # to where a step begins
        self.history = StatusHistory(self.clock)

    def sample(self, value: str | None, advance_s: float = 0.0, **more: Any) -> None:
        self.history.sample(document((T, value), **more))
        self.clock.advance(advance_s)

    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = self.history.document()["positions"].get(T, {})
        return told

    def values(self) -> list[int | None]:
        values: list[int | None] = self.told()["values"]
        return values


def test_a_wick_between_two_points_is_not_lost() -> None:
    rig = Rig()
    for value in ("0.6000", "0.3000", "0.6100"):
        rig.sample(value, 1.0)
    assert rig.told() == {"values": [3000], "stops": [[1, 4500]]}
    assert rig.history.document()["price_unit_dollars"] == "0.0001"


def test_a_step_without_any_price_is_a_gap_and_one_with_some_is_not() -> None:
    rig = Rig()
    rig.sample("0.6000", 1.0)
    rig.sample(None, POSITION_STEP_S)
    rig.sample(None, 1.0)
    assert rig.values() == [6000, None]


def test_the_points_of_a_position_are_bounded_to_ten_minutes() -> None:
    rig = Rig()
    for number in range(POSITION_POINTS_MAX + 30):
        rig.sample(f"0.{4000 + number}", POSITION_STEP_S)
    assert len(rig.values()) == POSITION_POINTS_MAX
    assert rig.values()[-2:] == [4089, 4089], "the last one is now, and repeats what was last seen"
    assert rig.history.document()["span_s"] == 600.0


@pytest.mark.parametrize(
    ("every_steps", "values"),
    [
        (1, [6000, 5000, 5000]),
        (3, [6000] * 3 + [5000] * 4),
        (5, [6000] * 4 + [None] + [5000] * 4 + [None] * 2),
    ],
    ids=["each step", "a slow interval", "a thread that stood still"],
)
def test_a_step_that_was_not_sampled_repeats_the_last_one_for_a_while(
    every_steps: int, values: list[int | None]
) -> None:
    rig = Rig()
    rig.sample("0.6000", POSITION_STEP_S * every_steps)
    rig.sample("0.5000", POSITION_STEP_S * every_steps)
    assert rig.values() == values


def test_a_stop_is_told_where_it_moves() -> None:
    rig = Rig()
    for stop in ("0.4500", "0.4500", "0.4833333", None, None):
        rig.sample("0.6000", POSITION_STEP_S, stop=stop)
    assert rig.told()["stops"] == [[2, 4500], [1, 4833], [3, None]]


def test_two_hundred_positions_that_move_are_no_burden_for_a_phone() -> None:
    clock = FakeClock()
    history = StatusHistory(clock)
    tickers = [f"KXMVESPORTSMULTIGAME-26NOV22-{number:03}" for number in range(200)]
    for number in range(PNL_POINTS_MAX + 5):
        value = f"0.{4000 + 37 * number % 5000}"
        history.sample(document(*((ticker, value) for ticker in tickers)))
        clock.advance(PNL_STEP_S if number < PNL_POINTS_MAX - POSITION_POINTS_MAX else POSITION_STEP_S)
    for number in range(POSITION_POINTS_MAX):
        history.sample(document(*((ticker, f"0.{4000 + number}") for ticker in tickers)))
        clock.advance(POSITION_STEP_S)
    told = history.document()
    assert {len(p["values"]) for p in told["positions"].values()} == {POSITION_POINTS_MAX}
    assert len(json.dumps(told)) < 150_000


def test_a_sold_position_is_forgotten() -> None:
    rig = Rig()
    rig.sample("0.6000", 1.0)
    rig.history.sample(document(("KX-B", "0.2000")))
    assert list(rig.history.document()["positions"]) == ["KX-B"]


def test_the_other_side_of_a_market_starts_anew() -> None:
    rig = Rig()
    rig.sample("0.6000", POSITION_STEP_S)
    rig.sample("0.4000", 0.0, side="no")
    assert rig.values() == [4000]


def test_money_has_a_point_a_step_and_a_new_day_starts_anew() -> None:
    rig = Rig()
    for _ in range(PNL_POINTS_MAX + 5):
        rig.sample("0.6000", PNL_STEP_S / 2)
        rig.sample("0.6000", PNL_STEP_S / 2)
    pnl = rig.history.document()["pnl"]
    assert len(pnl["points"]) <= PNL_POINTS_MAX
    assert pnl["points"][-1][1:] == ["-1.50", "0.20"]
    ages = [point[0] for point in pnl["points"]]
    assert ages[-3] - ages[-2] == PNL_STEP_S
    rig.sample("0.6000", 0.0, day="2026-11-23")
    pnl = rig.history.document()["pnl"]
    assert (pnl["day"], len(pnl["points"])) == ("2026-11-23", 1)


def test_the_curve_of_the_day_begins_where_the_day_began() -> None:
    rig = Rig()
    for _ in range(3):
        rig.sample("0.6000", 10.0)
    assert [age for age, _, _ in rig.history.document()["pnl"]["points"]] == [30, 10]


def test_it_is_plain_json_and_empty_at_first() -> None:
    history = StatusHistory(FakeClock())
    told = history.document()
    assert json.loads(json.dumps(told)) == told
    assert (told["positions"], told["pnl"]["points"]) == ({}, [])
