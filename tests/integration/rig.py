"""The whole daemon as its own process, against a sandbox on loopback, watched through its public surface."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from base.clock import SystemClock
from base.sandbox.server import SandboxServer

PROJECT = Path(__file__).resolve().parents[2]
POLL_S = 0.05
_FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)')


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def held_market(ticker: str, bid: str, ask: str, *, side: str, count: str, entry: str) -> str:
    """A market of a scenario that moves only when it is told to, with a position in it; in dollars."""
    position = f'{{ side = "{side}", count = "{count}", entry = "{entry}" }}'
    return (
        f'[[market]]\nticker = "{ticker}"\nbid = "{bid}"\nask = "{ask}"\nmode = "quiet"\n'
        f"position = {position}\n"
    )


def environment_of(directory: Path, server: SandboxServer | None) -> dict[str, str]:
    """What `run_bot.py` is started with for an account of this sandbox."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("KALSHI_", "UI_", "STRATEGY"))}
    env |= {"STATE_DIR": str(directory / "state"), "PYTHONUNBUFFERED": "1"}
    env |= {"PYTHONPATH": str(PROJECT), "XDG_RUNTIME_DIR": str(directory)}
    if server is not None:
        env |= {
            "KALSHI_ENV": "sandbox",
            "KALSHI_REST_URL": server.rest_url,
            "KALSHI_WS_URL": server.ws_url,
            "KALSHI_API_KEY_ID": server.key_id,
            "KALSHI_PRIVATE_KEY_PATH": str(server.key_file),
        }
    return env


class Daemon:
    """`run_bot.py` in a process of its own; a context manager that ends it by its id.

    `restart` starts it again with the same state directory; its lines go on where they ended. `on_line`
    hears every line as it is read, on the reader's thread.
    """

    def __init__(
        self,
        directory: Path,
        server: SandboxServer | None,
        on_line: Callable[[str], None] = lambda line: None,
        **environment: str,
    ) -> None:
        self._port = free_port()
        self._clock = SystemClock()
        self._on_line = on_line
        self._env = environment_of(directory, server) | {"UI_PORT": str(self._port)} | environment
        self.state_dir = Path(self._env["STATE_DIR"])
        self._directory = directory
        self._lock = threading.Lock()  # guards the field below
        self._lines: list[str] = []
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(PROJECT / "run_bot.py")],
            cwd=self._directory,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._reader.start()
        return process

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as pipe:
            for line in pipe:
                with self._lock:
                    self._lines.append(line.rstrip())
                self._on_line(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if value is not None:
            print("\n".join(self.lines()[-60:]))

    # --- ending it ----------------------------------------------------------------------------------

    def terminate(self, timeout_s: float = 12.0) -> int:
        """SIGTERM; return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 12.0) -> int:
        code = self.process.wait(timeout_s)
        self._reader.join(2.0)
        return code

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()

    def restart(self) -> None:
        """Start it again after its end; one that still runs is killed first."""
        self.kill()
        self.process = self._start()

    # --- looking at it ------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        with self._lock:
            return list(self._lines)

    def events(self, name: str, **fields: str) -> list[dict[str, str]]:
        """The logged events of a name whose fields are as given; `logged_at` is the line's own time."""
        return self.events_after(0, name, **fields)

    def events_after(self, line_number: int, name: str, **fields: str) -> list[dict[str, str]]:
        """Likewise, among the lines from there on."""
        found = []
        for line in self.lines()[line_number:]:
            if f"event={name}" not in line:
                continue
            event = {key: text.strip('"') for key, text in _FIELD.findall(line)}
            if event.get("event") == name and all(event.get(k) == v for k, v in fields.items()):
                event["logged_at"] = line.partition(" ")[0]
                found.append(event)
        return found

    def wait_for(self, name: str, timeout_s: float = 15.0, **fields: str) -> dict[str, str]:
        """The first such event, as soon as it has been logged."""
        self.until(lambda: bool(self.events(name, **fields)), f"event={name} {fields}", timeout_s)
        return self.events(name, **fields)[0]

    def until(self, holds: Callable[[], bool], what: str, timeout_s: float = 15.0) -> float:
        """Wait until it holds; return how long that took, in seconds."""
        never = threading.Event()
        started = self._clock.monotonic()
        while not holds():
            waited = self._clock.monotonic() - started
            if self.process.poll() is not None and not holds():
                raise AssertionError(f"the daemon ended with {self.process.returncode}, waiting for {what}")
            if waited > timeout_s:
                raise AssertionError(f"not within {timeout_s} s: {what}")
            never.wait(POLL_S)
        return self._clock.monotonic() - started

    @property
    def page_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/"

    def status(self) -> dict[str, Any]:
        """`/api/status`, empty while nobody answers."""
        return self._get("/api/status")[1]

    def health(self) -> tuple[int, dict[str, Any]]:
        return self._get("/healthz")

    def _get(self, path: str) -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=3) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, json.load(exc)
        except OSError:
            return 0, {}

    def position(self, ticker: str) -> dict[str, Any] | None:
        return next((p for p in self.status().get("positions", []) if p["ticker"] == ticker), None)

    def is_covered(self, count: int) -> bool:
        """Whether so many positions are open and all of them protected."""
        status = self.status()
        coverage = status.get("coverage", {})
        return coverage.get("open") == count and coverage.get("protected") == count

    def is_streaming(self, count: int) -> bool:
        feed = self.status().get("feed", {})
        return (
            feed.get("state") == "live"
            and feed.get("markets_required") == count
            and feed.get("markets_confirmed") == count
        )
