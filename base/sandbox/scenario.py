"""Scenarios: which markets there are, how their quotes move, what the account holds. Format in README.md."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path

from base.errors import ConfigError
from base.model.market import OutcomeSide
from base.sandbox.fixed_point import ONE, ZERO
from base.sandbox.market import GRIDS, event_of
from base.sandbox.rate_limit import TIERS

BALANCE = Decimal("10000")
CHEAP_BY = Decimal("0.10")
CLOSE_AFTER_S = 6 * 3600.0
FLEET_COUNT_MAX = 5_000


class QuoteMode(StrEnum):
    """How the simulated participants quote a market."""

    QUIET = "quiet"
    """The quote stands still until somebody changes it."""
    TICKING = "ticking"
    """The quote changes at least once a second and stays within a cent of where it began."""
    WALK = "walk"
    """A bounded random walk with spreads, wicks, trades and quiet spells as recorded markets have them."""
    SCRIPT = "script"
    """The quotes of a list of times, then the last one stands."""


@dataclass(frozen=True, slots=True)
class ScriptStep:
    at_s: float
    bid: Decimal
    ask: Decimal


@dataclass(frozen=True, slots=True)
class HeldPosition:
    side: OutcomeSide
    count: Decimal
    entry: Decimal


@dataclass(frozen=True, slots=True)
class MarketPlan:
    """One market of a scenario. A bid of 0 or an ask of 1 (or 0) leaves that side of the book empty."""

    ticker: str
    bid: Decimal
    ask: Decimal
    event: str = ""
    title: str = ""
    size: Decimal = Decimal(100)
    grid: str = "linear_cent"
    mode: QuoteMode = QuoteMode.QUIET
    script: tuple[ScriptStep, ...] = ()
    close_after_s: float = CLOSE_AFTER_S
    result: OutcomeSide | None = None
    position: HeldPosition | None = None
    exchange_index: int = 0
    is_exclusive: bool = False
    """At most one market of its event ends YES."""

    @property
    def event_ticker(self) -> str:
        return self.event or event_of(self.ticker)


@dataclass(frozen=True, slots=True)
class EventPlan:
    """A mutually exclusive event. Every `cheap_every_s` seconds (0: never) its participants quote a set of
    `cheap_side` for `cheap_for_s` seconds at `cheap_by` dollars less than it pays, without fees."""

    ticker: str
    cheap_by: Decimal = CHEAP_BY
    cheap_side: OutcomeSide = OutcomeSide.NO
    cheap_every_s: float = 0.0
    cheap_for_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Scenario:
    markets: tuple[MarketPlan, ...]
    balance: Decimal = BALANCE
    tier: str = "basic"
    """The account's rate limits."""
    events: tuple[EventPlan, ...] = ()
    """Those that are mutually exclusive."""


def load_scenario(path: Path) -> Scenario:
    """Read a scenario file. Raises ConfigError with every problem in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError([f"scenario {path}: cannot be read ({exc}); name a readable TOML file"]) from exc
    return parse_scenario(text, str(path))


def parse_scenario(text: str, name: str = "scenario") -> Scenario:
    """Check a scenario's text. Raises ConfigError with every problem in it."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError([f"{name}: not TOML: {exc}"]) from exc
    reader = _Reader(name)
    reader.check_keys(document, {"balance", "tier", "market", "fleet", "event"}, "the top level")
    balance = reader.decimal(document, "balance", "the top level", BALANCE)
    tier = reader.choice(document, "tier", "the top level", list(TIERS), "basic")
    markets: list[MarketPlan] = []
    for number, table in enumerate(reader.tables(document, "market"), start=1):
        plan = _market(reader, table, f"market {number}")
        if plan is not None:
            markets.append(plan)
    for number, table in enumerate(reader.tables(document, "fleet"), start=1):
        markets.extend(_fleet(reader, table, f"fleet {number}", number))
    seen: set[str] = set()
    for plan in markets:
        if plan.ticker in seen:
            reader.fail(f"{plan.ticker}: named twice; every market needs its own ticker")
        seen.add(plan.ticker)
    events: list[EventPlan] = []
    for number, table in enumerate(reader.tables(document, "event"), start=1):
        plan_of_event = _event(reader, table, f"event {number}", markets)
        if plan_of_event is not None:
            events.append(plan_of_event)
    if len({event.ticker for event in events}) < len(events):
        reader.fail("an event is named twice; every event needs one table")
    if reader.problems:
        raise ConfigError(reader.problems)
    return Scenario(tuple(markets), balance, tier, tuple(events))


