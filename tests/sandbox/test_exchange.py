"""Lifecycle, ticker pacing and settlement of the engine."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest

from base.model.market import MarketStatus, OutcomeSide
from base.model.order import TimeInForce
from base.sandbox.exchange import Exchange
from base.sandbox.happenings import LevelChanged, LifecycleChanged, SnapshotDue, TickerChanged
from base.sandbox.market import NO_QUOTE
from base.sandbox.records import UpdateReason
from base.sandbox.refusals import Refused
from tests.sandbox.engine import NOW, Desk, T


def run(exchange: Exchange, start: float, seconds: float) -> float:
    """Advance in steps of 50 ms; return the time reached."""
    steps = int(seconds / 0.05)
    for step in range(steps + 1):
        exchange.advance(start + step * 0.05)
    return start + seconds


def test_a_ticker_comes_at_most_once_a_second_and_only_on_change() -> None:
    desk = Desk()
    for step in range(60):
        now = NOW + step * 0.05
        size = str(10 + step)
        desk.quote({"0.45": size}, {"0.47": "10"}, now)
        desk.exchange.advance(now)
    tickers = [h for h in desk.happened if isinstance(h, TickerChanged)]
    assert 2 <= len(tickers) <= 3
    stamps = [t.ts_ms for t in tickers]
    assert all(later - earlier >= 1000 for earlier, later in pairwise(stamps))
    count = len(tickers)
    run(desk.exchange, NOW + 4, 5)
    assert len([h for h in desk.happened if isinstance(h, TickerChanged)]) == count + 1


def test_the_close_is_silent_then_an_empty_ticker_then_an_empty_snapshot() -> None:
    desk = Desk()
    desk.exchange.orders.credit(T, OutcomeSide.YES, Decimal(10), Decimal("0.50"), NOW)
    resting = desk.exchange.orders.place(desk.new("ask", "2", "0.99", TimeInForce.GOOD_TILL_CANCELED), NOW)
    desk.quote({"0.95": "10"}, {"0.97": "10"})
    run(desk.exchange, NOW, 3)
    desk.happened.clear()
    close = desk.market.close_time
    desk.exchange.advance(close)
    assert desk.market.status is MarketStatus.CLOSED
    assert desk.market.top() == NO_QUOTE
    assert not [h for h in desk.happened if isinstance(h, LifecycleChanged | TickerChanged)]
    assert desk.exchange.ledger.orders[resting.order_id].reason is UpdateReason.CLOSE_CANCEL
    with pytest.raises(Refused) as refused:
        desk.exchange.orders.place(desk.new("ask", "1", "0.50"), close)
    assert refused.value.code == "market_inactive"
    run(desk.exchange, close, 2)
    assert len([h for h in desk.happened if isinstance(h, TickerChanged)]) == 1
    assert not [h for h in desk.happened if isinstance(h, SnapshotDue)]
    run(desk.exchange, close + 2, 6.1)
    assert len([h for h in desk.happened if isinstance(h, SnapshotDue)]) == 1


@pytest.mark.parametrize(
    ("side", "result", "revenue", "realized"),
    [
        (OutcomeSide.YES, OutcomeSide.YES, 10, 5),
        (OutcomeSide.YES, OutcomeSide.NO, 0, -5),
        (OutcomeSide.NO, OutcomeSide.NO, 10, 5),
        (OutcomeSide.NO, OutcomeSide.YES, 0, -5),
    ],
)
def test_settlement_pays_one_dollar_a_winning_contract(
    side: OutcomeSide, result: OutcomeSide, revenue: int, realized: int
) -> None:
    desk = Desk()
    desk.exchange.orders.credit(T, side, Decimal(10), Decimal("0.50"), NOW)
    desk.exchange.fix_result(T, result)
    before = desk.exchange.ledger.balance
    run(desk.exchange, desk.market.close_time, 16)
    assert desk.market.status is MarketStatus.FINALIZED
    (settlement,) = desk.exchange.ledger.settlements
    assert (settlement.revenue, settlement.result) == (revenue, result)
    position = desk.exchange.ledger.positions[T]
    assert (position.count, position.realized_pnl, position.is_settled) == (0, realized, True)
    assert desk.exchange.ledger.balance == before + revenue


def test_without_a_fixed_result_the_last_real_price_decides() -> None:
    desk = Desk()
    desk.quote({"0.98": "5"}, {})
    run(desk.exchange, desk.market.close_time, 16)
    assert desk.market.result is OutcomeSide.YES


def test_reopening_a_paused_market_cancels_resting_orders() -> None:
    desk = Desk()
    order = desk.exchange.orders.place(desk.new("bid", "1", "0.50", TimeInForce.GOOD_TILL_CANCELED), NOW)
    desk.exchange.pause(T, NOW)
    with pytest.raises(Refused) as refused:
        desk.exchange.orders.place(desk.new("bid", "1", "0.50"), NOW)
    assert (refused.value.status, refused.value.code) == (409, "trading_is_paused")
    assert order.order_id in desk.exchange.ledger.resting
    desk.exchange.resume(T, NOW)
    assert desk.exchange.ledger.orders[order.order_id].reason is UpdateReason.HALT_CANCEL
    assert desk.market.status is MarketStatus.ACTIVE


def test_replaying_the_level_changes_gives_the_book() -> None:
    desk = Desk()
    for number in range(1, 20):
        bid = Decimal(30 + number % 7) / 100
        desk.quote({str(bid): str(number), "0.10": "5"}, {str(bid + Decimal("0.02")): "7"})
        desk.exchange.orders.place(desk.new("ask", "1.5", "0.05"), NOW)
    levels: dict[tuple[str, Decimal], Decimal] = {}
    for happening in desk.happened:
        if isinstance(happening, LevelChanged):
            key = (happening.side.value, happening.price)
            levels[key] = levels.get(key, Decimal(0)) + happening.change
    rebuilt = {key: size for key, size in levels.items() if size}
    book = desk.market.book
    actual = {
        (s.value, p): size for s in type(desk.new("bid", "1", "0.5").side) for p, size in book.levels(s)
    }
    assert rebuilt == actual
