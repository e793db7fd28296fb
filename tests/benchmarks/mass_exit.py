"""All stops at once on one Basic-tier account: how soon the orders leave, in which order, at what cost.

    .venv/bin/python -m tests.benchmarks.mass_exit [--positions 100] [--rtt-ms 50] [--seed 1]

Positions of different sizes, entry prices and sides fall through their stops in one instant. Writes are
100 tokens a second with room for 100, an order costs 10: ten orders at once and ten a second from then
on, so 100 orders take 9 s at the least. While they wait, the largest expected loss should go first:
count × (entry price − exit value) at the trigger. Exit code 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import combinations
from pathlib import Path

from base.model.market import OutcomeSide
from base.sandbox.scenario import Scenario
from base.sandbox.server import SandboxServer
from base.sandbox.venue import Venue
from tests.benchmarks import judge
from tests.benchmarks.judge import Holding, Ledger
from tests.integration.rig import Daemon

ALL_ORDERS_WITHIN_S = 12.0
WATCH_S = 90.0
CLOSED_S = 30.0


@dataclass(frozen=True, slots=True)
class Falling:
    """A position and the exit value to which its market falls."""

    holding: Holding
    value: Decimal

    @property
    def loss(self) -> Decimal:
        """Dollars expected to be lost: what the order of sending should follow."""
        return self.holding.count * (self.holding.entry - self.value)


def draw(rng: random.Random, index: int) -> Falling:
    entry = Decimal(rng.randint(30, 90)) / 100
    value = (entry * rng.randint(30, 70) / 100).quantize(Decimal("0.01"))
    side = rng.choice((OutcomeSide.YES, OutcomeSide.NO))
    count = Decimal(rng.randint(100, 9000)) / 100
    return Falling(Holding(f"KXMASS-{index:03d}", side, count, entry), value)


def fall(server: SandboxServer, falling: list[Falling]) -> float:
    """Move all markets in one instant; return the wall time of it."""

    def act(venue: Venue) -> float:
        at = venue.clock.now()
        for one in falling:
            bid, ask = judge.yes_quote(one.holding.side, one.value)
            fields = {"bid": str(bid), "ask": str(ask), "bid_size": "200", "ask_size": "200"}
            venue.set_market(one.holding.ticker, fields)
        return at

    return server.call(act)


@dataclass(frozen=True, slots=True)
class Disorder:
    """How far the order of sending is from largest loss first."""

    sent: int
    pairs: int
    inverted: int
    """Pairs of which the smaller loss was sent first."""
    displacement: int
    """The furthest that one stands from its place."""
    dollars: Decimal
    """The most by which a loss was sent before a larger one."""


def disorder(losses: list[Decimal]) -> Disorder:
    """Judge losses in the order in which they were sent."""
    pairs = list(combinations(losses, 2))
    inverted = [later - earlier for earlier, later in pairs if earlier < later]
    ranked = sorted(range(len(losses)), key=lambda i: (-losses[i], i))
    displacement = max((abs(place - i) for place, i in enumerate(ranked)), default=0)
    return Disorder(len(losses), len(pairs), len(inverted), displacement, max(inverted, default=Decimal(0)))


def first_orders(ledger: Ledger) -> list[tuple[float, str]]:
    """When the first order of each market reached the exchange's matching, in that order."""
    first: dict[str, float] = {}
    for order in ledger.exit_orders():
        first.setdefault(order["ticker"], order["at"])
    return [(at, ticker) for ticker, at in first.items()]


def wall_time(event: dict[str, str]) -> float:
    return datetime.fromisoformat(event["logged_at"]).timestamp()


def triggered_at(closed: dict[str, str]) -> float:
    """When an exit began, from the line of its end: its trigger's own line may come as late as its order."""
    return wall_time(closed) - float(closed["took_s"])