_MARKET_KEYS = {
    "ticker", "event", "title", "bid", "ask", "size", "grid", "mode", "script", "close_after_s", "result",
    "position", "exchange_index",
}  # fmt: skip
_EVENT_KEYS = {"ticker", "result", "cheap_by", "cheap_side", "cheap_every_s", "cheap_for_s"}
_FLEET_KEYS = {"count", "mode", "side", "prefix", "size", "position_count", "close_after_s"}


class _Reader:
    """Collects problems instead of stopping at the first."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[str] = []

    def fail(self, problem: str) -> None:
        self.problems.append(f"{self.name}: {problem}")

    def check_keys(self, table: Mapping[str, object], known: set[str], where: str) -> None:
        for key in sorted(set(table) - known):
            self.fail(f"{where}: unknown key {key!r}; known are {', '.join(sorted(known))}")

    def tables(self, table: Mapping[str, object], key: str) -> list[dict[str, object]]:
        value = table.get(key, [])
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            return value
        self.fail(f"{key} must be written as [[{key}]] tables")
        return []

    def decimal(self, table: Mapping[str, object], key: str, where: str, default: Decimal) -> Decimal:
        value = table.get(key)
        if value is None:
            return default
        number = _decimal(value)
        if number is None or number < 0:
            self.fail(f'{where}: {key} must be a number of dollars or contracts as a string, like "0.45"')
            return default
        return number

    def price(self, table: Mapping[str, object], key: str, where: str, default: Decimal) -> Decimal:
        number = self.decimal(table, key, where, default)
        if number > ONE:
            self.fail(f"{where}: {key} must lie between 0 and 1 dollar")
            return default
        return number

    def seconds(self, table: Mapping[str, object], key: str, where: str, default: float) -> float:
        value = table.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            self.fail(f"{where}: {key} must be a number of seconds")
            return default
        return float(value)

    def integer(self, table: Mapping[str, object], key: str, where: str, default: int, top: int) -> int:
        value = table.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= top:
            self.fail(f"{where}: {key} must be a whole number from 0 to {top}")
            return default
        return value

    def text(self, table: Mapping[str, object], key: str, where: str, default: str = "") -> str:
        value = table.get(key, default)
        if not isinstance(value, str):
            self.fail(f"{where}: {key} must be a string")
            return default
        return value

    def choice(
        self, table: Mapping[str, object], key: str, where: str, known: list[str], default: str
    ) -> str:
        value = table.get(key, default)
        if value not in known:
            self.fail(f"{where}: {key} must be one of {', '.join(known)}")
            return default
        return str(value)


def _decimal(value: object) -> Decimal | None:
    """A number from a string or an integer; a float would not be exact."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _market(reader: _Reader, table: Mapping[str, object], where: str) -> MarketPlan | None:
    reader.check_keys(table, _MARKET_KEYS, where)
    ticker = reader.text(table, "ticker", where)
    if not ticker:
        reader.fail(f"{where}: needs a ticker")
        return None
    where = f"{where} ({ticker})"
    script = _script(reader, table.get("script", []), where)
    default_mode = QuoteMode.SCRIPT if script else QuoteMode.QUIET
    mode = QuoteMode(reader.choice(table, "mode", where, [m.value for m in QuoteMode], default_mode.value))
    if mode is QuoteMode.SCRIPT and not script:
        reader.fail(f"{where}: mode script needs script = [[at_s, bid, ask], …]")
    first = script[0] if script else ScriptStep(0.0, Decimal("0.50"), Decimal("0.52"))
    bid = reader.price(table, "bid", where, first.bid)
    ask = reader.price(table, "ask", where, first.ask)
    if ZERO < ask <= bid:
        reader.fail(f"{where}: the ask must be above the bid")
    result = reader.choice(table, "result", where, ["", "yes", "no"], "")
    return MarketPlan(
        ticker=ticker,
        bid=bid,
        ask=ask,
        event=reader.text(table, "event", where),
        title=reader.text(table, "title", where),
        size=reader.decimal(table, "size", where, Decimal(100)),
        grid=reader.choice(table, "grid", where, list(GRIDS), "linear_cent"),
        mode=mode,
        script=script,
        close_after_s=reader.seconds(table, "close_after_s", where, CLOSE_AFTER_S),
        result=OutcomeSide(result) if result else None,
        position=_position(reader, table.get("position"), where),
        exchange_index=reader.integer(table, "exchange_index", where, 0, 63),
    )


