"""Account and exchange documents: balance, limits, costs, keys, settlements, status, schedule. Pure.

Shapes: the official OpenAPI document and recordings of June to October 2026; see `documents.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import msgspec

from base.errors import WireError
from base.kalshi.rate_limit import AccountLimits, Quota
from base.kalshi.strict_json import convert, prepare
from base.kalshi.wire import parse_dollars, parse_size, parse_ticker, parse_time
from base.model.schedule import ExchangeSchedule as ExchangeSchedule
from base.model.schedule import WeeklyHours

API_PREFIX = "/trade-api/v2"
COST_DEFAULT = 10

# --- account --------------------------------------------------------------------------------------------


class _ShardBalance(msgspec.Struct):
    exchange_index: int
    balance: str


class _Balance(msgspec.Struct):
    balance: int
    balance_dollars: str | None = None
    portfolio_value: int | None = None
    updated_ts: int | None = None
    balance_breakdown: list[_ShardBalance] | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """Money in the account; `by_shard` maps exchange index to dollars (collateral is kept a shard)."""

    available: Decimal
    portfolio_value: Decimal
    by_shard: Mapping[int, Decimal]
    updated_ts: int


def parse_balance(body: bytes) -> Balance:
    """`GET /portfolio/balance`. Raises WireError. The cents in `balance` are truncated, the string is not."""
    m = convert(body, _Balance)
    return Balance(
        available=Decimal(m.balance) / 100 if m.balance_dollars is None else parse_dollars(m.balance_dollars),
        portfolio_value=Decimal(m.portfolio_value or 0) / 100,
        by_shard={b.exchange_index: parse_dollars(b.balance) for b in m.balance_breakdown or ()},
        updated_ts=m.updated_ts or 0,
    )


class _Bucket(msgspec.Struct):
    refill_rate: int
    bucket_capacity: int | None = None


class _Limits(msgspec.Struct):
    read: _Bucket | None = None
    write: _Bucket | None = None
    read_limit: int | None = None
    write_limit: int | None = None
    usage_tier: str = ""


def parse_account_limits(body: bytes) -> AccountLimits:
    """`GET /account/limits`, also in the older form of two plain rates. Raises WireError."""
    m = convert(body, _Limits)
    return AccountLimits(
        _quota(m.read, m.read_limit, "read"), _quota(m.write, m.write_limit, "write"), m.usage_tier
    )


def _quota(bucket: _Bucket | None, rate: int | None, name: str) -> Quota:
    try:
        if bucket is not None:
            return Quota(bucket.bucket_capacity or bucket.refill_rate, bucket.refill_rate)
        if rate is not None:
            return Quota(rate, rate)
    except ValueError as exc:
        raise WireError(f"account limits: {exc}") from exc
    raise WireError(f"account limits without a {name} bucket")


class _Cost(msgspec.Struct):
    method: str
    path: str
    cost: int


class _Costs(msgspec.Struct):
    default_cost: int
    endpoint_costs: list[_Cost]


@dataclass(frozen=True, slots=True)
class EndpointCosts:
    """What a request takes from its bucket: `(method, path pattern, cost)` rows and the default.

    Patterns are the exchange's: `:name` stands for one segment, `*name` for the rest of the path. The
    defaults are those of the demo exchange, recorded 2026-07-06.
    """

    default_cost: int = COST_DEFAULT
    rows: tuple[tuple[str, str, int], ...] = (
        ("GET", f"{API_PREFIX}/portfolio/orders/:order_id", 2),
        ("DELETE", f"{API_PREFIX}/portfolio/events/orders/:order_id", 2),
    )

    def cost(self, method: str, path: str) -> int:
        """Tokens of one request; `path` from the host's root. A literal pattern wins over a placeholder."""
        segments = path.split("/")
        best: tuple[int, int] | None = None
        for row_method, pattern, cost in self.rows:
            if row_method == method:
                literals = _match(pattern.split("/"), segments)
                if literals is not None and (best is None or literals > best[0]):
                    best = (literals, cost)
        return self.default_cost if best is None else best[1]


def _match(pattern: Sequence[str], segments: Sequence[str]) -> int | None:
    """The number of segments matched literally, None when the pattern does not match."""
    literals = 0
    for index, part in enumerate(pattern):
        if part.startswith("*"):
            return literals
        if index >= len(segments):
            return None
        if part == segments[index]:
            literals += 1
        elif not part.startswith(":"):
            return None
    return literals if len(pattern) == len(segments) else None


def parse_endpoint_costs(body: bytes) -> EndpointCosts:
    """`GET /account/endpoint_costs`. Raises WireError."""
    m = convert(body, _Costs)
    if m.default_cost <= 0 or any(row.cost < 0 for row in m.endpoint_costs):
        raise WireError("endpoint costs below zero")
    return EndpointCosts(m.default_cost, tuple((r.method.upper(), r.path, r.cost) for r in m.endpoint_costs))


class _ApiKey(msgspec.Struct):
    api_key_id: str
    name: str = ""
    scopes: list[str] = []
    subaccount: int | None = None