def measure(positions: int, rtt_s: float, seed: int) -> list[str]:
    """Print one run; return what missed its target."""
    rng = random.Random(seed)
    falling = [draw(rng, i) for i in range(positions)]
    holdings = [f.holding for f in falling]
    with (
        tempfile.TemporaryDirectory(prefix="mass-exit-") as directory,
        SandboxServer(Scenario(tuple(judge.plan(h, size="200") for h in holdings))) as server,
        Daemon(Path(directory), server) as daemon,
    ):
        daemon.until(
            lambda: daemon.is_streaming(positions) and daemon.is_covered(positions), "all protected", 60
        )
        server.set_faults(latency_s=rtt_s)
        fell_at = fall(server, falling)
        missed = []
        try:
            daemon.until(lambda: not any(judge.left_of(server, holdings)), "all flat", WATCH_S)
            daemon.until(lambda: len(daemon.events("exit_closed")) >= positions, "all closed", CLOSED_S)
        except AssertionError as exc:
            missed.append(str(exc))
        limited = daemon.status()["rest"]["rate_limited_last_60s"]
        triggered = [triggered_at(e) for e in daemon.events("exit_closed")]
        announced = [wall_time(e) for e in daemon.events("exit_triggered")]
        blocked = Counter(e["why"] for e in daemon.events("exit_blocked"))
        run = Run(falling, fell_at, rtt_s, triggered, announced, blocked, limited, judge.read_ledger(server))
    return missed + run.report()


@dataclass(frozen=True, slots=True)
class Run:
    """What one run left behind."""

    falling: list[Falling]
    fell_at: float
    rtt_s: float
    triggered: list[float]
    announced: list[float]
    blocked: Counter[str]
    rate_limited: int
    ledger: Ledger

    def report(self) -> list[str]:
        """Print it; return what missed its target."""
        sent = first_orders(self.ledger)
        courses = [self.ledger.course(f.holding) for f in self.falling]
        missed = [str(v) for c in courses for v in c.crimes(must_be_flat=True)]
        last_trigger = max(self.triggered, default=self.fell_at)
        after_s = [at - self.fell_at for at, _ in sent]
        flat_s = max((c.flat_at - self.fell_at for c in courses if c.flat_at is not None), default=0.0)
        print(f"{len(self.falling)} positions, round trip {self.rtt_s * 1000:.0f} ms")
        last_word = max(self.announced, default=self.fell_at)
        print(
            f"  all triggered after {last_trigger - self.fell_at:.3f} s,"
            f" all {len(self.announced)} announced after {last_word - self.fell_at:.3f} s"
        )
        for name, place in (("first", 1), ("10th", 10), ("50th", 50), ("last", len(after_s))):
            if 0 < place <= len(after_s):
                print(f"  {name} order at the exchange after {after_s[place - 1]:.3f} s")
        print(f"  orders {sum(c.orders for c in courses)}, of different markets {len(sent)}")
        print(f"  everything flat after {flat_s:.3f} s, sold {sum(c.sold for c in courses)} contracts")
        print(f"  429: {self.rate_limited}; exits announced as blocked: {dict(self.blocked) or 'none'}")
        self._report_order(sent, last_trigger)
        self._report_requests()
        if not after_s or len(after_s) < len(self.falling) or after_s[-1] > ALL_ORDERS_WITHIN_S:
            missed.append(f"not all orders within {ALL_ORDERS_WITHIN_S:g} s")
        if self.rate_limited:
            missed.append(f"{self.rate_limited} answers of 429")
        return missed

    def _report_order(self, sent: list[tuple[float, str]], last_trigger: float) -> None:
        """Those that left before all triggers were in could not know of larger ones."""
        loss = {f.holding.ticker: f.loss for f in self.falling}
        chosen = [loss[ticker] for at, ticker in sent if at - self.rtt_s > last_trigger]
        found = disorder(chosen)
        print(f"  sent before all triggers were in: {len(sent) - len(chosen)}")
        print(
            f"  of the {found.sent} others: {found.inverted} of {found.pairs} pairs sent smaller loss first,"
            f" by {found.dollars:.2f} dollars at the most; worst displacement {found.displacement}"
        )

    def _report_requests(self) -> None:
        requests = self.ledger.document["requests"]
        for endpoint in sorted(requests):
            count = sum(at >= self.fell_at for at in requests[endpoint]["times"])
            if count:
                print(f"    {endpoint:<48} {count}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--positions", type=int, default=100)
    parser.add_argument("--rtt-ms", type=float, action="append", help="0, 50, 100; several times for several")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    missed = []
    for rtt_ms in options.rtt_ms or [0.0]:
        missed += measure(options.positions, rtt_ms / 1000, options.seed)
    for what in missed:
        print(f"MISSED {what}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
