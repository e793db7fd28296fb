"""Alerts provoked for real: the daemon as a process, the sandbox as the exchange, a webhook on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from base.sandbox.server import SandboxServer
from tests.integration.rig import Daemon
from tests.integration.test_daemon import CALM, HELD, NO, YES, crash, held, scenario

pytest.importorskip("apprise", reason="the extra `alerts` is not installed")

SECRET_PATH = "0123456789abcdef"


class Webhook:
    """A service that takes messages, refuses them, or hangs in mid-answer; and counts plain GETs."""

    def __init__(self) -> None:
        self.status = 200
        self.hangs = False
        self.release = threading.Event()
        self._lock = threading.Lock()  # guards the fields below
        self._received: list[dict[str, str]] = []
        self._calls = 0
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if webhook.hangs:
                    # A byte now and then keeps every time-out of the library's from passing.
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                    while not webhook.release.wait(0.5):
                        self.wfile.write(b"X")
                    return
                with webhook._lock:
                    if webhook.status == 200:
                        webhook._received.append(body)
                self.send_response(webhook.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                with webhook._lock:
                    webhook._calls += 1
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Not on the test's output."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self._server.server_port}/{SECRET_PATH}"

    @property
    def get_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/ping/{SECRET_PATH}"

    @property
    def calls(self) -> int:
        with self._lock:
            return self._calls

    def received(self) -> list[dict[str, str]]:
        with self._lock:
            return list(self._received)

    def about(self, *words: str) -> list[dict[str, str]]:
        """The messages that say all of this, in title or text."""
        return [m for m in self.received() if all(w in f"{m['title']}\n{m['message']}" for w in words)]

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@contextmanager
def webhook() -> Iterator[Webhook]:
    running = Webhook()
    try:
        yield running
    finally:
        running.close()


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


def test_the_life_of_an_exit_and_of_the_daemon(
    server: SandboxServer, service: Webhook, tmp_path: Path
) -> None:
    with Daemon(tmp_path, server, ALERT_URLS=service.url) as daemon:
        daemon.until(lambda: daemon.is_covered(3), "3 protected")
        started = wait_for(daemon, service, "daemon started")
        assert started["title"].startswith("[LIVE sandbox ")
        crash(server, YES)
        triggered = wait_for(daemon, service, "exit triggered", YES)
        assert "stop_loss" in triggered["message"]
        filled = wait_for(daemon, service, "exit filled", YES)
        assert "sold 10.00 at 0.4000" in filled["message"]
        assert daemon.terminate() == 0
        stopped = service.about("daemon stopped")
        assert len(stopped) == 1
        assert "2 open positions are watched by nobody" in stopped[0]["message"]
        assert "To do: start it again" in stopped[0]["message"]
        assert SECRET_PATH not in "\n".join(daemon.lines())


def test_a_paused_market_is_unprotected_then_its_exit_is_blocked_then_all_is_over(
    server: SandboxServer, service: Webhook, tmp_path: Path
) -> None:
    with Daemon(tmp_path, server, ALERT_URLS=service.url) as daemon:
        daemon.until(lambda: daemon.is_covered(3), "3 protected")
        server.set_market(CALM, status="inactive")
        message = wait_for(daemon, service, "position UNPROTECTED", f"{CALM}: paused")
        assert message["type"] == "failure"
        assert "To do: trading is paused" in message["message"]
        server.set_market(CALM, status="active")
        wait_for(daemon, service, "resolved: position UNPROTECTED", f"{CALM}: protected again", timeout_s=30)
        # What is refused at the exchange while its market still shows a bid.
        server.set_faults(
            calls=[
                {
                    "method": "POST",
                    "path": "/portfolio/events/orders",
                    "times": 1000,
                    "action": "status",
                    "status": 409,
                    "body": {"error": {"code": "trading_is_paused", "message": "trading is paused"}},
                }
            ]
        )
        crash(server, YES)
        blocked = wait_for(daemon, service, "exit BLOCKED", YES)
        assert blocked["type"] == "failure"
        server.clear_faults()
        wait_for(daemon, service, "exit filled", YES)
        wait_for(daemon, service, "resolved: exit BLOCKED", YES)


def test_a_feed_that_stays_down_and_comes_back(
    server: SandboxServer, service: Webhook, tmp_path: Path
) -> None:
    with Daemon(tmp_path, server, ALERT_URLS=service.url, RECONNECT_DELAY_MAX_S="1") as daemon:
        daemon.until(lambda: daemon.is_streaming(3), "3 streamed")
        server.set_faults(cut_sockets=True, refuse_ws={"for_s": 300, "status": 503})
        message = wait_for(daemon, service, "price feed down", timeout_s=45)
        assert "REST meanwhile" in message["message"]
        server.clear_faults()
        wait_for(daemon, service, "resolved: price feed down", timeout_s=25)


def test_the_daily_loss(server: SandboxServer, service: Webhook, tmp_path: Path) -> None:
    with Daemon(tmp_path, server, ALERT_URLS=service.url, MAX_DAILY_LOSS_DOLLARS="1") as daemon:
        daemon.until(lambda: daemon.is_covered(3), "3 protected")
        crash(server, YES)
        message = wait_for(daemon, service, "daily loss limit reached")
        assert "entries resume on the next trading day" in message["message"]


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
            daemon.until(lambda: daemon.is_covered(3), "3 protected")
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


def test_the_dead_man_is_called_only_while_all_is_well(
    server: SandboxServer, service: Webhook, tmp_path: Path
) -> None:
    with Daemon(tmp_path, server, DEADMAN_URL=service.get_url, DEADMAN_INTERVAL_S="5") as daemon:
        daemon.until(lambda: daemon.is_covered(3), "3 protected")
        daemon.until(lambda: service.calls >= 2, "called again", 20)
        server.set_market(CALM, status="inactive")
        daemon.wait_for("dead_man_withheld", timeout_s=20)
        calls = service.calls
        uptime_s = daemon.status()["uptime_s"]
        daemon.until(lambda: daemon.status()["uptime_s"] > uptime_s + 6, "more than an interval has passed")
        assert service.calls == calls
        server.set_market(CALM, status="active")
        daemon.until(lambda: service.calls > calls, "called again", 20)
        assert daemon.terminate() == 0
        assert SECRET_PATH not in "\n".join(daemon.lines())


def test_a_url_that_is_not_understood_ends_the_start_and_is_not_repeated(
    server: SandboxServer, tmp_path: Path
) -> None:
    with Daemon(tmp_path, server, ALERT_URLS=f"nosuch://{SECRET_PATH}") as daemon:
        assert daemon.wait() == 2
        output = "\n".join(daemon.lines())
        assert "ALERT_URLS: number 1 (nosuch-1) is not understood" in output
        assert SECRET_PATH not in output
