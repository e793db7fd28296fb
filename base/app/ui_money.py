"""The money of the status document: of each position, and grouped by strategy, event and market. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from base.risk.stop_loss import CheckedPosition
from base.store.day_results import Ledger


class DayMoney:
    """The money of one document."""

    def __init__(
        self, ledger: Ledger, checked: list[CheckedPosition], event_of: Callable[[str], str]
    ) -> None:
        self._ledger = ledger
        self._event_of = event_of
        self._events = {c.position.ticker: c.market.event_ticker for c in checked}
        self._today: dict[str, _Sum] = {}
        self._by_strategy: dict[str, _Sum] = {}
        self._by_event: dict[str, _Sum] = {}
        for result in ledger.results:
            for total in self._sums(result.ticker, result.strategy):
                total.realized += result.realized
                total.fees += result.fees
        for c in checked:
            for total in self._sums(c.position.ticker, c.position.strategy):
                total.add_unrealized(unrealized_of(c))

    def _sums(self, ticker: str, strategy: str) -> Iterable[_Sum]:
        yield self._today.setdefault(ticker, _Sum())
        yield self._by_strategy.setdefault(strategy, _Sum())
        yield self._by_event.setdefault(self._event(ticker), _Sum())

    def _event(self, ticker: str) -> str:
        # A market's ticker is its event's with one more part (docs, terms).
        return self._events.get(ticker) or self._event_of(ticker) or ticker.rpartition("-")[0]

    def of_position(self, c: CheckedPosition) -> dict[str, Any]:
        today = self._today[c.position.ticker]
        return {
            "strategy": c.position.strategy,
            "event": self._event(c.position.ticker),
            "realized_today": money_text(today.realized),
            "fees_today": money_text(today.fees),
        }

    def document(self) -> dict[str, Any]:
        held = [total for total in self._today.values() if total.positions]
        return {
            "day": self._ledger.day,
            "timezone": self._ledger.zone,
            "realized_today": money_text(self._ledger.realized),
            "unrealized": money_text(sum((total.unrealized for total in held), Decimal(0))),
            "fees_today": money_text(self._ledger.fees),
            "positions_without_price": sum(total.without_price for total in held),
            "by_strategy": _groups(self._by_strategy),
            "by_event": _groups(self._by_event),
            "by_market": _groups(self._today),
        }


@dataclass(slots=True)
class _Sum:
    """Money of a group of positions and results; dollars."""

    realized: Decimal = Decimal(0)
    fees: Decimal = Decimal(0)
    unrealized: Decimal = Decimal(0)
    positions: int = 0
    without_price: int = 0

    def add_unrealized(self, amount: Decimal | None) -> None:
        self.positions += 1
        if amount is None:
            self.without_price += 1
        else:
            self.unrealized += amount


def _groups(sums: Mapping[str, _Sum]) -> dict[str, Any]:
    """`unrealized` is null where one of the group's positions has no price: the rest would be another sum."""
    return {
        name: {
            "realized_today": money_text(total.realized),
            "unrealized": None if total.without_price else money_text(total.unrealized),
            "fees_today": money_text(total.fees),
        }
        for name, total in sorted(sums.items())
    }


def unrealized_of(c: CheckedPosition) -> Decimal | None:
    """What selling at the exit value would gain, without fees; None while there is no price."""
    if c.evaluation is None or c.evaluation.exit_value is None:
        return None
    return (c.evaluation.exit_value - c.position.entry_price) * c.position.count


def money_text(amount: Decimal) -> str:
    """Cents, or hundredths of a cent where there are any."""
    exact = amount.quantize(Decimal("0.0001"), ROUND_HALF_UP)
    cents = amount.quantize(Decimal("0.01"), ROUND_HALF_UP)
    return str(cents if cents == exact else exact)
