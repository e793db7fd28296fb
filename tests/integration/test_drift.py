"""The daemon when the exchange's answers lose a field: nothing is opened, it says so, and stops go on."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from base.model.market import OutcomeSide
from base.sandbox.scenario import Scenario
from base.sandbox.server import SandboxServer
from tests.benchmarks import judge
from tests.benchmarks.judge import CRASHED, Holding
from tests.integration.rig import Daemon
from tests.sandbox.client import Client

YES = Holding("KXDRIFT-YES", OutcomeSide.YES, Decimal("10.50"))
CALM = Holding("KXDRIFT-CALM", OutcomeSide.YES, Decimal(5))


def without(server: SandboxServer, path: str, rows: str, name: str) -> dict[str, Any]:
    """A fault: the exchange's own answer of now, for good, without one field."""
    with Client(server) as client:
        document = client.get(path)
    for row in document[rows]:
        del row[name]
    return {"method": "GET", "path": path, "action": "status", "status": 200, "body": document, "times": 9999}


def is_told(daemon: Daemon, name: str) -> bool:
    """Whether `/healthz` answers 503 and names the field."""
    code, document = daemon.health()
    return code == 503 and any(name in reason for reason in document["reasons"])


@pytest.mark.parametrize(
    "name", ["close_time", "yes_bid_size_fp"], ids=["no close", "no size behind the bid"]
)
def test_a_daemon_that_misses_a_field_opens_nothing_and_sells_all_the_same(tmp_path: Path, name: str) -> None:
    with SandboxServer(Scenario(tuple(judge.plan(h) for h in (YES, CALM)))) as server:
        server.set_faults(calls=[without(server, "/markets", "markets", name)])
        with Daemon(tmp_path, server) as daemon:
            event = daemon.wait_for("api_drift", field=name)
            assert event["where"] == "GET /markets"
            daemon.until(lambda: daemon.is_covered(2), "2 protected")
            daemon.until(lambda: is_told(daemon, name), "named in /healthz")
            daemon.until(lambda: "lack a field" in daemon.status()["trading_state_why"], "the state says why")
            assert daemon.status()["trading_state"] == "reducing"
            judge.quote(server, [YES], CRASHED)
            daemon.until(lambda: judge.left(server, YES) == 0, "sold all the same", 10)
            assert daemon.terminate() == 0
            assert not [line for line in daemon.lines() if "state=active" in line]


def test_without_a_price_in_the_answers_nothing_is_protected_and_that_is_loud(tmp_path: Path) -> None:
    with SandboxServer(Scenario((judge.plan(CALM),))) as server:
        server.set_faults(calls=[without(server, "/markets", "markets", "yes_bid_dollars")])
        with Daemon(tmp_path, server) as daemon:
            daemon.wait_for("api_drift", field="yes_bid_dollars")
            daemon.wait_for("unprotected", ticker=CALM.ticker)
            daemon.until(lambda: is_told(daemon, "yes_bid_dollars"), "named in /healthz")
            server.clear_faults()
            daemon.until(lambda: daemon.is_covered(1), "protected as soon as the price is there again")


def test_a_daemon_whose_exchange_has_all_fields_is_armed_at_once(tmp_path: Path) -> None:
    with SandboxServer(Scenario((judge.plan(CALM),))) as server, Daemon(tmp_path, server) as daemon:
        took_s = daemon.until(lambda: daemon.status().get("trading_state") == "active", "armed")
        assert took_s < 10
        assert daemon.events("api_drift") == []
        assert daemon.events("api_news") == []
