"""Three sources tell of one fill, in any order, and each contract counts once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import permutations

import pytest

from base.model.events import PositionUpdate
from base.model.market import ONE, BookSide, OutcomeSide
from base.model.position import Fill, Position
from base.store.portfolio import AGREEMENT_S, READ_LAG_S, Portfolio
from base.store.realized import Holding, replay
from base.store.reconcile import Correction, CorrectionKind
from base.store.records import (
    AttemptRecord,
    FillRecord,
    LedgerRecord,
    OrderRecord,
    PositionRecord,
    Record,
    Remembered,
    ResultRecord,
)
from tests.fakes.clock import FakeClock
from tests.fakes.positions import by_ticker

T = "KXHIGHNY-26NOV22-T60"
YES, NO = OutcomeSide.YES, OutcomeSide.NO
BID, ASK = BookSide.BID, BookSide.ASK


def held(count: str = "10", side: OutcomeSide = YES, entry: str = "0.50", ticker: str = T) -> Position:
    return Position(ticker, side, Decimal(count), Decimal(entry))


def fill(
    trade: str,
    count: str,
    price: str,
    *,
    side: BookSide = ASK,
    post: str | None = None,
    ts_ms: int = 5_000,
    order: str = "o1",
    fee: str = "0",
) -> Fill:
    return Fill(
        trade_id=trade,
        order_id=order,
        ticker=T,
        book_side=side,
        count=Decimal(count),
        yes_price=Decimal(price),
        fee=Decimal(fee),
        ts_ms=ts_ms,
        post_position=None if post is None else Decimal(post),
    )


class Rig:
    def __init__(self, *rows: Position) -> None:
        self.clock = FakeClock()
        self.portfolio = Portfolio(self.clock)
        self.read(*rows)

    def read(self, *rows: Position, started_ago_s: float = 0.0) -> None:
        self.portfolio.apply_read(by_ticker(rows), self.clock.monotonic() - started_ago_s)

    def answer(
        self,
        count: str,
        price: str | None,
        *,
        side: BookSide = ASK,
        fees: str = "0",
        order: str = "o1",
        ts_ms: int = 5_000,
        reduce_only: bool = True,
    ) -> None:
        self.portfolio.apply_answer(
            T,
            order,
            side,
            Decimal(count),
            None if price is None else Decimal(price),
            Decimal(fees),
            ts_ms,
            reduce_only=reduce_only,
        )

    @property
    def signed(self) -> Decimal:
        position = self.portfolio.get(T)
        return Decimal(0) if position is None else position.signed_count

    @property
    def realized(self) -> Decimal:
        return self.portfolio.ledger().realized


# --- one fill from three sources --------------------------------------------------------------------

SOURCES = ("first fill", "second fill", "answer", "first fill again", "read")


def exit_told(order: Sequence[str], side: OutcomeSide, tells_post: bool, same_ms: bool) -> Rig:
    """A position of 10 that one order leaves in two fills, told of in this order."""
    rig = Rig(held("10", side))
    rig.clock.advance(60)
    sign = 1 if side is YES else -1
    book_side = ASK if side is YES else BID

    def at(price: str) -> str:
        return price if side is YES else str(ONE - Decimal(price))

    first = fill(
        "t1", "4", at("0.40"), side=book_side, post=str(6 * sign) if tells_post else None, fee="0.04"
    )
    second = fill(
        "t2",
        "6",
        at("0.30"),
        side=book_side,
        post="0" if tells_post else None,
        ts_ms=5_000 if same_ms else 5_001,
        fee="0.06",
    )
    steps: dict[str, Callable[[], object]] = {
        "first fill": lambda: rig.portfolio.apply_fill(first),
        "first fill again": lambda: rig.portfolio.apply_fill(first),
        "second fill": lambda: rig.portfolio.apply_fill(second),
        "answer": lambda: rig.answer("10", at("0.34"), side=book_side, fees="0.10"),
        # It left before anything of this was done, and so shows the old position.
        "read": lambda: rig.read(held("10", side), started_ago_s=1.0),
    }
    for name in order:
        steps[name]()
        assert 0 <= rig.signed * sign <= 10, f"{order} at {name}"
    return rig


@pytest.mark.parametrize("tells_post", [True, False], ids=["fills say the position", "fills do not"])
@pytest.mark.parametrize("side", [YES, NO], ids=["yes", "no"])
@pytest.mark.parametrize("same_ms", [True, False], ids=["same ms", "later ms"])
def test_an_exit_counts_once_in_every_order_of_its_sources(
    side: OutcomeSide, tells_post: bool, same_ms: bool
) -> None:
    for order in permutations(SOURCES):
        rig = exit_told(order, side, tells_post, same_ms)
        assert rig.signed == 0, order
        # 4 sold at 0.40 and 6 at 0.30, bought at 0.50.
        assert abs(rig.realized - Decimal("-1.60")) < Decimal("1e-12"), order
        assert abs(rig.portfolio.ledger().fees - Decimal("0.10")) < Decimal("1e-12"), order


@pytest.mark.parametrize("order", list(permutations(("first", "second", "answer"))), ids=" ".join)
def test_an_entry_counts_once_in_every_order_of_its_sources(order: tuple[str, ...]) -> None:
    rig = Rig(held("1", entry="0.20"))
    rig.clock.advance(60)
    steps: dict[str, Callable[[], object]] = {
        "first": lambda: rig.portfolio.apply_fill(fill("t1", "4", "0.40", side=BID, post="5")),
        "second": lambda: rig.portfolio.apply_fill(fill("t2", "6", "0.45", side=BID, post="11")),
        "answer": lambda: rig.answer("10", "0.43", side=BID, reduce_only=False),
    }
    for name in order:
        steps[name]()
        assert rig.signed <= 11
    assert rig.signed == 11


def test_a_trade_told_twice_counts_once() -> None:
    rig = Rig(held())
    assert rig.portfolio.apply_fill(fill("t1", "4", "0.40")) is not None
    assert rig.portfolio.apply_fill(fill("t1", "4", "0.40")) is None
    assert rig.signed == 6


def test_another_subaccounts_fill_is_not_ours() -> None:
    rig = Rig(held())
    assert rig.portfolio.apply_fill(replace(fill("t1", "4", "0.40", post="0"), subaccount=3)) is None
    assert rig.signed == 10


def test_the_position_that_a_newer_fill_tells_wins() -> None:
    rig = Rig(held())
    rig.portfolio.apply_fill(fill("t1", "1", "0.40", post="5", ts_ms=9_000))
    assert rig.signed == 5


def test_an_older_fill_is_part_of_the_newer_ones_position() -> None:
    rig = Rig(held())
    rig.portfolio.apply_fill(fill("t2", "6", "0.40", post="0", ts_ms=9_001, order="o2"))
    rig.portfolio.apply_fill(fill("t1", "4", "0.40", post="6", ts_ms=9_000, order="o1"))
    assert rig.signed == 0


def test_a_late_fill_of_an_answered_order_does_not_bring_the_position_back() -> None:
    rig = Rig(held())
    rig.answer("10", "0.40", ts_ms=5_000)
    assert rig.portfolio.apply_fill(fill("t1", "4", "0.40", post="6", ts_ms=5_000)) is None
    assert rig.portfolio.get(T) is None


def test_a_fill_from_before_a_newer_answer_does_not_undo_it() -> None:
    rig = Rig(held())
    rig.answer("10", "0.40", order="o2", ts_ms=5_000)
    # Bought by hand just before: its `post_position` does not know the exit yet.
    rig.portfolio.apply_fill(fill("t1", "2", "0.40", side=BID, post="12", ts_ms=4_999, order="o1"))
    assert rig.signed == 2


def test_a_reduce_only_answer_never_opens_or_flips() -> None:
    rig = Rig(held("4"))
    rig.answer("10", "0.40")
    assert rig.signed == 0
    rig.answer("3", "0.40", order="o2")
    assert rig.signed == 0


# --- reads ------------------------------------------------------------------------------------------


def test_a_read_that_left_before_a_change_says_nothing_of_that_market() -> None:
    rig = Rig(held(), held(ticker="OTHER"))
    rig.clock.advance(60)
    rig.answer("10", "0.40")
    rig.clock.advance(READ_LAG_S - 0.1)
    rig.read(held(), held("3", ticker="OTHER"))
    assert rig.signed == 0
    other = rig.portfolio.get("OTHER")
    assert other is not None
    assert other.count == 3
    rig.clock.advance(0.2)
    rig.read(held(), held("3", ticker="OTHER"))
    assert rig.signed == 10, "the exchange's word wins once it has had time to show the change"


def test_a_read_says_nothing_of_a_market_whose_order_is_under_way() -> None:
    rig = Rig(held())
    rig.portfolio.order_left(T, "c1")
    rig.clock.advance(60)
    rig.read(held("4"))  # the order has filled 6
    assert rig.signed == 10
    rig.answer("6", "0.40")
    assert rig.signed == 4
    rig.portfolio.order_settled("c1")
    rig.clock.advance(60)
    rig.read(held("3"))
    assert rig.signed == 3


def test_a_position_goes_only_when_two_reads_do_not_show_it() -> None:
    rig = Rig(held())
    rig.clock.advance(60)
    rig.read()
    assert rig.signed == 10
    assert rig.portfolio.is_doubted(T)
    assert rig.portfolio.next_read_s() == AGREEMENT_S + 0.1
    rig.clock.advance(AGREEMENT_S)
    rig.read(held())
    rig.read()
    assert rig.signed == 10, "one read that shows it starts the count anew"
    rig.clock.advance(AGREEMENT_S - 0.1)
    rig.read()
    assert rig.signed == 10, "a backend that answers with an empty list does so to every read of a moment"
    rig.clock.advance(0.1)
    rig.read()
    assert rig.portfolio.get(T) is None
    assert rig.portfolio.next_read_s() is None


def test_a_message_that_it_is_flat_and_one_read_agree_at_once() -> None:
    rig = Rig(held())
    rig.clock.advance(60)
    flat = PositionUpdate(T, Decimal(0), Decimal(0), Decimal(0), Decimal(0))
    assert rig.portfolio.apply_update(flat) is None
    assert rig.signed == 10
    rig.clock.advance(READ_LAG_S)
    rig.read()
    assert rig.portfolio.get(T) is None


def test_a_message_that_it_is_there_again_outweighs_the_one_that_it_was_flat() -> None:
    rig = Rig(held())
    rig.clock.advance(60)
    for count in (0, 10):
        rig.portfolio.apply_update(PositionUpdate(T, Decimal(count), Decimal(5), Decimal(0), Decimal(0)))
    rig.clock.advance(READ_LAG_S)
    rig.read()
    assert rig.signed == 10


def test_fills_that_follow_the_message_of_their_sum_are_not_blended_in_again() -> None:
    rig = Rig(held("10", entry="0.50"))
    rig.clock.advance(60)
    rig.portfolio.apply_update(PositionUpdate(T, Decimal(20), Decimal("13.00"), Decimal(0), Decimal(0)))
    for trade, post in (("t1", "15"), ("t2", "20")):
        rig.portfolio.apply_fill(
            Fill(
                trade,
                "by-hand",
                T,
                BookSide.BID,
                Decimal(5),
                Decimal("0.80"),
                Decimal(0),
                1,
                "",
                Decimal(post),
            )
        )
    position = rig.portfolio.get(T)
    assert position is not None
    assert (position.count, position.entry_price) == (20, Decimal("0.65"))
    rig.portfolio.apply_fill(
        Fill("t3", "sale", T, BookSide.ASK, Decimal(5), Decimal("0.80"), Decimal(0), 2, "", Decimal(15))
    )
    assert rig.signed == 15, "a sale on the way back is news"


def test_a_read_that_came_too_early_is_repeated_soon() -> None:
    rig = Rig(held())
    rig.clock.advance(60)
    rig.portfolio.apply_update(PositionUpdate(T, Decimal(20), Decimal("13.00"), Decimal(0), Decimal(0)))
    rig.read(held("30"))
    assert rig.signed == 20
    assert rig.portfolio.next_read_s() == READ_LAG_S + 0.1


def test_a_read_with_unreadable_rows_adds_and_removes_nothing() -> None:
    rig = Rig(held())
    other = Position("KXOTHER-1", OutcomeSide.NO, Decimal(3), Decimal("0.40"))
    for _ in range(3):
        rig.clock.advance(60)
        rig.portfolio.apply_read({other.ticker: other}, rig.clock.monotonic(), is_whole=False)
    assert rig.signed == 10
    assert rig.portfolio.get(other.ticker) is not None


@pytest.mark.parametrize("side", [OutcomeSide.YES, OutcomeSide.NO])
def test_a_message_tells_the_cost_of_the_whole_position(side: OutcomeSide) -> None:
    rig = Rig(held("10", side))
    rig.clock.advance(60)
    sign = 1 if side is OutcomeSide.YES else -1
    grown = PositionUpdate(T, Decimal(20 * sign), Decimal("14.20"), Decimal(0), Decimal(0))
    change = rig.portfolio.apply_update(grown)
    position = rig.portfolio.get(T)
    assert position is not None
    assert change is not None
    assert change.after == position
    assert (position.outcome_side, position.count, position.entry_price) == (side, 20, Decimal("0.71"))


def test_a_fill_between_two_reads_starts_the_count_anew() -> None:
    rig = Rig(held())
    rig.read()
    rig.portfolio.apply_fill(fill("t1", "1", "0.40"))
    rig.clock.advance(60)
    rig.read()
    assert rig.signed == 9


def test_a_position_known_from_a_read_has_a_time_to_count_from() -> None:
    rig = Rig(held())
    first_seen = rig.clock.now()
    rig.clock.advance(100)
    rig.read(held("12"))
    position = rig.portfolio.get(T)
    assert position is not None
    assert position.opened_at == first_seen


def test_is_loaded_only_after_a_complete_read() -> None:
    portfolio = Portfolio(FakeClock())
    portfolio.apply_fill(fill("t1", "1", "0.40", side=BID))
    assert not portfolio.is_loaded
    portfolio.apply_read({}, 0.0)
    assert portfolio.is_loaded
    assert portfolio.last_read_at == 0.0


# --- epochs -----------------------------------------------------------------------------------------


def test_opening_anew_and_flipping_start_an_epoch_and_growing_does_not() -> None:
    rig = Rig(held())
    first = rig.portfolio.epoch(T)
    rig.portfolio.apply_fill(fill("t1", "5", "0.40", side=BID, order="o1"))
    assert rig.portfolio.epoch(T) == first
    rig.portfolio.apply_fill(fill("t2", "20", "0.40", order="o2"))
    assert rig.signed == -5
    assert rig.portfolio.epoch(T) == first + 1
    rig.portfolio.apply_fill(fill("t3", "5", "0.40", side=BID, order="o3"))
    rig.portfolio.apply_fill(fill("t4", "1", "0.40", side=BID, order="o4"))
    assert rig.portfolio.epoch(T) == first + 2
    rig.clock.advance(60)
    rig.read(held("2", NO))
    assert rig.portfolio.epoch(T) == first + 3


# --- money ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "buys", "entry"),
    [(YES, BID, "0.50"), (NO, ASK, "0.50")],
    ids=["yes", "no"],
)
def test_growing_averages_the_entry_and_shrinking_keeps_it(
    side: OutcomeSide, buys: BookSide, entry: str
) -> None:
    rig = Rig(held("10", side, entry))
    at = "0.80" if side is YES else "0.20"  # 0.80 of the held side
    rig.portfolio.apply_fill(fill("t1", "5", at, side=buys, order="o1"))
    position = rig.portfolio.get(T)
    assert position is not None
    assert position.entry_price == Decimal("0.60")
    rig.portfolio.apply_fill(fill("t2", "3", at, side=ASK if side is YES else BID, order="o2"))
    position = rig.portfolio.get(T)
    assert position is not None
    assert (position.count, position.entry_price) == (Decimal(12), Decimal("0.60"))
    assert rig.realized == Decimal("0.60")


def test_a_flip_realizes_only_what_was_held_and_enters_at_the_fills_price() -> None:
    rig = Rig(held("10"))
    rig.portfolio.apply_fill(fill("t1", "15", "0.70"))
    position = rig.portfolio.get(T)
    assert position is not None
    assert (position.outcome_side, position.count) == (NO, Decimal(5))
    assert position.entry_price == Decimal("0.30")
    assert rig.realized == Decimal("2.00")


def test_the_trading_day_starts_the_ledger_anew() -> None:
    rig = Rig(held())
    rig.portfolio.apply_fill(fill("t1", "4", "0.40", fee="0.07"))
    assert rig.realized == Decimal("-0.40")
    rig.clock.advance(86_400)
    ledger = rig.portfolio.ledger()
    assert (ledger.realized, ledger.fees) == (0, 0)


# --- market_position --------------------------------------------------------------------------------


def update(count: str, cost: str = "2.00", subaccount: int = 0) -> PositionUpdate:
    return PositionUpdate(T, Decimal(count), Decimal(cost), Decimal(0), Decimal(0), subaccount)


@pytest.mark.parametrize(
    ("before", "message", "after"),
    [
        (None, update("5"), "5"),
        (None, update("-5"), "-5"),
        (held("3"), update("5"), "5"),
        (held("5"), update("-2"), "-2"),
        (held("5"), update("3"), "5"),
        (held("5"), update("0"), "5"),
        (None, update("5", subaccount=2), "0"),
    ],
    ids=["opens", "opens NO", "grows", "flips", "shrinks: its fill says so", "flat: a read says so", "other"],
)
def test_a_market_position_opens_grows_or_flips(
    before: Position | None, message: PositionUpdate, after: str
) -> None:
    rig = Rig(*([before] if before is not None else []))
    rig.portfolio.apply_update(message)
    assert rig.signed == Decimal(after)


def test_a_market_position_enters_at_cost_over_count_of_the_held_side() -> None:
    rig = Rig()
    rig.portfolio.apply_update(update("-5", cost="2.00"))
    position = rig.portfolio.get(T)
    assert position is not None
    assert position.entry_price == Decimal("0.40")


def test_a_market_position_beside_a_fresh_fill_or_an_order_under_way_waits() -> None:
    rig = Rig()
    rig.portfolio.order_left(T, "c1")
    assert rig.portfolio.apply_update(update("5")) is None
    rig.answer("5", "0.40", side=BID, reduce_only=False)
    rig.portfolio.order_settled("c1")
    assert rig.signed == 5, "the answer is the one that counts"
    assert rig.portfolio.apply_update(update("9")) is None
    rig.clock.advance(READ_LAG_S)
    assert rig.portfolio.apply_update(update("9")) is not None


# --- what is remembered -----------------------------------------------------------------------------


class ListRecorder:
    """Keeps every record; `on_write` is called while a batch is written."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.on_write: Callable[[], None] = lambda: None

    def write(self, records: Iterable[Record]) -> None:
        self.on_write()
        self.records.extend(records)

    def commit(self, records: Iterable[Record]) -> bool:
        self.write(records)
        return True

    def newest(self, kind: type[Record]) -> list[Record]:
        """The newest record of each key."""
        return list({r.key: r for r in self.records if isinstance(r, kind)}.values())  # type: ignore[union-attr]


