"""Faults on demand: what is broken right now, and the checked request that breaks it. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TypeVar

from base.sandbox.records import ShardState

WINDOW_S_MAX = 30 * 86_400.0
_Choice = TypeVar("_Choice", bound=StrEnum)


class CallAction(StrEnum):
    """What happens to the next calls of an endpoint instead of a plain answer."""

    STATUS = "status"
    """Answer with this status and body; nothing acts."""
    ACT_THEN_500 = "act_then_500"
    ACT_THEN_TIMEOUT = "act_then_timeout"
    """Act, then never answer (until the client hangs up, at most a minute)."""
    ACT_THEN_RESET = "act_then_reset"
    """Act, then reset the connection."""
    RESET_BEFORE = "reset_before"
    UNAVAILABLE = "503"
    RATE_LIMITED = "429"
    EMPTY_LIST = "empty_list"
    """A well-formed answer whose lists are all empty: "unknown", never "flat"."""


class AuthFault(StrEnum):
    """How signed REST calls are answered while the key, or the clock, counts as bad."""

    OK = "ok"
    DEAD = "dead"
    SKEWED = "skewed"


class OnDisconnect(StrEnum):
    """What becomes of a call whose client hangs up before it is answered. A real exchange may do either."""

    ACT = "act"
    DROP = "drop"


@dataclass(slots=True)
class CallFault:
    """A script for the next `times` calls whose method and path (below /trade-api/v2, globs) match."""

    method: str
    path: str
    action: CallAction
    times: int = 1
    status: int = 500
    body: object = None

    def matches(self, method: str, path: str) -> bool:
        return self.times > 0 and fnmatchcase(method, self.method) and fnmatchcase(path, self.path)


@dataclass(slots=True)
class Faults:
    """The state of the breakage; times are wall seconds. Owned by the server's thread."""

    refuse_ws_until: float = 0.0
    refuse_ws_status: int | None = None
    """None: the upgrade hangs instead."""
    silent_until: float = 0.0
    drop_acks: int = 0
    muted_tickers: frozenset[str] | None = frozenset()
    """Markets without ticker frames; None means all of them."""
    drop_book_frames: int = 0
    latency_s: float = 0.0
    read_lag_s: float = 0.0
    auth: AuthFault = AuthFault.OK
    is_gone: bool = False
    on_disconnect: OnDisconnect = OnDisconnect.ACT
    maintenance_windows: tuple[tuple[float, float], ...] = ()
    """Start and end."""
    attestation_ends_at: float | None = None
    """The key's location attestation; None: there never was one."""
    has_date: bool = True
    """Whether answers say what time it is."""
    calls: list[CallFault] = field(default_factory=list)

    def take_call(self, method: str, path: str) -> CallFault | None:
        """The fault for this call, used up by one."""
        for fault in self.calls:
            if fault.matches(method, path):
                fault.times -= 1
                return fault
        return None

    def is_muted(self, ticker: object) -> bool:
        return self.muted_tickers is None or ticker in self.muted_tickers


@dataclass(frozen=True, slots=True)
class FaultRequest:
    """A checked `POST /sandbox/faults`; None leaves a thing as it is."""

    is_clear: bool = False
    cut_sockets: bool = False
    refuse_ws_for_s: float | None = None
    refuse_ws_status: int | None = None
    silent_s: float | None = None
    drop_acks: int | None = None
    mute_tickers: bool | tuple[str, ...] | None = None
    drop_book_frames: int | None = None
    garbage_frames: int = 0
    latency_s: float | None = None
    read_lag_s: float | None = None
    calls: tuple[CallFault, ...] | None = None
    pause_market: str | None = None
    resume_market: str | None = None
    exchange_active: bool | None = None
    trading_active: bool | None = None
    max_fill_per_order: Decimal | None = None
    zero_fill_orders: int | None = None
    shard_active: Mapping[int, ShardState] | None = None
    shard_balance: Mapping[int, Decimal] | None = None
    auth: AuthFault | None = None
    gone: bool | None = None
    on_disconnect: OnDisconnect | None = None
    maintenance_windows: tuple[tuple[float, float], ...] | None = None
    """Start and end in seconds from now."""
    attestation_ends_in_s: float | None = None
    """From now; below 0 when it has ended."""
    date: bool | None = None


class BadFaultRequest(ValueError):
    """The request names something unknown or a bad value."""


_KEYS = {
    "cut_sockets", "refuse_ws", "silent_s", "drop_acks", "mute_tickers", "drop_book_frames",
    "garbage_frames", "latency_s", "read_lag_s", "calls", "pause_market", "resume_market",
    "exchange_active", "trading_active", "max_fill_per_order", "zero_fill_orders",
    "shard_active", "shard_balance", "auth", "gone", "on_disconnect", "maintenance_windows",
    "attestation_ends_in_s", "date",
}  # fmt: skip


