"""What the exchange takes for a trade. Pure."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from base.model.market import ONE, ZERO

TAKER_FEE_RATE = Decimal("0.07")
FEE_STEP = Decimal("0.0001")
"""Trade fees are rounded up to a hundredth of a cent (docs.kalshi.com, fee rounding)."""
_COUNT_STEP = Decimal("0.01")


def taker_fee(count: Decimal, price: Decimal, multiplier: Decimal = ONE) -> Decimal:
    """Dollars of fee for `count` contracts taken at `price`: 0.07 × count × price × (1 − price), rounded up.

    `multiplier` is the series' own (`fee_multiplier`). One order that is filled by several resting ones is
    rounded up once for each of them.
    """
    fee = TAKER_FEE_RATE * multiplier * count * price * (ONE - price)
    return fee.quantize(FEE_STEP, ROUND_CEILING)


def affordable_count(dollars: Decimal, prices: tuple[Decimal, ...], multiplier: Decimal = ONE) -> Decimal:
    """The most contracts of each of `prices` that can be taken together for `dollars`, fees included."""
    each = sum((p + TAKER_FEE_RATE * multiplier * p * (ONE - p) for p in prices), ZERO)
    left = dollars - FEE_STEP * len(prices)  # what rounding up may add
    if each <= ZERO or left <= ZERO:
        return ZERO
    return (left / each).quantize(_COUNT_STEP, ROUND_FLOOR)
