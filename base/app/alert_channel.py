"""One alert channel: a worker thread that may hang, and the bookkeeping of what it has been given.

The thread `alerts` hands a channel one parcel at a time and never waits for it.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from base.app.alert_outbox import Outbox, Parcel
from base.app.alert_rules import Sender, render
from base.app.logging_setup import redact
from base.clock import Clock
from base.log import RepeatedWarnings, log_event

logger = logging.getLogger(__name__)

SEND_S_MAX = 10.0
FAILURES_LOGGED_EVERY_S = 6 * 3_600.0


class Notifier(Protocol):
    """One way out; `send` may take for ever, and returns why it failed, "" when it did not."""

    name: str
    """Shown in the log and in the status: no secret."""
    gap_s: float
    """How far apart its service wants messages."""

    def send(self, title: str, text: str, *, is_urgent: bool, is_good: bool) -> str: ...


@dataclass(frozen=True, slots=True)
class Counts:
    """What has become of a channel's messages; `waiting` leaves out what is under way."""

    sent: int = 0
    failed: int = 0
    dropped: int = 0
    waiting: int = 0
    is_hanging: bool = False
    last_error: str = ""


class Channel:
    """One notifier, its waiting messages, and its worker. All but `counts` belongs to the thread `alerts`."""

    def __init__(
        self, notifier: Notifier, sender: Sender, clock: Clock, finished: Callable[[], None]
    ) -> None:
        self.name = notifier.name
        self._notifier = notifier
        self._sender = sender
        self._clock = clock
        self._finished = finished
        self._outbox = Outbox(notifier.gap_s)
        self._work: queue.SimpleQueue[Parcel] = queue.SimpleQueue()  # one at most: see `step`
        self._results: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._under_way: tuple[Parcel, float] | None = None
        self._is_hanging = False
        self._failed_in_a_row = 0
        self._sent = self._failed = 0
        self._last_error = ""
        self._warnings = RepeatedWarnings(FAILURES_LOGGED_EVERY_S)
        self._worker = threading.Thread(target=self._run, name=f"alert-{self.name}", daemon=True)
        self._lock = threading.Lock()  # guards the field below
        self._counts = Counts()

    @property
    def counts(self) -> Counts:
        with self._lock:
            return self._counts

    def status(self) -> dict[str, Any]:
        """For `/api/status`: no secret in it."""
        counts = self.counts
        return {
            "name": self.name,
            "sent": counts.sent,
            "failed": counts.failed,
            "dropped": counts.dropped,
            "waiting": counts.waiting,
            "hanging": counts.is_hanging,
            "last_error": counts.last_error,
        }

    @property
    def is_empty(self) -> bool:
        """Nothing waits and nothing is under way."""
        return not self._outbox and self._under_way is None

    @property
    def outbox(self) -> Outbox:
        return self._outbox

    def start(self) -> None:
        self._worker.start()

    def step(self, now: float, *, at_once: bool = False) -> None:
        """Take in how the last sending ended, and hand over the next one; never waits."""
        if self._under_way is not None:
            self._take_result(now)
        if self._under_way is None:
            parcel = self._outbox.next(now, at_once=at_once)
            if parcel is not None:
                self._under_way = (parcel, now)
                self._work.put(parcel)
        with self._lock:
            self._counts = Counts(
                self._sent,
                self._failed,
                self._outbox.dropped,
                len(self._outbox),
                self._is_hanging,
                self._last_error,
            )

    def _take_result(self, now: float) -> None:
        assert self._under_way is not None
        parcel, since = self._under_way
        try:
            why = self._results.get_nowait()
        except queue.Empty:
            if now - since > SEND_S_MAX and not self._is_hanging:
                self._is_hanging = True
                self._note_failure(f"no answer for {SEND_S_MAX:.0f} s", now)
            return
        self._under_way = None
        was_hanging, self._is_hanging = self._is_hanging, False
        if why:
            if not was_hanging:  # it has been counted already
                self._note_failure(why, now)
            self._outbox.failed(parcel, now)
            return
        self._sent += len(parcel.messages)
        self._outbox.sent(now)
        if self._failed_in_a_row:
            log_event(
                logger,
                logging.INFO,
                "alert_channel_works",
                channel=self.name,
                after_failures=self._failed_in_a_row,
            )
        self._failed_in_a_row = 0

    def _note_failure(self, why: str, now: float) -> None:
        self._failed += 1
        self._failed_in_a_row += 1
        self._last_error = why
        held_back = self._warnings.allow(self.name, now)
        if held_back is not None:
            log_event(
                logger,
                logging.WARNING,
                "alert_channel_failed",
                channel=self.name,
                why=why,
                waiting=len(self._outbox) + 1,
                also_since_last=held_back,
                remedy="protection goes on; check this channel's URL and service",
            )

    def _run(self) -> None:
        """The worker: what is sent belongs to it until its result is there."""
        while True:
            parcel = self._work.get()
            try:
                title, text = render(parcel.messages, parcel.dropped, self._sender)
                why = self._notifier.send(
                    redact(title), redact(text), is_urgent=parcel.is_urgent, is_good=parcel.is_good
                )
            except Exception as exc:  # safety net: whatever the library raises, the next message is tried
                why = f"{type(exc).__name__}: {exc}"
            self._results.put(redact(why))
            self._finished()
