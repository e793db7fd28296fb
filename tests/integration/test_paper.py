"""Paper against live: the same scenario and seed, once with orders and once without.

The model (`base/execution/paper_fills.py`) says by how much they may differ: by what the market does in
the latency of an order. The scenarios move in known steps, so that the bound is one step. Entries are
compared by `tests/benchmarks/paper_agreement.py`. Then: what a paper account knows after kill -9, and who
says that it is one.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from base.clock import SystemClock
from base.model.market import OutcomeSide
from base.sandbox.scenario import parse_scenario
from base.sandbox.server import SandboxServer
from base.store.journal import Journal
from base.store.records import Remembered
from tests.benchmarks import paper_agreement
from tests.benchmarks.paper_agreement import Leg, Plot, Report, Result, judge
from tests.integration.rig import PROJECT, Daemon, environment_of

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


# --- entries of the strategy ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return paper_agreement.play(tmp_path_factory.mktemp("agreement"), seed=7, seconds=8.0)


def test_sessions_of_the_same_seed_and_strategy_agree_as_the_model_says(report: Report) -> None:
    assert report.problems == [], "\n" + paper_agreement.table(report)


def test_the_comparison_has_seen_what_it_is_about(report: Report) -> None:
    for session in ("takes", "rests"):
        for is_paper in (False, True):
            done = {
                r.course.plot: r.paper if is_paper else r.live
                for r in report.rows
                if r.session == session and r.course.side is OutcomeSide.NO
            }
            bought = {plot for plot, result in done.items() if result.entries.count > 0}
            sold = {plot for plot, result in done.items() if result.exits.count > 0}
            assert bought >= {Plot.FALLS, Plot.WALKS, Plot.STAYS, Plot.PART}
            assert sold >= {Plot.FALLS, Plot.WALKS, Plot.PART}
            assert Plot.STAYS not in sold
            assert Plot.CALM not in bought


BOUGHT = Leg(Decimal(20), Decimal("9.00"), Decimal(0), 1)
SOLD = Leg(Decimal(20), Decimal("7.60"), Decimal("0.3299"), 1)
LESS = replace(BOUGHT, count=Decimal(8), value=Decimal("3.60"))


@pytest.mark.parametrize(
    ("may_miss", "paper", "is_fine"),
    [
        (False, Result(BOUGHT, SOLD), True),
        (False, Result(Leg(), Leg()), False),
        (False, Result(replace(BOUGHT, value=Decimal("9.20")), SOLD), False),
        (True, Result(Leg(), Leg()), True),
        (True, Result(LESS, Leg()), True),
        (True, Result(replace(LESS, value=Decimal("3.52")), Leg()), False),
        (True, Result(replace(LESS, fees=Decimal("0.01")), Leg()), False),
        (True, Result(replace(BOUGHT, count=Decimal(21)), SOLD), False),
        (True, Result(BOUGHT, replace(SOLD, fees=Decimal("0.3300"), fills=2)), True),
        (True, Result(BOUGHT, replace(SOLD, fees=Decimal("0.3301"), fills=2)), False),
        (True, Result(BOUGHT, replace(SOLD, fees=Decimal("0.3300"))), False),
        (True, Result(BOUGHT, replace(SOLD, value=Decimal("7.40"))), False),
    ],
    ids=[
        "the same", "what stood was missed", "what stood cost more", "a touch was missed", "less was there",
        "less, at another price", "less, with a fee", "more than live", "in two fills",
        "two fills, and too much", "one fill, another fee", "sold for less",
    ],
)  # fmt: skip
def test_what_the_model_allows(may_miss: bool, paper: Result, is_fine: bool) -> None:
    assert (judge(Result(BOUGHT, SOLD), paper, may_miss=may_miss) == "") is is_fine


# --- kill -9 --------------------------------------------------------------------------------------------

HELD = "KXPAPER-HELD-A"
CHEAP = "KXPAPER-CHEAP-B"
BOTH = f"""
[[market]]
ticker = "{HELD}"
bid = "0.60"
ask = "0.62"
mode = "quiet"
position = {{ side = "yes", count = "10", entry = "0.60" }}

[[market]]
ticker = "{CHEAP}"
bid = "0.50"
ask = "0.52"
mode = "quiet"
"""
ON_PAPER = {
    "KALSHI_ENV": "demo",
    "TRADING_MODE": "paper",
    "STRATEGY": "value",
    "STRATEGY_FAIR_PRICES": f"{CHEAP}=0.50",
    "STRATEGY_INTERVAL_S": "0.5",
}


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    with SandboxServer(parse_scenario(BOTH, "test.toml")) as running:
        yield running


@dataclass(frozen=True)
class Account:
    """What the journal says of the paper account."""

    cash: Decimal
    fills: dict[str, Decimal]
    """Contracts by market, purchases of YES above 0."""
    realized: Decimal


def written(daemon: Daemon, into: Path) -> Account:
    """Read a copy: the daemon's own files are its own."""
    into.mkdir()
    for file in daemon.state_dir.glob("journal-*"):
        shutil.copy(file, into)
    (path,) = into.glob("journal-*.sqlite")
    known: Remembered = Journal.open(path, SystemClock(), account=path.stem).load()
    fills: dict[str, Decimal] = {}
    for fill in known.fills:
        sign = 1 if fill.book_side.value == "bid" else -1
        fills[fill.ticker] = fills.get(fill.ticker, Decimal(0)) + sign * fill.count
    (cash,) = [r.entry_price for r in known.paper if not r.ticker]
    return Account(cash, fills, sum((r.realized for r in known.results), Decimal(0)))


