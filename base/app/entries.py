"""From a strategy's intents to orders: limits, reservation, one immediate-or-cancel order each.

An entry whose outcome is unknown stays reserved until complete reads have had time to show it, so that
the limits count it whatever became of it.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal

from base.clock import Clock
from base.errors import BotError, OrderOutcomeUnknown
from base.execution.gateway import Gateway
from base.kalshi.websocket_price_cache import PriceEntry, WebsocketPriceCache
from base.log import log_event
from base.model.market import ONE, ZERO, Market, MarketStatus, OutcomeSide
from base.model.order import OrderRequest, TimeInForce, entry_book_side, to_yes_leg
from base.risk.limits import Approved, Denied, Limits, check_entry
from base.risk.trading_state import TradingState
from base.store.portfolio import Portfolio
from base.strategy.interface import OrderIntent

logger = logging.getLogger(__name__)

RESERVED_S = 60.0
"""How long an entry of unknown outcome stays reserved; two complete reads fall into it."""
ENTRY_ID_PREFIX = "backstop-entry-"
"""Entries' client order ids start like this, so that a restart knows its own positions by their orders."""
HUNDREDTH = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class _Reservation:
    ticker: str
    cost: Decimal
    until: float


class EntryDesk:
    """Places entries; owned by the strategy loop's thread.

    `opened` hears of a market before its order leaves; `is_exiting` says that an exit is under way there;
    `request_reconcile` asks for a complete read of positions soon.
    """

    def __init__(
        self,
        gateway: Gateway,
        portfolio: Portfolio,
        cache: WebsocketPriceCache,
        limits: Limits,
        trading_state: Callable[[], TradingState],
        opened: Callable[[str], None],
        clock: Clock,
        is_exiting: Callable[[str], bool] = lambda ticker: False,
        request_reconcile: Callable[[], None] = lambda: None,
        is_confirmed: Callable[[str], bool] = lambda ticker: False,
    ) -> None:
        self._gateway = gateway
        self._portfolio = portfolio
        self._cache = cache
        self._limits = limits
        self._trading_state = trading_state
        self._opened = opened
        self._clock = clock
        self._is_exiting = is_exiting
        self._request_reconcile = request_reconcile
        self._is_confirmed = is_confirmed
        self._reservations: list[_Reservation] = []

    def place(self, intent: OrderIntent) -> bool:
        """Check, reserve and send one intent; return whether anything was bought."""
        now = self._clock.monotonic()
        self._reservations = [r for r in self._reservations if r.until > now]
        entry = self._cache.get(intent.ticker)
        market = entry.market if entry is not None else Market(intent.ticker)
        price, count = _on_grid(intent, market), intent.count.quantize(HUNDREDTH, ROUND_DOWN)
        why_not = self._why_not(intent, entry, price, count)
        if why_not:
            log_event(logger, logging.WARNING, "entry_denied", ticker=intent.ticker, why=why_not)
            return False
        request = OrderRequest(
            ticker=intent.ticker,
            client_order_id=f"{ENTRY_ID_PREFIX}{uuid.uuid4().hex[:24]}",
            book_side=entry_book_side(intent.outcome_side),
            count=count,
            price=to_yes_leg(price, intent.outcome_side),
            time_in_force=TimeInForce.IMMEDIATE_OR_CANCEL,
            reduce_only=False,
            exchange_index=market.exchange_index,
        )
        self._reservations.append(_Reservation(intent.ticker, price * count, now + RESERVED_S))
        return self._send(intent, request)

    def _why_not(self, intent: OrderIntent, entry: PriceEntry | None, price: Decimal, count: Decimal) -> str:
        """Why this entry is not sent, "" when it may be."""
        ticker = intent.ticker
        if not ZERO < price < ONE or count <= 0:
            return f"{intent.count} at {intent.price} is no order"
        if entry is None or entry.market.status_at(self._clock.now()) is not MarketStatus.ACTIVE:
            return "its market is not known to be open: name it in watches() first"
        if entry.quote is None or (
            entry.is_stale(self._clock.monotonic()) and not self._is_confirmed(ticker)
        ):
            return "no fresh price is known"
        held = self._portfolio.get(ticker)
        if held is not None and held.outcome_side is not intent.outcome_side:
            # Buying the other side would reduce, not open: that is an exit's business.
            return f"{held.outcome_side.value} is held"
        if self._is_exiting(ticker):
            return "an exit of this market is under way"
        verdict = self._judge(ticker, price * count)
        return f"{verdict.code.value}: {verdict.detail}" if isinstance(verdict, Denied) else ""

    def _judge(self, ticker: str, cost: Decimal) -> Approved | Denied:
        positions = self._portfolio.positions()
        held = positions.get(ticker)
        ledger = self._portfolio.ledger()
        return check_entry(
            cost=cost,
            ticker=ticker,
            position_cost=held.cost if held is not None else ZERO,
            reserved_ticker=sum((r.cost for r in self._reservations if r.ticker == ticker), ZERO),
            total_exposure=sum((p.cost for p in positions.values()), ZERO),
            reserved_total=sum((r.cost for r in self._reservations), ZERO),
            realized_today=ledger.realized - ledger.fees,
            trading_state=self._trading_state(),
            limits=self._limits,
        )

    def _send(self, intent: OrderIntent, request: OrderRequest) -> bool:
        log_event(
            logger,
            logging.INFO,
            "entry_sent",
            ticker=intent.ticker,
            side=intent.outcome_side.value,
            count=request.count,
            price=intent.price,
            client_order_id=request.client_order_id,
            why=intent.why,
        )
        # Said before the answer: its fill may come first, and must not look like somebody else's.
        self._opened(intent.ticker)
        self._portfolio.order_left(request.ticker, request.client_order_id)
        try:
            return self._take_in(intent, request)
        finally:
            # An entry of unknown outcome is left to the reads; its reservation covers it till then.
            self._portfolio.order_settled(request.client_order_id)

    def _take_in(self, intent: OrderIntent, request: OrderRequest) -> bool:
        """Send the order and book its answer; return whether anything was bought."""
        try:
            ack = self._gateway.create_entry(request)
        except OrderOutcomeUnknown as exc:
            log_event(logger, logging.ERROR, "entry_unknown", ticker=intent.ticker, why=exc)
            self._request_reconcile()
            return False
        except BotError as exc:
            self._reservations.pop()
            log_event(logger, logging.WARNING, "entry_rejected", ticker=intent.ticker, why=exc)
            return False
        self._reservations.pop()
        if ack.fill_count > 0:
            self._portfolio.apply_answer(
                intent.ticker,
                ack.order_id,
                request.book_side,
                ack.fill_count,
                ack.average_fill_price,
                ack.fees,
                ack.ts_ms,
            )
        log_event(
            logger,
            logging.INFO,
            "entry_filled" if ack.fill_count > 0 else "entry_not_filled",
            ticker=intent.ticker,
            count=ack.fill_count,
            price=None
            if ack.average_fill_price is None
            else to_yes_leg(ack.average_fill_price, intent.outcome_side),
            fees=ack.fees,
        )
        return ack.fill_count > 0


def _on_grid(intent: OrderIntent, market: Market) -> Decimal:
    """The intent's price on the market's grid, in dollars of its side, never above what it allows."""
    if intent.outcome_side is OutcomeSide.YES:
        return market.grid.floor(intent.price)
    return ONE - market.grid.ceil(ONE - intent.price)
