"""The thread `balance`: the money in the account, for strategies and the paper account."""

from __future__ import annotations

import threading
from collections.abc import Callable
from decimal import Decimal

from base.app.services import PeriodicService
from base.clock import Clock

READ_EVERY_S = 30.0
SPACING_S = 5.0
"""Trades ask for a fresh read; the exchange allows one a second, for all who read it."""
OLD_AFTER_S = 120.0


class BalanceReads:
    """`read` returns the dollars available now and raises BotError where it cannot."""

    def __init__(self, read: Callable[[], Decimal], clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()  # guards the fields below; never held during a read
        self._available: Decimal | None = None
        self._read_at = 0.0
        self.service = PeriodicService("balance", READ_EVERY_S, self.run_once, clock, spacing_s=SPACING_S)

    def run_once(self) -> None:
        asked_at = self._clock.monotonic()
        available = self._read()
        with self._lock:
            self._available, self._read_at = available, asked_at

    def available(self) -> Decimal | None:
        """Dollars available, None while they are not known or were read too long ago."""
        now = self._clock.monotonic()
        with self._lock:
            return self._available if now - self._read_at <= OLD_AFTER_S else None
