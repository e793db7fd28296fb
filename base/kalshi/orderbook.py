"""The order book of one market, and the sequence check of one subscription. Pure.

A snapshot replaces the book, a delta changes one level by a signed count. `seq` counts every message of
a subscription across all its markets (recorded: control replies take a number too), so a gap says that
something was lost but not for which market: every book of that subscription is unusable until its next
snapshot. Meanwhile the ticker feed carries on.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from base.errors import WireError
from base.model.events import BookDelta, BookSnapshot
from base.model.market import ONE, ZERO, Level, OutcomeSide


class OrderBook:
    """Both sides of one market, as bids; usable from its first snapshot on."""

    def __init__(self, ticker: str) -> None:
        self.ticker = ticker
        self.is_usable = False
        self.ts_ms = 0
        """Exchange time of the newest delta since the last snapshot, 0 before the first."""
        self.snapshot_at = 0.0
        """Monotonic time of the last snapshot."""
        self._levels: dict[OutcomeSide, dict[Decimal, Decimal]] = {OutcomeSide.YES: {}, OutcomeSide.NO: {}}
        self._best: dict[OutcomeSide, Decimal | None] = {OutcomeSide.YES: None, OutcomeSide.NO: None}

    def apply_snapshot(self, snapshot: BookSnapshot, monotonic: float = 0.0) -> None:
        """Replace everything; makes the book usable. An absent side is an empty one."""
        for side, levels in (
            (OutcomeSide.YES, snapshot.yes_levels),
            (OutcomeSide.NO, snapshot.no_levels),
        ):
            self._levels[side] = {price: count for price, count in levels if count > 0}
            # The two documents disagree about which end of the list is best, so never index: take max.
            self._best[side] = max(self._levels[side], default=None)
        self.is_usable = True
        self.ts_ms = 0  # a snapshot has no time, and is newer than every delta before it
        self.snapshot_at = monotonic

    def apply_delta(self, delta: BookDelta) -> None:
        """Change one level.

        Raises WireError, and makes the book unusable, when the level would become negative: then a
        message was lost.
        """
        levels = self._levels[delta.side]
        count = levels.get(delta.price, ZERO) + delta.delta
        best = self._best[delta.side]
        if count < 0:
            self.is_usable = False
            raise WireError(f"{self.ticker}: level {delta.price} would hold {count}")
        if count == 0:
            levels.pop(delta.price, None)
            if delta.price == best:
                self._best[delta.side] = max(levels, default=None)
        else:
            levels[delta.price] = count
            if best is None or delta.price > best:
                self._best[delta.side] = delta.price
        self.ts_ms = max(self.ts_ms, delta.ts_ms)

    @property
    def yes_bid(self) -> Decimal:
        """Best YES bid in dollars, 0 when nobody bids."""
        best = self._best[OutcomeSide.YES]
        return ZERO if best is None else best

    @property
    def yes_ask(self) -> Decimal:
        """Best YES ask (1 - best NO bid), 1 when nobody offers."""
        best = self._best[OutcomeSide.NO]
        return ONE if best is None else ONE - best

    @property
    def yes_bid_size(self) -> Decimal:
        best = self._best[OutcomeSide.YES]
        return ZERO if best is None else self._levels[OutcomeSide.YES][best]

    @property
    def yes_ask_size(self) -> Decimal:
        best = self._best[OutcomeSide.NO]
        return ZERO if best is None else self._levels[OutcomeSide.NO][best]

    @property
    def is_crossed(self) -> bool:
        """Whether both sides have bids that should have traded with each other: not a price."""
        yes, no = self._best[OutcomeSide.YES], self._best[OutcomeSide.NO]
        return yes is not None and no is not None and yes + no >= ONE

    def depth(self, side: OutcomeSide, limit: Decimal) -> Decimal:
        """Contracts that a seller of `side` finds at `limit` dollars of that side or better."""
        return sum((count for price, count in self._levels[side].items() if price >= limit), ZERO)

    def bids(self, side: OutcomeSide) -> list[Level]:
        """A copy of every level of one side, in no order."""
        return list(self._levels[side].items())


def best_bids(levels: Iterable[Level], limit: int) -> tuple[Level, ...]:
    """The `limit` highest levels, best first."""
    return tuple(sorted(levels, reverse=True)[:limit])


class SequenceCheck:
    """Watches the `seq` of one subscription."""

    def __init__(self) -> None:
        self._last: int | None = None

    def accept(self, seq: int | None) -> bool:
        """Whether nothing was lost before this message. Messages without a number prove nothing.

        A number at or below the last one is a repetition, which callers must not apply twice: see
        `is_repeated`.
        """
        if seq is None:
            return True
        in_order = self._last is None or seq <= self._last + 1
        self._last = seq if self._last is None else max(self._last, seq)
        return in_order

    def is_repeated(self, seq: int | None) -> bool:
        """Whether this number has been seen (to be asked before `accept`)."""
        return seq is not None and self._last is not None and seq <= self._last

    def is_before_last(self, seq: int | None) -> bool:
        """Whether messages after this number have been seen. A snapshot with the very last number is
        taken: whether the answer to `get_snapshot` has a number of its own is not documented."""
        return seq is not None and self._last is not None and seq < self._last
