"""Every metric there is: name, type, labels, help, and where its values come from.

`/metrics` and the Grafana dashboard are both made from this table. No label holds an account, a market or
anything else that grows without bound.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from base.ui.document import awaits_settlement, rows, section

Status = Mapping[str, Any]
Values = Mapping[tuple[str, ...], float]

TICK_TO_DECISION = "backstop_tick_to_decision_seconds"
TICK_AGE_ACTED_ON = "backstop_exit_price_age_seconds"
DECISION_TO_ACK = "backstop_decision_to_ack_seconds"
EXITS_ENDED = "backstop_exits_ended"
REST_ANSWERS = "backstop_rest_requests"
TOKENS = "backstop_rest_tokens"
TOKENS_CAPACITY = "backstop_rest_tokens_capacity"
THREAD_PASSES = "backstop_thread_passes"

TRADING_STATES = ("halted", "reducing", "active")
FEED_STATES = ("connecting", "live", "down")
EXIT_STATES = ("triggered", "sending", "unknown", "blocked", "closed")


class MetricKind(StrEnum):
    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class HistogramState:
    """Observations by slot: one for each upper bound (inclusive) and one for what is above them all."""

    bounds_s: tuple[float, ...]
    counts: tuple[int, ...]
    total_s: float


@dataclass(frozen=True, slots=True)
class Measurements:
    """What the status document does not tell: by metric name, values by their labels."""

    histograms: Mapping[str, HistogramState] = field(default_factory=dict)
    values: Mapping[str, Values] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric. `read` takes its values from the status document; without one they are measured."""

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()
    read: Callable[[Status], Values] | None = None

    @property
    def series(self) -> str:
        """The name under which its samples are queried."""
        return (
            self.name
            + {
                MetricKind.GAUGE: "",
                MetricKind.COUNTER: "_total",
                MetricKind.HISTOGRAM: "_bucket",
            }[self.kind]
        )


def number(value: Any) -> float | None:
    """A finite number, None for anything else."""
    # Prometheus knows only floats; dollars become one here, at the way out, and nowhere earlier.
    if value is None:
        return None
    try:
        parsed = float(value)
    except (TypeError, ValueError):
        return None
    return parsed if math.isfinite(parsed) else None


def _one(value: Any) -> Values:
    parsed = number(value)
    return {} if parsed is None else {(): parsed}


def _at(path: str) -> Callable[[Status], Values]:
    def read(status: Status) -> Values:
        value: Any = status
        for key in path.split("."):
            if not isinstance(value, Mapping):
                return {}
            value = value.get(key)
        return _one(value)

    return read


def _one_of(states: Iterable[str], find: Callable[[Status], Any]) -> Callable[[Status], Values]:
    """1 for the present state, 0 for the others; nothing where it is not told."""

    def read(status: Status) -> Values:
        current = find(status)
        return {} if current is None else {(state,): float(state == current) for state in states}

    return read


def _info(status: Status) -> Values:
    return {tuple(str(status.get(label, "")) for label in ("version", "env", "trading_mode")): 1.0}


def _feed_state(status: Status) -> Any:
    return section(status, "feed").get("state")


def _feed_up(status: Status) -> Values:
    state = _feed_state(status)
    return {} if state is None else {(): float(state == "live")}


def _unprotected(status: Status) -> Values:
    entries = section(status, "coverage").get("unprotected")
    return _counted(str(e.get("reason", "")) for e in rows(entries)) if isinstance(entries, list) else {}


def _exits(status: Status) -> Values:
    entries = status.get("exits")
    if not isinstance(entries, list):
        return {}
    return dict.fromkeys(((s,) for s in EXIT_STATES), 0.0) | _counted(
        str(e.get("state", "")) for e in rows(entries)
    )


def _counted(words: Iterable[str]) -> dict[tuple[str, ...], float]:
    return {(word,): float(count) for word, count in sorted(Counter(words).items())}


def _of_groups(groups: Mapping[str, Any], field_name: str) -> Values:
    """A field of each object in an object, by the object's name."""
    found = {(str(n),): number(section(groups, n).get(field_name)) for n in sorted(groups)}
    return {labels: value for labels, value in found.items() if value is not None}


def _thread(field_name: str) -> Callable[[Status], Values]:
    return lambda status: _of_groups(section(status, "threads"), field_name)


def _by_strategy(field_name: str) -> Callable[[Status], Values]:
    return lambda status: _of_groups(section(section(status, "pnl"), "by_strategy"), field_name)


def _oldest_price(status: Status) -> Values:
    tradable = [row for row in rows(status.get("positions")) if not awaits_settlement(row)]
    known = [age for age in (number(row.get("price_age_s")) for row in tradable) if age is not None]
    return _one(max(known, default=None))


def _gauge(name: str, path: str, help_text: str) -> MetricSpec:
    return MetricSpec(name, MetricKind.GAUGE, help_text, (), _at(path))


_G, _C, _H = MetricKind.GAUGE, MetricKind.COUNTER, MetricKind.HISTOGRAM

