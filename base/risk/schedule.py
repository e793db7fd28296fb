"""When trading pauses next. Pure.

Times of day are US Eastern, as the exchange writes them. Every Thursday from 03:00 to 05:00 no order is
placed (docs.kalshi.com, maintenance and pauses); `GET /exchange/schedule` often shows round-the-clock
hours all the same, so that pause counts whatever the schedule says. What cannot be read names no pause.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from base.model.schedule import ExchangeSchedule, Pause, PauseWhy, WeeklyHours

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
THURSDAY = 3
WEEKLY_PAUSE_MINUTES = (3 * 60, 5 * 60)
DAY_MINUTES = 24 * 60
DAYS_BACK, DAYS_AHEAD = 8, 16
"""Which days are looked at: no gap between two openings of a week reaches over both ends of these."""
GAP_S_MIN = 120.0
"""Hours that end at 23:59 and go on at 00:00 are no pause."""

_TIME_OF_DAY = re.compile(r"([01]?[0-9]|2[0-4]):([0-5][0-9])(?::[0-5][0-9])?", re.ASCII)

Span = tuple[float, float]
"""Start and end in epoch seconds."""


def next_pause(
    schedule: ExchangeSchedule, now: float, *, has_weekly: bool = True, zone: tzinfo | None = None
) -> Pause | None:
    """The pause that is under way, else the next one; None when none is known.

    Windows that overlap or touch are one pause, named after the one that starts it. `has_weekly` is False
    for an exchange that trades through the documented weekly pause; `zone` is US Eastern.
    """
    zone = zone or eastern()[0]
    today = datetime.fromtimestamp(now, zone).date()
    days = [today + timedelta(days=n) for n in range(-DAYS_BACK, DAYS_AHEAD)]
    pauses = [Pause(start, end, PauseWhy.MAINTENANCE) for start, end in schedule.maintenance_windows]
    pauses += [Pause(start, end, PauseWhy.HOURS) for start, end in _closed(schedule, days, zone)]
    if has_weekly:
        pauses += [
            Pause(*_span(day, WEEKLY_PAUSE_MINUTES, zone), PauseWhy.WEEKLY)
            for day in days
            if day.weekday() == THURSDAY
        ]
    return next((pause for pause in _merged(pauses) if pause.end > now), None)


def unreadable_hours(schedule: ExchangeSchedule) -> tuple[str, ...]:
    """The hours that are no times of day, for a warning; their days count as open."""
    return tuple(
        f"{name} {opens}-{closes}"
        for week in schedule.standard_hours
        for name, day in zip(WEEKDAYS, week.days, strict=False)
        for opens, closes in day
        if _minute(opens) is None or _minute(closes) is None
    )


def eastern(load: Callable[[str], tzinfo] = ZoneInfo) -> tuple[tzinfo, bool]:
    """US Eastern, and whether it comes from the machine's zone data; else it is `FixedRuleEastern`."""
    try:
        return load("America/New_York"), True
    except (ZoneInfoNotFoundError, ValueError, OSError):  # missing, damaged, not readable
        return FixedRuleEastern(), False


def moment_text(at: float, zone: tzinfo) -> str:
    """A time as people write it: Thu 03:00 ET."""
    local = datetime.fromtimestamp(at, zone)
    return f"{WEEKDAYS[local.weekday()]} {local:%H:%M} ET"


def wait_text(seconds: float) -> str:
    """A wait in its two largest units: 2 d 4 h, 3 h 12 min, 12 min."""
    minutes = int(max(0.0, seconds)) // 60
    days, hours, minutes = minutes // DAY_MINUTES, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else "less than a minute"


class FixedRuleEastern(tzinfo):
    """US Eastern by the rule in force since 2007: daylight time from the second Sunday of March to the
    first of November, each at 02:00. For a machine without zone data."""

    _STANDARD = timedelta(hours=-5)
    _HOUR = timedelta(hours=1)

    def utcoffset(self, dt: datetime | None) -> timedelta:
        return self._STANDARD + self.dst(dt)

    def dst(self, dt: datetime | None) -> timedelta:
        if dt is None:
            return timedelta(0)
        local = dt.replace(tzinfo=None)
        begins, ends = _daylight_time(local.year)
        # The hour that does not exist and the one that comes twice: `fold` says which side of the change.
        begins += self._HOUR * (1 - dt.fold)
        ends -= self._HOUR * dt.fold
        return self._HOUR if begins <= local < ends else timedelta(0)

    def tzname(self, dt: datetime | None) -> str:
        return "EDT" if self.dst(dt) else "EST"

    def fromutc(self, dt: datetime) -> datetime:
        standard = dt + self._STANDARD
        begins, ends = _daylight_time(standard.year)
        ends -= self._HOUR
        local = standard.replace(tzinfo=None)
        if begins <= local < ends:
            return standard + self._HOUR
        return standard.replace(fold=1) if ends <= local < ends + self._HOUR else standard


