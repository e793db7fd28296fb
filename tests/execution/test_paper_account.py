"""What the paper account holds beside the exchange's word, whatever happens on the exchange meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.execution.paper_account import PaperAccount
from base.model.market import ZERO, BookSide, OutcomeSide
from base.model.order import to_yes_leg
from base.model.position import Position
from base.store.reconcile import AGREEMENT_S
from base.store.records import PaperRecord
from tests.execution.paper_rig import ASK, BID, NO, YES, D, T, real

VALUE = D("0.42")
"""What a contract fetches on the exchange when it is sold there."""


class Held:
    """An account and the reads that it is shown, on a time of the test's own."""

    def __init__(self, held: Position | None = None, journal: dict[str, PaperRecord] | None = None) -> None:
        self.journal = journal if journal is not None else {}
        self.account = PaperAccount(self.journal.values())
        self.now = 1_000.0
        self.sees(held)

    def sees(self, held: Position | None, after_s: float = 0.0, *, is_whole: bool = True) -> Decimal:
        self.now += after_s
        rows = {} if held is None else {T: held}
        self.account.take_read(rows, self.now, lambda ticker, side: VALUE, is_whole=is_whole)
        return self.signed

    def agrees(self, held: Position | None) -> Decimal:
        """Reads that go on long enough to be believed."""
        self.sees(held)
        return self.sees(held, AGREEMENT_S)

    @property
    def signed(self) -> Decimal:
        held = self.account.held(T)
        return ZERO if held is None else held.signed_count

    def trades(self, side: BookSide, count: str, price: str = "0.40", fee: str = "0") -> Decimal:
        return self.account.fill(T, side, D(count), D(price), D(fee), None, 1.0)

    def restarted(self, held: Position | None) -> Held:
        """The next run, whose first read shows this."""
        self.journal |= {record.key: record for record in self.account.take_records()}
        return Held(held, self.journal)


# --- the exchange's own position moves ----------------------------------------------------------------


@dataclass(frozen=True)
class Moved:
    name: str
    sold: str
    then: Position | None
    at_once: str
    """Signed count that is shown by the first read, of 10 YES at 0.50 of which `sold` were sold here."""
    later: str
    """By reads that agree."""


MOVES = [
    Moved("nothing moves", "4", real("10"), "6", "6"),
    Moved("bought more by hand", "10", real("16", entry="0.55"), "6", "6"),
    Moved("sold some by hand, less than is left here", "4", real("7"), "3", "3"),
    Moved("sold so many that nothing is left here", "8", real("5"), "0", "0"),
    Moved("closed by hand", "10", None, "0", "0"),
    Moved("closed by hand after a part was sold here", "4", None, "0", "0"),
    Moved("turned by hand: the other side is held in full", "10", real("5", NO), "-5", "-5"),
    Moved("sold and bought anew at another price", "10", real("10", entry="0.62"), "10", "10"),
    Moved("sold and bought anew, more of it and cheaper", "10", real("12", entry="0.30"), "12", "12"),
]


@pytest.mark.parametrize("is_down", [False, True], ids=["while it runs", "while it is down"])
@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.name)
def test_what_the_exchange_does_meanwhile(move: Moved, is_down: bool) -> None:
    held = Held(real("10"))
    held.trades(ASK, move.sold)
    if is_down:
        held = held.restarted(move.then)
        assert held.signed == D(move.at_once)
    else:
        assert held.sees(move.then) == D(move.at_once)
    assert held.agrees(move.then) == D(move.later)


@pytest.mark.parametrize(
    ("then", "shown"),
    [(real("16", entry="0.55"), 6), (real("10"), 0)],
    ids=["bought more: the new ones are held", "as it was: it stays sold"],
)
def test_what_was_sold_stays_sold(then: Position, shown: int) -> None:
    held = Held(real("10"))
    assert held.trades(ASK, "10") == 0
    assert held.restarted(then).restarted(then).agrees(then) == shown


def test_what_is_bought_anew_after_a_part_was_sold_there_is_held() -> None:
    held = Held(real("10"))
    held.trades(ASK, "8")
    assert held.agrees(real("5")) == 0
    assert held.sees(real("9")) == 4


def test_both_sides_bought_here_are_a_dollar_each() -> None:
    held = Held()
    held.trades(ASK, "4", "0.40")
    assert held.sees(real("10")) == 6
    assert held.trades(BID, "5", "0.42") == 11
    assert held.account.cash == -4 * D("0.60") - 5 * D("0.42") + 4


@pytest.mark.parametrize("glitch", [None, real("2"), real("3", NO)], ids=["empty", "less", "the other side"])
@pytest.mark.parametrize("is_down", [False, True], ids=["while it runs", "the first read of a run"])
def test_one_read_that_shows_less_gives_nothing_back(glitch: Position | None, is_down: bool) -> None:
    held = Held(real("10"))
    held.trades(ASK, "8")
    if is_down:
        held = held.restarted(glitch)
    else:
        held.sees(glitch)
    assert held.sees(real("10"), AGREEMENT_S - 1) == 2
    assert held.sees(glitch, 5.0) is not None
    assert held.sees(real("10"), 5.0) == 2, "the doubt began anew"
    assert held.account.cash == D("3.20")


def test_a_read_that_is_not_whole_says_nothing_about_what_it_does_not_show() -> None:
    held = Held(real("10"))
    held.trades(ASK, "8")
    assert held.sees(None, is_whole=False) == 2
    assert held.sees(None, 2 * AGREEMENT_S, is_whole=False) == 2
    assert held.sees(real("10")) == 2


def test_after_it_has_lapsed_a_new_position_is_held_in_full() -> None:
    held = Held(real("10"))
    held.trades(ASK, "10")
    held.agrees(None)
    assert held.account.take_lapses() == [(T, D(10))]
    assert held.restarted(real("10")).signed == 10


