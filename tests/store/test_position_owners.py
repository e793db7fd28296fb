"""Whose a position is, and what entering it has cost in fees."""

from __future__ import annotations

from decimal import Decimal

import pytest

from base.model.market import BookSide, OutcomeSide
from base.model.order import EntryOrder, EntryState
from base.model.position import Fill, Position
from base.store.portfolio import AGREEMENT_S, READ_LAG_S, Portfolio
from base.store.realized import Holding, Payout, replay
from base.store.records import PositionRecord, Remembered
from tests.fakes.clock import FakeClock

D = Decimal
T = "KXHIGHNY-26NOV22-T60"
YES, NO = OutcomeSide.YES, OutcomeSide.NO
BID, ASK = BookSide.BID, BookSide.ASK
MINE, BY_HAND = "be-1", "a-web-order"


class Rig:
    """A portfolio that has read that nothing is held."""

    def __init__(self, remembered: Remembered | None = None, *rows: Position) -> None:
        self.clock = FakeClock()
        self.portfolio = Portfolio(self.clock)
        self._trades = 0
        if remembered is not None:
            self.portfolio.restore(remembered)
        self.read(*rows)

    def read(self, *rows: Position) -> None:
        self.clock.advance(READ_LAG_S + 1)
        self.portfolio.apply_read({p.ticker: p for p in rows}, self.clock.monotonic())

    def enter(self, strategy: str = "value", client_order_id: str = MINE) -> None:
        self.portfolio.note_entry(T, strategy)
        self.portfolio.order_left(T, client_order_id)

    def answer(
        self, count: str, side: BookSide = BID, *, order: str = "o1", reduce_only: bool = False
    ) -> None:
        fees = D(count) * D("0.01")
        self.portfolio.apply_answer(T, order, side, D(count), D("0.50"), fees, reduce_only=reduce_only)
        self.portfolio.order_settled(MINE)

    def fill(self, count: str, side: BookSide = BID, *, by: str = MINE, order: str = "o1") -> None:
        self._trades += 1
        self.portfolio.apply_fill(self.make(count, side, by=by, order=order, trade=f"t{self._trades}"))

    def make(
        self, count: str, side: BookSide = BID, *, by: str = MINE, order: str = "o1", trade: str = "t1"
    ) -> Fill:
        fee = D(count) * D("0.01")
        ts_ms = round(self.clock.now() * 1000)
        return Fill(trade, order, T, side, D(count), D("0.50"), fee, ts_ms, by)

    @property
    def owner(self) -> str:
        position = self.portfolio.get(T)
        assert position is not None
        return position.strategy

    @property
    def results(self) -> dict[str, Decimal]:
        """Fees by strategy."""
        return {r.strategy: r.fees for r in self.portfolio.ledger().results}


def held(count: str = "10", side: OutcomeSide = YES) -> Position:
    return Position(T, side, D(count), D("0.50"), fees_paid=D("9.99"))


@pytest.mark.parametrize("told_by", ["answer", "fill", "read"])
def test_what_an_entry_opens_is_its_strategys_however_that_is_told(told_by: str) -> None:
    rig = Rig()
    rig.enter()
    if told_by == "answer":
        rig.answer("10")
    elif told_by == "fill":
        rig.fill("10")
    else:
        rig.portfolio.order_settled(MINE)
        rig.read(held())
    assert rig.owner == "value"


@pytest.mark.parametrize("told_by", ["fill", "read"])
def test_what_is_opened_elsewhere_is_nobodys(told_by: str) -> None:
    rig = Rig()
    if told_by == "fill":
        rig.enter()
        rig.fill("10", by=BY_HAND, order="o9")
        assert rig.results == {"": D("0.10")}
    else:
        rig.enter()
        rig.answer("10")
        rig.portfolio.note_entry(T, "value")  # which did not fill
        rig.answer("10", ASK, order="o2", reduce_only=True)
        rig.read(held())
    assert rig.owner == ""


def test_an_order_that_still_rested_when_the_position_closed_opens_for_its_strategy() -> None:
    rig = Rig()
    rig.enter()
    rig.answer("0")
    rig.fill("4")
    rig.answer("4", ASK, order="o2", reduce_only=True)
    rig.read(held("6"))
    assert rig.owner == "", "a read names no order"
    rig.fill("6")
    assert rig.owner == "value"


def test_the_list_of_fills_tells_whose_a_position_is_that_a_read_has_shown() -> None:
    rig = Rig()
    rig.enter()
    rig.answer("0")
    rig.fill("4")
    rig.answer("4", ASK, order="o2", reduce_only=True)
    rig.read(held("6"))
    day, missed = rig.portfolio.ledger().day, rig.make("6", by="", trade="t9")
    assert rig.portfolio.book_missed(day, replay([missed], Holding())) == 1
    assert rig.owner == "value"


