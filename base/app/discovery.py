"""The thread `discovery`: the markets that a strategy watches by series, event or ticker, and their events.

Reads go out in the strategy's lane, behind exits, prices and reconciliation, at most `READ_EVERY_S` apart
for each filter. A read that fails keeps what the last one found: a market is dropped because a complete
list does not show it, because its time is over, or because the strategy wants it no longer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from base.app.services import PeriodicService
from base.clock import Clock
from base.errors import BotError
from base.kalshi.documents import MarketSnapshot
from base.kalshi.rate_limit import Lane
from base.kalshi.websocket_price_cache import PriceEntry, WebsocketPriceCache
from base.log import RepeatedWarnings, log_event
from base.model.market import Event, Market
from base.strategy.interface import MarketFilter

logger = logging.getLogger(__name__)

READ_EVERY_S = 45.0
"""How often a filter is read, so that what is new is streamed, and what is over is not, within a minute."""
SPACING_S = 1.0
EVENTS_READ_EVERY_S = 600.0
"""Events hardly change; one that lacks a market that was found is read again at once."""
MARKETS_MAX = 500
"""Markets watched for the strategy in all, tickers that it names first."""
LISTED_MAX = 1_000
"""Markets read for one filter, of which the first to close are taken: five pages."""
EVENTS_MAX = 200
NOTHING_FOUND_S = 900.0
"""How often a filter that no open market fits is named: its series may only be between two events."""


class MarketReader(Protocol):
    """The reads of the exchange that discovery needs (`RestClient`)."""

    def get_markets(self, tickers: Sequence[str], lane: Lane) -> list[MarketSnapshot]: ...

    def list_markets(
        self,
        series_ticker: str | None,
        event_ticker: str | None,
        status: str | None,
        limit_total: int,
        lane: Lane,
    ) -> list[MarketSnapshot]: ...

    def get_events(self, tickers: Sequence[str], lane: Lane) -> list[Event]: ...


class Watcher(Protocol):
    """What streams and keeps the markets that were found (`MarketDirectory`)."""

    def watch(self, tickers: Iterable[str]) -> None: ...


@dataclass(frozen=True, slots=True)
class _Found:
    """What the last complete read of a filter brought, and when it began (monotonic)."""

    markets: tuple[Market, ...]
    read_at: float


@dataclass(frozen=True, slots=True)
class _KnownEvent:
    event: Event | None
    """None: the exchange does not list it (combos)."""
    read_at: float


class Discovery:
    """`want` says what is watched from now on; the thread finds it, has it streamed, and reads its events.

    `kept` are markets that stay watched whatever the strategy says now: those with orders of ours. Where
    `is_confirmed`, the stream vouches for the price, and a read does not overwrite it.
    """

    def __init__(
        self,
        reader: MarketReader,
        cache: WebsocketPriceCache,
        watcher: Watcher,
        clock: Clock,
        is_confirmed: Callable[[str], bool] = lambda ticker: False,
        kept: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._reader = reader
        self._cache = cache
        self._watcher = watcher
        self._clock = clock
        self._is_confirmed = is_confirmed
        self._kept = kept
        self._warnings = RepeatedWarnings()
        self._nothing = RepeatedWarnings(NOTHING_FOUND_S)
        # Owned by the thread: what was found so far.
        self._named: dict[str, float] = {}  # tickers that the exchange knows -> when that was learned
        self._asked_at: dict[str, float] = {}  # tickers that it does not know -> when it was asked
        self._found: dict[MarketFilter, _Found] = {}
        self._known_events: dict[str, _KnownEvent] = {}
        self._lock = threading.Lock()  # guards the fields below; never held during reads
        self._tickers: frozenset[str] = frozenset()
        self._filters: frozenset[MarketFilter] = frozenset()
        self._watched: frozenset[str] = frozenset()
        self._events: dict[str, Event] = {}
        self._left_out = 0
        self._unknown: tuple[str, ...] = ()
        self._nothing_for: tuple[str, ...] = ()  # series and events without an open market
        self._failures = 0
        self._last_error = ""
        self.service = PeriodicService("discovery", READ_EVERY_S, self.run_once, clock, spacing_s=SPACING_S)

    # --- what others ask ----------------------------------------------------------------------------

    def want(self, tickers: frozenset[str], filters: frozenset[MarketFilter]) -> None:
        """What the strategy watches from now on; returns at once."""
        with self._lock:
            is_new = (tickers, filters) != (self._tickers, self._filters)
            self._tickers, self._filters = tickers, filters
        if is_new:
            self.service.wake()

    def events(self) -> dict[str, Event]:
        """The events of the markets that were found, each with all of its markets."""
        with self._lock:
            return dict(self._events)

    def status(self) -> dict[str, Any]:
        with self._lock:
            return {
                "markets": len(self._watched),
                "left_out": self._left_out,
                "unknown": list(self._unknown[:20]),
                "nothing_for": list(self._nothing_for),
                "events": len(self._events),
                "failures": self._failures,
                "last_error": self._last_error,
            }

    # --- the thread ---------------------------------------------------------------------------------

    def run_once(self) -> None:
        """Read what is due, stream what was found. Raises the last failure where a read failed."""
        with self._lock:
            tickers, filters = self._tickers, self._filters
        self._forget(tickers, filters)
        failed: list[BotError] = []
        snapshots = self._read_named(tickers, failed)
        for wanted in sorted(filters, key=_order):
            snapshots += self._read_filter(wanted, failed)
        markets = self._choose(tickers, filters)
        self._watch(frozenset(markets), tickers)
        self._tell_cache(snapshots)
        self._read_events(markets, failed)
        if failed:
            with self._lock:
                self._failures += len(failed)
                self._last_error = str(failed[-1])
            raise failed[-1]

    def _forget(self, tickers: frozenset[str], filters: frozenset[MarketFilter]) -> None:
        self._named = {t: at for t, at in self._named.items() if t in tickers}
        self._asked_at = {t: at for t, at in self._asked_at.items() if t in tickers}
        self._found = {f: found for f, found in self._found.items() if f in filters}

    def _is_due(self, read_at: float | None) -> bool:
        return read_at is None or self._clock.monotonic() - read_at >= READ_EVERY_S - SPACING_S

    def _read_named(self, tickers: frozenset[str], failed: list[BotError]) -> list[MarketSnapshot]:
        """Ask for the named tickers that are not known yet: one that does not exist is never streamed."""
        due = sorted(t for t in tickers - self._named.keys() if self._is_due(self._asked_at.get(t)))
        if not due:
            return []
        now = self._clock.monotonic()
        try:
            snapshots = self._reader.get_markets(due, Lane.STRATEGY)
        except BotError as exc:
            failed.append(exc)
            return []
        self._asked_at |= dict.fromkeys(due, now)
        self._named |= {s.market.ticker: now for s in snapshots}
        return snapshots

    def _read_filter(self, wanted: MarketFilter, failed: list[BotError]) -> list[MarketSnapshot]:
        found = self._found.get(wanted)
        if not self._is_due(None if found is None else found.read_at):
            return []
        now = self._clock.monotonic()
        try:
            snapshots = self._reader.list_markets(
                wanted.series or None, wanted.event or None, "open", LISTED_MAX, Lane.STRATEGY
            )
        except BotError as exc:
            failed.append(exc)
            return []
        if len(snapshots) >= LISTED_MAX and self._warnings.allow("listed", now) is not None:
            log_event(
                logger,
                logging.WARNING,
                "markets_not_all_listed",
                series=wanted.series or None,
                of_event=wanted.event or None,
                read=LISTED_MAX,
            )
        if not snapshots and self._nothing.allow(f"{wanted}", now) is not None:
            log_event(
                logger,
                logging.WARNING,
                "discovered_nothing",
                series=wanted.series or None,
                of_event=wanted.event or None,
                remedy="look whether the name is right; it is asked for again",
            )
        self._found[wanted] = _Found(tuple(s.market for s in snapshots), now)
        return snapshots

    def _choose(self, tickers: frozenset[str], filters: frozenset[MarketFilter]) -> dict[str, Market]:
        """The markets to stream now."""
        entries = self._cache.snapshot()
        chosen = {t: _market(t, entries) for t in sorted(t for t in tickers if t in self._named)}
        left_out = 0
        for wanted in sorted(filters, key=_order):
            if (found := self._found.get(wanted)) is None:
                continue
            open_now = self._open_now(wanted, found, entries)
            taken = open_now[: wanted.markets_max]
            left_out += len(open_now) - len(taken)
            for market in taken:
                if market.ticker not in chosen and len(chosen) >= MARKETS_MAX:
                    left_out += 1
                else:
                    chosen.setdefault(market.ticker, market)
        with self._lock:
            self._left_out = left_out
            self._nothing_for = tuple(
                sorted(f.series or f.event for f, found in self._found.items() if not found.markets)[:20]
            )
            self._unknown = tuple(sorted(self._asked_at.keys() - self._named.keys()))
        return chosen

    def _open_now(
        self, wanted: MarketFilter, found: _Found, entries: Mapping[str, PriceEntry]
    ) -> list[Market]:
        """The filter's markets that still trade, the first to close first."""
        now = self._clock.now()
        until = None if wanted.closes_within_s is None else now + wanted.closes_within_s
        open_now = []
        for listed in found.markets:
            # The stream may have told since that it closed, or closes at another time.
            market = entries[listed.ticker].market if listed.ticker in entries else listed
            closes_at = market.close_time if market.close_time is not None else listed.close_time
            if not market.status_at(now).can_still_trade or not listed.status_at(now).can_still_trade:
                continue
            if until is None or (closes_at is not None and closes_at <= until):
                open_now.append((closes_at if closes_at is not None else float("inf"), listed))
        return [market for _, market in sorted(open_now, key=lambda pair: (pair[0], pair[1].ticker))]

    def _watch(self, chosen: frozenset[str], tickers: frozenset[str]) -> None:
        watched = chosen | frozenset(self._kept())
        with self._lock:
            before, self._watched = self._watched, watched
            unknown = self._unknown
        if watched != before:
            self._watcher.watch(watched)
            log_event(
                logger,
                logging.INFO,
                "discovered",
                markets=len(watched),
                new=len(watched - before),
                gone=len(before - watched),
            )
        missing = [t for t in unknown if t in tickers]
        if missing and self._warnings.allow("unknown", self._clock.monotonic()) is not None:
            log_event(
                logger, logging.WARNING, "watched_markets_unknown", count=len(missing), first=missing[0]
            )

    def _tell_cache(self, snapshots: Iterable[MarketSnapshot]) -> None:
        for snapshot in snapshots:
            self._cache.apply_market(snapshot.market, snapshot.asked_at)
            if snapshot.quote is not None and not self._is_confirmed(snapshot.market.ticker):
                self._cache.apply(snapshot.quote)

    # --- events -------------------------------------------------------------------------------------

    def _read_events(self, markets: Mapping[str, Market], failed: list[BotError]) -> None:
        """Read the events of these markets that are not known, or not with all of them, or long ago."""
        entries = self._cache.snapshot()
        wanted: dict[str, set[str]] = {}
        for ticker, market in markets.items():
            event_ticker = market.event_ticker or _market(ticker, entries).event_ticker
            if event_ticker:
                wanted.setdefault(event_ticker, set()).add(ticker)
        self._known_events = {t: known for t, known in self._known_events.items() if t in wanted}
        due = [t for t in sorted(wanted) if self._is_event_due(t, wanted[t])][:EVENTS_MAX]
        if due:
            now = self._clock.monotonic()
            try:
                read = {event.ticker: event for event in self._reader.get_events(due, Lane.STRATEGY)}
            except BotError as exc:
                failed.append(exc)
            else:
                self._known_events |= {t: _KnownEvent(read.get(t), now) for t in due}
        with self._lock:
            self._events = {t: k.event for t, k in self._known_events.items() if k.event is not None}

    def _is_event_due(self, ticker: str, markets: set[str]) -> bool:
        known = self._known_events.get(ticker)
        if known is None:
            return True
        age_s = self._clock.monotonic() - known.read_at
        if known.event is not None and not markets <= set(known.event.market_tickers):
            return age_s >= READ_EVERY_S - SPACING_S
        return age_s >= EVENTS_READ_EVERY_S


def _order(wanted: MarketFilter) -> tuple[str, str, float, int]:
    """Filters in an order that does not change from pass to pass."""
    return wanted.series, wanted.event, wanted.closes_within_s or 0.0, wanted.markets_max


def _market(ticker: str, entries: Mapping[str, PriceEntry]) -> Market:
    entry = entries.get(ticker)
    return Market(ticker) if entry is None else entry.market
