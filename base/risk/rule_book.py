"""Which rule holds for which market: the RULES_FILE and the defaults. Pure: text in, rules out.

A mistyped stop must not be silently ignored, so everything that is not certainly right is an error with
its file and line, and all errors of a file are told at once.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from enum import IntEnum
from fnmatch import fnmatchcase
from typing import Any

from base.errors import ConfigError
from base.model.position import Position
from base.model.rules import ExitRule, RuleState
from base.risk.levels import can_ever_exit, stop_levels
from base.risk.rule_values import READERS, BadValueError
from base.risk.wording import dollars_text, number_text, seconds_text

EXCLUSIVE_FIELDS: tuple[tuple[str, ...], ...] = (
    ("stop_loss_price", "stop_loss_pct", "stop_loss_dollars"),
    ("take_profit_price", "take_profit_pct"),
    ("trailing_stop_pct", "trailing_stop_price"),
    ("trailing_activation_pct", "trailing_activation_price"),
    ("break_even_after_pct", "break_even_after_price"),
)
"""Kinds of one thing: a table names at most one of a row, and naming one replaces the others."""


class Specificity(IntEnum):
    """How closely a match names a market; a higher one wins. Among globs the longer wins."""

    SERIES = 1
    GLOB = 2
    EXACT = 3


@dataclass(frozen=True, slots=True)
class RuleEntry:
    """One `[[rule]]` table: what it matches and the fields it names, as values of `ExitRule`."""

    match: str
    specificity: Specificity
    named: Mapping[str, Any]
    source: str
    """File and line, for people."""

    def matches(self, ticker: str) -> bool:
        if self.specificity is Specificity.SERIES:
            return ticker.partition("-")[0] == self.match.removeprefix(_SERIES)
        if self.specificity is Specificity.GLOB:
            return fnmatchcase(ticker, self.match)
        return ticker == self.match


@dataclass(frozen=True, slots=True)
class RuleBook:
    """The rules in force. `entries` are sorted from the least to the most specific."""

    defaults: ExitRule
    entries: tuple[RuleEntry, ...] = ()

    @classmethod
    def empty(cls, defaults: ExitRule) -> RuleBook:
        """A book without a rules file: the defaults hold everywhere."""
        return cls(defaults)

    def rule_for(self, ticker: str) -> ExitRule:
        """The rule of one market: each field from the most specific table that names it."""
        rule = self.defaults
        for entry in self.entries:
            if entry.matches(ticker):
                rule = replace(rule, **_with_rivals_off(entry.named))
        return rule

    def describe(self, ticker: str) -> str:
        """Every field in force for one market with the table it comes from, one line each."""
        source = {
            field.name: "the defaults"
            for field in fields(ExitRule)
            if field.name in READERS and getattr(self.defaults, field.name) is not None
        }
        for entry in self.entries:
            if entry.matches(ticker):
                changes = _with_rivals_off(entry.named)
                source |= dict.fromkeys(changes, f"{entry.match}, {entry.source}")
        rule = self.rule_for(ticker)
        return "\n".join(
            f"{name} = {_value_text(getattr(rule, name))} (from {source[name]})"
            for name in (field.name for field in fields(ExitRule) if field.name in READERS)
            if getattr(rule, name) is not None
        )


def parse_rules(text: str, filename: str, defaults: ExitRule) -> RuleBook:
    """Read a rules file. Raises ConfigError with every problem as `file:line: what to do`."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        line = re.search(r"at line ([0-9]+)", str(exc))
        where = f"{filename}:{line[1] if line else len(text.splitlines())}"
        raise ConfigError([f"{where}: not valid TOML: {exc}"]) from exc

    lines = _Lines(text, filename)
    problems = [
        f"{lines.of_key(key)}: unknown key {key!r} outside a table; write rules as [[rule]]"
        for key in document
        if key != "rule"
    ]
    tables = document.get("rule", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError([*problems, f"{lines.of_key('rule')}: write each rule as a [[rule]] table"])

    entries: list[RuleEntry] = []
    for index, table in enumerate(tables):
        entry, found = _read_table(table, index, lines)
        problems += found
        if entry is not None:
            entries.append(entry)
    problems += _equal_matches(entries)
    problems += _idle_activations(entries, defaults)
    if problems:
        raise ConfigError(problems)
    return RuleBook(defaults, tuple(sorted(entries, key=lambda e: (e.specificity, len(e.match)))))


def describe_rule(rule: ExitRule, position: Position) -> str:
    """What `rule` means for this position, in one line."""
    if not rule.protect:
        return "watched only: protect = false"
    if rule.hedged:
        return "part of a set that cannot lose: left by no rule while all of it is held"
    levels = stop_levels(position, rule, RuleState())
    parts = [f"stop {dollars_text(stop.price)} ({stop.basis})" for stop in levels.stops]
    if levels.take_profit is not None:
        parts.append(f"take-profit {dollars_text(levels.take_profit.price)} ({levels.take_profit.basis})")
    gain = _gain(rule.trailing_activation_pct, rule.trailing_activation_price)
    start = f" after {gain}" if gain else ""
    if rule.trailing_stop_pct is not None:
        parts.append(f"trailing {_pct(rule.trailing_stop_pct)} under the best bid{start}")
    if rule.trailing_stop_price is not None:
        parts.append(f"trailing {dollars_text(rule.trailing_stop_price)} under the best bid{start}")
    if gain := _gain(rule.break_even_after_pct, rule.break_even_after_price):
        parts.append(f"break-even stop after {gain}")
    for seconds, words in (
        (rule.exit_before_close_s, "before the close"),
        (rule.exit_after_entry_s, "after entry"),
    ):
        if seconds is not None:
            parts.append(f"leaves {seconds_text(seconds)} {words}")
    if rule.no_stop_before_close_s is not None:
        parts.append(f"no stop in the last {seconds_text(rule.no_stop_before_close_s)}")
    if rule.exit_with_event:
        parts.append("leaves when another position of its event is left")
    if rule.hold_below_price is not None:
        parts.append(f"not sold below {dollars_text(rule.hold_below_price)}")
    if not can_ever_exit(position, rule):
        parts.insert(0, "NO PROTECTION, no level can be reached")
    return "; ".join(parts)


_TRAILING = {"trailing_stop_pct", "trailing_stop_price"}
_ACTIVATIONS = {"trailing_activation_pct", "trailing_activation_price"}
_SERIES = "series:"
_TICKER = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_SERIES_TICKER = re.compile(r"series:[A-Za-z0-9._]{1,64}", re.ASCII)
_GLOB = re.compile(r"[A-Za-z0-9._*?-]{1,128}", re.ASCII)
_HEADER = re.compile(r"\s*\[\[\s*[\"']?rule[\"']?\s*\]\]")
_KEY = re.compile(r"\s*[\"']?([A-Za-z0-9_-]+)[\"']?\s*[.=]")


class _Lines:
    """Where things stand in the text: tomllib tells no lines, so the text is scanned for them."""

    def __init__(self, text: str, filename: str) -> None:
        self._filename = filename
        self._headers: list[int] = []
        self._keys: dict[tuple[int, str], int] = {}  # (table, -1 before the first; key) -> line
        for number, line in enumerate(text.splitlines(), start=1):
            if _HEADER.match(line):
                self._headers.append(number)
            elif key := _KEY.match(line):
                self._keys.setdefault((len(self._headers) - 1, key[1]), number)
            elif top := re.match(r"\s*\[+\s*[\"']?([A-Za-z0-9_-]+)", line):
                self._keys.setdefault((-1, top[1]), number)

    def of_table(self, index: int) -> str:
        """`file:line` of a table's header, of the file's start for tables written inline."""
        return f"{self._filename}:{self._headers[index] if index < len(self._headers) else 1}"

    def of_key(self, key: str, index: int = -1) -> str:
        line = self._keys.get((index, key))
        return f"{self._filename}:{line}" if line else self.of_table(max(index, 0))


def _read_table(table: dict[str, Any], index: int, lines: _Lines) -> tuple[RuleEntry | None, list[str]]:
    problems: list[str] = []
    named: dict[str, Any] = {}
    for key, value in table.items():
        if key == "match":
            continue
        reader = READERS.get(key)
        if reader is None:
            nearest = difflib.get_close_matches(key, [*READERS, "match"], n=1, cutoff=0.0)[0]
            problems.append(f"{lines.of_key(key, index)}: unknown key {key!r}; did you mean {nearest!r}?")
            continue
        try:
            named[key] = reader(value)
        except BadValueError as exc:
            problems.append(f"{lines.of_key(key, index)}: {key}: {exc}")
    problems += _contradictions(named, index, lines)

    match = table.get("match")
    specificity = _specificity(match)
    if match is None:
        problems.append(f'{lines.of_table(index)}: a rule without match; add match = "TICKER"')
    elif specificity is None:
        problems.append(
            f"{lines.of_key('match', index)}: match: {match!r} is no ticker, glob with * or ?, "
            'or "series:NAME"; write one of these as a string'
        )
    if not isinstance(match, str) or specificity is None:
        return None, problems
    return RuleEntry(match, specificity, named, lines.of_key("match", index)), problems


def _specificity(match: object) -> Specificity | None:
    if not isinstance(match, str):
        return None
    for pattern, specificity in (
        (_SERIES_TICKER, Specificity.SERIES),
        (_TICKER, Specificity.EXACT),
        (_GLOB, Specificity.GLOB),
    ):
        if pattern.fullmatch(match):
            return specificity
    return None


def _contradictions(named: Mapping[str, Any], index: int, lines: _Lines) -> Iterable[str]:
    for rivals in EXCLUSIVE_FIELDS:
        present = [name for name in named if name in rivals]
        if len(present) > 1:
            yield f"{lines.of_key(present[1], index)}: {' and '.join(present)} in one rule; keep one of them"
    stop, profit = named.get("stop_loss_price"), named.get("take_profit_price")
    if stop is not None and profit is not None and stop >= profit:
        yield f"{lines.of_key('stop_loss_price', index)}: stop_loss_price must be below take_profit_price"
    lowest = named.get("hold_below_price")
    if stop is not None and lowest is not None and lowest > stop:
        yield (
            f"{lines.of_key('hold_below_price', index)}: hold_below_price {lowest} above stop_loss_price "
            f"{stop} would hold every stop; lower it"
        )
    if profit is not None and lowest is not None and lowest > profit:
        yield (
            f"{lines.of_key('hold_below_price', index)}: hold_below_price {lowest} above take_profit_price "
            f"{profit} would hold a profit; lower it"
        )
    patience_ms = named.get("guard_patience_ms")
    for wait in ("confirm_ms", "wick_wait_ms"):
        if patience_ms is not None and named.get(wait, 0) > patience_ms:
            yield (
                f"{lines.of_key(wait, index)}: {wait} {named[wait]} above guard_patience_ms {patience_ms} "
                "would be cut off there; raise guard_patience_ms, or lower it"
            )


def _idle_activations(entries: list[RuleEntry], defaults: ExitRule) -> Iterable[str]:
    """Where a trailing stop is to start that no table which can meet this one, and no default, names."""
    if any(getattr(defaults, kind) is not None for kind in _TRAILING):
        return
    for entry in entries:
        activation = next((name for name in entry.named if name in _ACTIVATIONS), None)
        if activation is None or any(
            _TRAILING & other.named.keys() and _can_overlap(_as_glob(other), _as_glob(entry))
            for other in entries
        ):
            continue
        yield (
            f"{entry.source}: {activation} without a trailing stop; "
            "add trailing_stop_pct or trailing_stop_price, or take it out"
        )


def _as_glob(entry: RuleEntry) -> str:
    is_series = entry.specificity is Specificity.SERIES
    return f"{entry.match.removeprefix(_SERIES)}-*" if is_series else entry.match


def _equal_matches(entries: list[RuleEntry]) -> Iterable[str]:
    for index, entry in enumerate(entries):
        for earlier in entries[:index]:
            if entry.match == earlier.match:
                yield f"{entry.source}: match {entry.match!r} is in {earlier.source} already; join the two"
            elif (
                entry.specificity is earlier.specificity is Specificity.GLOB
                and len(entry.match) == len(earlier.match)
                and _can_overlap(entry.match, earlier.match)
            ):
                yield (
                    f"{entry.source}: match {entry.match!r} and {earlier.match!r} ({earlier.source}) are "
                    "equally long and one market can fit both; make one of them longer"
                )


def _can_overlap(one: str, other: str) -> bool:
    """Whether some ticker fits both globs (`*` any run, `?` any one character)."""
    # reach[j]: the part of `one` read so far can meet the first j characters of `other`.
    reach = [True] + [False] * len(other)
    for j, b in enumerate(other):
        reach[j + 1] = reach[j] and b == "*"
    for a in one:
        row = [reach[0] and a == "*"]
        for j, b in enumerate(other):
            if a == "*" or b == "*":
                row.append(reach[j + 1] or row[j])
            else:
                row.append(reach[j] and (a == b or "?" in (a, b)))
        reach = row
    return reach[-1]


def _with_rivals_off(named: Mapping[str, Any]) -> dict[str, Any]:
    # A kind of stop named closer to the market replaces the other kinds named further away.
    off = {
        rival: None
        for rivals in EXCLUSIVE_FIELDS
        if any(name in named for name in rivals)
        for rival in rivals
    }
    return {**off, **named}


def _value_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return seconds_text(value)
    return number_text(value) if isinstance(value, Decimal) else str(value)


def _pct(value: Decimal) -> str:
    return f"{number_text(value)} %"


def _gain(pct: Decimal | None, dollars: Decimal | None) -> str:
    if pct is not None:
        return f"+{_pct(pct)}"
    return f"+{dollars_text(dollars)} dollars" if dollars is not None else ""
