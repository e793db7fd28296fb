"""When the key's location attestation ends: after it, some categories of markets refuse orders, exits too.

The exchange tells it with the list of keys; it is read at the start and every few hours. It is no doubt of
`/healthz`: an answer that does not come says nothing about any position.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from base.app.services import PeriodicService
from base.clock import Clock
from base.errors import BotError
from base.kalshi.account_documents import ApiKeys
from base.log import log_event

logger = logging.getLogger(__name__)

READ_S = 6 * 3_600.0
RETRY_S = 600.0


class KeyWatch:
    """`service` is the thread `key-watch`."""

    def __init__(self, read_keys: Callable[[], ApiKeys], clock: Clock) -> None:
        self._read_keys = read_keys
        self.service = PeriodicService("key-watch", READ_S, self.run_once, clock)
        self._is_unread = False  # and that was said; owned by the thread
        self._lock = threading.Lock()  # guards the field below; never held during I/O
        self._ends_at: float | None = None

    def ends_at(self) -> float | None:
        """Wall time, None while it is not known or nothing was ever attested."""
        with self._lock:
            return self._ends_at

    def run_once(self) -> float | None:
        try:
            ends_at = self._read_keys().region_expiration_ts
        except BotError as exc:
            if not self._is_unread:
                log_event(logger, logging.INFO, "keys_unread", why=exc, retry_s=RETRY_S)
            self._is_unread = True
            return RETRY_S
        self._is_unread = False
        with self._lock:
            self._ends_at = None if ends_at is None else float(ends_at)
        return None
