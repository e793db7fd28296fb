"""The account's token buckets (docs.kalshi.com, rate limits). Pure; callers pass `now`."""

from __future__ import annotations

from dataclasses import dataclass

from base.sandbox.refusals import Refused

DEFAULT_COST = 10
ENDPOINT_COSTS: dict[tuple[str, str], int] = {
    ("DELETE", "/portfolio/events/orders"): 2,
    ("DELETE", "/portfolio/events/orders/{order_id}"): 2,
    ("DELETE", "/portfolio/events/orders/batched"): 2,  # per order
    ("GET", "/portfolio/orders/{order_id}"): 2,
}


@dataclass(frozen=True, slots=True)
class Tier:
    """What an account may do: tokens a second, and seconds of them that a bucket holds.

    Balance reads have a bucket of their own, without burst.
    """

    read_per_s: int
    write_per_s: int
    read_burst_s: int = 1
    write_burst_s: int = 3
    balance_per_s: int = 5


TIERS = {
    "basic": Tier(200, 100, read_burst_s=3, write_burst_s=1, balance_per_s=1),
    "advanced": Tier(300, 300, read_burst_s=3, balance_per_s=1),
    "expert": Tier(600, 600),
    "premier": Tier(1_200, 1_200),
    "paragon": Tier(2_400, 2_400),
    "prime": Tier(4_800, 4_800),
    "prestige": Tier(12_000, 9_600),
}


@dataclass(slots=True)
class Bucket:
    """`per_s` tokens a second up to `capacity`; full when new."""

    per_s: float
    capacity: float
    tokens: float
    filled_at: float

    def spend(self, cost: float, now: float) -> bool:
        """Take `cost` tokens if they are there."""
        self.tokens = min(self.capacity, self.tokens + max(0.0, now - self.filled_at) * self.per_s)
        self.filled_at = now
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True


class RateLimits:
    """Reads, writes and the balance endpoint, each from its bucket."""

    def __init__(self, now: float, tier: str = "basic", *, is_enforced: bool = True) -> None:
        self._is_enforced = is_enforced
        limits = TIERS[tier]
        self._read = _full(limits.read_per_s, limits.read_burst_s, now)
        self._write = _full(limits.write_per_s, limits.write_burst_s, now)
        self._balance = _full(limits.balance_per_s, 1, now)

    def charge(self, method: str, path: str, now: float, *, times: int = 1) -> None:
        """Charge one request, or a batch of `times`. Raises the recorded 429 when the bucket is short."""
        if not self._is_enforced:
            return
        cost = ENDPOINT_COSTS.get((method, path), DEFAULT_COST) * times
        if path == "/portfolio/balance":
            bucket, cost = self._balance, 1
        else:
            bucket = self._read if method == "GET" else self._write
        if not bucket.spend(cost, now):
            raise Refused(429, "too_many_requests")


def _full(per_s: int, burst_s: int, now: float) -> Bucket:
    return Bucket(per_s, per_s * burst_s, per_s * burst_s, now)


def limits_json(tier: str) -> dict[str, object]:
    t = TIERS[tier]
    return {
        "usage_tier": tier,
        "read": {"refill_rate": t.read_per_s, "bucket_capacity": t.read_per_s * t.read_burst_s},
        "write": {"refill_rate": t.write_per_s, "bucket_capacity": t.write_per_s * t.write_burst_s},
        "grants": [],
    }


def costs_json(prefix: str) -> dict[str, object]:
    rows = [
        {"method": method, "path": prefix + path.replace("{", ":").replace("}", ""), "cost": cost}
        for (method, path), cost in ENDPOINT_COSTS.items()
    ]
    return {"default_cost": DEFAULT_COST, "endpoint_costs": rows}
