"""Orders that may still buy: legal steps, what comes next, what a read proves, what stays reserved."""

from __future__ import annotations

import itertools
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import InvariantError
from base.execution.entry_orders import (
    ABSENT_AFTER_S,
    ABSENT_AGREE_S,
    COMPARED_EVERY_S,
    PATIENCE_S,
    SETTLING_S,
    TRANSITIONS,
    Entry,
    Reservation,
    Situation,
    StepKind,
    from_before,
    left_over,
    next_step,
    sum_reserved,
    take_found,
    take_missing,
    why_to_cancel,
)
from base.execution.gateway import FoundOrder
from base.model.market import BookSide, OutcomeSide
from base.model.order import EntryOrder, EntryState, Order, OrderStatus
from base.risk.limits import entry_cost

D = Decimal
S, U, R, C, DONE = (
    EntryState.SENDING,
    EntryState.UNKNOWN,
    EntryState.RESTING,
    EntryState.CANCELING,
    EntryState.DONE,
)
NOW, WALL = 1_000.0, 1_790_000_000.0


def order(state: EntryState = R, **changes: object) -> EntryOrder:
    base = EntryOrder(
        client_order_id="e1",
        ticker="KXA-1-T",
        outcome_side=OutcomeSide.YES,
        count=D(10),
        price=D("0.40"),
        strategy="mine",
        state=state,
        placed_at=WALL,
        order_id="x1",
        expires_at=WALL + 900,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def entry(state: EntryState = R, **changes: object) -> Entry:
    return Entry(order(state, **changes), sent_at=NOW, sent_at_wall=WALL, compared_at=NOW)


def found(status: OrderStatus, filled: str = "0") -> FoundOrder:
    return FoundOrder("x1", status, D(filled), None, D(0))


# --- the table


@pytest.mark.parametrize(
    ("before", "after"), list(itertools.product(EntryState, repeat=2)), ids=lambda state: state.value
)
def test_a_step_is_in_the_table_or_it_raises(before: EntryState, after: EntryState) -> None:
    known = entry(before)
    if (before, after) in TRANSITIONS:
        known.move(after)
        assert known.order.state is after
    else:
        with pytest.raises(InvariantError):
            known.move(after)
        assert known.order.state is before


def test_every_short_course_ends_for_good_and_can_be_ended() -> None:
    courses = [
        (S, *rest)
        for length in range(1, 6)
        for rest in itertools.product(EntryState, repeat=length)
        if all(step in TRANSITIONS for step in itertools.pairwise((S, *rest)))
    ]
    assert len(courses) > 30
    for course in courses:
        assert DONE not in course[:-1], "nothing leaves DONE"
        for before, after in itertools.pairwise(course):
            if before is C:
                assert after is not R, "a cancel that is wanted is never taken back without a look"
            if before is U:
                assert after is not C, "what is unknown is looked up before it is canceled"
        last = course[-1]
        assert last is DONE or (last, DONE) in TRANSITIONS, f"{course} cannot end"
    assert {state for course in courses for state in course} == set(EntryState)


# --- what must go, and what comes next


class WhyCase(NamedTuple):
    name: str
    goes: bool
    situation: Situation
    keeps: bool = False


CALM = Situation(now=WALL + 10, time_left_s=3_600.0, min_time_left_s=300.0)
WHY = [
    WhyCase("all is well", False, CALM),
    WhyCase("an exit of its market is under way", True, replace(CALM, is_exiting=True)),
    WhyCase("entries are off", True, replace(CALM, may_enter=False)),
    WhyCase("the program stops", True, replace(CALM, is_stopping=True)),
    WhyCase("the feed is lost", True, replace(CALM, feed_is_live=False)),
    WhyCase("the feed is lost, and it may stay", False, replace(CALM, feed_is_live=False), keeps=True),
    WhyCase(
        "entries are off, and it may stay for the feed", True, replace(CALM, may_enter=False), keeps=True
    ),
    WhyCase("a moment before it expires", False, replace(CALM, now=WALL + 899.9)),
    WhyCase("expired", True, replace(CALM, now=WALL + 900)),
    WhyCase("just enough time left", False, replace(CALM, time_left_s=300.0)),
    WhyCase("the close is near", True, replace(CALM, time_left_s=299.9)),
    WhyCase("the close is not known", False, replace(CALM, time_left_s=None)),
]


@pytest.mark.parametrize("case", WHY, ids=lambda case: case.name)
def test_what_must_not_rest_any_longer(case: WhyCase) -> None:
    resting = entry(keep_on_feed_loss=case.keeps)
    assert bool(why_to_cancel(resting.order, case.situation)) is case.goes
    kind = next_step(resting, case.situation, NOW).kind
    assert kind is (StepKind.CANCEL if case.goes else StepKind.NOTHING)


@pytest.mark.parametrize("situation", [CALM, replace(CALM, is_exiting=True)], ids=["calm", "exit"])
@pytest.mark.parametrize(
    ("state", "calm", "trouble"),
    [
        (S, StepKind.NOTHING, StepKind.NOTHING),
        (U, StepKind.LOOK_UP, StepKind.LOOK_UP),
        (R, StepKind.NOTHING, StepKind.CANCEL),
        (DONE, StepKind.NOTHING, StepKind.NOTHING),
    ],
    ids=["answer awaited", "unknown", "resting", "done"],
)
def test_each_state_has_its_next_step(
    state: EntryState, calm: StepKind, trouble: StepKind, situation: Situation
) -> None:
    expected = trouble if situation.is_exiting else calm
    assert next_step(entry(state), situation, NOW).kind is expected


def test_tries_are_paced_and_a_new_reason_goes_at_once() -> None:
    known = entry(R)
    known.next_try_at = NOW + 5
    assert next_step(known, replace(CALM, is_exiting=True), NOW).kind is StepKind.CANCEL
    known.move(C)
    known.cancel_why = "an exit"
    assert next_step(known, CALM, NOW).kind is StepKind.NOTHING
    assert next_step(known, CALM, NOW + 5).kind is StepKind.CANCEL
    unknown = entry(U)
    unknown.next_try_at = NOW + 5
    assert next_step(unknown, CALM, NOW + 4.9).kind is StepKind.NOTHING


def test_a_resting_order_is_compared_now_and_then() -> None:
    assert next_step(entry(), CALM, NOW + COMPARED_EVERY_S - 0.1).kind is StepKind.NOTHING
    assert next_step(entry(), CALM, NOW + COMPARED_EVERY_S).kind is StepKind.LOOK_UP


# --- what a read means


@pytest.mark.parametrize(
    ("before", "status", "after"),
    [
        (U, OrderStatus.RESTING, R),
        (U, OrderStatus.EXECUTED, DONE),
        (U, OrderStatus.CANCELED, DONE),
        (U, OrderStatus.UNKNOWN, U),
        (R, OrderStatus.RESTING, R),
        (R, OrderStatus.CANCELED, DONE),
        (C, OrderStatus.RESTING, C),
        (C, OrderStatus.EXECUTED, DONE),
        (DONE, OrderStatus.RESTING, DONE),
    ],
)
def test_what_is_listed(before: EntryState, status: OrderStatus, after: EntryState) -> None:
    known = entry(before)
    take_found(known, found(status), NOW + 1, NOW + 1)
    assert known.order.state is after


def test_a_read_from_before_an_amend_says_only_what_was_bought() -> None:
    known = entry(U)
    assert take_found(known, found(OrderStatus.RESTING, "3"), NOW - 1, NOW)
    assert (known.order.state, known.order.filled) == (U, D(3))


def test_what_was_bought_never_shrinks() -> None:
    known = entry(R, filled=D(5))
    assert not take_found(known, found(OrderStatus.RESTING, "3"), NOW + 1, NOW + 1)
    assert known.order.filled == 5


def test_an_order_may_have_bought_more_than_it_asked_for_by_an_amend_of_unknown_outcome() -> None:
    known = entry(U)
    known.amend_to = (D("0.40"), D(20))
    take_found(known, found(OrderStatus.EXECUTED, "15"), NOW + 1, NOW + 1)
    assert (known.order.filled, known.order.remaining) == (15, 0)
    known = entry(R)
    known.take_filled(D(15), NOW)
    assert known.order.remaining == 0
    assert known.reserved == entry_cost(D(15), D("0.40"))


class MissingCase(NamedTuple):
    name: str
    is_proved: bool
    reads: tuple[tuple[float, float | None], ...]
    """Of each read: how long after the sending it left, and up to when it was complete."""


LATE = ABSENT_AFTER_S
MISSING = [
    MissingCase("one read proves nothing", False, ((LATE + 1, LATE + 1),)),
    MissingCase("two that agree", True, ((LATE, LATE), (LATE + ABSENT_AGREE_S, LATE + ABSENT_AGREE_S))),
    MissingCase("two of one moment", False, ((LATE, LATE), (LATE + 1, LATE + 1))),
    MissingCase("reads that lag behind the sending", False, ((60, LATE - 1), (70, LATE - 0.1))),
    MissingCase("the first lags", False, ((60, LATE - 1), (70, LATE + 1))),
    MissingCase("too soon without a word", False, ((40, None), (PATIENCE_S - 0.1, None))),
    MissingCase("patience without a word", True, ((PATIENCE_S, None), (PATIENCE_S + ABSENT_AGREE_S, None))),
]


@pytest.mark.parametrize("case", MISSING, ids=lambda case: case.name)
def test_absence_is_only_believed_with_proof(case: MissingCase) -> None:
    known = entry(U)
    verdicts = [
        take_missing(known, None if as_of is None else WALL + as_of, NOW + left) for left, as_of in case.reads
    ]
    assert any(verdicts) is case.is_proved
    assert (known.order.state is DONE) is case.is_proved
    assert known.is_given_up is case.is_proved


def test_a_read_that_shows_it_begins_the_count_of_missing_reads_anew() -> None:
    known = entry(U)
    take_missing(known, WALL + LATE, NOW + LATE)
    take_found(known, found(OrderStatus.UNKNOWN), NOW + LATE + 2, NOW + LATE + 2)
    assert not take_missing(known, WALL + LATE + 4, NOW + LATE + 4)


def test_a_resting_order_that_is_not_listed_is_unknown_and_not_gone() -> None:
    known = entry(R)
    assert not take_missing(known, WALL + LATE, NOW + LATE)
    assert known.order.state is U
    assert known.reserved > 0


# --- what stays reserved


def test_what_may_still_be_bought_is_reserved_with_its_fees() -> None:
    known = entry(R, filled=D(4))
    assert known.reserved == entry_cost(D(6), D("0.40")) > D("2.40")


def test_what_the_stream_says_was_bought_is_reserved_till_the_position_can_hold_it() -> None:
    known = entry(R)
    full = known.reserved
    known.take_filled(D(4), NOW)
    assert known.reserved == full
    known.settle(NOW + SETTLING_S - 0.1, None)
    assert known.reserved == full
    known.settle(NOW + SETTLING_S, None)
    assert known.reserved == entry_cost(D(6), D("0.40"))


def test_what_a_read_of_orders_says_was_bought_waits_for_a_read_of_positions() -> None:
    known = entry(R)
    full = known.reserved
    known.take_filled(D(4), NOW, is_prompt=False)
    known.settle(NOW + 60, NOW - 1)
    assert known.reserved == full
    known.settle(NOW + 60, NOW + 1)
    assert known.reserved == entry_cost(D(6), D("0.40"))


def test_a_later_word_of_the_stream_frees_nothing_that_waits_for_a_read() -> None:
    known = entry(R)
    full = known.reserved
    known.take_filled(D(4), NOW, is_prompt=False)
    known.take_filled(D(5), NOW + 1)
    known.settle(NOW + 60, NOW - 1)
    assert known.reserved == full


def test_an_order_that_is_done_keeps_what_its_position_does_not_hold_yet() -> None:
    known = entry(R)
    known.take_filled(D(10), NOW, is_prompt=False)
    known.move(DONE)
    assert (known.reserved, known.is_over) == (entry_cost(D(10), D("0.40")), False)
    known.settle(NOW, NOW + 1)
    assert (known.reserved, known.is_over) == (0, True)


@pytest.mark.parametrize(
    ("price", "count", "reserved"),
    [("0.50", "10", ("10", "0.50")), ("0.30", "10", ("10", "0.40")), ("0.40", "12", ("12", "0.40"))],
    ids=["dearer", "cheaper", "more"],
)
def test_while_an_amend_is_under_way_the_larger_of_both_is_reserved(
    price: str, count: str, reserved: tuple[str, str]
) -> None:
    known = entry(R)
    known.amend_to = (D(price), D(count))
    assert known.reserved == entry_cost(D(reserved[0]), D(reserved[1]))


def test_reservations_are_summed_by_market_and_event() -> None:
    sums = sum_reserved(
        [Reservation("A-1", D(1)), Reservation("A-2", D(2)), Reservation("B-1", D(4))],
        "A-1",
        lambda ticker: ticker[0],
    )
    assert (sums.ticker, sums.event, sums.total) == (1, 3, 7)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["stream", "read", "settle", "positions", "missing"]),
            st.integers(0, 1_000).map(lambda n: D(n) / 100),
            st.floats(0, 40),
        ),
        max_size=12,
    )
)
def test_what_may_be_bought_and_is_not_held_is_always_reserved(
    steps: list[tuple[str, Decimal, float]],
) -> None:
    """Held is what the position can hold at the latest: what was told before the last settling."""
    known = entry(U)
    now = NOW
    held = D(0)
    for what, filled, passed in steps:
        now += passed
        match what:
            case "stream":
                known.take_filled(filled, now)
            case "read":
                take_found(known, found(OrderStatus.UNKNOWN, str(filled)), now, now)
            case "settle" if known.is_settled_by_time and now - known.settling_since >= SETTLING_S:
                held = known.order.filled
                known.settle(now, None)
            case "positions":
                held = known.order.filled
                known.settle(now, now + 0.001)
            case "missing":
                take_missing(known, WALL + now - NOW, now)
            case _:
                known.settle(now, None)
        if known.order.state.may_fill:
            assert known.reserved >= entry_cost(known.order.count - held, known.order.price)


