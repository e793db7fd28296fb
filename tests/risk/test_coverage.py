"""What counts as protected: one table over single facts, then the totals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from base.model.market import MarketStatus, PriceSource
from base.model.rules import HoldReason
from base.risk.coverage import Coverage, PositionFacts, Protection, assess, summarize

GOOD = PositionFacts(
    ticker="KXBTC",
    market_status=MarketStatus.ACTIVE,
    is_armed=True,
    is_by_choice=False,
    checked_age_s=1.0,
    sweep_interval_s=2.0,
    hold_reason=HoldReason.WITHIN_RULES,
    hold_age_s=500.0,
    price_source=PriceSource.WS,
    price_age_s=1.0,
    is_streamed=True,
    stale_after_s=60.0,
)


class FactsCase(NamedTuple):
    name: str
    changes: dict[str, Any]
    reason: str
    """"" means protected."""
    open: bool = True


REST_ONLY = {"is_streamed": False, "price_source": PriceSource.REST}
CASES = [
    FactsCase("all well", {}, ""),
    FactsCase("quiet for an hour on a live confirmed feed", {"price_age_s": 3600.0}, ""),
    FactsCase("exit decided", {"hold_reason": None}, ""),
    FactsCase("guard delays", {"hold_reason": HoldReason.GUARDED}, ""),
    FactsCase("held below its lowest sale", {"hold_reason": HoldReason.HOLD_BELOW}, ""),
    FactsCase("fresh by REST while the feed is down", {**REST_ONLY, "price_age_s": 60.0}, ""),
    FactsCase("REST price too old", {**REST_ONLY, "price_age_s": 60.1}, "stale_price"),
    FactsCase(
        "stream price too old after the feed went down",
        {"is_streamed": False, "price_age_s": 61.0},
        "stale_price",
    ),
    FactsCase("age is not a number", {**REST_ONLY, "price_age_s": float("nan")}, "stale_price"),
    FactsCase("no price ever", {"price_age_s": None, "price_source": None}, "no_price"),
    FactsCase("confirmed without a price", {"price_age_s": None}, "no_price"),
    FactsCase("no rule", {"is_armed": False}, "no_rule"),
    FactsCase("never checked", {"checked_age_s": None}, "not_checked"),
    FactsCase("checked three sweeps ago", {"checked_age_s": 6.0}, ""),
    FactsCase("checked longer ago", {"checked_age_s": 6.1}, "not_checked"),
    FactsCase("no bid for 10 s", {"hold_reason": HoldReason.NO_BID, "hold_age_s": 10.0}, ""),
    FactsCase("no bid for longer", {"hold_reason": HoldReason.NO_BID, "hold_age_s": 10.1}, "no_bid"),
    FactsCase(
        "no bid since nobody knows when", {"hold_reason": HoldReason.NO_BID, "hold_age_s": None}, "no_bid"
    ),
    FactsCase(
        "no bid for an instant, and stale",
        {**REST_ONLY, "hold_reason": HoldReason.NO_BID, "hold_age_s": 1.0, "price_age_s": 61.0},
        "stale_price",
    ),
    FactsCase("crossed for an instant", {"hold_reason": HoldReason.CROSSED, "hold_age_s": 1.0}, ""),
    FactsCase("crossed for long", {"hold_reason": HoldReason.CROSSED, "hold_age_s": 11.0}, "crossed"),
    FactsCase(
        "below the floor at once", {"hold_reason": HoldReason.BELOW_FLOOR, "hold_age_s": 0.0}, "below_floor"
    ),
    FactsCase("stale at once", {"hold_reason": HoldReason.STALE_PRICE, "hold_age_s": 0.0}, "stale_price"),
    FactsCase("paused at once", {"market_status": MarketStatus.INACTIVE, "hold_age_s": 0.0}, "paused"),
    FactsCase(
        "paused as the checker saw it", {"hold_reason": HoldReason.PAUSED, "hold_age_s": 0.0}, "paused"
    ),
    FactsCase("status unknown", {"market_status": MarketStatus.UNKNOWN}, "not_open"),
    FactsCase("not opened yet", {"market_status": MarketStatus.INITIALIZED}, "not_open"),
    FactsCase("by choice", {"is_by_choice": True, "is_armed": False}, "by_choice"),
    FactsCase(
        "by choice, and paused", {"is_by_choice": True, "market_status": MarketStatus.INACTIVE}, "by_choice"
    ),
    FactsCase("part of a set", {"is_hedged": True, "is_armed": False}, "hedged"),
    FactsCase("part of a set, halted", {"is_hedged": True, "is_halted": True}, "hedged"),
    FactsCase("the key is refused", {"is_key_refused": True}, "auth"),
    FactsCase("the key is refused, and no rule", {"is_key_refused": True, "is_armed": False}, "no_rule"),
    FactsCase("its exit cannot be sent for a moment", {"blocked_why": "rate", "blocked_for_s": 10.0}, ""),
    FactsCase("its exit cannot be sent", {"blocked_why": "no_funds", "blocked_for_s": 10.1}, "no_funds"),
    FactsCase(
        "its exit cannot be sent, and nobody bids",
        {
            "blocked_why": "no_bid",
            "blocked_for_s": 60.0,
            "hold_reason": HoldReason.NO_BID,
            "hold_age_s": 60.0,
        },
        "no_bid",
    ),
    FactsCase(
        "its exit has been blocked for no known time",
        {"blocked_why": "auth", "blocked_for_s": float("nan")},
        "auth",
    ),
    FactsCase("kill switch on, all else well", {"is_halted": True}, "halted"),
    FactsCase(
        "kill switch on, and paused", {"is_halted": True, "market_status": MarketStatus.INACTIVE}, "halted"
    ),
    FactsCase("kill switch on, and no rule", {"is_halted": True, "is_armed": False}, "halted"),
    FactsCase("kill switch on, left alone by choice", {"is_halted": True, "is_by_choice": True}, "by_choice"),
    FactsCase(
        "kill switch on, waits for settlement",
        {"is_halted": True, "market_status": MarketStatus.CLOSED},
        "closed",
        open=False,
    ),
    FactsCase("waits for settlement", {"market_status": MarketStatus.CLOSED}, "closed", open=False),
    FactsCase("determined", {"market_status": MarketStatus.DETERMINED}, "determined", open=False),
    FactsCase(
        "settled", {"market_status": MarketStatus.FINALIZED, "is_by_choice": True}, "finalized", open=False
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_protection(case: FactsCase) -> None:
    found = assess(replace(GOOD, **case.changes))
    assert found == Protection(open=case.open, protected=case.reason == "", reason=case.reason)


def test_totals_leave_out_settlement_and_choice_but_list_choice() -> None:
    each = [
        ("A", assess(GOOD)),
        ("B", assess(replace(GOOD, hold_reason=HoldReason.NO_BID, hold_age_s=60.0))),
        ("C", assess(replace(GOOD, is_by_choice=True))),
        ("D", assess(replace(GOOD, market_status=MarketStatus.CLOSED))),
        ("E", assess(replace(GOOD, is_hedged=True))),
    ]
    found = summarize(each)
    listed = (("B", "no_bid"), ("C", "by_choice"), ("E", "hedged"))
    assert found == Coverage(open=2, protected=1, unprotected=listed)
    assert not found.is_complete
    assert summarize([each[0], *each[2:]]).is_complete


def test_nothing_open_is_completely_covered() -> None:
    assert summarize([]) == Coverage(0, 0, ())
    assert summarize([]).is_complete
