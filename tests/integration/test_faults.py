"""Exits under faults of the exchange, the quick ones; `tests/benchmarks/fault_table.py` has them all.

One daemon holds all positions, so that each fault costs no start-up: whatever the others went through
must not matter to the next.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

import pytest

from base.model.market import OutcomeSide
from base.sandbox.scenario import Scenario
from base.sandbox.server import SandboxServer
from tests.benchmarks import judge
from tests.benchmarks.fault_table import CASES, FaultCase, Row, call, play, verdicts
from tests.benchmarks.judge import Holding
from tests.integration.rig import Daemon

BY_NAME = {case.name: case for case in CASES}
QUICK = (
    BY_NAME["acted then 500"],
    BY_NAME["acted then reset"],
    BY_NAME["refused with 503"],
    BY_NAME["reset before it acted"],
    BY_NAME["3 of 10 filled per order"],
    BY_NAME["halved by hand between orders"],
    replace(BY_NAME["halved by hand in a pause"], name="halved by hand in a short pause", lasts_s=2.0),
    replace(
        BY_NAME["exchange paused 30 s"], name="exchange paused 2 s", orders_max=4, ids_max=4, lasts_s=2.0
    ),
    FaultCase("two orders that fill nothing", {"zero_fill_orders": 2}, 3, 3, 3.0),
    FaultCase("429 twice", {"calls": [call("429", 2)]}, 3, 3, 5.0),
    FaultCase("reads lag 1 s, acted then 500", {"read_lag_s": 1, "calls": [call("act_then_500")]}, 2, 1, 6.0),
)
HOLDINGS = {
    (case.name, side): Holding(f"KXFAULT{i}-{side.value.upper()}", side, Decimal(10))
    for i, case in enumerate(QUICK)
    for side in (OutcomeSide.YES, OutcomeSide.NO)
}


@dataclass
class House:
    """The one exchange and the one daemon of these tests."""

    server: SandboxServer
    daemon: Daemon

    def held(self) -> int:
        return sum(count != 0 for count in judge.left_of(self.server, list(HOLDINGS.values())))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    plans = tuple(judge.plan(holding) for holding in HOLDINGS.values())
    with (
        SandboxServer(Scenario(plans)) as server,
        Daemon(tmp_path_factory.mktemp("faults"), server, RECONNECT_DELAY_MAX_S="1") as daemon,
    ):
        yield House(server, daemon)


# One side each, in turn: the benchmark plays both.
@pytest.mark.parametrize(
    ("case", "side"),
    list(zip(QUICK, itertools.cycle(OutcomeSide), strict=False)),
    ids=lambda value: getattr(value, "name", value),
)
def test_an_exit_under_a_fault_sells_what_is_held_once_and_in_time(
    house: House, case: FaultCase, side: OutcomeSide
) -> None:
    house.server.clear_faults()
    house.daemon.until(lambda: house.daemon.is_covered(house.held()), "all that is held is protected")
    row = play(case, HOLDINGS[case.name, side], house.server, house.daemon)
    assert row.broken == []
    assert row.sold == row.held == 10 - case.sold_by_hand


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({}, 0),
        ({"sold": Decimal(9)}, 1),
        ({"sold": Decimal(20)}, 1),
        ({"orders": 3}, 1),
        ({"ids": 2}, 1),
        ({"closed_s": 6.1}, 1),
    ],
    ids=["as it should be", "one left", "sold twice", "too many orders", "a second id", "too late"],
)
def test_a_row_that_breaks_a_bound_is_found(change: dict[str, object], broken: int) -> None:
    case = BY_NAME["acted then 500"]
    good = Row(case, OutcomeSide.YES, 2, 1, Decimal(10), Decimal(10), Decimal(0), 0.1, 5.9)
    assert len(verdicts(case, replace(good, **change))) == broken  # type: ignore[arg-type]
