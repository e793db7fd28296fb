"""The next pause is known ahead, whatever the schedule says and whatever the clocks do that week."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.model.schedule import ExchangeSchedule, Pause, PauseWhy, WeeklyHours
from base.risk.schedule import (
    FixedRuleEastern,
    eastern,
    moment_text,
    next_pause,
    unreadable_hours,
    wait_text,
)

NEW_YORK = ZoneInfo("America/New_York")
ALL_DAY = (("00:00", "24:00"),)
ROUND_THE_CLOCK = (ALL_DAY,) * 7
WORKING_HOURS = ((("08:00", "20:00"),),) * 7


def et(text: str) -> float:
    """Epoch seconds of a time on the clock of New York."""
    return datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).timestamp()


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def week(
    days: tuple[tuple[tuple[str, str], ...], ...], start: str = "2026-01-01", end: str = "2027-01-01"
) -> WeeklyHours:
    return WeeklyHours(et(start), et(end), days)


def thursday(*hours: tuple[str, str]) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Round the clock but for Thursday."""
    return (*ROUND_THE_CLOCK[:3], hours, *ROUND_THE_CLOCK[4:])


@dataclass(frozen=True)
class Case:
    name: str
    now: str
    starts: str
    ends: str
    why: str
    hours: tuple[WeeklyHours, ...] = ()
    windows: tuple[tuple[str, str], ...] = ()


