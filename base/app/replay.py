"""Run the exit rules over a recorded tape and report what they would have done.

One contract is bought in each market at the first real bid of 0.30 to 0.80 and then left to the same
`evaluate` that the daemon runs, beside the naive rule that takes every bid for a price. Value is exit
price, or settlement when nothing fired, minus entry, without fees.

Tapes are one JSON object a line, gzip or plain: frames of the exchange with `recv_ts` where the recorder
kept it, and `_bbo` rows of best prices in whole cents.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import importlib
import importlib.util
import json
import math
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import rich.progress
from rich.console import Console
from rich.table import Table

from base.app.progress import ProgressBar
from base.errors import BotError, ConfigError, ExitCode, WireError
from base.kalshi.frames import decode_frame
from base.kalshi.orderbook import OrderBook, SequenceCheck
from base.kalshi.wire import parse_cents, parse_ticker
from base.model.events import BookDelta, BookSnapshot, StreamEvent, Ticker
from base.model.market import ONE, ZERO, Market, MarketStatus, OutcomeSide, PriceSource, Quote
from base.model.position import Position
from base.model.rules import Exit, ExitRule, Hold, HoldReason, RuleState
from base.risk.exit_rules import ExitValue, evaluate, price_to_act_on
from base.risk.levels import stop_levels
from base.risk.rule_book import RuleBook, parse_rules
from base.risk.wording import dollars_text

ENTRY_LOW, ENTRY_HIGH = Decimal("0.30"), Decimal("0.80")
FLOOR = Decimal("0.01")
SWEEP_S = 2.0
BACK_WITHIN_S = 60.0
SURE = Decimal("0.90")
"""A market whose last real bid is at least this is taken to settle that way."""
CUT_OFF_S = 60.0
"""A tape that ends this long before a known close does not tell how the market settled."""


@dataclass(frozen=True, slots=True)
class Tape:
    """The quotes of each market in the order received, and what the file held beside them."""

    quotes: dict[str, list[Quote]]
    lines: int
    refused: int
    """Lines that could not be proved right and were left out."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a rule ended one position; `at` is None when it never fired."""

    reason: str = ""
    at: float | None = None
    price: Decimal | None = None
    is_at_close: bool = False
    """Sold at or after the close, or into a bid that nobody stood behind."""
    is_at_zero: bool = False
    came_back: bool = False
    """The bid was above the level again within a minute."""


@dataclass(frozen=True, slots=True)
class Result:
    """One position under both rules. `settlement` is of the held side, None when the tape does not tell."""

    ticker: str
    side: OutcomeSide
    entry: Decimal
    entered_at: float
    last_value: Decimal
    settlement: Decimal | None
    rule: Outcome
    naive: Outcome

    def value(self, outcome: Outcome) -> Decimal:
        """Dollars gained on the contract; at the last real price where settlement is not known."""
        end = self.settlement if self.settlement is not None else self.last_value
        return (end if outcome.price is None else outcome.price) - self.entry


@dataclass(frozen=True, slots=True)
class Totals:
    """One rule over all positions."""

    name: str
    positions: int
    fired: int
    at_zero: int
    winners_at_close: int
    came_back: int
    value_cents: Decimal
    """Mean value a position."""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    try:
        options = _parse_arguments(argv)
    except SystemExit as exc:  # argparse leaves this way, after printing what is wrong or the help
        return exc.code if isinstance(exc.code, int) else ExitCode.CONFIG
    try:
        book = _rule_book(options)
    except ConfigError as exc:
        print("\n".join(exc.problems), file=sys.stderr)
        return ExitCode.CONFIG
    try:
        tape = _open_tape(Path(options.tape))
        sides = list(OutcomeSide) if options.side == "both" else [OutcomeSide(options.side)]
        with ProgressBar("simulating markets", len(tape.quotes)) as bar:
            results = simulate(tape, book, sides, bar.show)
        totals = [total("rule", results), total("naive", results)]
        _print_report(tape, results, totals)
        if options.out:
            _write_files(Path(options.out), results, totals)
    except (BotError, OSError) as exc:
        print(f"replay: {exc}", file=sys.stderr)
        return ExitCode.FAILED
    return ExitCode.OK


