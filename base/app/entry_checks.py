"""What an entry is judged by: the market, its price, what is held and reserved, the limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal

from base.clock import Clock
from base.execution.entry_orders import Reservation, Situation, sum_reserved
from base.kalshi.websocket_price_cache import PriceEntry, WebsocketPriceCache
from base.model.market import ONE, ZERO, Market, MarketStatus, OutcomeSide
from base.model.order import EntryOrder
from base.model.position import Position
from base.risk.limits import Denied, Limits, check_entry, check_price
from base.risk.trading_state import TradingState
from base.store.portfolio import Portfolio
from base.strategy.interface import OrderIntent

HUNDREDTH = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Seen:
    """What an order is judged by, as it was at one moment."""

    prices: Mapping[str, PriceEntry]
    positions: Mapping[str, Position]
    realized_today: Decimal
    trading_state: TradingState

    def event_of(self, ticker: str) -> str:
        """The market's event; by the form of its ticker where the exchange has not said."""
        entry = self.prices.get(ticker)
        known = entry.market.event_ticker if entry is not None else ""
        return known or ticker.rpartition("-")[0] or ticker


class EntryChecks:
    """Says why an entry must not be sent; thread-safe, it owns nothing that changes."""

    def __init__(
        self,
        portfolio: Portfolio,
        cache: WebsocketPriceCache,
        limits: Limits,
        trading_state: Callable[[], TradingState],
        is_exiting: Callable[[str], bool],
        is_confirmed: Callable[[str], bool],
        feed_is_live: Callable[[], bool],
        next_pause_at: Callable[[], float | None],
        clock: Clock,
    ) -> None:
        self._portfolio = portfolio
        self._cache = cache
        self.limits = limits
        self._trading_state = trading_state
        self._is_exiting = is_exiting
        self._is_confirmed = is_confirmed
        self._feed_is_live = feed_is_live
        self._next_pause_at = next_pause_at
        self._clock = clock

    def look(self) -> Seen:
        ledger = self._portfolio.ledger()
        return Seen(
            self._cache.snapshot(),
            self._portfolio.positions(),
            ledger.realized - ledger.fees,
            self._trading_state(),
        )

    def why_not(
        self,
        intent: OrderIntent,
        price: Decimal,
        count: Decimal,
        seen: Seen,
        others: Iterable[EntryOrder],
    ) -> str:
        """Why this order is not sent whatever it costs, "" when it may be."""
        ticker, entry = intent.ticker, seen.prices.get(intent.ticker)
        if not is_order(price, count):
            return f"{intent.count} at {intent.price} is no order"
        if intent.expires_after_s is not None and not intent.expires_after_s > 0:
            return f"expires_after_s={intent.expires_after_s} is no time to rest"
        if entry is None or entry.market.status_at(self._clock.now()) is not MarketStatus.ACTIVE:
            return "its market is not known to be open: name it in watches() first"
        is_stale = entry.is_stale(self._clock.monotonic()) and not self._is_confirmed(ticker)
        if entry.quote is None or is_stale:
            return "no fresh price is known"
        if rests(intent) and not intent.keep_on_feed_loss and not self._feed_is_live():
            return "the feed is lost: nothing new may rest"
        held = seen.positions.get(ticker)
        if held is not None and held.outcome_side is not intent.outcome_side:
            # Buying the other side would reduce, not open: that is an exit's business.
            return f"{held.outcome_side.value} is held"
        for order in others:
            if order.ticker == ticker and order.outcome_side is not intent.outcome_side:
                return f"an order for {order.outcome_side.value} may still fill there"
        if self._is_exiting(ticker):
            return "an exit of this market is under way"
        denied = check_price(
            ticker=ticker,
            price=price,
            side=intent.outcome_side,
            quote=entry.quote,
            only_rests=intent.post_only,
            limits=self.limits,
        )
        return "" if denied is None else f"{denied.code.value}: {denied.detail}"

    def judge(
        self,
        ticker: str,
        cost: Decimal,
        seen: Seen,
        reserved: Mapping[str, Reservation],
        sent: int,
        *,
        order_cost: Decimal | None = None,
    ) -> str:
        """Why the limits forbid it, "" when they do not."""
        unread = self._unread(seen.positions)
        if unread:
            return f"what {unread} has cost is not read yet"
        held = seen.positions.get(ticker)
        event = seen.event_of(ticker)
        sums = sum_reserved(reserved.values(), ticker, seen.event_of)
        entry = seen.prices.get(ticker)
        verdict = check_entry(
            cost=cost,
            order_cost=order_cost,
            ticker=ticker,
            position_cost=held.cost if held is not None else ZERO,
            reserved_ticker=sums.ticker,
            event_cost=sum((p.cost for t, p in seen.positions.items() if seen.event_of(t) == event), ZERO),
            reserved_event=sums.event,
            total_exposure=sum((p.cost for p in seen.positions.values()), ZERO),
            reserved_total=sums.total,
            realized_today=seen.realized_today,
            trading_state=seen.trading_state,
            sent_last_minute=sent,
            time_left_s=self._time_left_s(entry.market) if entry is not None else None,
            limits=self.limits,
        )
        return f"{verdict.code.value}: {verdict.detail}" if isinstance(verdict, Denied) else ""

    def _unread(self, tickers: Iterable[str]) -> str:
        """A market held of which no read has told yet. After a restart, a fill that comes before one tells
        how many are held and what the last of them cost, not what all of them did."""
        if not self._portfolio.is_loaded:
            return ""  # the trading state keeps entries off till then
        return next((t for t in sorted(tickers) if self._portfolio.judged_at(t) is None), "")

    def _time_left_s(self, market: Market) -> float | None:
        """How long the market still trades: to its close, or to a pause of all trading before it."""
        if market.close_time is None:
            return None
        pause_at = self._next_pause_at()
        end = market.close_time if pause_at is None else min(market.close_time, pause_at)
        return end - self._clock.now()

    def situations(self, tickers: Iterable[str], closed_why: str) -> dict[str, Situation]:
        """What decides about the orders of these markets now; `closed_why` says why none is taken."""
        prices = self._cache.snapshot()
        may_enter, is_live = self._trading_state().may_enter, self._feed_is_live()
        found = {}
        for ticker in tickers:
            entry = prices.get(ticker)
            found[ticker] = Situation(
                now=self._clock.now(),
                may_enter=may_enter and not closed_why,
                feed_is_live=is_live,
                is_exiting=self._is_exiting(ticker),
                time_left_s=self._time_left_s(entry.market) if entry is not None else None,
                min_time_left_s=self.limits.min_time_left_s,
            )
        return found


def on_grid(intent: OrderIntent, seen: Seen) -> tuple[Decimal, Decimal]:
    """Price and count on the market's grid, in dollars of its side, never above what is allowed."""
    entry = seen.prices.get(intent.ticker)
    market = entry.market if entry is not None else Market(intent.ticker)
    if not (intent.price.is_finite() and intent.count.is_finite()):
        return ZERO, ZERO
    count = intent.count.quantize(HUNDREDTH, ROUND_DOWN)
    if intent.outcome_side is OutcomeSide.YES:
        return market.grid.floor(intent.price), count
    return ONE - market.grid.ceil(ONE - intent.price), count


def rests(intent: OrderIntent) -> bool:
    return intent.rests or intent.post_only


def is_order(price: Decimal, count: Decimal) -> bool:
    return ZERO < price < ONE and count > ZERO
