"""What one alert channel still has to send, and when it may. Pure.

A channel sends at most `SENT_MAX` messages in `WINDOW_S`, the last `RESERVED` of them urgent ones only; what
cannot go out by itself is summed up in one. What was not delivered stays and is tried again, later each
time. Nothing is kept without bound: what is least urgent and oldest is dropped, counted and said.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from base.app.alert_rules import Message

SENT_MAX = 20
WINDOW_S = 600.0
RESERVED = 5
"""Of `SENT_MAX`, those that only urgent messages may use."""
KEPT_MAX = 100
TOGETHER_FROM = 5
"""So many messages that wait are sent as one."""
RETRY_S_INITIAL = 5.0
RETRY_S_MAX = 300.0


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is sent at once; `dropped` is how many messages were given up since the last one."""

    messages: tuple[Message, ...]
    dropped: int

    @property
    def is_urgent(self) -> bool:
        return any(message.is_urgent for message in self.messages)

    @property
    def is_good(self) -> bool:
        return all(message.is_good for message in self.messages)


class Outbox:
    """The waiting messages of one channel, `gap_s` apart at least. Owned by one thread; times monotonic."""

    def __init__(self, gap_s: float = 0.0) -> None:
        self._gap_s = gap_s
        self._waiting: list[Message] = []
        self._sent_at: deque[float] = deque(maxlen=SENT_MAX)
        self._not_before = float("-inf")
        self._failures = 0
        self._unsaid_drops = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: Message) -> None:
        self._waiting.append(message)
        self._bound()

    def next(self, now: float, *, at_once: bool = False) -> Parcel | None:
        """What to send now, None while nothing may go; its fate is told to `sent` or `failed`.

        `at_once` is for the end: everything in one, whatever was sent before.
        """
        if not self._waiting or (now < self._not_before and not at_once):
            return None
        used = sum(now - at < WINDOW_S for at in self._sent_at)
        is_urgent = any(message.is_urgent for message in self._waiting)
        free = SENT_MAX - used - (0 if is_urgent else RESERVED)
        if free <= 0 and not at_once:
            return None
        self._waiting.sort(key=lambda message: not message.is_urgent)
        # With little room left, everything goes in one.
        all_together = at_once or len(self._waiting) >= min(TOGETHER_FROM, max(free, 1))
        taken = len(self._waiting) if all_together else 1
        parcel = Parcel(tuple(self._waiting[:taken]), self._unsaid_drops)
        del self._waiting[:taken]
        self._unsaid_drops = 0
        return parcel

    def sent(self, now: float) -> None:
        """The parcel has arrived."""
        self._sent_at.append(now)
        self._failures = 0
        self._not_before = now + self._gap_s

    def failed(self, parcel: Parcel, now: float) -> None:
        """The parcel has not arrived: it stays, and is tried again later each time."""
        self._waiting[:0] = parcel.messages
        self._unsaid_drops += parcel.dropped
        self._bound()
        delay_s = RETRY_S_INITIAL * 2.0 ** min(self._failures, 20)
        self._failures += 1
        self._not_before = now + min(RETRY_S_MAX, max(self._gap_s, delay_s))

    def _bound(self) -> None:
        while len(self._waiting) > KEPT_MAX:
            least = next((i for i, m in enumerate(self._waiting) if not m.is_urgent), 0)
            del self._waiting[least]
            self.dropped += 1
            self._unsaid_drops += 1
