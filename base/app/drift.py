"""The canary for a changed interface: do the exchange's answers still have what this program needs?

At the start, once a day and soon after trouble, one market and one page of positions are read and held, raw,
against the table of `base/kalshi/needed_fields.py`; a ticker frame is looked at every minute. What is missing
or written in another way is an alarm, and nothing is opened until it is there again. Before the first
complete look nothing is opened either.

It never stops an exit. A canary that is wrong, or a field that an exit can do without, must not take the
stops off what is held; and where the change is real, the strict decoders prove no price, so that no exit can
act on a wrong one. What was not seen (no market listed, nothing held, no ticker yet) is not missed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from base.app.services import PeriodicService
from base.clock import Clock
from base.errors import BotError
from base.kalshi.needed_fields import (
    Drift,
    Examination,
    News,
    Source,
    examine_markets,
    examine_positions,
    examine_ticker,
)
from base.log import log_event

logger = logging.getLogger(__name__)

ReadDocument = Callable[[str, Mapping[str, str]], dict[str, Any]]

PASS_S = 60.0
TICKER_S = 5.0
"""How often a first ticker is looked for, and one after a bad one."""
ALONE_S = 20.0
"""So long the first ticker of a run may be bad before nothing but its absence speaks against it: in a market
where nothing happens no second one comes."""
FIRST_TICKER_S_MAX = 600.0
READ_S = 86_400.0
RETRY_S_INITIAL = 1.0
RETRY_S_MAX = 60.0
"""After a drift, or where the exchange did not answer."""
MALFORMED_READ_S = 600.0
"""Frames that cannot be read make the next read due, this long after the last one at the earliest."""
POSITIONS_PER_PAGE = 100
NEWS_MAX = 500
"""So many new fields and values are told of; the exchange may send any."""
DOUBTS_MAX = 5
REMEDY = "look for a newer version of this program; positions: watch them on the exchange's site meanwhile"


def read_pages(read: ReadDocument, held: Sequence[str]) -> tuple[list[Examination], list[str]]:
    """One market, held where anything is, and one page of positions, and the market's ticker. Raises
    BotError."""
    which = {"tickers": held[0]} if held else {"status": "open"}
    markets = read("/markets", {**which, "limit": "1"})
    positions = read("/portfolio/positions", {"limit": str(POSITIONS_PER_PAGE)})
    rows = markets.get("markets")
    first = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
    ticker = first.get("ticker")
    return (
        [examine_markets(markets), examine_positions(positions)],
        [ticker] if isinstance(ticker, str) else [],
    )


class DriftCanary:
    """`service` is its thread. `read` raises BotError when there is no answer."""

    def __init__(
        self,
        read: ReadDocument,
        ticker_samples: Callable[[], tuple[bytes, ...]],
        held: Callable[[], Sequence[str]],
        malformed: Callable[[], int],
        clock: Clock,
    ) -> None:
        self._read = read
        self._ticker_samples = ticker_samples
        self._held = held
        self._malformed = malformed
        self._clock = clock
        self.service = PeriodicService("drift", PASS_S, self.run_once, clock)

        # Owned by the thread `drift`.
        self._started_at = clock.monotonic()
        self._read_due_at = self._started_at
        self._last_read_at = self._started_at
        self._failed_in_a_row = 0
        self._malformed_seen = 0
        self._samples: tuple[bytes, ...] = ()  # those that were looked at last
        self._suspect: Examination | None = None  # the last one, where it lacked something
        self._suspected_at = self._started_at
        self._has_seen_whole = False
        self._known_news: set[News] = set()

        self._lock = threading.Lock()  # guards the fields below; never held during I/O or callbacks
        self._has_looked = False
        self._drifts: dict[Source, tuple[Drift, ...]] = {}

    # --- for any thread -----------------------------------------------------------------------------

    def trouble(self) -> str:
        """What keeps entries from being armed, each field by its name; "" when a whole look has been had and
        nothing needed was missing."""
        drifts = self.drifts()
        with self._lock:
            has_looked = self._has_looked
        if drifts:
            names = ", ".join(f"{d.field} ({d.source}: {d.what})" for d in drifts[:DOUBTS_MAX])
            more = f" and {len(drifts) - DOUBTS_MAX} more" if len(drifts) > DOUBTS_MAX else ""
            return f"the exchange's answers lack {names}{more}"
        return "" if has_looked else "the exchange's answers have not been looked at yet"

    def drifts(self) -> tuple[Drift, ...]:
        with self._lock:
            return tuple(drift for drifts in self._drifts.values() for drift in drifts)

    def doubts(self) -> list[str]:
        """For `/healthz`. A look that has not been had yet is none: reads that fail are told by who needs
        them."""
        return [
            f"the exchange's answers lack {d.field} ({d.source}: {d.what}): {d.effect}; entries are off"
            for d in self.drifts()[:DOUBTS_MAX]
        ]

    # --- the thread ---------------------------------------------------------------------------------

    def run_once(self) -> float:
        """Look at what is due; return after how many seconds to look again."""
        self._look_at_ticker()
        now = self._clock.monotonic()
        malformed = self._malformed()
        if malformed > self._malformed_seen:
            self._read_due_at = min(self._read_due_at, self._last_read_at + MALFORMED_READ_S)
        self._malformed_seen = malformed
        if now >= self._read_due_at:
            self._look_at_answers(now)
        now = self._clock.monotonic()
        is_early = not self._samples and now - self._started_at < FIRST_TICKER_S_MAX
        delay_s = TICKER_S if is_early or self._suspect is not None else PASS_S
        return max(0.1, min(delay_s, self._read_due_at - now))

    def _look_at_ticker(self) -> None:
        samples = self._ticker_samples()
        for sample in samples:
            if not any(sample is seen for seen in self._samples):
                self._judge_ticker(examine_ticker(sample))
        self._samples = samples
        is_alone = self._suspect is not None and not self._has_seen_whole
        if is_alone and self._clock.monotonic() - self._suspected_at >= ALONE_S:
            assert self._suspect is not None
            self._take(self._suspect)

    def _judge_ticker(self, found: Examination) -> None:
        if not found.rows:
            return
        # One bad frame is one bad frame, which the decoders drop; two in a row are another interface.
        suspected = {drift.field for drift in self._suspect.drifts} if self._suspect is not None else set()
        again = tuple(drift for drift in found.drifts if drift.field in suspected)
        self._suspect = found if found.drifts else None
        self._suspected_at = self._clock.monotonic()
        self._has_seen_whole |= not found.drifts
        self._take(replace(found, drifts=again))

    def _look_at_answers(self, now: float) -> None:
        self._last_read_at = now
        try:
            pages, _ = read_pages(self._read, self._held())
        except BotError as exc:
            delay_s = min(RETRY_S_MAX, RETRY_S_INITIAL * 2.0 ** min(self._failed_in_a_row, 10))
            self._failed_in_a_row += 1
            self._read_due_at = self._clock.monotonic() + delay_s
            if self._failed_in_a_row == 1:
                log_event(
                    logger,
                    logging.WARNING,
                    "api_unchecked",
                    why=exc,
                    remedy="nothing to do: it is tried again; before a first answer nothing is opened",
                )
            return
        self._failed_in_a_row = 0
        for page in pages:
            self._take(page)
        with self._lock:
            self._has_looked = True
        self._read_due_at = self._clock.monotonic() + (RETRY_S_MAX if self.drifts() else READ_S)

    def _take(self, found: Examination) -> None:
        """Replace what is known of one answer, and say what has changed.

        An answer without rows proves nothing, not even that what was missing is there again.
        """
        if not found.rows:
            return
        with self._lock:
            before = {drift.field for drift in self._drifts.get(found.source, ())}
            self._drifts[found.source] = found.drifts
        for drift in found.drifts:
            if drift.field not in before:
                log_event(
                    logger,
                    logging.CRITICAL,
                    "api_drift",
                    field=drift.field,
                    where=drift.source,
                    what=drift.what,
                    effect=drift.effect,
                    entries="off",
                    remedy=REMEDY,
                )
        for name in sorted(before - {drift.field for drift in found.drifts}):
            log_event(logger, logging.INFO, "api_drift_over", field=name, where=found.source)
        for news in found.news:
            if news in self._known_news or len(self._known_news) >= NEWS_MAX:
                continue
            self._known_news.add(news)
            log_event(
                logger,
                logging.INFO,
                "api_news",
                where=news.source,
                field=news.field,
                value=news.value or None,
                why="this program does not know it and goes on without it",
            )
