"""What each guard of a stop is worth on recorded tapes, in cents a position.

    .venv/bin/python -m tests.benchmarks.guard_values [--tapes DIR] [--out DIR]
        [--entries 4] [--cluster market|event]

Positions of one contract, both sides, are entered at the first real bid of 0.30 to 0.80 at or after the
start of each of `--entries` equal parts of a market's recorded time, and then left to one stop under each
rule: *naive* takes every bid for a price, *plain* leaves at the first real bid at or below the stop, and
all others are the daemon's own `evaluate` with the guards named. *shipped* is `ExitRule` as it comes.

Value is exit price (settlement where nothing was sold, the last real bid where the tape does not tell it)
minus entry, without fees: they are the same for each exit at one price, and would hide nothing but noise.
The first value sells at the bid that was judged; the one marked *late* at the first real bid at or after
50 ms later, and holds on where none comes (naive: at whatever that quote says).

Positions of one market are as good as one observation, so intervals (95 %, bootstrap) draw whole markets,
or whole events, with all that was held in them; differences are of the same positions.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import random
import statistics
import sys
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import rich.progress
from rich.console import Console
from rich.table import Table

from base.app.replay import read_tape
from base.errors import WireError
from base.model.market import ONE, ZERO, OutcomeSide
from base.model.position import Position
from base.model.rules import ExitRule
from tests.benchmarks.guard_courses import Course, Sale, course_of, entry_points, sale_at, walk

TAPES = Path(__file__).parents[3] / "shared" / "tapes"
RESAMPLES = 2_000
STOPS = {
    "10 c": ExitRule(stop_loss_dollars=Decimal("0.10")),  # of one contract
    "25 %": ExitRule(stop_loss_pct=Decimal(25)),
}


def _cents(number: int) -> Decimal:
    return Decimal(number) / 100


GUARDS: dict[str, dict[str, Any]] = {
    "shipped": {},
    "confirm 250 ms": {"confirm_ms": 250},
    "confirm 1 s": {"confirm_ms": 1_000},
    "confirm 3 s": {"confirm_ms": 3_000},
    "confirm 10 s": {"confirm_ms": 10_000},
    "confirm 30 s": {"confirm_ms": 30_000, "guard_patience_ms": 30_000},
    "2 updates": {"confirm_updates": 2},
    "3 updates": {"confirm_updates": 3},
    "5 updates": {"confirm_updates": 5},
    "spread <= 3 c": {"max_spread": _cents(3)},
    "spread <= 6 c": {"max_spread": _cents(6)},
    "spread <= 10 c": {"max_spread": _cents(10)},
    "spread <= 6 c, 30 s": {"max_spread": _cents(6), "guard_patience_ms": 30_000},
    "size >= 5": {"min_bid_size": Decimal(5)},
    "size >= 25": {"min_bid_size": Decimal(25)},
    "size >= 100": {"min_bid_size": Decimal(100)},
    "wick 3 c, 1 s": {"wick_drop": _cents(3), "wick_wait_ms": 1_000},
    "wick 5 c, 1 s": {"wick_drop": _cents(5), "wick_wait_ms": 1_000},
    "wick 5 c, 5 s": {"wick_drop": _cents(5), "wick_wait_ms": 5_000},
    "wick 5 c, 10 s": {"wick_drop": _cents(5), "wick_wait_ms": 10_000},
    "wick 5 c, 30 s": {"wick_drop": _cents(5), "wick_wait_ms": 30_000, "guard_patience_ms": 30_000},
    "wick 10 c, 5 s": {"wick_drop": _cents(10), "wick_wait_ms": 5_000},
    "2 updates, spread <= 6 c": {"confirm_updates": 2, "max_spread": _cents(6)},
    "1 s, spread <= 6 c": {"confirm_ms": 1_000, "max_spread": _cents(6)},
    "wick 5 c 5 s, spread <= 6 c": {
        "wick_drop": _cents(5), "wick_wait_ms": 5_000, "max_spread": _cents(6)
    },
    "all: 2 updates, 6 c, 25, wick 5 c 5 s": {
        "confirm_updates": 2, "max_spread": _cents(6), "min_bid_size": Decimal(25),
        "wick_drop": _cents(5), "wick_wait_ms": 5_000,
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Held:
    """One position, and how each rule ended it (None: held to the end)."""

    cluster: str
    settlement: Decimal | None
    end: Decimal
    entry: Decimal
    sales: dict[str, Sale | None]

    def value_cents(self, rule: str, *, is_late: bool = False) -> float:
        sale = self.sales[rule]
        price = None if sale is None else sale.late_price if is_late else sale.price
        return float(((self.end if price is None else price) - self.entry) * 100)


Interval = tuple[float, float, float]
"""A mean and the ends of its 95 % interval."""


@dataclass(frozen=True, slots=True)
class Row:
    """One rule on one tape. Cents a position, seconds."""

    tape: str
    stop: str
    rule: str
    positions: int
    clusters: int
    fired: int
    by_close: int
    at_zero: int
    winners_by_close: int
    false_stops: int
    late_median_s: float
    late_p90_s: float
    given_up: float
    """Cents below the first real bid that met the stop, a position sold."""
    value: Interval
    to_naive: Interval
    to_plain: Interval
    late_value: Interval
    late_to_plain: Interval


def measure(
    lines: Iterable[bytes],
    tape: str,
    *,
    entries: int,
    is_by_event: bool = False,
    guards: Mapping[str, Mapping[str, Any]] = GUARDS,
) -> list[Row]:
    """Every rule under every stop on one tape. Raises WireError when it holds no quote."""
    courses = [
        course_of(ticker, quotes, side)
        for ticker, quotes in read_tape(lines).quotes.items()
        for side in OutcomeSide
    ]
    rows: list[Row] = []
    for stop, rule in STOPS.items():
        held = [
            hold(course, start, rule, guards, is_by_event=is_by_event)
            for course in courses
            for start in entry_points(course, entries)
        ]
        rows += summarize(tape, stop, held)
    return rows


def hold(
    course: Course,
    start: int,
    rule: ExitRule,
    guards: Mapping[str, Mapping[str, Any]],
    *,
    is_by_event: bool = False,
) -> Held:
    """Hold one contract from quote `start` on, under every rule."""
    entry = course.bids[start]
    ticker = course.market.ticker
    position = Position(ticker, course.side, ONE, entry, opened_at=course.times[start])
    distance = rule.stop_loss_dollars
    stop = entry - distance if distance is not None else entry * (100 - (rule.stop_loss_pct or ZERO)) / 100
    after = range(start + 1, len(course.bids))
    met = [i for i in after if course.is_real[i] and course.bids[i] <= stop]
    naive = next((i for i in after if course.bids[i] <= stop), None)
    sales: dict[str, Sale | None] = {
        "naive": None if naive is None else sale_at(course, naive, course.times[naive], stop, is_naive=True),
        "plain": sale_at(course, met[0], course.times[met[0]], stop) if met else None,
    }
    for name, changes in guards.items():
        # From the entry's own quote on, as the checker sees it: a fall right after it is one too.
        found = walk(course, start, position, replace(rule, **changes), met)
        sales[name] = None if found is None else sale_at(course, *found, stop)
    last_real = next((course.bids[i] for i in reversed(after) if course.is_real[i]), entry)
    end = last_real if course.settlement is None else course.settlement
    return Held(ticker.rpartition("-")[0] if is_by_event else ticker, course.settlement, end, entry, sales)


# --- the table ------------------------------------------------------------------------------------------


def summarize(tape: str, stop: str, held: Sequence[Held]) -> list[Row]:
    """A row for every rule; none where nothing could be entered."""
    if not held:
        return []
    groups: dict[str, list[Held]] = defaultdict(list)
    for each in held:
        groups[each.cluster].append(each)
    counts = [len(group) for group in groups.values()]
    draws = _draws(len(counts))

    def interval(value: Callable[[Held], float]) -> Interval:
        sums = [sum(value(each) for each in group) for group in groups.values()]
        means = sorted(sum(sums[i] for i in draw) / sum(counts[i] for i in draw) for draw in draws)
        low, high = means[round(0.025 * (RESAMPLES - 1))], means[round(0.975 * (RESAMPLES - 1))]
        return sum(sums) / sum(counts), low, high

    return [_row(tape, stop, rule, held, len(counts), interval) for rule in held[0].sales]


def _draws(clusters: int) -> list[list[int]]:
    # The same draws for every rule, so that rules are compared on the same resampled weeks.
    rng = random.Random(1)
    return [rng.choices(range(clusters), k=clusters) for _ in range(RESAMPLES)]


def _row(
    tape: str,
    stop: str,
    rule: str,
    held: Sequence[Held],
    clusters: int,
    interval: Callable[[Callable[[Held], float]], Interval],
) -> Row:
    sold = [(each, sale) for each in held if (sale := each.sales[rule]) is not None]
    beside = [(sale, plain) for each, sale in sold if (plain := each.sales["plain"]) is not None]
    late_s = sorted(sale.at - plain.at for sale, plain in beside)
    return Row(
        tape=tape,
        stop=stop,
        rule=rule,
        positions=len(held),
        clusters=clusters,
        fired=len(sold),
        by_close=sum(sale.is_by_close for _, sale in sold),
        at_zero=sum(sale.price <= ZERO for _, sale in sold),
        winners_by_close=sum(sale.is_by_close and each.settlement == ONE for each, sale in sold),
        false_stops=sum(sale.is_false for _, sale in sold),
        late_median_s=statistics.median(late_s) if late_s else 0.0,
        late_p90_s=late_s[round(0.9 * (len(late_s) - 1))] if late_s else 0.0,
        given_up=statistics.fmean(float(p.price - s.price) * 100 for s, p in beside) if beside else 0.0,
        value=interval(lambda each: each.value_cents(rule)),
        to_naive=interval(lambda each: each.value_cents(rule) - each.value_cents("naive")),
        to_plain=interval(lambda each: each.value_cents(rule) - each.value_cents("plain")),
        late_value=interval(lambda each: each.value_cents(rule, is_late=True)),
        late_to_plain=interval(
            lambda each: each.value_cents(rule, is_late=True) - each.value_cents("plain", is_late=True)
        ),
    )


COLUMNS = (
    "rule", "fired", "by a close", "at bid 0", "winners by a close", "back in 60 s", "late s, median", "p90",
    "given up", "value", "to naive", "to plain", "value late", "late to plain",
)  # fmt: skip


def cells(row: Row) -> tuple[str, ...]:
    """A row as it is printed, under `COLUMNS`."""
    counts = (row.fired, row.by_close, row.at_zero, row.winners_by_close)
    false_pct = f"{100 * row.false_stops / row.fired:.0f} %" if row.fired else ""
    late = (f"{row.late_median_s:.1f}", f"{row.late_p90_s:.1f}", f"{row.given_up:+.2f}")
    intervals = (row.value, row.to_naive, row.to_plain, row.late_value, row.late_to_plain)
    return (row.rule, *(str(count) for count in counts), false_pct, *late, *(_interval(i) for i in intervals))


def _interval(of: Interval) -> str:
    return f"{of[0]:+.2f} [{of[1]:+.2f}, {of[2]:+.2f}]"


def tables(rows: Sequence[Row]) -> dict[str, list[tuple[str, ...]]]:
    """The printed tables by title; one line where no rule sold anything."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        title = f"{row.tape}, stop {row.stop}: {row.positions} positions in {row.clusters} clusters"
        found[title].append(row)
    return {
        title: [cells(row) for row in group] if any(row.fired for row in group)
        else [cells(replace(group[0], rule="every rule"))]
        for title, group in found.items()
    }  # fmt: skip


