"""How the values of a rules file are written: each field's reader. Pure: values in, values out."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal

from base.model.market import ONE, ZERO

PCT_MAX = 9900
"""A contract bought at 0.01 gains 9,800 % on its way to 0.99; more can only be a mistake."""
SECONDS_MAX = 315_360_000
PATIENCE_MS_MAX = 600_000
"""Ten minutes. A guard may delay a stop, never disable it, so its time box has an end."""
UPDATES_MAX = 1000

_PRICE = re.compile(r"[01](?:\.[0-9]{1,6})?", re.ASCII)
_AMOUNT = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?", re.ASCII)


class BadValueError(ValueError):
    """A value that is wrong; the text says what to write instead."""


def _price(value: object) -> Decimal:
    if not isinstance(value, str):
        raise BadValueError(f'a price is a string, write "{value}" with quotes')
    if not _PRICE.fullmatch(value) or not ZERO < Decimal(value) < ONE:
        raise BadValueError(f'{value!r} is not a price; write dollars above 0 and below 1, such as "0.40"')
    return Decimal(value)


def _amount(value: object) -> Decimal:
    if not isinstance(value, str):
        raise BadValueError(f'an amount is a string, write "{value}" with quotes')
    if not _AMOUNT.fullmatch(value) or Decimal(value) <= ZERO:
        raise BadValueError(f'{value!r} is not an amount above 0; write it as "5.00"')
    return Decimal(value)


def _number(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadValueError(f"{value!r} is not a number; write it without quotes, such as 25")
    number = Decimal(str(value))  # by its string: 12.1 stays 12.1
    if not number.is_finite():
        raise BadValueError(f"{value} is not a number that a price can be compared with")
    return number


def _within(
    low: int, high: int, *, open_low: bool = True, open_high: bool = False
) -> Callable[[object], Decimal]:
    # A number between two limits, each of which may be excluded.
    def read(value: object) -> Decimal:
        number = _number(value)
        is_low = number <= low if open_low else number < low
        is_high = number >= high if open_high else number > high
        if is_low or is_high:
            above = "above" if open_low else "from"
            below = "below" if open_high else "up to"
            raise BadValueError(f"{value} is out of range; write a number {above} {low} and {below} {high}")
        return number

    return read


def _seconds(low: int, *, open_low: bool) -> Callable[[object], float]:
    read = _within(low, SECONDS_MAX, open_low=open_low)
    return lambda value: float(read(value))


def _whole(low: int, high: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise BadValueError(f"{value!r} is out of range; write a whole number from {low} to {high}")
        return value

    return read


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise BadValueError(f"{value!r} is neither true nor false")
    return value


READERS: dict[str, Callable[[object], object]] = {
    "stop_loss_price": _price,
    "stop_loss_pct": _within(0, 100, open_high=True),
    "stop_loss_dollars": _amount,
    "take_profit_price": _price,
    "take_profit_pct": _within(0, PCT_MAX),
    "trailing_stop_pct": _within(0, 100, open_high=True),
    "trailing_stop_price": _price,
    "trailing_activation_pct": _within(0, PCT_MAX, open_low=False),
    "trailing_activation_price": _price,
    "break_even_after_pct": _within(0, PCT_MAX),
    "break_even_after_price": _price,
    "exit_before_close_s": _seconds(0, open_low=True),
    "exit_after_entry_s": _seconds(0, open_low=True),
    "no_stop_before_close_s": _seconds(0, open_low=False),
    "hold_below_price": _price,
    "exit_with_event": _flag,
    "confirm_ms": _whole(0, PATIENCE_MS_MAX),
    "confirm_updates": _whole(1, UPDATES_MAX),
    "max_spread": _price,
    "min_bid_size": _amount,
    "wick_drop": _price,
    "wick_wait_ms": _whole(0, PATIENCE_MS_MAX),
    "guard_patience_ms": _whole(0, PATIENCE_MS_MAX),
    "protect": _flag,
}
