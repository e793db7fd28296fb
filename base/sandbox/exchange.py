"""The exchange without I/O: markets, books, lifecycle, ticker pacing. Callers pass `now`.

Orders of the account are in `order_entry.py`. Everything here belongs to one thread.
"""

from __future__ import annotations

import random
import uuid
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal

from base.model.market import BookSide, MarketStatus, OutcomeSide
from base.sandbox.fixed_point import ONE, ZERO, milliseconds
from base.sandbox.happenings import (
    LevelChanged,
    LifecycleChanged,
    LifecycleEvent,
    PositionChanged,
    Sink,
    SnapshotDue,
    TickerChanged,
    Traded,
)
from base.sandbox.ledger import Ledger
from base.sandbox.market import MarketSpec, SandboxMarket
from base.sandbox.order_entry import OrderEntry
from base.sandbox.records import ShardState, TradeRecord, UpdateReason
from base.sandbox.refusals import not_found

TICKER_GAP_S = 1.0  # at most one ticker frame a second per market (recorded: median gap 1.000 s)
CLOSE_TICKER_DELAY_S = (0.05, 1.9)  # recorded range of the last, empty ticker after a close
CLOSE_SNAPSHOT_DELAY_S = (6.0, 8.0)  # recorded range of the unasked empty snapshot after a close
TRADES_KEPT = 5_000