def money(daemon: Daemon) -> tuple[Decimal, Decimal]:
    """Realized and fees of the day."""
    pnl = daemon.status()["pnl"]
    return Decimal(pnl["realized_today"]), Decimal(pnl["fees_today"])


def test_after_kill_9_what_was_sold_is_sold_and_what_was_bought_is_held_and_protected(
    server: SandboxServer, tmp_path: Path
) -> None:
    with Daemon(tmp_path, server, **ON_PAPER) as daemon:
        daemon.until(lambda: daemon.is_streaming(2) and daemon.is_covered(1), "1 protected")
        server.set_market(HELD, bid="0.40", ask="0.42", bid_size="100", ask_size="100")
        daemon.wait_for("exit_filled", ticker=HELD)
        daemon.kill()
        sold = written(daemon, tmp_path / "sold")
        assert sold.fills == {HELD: Decimal(-10)}
        assert sold.cash == Decimal(4) - Decimal("0.168")

        lines = len(daemon.lines())
        daemon.restart()
        daemon.until(lambda: daemon.is_streaming(2), "streaming again")
        daemon.until(lambda: bool(daemon.events_after(lines, "reconciled")), "its positions are read")
        assert daemon.position(HELD) is None
        assert money(daemon) == (Decimal(-2), Decimal("0.168"))
        server.set_market(CHEAP, bid="0.43", ask="0.44", bid_size="100", ask_size="100")
        daemon.until(lambda: bool(daemon.events_after(lines, "entry_filled", ticker=CHEAP)), "bought")
        daemon.kill()
        bought = written(daemon, tmp_path / "bought")
        entry_fee = Decimal("0.0863")
        assert bought.cash == sold.cash - 5 * Decimal("0.44") - entry_fee
        assert bought.fills == sold.fills | {CHEAP: Decimal(5)}

        lines = len(daemon.lines())
        daemon.restart()
        daemon.until(lambda: daemon.is_covered(1), "what was bought is protected")
        position = daemon.position(CHEAP)
        assert position is not None
        assert (Decimal(position["count"]), Decimal(position["entry_price"])) == (5, Decimal("0.44"))
        assert position["stop_price"] == "0.3300"
        assert daemon.position(HELD) is None
        assert daemon.events_after(lines, "exit_triggered") == []
        assert daemon.events_after(lines, "entry_sent") == []
        assert money(daemon) == (Decimal(-2), Decimal("0.168") + entry_fee)
        assert daemon.terminate() == 0
        assert written(daemon, tmp_path / "ended") == bought
    assert server.ledger()["submissions"] == []


# --- who says so ----------------------------------------------------------------------------------------


def port_of(daemon: Daemon) -> str:
    return daemon.wait_for("started")["ui"].rstrip("/").rpartition(":")[2]


def metrics(daemon: Daemon) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port_of(daemon)}/metrics", timeout=3) as answer:
        text: str = answer.read().decode()
    return text


def test_every_surface_says_paper(server: SandboxServer, tmp_path: Path) -> None:
    def command(*arguments: str) -> str:
        environment = environment_of(tmp_path, server) | ON_PAPER | {"UI_PORT": port_of(daemon)}
        run = [sys.executable, str(PROJECT / "run_bot.py"), *arguments]
        done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with Daemon(tmp_path, server, **ON_PAPER) as daemon:
        daemon.until(lambda: daemon.is_covered(1), "1 protected")
        assert daemon.status()["trading_mode"] == "paper"
        assert "PAPER" in command("check").splitlines()[0]
        assert "PAPER" in command("status").splitlines()[0]
        assert "PAPER" in command("explain", HELD).splitlines()[0]
        assert 'trading_mode="paper"' in metrics(daemon)
        server.set_market(HELD, bid="0.40", ask="0.42", bid_size="100", ask_size="100")
        daemon.wait_for("exit_closed", ticker=HELD)
        assert daemon.terminate() == 0
        for name in ("started", "exit_triggered", "exit_sent", "exit_filled", "exit_closed", "summary"):
            assert daemon.events(name)
            assert {e.get("mode") for e in daemon.events(name)} == {"PAPER"}, name