class RecordedRig(Rig):
    def __init__(self, *rows: Position, remembered: Remembered | None = None) -> None:
        self.clock = FakeClock()
        self.recorder = ListRecorder()
        self.portfolio = Portfolio(self.clock, self.recorder)
        if remembered is not None:
            self.portfolio.restore(remembered)
        if rows or remembered is None:
            self.read(*rows)

    def remembered(self) -> Remembered:
        newest = self.recorder.newest
        return Remembered(
            positions=tuple(p for p in newest(PositionRecord) if isinstance(p, PositionRecord) and p.count),
            orders=tuple(o for o in newest(OrderRecord) if isinstance(o, OrderRecord)),
            fills=tuple(f for f in newest(FillRecord) if isinstance(f, FillRecord)),
            ledgers=tuple(x for x in newest(LedgerRecord) if isinstance(x, LedgerRecord)),
            results=tuple(x for x in newest(ResultRecord) if isinstance(x, ResultRecord)),
        )


def test_every_change_is_written_down_as_it_is_then() -> None:
    rig = RecordedRig(held())
    first_seen = rig.clock.now()
    (position,) = rig.recorder.newest(PositionRecord)
    assert position == PositionRecord(T, YES, Decimal(10), Decimal("0.50"), first_seen)
    rig.clock.advance(60)
    rig.portfolio.apply_fill(fill("t1", "4", "0.40", fee="0.07"))
    (position,) = rig.recorder.newest(PositionRecord)
    assert position == PositionRecord(T, YES, Decimal(6), Decimal("0.50"), first_seen)
    (ledger,) = rig.recorder.newest(LedgerRecord)
    assert ledger == LedgerRecord(rig.portfolio.ledger().day, Decimal("-0.40"), Decimal("0.07"))
    (order,) = rig.recorder.newest(OrderRecord)
    assert order == OrderRecord(
        "o1", T, Decimal(4), Decimal(0), Decimal("1.60"), Decimal("0.07"), rig.clock.now()
    )
    assert rig.recorder.newest(FillRecord) == [
        FillRecord("t1", "o1", T, ASK, Decimal(4), Decimal("0.40"), Decimal("0.07"), 5_000)
    ]
    rig.answer("10", "0.40")
    (position,) = rig.recorder.newest(PositionRecord)
    assert isinstance(position, PositionRecord)
    assert position.count == 0
    written = len(rig.recorder.records)
    rig.answer("10", "0.40")
    rig.portfolio.apply_fill(fill("t1", "4", "0.40"))
    assert len(rig.recorder.records) == written, "what is known is not written again"


