"""Sets bought leg after leg, sold again where one is missing, and kept from their stops while whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import pytest

from base.app.entry_sets import LAST_LEG_S, SetDesk, SetResult, why_no_set
from base.app.hedge_book import HedgeBook
from base.execution.exits import ExitOrder
from base.execution.gateway import PriceView
from base.model.market import BookSide, Event, OutcomeSide
from base.model.order import EntryOrder, EntryState
from base.model.position import Fill, Position
from base.model.rules import ExitReason, ExitRule
from base.risk.hedges import BUILDING_S_MAX, HedgeState
from base.store.portfolio import AGREEMENT_S, READ_LAG_S, Portfolio
from base.store.records import HedgeRecord, PositionRecord, Record, Remembered
from base.strategy.interface import OrderIntent, SetIntent
from tests.fakes.clock import FakeClock
from tests.fakes.gateway import FakePrices
from tests.fakes.positions import by_ticker

D = Decimal
YES, NO = OutcomeSide.YES, OutcomeSide.NO
A, B, C = "KXA-1-A", "KXA-1-B", "KXA-1-C"
EVENT = Event("KXA-1", (A, B, C), mutually_exclusive=True)
LOOSE = Event("KXL-1", ("KXL-1-A", "KXL-1-B"), mutually_exclusive=False)
FLOOR = D("0.01")


def leg(ticker: str, price: str = "0.40", side: OutcomeSide = NO, count: str = "5") -> OrderIntent:
    return OrderIntent(ticker, side, D(count), D(price))


SET = SetIntent((leg(A), leg(B), leg(C)))


class Recorded:
    """What was written, in order; `commit` says no when told to."""

    def __init__(self) -> None:
        self.fails = False
        self.while_writing: Callable[[], None] = lambda: None
        self.hedges: list[HedgeRecord] = []

    def write(self, records: Sequence[Record]) -> None:
        self.hedges += [r for r in records if isinstance(r, HedgeRecord)]

    def commit(self, records: Sequence[Record]) -> bool:
        self.write(records)
        self.while_writing()
        return not self.fails

    def alive(self) -> tuple[HedgeRecord, ...]:
        newest = {record.id: record for record in self.hedges}
        return tuple(r for r in newest.values() if r.ended_at is None)


@dataclass(frozen=True)
class Placed:
    filled: Decimal
    why: str = ""


class Legs:
    """An entry desk that fills what the script says (all where it says nothing), and is watched."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.sent: list[tuple[str, bool]] = []
        self.fills: dict[str, str] = {}
        self.unknown: set[str] = set()
        self.raises: set[str] = set()
        self.takes_s = 0.0
        self.refusal = ""
        self.checked: list[int] = []
        self.open: dict[str, EntryOrder] = {}
        self.before: Callable[[OrderIntent], None] = lambda intent: None

    def check_together(self, intents: Sequence[OrderIntent]) -> str:
        self.checked.append(len(intents))
        return self.refusal

    def place(self, intent: OrderIntent, strategy: str = "", *, fill_or_kill: bool = False) -> Placed:
        self.before(intent)
        self.sent.append((intent.ticker, fill_or_kill))
        self._rig.clock.advance(self.takes_s)
        if intent.ticker in self.raises:
            raise RuntimeError("a defect")
        if intent.ticker in self.unknown:
            self.wait_for(intent.ticker)
            return Placed(D(0), "its outcome is not known")
        count = D(self.fills.get(intent.ticker, str(intent.count)))
        if count:
            self._rig.buy(intent.ticker, str(count), intent.outcome_side)
        return Placed(count, "" if count == intent.count else "nobody sold at that")

    def orders(self) -> dict[str, EntryOrder]:
        return dict(self.open)

    def wait_for(self, ticker: str) -> None:
        """An order of ours in this market may still fill."""
        order = EntryOrder(ticker, ticker, NO, D(5), D("0.6"), "", EntryState.UNKNOWN, self._rig.clock.now())
        self.open[ticker] = order


