"""The dead man's switch: a URL that is called while, and only while, the daemon can vouch for everything.

Alerts tell what the daemon sees; this tells that there is nobody left who sees: the service behind the URL
raises the alarm when the calls stop. So no call is made up for, and none is made on a doubt of `/healthz`:
a position that is unprotected or a thread that has not completed its pass withholds it, and so does a weekly
pause while something is held. The strategy's thread is one of them, although protection does not wait for it:
one that never returns, or fails, withholds it too.
"""

from __future__ import annotations

import http.client
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from base.app.logging_setup import redact, register_secret
from base.app.services import PeriodicService
from base.clock import Clock
from base.kalshi.transport import BoundedSocket, Deadline, tls_context
from base.log import RepeatedWarnings, log_event

logger = logging.getLogger(__name__)

CALL_S_MAX = 10.0
RETRY_S = 10.0
STARTING_S = 10.0
"""So long after the start it is not worth a warning that not all is well yet."""
STARTING_RETRY_S = 1.0
WARNED_EVERY_S = 3_600.0
REASONS_SHOWN = 3


class DeadMan:
    """Calls `url` every `interval_s` while `document()` says that all is well. `service` is its thread.

    A call that hangs or fails delays nobody: only this thread waits for it, `CALL_S_MAX` at most.
    """

    def __init__(
        self,
        url: str,
        interval_s: float,
        document: Callable[[], Mapping[str, Any]],
        clock: Clock,
        call: Callable[[str, Clock], None] | None = None,
    ) -> None:
        self._url = url
        self._interval_s = interval_s
        self._document = document
        self._clock = clock
        self._made_at = clock.monotonic()
        self._call = call or get
        self._warnings = RepeatedWarnings(WARNED_EVERY_S)
        self._is_withheld = False
        self._is_failing = False
        self.service = PeriodicService("dead-man", interval_s, self.run_once, clock)
        self._lock = threading.Lock()  # guards the fields below; never held during I/O
        self._calls = self._failures = 0
        self._last_call_at: float | None = None
        self._last_error = ""
        register_secret(url)

    @property
    def is_on(self) -> bool:
        return bool(self._url)

    def start(self) -> None:
        if self.is_on:
            self.service.start()

    def run_once(self) -> float | None:
        """Call when all is well; return after how many seconds to look again."""
        health = self._document().get("health")
        is_well = isinstance(health, Mapping) and health.get("ok") is True
        if not is_well and self._clock.monotonic() - self._made_at < STARTING_S:
            return min(STARTING_RETRY_S, self._interval_s)
        if not is_well:
            reasons = list(health.get("reasons") or ())[:REASONS_SHOWN] if isinstance(health, Mapping) else []
            self._note_withheld("; ".join(map(str, reasons)) or "the health is not known yet")
            return min(RETRY_S, self._interval_s)
        if self._is_withheld:
            self._is_withheld = False
            log_event(logger, logging.INFO, "dead_man_resumed")
        try:
            self._call(self._url, self._clock)
        except (OSError, http.client.HTTPException) as exc:
            self._note_failure(without_url(exc, self._url))
            return min(RETRY_S, self._interval_s)
        with self._lock:
            self._calls += 1
            self._last_call_at = self._clock.monotonic()
            self._last_error = ""
        if self._is_failing:
            self._is_failing = False
            log_event(logger, logging.INFO, "dead_man_reached")
        return None

    def status(self) -> dict[str, Any]:
        """For `/api/status`: no secret in it."""
        now = self._clock.monotonic()
        with self._lock:
            last = self._last_call_at
            return {
                "on": self.is_on,
                "calls": self._calls,
                "failures": self._failures,
                "last_call_age_s": None if last is None else round(now - last, 1),
                "last_error": self._last_error,
            }

    def _note_withheld(self, why: str) -> None:
        if not self._is_withheld:
            log_event(logger, logging.WARNING, "dead_man_withheld", why=why)
        self._is_withheld = True

    def _note_failure(self, why: str) -> None:
        with self._lock:
            self._failures += 1
            self._last_error = why
        self._is_failing = True
        held_back = self._warnings.allow("call", self._clock.monotonic())
        if held_back is not None:
            log_event(
                logger,
                logging.WARNING,
                "dead_man_unreached",
                why=why,
                also_since_last=held_back,
                remedy="protection goes on; the service will raise its alarm: check DEADMAN_URL",
            )


def get(url: str, clock: Clock) -> None:
    """One GET within `CALL_S_MAX`; a redirect is not followed. Raises OSError or HTTPException.

    Looking the name up is the system's, and has its own time-out.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None, "checked with the configuration"
    is_tls = parts.scheme == "https"
    deadline = Deadline(clock)
    deadline.start(CALL_S_MAX)
    port = parts.port or (443 if is_tls else 80)
    with socket.create_connection((parts.hostname, port), timeout=deadline.require_s()) as plain:
        plain.settimeout(deadline.require_s())
        sock = tls_context().wrap_socket(plain, server_hostname=parts.hostname) if is_tls else plain
        with sock:
            connection = http.client.HTTPConnection(parts.hostname, port)
            connection.sock = BoundedSocket(sock, deadline)
            headers = {"Host": _host_header(parts), "User-Agent": "backstop", "Connection": "close"}
            connection.request("GET", _target(parts), headers=headers)
            with connection.getresponse() as answer:
                if not 200 <= answer.status < 300:
                    raise OSError(f"HTTP status {answer.status}")


def _host_header(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _target(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def without_url(exc: Exception, url: str) -> str:
    """What went wrong, without the secret part of the URL."""
    text = f"{type(exc).__name__}: {exc}".replace(url, "DEADMAN_URL")
    target = _target(urlsplit(url))
    return redact(text.replace(target, "…") if len(target) > 1 else text)