@pytest.mark.parametrize(
    ("act", "count", "entry"),
    [
        (lambda rig: rig.read(held("12")), "12", "0.50"),
        (lambda rig: rig.read(held(entry="0.55")), "10", "0.55"),
        (
            lambda rig: rig.portfolio.apply_update(
                PositionUpdate(T, Decimal(20), Decimal("14.20"), Decimal(0), Decimal(0))
            ),
            "20",
            "0.71",
        ),
    ],
    ids=["a read", "a read that tells another entry", "a message that tells the cost"],
)
def test_a_position_is_written_down_whoever_tells_of_it(
    act: Callable[[Rig], object], count: str, entry: str
) -> None:
    rig = RecordedRig(held())
    rig.clock.advance(60)
    act(rig)
    (position,) = rig.recorder.newest(PositionRecord)
    assert isinstance(position, PositionRecord)
    assert (position.count, position.entry_price) == (Decimal(count), Decimal(entry))


def test_the_recorder_may_ask_the_portfolio_and_a_slow_one_is_never_overtaken() -> None:
    rig = RecordedRig(held())
    inside, release = threading.Event(), threading.Event()

    def hang() -> None:
        rig.portfolio.positions()  # no lock is held
        inside.set()
        assert release.wait(10)

    rig.recorder.on_write = hang
    first = threading.Thread(target=rig.portfolio.apply_fill, args=(fill("t1", "4", "0.40"),))
    first.start()
    assert inside.wait(10)
    rig.portfolio.apply_fill(fill("t2", "2", "0.40"))  # returns, though the first still writes
    release.set()
    first.join(10)
    counts = [r.count for r in rig.recorder.records if isinstance(r, PositionRecord)]
    assert counts == [10, 6, 4]


