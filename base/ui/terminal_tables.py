"""The lists of the status document: a table where it fits, and a paragraph a row where it does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from base.ui.document import awaits_settlement, rows, section
from base.ui.phrases import plain, words
from base.ui.timeline import seconds_between, span_text

GOOD, BAD, WARN, QUIET = "bold green", "bold red", "bold yellow", "dim"
NOT_COUNTED = ("by_choice", "hedged")
"""Reasons of positions that no rule leaves on purpose: shown, neither counted nor alarming."""
CLOSED_EXITS_SHOWN = 10
INDENT = "  "
ANY_WIDTH = 10_000
"""Columns enough for every row."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Rows of cells. The first cell names its row; `right` are the headings of numbers."""

    title: str
    headings: tuple[str, ...]
    right: frozenset[str]
    rows: list[tuple[Text, ...]]
    beside_name: str = ""
    """The heading of what a paragraph tells first."""

    def fit(self, console: Console) -> RenderableType:
        """A table when no cell would have to be folded: half a ticker or price is another one."""
        table = self._table()
        wide = console.options.update(width=ANY_WIDTH)
        if console.measure(table, options=wide).maximum <= console.width:
            return table
        return Group(text(self.title, "bold"), *self._paragraphs(console.width))

    def _table(self) -> Table:
        table = Table(title=text(self.title, "bold"), title_justify="left", box=None, pad_edge=False)
        for heading in self.headings:
            justify = "right" if heading in self.right else "left"
            table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        for row in self.rows:
            table.add_row(*row)
        return table

    def _paragraphs(self, width: int) -> Iterator[Text]:
        for name, *cells in self.rows:
            by_heading = dict(zip(self.headings[1:], cells, strict=True))
            first = by_heading.pop(self.beside_name, None)
            yield from flow([name] if first is None else [name, first], width, gap=INDENT)
            parts = [Text.assemble((f"{_label(heading)} ", QUIET), c) for heading, c in by_heading.items()]
            yield from flow(parts, width, gap=INDENT, first_indent=INDENT)


def _label(heading: str) -> str:
    return heading if heading.startswith("P&L") else heading.lower()


def flow(parts: Sequence[Text], width: int, *, gap: str = ", ", first_indent: str = "") -> Iterator[Text]:
    """Lines of whole parts: a line is broken between two of them, never inside one that fits."""
    line = Text(first_indent)
    is_empty = True
    for part in parts:
        if not is_empty and line.cell_len + len(gap) + part.cell_len + len(gap.rstrip()) > width:
            line.append(gap.rstrip())
            yield line
            line, is_empty = Text(INDENT), True
        if not is_empty:
            line.append(gap)
        line.append_text(part)
        is_empty = False
    yield line


def text(content: str, style: str = "") -> Text:
    """Everything printed is a Text: rich reads markup and emoji codes only in plain strings."""
    return Text(content, style=style)


def is_on_purpose(entry: Any) -> bool:
    return isinstance(entry, Mapping) and entry.get("reason") in NOT_COUNTED


def positions_listing(document: Mapping[str, Any]) -> Listing:
    """What is held, what sells it, and whether that works now."""
    found = []
    for row in rows(document.get("positions")):
        fields = ("outcome_side", "count", "entry_price", "exit_value")
        levels = ("stop_price", "take_profit_price", "unrealized_pnl")
        found.append(
            (
                text(plain(row.get("ticker")), "bold"),
                *(text(plain(row.get(field))) for field in fields),
                text(span_text(row.get("price_age_s"))),
                *(text(plain(row.get(field))) for field in levels),
                _source(row),
                _protection(row),
            )
        )
    numbers = ("Count", "Entry", "Exit value", "Age", "Stop", "Take-profit", "P&L")
    headings = ("Market", "Side", *numbers, "Source", "Protection")
    return Listing("Positions", headings, frozenset(numbers), found, beside_name="Protection")


def _source(row: Mapping[str, Any]) -> Text:
    source, market_status = plain(row.get("price_source")), row.get("market_status")
    if market_status == "active" or awaits_settlement(row):
        return text(source)
    return text(f"{source}, market {plain(market_status)}", WARN)


def _protection(row: Mapping[str, Any]) -> Text:
    if row.get("protected") is True:
        return text("protected", GOOD)
    if is_on_purpose(row):
        return text(f"none, {words(row.get('reason'))}", QUIET)
    if awaits_settlement(row):
        return text("awaits settlement", QUIET)
    return text(f"NOT PROTECTED: {words(row.get('reason'))}", BAD)


def strategies_listing(by_strategy: Mapping[str, Any]) -> Listing:
    """The money of the day, strategy by strategy."""
    fields = ("realized_today", "unrealized", "fees_today")
    found = [
        (
            text(plain(name, missing="(opened elsewhere)")),
            *(text(plain(section(by_strategy, name).get(field))) for field in fields),
        )
        for name in sorted(by_strategy)
    ]
    numbers = ("Realized today", "Unrealized", "Fees today")
    return Listing("P&L in dollars", ("Strategy", *numbers), frozenset(numbers), found)


def orders_listing(document: Mapping[str, Any]) -> Listing:
    """Orders of strategies that may still fill."""
    found = []
    for row in rows(document.get("orders")):
        state = plain(row.get("state"))
        why = f": {words(row['why'])}" if row.get("why") else ""
        left = seconds_between(document.get("at"), row.get("expires_at"))
        expires = "when canceled" if row.get("expires_at") is None else f"in {span_text(left)}"
        found.append(
            (
                text(plain(row.get("ticker")), "bold"),
                *(text(plain(row.get(field))) for field in ("outcome_side", "count", "filled", "price")),
                text(state.replace("_", " ") + why, BAD if state == "unknown" else ""),
                text(expires),
                text(plain(row.get("strategy"))),
            )
        )
    headings = ("Market", "Side", "Count", "Filled", "Price", "State", "Ends", "Strategy")
    return Listing(
        "Orders that may still fill", headings, frozenset(("Count", "Filled", "Price")), found, "State"
    )


def exits_listing(document: Mapping[str, Any]) -> Listing:
    """Every exit that goes on, then the last that are over, the newest first."""
    newest = list(reversed(rows(document.get("exits"))))
    under_way = [row for row in newest if row.get("state") != "closed"]
    closed = [row for row in newest if row.get("state") == "closed"]
    hidden = len(closed) - CLOSED_EXITS_SHOWN
    found = []
    for row in under_way + closed[:CLOSED_EXITS_SHOWN]:
        state = plain(row.get("state"))
        why = f": {words(row['why'])}" if row.get("why") and state != "closed" else ""
        numbers = ("trigger_price", "filled", "average_price", "fees", "attempts")
        found.append(
            (
                text(plain(row.get("ticker")), "bold"),
                text(words(row.get("reason"))),
                text(state + why, {"closed": "", "unknown": BAD, "blocked": BAD}.get(state, WARN)),
                *(text(plain(row.get(field))) for field in numbers),
            )
        )
    headings = ("Trigger", "Filled", "Average", "Fees", "Attempts")
    title = "Exits" if hidden <= 0 else f"Exits ({hidden} older ones are left out)"
    return Listing(title, ("Market", "Reason", "State", *headings), frozenset(headings), found, "State")