def _script(reader: _Reader, value: object, where: str) -> tuple[ScriptStep, ...]:
    steps: list[ScriptStep] = []
    for row in value if isinstance(value, list) else [value]:
        parts = row if isinstance(row, list) and len(row) == 3 else [None, None, None]
        at_s, bid, ask = parts[0], _decimal(parts[1]), _decimal(parts[2])
        is_time = isinstance(at_s, int | float) and not isinstance(at_s, bool)
        if not is_time or bid is None or ask is None or not (ZERO <= bid <= ONE and ZERO <= ask <= ONE):
            reader.fail(f'{where}: each script row must be [at_s, "bid", "ask"], not {row!r}')
            continue
        assert isinstance(at_s, int | float)
        if steps and at_s < steps[-1].at_s:
            reader.fail(f"{where}: script times must not step back ({at_s} after {steps[-1].at_s})")
        if ZERO < ask <= bid:
            reader.fail(f"{where}: the ask must be above the bid in {row!r}")
        steps.append(ScriptStep(float(at_s), bid, ask))
    return tuple(steps)


def _position(reader: _Reader, value: object, where: str) -> HeldPosition | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        reader.fail(f'{where}: position must be {{side = "yes", count = "10", entry = "0.50"}}')
        return None
    where = f"{where}: position"
    reader.check_keys(value, {"side", "count", "entry"}, where)
    side = OutcomeSide(reader.choice(value, "side", where, ["yes", "no"], "yes"))
    count = reader.decimal(value, "count", where, Decimal(10))
    entry = reader.price(value, "entry", where, Decimal("0.50"))
    if count <= 0 or not ZERO < entry < ONE:
        reader.fail(f"{where}: needs a count above 0 and an entry between 0 and 1")
        return None
    return HeldPosition(side, count, entry)


def _event(
    reader: _Reader, table: Mapping[str, object], where: str, markets: list[MarketPlan]
) -> EventPlan | None:
    """One mutually exclusive event; marks its markets in `markets` and decides them where it says so."""
    reader.check_keys(table, _EVENT_KEYS, where)
    ticker = reader.text(table, "ticker", where)
    where = f"{where} ({ticker})"
    own = [i for i, plan in enumerate(markets) if plan.event_ticker == ticker]
    if len(own) < 2:
        reader.fail(f"{where}: needs at least two markets of that event")
        return None
    names = [markets[i].ticker for i in own]
    winner = reader.choice(table, "result", where, ["", "none", *names], "")
    winners = {m for m in (winner,) if m in names}
    winners |= {markets[i].ticker for i in own if markets[i].result is OutcomeSide.YES}
    if len(winners) > 1 or (winners and winner == "none"):
        reader.fail(f"{where}: at most one of its markets can end yes")
    for i in own:
        result = markets[i].result
        if winners or winner == "none":
            result = OutcomeSide.YES if markets[i].ticker in winners else OutcomeSide.NO
        markets[i] = replace(markets[i], is_exclusive=True, result=result)
    cheap_by = reader.price(table, "cheap_by", where, CHEAP_BY)
    return EventPlan(
        ticker,
        cheap_by,
        OutcomeSide(reader.choice(table, "cheap_side", where, ["yes", "no"], "no")),
        reader.seconds(table, "cheap_every_s", where, 0.0),
        reader.seconds(table, "cheap_for_s", where, 5.0),
    )


def _fleet(reader: _Reader, table: Mapping[str, object], where: str, number: int) -> list[MarketPlan]:
    """Many markets, each with a position whose entry is the bid of its side at the start."""
    reader.check_keys(table, _FLEET_KEYS, where)
    count = reader.integer(table, "count", where, 100, FLEET_COUNT_MAX)
    mode = QuoteMode(reader.choice(table, "mode", where, ["ticking", "quiet", "walk"], "ticking"))
    side = reader.choice(table, "side", where, ["yes", "no", "mixed"], "yes")
    prefix = reader.text(table, "prefix", where, f"KXFLEET{number}")
    size = reader.decimal(table, "size", where, Decimal(100))
    held = reader.decimal(table, "position_count", where, Decimal(10))
    close_after_s = reader.seconds(table, "close_after_s", where, CLOSE_AFTER_S)
    plans = []
    for index in range(count):
        bid = Decimal(40 + index % 21) / 100
        ask = bid + Decimal("0.02")
        is_yes = side == "yes" or (side == "mixed" and index % 2 == 0)
        entry = bid if is_yes else ONE - ask
        outcome = OutcomeSide.YES if is_yes else OutcomeSide.NO
        plans.append(
            MarketPlan(
                ticker=f"{prefix}-{index:04d}-T{index % 7}",
                bid=bid,
                ask=ask,
                title=f"Fleet market {index}",
                size=size,
                mode=mode,
                close_after_s=close_after_s,
                position=HeldPosition(outcome, held, entry) if held else None,
            )
        )
    return plans


