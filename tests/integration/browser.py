"""A headless Chromium, driven over its DevTools socket: one page, looked at and asked with JavaScript."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import websocket

from base.clock import SystemClock

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
START_S = 30.0
ANSWER_S = 15.0
POLL_S = 0.05


class Browser:
    """A context manager; the process is ended by its own id. `errors` is what the page's console said."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None, "skip where there is no chromium"
        self._clock = SystemClock()
        self._numbers = itertools.count(1)
        self.errors: list[str] = []
        self._process = subprocess.Popen(
            [
                CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--disable-extensions", f"--user-data-dir={profile}", "--remote-debugging-port=0",
                "--window-size=1300,900", "--hide-scrollbars", "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            self._socket = self._connect(profile / "DevToolsActivePort")
        except BaseException:
            self._end()
            raise
        self._call("Page.enable")
        self._call("Log.enable")
        self._call("Runtime.enable")
        self._call("Performance.enable")

    def _connect(self, port_file: Path) -> websocket.WebSocket:
        # The file is written in one go, after the port is open.
        self._until(lambda: port_file.exists() and "\n" in port_file.read_text(), "chromium starts", START_S)
        port = int(port_file.read_text().splitlines()[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=ANSWER_S) as answer:
            targets = json.load(answer)
        (address,) = [t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page"]
        return websocket.create_connection(address, timeout=ANSWER_S, suppress_origin=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:  # ends with the socket's timeout
            message: dict[str, Any] = json.loads(self._socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(message["params"]["exceptionDetails"])[:500])
        elif message.get("method") == "Log.entryAdded":
            entry = message["params"]["entry"]
            # A daemon that is away is part of a test; what the page itself does wrong is not.
            if entry["level"] == "error" and entry["source"] != "network":
                self.errors.append(entry["text"])

    # --- what a test does -----------------------------------------------------------------------------

    def open(self, url: str) -> None:
        self._call("Page.navigate", url=url)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def metrics(self) -> dict[str, float]:
        """The browser's own counters of the page, seconds where they are durations."""
        return {m["name"]: float(m["value"]) for m in self._call("Performance.getMetrics")["metrics"]}

    def text(self, selector: str) -> str:
        """The text of the first such element, "" when there is none."""
        return str(self.ask(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def until(self, expression: str, what: str, timeout_s: float = 15.0) -> None:
        """Wait until the expression is true in the page."""
        self._until(lambda: bool(self.ask(expression)), what, timeout_s)

    def resize(self, width: int, height: int = 900, *, is_phone: bool = False) -> None:
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=2 if is_phone else 1, mobile=is_phone,
        )  # fmt: skip

    def screenshot(self, path: Path) -> None:
        """The whole page, as far down as it goes."""
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _until(self, holds: Callable[[], bool], what: str, timeout_s: float) -> None:
        never = threading.Event()
        started = self._clock.monotonic()
        while not holds():
            assert self._clock.monotonic() - started < timeout_s, f"not within {timeout_s} s: {what}"
            never.wait(POLL_S)