def test_a_recorder_that_fails_once_hears_of_what_comes_next() -> None:
    rig = RecordedRig(held())

    def fail() -> None:
        raise OSError("disk full")

    rig.recorder.on_write = fail
    with pytest.raises(OSError, match="disk full"):
        rig.portfolio.apply_fill(fill("t1", "4", "0.40"))
    rig.recorder.on_write = lambda: None
    rig.portfolio.apply_fill(fill("t2", "2", "0.40"))
    (position,) = rig.recorder.newest(PositionRecord)
    assert isinstance(position, PositionRecord)
    assert position.count == 4


# --- a restart --------------------------------------------------------------------------------------


def was_held(count: str = "10", side: OutcomeSide = YES, opened_at: float | None = 1_000.0) -> Remembered:
    record = PositionRecord(T, side, Decimal(count), Decimal("0.50"), opened_at)
    return Remembered(positions=(record,))


def opened_at(rig: Rig) -> float:
    position = rig.portfolio.get(T)
    assert position is not None
    assert position.opened_at is not None
    return position.opened_at


@pytest.mark.parametrize(
    ("remembered", "row", "is_taken_up"),
    [
        (was_held(), held(), True),
        (was_held("3"), held(), True),
        (was_held(side=NO), held(), False),
        (was_held(opened_at=None), held(), False),
        (Remembered(), held(), False),
    ],
    ids=["the same", "another count", "the other side", "nobody knew since when", "not held before"],
)
def test_since_when_a_position_is_held_survives_a_restart(
    remembered: Remembered, row: Position, is_taken_up: bool
) -> None:
    rig = RecordedRig(remembered=remembered)
    assert rig.portfolio.positions() == {}, "what is held, the exchange says"
    rig.read(row)
    assert opened_at(rig) == (1_000.0 if is_taken_up else rig.clock.now())