# 2026-10-22 is a Thursday. Daylight time ends on Sunday, 2026-11-01, and began on 2026-03-08.
WEEKLY = [
    Case("the weekly pause without any schedule", "2026-10-21 12:00", "2026-10-22 03:00", "2026-10-22 05:00",
         "weekly"),
    Case("the weekly pause although the hours say round the clock", "2026-10-21 12:00", "2026-10-22 03:00",
         "2026-10-22 05:00", "weekly", (week(ROUND_THE_CLOCK),)),
    Case("a second before it begins", "2026-10-22 02:59:59", "2026-10-22 03:00", "2026-10-22 05:00",
         "weekly"),
    Case("while it lasts", "2026-10-22 04:59:59", "2026-10-22 03:00", "2026-10-22 05:00", "weekly"),
    Case("as soon as it is over the next one", "2026-10-22 05:00", "2026-10-29 03:00", "2026-10-29 05:00",
         "weekly"),
    Case("across the end of daylight time", "2026-10-29 05:00", "2026-11-05 03:00", "2026-11-05 05:00",
         "weekly"),
    Case("across the beginning of daylight time", "2026-03-05 05:00", "2026-03-12 03:00", "2026-03-12 05:00",
         "weekly"),
    Case("when it is Thursday in New York already and the schedule's hours name it", "2026-10-22 00:01",
         "2026-10-22 03:00", "2026-10-22 05:00", "hours",
         (week(thursday(("00:00", "03:00"), ("05:00", "24:00"))),)),
]  # fmt: skip
WINDOWS = [
    Case("a maintenance window before it", "2026-10-20 12:00", "2026-10-20 22:00", "2026-10-21 01:00",
         "maintenance", windows=(("2026-10-20 22:00", "2026-10-21 01:00"),)),
    Case("a window under way that began yesterday", "2026-10-21 00:30", "2026-10-20 22:00",
         "2026-10-21 01:00", "maintenance", windows=(("2026-10-20 22:00", "2026-10-21 01:00"),)),
    Case("a window that is over", "2026-10-21 01:00", "2026-10-22 03:00", "2026-10-22 05:00",
         "weekly", windows=(("2026-10-20 22:00", "2026-10-21 01:00"),)),
    Case("the weekly pause inside a window", "2026-10-21 12:00", "2026-10-22 02:00", "2026-10-22 06:00",
         "maintenance", windows=(("2026-10-22 02:00", "2026-10-22 06:00"),)),
    Case("a window that is the weekly pause", "2026-10-21 12:00", "2026-10-22 03:00", "2026-10-22 05:00",
         "maintenance", windows=(("2026-10-22 03:00", "2026-10-22 05:00"),)),
    Case("a window that is over before the weekly pause", "2026-10-21 12:00", "2026-10-22 03:00",
         "2026-10-22 05:00", "weekly", windows=(("2026-10-22 03:00", "2026-10-22 04:00"),)),
    Case("a window that makes the weekly pause longer", "2026-10-21 12:00", "2026-10-22 03:00",
         "2026-10-22 07:30", "weekly", windows=(("2026-10-22 04:00", "2026-10-22 07:30"),)),
    Case("a window that follows on", "2026-10-21 12:00", "2026-10-22 03:00",
         "2026-10-22 07:30", "weekly", windows=(("2026-10-22 05:00", "2026-10-22 07:30"),)),
    Case("two windows that overlap", "2026-10-20 12:00", "2026-10-20 22:00", "2026-10-21 04:00",
         "maintenance",
         windows=(("2026-10-21 00:00", "2026-10-21 04:00"), ("2026-10-20 22:00", "2026-10-21 01:00"))),
    Case("a window inside another", "2026-10-20 12:00", "2026-10-20 22:00", "2026-10-21 04:00",
         "maintenance",
         windows=(("2026-10-20 22:00", "2026-10-21 04:00"), ("2026-10-20 23:00", "2026-10-21 01:00"))),
    Case("two windows apart", "2026-10-20 12:00", "2026-10-20 22:00", "2026-10-20 23:00", "maintenance",
         windows=(("2026-10-21 22:00", "2026-10-21 23:00"), ("2026-10-20 22:00", "2026-10-20 23:00"))),
    Case("a window that ends before it begins", "2026-10-21 12:00", "2026-10-22 03:00", "2026-10-22 05:00",
         "weekly", windows=(("2026-10-21 23:00", "2026-10-21 22:00"),)),
]  # fmt: skip
HOURS = [
    Case("closed over night", "2026-10-20 12:00", "2026-10-20 20:00", "2026-10-21 08:00", "hours",
         (week(WORKING_HOURS),)),
    Case("the weekly pause within the night", "2026-10-21 21:00", "2026-10-21 20:00", "2026-10-22 08:00",
         "hours", (week(WORKING_HOURS),)),
    Case("a session that ends after midnight", "2026-10-20 12:00", "2026-10-21 03:00", "2026-10-21 08:00",
         "hours", (week(((("08:00", "03:00"),),) * 7),)),
    Case("in the small hours of such a session", "2026-10-21 02:00", "2026-10-21 03:00", "2026-10-21 08:00",
         "hours", (week(((("08:00", "03:00"),),) * 7),)),
    Case("a gap at noon", "2026-10-20 11:00", "2026-10-20 12:00", "2026-10-20 13:00", "hours",
         (week(((("00:00", "12:00"), ("13:00", "24:00")),) * 7),)),
    Case("sessions in no order, one inside the other", "2026-10-20 11:00", "2026-10-20 12:00",
         "2026-10-20 13:00", "hours",
         (week(((("13:00", "24:00"), ("02:00", "03:00"), ("00:00", "12:00")),) * 7),)),
    Case("a day without hours", "2026-10-20 12:00", "2026-10-21 00:00", "2026-10-22 05:00", "hours",
         (week((ALL_DAY, ALL_DAY, (), (("05:00", "24:00"),), ALL_DAY, ALL_DAY, ALL_DAY)),)),
    Case("a weekend without hours as daylight time ends", "2026-10-30 12:00", "2026-10-31 00:00",
         "2026-11-02 00:00", "hours", (week((*ROUND_THE_CLOCK[:5], (), ())),)),
    Case("a minute before midnight is no pause", "2026-10-20 12:00", "2026-10-22 03:00", "2026-10-22 05:00",
         "weekly", (week(((("00:00", "23:59"),),) * 7),)),
    Case("from midnight to midnight is all day", "2026-10-20 12:00", "2026-10-22 03:00", "2026-10-22 05:00",
         "weekly", (week(((("00:00", "00:00"),),) * 7),)),
    Case("hours that are not valid yet", "2026-10-20 12:00", "2026-10-22 03:00", "2026-10-22 05:00",
         "weekly", (week(WORKING_HOURS, start="2026-10-24"),)),
    Case("hours that become valid at night", "2026-10-22 06:00", "2026-10-24 00:00", "2026-10-24 08:00",
         "hours", (week(WORKING_HOURS, start="2026-10-24"),)),
    Case("hours that are not valid any more", "2026-10-20 12:00", "2026-10-22 03:00", "2026-10-22 05:00",
         "weekly", (week(WORKING_HOURS, end="2026-10-20"),)),
    Case("hours whose validity ends at night", "2026-10-23 12:00", "2026-10-23 20:00", "2026-10-24 06:00",
         "hours", (week(WORKING_HOURS, end="2026-10-24 06:00"),)),
    Case("later hours overrule earlier ones", "2026-10-20 12:00", "2026-10-22 03:00", "2026-10-22 05:00",
         "weekly", (week(ROUND_THE_CLOCK, start="2026-10-01"), week(WORKING_HOURS))),
    Case("a short week overrules the ordinary one while it lasts", "2026-10-22 12:00", "2026-10-23 20:00",
         "2026-10-24 08:00", "hours",
         (week(ROUND_THE_CLOCK), week(WORKING_HOURS, start="2026-10-23 08:00", end="2026-10-24 09:00"))),
    Case("a validity that ends before it begins", "2026-10-20 12:00", "2026-10-22 03:00", "2026-10-22 05:00",
         "weekly", (week(WORKING_HOURS, start="2026-12-01", end="2026-10-01"),)),
    Case("a week without any hours says nothing", "2026-10-20 12:00", "2026-10-22 03:00", "2026-10-22 05:00",
         "weekly", (week(((),) * 7),)),
    Case("a day of garbage counts as open", "2026-10-20 12:00", "2026-10-21 00:00", "2026-10-21 08:00",
         "hours", (week((*WORKING_HOURS[:1], (("8 am", "20:00"),), *WORKING_HOURS[2:])),)),
    Case("garbage beside a good session", "2026-10-20 12:00", "2026-10-21 00:00", "2026-10-21 08:00",
         "hours",
         (week((*WORKING_HOURS[:1], (("08:00", "20:00"), ("21:00", "24:01")), *WORKING_HOURS[2:])),)),
    Case("a week of too few days", "2026-10-20 12:00", "2026-10-20 20:00", "2026-10-26 08:00",
         "hours", (week(WORKING_HOURS[:2]),)),
]  # fmt: skip


