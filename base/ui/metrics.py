"""The status document as Prometheus metrics."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from base.ui.document import awaits_settlement, rows, section

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

TRADING_STATES = ("halted", "reducing", "active")
FEED_STATES = ("connecting", "live", "down")
EXIT_STATES = ("triggered", "sending", "unknown", "blocked", "closed")

# (path in the status document, metric name, help). Nothing here names an account or a position.
_GAUGES: tuple[tuple[str, str, str], ...] = (
    ("uptime_s", "backstop_uptime_seconds", "Time since the daemon started."),
    ("health.ok", "backstop_healthy", "1 when every open position is protected and every thread is on time."),
    ("coverage.open", "backstop_positions_open", "Positions whose market can still trade."),
    ("coverage.protected", "backstop_positions_protected", "Open positions protected right now."),
    ("feed.connected_for_s", "backstop_feed_connected_seconds", "Age of the present connection."),
    ("feed.last_frame_age_s", "backstop_feed_last_frame_age_seconds", "Age of the last frame of any kind."),
    ("feed.markets_required", "backstop_feed_markets_required", "Markets that the feed should deliver."),
    (
        "feed.markets_confirmed",
        "backstop_feed_markets_confirmed",
        "Markets acknowledged by the exchange with a price received on this connection.",
    ),
    ("rest.reads_last_60s", "backstop_rest_reads_last_60s", "REST reads in the last minute."),
    ("rest.writes_last_60s", "backstop_rest_writes_last_60s", "REST writes in the last minute."),
    (
        "rest.price_reads_last_60s",
        "backstop_rest_price_reads_last_60s",
        "REST reads made to learn prices in the last minute (part of the reads).",
    ),
    (
        "rest.rate_limited_last_60s",
        "backstop_rest_rate_limited_last_60s",
        "Answers 429 in the last minute.",
    ),
    ("pnl.realized_today", "backstop_realized_pnl_today_dollars", "Realized profit or loss of today."),
    ("pnl.unrealized", "backstop_unrealized_pnl_dollars", "Unrealized profit or loss at exit values."),
    ("pnl.fees_today", "backstop_fees_today_dollars", "Fees paid today."),
)
_COUNTERS: tuple[tuple[str, str, str], ...] = (
    ("feed.reconnects", "backstop_feed_reconnects", "Reconnections of the feed since the start."),
    ("feed.messages", "backstop_feed_messages", "Messages received from the feed since the start."),
)


def render_metrics(status: Mapping[str, Any]) -> bytes:
    """Render `status` as Prometheus text.

    What the document does not tell is left out, never shown as 0: alert on `absent()` as well.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_StatusCollector(status))
    return generate_latest(registry)


class _StatusCollector(Collector):
    def __init__(self, status: Mapping[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        yield from _plain_values(self._status)
        yield from _states(self._status)
        yield from _unprotected(self._status)
        yield from _threads(self._status)
        yield from _exits(self._status)
        yield from _price_ages(self._status)
        yield from _money_by_strategy(self._status)


def _plain_values(status: Mapping[str, Any]) -> Iterator[Metric]:
    for path, name, help_text in _GAUGES:
        value = _number(_at(status, path))
        if value is not None:
            yield GaugeMetricFamily(name, help_text, value=value)
    for path, name, help_text in _COUNTERS:
        value = _number(_at(status, path))
        if value is not None:
            yield CounterMetricFamily(name, help_text, value=value)


def _states(status: Mapping[str, Any]) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "backstop_info", "Always 1; the labels say what runs.", labels=["version", "env", "trading_mode"]
    )
    info.add_metric([str(status.get(label, "")) for label in ("version", "env", "trading_mode")], 1)
    yield info
    feed_state = _at(status, "feed.state")
    if feed_state is not None:
        yield GaugeMetricFamily(
            "backstop_feed_up", "1 while the feed is live.", value=float(feed_state == "live")
        )
        yield _one_of(
            "backstop_feed_state", "The feed's state: 1 for the present one.", FEED_STATES, feed_state
        )
    trading_state = status.get("trading_state")
    if trading_state is not None:
        yield _one_of(
            "backstop_trading_state",
            "The trading state: 1 for the present one.",
            TRADING_STATES,
            trading_state,
        )


def _one_of(name: str, help_text: str, states: tuple[str, ...], current: Any) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=["state"])
    for state in states:
        family.add_metric([state], float(state == current))
    return family


def _unprotected(status: Mapping[str, Any]) -> Iterator[Metric]:
    entries = section(status, "coverage").get("unprotected")
    if isinstance(entries, list):
        yield _counts_by(
            "backstop_positions_unprotected",
            "Open positions without protection, by reason (by_choice is not counted as open).",
            "reason",
            Counter(str(entry.get("reason", "")) for entry in rows(entries)),
        )


def _exits(status: Mapping[str, Any]) -> Iterator[Metric]:
    entries = status.get("exits")
    if isinstance(entries, list):
        counts = Counter(dict.fromkeys(EXIT_STATES, 0))
        counts.update(str(entry.get("state", "")) for entry in rows(entries))
        yield _counts_by("backstop_exits", "Exit episodes listed, by state.", "state", counts)


def _counts_by(name: str, help_text: str, label: str, counts: Counter[str]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


def _threads(status: Mapping[str, Any]) -> Iterator[Metric]:
    alive = GaugeMetricFamily("backstop_thread_alive", "1 while the thread runs.", labels=["thread"])
    age = GaugeMetricFamily(
        "backstop_thread_last_pass_age_seconds", "Age of the thread's last completed pass.", labels=["thread"]
    )
    threads = section(status, "threads")
    for name in sorted(threads):
        facts = section(threads, name)
        for family, field in ((alive, "alive"), (age, "last_pass_age_s")):
            value = _number(facts.get(field))
            if value is not None:
                family.add_metric([str(name)], value)
    yield alive
    yield age


def _price_ages(status: Mapping[str, Any]) -> Iterator[Metric]:
    tradable = [row for row in rows(status.get("positions")) if not awaits_settlement(row)]
    known = [age for age in (_number(row.get("price_age_s")) for row in tradable) if age is not None]
    if known:
        yield GaugeMetricFamily(
            "backstop_price_age_max_seconds",
            "Age of the oldest price among the positions that can still trade.",
            value=max(known),
        )


_BY_STRATEGY = (
    ("realized_today", "backstop_strategy_realized_pnl_today_dollars", "Realized profit or loss of today"),
    ("unrealized", "backstop_strategy_unrealized_pnl_dollars", "Unrealized profit or loss at exit values"),
    ("fees_today", "backstop_strategy_fees_today_dollars", "Fees paid today"),
)


def _money_by_strategy(status: Mapping[str, Any]) -> Iterator[Metric]:
    groups = section(section(status, "pnl"), "by_strategy")
    for field, name, help_text in _BY_STRATEGY:
        family = GaugeMetricFamily(
            name, f"{help_text}, by strategy (empty: opened elsewhere).", labels=["strategy"]
        )
        for strategy in sorted(groups):
            value = _number(section(groups, strategy).get(field))
            if value is not None:
                family.add_metric([str(strategy)], value)
        if family.samples:
            yield family


def _at(document: Mapping[str, Any], path: str) -> Any:
    value: Any = document
    for key in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def _number(value: Any) -> float | None:
    # Prometheus knows only floats; dollars become one here, at the way out, and nowhere earlier.
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
