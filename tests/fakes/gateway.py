"""An exchange that answers orders as a script says and keeps the ledger that tests judge by."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from base.clock import Clock
from base.errors import OrderOutcomeUnknown, OrderRejected, RateLimitedError, TransientError
from base.execution.gateway import FoundOrder, PriceView
from base.model.market import ONE, ZERO, BookSide, Market, MarketStatus, OutcomeSide, PriceSource, Quote
from base.model.order import OrderAck, OrderRequest, OrderStatus
from base.model.position import Position

FEE = Decimal("0.01")
"""Fee a contract at this exchange."""


@dataclass(frozen=True)
class Fill:
    """Fill this many (all when None) and answer."""

    count: str | None = None


@dataclass(frozen=True)
class Lost:
    """The answer is lost; the order filled this many (all when None), or never arrived (`acted` False)."""

    count: str | None = None
    acted: bool = True
    shown_after_reads: int = 0
    """How many reads do not show the order yet."""


@dataclass(frozen=True)
class Reject:
    status: int
    code: str


@dataclass(frozen=True)
class RateLimited:
    """429."""


@dataclass(frozen=True)
class NotSent:
    """The connection could not be made."""


@dataclass(frozen=True)
class Crash:
    """The order fills, and the answer breaks the program."""


Step = Fill | Lost | Reject | RateLimited | NotSent | Crash


class FakePrices:
    """Markets and quotes by ticker, all vouched for by the feed unless said otherwise."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.views: dict[str, PriceView] = {}

    def set(
        self,
        ticker: str,
        bid: str,
        ask: str | None = None,
        *,
        size: str = "1000",
        status: MarketStatus = MarketStatus.ACTIVE,
        is_vouched: bool = True,
        market: Market | None = None,
    ) -> None:
        yes_bid = Decimal(bid)
        quote = Quote(
            ticker=ticker,
            yes_bid=yes_bid,
            yes_ask=yes_bid + Decimal("0.01") if ask is None else Decimal(ask),
            yes_bid_size=Decimal(size),
            yes_ask_size=Decimal(size),
            last_price=None,
            ts_ms=0,
            received_monotonic=self._clock.monotonic(),
            received_at=self._clock.now(),
            source=PriceSource.WS,
            connection=1,
        )
        known = market if market is not None else Market(ticker, status=status)
        self.views[ticker] = PriceView(known, quote, 0.0, is_vouched)

    def set_status(self, ticker: str, status: MarketStatus) -> None:
        view = self.views[ticker]
        self.views[ticker] = replace(view, market=replace(view.market, status=status))

    def get(self, ticker: str) -> PriceView | None:
        return self.views.get(ticker)


