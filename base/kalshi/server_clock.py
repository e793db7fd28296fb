"""Wall time as the exchange sees it, for signatures.

The exchange refuses a signature whose timestamp is too far off (somewhere between 10 and 30 s; the window
is undocumented and measurements disagree). The offset found in its `Date` headers is only remembered, and
applied when the exchange says that a timestamp was out of its window: a wrong `Date` of some proxy must
not break signatures that work.
"""

from __future__ import annotations

import threading
from datetime import UTC
from email.utils import parsedate_to_datetime

from base.clock import Clock

OFFSET_CHANGE_S_MIN = 1.0
"""A `Date` header has a resolution of one second; smaller changes mean nothing."""


class ServerClock:
    """The wall clock plus an offset learned from the exchange. Any thread may use it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards the fields below; never held during I/O
        self._offset_s = 0.0
        self._observed_offset_s: float | None = None

    def now_ms(self) -> int:
        """Milliseconds since the epoch to sign with."""
        return round((self._clock.now() + self.offset_s) * 1000)

    @property
    def offset_s(self) -> float:
        """The offset in force: the exchange's time minus ours."""
        with self._lock:
            return self._offset_s

    @property
    def observed_offset_s(self) -> float | None:
        """The newest offset seen (to within a second), None before the first response."""
        with self._lock:
            return self._observed_offset_s

    def observe_date(self, date_header: str | None) -> float | None:
        """Remember what a response's `Date` says; call it as soon as the response arrives.

        Returns the offset that this one shows, None when it shows none.
        """
        if not date_header:
            return None
        try:
            moment = parsedate_to_datetime(date_header)
            if moment.tzinfo is None:  # "-0000": UTC without a statement about the zone
                moment = moment.replace(tzinfo=UTC)
            seconds = moment.timestamp()
        except (ValueError, OverflowError):
            return None  # not a date: as good as no header
        # The header names a whole second: its middle is wrong by half a second at most.
        offset_s = seconds + 0.5 - self._clock.now()
        with self._lock:
            self._observed_offset_s = offset_s
        return offset_s

    def apply_observed(self) -> bool:
        """Sign with the newest observed offset from now on; return whether that changes more than a second.

        Call it when the exchange answers `header_timestamp_expired`.
        """
        with self._lock:
            if self._observed_offset_s is None:
                return False
            changed = abs(self._observed_offset_s - self._offset_s) > OFFSET_CHANGE_S_MIN
            if changed:
                self._offset_s = self._observed_offset_s
            return changed
