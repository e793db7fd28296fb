"""The trading day: from midnight to midnight of one time zone, 23 or 25 hours long when the clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta, tzinfo


def trading_day(wall: float, zone: tzinfo = UTC) -> str:
    """The date, in `zone`, of a wall time."""
    return datetime.fromtimestamp(wall, zone).date().isoformat()


def day_start_s(wall: float, zone: tzinfo = UTC) -> int:
    """The wall time at which the trading day of `wall` began."""
    # Where the clocks skip midnight this is the moment at which they do; where they go through it twice,
    # the first time.
    date = datetime.fromtimestamp(wall, zone).date()
    return int(datetime.combine(date, time.min, zone).timestamp())


def day_end_s(wall: float, zone: tzinfo = UTC) -> int:
    """The wall time at which the trading day of `wall` ends and the next one begins."""
    date = datetime.fromtimestamp(wall, zone).date() + timedelta(days=1)
    return int(datetime.combine(date, time.min, zone).timestamp())
