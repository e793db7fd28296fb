"""Named threads: start / stop / join, a pass that tests call directly, and when it was last completed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from base.clock import Clock
from base.errors import BotError
from base.log import log_event

logger = logging.getLogger(__name__)

FAILURES_LOGGED_EVERY_S = 60.0
RETRY_S_INITIAL = 1.0


class PeriodicService:
    """Calls `run_once` every `interval_s`, sooner when woken, never more often than `spacing_s`.

    An exception ends the pass, not the thread: it is logged (with a traceback at most once a minute)
    and counted, the pass does not count as completed, and the next one comes after 1, 2, 4, … s instead
    of a whole interval. A pass may return after how many seconds it wants the next one.
    """

    def __init__(
        self,
        name: str,
        interval_s: float,
        run_once: Callable[[], float | None],
        clock: Clock,
        spacing_s: float = 0.0,
    ) -> None:
        self.name = name
        self.interval_s = interval_s
        self._run_once = run_once
        self._clock = clock
        self._spacing_s = spacing_s
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  # guards the fields below
        self._last_pass_at: float | None = None
        self._last_end_at: float | None = None
        self._began_at: float | None = None  # of the pass under way
        self._passes = 0
        self._failures = 0
        self._failed_in_a_row = 0
        self._wanted_in_s: float | None = None
        self._last_logged_at: float | None = None

    def start(self) -> None:
        """Start the thread, or a new one where the last has died."""
        thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        thread.start()
        self._thread = thread  # only then: a stop that comes just now must not join what has not started

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; return whether it has ended."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self.is_alive

    def wake(self) -> None:
        """Ask for a pass now."""
        self._wake.set()

    @property
    def is_wanted(self) -> bool:
        """Whether a pass has been asked for that has not begun."""
        return self._wake.is_set()

    @property
    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def last_pass_at(self) -> float | None:
        """Monotonic time at which the last pass was completed, None before the first."""
        with self._lock:
            return self._last_pass_at

    @property
    def last_end_at(self) -> float | None:
        """Likewise, completed or not: what fails because the world is down is alive all the same."""
        with self._lock:
            return self._last_end_at

    @property
    def passes(self) -> int:
        """Completed passes so far."""
        with self._lock:
            return self._passes

    @property
    def failures(self) -> int:
        with self._lock:
            return self._failures

    def running_s(self) -> float:
        """How long the pass under way has taken so far; 0 between passes."""
        with self._lock:
            began_at = self._began_at
        return 0.0 if began_at is None else self._clock.monotonic() - began_at

    def run_guarded(self) -> bool:
        """One pass; return whether it was completed."""
        with self._lock:
            self._began_at = self._clock.monotonic()
        try:
            return self._pass()
        finally:
            with self._lock:
                self._began_at = None

    def _pass(self) -> bool:
        try:
            wanted_in_s = self._run_once()
        except Exception as exc:  # safety net: the next pass must come
            now = self._clock.monotonic()
            with self._lock:
                self._failures += 1
                self._last_end_at = now
                self._failed_in_a_row += 1
                is_due = self._last_logged_at is None or now - self._last_logged_at >= FAILURES_LOGGED_EVERY_S
                if is_due:
                    self._last_logged_at = now
            if is_due and isinstance(exc, BotError):  # the world's trouble: its words say what to do
                log_event(logger, logging.ERROR, "pass_failed", pass_of=self.name, why=exc)
            elif is_due:
                log_event(logger, logging.ERROR, "pass_failed", exc_info=True, pass_of=self.name)
            return False
        with self._lock:
            self._last_pass_at = self._last_end_at = self._clock.monotonic()
            self._passes += 1
            self._failed_in_a_row = 0
            self._wanted_in_s = wanted_in_s
        return True

    def next_delay_s(self) -> float:
        """Seconds from the start of the last pass to the start of the next."""
        with self._lock:
            if self._failed_in_a_row:
                return min(self.interval_s, RETRY_S_INITIAL * 2.0 ** min(self._failed_in_a_row - 1, 20))
            if self._wanted_in_s is not None:
                return min(self.interval_s, self._wanted_in_s)
            return self.interval_s

    def _run(self) -> None:
        while not self._stop.is_set():
            started = self._clock.monotonic()
            self._wake.clear()
            self.run_guarded()
            self._clock.wait(self._stop, min(self._spacing_s, self.interval_s))
            if not self._stop.is_set():
                self._clock.wait(self._wake, self.next_delay_s() - (self._clock.monotonic() - started))
