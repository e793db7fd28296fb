"""What a trade costs in fees."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.model.fees import affordable_count, taker_fee

D = Decimal
PRICES = st.decimals("0.001", "0.999", places=3)


@pytest.mark.parametrize(
    ("count", "price", "multiplier", "fee"),
    [
        ("1", "0.52", "1", "0.0175"),
        ("1", "0.99", "1", "0.0007"),
        ("100", "0.50", "1", "1.75"),
        ("100", "0.50", "0.5", "0.875"),
        ("10", "0.30", "1", "0.147"),
        ("0.01", "0.50", "1", "0.0002"),
        ("5", "0.50", "0", "0"),
    ],
    ids=[
        "one near the middle, as recorded",
        "one near a dollar, as recorded",
        "a hundred in the middle",
        "half-rate series",
        "ten at 30 cents",
        "a hundredth of a contract is rounded up",
        "a series without fees",
    ],
)
def test_a_trade_costs_seven_percent_of_its_variance(
    count: str, price: str, multiplier: str, fee: str
) -> None:
    assert taker_fee(D(count), D(price), D(multiplier)) == D(fee)


@given(dollars=st.decimals("0", "500", places=2), prices=st.lists(PRICES, min_size=1, max_size=8))
def test_what_is_affordable_never_costs_more(dollars: Decimal, prices: list[Decimal]) -> None:
    count = affordable_count(dollars, tuple(prices))
    spent = sum((count * p + taker_fee(count, p) for p in prices), D(0))
    assert count >= 0
    assert spent <= dollars
    more = count + D("0.01")
    dearer = sum((more * p + taker_fee(more, p) for p in prices), D(0))
    assert dearer > dollars - D("0.0001") * len(prices)
