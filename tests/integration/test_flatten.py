"""`flatten` as its own process: with only the key, beside a daemon or without one."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from base.model.market import BookSide
from base.model.order import TimeInForce
from base.sandbox.records import NewOrder, SelfTradePrevention
from base.sandbox.scenario import parse_scenario
from base.sandbox.server import SandboxServer
from tests.integration.rig import PROJECT, Daemon, environment_of, held_market
from tests.sandbox.client import Client

YES = "KXTEST-YES-A"
NO = "KXTEST-NO-B"

HELD = held_market(YES, "0.60", "0.62", side="yes", count="10", entry="0.60") + held_market(
    NO, "0.38", "0.40", side="no", count="12.55", entry="0.60"
)
BOTH = {YES: Decimal(10), NO: Decimal("12.55")}


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    with SandboxServer(parse_scenario(HELD, "test.toml")) as running:
        yield running


def flatten(
    directory: Path, server: SandboxServer, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROJECT / "run_bot.py"), "flatten", *arguments],
        cwd=directory,
        env=environment_of(directory, server) | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=70,
        check=False,
    )


def held(server: SandboxServer) -> dict[str, Decimal]:
    """What is left, unsigned, by the exchange's own book; a turned position shows as another side."""
    positions: Any = server.ledger()["positions"]
    return {t: Decimal(p["count"]) for t, p in positions.items() if Decimal(p["count"]) != 0}


def sold(server: SandboxServer) -> dict[str, Decimal]:
    """Contracts of all fills but the first of each market, which opened the position."""
    fills: Any = server.ledger()["fills"]
    counts: dict[str, Decimal] = dict.fromkeys(BOTH, Decimal(0))
    for fill in fills:
        if fill["client_order_id"].startswith("bs"):
            counts[fill["ticker"]] += Decimal(fill["count"])
    return counts


def test_it_closes_everything_with_only_the_key_and_a_second_run_finds_nothing(
    server: SandboxServer, tmp_path: Path
) -> None:
    first = flatten(tmp_path, server, "--yes")
    assert first.returncode == 0, first.stdout + first.stderr
    assert held(server) == {}
    assert sold(server) == BOTH
    assert (tmp_path / "state" / "entries-blocked").exists()
    second = flatten(tmp_path, server, "--yes")
    assert second.returncode == 0
    assert "nothing is held" in second.stdout
    assert sold(server) == BOTH


@pytest.mark.parametrize("arguments", [(), ("--ticker", YES)], ids=["everything", "one market"])
@pytest.mark.parametrize("lost", ["position_fp", "ticker"])
def test_what_cannot_be_read_is_not_called_flat(
    server: SandboxServer, tmp_path: Path, lost: str, arguments: tuple[str, ...]
) -> None:
    with Client(server) as client:
        document = client.get("/portfolio/positions")
    for row in document["market_positions"]:
        del row[lost]
    answer = {"action": "status", "status": 200, "body": document, "times": 9999}
    server.set_faults(calls=[{"method": "GET", "path": "/portfolio/positions", **answer}])
    done = flatten(tmp_path, server, "--yes", *arguments)
    assert done.returncode == 5, done.stdout
    assert "NOT FLAT" in done.stdout
    assert set(held(server)) == set(BOTH)


def test_it_asks_and_without_an_answer_it_closes_nothing(server: SandboxServer, tmp_path: Path) -> None:
    asked = flatten(tmp_path, server)
    assert asked.returncode == 5
    assert set(held(server)) == set(BOTH)
    assert "--yes" in asked.stderr


def test_one_market_is_one_market(server: SandboxServer, tmp_path: Path) -> None:
    assert flatten(tmp_path, server, "--ticker", NO, "--yes").returncode == 0
    assert set(held(server)) == {YES}


