"""Signing time follows the exchange only after it has complained."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from base.kalshi.server_clock import ServerClock
from tests.fakes.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(now=1_790_000_000.25)


def date(seconds: float) -> str:
    return formatdate(seconds, usegmt=True)


def test_without_complaint_our_own_time_signs(clock: FakeClock) -> None:
    server_clock = ServerClock(clock)
    server_clock.observe_date(date(clock.now() + 300))

    assert server_clock.now_ms() == 1_790_000_000_250
    assert server_clock.offset_s == 0


@pytest.mark.parametrize("skew_s", [-300, -31, 31, 86_400])
def test_complaint_applies_the_newest_offset(clock: FakeClock, skew_s: int) -> None:
    server_clock = ServerClock(clock)
    server_clock.observe_date(date(clock.now() + 12_345))
    server_clock.observe_date(date(clock.now() + skew_s))

    assert server_clock.apply_observed()
    assert server_clock.now_ms() / 1000 - clock.now() == pytest.approx(skew_s, abs=0.51)
    clock.advance(10)
    assert server_clock.now_ms() / 1000 - clock.now() == pytest.approx(skew_s, abs=0.51)


def test_offset_is_the_middle_of_the_named_second(clock: FakeClock) -> None:
    server_clock = ServerClock(clock)
    server_clock.observe_date(date(1_790_000_100))

    assert server_clock.observed_offset_s == 1_790_000_100.5 - clock.now()


def test_each_date_tells_its_own_offset(clock: FakeClock) -> None:
    server_clock = ServerClock(clock)

    assert server_clock.observe_date(date(1_790_000_100)) == 100.25
    assert server_clock.observe_date("yesterday") is None
    assert server_clock.observe_date(None) is None


def test_change_within_the_header_resolution_is_no_change(clock: FakeClock) -> None:
    server_clock = ServerClock(clock)
    server_clock.observe_date(date(clock.now()))

    assert not server_clock.apply_observed()
    assert server_clock.offset_s == 0


def test_nothing_observed_changes_nothing(clock: FakeClock) -> None:
    assert not ServerClock(clock).apply_observed()


@pytest.mark.parametrize("header", [None, "", "yesterday", "Sun, 99 Nov 2026 10:00:00 GMT", "\x00"])
def test_header_that_is_no_date_is_ignored(clock: FakeClock, header: str | None) -> None:
    server_clock = ServerClock(clock)
    server_clock.observe_date(header)

    assert server_clock.observed_offset_s is None


def test_recovers_when_our_clock_is_corrected(clock: FakeClock) -> None:
    server_clock = ServerClock(clock)
    server_clock.observe_date(date(clock.now() + 60))
    server_clock.apply_observed()
    clock.advance(60)  # a time daemon steps the wall clock
    server_clock.observe_date(date(clock.now()))

    assert server_clock.apply_observed()
    assert abs(server_clock.offset_s) <= 0.5