def test_a_fill_before_the_first_read_keeps_the_time_too() -> None:
    rig = RecordedRig(remembered=was_held())
    rig.portfolio.apply_fill(fill("t1", "2", "0.40", side=BID, post="12"))
    assert opened_at(rig) == 1_000.0


@pytest.mark.parametrize(
    ("bought", "post", "entry"),
    [("10", "20", "0.70"), ("2", "2", "0.50"), ("2", "-2", "0.10")],
    ids=["some were added", "most was sold by hand meanwhile", "the other side, all new"],
)
def test_a_fill_before_the_first_read_does_not_price_what_was_held_already(
    bought: str, post: str, entry: str
) -> None:
    rig = RecordedRig(remembered=was_held())
    rig.portfolio.apply_fill(fill("t1", bought, "0.90", side=BID, post=post))
    position = rig.portfolio.get(T)
    assert position is not None
    assert position.entry_price == Decimal(entry)


def test_one_read_that_does_not_show_it_forgets_no_time_and_two_do() -> None:
    rig = RecordedRig(remembered=was_held())
    rig.read()
    rig.clock.advance(AGREEMENT_S - 1)
    rig.read(held())
    assert opened_at(rig) == 1_000.0
    rig = RecordedRig(remembered=was_held())
    rig.read()
    rig.clock.advance(AGREEMENT_S)
    rig.read()
    (position,) = rig.recorder.newest(PositionRecord)
    assert isinstance(position, PositionRecord)
    assert position.count == 0, "the journal hears that it is gone"
    rig.clock.advance(60)
    rig.read(held())
    assert opened_at(rig) == rig.clock.now()


