"""The exchange's request budget: token buckets shared by priority lanes, and counts of what was sent.

The exchange keeps one bucket for reads and one for writes (docs.kalshi.com, rate_limits) and answers 429
without a Retry-After when one is empty. Here the same buckets are kept, and each lane leaves a reserve in
them for the lanes above it: an exit never waits because an entry or a page view took the last token.
Tokens are floats: they are a rate times seconds.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum

from base.clock import Clock

STATS_WINDOW_S = 60.0
STATS_ENTRIES_MAX = 100_000
PENALTY_FORGOTTEN_AFTER_S = 60.0
CLAIM_GRACE_S = 0.25
"""Whoever was told to come back for tokens has so long after they are there to do it."""


class Lane(IntEnum):
    """Who asks, the most urgent first. A waiting lane is served before every lane below it."""

    EXIT = 0
    PRICE = 1
    RECONCILE = 2
    STRATEGY = 3
    DISPLAY = 4


class RequestKind(StrEnum):
    """Which of the exchange's buckets a request is charged to."""

    READ = "read"
    WRITE = "write"
    BALANCE = "balance"
    """`GET /portfolio/balance` has a bucket of its own: one request a second, no burst."""


@dataclass(frozen=True, slots=True)
class Quota:
    """A bucket's size and rate, in tokens and tokens a second."""

    capacity: float
    refill_per_s: float

    def __post_init__(self) -> None:
        if not (self.capacity > 0 and self.refill_per_s > 0):
            raise ValueError(f"a quota needs capacity and refill above 0, not {self}")


BALANCE_QUOTA = Quota(1, 1)

RESERVES: Mapping[RequestKind, Mapping[Lane, float]] = {
    RequestKind.WRITE: dict(zip(Lane, (0.0, 0.3, 0.3, 0.3, 0.5), strict=True)),
    RequestKind.READ: dict(zip(Lane, (0.0, 0.1, 0.2, 0.4, 0.6), strict=True)),
    RequestKind.BALANCE: dict.fromkeys(Lane, 0.0),
}
"""Share of the capacity that a lane leaves in the bucket for the lanes above it."""

_PENALTY_S = {lane: (0.5, 30.0) for lane in Lane} | {Lane.EXIT: (0.125, 1.0)}
"""First and longest pause of a lane after a 429."""


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """A bucket at one moment. `tokens` may fall below 0: an exit goes out even when it overdraws."""

    quota: Quota
    tokens: float
    as_of: float

    def at(self, now: float) -> TokenBucket:
        """The bucket at `now` (monotonic), refilled."""
        gained = max(0.0, now - self.as_of) * self.quota.refill_per_s
        return replace(
            self, tokens=min(self.quota.capacity, self.tokens + gained), as_of=max(now, self.as_of)
        )

    def take(self, cost: float) -> TokenBucket:
        return replace(self, tokens=self.tokens - cost)

    def with_quota(self, quota: Quota) -> TokenBucket:
        """The same fill level under another quota; a larger bucket does not start fuller."""
        full = self.tokens >= self.quota.capacity
        return replace(self, quota=quota, tokens=quota.capacity if full else min(self.tokens, quota.capacity))

    def seconds_until(self, tokens: float) -> float:
        return max(0.0, (tokens - self.tokens) / self.quota.refill_per_s)


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """The account's buckets as `GET /account/limits` tells them."""

    read: Quota
    write: Quota
    usage_tier: str = ""


@dataclass(frozen=True, slots=True)
class LimiterSnapshot:
    """The limiter at one moment; `penalized_s` is how long each lane still pauses after a 429."""

    read: TokenBucket
    write: TokenBucket
    waiting: Mapping[Lane, int]
    penalized_s: Mapping[Lane, float]
    refused: int
    """Requests that were given up because no token came in time."""


class _Waiter:
    __slots__ = ("cost", "event", "lane", "ticket")

    def __init__(self, lane: Lane, ticket: int, cost: float) -> None:
        self.lane = lane
        self.ticket = ticket
        self.cost = cost
        self.event = threading.Event()


