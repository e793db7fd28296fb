"""How refusals are answered, how long is waited, and what absence of an order proves."""

from __future__ import annotations

import itertools
from dataclasses import replace
from decimal import Decimal

import pytest

from base.errors import InvariantError
from base.execution.episode import (
    IMPATIENT_FILLS_MAX,
    LOOKUPS_MAX,
    PATIENCE_S_MAX,
    RESEND_AGE_S_MAX,
    RESENDS_MAX,
    TRANSITIONS,
    UNKNOWN_S_MAX,
    Episode,
    EpisodeState,
    LookupVerdict,
    judge_absence,
    judge_unread,
    patience_after,
    resume,
)
from base.execution.refusals import BlockedWhy, answer_refusal
from base.model.market import BookSide, OutcomeSide
from base.model.rules import ExitReason
from base.store.portfolio import READ_LAG_S
from base.store.records import AttemptOutcome, AttemptRecord

T, S, U, B, C = (
    EpisodeState.TRIGGERED,
    EpisodeState.SENDING,
    EpisodeState.UNKNOWN,
    EpisodeState.BLOCKED,
    EpisodeState.CLOSED,
)
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
        Decimal("0.5"),
        Decimal(10),
        opened_at=1_000.0,
        order_written_at=1_000.0,
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
    assert judge_absence(unknown(**changes), data_as_of, now, now + 900.0) is verdict


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
    assert judge_unread(unknown(**changes), now, now + 900.0) is verdict


# --- the states ---------------------------------------------------------------------------------------


def in_state(state: EpisodeState) -> Episode:
    """An episode that has come to this state by legal steps."""
    ways = {T: (), S: (S,), U: (S, U), B: (B,), C: (C,)}
    episode = unknown()
    for step in ways[state]:
        episode.move(step)
    return episode


@pytest.mark.parametrize(
    ("before", "after"), list(itertools.product(EpisodeState, repeat=2)), ids=lambda s: s.value
)
def test_a_step_is_in_the_table_or_impossible(before: EpisodeState, after: EpisodeState) -> None:
    episode = in_state(before)
    if (before, after) in TRANSITIONS:
        assert episode.move(after) == TRANSITIONS[before, after]
        assert episode.state is after
    else:
        with pytest.raises(InvariantError):
            episode.move(after)
        assert episode.state is before


@pytest.mark.parametrize(
    ("before", "after"),
    [(C, T), (C, S), (C, U), (C, B), (T, U), (S, S), (B, U)],
    ids=[
        "nothing leaves closed",
        "no order after the end",
        "no doubt after the end",
        "no obstacle after the end",
        "what was not sent is not unknown",
        "two orders are never under way",
        "what was refused is not unknown",
    ],
)
def test_what_is_impossible_in_words(before: EpisodeState, after: EpisodeState) -> None:
    assert (before, after) not in TRANSITIONS


def test_every_step_says_why() -> None:
    assert all(len(why) > 10 for why in TRANSITIONS.values())


# --- taken up after a restart -------------------------------------------------------------------------


def attempt(number: int, outcome: AttemptOutcome, count: str = "10") -> AttemptRecord:
    return AttemptRecord(
        client_order_id=f"e1-{number}",
        episode_id="e1",
        number=number,
        ticker="T",
        book_side=BookSide.ASK,
        count=Decimal(count),
        price=Decimal("0.38"),
        exchange_index=2,
        written_at=990.0 + number,
        outcome=outcome,
    )


def test_an_order_without_an_answer_is_unknown_after_a_restart_and_keeps_its_id() -> None:
    attempts = (attempt(1, AttemptOutcome.ANSWERED), attempt(2, AttemptOutcome.OPEN, "7"))
    episode = resume(unknown().record(), attempts, 1_000.0, 50.0)
    assert episode.state is U
    assert episode.order is not None
    assert (episode.order.client_order_id, episode.order.count) == ("e1-2", Decimal(7))
    assert episode.order.reduce_only
    assert episode.order.exchange_index == 2
    assert episode.is_from_before
    assert episode.attempts == 2
    # It may have left up to the end of the old run: reads count from the start of this one.
    assert (episode.sent_at, episode.sent_at_wall) == (50.0, 1_000.0)


@pytest.mark.parametrize(
    "attempts",
    [(), (attempt(1, AttemptOutcome.ANSWERED),), (attempt(1, AttemptOutcome.REFUSED),)],
    ids=["before its first order", "after an answer", "after a refusal"],
)
def test_without_an_open_order_it_goes_on_with_a_fresh_read(attempts: tuple[AttemptRecord, ...]) -> None:
    episode = resume(unknown().record(), attempts, 1_000.0, 50.0)
    assert episode.state is T
    assert episode.order is None
    # A read that leaves at once may not show yet what its last order filled.
    assert episode.read_awaited_since == (50.0 + READ_LAG_S if attempts else 50.0)
    assert episode.next_client_order_id == f"e1-{len(attempts) + 1}"


def test_what_was_sold_before_the_restart_is_not_sold_again() -> None:
    before = unknown(filled=Decimal(4), proceeds=Decimal("1.6"), zero_fills=2, rung=2)
    episode = resume(before.record(), (), 1_000.0, 50.0)
    assert episode.left == Decimal(6)
    assert (episode.rung, episode.zero_fills, episode.proceeds) == (2, 2, Decimal("1.6"))


def test_an_answer_that_was_written_before_the_exit_own_row_counts() -> None:
    answered = replace(
        attempt(1, AttemptOutcome.ANSWERED),
        fill_count=Decimal(7),
        average_yes_price=Decimal("0.39"),
        fees=Decimal("0.07"),
    )
    episode = resume(unknown(entry_price=Decimal("0.5")).record(), (answered,), 1_000.0, 50.0)
    assert (episode.filled, episode.left) == (Decimal(7), Decimal(3))
    assert (episode.proceeds, episode.fees) == (Decimal("2.73"), Decimal("0.07"))


def test_an_old_order_is_not_sent_again_because_its_id_may_be_free_again() -> None:
    episode = unknown(lookups=2)
    assert judge_absence(episode, 2_000.0, 110.0, 1_000.0 + RESEND_AGE_S_MAX) is RESEND
    assert judge_absence(episode, 2_000.0, 110.0, 1_000.1 + RESEND_AGE_S_MAX) is GIVE_UP


@pytest.mark.parametrize(
    ("status", "code", "concerns_all"),
    [
        (401, "", True),
        (401, "header_timestamp_expired", True),
        (410, "deprecated_v1_order_endpoint", True),
        (403, "region", False),
        (400, "insufficient_balance", False),
        (409, "trading_is_paused", False),
    ],
)
def test_one_exit_probes_for_all_only_where_all_meet_the_same(
    status: int, code: str, concerns_all: bool
) -> None:
    assert answer_refusal(status, code).concerns_all is concerns_all


def test_a_skewed_clock_is_told_from_a_dead_key() -> None:
    assert answer_refusal(401, "header_timestamp_expired").why is BlockedWhy.CLOCK
    assert answer_refusal(401, "authentication_error").why is BlockedWhy.AUTH


def test_every_obstacle_has_a_remedy() -> None:
    assert all(why.remedy for why in BlockedWhy)
