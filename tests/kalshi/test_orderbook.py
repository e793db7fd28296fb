"""The book follows snapshot and deltas exactly, and knows when it must not be believed."""

from __future__ import annotations

from decimal import Decimal as D

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.errors import WireError
from base.kalshi.orderbook import OrderBook, SequenceCheck, best_bids
from base.model.events import BookDelta, BookSnapshot
from base.model.market import OutcomeSide

Levels = tuple[tuple[D, D], ...]


def snapshot(yes: Levels = (), no: Levels = (), seq: int = 1) -> BookSnapshot:
    return BookSnapshot("KXA", 6, seq, yes, no)


def delta(side: str, price: str, change: str, ts_ms: int = 1, seq: int = 2) -> BookDelta:
    return BookDelta("KXA", 6, seq, OutcomeSide(side), D(price), D(change), ts_ms)


@pytest.fixture
def book() -> OrderBook:
    book = OrderBook("KXA")
    book.apply_snapshot(
        snapshot(
            yes=((D("0.40"), D(100)), (D("0.39"), D(50))),
            no=((D("0.50"), D(20)), (D("0.55"), D(10))),
        ),
        monotonic=7.0,
    )
    return book


def test_a_book_is_not_usable_before_its_snapshot() -> None:
    assert not OrderBook("KXA").is_usable


def test_the_best_bids_make_the_top_of_the_yes_book(book: OrderBook) -> None:
    assert book.is_usable
    assert (book.yes_bid, book.yes_bid_size) == (D("0.40"), 100)
    assert (book.yes_ask, book.yes_ask_size) == (D("0.45"), 10)
    assert book.snapshot_at == 7.0


def test_the_order_of_the_levels_does_not_matter(book: OrderBook) -> None:
    other = OrderBook("KXA")
    other.apply_snapshot(
        snapshot(
            yes=((D("0.39"), D(50)), (D("0.40"), D(100))),
            no=((D("0.55"), D(10)), (D("0.50"), D(20))),
        )
    )
    assert (other.yes_bid, other.yes_ask) == (book.yes_bid, book.yes_ask)


def test_an_empty_book_has_no_bid_and_no_ask() -> None:
    book = OrderBook("KXA")
    book.apply_snapshot(snapshot())
    assert (book.yes_bid, book.yes_bid_size, book.yes_ask, book.yes_ask_size) == (0, 0, 1, 0)
    assert not book.is_crossed


@pytest.mark.parametrize(
    ("change", "bid", "bid_size", "ask", "ask_size"),
    [
        pytest.param(delta("yes", "0.41", "5"), "0.41", 5, "0.45", 10, id="a better bid"),
        pytest.param(delta("yes", "0.40", "-30"), "0.40", 70, "0.45", 10, id="the best bid shrinks"),
        pytest.param(delta("yes", "0.40", "-100"), "0.39", 50, "0.45", 10, id="the best bid goes"),
        pytest.param(delta("yes", "0.38", "9"), "0.40", 100, "0.45", 10, id="a level behind the best"),
        pytest.param(delta("no", "0.55", "-10"), "0.40", 100, "0.50", 20, id="the best ask goes"),
        pytest.param(delta("no", "0.56", "3"), "0.40", 100, "0.44", 3, id="a better ask"),
    ],
)
def test_a_delta_changes_one_level(book: OrderBook, change, bid, bid_size, ask, ask_size) -> None:
    book.apply_delta(change)
    assert (book.yes_bid, book.yes_bid_size) == (D(bid), bid_size)
    assert (book.yes_ask, book.yes_ask_size) == (D(ask), ask_size)


def test_a_level_below_nothing_proves_a_lost_message(book: OrderBook) -> None:
    with pytest.raises(WireError):
        book.apply_delta(delta("yes", "0.40", "-100.01"))
    assert not book.is_usable
    book.apply_snapshot(snapshot(yes=((D("0.30"), D(1)),)))
    assert book.is_usable
    assert book.yes_bid == D("0.30"), "nothing of the old book is left"


def test_time_follows_the_deltas_and_a_snapshot_starts_anew(book: OrderBook) -> None:
    book.apply_delta(delta("yes", "0.41", "5", ts_ms=500))
    book.apply_delta(delta("yes", "0.41", "5", ts_ms=400))
    assert book.ts_ms == 500
    book.apply_snapshot(snapshot())
    assert book.ts_ms == 0


def test_a_crossed_book_is_recognized(book: OrderBook) -> None:
    assert not book.is_crossed
    book.apply_delta(delta("yes", "0.45", "1"))
    assert book.is_crossed


