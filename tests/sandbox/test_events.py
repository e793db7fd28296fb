"""Mutually exclusive events: sets that are cheap now and then, documents, and how they settle."""

from __future__ import annotations

from decimal import Decimal

import pytest

from base.errors import ConfigError
from base.model.market import BookSide, MarketStatus, OutcomeSide
from base.sandbox.happenings import Top
from base.sandbox.participants import cheap_set
from base.sandbox.scenario import DEFAULT_SCENARIO, Scenario, parse_scenario
from base.sandbox.server import SandboxServer
from base.sandbox.venue import BadControlRequest, Venue
from tests.fakes.clock import FakeClock
from tests.sandbox.client import Client

D = Decimal
YES, NO = OutcomeSide.YES, OutcomeSide.NO
NAMES = ("KXN-1-A", "KXN-1-B", "KXN-1-C")


def scenario(event: str = "", first: str = "", close_after_s: float = 3600) -> Scenario:
    """Three markets of one event, whose NO asks sum to 2.07, and one market beside them."""
    return parse_scenario(
        f"""
        [[event]]
        ticker = "KXN-1"
        {event}
        [[market]]
        ticker = "KXN-1-A"
        bid = "0.44"
        ask = "0.46"
        close_after_s = {close_after_s}
        {first}
        [[market]]
        ticker = "KXN-1-B"
        bid = "0.30"
        ask = "0.32"
        close_after_s = {close_after_s}
        [[market]]
        ticker = "KXN-1-C"
        bid = "0.19"
        ask = "0.21"
        close_after_s = {close_after_s}
        [[market]]
        ticker = "KXM-1-Z"
        bid = "0.50"
        ask = "0.52"
        close_after_s = {close_after_s}
        """
    )


class Played:
    def __init__(self, of: Scenario) -> None:
        self.clock = FakeClock()
        self.venue = Venue(of, clock=self.clock, seed=7)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.1)):
            self.clock.advance(0.1)
            self.venue.step()

    def top(self, ticker: str) -> Top:
        return self.venue.exchange.market(ticker).top()

    def set_of_no(self) -> Decimal:
        """What NO of all three costs."""
        return sum((1 - self.top(t).yes_bid for t in NAMES), D(0))

    def set_of_yes(self) -> Decimal:
        return sum((self.top(t).yes_ask for t in NAMES), D(0))

    def results(self) -> list[OutcomeSide | None]:
        return [self.venue.exchange.market(t).result for t in NAMES]


def test_a_set_of_no_is_cheap_for_as_long_and_as_often_as_the_scenario_says() -> None:
    played = Played(scenario('cheap_every_s = 30\ncheap_for_s = 5\ncheap_by = "0.12"'))
    played.run(0.5)
    costs = []
    for _ in range(75):
        played.run(1)
        costs.append(played.set_of_no())
    assert costs[:29] == [D("2.07")] * 29
    assert [t for t, cost in enumerate(costs, 1) if cost == D("1.88")] == [
        *range(30, 35),
        *range(65, 70),
    ]
    assert set(costs) == {D("2.07"), D("1.88")}
    assert played.top("KXM-1-Z").yes_bid == D("0.50")


def test_a_set_of_yes_can_be_cheap_too() -> None:
    played = Played(scenario('cheap_every_s = 10\ncheap_side = "yes"\ncheap_by = "0.08"'))
    assert played.set_of_yes() == D("0.99")
    played.run(11)
    assert played.set_of_yes() == D("0.92")
    assert all(played.top(t).yes_bid < played.top(t).yes_ask for t in NAMES)


def test_what_was_bought_of_a_cheap_set_does_not_come_back_while_it_is_cheap() -> None:
    played = Played(scenario("cheap_every_s = 10\ncheap_for_s = 5"))
    played.run(10.5)
    market = played.venue.exchange.market("KXN-1-A")
    bid, size = played.top("KXN-1-A").yes_bid, played.top("KXN-1-A").yes_bid_size
    market.book.take_front(BookSide.BID, bid, size)
    played.run(4)
    assert played.top("KXN-1-A").yes_bid < bid
    played.run(2)
    assert played.top("KXN-1-A").yes_bid == D("0.44")