def test_what_opens_anew_after_the_first_read_is_not_the_old_one() -> None:
    rig = RecordedRig(remembered=was_held())
    rig.read()
    rig.portfolio.apply_fill(fill("t1", "2", "0.40", side=BID, post="2"))
    assert opened_at(rig) == rig.clock.now()


def test_nothing_that_was_booked_or_counted_counts_again_after_a_restart() -> None:
    before = RecordedRig(held())
    before.portfolio.apply_fill(fill("t1", "4", "0.40", fee="0.04"))
    before.answer("6", "0.40", fees="0.06")
    remembered = before.remembered()
    a_while_ago = tuple(replace(o, updated_at=o.updated_at - 2 * READ_LAG_S) for o in remembered.orders)
    after = RecordedRig(held("4"), remembered=replace(remembered, orders=a_while_ago))
    assert after.portfolio.ledger() == before.portfolio.ledger()
    after.portfolio.apply_fill(fill("t1", "4", "0.40", fee="0.04"))
    after.portfolio.apply_fill(fill("t2", "2", "0.40", fee="0.02"))
    after.answer("6", "0.40", fees="0.06")
    assert after.signed == 4
    assert after.portfolio.ledger() == before.portfolio.ledger()


def test_yesterdays_ledger_is_not_todays() -> None:
    old = Remembered(ledgers=(LedgerRecord("2001-01-01", Decimal(-50), Decimal(3)),))
    rig = RecordedRig(remembered=old)
    assert (rig.portfolio.ledger().realized, rig.portfolio.ledger().fees) == (0, 0)


