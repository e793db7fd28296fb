"""The daemon as a service: the test is the service manager, listening, watching and ending it."""

from __future__ import annotations

import os
import signal
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from base.clock import SystemClock
from base.sandbox.scenario import parse_scenario
from base.sandbox.server import SandboxServer
from base.ui.metric_table import METRICS
from tests.integration.rig import PROJECT, Daemon

HELD = "KXHELD-1-A"
WATCHDOG_S = 3.0

MARKETS = f"""
[[market]]
ticker = "{HELD}"
bid = "0.60"
ask = "0.62"
mode = "quiet"
position = {{ side = "yes", count = "10", entry = "0.60" }}
"""

# A strategy is somebody else's code in the same process: this one freezes the checker in mid-pass, as a
# deadlock would, once its file appears.
FREEZE = """
import os
import threading


class Freeze:
    def __init__(self, settings):
        self._file = settings["STRATEGY_FREEZE_FILE"]
        self._never = threading.Event()

    def decide(self, view):
        if os.path.exists(self._file):
            thread = next(t for t in threading.enumerate() if t.name == "stop-loss")
            thread._target.__self__._swept = self._freeze
        return []

    def _freeze(self):
        self._never.wait()
"""


class Manager:
    """The service manager's socket; a thread of its own notes what comes and when."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._clock = SystemClock()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self._sock.settimeout(0.1)
        self._stop = threading.Event()
        self._lock = threading.Lock()  # guards the field below
        self._heard: list[tuple[float, str]] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                message = self._sock.recv(4096).decode()
            except TimeoutError:
                continue
            with self._lock:
                self._heard.append((self._clock.monotonic(), message))

    def heard(self) -> list[str]:
        with self._lock:
            return [message for _, message in self._heard]

    def unfed_s(self) -> float:
        """Seconds since the watchdog was last fed."""
        with self._lock:
            return self._clock.monotonic() - max(at for at, text in self._heard if text == "WATCHDOG=1")

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2.0)
        self._sock.close()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "NOTIFY_SOCKET": str(self.path),
            "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)),
            "STOP_LOSS_INTERVAL_S": "0.2",
        }


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    listening = Manager(tmp_path / "notify")
    yield listening
    listening.close()


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    with SandboxServer(parse_scenario(MARKETS, "service.toml")) as running:
        yield running


def test_the_service_is_ready_when_it_protects_and_says_when_it_stops(
    tmp_path: Path, server: SandboxServer, manager: Manager
) -> None:
    with Daemon(tmp_path, server, **manager.environment) as daemon:
        daemon.until(lambda: "READY=1" in manager.heard(), "ready")
        daemon.until(
            lambda: any("protected 1/1, feed live" in text for text in manager.heard()), "coverage as status"
        )
        daemon.until(lambda: manager.heard().count("WATCHDOG=1") >= 3, "the watchdog is fed")
        assert manager.heard().count("READY=1") == 1
        assert daemon.terminate() == 0
        assert manager.heard()[-1].startswith("STOPPING=1")


def test_an_exchange_that_cannot_be_reached_feeds_the_watchdog(
    tmp_path: Path, server: SandboxServer, manager: Manager
) -> None:
    with Daemon(tmp_path, server, **manager.environment) as daemon:
        daemon.until(lambda: "READY=1" in manager.heard(), "ready")
        server.stop()
        fed = manager.heard().count("WATCHDOG=1")
        daemon.until(lambda: manager.heard().count("WATCHDOG=1") >= fed + 12, "fed for longer than its time")
        assert daemon.process.poll() is None
        daemon.kill()


def test_a_frozen_checker_starves_the_watchdog_and_the_next_start_protects_again(
    tmp_path: Path, server: SandboxServer, manager: Manager
) -> None:
    (tmp_path / "freezing.py").write_text(FREEZE, encoding="utf-8")
    freeze = tmp_path / "freeze"
    environment = manager.environment | {
        "STRATEGY": "freezing:Freeze",
        "STRATEGY_INTERVAL_S": "0.1",
        "STRATEGY_FREEZE_FILE": str(freeze),
        "PYTHONPATH": f"{PROJECT}{os.pathsep}{tmp_path}",
    }
    with Daemon(tmp_path, server, **environment) as daemon:
        daemon.until(lambda: daemon.is_covered(1), "protected")
        daemon.until(lambda: manager.heard().count("WATCHDOG=1") >= 3, "the watchdog is fed")
        freeze.touch()
        daemon.until(lambda: manager.unfed_s() > WATCHDOG_S, "the watchdog fires", 20)
        assert any(text.startswith("STATUS=LATE: stop-loss") for text in manager.heard())
        assert daemon.health()[0] == 503
        daemon.process.send_signal(signal.SIGABRT)  # what systemd sends
        assert daemon.wait() == -signal.SIGABRT
        log = "\n".join(daemon.lines())
        assert "_freeze" in log, "the stack of the frozen thread is in the log"
        assert "in sweep" in log

        freeze.unlink()
        daemon.restart()
        daemon.until(lambda: daemon.is_covered(1), "protected again")
        assert daemon.terminate() == 0


def test_a_running_daemon_tells_every_metric(tmp_path: Path, server: SandboxServer) -> None:
    with Daemon(tmp_path, server) as daemon:
        daemon.until(lambda: daemon.is_covered(1), "protected")
        page = daemon.wait_for("started")["ui"]
        server.set_market(HELD, bid="0.40", ask="0.42", bid_size="100", ask_size="100")
        daemon.wait_for("exit_closed", ticker=HELD)
        daemon.until(lambda: daemon.is_covered(0), "flat")
        with urllib.request.urlopen(f"{page}metrics", timeout=5) as answer:
            text = answer.read().decode()
        values = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert values["backstop_tick_to_decision_seconds_count",] >= 1
        assert values["backstop_decision_to_ack_seconds_count",] == 1
        assert values["backstop_exit_price_age_seconds_count",] == 1
        assert values["backstop_exits_ended_total", "filled", "stop_loss"] == 1
        assert values["backstop_rest_requests_total", "201", "exit", "orders"] == 1
        assert values["backstop_thread_passes_total", "stop-loss"] >= 1
        assert 0 < values["backstop_rest_tokens", "read"] <= values["backstop_rest_tokens_capacity", "read"]
        told = {name for name, *_ in values}
        # Nothing is held any more, nothing is unprotected, nobody has bought.
        absent = {"backstop_price_age_max_seconds", "backstop_positions_unprotected"}
        assert {s.name for s in METRICS if s.series not in told} <= absent
        assert HELD not in text
        assert daemon.terminate() == 0