class RateLimiter:
    """Hands out tokens by lane. Any thread may use it."""

    def __init__(self, clock: Clock, read: Quota, write: Quota) -> None:
        now = clock.monotonic()
        self._clock = clock
        self._lock = threading.Lock()  # guards the fields below; never held while waiting
        self._buckets = {
            RequestKind.READ: TokenBucket(read, read.capacity, now),
            RequestKind.WRITE: TokenBucket(write, write.capacity, now),
            RequestKind.BALANCE: TokenBucket(BALANCE_QUOTA, BALANCE_QUOTA.capacity, now),
        }
        self._waiters: dict[RequestKind, list[_Waiter]] = {kind: [] for kind in RequestKind}
        self._penalties: dict[Lane, tuple[float, float]] = {}  # lane -> (paused until, length of the pause)
        self._claims: dict[tuple[RequestKind, Lane], float] = {}  # until when tokens are kept for a lane
        self._tickets = 0
        self._refused = 0

    def acquire(self, kind: RequestKind, lane: Lane, cost: float, deadline_s: float) -> bool:
        """Take `cost` tokens, waiting up to `deadline_s` seconds; False when none came in time.

        False at once when the lane could never have them, because the bucket is smaller than the cost and
        the reserve together.
        """
        give_up_at = self._clock.monotonic() + deadline_s
        with self._lock:
            self._tickets += 1
            waiter = _Waiter(lane, self._tickets, cost)
            self._waiters[kind].append(waiter)
        try:
            while True:
                now = self._clock.monotonic()
                with self._lock:
                    waiter.event.clear()
                    wait_s = self._try_locked(kind, waiter, now)
                if wait_s == 0.0:
                    return True
                if wait_s == _NEVER or now >= give_up_at:
                    with self._lock:
                        self._refused += 1
                    return False
                remaining_s = give_up_at - now
                self._clock.wait(waiter.event, remaining_s if wait_s is None else min(wait_s, remaining_s))
        finally:
            with self._lock:
                self._waiters[kind].remove(waiter)
                self._wake_locked(kind)

    def try_acquire(self, kind: RequestKind, lane: Lane, cost: float) -> bool:
        """Take `cost` tokens if they are there now."""
        return self.acquire(kind, lane, cost, 0.0)

    def reserve(self, kind: RequestKind, lane: Lane, cost: float) -> float:
        """Take `cost` tokens now and return 0.0, or take nothing and return in how many seconds to ask again.

        The lanes below take nothing until then, so that what is saved up for a dear request does not go to
        cheaper ones. Infinite when the lane can never have so many.
        """
        now = self._clock.monotonic()
        with self._lock:
            self._tickets += 1
            wait_s = self._try_locked(kind, _Waiter(lane, self._tickets, cost), now)
            if wait_s == 0.0 or wait_s == _NEVER:
                return wait_s
            bucket = self._buckets[kind]
            refilled_s = bucket.seconds_until(_threshold(kind, lane, cost, bucket.quota))
            # None: somebody of this lane or above waits for a token, and takes it first.
            wait_s = max(wait_s or 0.0, refilled_s, _WAIT_S_MIN)
            self._claims[kind, lane] = max(self._claims.get((kind, lane), now), now + wait_s + CLAIM_GRACE_S)
            return wait_s

    def charge(self, kind: RequestKind, cost: float) -> None:
        """Take what is there, up to `cost`: for a request that goes out whether there is budget or not."""
        now = self._clock.monotonic()
        with self._lock:
            bucket = self._buckets[kind].at(now)
            self._buckets[kind] = bucket.take(min(cost, max(0.0, bucket.tokens)))

    def available(self, kind: RequestKind, lane: Lane) -> float:
        """Tokens that `lane` may take at once; none while it pauses after a 429."""
        now = self._clock.monotonic()
        with self._lock:
            bucket = self._buckets[kind].at(now)
            if self._pause_locked(lane, now) > 0:
                return 0.0
            return max(0.0, bucket.tokens + _ROUNDING_TOKENS - RESERVES[kind][lane] * bucket.quota.capacity)

    def reseed(self, limits: AccountLimits) -> None:
        """Take over the account's real limits."""
        now = self._clock.monotonic()
        with self._lock:
            for kind, quota in ((RequestKind.READ, limits.read), (RequestKind.WRITE, limits.write)):
                self._buckets[kind] = self._buckets[kind].at(now).with_quota(quota)
                self._wake_locked(kind)

    def penalize(self, lane: Lane) -> float:
        """Pause a lane after a 429 and return for how many seconds; each further 429 doubles the pause.

        Only this lane pauses, and exits never for more than a second.
        """
        now = self._clock.monotonic()
        first_s, longest_s = _PENALTY_S[lane]
        with self._lock:
            until, length_s = self._penalties.get(lane, (now, 0.0))
            is_fresh = length_s == 0.0 or now - until > PENALTY_FORGOTTEN_AFTER_S
            length_s = first_s if is_fresh else min(longest_s, length_s * 2)
            self._penalties[lane] = (now + length_s, length_s)
            for kind in RequestKind:
                self._wake_locked(kind)
        return length_s

    def snapshot(self) -> LimiterSnapshot:
        now = self._clock.monotonic()
        with self._lock:
            waiting = [w.lane for waiters in self._waiters.values() for w in waiters]
            return LimiterSnapshot(
                read=self._buckets[RequestKind.READ].at(now),
                write=self._buckets[RequestKind.WRITE].at(now),
                waiting={lane: waiting.count(lane) for lane in Lane},
                penalized_s={lane: self._pause_locked(lane, now) for lane in Lane},
                refused=self._refused,
            )

    def _try_locked(self, kind: RequestKind, waiter: _Waiter, now: float) -> float | None:
        """0 when the tokens were taken, else seconds to wait; None: until another waiter has left."""
        bucket = self._buckets[kind] = self._buckets[kind].at(now)
        threshold = _threshold(kind, waiter.lane, waiter.cost, bucket.quota)
        if threshold > bucket.quota.capacity:
            return _NEVER
        pause_s = max(self._pause_locked(waiter.lane, now), self._claimed_s_locked(kind, waiter.lane, now))
        if pause_s > 0:
            return pause_s
        if any(
            (other.lane, other.ticket) < (waiter.lane, waiter.ticket)
            and not self._pause_locked(other.lane, now)
            for other in self._waiters[kind]
        ):
            return None
        if bucket.tokens < threshold - _ROUNDING_TOKENS:
            return max(bucket.seconds_until(threshold), _WAIT_S_MIN)
        self._buckets[kind] = bucket.take(waiter.cost)
        return 0.0

    def _pause_locked(self, lane: Lane, now: float) -> float:
        until, _ = self._penalties.get(lane, (now, 0.0))
        return max(0.0, until - now)

    def _claimed_s_locked(self, kind: RequestKind, lane: Lane, now: float) -> float:
        """For how long a lane above has tokens kept for it."""
        untils = [until for (k, above), until in self._claims.items() if k is kind and above < lane]
        return max(0.0, max(untils, default=now) - now)

    def _wake_locked(self, kind: RequestKind) -> None:
        """Let every waiter look again: who is next may have changed."""
        for waiter in self._waiters[kind]:
            waiter.event.set()


