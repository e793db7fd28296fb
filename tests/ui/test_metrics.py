"""The metrics, read back by Prometheus's own parser."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from base.ui.metrics import render_metrics
from tests.ui.documents import broken_documents, covered_status, example_status

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(status: dict[str, Any]) -> Samples:
    families = list(text_string_to_metric_families(render_metrics(status).decode()))
    assert all(family.documentation for family in families)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("backstop_healthy", {}, 0),
        ("backstop_positions_open", {}, 3),
        ("backstop_positions_protected", {}, 2),
        ("backstop_positions_unprotected", {"reason": "no_bid"}, 1),
        ("backstop_feed_up", {}, 1),
        ("backstop_feed_state", {"state": "down"}, 0),
        ("backstop_feed_last_frame_age_seconds", {}, 0.2),
        ("backstop_feed_reconnects_total", {}, 1),
        ("backstop_feed_messages_total", {}, 1234),
        ("backstop_feed_markets_required", {}, 3),
        ("backstop_feed_markets_confirmed", {}, 3),
        ("backstop_rest_reads_last_60s", {}, 2),
        ("backstop_rest_writes_last_60s", {}, 1),
        ("backstop_rest_price_reads_last_60s", {}, 0),
        ("backstop_rest_rate_limited_last_60s", {}, 0),
        ("backstop_thread_alive", {"thread": "stop-loss"}, 1),
        ("backstop_thread_last_pass_age_seconds", {"thread": "strategy-loop"}, 3.1),
        ("backstop_trading_state", {"state": "active"}, 1),
        ("backstop_trading_state", {"state": "halted"}, 0),
        ("backstop_exits", {"state": "blocked"}, 1),
        ("backstop_exits", {"state": "unknown"}, 0),
        ("backstop_realized_pnl_today_dollars", {}, -1.57),
        ("backstop_unrealized_pnl_dollars", {}, 24.18),
        ("backstop_fees_today_dollars", {}, 0.17),
        ("backstop_price_age_max_seconds", {}, 41.7),
        ("backstop_info", {"version": "0.1.0", "env": "sandbox", "trading_mode": "live"}, 1),
    ],
)
def test_the_status_is_told_as_metrics(name: str, labels: dict[str, str], value: float) -> None:
    assert read(example_status())[name, tuple(sorted(labels.items()))] == value


@pytest.mark.parametrize(("known", "value"), [(True, 1), (False, 0)])
def test_whether_the_numbers_of_positions_are_all_is_a_metric(known: bool, value: float) -> None:
    status = example_status()
    status["coverage"]["known"] = known
    assert read(status)["backstop_coverage_known", ()] == value


def test_a_position_that_waits_for_settlement_has_no_price_to_grow_old() -> None:
    status = example_status()
    status["positions"][3]["price_age_s"] = 90_000.0
    assert read(status)["backstop_price_age_max_seconds", ()] == 41.7


@pytest.mark.parametrize("state", ["connecting", "down", "a state of a later version"])
def test_only_a_live_feed_is_up(state: str) -> None:
    status = example_status()
    status["feed"]["state"] = state
    assert read(status)["backstop_feed_up", ()] == 0


def test_good_health_is_one() -> None:
    assert read(covered_status())["backstop_healthy", ()] == 1


def test_what_is_not_known_is_absent_rather_than_zero() -> None:
    names = {name for name, _ in read({})}
    assert names == {"backstop_info"}


def test_numbers_that_are_none_are_left_out() -> None:
    status = example_status() | {"uptime_s": float("nan"), "pnl": {"unrealized": "not a number"}}
    names = {name for name, _ in read(status)}
    assert not names & {"backstop_uptime_seconds", "backstop_unrealized_pnl_dollars"}


def test_a_field_missing_or_odd_spoils_no_other() -> None:
    for what, status in broken_documents(example_status()):
        assert ("backstop_info", "env") in {
            (name, label) for name, labels in read(status) for label, _ in labels
        }, what


def test_no_position_is_named() -> None:
    text = render_metrics(example_status()).decode()
    assert not any(position["ticker"] in text for position in example_status()["positions"])


def test_money_is_told_by_strategy_and_an_unknown_sum_is_left_out() -> None:
    status = example_status()
    status["pnl"]["by_strategy"] = {
        "": {"realized_today": "-1.57", "unrealized": None, "fees_today": "0.17"},
        "value": {"realized_today": "0.0625", "unrealized": "24.18", "fees_today": "0.00"},
    }
    found = read(status)
    assert found["backstop_strategy_realized_pnl_today_dollars", (("strategy", ""),)] == -1.57
    assert found["backstop_strategy_realized_pnl_today_dollars", (("strategy", "value"),)] == 0.0625
    assert found["backstop_strategy_unrealized_pnl_dollars", (("strategy", "value"),)] == 24.18
    assert ("backstop_strategy_unrealized_pnl_dollars", (("strategy", ""),)) not in found
    assert found["backstop_strategy_fees_today_dollars", (("strategy", ""),)] == 0.17
