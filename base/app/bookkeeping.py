"""Money that nobody told of: fills and settlements of today that happened while nobody listened.

The stream and the answers tell most of it at once. What they missed (the process was down, the stream
was cut) is read from the exchange: at start, whenever a read had to correct a position, and every ten
minutes. It is booked once, by trade id, and moves no position: those the exchange tells.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, tzinfo
from decimal import Decimal
from typing import Protocol

from base.app.services import PeriodicService
from base.clock import Clock
from base.errors import BotError
from base.log import log_event
from base.model.market import ZERO
from base.model.order import Order
from base.model.position import Fill
from base.model.trading_day import day_start_s, trading_day
from base.store.day_results import Ledger
from base.store.portfolio import READ_LAG_S, Portfolio
from base.store.realized import (
    Holding,
    Payout,
    Step,
    in_time_order,
    only_open,
    opening_entry,
    replay,
    settling_fee,
    signed_count,
)

logger = logging.getLogger(__name__)

INTERVAL_S = 600.0
SPACING_S = 1.0
NOT_LOADED_RETRY_S = 1.0
FAILING_S_MAX = 60.0
"""Reads may fail for so long before `/healthz` says so."""
TICKERS_PER_READ_MAX = 100
"""The exchange takes so many in one list (docs, fills, October 2026)."""
LOOKS = 3
LOOK_AGAIN_S = 30.0
"""After a corrected position its fills are looked for so often: reads of fills lag too."""
COUNT_TRIES = 4
TOLD_S_MAX = 5.0
"""A fill that is younger than this when it is read may still be told by the stream."""
COUNT_RETRY_S = 15.0
"""A market whose fills do not lead to what is held is read so often before older, unlisted fills explain
it: either the list or the position may be behind the other. One complete read must lie between."""


class AccountHistory(Protocol):
    """What the exchange remembers of the account; each method raises BotError when it cannot be read."""

    def read_fills(self, since_s: int | None = None, tickers: Sequence[str] = ()) -> list[Fill]:
        """All fills since a wall time, or of some markets, in the exchange's order."""

    def read_settlements(self, since_s: int) -> list[Payout]: ...

    def read_resting(self) -> list[Order]: ...


@dataclass(frozen=True, slots=True)
class _Explained:
    """The steps of the markets that add up, the payouts, and the names of markets that do not add up yet."""

    steps: tuple[Step, ...]
    payouts: tuple[Payout, ...]
    odd: tuple[str, ...]