METRICS: tuple[MetricSpec, ...] = (
    MetricSpec(
        "backstop_info", _G, "Always 1; the labels say what runs.", ("version", "env", "trading_mode"), _info
    ),
    _gauge("backstop_uptime_seconds", "uptime_s", "Time since the daemon started."),
    _gauge(
        "backstop_healthy",
        "health.ok",
        "1 when every open position is protected and every thread is on time.",
    ),
    MetricSpec(
        "backstop_trading_state",
        _G,
        "The trading state: 1 for the present one.",
        ("state",),
        _one_of(TRADING_STATES, lambda status: status.get("trading_state")),
    ),
    # --- coverage and exits
    _gauge(
        "backstop_coverage_known",
        "coverage.known",
        "1 when all that is held has been read; while it is 0 the numbers of positions are of a part.",
    ),
    _gauge("backstop_positions_open", "coverage.open", "Positions whose market can still trade."),
    _gauge("backstop_positions_protected", "coverage.protected", "Open positions protected right now."),
    MetricSpec(
        "backstop_positions_unprotected",
        _G,
        "Open positions without protection, by reason (by_choice is not counted as open).",
        ("reason",),
        _unprotected,
    ),
    MetricSpec("backstop_exits", _G, "Exit episodes listed, by state.", ("state",), _exits),
    MetricSpec(EXITS_ENDED, _C, "Exits ended since the start, by reason and outcome.", ("reason", "outcome")),
    # --- latency
    MetricSpec(
        "backstop_price_age_max_seconds",
        _G,
        "Age of the oldest price among the positions that can still trade.",
        (),
        _oldest_price,
    ),
    MetricSpec(TICK_TO_DECISION, _H, "From a frame with a changed price to the rules' look at it."),
    MetricSpec(TICK_AGE_ACTED_ON, _H, "Age of the price that an exit was triggered on."),
    MetricSpec(
        DECISION_TO_ACK,
        _H,
        "From the decision to leave to the first order's acknowledgement, waits for the budget included.",
    ),
    # --- feed
    MetricSpec("backstop_feed_up", _G, "1 while the feed is live.", (), _feed_up),
    MetricSpec(
        "backstop_feed_state",
        _G,
        "The feed's state: 1 for the present one.",
        ("state",),
        _one_of(FEED_STATES, _feed_state),
    ),
    _gauge("backstop_feed_connected_seconds", "feed.connected_for_s", "Age of the present connection."),
    _gauge(
        "backstop_feed_last_frame_age_seconds", "feed.last_frame_age_s", "Age of the last frame of any kind."
    ),
    _gauge(
        "backstop_feed_markets_required", "feed.markets_required", "Markets that the feed should deliver."
    ),
    _gauge(
        "backstop_feed_markets_confirmed",
        "feed.markets_confirmed",
        "Markets acknowledged by the exchange with a price received on this connection.",
    ),
    MetricSpec(
        "backstop_feed_reconnects",
        _C,
        "Reconnections of the feed since the start.",
        (),
        _at("feed.reconnects"),
    ),
    MetricSpec(
        "backstop_feed_messages",
        _C,
        "Messages received from the feed since the start.",
        (),
        _at("feed.messages"),
    ),
    # --- requests
    _gauge("backstop_rest_reads_last_60s", "rest.reads_last_60s", "REST reads in the last minute."),
    _gauge("backstop_rest_writes_last_60s", "rest.writes_last_60s", "REST writes in the last minute."),
    _gauge(
        "backstop_rest_price_reads_last_60s",
        "rest.price_reads_last_60s",
        "REST reads made to learn prices in the last minute (part of the reads).",
    ),
    _gauge(
        "backstop_rest_rate_limited_last_60s",
        "rest.rate_limited_last_60s",
        "Answers 429 in the last minute.",
    ),
    MetricSpec(
        REST_ANSWERS,
        _C,
        "REST requests since the start, by lane, area and status (none: no usable answer).",
        ("lane", "area", "status"),
    ),
    MetricSpec(TOKENS, _G, "Tokens in the request budget now.", ("bucket",)),
    MetricSpec(TOKENS_CAPACITY, _G, "Size of the request budget, in tokens.", ("bucket",)),
    # --- threads
    MetricSpec("backstop_thread_alive", _G, "1 while the thread runs.", ("thread",), _thread("alive")),
    MetricSpec(
        "backstop_thread_last_pass_age_seconds",
        _G,
        "Age of the thread's last completed pass.",
        ("thread",),
        _thread("last_pass_age_s"),
    ),
    MetricSpec(THREAD_PASSES, _C, "Completed passes since the start.", ("thread",)),
    # --- money
    _gauge("backstop_realized_pnl_today_dollars", "pnl.realized_today", "Realized profit or loss of today."),
    _gauge("backstop_unrealized_pnl_dollars", "pnl.unrealized", "Unrealized profit or loss at exit values."),
    _gauge("backstop_fees_today_dollars", "pnl.fees_today", "Fees paid today."),
    MetricSpec(
        "backstop_strategy_realized_pnl_today_dollars",
        _G,
        "Realized profit or loss of today, by strategy (empty: opened elsewhere).",
        ("strategy",),
        _by_strategy("realized_today"),
    ),
    MetricSpec(
        "backstop_strategy_unrealized_pnl_dollars",
        _G,
        "Unrealized profit or loss at exit values, by strategy (empty: opened elsewhere).",
        ("strategy",),
        _by_strategy("unrealized"),
    ),
    MetricSpec(
        "backstop_strategy_fees_today_dollars",
        _G,
        "Fees paid today, by strategy (empty: opened elsewhere).",
        ("strategy",),
        _by_strategy("fees_today"),
    ),
)

BY_NAME: Mapping[str, MetricSpec] = {spec.name: spec for spec in METRICS}