class FakeExchange:
    """A `Gateway`, its senders and the account behind it.

    Each market answers its own script in order, and fills everything once the script is used up. Unless
    `caps` is set it fills whatever is asked, so that selling more than is held shows as a flipped sign.
    """

    def __init__(self, clock: Clock, prices: FakePrices | None = None, *, caps: bool = False) -> None:
        self._clock = clock
        self.prices = prices if prices is not None else FakePrices(clock)
        self.caps = caps
        self.held: dict[str, Decimal] = {}
        self.script: defaultdict[str, deque[Step]] = defaultdict(deque)
        self.requests: list[OrderRequest] = []
        self.sent_at: list[float] = []
        self.finds = 0
        self.refreshes: list[tuple[str, ...]] = []
        self.is_active = True
        self.reads_fail = False
        self.as_of_lag_s: float | None = 0.0
        self.prepared = 0
        self.on_refresh: dict[str, MarketStatus] = {}
        self._known: dict[str, tuple[FoundOrder, int]] = {}

    # --- the account --------------------------------------------------------------------------------

    def holds(self, ticker: str, signed: str) -> None:
        self.held[ticker] = Decimal(signed)

    def positions(self) -> dict[str, Position]:
        """A complete read."""
        return {
            ticker: Position(
                ticker,
                OutcomeSide.YES if signed > 0 else OutcomeSide.NO,
                abs(signed),
                Decimal("0.5"),
            )
            for ticker, signed in self.held.items()
            if signed != 0
        }

    # --- the gateway --------------------------------------------------------------------------------

    def open_sender(self) -> FakeSender:
        return FakeSender(self)

    def find_order(self, ticker: str, client_order_id: str) -> FoundOrder | None:
        self.finds += 1
        if self.reads_fail:
            raise TransientError("reads are down")
        found = self._known.get(client_order_id)
        if found is None:
            return None
        order, hidden = found
        if hidden > 0:
            self._known[client_order_id] = (order, hidden - 1)
            return None
        return order

    def data_as_of(self) -> float | None:
        return None if self.as_of_lag_s is None else self._clock.now() - self.as_of_lag_s

    def refresh_markets(self, tickers: Sequence[str]) -> None:
        self.refreshes.append(tuple(tickers))
        if self.reads_fail:
            raise TransientError("reads are down")
        for ticker in tickers:
            if ticker in self.on_refresh:
                self.prices.set_status(ticker, self.on_refresh[ticker])

    def is_trading_active(self, exchange_index: int | None) -> bool:
        return self.is_active

    def create_entry(self, request: OrderRequest) -> OrderAck:
        return self.take(request)

    def take(self, request: OrderRequest) -> OrderAck:
        """Take one order in as the script of its market says."""
        self.requests.append(request)
        self.sent_at.append(self._clock.monotonic())
        script = self.script[request.ticker]
        step: Step = script.popleft() if script else Fill()
        if isinstance(step, RateLimited):
            raise RateLimitedError("too many requests")
        if isinstance(step, NotSent):
            raise TransientError("connection refused")
        if isinstance(step, Reject):
            raise OrderRejected("refused", status=step.status, code=step.code)
        if isinstance(step, Lost) and not step.acted:
            raise OrderOutcomeUnknown("timed out")
        if request.client_order_id in self._known:
            raise OrderRejected("order already exists", status=409, code="order_already_exists")
        count = getattr(step, "count", None)
        filled = request.count if count is None else min(request.count, Decimal(count))
        ack = self._execute(request, filled, step.shown_after_reads if isinstance(step, Lost) else 0)
        if isinstance(step, Lost):
            raise OrderOutcomeUnknown("timed out")
        if isinstance(step, Crash):
            raise ZeroDivisionError("a bug between the wire and the answer")
        return ack

    def _execute(self, request: OrderRequest, filled: Decimal, hidden: int) -> OrderAck:
        signed = self.held.get(request.ticker, ZERO)
        direction = 1 if request.book_side is BookSide.BID else -1
        if self.caps and request.reduce_only:
            filled = min(filled, max(ZERO, -direction * signed))
        self.held[request.ticker] = signed + direction * filled
        price = request.price if filled else None
        order = FoundOrder(
            order_id=f"order-{request.client_order_id}",
            status=OrderStatus.EXECUTED if filled else OrderStatus.CANCELED,
            fill_count=filled,
            average_yes_price=price,
            fees=filled * FEE,
        )
        self._known[request.client_order_id] = (order, hidden)
        return OrderAck(
            order_id=order.order_id,
            client_order_id=request.client_order_id,
            fill_count=filled,
            remaining_count=ZERO,
            average_fill_price=price,
            fees=order.fees,
            ts_ms=int(self._clock.now() * 1000),
        )


class FakeSender:
    """A worker's way to the fake exchange."""

    def __init__(self, exchange: FakeExchange) -> None:
        self._exchange = exchange
        self.is_closed = False

    def create_order(self, request: OrderRequest) -> OrderAck:
        assert ZERO < request.price < ONE
        assert request.count > 0
        return self._exchange.take(request)

    def prepare(self) -> None:
        self._exchange.prepared += 1

    def close(self) -> None:
        self.is_closed = True