class Exchange:
    """All markets and the one account. `sink` is called synchronously, in order, with what happened."""

    def __init__(
        self,
        *,
        balance: Decimal,
        rng: random.Random,
        sink: Sink,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self.markets: dict[str, SandboxMarket] = {}
        self.ledger = Ledger(balance)
        self.trades: list[TradeRecord] = []
        self.exchange_active = True
        self.trading_active = True
        self.shard_states: dict[int, ShardState] = {}  # by exchange index; active where not listed
        self.shard_balances: dict[int, Decimal] = {}  # dollars; the whole balance where not listed
        self.sink = sink
        self.new_id = new_id
        self.orders = OrderEntry(self)
        self._rng = rng

    # Markets and their lives

    def add_market(
        self,
        spec: MarketSpec,
        *,
        close_time: float,
        now: float,
        status: MarketStatus = MarketStatus.ACTIVE,
        follows_recording: bool = False,
    ) -> SandboxMarket:
        market = SandboxMarket(
            spec, close_time, now, status, updated_at=now, follows_recording=follows_recording
        )
        # Each market keeps its own phase of the second, as a real feed does; all at once would be a burst.
        phase_s = zlib.crc32(spec.ticker.encode()) % 1000 / 1000
        market.ticker_sent_at = now - TICKER_GAP_S * (1 - phase_s)
        self.markets[spec.ticker] = market
        self.sink(LifecycleChanged(spec.ticker, LifecycleEvent.CREATED, now))
        # Who subscribed to the book before the market was listed needs a start for the deltas to come.
        self.sink(SnapshotDue(spec.ticker))
        return market

    def market(self, ticker: str) -> SandboxMarket:
        """The market, or the exchange's 404."""
        market = self.markets.get(ticker)
        if market is None:
            raise not_found()
        return market

    def shard_flags(self, exchange_index: int) -> tuple[bool, bool]:
        """Whether a shard takes changes at all, and whether it takes orders."""
        state = self.shard_states.get(exchange_index, ShardState.ACTIVE)
        is_active = self.exchange_active and state is not ShardState.EXCHANGE_PAUSED
        return is_active, is_active and self.trading_active and state is ShardState.ACTIVE

    def pause(self, ticker: str, now: float) -> None:
        market = self.market(ticker)
        if market.status is MarketStatus.ACTIVE:
            market.status = MarketStatus.INACTIVE
            self.orders.cancel_resting(
                market, UpdateReason.HALT_CANCEL, now, only=lambda order: order.cancel_order_on_pause
            )
            self._tell(market, LifecycleEvent.DEACTIVATED, now)

    def resume(self, ticker: str, now: float) -> None:
        """Reopen a paused market; that cancels every resting order (docs, market lifecycle)."""
        market = self.market(ticker)
        if market.status is MarketStatus.INACTIVE:
            self.orders.cancel_resting(market, UpdateReason.HALT_CANCEL, now)
            market.status = MarketStatus.ACTIVE
            self._tell(market, LifecycleEvent.ACTIVATED, now)

    def set_close_time(self, ticker: str, close_time: float, now: float) -> None:
        market = self.market(ticker)
        market.close_time = close_time
        self._tell(market, LifecycleEvent.CLOSE_DATE_UPDATED, now)

    def fix_result(self, ticker: str, result: OutcomeSide) -> None:
        """Decide a market's result before its close; where it excludes others, they end NO."""
        market = self.market(ticker)
        market.spec = replace(market.spec, result=result)
        if result is OutcomeSide.YES:
            for rival in self.rivals(ticker):
                rival.spec = replace(rival.spec, result=OutcomeSide.NO)

    def rivals(self, ticker: str) -> list[SandboxMarket]:
        """The markets that cannot end YES when this one does."""
        spec = self.market(ticker).spec
        if not spec.is_exclusive:
            return []
        return [m for m in self.markets.values() if m.spec.event == spec.event and m.ticker != ticker]

    def advance(self, now: float) -> None:
        """Do everything whose time has come: openings, closes, results, payments, expiries, tickers."""
        self.orders.expire(now)
        for market in self.markets.values():
            self._live_on(market, now)
            if market.is_ticker_due and not market.follows_recording:
                self._pace_ticker(market, now)

    def _live_on(self, market: SandboxMarket, now: float) -> None:
        match market.status:
            case MarketStatus.INITIALIZED if now >= market.spec.open_time:
                market.status = MarketStatus.ACTIVE
                market.updated_at = now
                market.is_ticker_due = True
            case MarketStatus.ACTIVE | MarketStatus.INACTIVE if now >= market.close_time:
                self._close(market, now)
            case MarketStatus.CLOSED if now >= market.close_time + market.spec.determine_after_s:
                self._determine(market, now)
            case MarketStatus.DETERMINED if (
                now >= (market.determined_at or now) + market.spec.finalize_after_s
            ):
                self._finalize(market, now)
            case _:
                self._empty_closed_book(market, now)

    def _close(self, market: SandboxMarket, now: float) -> None:
        market.status = MarketStatus.CLOSED
        market.updated_at = now
        market.close_ticker_at = now + self._rng.uniform(*CLOSE_TICKER_DELAY_S)
        market.close_snapshot_at = now + self._rng.uniform(*CLOSE_SNAPSHOT_DELAY_S)
        self.orders.cancel_resting(market, UpdateReason.CLOSE_CANCEL, now)

    def _empty_closed_book(self, market: SandboxMarket, now: float) -> None:
        if market.close_ticker_at is not None and now >= market.close_ticker_at:
            market.close_ticker_at = None
            if not market.follows_recording:
                self.set_quotes(market.ticker, {}, {}, now)
            if market.ticker_content() != market.ticker_sent:
                self.send_ticker(market.ticker, now)
        if market.close_snapshot_at is not None and now >= market.close_snapshot_at:
            self.empty_after_close(market.ticker, now)

    def empty_after_close(self, ticker: str, now: float) -> None:
        """Empty the book and send the unasked snapshot without either side (126 of 126 recorded closes)."""
        market = self.market(ticker)
        market.close_snapshot_at = None
        for side in (BookSide.BID, BookSide.ASK):
            for price in market.book.participants_prices(side):
                market.book.set_participants_size(side, price, ZERO)
        market.clock += 1
        self.sink(SnapshotDue(ticker))

    def _decide_event(self, market: SandboxMarket) -> None:
        """Let the dearest market of an event end YES, unless it is known already which one does."""
        rivals = self.rivals(market.ticker)
        if not rivals or market.spec.result is not None:
            return
        open_ones = [m for m in (market, *rivals) if m.spec.result is None]
        winner = max(open_ones, key=lambda m: (m.last_real_price, m.ticker))
        self.fix_result(winner.ticker, OutcomeSide.YES)

    def _determine(self, market: SandboxMarket, now: float) -> None:
        self._decide_event(market)
        fallback = OutcomeSide.YES if market.last_real_price >= Decimal("0.5") else OutcomeSide.NO
        market.result = market.spec.result or fallback
        market.status = MarketStatus.DETERMINED
        market.determined_at = now
        if market.close_snapshot_at is not None:
            self.empty_after_close(market.ticker, now)
        self._tell(market, LifecycleEvent.DETERMINED, now)

    def _finalize(self, market: SandboxMarket, now: float) -> None:
        assert market.result is not None
        market.status = MarketStatus.FINALIZED
        market.settled_at = now
        self._tell(market, LifecycleEvent.SETTLED, now)
        if self.ledger.settle(market.ticker, market.result, now) is not None:
            self.sink(PositionChanged(self.ledger.positions[market.ticker]))

    def _tell(self, market: SandboxMarket, event: LifecycleEvent, now: float) -> None:
        market.updated_at = now
        self.sink(LifecycleChanged(market.ticker, event, now))

    # Quotes of the simulated participants

    def set_quotes(
        self, ticker: str, bids: Mapping[Decimal, Decimal], asks: Mapping[Decimal, Decimal], now: float
    ) -> None:
        """Replace all of the participants' liquidity; what shrinks goes before what grows."""
        market = self.market(ticker)
        wanted = {BookSide.BID: bids, BookSide.ASK: asks}
        for side, levels in wanted.items():
            for price in market.book.participants_prices(side):
                size = market.book.participants_size_at(side, price)
                if levels.get(price, ZERO) < size:
                    self.set_level(ticker, side, price, levels.get(price, ZERO), now)
        for side, levels in wanted.items():
            for price, size in levels.items():
                if size != market.book.participants_size_at(side, price):
                    self.set_level(ticker, side, price, size, now)

    def set_level(self, ticker: str, side: BookSide, price: Decimal, size: Decimal, now: float) -> None:
        """Set the participants' size of one level; growth first hits the account's crossing orders."""
        market = self.market(ticker)
        added = size - market.book.participants_size_at(side, price)
        if added > 0 and market.status is MarketStatus.ACTIVE:
            size -= self.orders.hit_resting(market, side, price, added, now)
        change = market.book.set_participants_size(side, price, size)
        if change:
            self.note_level(market, side, price, change, now)

    def note_level(
        self,
        market: SandboxMarket,
        side: BookSide,
        price: Decimal,
        change: Decimal,
        now: float,
        client_order_id: str = "",
    ) -> None:
        """Record that a level changed and tell the stream."""
        market.clock += 1
        market.is_ticker_due = True
        market.updated_at = now
        if market.status is MarketStatus.ACTIVE:
            top = market.top()
            if top.yes_bid_size and top.yes_ask_size:
                market.last_real_price = (top.yes_bid + top.yes_ask) / 2
            elif top.yes_bid_size or top.yes_ask_size:
                market.last_real_price = top.yes_bid if top.yes_bid_size else top.yes_ask
        self.sink(LevelChanged(market.ticker, side, price, change, market.clock, now, client_order_id))

    def note_trade(
        self, market: SandboxMarket, price: Decimal, count: Decimal, taker_side: BookSide, now: float
    ) -> TradeRecord:
        """Record one execution on the public tape."""
        trade = TradeRecord(self.new_id(), market.ticker, count, price, taker_side, now)
        self.trades.append(trade)
        del self.trades[:-TRADES_KEPT]
        market.last_price = price
        market.last_trade_size = count
        market.volume += count
        market.open_interest += count
        market.is_ticker_due = True
        self.sink(Traded(trade))
        return trade

    # Tickers

    def _pace_ticker(self, market: SandboxMarket, now: float) -> None:
        if market.close_ticker_at is not None or now - market.ticker_sent_at < TICKER_GAP_S:
            return
        market.is_ticker_due = False
        if market.ticker_content() != market.ticker_sent:
            self.send_ticker(market.ticker, now)

    def send_ticker(self, ticker: str, now: float) -> None:
        """Send a ticker frame now; its `ts_ms` never repeats or steps back for a market."""
        market = self.market(ticker)
        market.ticker_ts_ms = max(milliseconds(now), market.ticker_ts_ms + 1)
        market.ticker_sent_at = now
        market.ticker_sent = market.ticker_content()
        market.is_ticker_due = False
        self.sink(TickerChanged(ticker, market.ticker_ts_ms))

    def yes_values(self, ticker: str) -> tuple[Decimal, Decimal]:
        """What selling and buying a YES contract is worth now; both the payment once that is known."""
        market = self.market(ticker)
        if market.result is not None:
            paid = ONE if market.result is OutcomeSide.YES else ZERO
            return paid, paid
        return market.top().yes_bid, market.top().yes_ask