def test_a_fill_before_the_first_read_is_left_to_the_days_fills() -> None:
    rig = RecordedRig(remembered=Remembered())
    closing = fill("t1", "4", "0.40", fee="0.04")
    rig.portfolio.apply_fill(closing)
    assert rig.portfolio.ledger().fees == 0, "nobody knew what it closed"
    steps = replay([closing], Holding(Decimal(10), Decimal("0.50")))
    assert rig.portfolio.book_missed(rig.portfolio.ledger().day, steps) == 1
    assert (rig.portfolio.ledger().realized, rig.portfolio.ledger().fees) == (
        Decimal("-0.40"),
        Decimal("0.04"),
    )


def test_orders_that_left_here_or_before_a_restart_are_known() -> None:
    attempt = AttemptRecord("bs-1", "e1", 1, T, ASK, Decimal(1), Decimal("0.40"), None, 0.0)
    rig = RecordedRig(remembered=Remembered(attempts=(attempt,)))
    rig.portfolio.order_left(T, "entry-1")
    rig.portfolio.order_settled("entry-1")
    assert [rig.portfolio.was_sent(i) for i in ("bs-1", "entry-1", "by-hand")] == [True, True, False]


# --- money that was told twice ----------------------------------------------------------------------


@pytest.mark.parametrize("side", [YES, NO], ids=["yes", "no"])
def test_the_fills_of_an_order_replace_its_rounded_answer(side: OutcomeSide) -> None:
    rig = Rig(held("30", side))
    book_side = ASK if side is YES else BID
    prices = ("0.40", "0.41") if side is YES else ("0.60", "0.59")
    average = "0.4067" if side is YES else "0.5933"  # of 10 and 20, rounded
    rig.answer("30", average, side=book_side, fees="0.5000")
    rig.portfolio.apply_fill(fill("t1", "10", prices[0], side=book_side, fee="0.1681"))
    rig.portfolio.apply_fill(fill("t2", "20", prices[1], side=book_side, fee="0.3387"))
    ledger = rig.portfolio.ledger()
    assert abs(ledger.realized - Decimal("-2.80")) < Decimal("1e-18")
    assert ledger.fees == Decimal("0.5068")


