"""The daemon against the sandbox playing a recorded tape: where does it exit, and never at a close.

    .venv/bin/python -m tests.benchmarks.tape_exits TAPE [--side yes|no] [--speed 40]

The account holds 10 contracts in each market of the tape, entered at its first bid between 0.30 and 0.80,
with ten cents of stop. What should happen is worked out here from the tape alone: the first real bid
(size behind it, before the close) at or below entry - 0.10. A winner is a position that settles at 1.00.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from base.sandbox.tape import close_from_ticker
from tests.integration.rig import PROJECT, Daemon

STOP = Decimal("0.10")


@dataclass
class Course:
    """One position's course by the tape alone, in dollars of the held side."""

    entry: Decimal | None = None
    stop_at: float | None = None
    stop_bid: Decimal | None = None
    last_bid: Decimal = Decimal(0)


def read_courses(tape: Path, side: str) -> dict[str, Course]:
    courses: dict[str, Course] = {}
    with gzip.open(tape, "rt") as lines:
        for row in map(json.loads, lines):
            if row["type"] != "ticker":
                continue
            m = row["msg"]
            course = courses.setdefault(m["market_ticker"], Course())
            yes_bid, yes_ask = Decimal(m["yes_bid_dollars"]), Decimal(m["yes_ask_dollars"])
            sizes = Decimal(m["yes_bid_size_fp"]), Decimal(m["yes_ask_size_fp"])
            bid, size = (yes_bid, sizes[0]) if side == "yes" else (1 - yes_ask, sizes[1])
            close = close_from_ticker(m["market_ticker"])
            if size <= 0 or not 0 < bid < 1 or (close is not None and row["recv_ts"] >= close):
                continue
            course.last_bid = bid
            if course.entry is None:
                if (
                    min(sizes) > 0
                    and Decimal("0.30") <= bid <= Decimal("0.80")
                    and 0 < yes_ask < 1
                    and yes_bid > 0
                ):
                    course.entry = bid
            elif course.stop_bid is None and bid <= course.entry - STOP:
                course.stop_bid, course.stop_at = bid, row["recv_ts"]
    return courses


def start_sandbox(
    tape: Path, side: str, speed: float, keys: Path
) -> tuple[subprocess.Popen[str], dict[str, str]]:
    command = [sys.executable, "-m", "base.sandbox", "--exit-with-stdin", "--key-dir", str(keys)]
    command += ["--tape", str(tape), "--tape-side", side, "--speed", str(speed), "--pause-max", "60"]
    process = subprocess.Popen(
        command,
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    found: dict[str, str] = {}
    for line in process.stdout:
        if line.strip() == "ready":
            return process, found
        name, _, value = line.strip().partition(" ")
        found[name] = value
    raise RuntimeError("the sandbox did not start")


def ledger(rest_url: str) -> dict[str, Any]:
    url = rest_url.replace("/trade-api/v2", "/sandbox/ledger")
    with urllib.request.urlopen(url, timeout=10) as answer:
        result: dict[str, Any] = json.load(answer)
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tape", type=Path)
    parser.add_argument("--side", choices=("yes", "no"), default="yes")
    parser.add_argument("--speed", type=float, default=40.0)
    parser.add_argument("--most-s", type=float, default=3600.0)
    options = parser.parse_args()
    courses = read_courses(options.tape, options.side)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        process, at = start_sandbox(options.tape.resolve(), options.side, options.speed, directory / "keys")
        try:
            (directory / "rules.toml").write_text('[[rule]]\nmatch = "*"\nstop_loss_dollars = "1.00"\n')
            environment = {
                "KALSHI_ENV": "sandbox",
                "KALSHI_REST_URL": at["REST"],
                "KALSHI_WS_URL": at["WS"],
                "KALSHI_API_KEY_ID": at["KEY_ID"],
                "KALSHI_PRIVATE_KEY_PATH": at["KEY_FILE"],
                "RULES_FILE": "rules.toml",
            }
            with Daemon(directory, None, **environment) as daemon:
                wait_for_the_end(at["REST"], len(courses), options.most_s)
                report(options.side, courses, daemon, ledger(at["REST"]))
                daemon.terminate()
        finally:
            process.kill()
            process.wait(5)


def wait_for_the_end(rest_url: str, markets: int, most_s: float) -> None:
    never = threading.Event()
    give_up = time.monotonic() + most_s
    while time.monotonic() < give_up:
        statuses: Any = ledger(rest_url)["markets"]
        states = list(statuses.values())
        if len(states) >= markets and all(s == "finalized" for s in states):
            return
        never.wait(5)
    print("the tape was not played to its end in the time given")


def report(side: str, courses: dict[str, Course], daemon: Daemon, book: dict[str, Any]) -> None:
    held = {t: c for t, c in courses.items() if c.entry is not None}
    due = {t for t, c in held.items() if c.stop_bid is not None}
    fired = {e["ticker"]: Decimal(e["price"]) for e in daemon.events("exit_triggered")}
    flat = {e["ticker"]: e for e in daemon.events("exit_closed", outcome="filled")}
    sold: dict[str, Decimal] = {}
    for fill in book["fills"]:
        if fill["client_order_id"].startswith("bs"):
            sold[fill["ticker"]] = sold.get(fill["ticker"], Decimal(0)) + Decimal(fill["count"])
    winners = {t for t, c in held.items() if c.last_bid >= Decimal("0.5")}
    at_close = {t for t in fired if held[t].stop_bid is None}
    print(f"{side}: markets {len(courses)}, positions {len(held)}, winners {len(winners)}")
    print(f"  bid fell through the stop (by the tape) {len(due)}; stops fired {len(fired)}; flat {len(flat)}")
    print(f"  fired without a recorded fall (at a close) {len(at_close)} {sorted(at_close)}")
    print(f"  winners sold at the close {len(at_close & winners)}")
    print(f"  falls missed {len(due - fired.keys())} {sorted(due - fired.keys())}")
    same = sum(fired[t] == held[t].stop_bid for t in fired if t in due)
    late = {
        t: f"{held[t].stop_bid} -> {fired[t]}" for t in fired if t in due and fired[t] != held[t].stop_bid
    }
    print(f"  triggered at the very frame that fell through {same}; at a later one {late}")
    wrong = {t: str(n) for t, n in sold.items() if n != 10}
    print(f"  contracts sold: {sum(sold.values())} for {len(sold)} positions; not exactly 10: {wrong}")


if __name__ == "__main__":
    main()
