"""Who gets the exchange's tokens, and when."""

from __future__ import annotations

import threading

import pytest

from base.clock import SystemClock
from base.kalshi.rate_limit import (
    AccountLimits,
    Lane,
    Quota,
    RateLimiter,
    RequestKind,
    RequestStats,
    TokenBucket,
)
from tests.fakes.clock import FakeClock

READ, WRITE, BALANCE = RequestKind.READ, RequestKind.WRITE, RequestKind.BALANCE
BASIC_READ, BASIC_WRITE = Quota(200, 200), Quota(100, 100)  # recorded account limits of the basic tier


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def limiter(clock: FakeClock) -> RateLimiter:
    return RateLimiter(clock, BASIC_READ, BASIC_WRITE)


def drain(limiter: RateLimiter, kind: RequestKind, lane: Lane, cost: float = 10) -> int:
    taken = 0
    while taken < 1_000 and limiter.try_acquire(kind, lane, cost):
        taken += 1
    return taken


def wait_until_waiting(limiter: RateLimiter, lane: Lane) -> None:
    for _ in range(5_000):
        if limiter.snapshot().waiting[lane]:
            return
        threading.Event().wait(0.001)
    raise AssertionError(f"nobody waits in lane {lane}")


def test_entries_leave_the_reserve_to_exits(limiter: RateLimiter) -> None:
    assert drain(limiter, WRITE, Lane.STRATEGY) == 7
    assert drain(limiter, WRITE, Lane.EXIT) == 3


def test_exits_may_use_everything(limiter: RateLimiter) -> None:
    assert drain(limiter, WRITE, Lane.EXIT) == 10


@pytest.mark.parametrize("kind", [READ, WRITE])
def test_each_lane_leaves_at_least_as_much_as_the_lane_above(clock: FakeClock, kind: RequestKind) -> None:
    taken = [drain(RateLimiter(clock, BASIC_READ, BASIC_WRITE), kind, lane) for lane in Lane]

    assert taken == sorted(taken, reverse=True)
    assert taken[0] == (20 if kind is READ else 10)
    assert all(taken)


def test_reads_and_writes_have_buckets_of_their_own(limiter: RateLimiter) -> None:
    drain(limiter, READ, Lane.EXIT)

    assert limiter.try_acquire(WRITE, Lane.STRATEGY, 10)


def test_waiting_takes_as_long_as_the_refill(clock: FakeClock, limiter: RateLimiter) -> None:
    drain(limiter, WRITE, Lane.EXIT)
    started = clock.monotonic()

    assert limiter.acquire(WRITE, Lane.EXIT, 10, deadline_s=5)
    assert clock.monotonic() - started == pytest.approx(0.1, abs=0.01)
    assert limiter.acquire(WRITE, Lane.STRATEGY, 10, deadline_s=5)
    assert clock.monotonic() - started == pytest.approx(0.5, abs=0.01)


def test_gives_up_at_the_deadline(clock: FakeClock, limiter: RateLimiter) -> None:
    drain(limiter, READ, Lane.EXIT)
    started = clock.monotonic()

    assert not limiter.acquire(READ, Lane.DISPLAY, 10, deadline_s=0.2)
    assert clock.monotonic() - started == pytest.approx(0.2)
    assert limiter.snapshot().refused == 2  # the one that ended the draining, and this one


def test_burst_never_exceeds_the_capacity(clock: FakeClock, limiter: RateLimiter) -> None:
    clock.advance(3_600)

    assert drain(limiter, WRITE, Lane.EXIT) == 10


def test_entry_that_can_never_fit_is_refused_at_once(clock: FakeClock) -> None:
    limiter = RateLimiter(clock, Quota(10, 10), Quota(10, 10))
    started = clock.monotonic()

    assert not limiter.acquire(WRITE, Lane.STRATEGY, 10, deadline_s=60)
    assert clock.monotonic() == started
    assert limiter.acquire(WRITE, Lane.EXIT, 10, deadline_s=0)
    assert limiter.acquire(READ, Lane.PRICE, 10, deadline_s=0)  # a read only needs the bucket full


