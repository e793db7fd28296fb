"""When the exchange trades, as it says itself, and the pauses that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class WeeklyHours:
    """Trading hours from Monday to Sunday, `("HH:MM", "HH:MM")` Eastern Time, valid between two times in
    epoch seconds. The texts are the exchange's own and may be anything."""

    start_time: float
    end_time: float
    days: tuple[tuple[tuple[str, str], ...], ...]


@dataclass(frozen=True, slots=True)
class ExchangeSchedule:
    """Opening hours, and maintenance windows as (start, end) in epoch seconds."""

    standard_hours: tuple[WeeklyHours, ...] = ()
    maintenance_windows: tuple[tuple[float, float], ...] = ()


class PauseWhy(StrEnum):
    """What a pause follows from."""

    WEEKLY = "weekly"
    """The documented one, whatever the schedule says."""
    MAINTENANCE = "maintenance"
    """A window that the exchange has announced."""
    HOURS = "hours"
    """Outside the standard hours."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A time in which no order is taken, in epoch seconds."""

    start: float
    end: float
    why: PauseWhy
