"""An exchange that answers orders as a script says and keeps the ledger that tests judge by."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from base.clock import Clock
from base.errors import (
    BotError,
    OrderOutcomeUnknown,
    OrderRejected,
    RateLimitedError,
    RequestRejected,
    TransientError,
)
from base.execution.gateway import FoundOrder, OrderLookup, PriceView, TradingShards
from base.model.events import OrderUpdate
from base.model.market import ONE, ZERO, BookSide, Market, MarketStatus, OutcomeSide, PriceSource, Quote
from base.model.order import Order, OrderAck, OrderRequest, OrderStatus, TimeInForce
from base.model.position import Fill as AccountFill
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
class Late:
    """The answer is lost, and the order acts only so many seconds later (fills this many, all when None)."""

    seconds: float
    count: str | None = None


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


Step = Fill | Lost | Late | Reject | RateLimited | NotSent | Crash


class KilledHere(BaseException):
    """The process ends at this point; what it had in memory is gone. No safety net of the program sees it."""


@dataclass(frozen=True)
class Execution:
    """What the exchange did with one order of the account; `signed` is what was held before.

    `count` 0 is an order that filled nothing; `by_hand` is one that the program did not send.
    """

    number: int
    ticker: str
    client_order_id: str
    book_side: BookSide
    count: Decimal
    yes_price: Decimal
    signed: Decimal
    at: float
    """Monotonic."""
    ts_ms: int
    was_capped: bool
    by_hand: bool = False

    @property
    def post(self) -> Decimal:
        """Signed, what is held after it."""
        return self.signed + self.count if self.book_side is BookSide.BID else self.signed - self.count

    def fill(self) -> AccountFill:
        """The `fill` message of it."""
        return AccountFill(
            trade_id=f"trade-{self.number}",
            order_id=f"order-{self.client_order_id}",
            ticker=self.ticker,
            book_side=self.book_side,
            count=self.count,
            yes_price=self.yes_price,
            fee=self.count * FEE,
            ts_ms=self.ts_ms,
            client_order_id=self.client_order_id,
            post_position=self.post,
        )

    def order_update(self) -> OrderUpdate:
        """The `user_order` message of it."""
        return OrderUpdate(
            order_id=f"order-{self.client_order_id}",
            client_order_id=self.client_order_id,
            ticker=self.ticker,
            book_side=self.book_side,
            status=OrderStatus.EXECUTED if self.count else OrderStatus.CANCELED,
            fill_count=self.count,
            remaining_count=ZERO,
            initial_count=self.count,
            fees=self.count * FEE,
            fill_cost=self.count * self.yes_price,
        )


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
    `caps` is set, or the market is among `capped`, it fills whatever is asked, so that selling more than
    is held shows as a flipped sign.
    """

    def __init__(self, clock: Clock, prices: FakePrices | None = None, *, caps: bool = False) -> None:
        self._clock = clock
        self.prices = prices if prices is not None else FakePrices(clock)
        self.caps = caps
        self.capped: set[str] = set()
        """Markets whose orders the exchange caps to what is held (`reduce_only`)."""
        self.held: dict[str, Decimal] = {}
        self.script: defaultdict[str, deque[Step]] = defaultdict(deque)
        self.requests: list[OrderRequest] = []
        self.sent_at: list[float] = []
        self.executions: list[Execution] = []
        self.finds = 0
        self.sought: list[frozenset[str]] = []
        self.shards: dict[int, bool] = {}
        self.budget: float | None = None
        """Orders that may leave now, None for any number."""
        self.batch_max = 1
        self.batches: list[int] = []
        self.refreshes: list[tuple[str, ...]] = []
        self.is_active = True
        self.reads_fail = False
        self.as_of_lag_s: float | None = 0.0
        self.orders_lag_s = 0.0
        """Reads of orders show them as they were so long ago."""
        self.prepared = 0
        self.on_refresh: dict[str, MarketStatus] = {}
        self.trading: dict[str, MarketStatus] = {}
        """Markets that refuse orders, and say so when they are read."""
        self.at_point: Callable[[str], None] = lambda point: None
        """Called wherever the program may be killed: before and after everything that leaves it."""
        self.on_request: Callable[[OrderRequest], None] = lambda request: None
        """Called with every order that reaches the wire."""
        self.on_execution: Callable[[Execution], None] = lambda execution: None
        """Called before the answer leaves, as the stream may be."""
        self.on_told: Callable[[str], None] = lambda client_order_id: None
        """Called when a read is about to show an order."""
        self.resting: dict[str, Order] = {}
        """What rests, by the exchange's order id; a good-till-canceled order rests with what did not fill."""
        self.cancels: list[str] = []
        self.amends: list[OrderRequest] = []
        self.cancel_script: deque[Step] = deque()
        self.amend_script: deque[Step] = deque()
        self._known: dict[str, tuple[FoundOrder, int, float]] = {}  # with reads and since when it is shown
        self._late: list[tuple[float, OrderRequest, Late]] = []
        self._history: defaultdict[str, list[tuple[float, Decimal]]] = defaultdict(list)

    # --- the account --------------------------------------------------------------------------------

    def holds(self, ticker: str, signed: str) -> None:
        self._set_held(ticker, Decimal(signed))

    def trade_by_hand(self, ticker: str, change: Decimal) -> Execution:
        """Somebody trades on the same account; `change` is signed."""
        self.catch_up()
        number = len(self.executions) + 1
        side = BookSide.BID if change > 0 else BookSide.ASK
        price = Decimal("0.5")
        return self._record(ticker, f"hand-{number}", side, abs(change), price, was_capped=True, by_hand=True)

    def positions(self, lag_s: float = 0.0) -> dict[str, Position]:
        """A complete read, as of so long ago."""
        self.catch_up()
        shown = {ticker: self._held_at(ticker, self._clock.monotonic() - lag_s) for ticker in self.held}
        return {
            ticker: Position(
                ticker,
                OutcomeSide.YES if signed > 0 else OutcomeSide.NO,
                abs(signed),
                Decimal("0.5"),
            )
            for ticker, signed in shown.items()
            if signed != 0
        }

    def _held_at(self, ticker: str, at: float) -> Decimal:
        history = self._history[ticker]
        if not history or self._was_so(history[-1][0], at):
            return self.held[ticker]
        older = [signed for since, signed in history if self._was_so(since, at)]
        return older[-1] if older else history[0][1]

    @staticmethod
    def _was_so(since: float, at: float) -> bool:
        return since <= at + 1e-9

    def _set_held(self, ticker: str, signed: Decimal) -> None:
        self.held[ticker] = signed
        self._history[ticker].append((self._clock.monotonic(), signed))

    def catch_up(self) -> None:
        """Let the orders act whose time has come."""
        now = self._clock.monotonic()
        due = [late for late in self._late if late[0] <= now]
        self._late = [late for late in self._late if late[0] > now]
        for _, request, step in due:
            is_taken = request.ticker not in self.trading and request.client_order_id not in self._known
            if is_taken:
                self._execute(request, step.count, 0)

    def is_under_way(self, ticker: str) -> bool:
        """Whether an order for this market has left and has not acted yet."""
        return any(request.ticker == ticker for _, request, _ in self._late)

    # --- the gateway --------------------------------------------------------------------------------

    def open_sender(self) -> FakeSender:
        return FakeSender(self)

    def find_orders(self, client_order_ids: Mapping[str, str], since: float) -> OrderLookup:
        self.at_point("orders are read")
        self.catch_up()
        self.finds += 1
        self.sought.append(frozenset(client_order_ids))
        if self.reads_fail:
            raise TransientError("reads are down")
        found: dict[str, FoundOrder] = {}
        for client_order_id in client_order_ids:
            if client_order_id not in self._known:
                continue
            order, hidden, acted_at = self._known[client_order_id]
            if hidden > 0:
                self._known[client_order_id] = (order, hidden - 1, acted_at)
            elif self._was_so(acted_at, self._clock.monotonic() - self.orders_lag_s):
                self.on_told(client_order_id)
                found[client_order_id] = order
        as_of = None if self.as_of_lag_s is None else self._clock.now() - self.as_of_lag_s
        self.at_point("orders have been read")
        return OrderLookup(found, as_of)

    def refresh_markets(self, tickers: Sequence[str]) -> None:
        self.at_point("markets are read")
        self.refreshes.append(tuple(tickers))
        if self.reads_fail:
            raise TransientError("reads are down")
        for ticker in tickers:
            status = self.trading.get(ticker, self.on_refresh.get(ticker))
            if status is not None:
                self.prices.set_status(ticker, status)

    def trading_shards(self) -> TradingShards:
        if self.reads_fail:
            raise TransientError("reads are down")
        return TradingShards(self.is_active, self.shards)

    def create_entry(self, request: OrderRequest) -> OrderAck:
        return self.take(request)

    def take(self, request: OrderRequest) -> OrderAck:
        """Take one order in as the script of its market says."""
        self.catch_up()
        self.requests.append(request)
        self.sent_at.append(self._clock.monotonic())
        self.on_request(request)
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
        if isinstance(step, Late):
            self._late.append((self._clock.monotonic() + step.seconds, request, step))
            raise OrderOutcomeUnknown("timed out")
        if request.ticker in self.trading:
            is_paused = self.trading[request.ticker] is MarketStatus.INACTIVE
            raise OrderRejected(
                "refused", status=409, code="trading_is_paused" if is_paused else "market_closed"
            )
        if request.client_order_id in self._known:
            raise OrderRejected("order already exists", status=409, code="order_already_exists")
        ack = self._execute(request, step.count if not isinstance(step, Crash) else None, _hidden(step))
        if isinstance(step, Lost):
            raise OrderOutcomeUnknown("timed out")
        if isinstance(step, Crash):
            raise ZeroDivisionError("a bug between the wire and the answer")
        return ack

    def _execute(self, request: OrderRequest, count: str | None, hidden: int) -> OrderAck:
        filled = request.count if count is None else min(request.count, Decimal(count))
        signed = self.held.get(request.ticker, ZERO)
        direction = 1 if request.book_side is BookSide.BID else -1
        is_capped = self.caps or request.ticker in self.capped
        if is_capped and request.reduce_only:
            filled = min(filled, max(ZERO, -direction * signed))
        price = request.price if filled else None
        rests = request.time_in_force is TimeInForce.GOOD_TILL_CANCELED and filled < request.count
        if rests:
            self._rest(request, filled)
        status = OrderStatus.EXECUTED if filled else OrderStatus.CANCELED
        order = FoundOrder(
            order_id=f"order-{request.client_order_id}",
            status=OrderStatus.RESTING if rests else status,
            fill_count=filled,
            average_yes_price=price,
            fees=filled * FEE,
        )
        self._known[request.client_order_id] = (order, hidden, self._clock.monotonic())
        self._record(
            request.ticker,
            request.client_order_id,
            request.book_side,
            filled,
            request.price,
            was_capped=is_capped,
        )
        return OrderAck(
            order_id=order.order_id,
            client_order_id=request.client_order_id,
            fill_count=filled,
            remaining_count=request.count - filled if rests else ZERO,
            average_fill_price=price,
            fees=order.fees,
            ts_ms=int(self._clock.now() * 1000),
        )

    # --- what rests ---------------------------------------------------------------------------------

    def _rest(self, request: OrderRequest, filled: Decimal) -> None:
        order_id = f"order-{request.client_order_id}"
        self.resting[order_id] = Order(
            order_id=order_id,
            client_order_id=request.client_order_id,
            ticker=request.ticker,
            book_side=request.book_side,
            status=OrderStatus.RESTING,
            price=request.price,
            initial_count=request.count,
            fill_count=filled,
            remaining_count=request.count - filled,
            fill_cost=filled * request.price,
            fees=ZERO,
            created_ts_ms=int(self._clock.now() * 1000),
        )

    def fill_resting(self, order_id: str, count: str) -> Execution:
        """Somebody takes so many contracts of it."""
        order = self.resting[order_id]
        taken = Decimal(count)
        assert taken <= order.remaining_count
        filled, left = order.fill_count + taken, order.remaining_count - taken
        self._list(order, OrderStatus.RESTING if left else OrderStatus.EXECUTED, filled)
        if left:
            self.resting[order_id] = replace(order, fill_count=filled, remaining_count=left)
        else:
            del self.resting[order_id]
        return self._record(
            order.ticker, order.client_order_id, order.book_side, taken, order.price, was_capped=True
        )

    def end_resting(self, order_id: str) -> None:
        """The exchange cancels it: expired, or its market closed."""
        order = self.resting.pop(order_id)
        self._list(order, OrderStatus.CANCELED, order.fill_count)

    def _list(self, order: Order, status: OrderStatus, filled: Decimal) -> None:
        price = order.price if filled else None
        found = FoundOrder(order.order_id, status, filled, price, ZERO)
        self._known[order.client_order_id] = (found, 0, self._clock.monotonic())

    def read_resting(self) -> list[Order]:
        self.finds += 1
        if self.reads_fail:
            raise TransientError("reads are down")
        return list(self.resting.values())

    def cancel_entry(self, order_id: str, ticker: str) -> Decimal:
        self.cancels.append(order_id)
        step = self.cancel_script.popleft() if self.cancel_script else Fill()
        _fail_before(step)
        order = self.resting.get(order_id)
        if order is None or order.ticker != ticker:
            raise RequestRejected("not found", status=404, code="not_found")
        self.end_resting(order_id)
        if isinstance(step, Lost):
            raise OrderOutcomeUnknown("timed out")
        return order.remaining_count

    def amend_entry(self, order_id: str, request: OrderRequest) -> OrderAck:
        """Fills what the step says (nothing without one), and rests with what is left."""
        self.amends.append(request)
        step = self.amend_script.popleft() if self.amend_script else Fill("0")
        _fail_before(step)
        order = self.resting.get(order_id)
        if order is None:
            raise OrderRejected("not found", status=404, code="not_found")
        left = request.count - order.fill_count
        moved = replace(order, price=request.price, initial_count=request.count, remaining_count=left)
        self.resting[order_id] = moved
        self._list(moved, OrderStatus.RESTING, moved.fill_count)
        filled = ZERO
        if isinstance(step, Fill | Lost) and Decimal(step.count or "0") > 0:
            filled = Decimal(step.count or "0")
            self.fill_resting(order_id, str(filled))
        if isinstance(step, Lost):
            raise OrderOutcomeUnknown("timed out")
        return OrderAck(
            order_id=order_id,
            client_order_id=order.client_order_id,
            fill_count=filled,
            remaining_count=left - filled,
            average_fill_price=request.price if filled else None,
            fees=ZERO,
            ts_ms=int(self._clock.now() * 1000),
        )

    def _record(
        self,
        ticker: str,
        client_order_id: str,
        side: BookSide,
        count: Decimal,
        price: Decimal,
        *,
        was_capped: bool,
        by_hand: bool = False,
    ) -> Execution:
        execution = Execution(
            number=len(self.executions) + 1,
            ticker=ticker,
            client_order_id=client_order_id,
            book_side=side,
            count=count,
            yes_price=price,
            signed=self.held.get(ticker, ZERO),
            at=self._clock.monotonic(),
            ts_ms=int(self._clock.now() * 1000),
            was_capped=was_capped,
            by_hand=by_hand,
        )
        self.executions.append(execution)
        self._set_held(ticker, execution.post)
        self.on_execution(execution)
        return execution


