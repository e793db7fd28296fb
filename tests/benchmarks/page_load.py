"""What the page costs with many positions: bytes and time of its answers, and the browser's work.

    .venv/bin/python -m tests.benchmarks.page_load [--minutes 10.5] [--positions 200] [--watch-s 30]

The history is full after ten minutes. Bytes are what a phone behind a tunnel receives, which asks for gzip.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import urllib.request
from pathlib import Path

from base.clock import SystemClock
from base.sandbox.scenario import parse_scenario
from base.sandbox.server import SandboxServer
from tests.integration.browser import CHROMIUM, Browser
from tests.integration.rig import Daemon

HISTORY_BYTES_MAX = 150_000
ANSWER_S_MAX = 0.050
ASKED = 20
PAGE_CPU_MAX = 0.5
"""Share of one core that the page may take."""


def ask(url: str, *, compressed: bool) -> tuple[int, float]:
    """Bytes on the wire and seconds of one answer."""
    clock = SystemClock()
    request = urllib.request.Request(url, headers={"Accept-Encoding": "gzip"} if compressed else {})
    started = clock.monotonic()
    with urllib.request.urlopen(request, timeout=10) as answer:
        size = len(answer.read())
    return size, clock.monotonic() - started


def measure(page_url: str, path: str) -> tuple[int, int, float, float]:
    """Plain bytes, compressed bytes, median and worst seconds of a compressed answer."""
    plain, _ = ask(page_url + path, compressed=False)
    answers = [ask(page_url + path, compressed=True) for _ in range(ASKED)]
    times = [took for _, took in answers]
    return plain, max(size for size, _ in answers), statistics.median(times), max(times)


def browse(page_url: str, directory: Path, seconds: float) -> dict[str, float]:
    """Shares of one core that the page's thread spent, by kind."""
    with Browser(directory / "profile") as browser:
        browser.open(page_url)
        browser.until("document.querySelector('#coverage.good') !== null", "green", 30)
        threading.Event().wait(5.0)  # what belongs to the start
        before = browser.metrics()
        threading.Event().wait(seconds)
        after = browser.metrics()
        assert browser.errors == []
    span_s = after["Timestamp"] - before["Timestamp"]
    kinds = ("TaskDuration", "ScriptDuration", "LayoutDuration", "RecalcStyleDuration")
    return {kind: (after[kind] - before[kind]) / span_s for kind in kinds}


def main() -> int:
    """0 when all is within its limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.5)
    parser.add_argument("--positions", type=int, default=200)
    parser.add_argument("--watch-s", type=float, default=30.0)
    options = parser.parse_args()
    fleet = f'[[fleet]]\ncount = {options.positions}\nmode = "ticking"\nside = "mixed"'
    is_good = True
    with (
        tempfile.TemporaryDirectory() as directory,
        SandboxServer(parse_scenario(fleet, "busy.toml")) as server,
        Daemon(Path(directory), server, STOP_LOSS_PCT="90") as daemon,
    ):
        daemon.until(lambda: daemon.is_covered(options.positions), "all protected", 60)
        threading.Event().wait(options.minutes * 60)
        for path in ("api/status", "api/history"):
            plain, compressed, median_s, worst_s = measure(daemon.page_url, path)
            print(
                f"{path:<12} {plain:>9,} bytes, compressed {compressed:>8,}; "
                f"median {median_s * 1000:5.1f} ms, worst {worst_s * 1000:5.1f} ms"
            )
            if path == "api/history":
                is_good = plain <= HISTORY_BYTES_MAX and median_s <= ANSWER_S_MAX
        if CHROMIUM is not None:
            shares = browse(daemon.page_url, Path(directory), options.watch_s)
            print("the page: " + ", ".join(f"{kind} {share:.1%}" for kind, share in shares.items()))
            is_good = is_good and shares["TaskDuration"] <= PAGE_CPU_MAX
        daemon.terminate()
    return 0 if is_good else 1


if __name__ == "__main__":
    raise SystemExit(main())
