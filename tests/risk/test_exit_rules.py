"""What is a price, where the levels stand, and what wins: tables, then properties over both outcomes."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.model.market import Market, MarketStatus, OutcomeSide, Quote
from base.model.position import Position
from base.model.rules import Evaluation, Exit, ExitReason, ExitRule, Hold, HoldReason, RuleState
from base.risk.exit_rules import ExitValue, evaluate, price_to_act_on
from base.risk.levels import break_even_price, can_ever_exit, entry_fee, stop_levels, taker_fee
from base.risk.rule_values import READERS
from tests.risk.cases import FLOOR, MONOTONIC, NO, NOW, YES, market, mirrored, position, quote

D = Decimal
QUARTER = ExitRule(stop_loss_pct=D(25))
fast = settings(deadline=None, max_examples=150, database=None)


def look(
    held: Position,
    seen: Quote | None,
    rule: ExitRule,
    state: RuleState | None = None,
    *,
    at: Market | None = None,
    after_s: float = 0.0,
    floor: Decimal = FLOOR,
    no_price_reason: HoldReason | None = None,
) -> Evaluation:
    return evaluate(
        held,
        seen,
        at or market(),
        rule,
        state or RuleState(),
        now_wall=NOW + after_s,
        now_monotonic=MONOTONIC + after_s,
        floor=floor,
        price_age_s=0.1,
        no_price_reason=no_price_reason,
    )


def verdict(evaluation: Evaluation) -> HoldReason | ExitReason:
    decision = evaluation.decision
    return decision.why if isinstance(decision, Hold) else decision.reason


class PriceCase(NamedTuple):
    name: str
    seen: Quote | None
    side: OutcomeSide
    expected: str | HoldReason
    at: Market = market()


PRICES = [
    PriceCase("long YES sells at the bid", quote("0.38", "0.40"), YES, "0.38"),
    PriceCase("long NO sells at one minus the ask", quote("0.38", "0.40"), NO, "0.60"),
    PriceCase("deci-cent bid is kept exactly", quote("0.385", "0.386"), YES, "0.385"),
    PriceCase("centi-cent ask is kept exactly", quote("0.0001", "0.0123"), NO, "0.9877"),
    PriceCase("sizes not told are acceptable", quote("0.38", "0.40", None, None), YES, "0.38"),
    PriceCase("sizes not told are acceptable for NO", quote("0.38", "0.40", None, None), NO, "0.60"),
    PriceCase("fraction of a contract bid for", quote("0.38", "0.40", "0.01"), YES, "0.38"),
    PriceCase("YES bid real with nobody offering at 1.00", quote("0.99", "1.00", "5", "0"), YES, "0.99"),
    PriceCase("YES bid real with an ask of 0.00", quote("0.38", "0.00", "5", "0"), YES, "0.38"),
    PriceCase("YES bid real with an ask without size", quote("0.38", "0.30", "5", "0"), YES, "0.38"),
    PriceCase("NO bid real with no YES bid", quote("0.00", "0.40", "0", "5"), NO, "0.60"),
    PriceCase("NO bid real with a YES bid of 1.00", quote("1.00", "0.40", "0", "5"), NO, "0.60"),
    PriceCase("bid at the floor is a price", quote("0.01", "0.02"), YES, "0.01"),
    PriceCase("YES bid of 0", quote("0.00", "0.40"), YES, HoldReason.NO_BID),
    PriceCase("YES bid of 0 with size not told", quote("0.00", "0.40", None, None), YES, HoldReason.NO_BID),
    PriceCase("YES bid without size", quote("0.38", "0.40", "0"), YES, HoldReason.NO_BID),
    PriceCase("YES bid of 1.00 cannot be", quote("1.00", "1.00"), YES, HoldReason.NO_BID),
    PriceCase("YES ask of 1.00 is no NO bid", quote("0.38", "1.00"), NO, HoldReason.NO_BID),
    PriceCase("YES ask of 0.00 is no NO bid", quote("0.00", "0.00", "0", "0"), NO, HoldReason.NO_BID),
    PriceCase("YES ask of 0.00 is no NO bid whatever its size", quote("0", "0.00"), NO, HoldReason.NO_BID),
    PriceCase("YES ask without size is no NO bid", quote("0.38", "0.40", "5", "0"), NO, HoldReason.NO_BID),
    PriceCase("the close, long YES", quote("0.0000", "1.0000", "0.00", "0.00"), YES, HoldReason.NO_BID),
    PriceCase("the close, long NO", quote("0.0000", "1.0000", "0.00", "0.00"), NO, HoldReason.NO_BID),
    PriceCase("empty active book as 0 and 0", quote("0.0000", "0.0000", "0", "0"), YES, HoldReason.NO_BID),
    PriceCase("crossed book", quote("0.41", "0.40"), YES, HoldReason.CROSSED),
    PriceCase("locked book", quote("0.40", "0.40"), YES, HoldReason.CROSSED),
    PriceCase("crossed book, long NO", quote("0.41", "0.40"), NO, HoldReason.CROSSED),
    PriceCase("crossed book without sizes", quote("0.41", "0.40", None, None), NO, HoldReason.CROSSED),
    PriceCase("bid below the floor", quote("0.009", "0.02"), YES, HoldReason.BELOW_FLOOR),
    PriceCase("NO bid below the floor", quote("0.98", "0.991"), NO, HoldReason.BELOW_FLOOR),
    PriceCase("never quoted", None, YES, HoldReason.NO_PRICE),
    PriceCase("bid is not a number", quote("NaN", "0.40"), YES, HoldReason.NO_PRICE),
    PriceCase("ask is not a number", quote("0.38", "NaN"), YES, HoldReason.NO_PRICE),
    PriceCase("size is not a number", quote("0.38", "0.40", "NaN"), YES, HoldReason.NO_PRICE),
    PriceCase("infinite size", quote("0.38", "0.40", "Infinity"), YES, HoldReason.NO_PRICE),
    PriceCase("price above a dollar", quote("38", "40"), YES, HoldReason.NO_PRICE),
    PriceCase("price below zero", quote("-0.38", "0.40"), YES, HoldReason.NO_PRICE),
    PriceCase("paused", quote("0.38"), YES, HoldReason.PAUSED, market(MarketStatus.INACTIVE)),
    PriceCase("not yet open", quote("0.38"), YES, HoldReason.NOT_OPEN, market(MarketStatus.INITIALIZED)),
    PriceCase("status not known", quote("0.38"), YES, HoldReason.NOT_OPEN, market(MarketStatus.UNKNOWN)),
    PriceCase("closed", quote("0.38"), YES, HoldReason.CLOSED, market(MarketStatus.CLOSED)),
    PriceCase("determined", quote("0.38"), YES, HoldReason.CLOSED, market(MarketStatus.DETERMINED)),
    PriceCase("disputed", quote("0.38"), YES, HoldReason.CLOSED, market(MarketStatus.DISPUTED)),
    PriceCase("finalized", quote("0.38"), YES, HoldReason.CLOSED, market(MarketStatus.FINALIZED)),
    PriceCase(
        "close time passed, still called active", quote("0.38"), YES, HoldReason.CLOSED, market(closes_in_s=0)
    ),
    PriceCase("a second before the close", quote("0.38"), YES, "0.38", market(closes_in_s=1)),
    PriceCase("paused and never quoted", None, YES, HoldReason.PAUSED, market(MarketStatus.INACTIVE)),
]


@pytest.mark.parametrize("case", PRICES, ids=lambda case: case.name)
def test_price_to_act_on(case: PriceCase) -> None:
    found = price_to_act_on(case.seen, case.side, case.at, NOW, floor=FLOOR)
    if isinstance(case.expected, HoldReason):
        assert isinstance(found, Hold)
        assert found.why is case.expected
        assert found.detail
    else:
        assert isinstance(found, ExitValue)
        assert found.value == D(case.expected)


@pytest.mark.parametrize(
    ("seen", "spread"),
    [
        pytest.param(quote("0.38", "0.40"), D("0.02"), id="both sides real"),
        pytest.param(quote("0.38", "0.40", None, None), D("0.02"), id="sizes not told"),
        pytest.param(quote("0.38", "0.40", "5", "0"), None, id="ask without size"),
        pytest.param(quote("0.38", "0.00", "5", "0"), None, id="ask of 0.00"),
        pytest.param(quote("0.38", "1.00"), None, id="ask of 1.00"),
    ],
)
def test_nobody_offering_is_no_spread_rather_than_a_narrow_one(seen: Quote, spread: Decimal | None) -> None:
    for side, book in ((YES, seen), (NO, mirrored(seen))):
        price = price_to_act_on(book, side, market(), NOW, floor=FLOOR)
        assert isinstance(price, ExitValue)
        assert price.spread == spread


class LevelCase(NamedTuple):
    name: str
    held: Position
    rule: ExitRule
    best: str | None
    stops: dict[ExitReason, str]
    take_profit: str | None = None


STOP, EVEN, TRAIL = ExitReason.STOP_LOSS, ExitReason.BREAK_EVEN, ExitReason.TRAILING_STOP
LEVELS = [
    LevelCase("25 % under 0.52", position("0.52"), QUARTER, None, {STOP: "0.39"}),
    LevelCase("a third of a cent stays exact", position("0.525"), QUARTER, None, {STOP: "0.39375"}),
    LevelCase(
        "12.5 % under 0.3333",
        position("0.3333"),
        ExitRule(stop_loss_pct=D("12.5")),
        None,
        {STOP: "0.2916375"},
    ),
    LevelCase("fixed stop", position(), ExitRule(stop_loss_price=D("0.40")), None, {STOP: "0.40"}),
    LevelCase(
        "5 dollars on 100", position(count="100"), ExitRule(stop_loss_dollars=D(5)), None, {STOP: "0.47"}
    ),
    LevelCase(
        "5 dollars on 12.5", position(count="12.5"), ExitRule(stop_loss_dollars=D(5)), None, {STOP: "0.12"}
    ),
    LevelCase("more dollars than it cost", position(), ExitRule(stop_loss_dollars=D(6)), None, {}),
    LevelCase(
        "several kinds: the tightest",
        position(),
        ExitRule(stop_loss_pct=D(25), stop_loss_price=D("0.45")),
        None,
        {STOP: "0.45"},
    ),
    LevelCase(
        "trailing by percent of the peak",
        position(),
        ExitRule(trailing_stop_pct=D(15)),
        "0.70",
        {TRAIL: "0.595"},
    ),
    LevelCase(
        "trailing by price", position(), ExitRule(trailing_stop_price=D("0.08")), "0.705", {TRAIL: "0.625"}
    ),
    LevelCase("trailing before the first price", position(), ExitRule(trailing_stop_pct=D(15)), None, {}),
    LevelCase(
        "trailing below its activation",
        position("0.50"),
        ExitRule(trailing_stop_pct=D(15), trailing_activation_pct=D(10)),
        "0.5499",
        {},
    ),
    LevelCase(
        "trailing from its activation on",
        position("0.50"),
        ExitRule(trailing_stop_pct=D(15), trailing_activation_pct=D(10)),
        "0.55",
        {TRAIL: "0.4675"},
    ),
    LevelCase(
        "trailing below its activation in dollars",
        position("0.50"),
        ExitRule(trailing_stop_price=D("0.08"), trailing_activation_price=D("0.12")),
        "0.6199",
        {},
    ),
    LevelCase(
        "trailing from its activation in dollars on",
        position("0.50"),
        ExitRule(trailing_stop_price=D("0.08"), trailing_activation_price=D("0.12")),
        "0.62",
        {TRAIL: "0.54"},
    ),
    LevelCase("take-profit by percent", position("0.50"), ExitRule(take_profit_pct=D(80)), None, {}, "0.90"),
    LevelCase("take-profit by price", position(), ExitRule(take_profit_price=D("0.90")), None, {}, "0.90"),
    LevelCase(
        "take-profit above a dollar", position("0.90"), ExitRule(take_profit_pct=D(25)), None, {}, None
    ),
]


@pytest.mark.parametrize("case", LEVELS, ids=lambda case: case.name)
def test_levels_are_exact(case: LevelCase) -> None:
    best = None if case.best is None else D(case.best)
    levels = stop_levels(case.held, case.rule, RuleState(best_exit_value=best))
    assert {stop.reason: stop.price for stop in levels.stops} == {k: D(v) for k, v in case.stops.items()}
    found = None if levels.take_profit is None else levels.take_profit.price
    assert found == (None if case.take_profit is None else D(case.take_profit))


@pytest.mark.parametrize(
    ("price", "fee"), [("0.52", "0.0175"), ("0.99", "0.0007"), ("0.5", "0.0175"), ("0.001", "0.0001")]
)
def test_taker_fee_is_what_the_exchange_charged(price: str, fee: str) -> None:
    assert taker_fee(D(price)) == D(fee)


def test_leaving_at_break_even_pays_back_the_entry_and_one_step_less_would_not() -> None:
    for ticks in range(1, 9_900):
        entry = D(ticks) / 10_000
        level = break_even_price(entry)
        assert level - taker_fee(level) >= entry
        below = level - D("0.0001")
        assert below - taker_fee(below) < entry


@pytest.mark.parametrize(
    ("held", "fee"),
    [
        pytest.param(position("0.50", "10"), "0", id="nothing paid: a maker's entry"),
        pytest.param(position("0.50", "10", fees="0.175"), "0.0175", id="a taker's entry"),
        pytest.param(position("0.50", "10", fees="0.05"), "0.005", id="a part of it was a maker's"),
        pytest.param(
            position("0.50", "2", fees="9.00"), "0.0175", id="the market's whole life: no more than one entry"
        ),
        pytest.param(position("0.50", "10", fees="-0.50"), "0", id="a refund is no fee"),
    ],
)
def test_the_entry_fee_is_what_was_paid_and_no_more_than_one_entry_costs(held: Position, fee: str) -> None:
    assert entry_fee(held) == D(fee)


def test_break_even_pays_back_the_entry_and_both_fees() -> None:
    held = position("0.50", "10", fees="0.175")
    state = look(held, quote("0.70"), ExitRule(break_even_after_pct=D(20))).state
    [stop] = stop_levels(held, ExitRule(break_even_after_pct=D(20)), state).stops
    assert stop.price - taker_fee(stop.price) >= D("0.5175")
    below = stop.price - D("0.0001")
    assert below - taker_fee(below) < D("0.5175")
    assert (stop.price, stop.basis) == (D("0.535"), "entry 0.50 plus fees 0.035")


class ExitCase(NamedTuple):
    name: str
    rule: ExitRule
    bids: list[str]
    """One evaluation a bid, 10 s apart; the last one decides."""
    expected: HoldReason | ExitReason
    entry: str = "0.52"
    level: str | None = None
    closes_in_s: float | None = None
    held_s: float | None = None
    fees: str = "0"


BOTH = ExitRule(stop_loss_pct=D(25), take_profit_price=D("0.90"))
TRAILING = ExitRule(stop_loss_pct=D(25), trailing_stop_pct=D(10), trailing_activation_pct=D(10))
EVEN_AFTER_20 = ExitRule(break_even_after_pct=D(20))
DECISIONS = [
    ExitCase("above the stop", QUARTER, ["0.391"], HoldReason.WITHIN_RULES),
    ExitCase("exactly at the stop", QUARTER, ["0.39"], STOP, level="0.39"),
    ExitCase("gap through the stop leaves at the bid", QUARTER, ["0.52", "0.10"], STOP, level="0.39"),
    ExitCase("one centi-cent above the stop", QUARTER, ["0.3901"], HoldReason.WITHIN_RULES),
    ExitCase("exactly at the take-profit", BOTH, ["0.90"], ExitReason.TAKE_PROFIT, level="0.90"),
    ExitCase("just under the take-profit", BOTH, ["0.8999"], HoldReason.WITHIN_RULES),
    ExitCase("trailing gives back a tenth of the peak", TRAILING, ["0.60", "0.54"], TRAIL, level="0.54"),
    ExitCase("trailing peak never falls", TRAILING, ["0.70", "0.64", "0.63"], TRAIL, level="0.63"),
    ExitCase("trailing not yet active", TRAILING, ["0.57", "0.50"], HoldReason.WITHIN_RULES),
    ExitCase("stop-loss wins over the trailing stop", TRAILING, ["0.80", "0.30"], STOP, level="0.39"),
    ExitCase("break-even not armed", EVEN_AFTER_20, ["0.62", "0.53"], HoldReason.WITHIN_RULES),
    ExitCase("break-even armed and back", EVEN_AFTER_20, ["0.63", "0.5375"], EVEN, level="0.5375"),
    ExitCase("break-even armed, above its level", EVEN_AFTER_20, ["0.63", "0.538"], HoldReason.WITHIN_RULES),
    ExitCase(
        "a gain smaller than the fee does not arm break-even",
        ExitRule(break_even_after_pct=D(1)),
        ["0.53"],
        HoldReason.WITHIN_RULES,
    ),
    ExitCase(
        "break-even wins over trailing",
        ExitRule(break_even_after_pct=D(20), trailing_stop_pct=D(50)),
        ["0.99", "0.40"],
        EVEN,
    ),
    ExitCase(
        "break-even after ten cents, not yet",
        ExitRule(break_even_after_price=D("0.10")),
        ["0.6199", "0.53"],
        HoldReason.WITHIN_RULES,
    ),
    ExitCase(
        "break-even after ten cents, armed and back",
        ExitRule(break_even_after_price=D("0.10")),
        ["0.62", "0.5375"],
        EVEN,
        level="0.5375",
    ),
    ExitCase(
        "break-even pays back the entry fee too",
        EVEN_AFTER_20,
        ["0.63", "0.54"],
        EVEN,
        level="0.5548",
        fees="0.175",
    ),
    ExitCase(
        "a gain smaller than both fees does not arm break-even",
        ExitRule(break_even_after_price=D("0.03")),
        ["0.55"],
        HoldReason.WITHIN_RULES,
        fees="0.175",
    ),
    ExitCase(
        "trailing starts twelve cents over the entry",
        ExitRule(trailing_stop_price=D("0.05"), trailing_activation_price=D("0.12")),
        ["0.64", "0.59"],
        TRAIL,
        level="0.59",
    ),
    ExitCase(
        "trailing does not start eleven cents over it",
        ExitRule(trailing_stop_price=D("0.05"), trailing_activation_price=D("0.12")),
        ["0.63", "0.53"],
        HoldReason.WITHIN_RULES,
    ),
    ExitCase(
        "ten minutes before the close",
        ExitRule(exit_before_close_s=600),
        ["0.52"],
        ExitReason.TIME_STOP,
        closes_in_s=600,
    ),
    ExitCase(
        "not yet ten minutes before",
        ExitRule(exit_before_close_s=600),
        ["0.52"],
        HoldReason.WITHIN_RULES,
        closes_in_s=601,
    ),
    ExitCase("close time not known", ExitRule(exit_before_close_s=600), ["0.52"], HoldReason.WITHIN_RULES),
    ExitCase(
        "a day after entry", ExitRule(exit_after_entry_s=86400), ["0.52"], ExitReason.TIME_STOP, held_s=86400
    ),
    ExitCase(
        "less than a day after entry",
        ExitRule(exit_after_entry_s=86400),
        ["0.52"],
        HoldReason.WITHIN_RULES,
        held_s=86399,
    ),
    ExitCase("entry time not known", ExitRule(exit_after_entry_s=1), ["0.52"], HoldReason.WITHIN_RULES),
    ExitCase(
        "a stop wins over a time stop",
        ExitRule(stop_loss_pct=D(25), exit_after_entry_s=1),
        ["0.30"],
        STOP,
        held_s=2,
    ),
    ExitCase(
        "stops rest in the last minute",
        ExitRule(stop_loss_pct=D(25), no_stop_before_close_s=60),
        ["0.30"],
        HoldReason.NO_STOP_NEAR_CLOSE,
        closes_in_s=60,
    ),
    ExitCase(
        "stops do not rest before it",
        ExitRule(stop_loss_pct=D(25), no_stop_before_close_s=60),
        ["0.30"],
        STOP,
        closes_in_s=61,
    ),
    ExitCase(
        "take-profit does not rest near the close",
        replace(BOTH, no_stop_before_close_s=60),
        ["0.95"],
        ExitReason.TAKE_PROFIT,
        closes_in_s=30,
    ),
    ExitCase(
        "time stop does not rest near the close",
        ExitRule(stop_loss_pct=D(25), no_stop_before_close_s=60, exit_before_close_s=45),
        ["0.30"],
        ExitReason.TIME_STOP,
        closes_in_s=30,
    ),
    ExitCase(
        "not sold below 3 cents",
        replace(QUARTER, hold_below_price=D("0.03")),
        ["0.029"],
        HoldReason.HOLD_BELOW,
    ),
    ExitCase("sold at 3 cents", replace(QUARTER, hold_below_price=D("0.03")), ["0.03"], STOP),
    ExitCase(
        "a time stop is not sold below 3 cents either",
        ExitRule(exit_after_entry_s=1, hold_below_price=D("0.03")),
        ["0.02"],
        HoldReason.HOLD_BELOW,
        held_s=2,
    ),
    ExitCase("unprotected by choice", replace(QUARTER, protect=False), ["0.10"], HoldReason.BY_CHOICE),
    ExitCase("no rule at all", ExitRule(), ["0.10"], HoldReason.NO_RULE),
    ExitCase("part of a complete set", replace(QUARTER, hedged=True), ["0.10"], HoldReason.HEDGED),
    ExitCase(
        "part of a set, and its time is up",
        ExitRule(exit_before_close_s=600, hedged=True),
        ["0.10"],
        HoldReason.HEDGED,
        closes_in_s=30,
    ),
    ExitCase(
        "goes with its event, but nothing was left",
        ExitRule(exit_with_event=True),
        ["0.10"],
        HoldReason.NO_RULE,
    ),
]


@pytest.mark.parametrize("side", [YES, NO])
@pytest.mark.parametrize("case", DECISIONS, ids=lambda case: case.name)
def test_decision(case: ExitCase, side: OutcomeSide) -> None:
    held = position(case.entry, side=side, held_s=case.held_s, fees=case.fees)
    state = RuleState()
    for index, bid in enumerate(case.bids):
        seen = quote(bid, "1.00", ask_size="0", at=MONOTONIC + 10 * index)
        now = look(
            held,
            seen if side is YES else mirrored(seen),
            case.rule,
            state,
            at=market(closes_in_s=case.closes_in_s),
            after_s=0.0,
        )
        state = now.state
    assert verdict(now) is case.expected
    assert now.decision.detail
    assert now.exit_value == D(case.bids[-1])
    if isinstance(now.decision, Exit):
        assert now.decision.exit_value == D(case.bids[-1])
        assert now.decision.trigger_price == (D(case.level) if case.level else now.decision.trigger_price)


# --- which reason wins --------------------------------------------------------------------------------

TIME, GROUP, PROFIT = ExitReason.TIME_STOP, ExitReason.EVENT_GROUP, ExitReason.TAKE_PROFIT
SEVERAL = {
    # Bought at 0.52, best bid seen 0.90, the bid is 0.50 now: under every stop here.
    STOP: {"stop_loss_price": D("0.51")},
    EVEN: {"break_even_after_pct": D(20)},
    TRAIL: {"trailing_stop_price": D("0.10")},
    TIME: {"exit_after_entry_s": 60.0},
    GROUP: {"exit_with_event": True},
    # No price is both low enough to stop and a profit; a take-profit below the entry makes it so.
    PROFIT: {"take_profit_price": D("0.45")},
}
LEFT = "KXHIGHNY-26DEC19-B1 was left by its stop_loss"


def several(*reasons: ExitReason, **others: object) -> tuple[ExitRule, RuleState]:
    """A rule under which all these would leave at a bid of 0.50, and what it remembers."""
    fields = {name: value for reason in reasons for name, value in SEVERAL[reason].items()}
    state = RuleState(best_exit_value=D("0.90"), break_even_armed=True, leave_with=LEFT)
    return ExitRule(**(fields | others)), state  # type: ignore[arg-type]


COMBINATIONS = [c for size in range(1, 7) for c in combinations(SEVERAL, size)]


@pytest.mark.parametrize("reasons", COMBINATIONS, ids=lambda reasons: " and ".join(reasons))
def test_of_several_reasons_the_first_in_the_documented_order_wins(reasons: tuple[ExitReason, ...]) -> None:
    rule, state = several(*reasons)
    found = look(position(held_s=60), quote("0.50"), rule, state)
    assert verdict(found) is next(r for r in (STOP, EVEN, TRAIL, TIME, GROUP, PROFIT) if r in reasons)


README = Path(__file__).parents[2] / "base" / "risk" / "README.md"


def test_the_documented_order_is_the_one_that_is_played() -> None:
    words = {
        "stop-loss": STOP,
        "break-even": EVEN,
        "trailing stop": TRAIL,
        "time stop": TIME,
        "its event": GROUP,
        "take-profit": PROFIT,
    }
    listed = re.findall(r"^[0-9]+\. (.+)$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert [words[name] for name in listed] == [r for r in ExitReason if r in SEVERAL]


def test_every_field_of_a_rules_file_is_documented() -> None:
    text = README.read_text(encoding="utf-8")
    assert [name for name in READERS if f"`{name}" not in text] == []


class Combination(NamedTuple):
    name: str
    reasons: tuple[ExitReason, ...]
    others: dict[str, object]
    expected: HoldReason | ExitReason
    closes_in_s: float | None = None


HELD_UP = {"min_bid_size": D(500)}  # the book shows 100
COMBINED = [
    Combination("a guard delays a stop", (STOP,), HELD_UP, HoldReason.GUARDED),
    Combination("while a guard delays the stop, time runs out", (STOP, TIME), HELD_UP, TIME),
    Combination("while a guard delays the stop, its event is left", (STOP, GROUP), HELD_UP, GROUP),
    Combination("a guard delays a take-profit too", (PROFIT,), HELD_UP, HoldReason.GUARDED),
    Combination("no guard delays a time stop", (TIME,), HELD_UP, TIME),
    Combination("no guard delays what goes with its event", (GROUP,), HELD_UP, GROUP),
    Combination(
        "stops rest near the close", (STOP, EVEN), {"no_stop_before_close_s": 60.0},
        HoldReason.NO_STOP_NEAR_CLOSE, 30,
    ),
    Combination(
        "what goes with its event does not rest", (STOP, GROUP), {"no_stop_before_close_s": 60.0}, GROUP, 30
    ),
    Combination(
        "nothing is sold below hold_below, with its event neither", (GROUP,),
        {"hold_below_price": D("0.55")}, HoldReason.HOLD_BELOW,
    ),
    Combination("nothing leaves what is left alone by choice", (STOP, TIME, GROUP), {"protect": False},
                HoldReason.BY_CHOICE),
    Combination("nothing leaves a part of a set", (STOP, TIME, GROUP, PROFIT), {"hedged": True},
                HoldReason.HEDGED),
    Combination("left alone by choice is said before the set", (STOP,), {"hedged": True, "protect": False},
                HoldReason.BY_CHOICE),
]  # fmt: skip


@pytest.mark.parametrize("side", [YES, NO])
@pytest.mark.parametrize("case", COMBINED, ids=lambda case: case.name)
def test_reasons_guards_and_limits_together(case: Combination, side: OutcomeSide) -> None:
    rule, state = several(*case.reasons, **case.others)
    seen = quote("0.50", "0.51")
    found = look(
        position(side=side, held_s=60),
        seen if side is YES else mirrored(seen),
        rule,
        state,
        at=market(closes_in_s=case.closes_in_s),
    )
    assert verdict(found) is case.expected
    if case.expected is GROUP:
        assert found.decision == Exit(GROUP, D("0.50"), None, LEFT)


def test_a_mark_without_a_price_waits_for_one_and_rests_when_the_rule_is_changed() -> None:
    rule, state = several(GROUP)
    blind = look(position(), quote("0.00", "1.00", "0", "0"), rule, state)
    assert verdict(blind) is HoldReason.NO_BID
    assert verdict(look(position(), quote("0.50"), rule, blind.state)) is GROUP
    assert verdict(look(position(), quote("0.009"), rule, blind.state)) is HoldReason.BELOW_FLOOR
    changed = look(position(), quote("0.50"), QUARTER, blind.state)
    assert verdict(changed) is HoldReason.WITHIN_RULES


def test_an_evaluation_tells_what_its_levels_come_from_and_what_the_guards_said() -> None:
    found = look(position(), quote("0.38"), replace(QUARTER, confirm_updates=2))
    assert found.stop_basis == "stop, 25 % under entry 0.52"
    assert found.guards == "waiting: seen in 1 of 2 updates"
    assert look(position(), quote("0.38"), QUARTER).guards == "passed"
    assert look(position(), quote("0.50"), QUARTER).guards == ""


def test_the_verdict_says_why_in_a_traders_words() -> None:
    assert look(position(), quote("0.38"), QUARTER).decision.detail == (
        "bid 0.38 at or below stop 0.39 (25 % under entry 0.52)"
    )


def test_a_stale_price_wins_over_the_quote_and_closes_over_both() -> None:
    assert verdict(look(position(), quote("0.10"), QUARTER, no_price_reason=HoldReason.STALE_PRICE)) is (
        HoldReason.STALE_PRICE
    )
    paused = market(MarketStatus.INACTIVE)
    stale_and_paused = look(
        position(), quote("0.10"), QUARTER, at=paused, no_price_reason=HoldReason.STALE_PRICE
    )
    assert verdict(stale_and_paused) is HoldReason.PAUSED


def test_only_prices_acted_on_raise_the_high_water_mark() -> None:
    rule = ExitRule(trailing_stop_pct=D(10))
    for not_a_price in (quote("0.90", "0.80"), quote("0.90", "0.95", "0"), quote("0.00", "1.00", "0", "0")):
        assert look(position(), not_a_price, rule).state.best_exit_value is None
    stale = look(position(), quote("0.90"), rule, no_price_reason=HoldReason.STALE_PRICE)
    assert stale.state.best_exit_value is None
    assert look(position(), quote("0.60"), rule).state.best_exit_value == D("0.60")


def test_levels_are_shown_even_without_a_price_and_not_while_they_rest() -> None:
    blind = look(position(), None, BOTH)
    assert (blind.stop_price, blind.take_profit_price, blind.exit_value) == (D("0.39"), D("0.90"), None)
    assert (blind.price_source, blind.price_age_s) == ("none", 0.1)
    resting = replace(BOTH, no_stop_before_close_s=60)
    near_close = look(position(), quote("0.50"), resting, at=market(closes_in_s=30))
    assert (near_close.stop_price, near_close.take_profit_price) == (None, D("0.90"))


def test_buying_more_at_a_higher_price_does_not_keep_an_old_break_even_armed() -> None:
    armed = look(position("0.40"), quote("0.50"), EVEN_AFTER_20).state
    assert armed.break_even_armed
    assert verdict(look(position("0.50"), quote("0.45"), EVEN_AFTER_20, armed)) is HoldReason.WITHIN_RULES


@pytest.mark.parametrize(
    ("held", "rule", "expected"),
    [
        pytest.param(position(), QUARTER, True, id="percent stop"),
        pytest.param(position(), replace(QUARTER, protect=False), False, id="by choice"),
        pytest.param(position(), ExitRule(), False, id="nothing named"),
        pytest.param(position(), ExitRule(stop_loss_dollars=D(6)), False, id="more dollars than it cost"),
        pytest.param(position(), ExitRule(stop_loss_dollars=D(5)), True, id="fewer dollars than it cost"),
        pytest.param(
            position("0.95"), ExitRule(take_profit_pct=D(10)), False, id="take-profit above a dollar"
        ),
        pytest.param(
            position("0.95"),
            ExitRule(trailing_stop_pct=D(5), trailing_activation_pct=D(10)),
            False,
            id="trailing that can never start",
        ),
        pytest.param(
            position("0.95"), ExitRule(break_even_after_pct=D(10)), False, id="break-even out of reach"
        ),
        pytest.param(position("0.50"), ExitRule(break_even_after_pct=D(10)), True, id="break-even in reach"),
        pytest.param(
            position(),
            ExitRule(stop_loss_price=D("0.30"), hold_below_price=D("0.35")),
            False,
            id="held at its own stop",
        ),
        pytest.param(position(), ExitRule(exit_before_close_s=60), True, id="time stop"),
        pytest.param(position("0"), QUARTER, False, id="cost not known"),
        pytest.param(
            position("0.95"),
            ExitRule(trailing_stop_pct=D(5), trailing_activation_price=D("0.10")),
            False,
            id="trailing that starts above a dollar",
        ),
        pytest.param(
            position("0.50"), ExitRule(break_even_after_price=D("0.10")), True, id="break-even in cents"
        ),
        pytest.param(
            position("0.95"),
            ExitRule(break_even_after_price=D("0.10")),
            False,
            id="break-even above a dollar",
        ),
        pytest.param(position(), replace(QUARTER, hedged=True), False, id="part of a set"),
        pytest.param(position(), ExitRule(exit_with_event=True), False, id="another one's exit alone"),
    ],
)
def test_a_dead_rule_is_known_for_one(held: Position, rule: ExitRule, expected: bool) -> None:
    assert can_ever_exit(held, rule) is expected


prices = st.one_of(
    st.integers(0, 100).map(lambda n: D(n) / 100),
    st.integers(0, 1_000).map(lambda n: D(n) / 1_000),
    st.integers(0, 10_000).map(lambda n: D(n) / 10_000),
)
inner_prices = prices.filter(lambda p: 0 < p < 1)
sizes = st.one_of(st.none(), st.just(D(0)), st.integers(1, 200_000).map(lambda n: D(n) / 100))
pcts = st.integers(1, 990).map(lambda n: D(n) / 10)
maybe_seconds = st.one_of(st.none(), st.integers(0, 200).map(float))


@st.composite
def quotes(draw: st.DrawFn) -> Quote:
    base = quote("0.50", at=MONOTONIC + draw(st.integers(0, 30)))
    return replace(
        base,
        yes_bid=draw(prices),
        yes_ask=draw(prices),
        yes_bid_size=draw(sizes),
        yes_ask_size=draw(sizes),
    )


rules = st.builds(
    ExitRule,
    stop_loss_price=st.none() | inner_prices,
    stop_loss_pct=st.none() | pcts,
    stop_loss_dollars=st.none() | st.integers(1, 2_000).map(lambda n: D(n) / 100),
    take_profit_price=st.none() | inner_prices,
    take_profit_pct=st.none() | pcts,
    trailing_stop_pct=st.none() | pcts,
    trailing_stop_price=st.none() | inner_prices,
    trailing_activation_pct=st.none() | pcts,
    trailing_activation_price=st.none() | inner_prices,
    break_even_after_pct=st.none() | pcts,
    break_even_after_price=st.none() | inner_prices,
    exit_with_event=st.booleans(),
    exit_before_close_s=maybe_seconds,
    exit_after_entry_s=maybe_seconds,
    no_stop_before_close_s=maybe_seconds,
    hold_below_price=st.none() | inner_prices,
    confirm_ms=st.integers(0, 20_000),
    confirm_updates=st.integers(1, 4),
    max_spread=st.none() | inner_prices,
    min_bid_size=st.none() | sizes.filter(bool),
    guard_patience_ms=st.integers(0, 20_000),
    protect=st.sampled_from([True, True, True, False]),
)
counts = st.integers(1, 100_000).map(lambda n: D(n) / 100)
floors = st.sampled_from([D("0.0001"), D("0.01"), D("0.05")])
to_close = st.one_of(st.none(), st.integers(-5, 200).map(float))


@given(st.lists(quotes(), min_size=1, max_size=5), rules, inner_prices, counts, floors, to_close)
@fast
def test_long_no_is_the_exact_mirror_of_long_yes(
    seen: list[Quote],
    rule: ExitRule,
    entry: Decimal,
    count: Decimal,
    floor: Decimal,
    closes_in_s: float | None,
) -> None:
    """Decisions, levels, guards, details and what is remembered, over whole sequences of quotes."""
    on_yes = position(str(entry), str(count), YES, held_s=50)
    on_no = position(str(entry), str(count), NO, held_s=50)
    at = market(closes_in_s=closes_in_s)
    yes_state = no_state = RuleState()
    for index, each in enumerate(seen):
        yes = look(on_yes, each, rule, yes_state, at=at, after_s=3.0 * index, floor=floor)
        no = look(on_no, mirrored(each), rule, no_state, at=at, after_s=3.0 * index, floor=floor)
        assert yes == no
        yes_state, no_state = yes.state, no.state


@given(st.lists(quotes(), max_size=4), rules, inner_prices, st.sampled_from([YES, NO]), st.booleans())
@fast
def test_a_close_never_exits_whatever_came_before(
    before: list[Quote], rule: ExitRule, entry: Decimal, side: OutcomeSide, is_close_known: bool
) -> None:
    held = position(str(entry), side=side, held_s=50)
    state = RuleState()
    for index, each in enumerate(before):
        state = look(held, each, rule, state, after_s=3.0 * index).state
    at = market(closes_in_s=10 if is_close_known else None)
    for after_s in (11.0, 40.0, 4_000.0):
        close = quote("0.0000", "1.0000", "0.00", "0.00", at=MONOTONIC + after_s)
        now = look(held, close, rule, state, at=at, after_s=after_s)
        assert isinstance(now.decision, Hold)
        assert now.exit_value is None
        state = now.state


@given(inner_prices, rules, inner_prices, counts, st.sampled_from([YES, NO]))
@fast
def test_an_exit_happens_at_the_bid_and_on_the_right_side_of_its_level(
    bid: Decimal, rule: ExitRule, entry: Decimal, count: Decimal, side: OutcomeSide
) -> None:
    held = position(str(entry), str(count), side)
    seen = quote(str(bid), "1.00", ask_size="0")
    decision = look(held, seen if side is YES else mirrored(seen), rule).decision
    if isinstance(decision, Exit):
        assert decision.exit_value == bid
        level = decision.trigger_price
        assert level is not None
        assert bid >= level if decision.reason is ExitReason.TAKE_PROFIT else bid <= level
        assert rule.hold_below_price is None or bid >= rule.hold_below_price
