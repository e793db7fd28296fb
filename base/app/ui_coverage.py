"""The status document's word on coverage, and whether its totals are totals. Pure.

Zero of zero reads like safety. Before what is held has been read, or while a part of it cannot be, nobody may
say so: the numbers are then of what is known, and the rest is named.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from base.risk.coverage import Coverage
from base.store.portfolio import NO_TICKER

NOT_READ = "positions have not been read from the exchange yet"


@dataclass(frozen=True, slots=True)
class HeldDoubt:
    """Why it is not known what is open, "" when it is; `tickers` are markets in which something is, or was
    when the last run ended, as far as they can be named."""

    why: str = ""
    tickers: tuple[str, ...] = ()


def doubt_held(*, is_loaded: bool, unseen: Iterable[str], unreadable: Iterable[str]) -> HeldDoubt:
    """Judge whether all that is held is known. `unseen` was held before the restart and no read has shown it
    since, `unreadable` is there and its row cannot be proved."""
    before, rows = sorted(set(unseen)), list(unreadable)
    why = [] if is_loaded else [NOT_READ]
    if is_loaded and before:
        why.append(f"the exchange does not show {_positions(len(before))} held before the restart yet")
    if rows:
        why.append(f"{_positions(len(rows))} cannot be read")
    named = {*before, *(ticker for ticker in rows if ticker != NO_TICKER)}
    return HeldDoubt("; ".join(why), tuple(sorted(named)))


def tell_coverage(coverage: Coverage, doubt: HeldDoubt) -> dict[str, Any]:
    """The document's section."""
    return {
        "open": coverage.open,
        "protected": coverage.protected,
        "unprotected": [{"ticker": t, "reason": r} for t, r in coverage.unprotected],
        "known": not doubt.why,
        "unknown_why": doubt.why,
        "unknown": list(doubt.tickers),
    }


def _positions(count: int) -> str:
    return f"{count} position{'' if count == 1 else 's'}"
