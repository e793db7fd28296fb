"""The engine's orders: matching, netting, reduce-only, refusals."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import pytest

from base.model.market import OutcomeSide
from base.model.order import OrderStatus, TimeInForce
from base.sandbox.happenings import Filled, OrderChanged
from base.sandbox.ledger import taker_fee
from base.sandbox.records import SelfTradePrevention, UpdateReason
from base.sandbox.refusals import Refused
from tests.sandbox.engine import NOW, Desk, T

GTC = TimeInForce.GOOD_TILL_CANCELED
FOK = TimeInForce.FILL_OR_KILL
IOC_ONLY = "reduce_only can only be used with IoC orders"  # seen in production, 2026-08
GTC_ONLY = "expiration_time can only be used with good_till_canceled orders"


@pytest.mark.parametrize(
    ("count", "price", "fee"),
    [
        ("1", "0.52", "0.0175"),
        ("1", "0.99", "0.0007"),
        ("5.52", "0.17", "0.0546"),
        ("0.01", "0.01", "0.0001"),
    ],
    ids=["recorded at 0.52", "recorded at 0.99", "recorded demo fill", "smallest fill rounds up"],
)
def test_taker_fee_is_rounded_up_to_a_hundredth_of_a_cent(count: str, price: str, fee: str) -> None:
    assert taker_fee(Decimal(count), Decimal(price)) == Decimal(fee)


@dataclass(frozen=True)
class ExitCase:
    name: str
    held: str  # signed, bought at 0.50 of its side
    side: str
    count: str
    price: str
    filled: str
    left: str
    reason: UpdateReason
    reduce_only: bool = True


@pytest.mark.parametrize(
    "case",
    [
        ExitCase("YES sold at the bid", "10", "ask", "10", "0.01", "10", "0", UpdateReason.TRADE),
        ExitCase("NO left by buying YES", "-10", "bid", "10", "0.99", "10", "0", UpdateReason.TRADE),
        ExitCase(
            "more than held is capped", "4", "ask", "10", "0.01", "4", "0", UpdateReason.REDUCE_ONLY_CANCEL
        ),
        ExitCase("flat fills nothing", "0", "ask", "10", "0.01", "0", "0", UpdateReason.REDUCE_ONLY_CANCEL),
        ExitCase(
            "wrong side fills nothing", "10", "bid", "5", "0.99", "0", "10", UpdateReason.REDUCE_ONLY_CANCEL
        ),
        ExitCase("too thin a book fills partly", "40", "ask", "40", "0.40", "30", "10", UpdateReason.TRADE),
        ExitCase(
            "limit above the bid fills nothing", "10", "ask", "10", "0.50", "0", "10", UpdateReason.NONE
        ),
        ExitCase(
            "without reduce-only a sale flips",
            "4",
            "ask",
            "10",
            "0.01",
            "10",
            "-6",
            UpdateReason.TRADE,
            False,
        ),
    ],
    ids=lambda case: case.name,
)
def test_an_exit_takes_what_is_there_and_no_more(case: ExitCase) -> None:
    desk = Desk()
    held = Decimal(case.held)
    if held:
        side = OutcomeSide.YES if held > 0 else OutcomeSide.NO
        desk.exchange.orders.credit(T, side, abs(held), Decimal("0.50"), NOW)
    desk.quote({"0.45": "20", "0.40": "10", "0.10": "50"}, {"0.47": "20", "0.60": "50"})
    order = desk.exchange.orders.place(
        desk.new(case.side, case.count, case.price, reduce_only=case.reduce_only), NOW
    )
    assert order.fill_count == Decimal(case.filled)
    assert order.remaining_count == 0
    assert desk.held == Decimal(case.left)
    assert order.reason is case.reason
    is_full = order.fill_count == Decimal(case.count)
    assert order.status is (OrderStatus.EXECUTED if is_full else OrderStatus.CANCELED)


@pytest.mark.parametrize(
    ("side", "book_side", "bids", "asks", "limit"),
    [
        (OutcomeSide.YES, "ask", {"0.30": "6", "0.28": "4"}, {}, "0.01"),
        (OutcomeSide.NO, "bid", {}, {"0.70": "6", "0.72": "4"}, "0.99"),
    ],
    ids=["YES", "NO is its mirror"],
)
def test_leaving_either_side_costs_and_pays_the_same(
    side: OutcomeSide, book_side: str, bids: dict[str, str], asks: dict[str, str], limit: str
) -> None:
    desk = Desk()
    desk.exchange.orders.credit(T, side, Decimal(10), Decimal("0.40"), NOW)
    desk.quote(bids, asks)
    desk.exchange.orders.place(desk.new(book_side, "10", limit, reduce_only=True), NOW)
    position = desk.exchange.ledger.positions[T]
    assert position.count == 0
    assert position.cost == 0
    assert position.realized_pnl == Decimal("-1.08")
    entry_fee, exit_fees = Decimal("0.168"), Decimal("0.0882") + Decimal("0.0565")
    assert position.fees_paid == entry_fee + exit_fees
    assert desk.exchange.ledger.balance == 1000 - Decimal("1.08") - entry_fee - exit_fees


def test_price_time_priority_and_price_improvement() -> None:
    desk = Desk()
    desk.quote({"0.45": "5", "0.44": "5"}, {})
    order = desk.exchange.orders.place(desk.new("ask", "7", "0.01"), NOW)
    prices = [(h.fill.yes_price, h.fill.count) for h in desk.happened if isinstance(h, Filled)]
    assert prices == [(Decimal("0.45"), Decimal(5)), (Decimal("0.44"), Decimal(2))]
    assert order.yes_value == Decimal("3.13")


def test_a_resting_order_waits_behind_earlier_size_and_is_hit_when_crossed() -> None:
    desk = Desk()
    desk.quote({"0.45": "5"}, {"0.50": "5"})
    order = desk.exchange.orders.place(desk.new("bid", "3", "0.45", GTC), NOW)
    assert order.status is OrderStatus.RESTING
    assert desk.market.top().yes_bid_size == 8
    desk.quote({"0.40": "5"}, {"0.44": "2"})
    after = desk.exchange.ledger.orders[order.order_id]
    assert (after.fill_count, after.remaining_count) == (2, 1)
    assert after.maker_fees == 0
    assert desk.held == 2
    desk.quote({"0.40": "5"}, {"0.43": "9"})
    assert desk.exchange.ledger.orders[order.order_id].status is OrderStatus.EXECUTED


@pytest.mark.parametrize(
    ("fields", "status", "code", "details"),
    [
        ({"tif": GTC, "reduce_only": True}, 400, "invalid_order", IOC_ONLY),
        ({"tif": FOK, "reduce_only": True}, 400, "invalid_order", IOC_ONLY),
        ({"price": "0.455"}, 400, "invalid_price", ""),
        ({"price": "0.00"}, 400, "invalid_price", ""),
        ({"price": "1.00"}, 400, "invalid_price", ""),
        ({"side": "bid", "count": "10099", "price": "0.99"}, 400, "insufficient_balance", ""),
        ({"tif": GTC, "post_only": True}, 400, "invalid_order", "post only cross"),
        ({"tif": FOK, "count": "21"}, 409, "fill_or_kill_insufficient_resting_volume", ""),
        ({"client_order_id": "used"}, 409, "order_already_exists", ""),
        ({"expiration_time_s": int(NOW) + 60}, 400, "invalid_order", GTC_ONLY),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else None,
)  # fmt: skip
def test_refusals(fields: dict[str, object], status: int, code: str, details: str) -> None:
    desk = Desk()
    desk.quote({"0.45": "20"}, {"0.47": "20"})
    first = desk.exchange.orders.place(desk.new("bid", "1", "0.10", GTC, client_order_id="used"), NOW)
    desk.exchange.orders.cancel(first.order_id, NOW)
    wanted = {"side": "ask", "count": "5", "price": "0.40", **fields}
    with pytest.raises(Refused) as refused:
        desk.exchange.orders.place(desk.new(**wanted), NOW)  # type: ignore[arg-type]
    assert (refused.value.status, refused.value.code, refused.value.details) == (status, code, details)
    assert desk.held == 0


def test_a_killed_order_uses_its_client_order_id_up() -> None:
    desk = Desk()
    desk.quote({"0.45": "1"}, {})
    for code in ("fill_or_kill_insufficient_resting_volume", "order_already_exists"):
        with pytest.raises(Refused) as refused:
            desk.exchange.orders.place(desk.new("ask", "5", "0.40", FOK, client_order_id="k"), NOW)
        assert refused.value.code == code


def test_self_trade_prevention_cancels_the_side_that_was_asked_for() -> None:
    desk = Desk()
    desk.quote({}, {"0.60": "5"})
    own = desk.exchange.orders.place(desk.new("bid", "2", "0.50", GTC), NOW)
    taker = desk.exchange.orders.place(desk.new("ask", "2", "0.40"), NOW)
    assert (taker.fill_count, taker.reason) == (0, UpdateReason.SELF_TRADE_CANCEL)
    assert desk.exchange.ledger.orders[own.order_id].status is OrderStatus.RESTING
    desk.exchange.orders.place(desk.new("ask", "2", "0.40", stp=SelfTradePrevention.MAKER), NOW)
    assert desk.exchange.ledger.orders[own.order_id].reason is UpdateReason.SELF_TRADE_CANCEL


def test_resting_orders_hold_their_collateral() -> None:
    desk = Desk(balance="10")
    desk.quote({}, {"0.60": "5"})
    desk.exchange.orders.place(desk.new("bid", "15", "0.50", GTC), NOW)
    with pytest.raises(Refused) as refused:
        desk.exchange.orders.place(desk.new("bid", "15", "0.50", GTC), NOW)
    assert refused.value.code == "insufficient_balance"


def test_an_order_expires() -> None:
    desk = Desk()
    order = desk.exchange.orders.place(desk.new("bid", "1", "0.50", GTC, expiration_time_s=int(NOW) + 5), NOW)
    desk.exchange.advance(NOW + 4)
    assert desk.exchange.ledger.orders[order.order_id].status is OrderStatus.RESTING
    desk.exchange.advance(NOW + 5)
    assert desk.exchange.ledger.orders[order.order_id].reason is UpdateReason.EXPIRY_CANCEL
    assert desk.market.top().yes_bid_size == 0


def test_amend_and_decrease() -> None:
    desk = Desk()
    desk.quote({}, {"0.60": "5"})
    order = desk.exchange.orders.place(desk.new("bid", "10", "0.50", GTC), NOW)
    smaller = desk.exchange.orders.decrease(
        order.order_id, reduce_by=Decimal(3), reduce_to=None, exchange_index=None, now=NOW
    )
    assert smaller.remaining_count == 7
    _, moved = desk.exchange.orders.amend(
        order.order_id,
        ticker=T,
        side=order.side,
        price=Decimal("0.60"),
        count=Decimal(8),
        client_order_id=None,
        new_client_order_id="renamed",
        expiration_time_s=None,
        exchange_index=None,
        now=NOW,
    )
    assert (moved.fill_count, moved.remaining_count, moved.client_order_id) == (5, 3, "renamed")
    assert desk.market.top().yes_bid == Decimal("0.60")
    assert desk.market.top().yes_bid_size == 3


def test_matching_faults_cap_and_starve_orders() -> None:
    desk = Desk()
    desk.quote({"0.45": "20"}, {})
    desk.exchange.orders.limits.max_fill_per_order = Decimal(3)
    desk.exchange.orders.limits.zero_fill_orders = 1
    counts = [desk.exchange.orders.place(desk.new("ask", "10", "0.40"), NOW).fill_count for _ in range(2)]
    assert counts == [0, 3]


def test_every_order_is_announced_once_it_is_done() -> None:
    desk = Desk()
    desk.exchange.orders.place(desk.new("ask", "10", "0.40", reduce_only=True), NOW)
    orders = [h.order for h in desk.happened if isinstance(h, OrderChanged)]
    assert [(o.status, o.reason) for o in orders] == [(OrderStatus.CANCELED, UpdateReason.REDUCE_ONLY_CANCEL)]
