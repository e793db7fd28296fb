"""The daemon end to end: real processes, real sockets, the sandbox as the exchange and as the judge."""

from __future__ import annotations

import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from base.sandbox.scenario import Scenario, parse_scenario
from base.sandbox.server import SandboxServer
from tests.integration.rig import Daemon, held_market

YES = "KXTEST-YES-A"
NO = "KXTEST-NO-B"
CALM = "KXTEST-CALM-C"

HELD = (
    held_market(YES, "0.60", "0.62", side="yes", count="10", entry="0.60")
    + held_market(NO, "0.38", "0.40", side="no", count="12.50", entry="0.60")
    + held_market(CALM, "0.50", "0.52", side="yes", count="5", entry="0.50")
)


def scenario(text: str) -> Scenario:
    return parse_scenario(text, "test.toml")


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    with SandboxServer(scenario(HELD)) as running:
        yield running


def net_sold(server: SandboxServer, ticker: str) -> Decimal:
    """Contracts that left the position by exits of the daemon, by the exchange's own book."""
    fills: Any = server.ledger()["fills"]
    ours = [f for f in fills if f["ticker"] == ticker and f["client_order_id"].startswith("bs")]
    return sum((Decimal(f["count"]) for f in ours), Decimal(0))


def held(server: SandboxServer, ticker: str) -> Decimal:
    """The signed position, by the exchange's own book."""
    positions: Any = server.ledger()["positions"]
    return Decimal(positions[ticker]["count"]) if ticker in positions else Decimal(0)


def crash(server: SandboxServer, ticker: str) -> None:
    """Move the market so that what is held loses a third: both sides by the same distance."""
    if ticker == NO:
        server.set_market(ticker, bid="0.58", ask="0.60", bid_size="100", ask_size="100")
    else:
        server.set_market(ticker, bid="0.40", ask="0.42", bid_size="100", ask_size="100")


@pytest.mark.parametrize(("ticker", "count"), [(YES, "10.00"), (NO, "12.50")], ids=["long yes", "long no"])
def test_a_stop_is_hit_and_the_position_is_flat(
    server: SandboxServer, tmp_path: Path, ticker: str, count: str
) -> None:
    with Daemon(tmp_path, server) as daemon:
        daemon.until(lambda: daemon.is_streaming(3) and daemon.is_covered(3), "3 protected")
        shown = daemon.position(ticker)
        assert shown is not None
        assert (shown["entry_price"], shown["exit_value"], shown["stop_price"]) == (
            "0.6000",
            "0.6000",
            "0.4500",
        )
        crash(server, ticker)
        assert daemon.wait_for("exit_triggered", ticker=ticker)["reason"] == "stop_loss"
        daemon.wait_for("exit_closed", ticker=ticker, outcome="filled")
        assert held(server, ticker) == 0
        daemon.until(lambda: daemon.is_covered(2), "2 left, both protected")
        (episode,) = daemon.status()["exits"]
        assert (episode["state"], episode["filled"], episode["attempts"]) == ("closed", count, 1)
        assert Decimal(episode["average_price"]) == Decimal("0.4")
        daemon.until(lambda: daemon.is_streaming(2), "the sold market is no longer streamed")
        assert daemon.health()[0] == 200
        assert daemon.terminate() == 0


def test_the_last_summary_counts_what_the_last_exit_sold(server: SandboxServer, tmp_path: Path) -> None:
    with Daemon(tmp_path, server, UI_INTERVAL_S="10") as daemon:
        daemon.until(lambda: daemon.is_streaming(3) and daemon.is_covered(3), "3 protected", 30)
        crash(server, YES)
        daemon.wait_for("exit_closed", ticker=YES, outcome="filled")
        assert daemon.terminate() == 0
        last = daemon.events("summary")[-1]
        assert (last["protected"], last["exits_active"], last["realized_today"]) == ("2/2", "0", "-2.00")
        assert last["why"] == "the daemon is stopping", "a thread that was asked to end is not dead"


def test_a_healthy_feed_costs_no_price_reads(tmp_path: Path) -> None:
    with (
        SandboxServer(scenario('[[fleet]]\ncount = 30\nmode = "ticking"\nside = "mixed"')) as server,
        Daemon(tmp_path, server) as daemon,
    ):
        daemon.until(lambda: daemon.is_streaming(30) and daemon.is_covered(30), "30 protected")
        before = daemon.status()
        daemon.until(lambda: daemon.status()["uptime_s"] > before["uptime_s"] + 8, "8 s have passed")
        after = daemon.status()
        assert after["rest"]["price_reads_last_60s"] == before["rest"]["price_reads_last_60s"]
        assert after["feed"]["messages"] > before["feed"]["messages"] + 100
        assert after["coverage"]["protected"] == 30


