"""Who belongs to an event, who goes with it, and what the mark survives."""

from __future__ import annotations

import pytest

from base.model.market import Market
from base.model.rules import ExitReason, ExitRule
from base.risk.event_groups import TAKES_ALONG, EventIndex, event_of, goes_along, was_held_at
from tests.risk.cases import NOW, position

B1, B2 = "KXHIGHNY-26DEC19-B61.5", "KXHIGHNY-26DEC19-B63.5"


@pytest.mark.parametrize(
    ("market", "event"),
    [
        pytest.param(Market(B1, event_ticker="KXHIGHNY-26DEC19"), "KXHIGHNY-26DEC19", id="told"),
        pytest.param(Market(B1), "KXHIGHNY-26DEC19", id="not told yet: up to the last dash"),
        pytest.param(
            Market("KX-A-B-C", event_ticker="KX-A"), "KX-A", id="told, whatever the ticker looks like"
        ),
        pytest.param(Market("KXSINGLE"), "KXSINGLE", id="a ticker without a dash is its own event"),
    ],
)
def test_the_event_of_a_market(market: Market, event: str) -> None:
    assert event_of(market) == event


def test_companions_are_the_others_of_the_same_event() -> None:
    other_day = Market("KXHIGHNY-26DEC20-B61.5", event_ticker="KXHIGHNY-26DEC20")
    held = [Market(B1, event_ticker="KXHIGHNY-26DEC19"), Market(B2), other_day]
    index = EventIndex()
    assert index.missing({B1: 1, B2: 1}) == [B1, B2]
    for market in held:
        index.note(market)
    assert index.missing({B1: 1, B2: 1}) == []
    assert index.companions(held[0]) == (B2,)
    assert index.companions(other_day) == ()
    assert index.companions(Market("KXSINGLE")) == ()  # sold meanwhile


def test_a_market_whose_event_is_told_later_moves_to_it() -> None:
    index = EventIndex()
    index.note(Market(B1))
    index.note(Market("KX-A-X", event_ticker="KX-A"))
    index.note(Market("KX-A-X", event_ticker="KXHIGHNY-26DEC19"))
    assert index.companions(Market(B1)) == ("KX-A-X",)
    assert index.companions(Market("KX-A-Y", event_ticker="KX-A")) == ()


def test_what_is_held_no_more_is_nobodys_companion() -> None:
    index = EventIndex()
    for ticker in (B1, B2):
        index.note(Market(ticker))
    index.keep_only([B1])
    assert index.companions(Market(B1)) == ()
    assert index.missing({B1: 1, B2: 1}) == [B2]


@pytest.mark.parametrize(
    ("rule", "goes"),
    [
        pytest.param(ExitRule(exit_with_event=True), True, id="its rule says so"),
        pytest.param(ExitRule(), False, id="its rule does not"),
        pytest.param(ExitRule(exit_with_event=True, protect=False), False, id="left alone by choice"),
        pytest.param(ExitRule(exit_with_event=True, hedged=True), False, id="part of a complete set"),
    ],
)
def test_a_position_goes_along_by_its_own_rule(rule: ExitRule, goes: bool) -> None:
    assert goes_along(rule) is goes


def test_every_rule_takes_its_event_along_and_nothing_else_does() -> None:
    others = {ExitReason.EVENT_GROUP, ExitReason.FLATTEN}
    assert others.isdisjoint(TAKES_ALONG)
    rules = {"stop_loss", "break_even", "trailing_stop", "time_stop", "take_profit"}
    assert {reason.value for reason in TAKES_ALONG} == rules


@pytest.mark.parametrize(
    ("held_s", "is_old"), [(60.0, True), (10.0, True), (9.0, False), (None, True)],
    ids=["before", "at that moment", "opened since", "age not known"],
)  # fmt: skip
def test_what_was_opened_since_is_another_bet(held_s: float | None, is_old: bool) -> None:
    assert was_held_at(position(held_s=held_s), NOW - 10) is is_old
