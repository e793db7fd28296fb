"""Kills the daemon at random instants around its entries, and judges what it did by the exchange's ledger.

    .venv/bin/python -m tests.benchmarks.kill_entries --kills 100 --seed 1 [--parallel 2] [--keep DIR]

Each lane is one sandbox whose quotes never stand still, and one daemon with a strategy that places, moves
and cancels orders at random against limits small enough to bite. A round makes the exchange slow or
unreliable, lets some markets fall through their stops, kills the daemon (again during its next start,
sometimes), starts it once more and waits. Then what has fallen is flat, nothing rests that the new run
does not know, and with entries off nothing rests at all and all that is held is protected; some rounds end
by SIGTERM, after which nothing rests either. Limits, and that exits sell what is held, are judged at each
change of an order. Exit code 1 when anything was done that must never be.
"""

from __future__ import annotations

import argparse
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
from base.sandbox.records import OrderRecord
from base.sandbox.scenario import MarketPlan, Scenario
from base.sandbox.server import SandboxServer
from base.sandbox.venue import Player, Venue
from tests.benchmarks import entry_judge
from tests.benchmarks.entry_judge import ENTRY_ID_PREFIX, Caps, Crime, Watch
from tests.benchmarks.judge import Violation, yes_quote
from tests.benchmarks.kill_exits import Kill, middle_and_end
from tests.benchmarks.restless import side_of
from tests.integration.rig import Daemon

TICKERS = ("KXREST-1-AY", "KXREST-1-BN", "KXREST-2-AY", "KXREST-2-BN", "KXREST-3-AY", "KXREST-3-BN")
CAPS = Caps(order=Decimal(4), position=Decimal(6), event=Decimal(9), total=Decimal(20))
LOWEST, HIGHEST, CRASHED = Decimal("0.47"), Decimal("0.52"), Decimal("0.25")
"""Bids of the held side: the walk, far above any stop, and below every stop."""
CENT = Decimal("0.01")
STOP = Decimal("0.75")
"""Of the entry price: the default rule."""
MOVES_EVERY_S = 0.25
FLAT_WITHIN_S = 30.0
KNOWN_WITHIN_S = 12.0
QUIET_WITHIN_S = 12.0
ACTIVE_WITHIN_S = 20.0
WATCH_S = 0.002
BLOCKED_FILE = "entries-blocked"


class Moment(StrEnum):
    """When a kill strikes."""

    ANY = "any"
    ENTRY_ARRIVED = "entry_arrived"
    """After an order or an amend has reached the exchange, which is still thinking."""
    CANCEL_ARRIVED = "cancel_arrived"
    BOUGHT = "bought"
    """After an entry has filled."""
    START_UP = "start_up"


LONGEST_S = {
    Moment.ANY: 2.0,
    Moment.ENTRY_ARRIVED: 0.03,
    Moment.CANCEL_ARRIVED: 0.03,
    Moment.BOUGHT: 0.05,
    Moment.START_UP: 3.0,
}


@dataclass(frozen=True, slots=True)
class Round:
    """Everything that is drawn for a round."""

    number: int
    victims: tuple[str, ...]
    crash_first: bool
    """Whether the stops are hit before the kill, or while nobody watches."""
    faults: dict[str, Any]
    kills: tuple[Kill, ...]
    is_stopped: bool
    """Whether it ends with SIGTERM."""


