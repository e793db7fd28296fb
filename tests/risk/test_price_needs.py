"""What is read through REST, and how little: one batch for all, and nothing that the stream vouches for."""

from __future__ import annotations

import pytest

from base.model.market import MarketStatus
from base.risk.price_needs import MarketNeed, Refresh, Why, decide_refresh

STALE_S = 60.0
SWEEP_S = 2.0


def need(
    ticker: str = "A",
    *,
    age_s: float | None = 10.0,
    status: MarketStatus = MarketStatus.ACTIVE,
    is_confirmed: bool = True,
    is_held: bool = True,
) -> MarketNeed:
    return MarketNeed(ticker, status, age_s, STALE_S, is_confirmed, is_held)


@pytest.mark.parametrize(
    ("market", "feed_is_live", "why"),
    [
        (need(age_s=59.9), True, None),
        (need(age_s=60.1), True, Why.STALE),
        (need(age_s=None), True, Why.MISSING),
        (need(is_confirmed=False), True, Why.MISSING),
        (need(is_confirmed=False, age_s=1.0), True, None),
        (need(status=MarketStatus.INACTIVE), True, Why.MISSING),
        (need(status=MarketStatus.UNKNOWN), True, Why.MISSING),
        (need(status=MarketStatus.UNKNOWN, age_s=0.1), True, Why.MISSING),
        (need(age_s=1.9, is_confirmed=False), False, Why.FEED_DOWN),
        (need(age_s=1.0, is_confirmed=False), False, None),
        (need(age_s=14.0, is_confirmed=False, is_held=False), False, None),
        (need(age_s=16.0, is_confirmed=False, is_held=False), False, Why.FEED_DOWN),
        (need(age_s=None, is_held=False), False, Why.MISSING),
        (need(age_s=30.0, status=MarketStatus.CLOSED), False, None),
        (need(age_s=61.0, status=MarketStatus.CLOSED), True, Why.STALE),
    ],
    ids=[
        "a quiet confirmed market is not read",
        "until it is stale",
        "no price yet",
        "not confirmed by the feed",
        "just read",
        "paused: no event is certain to reopen it",
        "status unknown",
        "a ticking price does not say whether the market trades",
        "the feed is down",
        "the feed is down, and it was just read",
        "the feed is down, and only a strategy watches it",
        "only watched, and it is time",
        "only watched, and never priced",
        "closed: no price to learn",
        "closed: asked each minute what became of it",
    ],
)
def test_one_market(market: MarketNeed, feed_is_live: bool, why: Why | None) -> None:
    refresh = decide_refresh([market], feed_is_live=feed_is_live)
    assert (refresh.why if refresh is not None else None) is why


def test_one_batch_for_all_and_those_soon_due_ride_along() -> None:
    refresh = decide_refresh(
        [need("A", age_s=61), need("B", age_s=31), need("C", age_s=29), need("D", age_s=None)],
        feed_is_live=True,
    )
    assert refresh == Refresh(("A", "B", "D"), Why.MISSING)


def test_nothing_is_read_only_for_riders() -> None:
    assert decide_refresh([need("B", age_s=59)], feed_is_live=True) is None


def reads_in_an_hour(first_ages_s: list[float], *, is_live: bool, ticks: bool = False) -> list[float]:
    """Sweep for an hour; a read makes its markets' prices new."""
    seen = [-age for age in first_ages_s]
    reads = []
    for sweep in range(1_800):
        now = sweep * SWEEP_S
        if ticks:
            seen = [now - 0.5] * len(seen)
        refresh = decide_refresh(
            [need(str(i), age_s=now - at, is_confirmed=is_live) for i, at in enumerate(seen)],
            feed_is_live=is_live,
        )
        if refresh is not None:
            reads.append(now)
            for ticker in refresh.tickers:
                seen[int(ticker)] = now
    return reads


def busiest_minute(reads: list[float]) -> int:
    return max((sum(at <= other < at + 60 for other in reads) for at in reads), default=0)


def test_a_hundred_quiet_markets_cost_two_reads_a_minute() -> None:
    reads = reads_in_an_hour([i * 0.6 for i in range(100)], is_live=True)
    assert 50 <= len(reads) <= 120, "each is still read once it is stale"
    assert busiest_minute(reads) <= 2


def test_a_hundred_ticking_markets_cost_nothing() -> None:
    assert reads_in_an_hour([0.0] * 100, is_live=True, ticks=True) == []


def test_a_dead_feed_costs_one_read_a_sweep() -> None:
    reads = reads_in_an_hour([5.0] * 100, is_live=False)
    assert len(reads) == 1_800, "every sweep has fresh prices"
    assert busiest_minute(reads) <= 30
