"""Query strings: limits, filters, cursors. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from base.sandbox.refusals import bad_request, failed_validation

_T = TypeVar("_T")
LIMIT_DEFAULT = 100


def limit_of(query: Mapping[str, str], operation: str, *, top: int = 1000, bottom: int = 1) -> int:
    """The page size. Out of bounds is refused as recorded on 2026-06-11."""
    number = integer_of(query, "limit")
    if number is None:
        return min(LIMIT_DEFAULT, top)
    if number > top:
        raise failed_validation(operation, "Limit", "lte")
    if number < bottom:
        raise failed_validation(operation, "Limit", "gte" if bottom == 0 else "min")
    return number or LIMIT_DEFAULT


def integer_of(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if not text:
        return None
    try:
        return int(text)
    except ValueError as exc:
        raise bad_request(f"{name} must be a whole number, not {text!r}") from exc


def list_of(query: Mapping[str, str], name: str) -> frozenset[str] | None:
    """A comma-separated list, None when it is not given."""
    text = query.get(name)
    return frozenset(part for part in text.split(",") if part) if text else None


def is_in_time(query: Mapping[str, str], at: float, what: str = "") -> bool:
    """Whether a time lies between min_…ts and max_…ts (seconds)."""
    low, high = integer_of(query, f"min_{what}ts"), integer_of(query, f"max_{what}ts")
    return (low is None or at >= low) and (high is None or at <= high)


def page(items: Sequence[_T], key: Callable[[_T], str], cursor: str, limit: int) -> tuple[Sequence[_T], str]:
    """One page and the cursor of the next, "" on the last one.

    A cursor that means nothing starts over without a word (recorded 2026-06-11).
    """
    start = 0
    after = _decode(cursor)
    if after is not None:
        start = next((index + 1 for index, item in enumerate(items) if key(item) == after), 0)
    chosen = items[start : start + limit]
    is_last = start + limit >= len(items)
    return chosen, "" if is_last else _encode(key(chosen[-1]))


def _encode(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(cursor: str) -> str | None:
    try:
        return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode() if cursor else None
    except (binascii.Error, ValueError):
        return None
