"""The lock-guarded price cache that all threads share.

One entry a market: the newest quote, the market's own facts (status, close time, grid), and when they
came. Written by the WebSocket thread and by REST reads; read by everything else as frozen entries.

Three rules keep it true:
- `ts_ms` never goes back for a ticker on one connection, whatever came in between;
- a REST answer never overwrites a tick that came after its request left;
- an entry is removed when nobody requires the market any more.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal

from base.clock import Clock
from base.model.events import Lifecycle, LifecycleKind
from base.model.market import Market, MarketStatus, PriceSource, Quote

REORDER_S_MAX = 5.0
"""An older `ts_ms` is a message out of order only this long after the newer one came; later it means
that the newer time was wrong, and must not shut out the feed for ever."""


@dataclass(frozen=True, slots=True)
class PriceEntry:
    """What is known of one market's price.

    `stale_after` is in seconds: the age at which the quote is to be refreshed through REST.
    """

    market: Market
    quote: Quote | None
    stale_after: float

    @property
    def yes_bid(self) -> Decimal | None:
        return None if self.quote is None else self.quote.yes_bid

    @property
    def yes_ask(self) -> Decimal | None:
        return None if self.quote is None else self.quote.yes_ask

    @property
    def last_update(self) -> float | None:
        """Wall time at which the quote came, seconds since the epoch; None before the first."""
        return None if self.quote is None else self.quote.received_at

    def age_s(self, monotonic: float) -> float | None:
        """Seconds since any source last told the price; None before the first."""
        return None if self.quote is None else max(0.0, monotonic - self.quote.received_monotonic)

    def is_stale(self, monotonic: float) -> bool:
        """Whether the quote is missing or older than `stale_after`."""
        age = self.age_s(monotonic)
        return age is None or age > self.stale_after


@dataclass(frozen=True, slots=True)
class _Timed:
    """The newest exchange time of a ticker, and the frame that brought it."""

    ts_ms: int
    connection: int
    received_monotonic: float


class WebsocketPriceCache:
    """Latest quote and market facts per ticker; thread-safe.

    `changed` is set whenever a watched market's quote or status changed; `take_changes` says which.
    """

    def __init__(self, clock: Clock, stale_after_s: float) -> None:
        self._clock = clock
        self._stale_after_s = stale_after_s
        self.changed = threading.Event()
        self._lock = threading.Lock()  # guards the fields below; never held during I/O or callbacks
        self._entries: dict[str, PriceEntry] = {}
        self._required: frozenset[str] = frozenset()
        self._watched: frozenset[str] = frozenset()  # held markets: their changes wake the checker
        self._changes: set[str] = set()
        self._lifecycle_at: dict[str, float] = {}  # monotonic time of the last event of a market
        self._newest: dict[str, _Timed] = {}

    def require(self, tickers: Iterable[str], watched: Iterable[str]) -> None:
        """Keep these markets and forget all others; `watched` are those whose changes wake the checker."""
        required = frozenset(tickers)
        with self._lock:
            self._required = required
            self._watched = frozenset(watched)
            for ticker in [t for t in self._entries if t not in required]:
                del self._entries[ticker]
                self._lifecycle_at.pop(ticker, None)
                self._newest.pop(ticker, None)
            self._changes &= required

    def apply(self, quote: Quote) -> bool:
        """Take in a quote; return whether it was accepted (newer, and of a required market)."""
        with self._lock:
            accepted = self._apply_locked(quote)
            wake = bool(self._changes)
        if wake:
            self.changed.set()
        return accepted

    def _apply_locked(self, quote: Quote) -> bool:
        if quote.ticker not in self._required:
            return False
        entry = self._entries.get(quote.ticker)
        old = None if entry is None else entry.quote
        if old is not None and self._is_older_locked(quote, old):
            return False
        if quote.ts_ms > 0 and quote.source is not PriceSource.REST:
            self._newest[quote.ticker] = _Timed(quote.ts_ms, quote.connection, quote.received_monotonic)
        if entry is None:
            entry = PriceEntry(Market(quote.ticker), quote, self._stale_after_s)
        else:
            entry = PriceEntry(entry.market, quote, self._stale_after_s)
        self._entries[quote.ticker] = entry
        if quote.ticker in self._watched and (old is None or _moved(old, quote)):
            self._changes.add(quote.ticker)
        return True

    def _is_older_locked(self, new: Quote, old: Quote) -> bool:
        if new.source is PriceSource.REST:
            return new.received_monotonic < old.received_monotonic
        # Held against the newest time seen, not against the last quote: a book snapshot or a REST read in
        # between has no time, and must not open the door to a tick from before it.
        newest = self._newest.get(new.ticker)
        return (
            newest is not None
            and new.connection == newest.connection
            and 0 < new.ts_ms < newest.ts_ms
            and new.received_monotonic - newest.received_monotonic <= REORDER_S_MAX
        )

    def apply_market(self, market: Market, asked_at: float | None = None) -> None:
        """Take in a market's facts as REST tells them (status, close time, grid, shard).

        `asked_at` is when the request left (monotonic): an answer from before a lifecycle event of this
        market does not undo it. None is now.
        """
        with self._lock:
            if market.ticker not in self._required:
                return
            told_at = self._lifecycle_at.get(market.ticker)
            if asked_at is not None and told_at is not None and asked_at < told_at:
                return
            entry = self._entries.get(market.ticker)
            before = None if entry is None else entry.market
            quote = None if entry is None else entry.quote
            self._entries[market.ticker] = PriceEntry(market, quote, self._stale_after_s)
            changed = market.ticker in self._watched and (before is None or _facts_moved(before, market))
            if changed:
                self._changes.add(market.ticker)
        if changed:
            self.changed.set()

    def apply_lifecycle(self, event: Lifecycle) -> bool:
        """Take in a lifecycle event; return whether it concerned a market that is kept."""
        with self._lock:
            if event.ticker not in self._required:
                return False
            self._lifecycle_at[event.ticker] = self._clock.monotonic()
            entry = self._entries.get(event.ticker)
            before = market = Market(event.ticker) if entry is None else entry.market
            if event.status is not None:
                market = replace(market, status=event.status)
            if event.close_time is not None:
                market = replace(market, close_time=event.close_time)
                if event.kind is LifecycleKind.CLOSE_DATE_UPDATED and market.status is MarketStatus.CLOSED:
                    # closed → active is possible; only REST can say (docs, market lifecycle).
                    market = replace(market, status=MarketStatus.UNKNOWN)
            if event.grid is not None:
                market = replace(market, grid=event.grid)
            if event.result:
                market = replace(market, result=event.result)
            quote = None if entry is None else entry.quote
            self._entries[event.ticker] = PriceEntry(market, quote, self._stale_after_s)
            changed = event.ticker in self._watched and _facts_moved(before, market)
            if changed:
                self._changes.add(event.ticker)
        if changed:
            self.changed.set()
        return True

    def get(self, ticker: str) -> PriceEntry | None:
        """The entry of one market, None when nothing is known of it."""
        with self._lock:
            return self._entries.get(ticker)

    def snapshot(self) -> dict[str, PriceEntry]:
        """All entries, as they are at one moment."""
        with self._lock:
            return dict(self._entries)

    @property
    def required(self) -> frozenset[str]:
        with self._lock:
            return self._required

    def take_changes(self) -> frozenset[str]:
        """The watched markets that changed since the last call."""
        self.changed.clear()
        with self._lock:
            changes = frozenset(self._changes)
            self._changes.clear()
        return changes


def _moved(old: Quote, new: Quote) -> bool:
    return (
        old.yes_bid != new.yes_bid
        or old.yes_ask != new.yes_ask
        or old.yes_bid_size != new.yes_bid_size
        or old.yes_ask_size != new.yes_ask_size
    )


def _facts_moved(old: Market, new: Market) -> bool:
    return old.status is not new.status or old.close_time != new.close_time or old.grid != new.grid