@pytest.mark.parametrize("ticker", [YES, NO], ids=["long yes", "long no"])
def test_with_the_socket_cut_a_stop_still_exits_and_the_stream_comes_back(
    server: SandboxServer, tmp_path: Path, ticker: str
) -> None:
    with Daemon(tmp_path, server, RECONNECT_DELAY_MAX_S="1") as daemon:
        daemon.until(lambda: daemon.is_streaming(3), "3 streamed")
        server.set_faults(cut_sockets=True, refuse_ws={"for_s": 60, "status": 503})
        daemon.wait_for("feed_down")
        took_s = daemon.until(lambda: bool(daemon.events("rest_fallback", why="feed_down")), "fallback")
        assert took_s < 3
        crash(server, ticker)
        daemon.wait_for("exit_closed", timeout_s=6, ticker=ticker, outcome="filled")
        assert held(server, ticker) == 0
        daemon.until(lambda: daemon.is_covered(2), "the others are protected by REST prices", 4)
        assert daemon.status()["feed"]["state"] == "down"
        server.clear_faults()
        daemon.until(lambda: daemon.status()["feed"]["state"] == "live", "live again", 8)
        assert daemon.until(lambda: daemon.is_streaming(2), "confirmed again", 8) < 5


def test_an_open_but_silent_socket_is_recognized(server: SandboxServer, tmp_path: Path) -> None:
    with Daemon(tmp_path, server, FEED_SILENT_AFTER_S="2") as daemon:
        daemon.until(lambda: daemon.is_streaming(3), "3 streamed")
        server.set_faults(silent_s=60)
        took_s = daemon.until(lambda: daemon.status()["feed"]["state"] == "down", "down", 8)
        assert took_s < 2 + 2
        daemon.wait_for("rest_fallback", why="feed_down")
        crash(server, YES)
        daemon.wait_for("exit_closed", timeout_s=6, ticker=YES, outcome="filled")


def test_a_position_opened_by_hand_is_adopted_at_once(server: SandboxServer, tmp_path: Path) -> None:
    with (
        SandboxServer(
            scenario(
                HELD + '\n[[market]]\nticker = "KXTEST-NEW-D"\nbid = "0.70"\nask = "0.72"\nmode = "quiet"\n'
            )
        ) as with_new,
        Daemon(tmp_path, with_new) as daemon,
    ):
        daemon.until(lambda: daemon.is_streaming(3), "3 streamed")
        with_new.add_position("KXTEST-NEW-D", "yes", "7.25", "0.70")
        assert daemon.until(lambda: daemon.is_streaming(4) and daemon.is_covered(4), "4 protected") < 5
        with_new.set_market("KXTEST-NEW-D", bid="0.50", ask="0.52")
        daemon.wait_for("exit_closed", ticker="KXTEST-NEW-D", outcome="filled")
        assert held(with_new, "KXTEST-NEW-D") == 0


def test_a_paused_market_is_unprotected_and_its_stop_goes_out_when_it_reopens(
    server: SandboxServer, tmp_path: Path
) -> None:
    with Daemon(tmp_path, server) as daemon:
        daemon.until(lambda: daemon.is_covered(3), "3 protected")
        server.set_faults(pause_market=YES)
        daemon.until(
            lambda: {"ticker": YES, "reason": "paused"} in daemon.status()["coverage"]["unprotected"],
            "shown as paused",
        )
        assert daemon.health()[0] == 503
        crash(server, YES)
        assert not daemon.events("exit_sent", ticker=YES)
        server.set_faults(resume_market=YES)
        assert daemon.until(lambda: held(server, YES) == 0, "sold after the pause") < 5


def test_a_market_that_closes_on_a_winner_is_not_sold(server: SandboxServer, tmp_path: Path) -> None:
    with Daemon(tmp_path, server) as daemon:
        daemon.until(lambda: daemon.is_streaming(3), "3 streamed")
        server.set_market(YES, bid="0.97", ask="0.99")
        daemon.until(lambda: (daemon.position(YES) or {}).get("exit_value") == "0.9700", "the last bid")
        server.set_market(YES, close_in_s=0.5, result="yes")
        daemon.until(lambda: (daemon.position(YES) or {}).get("market_status") != "active", "closed")
        daemon.until(lambda: daemon.is_covered(2), "the others are protected, this one waits")
        assert not daemon.events("exit_triggered")
        assert net_sold(server, YES) == 0