# --- what is remembered


def test_what_a_run_left_behind_is_unknown_and_to_go() -> None:
    known = from_before(order(R, filled=D(3)), NOW + 100, WALL + 100)
    assert known.order == order(U, filled=D(3))
    assert known.cancel_why
    assert (known.sent_at, known.sent_at_wall) == (NOW, WALL)
    assert next_step(known, CALM, NOW + 100).kind is StepKind.LOOK_UP
    take_found(known, found(OrderStatus.RESTING, "3"), NOW + 100, NOW + 100)
    assert next_step(known, CALM, NOW + 100).kind is StepKind.CANCEL


@pytest.mark.parametrize(
    ("book_side", "side", "price"),
    [(BookSide.BID, OutcomeSide.YES, "0.30"), (BookSide.ASK, OutcomeSide.NO, "0.70")],
)
def test_a_left_over_order_is_read_from_the_exchanges_list(
    book_side: BookSide, side: OutcomeSide, price: str
) -> None:
    listed = Order(
        order_id="x1",
        client_order_id="e1",
        ticker="A",
        book_side=book_side,
        status=OrderStatus.RESTING,
        price=D("0.30"),
        initial_count=D(10),
        fill_count=D(4),
        remaining_count=D(6),
        fill_cost=D(0),
        fees=D(0),
        created_ts_ms=int(WALL * 1000),
    )
    known = left_over(listed, NOW, WALL)
    assert (known.order.outcome_side, known.order.price, known.order.remaining) == (side, D(price), 6)
    assert next_step(known, CALM, NOW).kind is StepKind.CANCEL
