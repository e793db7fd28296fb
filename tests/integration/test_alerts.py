"""Alerts provoked for real: the daemon as a process, the sandbox as the exchange, a webhook on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from base.clock import SystemClock
from base.sandbox.server import SandboxServer
from tests.integration.rig import PROJECT, Daemon, environment_of
from tests.integration.test_daemon import CALM, HELD, NO, YES, crash, held, scenario
from tests.integration.test_every_alert import WAYWARD, WAYWARD_ENVIRONMENT
from tests.integration.webhook import SECRET_PATH, Webhook, webhook

pytest.importorskip("apprise", reason="the extra `alerts` is not installed")


@pytest.fixture
def service() -> Iterator[Webhook]:
    with webhook() as running:
        yield running


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    with SandboxServer(scenario(HELD)) as running:
        yield running


def wait_for(daemon: Daemon, service: Webhook, *words: str, timeout_s: float = 20) -> dict[str, str]:
    daemon.until(lambda: bool(service.about(*words)), f"an alert about {words}", timeout_s)
    return service.about(*words)[0]


def test_a_hundred_exits_are_a_handful_of_messages(service: Webhook, tmp_path: Path) -> None:
    text = '[[fleet]]\ncount = 100\nmode = "quiet"\nside = "yes"\n'
    with (
        SandboxServer(scenario(text)) as exchange,
        Daemon(tmp_path, exchange, ALERT_URLS=service.url) as daemon,
    ):
        daemon.until(lambda: daemon.is_streaming(100) and daemon.is_covered(100), "100 protected", 30)
        for position in daemon.status()["positions"]:
            exchange.set_market(position["ticker"], bid="0.05", ask="0.07", bid_size="500", ask_size="500")
        daemon.until(lambda: len(daemon.events("exit_closed")) == 100, "all sold", 60)
        daemon.until(lambda: told(service, "filled") == 100 and told(service, "triggered") == 100, "told", 30)
        assert len(service.received()) <= 12


def told(service: Webhook, what: str) -> int:
    """How many exits the messages so far have told of."""
    total = 0
    for message in service.received():
        for head in message["title"].partition("] ")[2].replace("alerts: ", "; ").split("; "):
            if f"exit {what}" in head:
                total += 1
            elif f"exits {what}" in head:
                total += int(head.split()[0])
    return total


def test_a_channel_that_hangs_and_one_that_refuses_delay_no_exit_and_no_stop(
    server: SandboxServer, tmp_path: Path
) -> None:
    with webhook() as hanging, webhook() as refusing, webhook() as working:
        hanging.hangs, refusing.status = True, 500
        urls = f"{hanging.url},{refusing.url},{working.url}"
        with Daemon(tmp_path, server, ALERT_URLS=urls) as daemon:
            daemon.until(lambda: daemon.is_covered(3), "3 protected", 40)
            wait_for(daemon, working, "daemon started")
            crash(server, YES)
            triggered = daemon.wait_for("exit_triggered", ticker=YES)
            closed = daemon.wait_for("exit_closed", ticker=YES, outcome="filled")
            assert seconds_between(triggered, closed) < 0.5
            assert held(server, YES) == 0
            wait_for(daemon, working, "exit filled", YES)
            daemon.until(lambda: channels(daemon)["json-1"]["hanging"], "the hanging one is counted", 20)
            shown = channels(daemon)
            assert shown["json-2"]["failed"] >= 1
            assert "500" in shown["json-2"]["last_error"]
            assert shown["json-3"]["failed"] == 0
            assert daemon.health()[0] == 200
            crash(server, NO)
            daemon.wait_for("exit_closed", timeout_s=3, ticker=NO, outcome="filled")
            assert daemon.terminate(10.0) == 0
            assert working.about("daemon stopped")
            assert SECRET_PATH not in "\n".join(daemon.lines())


def channels(daemon: Daemon) -> dict[str, dict[str, object]]:
    return {c["name"]: c for c in daemon.status().get("alerts", {}).get("channels", [])}


def seconds_between(first: dict[str, str], second: dict[str, str]) -> float:
    at = [datetime.fromisoformat(event["logged_at"]) for event in (first, second)]
    return (at[1] - at[0]).total_seconds()


def pause(server: SandboxServer, orders: Path) -> None:
    server.set_market(CALM, status="inactive")


def resume(server: SandboxServer, orders: Path) -> None:
    server.set_market(CALM, status="active")


def hang_the_strategy(server: SandboxServer, orders: Path) -> None:
    orders.write_text("hang", encoding="utf-8")


def let_it_return(server: SandboxServer, orders: Path) -> None:
    orders.unlink()


def freeze_the_checker(server: SandboxServer, orders: Path) -> None:
    orders.write_text("freeze", encoding="utf-8")


def stall_a_thread(server: SandboxServer, orders: Path) -> None:
    orders.write_text("stall", encoding="utf-8")


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("break_it", "mend_it"),
    [
        pytest.param(pause, resume, id="a position is unprotected"),
        pytest.param(
            hang_the_strategy, let_it_return, id="the strategy never returns", marks=pytest.mark.slow
        ),
        pytest.param(freeze_the_checker, None, id="the checker is frozen", marks=pytest.mark.slow),
        pytest.param(stall_a_thread, None, id="a lesser thread hangs in mid-pass", marks=pytest.mark.slow),
    ],
)
def test_the_dead_man_is_called_only_while_all_is_well(
    server: SandboxServer,
    service: Webhook,
    tmp_path: Path,
    break_it: Callable[[SandboxServer, Path], None],
    mend_it: Callable[[SandboxServer, Path], None] | None,
) -> None:
    (tmp_path / "wayward.py").write_text(WAYWARD, encoding="utf-8")
    orders = tmp_path / "orders"
    environment = {
        **dict(WAYWARD_ENVIRONMENT),
        "PYTHONPATH": f"{PROJECT}{os.pathsep}{tmp_path}",
        "STRATEGY_ORDERS_FILE": str(orders),
        "DEADMAN_URL": service.get_url,
        "DEADMAN_INTERVAL_S": "5",
    }
    with Daemon(tmp_path, server, **environment) as daemon:
        daemon.until(lambda: daemon.is_covered(3), "3 protected", 40)
        daemon.until(lambda: service.calls >= 2, "called again", 20)
        before = len(daemon.lines())
        break_it(server, orders)
        daemon.until(lambda: bool(daemon.events_after(before, "dead_man_withheld")), "withheld", 80)
        calls = service.calls
        uptime_s = daemon.status()["uptime_s"]
        daemon.until(lambda: daemon.status()["uptime_s"] > uptime_s + 11, "two intervals have passed")
        assert service.calls == calls
        if mend_it is not None:
            mend_it(server, orders)
            daemon.until(lambda: service.calls > calls, "called again", 20)
            assert daemon.terminate() == 0
        assert SECRET_PATH not in "\n".join(daemon.lines())


def run_alerts(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`run_bot.py alerts` in a process of its own."""
    return subprocess.run(
        [sys.executable, str(PROJECT / "run_bot.py"), "alerts", *arguments],
        cwd=directory,
        env=environment_of(directory, None) | environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_a_test_message_reaches_each_channel_and_says_which_one_takes_none(tmp_path: Path) -> None:
    with webhook() as working, webhook() as refusing, webhook() as hanging:
        refusing.status, hanging.hangs = 500, True
        urls = f"{working.url},{refusing.url},{hanging.url}"
        listed = run_alerts(tmp_path, ALERT_URLS=urls, DEADMAN_URL=working.get_url)
        assert (listed.returncode, listed.stderr) == (0, "")
        assert (working.received(), working.calls) == ([], 0), "nothing is sent unless asked for"
        clock = SystemClock()
        began = clock.monotonic()
        done = run_alerts(tmp_path, "--test", ALERT_URLS=urls, DEADMAN_URL=working.get_url)
        assert clock.monotonic() - began < 35, "one that hangs is left behind"
        assert done.returncode == 5
        lines = done.stdout.splitlines()
        assert [line.split(":")[0] for line in lines] == [
            "OK    json-1",
            "FAIL  json-2",
            "FAIL  json-3",
            "OK    DEADMAN_URL",
        ]
        assert "500" in lines[1]
        assert "no answer for 10 s" in lines[2]
        (message,) = working.received()
        assert message["title"].endswith("test message")
        assert working.calls == 1
        assert SECRET_PATH not in listed.stdout + done.stdout + done.stderr


@pytest.mark.parametrize("status", [200, 500], ids=["takes it", "refuses it"])
def test_the_code_of_a_test_says_whether_all_was_taken(service: Webhook, tmp_path: Path, status: int) -> None:
    service.status = service.call_status = status
    done = run_alerts(tmp_path, "--test", ALERT_URLS=service.url, DEADMAN_URL=service.get_url)
    assert done.returncode == (0 if status == 200 else 5)
    assert [line[:4] for line in done.stdout.splitlines()] == (["OK  "] if status == 200 else ["FAIL"]) * 2
    assert SECRET_PATH not in done.stdout + done.stderr


def test_without_a_channel_a_test_says_that_nobody_is_told(tmp_path: Path) -> None:
    done = run_alerts(tmp_path, "--test")
    assert done.returncode == 0
    assert [line[:4] for line in done.stdout.splitlines()] == ["WARN", "WARN"]


def test_a_url_that_is_not_understood_ends_the_start_and_is_not_repeated(
    server: SandboxServer, tmp_path: Path
) -> None:
    with Daemon(tmp_path, server, ALERT_URLS=f"nosuch://{SECRET_PATH}") as daemon:
        assert daemon.wait() == 2
        output = "\n".join(daemon.lines())
        assert "ALERT_URLS: number 1 (nosuch-1) is not understood" in output
        assert SECRET_PATH not in output
