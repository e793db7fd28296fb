"""What the page draws: the last minutes of each held position, and the money of the day.

Kept here and not in the page, so that a page opened at night shows what led there. Bounded in time and
number; it starts anew with the program. Told briefly, since a page asks for all of it every few seconds:
a value a step, without its time, and the stop only where it changes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import groupby
from typing import Any

from base.clock import Clock
from base.ui.document import rows, section

POSITION_STEP_S = 10.0
POSITION_POINTS_MAX = 60
"""Ten minutes; more points than a line of 120 pixels can show tell nobody anything."""
CARRIED_STEPS_MAX = 3
"""The status may be built less often than once a step (`UI_INTERVAL_S`)."""
PNL_STEP_S = 120.0
PNL_POINTS_MAX = 751
"""The longest day has 25 hours, and begins with a point of its own."""
PRICE_UNIT = Decimal("0.0001")
"""Prices are told in hundredths of a cent: they are drawn, not traded on."""


@dataclass(frozen=True, slots=True)
class PricePoint:
    """One step of a position: the lowest exit value seen in it, so that a wick shows, and its last stop, in
    `PRICE_UNIT`.

    `exit_value` None: no price in the whole step.
    """

    step: int
    exit_value: int | None
    stop_price: int | None


@dataclass(frozen=True, slots=True)
class MoneyPoint:
    """The last money of one step, or the first of the day; dollars."""

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
        value = _units(position["exit_value"])
        if held.points and held.points[-1].step == step:
            value = _lower(held.points.pop().exit_value, value)
        held.points.append(PricePoint(step, value, _units(position["stop_price"])))
        return held

    def document(self) -> dict[str, Any]:
        """`/api/history`: for each position the values of its steps, oldest first and the last one now, and
        its stops as rows of [steps, stop]; for the day rows of [age in seconds, realized, unrealized]."""
        now = self._clock.monotonic()
        with self._lock:
            held = {ticker: list(h.points) for ticker, h in self._held.items()}
            day, money = self._day, list(self._money)
        return {
            "price_unit_dollars": str(PRICE_UNIT),
            "positions": {
                ticker: _told(points, int(now // POSITION_STEP_S)) for ticker, points in held.items()
            },
            "position_step_s": POSITION_STEP_S,
            "span_s": POSITION_STEP_S * POSITION_POINTS_MAX,
            "pnl": {
                "day": day,
                "step_s": PNL_STEP_S,
                "points": [[round(now - p.at), p.realized, p.unrealized] for p in money],
            },
        }


def _told(points: Sequence[PricePoint], now_step: int) -> dict[str, Any]:
    """The points of one position without their times: a step that was not sampled repeats the last one, so
    long as that is not long ago."""
    by_step = {point.step: point for point in points}
    known: PricePoint | None = None
    steps: list[PricePoint | None] = []
    for step in range(points[0].step, now_step + 1):
        known = by_step.get(step, known)
        steps.append(known if known is not None and step - known.step <= CARRIED_STEPS_MAX else None)
    steps = steps[-POSITION_POINTS_MAX:]
    stops = [None if point is None else point.stop_price for point in steps]
    return {
        "values": [None if point is None else point.exit_value for point in steps],
        "stops": [[len(list(run)), stop] for stop, run in groupby(stops)],
    }


def _units(price: str | None) -> int | None:
    return None if price is None else round(Decimal(price) / PRICE_UNIT)


def _lower(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)