@pytest.mark.parametrize("case", [*WEEKLY, *WINDOWS, *HOURS], ids=lambda c: c.name)
@pytest.mark.parametrize("zone", [None, FixedRuleEastern()], ids=["zone data", "fixed rule"])
def test_the_next_pause(case: Case, zone: tzinfo | None) -> None:
    schedule = ExchangeSchedule(case.hours, tuple((et(start), et(end)) for start, end in case.windows))
    found = next_pause(schedule, et(case.now), zone=zone)
    assert found == Pause(et(case.starts), et(case.ends), PauseWhy(case.why))


def test_the_weekly_pause_is_at_another_time_of_utc_in_winter() -> None:
    nothing = ExchangeSchedule()
    summer, winter = next_pause(nothing, utc("2026-10-28")), next_pause(nothing, utc("2026-11-04"))
    assert summer is not None
    assert winter is not None
    assert summer.start == utc("2026-10-29 07:00")
    assert winter.start == utc("2026-11-05 08:00")


def test_a_night_is_an_hour_shorter_when_the_clocks_go_forward() -> None:
    found = next_pause(ExchangeSchedule((week(WORKING_HOURS),)), et("2026-03-07 21:00"))
    assert found is not None
    assert (found.start, found.end) == (utc("2026-03-08 01:00"), utc("2026-03-08 12:00"))


def test_an_exchange_without_the_weekly_pause_has_only_what_it_says() -> None:
    assert next_pause(ExchangeSchedule(), et("2026-10-21 12:00"), has_weekly=False) is None
    window = (et("2026-11-21 22:00"), et("2026-11-21 23:00"))
    found = next_pause(ExchangeSchedule((), (window,)), et("2026-10-21 12:00"), has_weekly=False)
    assert found == Pause(*window, PauseWhy.MAINTENANCE)


TEXTS = st.sampled_from(["00:00", "03:00", "8:30", "23:59", "24:00", "24:01", "25:00", "٠٣:00", "", "3 am"])
WEEKS = st.builds(
    WeeklyHours,
    st.floats(-1e11, 1e11),
    st.floats(-1e11, 1e11),
    st.lists(st.lists(st.tuples(TEXTS, TEXTS), max_size=3).map(tuple), max_size=9).map(tuple),
)
SPANS = st.tuples(st.floats(-1e11, 1e11), st.floats(-1e11, 1e11)) | st.tuples(
    st.floats(1.78e9, 1.80e9), st.floats(1.78e9, 1.80e9)
)