class Rig:
    def __init__(self, remembered: Remembered | None = None, *, is_read: bool = True) -> None:
        self.clock = FakeClock()
        self.recorded = Recorded()
        self.portfolio = Portfolio(self.clock)
        self.prices = FakePrices(self.clock)
        self.legs = Legs(self)
        self.exits: list[ExitOrder] = []
        self.exiting: set[str] = set()
        self.book = HedgeBook(self.portfolio, self.clock, self.recorded, awaited=lambda: self.legs.open)
        self.desk = SetDesk(
            self.legs,
            self.book,
            self.portfolio,
            lambda: {e.ticker: e for e in (EVENT, LOOSE)},
            self._price_of,
            self._sell,
            self.clock,
            floor=FLOOR,
            is_exiting=self.exiting.__contains__,
        )
        if remembered is not None:
            self.portfolio.restore(remembered)
            self.book.restore(remembered)
        if is_read:
            self.read()

    def _price_of(self, ticker: str) -> PriceView | None:
        return self.prices.views.get(ticker)

    def _sell(self, exits: list[ExitOrder]) -> None:
        self.exits += exits
        self.exiting.update(e.ticker for e in exits)

    def read(self, *positions: Position) -> None:
        self.portfolio.apply_read(by_ticker(positions), self.clock.monotonic())

    def buy(self, ticker: str, count: str, side: OutcomeSide = NO) -> None:
        """A trade told by the stream; a count below 0 sells."""
        number = D(count)
        buys_yes = (side is YES) == (number > 0)
        held = self.portfolio.get(ticker)
        before = held.signed_count if held is not None else D(0)
        after = before + (abs(number) if buys_yes else -abs(number))
        self.clock.advance(0.001)
        name = f"{ticker} {self.clock.now()} {count}"
        self.portfolio.apply_fill(
            Fill(
                name,
                name,
                ticker,
                BookSide.BID if buys_yes else BookSide.ASK,
                abs(number),
                D("0.40"),
                D(0),
                int(self.clock.now() * 1000),
                post_position=after,
            )
        )

    def hedged(self) -> list[str]:
        return [t for t in (A, B, C) if self.book.is_hedged(t)]

    def sold(self) -> list[str]:
        return [e.ticker for e in self.exits]


def held(ticker: str, count: str = "5", side: OutcomeSide = NO) -> Position:
    return Position(ticker, side, D(count), D("0.60"))


# --- buying -------------------------------------------------------------------------------------------


def test_a_set_is_bought_leg_after_leg_and_then_no_stop_may_leave_it() -> None:
    rig = Rig()
    assert rig.desk.place_set(SET, "riskless_set") == SetResult(True, D(5))
    assert rig.legs.sent == [(A, True), (B, True), (C, True)]
    assert rig.legs.checked == [3]
    assert rig.hedged() == [A, B, C]
    assert rig.exits == []
    (record,) = rig.recorded.alive()
    assert (record.tickers, record.outcome_side, record.count) == (f"{A} {B} {C}", NO, D(5))
    assert record.strategy == "riskless_set"


def test_the_set_is_on_disk_and_stops_are_held_back_before_the_first_leg_leaves() -> None:
    rig = Rig()
    seen: list[tuple[int, bool]] = []
    rig.legs.before = lambda intent: seen.append((len(rig.recorded.alive()), rig.book.is_hedged(A)))
    rig.desk.place_set(SET)
    assert seen == [(1, False), (1, True), (1, True)]  # before the first leg nothing of A is held


def test_a_set_that_cannot_be_written_down_is_denied() -> None:
    rig = Rig()
    rig.recorded.fails = True
    assert not rig.desk.place_set(SET).placed
    assert rig.legs.sent == []
    rig.recorded.fails = False
    assert rig.recorded.alive() == ()
    assert rig.desk.place_set(SET).placed


