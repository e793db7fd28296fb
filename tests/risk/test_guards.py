"""Guards delay, they never disable: each one by table, then the time box as a property."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.model.market import Quote
from base.model.rules import Evaluation, Exit, ExitReason, ExitRule, Hold, HoldReason, RuleState
from base.risk.exit_rules import evaluate
from base.risk.guards import CLOSE_MARGIN_S, Delay, Pass, check_guards
from tests.risk.cases import FLOOR, MONOTONIC, NOW, market, position, quote

D = Decimal
TRIGGERED = RuleState(triggered_at=MONOTONIC, triggered_updates=1, last_quote_at=MONOTONIC)


def look(
    seen: Quote | None, rule: ExitRule, state: RuleState, *, after_s: float, closes_in_s: float | None = None
) -> Evaluation:
    return evaluate(
        position("0.52"),
        seen,
        market(closes_in_s=closes_in_s),
        rule,
        state,
        now_wall=NOW + after_s,
        now_monotonic=MONOTONIC + after_s,
        floor=FLOOR,
        price_age_s=0.0,
    )


class GuardCase(NamedTuple):
    name: str
    rule: ExitRule
    passes: bool
    spread: str | None = "0.01"
    bid_size: str | None = "100"
    updates: int = 1
    waited_s: float = 0.0
    to_close_s: float | None = None
    fell_s_ago: float | None = None


WICK = ExitRule(wick_drop=D("0.05"), wick_wait_ms=2_000)
GUARDS = [
    GuardCase("defaults delay nothing", ExitRule(), True),
    GuardCase("defaults delay nothing on an empty thin book", ExitRule(), True, spread=None, bid_size="0.01"),
    GuardCase("first of two updates", ExitRule(confirm_updates=2), False),
    GuardCase("second of two updates", ExitRule(confirm_updates=2), True, updates=2),
    GuardCase("1 s not over", ExitRule(confirm_ms=1000), False, waited_s=0.999),
    GuardCase("1 s over", ExitRule(confirm_ms=1000), True, waited_s=1.0),
    GuardCase("spread at the limit", ExitRule(max_spread=D("0.10")), True, spread="0.10"),
    GuardCase("spread above the limit", ExitRule(max_spread=D("0.10")), False, spread="0.1001"),
    GuardCase("nobody offers", ExitRule(max_spread=D("0.10")), False, spread=None),
    GuardCase("bid size at the limit", ExitRule(min_bid_size=D(5)), True, bid_size="5"),
    GuardCase("bid size below the limit", ExitRule(min_bid_size=D(5)), False, bid_size="4.99"),
    GuardCase("bid size not told", ExitRule(min_bid_size=D(5)), True, bid_size=None),
    GuardCase("no fall seen", WICK, True),
    GuardCase("a fall 1.9 s ago", WICK, False, waited_s=0.5, fell_s_ago=1.9),
    GuardCase("a fall 2 s ago", WICK, True, waited_s=0.5, fell_s_ago=2.0),
    GuardCase(
        "a wait longer than patience",
        replace(WICK, wick_wait_ms=60_000),
        True,
        waited_s=10.0,
        fell_s_ago=10.0,
    ),
    GuardCase("a fall seconds before the close", WICK, True, fell_s_ago=0.0, to_close_s=CLOSE_MARGIN_S),
    GuardCase("patience not used up", ExitRule(min_bid_size=D(5)), False, bid_size="1", waited_s=9.999),
    GuardCase("patience used up", ExitRule(min_bid_size=D(5)), True, bid_size="1", waited_s=10.0),
    GuardCase("patience of 0 overrules at once", ExitRule(confirm_updates=9, guard_patience_ms=0), True),
    GuardCase("confirmation longer than patience", ExitRule(confirm_ms=60_000), True, waited_s=10.0),
    GuardCase("seconds before the close", ExitRule(confirm_ms=9_000), True, to_close_s=CLOSE_MARGIN_S),
    GuardCase("not yet so near the close", ExitRule(confirm_ms=9_000), False, to_close_s=CLOSE_MARGIN_S + 1),
]


@pytest.mark.parametrize("case", GUARDS, ids=lambda case: case.name)
def test_guards(case: GuardCase) -> None:
    found = check_guards(
        case.rule,
        RuleState(
            triggered_at=MONOTONIC,
            triggered_updates=case.updates,
            last_quote_at=MONOTONIC,
            fell_at=None if case.fell_s_ago is None else MONOTONIC + case.waited_s - case.fell_s_ago,
        ),
        spread=None if case.spread is None else D(case.spread),
        bid_size=None if case.bid_size is None else D(case.bid_size),
        now_monotonic=MONOTONIC + case.waited_s,
        to_close_s=case.to_close_s,
    )
    assert isinstance(found, Pass if case.passes else Delay)


def test_every_guard_that_delays_is_named() -> None:
    rule = replace(WICK, confirm_updates=2, confirm_ms=500, max_spread=D("0.05"), min_bid_size=D(5))
    fallen = replace(TRIGGERED, fell_at=MONOTONIC)
    found = check_guards(
        rule, fallen, spread=D("0.20"), bid_size=D(1), now_monotonic=MONOTONIC, to_close_s=None
    )
    assert found == Delay(
        "seen in 1 of 2 updates; triggered for 0 of 500 ms; spread 0.20, limit 0.05; "
        "bid for 1 contracts, wanted 5; sudden fall 0 of 2000 ms ago"
    )


CONFIRM_1_S = ExitRule(stop_loss_pct=D(25), confirm_ms=1000)


def test_a_wick_shorter_than_the_confirmation_gives_no_exit_and_resets() -> None:
    state = RuleState()
    for after_s, bid, expected in (
        (0.0, "0.52", HoldReason.WITHIN_RULES),
        (0.1, "0.30", HoldReason.GUARDED),
        (0.4, "0.51", HoldReason.WITHIN_RULES),
        (0.9, "0.30", HoldReason.GUARDED),
        (1.8, "0.30", HoldReason.GUARDED),
    ):
        now = look(quote(bid, at=MONOTONIC + after_s), CONFIRM_1_S, state, after_s=after_s)
        assert isinstance(now.decision, Hold)
        assert now.decision.why is expected
        state = now.state
    assert isinstance(look(quote("0.30"), CONFIRM_1_S, state, after_s=1.9).decision, Exit)


def test_the_same_quote_looked_at_twice_is_one_update() -> None:
    rule = ExitRule(stop_loss_pct=D(25), confirm_updates=2)
    first = look(quote("0.30", at=1.0), rule, RuleState(), after_s=0.0)
    again = look(quote("0.30", at=1.0), rule, first.state, after_s=2.0)
    assert isinstance(again.decision, Hold)
    assert isinstance(look(quote("0.30", at=2.0), rule, again.state, after_s=2.1).decision, Exit)


def test_a_vanished_bid_is_no_recovery() -> None:
    first = look(quote("0.30"), CONFIRM_1_S, RuleState(), after_s=0.0)
    gone = look(quote("0.00", "1.00", "0", "0"), CONFIRM_1_S, first.state, after_s=5.0)
    assert isinstance(gone.decision, Hold)
    assert gone.decision.why is HoldReason.NO_BID
    assert isinstance(look(quote("0.30", at=9.0), CONFIRM_1_S, gone.state, after_s=6.0).decision, Exit)


class Look(NamedTuple):
    after_s: float
    bid: str
    """"" for an empty book."""
    expected: HoldReason | type[Exit]


WITHIN, GUARDED = HoldReason.WITHIN_RULES, HoldReason.GUARDED
FALLS = {
    "a wick that comes back sells nothing": [
        Look(0.0, "0.52", WITHIN),
        Look(0.1, "0.30", GUARDED),
        Look(1.0, "0.31", GUARDED),
        Look(1.9, "0.50", WITHIN),
    ],
    "a fall that stays is sold when the wait is over": [
        Look(0.0, "0.52", WITHIN),
        Look(0.1, "0.30", GUARDED),
        Look(2.0, "0.30", GUARDED),
        Look(2.1, "0.30", Exit),
    ],
    "a slow slide is sold at once": [
        Look(0.0, "0.44", WITHIN),
        Look(0.1, "0.42", WITHIN),
        Look(0.2, "0.39", Exit),
    ],
    "a fall of exactly the limit counts": [Look(0.0, "0.44", WITHIN), Look(0.1, "0.39", GUARDED)],
    "a fall that ends above the stop, and the next step meets it": [
        Look(0.0, "0.50", WITHIN),
        Look(0.1, "0.41", WITHIN),
        Look(1.0, "0.38", GUARDED),
        Look(2.1, "0.38", Exit),
    ],
    "a collapse in steps waits once, not once a step": [
        Look(0.0, "0.52", WITHIN),
        Look(0.1, "0.35", GUARDED),
        Look(1.0, "0.25", GUARDED),
        Look(2.0, "0.15", GUARDED),
        Look(2.1, "0.05", Exit),
    ],
    "a book that empties and comes back lower has fallen": [
        Look(0.0, "0.52", WITHIN),
        Look(1.0, "", HoldReason.NO_BID),
        Look(5.0, "0.35", GUARDED),
        Look(7.0, "0.35", Exit),
    ],
    "an empty book while it waits does not start the wait anew": [
        Look(0.0, "0.52", WITHIN),
        Look(0.1, "0.35", GUARDED),
        Look(1.0, "", HoldReason.NO_BID),
        Look(2.1, "0.30", Exit),
    ],
    "the second wick waits anew": [
        Look(0.0, "0.52", WITHIN),
        Look(0.1, "0.35", GUARDED),
        Look(1.0, "0.50", WITHIN),
        Look(5.0, "0.35", GUARDED),
        Look(7.0, "0.35", Exit),
    ],
    "held since a moment ago, below the stop already": [Look(0.0, "0.30", Exit)],
}


@pytest.mark.parametrize("looks", FALLS.values(), ids=FALLS)
def test_a_sudden_fall_is_given_time_to_come_back(looks: list[Look]) -> None:
    rule = replace(WICK, stop_loss_pct=D(25))  # 0.39
    state = RuleState()
    for after_s, bid, expected in looks:
        size = "100" if bid else "0"
        seen = quote(bid or "0", "0.99", size, at=MONOTONIC + after_s)
        now = look(seen, rule, state, after_s=after_s)
        got = now.decision.why if isinstance(now.decision, Hold) else Exit
        assert got is expected, (after_s, now.decision)
        state = now.state


def test_a_rule_without_the_guard_remembers_no_prices() -> None:
    assert look(quote("0.50"), ExitRule(stop_loss_pct=D(25)), RuleState(), after_s=0.0).state == RuleState(
        best_exit_value=D("0.50")
    )


def test_a_time_stop_waits_for_no_guard() -> None:
    rule = ExitRule(exit_before_close_s=60, stop_loss_pct=D(25), confirm_updates=5)
    calm = look(quote("0.52"), rule, RuleState(), after_s=0.0, closes_in_s=30)
    falling = look(quote("0.30"), rule, RuleState(), after_s=0.0, closes_in_s=30)
    for now in (calm, falling):
        assert isinstance(now.decision, Exit)
        assert now.decision.reason is ExitReason.TIME_STOP


guarded_rules = st.builds(
    ExitRule,
    stop_loss_pct=st.just(D(25)),
    confirm_ms=st.just(0) | st.integers(0, 600_000),
    confirm_updates=st.just(1) | st.integers(1, 1_000),
    max_spread=st.none() | st.integers(1, 99).map(lambda n: D(n) / 100),
    min_bid_size=st.none() | st.integers(1, 100_000).map(D),
    wick_drop=st.none() | st.integers(1, 50).map(lambda n: D(n) / 100),
    wick_wait_ms=st.integers(0, 600_000),
    guard_patience_ms=st.integers(0, 60_000),
)


class Moment(NamedTuple):
    """One look of a random course, so long after the one before."""

    wait_ms: int
    bid_cents: int
    has_bid: bool
    is_offered: bool
    is_new: bool
    size: int


moments = st.lists(
    st.builds(
        Moment,
        wait_ms=st.sampled_from([1, 40, 250, 1_000, 2_000, 7_000]) | st.integers(0, 20_000),
        bid_cents=st.sampled_from([20, 30, 39, 40, 52]) | st.integers(1, 97),
        has_bid=st.booleans() | st.just(True),
        is_offered=st.booleans() | st.just(True),
        is_new=st.booleans() | st.just(True),
        size=st.integers(1, 200),
    ),
    min_size=2,
    max_size=40,
)


@given(guarded_rules, moments, st.none() | st.integers(4, 120))
@settings(deadline=None, max_examples=400, database=None)
def test_no_guard_holds_an_exit_beyond_its_time_box(
    rule: ExitRule, course: list[Moment], closes_in_s: int | None
) -> None:
    """However quotes come, vanish or repeat: from the time box's end on, or near the close, the first
    price that meets the stop is sold; and before it, only a guard that is set may hold it."""
    stop, ms, quoted_at, state = D("0.39"), 0, 0.0, RuleState()
    since_ms: int | None = None  # of the trigger, kept here by itself: a gap is no recovery, a price is
    for each in course:
        ms += each.wait_ms
        quoted_at += float(each.is_new)
        bid, size = D(each.bid_cents) / 100, str(each.size) if each.has_bid else "0"
        seen = quote(str(bid), "0.98", size, "10" if each.is_offered else "0", at=quoted_at)
        to_close_s = None if closes_in_s is None else closes_in_s - ms / 1000
        if to_close_s is not None and to_close_s <= 0:
            return
        now = look(seen, rule, state, after_s=ms / 1000, closes_in_s=closes_in_s)
        state = now.state
        if not each.has_bid:
            assert isinstance(now.decision, Hold)
            continue
        if bid > stop:
            since_ms = None
            assert isinstance(now.decision, Hold)
            assert now.decision.why is HoldReason.WITHIN_RULES
            continue
        since_ms = ms if since_ms is None else since_ms
        is_over = ms - since_ms >= rule.guard_patience_ms
        is_near_close = to_close_s is not None and to_close_s <= CLOSE_MARGIN_S
        if is_over or is_near_close or not has_guards(rule):
            assert isinstance(now.decision, Exit)
        if isinstance(now.decision, Exit):
            return
        assert now.decision.why is HoldReason.GUARDED


def has_guards(rule: ExitRule) -> bool:
    guards = ("confirm_ms", "confirm_updates", "max_spread", "min_bid_size", "wick_drop")
    return any(getattr(rule, name) != getattr(ExitRule(), name) for name in guards)