def test_exit_dearer_than_the_bucket_overdraws_it(clock: FakeClock) -> None:
    limiter = RateLimiter(clock, BASIC_READ, Quota(5, 10))

    assert limiter.acquire(WRITE, Lane.EXIT, 10, deadline_s=0)
    assert limiter.snapshot().write.tokens == -5
    assert not limiter.try_acquire(WRITE, Lane.EXIT, 10)
    assert limiter.acquire(WRITE, Lane.EXIT, 10, deadline_s=2)


def test_balance_is_one_a_second(clock: FakeClock, limiter: RateLimiter) -> None:
    assert drain(limiter, BALANCE, Lane.DISPLAY, cost=1) == 1
    clock.advance(1)
    assert drain(limiter, BALANCE, Lane.EXIT, cost=1) == 1


def test_waiting_exit_is_served_before_an_entry_that_waited_longer() -> None:
    limiter = RateLimiter(SystemClock(), BASIC_READ, Quota(100, 50))
    drain(limiter, WRITE, Lane.EXIT)
    served: list[Lane] = []

    def wait_for_tokens(lane: Lane) -> None:
        if limiter.acquire(WRITE, lane, 10, deadline_s=10):
            served.append(lane)

    entry = threading.Thread(target=wait_for_tokens, args=(Lane.STRATEGY,))
    entry.start()
    wait_until_waiting(limiter, Lane.STRATEGY)
    exits = [threading.Thread(target=wait_for_tokens, args=(Lane.EXIT,)) for _ in range(2)]
    for thread in exits:
        thread.start()
    for thread in [*exits, entry]:
        thread.join(10)

    assert served == [Lane.EXIT, Lane.EXIT, Lane.STRATEGY]
    assert not any(limiter.snapshot().waiting.values())


def test_read_below_does_not_overtake_a_waiting_exit() -> None:
    """The exit needs more than is there; what is there would do for the read below it."""
    limiter = RateLimiter(SystemClock(), Quota(100, 100), BASIC_WRITE)
    drain(limiter, READ, Lane.EXIT)
    result: list[bool] = []
    waiting = threading.Thread(
        target=lambda: result.append(limiter.acquire(READ, Lane.EXIT, 90, deadline_s=0.3))
    )
    waiting.start()
    wait_until_waiting(limiter, Lane.EXIT)

    assert not limiter.acquire(READ, Lane.PRICE, 1, deadline_s=0.2)
    waiting.join(5)
    assert result == [False]


def test_penalty_pauses_its_lane_only(limiter: RateLimiter) -> None:
    limiter.penalize(Lane.PRICE)

    assert not limiter.try_acquire(READ, Lane.PRICE, 10)
    assert limiter.try_acquire(READ, Lane.EXIT, 10)
    assert limiter.try_acquire(READ, Lane.RECONCILE, 10)
    assert limiter.acquire(READ, Lane.PRICE, 10, deadline_s=1)


def test_penalties_double_are_bounded_and_are_forgotten(clock: FakeClock, limiter: RateLimiter) -> None:
    def pauses(lane: Lane) -> list[float]:
        result = []
        for _ in range(8):
            result.append(limiter.penalize(lane))
            clock.advance(result[-1])
        return result

    assert pauses(Lane.DISPLAY) == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert pauses(Lane.EXIT) == [0.125, 0.25, 0.5, 1, 1, 1, 1, 1]
    clock.advance(61)
    assert limiter.penalize(Lane.DISPLAY) == 0.5


