"""Entries against the limits: at a limit is within it, above it is denied, and what is unknown is denied."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

import pytest

from base.risk.limits import Approved, DenialCode, Denied, Limits, check_entry, is_daily_loss_hit
from base.risk.trading_state import TradingState

D = Decimal
LIMITS = Limits(D(50), D(200), D(1000), D(100))


class EntryCase(NamedTuple):
    name: str
    denied: DenialCode | None
    cost: str = "50"
    held: str = "0"
    reserved: str = "0"
    exposure: str = "0"
    reserved_total: str = "0"
    today: str = "0"
    state: TradingState = TradingState.ACTIVE


CASES = [
    EntryCase("order at its limit", None),
    EntryCase("order a cent above", DenialCode.ORDER_COST, cost="50.01"),
    EntryCase("position filled to its limit", None, held="100", reserved="50"),
    EntryCase(
        "position above, counting what is reserved", DenialCode.POSITION_COST, held="100", reserved="50.01"
    ),
    EntryCase("all filled to the limit", None, exposure="900", reserved_total="50"),
    EntryCase(
        "all above, counting what is reserved",
        DenialCode.TOTAL_EXPOSURE,
        exposure="900",
        reserved_total="50.01",
    ),
    EntryCase("a cent under the daily loss", None, today="-99.99"),
    EntryCase("at the daily loss", DenialCode.DAILY_LOSS, today="-100"),
    EntryCase("a profit is no loss", None, today="500"),
    EntryCase("reducing", DenialCode.TRADING_STATE, state=TradingState.REDUCING),
    EntryCase("halted", DenialCode.TRADING_STATE, state=TradingState.HALTED),
    EntryCase("costs nothing", DenialCode.BAD_AMOUNT, cost="0"),
    EntryCase("costs less than nothing", DenialCode.BAD_AMOUNT, cost="-1"),
    EntryCase("cost not a number", DenialCode.BAD_AMOUNT, cost="NaN"),
    EntryCase("exposure not a number", DenialCode.BAD_AMOUNT, exposure="NaN"),
    EntryCase("result of the day not a number", DenialCode.BAD_AMOUNT, today="NaN"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_entry(case: EntryCase) -> None:
    verdict = check_entry(
        cost=D(case.cost),
        ticker="KXBTC",
        position_cost=D(case.held),
        reserved_ticker=D(case.reserved),
        total_exposure=D(case.exposure),
        reserved_total=D(case.reserved_total),
        realized_today=D(case.today),
        trading_state=case.state,
        limits=LIMITS,
    )
    if case.denied is None:
        assert verdict == Approved("KXBTC", D(case.cost))
    else:
        assert isinstance(verdict, Denied)
        assert verdict.code is case.denied
        assert verdict.detail.startswith("entry in KXBTC for ")


@pytest.mark.parametrize(
    ("today", "hit"),
    [("-100", True), ("-99.9999", False), ("0", False), ("NaN", True)],
    ids=["at the limit", "just under", "flat", "unknown counts as hit"],
)
def test_daily_loss(today: str, hit: bool) -> None:
    assert is_daily_loss_hit(D(today), LIMITS) is hit
