"""What a restart takes up: money, peaks, exits; and what is said ahead of a pause."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from base.sandbox.scenario import parse_scenario
from base.sandbox.server import SandboxServer
from tests.integration.rig import Daemon

T = "KXTEST-YES-A"
CALM = "KXTEST-CALM-C"

HELD = f"""
[[market]]
ticker = "{T}"
bid = "0.60"
ask = "0.62"
mode = "quiet"
position = {{ side = "yes", count = "10", entry = "0.60" }}

[[market]]
ticker = "{CALM}"
bid = "0.50"
ask = "0.52"
mode = "quiet"
position = {{ side = "yes", count = "5", entry = "0.50" }}
"""


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    with SandboxServer(parse_scenario(HELD, "test.toml")) as running:
        yield running


def fees_by_the_exchange(server: SandboxServer) -> Decimal:
    fills: Any = server.ledger()["fills"]
    return sum((Decimal(f["fee"]) for f in fills), Decimal(0))


def booked(daemon: Daemon) -> tuple[Decimal, Decimal]:
    pnl = daemon.status()["pnl"]
    return Decimal(pnl["realized_today"]), Decimal(pnl["fees_today"])


def test_the_days_loss_survives_a_kill(server: SandboxServer, tmp_path: Path) -> None:
    with Daemon(tmp_path, server) as daemon:
        daemon.until(lambda: daemon.is_covered(2), "2 protected")
        server.set_market(T, bid="0.40", ask="0.42", bid_size="100", ask_size="100")
        daemon.wait_for("exit_closed", ticker=T)
        fees = fees_by_the_exchange(server)
        daemon.until(lambda: booked(daemon) == (Decimal(-2), fees), "everything is booked")
        daemon.until(lambda: daemon.status()["journal"]["waiting"] == 0, "it is on disk")
        daemon.kill()
        daemon.restart()
        daemon.until(lambda: daemon.is_covered(1), "1 left, protected")
        assert booked(daemon) == (Decimal(-2), fees)
        (sold,) = daemon.status()["exits"]
        told = (sold["ticker"], sold["state"], sold["filled"], sold["average_price"], sold["why"])
        assert told == (T, "closed", "10.00", "0.4000", "filled"), "what did the run before sell?"


def test_the_peak_of_a_trailing_stop_survives_a_kill(server: SandboxServer, tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(f'[[rule]]\nmatch = "{T}"\ntrailing_stop_price = "0.10"\n')
    with Daemon(tmp_path, server, RULES_FILE=str(rules)) as daemon:
        daemon.until(lambda: daemon.is_covered(2), "2 protected")
        server.set_market(T, bid="0.80", ask="0.82", bid_size="100", ask_size="100")
        daemon.until(
            lambda: (daemon.position(T) or {}).get("stop_price") == "0.7000", "the stop has followed"
        )
        daemon.until(lambda: daemon.status()["journal"]["waiting"] == 0, "it is on disk")
        daemon.kill()
        server.set_market(T, bid="0.69", ask="0.71", bid_size="100", ask_size="100")
        daemon.restart()
        assert daemon.wait_for("exit_triggered", ticker=T)["reason"] == "trailing_stop"
        daemon.wait_for("exit_closed", ticker=T, outcome="filled")


def test_an_exit_that_was_announced_is_finished_after_a_kill_though_the_price_is_back(
    server: SandboxServer, tmp_path: Path
) -> None:
    with Daemon(tmp_path, server) as daemon:
        daemon.until(lambda: daemon.is_covered(2), "2 protected")
        server.set_faults(pause_market=T)
        daemon.until(lambda: (daemon.position(T) or {}).get("market_status") == "inactive", "paused")
        server.set_faults(resume_market=T, zero_fill_orders=50)
        server.set_market(T, bid="0.40", ask="0.42", bid_size="100", ask_size="100")
        daemon.wait_for("exit_triggered", ticker=T)
        daemon.kill()
        server.clear_faults()
        server.set_market(T, bid="0.60", ask="0.62", bid_size="100", ask_size="100")
        daemon.restart()
        daemon.wait_for("exit_taken_up", ticker=T)
        daemon.wait_for("exit_closed", ticker=T, outcome="filled")
        positions: Any = server.ledger()["positions"]
        assert Decimal(positions[T]["count"] if T in positions else 0) == 0
        assert Decimal(positions[CALM]["count"]) == 5


def test_a_pause_is_announced_ahead_with_what_cannot_be_sold(server: SandboxServer, tmp_path: Path) -> None:
    server.set_faults(maintenance_windows=[{"start_in_s": 250, "end_in_s": 400}])
    with Daemon(tmp_path, server) as daemon:
        said = daemon.wait_for("pause_ahead", positions="2")
        assert 200 <= float(said["in_s"]) <= 250
        assert Decimal(said["exposed_dollars"]) == Decimal("8.50")
        daemon.until(lambda: (daemon.status()["next_pause"] or {}).get("why") == "maintenance", "it is shown")