def test_paused_lane_does_not_hold_up_the_lanes_below() -> None:
    limiter = RateLimiter(SystemClock(), BASIC_READ, BASIC_WRITE)
    for _ in range(4):
        limiter.penalize(Lane.EXIT)
    waiting = threading.Thread(target=limiter.acquire, args=(READ, Lane.EXIT, 10, 0.3))
    waiting.start()
    wait_until_waiting(limiter, Lane.EXIT)

    assert limiter.try_acquire(READ, Lane.DISPLAY, 10)
    waiting.join(5)


def test_reserving_takes_all_at_once_or_nothing(clock: FakeClock, limiter: RateLimiter) -> None:
    assert limiter.reserve(WRITE, Lane.EXIT, 70) == 0
    assert limiter.reserve(WRITE, Lane.EXIT, 50) == pytest.approx(0.2)
    assert limiter.snapshot().write.tokens == 30
    assert limiter.snapshot().refused == 0
    clock.advance(0.2)
    assert limiter.reserve(WRITE, Lane.EXIT, 50) == 0


def test_reserving_in_a_pause_waits_for_its_end_and_for_the_tokens(
    clock: FakeClock, limiter: RateLimiter
) -> None:
    limiter.penalize(Lane.EXIT)
    assert limiter.reserve(WRITE, Lane.EXIT, 10) == pytest.approx(0.125)
    clock.advance(0.125)
    assert limiter.reserve(WRITE, Lane.EXIT, 100) == 0
    limiter.penalize(Lane.EXIT)
    assert limiter.reserve(WRITE, Lane.EXIT, 90) == pytest.approx(0.9)


def test_entries_do_not_eat_up_what_an_exit_saves_for(clock: FakeClock, limiter: RateLimiter) -> None:
    drain(limiter, WRITE, Lane.EXIT)
    entries = 0
    for _ in range(20):
        if (wait_s := limiter.reserve(WRITE, Lane.EXIT, 100)) == 0:
            break
        entries += limiter.acquire(WRITE, Lane.STRATEGY, 10, deadline_s=wait_s / 2)
        clock.advance(wait_s / 2)
    else:
        raise AssertionError("the exit never got its tokens")
    assert entries == 0


def test_what_nobody_comes_back_for_is_given_to_entries(clock: FakeClock, limiter: RateLimiter) -> None:
    drain(limiter, WRITE, Lane.EXIT)
    started = clock.monotonic()
    wait_s = limiter.reserve(WRITE, Lane.EXIT, 50)

    assert limiter.acquire(WRITE, Lane.STRATEGY, 10, deadline_s=5)
    assert clock.monotonic() - started == pytest.approx(wait_s + 0.25, abs=0.01)


def test_reserving_yields_to_an_exit_that_waits(limiter: RateLimiter) -> None:
    limiter = RateLimiter(SystemClock(), BASIC_READ, Quota(100, 1))
    limiter.reserve(WRITE, Lane.EXIT, 60)
    waiting = threading.Thread(target=limiter.acquire, args=(WRITE, Lane.EXIT, 90, 0.3))
    waiting.start()
    wait_until_waiting(limiter, Lane.EXIT)

    assert limiter.reserve(WRITE, Lane.EXIT, 10) > 0
    waiting.join(5)
    assert limiter.reserve(WRITE, Lane.EXIT, 10) == 0


def test_reserving_more_than_the_bucket_overdraws_it_for_exits_only(clock: FakeClock) -> None:
    limiter = RateLimiter(clock, BASIC_READ, Quota(5, 10))

    assert limiter.reserve(WRITE, Lane.STRATEGY, 10) == float("inf")
    assert limiter.reserve(WRITE, Lane.EXIT, 10) == 0
    assert limiter.snapshot().write.tokens == -5
    assert limiter.reserve(WRITE, Lane.EXIT, 10) == pytest.approx(1)


@pytest.mark.parametrize(("cost", "left"), [(30, 10), (40, 0), (50, 0)])
def test_charging_takes_what_is_there(limiter: RateLimiter, cost: float, left: float) -> None:
    limiter.reserve(WRITE, Lane.EXIT, 60)
    limiter.charge(WRITE, cost)

    assert limiter.snapshot().write.tokens == left