def parse_faults(body: Mapping[str, object]) -> FaultRequest:
    """Check a fault request; an empty one clears everything. Raises BadFaultRequest."""
    unknown = sorted(set(body) - _KEYS)
    if unknown:
        raise BadFaultRequest(f"unknown {', '.join(unknown)}; known are {', '.join(sorted(_KEYS))}")
    refuse = body.get("refuse_ws")
    if refuse is not None and (not isinstance(refuse, dict) or "for_s" not in refuse):
        raise BadFaultRequest('refuse_ws must be {"for_s": seconds, "status": 503}; without status it hangs')
    return FaultRequest(
        is_clear=not body,
        cut_sockets=_flag(body, "cut_sockets") is True,
        refuse_ws_for_s=_seconds(refuse, "for_s") if refuse is not None else None,
        refuse_ws_status=_integer(refuse, "status") if refuse is not None else None,
        silent_s=_seconds(body, "silent_s"),
        drop_acks=_integer(body, "drop_acks"),
        mute_tickers=_mute(body.get("mute_tickers")),
        drop_book_frames=_integer(body, "drop_book_frames"),
        garbage_frames=_integer(body, "garbage_frames") or 0,
        latency_s=_seconds(body, "latency_s"),
        read_lag_s=_seconds(body, "read_lag_s"),
        calls=_calls(body.get("calls")),
        pause_market=_text(body, "pause_market"),
        resume_market=_text(body, "resume_market"),
        exchange_active=_flag(body, "exchange_active"),
        trading_active=_flag(body, "trading_active"),
        max_fill_per_order=_decimal(body, "max_fill_per_order"),
        zero_fill_orders=_integer(body, "zero_fill_orders"),
        shard_active=_shard_states(body.get("shard_active")),
        shard_balance=_shard_balances(body.get("shard_balance")),
        auth=_choice(body, "auth", AuthFault),
        gone=_flag(body, "gone"),
        on_disconnect=_choice(body, "on_disconnect", OnDisconnect),
        maintenance_windows=_windows(body.get("maintenance_windows")),
        attestation_ends_in_s=_offset(body, "attestation_ends_in_s"),
        date=_flag(body, "date"),
    )


def _shards(value: object, name: str) -> dict[int, object]:
    if not isinstance(value, dict) or not all(isinstance(k, str) and k.isdecimal() for k in value):
        raise BadFaultRequest(f'{name} must be an object by exchange index, like {{"2": …}}')
    return {int(k): v for k, v in value.items()}


def _shard_states(value: object) -> dict[int, ShardState] | None:
    if value is None:
        return None
    states: dict[object, ShardState] = {
        True: ShardState.ACTIVE,
        False: ShardState.TRADING_PAUSED,
        "exchange_paused": ShardState.EXCHANGE_PAUSED,
    }
    found = _shards(value, "shard_active")
    if not all(isinstance(v, bool | str) and v in states for v in found.values()):
        raise BadFaultRequest('shard_active must say true, false or "exchange_paused" for each shard')
    return {index: states[v] for index, v in found.items()}


def _shard_balances(value: object) -> dict[int, Decimal] | None:
    if value is None:
        return None
    found: dict[int, Decimal] = {}
    for index, dollars in _shards(value, "shard_balance").items():
        balance = _decimal({"shard_balance": dollars}, "shard_balance")
        if balance is None:
            raise BadFaultRequest("shard_balance must say dollars for each shard")
        found[index] = balance
    return found


def _windows(value: object) -> tuple[tuple[float, float], ...] | None:
    if value is None:
        return None
    found: list[tuple[float, float]] = []
    for window in value if isinstance(value, list) else [value]:
        bounds = [window.get(n) for n in ("start_in_s", "end_in_s")] if isinstance(window, dict) else []
        ends = [float(b) for b in bounds if isinstance(b, int | float) and not isinstance(b, bool)]
        if len(ends) != 2 or not -WINDOW_S_MAX <= ends[0] < ends[1] <= WINDOW_S_MAX:
            raise BadFaultRequest(
                'maintenance_windows must be a list of {"start_in_s": …, "end_in_s": …}, in this order'
            )
        found.append((ends[0], ends[1]))
    return tuple(found)


def _offset(body: Mapping[str, object], name: str) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= WINDOW_S_MAX:
        raise BadFaultRequest(f"{name} must be a number of seconds from now, at most 30 days either way")
    return float(value)


def _choice(body: Mapping[str, object], name: str, known: type[_Choice]) -> _Choice | None:
    value = body.get(name)
    if value is None:
        return None
    try:
        return known(str(value))
    except ValueError as exc:
        raise BadFaultRequest(f"{name} must be one of {', '.join(known)}") from exc


def _calls(value: object) -> tuple[CallFault, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise BadFaultRequest("calls must be a list")
    return tuple(_call(item) for item in value)


def _call(item: object) -> CallFault:
    if not isinstance(item, dict):
        raise BadFaultRequest("each call must be an object with method, path and action")
    try:
        action = CallAction(str(item.get("action")))
    except ValueError as exc:
        raise BadFaultRequest(f"action must be one of {', '.join(CallAction)}") from exc
    return CallFault(
        method=(_text(item, "method") or "*").upper(),
        path=_text(item, "path") or "*",
        action=action,
        times=_integer(item, "times") or 1,
        status=_integer(item, "status") or 500,
        body=item.get("body"),
    )


def _mute(value: object) -> bool | tuple[str, ...] | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, list) and all(isinstance(t, str) for t in value):
        return tuple(value)
    raise BadFaultRequest("mute_tickers must be true, false or a list of market tickers")


def _flag(body: Mapping[str, object], name: str) -> bool | None:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadFaultRequest(f"{name} must be true or false")
    return value


def _seconds(body: Mapping[str, object], name: str) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 86_400:
        raise BadFaultRequest(f"{name} must be a number of seconds from 0 to 86400")
    return float(value)


def _integer(body: Mapping[str, object], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1_000_000:
        raise BadFaultRequest(f"{name} must be a whole number, 0 or above")
    return value


def _text(body: Mapping[str, object], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise BadFaultRequest(f"{name} must be a string")
    return value


def _decimal(body: Mapping[str, object], name: str) -> Decimal | None:
    value = body.get(name)
    if value is None:
        return None
    try:
        number = Decimal(value) if isinstance(value, str) else None
    except InvalidOperation:
        number = None
    if number is None or not number.is_finite() or number < 0:
        raise BadFaultRequest(f'{name} must be a count as a string, like "3.00"')
    return number
