"""What one trading day brought, by market and by whose position it was. Pure.

Not thread-safe: the books own it.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from base.model.market import ZERO
from base.store.records import LedgerRecord, Record, ResultRecord

Key = tuple[str, str]
"""A market ticker and a strategy, "" for what was opened elsewhere."""
NO_MARKET: Key = ("", "")
"""Money of the day that no market is remembered for."""
SAME_MONEY = Decimal("1E-9")
"""Sums of the same amounts in another order differ by less than this."""


@dataclass(frozen=True, slots=True)
class MarketResult:
    """Money of one day in one market for one strategy, `realized` without fees; dollars."""

    ticker: str
    strategy: str
    realized: Decimal
    fees: Decimal


@dataclass(frozen=True, slots=True)
class Ledger:
    """Realized money of a trading day, from our own executions; dollars. `results` are its parts."""

    day: str
    realized: Decimal
    fees: Decimal
    zone: str = "UTC"
    results: tuple[MarketResult, ...] = ()


class DayResults:
    """The ledger of one trading day, and what it was booked from."""

    def __init__(self, day: str, zone: str) -> None:
        self.day = day
        self.realized = ZERO
        self.fees = ZERO
        self.trades: set[str] = set()
        self.orders: set[str] = set()
        self._zone = zone
        self._parts: dict[Key, tuple[Decimal, Decimal]] = {}

    def restore(self, ledger: LedgerRecord, results: list[ResultRecord]) -> None:
        """Take up what was remembered; what the parts do not tell of the sum belongs to no market."""
        self.realized, self.fees = ledger.realized, ledger.fees
        self._parts = {(r.ticker, r.strategy): (r.realized, r.fees) for r in results}
        realized, fees = (self._sum(index) for index in (0, 1))
        rest = (ledger.realized - realized, ledger.fees - fees)
        if any(abs(amount) > SAME_MONEY for amount in rest):
            before = self._parts.get(NO_MARKET, (ZERO, ZERO))
            self._parts[NO_MARKET] = (before[0] + rest[0], before[1] + rest[1])

    def _sum(self, index: int) -> Decimal:
        return sum((part[index] for part in self._parts.values()), ZERO)

    def add(self, key: Key, realized: Decimal, fees: Decimal) -> None:
        self.realized += realized
        self.fees += fees
        before = self._parts.get(key, (ZERO, ZERO))
        self._parts[key] = (before[0] + realized, before[1] + fees)

    def take(self, other: DayResults) -> bool:
        """Take the other's sums in the place of what was booked; False when they are the same."""
        # What is remembered of a part that is none any more has to be written over.
        gone = {key: (ZERO, ZERO) for key in self._parts if key not in other._parts}
        found = gone | other._parts
        if (other.realized, other.fees) == (self.realized, self.fees) and found == self._parts:
            return False
        self.realized, self.fees, self._parts = other.realized, other.fees, found
        return True

    def ledger(self) -> Ledger:
        parts = sorted(self._parts.items())
        results = tuple(MarketResult(*key, *part) for key, part in parts if any(part))
        return Ledger(self.day, self.realized, self.fees, self._zone, results)

    def records_of(self, key: Key) -> list[Record]:
        """What to remember of this part and of the sum."""
        part = self._parts.get(key, (ZERO, ZERO))
        row = ResultRecord("|".join((self.day, *key)), self.day, *key, *part)
        return [row, LedgerRecord(self.day, self.realized, self.fees, self._zone)]

    def all_records(self) -> list[Record]:
        rows: list[Record] = [self.records_of(key)[0] for key in sorted(self._parts)]
        return [*rows, LedgerRecord(self.day, self.realized, self.fees, self._zone)]
