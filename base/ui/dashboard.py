"""The Grafana dashboard of the daemon's metrics, made from the table that `/metrics` is made from.

A panel that names a metric or a label that is not in the table raises KeyError: the test makes every panel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from base.ui.metric_table import (
    BY_NAME,
    DECISION_TO_ACK,
    EXITS_ENDED,
    REST_ANSWERS,
    THREAD_PASSES,
    TICK_AGE_ACTED_ON,
    TICK_TO_DECISION,
    TOKENS,
    TOKENS_CAPACITY,
    MetricKind,
)

SCHEMA_VERSION = 39
"""Grafana 10 and newer; newer ones migrate it by themselves."""
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
GRID_WIDTH = 24
HEIGHT = 8
LATENCIES = (TICK_TO_DECISION, DECISION_TO_ACK, TICK_AGE_ACTED_ON)


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression, and what its lines are called."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    red_above: float | None = None
    """Where the value turns red, None for no threshold."""
    red_below: float | None = None


def now(name: str, by: str = "") -> str:
    """The value of a gauge, summed by a label where one is named."""
    series = _series(name, MetricKind.GAUGE, *filter(None, (by,)))
    return f"sum by ({by}) ({series})" if by else series


def increase(name: str, *by: str) -> str:
    """How much a counter has grown in the interval that a point of the graph stands for."""
    series = _series(name, MetricKind.COUNTER, *by)
    total = f"increase({series}[$__rate_interval])"
    return f"sum by ({', '.join(by)}) ({total})" if by else total


def quantile(share: float, name: str) -> str:
    """A quantile of what was observed in the last five minutes: exits are rare."""
    series = _series(name, MetricKind.HISTOGRAM)
    return f"histogram_quantile({share}, sum by (le) (increase({series}[5m])))"


def _series(name: str, kind: MetricKind, *labels: str) -> str:
    spec = BY_NAME[name]
    if spec.kind is not kind or not set(labels) <= set(spec.labels):
        raise KeyError(f"{name} is a {spec.kind} with the labels {spec.labels}")
    return spec.series


def _latency(name: str) -> tuple[Query, ...]:
    return tuple(Query(quantile(share, name), f"p{share * 100:g}") for share in (0.5, 0.99))


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Protection",
        (
            Panel(
                "Healthy",
                (Query(now("backstop_healthy"), "healthy"), Query(now("backstop_coverage_known"), "known")),
                kind="stat",
                width=4,
                red_below=1,
            ),
            Panel(
                "Coverage",
                (
                    Query(now("backstop_positions_protected"), "protected"),
                    Query(now("backstop_positions_open"), "open"),
                ),
            ),
            Panel(
                "Unprotected, by reason",
                (Query(now("backstop_positions_unprotected", "reason"), "{{reason}}"),),
                red_above=1,
            ),
            Panel(
                "Trading state",
                (Query(now("backstop_trading_state", "state"), "{{state}}"),),
                width=4,
            ),
        ),
    ),
    (
        "Exits",
        (
            Panel("Exits listed, by state", (Query(now("backstop_exits", "state"), "{{state}}"),)),
            Panel(
                "Exits ended",
                (Query(increase(EXITS_ENDED, "reason", "outcome"), "{{reason}} → {{outcome}}"),),
                width=16,
            ),
        ),
    ),
    (
        "Latency",
        (
            Panel("Tick to decision", _latency(TICK_TO_DECISION), "s"),
            Panel("Decision to acknowledgement", _latency(DECISION_TO_ACK), "s"),
            Panel("Age of the price acted on", _latency(TICK_AGE_ACTED_ON), "s"),
        ),
    ),
    (
        "Feed",
        (
            Panel(
                "Markets",
                (
                    Query(now("backstop_feed_markets_confirmed"), "confirmed"),
                    Query(now("backstop_feed_markets_required"), "required"),
                ),
                width=6,
            ),
            Panel(
                "Age of the last frame",
                (
                    Query(now("backstop_feed_last_frame_age_seconds"), "last frame"),
                    Query(now("backstop_price_age_max_seconds"), "oldest price"),
                ),
                "s",
                width=6,
            ),
            Panel("Reconnects", (Query(increase("backstop_feed_reconnects"), "reconnects"),), width=6),
            Panel("Messages", (Query(increase("backstop_feed_messages"), "messages"),), width=6),
        ),
    ),
    (
        "Requests",
        (
            Panel(
                "Request budget",
                (
                    Query(now(TOKENS, "bucket"), "{{bucket}}"),
                    Query(now(TOKENS_CAPACITY, "bucket"), "{{bucket}}, full"),
                ),
            ),
            Panel(
                "Requests, by lane and area",
                (Query(increase(REST_ANSWERS, "lane", "area"), "{{lane}} {{area}}"),),
            ),
            Panel("Requests, by status", (Query(increase(REST_ANSWERS, "status"), "{{status}}"),)),
            Panel(
                "Reads of prices in the last minute",
                (Query(now("backstop_rest_price_reads_last_60s"), "price reads"),),
                width=12,
            ),
            Panel(
                "Answers 429 in the last minute",
                (Query(now("backstop_rest_rate_limited_last_60s"), "429"),),
                width=12,
                red_above=1,
            ),
        ),
    ),
    (
        "Money",
        (
            Panel(
                "Realized today, by strategy",
                (
                    Query(now("backstop_strategy_realized_pnl_today_dollars", "strategy"), "{{strategy}}"),
                    Query(now("backstop_realized_pnl_today_dollars"), "all"),
                ),
                "currencyUSD",
            ),
            Panel(
                "Unrealized, by strategy",
                (
                    Query(now("backstop_strategy_unrealized_pnl_dollars", "strategy"), "{{strategy}}"),
                    Query(now("backstop_unrealized_pnl_dollars"), "all"),
                ),
                "currencyUSD",
            ),
            Panel(
                "Fees today, by strategy",
                (
                    Query(now("backstop_strategy_fees_today_dollars", "strategy"), "{{strategy}}"),
                    Query(now("backstop_fees_today_dollars"), "all"),
                ),
                "currencyUSD",
            ),
        ),
    ),
    (
        "Threads",
        (
            Panel(
                "Age of the last pass",
                (Query(now("backstop_thread_last_pass_age_seconds", "thread"), "{{thread}}"),),
                "s",
                width=12,
            ),
            Panel("Passes", (Query(increase(THREAD_PASSES, "thread"), "{{thread}}"),), width=6),
            Panel("Alive", (Query(now("backstop_thread_alive", "thread"), "{{thread}}"),), width=6),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it; it asks for the Prometheus data source."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        panels.append(_row(len(panels) + 1, title, y))
        y += 1
        x = 0
        for panel in row:
            if x + panel.width > GRID_WIDTH:
                x, y = 0, y + HEIGHT
            panels.append(_panel(len(panels) + 1, panel, x, y))
            x += panel.width
        y += HEIGHT
    return {
        "uid": "backstop",
        "title": "Backstop",
        "tags": ["backstop"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
            ]
        },
        "annotations": {"list": []},
        "panels": panels,
    }


def _row(number: int, title: str, y: int) -> dict[str, Any]:
    place = {"h": 1, "w": GRID_WIDTH, "x": 0, "y": y}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _panel(number: int, panel: Panel, x: int, y: int) -> dict[str, Any]:
    helps = _helps(panel.queries)
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": " ".join(helps),
        "datasource": DATASOURCE,
        "gridPos": {"h": HEIGHT, "w": panel.width, "x": x, "y": y},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": query.expression,
                "legendFormat": query.legend or "__auto",
            }
            for index, query in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": {"unit": panel.unit} | _thresholds(panel), "overrides": []},
        "options": {},
    }


def _helps(queries: Sequence[Query]) -> list[str]:
    """What the metrics of these queries mean, in the words of the table."""
    found = [s for q in queries for s in BY_NAME.values() if _names(q.expression, s.series)]
    return list(dict.fromkeys(spec.help for spec in found))


def _names(expression: str, series: str) -> bool:
    _, found, after = expression.partition(series)
    return bool(found) and not after[:1].isidentifier()


def _thresholds(panel: Panel) -> dict[str, Any]:
    if panel.red_above is None and panel.red_below is None:
        return {}
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red_below is not None:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": panel.red_below}]
    if panel.red_above is not None:
        steps.append({"color": "red", "value": panel.red_above})
    return {"thresholds": {"mode": "absolute", "steps": steps}, "color": {"mode": "thresholds"}}
