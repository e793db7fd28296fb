"""Says ahead when trading will pause, because a position cannot be sold while it lasts.

The thread `pauses` reads the exchange's schedule at the start and every hour. The weekly pause is known
without it, so a read that fails costs no warning of that one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from decimal import Decimal
from enum import StrEnum
from zoneinfo import ZoneInfo

from base.app.services import PeriodicService
from base.clock import Clock
from base.errors import BotError
from base.log import log_event
from base.model.market import ZERO
from base.model.schedule import ExchangeSchedule, Pause
from base.risk.schedule import eastern, next_pause, unreadable_hours

logger = logging.getLogger(__name__)

PASS_S = 5.0
READ_S = 3_600.0
RETRY_S = 60.0
AHEAD_S = (86_400.0, 7_200.0, 1_800.0, 300.0)
"""How long ahead a pause is announced, once each."""
WARNING_AHEAD_S = 7_200.0
"""From here on it is a warning where something is held."""
TICKERS_MAX = 10

Exposed = Sequence[tuple[str, Decimal]]
"""What is held and could be sold if trading went on: ticker, and dollars that it is worth or cost."""


class PauseEvent(StrEnum):
    AHEAD = "pause_ahead"
    BEGAN = "pause_began"
    OVER = "pause_over"


_REMEDY = {
    PauseEvent.AHEAD: "stops cannot sell while it lasts: before it, close what must not be held through it",
    PauseEvent.BEGAN: "stops wait: what has passed its stop when it is over is sold at the bid of then",
    PauseEvent.OVER: "nothing to do: stops act again, on the prices of now",
}


@dataclass(frozen=True, slots=True)
class Announcement:
    """What is to be said of a pause at one moment; `in_s` is until its start (below 0 when it has begun)."""

    event: PauseEvent
    pause: Pause
    in_s: float
    held: tuple[tuple[str, Decimal], ...]
    """The largest first."""
    zone: tzinfo

    @property
    def is_warning(self) -> bool:
        """Whether somebody should act on it now."""
        return bool(self.held) and self.event is not PauseEvent.OVER and self.in_s <= WARNING_AHEAD_S

    @property
    def fields(self) -> dict[str, object]:
        """The fields of its log line; times with the offset of US Eastern, as the exchange writes them."""
        return {
            "starts_at": datetime.fromtimestamp(self.pause.start, self.zone).isoformat(),
            "ends_at": datetime.fromtimestamp(self.pause.end, self.zone).isoformat(),
            "in_s": round(self.in_s),
            "why": self.pause.why,
            "positions": len(self.held),
            "exposed_dollars": round(sum((dollars for _, dollars in self.held), ZERO), 2),
            "tickers": [ticker for ticker, _ in self.held[:TICKERS_MAX]],
            "remedy": _REMEDY[self.event] if self.held else "nothing to do: nothing is held",
        }


def log_announcement(announcement: Announcement) -> None:
    level = logging.WARNING if announcement.is_warning else logging.INFO
    log_event(logger, level, announcement.event.value, exc_info=False, **announcement.fields)


class PauseWatch:
    """Knows the next pause, and announces it. `service` is its thread.

    `read_schedule` raises BotError when there is no answer; `exposed` says what is held. `has_weekly` is
    False for an exchange that trades through the documented weekly pause (the sandbox). Nothing is announced
    before `is_held_known`.
    """

    def __init__(
        self,
        read_schedule: Callable[[], ExchangeSchedule],
        exposed: Callable[[], Exposed],
        clock: Clock,
        *,
        has_weekly: bool = True,
        announce: Callable[[Announcement], None] = log_announcement,
        load_zone: Callable[[str], tzinfo] = ZoneInfo,
        is_held_known: Callable[[], bool] = lambda: True,
    ) -> None:
        self._read_schedule = read_schedule
        self._exposed = exposed
        self._clock = clock
        self._has_weekly = has_weekly
        self._announce = announce
        self._is_held_known = is_held_known
        self._zone, self._has_zone_data = eastern(load_zone)
        self.service = PeriodicService("pauses", PASS_S, self.run_once, clock)

        # Owned by the thread `pauses`.
        self._read_due_at = clock.monotonic()
        self._is_zone_said = False
        self._is_unread = False  # and that was said
        self._ahead: Pause | None = None  # the pause of which `_times_said` speaks
        self._times_said = 0
        self._current: Pause | None = None  # the pause whose beginning was announced

        self._lock = threading.Lock()  # guards the fields below; never held during I/O or callbacks
        self._schedule = ExchangeSchedule()
        self._doubts: tuple[str, ...] = ("the exchange's schedule has not been read yet",)

    def next_pause(self) -> Pause | None:
        """The pause under way, else the next one, by the last schedule that was read; for any thread."""
        with self._lock:
            schedule = self._schedule
        return next_pause(schedule, self._clock.now(), has_weekly=self._has_weekly, zone=self._zone)

    def doubts(self) -> tuple[str, ...]:
        """Why a pause may come unannounced, or an hour off; for any thread."""
        zone = () if self._has_zone_data else ("no zone data: US Eastern is reckoned by the rule of 2007",)
        with self._lock:
            return zone + self._doubts

    def run_once(self) -> None:
        """Read the schedule when that is due, and say what has become due to be said."""
        if not self._has_zone_data and not self._is_zone_said:
            self._is_zone_said = True
            log_event(
                logger,
                logging.WARNING,
                "zone_data_missing",
                zone="America/New_York",
                remedy="install the tzdata package; until then daylight time follows the rule of 2007",
            )
        try:
            if self._clock.monotonic() >= self._read_due_at:
                self._read()
        finally:
            self._say_what_is_due()

    def _read(self) -> None:
        self._read_due_at = self._clock.monotonic() + RETRY_S
        try:
            schedule = self._read_schedule()
        except BotError as exc:
            with self._lock:
                self._doubts = (f"the exchange's schedule could not be read ({exc})",)
            if not self._is_unread:
                self._is_unread = True
                log_event(
                    logger,
                    logging.WARNING,
                    "schedule_unread",
                    why=exc,
                    remedy="nothing to do: it is tried every minute; known pauses are announced all the same",
                )
            return
        self._read_due_at = self._clock.monotonic() + READ_S
        self._is_unread = False
        unreadable = unreadable_hours(schedule)
        doubts = (
            (f"hours that are no times of day: {', '.join(unreadable[:TICKERS_MAX])}",) if unreadable else ()
        )
        with self._lock:
            is_news = bool(doubts) and doubts != self._doubts
            self._schedule, self._doubts = schedule, doubts
        if is_news:
            log_event(
                logger,
                logging.WARNING,
                "schedule_unreadable",
                hours=unreadable[:TICKERS_MAX],
                remedy="look at the exchange's own announcements: these days count as open",
            )

    def _say_what_is_due(self) -> None:
        if not self._is_held_known():
            return  # what is said once must name what is exposed
        now = self._clock.now()
        pause = self.next_pause()
        is_under_way = pause is not None and pause.start <= now
        if self._current is not None and not is_under_way:
            self._say(PauseEvent.OVER, self._current, now)
            self._current = None
        if pause is None:
            return
        if is_under_way:
            if self._current is None or self._current.end != pause.end:  # another end is news
                self._say(PauseEvent.BEGAN, pause, now)
            self._current = pause
            return
        if pause != self._ahead:
            self._ahead, self._times_said = pause, 0
        due = sum(pause.start - now <= ahead_s for ahead_s in AHEAD_S)
        if due > self._times_said:  # what was missed meanwhile is not made up for: the nearest one says it
            self._say(PauseEvent.AHEAD, pause, now)
            self._times_said = due

    def _say(self, event: PauseEvent, pause: Pause, now: float) -> None:
        held = tuple(sorted(self._exposed(), key=lambda position: (-position[1], position[0])))
        self._announce(Announcement(event, pause, pause.start - now, held, self._zone))