def read_tape(lines: Iterable[bytes]) -> Tape:
    """Turn a tape's lines into quotes. Raises WireError when there is not one quote in it."""
    reader = _TapeReader()
    count = 0
    for line in lines:
        count += 1
        reader.read(line)
    if not reader.quotes:
        raise WireError(f"no quote in {count} lines; give a tape of ticker, order-book or _bbo lines")
    return Tape(reader.quotes, count, reader.refused)


def simulate(
    tape: Tape,
    book: RuleBook,
    sides: Sequence[OutcomeSide],
    on_market: Callable[[int], None] = lambda done: None,
) -> list[Result]:
    """One position a market and side, in the order of the tape; `on_market` is told how many are done."""
    found: list[Result] = []
    for done, (ticker, quotes) in enumerate(tape.quotes.items()):
        on_market(done)
        known_close = close_time_of(ticker)
        last_at = quotes[-1].received_at
        close = last_at if known_close is None else known_close
        market = Market(ticker, status=MarketStatus.ACTIVE, close_time=close)
        is_cut_off = last_at < close - CUT_OFF_S
        yes_settlement = None if is_cut_off else settlement_of(quotes)
        for side in sides:
            result = _simulate_one(market, quotes, side, book.rule_for(ticker), yes_settlement)
            if result is not None:
                found.append(result)
    return found


def total(name: str, results: Sequence[Result]) -> Totals:
    """Sum up one of the two rules, `rule` or `naive`."""
    outcomes = [(each, each.naive if name == "naive" else each.rule) for each in results]
    fired = [(each, outcome) for each, outcome in outcomes if outcome.at is not None]
    value = sum((each.value(outcome) for each, outcome in outcomes), ZERO)
    return Totals(
        name=name,
        positions=len(outcomes),
        fired=len(fired),
        at_zero=sum(outcome.is_at_zero for _, outcome in fired),
        winners_at_close=sum(outcome.is_at_close and each.settlement == ONE for each, outcome in fired),
        came_back=sum(outcome.came_back for _, outcome in fired),
        value_cents=value * 100 / len(outcomes) if outcomes else ZERO,
    )


_CLOSE_IN_TICKER = re.compile(r"-([0-9]{2})([A-Z]{3})([0-9]{2})([0-9]{2})([0-9]{2})-\5", re.ASCII)


def close_time_of(ticker: str) -> float | None:
    """The close that a quarter-hour market carries in its ticker, None for every other market.

    `KXBTC15M-26MAY110115-15` closes 2026-05-11 01:15 in New York (recorded 2026-05-11: the last frame
    with sizes before that moment, bid 0 / ask 1 after it). Other tickers carry other times, such as the
    start of a match, so the closing minutes have to stand behind the last dash as well.
    """
    found = _CLOSE_IN_TICKER.search(ticker)
    if found is None or found.end() != len(ticker):
        return None
    try:
        moment = datetime.strptime("".join(found.groups()), "%y%b%d%H%M")  # noqa: DTZ007 - zone added below
        return moment.replace(tzinfo=ZoneInfo("America/New_York")).timestamp()
    except (ValueError, ZoneInfoNotFoundError):
        return None


def settlement_of(quotes: Sequence[Quote]) -> Decimal | None:
    """What one YES contract is taken to settle at, from the last quote with anybody on either side."""
    for quote in reversed(quotes):
        bid, ask = (_real_bid(quote, side) for side in (OutcomeSide.YES, OutcomeSide.NO))
        if bid is not None and bid >= SURE:
            return ONE
        if ask is not None and ask >= SURE:
            return ZERO
        if bid is not None or ask is not None:
            return None
    return None


