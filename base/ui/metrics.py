"""The status document and the measurements as Prometheus text."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from base.ui.metric_table import (
    METRICS,
    HistogramState,
    Measurements,
    MetricKind,
    MetricSpec,
    Status,
    Values,
)

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render_metrics(status: Status, measured: Measurements | None = None) -> bytes:
    """Render `status`, and what was `measured` beside it, as Prometheus text.

    What is not told is left out, never shown as 0: alert on `absent()` as well.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(status, measured if measured is not None else Measurements()))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, status: Status, measured: Measurements) -> None:
        self._status = status
        self._measured = measured

    def collect(self) -> Iterable[Metric]:
        for spec in METRICS:
            if spec.kind is MetricKind.HISTOGRAM:
                state = self._measured.histograms.get(spec.name)
                if state is not None:
                    yield _histogram(spec, state)
                continue
            values = (
                self._measured.values.get(spec.name, {}) if spec.read is None else spec.read(self._status)
            )
            if values:
                yield _family(spec, values)


def _family(spec: MetricSpec, values: Values) -> Metric:
    kind = CounterMetricFamily if spec.kind is MetricKind.COUNTER else GaugeMetricFamily
    family = kind(spec.name, spec.help, labels=spec.labels)
    for labels, value in sorted(values.items()):
        family.add_metric(list(labels), value)
    return family


def _histogram(spec: MetricSpec, state: HistogramState) -> Metric:
    bounds = [*map(repr, state.bounds_s), "+Inf"]
    family = HistogramMetricFamily(spec.name, spec.help)
    family.add_metric([], list(zip(bounds, accumulate(state.counts), strict=True)), state.total_s)
    return family