def test_while_the_key_is_refused_nothing_counts_as_protected(server: SandboxServer, tmp_path: Path) -> None:
    def reasons() -> set[str]:
        return {u["reason"] for u in daemon.status().get("coverage", {}).get("unprotected", [])}

    with Daemon(tmp_path, server, RECONCILE_INTERVAL_S="1") as daemon:
        daemon.until(lambda: daemon.is_covered(3), "3 protected")
        server.set_faults(auth="dead")
        daemon.until(lambda: reasons() == {"auth"}, "no exit could be sent now")
        assert daemon.health()[0] == 503
        crash(server, YES)
        daemon.wait_for("exit_blocked", ticker=YES, why="auth")
        server.set_faults(auth="ok")
        daemon.until(lambda: held(server, YES) == 0, "sold with the key that works again")
        daemon.until(lambda: daemon.is_covered(2), "the others are protected again")


def test_a_second_instance_with_the_same_key_exits_with_3(server: SandboxServer, tmp_path: Path) -> None:
    with Daemon(tmp_path, server) as first:
        first.wait_for("started")
        with Daemon(tmp_path, server, STATE_DIR=str(tmp_path / "elsewhere")) as second:
            assert second.wait() == 3
        assert first.terminate() == 0


def test_sigterm_in_mid_exit_finishes_it_and_leaves_nothing_resting(
    server: SandboxServer, tmp_path: Path
) -> None:
    with Daemon(tmp_path, server) as daemon:
        daemon.until(lambda: daemon.is_covered(3), "3 protected")
        server.set_faults(latency_s=1.0)
        crash(server, YES)
        daemon.wait_for("exit_triggered", ticker=YES)
        assert daemon.terminate(10.0) == 0
        assert held(server, YES) == 0
        orders: Any = server.ledger()["orders"]
        assert not [o for o in orders if o["status"] == "resting"]
        assert daemon.events("stopped")


@pytest.mark.parametrize("action", ["act_then_500", "act_then_timeout", "act_then_reset"])
def test_a_lost_answer_sells_nothing_twice(server: SandboxServer, tmp_path: Path, action: str) -> None:
    with Daemon(tmp_path, server) as daemon:
        daemon.until(lambda: daemon.is_covered(3), "3 protected")
        server.set_faults(
            calls=[{"method": "POST", "path": "/portfolio/events/orders", "times": 1, "action": action}]
        )
        crash(server, YES)
        daemon.wait_for("exit_unknown", timeout_s=12, ticker=YES)
        daemon.wait_for("exit_closed", timeout_s=12, ticker=YES)
        assert held(server, YES) == 0
        assert net_sold(server, YES) == 10


