"""Keeps the portfolio, the required markets and the exchange in step.

The stream's private messages make changes prompt; the pass of the thread `reconcile` (at start, every
`RECONCILE_INTERVAL_S`, after every reconnect and whenever somebody doubts) makes them certain. A read
that fails or is incomplete says nothing: nothing is treated as flat because of it. What the reads had to
correct has money that nobody told of; `bookkeeping.py` looks for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, tzinfo
from typing import Protocol

from base.app.bookkeeping import AccountHistory, Bookkeeper
from base.app.foreign_orders import ForeignOrders
from base.app.services import PeriodicService
from base.app.ui_coverage import NOT_READ
from base.clock import Clock
from base.errors import AuthError
from base.execution.exits import ExitDesk
from base.kalshi.feed import FeedState
from base.kalshi.websocket_price_cache import PriceEntry, WebsocketPriceCache
from base.log import log_event
from base.model.events import Lifecycle, OrderUpdate, PositionUpdate
from base.model.market import Market, MarketStatus
from base.model.position import Fill
from base.model.rules import ExitRule
from base.risk.price_needs import Refresh, Why
from base.store.portfolio import Change, HeldRead, Portfolio
from base.store.realized import Payout
from base.store.reconcile import CorrectionKind, compare

logger = logging.getLogger(__name__)

RECONCILE_SPACING_S = 1.0
REFUSALS_MIN = 2
"""So many reads in a row, a second apart, that were answered 401 or 403: one may be a clock being learned."""
UNREAD_S_MAX = 15.0
"""Beyond its interval, a complete read may be so late before `/healthz` says that it is missing."""

LONG_OUTAGE_S = 30.0
"""After the stream was gone for so long, fills that it could not tell of are looked for."""
HAS_RESULT = frozenset({MarketStatus.DETERMINED, MarketStatus.AMENDED, MarketStatus.FINALIZED})
"""A position that a read does not show any more in such a market has been settled."""


class RequiredSink(Protocol):
    """The stream, as far as it is told what to subscribe to."""

    def set_required(self, tickers: Iterable[str], held: Iterable[str]) -> None: ...


class Openings(Protocol):
    """The side that opens positions, as far as it hears of orders and fills; each returns at once."""

    def note_fill(self, fill: Fill) -> None: ...

    def order_update(self, update: OrderUpdate) -> None: ...


class MarketDirectory:
    """What must be streamed and kept: held markets that can still trade, what the strategy watches, and
    what is `needed` beside them.

    The cache also keeps held markets that wait for settlement, for their status.
    """

    def __init__(
        self,
        portfolio: Portfolio,
        cache: WebsocketPriceCache,
        feed: RequiredSink,
        clock: Clock,
        needed: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._needed = needed
        self._portfolio = portfolio
        self._cache = cache
        self._feed = feed
        self._clock = clock
        # Held while the two sinks are told, so that an older answer cannot overtake a newer one; it is
        # always taken before their own locks and never the other way round.
        self._lock = threading.Lock()
        self._watched: frozenset[str] = frozenset()

    def watch(self, tickers: Iterable[str]) -> None:
        """What the strategy wants streamed from now on."""
        with self._lock:
            self._watched = frozenset(tickers)
        self.refresh()

    @property
    def watched(self) -> frozenset[str]:
        with self._lock:
            return self._watched

    def refresh(self) -> None:
        """Tell the cache and the stream what is required now."""
        needed = frozenset(self._needed())
        with self._lock:
            wanted = self._watched | needed
            held = frozenset(self._portfolio.positions())
            entries = self._cache.snapshot()
            wall = self._clock.now()
            trading = {t for t in held if self._market(t, entries).status_at(wall).can_still_trade}
            streamed = {
                t for t in wanted if self._market(t, entries).status_at(wall).can_still_trade
            } | trading
            self._cache.require(held | wanted, held)
            self._feed.set_required(streamed, trading)

    def ended(self, tickers: Iterable[str]) -> frozenset[str]:
        """Those of the markets whose result is known."""
        entries = self._cache.snapshot()
        wall = self._clock.now()
        return frozenset(t for t in tickers if self._market(t, entries).status_at(wall) in HAS_RESULT)

    @staticmethod
    def _market(ticker: str, entries: Mapping[str, PriceEntry]) -> Market:
        entry = entries.get(ticker)
        return Market(ticker) if entry is None else entry.market


class Account:
    """Listens to the stream and reconciles. `read_positions` returns one complete read (and raises
    otherwise); `is_paper` leaves the stream's words on the real account to the reads, and its money alone.

    With a `history`, `books` is the service that finds the money that was missed; it has to be started.
    """

    def __init__(
        self,
        portfolio: Portfolio,
        directory: MarketDirectory,
        read_positions: Callable[[], HeldRead],
        request_prices: Callable[[Refresh], None],
        interval_s: float,
        clock: Clock,
        *,
        is_paper: bool,
        after_read: Callable[[], None] = lambda: None,
        history: AccountHistory | None = None,
        zone: tzinfo = UTC,
    ) -> None:
        self._portfolio = portfolio
        self._directory = directory
        self._after_read = after_read
        self._read_positions = read_positions
        self._request_prices = request_prices
        self._clock = clock
        self._is_paper = is_paper
        self._foreign = ForeignOrders(portfolio, clock)
        self.books: Bookkeeper | None = None
        if history is not None and not is_paper:
            self.books = Bookkeeper(portfolio, history, self._foreign.resting, clock, zone)
        self._lock = threading.Lock()  # guards the fields below
        self._unreadable: tuple[str, ...] = ()
        self._refusals = 0  # of the key, in a row
        self._feed_down_since: float | None = None
        self._desk: ExitDesk | None = None
        self._sweep_soon: Callable[[], None] = lambda: None
        self._openings: Openings | None = None
        self.service = PeriodicService(
            "reconcile", interval_s, self.reconcile, clock, spacing_s=RECONCILE_SPACING_S
        )

    def attach(
        self,
        desk: ExitDesk,
        sweep_soon: Callable[[], None],
        is_own: Callable[[str], bool] = lambda client_order_id: False,
        openings: Openings | None = None,
    ) -> None:
        """Say who is to hear of orders, of fills and of a feed that changed; before any thread starts.

        `is_own` knows the client order ids of ours from before a restart; those that have left since
        the portfolio knows. It is asked by the stream's thread and answers at once.
        """
        self._foreign.attach(is_own)
        self._desk = desk
        self._sweep_soon = sweep_soon
        self._openings = openings

    # --- the stream ---------------------------------------------------------------------------------

    def fill(self, fill: Fill) -> None:
        if self._is_paper:
            self.service.wake()
            return
        change = self._take_in(fill)
        is_held = change is not None or self._portfolio.get(fill.ticker) is not None
        self._foreign.fill(fill, is_held=is_held)

    def order_update(self, update: OrderUpdate) -> None:
        if self._is_paper:
            return
        self._tell(update)
        self._foreign.order_update(update)

    def _take_in(self, fill: Fill) -> Change | None:
        change = self._portfolio.apply_fill(fill)
        if change is not None:
            self._changed([change])
        if self._openings is not None:
            self._openings.note_fill(fill)
        return change

    def _tell(self, update: OrderUpdate) -> None:
        if self._desk is not None:
            self._desk.order_update(update)
        if self._openings is not None:
            self._openings.order_update(update)

    # --- the paper account, which tells what the stream would -------------------------------------------

    def simulated_fill(self, fill: Fill) -> None:
        self._take_in(fill)

    def simulated_update(self, update: OrderUpdate) -> None:
        self._tell(update)

    def simulated_payout(self, payout: Payout) -> None:
        """A market has ended and paid for what was held on paper."""
        self._portfolio.book_payout(payout)
        self.service.wake()

    def position_update(self, update: PositionUpdate) -> None:
        held = self._portfolio.get(update.ticker)
        change = None if self._is_paper else self._portfolio.apply_update(update)
        if change is not None:
            self._changed([change])
        elif (held.signed_count if held is not None else 0) != update.count:
            self.service.wake()

    def lifecycle(self, event: Lifecycle) -> None:
        if self._portfolio.get(event.ticker) is None:
            return
        log_event(
            logger,
            logging.INFO,
            "market_changed",
            ticker=event.ticker,
            kind=event.kind.value,
            result=event.result or None,
        )
        self._directory.refresh()
        if self._desk is not None:
            self._desk.poke(event.ticker)

    def feed_changed(self, state: FeedState) -> None:
        self._sweep_soon()
        now = self._clock.monotonic()
        with self._lock:
            down_since = self._feed_down_since
            if state is FeedState.LIVE:
                self._feed_down_since = None
            elif down_since is None:
                self._feed_down_since = now
        if state is not FeedState.LIVE:
            return
        self.service.wake()
        if self.books is not None and down_since is not None and now - down_since >= LONG_OUTAGE_S:
            self.books.look_for_missed()

    # --- reads --------------------------------------------------------------------------------------

    def reconcile(self) -> float | None:
        """Compare with one complete read. Raises BotError when there is none; nothing changes then.

        Returns after how many seconds a second read has to judge what was missing from this one.
        """
        was_loaded = self._portfolio.is_loaded
        started_at = self._clock.monotonic()
        try:
            read = self._read_positions()
        except AuthError:
            with self._lock:
                self._refusals += 1
            raise
        is_whole = not read.unreadable
        known = self._portfolio.compared_state()
        corrections = compare(
            known, read.positions, started_at, is_whole=is_whole, ended=self._directory.ended(known)
        )
        changes = self._portfolio.apply_corrections(corrections, started_at, is_whole=is_whole)
        with self._lock:
            self._unreadable = read.unreadable
            self._refusals = 0
        for correction in corrections:
            if correction.kind is CorrectionKind.MISSING:
                log_event(
                    logger, logging.WARNING, "position_missing", ticker=correction.ticker, why=correction.why
                )
        self._changed(changes, {c.ticker: c.why for c in corrections})
        if self._desk is not None:
            self._desk.positions_read()
        if changes and self.books is not None:
            self.books.look_for_missed()
        level = logging.INFO if changes or not was_loaded else logging.DEBUG
        log_event(logger, level, "reconciled", positions=len(read.positions), changes=len(changes))
        self._after_read()
        return self._portfolio.next_read_s()

    @property
    def is_key_refused(self) -> bool:
        """Whether the exchange has refused the key again and again: what signs no read signs no exit."""
        with self._lock:
            return self._refusals >= REFUSALS_MIN

    @property
    def unreadable(self) -> tuple[str, ...]:
        """What is held, says the newest complete read, and cannot be read."""
        with self._lock:
            return self._unreadable

    def doubts(self) -> list[str]:
        """Why what is held may not be known in full now; for `/healthz`."""
        last = self._portfolio.last_read_at
        doubts = [f"position {ticker} cannot be read" for ticker in self.unreadable]
        doubts += [
            f"position {ticker} was held before the restart, and the exchange does not show it yet"
            for ticker in self._portfolio.unshown
        ]
        if last is None:
            doubts.append(NOT_READ)
        elif (age_s := self._clock.monotonic() - last) > UNREAD_S_MAX + self.service.interval_s:
            doubts.append(f"positions have not been read for {age_s:.0f} s")
        if self.is_key_refused:
            doubts.append("the exchange refuses the API key: no exit can be sent")
        doubts += self._foreign.doubts()
        if self.books is not None:
            doubts += self.books.doubts()
        return doubts

    def _changed(self, changes: list[Change], why: Mapping[str, str] | None = None) -> None:
        if not changes:
            return
        self._directory.refresh()
        for change in changes:
            _log_change(change, (why or {}).get(change.ticker))
        opened = tuple(sorted(c.ticker for c in changes if c.is_opened))
        if opened:
            self._request_prices(Refresh(opened, Why.MISSING))
        self._sweep_soon()


def _log_change(change: Change, why: str | None) -> None:
    before, after = change.before, change.after
    more: dict[str, object] = {} if why is None else {"why": why}
    if after is None:
        log_event(
            logger,
            logging.INFO,
            "position_closed",
            ticker=change.ticker,
            source=change.why,
            exc_info=False,
            **more,
        )
        return
    if before is not None:
        more["was"] = before.signed_count
    log_event(
        logger,
        logging.INFO,
        "position_opened" if before is None else "position_changed",
        ticker=change.ticker,
        side=after.outcome_side.value,
        count=after.count,
        entry=round(after.entry_price, 4),
        source=change.why,
        exc_info=False,
        **more,
    )


class Adoption:
    """Whether positions that were opened elsewhere are protected (`ADOPT_POSITIONS`); thread-safe.

    Where they are not, `entered` lists the markets in which this program has opened positions, so that a
    restart still knows its own. It is asked until it answers.
    """

    def __init__(
        self, rule_of: Callable[[str], ExitRule], entered: Callable[[], Iterable[str]], *, adopts: bool
    ) -> None:
        self._rule_of = rule_of
        self._entered = entered
        self._adopts = adopts
        self._lock = threading.Lock()  # guards the fields below
        self._own: set[str] = set()
        self._is_known = adopts

    def opened_by_us(self, ticker: str) -> None:
        with self._lock:
            self._own.add(ticker)

    @property
    def is_known(self) -> bool:
        """Whether it is known which positions are this program's own."""
        with self._lock:
            return self._is_known

    def remember(self) -> None:
        """Find out which positions are our own, unless that is known. Raises BotError."""
        if self.is_known:
            return
        entered = set(self._entered())
        with self._lock:
            self._own |= entered
            self._is_known = True

    def rule_of(self, ticker: str) -> ExitRule:
        """The rule in force, without protection where the user did not want the position adopted."""
        rule = self._rule_of(ticker)
        if self._adopts:
            return rule
        with self._lock:
            is_own = ticker in self._own
        return rule if is_own else replace(rule, protect=False)
