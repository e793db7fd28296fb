"""The day's money when fills are read late: what is listed, what is not yet, and what is listed twice."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import pytest

from base.model.market import ZERO, BookSide, OutcomeSide
from base.model.position import Fill, Position
from base.store.books import Books, trading_day
from base.store.realized import Holding, Payout, Step, replay
from base.store.records import FillRecord, LedgerRecord, OrderRecord, Remembered

T = "KXHIGHNY-26NOV22-T60"
D = Decimal
NOW = 1_790_000_000.0
TODAY = trading_day(NOW)
HELD = Position(T, OutcomeSide.YES, D(10), D("0.50"))


def sale(trade: str, count: str, price: str, order: str = "o1") -> Fill:
    return Fill(trade, order, T, BookSide.ASK, D(count), D(price), D("0.01"), int(NOW * 1000))


def steps_of(*fills: Fill, entry: str = "0.50") -> list[Step]:
    return replay(fills, Holding(D(10), D(entry)))


def books_with(*fills: Fill) -> Books:
    """Booked as they came, from a position of 10 at 0.50."""
    books = Books()
    for fill in fills:
        books.book_fill(fill, HELD, NOW)
    return books


def answer(books: Books, count: str, price: str) -> None:
    books.book_answer("o1", T, HELD, BookSide.ASK, D(count), D(price), D("0.05"), NOW)


def money(books: Books) -> tuple[Decimal, Decimal]:
    ledger = books.ledger(NOW)
    return ledger.realized, ledger.fees


def test_the_whole_days_fills_outweigh_what_was_booked_as_it_came() -> None:
    books = books_with(sale("t1", "4", "0.40"))
    assert money(books) == (D("-0.40"), D("0.01"))
    # It had cost 0.60: what was bought in between had not been told.
    assert (
        books.book_missed(TODAY, steps_of(sale("t1", "4", "0.40"), entry="0.60"), (), NOW, is_all=True) == 0
    )
    assert money(books) == (D("-0.80"), D("0.01"))
    assert books.take_records()[-1] == LedgerRecord(TODAY, D("-0.80"), D("0.01"))


@pytest.mark.parametrize(
    ("listed", "is_all"),
    [
        ([sale("t1", "4", "0.40")], True),
        ([sale("t1", "4", "0.40"), sale("t2", "2", "0.30", "o2")], False),
    ],
    ids=["the list is behind", "markets are missing from it"],
)
def test_an_incomplete_list_takes_nothing_back(listed: Sequence[Fill], is_all: bool) -> None:
    books = books_with(sale("t1", "4", "0.40"), sale("t2", "2", "0.30", "o2"))
    before = money(books)
    assert books.book_missed(TODAY, steps_of(*listed, entry="0.60"), (), NOW, is_all=is_all) == 0
    assert money(books) == before


def test_an_answer_whose_fills_are_not_listed_is_not_taken_back() -> None:
    books = Books()
    answer(books, "6", "0.40")
    before = money(books)
    assert books.book_missed(TODAY, [], (), NOW, is_all=True) == 0
    assert money(books) == before
    books.book_missed(TODAY, steps_of(sale("t1", "4", "0.40")), (), NOW, is_all=True)
    assert money(books) == before, "a part of it is not all of it"


@pytest.mark.parametrize("is_restored", [False, True], ids=["the same run", "after a restart"])
def test_fills_that_are_listed_late_replace_the_rounded_answer(is_restored: bool) -> None:
    books = Books()
    answer(books, "6", "0.3667")
    if is_restored:
        written = books.take_records()
        books = Books()
        books.restore(
            Remembered(
                orders=tuple(r for r in written if isinstance(r, OrderRecord)),
                ledgers=tuple(r for r in written if isinstance(r, LedgerRecord)),
            ),
            NOW,
        )
    steps = steps_of(sale("t1", "4", "0.40"), sale("t2", "2", "0.30"))
    assert books.book_missed(TODAY, steps, (), NOW, is_all=False) == 2
    realized, fees = money(books)
    assert abs(realized - D("-0.80")) < D("1e-18")
    assert fees == D("0.02")


@pytest.mark.parametrize(
    ("signed", "cost", "revenue", "gain"),
    [("10", "5", "10", "5"), ("10", "5", "0", "-5"), ("-4", "1", "4", "3"), ("-4", "1", "0", "-1")],
    ids=["YES won", "YES lost", "NO won", "NO lost"],
)
def test_a_payout_counts_once_also_after_a_restart(signed: str, cost: str, revenue: str, gain: str) -> None:
    payout = Payout(T, int(NOW * 1000), D(signed), D(cost), D(revenue))
    books = Books()
    assert books.book_missed(TODAY, [], [payout], NOW, is_all=False) == 1
    assert books.book_missed(TODAY, [], [payout], NOW, is_all=False) == 0
    assert money(books) == (D(gain), ZERO)
    written = books.take_records()
    again = Books()
    again.restore(
        Remembered(
            fills=tuple(r for r in written if isinstance(r, FillRecord)),
            ledgers=tuple(r for r in written if isinstance(r, LedgerRecord)),
        ),
        NOW,
    )
    assert again.book_missed(TODAY, [], [payout], NOW, is_all=False) == 0
    assert money(again) == (D(gain), ZERO)


def test_what_was_booked_on_another_day_does_not_hold_up_today() -> None:
    books = books_with(sale("t1", "4", "0.40", "o3"))
    answer(books, "2", "0.40")  # its fills are never told
    tomorrow = NOW + 86_400
    later = sale("t2", "6", "0.40", "o2")
    books.book_fill(later, HELD, tomorrow)
    listed = steps_of(later, entry="0.60")
    assert books.book_missed(trading_day(tomorrow), listed, (), tomorrow, is_all=True) == 0
    assert books.ledger(tomorrow).realized == D("-1.20")
    assert books.book_missed(TODAY, [], (), tomorrow, is_all=True) is None
