"""Exits beside a strategy that misbehaves, measured beside a healthy one.

    .venv/bin/python -m tests.benchmarks.bad_strategies [--stops 30] [--only raises]

Each row is a sandbox and a daemon of its own: once `/healthz` has named the strategy, stops are hit one
after the other. Latency is from the moment at which the exchange moves the market to the order's arrival
there, both by the exchange's own clock: the sending of the frame and its order entry are in it, the same in
every row. Exit code 1 when an exit was not exactly one order and all contracts, or a bad strategy was not
named in time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from base.clock import SystemClock
from base.sandbox.scenario import parse_scenario
from base.sandbox.server import SandboxServer
from tests.integration.rig import Daemon

INTERVAL_S = 1.0
NAMED_WITHIN_S = 2 * INTERVAL_S + 5.0
SETTLE_S = 3.0
ORDER_WITHIN_S = 10.0
POLL_S = 0.02
BETWEEN_S = 0.15
TICKING = 10
"""Other held markets, whose prices change all the while."""

STRATEGIES = """
import threading
import time
from pathlib import Path


class Bad:
    def __init__(self, settings):
        pass

    def decide(self, view):
        began = Path("began")
        if not began.exists():
            began.write_text(repr(time.time()))
        return self.misbehave()


class Sleeps(Bad):
    def misbehave(self):
        time.sleep(60)


class Spins(Bad):
    def misbehave(self):
        until = time.monotonic() + 60
        while time.monotonic() < until:
            sum(n * n for n in range(1000))


class Raises(Bad):
    def misbehave(self):
        raise ZeroDivisionError("at each pass")


class Nonsense(Bad):
    def misbehave(self):
        return [None, 0.57, "buy", object()]


class Leaves(Bad):
    def misbehave(self):
        raise SystemExit(0)
"""


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    strategy: str
    is_bad: bool = True


CASES = (
    Case("guard", "guard", is_bad=False),
    Case("blocks for 60 s", "bad:Sleeps"),
    Case("computes for 60 s", "bad:Spins"),
    Case("raises at each pass", "bad:Raises"),
    Case("returns nonsense", "bad:Nonsense"),
    Case("sys.exit()", "bad:Leaves"),
)


@dataclass(slots=True)
class Row:
    """What one case came to; times in seconds."""

    latencies_s: list[float]
    named_after_s: float | None
    was_unhealthy: bool
    not_one_order: list[str]
    not_flat: list[str]

    def problems(self, case: Case) -> list[str]:
        problems = [f"not exactly one order: {t}" for t in self.not_one_order]
        problems += [f"not flat: {t}" for t in self.not_flat]
        if case.is_bad and (self.named_after_s is None or self.named_after_s > NAMED_WITHIN_S):
            problems.append(f"/healthz did not name it within {NAMED_WITHIN_S:.0f} s")
        if self.was_unhealthy is not case.is_bad:
            problems.append(f"/healthz was {'503' if self.was_unhealthy else '200'}")
        return problems


def measure(case: Case, stops: int) -> Row:
    text = "".join(
        f'[[fleet]]\ncount = {count}\nprefix = "{prefix}"\nmode = "{mode}"\nside = "yes"\n'
        for prefix, count, mode in (("KXSTOP", stops, "quiet"), ("KXTICK", TICKING, "ticking"))
    )
    with (
        tempfile.TemporaryDirectory() as name,
        SandboxServer(parse_scenario(text, "bad_strategies")) as server,
    ):
        directory = Path(name)
        (directory / "bad.py").write_text(STRATEGIES, encoding="utf-8")
        with Daemon(directory, server, STRATEGY=case.strategy, STRATEGY_INTERVAL_S=str(INTERVAL_S)) as daemon:
            held = stops + TICKING
            daemon.until(lambda: daemon.is_covered(held) and daemon.is_streaming(held), "protected", 30)
            named_after_s = wait_until_named(daemon, directory, case) if case.is_bad else None
            if not case.is_bad:
                threading.Event().wait(SETTLE_S)
            was_unhealthy = daemon.health()[0] != 200
            tickers = sorted(t for t in positions(server) if t.startswith("KXSTOP"))
            moved_at = [hit(server, ticker) for ticker in tickers]
            daemon.until(
                lambda: daemon.is_covered(TICKING), "the others stay protected, those hit are gone", 30
            )
            was_unhealthy = was_unhealthy and daemon.health()[0] != 200
            return judge(server, tickers, moved_at, named_after_s, was_unhealthy)


def wait_until_named(daemon: Daemon, directory: Path, case: Case) -> float | None:
    """Seconds from the first call of `decide` until `/healthz` names the strategy, None if it never does."""
    clock = SystemClock()
    never = threading.Event()
    give_up_at = clock.monotonic() + 2 * NAMED_WITHIN_S
    while clock.monotonic() < give_up_at:
        status, document = daemon.health()
        if status == 503 and any(case.strategy in reason for reason in document.get("reasons", [])):
            return clock.now() - float((directory / "began").read_text())
        never.wait(POLL_S)
    return None


def positions(server: SandboxServer) -> dict[str, Any]:
    held: Any = server.ledger()["positions"]
    return {t: p for t, p in held.items() if Decimal(p["count"]) != 0}


def exits(server: SandboxServer, ticker: str) -> list[dict[str, Any]]:
    orders: Any = server.ledger()["orders"]
    return [o for o in orders if o["ticker"] == ticker and o["client_order_id"].startswith("bs")]


def hit(server: SandboxServer, ticker: str) -> float:
    """Let a bid fall through its stop; return when, by the exchange's clock, once an order has come."""

    def move(venue: Any) -> float:
        at = float(venue.clock.now())
        venue.set_market(ticker, {"bid": "0.10", "ask": "0.12", "bid_size": "100", "ask_size": "100"})
        return at

    never, clock = threading.Event(), SystemClock()
    moved_at = server.call(move)
    give_up_at = clock.monotonic() + ORDER_WITHIN_S
    while not exits(server, ticker) and clock.monotonic() < give_up_at:
        never.wait(POLL_S)
    never.wait(BETWEEN_S)
    return moved_at


def judge(
    server: SandboxServer, tickers: list[str], moved_at: list[float], named_after_s: float | None, ill: bool
) -> Row:
    orders = {t: exits(server, t) for t in tickers}
    still_held = positions(server)
    latencies = [o[0]["at"] - at for at, o in zip(moved_at, orders.values(), strict=True) if o]
    return Row(
        latencies,
        named_after_s,
        ill,
        [t for t, o in orders.items() if len(o) != 1],
        [t for t in tickers if t in still_held],
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--stops", type=int, default=30)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    broken = 0
    print(f"{'strategy':<22}{'p50 ms':>8}{'p90 ms':>8}{'max ms':>8}{'orders':>8}{'named s':>9}  verdict")
    for case in CASES:
        if options.only not in case.name:
            continue
        row = measure(case, options.stops)
        problems = row.problems(case)
        broken += bool(problems)
        ms = [s * 1000 for s in row.latencies_s] or [float("nan")] * 2
        p90 = statistics.quantiles(ms, n=10, method="inclusive")[8] if len(ms) > 1 else ms[0]
        named = "-" if row.named_after_s is None else f"{row.named_after_s:.1f}"
        print(
            f"{case.name:<22}{statistics.median(ms):>8.1f}{p90:>8.1f}{max(ms):>8.1f}"
            f"{len(row.latencies_s):>8}{named:>9}  {'; '.join(problems) or 'ok'}",
            flush=True,
        )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
