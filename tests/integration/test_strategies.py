"""Strategies in the whole daemon: the one of the manual, and `value` bidding and waiting."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from base.sandbox.scenario import parse_scenario
from base.sandbox.server import SandboxServer
from tests.integration.rig import PROJECT, Daemon

A = "KXNOBELPEACE-SANDBOX-A"
B = "KXNOBELPEACE-SANDBOX-B"
HELD = "KXHELD-1-A"

MARKETS = f"""
[[market]]
ticker = "{A}"
bid = "0.44"
ask = "0.48"
mode = "quiet"

[[market]]
ticker = "{B}"
bid = "0.30"
ask = "0.32"
mode = "quiet"

[[market]]
ticker = "{HELD}"
bid = "0.60"
ask = "0.62"
mode = "quiet"
position = {{ side = "yes", count = "10", entry = "0.60" }}
"""


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    with SandboxServer(parse_scenario(MARKETS, "strategies.toml")) as running:
        yield running


@pytest.fixture
def manual(tmp_path: Path) -> Path:
    """A directory with the files that the manual has its reader save."""
    text = (PROJECT / "base" / "strategy" / "README.md").read_text(encoding="utf-8")
    strategy, test = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "favorite.py").write_text(strategy, encoding="utf-8")
    (tmp_path / "test_favorite.py").write_text(test, encoding="utf-8")
    return tmp_path


def resting(server: SandboxServer, ticker: str) -> list[dict[str, Any]]:
    orders: Any = server.ledger()["orders"]
    return [o for o in orders if o["ticker"] == ticker and o["status"] == "resting"]


def test_the_manuals_test_passes_as_it_stands(manual: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_favorite.py"],
        cwd=manual,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_the_manuals_strategy_finds_its_markets_bids_and_what_it_buys_is_protected(
    server: SandboxServer, manual: Path
) -> None:
    with Daemon(
        manual,
        server,
        STRATEGY="favorite:Favorite",
        STRATEGY_SERIES="KXNOBELPEACE",
        STRATEGY_INTERVAL_S="0.5",
    ) as daemon:
        daemon.until(lambda: len(resting(server, B)) == 1, "a bid rests for the favorite of the tight market")
        daemon.until(lambda: daemon.is_streaming(3), "both found and streamed")
        (order,) = resting(server, B)
        assert (order["side"], order["price"], order["initial_count"]) == ("ask", "0.3200", "1.00")
        assert resting(server, A) == []  # its spread is four cents
        passes = daemon.status()["strategy"]["passes"]
        daemon.until(lambda: daemon.status()["strategy"]["passes"] >= passes + 3, "a few passes")
        assert len(resting(server, B)) == 1
        server.set_market(B, bid="0.32", ask="0.34")
        daemon.until(lambda: daemon.position(B) is not None, "it was filled")
        daemon.until(lambda: daemon.is_covered(2), "and is protected")
        status = daemon.status()["strategy"]
        assert (status["failing"], status["errors"]) == (False, 0)
        assert daemon.terminate() == 0
    assert resting(server, A) == resting(server, B) == []


def test_value_rests_follows_the_book_buys_and_its_stop_works(server: SandboxServer, tmp_path: Path) -> None:
    with Daemon(
        tmp_path,
        server,
        STRATEGY="value",
        STRATEGY_FAIR_PRICES=f"{A}=0.50",
        STRATEGY_EDGE="0.04",
        STRATEGY_REST="yes",
        STRATEGY_INTERVAL_S="0.5",
    ) as daemon:
        daemon.until(lambda: bool(resting(server, A)), "it rests")
        (order,) = resting(server, A)
        assert (order["side"], order["price"]) == ("bid", "0.4600")
        server.set_market(A, bid="0.40", ask="0.45")  # sold into its bid
        daemon.until(lambda: daemon.position(A) is not None, "bought")
        daemon.until(lambda: daemon.is_covered(2), "protected")
        held = daemon.position(A)
        assert held is not None
        assert held["count"] == "5.00"
        server.set_market(A, bid="0.20", ask="0.22")
        daemon.wait_for("exit_closed", ticker=A, outcome="filled")
        positions: Any = server.ledger()["positions"]
        assert A not in positions or float(positions[A]["count"]) == 0
        passes = daemon.status()["strategy"]["passes"]
        daemon.until(lambda: daemon.status()["strategy"]["passes"] >= passes + 3, "a few passes")
        assert resting(server, A) == []  # a stop that was hit is not answered by buying again
        assert daemon.terminate() == 0


@pytest.mark.parametrize("rests", ["no", "yes"], ids=["takes", "rests"])
def test_value_works_in_the_embedded_sandbox(tmp_path: Path, rests: str) -> None:
    ticker = "KXGDP-SANDBOX-T2.5"  # 0.47 bid, 0.51 asked
    with Daemon(
        tmp_path,
        None,
        KALSHI_ENV="sandbox",
        STRATEGY="value",
        STRATEGY_FAIR_PRICES=f"{ticker}=0.60",
        STRATEGY_REST=rests,
        STRATEGY_INTERVAL_S="1",
    ) as daemon:
        daemon.until(
            lambda: (daemon.position(ticker) or {}).get("protected") is True, "bought and protected", 30
        )
        assert daemon.wait_for("entry_sent", ticker=ticker)["rests"] == (
            "true" if rests == "yes" else "false"
        )
        assert daemon.terminate() == 0


def test_a_strategy_that_fails_is_named_and_settled_by_a_good_pass(
    server: SandboxServer, tmp_path: Path
) -> None:
    (tmp_path / "moody.py").write_text(
        "from pathlib import Path\n"
        "class Moody:\n"
        "    def __init__(self, settings): pass\n"
        "    def decide(self, view):\n"
        "        if Path('mood').exists(): raise SystemExit('not today')\n"
        "        return []\n"
    )
    with Daemon(tmp_path, server, STRATEGY="moody:Moody", STRATEGY_INTERVAL_S="0.3") as daemon:
        daemon.until(lambda: daemon.health()[0] == 200, "well")
        (tmp_path / "mood").touch()
        daemon.until(lambda: any("moody:Moody" in r for r in daemon.health()[1].get("reasons", [])), "named")
        assert daemon.health()[0] == 503
        (tmp_path / "mood").unlink()
        daemon.until(lambda: daemon.health()[0] == 200, "well again")