@pytest.mark.parametrize(
    "faults",
    [
        {"calls": [{"method": "POST", "path": "*orders*", "times": 2, "action": "act_then_500"}]},
        {"calls": [{"method": "POST", "path": "*orders*", "times": 2, "action": "act_then_reset"}]},
        {"max_fill_per_order": "3"},
        {"read_lag_s": 1.0},
    ],
    ids=["answers lost", "connections reset", "three at a time", "reads behind"],
)
def test_whatever_the_exchange_does_it_sells_what_was_held_once(
    server: SandboxServer, tmp_path: Path, faults: dict[str, Any]
) -> None:
    server.set_faults(**faults)
    done = flatten(tmp_path, server, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert held(server) == {}
    assert sold(server) == BOTH


def test_beside_a_daemon_that_exits_at_the_same_time_nothing_is_sold_twice(
    server: SandboxServer, tmp_path: Path
) -> None:
    with Daemon(tmp_path, server) as daemon:
        daemon.until(lambda: daemon.is_covered(2), "2 protected")
        server.set_faults(latency_s=0.2)
        server.set_market(YES, bid="0.40", ask="0.42", bid_size="100", ask_size="100")
        daemon.wait_for("exit_triggered", ticker=YES)
        done = flatten(tmp_path, server, "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
        assert held(server) == {}
        assert sold(server) == BOTH
        daemon.until(lambda: not daemon.status()["positions"], "the daemon knows")
        assert daemon.events("foreign_instance") == []
        daemon.until(lambda: daemon.status()["trading_state"] == "reducing", "entries are blocked")
        assert daemon.terminate() == 0


def test_a_disk_that_takes_nothing_keeps_nothing_from_being_closed(
    server: SandboxServer, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = flatten(tmp_path, server, "--yes", STATE_DIR=str(tmp_path / "file" / "state"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert held(server) == {}


# --- orders that rest -----------------------------------------------------------------------------------

OTHER = "KXTEST-OTHER-C"
ENTRY = "backstop-entry-0123456789abcdef01234567"
EMPTY_HANDED = f"""
[[market]]
ticker = "{OTHER}"
bid = "0.50"
ask = "0.55"
mode = "quiet"
"""


def rest(server: SandboxServer, ticker: str, price: str, client_order_id: str) -> None:
    """A purchase of 20 YES that rests in the account's name."""
    how = SelfTradePrevention.TAKER_AT_CROSS
    gtc = TimeInForce.GOOD_TILL_CANCELED
    new = NewOrder(ticker, BookSide.BID, Decimal(20), Decimal(price), gtc, how, client_order_id)
    server.call(lambda venue: venue.exchange.orders.place(new, venue.clock.now()))


def resting(server: SandboxServer) -> set[str]:
    """Client order ids of what rests, by the exchange's own book."""
    return server.call(lambda venue: {o.client_order_id for o in venue.exchange.ledger.resting_orders()})


def test_entries_that_rest_go_first_and_others_orders_are_named_and_left(
    server: SandboxServer, tmp_path: Path
) -> None:
    rest(server, YES, "0.55", ENTRY)
    rest(server, YES, "0.20", "by-hand")
    done = flatten(tmp_path, server, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert resting(server) == {"by-hand"}
    assert held(server) == {}
    assert sold(server) == BOTH
    named = [line for line in done.stdout.splitlines() if "resting order" in line]
    assert [("left alone" in line, "canceled first" in line) for line in named] == [
        (False, True),
        (True, False),
    ]


def test_only_the_orders_of_the_market_that_was_named_go(server: SandboxServer, tmp_path: Path) -> None:
    rest(server, YES, "0.55", ENTRY)
    rest(server, NO, "0.30", f"{ENTRY}-2")
    assert flatten(tmp_path, server, "--ticker", NO, "--yes").returncode == 0
    assert resting(server) == {ENTRY}


def test_without_a_yes_nothing_is_canceled(server: SandboxServer, tmp_path: Path) -> None:
    rest(server, YES, "0.55", ENTRY)
    assert flatten(tmp_path, server).returncode == 5
    assert resting(server) == {ENTRY}
    assert not (tmp_path / "state" / "entries-blocked").exists()


def test_an_entry_is_canceled_where_nothing_is_held(tmp_path: Path) -> None:
    with SandboxServer(parse_scenario(EMPTY_HANDED, "test.toml")) as server:
        rest(server, OTHER, "0.45", ENTRY)
        done = flatten(tmp_path, server, "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
        assert resting(server) == set()
        assert (tmp_path / "state" / "entries-blocked").exists()


def test_what_an_entry_bought_before_it_was_gone_is_sold_too(tmp_path: Path) -> None:
    """Reads are a second behind: the first ones show neither the position nor that the entry has filled."""
    with SandboxServer(parse_scenario(EMPTY_HANDED, "test.toml")) as server:
        rest(server, OTHER, "0.45", ENTRY)
        server.set_faults(read_lag_s=1.0)
        server.set_market(OTHER, bid="0.40", ask="0.45", bid_size="100", ask_size="8")
        assert held(server) == {OTHER: Decimal(8)}
        done = flatten(tmp_path, server, "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
        assert resting(server) == set()
        assert held(server) == {}


@pytest.mark.parametrize("method", ["GET", "DELETE"], ids=["read", "canceled"])
def test_orders_that_cannot_be(server: SandboxServer, tmp_path: Path, method: str) -> None:
    """… are said to be left, and keep nothing from being closed."""
    rest(server, YES, "0.55", ENTRY)
    path = "/portfolio/orders" if method == "GET" else "/portfolio/events/orders/*"
    server.set_faults(calls=[{"method": method, "path": path, "times": 200, "action": "503"}])
    done = flatten(tmp_path, server, "--yes")
    assert done.returncode == 5, done.stdout + done.stderr
    assert resting(server) <= {ENTRY}
    assert held(server) == {}
    assert "may still buy" in done.stdout


def test_on_paper_it_refuses_to_close_what_is_real(server: SandboxServer, tmp_path: Path) -> None:
    rest(server, YES, "0.55", ENTRY)
    done = flatten(tmp_path, server, "--yes", KALSHI_ENV="demo", TRADING_MODE="paper")
    assert done.returncode == 5
    assert "TRADING_MODE=live" in done.stderr
    assert set(held(server)) == set(BOTH)
    assert resting(server) == {ENTRY}
    assert not (tmp_path / "state" / "entries-blocked").exists()


def test_two_at_once_are_one(server: SandboxServer, tmp_path: Path) -> None:
    server.set_faults(latency_s=0.3)
    command = [sys.executable, str(PROJECT / "run_bot.py"), "flatten", "--yes"]
    env = environment_of(tmp_path, server)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    runs = [subprocess.Popen(command, cwd=tmp_path, env=env, text=True, **pipes) for _ in range(2)]
    said = [run.communicate(timeout=70) for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 3], said
    assert held(server) == {}
    orders: Any = server.ledger()["submissions"]
    assert len([o for o in orders if o["client_order_id"].startswith("bs")]) == 2


def test_killed_with_its_orders_under_way_and_run_again_it_sells_what_was_held_once(
    server: SandboxServer, tmp_path: Path
) -> None:
    server.set_faults(latency_s=0.5, read_lag_s=1.0)
    command = [sys.executable, str(PROJECT / "run_bot.py"), "flatten", "--yes"]
    env = environment_of(tmp_path, server)
    sent: Any = []
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL) as run:
        never = threading.Event()
        for _ in range(600):
            sent = [o for o in server.ledger()["submissions"] if o["client_order_id"].startswith("bs")]  # type: ignore[attr-defined]
            if sent or run.poll() is not None:
                break
            never.wait(0.02)
        run.kill()
    assert sent
    server.set_faults(latency_s=0.0, read_lag_s=1.0)
    again = flatten(tmp_path, server, "--yes")
    assert again.returncode == 0, again.stdout + again.stderr
    assert held(server) == {}
    assert sold(server) == BOTH
    orders: Any = server.ledger()["submissions"]
    taken = [o for o in orders if o["client_order_id"].startswith("bs") and o["outcome"] == "accepted"]
    useless = [o for o in taken if Decimal(o["fill_count"]) == 0]
    assert useless == [], "no order is sent for what has been sold"
