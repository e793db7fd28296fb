"""Time, handed in so that tests never sleep.

Durations use `monotonic()`; wall time (`now()`) is for signing, logs, records and the exchange's own
timestamps only.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """What every component that needs time is given."""

    def now(self) -> float:
        """Wall time, seconds since the epoch (UTC)."""

    def monotonic(self) -> float:
        """Seconds of a clock that never steps back; only differences mean anything."""

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Wait until `event` is set or `timeout_s` has passed; return whether it is set."""


class SystemClock:
    """The real clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        return event.wait(max(0.0, timeout_s))
