"""Paper against live with the built-in strategy: the same courses, once with orders and once without.

    python -m tests.benchmarks.paper_agreement --seed 7 --seconds 60

Four exchanges, four daemons as processes of their own: `value` that takes (STRATEGY_REST=no) and `value`
that bids and waits (yes), each live and on paper. One driver sets the quotes of all four, so that the
participants are the same; how far apart the exchanges were told is measured and printed.

What the model (`base/execution/paper_fills.py`) says may differ, and what is judged here:

- **What takes** meets the same quotes: contracts, prices and fees are the same. Quotes stand for `HOLD_S`,
  longer than a pass of the strategy and an order take, so that timing decides nothing.
- **What rests** fills live as soon as somebody sells to it, on paper only while the other side's best
  price is seen at its limit: a touch of `TOUCH_S` may be missed. There paper buys at most what live buys,
  at the same price, for no fee; what the market comes to for longer, or falls through, fills alike.
- **Exits** of what both hold are the same, orders that walk the book too. Where paper has bought less,
  there is less to sell. What one side sells in more fills than the other costs up to `FEE_STEP` a fill more:
  each fill's fee is rounded up.
- **Money** is what the fills say: each side's realized result is worked out anew from its journal, and the
  live journal from the exchange's own ledger.

Not judged: a quote is replaced level by level, so that the book shows prices in between for a
moment, and whether a stop sees one is a matter of when its thread wakes, live as on paper. All four
daemons have a rule that asks for `CONFIRM_MS` of it.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

from base.clock import SystemClock
from base.model.market import ONE, ZERO, BookSide, OutcomeSide
from base.sandbox.scenario import parse_scenario
from base.sandbox.server import SandboxServer
from base.store.journal import Journal
from base.store.records import FillRecord
from tests.integration.rig import Daemon

CENT = Decimal("0.01")
EDGE = Decimal("0.05")
COUNT = Decimal(20)
FIRST_S = 0.5
HOLD_S = 2.5
"""So long a quote stands: a pass every `INTERVAL_S`, a ticker once a second, an order in 0.05 s."""
TOUCH_S = 0.2
INTERVAL_S = 0.5
FEE_STEP = Decimal("0.0001")
REALIZED_SLACK = Decimal("0.0001")
"""Money is shown in hundredths of a cent."""
READY_S = 30.0
CONFIRM_MS = 100
RULES = f'[[rule]]\nmatch = "*"\nstop_loss_pct = 15\nconfirm_ms = {CONFIRM_MS}\n'
FILLS_S = 2.0
"""So long the last exits may take after the last quote."""

SETTINGS = {
    "STRATEGY": "value",
    "STRATEGY_EDGE": str(EDGE),
    "STRATEGY_COUNT": str(COUNT),
    # Longer than a fall stands, and over well before the next offer, 3 * HOLD_S after the fall.
    "STRATEGY_COOLDOWN_S": str(1.5 * HOLD_S),
    # A guard that waits is looked at again with the next sweep where no price comes.
    "STOP_LOSS_INTERVAL_S": str(INTERVAL_S),
    "STRATEGY_INTERVAL_S": str(INTERVAL_S),
    "MAX_ENTRIES_PER_MINUTE": "1000",
    "MAX_DAILY_LOSS_DOLLARS": "100000",
    "MAX_TOTAL_EXPOSURE_DOLLARS": "100000",
}


class Plot(StrEnum):
    """What happens in a market in each round of `HOLD_S` steps."""

    FALLS = "bought, then stopped out"
    WALKS = "bought, then stopped out through a thin book"
    STAYS = "bought and held"
    PART = "less is offered than wanted, then stopped out"
    TOUCHED = "offered for a moment"
    CALM = "never cheap enough"


@dataclass(frozen=True, slots=True)
class Quote:
    """One quote of a market from `at_s` after the start on."""

    at_s: float
    ticker: str
    bid: Decimal
    ask: Decimal
    bid_size: Decimal
    ask_size: Decimal


@dataclass(frozen=True, slots=True)
class Course:
    """A market's quotes, and the fair price of which the strategy is told."""

    ticker: str
    plot: Plot
    side: OutcomeSide
    """What becomes cheap."""
    fair: Decimal
    quotes: tuple[Quote, ...]


def make_courses(seed: int, seconds: float) -> list[Course]:
    """Two markets of each plot, one a side; drawn from the seed alone."""
    rng = random.Random(seed)
    return [_course(rng, plot, side, seconds) for plot in Plot for side in OutcomeSide]