def test_a_position_that_turned_is_sold_at_once_and_not_twice() -> None:
    held = Held(real("10"))
    held.trades(ASK, "10")
    assert held.sees(real("5", NO)) == -5
    assert held.trades(BID, "5", "0.60") == 0
    assert held.agrees(real("5", NO)) == 0


def test_a_contract_sold_here_and_there_brings_money_once() -> None:
    held = Held(real("10"))
    held.trades(ASK, "10", "0.40")
    assert held.account.cash == D("4.00")
    held.agrees(None)  # sold by hand at what it fetches, which the exchange's balance holds
    assert held.account.cash == D("4.00") - 10 * VALUE


def test_an_entry_that_is_no_number_is_held_all_the_same() -> None:
    held = Held(real("10"))
    held.trades(ASK, "4")
    assert held.sees(real("10", entry="NaN")) == 6


# --- what is opened here ------------------------------------------------------------------------------


def test_what_was_bought_is_held_after_a_restart() -> None:
    held = Held()
    held.trades(ASK, "5", "0.40")
    again = held.restarted(None)
    assert again.signed == -5
    position = again.account.held(T)
    assert position is not None
    assert (position.entry_price, position.opened_at) == (D("0.60"), 1.0)
    assert again.agrees(None) == -5, "no read of the exchange takes it away"
    assert again.account.cash == D("-3.00")


def test_bought_beside_a_real_position_averages_and_is_sold_first() -> None:
    held = Held(real("10"))
    assert held.trades(BID, "10", "0.42") == 20
    position = held.account.held(T)
    assert position is not None
    assert position.entry_price == D("0.46")
    assert held.trades(ASK, "10") == 10
    (record, _) = sorted(held.account.take_records(), key=lambda r: not r.ticker)
    assert (record.taken_off, record.opened) == (0, 0)


def test_through_zero_opens_the_other_side() -> None:
    held = Held(real("10"))
    assert held.trades(ASK, "15", "0.40") == -5
    assert held.account.cash == D("4.00") - D("3.00")


# --- the end of a market ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held_real", "trades", "yes_value", "signed", "revenue", "cash"),
    [
        (None, [(BID, "5", "0.40")], "1", "5", "5", "3.00"),
        (None, [(BID, "5", "0.40")], "0", "5", "0", "-2.00"),
        (None, [(ASK, "5", "0.40")], "0", "-5", "5", "2.00"),
        (None, [(BID, "5", "0.40")], "0.35", "5", "1.75", "-0.25"),
        (real("10"), [(ASK, "4", "0.40")], "1", "6", "6", "-2.40"),
        (real("10"), [(ASK, "4", "0.40")], "0", "6", "0", "1.60"),
        (real("10"), [(ASK, "10", "0.40")], "1", None, None, "-6.00"),
        (real("10"), [], "1", "10", "10", "0"),
    ],
    ids=[
        "bought here, and won", "bought here, and lost", "NO bought here, and won", "a scalar result",
        "a part was sold here: the rest wins", "a part was sold here: the rest loses",
        "all was sold here: the exchange's payment is not ours", "never traded here: the exchange pays",
    ],
)  # fmt: skip
def test_the_end_of_a_market_pays_what_is_held_once(
    held_real: Position | None,
    trades: list[tuple[BookSide, str, str]],
    yes_value: str,
    signed: str | None,
    revenue: str | None,
    cash: str,
) -> None:
    held = Held(held_real)
    for side, count, price in trades:
        held.trades(side, count, price)
    payout = held.account.settle(T, D(yes_value), 5_000)
    if signed is None or revenue is None:
        assert payout is None
    else:
        assert payout is not None
        assert (payout.signed, payout.revenue) == (D(signed), D(revenue))
        assert payout.trade_id == f"settlement:{T}:5000"
    assert held.account.cash == D(cash)
    assert held.account.settle(T, D(yes_value), 6_000) is None
    assert held.sees(held_real) == 0, "the exchange may show it a little longer"
    assert held.account.cash == D(cash)


# --- what always holds --------------------------------------------------------------------------------

cents = st.integers(1, 99).map(lambda n: Decimal(n) / 100)
counts = st.integers(1, 3_000).map(lambda n: Decimal(n) / 100)
trades = st.lists(st.tuples(st.sampled_from(BookSide), counts, cents), max_size=12)


@settings(max_examples=150, deadline=None)
@given(st.integers(-20, 20), trades, cents, st.booleans())
def test_money_and_contracts_are_kept(
    real_count: int, orders: list[tuple[BookSide, Decimal, Decimal]], mark: Decimal, is_restarted: bool
) -> None:
    """What is held is the sum of all trades, and money plus holdings at any mark is what they gained."""
    start = None if real_count == 0 else real(str(abs(real_count)), YES if real_count > 0 else NO)
    held = Held(start)
    signed, gained = Decimal(real_count), ZERO
    for side, count, price in orders:
        change = count if side is BookSide.BID else -count
        signed += change
        gained += change * (mark - price) - D("0.01")
        assert held.account.fill(T, side, count, price, D("0.01"), None, 1.0) == signed
        if is_restarted:
            before = held.account.cash
            held = held.restarted(start)
            assert held.account.cash == before
        assert held.sees(start) == signed
    worth = _worth(held.account.held(T), mark) - _worth(start, mark)
    assert abs(held.account.cash + worth - gained) < D("0.000001")


def _worth(position: Position | None, mark: Decimal) -> Decimal:
    if position is None:
        return ZERO
    side = OutcomeSide.YES if position.signed_count > 0 else OutcomeSide.NO
    return position.count * to_yes_leg(mark, side)
