"""When our own bid stops being a price for what we hold."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from base.app.others_quote import MASKED_S, OthersQuotes
from base.kalshi.websocket_client import Depth
from base.model.market import OutcomeSide, PriceSource, Quote
from base.model.position import Position
from tests.fakes.clock import FakeClock

T = "KXTEST-A"
D = Decimal
HELD = Position(T, OutcomeSide.NO, D(10), D("0.60"))
QUOTE = Quote(T, D("0.45"), D("0.50"), D(3), D(5), None, 1, 1.0, 1.0, PriceSource.WS, 1)
"""The best NO bid is 0.50 for 5 contracts."""


class Rig:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.own: dict[Decimal, Decimal] = {}
        self.no_bids = ((D("0.50"), D(5)), (D("0.42"), D(7)))
        self.quotes = OthersQuotes(self.resting_in, self.depth, self.clock)

    def resting_in(self, ticker: str, side: OutcomeSide) -> dict[Decimal, Decimal]:
        return self.own if (ticker, side) == (T, OutcomeSide.NO) else {}

    def depth(self, ticker: str) -> Depth:
        assert ticker == T
        return ((D("0.45"), D(3)),), self.no_bids

    def bid(self, quote: Quote = QUOTE) -> tuple[Decimal, Decimal | None]:
        found = self.quotes.quote_for(HELD, quote)
        return found.best_bid(OutcomeSide.NO), found.bid_size(OutcomeSide.NO)


def test_without_orders_of_ours_the_quote_is_the_quote() -> None:
    assert Rig().quotes.quote_for(HELD, QUOTE) is QUOTE


def test_our_share_of_a_bid_is_taken_off_at_once() -> None:
    rig = Rig()
    rig.own = {D("0.50"): D(2)}
    assert rig.bid() == (D("0.50"), D(3))


def test_a_bid_that_is_ours_alone_gives_way_to_what_others_pay() -> None:
    rig = Rig()
    rig.own = {D("0.50"): D(5)}
    assert rig.bid() == (D("0.50"), D(5)), "it may have filled this very moment"
    rig.clock.advance(MASKED_S - 0.1)
    assert rig.bid() == (D("0.50"), D(5))
    rig.clock.advance(0.1)
    assert rig.bid() == (D("0.42"), D(7))


def test_a_fill_of_ours_in_between_starts_the_wait_anew() -> None:
    rig = Rig()
    rig.own = {D("0.50"): D(5)}
    rig.bid()
    rig.clock.advance(MASKED_S)
    others_came = replace(QUOTE, yes_ask_size=D(9))
    assert rig.bid(others_came) == (D("0.50"), D(4))
    assert rig.bid() == (D("0.50"), D(5))
