"""What one complete read of positions says against what is known here: a list of corrections. Pure.

Reads lag writes, and a backend that answers with an empty list for a moment answers so to every read of
that moment. So a read says nothing of a market that changed too recently for it to show the change
(`READ_LAG_S`), nor of one whose order awaits its answer; and it takes two reads, some time apart, or a
second witness (a `market_position` of 0, a market that has ended) before a position is given up.

`Portfolio.compared_state` gives the view, `Portfolio.apply_corrections` takes the result.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from base.model.position import Position

READ_LAG_S = 3.0
"""A read that began less than this after a change may not show it yet (recorded: 360 ms and more)."""
AGREEMENT_S = 10.0
"""Two reads that do not show a position agree only when so much time lies between them."""


class CorrectionKind(StrEnum):
    """What a read means for one market."""

    SKIPPED = "skipped"
    """The read cannot judge this market."""
    CONFIRMED = "confirmed"
    """Held as known here; details such as the shard are taken from the read."""
    OPENED = "opened"
    GROWN = "grown"
    SHRUNK = "shrunk"
    FLIPPED = "flipped"
    REPRICED = "repriced"
    """Only the entry differs."""
    MISSING = "missing"
    """Held here and not shown: a second read or witness decides."""
    DROPPED = "dropped"
    """Gone: two reads agree, or a read and a message do."""
    SETTLED = "settled"
    """Gone, because its market has ended."""


@dataclass(frozen=True, slots=True)
class Correction:
    """One market's part of a comparison; `after` is what is held by the read, None where it shows nothing.

    It holds only while the market's version is still `version`.
    """

    kind: CorrectionKind
    ticker: str
    after: Position | None
    version: int
    why: str
    wants_read: bool = False
    """Whether a read a little later can judge what this one could not."""


@dataclass(frozen=True, slots=True)
class KnownMarket:
    """What is known here of one market; times are monotonic."""

    position: Position | None = None
    version: int = 0
    changed_at: float | None = None
    is_awaited: bool = False
    """An order's answer is awaited: a read may hold its fill, which the answer would take off again."""
    missing_since: float | None = None
    """Start of the first read that did not show the position."""


NOTHING_KNOWN = KnownMarket()


def compare(
    known: Mapping[str, KnownMarket],
    rows: Mapping[str, Position],
    started_at: float,
    *,
    is_whole: bool = True,
    ended: Collection[str] = (),
) -> list[Correction]:
    """Judge one complete read that left at monotonic `started_at`; markets in the order of their names.

    Where single rows of it could not be read (`is_whole` False), it says nothing about what it does not
    show. `ended` are markets whose result is known.
    """
    held = [ticker for ticker, market in known.items() if market.position is not None]
    tickers = sorted({*rows, *held} if is_whole else rows)
    return [
        _judge(ticker, known.get(ticker, NOTHING_KNOWN), rows.get(ticker), started_at, ticker in ended)
        for ticker in tickers
    ]


def _judge(
    ticker: str, market: KnownMarket, row: Position | None, started_at: float, has_ended: bool
) -> Correction:
    kind = CorrectionKind
    if market.is_awaited:
        # Whoever awaits the answer asks for a read when it does not come.
        return Correction(kind.SKIPPED, ticker, row, market.version, "the answer to an order is awaited")
    if market.changed_at is not None and started_at - market.changed_at < READ_LAG_S:
        why = "it has changed too recently for the read to show it"
        return Correction(kind.SKIPPED, ticker, row, market.version, why, wants_read=True)
    if row is not None:
        return Correction(*_judge_shown(ticker, market, row))
    if has_ended:
        return Correction(kind.SETTLED, ticker, None, market.version, "its market has ended")
    if market.missing_since is None or started_at - market.missing_since < AGREEMENT_S:
        why = f"a read does not show it; a second one, {AGREEMENT_S:.0f} s later, decides"
        return Correction(kind.MISSING, ticker, None, market.version, why)
    why = f"not shown for {started_at - market.missing_since:.0f} s by every read"
    return Correction(kind.DROPPED, ticker, None, market.version, why)


def _judge_shown(
    ticker: str, market: KnownMarket, row: Position
) -> tuple[CorrectionKind, str, Position, int, str]:
    before, kind = market.position, CorrectionKind
    if before is None:
        found, why = kind.OPENED, f"the exchange holds {row.signed_count}, nothing was known here"
    elif before.outcome_side is not row.outcome_side:
        found, why = kind.FLIPPED, _counts(before, row)
    elif row.count > before.count:
        found, why = kind.GROWN, _counts(before, row)
    elif row.count < before.count:
        found, why = kind.SHRUNK, _counts(before, row)
    elif row.entry_price != before.entry_price:
        found = kind.REPRICED
        why = f"entered at {_short(row.entry_price)} by the exchange, at {_short(before.entry_price)} here"
    else:
        found, why = kind.CONFIRMED, "as known here"
    return found, ticker, row, market.version, why


def _counts(before: Position, row: Position) -> str:
    return f"the exchange holds {row.signed_count}, {before.signed_count} was known here"


def _short(price: Decimal) -> Decimal:
    # Not `quantize`: an entry that is no number must reach the portfolio, which then holds it unprotected.
    return round(price, 4) if price.is_finite() else price
