"""The error tree; each class is named by what to do about it.

BotError
├── ConfigError            fix the configuration and start again (exit code 2)
├── AlreadyRunningError    another instance holds this key's lock (exit code 3)
├── WireError              the exchange sent something that cannot be proved right: drop it, count it
├── TransientError         the exchange could not be reached or answered 429/5xx to a read: retry later
│   └── RateLimitedError   429: back off this lane
├── RequestRejected        the exchange understood and refused: do not repeat the same request
│   ├── AuthError          401/403: the key, the clock or the scope is wrong
│   └── OrderRejected      an order was refused for good; `code` says why
├── OrderOutcomeUnknown    the order may or may not have acted: find it by client order id, then decide
└── InvariantError         only a bug gets here: stop before more is broken
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How the program ends, for the shell and for systemd."""

    OK = 0
    """Stopped as asked, or nothing wrong."""
    CONFIG = 2
    """The configuration or the command line is wrong."""
    ALREADY_RUNNING = 3
    """Another instance holds the lock of the same key."""
    UNSAFE = 4
    """It could not keep running safely."""
    FAILED = 5
    """A command's check or action failed."""


class BotError(Exception):
    """Base of everything that this program raises on purpose."""


class ConfigError(BotError):
    """The configuration is wrong. Carries every problem found, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class AlreadyRunningError(BotError):
    """Another instance holds the lock of the same API key."""


class WireError(BotError):
    """A message or response that does not say what the protocol promises."""


class TransientError(BotError):
    """The request may be repeated later; nothing was changed by it."""


class RateLimitedError(TransientError):
    """HTTP 429. Kalshi sends no Retry-After; the lane backs off by itself."""


class RequestRejected(BotError):
    """The exchange refused the request.

    `status` is the HTTP status, `code` the exchange's error code ("" when it sent none).
    """

    def __init__(self, message: str, *, status: int, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class AuthError(RequestRejected):
    """401 or 403: bad key, bad signature, skewed clock or missing scope."""


class OrderRejected(RequestRejected):
    """A definite refusal of an order: it did not act and will not."""


class OrderOutcomeUnknown(BotError):
    """Time-out, reset or 5xx after an order may have left: it may have acted."""


class InvariantError(BotError):
    """A condition that only a bug can break."""
