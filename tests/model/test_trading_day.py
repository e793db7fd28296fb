"""When a trading day begins and ends: midnight of its zone, also when the clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

import pytest

from base.model.trading_day import day_end_s, day_start_s, trading_day

NEW_YORK, HAVANA, AUCKLAND = (
    ZoneInfo("America/New_York"),
    ZoneInfo("America/Havana"),
    ZoneInfo("Pacific/Auckland"),
)


def at(text: str) -> float:
    """A wall time from UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("when", "zone", "day"),
    [
        ("2026-11-22T23:59:59.999", UTC, "2026-11-22"),
        ("2026-11-23T00:00:00", UTC, "2026-11-23"),
        ("2026-11-23T04:59:59.999", NEW_YORK, "2026-11-22"),
        ("2026-11-23T05:00:00", NEW_YORK, "2026-11-23"),
        ("2026-07-23T03:59:59.999", NEW_YORK, "2026-07-22"),
        ("2026-07-23T04:00:00", NEW_YORK, "2026-07-23"),
        ("2026-11-01T05:30:00", NEW_YORK, "2026-11-01"),
        ("2026-11-01T06:30:00", NEW_YORK, "2026-11-01"),
        ("2026-11-22T11:00:00", AUCKLAND, "2026-11-23"),
    ],
    ids=[
        "the last moment in UTC",
        "midnight in UTC",
        "the last moment of a winter day",
        "midnight in winter",
        "the last moment of a summer day",
        "midnight in summer",
        "half past one, before the clocks go back",
        "half past one once more",
        "a zone ahead of UTC",
    ],
)
def test_the_day_of_a_moment(when: str, zone: tzinfo, day: str) -> None:
    assert trading_day(at(when), zone) == day


@pytest.mark.parametrize(
    ("when", "zone", "start", "hours"),
    [
        ("2026-11-22T12:00:00", UTC, "2026-11-22T00:00:00", 24),
        ("2026-11-22T12:00:00", NEW_YORK, "2026-11-22T05:00:00", 24),
        ("2026-11-01T04:00:00", NEW_YORK, "2026-11-01T04:00:00", 25),
        ("2026-11-02T04:59:59", NEW_YORK, "2026-11-01T04:00:00", 25),
        ("2027-03-14T05:00:00", NEW_YORK, "2027-03-14T05:00:00", 23),
        ("2027-03-15T03:59:59", NEW_YORK, "2027-03-14T05:00:00", 23),
        ("2027-03-14T12:00:00", HAVANA, "2027-03-14T05:00:00", 23),
        ("2026-11-01T12:00:00", HAVANA, "2026-11-01T04:00:00", 25),
    ],
    ids=[
        "UTC",
        "New York",
        "the first moment of the day that gains an hour",
        "its last second",
        "the first moment of the day that loses an hour",
        "its last second too",
        "the clocks skip midnight",
        "the clocks go through midnight twice",
    ],
)
def test_where_the_day_begins_and_how_long_it_is(when: str, zone: tzinfo, start: str, hours: int) -> None:
    wall = at(when)
    assert day_start_s(wall, zone) == at(start)
    assert day_end_s(wall, zone) == at(start) + hours * 3600


@pytest.mark.parametrize("zone", [UTC, NEW_YORK, HAVANA, AUCKLAND], ids=str)
def test_through_a_year_every_day_begins_where_the_one_before_ends(zone: tzinfo) -> None:
    wall, seen = day_start_s(at("2026-06-01T12:00:00"), zone), []
    for _ in range(366):
        seen.append(trading_day(wall, zone))
        assert day_start_s(wall, zone) == wall
        end = day_end_s(wall, zone)
        assert trading_day(end - 0.001, zone) == seen[-1]
        wall = end
    assert seen == sorted(set(seen))