def test_depth_counts_what_a_seller_finds(book: OrderBook) -> None:
    assert book.depth(OutcomeSide.YES, D("0.40")) == 100
    assert book.depth(OutcomeSide.YES, D("0.01")) == 150
    assert book.depth(OutcomeSide.NO, D("0.56")) == 0


def test_the_best_bids_of_each_side_come_best_first(book: OrderBook) -> None:
    yes, no = book.bids(OutcomeSide.YES), book.bids(OutcomeSide.NO)
    assert best_bids(yes, 20) == ((D("0.40"), 100), (D("0.39"), 50))
    assert best_bids(no, 20) == ((D("0.55"), 10), (D("0.50"), 20))
    assert best_bids(no, 1) == ((D("0.55"), 10),)
    assert best_bids([], 20) == ()


def test_copied_bids_do_not_change_with_the_book(book: OrderBook) -> None:
    before = book.bids(OutcomeSide.YES)
    book.apply_delta(delta("yes", "0.40", "-100"))
    assert best_bids(before, 1) == ((D("0.40"), 100),)
    assert best_bids(book.bids(OutcomeSide.YES), 2) == ((D("0.39"), 50),)


CENTS = st.integers(1, 99).map(lambda cents: D(cents) / 100)
COUNTS = st.integers(0, 400).map(lambda hundredths: D(hundredths) / 100)
LEVELS = st.dictionaries(CENTS, COUNTS, max_size=5)
CHANGES = st.tuples(st.sampled_from(["yes", "no"]), CENTS, st.integers(-400, 400).map(lambda c: D(c) / 100))


@given(LEVELS, LEVELS, st.lists(CHANGES | st.tuples(LEVELS, LEVELS), max_size=30))
def test_the_book_equals_a_naive_model(yes, no, steps) -> None:
    """The model keeps every level and looks through all of them each time."""
    book = OrderBook("KXA")
    book.apply_snapshot(snapshot(tuple(yes.items()), tuple(no.items())))
    model = {"yes": dict(yes), "no": dict(no)}
    for step in steps:
        if len(step) == 2:
            book.apply_snapshot(snapshot(tuple(step[0].items()), tuple(step[1].items())))
            model = {"yes": dict(step[0]), "no": dict(step[1])}
        else:
            side, price, change = step
            after = model[side].get(price, D(0)) + change
            if after < 0:
                with pytest.raises(WireError):
                    book.apply_delta(delta(side, str(price), str(change)))
                assert not book.is_usable
                return
            book.apply_delta(delta(side, str(price), str(change)))
            model[side][price] = after
        bids = {s: {p: c for p, c in levels.items() if c > 0} for s, levels in model.items()}
        best_yes, best_no = max(bids["yes"], default=D(0)), max(bids["no"], default=D(0))
        assert (book.yes_bid, book.yes_bid_size) == (best_yes, bids["yes"].get(best_yes, 0))
        assert (book.yes_ask, book.yes_ask_size) == (1 - best_no, bids["no"].get(best_no, 0))
        assert book.is_crossed == (bool(bids["yes"]) and bool(bids["no"]) and best_yes + best_no >= 1)
        assert best_bids(book.bids(OutcomeSide.YES), 3) == tuple(
            sorted(bids["yes"].items(), reverse=True)[:3]
        )
        assert book.depth(OutcomeSide.YES, D("0.5")) == sum(
            c for p, c in bids["yes"].items() if p >= D("0.5")
        )


@pytest.mark.parametrize(
    ("seen", "in_order"),
    [
        pytest.param([1, 2, 3], [True, True, True], id="one after the other"),
        pytest.param([17, 18], [True, True], id="the first number may be any"),
        pytest.param([1, 3, 4], [True, False, True], id="one is missing, told once"),
        pytest.param([1, 2, 2, 3], [True, True, True, True], id="a repetition is no gap"),
        pytest.param([1, 2, 1, 3], [True, True, True, True], id="an old one moves nothing back"),
        pytest.param([1, None, 2], [True, True, True], id="no number proves nothing"),
    ],
)
def test_gaps_are_noticed(seen: list[int | None], in_order: list[bool]) -> None:
    check = SequenceCheck()
    assert [check.accept(seq) for seq in seen] == in_order


def test_repetitions_are_noticed() -> None:
    check = SequenceCheck()
    assert not check.is_repeated(1)
    assert not check.is_before_last(1)
    check.accept(2)
    assert [check.is_repeated(seq) for seq in (1, 2, 3, None)] == [True, True, False, False]
    assert [check.is_before_last(seq) for seq in (1, 2, 3, None)] == [True, False, False, False]