_NEVER = float("inf")
_WAIT_S_MIN = 0.001
_ROUNDING_TOKENS = 1e-6
"""Refilling in floats may end a hair below the whole token that was waited for."""


def _threshold(kind: RequestKind, lane: Lane, cost: float, quota: Quota) -> float:
    """Tokens that must be in the bucket before `lane` may take `cost`."""
    if lane is Lane.EXIT:
        return min(cost, quota.capacity)  # a cost above the bucket's size must not stop an exit for good
    wanted = cost + RESERVES[kind][lane] * quota.capacity
    # Reads come back: with a tiny bucket a full one is enough. A write never touches what exits own.
    return min(wanted, quota.capacity) if kind is not RequestKind.WRITE else wanted


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """Requests that left in the last 60 s. `price_reads` are among the `reads`."""

    reads: int
    writes: int
    price_reads: int
    rate_limited: int


class RequestArea(StrEnum):
    """What a request is about: a closed set, whatever paths there will be."""

    PRICES = "prices"
    ORDERS = "orders"
    PORTFOLIO = "portfolio"
    EXCHANGE = "exchange"
    OTHER = "other"


def area_of(path: str) -> RequestArea:
    """The area of a path below the API's root."""
    if path.startswith("/markets"):
        return RequestArea.PRICES
    if path.startswith("/portfolio"):
        return RequestArea.ORDERS if "/orders" in path else RequestArea.PORTFOLIO
    return RequestArea.EXCHANGE if path.startswith("/exchange") else RequestArea.OTHER


class RequestStats:
    """Counts requests, of the last minute and answered ones since the start. One object for all
    connections; any thread may use it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards the fields below
        # Times (monotonic) of the last minute's requests; when full the oldest are forgotten early.
        self._reads: deque[float] = deque(maxlen=STATS_ENTRIES_MAX)
        self._writes: deque[float] = deque(maxlen=STATS_ENTRIES_MAX)
        self._price_reads: deque[float] = deque(maxlen=STATS_ENTRIES_MAX)
        self._rate_limited: deque[float] = deque(maxlen=STATS_ENTRIES_MAX)
        self._answers: dict[tuple[Lane, RequestArea, int | None], int] = {}

    def count_read(self, *, is_price: bool = False) -> None:
        now = self._clock.monotonic()
        with self._lock:
            self._add_locked(self._reads, now)
            if is_price:
                self._add_locked(self._price_reads, now)

    def count_write(self) -> None:
        now = self._clock.monotonic()
        with self._lock:
            self._add_locked(self._writes, now)

    def count_rate_limited(self) -> None:
        now = self._clock.monotonic()
        with self._lock:
            self._add_locked(self._rate_limited, now)

    def count_answer(self, lane: Lane, area: RequestArea, status: int | None) -> None:
        """Count how a request ended; None when no usable answer came."""
        key = (lane, area, status)
        with self._lock:
            self._answers[key] = self._answers.get(key, 0) + 1

    def answers(self) -> dict[tuple[Lane, RequestArea, int | None], int]:
        """Requests since the start, by lane, area and status (None: no usable answer)."""
        with self._lock:
            return dict(self._answers)

    def counts(self) -> RequestCounts:
        now = self._clock.monotonic()
        with self._lock:
            for times in (self._reads, self._writes, self._price_reads, self._rate_limited):
                _forget_old(times, now)
            return RequestCounts(
                len(self._reads), len(self._writes), len(self._price_reads), len(self._rate_limited)
            )

    def _add_locked(self, times: deque[float], now: float) -> None:
        _forget_old(times, now)
        times.append(now)


def _forget_old(times: deque[float], now: float) -> None:
    while times and now - times[0] >= STATS_WINDOW_S:
        times.popleft()
