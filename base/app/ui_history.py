"""What the page draws: the last minutes of each held position, and the money of the day.

Kept here and not in the page, so that a page opened at night shows what led there. Bounded in time and
number; it starts anew with the program.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from base.clock import Clock
from base.ui.document import rows, section

POSITION_STEP_S = 5.0
POSITION_POINTS_MAX = 120
"""Ten minutes."""
PNL_STEP_S = 60.0
PNL_POINTS_MAX = 1500
"""The longest day has 25 hours."""


@dataclass(frozen=True, slots=True)
class PricePoint:
    """One step of a position: the lowest exit value seen in it, so that a wick shows, and its last stop.

    `exit_value` None: no price in the whole step.
    """

    step: int
    at: float
    exit_value: str | None
    stop_price: str | None


@dataclass(frozen=True, slots=True)
class MoneyPoint:
    """The last money of one minute, or the first of the day; dollars."""

    step: int
    at: float
    realized: str
    unrealized: str


@dataclass(slots=True)
class _Held:
    outcome_side: str
    points: deque[PricePoint] = field(default_factory=lambda: deque(maxlen=POSITION_POINTS_MAX))


class StatusHistory:
    """Samples of the status document; thread-safe. Times inside are monotonic, told as ages."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards the fields below; never held while a document is built
        self._held: dict[str, _Held] = {}
        self._day = ""
        self._money: deque[MoneyPoint] = deque(maxlen=PNL_POINTS_MAX)

    def sample(self, document: Mapping[str, Any]) -> None:
        """Take the newest document in; what it does not list any more is forgotten."""
        now = self._clock.monotonic()
        pnl = section(document, "pnl")
        positions = {str(p["ticker"]): p for p in rows(document.get("positions"))}
        with self._lock:
            self._held = {ticker: self._with_point_locked(ticker, p, now) for ticker, p in positions.items()}
            if pnl["day"] != self._day:
                self._day = str(pnl["day"])
                self._money.clear()
            step = int(now // PNL_STEP_S)
            if len(self._money) > 1 and self._money[-1].step == step:  # the first one stays: it began there
                self._money.pop()
            self._money.append(MoneyPoint(step, now, pnl["realized_today"], pnl["unrealized"]))

    def _with_point_locked(self, ticker: str, position: Mapping[str, Any], now: float) -> _Held:
        side = str(position["outcome_side"])
        held = self._held.get(ticker)
        if held is None or held.outcome_side != side:
            held = _Held(side)
        step = int(now // POSITION_STEP_S)
        value = position["exit_value"]
        if held.points and held.points[-1].step == step:
            value = _lower(held.points.pop().exit_value, value)
        held.points.append(PricePoint(step, now, value, position["stop_price"]))
        return held

    def document(self) -> dict[str, Any]:
        """`/api/history`: rows of [age in seconds, exit value, stop] and [age, realized, unrealized]."""
        now = self._clock.monotonic()
        with self._lock:
            held = {ticker: list(h.points) for ticker, h in self._held.items()}
            day, money = self._day, list(self._money)
        return {
            "positions": {
                ticker: [[round(now - p.at), p.exit_value, p.stop_price] for p in points]
                for ticker, points in held.items()
            },
            "position_step_s": POSITION_STEP_S,
            "span_s": POSITION_STEP_S * POSITION_POINTS_MAX,
            "pnl": {
                "day": day,
                "step_s": PNL_STEP_S,
                "points": [[round(now - p.at), p.realized, p.unrealized] for p in money],
            },
        }


def _lower(one: str | None, other: str | None) -> str | None:
    if one is None or other is None:
        return one if other is None else other
    return min(one, other, key=Decimal)
