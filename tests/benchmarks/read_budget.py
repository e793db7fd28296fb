"""How many price reads a minute the daemon makes, in the situations that matter.

    .venv/bin/python -m tests.benchmarks.read_budget [--minutes 1] [--only ticking10,quiet100]

Each situation is a daemon of its own against a sandbox of its own. After start-up the reads of whole
minutes are counted by the exchange itself.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from base.sandbox.scenario import parse_scenario
from base.sandbox.server import SandboxServer
from tests.integration.rig import Daemon

PRICE_PATHS = ("/markets", "/markets/{ticker}", "/markets/orderbooks")


def fleet(count: int, mode: str, side: str) -> SandboxServer:
    text = f'[[fleet]]\ncount = {count}\nmode = "{mode}"\nside = "{side}"\n'
    return SandboxServer(parse_scenario(text))


def price_reads(server: SandboxServer) -> list[float]:
    """Wall times of all price reads so far, as the exchange saw them."""
    requests: Any = server.ledger()["requests"]
    return [at for path, times in _by_path(requests) if "/markets" in path for at in times]


def _by_path(requests: Any) -> list[tuple[str, list[float]]]:
    return [(path, entry["times"]) for path, entry in requests.items()]


def wait(seconds: float) -> None:
    threading.Event().wait(seconds)


def steady(name: str, count: int, mode: str, side: str, minutes: int, **env: str) -> None:
    """Reads a minute with a healthy feed."""
    with (
        tempfile.TemporaryDirectory() as directory,
        fleet(count, mode, side) as server,
        Daemon(Path(directory), server, **env) as daemon,
    ):
        took = daemon.until(lambda: daemon.is_streaming(count) and daemon.is_covered(count), name, 30)
        wait(3)
        start = time.time()
        wait(60 * minutes)
        reads = [
            sum(start + 60 * m <= at < start + 60 * (m + 1) for at in price_reads(server))
            for m in range(minutes)
        ]
        status = daemon.status()
        covered = f"{status['coverage']['protected']}/{status['coverage']['open']}"
        print(
            f"{name:<28} protected {covered} (after {took:.1f} s)  price reads a minute {reads}",
            flush=True,
        )


def cut(name: str, count: int, side: str) -> None:
    """Fallback, reads a minute and an exit while the socket is gone; then the way back."""
    with (
        tempfile.TemporaryDirectory() as directory,
        fleet(count, "ticking", side) as server,
        Daemon(Path(directory), server, RECONNECT_DELAY_MAX_S="2") as daemon,
    ):
        daemon.until(lambda: daemon.is_streaming(count) and daemon.is_covered(count), name, 30)
        wait(3)
        victim = next(p for p in daemon.status()["positions"])
        server.set_faults(cut_sockets=True, refuse_ws={"for_s": 600, "status": 503})
        start = time.time()
        fallback = daemon.until(lambda: any(at > start for at in price_reads(server)), "fallback", 10)
        wait(20)
        low = ("0.05", "0.07") if victim["outcome_side"] == "yes" else ("0.93", "0.95")
        server.set_market(victim["ticker"], bid=low[0], ask=low[1])
        exited = daemon.until(
            lambda: bool(daemon.events("exit_closed", ticker=victim["ticker"], outcome="filled")),
            "exit",
            15,
        )
        wait(max(0.0, 61 - (time.time() - start)))
        reads = sum(start <= at < start + 60 for at in price_reads(server))
        server.clear_faults()
        daemon.until(lambda: daemon.status()["feed"]["state"] == "live", "live", 15)
        back = daemon.until(lambda: daemon.is_streaming(count - 1), "confirmed again", 15)
        print(
            f"{name:<28} fallback after {fallback:.1f} s  price reads in the minute {reads}  "
            f"stop crossed -> flat {exited:.1f} s  all confirmed {back:.1f} s after the return",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=int, default=1)
    parser.add_argument("--only", default="", help="names, comma separated")
    options = parser.parse_args()
    only = set(filter(None, options.only.split(",")))
    for side in ("yes", "no"):
        for name, count, mode in (
            ("ticking10", 10, "ticking"),
            ("ticking100", 100, "ticking"),
            ("quiet100", 100, "quiet"),
        ):
            if not only or name in only:
                minutes = options.minutes * (2 if mode == "quiet" else 1)
                steady(f"{name} {side}", count, mode, side, minutes)
        if not only or "cut100" in only:
            cut(f"cut100 {side}", 100, side)


if __name__ == "__main__":
    main()
