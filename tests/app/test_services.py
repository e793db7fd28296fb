"""Passes, failures, wake-ups and the end of a periodic thread."""

from __future__ import annotations

import itertools
import threading

from base.app.services import PeriodicService
from base.clock import SystemClock
from tests.fakes.clock import FakeClock


def test_a_pass_counts_only_when_it_was_completed() -> None:
    clock = FakeClock()
    fails = [True, False]

    def run() -> None:
        if fails.pop(0):
            raise ZeroDivisionError("one bad pass")

    service = PeriodicService("s", 1.0, run, clock)
    assert not service.run_guarded()
    assert service.last_pass_at is None
    assert service.failures == 1
    assert service.run_guarded()
    assert service.last_pass_at == clock.monotonic()


def test_how_long_a_pass_has_been_under_way_is_told_until_it_ends_however_it_ends() -> None:
    clock = FakeClock()
    seen: list[float] = []

    def run() -> None:
        clock.advance(7.0)
        seen.append(service.running_s())
        if len(seen) == 2:
            raise ZeroDivisionError("one bad pass")

    service = PeriodicService("s", 1.0, run, clock)
    for _ in range(2):
        service.run_guarded()
        assert service.running_s() == 0
    assert seen == [7.0, 7.0]


def test_the_thread_survives_a_bad_pass_wakes_when_asked_and_stops() -> None:
    passes: list[threading.Event] = [threading.Event() for _ in range(3)]
    done = iter(passes)

    def run() -> None:
        event = next(done)
        event.set()
        if event is passes[0]:
            raise ZeroDivisionError("the first pass")

    service = PeriodicService("s", 3_600.0, run, SystemClock())
    service.start()
    assert passes[0].wait(5)
    assert not passes[1].is_set(), "it waits for its interval"
    service.wake()
    assert passes[1].wait(5)
    assert service.is_alive
    service.stop()
    assert service.join(5)
    assert not passes[2].is_set()


def test_wake_ups_within_the_spacing_become_one_pass() -> None:
    """With a clock that tells how long the thread wanted to wait."""
    waits: list[float] = []
    clock = FakeClock()
    service: PeriodicService

    class Recording(FakeClock):
        def wait(self, event: threading.Event, timeout_s: float) -> bool:
            waits.append(timeout_s)
            return super().wait(event, timeout_s)

    clock = Recording()
    passes = []

    def run() -> None:
        passes.append(clock.monotonic())
        service.wake()  # somebody asks again while the pass is under way
        if len(passes) == 3:
            service.stop()

    service = PeriodicService("s", 30.0, run, clock, spacing_s=2.0)
    service.start()
    assert service.join(5)
    assert [b - a for a, b in itertools.pairwise(passes)] == [2.0, 2.0]
    assert waits[0] == 2.0


def test_a_failed_pass_is_tried_again_soon_and_less_and_less() -> None:
    outcomes: list[float | Exception | None] = [ZeroDivisionError()] * 6 + [None, 5.0, 90.0]

    def run() -> float | None:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    service = PeriodicService("s", 30.0, run, FakeClock())
    assert service.next_delay_s() == 30
    delays = []
    for _ in range(9):
        service.run_guarded()
        delays.append(service.next_delay_s())
    assert delays == [1, 2, 4, 8, 16, 30, 30, 5, 30]