def test_a_settled_position_says_so() -> None:
    rig = Rig(held())
    rig.clock.advance(60)
    version = rig.portfolio.compared_state()[T].version
    settled = Correction(CorrectionKind.SETTLED, T, None, version, "its market has ended")
    (change,) = rig.portfolio.apply_corrections([settled], rig.clock.monotonic())
    assert (change.is_closed, change.why) == (True, "settled")


@pytest.mark.parametrize(
    ("age_s", "is_held"), [(0.5, False), (READ_LAG_S + 1, True)], ids=["sold a moment ago", "sold long ago"]
)
def test_after_a_restart_a_read_that_may_be_behind_does_not_bring_back_what_was_sold(
    age_s: float, is_held: bool
) -> None:
    clock = FakeClock()
    sold = OrderRecord("o1", T, Decimal(0), Decimal(10), Decimal(4), Decimal("0.1"), clock.now() - age_s)
    portfolio = Portfolio(clock)
    portfolio.restore(Remembered(orders=(sold,)))
    behind = {T: Position(T, OutcomeSide.YES, Decimal(10), Decimal("0.5"))}
    portfolio.apply_read(behind, clock.monotonic())
    assert (portfolio.get(T) is not None) is is_held
    assert (portfolio.next_read_s() is None) is is_held
    clock.advance(READ_LAG_S + 0.1)
    portfolio.apply_read(behind, clock.monotonic())
    assert portfolio.get(T) is not None, "a later read decides"


def test_booking_old_fills_anew_does_not_make_them_fresh() -> None:
    clock = FakeClock()
    opened_ms = int((clock.now() - 3_600) * 1000)
    order = OrderRecord("o1", T, Decimal(10), Decimal(0), Decimal(5), Decimal("0.1"), clock.now())
    opening = FillRecord("t1", "o1", T, BID, Decimal(10), Decimal("0.5"), Decimal("0.1"), opened_ms)
    portfolio = Portfolio(clock)
    portfolio.restore(Remembered(orders=(order,), fills=(opening,)))
    portfolio.apply_read({T: held()}, clock.monotonic())
    assert portfolio.get(T) is not None, "protected from the first read on"


def remembered_position(count: str = "10") -> Remembered:
    return Remembered(positions=(PositionRecord(T, YES, Decimal(count), Decimal("0.5"), 1_000.0),))


def test_what_was_held_before_a_restart_is_missed_until_two_reads_agree_that_it_is_gone() -> None:
    clock = FakeClock()
    portfolio = Portfolio(clock)
    portfolio.restore(remembered_position())
    assert (portfolio.unshown, portfolio.unseen) == ((), (T,)), "nothing has been read yet"
    portfolio.apply_read({}, clock.monotonic())
    assert portfolio.unshown == (T,)
    wait_s = portfolio.next_read_s()
    assert wait_s is not None
    assert wait_s <= 2.0, "an empty read of one bad moment must not last"
    clock.advance(2.0)
    portfolio.apply_read({}, clock.monotonic())
    assert portfolio.unshown == (T,)
    clock.advance(AGREEMENT_S)
    portfolio.apply_read({}, clock.monotonic())
    assert portfolio.unshown == portfolio.unseen == ()
    assert portfolio.next_read_s() is None


def test_what_was_held_before_a_restart_and_is_shown_is_not_missed() -> None:
    clock = FakeClock()
    portfolio = Portfolio(clock)
    portfolio.restore(remembered_position())
    portfolio.apply_read({}, clock.monotonic())
    portfolio.apply_read({T: held()}, clock.monotonic())
    assert portfolio.unshown == ()
    assert portfolio.get(T) is not None


def test_a_read_that_was_skipped_for_a_market_does_not_count_as_a_look_at_it() -> None:
    clock = FakeClock()
    portfolio = Portfolio(clock)
    portfolio.apply_read({T: held()}, clock.monotonic())
    first = clock.monotonic()
    portfolio.order_left(T, "c1")
    clock.advance(5.0)
    portfolio.apply_read({T: held()}, clock.monotonic())
    assert portfolio.last_read_at == clock.monotonic()
    assert portfolio.judged_at(T) == first
    portfolio.order_settled("c1")
    clock.advance(5.0)
    portfolio.apply_read({T: held()}, clock.monotonic())
    assert portfolio.judged_at(T) == clock.monotonic()
