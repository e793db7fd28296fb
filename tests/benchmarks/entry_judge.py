"""Judges entries by the exchange's own ledger: limits hold at every moment, nothing rests that nobody knows,
nothing is held unprotected, and exits sell what is held, once. It knows nothing of the daemon's code.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from base.model.market import ZERO, BookSide
from base.sandbox.happenings import Filled, Happening, OrderChanged
from base.sandbox.ledger import Ledger
from base.sandbox.market import event_of
from base.sandbox.records import FillRecord, OrderRecord, outcome_price
from tests.benchmarks.judge import EXIT_ID_PREFIX, Violation

ENTRY_ID_PREFIX = "backstop-entry-"
VIOLATIONS_MAX = 50
"""Kept of one run; what is wrong once is mostly wrong again and again."""


class Crime(StrEnum):
    """What must never be done with entries."""

    OVER_LIMIT = "over_limit"
    """What was held and what could still be bought came to more than a limit."""
    FORGOTTEN = "forgotten"
    """An order of a run that has ended rested long after the next one had started."""
    UNKNOWN = "unknown"
    """An order rested that the program did not show."""
    RESTING = "resting"
    """Something rested after the program had ended as asked, or while entries were off."""
    UNPROTECTED = "unprotected"
    """Something was held and not protected in time."""
    OVERASKED = "overasked"
    """An exit asked for more than was held: only the exchange kept it from selling twice."""
    FLIPPED = "flipped"
    """A position changed its side, or an entry sold."""
    UNSOLD = "unsold"
    """What had fallen through its stop was still held long after."""


@dataclass(frozen=True, slots=True)
class Caps:
    """Dollars, fees not counted: the program counts them and so stays a little further below."""

    order: Decimal
    position: Decimal
    event: Decimal
    total: Decimal


@dataclass(slots=True)
class Stakes:
    """What the account could lose at one moment, in dollars: what is held and what may still be bought."""

    market: dict[str, Decimal] = field(default_factory=dict)
    event: dict[str, Decimal] = field(default_factory=dict)
    total: Decimal = ZERO

    def add(self, ticker: str, cost: Decimal) -> None:
        event = event_of(ticker)
        self.market[ticker] = self.market.get(ticker, ZERO) + cost
        self.event[event] = self.event.get(event, ZERO) + cost
        self.total += cost


def stakes_of(ledger: Ledger) -> Stakes:
    stakes = Stakes()
    for position in ledger.positions.values():
        stakes.add(position.ticker, position.cost)
    for order in ledger.resting_orders():
        stakes.add(order.ticker, order.remaining_count * outcome_price(order.side, order.price))
    return stakes


def over_limits(stakes: Stakes, caps: Caps) -> list[Violation]:
    found = [
        Violation(Crime.OVER_LIMIT, name, f"{cost} at stake, {cap} allowed")
        for costs, cap in ((stakes.market, caps.position), (stakes.event, caps.event))
        for name, cost in costs.items()
        if cost > cap
    ]
    if stakes.total > caps.total:
        found.append(Violation(Crime.OVER_LIMIT, "all", f"{stakes.total} at stake, {caps.total} allowed"))
    return found


class Watch:
    """Listens to the exchange; its methods run on the sandbox's thread."""

    def __init__(self, caps: Caps, ledger: Callable[[], Ledger]) -> None:
        self._caps = caps
        self._ledger = ledger
        self.violations: list[Violation] = []
        self.bought = ZERO
        self.sold = ZERO
        self.highest_share = ZERO
        """The most of any limit that was ever used."""

    def hear(self, happening: Happening) -> None:
        # An order is told of once the ledger is whole again; in the middle of a match it counts twice.
        if isinstance(happening, OrderChanged):
            self._judge_order(happening.order)
        elif isinstance(happening, Filled):
            self._judge_fill(happening.fill)

    def _judge_order(self, order: OrderRecord) -> None:
        ledger = self._ledger()
        stakes = stakes_of(ledger)
        for violation in over_limits(stakes, self._caps):
            self._note(violation)
        shares = [
            *(cost / self._caps.position for cost in stakes.market.values()),
            *(cost / self._caps.event for cost in stakes.event.values()),
            stakes.total / self._caps.total,
        ]
        self.highest_share = max(self.highest_share, *shares)
        if order.client_order_id.startswith(ENTRY_ID_PREFIX):
            cost = order.initial_count * outcome_price(order.side, order.price)
            if cost > self._caps.order:
                self._note(
                    Violation(
                        Crime.OVER_LIMIT, order.ticker, f"one order of {cost}, {self._caps.order} allowed"
                    )
                )
        elif order.client_order_id.startswith(EXIT_ID_PREFIX):
            held = abs(ledger.position_count(order.ticker)) + order.fill_count
            if order.initial_count > held:
                told = f"{order.client_order_id} asked for {order.initial_count} of {held}"
                self._note(Violation(Crime.OVERASKED, order.ticker, told))

    def _judge_fill(self, fill: FillRecord) -> None:
        is_exit = fill.client_order_id.startswith(EXIT_ID_PREFIX)
        if is_exit:
            self.sold += fill.count
        else:
            self.bought += fill.count
        signed = fill.count if fill.side is BookSide.BID else -fill.count
        before, after = fill.post_position - signed, fill.post_position
        is_flipped = before * after < 0
        if is_flipped or is_exit != (abs(after) < abs(before)):
            told = f"{fill.client_order_id} took {before} to {after}"
            self._note(Violation(Crime.FLIPPED, fill.ticker, told))

    def _note(self, violation: Violation) -> None:
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(violation)


def strangers(
    resting: list[OrderRecord], shown: Collection[str], now: float, started_at: float, within_s: float
) -> list[Violation]:
    """Resting orders of ours that the run which began at `started_at` should have canceled, or shown, by
    now; all times are wall times of the exchange's. `shown` are client order ids."""
    found = []
    for order in resting:
        age_s = now - max(order.created_at, started_at)
        if age_s <= within_s:
            continue
        told = f"{order.client_order_id}, {order.remaining_count} left, {now - order.created_at:.1f} s old"
        if order.created_at < started_at:
            found.append(Violation(Crime.FORGOTTEN, order.ticker, told))
        elif order.client_order_id not in shown:
            found.append(Violation(Crime.UNKNOWN, order.ticker, told))
    return found


def exposed(held: Mapping[str, Decimal], status: Mapping[str, Any]) -> list[Violation]:
    """What is held by the exchange's ledger (signed) and not protected, as a whole, by the program's word."""
    shown = {p["ticker"]: p for p in status.get("positions", [])}
    found = []
    for ticker, count in held.items():
        position = shown.get(ticker)
        if position is None:
            found.append(Violation(Crime.UNPROTECTED, ticker, f"{count} held, not shown"))
        elif Decimal(position["count"]) != abs(count) or not position["protected"]:
            told = f"{count} held, shown as {position['count']}, {position['reason'] or 'protected'}"
            found.append(Violation(Crime.UNPROTECTED, ticker, told))
    return found
