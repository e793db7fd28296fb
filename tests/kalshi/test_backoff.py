"""Delays grow, stay bounded, and start over."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.kalshi.backoff import Backoff


class Highest(random.Random):
    """Always draws the upper limit."""

    def uniform(self, a: float, b: float) -> float:
        return b


def delays(backoff: Backoff, count: int, rng: random.Random) -> list[float]:
    result = []
    for _ in range(count):
        delay_s, backoff = backoff.next_delay(rng)
        result.append(delay_s)
    return result


def test_ceiling_doubles_up_to_the_maximum() -> None:
    assert delays(Backoff(0.5, 5), 6, Highest()) == [0.5, 1, 2, 4, 5, 5]


def test_reset_starts_over() -> None:
    _, later = Backoff(0.5, 5).next_delay(Highest())

    assert delays(later, 1, Highest()) == [1]
    assert delays(later.reset(), 1, Highest()) == [0.5]


def test_jitter_covers_the_whole_range_below_the_ceiling() -> None:
    rng = random.Random(7)
    drawn = [Backoff(1, 1).next_delay(rng)[0] for _ in range(400)]

    assert min(drawn) < 0.05
    assert max(drawn) > 0.95


@given(
    initial_s=st.floats(1e-9, 1e9),
    growth=st.floats(1, 1e9),
    factor=st.floats(1, 1e300),
    seed=st.integers(0, 10),
)
def test_thousand_failures_neither_overflow_nor_exceed_the_maximum(
    initial_s: float, growth: float, factor: float, seed: int
) -> None:
    backoff = Backoff(initial_s, initial_s * growth, factor)

    for delay_s in delays(backoff, 1_100, random.Random(seed))[::50]:
        assert 0 <= delay_s <= backoff.max_s


@pytest.mark.parametrize(
    ("initial_s", "max_s", "factor"), [(0, 1, 2), (-1, 1, 2), (2, 1, 2), (1, 2, 0.5), (float("nan"), 1, 2)]
)
def test_backoff_that_could_spin_is_refused(initial_s: float, max_s: float, factor: float) -> None:
    with pytest.raises(ValueError, match="backoff needs"):
        Backoff(initial_s, max_s, factor)
