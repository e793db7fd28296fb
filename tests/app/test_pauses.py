"""A pause is announced ahead, once each time, with what is held; the weekly one even without a schedule."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest

from base.app.pauses import PASS_S, READ_S, RETRY_S, Announcement, PauseEvent, PauseWatch
from base.errors import TransientError
from base.model.schedule import ExchangeSchedule, Pause, PauseWhy, WeeklyHours
from tests.fakes.clock import FakeClock

NEW_YORK = ZoneInfo("America/New_York")
NOTHING = ExchangeSchedule()
HELD = (("KXA", Decimal("41.50")), ("KXB", Decimal(7)), ("KXC", Decimal(120)))


def et(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).timestamp()


THURSDAY = et("2026-10-22 03:00")
WEEKLY = Pause(THURSDAY, THURSDAY + 7_200, PauseWhy.WEEKLY)


def maintenance(start: str, end: str) -> ExchangeSchedule:
    return ExchangeSchedule((), ((et(start), et(end)),))


@dataclass
class Desk:
    """A watch with everything around it; what it is to read or raise, and what it said."""

    clock: FakeClock
    answers: list[ExchangeSchedule | Exception] = field(default_factory=list)
    """The last one is given again and again."""
    held: tuple[tuple[str, Decimal], ...] = HELD
    said: list[Announcement] = field(default_factory=list)
    reads: int = 0
    broken: bool = False
    is_known: bool = True

    def read(self) -> ExchangeSchedule:
        self.reads += 1
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def exposed(self) -> tuple[tuple[str, Decimal], ...]:
        if self.broken:
            raise ZeroDivisionError("no figures")
        return self.held

    def take(self) -> list[Announcement]:
        said = list(self.said)
        self.said.clear()
        return said


@pytest.fixture
def desk() -> Desk:
    """Two days before the weekly pause."""
    return Desk(FakeClock(now=THURSDAY - 2 * 86_400), [NOTHING])


def watch_of(desk: Desk, *, has_weekly: bool = True) -> PauseWatch:
    return PauseWatch(
        desk.read,
        desk.exposed,
        desk.clock,
        has_weekly=has_weekly,
        announce=desk.said.append,
        is_held_known=lambda: desk.is_known,
    )


def run_until(desk: Desk, watch: PauseWatch, wall: float) -> list[tuple[PauseEvent, float]]:
    """Pass after pass up to a wall time; what was said, and how many seconds before the pause."""
    while desk.clock.now() < wall:
        watch.run_once()
        desk.clock.advance(min(PASS_S, wall - desk.clock.now()))
    watch.run_once()
    return [(said.event, said.in_s) for said in desk.take()]


def test_a_pause_is_announced_four_times_ahead_and_when_it_begins_and_ends(desk: Desk) -> None:
    watch = watch_of(desk)
    assert run_until(desk, watch, THURSDAY + 8_000) == [
        (PauseEvent.AHEAD, 86_400),
        (PauseEvent.AHEAD, 7_200),
        (PauseEvent.AHEAD, 1_800),
        (PauseEvent.AHEAD, 300),
        (PauseEvent.BEGAN, 0),
        (PauseEvent.OVER, -7_200),
    ]
    following = watch.next_pause()
    assert following is not None
    assert following.start == THURSDAY + 7 * 86_400
    desk.clock.advance(following.start - desk.clock.now() - 86_400)
    watch.run_once()
    assert [(said.pause, said.in_s) for said in desk.take()] == [(following, 86_400)]


@pytest.mark.parametrize(
    ("seconds_before", "first"),
    [
        (90_000, None),
        (50_000, (PauseEvent.AHEAD, 50_000)),
        (1_801, (PauseEvent.AHEAD, 1_801)),
        (200, (PauseEvent.AHEAD, 200)),
        (-60, (PauseEvent.BEGAN, -60)),
    ],
    ids=["more than a day before", "within the last day", "within two hours", "at the last moment", "in it"],
)
def test_a_start_in_between_says_the_nearest_one_only(
    desk: Desk, seconds_before: float, first: tuple[PauseEvent, float] | None
) -> None:
    desk.clock = FakeClock(now=THURSDAY - seconds_before)
    watch = watch_of(desk)
    watch.run_once()
    watch.run_once()
    assert [(said.event, said.in_s) for said in desk.take()] == ([] if first is None else [first])


def test_it_says_what_is_held_the_largest_first(desk: Desk) -> None:
    desk.clock = FakeClock(now=THURSDAY - 7_000)
    desk.held = (*HELD, *((f"KX{n}", Decimal(1)) for n in range(20)))
    watch_of(desk).run_once()
    (said,) = desk.take()
    assert said.pause == WEEKLY
    fields = said.fields
    assert (fields["starts_at"], fields["ends_at"]) == (
        "2026-10-22T03:00:00-04:00",
        "2026-10-22T05:00:00-04:00",
    )
    assert (fields["in_s"], fields["why"]) == (7_000, PauseWhy.WEEKLY)
    assert (fields["positions"], fields["exposed_dollars"]) == (23, Decimal("188.50"))
    assert fields["tickers"] == ["KXC", "KXA", "KXB", "KX0", "KX1", "KX10", "KX11", "KX12", "KX13", "KX14"]
    assert fields["remedy"]


@pytest.mark.parametrize(
    ("wall", "held", "is_warning"),
    [
        (THURSDAY - 86_400, HELD, False),
        (THURSDAY - 7_200, HELD, True),
        (THURSDAY - 300, HELD, True),
        (THURSDAY, HELD, True),
        (THURSDAY - 300, (), False),
        (THURSDAY, (), False),
    ],
    ids=["a day before", "two hours before", "at the last moment", "as it begins", "nothing held",
         "nothing held as it begins"],
)  # fmt: skip
def test_it_is_a_warning_when_somebody_should_act(
    desk: Desk, wall: float, held: tuple[tuple[str, Decimal], ...], is_warning: bool
) -> None:
    desk.clock, desk.held = FakeClock(now=wall), held
    watch_of(desk).run_once()
    (said,) = desk.take()
    assert said.is_warning is is_warning
    assert said.fields["exposed_dollars"] == sum(dollars for _, dollars in held)


def test_the_end_of_a_pause_is_no_warning(desk: Desk) -> None:
    desk.clock = FakeClock(now=THURSDAY)
    watch = watch_of(desk)
    assert [event for event, _ in run_until(desk, watch, THURSDAY + 7_300)] == [
        PauseEvent.BEGAN,
        PauseEvent.OVER,
    ]
    desk.clock = FakeClock(now=THURSDAY)
    watch = watch_of(desk)
    watch.run_once()
    desk.clock.advance(7_200)
    watch.run_once()
    assert [said.is_warning for said in desk.take()] == [True, False]


def test_the_schedule_is_read_at_the_start_and_every_hour(desk: Desk) -> None:
    watch = watch_of(desk)
    watch.run_once()
    assert desk.reads == 1
    assert watch.doubts() == ()
    desk.clock.advance(READ_S - 1)
    watch.run_once()
    assert desk.reads == 1
    desk.clock.advance(1)
    watch.run_once()
    assert desk.reads == 2


def test_a_window_that_is_announced_later_is_said_at_once(desk: Desk) -> None:
    desk.clock = FakeClock(now=et("2026-10-20 20:00"))
    desk.answers = [NOTHING, maintenance("2026-10-20 22:00", "2026-10-21 00:30")]
    watch = watch_of(desk)
    watch.run_once()
    assert desk.take() == []
    desk.clock.advance(READ_S)
    watch.run_once()
    (said,) = desk.take()
    assert said.pause == Pause(et("2026-10-20 22:00"), et("2026-10-21 00:30"), PauseWhy.MAINTENANCE)
    assert (said.event, said.in_s) == (PauseEvent.AHEAD, 3_600)


def test_a_pause_that_will_last_longer_is_announced_anew(desk: Desk) -> None:
    desk.clock = FakeClock(now=THURSDAY - 3_600)
    desk.answers = [NOTHING, maintenance("2026-10-22 04:30", "2026-10-22 07:00"),
                    maintenance("2026-10-22 04:30", "2026-10-22 08:00")]  # fmt: skip
    watch = watch_of(desk)
    watch.run_once()
    desk.clock.advance(READ_S)
    watch.run_once()
    desk.clock.advance(READ_S)
    watch.run_once()
    watch.run_once()
    assert [(said.event, said.pause.end - THURSDAY) for said in desk.take()] == [
        (PauseEvent.AHEAD, 7_200),
        (PauseEvent.BEGAN, 14_400),
        (PauseEvent.BEGAN, 18_000),
    ]
    assert [event for event, _ in run_until(desk, watch, THURSDAY + 18_100)] == [PauseEvent.OVER]


def test_the_weekly_pause_is_announced_although_no_schedule_can_be_read(desk: Desk) -> None:
    desk.clock = FakeClock(now=THURSDAY - 1_000)
    desk.answers = [TransientError("503")]
    watch = watch_of(desk)
    assert watch.next_pause() == WEEKLY
    assert watch.doubts()
    watch.run_once()
    assert [said.event for said in desk.take()] == [PauseEvent.AHEAD]
    (doubt,) = watch.doubts()
    assert "503" in doubt


def test_a_read_that_failed_is_tried_again_and_takes_nothing_away(desk: Desk) -> None:
    window = maintenance("2026-10-21 22:00", "2026-10-21 23:00")
    desk.answers = [window, TransientError("503"), NOTHING]
    watch = watch_of(desk)
    watch.run_once()
    known = watch.next_pause()
    desk.clock.advance(READ_S)
    watch.run_once()
    assert watch.next_pause() == known
    assert known is not None
    assert known.why is PauseWhy.MAINTENANCE
    assert watch.doubts()
    watch.run_once()
    assert desk.reads == 2, "not at once"
    desk.clock.advance(RETRY_S)
    watch.run_once()
    assert (desk.reads, watch.doubts()) == (3, ())
    assert watch.next_pause() == WEEKLY


def test_a_defect_in_the_read_silences_no_announcement(desk: Desk) -> None:
    desk.clock = FakeClock(now=THURSDAY - 1_000)
    desk.answers = [ZeroDivisionError("a defect")]
    watch = watch_of(desk)
    assert not watch.service.run_guarded()
    assert [said.event for said in desk.take()] == [PauseEvent.AHEAD]


def test_what_could_not_be_said_is_said_by_the_next_pass(desk: Desk) -> None:
    desk.clock = FakeClock(now=THURSDAY - 1_000)
    watch = watch_of(desk)
    for event in (PauseEvent.AHEAD, PauseEvent.BEGAN, PauseEvent.OVER):
        desk.broken = True
        assert not watch.service.run_guarded()
        desk.broken = False
        assert watch.service.run_guarded()
        assert [said.event for said in desk.take()] == [event]
        desk.clock.advance(1_000 if event is PauseEvent.AHEAD else 7_200)


def test_a_machine_that_slept_through_a_pause_says_nothing_of_it(desk: Desk) -> None:
    desk.clock = FakeClock(now=THURSDAY - 200)
    watch = watch_of(desk)
    watch.run_once()
    desk.take()
    desk.clock.advance(20_000)
    watch.run_once()
    assert desk.take() == []


def test_the_local_exchange_has_no_weekly_pause(desk: Desk) -> None:
    desk.clock = FakeClock(now=THURSDAY + 60)
    watch = watch_of(desk, has_weekly=False)
    watch.run_once()
    assert watch.next_pause() is None
    assert desk.take() == []


def test_hours_that_cannot_be_read_are_a_doubt(desk: Desk) -> None:
    day = (("eight", "20:00"),)
    desk.answers = [ExchangeSchedule((WeeklyHours(0.0, 9e9, (day,) * 7),))]
    watch = watch_of(desk)
    watch.run_once()
    (doubt,) = watch.doubts()
    assert "Mon eight-20:00" in doubt


def test_a_machine_without_zone_data_still_knows_the_weekly_pause(desk: Desk) -> None:
    def load(name: str) -> tzinfo:
        raise ZoneInfoNotFoundError(name)

    desk.clock = FakeClock(now=THURSDAY - 1_000)
    watch = PauseWatch(desk.read, desk.exposed, desk.clock, announce=desk.said.append, load_zone=load)
    watch.run_once()
    watch.run_once()
    (said,) = desk.take()
    assert said.pause == watch.next_pause() == WEEKLY
    assert said.fields["starts_at"] == "2026-10-22T03:00:00-04:00"
    (doubt,) = watch.doubts()
    assert "zone data" in doubt


def test_it_goes_by_the_zone_that_was_found(desk: Desk) -> None:
    watch = PauseWatch(desk.read, desk.exposed, desk.clock, load_zone=lambda name: UTC)
    found = watch.next_pause()
    assert found is not None
    assert datetime.fromtimestamp(found.start, UTC).isoformat() == "2026-10-22T03:00:00+00:00"


def test_without_anything_else_said_it_is_logged(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.clock = FakeClock(now=THURSDAY - 1_000)
    PauseWatch(desk.read, desk.exposed, desk.clock).run_once()
    (record,) = [r for r in caplog.records if r.name == "base.app.pauses"]
    assert record.levelname == "WARNING"
    assert record.event_fields["event"] == "pause_ahead"  # type: ignore[attr-defined]


def test_nothing_is_announced_before_it_is_known_what_is_exposed(desk: Desk) -> None:
    desk.clock = FakeClock(now=THURSDAY - 200)
    desk.is_known = False
    watch = watch_of(desk)
    watch.run_once()
    assert desk.take() == []
    desk.is_known = True
    watch.run_once()
    (said,) = desk.take()
    assert (said.event, len(said.held)) == (PauseEvent.AHEAD, 3)