@pytest.mark.parametrize(
    ("by", "order", "owner"),
    [(MINE, "o1", "value"), (BY_HAND, "o9", "value")],
    ids=["an exit of ours", "a sale by hand"],
)
def test_what_closes_a_strategys_position_is_its_result(by: str, order: str, owner: str) -> None:
    rig = Rig()
    rig.enter()
    rig.answer("10")
    rig.fill("4", ASK, by=by, order="o2")
    rig.read(held("6"))
    assert rig.owner == owner
    rig.fill("6", ASK, by=by, order="o2")
    rig.fill("1", ASK, by=by, order="o2")
    assert rig.results == {"value": D("0.10") + D("0.11")}, "also what comes after it is gone"


def test_through_zero_by_hand_the_other_side_is_nobodys() -> None:
    rig = Rig()
    rig.enter()
    rig.answer("10")
    rig.fill("15", ASK, by=BY_HAND, order="o9")
    assert rig.portfolio.get(T) is not None
    assert rig.owner == ""
    assert set(rig.results) == {"value"}, "the sale closed the strategy's position"


RECORD = PositionRecord(T, YES, D(10), D("0.50"), 5.0, "value")


@pytest.mark.parametrize(
    ("row", "owner"),
    [(held(), "value"), (held("7"), "value"), (held(side=NO), "")],
    ids=["as it was", "less of it", "the other side"],
)
def test_after_a_restart_the_same_side_keeps_its_strategy(row: Position, owner: str) -> None:
    assert Rig(Remembered(positions=(RECORD,)), row).owner == owner


def test_a_fill_before_the_first_read_keeps_it_too() -> None:
    portfolio = Portfolio(FakeClock())
    portfolio.restore(Remembered(positions=(RECORD,)))
    sold = Fill("t1", "o1", T, ASK, D(4), D("0.50"), D(0), 1, BY_HAND, post_position=D(6))
    portfolio.apply_fill(sold)
    position = portfolio.get(T)
    assert position is not None
    assert (position.count, position.strategy) == (6, "value")


def test_an_entry_that_was_under_way_before_a_restart_opens_for_its_strategy() -> None:
    entry = EntryOrder(MINE, T, YES, D(10), D("0.50"), "value", EntryState.UNKNOWN, 5.0)
    rig = Rig(Remembered(entries=(entry,)), held())
    assert rig.owner == "value"


def test_a_payout_is_the_result_of_whoever_held_last_and_counts_once() -> None:
    rig = Rig()
    rig.enter()
    rig.answer("10")
    rig.clock.advance(60)
    for _ in range(2):
        rig.clock.advance(AGREEMENT_S)
        rig.read()
    assert rig.portfolio.get(T) is None
    payout = Payout(T, round(rig.clock.now() * 1000), D(10), D(5), D(10))
    assert rig.portfolio.book_payout(payout)
    assert not rig.portfolio.book_payout(payout)
    ledger = rig.portfolio.ledger()
    assert ledger.realized == 5
    assert [(r.strategy, r.realized) for r in ledger.results] == [("value", D(5))]


# --- what entering cost -------------------------------------------------------------------------------


def fees_of(rig: Rig) -> Decimal:
    position = rig.portfolio.get(T)
    assert position is not None
    return position.fees_paid


def test_entry_fees_are_those_of_the_contracts_held_where_fills_tell_them() -> None:
    rig = Rig()
    rig.enter()
    rig.fill("4")
    rig.answer("10")
    assert fees_of(rig) == D("0.10")
    rig.read(held())
    assert fees_of(rig) == D("0.10"), "the exchange's sum is of the market's whole life"
    rig.fill("5", ASK, by=BY_HAND, order="o2")
    assert fees_of(rig) == D("0.05")
    rig.read(held("7"))
    assert fees_of(rig) == D("9.99"), "what was added elsewhere is not known"


def test_of_an_answer_only_what_its_fills_have_not_told_counts_for_the_entry() -> None:
    rig = Rig()
    rig.enter()
    rig.portfolio.apply_fill(Fill("t1", "o1", T, BID, D(4), D("0.40"), D(0), 1, MINE))
    rig.portfolio.apply_answer(T, "o1", BID, D(10), D("0.46"), D(0))
    position = rig.portfolio.get(T)
    assert position is not None
    assert position.entry_price == D("0.46")


def test_an_entry_that_fills_tell_exactly_is_not_rounded_by_a_read() -> None:
    rig = Rig()
    rig.enter()
    rig.portfolio.apply_answer(T, "o1", BID, D(3), D("0.40"), D(0))
    rig.portfolio.apply_answer(T, "o2", BID, D(6), D("0.41"), D(0))
    rig.portfolio.order_settled(MINE)
    exact = rig.portfolio.positions()[T].entry_price
    rounded = Position(T, YES, D(9), exact.quantize(D("0.000001")))
    rig.read(rounded)
    assert rig.portfolio.positions()[T].entry_price == exact != rounded.entry_price
    rig.read(Position(T, YES, D(9), D("0.45")))
    assert rig.portfolio.positions()[T].entry_price == D("0.45"), "the exchange knows better"