def test_charging_an_overdrawn_bucket_takes_nothing(clock: FakeClock) -> None:
    limiter = RateLimiter(clock, BASIC_READ, Quota(5, 10))
    limiter.reserve(WRITE, Lane.EXIT, 10)
    limiter.charge(WRITE, 10)

    assert limiter.snapshot().write.tokens == -5


def test_available_is_what_a_lane_could_take(clock: FakeClock, limiter: RateLimiter) -> None:
    limiter.reserve(WRITE, Lane.EXIT, 40)
    assert limiter.available(WRITE, Lane.EXIT) == pytest.approx(60)
    assert limiter.available(WRITE, Lane.STRATEGY) == pytest.approx(30)
    limiter.reserve(WRITE, Lane.EXIT, 60)
    assert limiter.available(WRITE, Lane.STRATEGY) == 0
    clock.advance(1)
    limiter.penalize(Lane.EXIT)
    assert limiter.available(WRITE, Lane.EXIT) == 0


def test_threads_that_reserve_never_take_more_than_the_bucket() -> None:
    limiter = RateLimiter(FakeClock(), BASIC_READ, BASIC_WRITE)
    taken: list[int] = []

    def grab(orders: int) -> None:
        for _ in range(20):
            if limiter.reserve(WRITE, Lane.EXIT, 10 * orders) == 0:
                taken.append(orders)

    threads = [threading.Thread(target=grab, args=(1 + n % 3,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert sum(taken) == 10


def test_reseed_takes_over_the_real_limits(limiter: RateLimiter) -> None:
    limiter.reseed(AccountLimits(Quota(400, 200), Quota(300, 300), "advanced"))

    assert drain(limiter, READ, Lane.EXIT) == 40
    assert drain(limiter, WRITE, Lane.STRATEGY) == 21


def test_reseed_does_not_refill_a_used_bucket(limiter: RateLimiter) -> None:
    drain(limiter, WRITE, Lane.EXIT)
    limiter.reseed(AccountLimits(BASIC_READ, Quota(300, 300)))

    assert not limiter.try_acquire(WRITE, Lane.EXIT, 10)


def test_never_more_than_the_bucket_whatever_the_threads_do() -> None:
    clock = FakeClock()
    limiter = RateLimiter(clock, BASIC_READ, BASIC_WRITE)
    taken: list[Lane] = []

    def grab(lane: Lane) -> None:
        for _ in range(20):
            if limiter.try_acquire(WRITE, lane, 10):
                taken.append(lane)

    threads = [threading.Thread(target=grab, args=(lane,)) for lane in Lane for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert len(taken) == 10
    assert sum(lane is not Lane.EXIT for lane in taken) <= 7


@pytest.mark.parametrize(("capacity", "rate"), [(0, 1), (1, 0), (-1, 1), (float("nan"), 1)])
def test_quota_that_never_fills_is_refused(capacity: float, rate: float) -> None:
    with pytest.raises(ValueError, match="a quota needs"):
        Quota(capacity, rate)


def test_bucket_ignores_a_clock_that_steps_back() -> None:
    bucket = TokenBucket(Quota(10, 1), 5, as_of=100)

    assert bucket.at(90) == bucket
    assert bucket.at(103).tokens == 8


def test_stats_count_the_last_minute(clock: FakeClock) -> None:
    stats = RequestStats(clock)
    stats.count_read(is_price=True)
    clock.advance(30)
    stats.count_read()
    stats.count_write()
    stats.count_rate_limited()

    counts = stats.counts()
    assert (counts.reads, counts.writes, counts.price_reads, counts.rate_limited) == (2, 1, 1, 1)
    clock.advance(30)
    counts = stats.counts()
    assert (counts.reads, counts.writes, counts.price_reads, counts.rate_limited) == (1, 1, 0, 1)
    clock.advance(30)
    assert stats.counts().reads == 0