DEFAULT_SCENARIO = """
balance = "10000.00"

[[market]]   # held YES: falls through a 25 % stop (0.45) about 17 s after the start
ticker = "KXHIGHNY-SANDBOX-B54.5"
title = "Will the high temperature in New York be 54° to 55°?"
position = { side = "yes", count = "20", entry = "0.60" }
script = [[0, "0.61", "0.62"], [5, "0.60", "0.61"], [8, "0.57", "0.58"], [11, "0.53", "0.55"],
          [14, "0.48", "0.50"], [17, "0.44", "0.46"], [19, "0.41", "0.43"], [25, "0.38", "0.40"]]

[[market]]   # held NO: the mirror image at about 30 s (NO 0.55, stop 0.4125)
ticker = "KXBTC-SANDBOX-T104999.99"
title = "Will Bitcoin be above $105,000 today at 5 PM?"
exchange_index = 2
grid = "tapered_deci_cent"
position = { side = "no", count = "15", entry = "0.55" }
script = [[0, "0.43", "0.44"], [15, "0.45", "0.46"], [20, "0.48", "0.49"], [25, "0.53", "0.54"],
          [30, "0.58", "0.59"], [33, "0.61", "0.62"], [40, "0.63", "0.64"]]

[[market]]
ticker = "KXHIGHNY-SANDBOX-B56.5"
title = "Will the high temperature in New York be 56° to 57°?"
bid = "0.58"
ask = "0.60"
mode = "walk"
position = { side = "yes", count = "10", entry = "0.52" }

[[market]]
ticker = "KXFED-SANDBOX-T3.75"
title = "Will the Fed's upper rate be above 3.75% after its next meeting?"
bid = "0.34"
ask = "0.35"
mode = "walk"
size = "400"
position = { side = "no", count = "12.5", entry = "0.57" }

[[market]]
ticker = "KXMLBGAME-SANDBOX-NYY"
title = "Will the New York Yankees beat the Boston Red Sox?"
bid = "0.66"
ask = "0.67"
mode = "ticking"
size = "250"
exchange_index = 3
position = { side = "yes", count = "25", entry = "0.64" }

[[market]]   # closes and settles after three minutes
ticker = "KXBTC15M-SANDBOX-15"
title = "Will Bitcoin go up in the next 15 minutes?"
bid = "0.86"
ask = "0.87"
mode = "walk"
grid = "tapered_deci_cent"
exchange_index = 2
close_after_s = 180
result = "yes"
position = { side = "yes", count = "8", entry = "0.72" }

[[market]]
ticker = "KXINX-SANDBOX-B7012"
title = "Will the S&P 500 close between 7,000 and 7,025?"
bid = "0.22"
ask = "0.25"
mode = "walk"

[[market]]
ticker = "KXGDP-SANDBOX-T2.5"
title = "Will GDP grow by more than 2.5% this quarter?"
bid = "0.47"
ask = "0.51"

[[event]]    # at most one of its markets ends yes; every half minute NO of all of them is sold too cheaply
ticker = "KXNOBELPEACE-SANDBOX"
cheap_by = "0.12"
cheap_every_s = 30
cheap_for_s = 10

[[market]]
ticker = "KXNOBELPEACE-SANDBOX-A"
title = "Who will win the Nobel Peace Prize?"
bid = "0.44"
ask = "0.46"

[[market]]
ticker = "KXNOBELPEACE-SANDBOX-B"
title = "Who will win the Nobel Peace Prize?"
bid = "0.30"
ask = "0.32"
size = "60"

[[market]]
ticker = "KXNOBELPEACE-SANDBOX-C"
title = "Who will win the Nobel Peace Prize?"
bid = "0.19"
ask = "0.21"
size = "40"
"""


def default_scenario() -> Scenario:
    return parse_scenario(DEFAULT_SCENARIO, "the default scenario")
