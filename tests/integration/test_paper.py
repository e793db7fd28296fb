"""Paper against live: the same scenario and seed, once with orders and once without.

The model (`base/execution/paper_fills.py`) says by how much they may differ: by what the market does in
the latency of an order. The scenarios move in known steps, so that the bound is one step.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from base.sandbox.scenario import parse_scenario
from base.sandbox.server import SandboxServer
from tests.integration.rig import Daemon

FALLS_AT_S = 8
"""Seconds after the exchange's start; the daemon has long been watching then."""
STEP = Decimal("0.01")
"""The staircase loses so much twice a second; nothing else moves while an order is under way."""
FELL = "KXPAPER-FELL-A"
ROSE = "KXPAPER-ROSE-B"
LARGE = "KXPAPER-LARGE-C"
STAIRS = "KXPAPER-STAIRS-D"
CALM = "KXPAPER-CALM-E"
COUNTS = {FELL: Decimal(10), ROSE: Decimal("12.50"), LARGE: Decimal(150), STAIRS: Decimal(10)}


def script(*steps: tuple[float, str, str]) -> str:
    return ", ".join(f'[{at}, "{bid}", "{ask}"]' for at, bid, ask in steps)


def staircase() -> str:
    cents = range(60, 34, -1)
    return script(*((FALLS_AT_S + n / 2, f"0.{c}", f"0.{c + 2}") for n, c in enumerate(cents)))


def market(ticker: str, steps: str, side: str, count: str, bid: str, ask: str, size: str = "100") -> str:
    return f"""
[[market]]
ticker = "{ticker}"
bid = "{bid}"
ask = "{ask}"
size = "{size}"
mode = "script"
script = [{steps}]
position = {{ side = "{side}", count = "{count}", entry = "0.60" }}
"""


SCENARIO = "".join(
    (
        market(FELL, script((FALLS_AT_S, "0.41", "0.43")), "yes", "10", "0.60", "0.62"),
        market(ROSE, script((FALLS_AT_S, "0.57", "0.59")), "no", "12.50", "0.38", "0.40"),
        # Larger than what is displayed at the best price: it walks the book.
        market(LARGE, script((FALLS_AT_S, "0.42", "0.44")), "yes", "150", "0.60", "0.62", "40"),
        market(STAIRS, staircase(), "yes", "10", "0.60", "0.62"),
        market(CALM, script((FALLS_AT_S, "0.59", "0.61")), "yes", "5", "0.60", "0.62"),
    )
)


@dataclass(frozen=True)
class Exit:
    """What became of one position."""

    reason: str
    count: Decimal
    price: Decimal
    """Average, dollars of the held side."""
    fees: Decimal


@dataclass(frozen=True)
class Session:
    exits: dict[str, Exit]
    held: dict[str, Decimal]
    """Shown by the program at the end."""
    submissions: int
    """Orders that came to the exchange."""


def play(directory: Path, mode: str) -> Session:
    directory.mkdir()
    how = {"KALSHI_ENV": "sandbox"} if mode == "live" else {"KALSHI_ENV": "demo", "TRADING_MODE": "paper"}
    with (
        SandboxServer(parse_scenario(SCENARIO, "test.toml"), seed=11) as server,
        Daemon(directory, server, **how) as daemon,
    ):
        daemon.until(lambda: daemon.is_streaming(5) and daemon.is_covered(5), "5 protected", FALLS_AT_S)
        closed = {"outcome": "filled"}
        daemon.until(
            lambda: {e["ticker"] for e in daemon.events("exit_closed", **closed)} == set(COUNTS),
            "4 sold",
            30,
        )
        daemon.until(lambda: daemon.is_covered(1), "1 left")
        status = daemon.status()
        assert status["trading_mode"] == mode
        submissions: Any = server.ledger()["submissions"]
        assert daemon.terminate() == 0
    exits = {}
    for episode in status["exits"]:
        assert episode["ticker"] not in exits, "one exit a position"
        exits[episode["ticker"]] = Exit(
            episode["reason"],
            Decimal(episode["filled"]),
            Decimal(episode["average_price"]),
            Decimal(episode["fees"]),
        )
    held = {p["ticker"]: Decimal(p["count"]) for p in status["positions"]}
    return Session(exits, held, len(submissions))


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, Session]:
    directory = tmp_path_factory.mktemp("paper")
    return play(directory / "live", "live"), play(directory / "paper", "paper")


def test_paper_sends_nothing(sessions: tuple[Session, Session]) -> None:
    live, paper = sessions
    assert live.submissions >= len(COUNTS)
    assert paper.submissions == 0


def test_paper_and_live_leave_the_same_positions_for_the_same_reasons(
    sessions: tuple[Session, Session],
) -> None:
    for session in sessions:
        assert {t: (e.reason, e.count) for t, e in session.exits.items()} == {
            t: ("stop_loss", count) for t, count in COUNTS.items()
        }
        assert session.held == {CALM: Decimal(5)}


def test_paper_fills_at_lives_prices_within_one_step_of_the_market(sessions: tuple[Session, Session]) -> None:
    live, paper = sessions
    for ticker in COUNTS:
        bound = STEP if ticker == STAIRS else Decimal(0)
        apart = abs(live.exits[ticker].price - paper.exits[ticker].price)
        assert apart <= bound, f"{ticker}: {live.exits[ticker]} live, {paper.exits[ticker]} on paper"


def test_the_large_one_walks_the_book_in_both(sessions: tuple[Session, Session]) -> None:
    for session in sessions:
        assert Decimal("0.40") <= session.exits[LARGE].price < Decimal("0.42")


def test_fees_are_the_same_where_prices_are(sessions: tuple[Session, Session]) -> None:
    live, paper = sessions
    for ticker in set(COUNTS) - {STAIRS}:
        assert live.exits[ticker].fees == paper.exits[ticker].fees > 0
