"""Entries against the limits: at a limit is within it, above it is denied, and what is unknown is denied."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.model.market import OutcomeSide
from base.risk.limits import (
    Approved,
    DenialCode,
    Denied,
    Limits,
    check_entry,
    check_price,
    entry_cost,
    is_daily_loss_hit,
)
from base.risk.trading_state import TradingState

from .cases import mirrored, quote

D = Decimal
LIMITS = Limits(D(50), D(200), D(1000), D(100), D(400), D("0.10"), 30, 300.0)
SETTING = {
    DenialCode.ORDER_COST: "MAX_ORDER_COST_DOLLARS",
    DenialCode.POSITION_COST: "MAX_POSITION_COST_DOLLARS",
    DenialCode.EVENT_COST: "MAX_EVENT_COST_DOLLARS",
    DenialCode.TOTAL_EXPOSURE: "MAX_TOTAL_EXPOSURE_DOLLARS",
    DenialCode.DAILY_LOSS: "MAX_DAILY_LOSS_DOLLARS",
    DenialCode.COLLAR: "ENTRY_COLLAR_DOLLARS",
    DenialCode.ORDER_RATE: "MAX_ENTRIES_PER_MINUTE",
    DenialCode.TIME_LEFT: "ENTRY_MIN_TIME_LEFT_S",
}


class EntryCase(NamedTuple):
    name: str
    denied: DenialCode | None
    cost: str = "50"
    held: str = "0"
    reserved: str = "0"
    event: str = "0"
    reserved_event: str = "0"
    exposure: str = "0"
    reserved_total: str = "0"
    today: str = "0"
    sent: int = 0
    left: float | None = 3600.0
    whole: str | None = None
    state: TradingState = TradingState.ACTIVE


CASES = [
    EntryCase("order at its limit", None),
    EntryCase("order a cent above", DenialCode.ORDER_COST, cost="50.01"),
    EntryCase("an amend to an order at its limit", None, cost="10", whole="50"),
    EntryCase("an amend to an order above it", DenialCode.ORDER_COST, cost="10", whole="50.01"),
    EntryCase("position filled to its limit", None, held="100", reserved="50"),
    EntryCase(
        "position above, counting what is reserved", DenialCode.POSITION_COST, held="100", reserved="50.01"
    ),
    EntryCase("event filled to its limit", None, event="300", reserved_event="50"),
    EntryCase(
        "event above, counting what is reserved", DenialCode.EVENT_COST, event="300", reserved_event="50.01"
    ),
    EntryCase("all filled to the limit", None, exposure="900", reserved_total="50"),
    EntryCase(
        "all above, counting what is reserved",
        DenialCode.TOTAL_EXPOSURE,
        exposure="900",
        reserved_total="50.01",
    ),
    EntryCase("a cent under the daily loss", None, today="-99.99"),
    EntryCase("at the daily loss", DenialCode.DAILY_LOSS, today="-100"),
    EntryCase("a profit is no loss", None, today="500"),
    EntryCase("the last order of the minute", None, sent=29),
    EntryCase("one more in the minute", DenialCode.ORDER_RATE, sent=30),
    EntryCase("just enough time left", None, left=300.0),
    EntryCase("a moment too late", DenialCode.TIME_LEFT, left=299.9),
    EntryCase("after the close", DenialCode.TIME_LEFT, left=-5.0),
    EntryCase("when it closes nobody knows", DenialCode.TIME_LEFT, left=None),
    EntryCase("the time left is not a number", DenialCode.TIME_LEFT, left=float("nan")),
    EntryCase("reducing", DenialCode.TRADING_STATE, state=TradingState.REDUCING),
    EntryCase("halted", DenialCode.TRADING_STATE, state=TradingState.HALTED),
    EntryCase("costs nothing", DenialCode.BAD_AMOUNT, cost="0"),
    EntryCase("costs less than nothing", DenialCode.BAD_AMOUNT, cost="-1"),
    EntryCase("cost not a number", DenialCode.BAD_AMOUNT, cost="NaN"),
    EntryCase("exposure not a number", DenialCode.BAD_AMOUNT, exposure="NaN"),
    EntryCase("exposure of the event not a number", DenialCode.BAD_AMOUNT, event="NaN"),
    EntryCase("less than nothing is reserved", DenialCode.BAD_AMOUNT, reserved="-60"),
    EntryCase("result of the day not a number", DenialCode.BAD_AMOUNT, today="NaN"),
]


def judge(case: EntryCase) -> Approved | Denied:
    return check_entry(
        cost=D(case.cost),
        order_cost=None if case.whole is None else D(case.whole),
        ticker="KXBTC",
        position_cost=D(case.held),
        reserved_ticker=D(case.reserved),
        event_cost=D(case.event),
        reserved_event=D(case.reserved_event),
        total_exposure=D(case.exposure),
        reserved_total=D(case.reserved_total),
        realized_today=D(case.today),
        sent_last_minute=case.sent,
        time_left_s=case.left,
        trading_state=case.state,
        limits=LIMITS,
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_entry(case: EntryCase) -> None:
    verdict = judge(case)
    if case.denied is None:
        assert verdict == Approved("KXBTC", D(case.cost))
    else:
        assert isinstance(verdict, Denied)
        assert verdict.code is case.denied
        assert verdict.detail.startswith("entry in KXBTC for ")
        assert SETTING.get(case.denied, "") in verdict.detail


def cents(highest: int) -> st.SearchStrategy[str]:
    return st.integers(-1, highest).map(lambda n: str(D(n) / 100))


@settings(max_examples=300, deadline=None)
@given(
    st.builds(
        EntryCase,
        name=st.just(""),
        denied=st.none(),
        cost=cents(5_100),
        held=cents(10_000),
        reserved=cents(10_000),
        event=cents(25_000),
        reserved_event=cents(20_000),
        exposure=cents(60_000),
        reserved_total=cents(50_000),
        today=st.sampled_from(["0", "12.34", "-99.99", "-100", "-100.01"]),
        sent=st.sampled_from([0, 29, 30, 31]),
        left=st.sampled_from([None, -1.0, 299.9, 300.0, 9_999.0]),
        whole=st.none(),
        state=st.sampled_from(TradingState),
    )
)
def test_whatever_the_amounts_nothing_is_approved_beyond_a_limit(case: EntryCase) -> None:
    if isinstance(judge(case), Denied):
        return
    cost = D(case.cost)
    assert 0 < cost <= LIMITS.max_order_cost
    assert D(case.held) + D(case.reserved) + cost <= LIMITS.max_position_cost
    assert D(case.event) + D(case.reserved_event) + cost <= LIMITS.max_event_cost
    assert D(case.exposure) + D(case.reserved_total) + cost <= LIMITS.max_total_exposure
    assert D(case.today) > -LIMITS.max_daily_loss
    assert case.sent < LIMITS.entries_per_minute
    assert case.left is not None
    assert case.left >= LIMITS.min_time_left_s
    assert case.state is TradingState.ACTIVE


class PriceCase(NamedTuple):
    name: str
    price: str
    is_denied: bool
    bid: str = "0.40"
    ask: str = "0.45"
    bid_size: str | None = "100"
    ask_size: str | None = "100"
    post_only: bool = False


PRICES = [
    PriceCase("at the ask", "0.45", False),
    PriceCase("ten cents through the ask", "0.55", False),
    PriceCase("a tick further", "0.551", True),
    PriceCase("far below the bid", "0.01", False),
    PriceCase("sizes are not told", "0.55", False, ask_size=None, bid_size=None),
    PriceCase("nobody offers", "0.41", True, ask="1"),
    PriceCase("nobody offers, and it only rests", "0.50", False, ask="1", post_only=True),
    PriceCase("nobody offers, and it rests too high", "0.51", True, ask="1", post_only=True),
    PriceCase("an ask without size is none", "0.45", True, ask_size="0"),
    PriceCase("an ask without size, and it only rests", "0.50", False, ask_size="0", post_only=True),
    PriceCase("an empty book", "0.10", True, bid="0", ask="1"),
    PriceCase("an empty book, and it only rests", "0.10", False, bid="0", ask="1", post_only=True),
    PriceCase("an empty book, and it rests too high", "0.11", True, bid="0", ask="1", post_only=True),
    PriceCase("a bid without size is none", "0.41", True, ask="1", bid_size="0", post_only=True),
    PriceCase("a crossed book", "0.40", True, bid="0.46"),
    PriceCase("a locked book", "0.40", True, bid="0.45"),
    PriceCase("a crossed book, and it only rests", "0.40", True, bid="0.46", post_only=True),
    PriceCase("the price is not a number", "NaN", True),
]


@pytest.mark.parametrize("side", OutcomeSide)
@pytest.mark.parametrize("case", PRICES, ids=lambda case: case.name)
def test_price(case: PriceCase, side: OutcomeSide) -> None:
    seen = quote(case.bid, case.ask, case.bid_size, case.ask_size)
    denied = check_price(
        ticker="KXBTC",
        price=D(case.price),
        side=side,
        quote=seen if side is OutcomeSide.YES else mirrored(seen),
        only_rests=case.post_only,
        limits=LIMITS,
    )
    assert (denied is not None) is case.is_denied
    if denied is not None:
        assert denied.code is DenialCode.COLLAR
        assert SETTING[DenialCode.COLLAR] in denied.detail


def test_a_collar_of_nothing_lets_take_what_is_offered() -> None:
    limits = replace(LIMITS, collar=D(0))
    verdicts = [
        check_price(
            ticker="T", price=D(p), side=OutcomeSide.YES, quote=quote("0.40", "0.45"), only_rests=False,
            limits=limits,
        )
        for p in ("0.45", "0.46")
    ]  # fmt: skip
    assert [v is None for v in verdicts] == [True, False]


@given(st.integers(1, 999), st.integers(1, 999), st.integers(1, 100_000))
def test_a_better_price_never_costs_more_with_its_fee(limit: int, better: int, hundredths: int) -> None:
    low, high = sorted((D(limit) / 1000, D(better) / 1000))
    count = D(hundredths) / 100
    assert entry_cost(count, low) <= entry_cost(count, high)
    assert entry_cost(count, high) > count * high


@pytest.mark.parametrize(
    ("today", "hit"),
    [("-100", True), ("-99.9999", False), ("0", False), ("NaN", True)],
    ids=["at the limit", "just under", "flat", "unknown counts as hit"],
)
def test_daily_loss(today: str, hit: bool) -> None:
    assert is_daily_loss_hit(D(today), LIMITS) is hit