@pytest.mark.parametrize("missed", [A, B, C], ids=["the first leg", "the second leg", "the last leg"])
def test_where_a_leg_does_not_fill_what_was_bought_is_sold_again(missed: str) -> None:
    rig = Rig()
    rig.legs.fills = {missed: "0"}
    rig.prices.set(A, "0.45", "0.47")
    result = rig.desk.place_set(SET)
    bought = [t for t in (A, B, C) if t < missed]
    assert (result.placed, result.filled) == (True, D(0))
    assert [t for t, _ in rig.legs.sent] == [*bought, missed]
    assert rig.sold() == bought
    assert all(e.reason is ExitReason.SET_BROKEN and e.floor == FLOOR for e in rig.exits)
    assert rig.hedged() == []
    if bought:
        assert rig.exits[0].exit_value == D("0.53")  # what NO is bid
        for ticker in bought:
            rig.buy(ticker, "-5")
        rig.desk.step()
    assert rig.recorded.alive() == ()
    assert rig.book.sets() == []


def test_a_leg_that_fills_in_part_breaks_the_set_and_is_sold_again_too() -> None:
    rig = Rig()
    rig.legs.fills = {B: "2"}
    rig.desk.place_set(SET)
    assert rig.sold() == [A, B]


def test_a_leg_of_unknown_outcome_is_sold_again_when_it_turns_out_to_be_held() -> None:
    rig = Rig()
    rig.legs.unknown = {B}
    assert rig.desk.place_set(SET).filled == 0
    assert rig.sold() == [A]
    rig.buy(A, "-5")
    rig.exiting.clear()
    rig.desk.step()
    assert rig.book.sets(), "as long as the order may fill, the set is not forgotten"
    rig.buy(B, "5")
    assert not rig.book.is_hedged(B)
    rig.desk.step()
    assert rig.sold() == [A, B]
    rig.legs.open.clear()
    rig.buy(B, "-5")
    rig.clock.advance(READ_LAG_S)
    rig.read()
    rig.desk.step()
    assert rig.recorded.alive() == ()


def test_what_a_lost_order_has_bought_is_known_by_a_later_read_only() -> None:
    rig = Rig()
    rig.legs.unknown = {A}
    rig.desk.place_set(SET)
    rig.clock.advance(2)
    rig.legs.open.clear()  # it was found: filled; no message has told of it
    rig.desk.step()
    assert rig.book.sets()
    rig.clock.advance(READ_LAG_S)
    rig.read(held(A))
    rig.desk.step()
    assert rig.sold() == [A]


def test_a_defect_between_the_legs_leaves_no_half_set() -> None:
    rig = Rig()
    rig.legs.raises = {B}
    with pytest.raises(RuntimeError):
        rig.desk.place_set(SET)
    assert rig.sold() == [A]
    assert rig.hedged() == []


def test_the_ten_seconds_begin_when_the_first_leg_may_leave() -> None:
    rig = Rig()
    rig.recorded.while_writing = lambda: rig.clock.advance(BUILDING_S_MAX)
    seen: list[bool] = []
    rig.legs.before = lambda intent: seen.append(rig.book.is_hedged(A))
    rig.desk.place_set(SET)
    assert seen == [False, True, True]


def test_what_is_being_sold_again_is_left_to_its_exit() -> None:
    rig = Rig()
    rig.legs.fills = {B: "0"}
    rig.desk.place_set(SET)
    rig.desk.step()
    rig.desk.step()
    assert rig.sold() == [A]


def test_no_leg_leaves_when_those_before_took_too_long() -> None:
    rig = Rig()
    rig.legs.takes_s = LAST_LEG_S + 0.1
    rig.desk.place_set(SET)
    assert [t for t, _ in rig.legs.sent] == [A]
    assert rig.sold() == [A]


def test_stops_are_not_held_back_for_more_than_ten_seconds_of_buying() -> None:
    rig = Rig()
    seen: list[bool] = []

    def hang(intent: OrderIntent) -> None:
        if intent.ticker == B:
            seen.append(rig.book.is_hedged(A))
            rig.clock.advance(BUILDING_S_MAX)
            seen.append(rig.book.is_hedged(A))

    rig.legs.before = hang
    rig.desk.place_set(SET)
    assert seen == [True, False]


