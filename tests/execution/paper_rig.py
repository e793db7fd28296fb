"""A paper account against a market that the test displays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from base.errors import OrderRejected
from base.execution.gateway import PriceView, TradingShards
from base.execution.paper import OPEN_SHARDS, PaperGateway
from base.model.events import OrderUpdate
from base.model.market import (
    ONE,
    BookSide,
    Market,
    MarketStatus,
    OutcomeSide,
    PriceSource,
    Quote,
)
from base.model.order import OrderAck, OrderRequest, TimeInForce
from base.model.position import Fill, Position
from base.store.realized import Payout
from base.store.records import Recorder, Remembered
from tests.fakes.clock import FakeClock

T = "KXHIGHNY-26NOV22-T60"
YES, NO = OutcomeSide.YES, OutcomeSide.NO
BID, ASK = BookSide.BID, BookSide.ASK
IOC = TimeInForce.IMMEDIATE_OR_CANCEL
GTC = TimeInForce.GOOD_TILL_CANCELED
FOK = TimeInForce.FILL_OR_KILL
D = Decimal

Levels = Sequence[tuple[str, str]]


def real(count: str, side: OutcomeSide = YES, entry: str = "0.50") -> Position:
    """A position on the exchange itself."""
    return Position(T, side, D(count), D(entry))


def displayed(bids: Levels, asks: Levels, *, ts_ms: int = 0, depth: bool = True) -> PriceView:
    """A market with these levels of the YES book, best first; without `depth` only the best are known."""
    bid, bid_size = bids[0] if bids else ("0", "0")
    ask, ask_size = asks[0] if asks else ("1", "0")
    quote = Quote(
        T, D(bid), D(ask), D(bid_size), D(ask_size), None, ts_ms, 0.0, 0.0, PriceSource.WS, connection=1
    )
    yes = tuple((D(p), D(c)) for p, c in bids) if depth else ()
    no = tuple((ONE - D(p), D(c)) for p, c in asks) if depth else ()
    return PriceView(Market(T, status=MarketStatus.ACTIVE), quote, 0.0, True, yes, no)


@dataclass
class Told:
    """What the listeners have heard, in order."""

    fills: list[Fill] = field(default_factory=list)
    orders: list[OrderUpdate] = field(default_factory=list)
    payouts: list[Payout] = field(default_factory=list)


class PaperRig:
    """The gateway, the market that it looks at, and its listeners; without latency unless one is given."""

    def __init__(
        self,
        held: Position | None = None,
        recorder: Recorder | None = None,
        remembered: Remembered | None = None,
        *,
        clock: FakeClock | None = None,
        latency_s: float = 0.0,
    ) -> None:
        self.clock = clock if clock is not None else FakeClock()
        self.view: PriceView | None = displayed([("0.40", "100")], [("0.42", "100")])
        self.shards: TradingShards = OPEN_SHARDS
        self.reads: list[tuple[str, ...]] = []
        self.on_read: PriceView | None = None
        """What the market displays once it is read."""
        self.told = Told()
        self.gateway = PaperGateway(
            lambda ticker: self.view if ticker == T else None,
            self._read,
            self.clock,
            recorder,
            remembered,
            latency_s=latency_s,
            trading=lambda: self.shards,
        )
        self.gateway.attach(self.told.fills.append, self.told.orders.append, self.told.payouts.append)
        self.count = 0
        self.sees(held)

    def _read(self, tickers: Sequence[str]) -> None:
        self.reads.append(tuple(tickers))
        if self.on_read is not None:
            self.view = self.on_read

    def shows(self, bids: Levels, asks: Levels, *, ts_ms: int = 0, depth: bool = True) -> None:
        self.view = displayed(bids, asks, ts_ms=ts_ms, depth=depth)

    def becomes(self, status: MarketStatus, result: str = "", value: str | None = None) -> None:
        """The market's state changes."""
        assert self.view is not None
        paid = None if value is None else D(value)
        market = replace(self.view.market, status=status, result=result, settlement_value=paid)
        self.view = replace(self.view, market=market)

    def sees(self, held: Position | None, *, is_whole: bool = True) -> Decimal:
        """One read of the exchange's account; the signed count that the program is shown."""
        shown = self.gateway.overlay({} if held is None else {T: held}, is_whole=is_whole)
        return shown[T].signed_count if T in shown else D(0)

    def request(
        self,
        side: BookSide,
        count: str,
        price: str,
        tif: TimeInForce = IOC,
        *,
        reduce_only: bool = False,
        post_only: bool = False,
        expires_at: int | None = None,
        name: str = "",
    ) -> OrderRequest:
        self.count += 1
        return OrderRequest(
            T,
            name or f"c{self.count}",
            side,
            D(count),
            D(price),
            tif,
            reduce_only,
            expiration_time_s=expires_at,
            post_only=post_only,
        )

    def send(self, side: BookSide, count: str, price: str, tif: TimeInForce = IOC, **how: bool) -> OrderAck:
        return self.gateway.create_order(self.request(side, count, price, tif, **how))  # type: ignore[arg-type]

    def refusal(self, request: OrderRequest) -> tuple[int, str]:
        """Status and code with which an order is refused."""
        try:
            ack = self.gateway.create_entry(request)
        except OrderRejected as refused:
            return refused.status, refused.code
        raise AssertionError(f"it was taken: {ack}")

    def step(self, after_s: float = 0.1) -> None:
        self.clock.advance(after_s)
        self.gateway.run_once()

    @property
    def fills(self) -> list[tuple[str, str]]:
        """Count and YES-leg price of each fill told so far."""
        return [(str(f.count), str(f.yes_price)) for f in self.told.fills]