@settings(max_examples=200, deadline=None)
@given(st.lists(WEEKS, max_size=3), st.lists(SPANS, max_size=4), st.integers(1_767_225_600, 1_798_761_600))
def test_whatever_it_says_the_weekly_pause_is_never_missed(
    weeks: list[WeeklyHours], windows: list[tuple[float, float]], now: int
) -> None:
    found = next_pause(ExchangeSchedule(tuple(weeks), tuple(windows)), now)
    assert found is not None
    weekly = next_pause(ExchangeSchedule(), now)
    assert weekly is not None
    assert found.end > now
    assert found.start <= weekly.start
    assert found.end >= weekly.end or found.end < weekly.start, "the weekly pause is whole or still to come"


# --- the zone -----------------------------------------------------------------------------------------


def test_without_zone_data_the_fixed_rule_stands_in() -> None:
    def missing(error: Exception) -> Callable[[str], tzinfo]:
        def load(name: str) -> tzinfo:
            raise error

        return load

    for error in (ZoneInfoNotFoundError("no data"), ValueError("damaged"), PermissionError("not readable")):
        zone, is_from_data = eastern(missing(error))
        assert not is_from_data
        assert isinstance(zone, FixedRuleEastern)
    assert eastern() == (NEW_YORK, True)


@pytest.mark.parametrize("year", [2007, 2024, 2026, 2027, 2032])
def test_the_fixed_rule_agrees_with_the_zone_data_every_hour_of_a_year(year: int) -> None:
    fixed = FixedRuleEastern()
    moment = datetime(year, 1, 1, tzinfo=UTC)
    while moment.year == year:
        ours, theirs = moment.astimezone(fixed), moment.astimezone(NEW_YORK)
        assert (ours.replace(tzinfo=None), ours.fold) == (theirs.replace(tzinfo=None), theirs.fold)
        assert (ours.utcoffset(), ours.dst(), ours.tzname()) == (
            theirs.utcoffset(),
            theirs.dst(),
            theirs.tzname(),
        )
        assert ours.timestamp() == moment.timestamp()
        moment += timedelta(hours=1)


@pytest.mark.parametrize("fold", [0, 1])
@pytest.mark.parametrize(
    "local",
    ["2026-03-08 01:59", "2026-03-08 02:30", "2026-03-08 03:00", "2026-11-01 00:59", "2026-11-01 01:30",
     "2026-11-01 02:00"],
)  # fmt: skip
def test_the_fixed_rule_agrees_on_the_hours_that_are_missing_or_twice(local: str, fold: int) -> None:
    at = datetime.fromisoformat(local).replace(fold=fold)
    assert at.replace(tzinfo=FixedRuleEastern()).utcoffset() == at.replace(tzinfo=NEW_YORK).utcoffset()


# --- words --------------------------------------------------------------------------------------------


def test_unreadable_hours_are_named() -> None:
    schedule = ExchangeSchedule(
        (
            week(
                (
                    ALL_DAY,
                    (("8 am", "20:00"), ("20:00", "21:00")),
                    *ROUND_THE_CLOCK[:4],
                    (("00:00", "24:30"),),
                )
            ),
        )
    )
    assert unreadable_hours(schedule) == ("Tue 8 am-20:00", "Sun 00:00-24:30")
    assert unreadable_hours(ExchangeSchedule((week(WORKING_HOURS),))) == ()


def test_moments_are_told_on_the_clock_of_the_exchange() -> None:
    assert moment_text(utc("2026-10-22 07:00"), NEW_YORK) == "Thu 03:00 ET"
    assert moment_text(utc("2026-11-05 08:00"), NEW_YORK) == "Thu 03:00 ET"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (11_520, "3 h 12 min"),
        (7_200, "2 h 0 min"),
        (187_200, "2 d 4 h"),
        (720, "12 min"),
        (59, "less than a minute"),
        (-5, "less than a minute"),
    ],
)
def test_waits_are_told_in_two_units(seconds: float, text: str) -> None:
    assert wait_text(seconds) == text