# --- what is denied -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "legs",
    [
        (leg(A),),
        (leg(A), leg(A)),
        (leg(A), leg(B, side=YES)),
        (leg(A), leg(B, count="6")),
        (leg(A, count="0"), leg(B, count="0")),
        (leg(A, count="1.005"), leg(B, count="1.005")),
        (leg(A), replace(leg(B), rests=True)),
        (leg(A), leg("KXB-9-A")),
        (leg("KXL-1-A", "0.40"), leg("KXL-1-B", "0.40")),
        (leg(A, "0.30", YES), leg(B, "0.30", YES)),
        (leg(A, "0.60"), leg(B, "0.41")),
        (leg(A, "0.40", YES), leg(B, "0.40", YES), leg(C, "0.21", YES)),
    ],
    ids=[
        "one leg",
        "one market twice",
        "both sides",
        "different counts",
        "nothing",
        "less than a hundredth",
        "a leg that rests",
        "markets of different events",
        "markets that do not exclude each other",
        "YES of some of the markets",
        "NO costs more than it pays",
        "YES costs more than it pays",
    ],
)
def test_stops_are_not_held_back_for_what_can_lose(legs: tuple[OrderIntent, ...]) -> None:
    rig = Rig()
    result = rig.desk.place_set(SetIntent(legs))
    assert not result.placed
    assert result.why
    assert rig.legs.sent == []
    assert rig.recorded.hedges == []


def test_no_of_some_of_the_markets_is_a_set_too() -> None:
    assert why_no_set((leg(A, "0.50"), leg(B, "0.50")), {EVENT.ticker: EVENT}) == ""


def test_a_market_that_is_held_belongs_elsewhere_or_is_busy_is_left_alone() -> None:
    for side in (YES, NO):
        rig = Rig()
        rig.buy(B, "1", side)
        assert not rig.desk.place_set(SET).placed
    rig = Rig()
    rig.legs.wait_for(B)
    assert not rig.desk.place_set(SET).placed
    rig = Rig()
    rig.exiting.add(C)
    assert not rig.desk.place_set(SET).placed
    rig = Rig()
    rig.legs.refusal = "total_exposure: …"
    assert rig.desk.place_set(SET).why == "total_exposure: …"
    assert rig.legs.sent == []


def test_a_market_of_another_set_is_left_alone() -> None:
    rig = Rig()
    rig.legs.unknown = {A}
    rig.desk.place_set(SetIntent((leg(A, "0.40"), leg(B, "0.40"))))
    rig.legs.open.clear()  # the book alone knows of it now
    assert not rig.desk.place_set(SET).placed
    assert [t for t, _ in rig.legs.sent] == [A]


# --- while it is held ---------------------------------------------------------------------------------


def whole() -> Rig:
    rig = Rig()
    rig.desk.place_set(SET)
    return rig


def test_the_rules_of_a_leg_say_that_it_is_hedged() -> None:
    rig = whole()
    rule_of = rig.book.rules(lambda ticker: ExitRule(stop_loss_price=D("0.3")))
    assert rule_of(A) == ExitRule(stop_loss_price=D("0.3"), hedged=True)
    assert rule_of("KXB-1-A") == ExitRule(stop_loss_price=D("0.3"))


@pytest.mark.parametrize("sold", ["-5", "-1"], ids=["whole", "in part"])
def test_a_leg_that_is_sold_by_hand_ends_the_set_and_nothing_else_is_sold(sold: str) -> None:
    rig = whole()
    rig.buy(B, sold)
    assert rig.hedged() == []
    rig.desk.step()
    assert rig.exits == []
    assert rig.recorded.alive() == ()
    rig.buy(B, "5")
    assert rig.hedged() == [], "what has ended does not come back"


def test_a_set_that_several_threads_find_broken_ends_once() -> None:
    rig = whole()
    rig.buy(B, "-5")
    start = threading.Barrier(8)
    answers: list[bool] = []

    def ask() -> None:
        start.wait(5)
        answers.append(rig.book.is_hedged(A))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert answers == [False] * 8
    assert [r.ended_at is not None for r in rig.recorded.hedges] == [False, True]