def _daylight_time(year: int) -> tuple[datetime, datetime]:
    return _sunday(date(year, 3, 8)), _sunday(date(year, 11, 1))


def _sunday(day: date) -> datetime:
    """02:00 on the first Sunday from `day` on."""
    return datetime.combine(day + timedelta(days=6 - day.weekday()), time(2))


def _closed(schedule: ExchangeSchedule, days: Sequence[date], zone: tzinfo) -> Iterator[Span]:
    """The gaps between the standard hours. Where two weeks are valid at once, the one that began later
    counts; outside of all of them nothing is known, and nothing is said."""
    horizon = (_moment(days[0], 0, zone), _moment(days[-1], DAY_MINUTES, zone))
    ruled: list[Span] = []
    for week in sorted(schedule.standard_hours, key=lambda week: week.start_time, reverse=True):
        valid = (max(week.start_time, horizon[0]), min(week.end_time, horizon[1]))
        if not any(week.days) or valid[0] >= valid[1]:
            continue  # a week without any hours says nothing
        sessions = [_span(day, session, zone) for day in days for session in _sessions(week, day.weekday())]
        for governed in _without(valid, ruled):
            yield from (gap for gap in _without(governed, sessions) if gap[1] - gap[0] >= GAP_S_MIN)
        ruled.append(valid)


def _sessions(week: WeeklyHours, weekday: int) -> list[tuple[int, int]]:
    """Opening and closing minute of one weekday's sessions, counted from its midnight; past the next one
    where a session ends on the day after. A day whose hours cannot be read counts as open."""
    sessions = []
    for opens_text, closes_text in week.days[weekday] if weekday < len(week.days) else ():
        opens, closes = _minute(opens_text), _minute(closes_text)
        if opens is None or closes is None:
            return [(0, DAY_MINUTES)]
        # 00:00 to 00:00 is a whole day, 08:00 to 03:00 ends on the next.
        sessions.append((opens, closes if closes > opens else closes + DAY_MINUTES))
    return sessions


def _minute(text: str) -> int | None:
    """The minute of the day, None when the text is no time of day."""
    found = _TIME_OF_DAY.fullmatch(text.strip())
    minute = None if found is None else int(found[1]) * 60 + int(found[2])
    return minute if minute is not None and minute <= DAY_MINUTES else None


def _span(day: date, minutes: tuple[int, int], zone: tzinfo) -> Span:
    return _moment(day, minutes[0], zone), _moment(day, minutes[1], zone)


def _moment(day: date, minute: int, zone: tzinfo) -> float:
    """Epoch seconds of a minute on the clock of `day`: 24:00 is the next midnight, whatever the day's
    length."""
    days, minute = divmod(minute, DAY_MINUTES)
    local = datetime.combine(day + timedelta(days=days), time(minute // 60, minute % 60), zone)
    return local.astimezone(UTC).timestamp()


def _without(span: Span, holes: Iterable[Span]) -> Iterator[Span]:
    """What is left of a span."""
    start, end = span
    for hole_start, hole_end in sorted(holes):
        if hole_start > start:
            yield start, min(hole_start, end)
        start = max(start, hole_end)
        if start >= end:
            return
    yield start, end


def _merged(pauses: Iterable[Pause]) -> Iterator[Pause]:
    """Pauses that overlap or touch as one, in order. Of two that start together the longer one names it,
    of two that are the same the one that was given first."""
    current: Pause | None = None
    for pause in sorted((p for p in pauses if p.end > p.start), key=lambda p: (p.start, -p.end)):
        if current is None:
            current = pause
        elif pause.start <= current.end:
            current = Pause(current.start, max(current.end, pause.end), current.why)
        else:
            yield current
            current = pause
    if current is not None:
        yield current