def test_a_market_that_is_paused_or_set_by_hand_ends_the_cheap_sets() -> None:
    played = Played(scenario("cheap_every_s = 10"))
    played.venue.set_market("KXN-1-B", {"bid": "0.30", "ask": "0.32"})
    played.run(12)
    assert played.set_of_no() == D("2.07")
    played = Played(scenario("cheap_every_s = 10"))
    played.venue.set_market("KXN-1-B", {"status": "inactive"})
    played.run(12)
    assert played.top("KXN-1-A").yes_bid == D("0.44")


@pytest.mark.parametrize("side", [YES, NO])
def test_prices_that_can_become_no_cheaper_stay_prices(side: OutcomeSide) -> None:
    for bid, ask in cheap_set([(D("0.02"), D("0.98"))] * 2, D(1), side):
        assert 0 < bid < ask < 1


@pytest.mark.parametrize(
    ("event", "first", "results"),
    [
        ('result = "KXN-1-C"', "", [NO, NO, YES]),
        ('result = "none"', "", [NO, NO, NO]),
        ("", 'result = "yes"', [YES, NO, NO]),
        ("", 'result = "no"', [NO, YES, NO]),
        ("", "", [YES, NO, NO]),
    ],
    ids=["named", "none of them", "one market's own yes", "one market's own no", "the dearest"],
)
def test_at_most_one_market_of_an_event_ends_yes(event: str, first: str, results: list[OutcomeSide]) -> None:
    played = Played(scenario(event, first, close_after_s=20))
    played.run(40)
    assert played.results() == results
    assert played.venue.exchange.market("KXM-1-Z").result is YES  # by its own price, as ever
    assert played.venue.exchange.market("KXN-1-A").status is MarketStatus.FINALIZED


def test_a_market_made_to_win_by_hand_makes_the_others_lose() -> None:
    played = Played(scenario())
    played.venue.set_market("KXN-1-B", {"result": "yes", "status": "closed"})
    played.run(15)
    assert played.results() == [None, YES, None]
    with pytest.raises(BadControlRequest):
        played.venue.set_market("KXN-1-A", {"result": "yes"})
    for ticker in ("KXN-1-A", "KXN-1-C"):
        played.venue.set_market(ticker, {"status": "closed"})
    played.run(15)
    assert played.results() == [NO, YES, NO]


def test_a_set_of_no_is_paid_all_but_one_contract() -> None:
    played = Played(scenario('result = "KXN-1-B"', close_after_s=20))
    for ticker in NAMES:
        played.venue.exchange.orders.credit(ticker, NO, D(10), D("0.60"), played.clock.now())
    played.run(40)
    paid = {s.ticker: s.revenue for s in played.venue.exchange.ledger.settlements}
    assert paid == {"KXN-1-A": 10, "KXN-1-B": 0, "KXN-1-C": 10}


@pytest.mark.parametrize(
    ("event", "first", "word"),
    [
        ("surprise = 1", "", "unknown key"),
        ('result = "KXM-1-Z"', "", "result must be one of"),
        ('result = "KXN-1-B"', 'result = "yes"', "at most one"),
        ('result = "none"', 'result = "yes"', "at most one"),
        ('cheap_side = "both"', "", "cheap_side must be one of"),
        ('cheap_by = "2"', "", "cheap_by must lie between"),
        ("cheap_every_s = -1", "", "number of seconds"),
        ('[[event]]\nticker = "KXN-1"', "", "named twice"),
        ('[[event]]\nticker = "KXM-1"', "", "at least two markets"),
    ],
)
def test_problems_are_named(event: str, first: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        scenario(event, first)


def test_documents_say_which_events_exclude() -> None:
    with SandboxServer(scenario()) as server, Client(server) as client:
        rows = client.get("/events?with_nested_markets=true")["events"]
        said = {row["event_ticker"]: row["mutually_exclusive"] for row in rows}
        assert said == {"KXN-1": True, "KXM-1": False}
        assert {m["ticker"] for row in rows for m in row["markets"]} == {*NAMES, "KXM-1-Z"}
        assert client.get("/events/KXN-1")["event"]["mutually_exclusive"] is True


def test_the_event_of_the_default_scenario_leaves_all_else_as_the_seed_moves_it() -> None:
    alone = Played(parse_scenario(DEFAULT_SCENARIO.partition("[[event]]")[0]))
    beside = Played(parse_scenario(DEFAULT_SCENARIO))
    tickers = list(alone.venue.exchange.markets)
    assert len(tickers) == 8
    for _ in range(120):
        alone.run(1)
        beside.run(1)
        assert [alone.top(t) for t in tickers] == [beside.top(t) for t in tickers]
