"""Prices of one connection: tickers and order books into the cache, and which books can be believed.

A book is worth what its sequence is: a gap, a contradiction with the ticker or a change that does not fit
makes it unusable until its next snapshot, and the ticker carries on alone.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable

from base.clock import Clock
from base.errors import WireError
from base.kalshi.feed import NO_DEPTH, Depth
from base.kalshi.orderbook import OrderBook, SequenceCheck, best_bids
from base.kalshi.subscriptions import Lost, SubscriptionTracker
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.log import RepeatedWarnings, log_event
from base.model.events import BookDelta, BookSnapshot, Ticker
from base.model.market import OutcomeSide, PriceSource, Quote

logger = logging.getLogger(__name__)

DISTRUST_AFTER = 5
"""A book whose top disagrees with this many tickers in a row is not believed any more."""
DEPTH_LEVELS_MAX = 200
"""So many levels a side are told: what an exit reaches through, on a grid of tenths of a cent too."""


class MarketData:
    """Owned by the WebSocket thread, `depth` apart, which any thread may ask. `on_first_price` is told of a
    ticker that was not confirmed before."""

    def __init__(
        self,
        tracker: SubscriptionTracker,
        cache: WebsocketPriceCache,
        on_first_price: Callable[[str], None],
        warnings: RepeatedWarnings,
        clock: Clock,
        *,
        use_books: bool,
    ) -> None:
        self._tracker = tracker
        self._cache = cache
        self._on_first_price = on_first_price
        self._warnings = warnings
        self._clock = clock
        self._use_books = use_books
        self._connection = 0
        self._sequences: dict[int, SequenceCheck] = {}
        self._disagreements: Counter[str] = Counter()
        self._distrusted: set[str] = set()
        # Guards the field below and what is in it. Only the WebSocket thread changes books, so it reads
        # them without; never held during I/O or callbacks.
        self._lock = threading.Lock()
        self._books: dict[str, OrderBook] = {}

    # --- the connection -----------------------------------------------------------------------------

    def connection_opened(self, connection: int) -> None:
        """Sequences count from 1 again."""
        self._connection = connection
        self._sequences.clear()
        self._disagreements.clear()

    def connection_closed(self) -> None:
        """The next connection begins with snapshots."""
        with self._lock:
            self._books.clear()

    def books_of(self, held: frozenset[str]) -> frozenset[str]:
        """Of the held markets those whose book is worth a subscription."""
        return held - self._distrusted if self._use_books else frozenset()

    def keep_only(self, books: Collection[str]) -> None:
        if gone := [t for t in self._books if t not in books]:
            with self._lock:
                for ticker in gone:
                    del self._books[ticker]

    def subscription_lost(self, lost: Lost) -> None:
        for sid in lost.sids:
            # A new subscription may get the same number and counts from 1 again.
            self._sequences.pop(sid, None)
        self._give_up(lost.books)

    def depth(self, ticker: str) -> Depth:
        """The best levels of a market's book; empty where it cannot be believed.

        Copied only when it is asked for: a book may change 240 times a second, and exits are rare.
        """
        with self._lock:
            book = self._books.get(ticker)
            if book is None or not book.is_usable or book.is_crossed:
                return NO_DEPTH
            yes, no = book.bids(OutcomeSide.YES), book.bids(OutcomeSide.NO)
        return best_bids(yes, DEPTH_LEVELS_MAX), best_bids(no, DEPTH_LEVELS_MAX)

    # --- frames -------------------------------------------------------------------------------------

    def check_sequence(self, sid: int | None, seq: int | None) -> None:
        """Feed one number to the gap detector; a gap makes every book of that subscription unusable."""
        if sid is None or seq is None:
            return
        if self._sequences.setdefault(sid, SequenceCheck()).accept(seq):
            return
        lost = self._give_up(self._tracker.books_of(sid))
        self._tracker.request_snapshots(lost)
        held_back = self._warnings.allow("sequence_gap", self._clock.monotonic())
        if held_back is not None:
            log_event(
                logger,
                logging.WARNING,
                "sequence_gap",
                sid=sid,
                seq=seq,
                books=len(lost),
                also_since_last=held_back,
            )

    def _give_up(self, tickers: Iterable[str]) -> list[str]:
        """Make these books unusable until their next snapshot; return which of them there were."""
        with self._lock:
            known = [t for t in tickers if t in self._books]
            for ticker in known:
                self._books[ticker].is_usable = False
        return known

    def take_ticker(self, tick: Ticker, now: float) -> None:
        was_confirmed = self._tracker.is_confirmed(tick.ticker)
        self._tracker.price_seen(tick.ticker)
        book = self._books.get(tick.ticker)
        if book is not None and book.is_usable:
            self._compare(book, tick, now)
        if book is None or not book.is_usable or book.is_crossed or self._is_newer(tick, book, now):
            # The book speaks between tickers; where it is already newer, the ticker only confirms. A
            # crossed book says nothing, and must not keep the ticker from speaking.
            self._cache.apply(
                Quote(
                    ticker=tick.ticker,
                    yes_bid=tick.yes_bid,
                    yes_ask=tick.yes_ask,
                    yes_bid_size=tick.yes_bid_size,
                    yes_ask_size=tick.yes_ask_size,
                    last_price=tick.last_price,
                    ts_ms=tick.ts_ms,
                    received_monotonic=now,
                    received_at=self._clock.now(),
                    source=PriceSource.WS if was_confirmed else PriceSource.SNAPSHOT,
                    connection=self._connection,
                )
            )
        if not was_confirmed:
            self._on_first_price(tick.ticker)

    def _is_newer(self, tick: Ticker, book: OrderBook, now: float) -> bool:
        """Whether a ticker says more than the book: one snapshot has no time, a tick of the older form
        none either."""
        if book.ts_ms == 0:
            return now - book.snapshot_at > 1.0
        return tick.ts_ms == 0 or tick.ts_ms > book.ts_ms

    def _compare(self, book: OrderBook, tick: Ticker, now: float) -> None:
        """Hold the book against the ticker: one frame is the top of book at its own time.

        The announced change of the NO side's scale, or a lost message without a gap in `seq`, would
        show as a steady disagreement; then the book is not believed and the ticker carries on alone.
        """
        if tick.ts_ms < book.ts_ms or (tick.yes_bid_size is None and tick.yes_ask_size is None):
            return
        if (book.yes_bid, book.yes_ask) == (tick.yes_bid, tick.yes_ask) or tick.ts_ms > book.ts_ms + 2_000:
            self._disagreements.pop(tick.ticker, None)
            return
        self._disagreements[tick.ticker] += 1
        if self._disagreements[tick.ticker] < DISTRUST_AFTER:
            return
        del self._disagreements[tick.ticker]
        self._give_up([tick.ticker])
        self._tracker.request_snapshots([tick.ticker])
        if book.is_crossed:
            # Crossed for good: not a lost message but another meaning. A snapshot will not cure it.
            self._distrusted.add(tick.ticker)
        log_event(
            logger,
            logging.WARNING,
            "book_distrusted",
            ticker=tick.ticker,
            book=f"{book.yes_bid}/{book.yes_ask}",
            ticker_says=f"{tick.yes_bid}/{tick.yes_ask}",
        )

    def take_snapshot(self, snapshot: BookSnapshot, now: float) -> None:
        if self._sequences.setdefault(snapshot.sid, SequenceCheck()).is_before_last(snapshot.seq):
            return  # repeated: it would undo the changes since
        self.check_sequence(snapshot.sid, snapshot.seq)
        if not self._use_books or snapshot.ticker in self._distrusted:
            return
        with self._lock:
            book = self._books.setdefault(snapshot.ticker, OrderBook(snapshot.ticker))
            book.apply_snapshot(snapshot, now)
        self._tracker.book_seen(snapshot.ticker)
        was_confirmed = self._tracker.is_confirmed(snapshot.ticker)
        self._tracker.price_seen(snapshot.ticker)
        # A snapshot carries no time of its own; it is newer than all that came before it.
        self._apply_book(book, now, PriceSource.SNAPSHOT)
        if not was_confirmed:
            self._on_first_price(snapshot.ticker)

    def take_delta(self, delta: BookDelta, now: float) -> None:
        sequence = self._sequences.setdefault(delta.sid, SequenceCheck())
        if sequence.is_repeated(delta.seq):
            return  # a signed change must not be applied twice
        self.check_sequence(delta.sid, delta.seq)
        book = self._books.get(delta.ticker)
        if book is None or not book.is_usable:
            return  # waits for its snapshot
        try:
            with self._lock:
                book.apply_delta(delta)
        except WireError:
            self._tracker.request_snapshots([delta.ticker])
            raise
        self._apply_book(book, now, PriceSource.WS)

    def _apply_book(self, book: OrderBook, now: float, source: PriceSource) -> None:
        if book.is_crossed:
            return  # crossed for an instant, as in 0.5 % of changes; the next delta resolves it
        self._cache.apply(
            Quote(
                ticker=book.ticker,
                yes_bid=book.yes_bid,
                yes_ask=book.yes_ask,
                yes_bid_size=book.yes_bid_size,
                yes_ask_size=book.yes_ask_size,
                last_price=None,
                ts_ms=book.ts_ms,
                received_monotonic=now,
                received_at=self._clock.now(),
                source=source,
                connection=self._connection,
            )
        )