class Bookkeeper:
    """Books missed money and looks for orders that rest; the thread `bookkeeping`."""

    def __init__(
        self,
        portfolio: Portfolio,
        history: AccountHistory,
        look_at_resting: Callable[[Sequence[Order]], None],
        clock: Clock,
        zone: tzinfo = UTC,
    ) -> None:
        """`zone` says when the trading day begins, as it does for the portfolio."""
        self._zone = zone
        self._portfolio = portfolio
        self._history = history
        self._look_at_resting = look_at_resting
        self._clock = clock
        self._started_at = clock.now()
        self._resting_read_at: float | None = None  # owned by the thread, like the next three
        self._odd: dict[str, tuple[int, float]] = {}  # tries, and when the first one was
        self._explained_day = ""
        self._explained: frozenset[str] = frozenset()  # the day's executions when it was gone through in full
        self._lock = threading.Lock()  # guards the fields below
        self._failing_since: float | None = None
        self._looks_left = 0
        self.service = PeriodicService("bookkeeping", INTERVAL_S, self.run_once, clock, spacing_s=SPACING_S)

    def look_for_missed(self) -> None:
        """Nobody told of something: a read had to correct a position, or the stream was gone."""
        with self._lock:
            self._looks_left = LOOKS
        self.service.wake()

    def doubts(self) -> list[str]:
        with self._lock:
            since = self._failing_since
        if since is None or (failing_s := self._clock.monotonic() - since) <= FAILING_S_MAX:
            return []
        return [f"today's fills and settlements have not been readable for {failing_s:.0f} s"]

    def run_once(self) -> float | None:
        """Read and book; return after how many seconds to look again. Raises BotError."""
        if not self._portfolio.is_loaded:
            return NOT_LOADED_RETRY_S
        try:
            self._read_resting()
            again_s = self._book_day()
        except BotError:
            with self._lock:
                if self._failing_since is None:
                    self._failing_since = self._clock.monotonic()
            raise
        with self._lock:
            self._failing_since = None
        return again_s

    def _read_resting(self) -> None:
        now = self._clock.monotonic()
        if self._resting_read_at is None or now - self._resting_read_at >= INTERVAL_S:
            self._look_at_resting(self._history.read_resting())
            self._resting_read_at = now

    def _book_day(self) -> float | None:
        wall = self._clock.now()
        day, since_s = trading_day(wall, self._zone), day_start_s(wall, self._zone)
        listed = self._history.read_settlements(since_s)
        payouts = {p.ticker: p for p in listed if _is_of(p.settled_ts_ms, since_s)}
        fills = [f for f in self._history.read_fills(since_s) if _is_of(f.ts_ms, since_s)]
        if not self._is_worth_explaining(fills, payouts.values()):
            return self._look_again_s(has_found=False)
        explained = self._explain(fills, payouts, since_s)
        is_all = not explained.odd
        news = self._book(day, explained, wall, is_all=is_all)
        if news is None:
            return NOT_LOADED_RETRY_S  # the day ended while it was read
        self._explained_day = day if is_all else ""
        self._explained = _ids(fills, payouts.values())
        if explained.odd:
            return COUNT_RETRY_S
        return self._look_again_s(has_found=news > 0)

    def _book(self, day: str, explained: _Explained, read_at: float, *, is_all: bool) -> int | None:
        """Book in the order of time, so that what the stream ought to have told is known apart: fills from
        before this process listened, fresh ones and settlements are nobody's fault.

        Returns how much was news, None when the day is over.
        """
        heard = [s for s in explained.steps if s.fill.ts_ms / 1000 <= read_at - TOLD_S_MAX]
        earlier = [s for s in heard if s.fill.ts_ms / 1000 < self._started_at]
        news = 0
        for steps in (earlier, heard, explained.steps):
            is_last = steps is explained.steps
            before = self._portfolio.ledger()
            booked = self._portfolio.book_missed(
                day, steps, explained.payouts if is_last else (), is_all=is_all and is_last
            )
            if booked is None:
                return None
            news += booked
            self._tell(booked, before, is_missed=steps is heard and booked > 0)
        return news

    def _tell(self, events: int, before: Ledger, *, is_missed: bool) -> None:
        """Say what has been booked, where it changed the day's money."""
        after = self._portfolio.ledger()
        if (after.realized, after.fees) == (before.realized, before.fees):
            return
        log_event(
            logger,
            logging.WARNING if is_missed else logging.INFO,
            "missed_money_booked" if is_missed else "money_booked",
            events=events,
            realized_today=round(after.realized, 4),
            fees_today=round(after.fees, 4),
        )

    def _is_worth_explaining(self, fills: Sequence[Fill], payouts: Iterable[Payout]) -> bool:
        """Whether something has happened since the day was gone through in full, or somebody doubts it.

        Also what was told at once: a sale between two messages that came in the wrong order was judged by
        an entry that was a little wrong then.
        """
        with self._lock:
            is_asked = self._looks_left > 0
        is_news = _ids(fills, payouts) != self._explained
        return is_news or is_asked or self._explained_day != trading_day(self._clock.now(), self._zone)

    def _look_again_s(self, *, has_found: bool) -> float | None:
        with self._lock:
            self._looks_left = 0 if has_found else max(0, self._looks_left - 1)
            return LOOK_AGAIN_S if self._looks_left else None

    # --- what the fills did -------------------------------------------------------------------------

    def _explain(self, today: Sequence[Fill], payouts: Mapping[str, Payout], since_s: int) -> _Explained:
        """What today's fills did, each from what was held before it."""
        steps: list[Step] = []
        reducing: list[str] = []
        for ticker in sorted({fill.ticker for fill in today}):
            fills = in_time_order([f for f in today if f.ticker == ticker])
            held = self._held_in_the_end(ticker, payouts)
            if only_open(fills, held):
                steps += replay(fills, Holding(held - _sum(fills)))
            else:
                reducing.append(ticker)
        odd: list[str] = []
        histories = self._histories(sorted({*reducing, *payouts}))
        paid = [replace(p, fee=settling_fee(p, histories[t])) for t, p in payouts.items()]
        for ticker in reducing:
            history = histories[ticker]
            opening = self._opening(ticker, history, payouts)
            if opening is None:
                odd.append(ticker)
                continue
            steps += [s for s in replay(history, opening) if _is_of(s.fill.ts_ms, since_s)]
        self._odd = {t: tried for t, tried in self._odd.items() if t in odd}
        return _Explained(tuple(steps), tuple(paid), tuple(odd))

    def _histories(self, tickers: Sequence[str]) -> dict[str, list[Fill]]:
        """All fills of each market, oldest first."""
        found: dict[str, list[Fill]] = {ticker: [] for ticker in tickers}
        for start in range(0, len(tickers), TICKERS_PER_READ_MAX):
            chunk = tickers[start : start + TICKERS_PER_READ_MAX]
            for fill in in_time_order(self._history.read_fills(None, chunk)):
                if fill.ticker in found:
                    found[fill.ticker].append(fill)
        return found

    def _held_in_the_end(self, ticker: str, payouts: Mapping[str, Payout]) -> Decimal:
        if ticker in payouts:
            return payouts[ticker].signed
        position = self._portfolio.get(ticker)
        return position.signed_count if position is not None else ZERO

    def _opening(self, ticker: str, history: Sequence[Fill], payouts: Mapping[str, Payout]) -> Holding | None:
        """What was held before the listed fills, None while that has to be asked again."""
        signed = self._held_in_the_end(ticker, payouts) - _sum(history)
        if signed == 0:
            return Holding()
        before = self._portfolio.entry_before(ticker, signed)
        if before is not None:
            return Holding(signed, before)  # the list begins where the last run ended
        now, read_at = self._clock.monotonic(), self._portfolio.last_read_at
        tries, first_at = self._odd.get(ticker, (0, now))
        self._odd[ticker] = (tries + 1, first_at)
        if tries + 1 < COUNT_TRIES or read_at is None or read_at - first_at < READ_LAG_S:
            return None
        side = Holding(signed).side
        entry = opening_entry(history, signed, self._portfolio.get(ticker))
        if entry is None:
            entry = self._portfolio.last_entry(ticker, side)
        if entry is None:
            log_event(
                logger,
                logging.WARNING,
                "realized_unknown",
                ticker=ticker,
                count=signed,
                why="these contracts were bought before the fills that the exchange lists",
            )
        return Holding(signed, entry)


def _sum(fills: Sequence[Fill]) -> Decimal:
    return sum((signed_count(fill) for fill in fills), ZERO)


def _ids(fills: Iterable[Fill], payouts: Iterable[Payout]) -> frozenset[str]:
    return frozenset({fill.trade_id for fill in fills} | {payout.trade_id for payout in payouts})


def _is_of(ts_ms: int, since_s: int) -> bool:
    return ts_ms >= since_s * 1000