def write(rows: Sequence[Row], folder: Path) -> None:
    """The table as `guard_values.csv`, one number a column, and as `guard_values.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "guard_values.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        for number, row in enumerate(rows):
            flat: dict[str, object] = {}
            for name in Row.__slots__:
                value = getattr(row, name)
                ends = ("", "_low", "_high")
                pairs = zip(ends, value, strict=True) if isinstance(value, tuple) else [("", value)]
                flat |= {f"{name}{end}": part for end, part in pairs}
            if number == 0:
                writer.writerow(flat)
            writer.writerow(flat.values())
    text = ["Cents a position; intervals 95 %."]
    for title, lines in tables(rows).items():
        text += ["", f"**{title}**", "", _line(COLUMNS), _line(["---", *["---:"] * (len(COLUMNS) - 1)])]
        text += [_line(line) for line in lines]
    (folder / "guard_values.md").write_text("\n".join(text) + "\n", encoding="utf-8")


def _line(parts: Iterable[str]) -> str:
    return f"| {' | '.join(parts)} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="guard_values", description="What each guard is worth.")
    parser.add_argument("--tapes", type=Path, default=TAPES, help="folder of *.jsonl.gz tapes")
    parser.add_argument("--out", type=Path, help="write the table here, as CSV and Markdown")
    parser.add_argument("--entries", type=int, choices=range(1, 25), default=4, metavar="N")
    parser.add_argument("--cluster", choices=["market", "event"], default="market")
    options = parser.parse_args(argv)
    paths = sorted(options.tapes.glob("*.jsonl.gz"))
    if not paths:
        print(
            f"guard_values: no *.jsonl.gz tape in {options.tapes}; give their folder as --tapes DIR",
            file=sys.stderr,
        )
        return 2
    rows: list[Row] = []
    for path in rich.progress.track(
        paths, "tapes", console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True
    ):
        name = path.name.removesuffix(".jsonl.gz")
        try:
            with gzip.open(path) as lines:
                rows += measure(lines, name, entries=options.entries, is_by_event=options.cluster == "event")
        except (OSError, EOFError, zlib.error, WireError) as exc:
            print(f"guard_values: cannot use {path}: {exc}", file=sys.stderr)
            return 5
    console = Console(width=None if sys.stdout.isatty() else 260)
    for title, printed in tables(rows).items():
        table = Table(title=f"{title} (cents a position)")
        for column in COLUMNS:
            table.add_column(column, justify="left" if column == "rule" else "right")
        for line in printed:
            table.add_row(*line)
        console.print(table)
    if options.out is not None:
        write(rows, options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
