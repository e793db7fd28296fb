"""The dashboard asks for nothing that `/metrics` does not tell."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from base.ui.dashboard import GRID_WIDTH, LATENCIES, dashboard, increase, now, quantile
from base.ui.metric_table import (
    BY_NAME,
    METRICS,
    HistogramState,
    Measurements,
    MetricKind,
)
from base.ui.metrics import render_metrics
from tests.ui.documents import example_status

PANELS: list[dict[str, Any]] = [p for p in dashboard()["panels"] if p["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


def everything_told() -> dict[str, set[str]]:
    """Each series of a `/metrics` where all there is has a value, with its labels."""
    status = example_status()
    status["pnl"]["by_strategy"] = {
        "value": {"realized_today": "1", "unrealized": "1", "fees_today": "1"},
    }
    status["coverage"]["known"] = True
    measured = Measurements(
        {s.name: HistogramState((1.0,), (1, 0), 0.5) for s in METRICS if s.kind is MetricKind.HISTOGRAM},
        {s.name: {tuple(s.labels): 1.0} for s in METRICS if s.read is None},
    )
    told: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(render_metrics(status, measured).decode()):
        for sample in family.samples:
            told.setdefault(sample.name, set()).update(sample.labels)
    return told


TOLD = everything_told()


def test_every_metric_of_the_table_can_be_told() -> None:
    assert {spec.name for spec in METRICS if spec.series not in TOLD} == set()


def test_every_series_that_is_told_is_in_the_table() -> None:
    histograms = {
        s.name + end for s in METRICS for end in ("_count", "_sum") if s.kind is MetricKind.HISTOGRAM
    }
    assert set(TOLD) == {spec.series for spec in METRICS} | histograms


def test_names_are_given_once_and_say_what_they_count() -> None:
    assert len(BY_NAME) == len(METRICS)
    assert all(re.fullmatch(r"backstop_[a-z0-9_]+", spec.name) for spec in METRICS)
    assert all(spec.help.endswith(".") for spec in METRICS)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_panel_asks_for_what_is_told(expression: str) -> None:
    series = re.findall(r"backstop_\w+", expression)
    assert len(series) == 1
    assert series[0] in TOLD
    grouped = re.search(r"sum by \(([^)]*)\)", expression)
    labels = set(grouped[1].split(", ")) if grouped else set()
    assert labels <= TOLD[series[0]]
    # A counter is only of use as a rate, and a histogram as a quantile.
    assert ("increase(" in expression) == (BY_NAME.get(series[0]) is None)


@pytest.mark.parametrize(
    "name",
    [
        "backstop_positions_protected",
        "backstop_positions_unprotected",
        "backstop_exits_ended",
        "backstop_feed_reconnects",
        "backstop_feed_last_frame_age_seconds",
        "backstop_rest_tokens",
        "backstop_rest_requests",
        "backstop_strategy_realized_pnl_today_dollars",
        "backstop_thread_last_pass_age_seconds",
        "backstop_thread_passes",
        *LATENCIES,
    ],
)
def test_what_an_operator_must_see_has_a_panel(name: str) -> None:
    assert any(BY_NAME[name].series in expression for expression in EXPRESSIONS)


@pytest.mark.parametrize("name", LATENCIES)
def test_a_latency_is_shown_at_its_median_and_its_99th_percentile(name: str) -> None:
    shares = [e.split("(")[1].split(",")[0] for e in EXPRESSIONS if BY_NAME[name].series in e]
    assert shares == ["0.5", "0.99"]


@pytest.mark.parametrize(
    ("what", "arguments"),
    [
        (now, ("backstop_of_a_later_version",)),
        (now, ("backstop_positions_unprotected", "ticker")),
        (now, ("backstop_feed_reconnects",)),
        (increase, ("backstop_positions_open",)),
        (increase, ("backstop_exits_ended", "market")),
        (quantile, (0.5, "backstop_positions_open")),
    ],
    ids=[
        "a name that is not told",
        "a label that is not told",
        "a counter as a gauge",
        "a gauge as a counter",
        "a counter's label that is not told",
        "a quantile of one number",
    ],
)
def test_a_panel_cannot_ask_for_anything_else(what: Any, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(KeyError):
        what(*arguments)


def test_grafana_can_place_every_panel() -> None:
    whole = json.loads(json.dumps(dashboard()))
    assert len({panel["id"] for panel in whole["panels"]}) == len(whole["panels"])
    places = [panel["gridPos"] for panel in whole["panels"]]
    assert all(place["x"] + place["w"] <= GRID_WIDTH for place in places)
    assert not any(_overlap(a, b) for a, b in combinations(places, 2))
    for panel in PANELS:
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        assert panel["description"], f"{panel['title']} says what it shows"


def _overlap(a: dict[str, int], b: dict[str, int]) -> bool:
    return (
        a["x"] < b["x"] + b["w"]
        and b["x"] < a["x"] + a["w"]
        and a["y"] < b["y"] + b["h"]
        and b["y"] < a["y"] + a["h"]
    )
