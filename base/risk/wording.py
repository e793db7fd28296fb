"""How decisions write prices, counts and times for people. Display only: nothing is computed from these."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache


@lru_cache(maxsize=4096)  # few distinct prices, and every evaluation of every position writes some
def dollars_text(amount: Decimal) -> str:
    """Dollars with two decimals, or up to six where the amount has them: 0.38, 0.385, 5.00."""
    whole, _, cents = f"{amount:.6f}".partition(".")
    return f"{whole}.{cents.rstrip('0').ljust(2, '0')}"


@lru_cache(maxsize=4096)
def number_text(number: Decimal) -> str:
    """A count or a percentage without idle zeros: 25, 12.5, 263."""
    text = f"{number:.6f}".rstrip("0").rstrip(".")
    return text or "0"


def seconds_text(seconds: float) -> str:
    """Seconds without idle zeros: 600 s, 0.3 s."""
    return f"{round(seconds, 3):.12g} s"