@dataclass(slots=True)
class Tally:
    """What a lane has seen."""

    kills: int = 0
    rounds: int = 0
    stops: int = 0
    left: int = 0
    """Orders that rested when the daemon was killed."""
    bought: Decimal = Decimal(0)
    sold: Decimal = Decimal(0)
    highest_share: Decimal = Decimal(0)
    known_s: list[float] = field(default_factory=list)
    """From the last start until nothing of the runs before rested."""
    quiet_s: list[float] = field(default_factory=list)
    """From entries off until nothing rested and all that was held was protected."""
    violations: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        for name in ("kills", "rounds", "stops", "left", "bought", "sold"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.highest_share = max(self.highest_share, other.highest_share)
        self.known_s += other.known_s
        self.quiet_s += other.quiet_s
        self.violations += other.violations
        for name, count in other.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count


def draw_round(rng: random.Random, number: int) -> Round:
    moments = [m for m in Moment if m is not Moment.START_UP]
    kills = [draw_kill(rng, rng.choice(moments))]
    while len(kills) < 3 and rng.random() < 0.3:
        kills.append(draw_kill(rng, Moment.START_UP))
    return Round(
        number=number,
        victims=tuple(sorted(rng.sample(TICKERS, rng.choice((0, 2, 3, 4, 5))))),
        crash_first=rng.random() < 0.6,
        faults=draw_faults(rng),
        kills=tuple(kills),
        is_stopped=rng.random() < 0.3,
    )


def draw_kill(rng: random.Random, moment: Moment) -> Kill:
    return Kill(moment, rng.uniform(0.0, LONGEST_S[moment]))


def draw_faults(rng: random.Random) -> dict[str, Any]:
    faults: dict[str, Any] = {"latency_s": round(rng.uniform(0, 0.4), 3)}
    if rng.random() < 0.3:
        faults["read_lag_s"] = round(rng.uniform(0.2, 2.0), 2)
    if rng.random() < 0.3:
        faults["max_fill_per_order"] = rng.choice(("0.75", "2.50"))
    if rng.random() < 0.5:
        faults["on_disconnect"] = "drop"  # what the exchange was still thinking about dies with the daemon
    lost = ("act_then_timeout", "act_then_reset", "act_then_500", "503", "reset_before")
    calls = []
    for method, path in (
        ("POST", "/portfolio/events/orders"),
        ("POST", "/portfolio/events/orders/*/amend"),
        ("DELETE", "/portfolio/events/orders/*"),
    ):
        if rng.random() < 0.4:
            calls.append(
                {"method": method, "path": path, "times": rng.randint(1, 2), "action": rng.choice(lost)}
            )
    if rng.random() < 0.2:
        path = rng.choice(("/portfolio/orders*", "/portfolio/positions*", "/portfolio/fills*"))
        action, times = rng.choice((("503", rng.randint(1, 3)), ("empty_list", 1)))
        calls.append({"method": "GET", "path": path, "times": times, "action": action})
    if calls:
        faults["calls"] = calls
    return faults


class Waves:
    """Moves the quotes of all markets up and down, so that what rests is bought now and then; what has
    fallen stays where it is."""

    def __init__(self, venue: Venue, rng: random.Random) -> None:
        self._venue = venue
        self._rng = rng
        self._next_at = 0.0
        self.fallen: frozenset[str] = frozenset()

    def step(self, now: float) -> None:
        if now < self._next_at:
            return
        self._next_at = now + MOVES_EVERY_S
        ticker = self._rng.choice(TICKERS)
        if ticker not in self.fallen:
            steps = int((HIGHEST - LOWEST) / CENT)
            quote(self._venue, ticker, LOWEST + self._rng.randint(0, steps) * CENT)


def quote(venue: Venue, ticker: str, value: Decimal) -> None:
    bid, ask = yes_quote(side_of(ticker), value)
    fields = {"bid": str(bid), "ask": str(ask), "bid_size": "100", "ask_size": "4"}
    venue.set_market(ticker, fields)


class Lane:
    """One exchange, one state directory, many kills. Runs on one thread."""

    def __init__(self, directory: Path, keep: Path, seed: int, name: str) -> None:
        self._directory = directory
        self._keep = keep
        self._seed = seed
        self._name = name
        self._rng = random.Random(f"{seed}/{name}")
        self._clock = SystemClock()
        self._never = threading.Event()
        self._started_at = 0.0
        self._waves: Waves | None = None
        self.tally = Tally()

    def run(self, kills: int, violations_max: int = 1_000) -> Tally:
        """Go on until so many kills, or until more was done wrong than is worth waiting for."""
        plans = tuple(MarketPlan(t, *yes_quote(side_of(t), LOWEST), size=Decimal(4)) for t in TICKERS)
        scenario = Scenario(plans, balance=Decimal(1_000_000))
        with SandboxServer(scenario, players=(self._make_waves,)) as server:
            watch = Watch(CAPS, server.call(lambda venue: lambda: venue.exchange.ledger))
            server.call(lambda venue: venue.listeners.append(watch.hear))
            with self._open_daemon(server) as daemon:
                self._started_at = self._clock.now()
                while self.tally.kills < kills and len(self.tally.violations) < violations_max:
                    self._play(draw_round(self._rng, self.tally.rounds), server, daemon, watch)
            self.tally.bought, self.tally.sold = watch.bought, watch.sold
            self.tally.highest_share = watch.highest_share
        return self.tally

    def _make_waves(self, venue: Venue) -> Player:
        self._waves = Waves(venue, random.Random(f"{self._seed}/{self._name}/waves"))
        return self._waves

    def _open_daemon(self, server: SandboxServer) -> Daemon:
        return Daemon(
            self._directory,
            server,
            STRATEGY="tests.benchmarks.restless:Restless",
            STRATEGY_TICKERS=",".join(TICKERS),
            STRATEGY_SEED=f"{self._seed}/{self._name}",
            STRATEGY_INTERVAL_S="0.2",
            MAX_ORDER_COST_DOLLARS=str(CAPS.order),
            MAX_POSITION_COST_DOLLARS=str(CAPS.position),
            MAX_EVENT_COST_DOLLARS=str(CAPS.event),
            MAX_TOTAL_EXPOSURE_DOLLARS=str(CAPS.total),
            MAX_DAILY_LOSS_DOLLARS="100000",
            MAX_ENTRIES_PER_MINUTE="100000",
            RECONNECT_DELAY_MAX_S="1",
        )

    # --- a round --------------------------------------------------------------------------------------

    def _play(self, drawn: Round, server: SandboxServer, daemon: Daemon, watch: Watch) -> None:
        start = len(daemon.lines())
        known = len(watch.violations)
        server.clear_faults()
        self._let_fall(server, ())
        found = self._wait_until_active(server, daemon)
        server.set_faults(**drawn.faults)
        if drawn.crash_first:
            self._let_fall(server, drawn.victims)
        for number, kill in enumerate(drawn.kills):
            if number:
                self._restart(daemon)
            self._await(kill, server)
            daemon.kill()
            self.tally.kills += 1
            self.tally.left += len(resting(server))
        self._let_fall(server, drawn.victims)
        self._restart(daemon)
        found += self._wait_until_known(server, daemon)
        found += self._wait_until_flat(drawn, server, daemon)
        if drawn.is_stopped:
            found += self._stop(server, daemon, start)
        else:
            found += self._wait_until_quiet(server, daemon)
        self.tally.rounds += 1
        found += watch.violations[known:]
        for violation in found:
            self._note(violation, drawn, server, daemon, start)

    def _let_fall(self, server: SandboxServer, victims: tuple[str, ...]) -> None:
        def act(venue: Venue) -> None:
            assert self._waves is not None
            back = self._waves.fallen - set(victims)
            self._waves.fallen = frozenset(victims)
            for ticker in victims:
                quote(venue, ticker, CRASHED)
            for ticker in back:
                quote(venue, ticker, LOWEST)

        server.call(act)

    def _restart(self, daemon: Daemon) -> None:
        daemon.restart()
        self._started_at = self._clock.now()

    def _wait_until_active(self, server: SandboxServer, daemon: Daemon) -> list[Violation]:
        since = self._clock.now()

        def is_active() -> bool:
            rows: Any = server.ledger()["orders"]
            ours = [o for o in rows if o["client_order_id"].startswith(ENTRY_ID_PREFIX) and o["at"] > since]
            return len(ours) >= 3 and bool(resting(server))

        try:
            daemon.until(is_active, "entries are sent", ACTIVE_WITHIN_S)
        except AssertionError as exc:
            if daemon.process.poll() is not None:
                self._restart(daemon)
            return [Violation(Crime.UNKNOWN, "", f"{exc}; {daemon.status().get('health')}")]
        return []

    def _await(self, kill: Kill, server: SandboxServer) -> None:
        """Wait for what the kill is to follow, or until it has not come for long enough."""
        since = self._clock.now()
        bought = server.call(lambda venue: len(venue.exchange.ledger.fills))
        match kill.moment:
            case Moment.ENTRY_ARRIVED:
                self._until(lambda: has_request_since(server, since, "POST "), 3.0)
            case Moment.CANCEL_ARRIVED:
                self._until(lambda: has_request_since(server, since, "DELETE "), 3.0)
            case Moment.BOUGHT:
                self._until(lambda: server.call(lambda venue: len(venue.exchange.ledger.fills)) > bought, 3.0)
        self._clock.wait(self._never, kill.after_s)

    def _until(self, holds: Callable[[], bool], within_s: float, every_s: float = WATCH_S) -> bool:
        give_up_at = self._clock.monotonic() + within_s
        while not holds():
            if self._clock.monotonic() > give_up_at:
                return False
            self._clock.wait(self._never, every_s)
        return True

    def _wait_until_known(self, server: SandboxServer, daemon: Daemon) -> list[Violation]:
        """Until nothing of the runs before rests; what rests for longer is somebody's crime."""

        def is_clear() -> bool:
            return all(o.created_at > self._started_at for o in resting(server))

        self._until(is_clear, KNOWN_WITHIN_S, 0.02)
        self.tally.known_s.append(self._clock.now() - self._started_at)
        return self._strangers(server, daemon)

    def _strangers(self, server: SandboxServer, daemon: Daemon) -> list[Violation]:
        seen = resting(server)  # first: what is shown later shows at least these, or they are gone
        now = self._clock.now()
        shown = {o["client_order_id"] for o in daemon.status().get("orders", [])}
        still = {o.order_id for o in resting(server)}
        return entry_judge.strangers(
            [o for o in seen if o.order_id in still], shown, now, self._started_at, KNOWN_WITHIN_S
        )

    def _wait_until_flat(self, drawn: Round, server: SandboxServer, daemon: Daemon) -> list[Violation]:
        def unsold() -> dict[str, Decimal]:
            return {t: c for t, c in below_stop(server).items() if t in drawn.victims}

        if self._until(lambda: not unsold(), FLAT_WITHIN_S, 0.05):
            return []
        exits = daemon.status().get("exits")
        return [Violation(Crime.UNSOLD, t, f"{c} held; exits {exits}") for t, c in unsold().items()]

    def _wait_until_quiet(self, server: SandboxServer, daemon: Daemon) -> list[Violation]:
        """With entries off nothing may rest, and what is held is protected as a whole."""
        found = self._strangers(server, daemon)
        blocked = daemon.state_dir / BLOCKED_FILE
        began = self._clock.monotonic()
        blocked.touch()
        try:
            is_quiet = self._until(lambda: not resting(server), QUIET_WITHIN_S, 0.05)
            if not is_quiet:
                found += [
                    Violation(Crime.RESTING, o.ticker, f"{o.client_order_id} while entries are off")
                    for o in resting(server)
                ]
            bare: list[Violation] = []

            def is_protected() -> bool:
                bare[:] = entry_judge.exposed(held(server), daemon.status())
                return not bare

            if not self._until(is_protected, QUIET_WITHIN_S, 0.05):
                found += bare
            self.tally.quiet_s.append(self._clock.monotonic() - began)
        finally:
            blocked.unlink()
        return found

    def _stop(self, server: SandboxServer, daemon: Daemon, start: int) -> list[Violation]:
        code = daemon.terminate(15.0)
        self.tally.stops += 1
        left = resting(server)
        told = {e["client_order_id"] for e in daemon.events_after(start, "entry_may_rest")}
        found = [
            Violation(
                Crime.RESTING,
                o.ticker,
                f"{o.client_order_id} after SIGTERM, exit code {code}, "
                f"{'said' if o.client_order_id in told else 'not said'}",
            )
            for o in left
        ]
        self._restart(daemon)
        return found

    # --- what is kept ---------------------------------------------------------------------------------

    def _note(
        self, violation: Violation, drawn: Round, server: SandboxServer, daemon: Daemon, start: int
    ) -> None:
        """Keep what somebody needs who wants to understand it."""
        self.tally.violations.append(f"seed {self._seed} lane {self._name} round {drawn.number}: {violation}")
        self.tally.counts[violation.crime] = self.tally.counts.get(violation.crime, 0) + 1
        self._keep.mkdir(parents=True, exist_ok=True)
        name = f"seed{self._seed}-lane{self._name}-round{drawn.number}"
        (self._keep / f"{name}.log").write_text("\n".join(daemon.lines()[start:]) + "\n")
        document: Any = server.ledger()
        with (self._keep / f"{name}.txt").open("a") as file:
            file.write(f"{violation}\n{drawn}\n")
            for row in document["orders"] + document["fills"]:
                if row["ticker"] == violation.ticker:
                    file.write(f"{row}\n")


def resting(server: SandboxServer) -> list[OrderRecord]:
    return server.call(lambda venue: venue.exchange.ledger.resting_orders())


def held(server: SandboxServer) -> dict[str, Decimal]:
    """Signed counts of what is held, by the exchange's ledger."""
    return server.call(
        lambda venue: {t: p.count for t, p in venue.exchange.ledger.positions.items() if p.count}
    )


def below_stop(server: SandboxServer) -> dict[str, Decimal]:
    """What is held that a stop must have left at `CRASHED`: not what was bought further down."""
    positions = server.call(lambda venue: dict(venue.exchange.ledger.positions))
    return {t: p.count for t, p in positions.items() if p.count and STOP * p.cost / abs(p.count) >= CRASHED}


def has_request_since(server: SandboxServer, since: float, start: str) -> bool:
    """Whether a request of that method to order entry has arrived, acted on or not."""

    def look(venue: Venue) -> bool:
        newest = takewhile(lambda row: row[0] >= since, reversed(venue._requests))
        return any(endpoint.startswith(f"{start}/portfolio/events/orders") for _, endpoint in newest)

    return server.call(look)


def run_lane(seed: int, name: str, kills: int, keep: Path) -> Tally:
    with tempfile.TemporaryDirectory(prefix="kill-entries-") as directory:
        return Lane(Path(directory), keep, seed, name).run(kills)


def report(tally: Tally, took_s: float) -> None:
    rows: list[tuple[str, object]] = [
        ("kills", tally.kills),
        ("rounds", tally.rounds),
        ("of those ended by SIGTERM", tally.stops),
        ("orders that rested at a kill", tally.left),
        ("contracts bought", tally.bought),
        ("contracts sold by exits", tally.sold),
        ("most of a limit ever used, %", round(100 * tally.highest_share, 1)),
        *((crime.value, tally.counts.get(crime, 0)) for crime in Crime),
        ("restart to nothing older resting, s: median, longest", middle_and_end(tally.known_s)),
        ("entries off to quiet and protected, s: likewise", middle_and_end(tally.quiet_s)),
        ("took, s", round(took_s, 1)),
    ]
    for name, value in rows:
        print(f"{name:<54} {value}")
    for violation in tally.violations:
        print(f"VIOLATION {violation}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--parallel", type=int, default=2, help="lanes at the same time")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "kill-entries")
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
