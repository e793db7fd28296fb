"""The thread `price-reads`: batched REST reads of the prices that the checker asks for.

A thread of its own, so that a slow answer never delays a look at a price that the stream has just
brought. Requests that come while one is under way are merged into the next.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from base.app.services import PeriodicService
from base.clock import Clock
from base.errors import BotError
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.log import RepeatedWarnings, log_event
from base.model.market import MarketStatus, PriceSource, Quote
from base.risk.price_needs import Refresh

logger = logging.getLogger(__name__)

SPACING_S = 2.0
"""At most 30 reads a minute, whatever is asked for."""
DEFERRED_S_MAX = 0.5
NEW_SPACING_S = 0.25
"""The same for a market of which nothing is known: until it is read nobody knows whether it trades."""


class PriceReads:
    """`read` reads these tickers into the cache; `suspect` hears of confirmed tickers whose price moved
    while the stream was silent."""

    def __init__(
        self,
        read: Callable[[Sequence[str]], int],
        cache: WebsocketPriceCache,
        is_confirmed: Callable[[str], bool],
        suspect: Callable[[Sequence[str]], None],
        clock: Clock,
    ) -> None:
        self._read = read
        self._cache = cache
        self._is_confirmed = is_confirmed
        self._suspect = suspect
        self._clock = clock
        self._warnings = RepeatedWarnings()
        self._failed_in_a_row = 0
        self._lock = threading.Lock()  # guards the field below
        self._wanted: Refresh | None = None
        self._last_read_at: float | None = None
        self._last_asked: frozenset[str] = frozenset()
        # Waits for ever unless woken: an hour is the loop's bound, not a rhythm.
        self.service = PeriodicService("price-reads", 3600.0, self.run_once, clock)

    def request(self, refresh: Refresh) -> None:
        """Ask for a read; returns at once. Several requests become one read."""
        with self._lock:
            if self._wanted is None:
                self._wanted = refresh
            else:
                tickers = tuple(sorted({*self._wanted.tickers, *refresh.tickers}))
                self._wanted = Refresh(tickers, refresh.why)
        self.service.wake()

    def run_once(self) -> float | None:
        """Read what is wanted, if anything; a failure is announced and the checker asks again.

        Returns in how many seconds it is to be called again, where it is too early to read.
        """
        with self._lock:
            wanted = self._wanted
        if wanted is None:
            return None
        early_s = self._too_early_s(wanted)
        if early_s > DEFERRED_S_MAX:
            # By then it may not be needed: the checker asks again at every sweep while it is.
            with self._lock:
                self._wanted = None
            return None
        if early_s > 0:
            return early_s
        with self._lock:
            wanted, self._wanted = self._wanted or wanted, None
        required = self._cache.required
        tickers = [t for t in wanted.tickers if t in required]
        if not tickers:
            return None
        self._last_read_at = self._clock.monotonic()
        self._last_asked = frozenset(tickers)
        before = {t: e.quote for t, e in self._cache.snapshot().items() if t in wanted.tickers}
        held_back = self._warnings.allow(wanted.why.value, self._clock.monotonic())
        if held_back is not None:
            log_event(
                logger,
                logging.INFO,
                "rest_fallback",
                tickers=len(tickers),
                why=wanted.why.value,
                also_since_last=held_back,
            )
        try:
            known = self._read(tickers)
        except BotError as exc:
            self._failed_in_a_row += 1
            if (again := self._warnings.allow("failed", self._clock.monotonic())) is not None:
                log_event(
                    logger,
                    logging.ERROR,
                    "price_read_failed",
                    tickers=len(tickers),
                    why=exc,
                    also_since_last=again,
                )
            return None
        if self._failed_in_a_row:
            log_event(logger, logging.INFO, "price_read_recovered", after_failures=self._failed_in_a_row)
            self._failed_in_a_row = 0
        if known < len(tickers):
            log_event(logger, logging.WARNING, "markets_unknown", asked=len(tickers), known=known)
        self._find_silent(before)
        return None

    def _too_early_s(self, wanted: Refresh) -> float:
        """Seconds until a read is allowed; a market of which nothing is known has to wait least."""
        if self._last_read_at is None:
            return 0.0
        entries = self._cache.snapshot()
        is_new = any(
            t not in self._last_asked
            and (
                t not in entries
                or entries[t].quote is None
                or entries[t].market.status is MarketStatus.UNKNOWN
            )
            for t in wanted.tickers
        )
        spacing_s = NEW_SPACING_S if is_new else SPACING_S
        return self._last_read_at + spacing_s - self._clock.monotonic()

    def _find_silent(self, before: dict[str, Quote | None]) -> None:
        """A confirmed market whose price REST knows to have moved, while the stream said nothing since
        the last read, is not being streamed whatever the exchange acknowledged."""
        silent = []
        for ticker, old in before.items():
            entry = self._cache.get(ticker)
            new = entry.quote if entry is not None else None
            if (
                old is not None
                and new is not None
                and new.source is PriceSource.REST
                and (old.yes_bid, old.yes_ask) != (new.yes_bid, new.yes_ask)
                and self._is_confirmed(ticker)
            ):
                silent.append(ticker)
        if silent:
            log_event(logger, logging.WARNING, "stream_silent", tickers=len(silent), first=silent[0])
            self._suspect(silent)
