"""Simulated fills take what is displayed and leave one consistent account."""

from __future__ import annotations

from decimal import Decimal

import pytest

from base.errors import OrderRejected
from base.execution.paper import PaperGateway, taker_fee
from base.model.market import BookSide, MarketStatus, OutcomeSide
from base.model.order import OrderAck, OrderRequest, TimeInForce, entry_book_side, exit_book_side
from base.model.position import Position
from tests.fakes.clock import FakeClock
from tests.fakes.gateway import FakePrices

T = "KXHIGHNY-26NOV22-T60"
YES, NO = OutcomeSide.YES, OutcomeSide.NO


class Rig:
    def __init__(self, real: Position | None = None, bid: str = "0.40", ask: str = "0.42") -> None:
        self.clock = FakeClock()
        self.prices = FakePrices(self.clock)
        self.prices.set(T, bid, ask, size="100")
        self.gateway = PaperGateway(self.prices.get, lambda tickers: None, self.clock)
        self.sender = self.gateway.open_sender()
        self.count = 0
        self.sees(real)

    def sees(self, real: Position | None) -> Decimal:
        """One read of the real account; the signed count that the program is shown."""
        shown = self.gateway.overlay({} if real is None else {T: real})
        return shown[T].signed_count if T in shown else Decimal(0)

    def send(
        self,
        book_side: BookSide,
        count: str,
        price: str,
        *,
        reduce_only: bool = True,
        time_in_force: TimeInForce = TimeInForce.IMMEDIATE_OR_CANCEL,
    ) -> OrderAck:
        self.count += 1
        return self.sender.create_order(
            OrderRequest(
                T, f"c{self.count}", book_side, Decimal(count), Decimal(price), time_in_force, reduce_only
            )
        )


def real(count: str, side: OutcomeSide = YES) -> Position:
    return Position(T, side, Decimal(count), Decimal("0.50"))


@pytest.mark.parametrize(("side", "limit", "at"), [(YES, "0.38", "0.40"), (NO, "0.44", "0.42")])
def test_an_exit_fills_at_the_displayed_price_and_is_taken_off_the_real_position(
    side: OutcomeSide, limit: str, at: str
) -> None:
    rig = Rig(real("10", side))
    ack = rig.send(exit_book_side(side), "10", limit)
    assert (ack.fill_count, ack.average_fill_price) == (Decimal(10), Decimal(at))
    assert ack.fees == taker_fee(Decimal(10), Decimal(at))
    assert rig.sees(real("10", side)) == 0
    lookup = rig.gateway.find_orders({"c1": T, "c2": T}, since=rig.clock.now() - 1)
    assert {name: order.fill_count for name, order in lookup.found.items()} == {"c1": 10}
    assert lookup.as_of == rig.clock.now()


def test_orders_together_each_have_their_own_answer() -> None:
    rig = Rig(real("10"))
    requests = [
        OrderRequest(T, name, BookSide.ASK, Decimal(count), Decimal("0.38"), tif, reduce_only=True)
        for name, count, tif in (
            ("a", "4", TimeInForce.IMMEDIATE_OR_CANCEL),
            ("b", "4", TimeInForce.FILL_OR_KILL),
            ("c", "9", TimeInForce.IMMEDIATE_OR_CANCEL),
        )
    ]
    first, second, third = rig.sender.create_orders(requests)
    assert isinstance(first, OrderAck)
    assert isinstance(second, OrderRejected)
    assert isinstance(third, OrderAck)
    assert (first.fill_count, third.fill_count) == (4, 6)
    assert (rig.sender.reserve(100), rig.sender.batch_max) == (0.0, 1)


def test_paper_never_stops_trading() -> None:
    shards = Rig().gateway.trading_shards()
    assert shards.takes_orders(None)
    assert shards.takes_orders(2)


def test_nothing_beyond_the_displayed_size_fills() -> None:
    rig = Rig(real("250"))
    assert rig.send(BookSide.ASK, "250", "0.38").fill_count == 100
    assert rig.sees(real("250")) == 150


def test_a_limit_above_the_bid_fills_nothing() -> None:
    rig = Rig(real("10"))
    ack = rig.send(BookSide.ASK, "10", "0.41")
    assert (ack.fill_count, ack.average_fill_price, ack.fees) == (0, None, 0)


@pytest.mark.parametrize("bid", ["0.00", "1.00"])
def test_an_empty_side_is_no_price(bid: str) -> None:
    rig = Rig(real("10"), bid=bid, ask="1.00")
    assert rig.send(BookSide.ASK, "10", "0.01").fill_count == 0


def test_reduce_only_never_flips_nor_opens() -> None:
    rig = Rig(real("3"))
    assert rig.send(BookSide.ASK, "10", "0.38").fill_count == 3
    assert rig.send(BookSide.ASK, "10", "0.38").fill_count == 0
    assert rig.sees(real("3")) == 0


def test_an_entry_adds_a_position_of_its_own() -> None:
    rig = Rig()
    assert rig.send(entry_book_side(NO), "5", "0.40", reduce_only=False).fill_count == 5
    assert rig.sees(None) == -5
    assert rig.send(exit_book_side(NO), "5", "0.42").fill_count == 5
    assert rig.sees(None) == 0


def test_an_entry_beside_a_real_position_averages() -> None:
    rig = Rig(real("10"))
    rig.send(BookSide.BID, "10", "0.42", reduce_only=False)
    shown = rig.gateway.overlay({T: real("10")})[T]
    assert (shown.count, shown.entry_price) == (Decimal(20), Decimal("0.46"))


def test_a_real_position_that_turned_is_not_hidden_by_what_was_simulated() -> None:
    rig = Rig(real("10"))
    rig.send(BookSide.ASK, "10", "0.38")
    assert rig.sees(real("5", NO)) == -5, "it is held and must be protected"


def test_a_real_position_opened_against_a_simulated_one_nets() -> None:
    rig = Rig()
    rig.send(entry_book_side(NO), "4", "0.40", reduce_only=False)
    assert rig.sees(real("10")) == 6
    assert rig.send(BookSide.ASK, "6", "0.38").fill_count == 6
    assert rig.sees(real("10")) == 0


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (MarketStatus.INACTIVE, "trading_is_paused"),
        (MarketStatus.CLOSED, "market_inactive"),
        (MarketStatus.UNKNOWN, "market_inactive"),
    ],
)
def test_a_market_that_cannot_trade_refuses_as_the_exchange_does(status: MarketStatus, code: str) -> None:
    rig = Rig(real("10"))
    rig.prices.set_status(T, status)
    with pytest.raises(OrderRejected) as refused:
        rig.send(BookSide.ASK, "10", "0.38")
    assert (refused.value.status, refused.value.code) == (409, code)
    assert rig.sees(real("10")) == 10


def test_resting_orders_are_refused_because_none_could_ever_fill() -> None:
    rig = Rig(real("10"))
    with pytest.raises(OrderRejected):
        rig.send(BookSide.ASK, "10", "0.38", time_in_force=TimeInForce.GOOD_TILL_CANCELED)
