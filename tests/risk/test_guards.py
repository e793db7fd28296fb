"""Guards delay, they never disable: each one by table, then the time box as a property."""

from __future__ import annotations

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
        RuleState(triggered_at=MONOTONIC, triggered_updates=case.updates, last_quote_at=MONOTONIC),
        spread=None if case.spread is None else D(case.spread),
        bid_size=None if case.bid_size is None else D(case.bid_size),
        now_monotonic=MONOTONIC + case.waited_s,
        to_close_s=case.to_close_s,
    )
    assert isinstance(found, Pass if case.passes else Delay)


def test_every_guard_that_delays_is_named() -> None:
    rule = ExitRule(confirm_updates=2, confirm_ms=500, max_spread=D("0.05"), min_bid_size=D(5))
    found = check_guards(
        rule, TRIGGERED, spread=D("0.20"), bid_size=D(1), now_monotonic=MONOTONIC, to_close_s=None
    )
    assert found == Delay(
        "seen in 1 of 2 updates; triggered for 0 of 500 ms; spread 0.20, limit 0.05; "
        "bid for 1 contracts, wanted 5"
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
    confirm_ms=st.integers(0, 600_000),
    confirm_updates=st.integers(1, 1_000),
    max_spread=st.none() | st.integers(1, 99).map(lambda n: D(n) / 100),
    min_bid_size=st.none() | st.integers(1, 100_000).map(D),
    guard_patience_ms=st.integers(0, 60_000),
)


@given(
    guarded_rules,
    st.lists(st.tuples(st.integers(1, 3_900), st.booleans(), st.booleans()), min_size=40, max_size=40),
)
@settings(deadline=None, max_examples=100, database=None)
def test_after_its_patience_a_standing_trigger_comes_out(
    rule: ExitRule, looks: list[tuple[int, bool, bool]]
) -> None:
    """However quotes come, vanish or repeat: once patience is over, the first price exits."""
    state, ms, quoted_at = RuleState(), 0, 0.0
    for ticks, is_new, has_bid in looks:
        quoted_at += float(is_new)
        bid = D(ticks) / 10_000
        is_priced = has_bid and bid >= FLOOR
        seen = quote(str(bid), "0.98", "1" if has_bid else "0", at=quoted_at)
        now = look(seen, rule, state, after_s=ms / 1000)
        is_over = state.triggered_at is not None and ms >= rule.guard_patience_ms + (
            round((state.triggered_at - MONOTONIC) * 1000)
        )
        if is_priced and is_over:
            assert isinstance(now.decision, Exit)
        if isinstance(now.decision, Exit):
            return
        state = now.state
        ms += 2_000
    # 40 looks 2 s apart outlast every patience above, so only looks without a single price end here.
    late = look(quote("0.30", "0.98", "1", at=-1.0), rule, state, after_s=ms / 1000)
    assert isinstance(late.decision, Exit) or state.triggered_at is None