def test_a_strategy_that_blocks_delays_no_exit_and_no_stop(server: SandboxServer, tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(
        "import threading\n"
        "class Stuck:\n"
        "    def __init__(self, settings): pass\n"
        "    def decide(self, view): threading.Event().wait(600)\n"
    )
    with Daemon(tmp_path, server, STRATEGY="stuck:Stuck", STRATEGY_INTERVAL_S="1") as daemon:
        daemon.until(lambda: daemon.is_covered(3), "3 protected")
        crash(server, YES)
        daemon.wait_for("exit_closed", timeout_s=3, ticker=YES, outcome="filled")
        daemon.until(
            lambda: any("strategy-loop" in r for r in daemon.health()[1].get("reasons", [])),
            "the late strategy shows",
        )
        assert daemon.terminate(10.0) == 0


@pytest.mark.parametrize(
    ("constructor", "watches", "decide"),
    [
        ("pass", "return []", "raise SystemExit(7)"),
        ("pass", "raise SystemExit(9)", "return []"),
        ("pass", "return None", "return [1, None, 'x']"),
        ("import threading; threading.Event().wait(600)", "return []", "return []"),
        ("raise SystemExit(1)", "return []", "return []"),
    ],
    ids=[
        "leaves in decide",
        "leaves in watches",
        "nonsense",
        "never finishes its constructor",
        "leaves in its constructor",
    ],
)
def test_whatever_a_strategy_does_protection_goes_on(
    server: SandboxServer, tmp_path: Path, constructor: str, watches: str, decide: str
) -> None:
    (tmp_path / "wild.py").write_text(
        "class Wild:\n"
        f"    def __init__(self, settings): {constructor}\n"
        f"    def watches(self): {watches}\n"
        f"    def decide(self, view): {decide}\n"
    )
    with Daemon(tmp_path, server, STRATEGY="wild:Wild", STRATEGY_INTERVAL_S="0.5") as daemon:
        daemon.until(lambda: daemon.is_covered(3), "3 protected")
        crash(server, YES)
        daemon.wait_for("exit_closed", timeout_s=5, ticker=YES, outcome="filled")
        daemon.until(
            lambda: any("strategy" in r for r in daemon.health()[1].get("reasons", [])), "the fault shows"
        )
        assert daemon.terminate(10.0) == 0


def test_with_adoption_off_a_restart_still_knows_what_it_opened_itself(
    server: SandboxServer, tmp_path: Path
) -> None:
    text = HELD + '\n[[market]]\nticker = "KXTEST-CHEAP-D"\nbid = "0.28"\nask = "0.30"\nmode = "quiet"\n'
    with SandboxServer(scenario(text)) as exchange:
        environment = {"ADOPT_POSITIONS": "no"}
        buying = {
            "STRATEGY": "value",
            "STRATEGY_FAIR_PRICES": "KXTEST-CHEAP-D=0.45",
            "STRATEGY_INTERVAL_S": "1",
        }
        with Daemon(tmp_path, exchange, **environment, **buying) as first:
            first.wait_for("entry_filled", ticker="KXTEST-CHEAP-D")
            first.until(lambda: first.is_covered(1), "its own is protected, the others by choice are not")
            assert first.terminate() == 0
        with Daemon(tmp_path, exchange, **environment) as second:
            second.until(lambda: second.is_covered(1), "its own is still protected")
            exchange.set_market("KXTEST-CHEAP-D", bid="0.10", ask="0.12")
            exchange.set_market(YES, bid="0.10", ask="0.12")
            second.wait_for("exit_closed", ticker="KXTEST-CHEAP-D", outcome="filled")
            assert not second.events("exit_triggered", ticker=YES)


def test_a_strategy_that_cannot_be_loaded_exits_with_2(server: SandboxServer, tmp_path: Path) -> None:
    with Daemon(tmp_path, server, STRATEGY="no_such_module_here:Mine") as daemon:
        assert daemon.wait() == 2
        assert any("no_such_module_here" in line for line in daemon.lines())


def test_the_value_strategy_opens_a_position_that_is_streamed_and_protected(
    server: SandboxServer, tmp_path: Path
) -> None:
    with (
        SandboxServer(
            scenario(
                HELD + '\n[[market]]\nticker = "KXTEST-CHEAP-D"\nbid = "0.28"\nask = "0.30"\nmode = "quiet"\n'
            )
        ) as with_cheap,
        Daemon(
            tmp_path,
            with_cheap,
            STRATEGY="value",
            STRATEGY_FAIR_PRICES="KXTEST-CHEAP-D=0.45",
            STRATEGY_INTERVAL_S="1",
        ) as daemon,
    ):
        daemon.wait_for("entry_filled", ticker="KXTEST-CHEAP-D")
        daemon.until(lambda: daemon.is_streaming(4) and daemon.is_covered(4), "4 protected")
        shown = daemon.position("KXTEST-CHEAP-D")
        assert shown is not None
        assert (shown["count"], shown["entry_price"]) == ("5.00", "0.3000")


def test_paper_mode_sells_nothing(server: SandboxServer, tmp_path: Path) -> None:
    with Daemon(tmp_path, server, KALSHI_ENV="demo", TRADING_MODE="paper") as daemon:
        daemon.until(lambda: daemon.is_covered(3), "3 protected")
        assert daemon.status()["trading_mode"] == "paper"
        crash(server, YES)
        daemon.wait_for("exit_closed", ticker=YES, outcome="filled")
        daemon.until(lambda: daemon.is_covered(2), "flat on paper")
        assert held(server, YES) == 10
        assert net_sold(server, YES) == 0


@pytest.mark.skipif(os.name != "posix", reason="kills by process id")
def test_after_a_kill_9_the_next_start_protects_what_is_held(server: SandboxServer, tmp_path: Path) -> None:
    with Daemon(tmp_path, server) as first:
        first.until(lambda: first.is_covered(3), "3 protected")
        first.process.kill()
        first.wait()
        crash(server, NO)
    with Daemon(tmp_path, server) as second:
        second.wait_for("exit_closed", ticker=NO, outcome="filled")
        second.until(lambda: second.is_covered(2), "2 left, both protected")
        assert held(server, NO) == 0