class _TapeReader:
    """Keeps the books and the last time of a tape; collects a quote for every update of a top."""

    def __init__(self) -> None:
        self.quotes: dict[str, list[Quote]] = {}
        self.refused = 0
        self._books: dict[str, OrderBook] = {}
        self._sequences: dict[int, SequenceCheck] = {}
        self._connection: object = None
        self._at: float | None = None

    def read(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise WireError("not a JSON object")
            self._note_connection(row)
            if row.get("type") == "_bbo":
                self._read_bbo(row)
            elif not str(row.get("type")).startswith("_"):
                self._read_frame(row, decode_frame(line))
        except (WireError, ValueError, RecursionError):
            self.refused += 1

    def _note_connection(self, row: dict[str, Any]) -> None:
        connection = row.get("conn", self._connection)
        if row.get("type") == "_ws_connected" or connection != self._connection:
            self._books.clear()
            self._sequences.clear()
        self._connection = connection

    def _read_bbo(self, row: dict[str, Any]) -> None:
        ticker = parse_ticker(row.get("market_ticker", ""))
        bid, ask = (parse_cents(row.get(name, -1)) for name in ("best_yes_bid", "implied_yes_ask"))
        self._add(ticker, bid, ask, None, None, 0, self._time(row, 0))

    def _read_frame(self, row: dict[str, Any], event: StreamEvent) -> None:
        if not self._is_in_order(event):
            self._books.clear()  # a gap does not say which market lost something
        if isinstance(event, Ticker):
            book = self._books.get(event.ticker)
            if book is None or event.ts_ms >= book.ts_ms:
                sizes = event.yes_bid_size, event.yes_ask_size
                at = self._time(row, event.ts_ms)
                self._add(event.ticker, event.yes_bid, event.yes_ask, *sizes, event.ts_ms, at)
        elif isinstance(event, BookSnapshot):
            book = self._books[event.ticker] = OrderBook(event.ticker)
            book.apply_snapshot(event)
            self._add_book(book, self._time(row, 0))
        elif isinstance(event, BookDelta) and event.ticker in self._books:
            book = self._books[event.ticker]
            book.apply_delta(event)
            self._add_book(book, self._time(row, event.ts_ms))

    def _is_in_order(self, event: StreamEvent) -> bool:
        sid, seq = getattr(event, "sid", None), getattr(event, "seq", None)
        return sid is None or self._sequences.setdefault(sid, SequenceCheck()).accept(seq)

    def _time(self, row: dict[str, Any], ts_ms: int) -> float | None:
        at = row.get("recv_ts")
        if isinstance(at, int | float) and math.isfinite(at):
            self._at = float(at)
        elif ts_ms:
            self._at = ts_ms / 1000
        return self._at

    def _add_book(self, book: OrderBook, at: float | None) -> None:
        top = book.yes_bid, book.yes_ask, book.yes_bid_size, book.yes_ask_size
        last = self.quotes.get(book.ticker)
        if book.is_usable and not (last and _top(last[-1]) == top):
            self._add(book.ticker, *top, book.ts_ms, at)

    def _add(
        self,
        ticker: str,
        bid: Decimal,
        ask: Decimal,
        bid_size: Decimal | None,
        ask_size: Decimal | None,
        ts_ms: int,
        at: float | None,
    ) -> None:
        if at is None:
            return  # a tape without receive times: nothing has told the time yet
        quote = Quote(ticker, bid, ask, bid_size, ask_size, None, ts_ms, at, at, PriceSource.WS, 1)
        self.quotes.setdefault(ticker, []).append(quote)


def _top(quote: Quote) -> tuple[Decimal, Decimal, Decimal | None, Decimal | None]:
    return quote.yes_bid, quote.yes_ask, quote.yes_bid_size, quote.yes_ask_size


def _real_bid(quote: Quote, side: OutcomeSide) -> Decimal | None:
    # Judged here and not by the exit rules, so that the report can convict them.
    bid, size = quote.best_bid(side), quote.bid_size(side)
    return bid if ZERO < bid < ONE and (size is None or size > ZERO) else None


def _simulate_one(
    market: Market, quotes: Sequence[Quote], side: OutcomeSide, rule: ExitRule, yes_settlement: Decimal | None
) -> Result | None:
    start = _entry(market, quotes, side)
    if start is None:
        return None
    entered, after = quotes[start], quotes[start + 1 :]
    entry = entered.best_bid(side)
    held = Position(market.ticker, side, ONE, entry, opened_at=entered.received_at)
    settlement = yes_settlement
    if settlement is not None and side is OutcomeSide.NO:
        settlement = ONE - settlement
    real = (_real_bid(each, side) for each in reversed(after))
    last_value = next((bid for bid in real if bid is not None), entry)
    return Result(
        ticker=market.ticker,
        side=side,
        entry=entry,
        entered_at=entered.received_at,
        last_value=last_value,
        settlement=settlement,
        rule=_run_rule(held, rule, market, after),
        naive=_run_naive(held, rule, market, after),
    )


def _entry(market: Market, quotes: Sequence[Quote], side: OutcomeSide) -> int | None:
    for index, quote in enumerate(quotes):
        price = price_to_act_on(quote, side, market, quote.received_at, floor=FLOOR)
        if isinstance(price, ExitValue) and ENTRY_LOW <= price.value <= ENTRY_HIGH:
            return index
    return None


def _run_rule(held: Position, rule: ExitRule, market: Market, quotes: Sequence[Quote]) -> Outcome:
    state = RuleState(last_value=held.entry_price)  # entered at the bid, so a fall from there is seen
    for index, quote in enumerate(quotes):
        until = quotes[index + 1].received_at if index + 1 < len(quotes) else math.inf
        # The daemon's sweep looks again at an unchanged quote while a guard delays; nothing else that
        # happens between two quotes matters here. The guards' patience bounds the looks.
        for sweep in range(rule.guard_patience_ms // int(SWEEP_S * 1000) + 2):
            now = quote.received_at + sweep * SWEEP_S
            if now >= until and sweep:
                break
            seen = evaluate(
                held,
                quote,
                market,
                rule,
                state,
                now_wall=now,
                now_monotonic=now,
                floor=FLOOR,
                price_age_s=now - quote.received_at,
            )
            state = seen.state
            if isinstance(seen.decision, Exit):
                leave = seen.decision
                level = leave.trigger_price
                return _outcome(held, market, quotes, index, now, leave.reason.value, leave.exit_value, level)
            if isinstance(seen.decision, Hold) and seen.decision.why is not HoldReason.GUARDED:
                break
    return Outcome()


def _run_naive(held: Position, rule: ExitRule, market: Market, quotes: Sequence[Quote]) -> Outcome:
    stop = stop_levels(held, rule, RuleState()).tightest_stop
    if stop is None:
        return Outcome()
    for index, quote in enumerate(quotes):
        bid = quote.best_bid(held.outcome_side)
        if bid <= stop.price:
            return _outcome(held, market, quotes, index, quote.received_at, "naive stop", bid, stop.price)
    return Outcome()


def _outcome(
    held: Position,
    market: Market,
    quotes: Sequence[Quote],
    index: int,
    at: float,
    reason: str,
    price: Decimal,
    level: Decimal | None,
) -> Outcome:
    came_back = False
    for later in quotes[index + 1 :]:
        if level is None or later.received_at > at + BACK_WITHIN_S:
            break
        bid = _real_bid(later, held.outcome_side)
        came_back = came_back or (bid is not None and bid > level)
    is_real = _real_bid(quotes[index], held.outcome_side) is not None
    is_late = market.close_time is not None and at >= market.close_time
    return Outcome(reason, at, price, is_late or not is_real, price <= ZERO, came_back)


def _parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run_bot.py replay", description="Run the exit rules over a recorded tape."
    )
    parser.add_argument("tape", help="a .jsonl or .jsonl.gz tape")
    parser.add_argument("--out", metavar="DIR", help="write tables (and plots, with matplotlib) here")
    parser.add_argument("--side", choices=["yes", "no", "both"], default="both", help="what is held")
    stop = parser.add_mutually_exclusive_group()
    stop.add_argument("--stop-dollars", type=_price_argument, help="stop this far under entry (default 0.10)")
    stop.add_argument("--stop-pct", type=_pct_argument, help="stop this share under entry, such as 25")
    parser.add_argument("--rules", metavar="FILE", help="a rules file; the stop above is its default")
    return parser.parse_args(argv)


def _price_argument(text: str) -> Decimal:
    if not re.fullmatch(r"0?\.[0-9]{1,6}", text, re.ASCII) or Decimal(text) <= ZERO:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount between 0 and 1, such as 0.10")
    return Decimal(text)


def _pct_argument(text: str) -> Decimal:
    if not re.fullmatch(r"[0-9]{1,2}(\.[0-9]{1,6})?", text, re.ASCII) or Decimal(text) <= ZERO:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage above 0 and below 100, such as 25")
    return Decimal(text)


def _rule_book(options: argparse.Namespace) -> RuleBook:
    if options.stop_pct is not None:
        defaults = ExitRule(stop_loss_pct=options.stop_pct)
    else:
        # One contract is held, so the loss of the whole position is the distance to the stop.
        defaults = ExitRule(stop_loss_dollars=options.stop_dollars or Decimal("0.10"))
    if not options.rules:
        return RuleBook.empty(defaults)
    try:
        text = Path(options.rules).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError([f"cannot read the rules file {options.rules}: {exc}"]) from exc
    return parse_rules(text, options.rules, defaults)


def _open_tape(path: Path) -> Tape:
    try:
        with rich.progress.open(
            path,
            "rb",
            description=f"reading {path.name}",
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            transient=True,
        ) as raw:
            return read_tape(_lines(path, raw))
    except (OSError, EOFError, zlib.error) as exc:
        raise WireError(f"cannot read {path}: {exc}") from exc
    except WireError as exc:
        raise WireError(f"cannot use {path}: {exc}") from exc


def _lines(path: Path, raw: BinaryIO) -> Iterable[bytes]:
    return gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw


def _print_report(tape: Tape, results: Sequence[Result], totals: Sequence[Totals]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 140)
    table = Table(title="Positions (values in cents a contract)")
    for heading in (
        "market",
        "side",
        "entry",
        "exit at (UTC)",
        "price",
        "reason",
        "settles",
        "value",
        "naive",
    ):
        table.add_column(heading, justify="right" if heading in _RIGHT else "left")
    for each in results:
        price = "" if each.rule.price is None else dollars_text(each.rule.price)
        settles = "?" if each.settlement is None else str(each.settlement)
        values = (_cents(each.value(each.rule)), _cents(each.value(each.naive)))
        when = _time_text(each.rule.at)
        row = (each.ticker, each.side.value, dollars_text(each.entry), when, price, each.rule.reason, settles)
        table.add_row(*row, *values)
    console.print(table)

    summary = Table(title=f"{len({each.ticker for each in results})} of {len(tape.quotes)} markets entered")
    for name in _TOTALS_COLUMNS:
        summary.add_column(name, justify="left" if name == "rule" else "right")
    for line in totals:
        summary.add_row(*_totals_row(line))
    console.print(summary)
    if tape.refused:
        console.print(f"{tape.refused} of {tape.lines} lines could not be proved right and were left out")


_RIGHT = frozenset({"entry", "price", "settles", "value", "naive"})
_TOTALS_COLUMNS = (
    "rule",
    "positions",
    "fired",
    "at a bid of 0",
    "winners sold at a close",
    "back within 60 s",
    "value a position, cents",
)


def _totals_row(line: Totals) -> tuple[str, ...]:
    numbers = (line.positions, line.fired, line.at_zero, line.winners_at_close, line.came_back)
    return (line.name, *(str(number) for number in numbers), f"{line.value_cents:+.2f}")


def _cents(dollars: Decimal) -> str:
    return f"{dollars * 100:+.2f}"


def _time_text(at: float | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _write_files(folder: Path, results: Sequence[Result], totals: Sequence[Totals]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    heading = ("market", "side", "entry", "entered_at", "exit_at", "exit_price", "reason", "settlement")
    with (folder / "positions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((*heading, "value_cents", "naive_exit_at", "naive_exit_price", "naive_value_cents"))
        for each in results:
            rule, naive = each.rule, each.naive
            entered = (each.ticker, each.side.value, each.entry, _time_text(each.entered_at))
            left = (_time_text(rule.at), rule.price, rule.reason, each.settlement, _cents(each.value(rule)))
            beside = (_time_text(naive.at), naive.price, _cents(each.value(naive)))
            writer.writerow((*entered, *left, *beside))
    with (folder / "totals.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_TOTALS_COLUMNS)
        writer.writerows(_totals_row(line) for line in totals)
    if importlib.util.find_spec("matplotlib") is not None:
        _plot(folder / "value.png", results)


def _plot(path: Path, results: Sequence[Result]) -> None:
    figures: Any = importlib.import_module("matplotlib.figure")
    figure = figures.Figure(figsize=(9, 5))  # no window system, no global state
    axes = figure.add_subplot()
    for name in ("rule", "naive"):
        running = [ZERO]
        for each in results:
            running.append(running[-1] + each.value(each.naive if name == "naive" else each.rule))
        axes.plot([float(value) for value in running], label=name)
    axes.set_xlabel("positions, in the order of the tape")
    axes.set_ylabel("dollars, one contract each")
    axes.legend()
    figure.savefig(path)
