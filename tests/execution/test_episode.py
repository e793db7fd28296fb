"""How refusals are answered, how long is waited, and what absence of an order proves."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from base.execution.episode import (
    IMPATIENT_FILLS_MAX,
    LOOKUPS_MAX,
    PATIENCE_S_MAX,
    RESENDS_MAX,
    UNKNOWN_S_MAX,
    BlockedWhy,
    Episode,
    LookupVerdict,
    answer_refusal,
    judge_absence,
    judge_unread,
    patience_after,
)
from base.model.market import OutcomeSide
from base.model.rules import ExitReason

WAIT, RESEND, GIVE_UP = LookupVerdict.WAIT, LookupVerdict.RESEND, LookupVerdict.GIVE_UP


@pytest.mark.parametrize(
    ("status", "code", "why"),
    [
        (409, "trading_is_paused", BlockedWhy.PAUSED),
        (409, "TRADING_IS_PAUSED", BlockedWhy.PAUSED),
        (409, "exchange_is_paused", BlockedWhy.PAUSED),
        (409, "market_inactive", BlockedWhy.MARKET_CLOSED),
        (400, "insufficient_balance", BlockedWhy.NO_FUNDS),
        (400, "invalid_price", BlockedWhy.REJECTED),
        (410, "deprecated_v1_order_endpoint", BlockedWhy.ENDPOINT_GONE),
        (410, "", BlockedWhy.ENDPOINT_GONE),
        (401, "", BlockedWhy.AUTH),
        (403, "insufficient_scope", BlockedWhy.AUTH),
        (400, "never_seen", BlockedWhy.REJECTED),
    ],
)
def test_each_refusal_is_probed_by_its_own_rhythm_and_none_for_ever(
    status: int, code: str, why: BlockedWhy
) -> None:
    refusal = answer_refusal(status, code)
    assert refusal.why is why
    assert 0 < refusal.delay_s <= refusal.delay_s_max <= 60
    assert not refusal.look_up


def test_an_order_that_exists_is_looked_up() -> None:
    assert answer_refusal(409, "order_already_exists").look_up


def test_a_pause_is_left_within_five_seconds() -> None:
    assert answer_refusal(409, "trading_is_paused").delay_s >= 2.0
    assert answer_refusal(409, "trading_is_paused").delay_s_max < 5.0


def test_patience_grows_and_is_bounded() -> None:
    waits = [patience_after(n) for n in range(IMPATIENT_FILLS_MAX + 5)]
    assert waits == sorted(waits)
    assert waits[0] < 0.1
    assert waits[-1] == PATIENCE_S_MAX


def unknown(**changes: object) -> Episode:
    episode = Episode(
        "e1",
        "T",
        OutcomeSide.YES,
        ExitReason.STOP_LOSS,
        None,
        Decimal("0.4"),
        Decimal("0.01"),
        Decimal(4),
        opened_at=1_000.0,
        sent_at_wall=1_000.0,
        sent_at=100.0,
        unknown_since=100.0,
    )
    return replace(episode, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "data_as_of", "now", "verdict"),
    [
        ({"lookups": 1}, 1_001.5, 101.5, WAIT),
        ({"lookups": 2}, 1_000.9, 101.5, WAIT),
        ({"lookups": 2}, 1_001.0, 101.5, RESEND),
        ({"lookups": 3}, None, 103.9, WAIT),
        ({"lookups": 2}, None, 104.0, WAIT),
        ({"lookups": 3}, None, 104.0, RESEND),
        ({"lookups": 9, "exists_at_exchange": True}, 1_010.0, 110.0, WAIT),
        ({"lookups": 2, "resends": RESENDS_MAX}, 1_005.0, 105.0, GIVE_UP),
        ({"lookups": LOOKUPS_MAX, "exists_at_exchange": True}, None, 110.0, GIVE_UP),
        ({"lookups": 2, "exists_at_exchange": True}, None, 100.0 + UNKNOWN_S_MAX, GIVE_UP),
    ],
    ids=[
        "one read never proves absence",
        "reads not complete to the barrier prove nothing",
        "two reads past the barrier do",
        "without word of completeness four seconds are waited",
        "… and three reads",
        "after both it is sent again under its id",
        "an order that the exchange knows is never sent again",
        "bounded resends",
        "bounded look-ups",
        "bounded time",
    ],
)
def test_what_absence_means(
    changes: dict[str, object], data_as_of: float | None, now: float, verdict: LookupVerdict
) -> None:
    assert judge_absence(unknown(**changes), data_as_of, now) is verdict


@pytest.mark.parametrize(
    ("changes", "now", "verdict"),
    [
        ({}, 109.9, WAIT),
        ({}, 110.0, RESEND),
        ({"exists_at_exchange": True}, 110.0, WAIT),
        ({"resends": RESENDS_MAX}, 110.0, WAIT),
        ({}, 160.0, GIVE_UP),
    ],
)
def test_what_reads_that_fail_mean(changes: dict[str, object], now: float, verdict: LookupVerdict) -> None:
    assert judge_unread(unknown(**changes), now) is verdict
