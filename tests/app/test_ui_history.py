"""What is kept for the page's graphs."""

from __future__ import annotations

import json
from typing import Any

from base.app.ui_history import (
    PNL_POINTS_MAX,
    PNL_STEP_S,
    POSITION_POINTS_MAX,
    POSITION_STEP_S,
    StatusHistory,
)
from tests.fakes.clock import FakeClock

T = "KX-A"


def document(*values: tuple[str, str | None], day: str = "2026-11-22", side: str = "yes") -> dict[str, Any]:
    return {
        "positions": [
            {"ticker": ticker, "outcome_side": side, "exit_value": value, "stop_price": "0.4500"}
            for ticker, value in values
        ],
        "pnl": {"day": day, "realized_today": "-1.50", "unrealized": "0.20"},
    }


class Rig:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.clock.advance(PNL_STEP_S - self.clock.monotonic() % PNL_STEP_S)  # to where a step begins
        self.history = StatusHistory(self.clock)

    def sample(self, value: str | None, advance_s: float = 0.0, **more: str) -> None:
        self.history.sample(document((T, value), **more))
        self.clock.advance(advance_s)

    def points(self) -> list[Any]:
        points: list[Any] = self.history.document()["positions"].get(T, [])
        return points


def test_a_wick_between_two_points_is_not_lost() -> None:
    rig = Rig()
    for value in ("0.6000", "0.3000", "0.6100"):
        rig.sample(value, 1.0)
    assert rig.points() == [[1, "0.3000", "0.4500"]]


def test_a_step_without_any_price_is_a_gap_and_one_with_some_is_not() -> None:
    rig = Rig()
    rig.sample("0.6000", 1.0)
    rig.sample(None, POSITION_STEP_S)
    rig.sample(None, 1.0)
    assert [value for _, value, _ in rig.points()] == ["0.6000", None]


def test_the_points_of_a_position_are_bounded_to_ten_minutes() -> None:
    rig = Rig()
    for _ in range(POSITION_POINTS_MAX + 30):
        rig.sample("0.6000", POSITION_STEP_S)
    points = rig.points()
    assert len(points) == POSITION_POINTS_MAX
    assert points[0][0] == 600
    assert rig.history.document()["span_s"] == 600.0


def test_a_sold_position_is_forgotten() -> None:
    rig = Rig()
    rig.sample("0.6000", 1.0)
    rig.history.sample(document(("KX-B", "0.2000")))
    assert list(rig.history.document()["positions"]) == ["KX-B"]


def test_the_other_side_of_a_market_starts_anew() -> None:
    rig = Rig()
    rig.sample("0.6000", POSITION_STEP_S)
    rig.sample("0.4000", 0.0, side="no")
    assert rig.points() == [[0, "0.4000", "0.4500"]]


def test_money_has_a_point_a_minute_and_a_new_day_starts_anew() -> None:
    rig = Rig()
    for _ in range(PNL_POINTS_MAX + 5):
        rig.sample("0.6000", 30.0)
        rig.sample("0.6000", 30.0)
    pnl = rig.history.document()["pnl"]
    assert len(pnl["points"]) <= PNL_POINTS_MAX
    assert pnl["points"][-1][1:] == ["-1.50", "0.20"]
    ages = [point[0] for point in pnl["points"]]
    assert ages[-3] - ages[-2] == 60
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
