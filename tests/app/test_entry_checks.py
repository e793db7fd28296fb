"""What an entry is judged by when not all is known yet."""

from __future__ import annotations

from decimal import Decimal

from base.app.entry_checks import EntryChecks
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.model.market import BookSide, Market, MarketStatus, OutcomeSide
from base.model.position import Fill, Position
from base.risk.limits import Limits
from base.risk.trading_state import TradingState
from base.store.portfolio import Portfolio
from base.store.reconcile import READ_LAG_S
from tests.fakes.clock import FakeClock

T, OTHER = "KXA-26NOV22-T1", "KXB-26NOV22-T1"
HUNDRED = Decimal(100)
SIX = Limits(HUNDRED, Decimal(6), HUNDRED, HUNDRED)


def test_nothing_is_bought_by_the_cost_that_a_fill_after_a_restart_tells() -> None:
    """Held since before it: 7 at 0.54. The fill of an order left behind adds 4 at 0.49, before any read."""
    clock = FakeClock()
    portfolio, cache = Portfolio(clock), WebsocketPriceCache(clock, 60.0)
    cache.require([T, OTHER], [])
    for ticker in (T, OTHER):
        cache.apply_market(Market(ticker, MarketStatus.ACTIVE, close_time=clock.now() + 86_400))
    checks = EntryChecks(
        portfolio,
        cache,
        SIX,
        lambda: TradingState.ACTIVE,
        lambda ticker: False,
        lambda ticker: True,
        lambda: True,
        lambda: None,
        clock,
    )

    def why(ticker: str) -> str:
        return checks.judge(ticker, Decimal("0.40"), checks.look(), {}, 0)

    held = Position(T, OutcomeSide.YES, Decimal(11), Decimal("5.74") / 11)
    price = Decimal("0.49")
    portfolio.apply_fill(
        Fill("t", "o", T, BookSide.BID, Decimal(4), price, Decimal(0), 1, post_position=Decimal(11))
    )
    portfolio.apply_read({T: held}, clock.monotonic())
    assert portfolio.positions()[T].cost < held.cost, "too fresh for the read to judge"
    assert "not read yet" in why(T)
    assert "not read yet" in why(OTHER), "it counts for the whole account"
    clock.advance(READ_LAG_S + 1)
    portfolio.apply_read({T: held}, clock.monotonic())
    assert why(T).startswith("position_cost")
    assert why(OTHER) == ""
