"""What one exit costs under each fault of the exchange, YES and NO: orders, ids, contracts, time to flat.

    .venv/bin/python -m tests.benchmarks.fault_table [--only "market paused"] [--parallel 2]

Each row is a sandbox and a daemon of its own with two positions: one whose stop is hit while the fault is
on, and a calm one that must stay. Judged by the sandbox's ledger against the bounds in `CASES`; exit
code 1 when a row breaks one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from base.clock import SystemClock
from base.model.market import OutcomeSide
from base.sandbox.scenario import Scenario
from base.sandbox.server import SandboxServer
from tests.benchmarks import judge
from tests.benchmarks.judge import CRASHED, Holding
from tests.integration.rig import Daemon

ORDERS = "/portfolio/events/orders*"
OWN_ORDERS = "/portfolio/orders*"
TICKER = "{ticker}"
LATE_S = 20.0
"""How much longer than its bound a row is watched, so that it shows by how much it was late."""
AFTERMATH_S = 1.5
"""After the end of an exit, for orders that should not come."""


def call(
    action: str, times: int = 1, method: str = "POST", path: str = ORDERS, **more: Any
) -> dict[str, Any]:
    return {"method": method, "path": path, "action": action, "times": times, **more}


@dataclass(frozen=True, slots=True)
class FaultCase:
    """A fault and what an exit may cost under it."""

    name: str
    faults: dict[str, Any]
    """As `POST /sandbox/faults`; `TICKER` stands for the market's."""
    orders_max: int
    """Requests to order entry, refused ones included."""
    ids_max: int
    """Different client order ids."""
    closed_within_s: float
    """From the crash, or from the mending of a fault that lasts, until the daemon has closed the exit."""
    lasts_s: float = 0.0
    """0: the fault uses itself up; else it is mended after so long."""
    sold_by_hand: Decimal = Decimal(0)
    """Contracts that their owner sells while the exit is under way."""
    later: dict[str, Any] = field(default_factory=dict)
    """More faults, set when the exit is under way."""
    under_way_after_s: float = 0.5

    def faults_of(self, ticker: str) -> dict[str, Any]:
        return {k: ticker if v == TICKER else v for k, v in self.faults.items()}

    def later_of(self, ticker: str) -> dict[str, Any]:
        return {k: ticker if v == TICKER else v for k, v in self.later.items()}


CASES = (
    FaultCase("no fault", {}, 1, 1, 1.0),
    # One order acted: it is found, or sent again under its own id, and nothing more.
    FaultCase("acted then 500", {"calls": [call("act_then_500")]}, 2, 1, 6.0),
    FaultCase("acted then time-out", {"calls": [call("act_then_timeout")]}, 2, 1, 12.0),
    FaultCase("acted then reset", {"calls": [call("act_then_reset")]}, 2, 1, 6.0),
    # It did not act; that is known only after reads are complete beyond it.
    FaultCase("refused with 503", {"calls": [call("503")]}, 2, 2, 6.0),
    FaultCase("reset before it acted", {"calls": [call("reset_before")]}, 2, 2, 6.0),
    FaultCase(
        "duplicate id",  # nobody tells of the order, so it is sent again: 409 order_already_exists
        {
            "cut_sockets": True,
            "refuse_ws": {"for_s": 12, "status": 503},
            "calls": [call("act_then_reset"), call("empty_list", 6, "GET", OWN_ORDERS)],
        },
        3,
        1,
        20.0,
    ),
    FaultCase("3 of 10 filled per order", {"max_fill_per_order": "3.00"}, 4, 4, 4.0),
    FaultCase("20 orders that fill nothing", {"zero_fill_orders": 20}, 21, 21, 100.0),
    # A pause is probed by reads once in 2 s; an order may ask when the read says open and the answer no.
    FaultCase("market paused 30 s", {"pause_market": TICKER}, 17, 17, 5.0, lasts_s=30),
    FaultCase("exchange paused 30 s", {"exchange_active": False}, 17, 17, 5.0, lasts_s=30),
    FaultCase("trading paused 30 s", {"trading_active": False}, 17, 17, 5.0, lasts_s=30),
    FaultCase("shard paused 10 s", {"shard_active": {"0": False}}, 7, 7, 5.0, lasts_s=10),
    FaultCase(
        "market paused in mid-exit 10 s",
        {"zero_fill_orders": 3},
        9,
        9,
        5.0,
        lasts_s=10,
        later={"pause_market": TICKER, "zero_fill_orders": 0},
    ),
    FaultCase("429 five times", {"calls": [call("429", 5)]}, 6, 6, 10.0),
    FaultCase(
        "reads lag 2 s, acted then time-out",
        {"read_lag_s": 2, "calls": [call("act_then_timeout")]},
        2,
        1,
        14.0,
    ),
    FaultCase(
        "halved by hand in a pause",
        {"pause_market": TICKER},
        6,
        6,
        5.0,
        lasts_s=4,
        sold_by_hand=Decimal(5),
        under_way_after_s=1.5,
    ),
    FaultCase("halved by hand between orders", {"zero_fill_orders": 4}, 6, 6, 8.0, sold_by_hand=Decimal(5)),
    # Nothing but its end tells that these are mended: asked slowly, and not left off.
    # Funds are asked for market by market, with growing waits: many of them share the write budget.
    FaultCase("unfunded shard 20 s", {"shard_balance": {"0": "0"}}, 8, 8, 20.0, lasts_s=20),
    FaultCase("dead key 20 s", {"auth": "dead"}, 8, 8, 10.0, lasts_s=20),
    FaultCase("skewed clock 20 s", {"auth": "skewed"}, 16, 8, 10.0, lasts_s=20),
    FaultCase("order entry gone (410) 20 s", {"gone": True}, 8, 8, 10.0, lasts_s=20),
)


