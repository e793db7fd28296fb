"""A trading day without sockets: the sandbox's engine trades, the daemon's books hear what the wire says.

Every document is rendered by the sandbox and read by the daemon's own decoders. Messages come late, twice,
in another order or never; answers get lost and are looked up; the books restart from their journal. The
sandbox's ledger is the judge.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any

from base.app.bookkeeping import Bookkeeper
from base.kalshi.account_documents import parse_settlement_page
from base.kalshi.documents import PositionRow, parse_fill_page, parse_position_page, to_position
from base.kalshi.frames import decode_frame
from base.kalshi.order_entry import read_create_answer
from base.model.events import FillEvent
from base.model.market import ONE, ZERO, BookSide, MarketStatus, OutcomeSide
from base.model.order import (
    Order,
    OrderAck,
    OrderRequest,
    TimeInForce,
    entry_book_side,
    exit_book_side,
)
from base.model.position import Fill
from base.model.trading_day import trading_day
from base.sandbox.exchange import Exchange
from base.sandbox.happenings import Filled, Happening
from base.sandbox.market import MarketSpec
from base.sandbox.records import FillRecord, NewOrder, SelfTradePrevention, SettlementRecord
from base.sandbox.refusals import Refused
from base.sandbox.wire import ack_json, fill_json, fill_msg, position_json, settlement_json
from base.store.day_results import Ledger
from base.store.journal import Journal
from base.store.portfolio import AGREEMENT_S, Portfolio
from base.store.realized import Payout
from base.store.records import Remembered
from tests.fakes.clock import FakeClock

ALPHA, BETA, BY_HAND, MIXED = "KXALPHA-1-A", "KXBETA-1-A", "KXHAND-1-A", "KXMIXED-1-A"
ENDING = ("KXENDS-1-YES", "KXENDS-1-NO", "KXENDS-1-VOID")
STRATEGIES = {ALPHA: "alpha", BETA: "beta", MIXED: "beta", **dict.fromkeys(ENDING, "alpha")}
MARKETS = (ALPHA, BETA, BY_HAND, MIXED, *ENDING)
CENT = Decimal("0.01")
IOC, GTC = TimeInForce.IMMEDIATE_OR_CANCEL, TimeInForce.GOOD_TILL_CANCELED

Money = dict[str, tuple[Decimal, Decimal]]
"""Realized and fees by market."""
NOTHING = (ZERO, ZERO)


@dataclass(frozen=True, slots=True)
class Placed:
    """An order of ours whose answer was lost."""

    request: OrderRequest
    order_id: str


class ListedHistory:
    """What REST lists of the account, as the daemon's decoders read it."""

    def __init__(self, day: TradingDay) -> None:
        self._day = day

    def read_fills(self, since_s: int | None = None, tickers: Sequence[str] = ()) -> list[Fill]:
        ledger = self._day.exchange.ledger
        rows = [
            fill_json(f)
            for f in reversed(ledger.fills)
            if f.at >= (since_s or 0) and (not tickers or f.ticker in tickers)
        ]
        return list(parse_fill_page(json.dumps({"fills": rows, "cursor": ""}).encode())[0])

    def read_settlements(self, since_s: int) -> list[Payout]:
        rows = [self._day.settlement_row(s) for s in self._day.exchange.ledger.settlements if s.at >= since_s]
        listed, _ = parse_settlement_page(json.dumps({"settlements": rows, "cursor": ""}).encode())
        return [
            Payout(
                s.ticker,
                round(s.settled_time * 1000),
                s.yes_count - s.no_count,
                s.yes_cost + s.no_cost,
                s.revenue,
                s.fees,
            )
            for s in listed
        ]

    def read_resting(self) -> list[Order]:
        return []


