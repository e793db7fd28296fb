"""The fill model against a matching engine: two exchanges with the same seed, one that takes the orders
and one that is only looked at.

Without latency there is nothing left to differ by but queues: what takes fills alike, and what rests fills
on paper at most as much as in the queue.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import Decimal

import pytest

from base.execution.gateway import PriceView
from base.model.market import ONE, BookSide, Market, MarketStatus, PriceSource, Quote
from base.model.order import OrderRequest, TimeInForce
from base.sandbox.exchange import Exchange
from base.sandbox.market import MarketSpec
from base.sandbox.participants import Participants
from base.sandbox.records import NewOrder, SelfTradePrevention
from base.sandbox.refusals import Refused
from base.sandbox.scenario import MarketPlan, QuoteMode
from tests.execution.paper_rig import BID, FOK, GTC, IOC, D, PaperRig, T

NOW = 1_790_000_000.0
STEP_S = 0.25
STEPS = 600
LEVELS_MAX = 5


class Venue:
    """One exchange whose participants walk as their seed says."""

    def __init__(self, seed: int) -> None:
        self.exchange = Exchange(balance=D("100000"), rng=random.Random(seed), sink=lambda happening: None)
        self.exchange.add_market(MarketSpec(T, grid_name="linear_cent"), close_time=NOW + 1e6, now=NOW)
        self.participants = Participants(self.exchange, random.Random(seed))
        plan = MarketPlan(T, bid=D("0.50"), ask=D("0.52"), size=D(60), mode=QuoteMode.WALK)
        self.participants.join(plan, NOW)
        self.market = self.exchange.market(T)

    def view(self) -> PriceView:
        top, book = self.market.top(), self.market.book
        quote = Quote(
            T,
            top.yes_bid,
            top.yes_ask,
            top.yes_bid_size,
            top.yes_ask_size,
            None,
            int(self.market.updated_at * 1000),
            0.0,
            0.0,
            PriceSource.WS,
            connection=1,
        )
        no = tuple((ONE - price, size) for price, size in book.levels(BookSide.ASK))
        yes = tuple(book.levels(BID))
        return PriceView(
            Market(T, status=MarketStatus.ACTIVE), quote, 0.0, True, yes[:LEVELS_MAX], no[:LEVELS_MAX]
        )


@dataclass(frozen=True)
class Outcome:
    """What became of one order; `refused` is its code, "" when it was taken."""

    tif: TimeInForce
    filled: Decimal
    value: Decimal
    refused: str = ""


class Twins:
    """The same orders, live on one venue and on paper beside the other."""

    def __init__(self, seed: int) -> None:
        self.taken, self.watched = Venue(seed), Venue(seed)
        self.rng = random.Random(seed + 1)
        self.rig = PaperRig()
        self.now = NOW
        self.sent: dict[str, OrderRequest] = {}
        self.refused: dict[str, tuple[str, str]] = {}

    def step(self) -> None:
        self.now += STEP_S
        self.rig.clock.advance(STEP_S)
        for venue in (self.taken, self.watched):
            venue.participants.step(self.now)
        self.rig.view = self.watched.view()
        self.rig.gateway.run_once()

    def order(self) -> None:
        rng = self.rng
        rests = self.rig.gateway.resting_tickers
        tif = rng.choice((IOC, IOC, FOK, GTC))
        side = BID if rests else rng.choice(tuple(BookSide))
        best = self.watched.market.book.best(BookSide.ASK if side is BID else BID)
        assert best is not None
        cents = rng.randint(-3, 3)
        price = min(max(best + D(cents) / 100, D("0.02")), D("0.98"))
        if tif is GTC:
            side, price = BID, price - D("0.03")
        request = self.rig.request(side, str(D(rng.randint(1, 40_000)) / 100), str(price), tif)
        self.sent[request.client_order_id] = request
        self.refused[request.client_order_id] = (self._live(request), self._on_paper(request))

    def _live(self, r: OrderRequest) -> str:
        stp = SelfTradePrevention.TAKER_AT_CROSS
        new = NewOrder(T, r.book_side, r.count, r.price, r.time_in_force, stp, r.client_order_id)
        try:
            self.taken.exchange.orders.place(new, self.now)
        except Refused as refused:
            return refused.code
        return ""

    def _on_paper(self, request: OrderRequest) -> str:
        answer = self.rig.gateway.create_orders([request])[0]
        return getattr(answer, "code", "")

    def cancel_all(self) -> None:
        self.taken.exchange.orders.cancel_all(self.now)
        for client_order_id in self.sent:
            found = self.rig.gateway.find_orders({client_order_id: T}, 0).found.get(client_order_id)
            if found is not None and found.status == "resting":
                self.rig.gateway.cancel_entry(found.order_id, T)

    def outcomes(self) -> list[tuple[Outcome, Outcome]]:
        """Of each order, live and on paper."""
        live = {o.client_order_id: o for o in self.taken.exchange.ledger.orders.values()}
        paper = self.rig.gateway.find_orders(dict.fromkeys(self.sent, T), 0).found
        pairs = []
        for name, request in self.sent.items():
            refused_live, refused_paper = self.refused[name]
            there, here = live.get(name), paper.get(name)
            price = here.average_yes_price if here is not None else None
            pairs.append(
                (
                    Outcome(
                        request.time_in_force,
                        there.fill_count if there is not None else D(0),
                        there.yes_value if there is not None else D(0),
                        refused_live,
                    ),
                    Outcome(
                        request.time_in_force,
                        here.fill_count if here is not None else D(0),
                        here.fill_count * price if here is not None and price is not None else D(0),
                        refused_paper,
                    ),
                )
            )
        return pairs


@pytest.mark.parametrize("seed", [3, 11, 27])
def test_what_takes_fills_alike_and_what_rests_at_most_as_much(seed: int) -> None:
    twins = Twins(seed)
    for number in range(STEPS):
        twins.step()
        if number % 3 == 0:
            twins.order()
        if number % 25 == 24:
            twins.cancel_all()
    rested = [D(0), D(0)]
    taken = 0
    for live, paper in twins.outcomes():
        assert live.refused == paper.refused
        if live.tif is GTC:
            assert paper.filled <= live.filled
            rested[0] += live.filled
            rested[1] += paper.filled
        else:
            assert (paper.filled, round(paper.value, 6)) == (live.filled, live.value)
            taken += live.filled > 0
    assert taken > 25
    assert rested[0] * D("0.9") <= rested[1] > 0
    if rested[0] == rested[1]:
        held = twins.rig.gateway.overlay({}).get(T)
        signed = D(0) if held is None else held.signed_count
        assert signed == twins.taken.exchange.ledger.position_count(T)
