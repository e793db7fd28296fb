"""Three sources tell of one fill, in any order, and each contract counts once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import permutations

import pytest

from base.model.events import PositionUpdate
from base.model.market import ONE, BookSide, OutcomeSide
from base.model.position import Fill, Position
from base.store.portfolio import AGREEMENT_S, READ_LAG_S, Portfolio, by_ticker
from tests.fakes.clock import FakeClock

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