def _course(rng: random.Random, plot: Plot, side: OutcomeSide, seconds: float) -> Course:
    ticker = f"KX{plot.name}{side.name}-26NOV22-A"
    fair = CENT * rng.randint(45, 60)
    quotes = []
    for at_s, bid, ask, bid_size, ask_size in _steps(rng, plot, fair, seconds):
        if side is OutcomeSide.NO:
            bid, ask, bid_size, ask_size = ONE - ask, ONE - bid, ask_size, bid_size
        quotes.append(Quote(at_s, ticker, bid, ask, bid_size, ask_size))
    yes_fair = fair if side is OutcomeSide.YES else ONE - fair
    return Course(ticker, plot, side, yes_fair, tuple(quotes))


_Step = tuple[float, Decimal, Decimal, Decimal, Decimal]
"""When, bid, ask and their sizes, all in terms of what becomes cheap."""


def _steps(rng: random.Random, plot: Plot, fair: Decimal, seconds: float) -> Iterator[_Step]:
    limit = fair - EDGE
    at_s = 0.0

    def size(low: int, high: int) -> Decimal:
        return Decimal(rng.randint(low * 100, high * 100)) / 100

    def calm() -> _Step:
        # Nearer to what is bid for this side than to what would be bid for the other one.
        ask = limit + CENT * rng.randint(3, 4)
        return at_s, ask - CENT * rng.randint(1, 2), ask, size(30, 90), size(30, 90)

    yield calm()
    at_s = FIRST_S
    while at_s < seconds:
        if plot is not Plot.CALM:
            offered = size(4, 15) if plot is Plot.PART else size(25, 90)
            yield at_s, limit - CENT * rng.randint(1, 2), limit, size(30, 90), offered
            if plot is Plot.TOUCHED:
                at_s += TOUCH_S
                yield calm()
                at_s -= TOUCH_S
        at_s += HOLD_S
        yield calm()
        at_s += HOLD_S
        if plot not in (Plot.STAYS, Plot.CALM):
            bid = limit * Decimal("0.85") - CENT * rng.randint(1, 4)
            bid = bid.quantize(CENT)
            thin = size(3, 8) if plot is Plot.WALKS else size(30, 90)
            yield at_s, bid, bid + 2 * CENT, thin, size(30, 90)
            at_s += HOLD_S
            yield calm()
        at_s += 2 * HOLD_S


def scenario(courses: Sequence[Course]) -> str:
    return "".join(
        f'[[market]]\nticker = "{c.ticker}"\nbid = "{c.quotes[0].bid}"\nask = "{c.quotes[0].ask}"\n'
        f'size = "5"\nmode = "quiet"\n'
        for c in courses
    )


# --- what became of it ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Leg:
    """All purchases or all sales of one market; dollars of the side that was bought."""

    count: Decimal = ZERO
    value: Decimal = ZERO
    fees: Decimal = ZERO
    fills: int = 0

    def agrees_with(self, other: Leg) -> bool:
        is_same = (self.count, self.value) == (other.count, other.value)
        return is_same and abs(self.fees - other.fees) <= FEE_STEP * abs(self.fills - other.fills)

    @property
    def price(self) -> Decimal | None:
        return self.value / self.count if self.count else None


@dataclass(frozen=True, slots=True)
class Result:
    """What one side did in one market."""

    entries: Leg
    exits: Leg

    @property
    def realized(self) -> Decimal:
        """Of what was sold, without fees; all lots of a market are bought at one price here."""
        price = self.entries.price
        return ZERO if price is None else self.exits.value - self.exits.count * price


@dataclass(frozen=True, slots=True)
class Side:
    """One daemon's session."""

    results: dict[str, Result]
    realized: Decimal
    """As `/api/status` tells."""
    fees: Decimal
    submissions: int
    """Orders that came to its exchange."""
    problems: tuple[str, ...]
    """Where its journal and its exchange's ledger disagree."""


def result_of(fills: Sequence[FillRecord], side: OutcomeSide) -> Result:
    buys = BookSide.BID if side is OutcomeSide.YES else BookSide.ASK
    legs = []
    for is_entry in (True, False):
        part = [f for f in fills if (f.book_side is buys) is is_entry]
        value = sum(
            (f.count * (f.yes_price if side is OutcomeSide.YES else ONE - f.yes_price) for f in part), ZERO
        )
        count, fees = sum((f.count for f in part), ZERO), sum((f.fee for f in part), ZERO)
        legs.append(Leg(count, value, fees, len(part)))
    return Result(*legs)


