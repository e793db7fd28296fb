"""When our own bid stops being a price for what we hold."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from base.app.others_quote import MASKED_S, OthersQuotes
from base.execution.gateway import PriceView
from base.kalshi.feed import Depth
from base.model.market import Level, Market, OutcomeSide, PriceSource, Quote
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
        self.no_bids: tuple[Level, ...] = ((D("0.50"), D(5)), (D("0.42"), D(7)))
        self.canceled: list[str] = []
        self.quotes = OthersQuotes(self.resting_in, self.depth, self.canceled.append, self.clock)

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
    assert rig.canceled == [], "what others pay is in the book"


def test_without_a_book_our_bid_is_taken_off_so_that_others_bids_can_be_seen() -> None:
    rig = Rig()
    rig.own = {D("0.50"): D(5)}
    rig.no_bids = ()
    rig.bid()
    assert rig.canceled == []
    rig.clock.advance(MASKED_S)
    assert rig.bid() == (D(0), D(0))
    assert rig.canceled == [T]


def test_an_exit_is_priced_by_what_others_bid() -> None:
    rig = Rig()
    view = PriceView(Market(T), QUOTE, 0.1, True, ((D("0.45"), D(3)),), rig.no_bids)
    assert rig.quotes.view_for(view) is view
    rig.own = {D("0.50"): D(5), D("0.42"): D(2)}
    found = rig.quotes.view_for(view)
    assert found.quote is not None
    assert (found.quote.best_bid(OutcomeSide.NO), found.quote.bid_size(OutcomeSide.NO)) == (D("0.42"), D(5))
    assert (found.yes_bids, found.no_bids) == (view.yes_bids, ((D("0.42"), D(5)),))
    assert rig.quotes.view_for(replace(view, quote=None)).quote is None


def test_a_fill_of_ours_in_between_starts_the_wait_anew() -> None:
    rig = Rig()
    rig.own = {D("0.50"): D(5)}
    rig.bid()
    rig.clock.advance(MASKED_S)
    others_came = replace(QUOTE, yes_ask_size=D(9))
    assert rig.bid(others_came) == (D("0.50"), D(4))
    assert rig.bid() == (D("0.50"), D(5))
