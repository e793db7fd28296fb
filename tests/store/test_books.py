"""The day's money when fills are read late: what is listed, what is not yet, and what is listed twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from base.model.market import ZERO, BookSide, OutcomeSide
from base.model.position import Fill, Position
from base.model.trading_day import trading_day
from base.store.books import Books, Owners
from base.store.realized import Holding, Payout, Step, replay
from base.store.records import FillRecord, LedgerRecord, OrderRecord, Record, Remembered, ResultRecord

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


# --- days, zones and strategies -----------------------------------------------------------------------

NEW_YORK = ZoneInfo("America/New_York")
MIDNIGHT = datetime(2026, 11, 23, tzinfo=NEW_YORK).timestamp()
EVENING, MORNING = "2026-11-22", "2026-11-23"


def sold_at(wall: float, trade: str = "t1", count: str = "4", order: str = "o1") -> Fill:
    return replace(sale(trade, count, "0.40", order), ts_ms=round(wall * 1000))


def remembered_of(books: Books) -> Remembered:
    newest: dict[object, Record] = {}
    for record in books.take_records():
        newest[type(record), getattr(record, "key", None)] = record
    kept = newest.values()
    return Remembered(
        orders=tuple(r for r in kept if isinstance(r, OrderRecord)),
        fills=tuple(r for r in kept if isinstance(r, FillRecord)),
        ledgers=tuple(sorted((r for r in kept if isinstance(r, LedgerRecord)), key=lambda r: r.day)),
        results=tuple(r for r in kept if isinstance(r, ResultRecord)),
    )


@pytest.mark.parametrize(
    ("traded_at", "told_at", "day"),
    [
        (MIDNIGHT - 0.001, MIDNIGHT - 0.001, EVENING),
        (MIDNIGHT - 0.001, MIDNIGHT + 2, EVENING),
        (MIDNIGHT, MIDNIGHT + 2, MORNING),
        (MIDNIGHT, MIDNIGHT - 0.5, MORNING),
    ],
    ids=[
        "told at once",
        "told after midnight",
        "the first trade of the day",
        "the exchange's clock is ahead of ours",
    ],
)
def test_money_belongs_to_the_day_on_which_the_exchange_traded(
    traded_at: float, told_at: float, day: str
) -> None:
    books = Books(NEW_YORK)
    books.book_fill(sold_at(traded_at), HELD, told_at)
    days = {EVENING: books.ledger(MIDNIGHT - 1), MORNING: books.ledger(MIDNIGHT + 1)}
    assert {name: ledger.realized for name, ledger in days.items() if ledger.realized} == {day: D("-0.40")}
    (kept,) = remembered_of(books).ledgers
    assert (kept.day, kept.realized, kept.zone) == (day, D("-0.40"), "America/New_York")


def test_the_fills_of_an_answer_from_before_midnight_mend_that_day_and_do_not_hold_up_the_next() -> None:
    books = Books(NEW_YORK)
    books.book_answer(
        "o1",
        T,
        HELD,
        BookSide.ASK,
        D(6),
        D("0.3667"),
        D("0.02"),
        MIDNIGHT - 1,
        ts_ms=round((MIDNIGHT - 1) * 1000),
    )
    rest = replace(sale("t2", "2", "0.30"), ts_ms=round((MIDNIGHT - 1) * 1000))
    for fill in (sold_at(MIDNIGHT - 1), rest):
        books.book_fill(fill, None, MIDNIGHT + 1)
    was = books.ledger(MIDNIGHT - 1)
    assert abs(was.realized - D("-0.80")) < D("1e-18")
    assert books.ledger(MIDNIGHT + 1).fees == 0
    today = sold_at(MIDNIGHT + 60, "t3", order="o2")
    books.book_fill(today, HELD, MIDNIGHT + 60)
    books.book_missed(MORNING, steps_of(today, entry="0.60"), (), MIDNIGHT + 61, is_all=True)
    assert books.ledger(MIDNIGHT + 62).realized == D("-0.80"), "the day's fills are all there are"


@pytest.mark.parametrize("rebuilds", [True, False], ids=["gone through again", "as it was left"])
def test_after_a_restart_the_day_goes_on_and_so_does_the_one_before(rebuilds: bool) -> None:
    books = Books(NEW_YORK)
    books.book_fill(sold_at(MIDNIGHT - 5), replace(HELD, strategy="value"), MIDNIGHT - 5)
    books.book_fill(sold_at(MIDNIGHT + 5, "t2", order="o2"), replace(HELD, strategy="value"), MIDNIGHT + 5)
    again = Books(NEW_YORK)
    again.restore(remembered_of(books), MIDNIGHT + 10)
    for wall in (MIDNIGHT - 5, MIDNIGHT + 10):
        assert again.ledger(wall) == books.ledger(wall)
        assert [(r.ticker, r.strategy) for r in again.ledger(wall).results] == [(T, "value")]
    again.book_fill(sold_at(MIDNIGHT - 5, "t3", "1"), HELD, MIDNIGHT + 11)
    assert again.ledger(MIDNIGHT - 5).fees == D("0.02"), "a late word of yesterday"
    if rebuilds:
        steps = steps_of(sold_at(MIDNIGHT + 5, "t2", order="o2"))
        assert again.book_missed(MORNING, steps, (), MIDNIGHT + 12, is_all=True) == 0
    assert again.ledger(MIDNIGHT + 12) == books.ledger(MIDNIGHT + 12)


def test_in_another_zone_the_day_is_booked_anew_from_what_the_exchange_lists() -> None:
    books = Books()
    early, late = sold_at(MIDNIGHT - 7200, "t1", order="o1"), sold_at(MIDNIGHT + 7200, "t2", order="o2")
    for fill in (early, late):
        books.book_fill(fill, replace(HELD, strategy="value"), fill.ts_ms / 1000)
    now = MIDNIGHT + 9000
    assert books.ledger(now).fees == D("0.02"), "both are of one day in UTC"
    again = Books(NEW_YORK)
    again.restore(remembered_of(books), now)
    assert again.ledger(now).fees == 0
    assert again.book_missed(MORNING, steps_of(late), (), now, is_all=False) == 1
    ledger = again.ledger(now)
    assert (ledger.realized, ledger.fees) == (D("-0.40"), D("0.01"))
    assert [(r.ticker, r.strategy) for r in ledger.results] == [(T, "value")]
    again.book_fill(early, HELD, now)
    assert again.ledger(MIDNIGHT - 7200).fees == 0, "it was booked in the old zone"


def test_in_another_zone_what_nobody_else_lists_stays_booked() -> None:
    """On paper: the day's loss, and the limit that it has reached, must not vanish with a setting."""
    noon = MIDNIGHT - 12 * 3600
    books = Books(NEW_YORK)
    books.book_fill(sold_at(noon), HELD, noon)
    again = Books(UTC, is_listed_elsewhere=False)
    again.restore(remembered_of(books), noon + 60)
    assert (again.ledger(noon + 60).realized, again.ledger(noon + 60).fees) == (
        books.ledger(noon + 60).realized,
        books.ledger(noon + 60).fees,
    )
    assert again.ledger(noon + 60).realized == D("-0.40")


