"""The paper account's orders: which rest, and what became of the others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from base.errors import RequestRejected
from base.execution.gateway import FoundOrder
from base.model.events import OrderUpdate
from base.model.market import ONE, ZERO, BookSide
from base.model.order import OrderAck, OrderRequest, OrderStatus
from base.store.records import FillRecord, Remembered

ORDER_ID_PREFIX = "paper-"
REMEMBERED_ORDERS_MAX = 2_000
RESTING_ORDERS_MAX = 1_000
SETTLEMENT_PREFIX = "settlement:"


@dataclass(slots=True)
class PaperOrder:
    """One order; prices are YES-leg dollars. Guarded by the gateway's lock."""

    request: OrderRequest
    status: OrderStatus = OrderStatus.CANCELED
    filled: Decimal = ZERO
    value: Decimal = ZERO
    """Count times price of its fills."""
    fees: Decimal = ZERO
    fills: int = 0
    has_paused: bool = False
    """Whether its market was seen paused while it rested."""

    @property
    def order_id(self) -> str:
        # Made of the client order id, so that a fill in the journal tells whose it was.
        return ORDER_ID_PREFIX + self.request.client_order_id

    @property
    def remaining(self) -> Decimal:
        """Contracts that may still fill."""
        return self.request.count - self.filled if self.status is OrderStatus.RESTING else ZERO

    def add(self, count: Decimal, yes_price: Decimal, fee: Decimal) -> str:
        """Count one execution; return its trade id."""
        self.filled += count
        self.value += count * yes_price
        self.fees += fee
        self.fills += 1
        return f"{self.order_id}-{self.fills}"

    def found(self) -> FoundOrder:
        price = self.value / self.filled if self.filled else None
        return FoundOrder(self.order_id, self.status, self.filled, price, self.fees)

    def update(self, reason: str) -> OrderUpdate:
        """What the stream would say; its fill cost is of the outcome bought, as the exchange counts it."""
        request = self.request
        is_bid = request.book_side is BookSide.BID
        return OrderUpdate(
            order_id=self.order_id,
            client_order_id=request.client_order_id,
            ticker=request.ticker,
            book_side=request.book_side,
            status=self.status,
            fill_count=self.filled,
            remaining_count=self.remaining,
            initial_count=request.count,
            fees=self.fees,
            fill_cost=self.value if is_bid else self.filled - self.value,
            reason=reason,
        )

    def ack(self, ts_ms: int, before: PaperOrder | None = None) -> OrderAck:
        """The answer: what it filled in all, or since `before`."""
        filled, value, fees = self.filled, self.value, self.fees
        if before is not None:
            filled, value, fees = filled - before.filled, value - before.value, fees - before.fees
        return OrderAck(
            order_id=self.order_id,
            client_order_id=self.request.client_order_id,
            fill_count=filled,
            remaining_count=self.remaining,
            average_fill_price=value / filled if filled else None,
            fees=fees,
            ts_ms=ts_ms,
        )


class PaperOrders:
    """Orders by client order id; not thread-safe. Of those that are done the oldest are forgotten first.

    After a restart nothing rests any more: what rested is canceled, and its fills are known by the record.
    """

    def __init__(self, remembered: Remembered) -> None:
        self._resting: dict[str, PaperOrder] = {}  # by order id, oldest first
        self._known: OrderedDict[str, FoundOrder] = OrderedDict()  # by client order id
        for entry in remembered.entries:
            order_id = ORDER_ID_PREFIX + entry.client_order_id
            if entry.order_id == order_id:
                self._remember(
                    entry.client_order_id, FoundOrder(order_id, OrderStatus.CANCELED, ZERO, None, ZERO)
                )
        by_order: dict[str, list[FillRecord]] = {}
        for fill in remembered.fills:
            if fill.order_id.startswith(ORDER_ID_PREFIX):
                by_order.setdefault(fill.order_id, []).append(fill)
        for order_id, fills in by_order.items():
            self._remember(order_id.removeprefix(ORDER_ID_PREFIX), _found(order_id, fills))

    def find(self, client_order_id: str) -> FoundOrder | None:
        return self._known.get(client_order_id)

    def note(self, order: PaperOrder) -> None:
        """Take in what an order is now."""
        if order.status is OrderStatus.RESTING:
            self._resting[order.order_id] = order
        else:
            self._resting.pop(order.order_id, None)
        self._remember(order.request.client_order_id, order.found())

    def _remember(self, client_order_id: str, found: FoundOrder) -> None:
        self._known[client_order_id] = found
        self._known.move_to_end(client_order_id)
        while len(self._known) > REMEMBERED_ORDERS_MAX + len(self._resting):
            oldest, order = self._known.popitem(last=False)
            if order.order_id in self._resting:
                self._known[oldest] = order  # it may still fill

    # --- what rests ---------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        return len(self._resting) >= RESTING_ORDERS_MAX

    @property
    def tickers(self) -> frozenset[str]:
        """Markets in which something rests."""
        return frozenset(order.request.ticker for order in self._resting.values())

    def resting(self, order_id: str) -> PaperOrder:
        """Raises RequestRejected: canceled, executed and unknown orders answer alike."""
        order = self._resting.get(order_id)
        if order is None:
            raise RequestRejected("not found", status=404, code="not_found")
        return order

    def in_turn(self, ticker: str | None = None) -> list[PaperOrder]:
        """Those that rest, the best price of each side first, then the oldest."""
        orders = [o for o in self._resting.values() if ticker is None or o.request.ticker == ticker]
        return sorted(
            orders,
            key=lambda o: -o.request.price if o.request.book_side is BookSide.BID else o.request.price,
        )

    def best_price(self, ticker: str, side: BookSide) -> Decimal | None:
        """The best price of `side` at which an order of ours rests."""
        for order in self.in_turn(ticker):
            if order.request.book_side is side:
                return order.request.price
        return None


def _found(order_id: str, fills: Iterable[FillRecord]) -> FoundOrder:
    count = value = fees = ZERO
    for fill in fills:
        count += fill.count
        value += fill.count * fill.yes_price
        fees += fill.fee
    return FoundOrder(order_id, OrderStatus.CANCELED, count, value / count if count else None, fees)


def paid_markets(remembered: Remembered) -> list[str]:
    """Markets whose end has been paid already, by the names under which payouts are remembered."""
    ids = [f.trade_id for f in remembered.fills if f.trade_id.startswith(SETTLEMENT_PREFIX)]
    return [i.removeprefix(SETTLEMENT_PREFIX).rpartition(":")[0] for i in ids]


def reserved_dollars(order: PaperOrder) -> Decimal:
    """What a resting order may still spend, as if all of it opened."""
    side_price = order.request.price
    return order.remaining * (side_price if order.request.book_side is BookSide.BID else ONE - side_price)