class _ApiKeys(msgspec.Struct):
    api_keys: list[_ApiKey]
    api_key_region_expiration_ts: int | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key of the account; `subaccount` is set when it is locked to one."""

    key_id: str
    name: str
    scopes: tuple[str, ...]
    subaccount: int | None


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """The account's keys.

    After `region_expiration_ts` (epoch seconds, None when never attested) keys cannot trade sports,
    elections and entertainment until the location attestation is renewed.
    """

    keys: tuple[ApiKey, ...]
    region_expiration_ts: int | None


def parse_api_keys(body: bytes) -> ApiKeys:
    """`GET /api_keys`. Raises WireError."""
    m = convert(body, _ApiKeys)
    keys = tuple(ApiKey(k.api_key_id, k.name, tuple(k.scopes), k.subaccount) for k in m.api_keys)
    return ApiKeys(keys, m.api_key_region_expiration_ts)


class _Settlement(msgspec.Struct):
    ticker: str
    market_result: str
    yes_count_fp: str
    yes_total_cost_dollars: str
    no_count_fp: str
    no_total_cost_dollars: str
    revenue: int
    settled_time: str
    fee_cost: str
    event_ticker: str = ""
    exchange_index: int | None = None
    value: int | None = None


class _SettlementPage(msgspec.Struct):
    settlements: list[_Settlement]
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a market we held paid out. Money in dollars; `yes_value` is the payout of one YES contract."""

    ticker: str
    event_ticker: str
    market_result: str
    yes_count: Decimal
    yes_cost: Decimal
    no_count: Decimal
    no_cost: Decimal
    revenue: Decimal
    fees: Decimal
    settled_time: float
    yes_value: Decimal | None
    exchange_index: int | None


def parse_settlement_page(body: bytes) -> tuple[tuple[Settlement, ...], str | None]:
    """Settlements and next cursor. Raises WireError."""
    page = convert(body, _SettlementPage)
    return tuple(map(_settlement, page.settlements)), page.cursor


def _settlement(m: _Settlement) -> Settlement:
    return Settlement(
        ticker=parse_ticker(m.ticker),
        event_ticker=m.event_ticker,
        market_result=m.market_result,
        yes_count=parse_size(m.yes_count_fp),
        yes_cost=parse_dollars(m.yes_total_cost_dollars),
        no_count=parse_size(m.no_count_fp),
        no_cost=parse_dollars(m.no_total_cost_dollars),
        revenue=Decimal(m.revenue) / 100,
        fees=parse_dollars(m.fee_cost),
        settled_time=parse_time(m.settled_time),
        yes_value=None if m.value is None else Decimal(m.value) / 100,
        exchange_index=m.exchange_index,
    )


# --- exchange -------------------------------------------------------------------------------------------


class _ShardStatus(msgspec.Struct):
    exchange_index: int
    exchange_active: bool
    trading_active: bool


class _ExchangeStatus(msgspec.Struct):
    exchange_active: bool
    trading_active: bool
    exchange_estimated_resume_time: str | None = None
    exchange_index_statuses: list[_ShardStatus] | None = None


@dataclass(frozen=True, slots=True)
class ExchangeStatus:
    """Whether the exchange takes changes at all (`exchange_active`) and orders (`trading_active`).

    The two flags are shard 0's; `shards` maps exchange index to (exchange_active, trading_active) and is
    empty when the exchange does not tell. `estimated_resume_time` is epoch seconds and no promise.
    """

    exchange_active: bool
    trading_active: bool
    estimated_resume_time: float | None
    shards: Mapping[int, tuple[bool, bool]]

    def can_trade(self, exchange_index: int | None) -> bool:
        """Whether a shard takes orders; an unknown shard counts as shard 0."""
        flags = self.shards.get(exchange_index or 0, (self.exchange_active, self.trading_active))
        return all(flags)


def parse_exchange_status(body: bytes) -> ExchangeStatus:
    """`GET /exchange/status`, which comes with HTTP 200, 500, 503 or 504 alike. Raises WireError."""
    m = convert(body, _ExchangeStatus)
    resume = m.exchange_estimated_resume_time
    return ExchangeStatus(
        m.exchange_active,
        m.trading_active,
        None if not resume else parse_time(resume),
        {s.exchange_index: (s.exchange_active, s.trading_active) for s in m.exchange_index_statuses or ()},
    )


class _Hours(msgspec.Struct):
    open_time: str
    close_time: str


class _Week(msgspec.Struct):
    start_time: str
    end_time: str
    monday: list[_Hours]
    tuesday: list[_Hours]
    wednesday: list[_Hours]
    thursday: list[_Hours]
    friday: list[_Hours]
    saturday: list[_Hours]
    sunday: list[_Hours]


class _Window(msgspec.Struct):
    start_datetime: str
    end_datetime: str


class _Schedule(msgspec.Struct):
    standard_hours: list[_Week]
    maintenance_windows: list[_Window]


class _ScheduleDocument(msgspec.Struct):
    schedule: _Schedule


def parse_exchange_schedule(body: bytes) -> ExchangeSchedule:
    """`GET /exchange/schedule`. Raises WireError."""
    m = convert(body, _ScheduleDocument).schedule
    windows = ((parse_time(w.start_datetime), parse_time(w.end_datetime)) for w in m.maintenance_windows)
    return ExchangeSchedule(tuple(map(_weekly_hours, m.standard_hours)), tuple(windows))


def _weekly_hours(m: _Week) -> WeeklyHours:
    days = (m.monday, m.tuesday, m.wednesday, m.thursday, m.friday, m.saturday, m.sunday)
    return WeeklyHours(
        parse_time(m.start_time),
        parse_time(m.end_time),
        tuple(tuple((s.open_time, s.close_time) for s in day) for day in days),
    )


class _UserDataTimestamp(msgspec.Struct):
    as_of_time: str


def parse_user_data_timestamp(body: bytes) -> float:
    """Epoch seconds up to which portfolio reads are known to be complete. Raises WireError."""
    return parse_time(convert(body, _UserDataTimestamp).as_of_time)


prepare(globals())
