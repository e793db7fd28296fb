"""Fixed-point strings and times as the exchange writes and reads them.

Written apart from the daemon's own parser on purpose: the sandbox must not share its mistakes.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal

ZERO = Decimal(0)
ONE = Decimal(1)
CENT = Decimal("0.01")

_PRICE = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,4})?", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,2})?", re.ASCII)
_FOUR = Decimal("0.0001")
_SIX = Decimal("0.000001")


def price_text(price: Decimal) -> str:
    """A price with four decimals, six when four would lose digits."""
    rounded = price.quantize(_FOUR, ROUND_HALF_UP)
    return f"{rounded:f}" if rounded == price else dollars_text(price)


def dollars_text(amount: Decimal) -> str:
    """An amount with six decimals, as portfolio rows show it (recorded 2026-06-11)."""
    return f"{amount.quantize(_SIX, ROUND_HALF_UP):f}"


def count_text(count: Decimal) -> str:
    return f"{count.quantize(CENT, ROUND_HALF_UP):f}"


def parse_price(text: str) -> Decimal | None:
    """A request's price of up to four decimals, None when it is not one."""
    return Decimal(text) if _PRICE.fullmatch(text) else None


def parse_count(text: str) -> Decimal | None:
    """A request's count of up to two decimals, None when it is not one."""
    return Decimal(text) if _COUNT.fullmatch(text) else None


def time_text(now: float) -> str:
    """RFC 3339 in UTC with microseconds."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def second_text(now: float) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def milliseconds(now: float) -> int:
    return int(now * 1000)
