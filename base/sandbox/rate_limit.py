"""The account's token buckets (docs.kalshi.com, rate limits, Basic tier). Pure; callers pass `now`."""

from __future__ import annotations

from dataclasses import dataclass

from base.sandbox.refusals import Refused

READ_PER_S, READ_CAPACITY = 200, 600
WRITE_PER_S, WRITE_CAPACITY = 100, 100
BALANCE_PER_S, BALANCE_CAPACITY = 1, 1  # its own bucket, without burst
DEFAULT_COST = 10
ENDPOINT_COSTS: dict[tuple[str, str], int] = {
    ("DELETE", "/portfolio/events/orders"): 2,
    ("DELETE", "/portfolio/events/orders/{order_id}"): 2,
    ("DELETE", "/portfolio/events/orders/batched"): 2,  # per order
    ("GET", "/portfolio/orders/{order_id}"): 2,
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

    def __init__(self, now: float, *, is_enforced: bool = True) -> None:
        self._is_enforced = is_enforced
        self._read = Bucket(READ_PER_S, READ_CAPACITY, READ_CAPACITY, now)
        self._write = Bucket(WRITE_PER_S, WRITE_CAPACITY, WRITE_CAPACITY, now)
        self._balance = Bucket(BALANCE_PER_S, BALANCE_CAPACITY, BALANCE_CAPACITY, now)

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


def limits_json() -> dict[str, object]:
    return {
        "usage_tier": "basic",
        "read": {"refill_rate": READ_PER_S, "bucket_capacity": READ_CAPACITY},
        "write": {"refill_rate": WRITE_PER_S, "bucket_capacity": WRITE_CAPACITY},
        "grants": [],
    }


def costs_json(prefix: str) -> dict[str, object]:
    rows = [
        {"method": method, "path": prefix + path.replace("{", ":").replace("}", ""), "cost": cost}
        for (method, path), cost in ENDPOINT_COSTS.items()
    ]
    return {"default_cost": DEFAULT_COST, "endpoint_costs": rows}