@dataclass(slots=True)
class Row:
    """One exit under a fault."""

    case: FaultCase
    side: OutcomeSide
    orders: int = 0
    ids: int = 0
    held: Decimal = Decimal(0)
    sold: Decimal = Decimal(0)
    left: Decimal = Decimal(0)
    flat_s: float | None = None
    """By the ledger; from the crash, or from the mending. Below 0: before it was mended."""
    closed_s: float | None = None
    """Likewise, when the daemon said so."""
    blocked: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def play(case: FaultCase, holding: Holding, server: SandboxServer, daemon: Daemon) -> Row:
    """Break the exchange, let the bid fall through the stop, mend, and judge the exit."""
    clock = SystemClock()
    never = threading.Event()
    row = Row(case, holding.side)
    start_line = len(daemon.lines())
    started_at = clock.now()
    server.set_faults(**case.faults_of(holding.ticker))
    judge.quote(server, [holding], CRASHED)
    if case.sold_by_hand or case.later:
        clock.wait(never, case.under_way_after_s)
    if case.later:
        server.set_faults(**case.later_of(holding.ticker))
    if case.sold_by_hand:
        judge.sell_by_hand(server, holding, case.sold_by_hand)
    since = started_at
    if case.lasts_s:
        clock.wait(never, max(0.0, started_at + case.lasts_s - clock.now()))
        since = clock.now()
        server.clear_faults()

    def is_closed() -> bool:
        return bool(daemon.events_after(start_line, "exit_closed", ticker=holding.ticker))

    try:
        daemon.until(
            lambda: is_closed() and judge.left(server, holding) == 0, "closed", case.closed_within_s + LATE_S
        )
        row.closed_s = clock.now() - since
    except AssertionError as exc:
        row.broken.append(str(exc))
    clock.wait(never, AFTERMATH_S)
    server.clear_faults()
    ledger = judge.read_ledger(server)
    course = ledger.course(holding)
    row.orders = max(course.orders, ledger.order_requests(started_at))
    row.ids, row.held, row.sold, row.left = course.order_ids, course.held, course.sold, course.left
    row.flat_s = None if course.flat_at is None else course.flat_at - since
    row.blocked = [e["why"] for e in daemon.events_after(start_line, "exit_blocked", ticker=holding.ticker)]
    row.broken += [str(v) for v in course.crimes(must_be_flat=True)]
    row.broken += verdicts(case, row)
    return row


def verdicts(case: FaultCase, row: Row) -> list[str]:
    """Which bounds a row breaks."""
    found = []
    if row.sold != row.held:
        found.append(f"sold {row.sold} of {row.held}")
    if row.orders > case.orders_max:
        found.append(f"{row.orders} orders, at most {case.orders_max}")
    if row.ids > case.ids_max:
        found.append(f"{row.ids} client order ids, at most {case.ids_max}")
    if row.closed_s is not None and row.closed_s > case.closed_within_s:
        found.append(f"closed after {row.closed_s:.1f} s, at most {case.closed_within_s:g} s")
    return found


def measure(case: FaultCase, side: OutcomeSide) -> Row:
    holding = Holding(f"KXFAULT-{side.value.upper()}", side, Decimal(10))
    calm = Holding("KXCALM-YES", OutcomeSide.YES, Decimal(5))
    with (
        tempfile.TemporaryDirectory(prefix="fault-table-") as directory,
        SandboxServer(Scenario((judge.plan(holding), judge.plan(calm)))) as server,
        Daemon(Path(directory), server, RECONNECT_DELAY_MAX_S="1") as daemon,
    ):
        daemon.until(lambda: daemon.is_streaming(2) and daemon.is_covered(2), "2 protected")
        row = play(case, holding, server, daemon)
        course = judge.read_ledger(server).course(calm)
        row.broken += [str(v) for v in course.crimes(must_be_flat=False, may_be_sold=False)]
        try:
            daemon.until(lambda: daemon.is_covered(1), "the calm one is protected", 10)
        except AssertionError as exc:
            row.broken.append(f"{exc}: {daemon.status().get('coverage')}")
    print(line(row), flush=True)
    return row


HEADING = (
    f"{'fault':<36} {'side':<4} {'orders':>6} {'ids':>3} {'held':>6} {'sold':>6} {'left':>5}"
    f" {'flat s':>7} {'closed s':>8}  blocked"
)


def line(row: Row) -> str:
    flat = "never" if row.flat_s is None else f"{row.flat_s:.2f}"
    closed = "never" if row.closed_s is None else f"{row.closed_s:.2f}"
    text = (
        f"{row.case.name:<36} {row.side.value:<4} {row.orders:>6} {row.ids:>3} {row.held:>6} {row.sold:>6}"
        f" {row.left:>5} {flat:>7} {closed:>8}  {', '.join(row.blocked) or '-'}"
    )
    return "\n".join([text, *(f"    BROKEN {what}" for what in row.broken)])


def measure_all(cases: Sequence[FaultCase], parallel: int) -> list[Row]:
    with ThreadPoolExecutor(parallel) as pool:
        rows = [pool.submit(measure, c, side) for c in cases for side in (OutcomeSide.YES, OutcomeSide.NO)]
        return [row.result() for row in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="parts of names, comma separated")
    parser.add_argument("--parallel", type=int, default=2, help="rows at the same time")
    options = parser.parse_args()
    wanted = list(filter(None, options.only.split(",")))
    cases = [c for c in CASES if not wanted or any(part in c.name for part in wanted)]
    print(HEADING)
    rows = measure_all(cases, options.parallel)
    broken = [row for row in rows if row.broken]
    print(f"{len(rows)} rows, {len(broken)} broken")
    return 1 if broken or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
