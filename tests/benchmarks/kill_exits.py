"""Kills the daemon at random instants around its exits, and judges what it did by the exchange's ledger.

    .venv/bin/python -m tests.benchmarks.kill_exits --kills 200 --seed 1 [--parallel 2] [--keep DIR]

Each lane is one sandbox and one state directory. A round buys some positions, waits until all that is
held is protected, makes the exchange slow or unreliable, lets some bids fall through their stops, kills
the daemon (again during its next start, sometimes), in half of the rounds lets the bids recover, starts it
once more and waits. Then: nothing was sold twice, no position was ever on the other side, and what had been
announced as triggered, or had sent an order, or whose bid stayed below the stop, is flat.

Choices depend on the seed alone; what the machine makes of them does not. Exit code 1 when anything was
done that must never be; what belongs to it is kept in the directory.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from itertools import takewhile
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from base.clock import SystemClock
from base.model.market import OutcomeSide
from base.sandbox.happenings import Happening
from base.sandbox.scenario import Scenario
from base.sandbox.server import SandboxServer
from base.sandbox.venue import Venue
from tests.benchmarks import judge
from tests.benchmarks.judge import CRASHED, ENTRY, ORDER_PATHS, Crime, Holding, Violation
from tests.integration.rig import Daemon

FLAT_WITHIN_S = 30.0
CLOSED_WITHIN_S = 15.0
"""An exit that takes longer to learn that it is over is counted, and not a violation."""
PROTECTED_WITHIN_S = 30.0
TRIGGER_WITHIN_S = 4.0
"""What a kill waits for comes within this time or the kill does not wait for it any longer."""
HELD_MAX = 6
WATCH_S = 0.002


class Moment(StrEnum):
    """When a kill strikes."""

    AROUND_CRASH = "around_crash"
    TRIGGERED = "triggered"
    """After the log has announced an exit."""
    ORDER_ARRIVED = "order_arrived"
    """After the order has reached the exchange, which is still thinking."""
    ORDER_FILLED = "order_filled"
    """After the order has filled; its answer is on the way, or will never be."""
    START_UP = "start_up"


@dataclass(frozen=True, slots=True)
class Kill:
    moment: StrEnum
    after_s: float


@dataclass(frozen=True, slots=True)
class Round:
    """Everything that is drawn for a round."""

    number: int
    bought: tuple[Holding, ...]
    victims_wanted: int
    crash_after_s: float
    faults: dict[str, Any]
    kills: tuple[Kill, ...]
    recovers: bool


@dataclass(slots=True)
class Tally:
    """What a lane has seen."""

    kills: int = 0
    rounds: int = 0
    restarts: int = 0
    orders: int = 0
    triggered: Decimal = Decimal(0)
    """Contracts held in positions that had to be sold."""
    sold: Decimal = Decimal(0)
    flat_s: list[float] = field(default_factory=list)
    """From the last start of a round until all that had to go was gone."""
    closed_s: list[float] = field(default_factory=list)
    """Likewise, until the daemon said so."""
    lingering: int = 0
    """Rounds in which it did not say so in time."""
    tempted: int = 0
    """Exits announced before a kill and not sold yet, whose bid was above the stop when the daemon came back:
    only what was written down says that they must go."""
    moments: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        for name in ("kills", "rounds", "restarts", "orders", "tempted", "lingering"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.triggered += other.triggered
        self.sold += other.sold
        self.flat_s += other.flat_s
        self.closed_s += other.closed_s
        self.violations += other.violations
        for mine, theirs in ((self.moments, other.moments), (self.counts, other.counts)):
            for name, count in theirs.items():
                mine[name] = mine.get(name, 0) + count


def draw_round(rng: random.Random, number: int, held: int, prefix: str) -> Round:
    bought = tuple(
        Holding(
            f"KX{prefix}R{number}-{i}",
            rng.choice((OutcomeSide.YES, OutcomeSide.NO)),
            Decimal(rng.randint(25, 2000)) / 100,
        )
        for i in range(rng.randint(1, max(1, HELD_MAX - held)))
    )
    moment = rng.choice((*(m for m in Moment if m is not Moment.START_UP), Moment.AROUND_CRASH))
    kills = [draw_kill(rng, moment)]
    while len(kills) < 3 and rng.random() < 0.35:
        # The daemon that has just come up again: while it starts, or as it takes its exits up.
        kills.append(draw_kill(rng, rng.choice((Moment.START_UP, Moment.START_UP, Moment.ORDER_ARRIVED))))
    return Round(
        number=number,
        bought=bought,
        victims_wanted=rng.randint(1, HELD_MAX),
        crash_after_s=rng.uniform(0, 0.3) if moment is Moment.AROUND_CRASH else 0.0,
        faults=draw_faults(rng),
        kills=tuple(kills),
        recovers=rng.random() < 0.5,
    )


def draw_kill(rng: random.Random, moment: Moment) -> Kill:
    longest_s = {
        Moment.AROUND_CRASH: 1.5,
        Moment.TRIGGERED: 0.05,
        Moment.ORDER_ARRIVED: 0.02,
        Moment.ORDER_FILLED: 0.02,
        Moment.START_UP: 3.0,
    }[moment]
    return Kill(moment, rng.uniform(0.0, longest_s))


def draw_faults(rng: random.Random) -> dict[str, Any]:
    faults: dict[str, Any] = {"latency_s": round(rng.uniform(0, 0.4), 3)}
    if rng.random() < 0.25:
        faults["read_lag_s"] = round(rng.uniform(0.2, 2.0), 2)
    if rng.random() < 0.2:
        faults["max_fill_per_order"] = str(rng.choice(("2.50", "4.00", "7.00")))
    if rng.random() < 0.2:
        faults["zero_fill_orders"] = rng.randint(1, 4)
    if rng.random() < 0.5:
        faults["on_disconnect"] = "drop"  # what the exchange was still thinking about dies with the daemon
    calls: list[dict[str, Any]] = []
    if rng.random() < 0.4:
        action = rng.choice(("act_then_timeout", "act_then_reset", "act_then_500", "503", "reset_before"))
        calls.append(
            {
                "method": "POST",
                "path": "/portfolio/events/orders*",
                "times": rng.randint(1, 2),
                "action": action,
            }
        )
    if rng.random() < 0.2:
        path = rng.choice(("/portfolio/orders*", "/portfolio/positions*", "/portfolio/fills*"))
        # Once only: two complete reads that agree on "nothing" are the truth by any rule.
        action, times = rng.choice((("503", rng.randint(1, 3)), ("empty_list", 1)))
        calls.append({"method": "GET", "path": path, "times": times, "action": action})
    if calls:
        faults["calls"] = calls
    return faults


class Lane:
    """One exchange, one state directory, many kills. Runs on one thread."""

    def __init__(
        self, directory: Path, keep: Path, seed: int, name: str, closed_within_s: float = CLOSED_WITHIN_S
    ) -> None:
        self._closed_within_s = closed_within_s
        self._directory = directory
        self._keep = keep
        self._seed = seed
        self._name = name
        self._rng = random.Random(f"{seed}/{name}")
        self._clock = SystemClock()
        self._triggered = threading.Event()
        self._filled = threading.Event()
        self._never = threading.Event()
        self._held: list[Holding] = []
        self._all: list[Holding] = []
        self._provoked: set[str] = set()  # tickers whose bid has been at the stop
        self._unhealthy: set[str] = set()
        self.tally = Tally()

    def run(self, kills: int, violations_max: int = 1_000) -> Tally:
        """Go on until so many kills, or until more was done wrong than is worth waiting for."""
        with (
            SandboxServer(Scenario(())) as server,
            Daemon(self._directory, server, on_line=self._hear_line, RECONNECT_DELAY_MAX_S="1") as daemon,
        ):
            server.call(lambda venue: venue.listeners.append(self._hear_exchange))
            while self.tally.kills < kills and len(self.tally.violations) < violations_max:
                self._play(
                    draw_round(self._rng, self.tally.rounds, len(self._held), self._name), server, daemon
                )
            server.clear_faults()
            daemon.kill()
            self._judge_in_the_end(server)
        return self.tally

    def _hear_line(self, line: str) -> None:
        if "event=exit_triggered" in line:
            self._triggered.set()

    def _hear_exchange(self, happening: Happening) -> None:
        if judge.is_exit_fill(happening):
            self._filled.set()

    # --- a round --------------------------------------------------------------------------------------

    def _play(self, drawn: Round, server: SandboxServer, daemon: Daemon) -> None:
        start = len(daemon.lines())
        server.clear_faults()
        found = self._judge_those_gone(server)
        judge.open_positions(server, drawn.bought)
        self._held += drawn.bought
        self._all += drawn.bought
        found += self._wait_until_protected(daemon)
        victims = self._held[: drawn.victims_wanted]  # the oldest first: they have seen the most restarts
        self._provoked |= {v.ticker for v in victims}
        server.set_faults(**drawn.faults)
        announced = self._crash_and_kill(drawn, victims, server, daemon, start)
        if drawn.recovers:
            judge.quote(server, victims, ENTRY)
            unsold = [v for v, left in zip(victims, judge.left_of(server, victims), strict=True) if left > 0]
            self.tally.tempted += sum(v.ticker in announced for v in unsold)
        for kill in drawn.kills[1:]:
            self._restart(daemon)
            self._kill(kill, server, daemon)
        self._restart(daemon)
        found += self._wait_until_flat(drawn, victims, server, daemon, start)
        self.tally.rounds += 1
        for violation in found:
            self._note(violation, drawn, server, daemon, start)

    def _wait_until_protected(self, daemon: Daemon) -> list[Violation]:
        count = len(self._held)
        try:
            daemon.until(lambda: daemon.is_covered(count), f"{count} protected", PROTECTED_WITHIN_S)
        except AssertionError as exc:
            shown = daemon.status().get("coverage")
            if daemon.process.poll() is not None:
                self._restart(daemon)
            return [Violation(Crime.UNPROTECTED, "", f"{exc}; coverage {shown}")]
        return []

    def _crash_and_kill(
        self, drawn: Round, victims: list[Holding], server: SandboxServer, daemon: Daemon, start: int
    ) -> set[str]:
        """Return the markets whose exit had been announced when the daemon died."""
        kill = drawn.kills[0]
        self._triggered.clear()
        self._filled.clear()
        if kill.moment is Moment.AROUND_CRASH:
            before_s = min(drawn.crash_after_s, kill.after_s)
            self._wait(before_s)
            if kill.after_s > drawn.crash_after_s:
                judge.quote(server, victims, CRASHED)
            self._wait(kill.after_s - before_s)
            self._strike(kill, daemon)
            if kill.after_s <= drawn.crash_after_s:
                judge.quote(server, victims, CRASHED)
        else:
            since = self._clock.now()
            judge.quote(server, victims, CRASHED)
            self._await(kill, server, since)
            self._wait(kill.after_s)
            self._strike(kill, daemon)
        return {e["ticker"] for e in daemon.events_after(start, "exit_triggered")}

    def _kill(self, kill: Kill, server: SandboxServer, daemon: Daemon) -> None:
        if kill.moment is not Moment.START_UP:
            self._await(kill, server, self._clock.now())
        self._wait(kill.after_s)
        self._strike(kill, daemon)

    def _await(self, kill: Kill, server: SandboxServer, since: float) -> None:
        """Wait for what the kill is to follow, or until it has not come for long enough."""
        match kill.moment:
            case Moment.TRIGGERED:
                self._triggered.wait(TRIGGER_WITHIN_S)
            case Moment.ORDER_FILLED:
                self._filled.wait(TRIGGER_WITHIN_S)
            case Moment.ORDER_ARRIVED:
                self._until(
                    lambda: server.call(lambda venue: has_order_since(venue, since)),
                    TRIGGER_WITHIN_S,
                    WATCH_S,
                )

    def _until(self, holds: Callable[[], bool], within_s: float, every_s: float = 0.05) -> bool:
        """Wait until it holds; return whether it did in time."""
        give_up_at = self._clock.monotonic() + within_s
        while not holds():
            if self._clock.monotonic() > give_up_at:
                return False
            self._wait(every_s)
        return True

    def _wait(self, seconds: float) -> None:
        self._clock.wait(self._never, max(0.0, seconds))

    def _strike(self, kill: Kill, daemon: Daemon) -> None:
        daemon.kill()
        self.tally.kills += 1
        self.tally.moments[kill.moment] = self.tally.moments.get(kill.moment, 0) + 1

    def _restart(self, daemon: Daemon) -> None:
        daemon.restart()
        self.tally.restarts += 1

    def _wait_until_flat(
        self, drawn: Round, victims: list[Holding], server: SandboxServer, daemon: Daemon, start: int
    ) -> list[Violation]:
        """Wait for what has to go, then for the protection of what stays; return what went wrong."""
        started_at = self._clock.monotonic()
        gone: list[Holding] = []

        def is_flat() -> bool:
            gone[:] = self._must_go(drawn, victims, server, daemon, start)
            return not any(judge.left_of(server, gone))

        found: list[Violation] = []
        try:
            daemon.until(is_flat, "flat", FLAT_WITHIN_S)
            self.tally.flat_s.append(self._clock.monotonic() - started_at)
        except AssertionError as exc:
            found.append(Violation(Crime.UNPROTECTED, "", f"{exc}; exits {daemon.status().get('exits')}"))
        if self._until(lambda: is_flat() and not self._is_exiting(daemon), self._closed_within_s):
            self.tally.closed_s.append(self._clock.monotonic() - started_at)
        else:
            self.tally.lingering += 1
        ledger = judge.read_ledger(server)
        for holding in gone:
            self.tally.triggered += ledger.course(holding).held
            judge.make_flat_by_hand(server, holding)
        gone_tickers = {h.ticker for h in gone}
        for holding in self._held:
            course = ledger.course(holding)
            found += course.crimes(
                must_be_flat=holding.ticker in gone_tickers, may_be_sold=holding.ticker in self._provoked
            )
        if any(v.crime is Crime.FORGOTTEN for v in found):
            # The market says it better than that the wait was long.
            found = [v for v in found if v.crime is not Crime.UNPROTECTED]
        found += ledger.resting()
        self._held = [h for h in self._held if h.ticker not in gone_tickers]
        return found + self._wait_until_protected(daemon)

    def _must_go(
        self, drawn: Round, victims: list[Holding], server: SandboxServer, daemon: Daemon, start: int
    ) -> list[Holding]:
        """What was announced, or has sent an order, or whose bid is still at its stop."""
        must = set() if drawn.recovers else {v.ticker for v in victims}
        must |= {e["ticker"] for e in daemon.events_after(start, "exit_triggered")}
        must |= {s["ticker"] for s in judge.read_ledger(server).exit_orders()}
        return [h for h in self._held if h.ticker in must]

    def _is_exiting(self, daemon: Daemon) -> bool:
        """Whether the daemon still works on an exit, or is not there to say."""
        status = daemon.status()
        return not status or any(e["state"] != "closed" for e in status["exits"])

    # --- judging --------------------------------------------------------------------------------------

    def _judge_those_gone(self, server: SandboxServer) -> list[Violation]:
        """A late order must not have touched what was flat; what it did is undone for the rounds to come."""
        gone = [h for h in self._all if h not in self._held]
        touched = [h for h, left in zip(gone, judge.left_of(server, gone), strict=True) if left != 0]
        ledger = judge.read_ledger(server)
        for holding in touched:
            judge.make_flat_by_hand(server, holding)
        return [v for h in touched for v in ledger.course(h).crimes(must_be_flat=True)]

    def _judge_in_the_end(self, server: SandboxServer) -> None:
        """What was flat is looked at again: a late order must not have sold it twice."""
        ledger = judge.read_ledger(server)
        for holding in self._all:
            course = ledger.course(holding)
            self.tally.orders += course.orders
            self.tally.sold += course.sold
            for violation in course.crimes(must_be_flat=False):
                self._count(violation, "in the end")

    def _note(
        self, violation: Violation, drawn: Round, server: SandboxServer, daemon: Daemon, start: int
    ) -> None:
        """Keep what somebody needs who wants to understand it."""
        self._count(violation, f"round {drawn.number}")
        self._keep.mkdir(parents=True, exist_ok=True)
        name = f"seed{self._seed}-lane{self._name}-round{drawn.number}"
        (self._keep / f"{name}.log").write_text("\n".join(daemon.lines()[start:]) + "\n")
        rows = {h.ticker: judge.read_ledger(server).of(h.ticker) for h in self._all[-2 * HELD_MAX :]}
        about = {"violation": str(violation), "round": repr(drawn), "ledger": rows}
        with (self._keep / f"{name}.json").open("a") as file:
            file.write(json.dumps(about, indent=1) + "\n")

    def _count(self, violation: Violation, where: str) -> None:
        text = f"seed {self._seed} lane {self._name} {where}: {violation}"
        same = f"{violation.crime} {violation.ticker}:"
        if violation.ticker and any(same in told for told in self.tally.violations):
            return  # the same one, seen again in the end
        self.tally.violations.append(text)
        self.tally.counts[violation.crime] = self.tally.counts.get(violation.crime, 0) + 1


def has_order_since(venue: Venue, since: float) -> bool:
    """Whether an order has reached the exchange, acted on or not."""
    newest = takewhile(lambda row: row[0] >= since, reversed(venue._requests))
    return any(endpoint in ORDER_PATHS for _, endpoint in newest)


def run_lane(seed: int, name: str, kills: int, keep: Path) -> Tally:
    with tempfile.TemporaryDirectory(prefix="kill-exits-") as directory:
        return Lane(Path(directory), keep, seed, name).run(kills)


def report(tally: Tally, took_s: float) -> None:
    rows: list[tuple[str, object]] = [
        ("kills", tally.kills),
        *((f"  {moment}", count) for moment, count in sorted(tally.moments.items())),
        ("rounds", tally.rounds),
        ("restarts", tally.restarts),
        ("orders sent", tally.orders),
        ("contracts held in triggered positions", tally.triggered),
        ("contracts sold", tally.sold),
        ("announced, unsold at the kill, bid recovered", tally.tempted),
        *((crime.value, tally.counts.get(crime, 0)) for crime in Crime),
        ("restart to flat, s: median, longest", middle_and_end(tally.flat_s)),
        ("restart to all exits closed, s: likewise", middle_and_end(tally.closed_s)),
        ("rounds with an exit not closed long after", tally.lingering),
        ("took, s", round(took_s, 1)),
    ]
    for name, value in rows:
        print(f"{name:<46} {value}")
    for violation in tally.violations:
        print(f"VIOLATION {violation}")


def middle_and_end(seconds: list[float]) -> str:
    ranked = sorted(seconds) or [0.0]
    return f"{ranked[len(ranked) // 2]:.2f}, {ranked[-1]:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--parallel", type=int, default=2, help="lanes at the same time")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "kill-exits")
    options = parser.parse_args()
    clock = SystemClock()
    started_at = clock.monotonic()
    total = Tally()
    share = -(-options.kills // options.parallel)
    with ProcessPoolExecutor(options.parallel, mp_context=get_context("spawn")) as pool:
        lanes = [
            pool.submit(run_lane, options.seed, chr(ord("A") + i), share, options.keep)
            for i in range(options.parallel)
        ]
        for lane in lanes:
            total.add(lane.result())
    report(total, clock.monotonic() - started_at)
    if total.violations:
        print(f"logs and ledgers in {options.keep}")
    return 1 if total.violations else 0


if __name__ == "__main__":
    sys.exit(main())