def test_a_sum_from_before_results_were_kept_belongs_to_no_market() -> None:
    books = Books()
    books.restore(Remembered(ledgers=(LedgerRecord(TODAY, D("-1.50"), D("0.20")),)), NOW)
    books.book_fill(sale("t1", "4", "0.40"), HELD, NOW)
    ledger = books.ledger(NOW)
    assert [(r.ticker, r.realized, r.fees) for r in ledger.results] == [
        ("", D("-1.50"), D("0.20")),
        (T, D("-0.40"), D("0.01")),
    ]
    assert (ledger.realized, ledger.fees) == (D("-1.90"), D("0.21"))


def test_an_exit_is_the_strategys_whose_position_it_closes_and_late_fills_stay_with_it() -> None:
    books = Books()
    books.book_fill(sale("t1", "4", "0.40"), replace(HELD, strategy="value"), NOW)
    books.book_fill(sale("t2", "6", "0.40"), None, NOW, opener="other")
    assert [(r.strategy, r.fees) for r in books.ledger(NOW).results] == [("value", D("0.02"))]


def test_a_result_that_fills_disprove_is_written_over() -> None:
    books = Books()
    books.restore(Remembered(ledgers=(LedgerRecord(TODAY, D("-1.50"), D("0.20")),)), NOW)
    books.book_missed(TODAY, steps_of(sale("t1", "4", "0.40")), (), NOW, is_all=True)
    assert [(r.ticker, r.realized) for r in books.ledger(NOW).results] == [(T, D("-0.40"))]
    kept = {r.ticker: r.realized for r in books.take_records() if isinstance(r, ResultRecord)}
    assert kept == {"": 0, T: D("-0.40")}


def test_a_payout_is_booked_with_what_settling_cost_once() -> None:
    books = Books()
    payout = Payout(T, int(NOW * 1000), D(10), D("5"), D(10), fee=D("0.03"))
    assert books.book_payout(payout, "value", NOW)
    assert not books.book_payout(payout, "value", NOW)
    ledger = books.ledger(NOW)
    assert (ledger.realized, ledger.fees) == (D(5), D("0.03"))
    assert [r.strategy for r in ledger.results] == ["value"]
    books.book_missed(TODAY, [], [payout], NOW, is_all=True, owners=Owners({T: "value"}))
    assert books.ledger(NOW) == ledger