class Seat:
    """An exchange and its daemon."""

    def __init__(self, directory: Path, courses: Sequence[Course], seed: int, *, rests: bool, is_paper: bool):
        self.name = f"{'rests' if rests else 'takes'}-{'paper' if is_paper else 'live'}"
        self.is_paper = is_paper
        self._directory = directory / self.name
        self._courses = courses
        self._directory.mkdir()
        self._stack = ExitStack()
        text = scenario(courses)
        self.server = self._stack.enter_context(SandboxServer(parse_scenario(text, "courses"), seed=seed))
        fair = ", ".join(f"{c.ticker}={c.fair}" for c in courses)
        how = {"KALSHI_ENV": "demo", "TRADING_MODE": "paper"} if is_paper else {"KALSHI_ENV": "sandbox"}
        rules = self._directory / "rules.toml"
        rules.write_text(RULES)
        how |= (
            SETTINGS
            | {"RULES_FILE": str(rules)}
            | {"STRATEGY_FAIR_PRICES": fair, "STRATEGY_REST": "yes" if rests else "no"}
        )
        for course in courses:
            self.show(course.quotes[0])
        self.daemon = self._stack.enter_context(Daemon(self._directory, self.server, **how))

    def wait_until_ready(self) -> None:
        self.daemon.until(lambda: self.daemon.is_streaming(len(self._courses)), "streaming", READY_S)

    def show(self, quote: Quote) -> None:
        fields = {"bid": quote.bid, "ask": quote.ask, "bid_size": quote.bid_size, "ask_size": quote.ask_size}
        self.server.set_market(quote.ticker, **{name: str(value) for name, value in fields.items()})

    def end(self) -> Side:
        """Stop the daemon, and read what it has written down."""
        with self._stack:
            pnl = self.daemon.status()["pnl"]
            code = self.daemon.terminate()
            ledger = self.server.ledger()
        problems = [] if code == 0 else [f"{self.name}: the daemon ended with {code}"]
        (path,) = self.daemon.state_dir.glob("journal-*.sqlite")
        fills = Journal.open(path, SystemClock(), account=path.stem).load().fills
        results = {
            c.ticker: result_of([f for f in fills if f.ticker == c.ticker], c.side) for c in self._courses
        }
        problems += self._against_ledger(fills, ledger)
        realized, fees = Decimal(pnl["realized_today"]), Decimal(pnl["fees_today"])
        submissions: Any = ledger["submissions"]
        return Side(results, realized, fees, len(submissions), tuple(problems))

    def _against_ledger(self, fills: Sequence[FillRecord], ledger: dict[str, object]) -> list[str]:
        listed: Any = ledger["fills"]
        there = sorted((f["ticker"], Decimal(f["count"]), Decimal(f["yes_price"])) for f in listed)
        if self.is_paper:
            return [f"{self.name}: {len(there)} fills at the exchange"] if there else []
        here = sorted((f.ticker, f.count, f.yes_price) for f in fills)
        return (
            []
            if here == there
            else [f"{self.name}: the journal has {len(here)} fills, the exchange {len(there)}"]
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One market of one session, both sides and what is wrong with it ("" where nothing is)."""

    session: str
    course: Course
    live: Result
    paper: Result
    verdict: str

    @property
    def is_same(self) -> bool:
        return self.live == self.paper


@dataclass(frozen=True, slots=True)
class Report:
    rows: list[Row]
    sides: dict[str, Side]
    apart_ms_max: float
    """How long after the first exchange the last one was shown a quote, at worst."""

    @property
    def problems(self) -> list[str]:
        rows = [f"{r.session} {r.course.ticker}: {r.verdict}" for r in self.rows if r.verdict]
        return rows + [problem for side in self.sides.values() for problem in side.problems]


def play(directory: Path, seed: int, seconds: float) -> Report:
    """Run all four and compare. Raises AssertionError where a daemon does not come up."""
    courses = make_courses(seed, seconds)
    kinds = [(rests, is_paper) for rests in (False, True) for is_paper in (False, True)]
    with ExitStack() as stack, ThreadPoolExecutor(len(kinds)) as pool:
        seats = [Seat(directory, courses, seed, rests=r, is_paper=p) for r, p in kinds]
        for seat in seats:
            stack.callback(seat.daemon.kill)
        list(pool.map(Seat.wait_until_ready, seats))
        apart_ms = _drive(seats, courses)
        sides = dict(zip((seat.name for seat in seats), pool.map(Seat.end, seats), strict=True))
    rows = []
    for session in ("takes", "rests"):
        live, paper = sides[f"{session}-live"], sides[f"{session}-paper"]
        for course in courses:
            ours = live.results[course.ticker], paper.results[course.ticker]
            may_miss = session == "rests" and course.plot is Plot.TOUCHED
            rows.append(Row(session, course, *ours, judge(*ours, may_miss=may_miss)))
    return Report(rows, {n: _with_money_checked(n, side) for n, side in sides.items()}, apart_ms)


def _drive(seats: Sequence[Seat], courses: Sequence[Course]) -> float:
    clock, never = SystemClock(), threading.Event()
    started, apart_s = clock.monotonic(), 0.0
    for quote in sorted((q for c in courses for q in c.quotes[1:]), key=lambda q: q.at_s):
        never.wait(max(0.0, started + quote.at_s - clock.monotonic()))
        shown = clock.monotonic()
        for seat in seats:
            seat.show(quote)
        apart_s = max(apart_s, clock.monotonic() - shown)
    never.wait(FILLS_S)
    return apart_s * 1000


def judge(live: Result, paper: Result, *, may_miss: bool) -> str:
    """What breaks the model's statement, "" where nothing does; `may_miss`: paper may have bought less."""
    if not may_miss or live.entries.count == paper.entries.count:
        agrees = live.entries.agrees_with(paper.entries) and live.exits.agrees_with(paper.exits)
        return "" if agrees else "it is the same market and not the same fills"
    if paper.entries.count > live.entries.count:
        return "paper has bought more than live"
    if paper.entries.count and paper.entries.price != live.entries.price:
        return "an order that rests has filled at another price"
    if paper.entries.fees or live.entries.fees:
        return "an order that rests has paid a fee"
    if paper.exits.count > live.exits.count:
        return "paper has sold more than live"
    return ""


def _with_money_checked(name: str, side: Side) -> Side:
    """The side, with what its money and its fills do not agree on."""
    problems = list(side.problems)
    fees = sum((r.entries.fees + r.exits.fees for r in side.results.values()), ZERO)
    realized = sum((r.realized for r in side.results.values()), ZERO)
    for what, told, worked_out in (("fees", side.fees, fees), ("realized", side.realized, realized)):
        if abs(told - worked_out) > REALIZED_SLACK:
            problems.append(f"{name}: {what} {told} told, {worked_out} by its fills")
    if name.endswith("paper") and side.submissions:
        problems.append(f"{name}: {side.submissions} orders came to the exchange")
    return Side(side.results, side.realized, side.fees, side.submissions, tuple(problems))


# --- told -----------------------------------------------------------------------------------------------


def _text(leg: Leg) -> str:
    return "-" if leg.price is None else f"{leg.count:.2f} at {leg.price:.4f} fee {leg.fees:.4f}"


def table(report: Report) -> str:
    lines = [f"{'market':<26} {'':<5} {'bought':<32} {'sold':<32} {'realized':>9}"]
    for session in ("takes", "rests"):
        lines.append(f"STRATEGY_REST={'yes' if session == 'rests' else 'no'}")
        for row in (r for r in report.rows if r.session == session):
            for name, result in (("live", row.live), ("paper", row.paper)):
                head = row.course.ticker if name == "live" else ("" if row.is_same else "  differs")
                line = f"{head:<26} {name:<5} {_text(result.entries):<32} {_text(result.exits):<32}"
                lines.append(f"{line} {result.realized:>9.4f}")
        live, paper = report.sides[f"{session}-live"], report.sides[f"{session}-paper"]
        for what, a, b in (("realized", live.realized, paper.realized), ("fees", live.fees, paper.fees)):
            lines.append(f"{what}: live {a}, paper {b}, paper less live {b - a}")
    lines.append(f"quotes reached the four exchanges within {report.apart_ms_max:.1f} ms of each other")
    lines += [f"NOT AS THE MODEL SAYS: {problem}" for problem in report.problems] or ["as the model says"]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="paper-agreement-") as directory:
        report = play(Path(directory), options.seed, options.seconds)
    print(table(report))
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