class TradingDay:
    """The account's markets, what is on its way over the wire, and one run of the books after another."""

    def __init__(self, directory: Path, seed: int, start: datetime, zone: tzinfo) -> None:
        self.rng = random.Random(seed)
        self.clock = FakeClock(start.timestamp())
        self.zone = zone
        self._directory = directory
        self._ids = 0
        self._on_the_way: list[tuple[float, str]] = []  # when each message comes, and its text
        self._lost: list[Placed] = []
        self.loses_nothing = False
        self._truth: dict[str, Money] = {}  # by trading day
        self._truth_so_far: Money = {}
        self.exchange = Exchange(
            balance=Decimal(100_000), rng=random.Random(seed), sink=self._hear, new_id=self._new_id
        )
        for ticker in MARKETS:
            self.exchange.add_market(
                MarketSpec(ticker), close_time=self.clock.now() + 10 * 86_400, now=self.clock.now()
            )
            self.move(ticker)
        self.restarts = -1
        self.start_books()

    def _new_id(self) -> str:
        self._ids += 1
        return f"id-{self._ids}"

    # --- the daemon ---------------------------------------------------------------------------------

    def start_books(self, zone: tzinfo | None = None) -> None:
        """A new run: what was on its way is lost, and the journal tells what was known."""
        if self.restarts >= 0:
            self.journal.run_once()
            self.journal.stop()
            self._on_the_way.clear()
        self.restarts += 1
        self.zone = zone if zone is not None else self.zone
        self.journal = Journal.open(self._directory / "journal.db", self.clock, account="day")
        self.portfolio = Portfolio(self.clock, self.journal, self.zone)
        self.portfolio.restore(self.journal.load())
        self.books = Bookkeeper(
            self.portfolio, ListedHistory(self), lambda orders: None, self.clock, self.zone
        )
        self.read()
        self.look_up()
        self.books.run_once()

    def remembered(self) -> Remembered:
        return self.journal.load()

    def read(self) -> None:
        """One complete read of positions."""
        started_at = self.clock.monotonic()
        rows = [position_json(p) for p in self.exchange.ledger.positions.values() if not p.is_settled]
        parsed, _ = parse_position_page(json.dumps({"market_positions": rows, "cursor": ""}).encode())
        held = [to_position(row) for row in parsed if isinstance(row, PositionRow)]
        if self.portfolio.apply_read({p.ticker: p for p in held if p is not None}, started_at):
            self.books.look_for_missed()
            self.books.run_once()  # its thread does so within a second

    def settle_down(self) -> None:
        """Everything that is on its way arrives, and everything that was missed is read."""
        self.clock.advance(20)
        self.deliver()
        self.look_up()
        for _ in range(8):
            self.clock.advance(AGREEMENT_S + 6)
            self.read()
            self.books.run_once()

    def _hear(self, happening: Happening) -> None:
        if isinstance(happening, Filled):
            self._note_truth(happening.fill.at)
            self._send(happening.fill)

    def _send(self, fill: FillRecord) -> None:
        text = json.dumps({"type": "fill", "sid": 1, "msg": fill_msg(fill)})
        luck = self.rng.random()
        if luck < 0.06 and not self.loses_nothing:
            return
        for _ in range(2 if luck > 0.9 else 1):
            self._on_the_way.append((self.clock.now() + self.rng.choice([0.0, 0.1, 0.8, 4.0]), text))

    def deliver(self) -> None:
        """The messages that are due, in the order in which they come."""
        now = self.clock.now()
        due = sorted((at, text) for at, text in self._on_the_way if at <= now)
        self._on_the_way = [(at, text) for at, text in self._on_the_way if at > now]
        for _, text in due:
            event = decode_frame(text)
            assert isinstance(event, FillEvent)
            self.portfolio.apply_fill(event.fill)

    # --- trading ------------------------------------------------------------------------------------

    def move(self, ticker: str) -> None:
        """Other people's quotes change; what rests of ours and crosses is filled."""
        if self.exchange.market(ticker).status is not MarketStatus.ACTIVE:
            return
        bid = Decimal(self.rng.randint(8, 88)) * CENT
        levels = [{bid + side * step * CENT: self._count(3, 30) for step in range(1, 5)} for side in (-1, 1)]
        self.exchange.set_quotes(ticker, *levels, self.clock.now())

    def _count(self, least: int, most: int) -> Decimal:
        return Decimal(self.rng.randint(least * 100, most * 100)) / 100

    def enter(self, ticker: str) -> None:
        """An entry of the market's strategy, where nothing or its own is held."""
        strategy, held = STRATEGIES[ticker], self.portfolio.get(ticker)
        if held is not None and (held.strategy != strategy or held.count > 60):
            return
        side = held.outcome_side if held is not None else self.rng.choice(list(OutcomeSide))
        self.portfolio.note_entry(ticker, strategy)
        rests = self.rng.random() < 0.3
        book_side = entry_book_side(side)
        price = self._price(ticker, book_side, is_passive=rests)
        self._send_ours(
            f"be-{self._new_id()}", ticker, book_side, self._count(1, 25), price, GTC if rests else IOC
        )

    def leave(self, ticker: str) -> None:
        """An exit of all or a part, as the daemon sends it."""
        held = self.portfolio.get(ticker)
        if held is None or not self.exchange.ledger.position_count(ticker):
            return
        count = held.count if self.rng.random() < 0.5 else min(held.count, self._count(1, 20))
        book_side = exit_book_side(held.outcome_side)
        price = self._price(ticker, book_side, is_passive=False)
        self._send_ours(f"bs-{self._new_id()}", ticker, book_side, count, price, IOC, reduce_only=True)

    def trade_by_hand(self, ticker: str) -> None:
        """Somebody else's order for the account: it may flip what is held."""
        book_side = self.rng.choice(list(BookSide))
        is_passive = self.rng.random() < 0.2
        request = OrderRequest(
            ticker,
            f"hand-{self._new_id()}",
            book_side,
            self._count(1, 40),
            self._price(ticker, book_side, is_passive=is_passive),
            GTC if is_passive else IOC,
            reduce_only=False,
        )
        self._place(request)

    def _price(self, ticker: str, side: BookSide, *, is_passive: bool) -> Decimal:
        top = self.exchange.market(ticker).top()
        if is_passive:
            return top.yes_bid if side is BookSide.BID else top.yes_ask
        reach = self.rng.randint(0, 3) * CENT
        wanted = top.yes_ask + reach if side is BookSide.BID else top.yes_bid - reach
        return min(max(wanted, CENT), ONE - CENT)

    def _send_ours(
        self,
        client_order_id: str,
        ticker: str,
        side: BookSide,
        count: Decimal,
        price: Decimal,
        time_in_force: TimeInForce,
        *,
        reduce_only: bool = False,
    ) -> None:
        request = OrderRequest(ticker, client_order_id, side, count, price, time_in_force, reduce_only)
        self.portfolio.order_left(ticker, client_order_id)
        if self.rng.random() < 0.5:
            self.clock.advance(0.01)
        placed = self._place(request)
        if self.rng.random() < 0.4:
            self.clock.advance(1.0)  # its fills overtake the answer
            self.deliver()
        if placed is None:
            self.portfolio.order_settled(client_order_id)
        elif self.rng.random() < 0.1 and not self.loses_nothing:
            self._lost.append(Placed(request, placed[1]))
        else:
            self._take_answer(request, placed[0])

    def _place(self, request: OrderRequest) -> tuple[OrderAck, str] | None:
        now = self.clock.now()
        new = NewOrder(
            request.ticker,
            request.book_side,
            request.count,
            request.price,
            request.time_in_force,
            SelfTradePrevention.TAKER_AT_CROSS,
            request.client_order_id,
            reduce_only=request.reduce_only,
        )
        try:
            order = self.exchange.orders.place(new, now)
        except Refused:
            return None
        body = json.dumps(ack_json(order, now)).encode()
        return read_create_answer(201, body, request), order.order_id

    def _take_answer(self, request: OrderRequest, ack: OrderAck) -> None:
        self.portfolio.apply_answer(
            request.ticker,
            ack.order_id,
            request.book_side,
            ack.fill_count,
            ack.average_fill_price,
            ack.fees,
            ack.ts_ms,
            reduce_only=request.reduce_only,
        )
        self.portfolio.order_settled(request.client_order_id)

    def look_up(self) -> None:
        """Orders whose answers were lost are found in the list of orders."""
        lost, self._lost = self._lost, []
        for placed in lost:
            order = self.exchange.ledger.orders[placed.order_id]
            ack = read_create_answer(
                201, json.dumps(ack_json(order, order.updated_at)).encode(), placed.request
            )
            self._take_answer(placed.request, ack)

    def cancel_resting(self) -> None:
        self.exchange.orders.cancel_all(self.clock.now())

    # --- the end of a market --------------------------------------------------------------------------

    def end(self, ticker: str, result: OutcomeSide | None, settling_fee: str = "0") -> None:
        """Settle a market; None voids it, at 0.50 a contract and whole cents."""
        now = self.clock.now()
        fee = Decimal(settling_fee)
        if result is not None:
            self.exchange.fix_result(ticker, result)
            self.exchange.set_close_time(ticker, now, now)
            for _ in range(20):
                self.clock.advance(1)
                self.exchange.advance(self.clock.now())
        else:
            self._void(ticker)
        ledger = self.exchange.ledger
        position = ledger.positions[ticker]
        assert position.is_settled
        if fee and ledger.settlements and ledger.settlements[-1].ticker == ticker:
            ledger.positions[ticker] = replace(position, fees_paid=position.fees_paid + fee)
            ledger.settlements[-1] = replace(ledger.settlements[-1], fees=position.fees_paid + fee)
            ledger.balance -= fee
        self._note_truth(self.clock.now())

    def _void(self, ticker: str) -> None:
        ledger, market = self.exchange.ledger, self.exchange.market(ticker)
        self.cancel_resting()
        market.status = MarketStatus.FINALIZED
        p = ledger.positions[ticker]
        revenue = (abs(p.count) / 2).quantize(CENT, "ROUND_DOWN")
        ledger.balance += revenue
        ledger.positions[ticker] = replace(
            p, count=ZERO, cost=ZERO, realized_pnl=p.realized_pnl + revenue - p.cost, is_settled=True
        )
        if p.count:
            ledger.settlements.append(
                SettlementRecord(
                    ticker,
                    p.event_ticker,
                    p.exchange_index,
                    OutcomeSide.YES,
                    p.count,
                    p.cost,
                    revenue,
                    p.fees_paid,
                    self.clock.now(),
                )
            )

    def settlement_row(self, settlement: SettlementRecord) -> dict[str, Any]:
        row = dict(settlement_json(settlement))
        if settlement.ticker == ENDING[2]:
            row |= {"market_result": "void", "value": 50}
        return row

    # --- the judge ------------------------------------------------------------------------------------

    def _note_truth(self, at: float) -> None:
        """What the sandbox's own ledger has booked since the last look belongs to the day of `at`."""
        positions = self.exchange.ledger.positions
        now = {ticker: (p.realized_pnl, p.fees_paid) for ticker, p in positions.items()}
        today = self._truth.setdefault(trading_day(at, self.zone), {})
        for ticker, (realized, fees) in now.items():
            known, before = today.get(ticker, NOTHING), self._truth_so_far.get(ticker, NOTHING)
            today[ticker] = (known[0] + realized - before[0], known[1] + fees - before[1])
        self._truth_so_far = now

    def truth(self, day: str) -> Money:
        """Realized and fees of a day by market, by the sandbox's own ledger."""
        return self._truth.get(day, {})

    def whole_truth(self) -> Money:
        """Likewise, since the beginning."""
        return self._truth_so_far

    def cost_held(self) -> Decimal:
        return sum((p.cost for p in self.portfolio.positions().values()), ZERO)


def by_market(ledger: Ledger) -> Money:
    found: Money = {}
    for result in ledger.results:
        realized, fees = found.get(result.ticker, (ZERO, ZERO))
        found[result.ticker] = (realized + result.realized, fees + result.fees)
    return found