def test_more_of_a_leg_brings_that_leg_alone_under_its_rules() -> None:
    rig = whole()
    rig.buy(B, "1")
    assert rig.hedged() == [A, C]
    rig.buy(B, "-1")
    assert rig.hedged() == [A, B, C]


def test_all_legs_settled_end_the_set() -> None:
    rig = whole()
    for ticker in (A, B, C):
        rig.buy(ticker, "-5")
    rig.desk.step()
    assert rig.recorded.alive() == ()
    assert rig.exits == []


# --- after a restart ----------------------------------------------------------------------------------

RECORD = HedgeRecord("set-1", f"{A} {B} {C}", NO, D(5), "riskless_set", 1_789_999_000.0)


def remembered(*before: str, count: str = "5") -> Remembered:
    rows = tuple(PositionRecord(t, NO, D(count), D("0.6"), None) for t in before)
    return Remembered(hedges=(RECORD,), positions=rows)


def test_nothing_is_known_to_be_missing_before_positions_have_been_read() -> None:
    rig = Rig(remembered(A, B, C), is_read=False)
    rig.buy(A, "5")
    rig.clock.advance(60)
    rig.desk.step()
    assert rig.book.is_hedged(A)
    assert rig.exits == []


def test_a_set_that_is_all_there_is_whole_again() -> None:
    rig = Rig(remembered(A, B, C), is_read=False)
    rig.read(held(A), held(B), held(C))
    rig.desk.step()
    rig.clock.advance(60)
    assert rig.hedged() == [A, B, C]
    assert rig.exits == []


def test_a_restart_between_two_legs_sells_the_first_again() -> None:
    rig = Rig(remembered(A), is_read=False)
    rig.read(held(A))
    rig.desk.step()
    assert rig.sold() == [A]
    assert rig.hedged() == []
    rig.buy(A, "-5")
    rig.desk.step()
    assert rig.recorded.hedges[-1].ended_at is not None


def test_a_restart_while_a_leg_was_under_way_waits_for_its_outcome() -> None:
    rig = Rig(remembered(A), is_read=False)
    rig.legs.wait_for(B)
    rig.legs.wait_for(C)
    rig.read(held(A))
    rig.desk.step()
    assert rig.exits == []
    assert rig.hedged() == [A]
    rig.clock.advance(BUILDING_S_MAX)
    assert rig.hedged() == [], "its ordinary rules hold while nobody knows"
    rig.buy(B, "5")
    rig.legs.open = {C: rig.legs.open[C]}
    rig.desk.step()
    assert rig.exits == []
    rig.legs.open = {}
    rig.desk.step()
    assert rig.exits == []
    rig.clock.advance(READ_LAG_S)
    rig.read(held(A), held(B))
    rig.desk.step()
    assert rig.sold() == [A, B]


def test_a_read_of_a_bad_moment_breaks_no_set() -> None:
    rig = Rig(remembered(A, B, C), is_read=False)
    rig.read(held(A), held(B))
    rig.desk.step()
    assert rig.exits == []
    assert rig.hedged() == [A, B]
    rig.clock.advance(2)
    rig.read(held(A), held(B), held(C))
    assert rig.hedged() == [A, B, C]


def test_what_was_whole_and_lost_a_leg_meanwhile_comes_under_its_rules() -> None:
    rig = Rig(remembered(A, B, C), is_read=False)
    rig.read(held(A), held(B))
    rig.clock.advance(AGREEMENT_S + 1)
    rig.read(held(A), held(B))
    rig.desk.step()
    assert rig.exits == []
    assert rig.hedged() == []
    assert rig.recorded.hedges[-1].ended_at is not None


def test_what_is_told_of_each_set() -> None:
    rig = whole()
    (hedge,) = rig.book.sets()
    assert (hedge.state, hedge.tickers) == (HedgeState.WHOLE, (A, B, C))
