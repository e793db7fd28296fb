"""The log of the whole daemon: whatever becomes of its reader, protection goes on; and no secret is in it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from base.clock import SystemClock
from base.sandbox.scenario import parse_scenario
from base.sandbox.server import SandboxServer
from tests.integration.rig import PROJECT, Daemon, environment_of

TICKER = "KXTEST-YES-A"
HELD = f"""
[[market]]
ticker = "{TICKER}"
bid = "0.60"
ask = "0.62"
mode = "quiet"
position = {{ side = "yes", count = "10", entry = "0.60" }}
"""
PIPE_BYTES = 4_096


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    with SandboxServer(parse_scenario(HELD, "test.toml")) as running:
        yield running


def held(server: SandboxServer) -> Decimal:
    positions: Any = server.ledger()["positions"]
    return Decimal(positions[TICKER]["count"]) if TICKER in positions else Decimal(0)


class Unread(Daemon):
    """Its standard output and error are a pipe that is full from the start; nobody reads it until `read`."""

    def _start(self) -> subprocess.Popen[str]:
        self.reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.write(writing, b"." * (PIPE_BYTES - 1) + b"\n")
        process = subprocess.Popen(
            [sys.executable, str(PROJECT / "run_bot.py")],
            cwd=self._directory,
            env=self._env,
            stdout=writing,
            stderr=writing,
            text=True,
        )
        os.close(writing)
        self._reader = threading.Thread(target=self._read_all, daemon=True)
        return process

    def read(self) -> None:
        self._reader.start()

    def _read_all(self) -> None:
        with os.fdopen(self.reading, encoding="utf-8") as pipe:
            for line in pipe:
                with self._lock:
                    self._lines.append(line.rstrip())

    def wait(self, timeout_s: float = 12.0) -> int:
        return self.process.wait(timeout_s)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_stop_goes_out_while_nobody_reads_the_log(
    server: SandboxServer, tmp_path: Path, log_format: str
) -> None:
    with Unread(tmp_path, server, LOG_FORMAT=log_format, LOG_LEVEL="DEBUG") as daemon:
        daemon.until(lambda: daemon.is_covered(1), "protected")
        daemon.until(lambda: daemon.status()["uptime_s"] > 3, "the log has hung for a while")
        server.set_market(TICKER, bid="0.40", ask="0.42", bid_size="100", ask_size="100")
        assert daemon.until(lambda: held(server) == 0, "sold", 5) < 3
        daemon.read()
        daemon.until(lambda: any("exit_closed" in line for line in daemon.lines()), "all is told then")
        daemon.until(lambda: any("log_works_again" in line for line in daemon.lines()), "and that it hung")
        assert daemon.terminate() == 0


def test_it_stops_in_time_while_nobody_reads_the_log(server: SandboxServer, tmp_path: Path) -> None:
    with Unread(tmp_path, server) as daemon:
        daemon.until(lambda: daemon.is_covered(1), "protected")
        assert daemon.terminate(10.0) == 0


def test_a_stop_goes_out_when_the_reader_of_the_log_has_gone(server: SandboxServer, tmp_path: Path) -> None:
    with Unread(tmp_path, server) as daemon:
        os.close(daemon.reading)
        daemon.until(lambda: daemon.is_covered(1), "protected")
        server.set_market(TICKER, bid="0.40", ask="0.42", bid_size="100", ask_size="100")
        assert daemon.until(lambda: held(server) == 0, "sold", 5) < 3
        assert daemon.terminate(10.0) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_under_the_log_file_is_said_and_costs_no_protection(
    server: SandboxServer, tmp_path: Path
) -> None:
    with Daemon(tmp_path, server, LOG_FILE="/dev/full") as daemon:
        daemon.wait_for("log_blocked", sink="file", why="No space left on device")
        daemon.until(lambda: daemon.is_covered(1), "protected")
        server.set_market(TICKER, bid="0.40", ask="0.42", bid_size="100", ask_size="100")
        daemon.wait_for("exit_closed", ticker=TICKER, outcome="filled")
        assert daemon.terminate() == 0


def test_a_closed_standard_output_leaves_the_file(server: SandboxServer, tmp_path: Path) -> None:
    log_file = tmp_path / "backstop.log"
    process = subprocess.Popen(
        ["/bin/sh", "-c", 'exec "$0" "$1" >&-', sys.executable, str(PROJECT / "run_bot.py")],
        cwd=tmp_path,
        env=environment_of(tmp_path, server) | {"LOG_FILE": str(log_file), "UI_PORT": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        give_up = SystemClock().monotonic() + 10
        while SystemClock().monotonic() < give_up:
            if log_file.exists() and "state=active" in log_file.read_text():
                break
            threading.Event().wait(0.05)
        process.terminate()
        _, complaints = process.communicate(timeout=12)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert (process.returncode, complaints) == (0, "")
    assert "event=stopped" in log_file.read_text()


def test_the_level_changes_at_run_time(server: SandboxServer, tmp_path: Path) -> None:
    with Daemon(tmp_path, server) as daemon:
        daemon.until(lambda: daemon.is_covered(1), "protected")
        (tmp_path / ".env").write_text("LOG_LEVEL=DEBUG\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for("log_level", level="DEBUG", was="INFO", source=".env line 1")
        (tmp_path / ".env").write_text("LOG_LEVEL=LOUD\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for("log_level_refused")
        assert daemon.terminate() == 0


CANARY_TOKEN = "canary-ui-token-Q7x9"
CANARY_PASSWORD = "canary-alert-password"
CANARY_STRATEGY = '''
"""A strategy that tells all it can get hold of."""

import gc
import logging
import threading
import warnings

import requests

from base.app.config import Config
from base.kalshi.signing import Signer
from base.log import log_event

logger = logging.getLogger("canary")


class Canary:
    def __init__(self, settings):
        # Nobody may turn the libraries up; somebody does.
        for name in ("urllib3", "websocket", "requests", "waitress", "werkzeug"):
            logging.getLogger(name).setLevel(logging.DEBUG)
        import http.client
        import websocket
        websocket.enableTrace(True, handler=logging.NullHandler(), level="DEBUG")
        self._told = 0

    def decide(self, view):
        self._told += 1
        if self._told > 2:
            return []
        gc.unfreeze()
        found = [o for o in gc.get_objects() if isinstance(o, (Config, Signer, requests.Session))]
        signed = [s.headers("GET", "/trade-api/v2/portfolio/balance", 1790000000123)
                  for s in found if isinstance(s, Signer)]
        prepared = [requests.Request("GET", "https://example.org/x", headers=h).prepare() for h in signed]
        for thing in [*found, *signed, *prepared, *[p.headers for p in prepared]]:
            logger.warning("told: %r", thing)
            log_event(logger, logging.WARNING, "told", thing=thing, shown=repr(thing), inside=[thing])
            try:
                raise RuntimeError("failed with %r and %r" % (thing, getattr(thing, "__dict__", None)))
            except RuntimeError:
                log_event(logger, logging.ERROR, "told_failed", exc_info=True)
        for config in (c for c in found if isinstance(c, Config)):
            for secret in (config.api_key_id, config.ui_token, *config.alert_urls,
                           *config.private_key_path.read_text().splitlines()):
                logger.error("secret itself: %s", secret)
                warnings.warn(f"in a warning: {secret}")
        def die():
            raise ValueError(f"in a thread: {signed} {found}")
        threading.Thread(target=die).start()
        raise ValueError(f"in the pass: {signed} {[vars(f) for f in found if hasattr(f, '__dict__')]}")
'''


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_secret_is_in_the_log_whoever_tells_it(
    server: SandboxServer, tmp_path: Path, log_format: str
) -> None:
    log_file = tmp_path / "backstop.log"
    (tmp_path / "canary_strategy.py").write_text(CANARY_STRATEGY)
    environment = {
        "UI_TOKEN": CANARY_TOKEN,
        "ALERT_URLS": f"json://canary-user:{CANARY_PASSWORD}@127.0.0.1:9/hook",
        "STRATEGY": "canary_strategy:Canary",
        "STRATEGY_INTERVAL_S": "1",
        "LOG_LEVEL": "DEBUG",
        "LOG_FORMAT": log_format,
        "LOG_FILE": str(log_file),
        "PYTHONPATH": f"{PROJECT}{os.pathsep}{tmp_path}",
    }
    with Daemon(tmp_path, server, **environment) as daemon:

        def has_told() -> bool:
            return sum("in the pass" in line for line in daemon.lines()) >= 2

        daemon.until(has_told, "all has been told twice", 20)
        server.set_faults(cut_sockets=True)  # a reconnect signs again
        daemon.until(lambda: sum("feed_live" in line for line in daemon.lines()) >= 2, "connected again")
        print("\n".join(daemon.lines()))
        daemon.terminate()
        written = "\n".join(daemon.lines()) + log_file.read_text()
    assert written.count("[redacted]") > 20, "it was told"
    key_lines = [line for line in server.key_file.read_text().splitlines() if not line.startswith("-")]
    for secret in (server.key_id, CANARY_TOKEN, CANARY_PASSWORD, *key_lines):
        assert secret not in written
        assert json.dumps(secret)[1:-1] not in written
    for header in ("KALSHI-ACCESS-SIGNATURE", "KALSHI-ACCESS-TIMESTAMP"):
        assert header in written, "the headers were told"
        rests = written.split(header)[1:]
        assert all("[redacted]" in rest[: len("[redacted]") + 10] for rest in rests)