def _fail_before(step: Step) -> None:
    """Raise what keeps a cancel or an amend from acting."""
    if isinstance(step, RateLimited):
        raise RateLimitedError("too many requests")
    if isinstance(step, NotSent):
        raise TransientError("connection refused")
    if isinstance(step, Reject):
        raise OrderRejected("refused", status=step.status, code=step.code)
    if isinstance(step, Lost) and not step.acted:
        raise OrderOutcomeUnknown("timed out")


def _hidden(step: Step) -> int:
    return step.shown_after_reads if isinstance(step, Lost) else 0


class FakeSender:
    """A worker's way to the fake exchange."""

    def __init__(self, exchange: FakeExchange) -> None:
        self._exchange = exchange
        self.is_closed = False

    def reserve(self, orders: int) -> float:
        if self._exchange.budget is None:
            return 0.0
        if self._exchange.budget < orders:
            return 0.1
        self._exchange.budget -= orders
        return 0.0

    @property
    def batch_max(self) -> int:
        return self._exchange.batch_max

    def create_order(self, request: OrderRequest) -> OrderAck:
        assert ZERO < request.price < ONE
        assert request.count > 0
        self._exchange.at_point("an order leaves")
        try:
            return self._exchange.take(request)
        finally:
            self._exchange.at_point("an order is answered")

    def create_orders(self, requests: Sequence[OrderRequest]) -> list[OrderAck | BotError]:
        self._exchange.batches.append(len(requests))
        answers: list[OrderAck | BotError] = []
        for request in requests:
            try:
                answers.append(self.create_order(request))
            except BotError as exc:
                answers.append(exc)
        return answers

    def prepare(self) -> None:
        self._exchange.prepared += 1

    def close(self) -> None:
        self.is_closed = True
