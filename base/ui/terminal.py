"""The status document and the evaluations of a ticker as terminal tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import tzinfo
from typing import Any, TextIO, TypeGuard

from rich.console import Console
from rich.table import Table
from rich.text import Text

from base.ui.document import awaits_settlement, items, section
from base.ui.document import rows as rows_of
from base.ui.timeline import Tone, span_text, tell_timeline

NOT_COUNTED = ("by_choice", "hedged")
"""Reasons of positions that no rule leaves on purpose: shown, neither counted nor alarming."""
GOOD, BAD, WARN, QUIET = "bold green", "bold red", "bold yellow", "dim"
UNKNOWN = "–"
PAPER = "paper"
"""`trading_mode` of a daemon whose orders are simulated."""
PIPE_WIDTH = 180
"""Columns when the output is no terminal: a file should keep whole rows."""
_TONES = {Tone.PLAIN: "", Tone.QUIET: QUIET, Tone.STATE: "bold", Tone.ALARM: BAD}


def print_status(document: Mapping[str, Any], file: TextIO, *, color: bool) -> None:
    """Print the status document, coverage first. A missing field is shown as unknown, never as good."""
    console = _console(file, color)
    console.print(_coverage_line(document))
    for entry in rows_of(section(document, "coverage").get("unprotected")):
        style = QUIET if _is_on_purpose(entry) else BAD
        console.print(_text(f"  {_plain(entry.get('ticker'))}: {_words(entry.get('reason'))}", style))
    health = section(document, "health")
    if health.get("ok") is not True:
        console.print(_text("NOT HEALTHY", BAD))
        for reason in items(health.get("reasons")):
            console.print(_text(f"  {_plain(reason)}", BAD))
    console.print(_banner(document))
    console.print(_feed_line(document))
    console.print(_rest_line(document))
    console.print(_pnl_line(document))
    console.print(_threads_line(document))
    positions = rows_of(document.get("positions"))
    console.print(_positions_table(positions) if positions else _text("No positions listed."))
    by_strategy = section(section(document, "pnl"), "by_strategy")
    if len(by_strategy) > 1:
        console.print(_strategies_table(by_strategy))
    exits = rows_of(document.get("exits"))
    if exits:
        console.print(_exits_table(exits))


def print_explain(
    ticker: str,
    rows: list[dict[str, Any]],
    file: TextIO,
    *,
    color: bool,
    zone: tzinfo | None = None,
    trading_mode: str = "",
) -> None:
    """Print the evaluations of one position's rules as a timeline, the newest last; `zone` None is local."""
    console = _console(file, color)
    if trading_mode == PAPER:
        console.print(_text("PAPER: exits are simulated, no order leaves this machine", "bold reverse"))
    if not rows:
        console.print(_text(f"No evaluations of {_plain(ticker)} yet.", WARN))
        return
    for line in tell_timeline(ticker, rows, zone):
        console.print(_text(_plain(line.text, missing=""), _TONES[line.tone]))


def _coverage_line(document: Mapping[str, Any]) -> Text:
    coverage = section(document, "coverage")
    open_count, protected = coverage.get("open"), coverage.get("protected")
    listed = coverage.get("unprotected")
    if not _is_count(open_count) or not _is_count(protected) or not isinstance(listed, list):
        return _text("COVERAGE NOT KNOWN: count on no position being protected", BAD)
    # Positions left unprotected by choice are listed, but neither counted nor alarming.
    bare = [entry for entry in listed if not _is_on_purpose(entry)]
    if protected < open_count or bare:
        count = max(open_count - protected, len(bare))
        return _text(f"COVERAGE: {count} of {open_count} open positions NOT PROTECTED", BAD)
    if protected > open_count:
        return _text("COVERAGE NOT KNOWN: more protected than open positions are reported", BAD)
    if open_count == 0:
        return _text("COVERAGE: no open positions", "bold")
    style = GOOD if section(document, "health").get("ok") is True else WARN
    how = " on PAPER: their exits are simulated" if document.get("trading_mode") == PAPER else ""
    return _text(f"COVERAGE: all {open_count} open positions protected{how}", style)


def _is_on_purpose(entry: Any) -> bool:
    return isinstance(entry, Mapping) and entry.get("reason") in NOT_COUNTED


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _banner(document: Mapping[str, Any]) -> Text:
    env = _plain(document.get("env")).upper()
    mode = _plain(document.get("trading_mode")).upper()
    state, why = _plain(document.get("trading_state")), document.get("trading_state_why")
    name = env if env == "SANDBOX" else f"{mode} {env}"
    return Text.assemble(
        _text(f" {name} ", "bold reverse"),
        _text("  state "),
        _text(state, {"active": GOOD, "reducing": WARN}.get(state, BAD)),
        _text(f" ({_plain(why)})" if why and state != "active" else ""),
        _text(f"  up {span_text(document.get('uptime_s'))}  version {_plain(document.get('version'))}"),
    )


def _feed_line(document: Mapping[str, Any]) -> Text:
    feed = section(document, "feed")
    state = _plain(feed.get("state"))
    return Text.assemble(
        _text("feed "),
        _text(state, GOOD if state == "live" else BAD),
        _text(
            f" for {span_text(feed.get('connected_for_s'))}, "
            f"last frame {span_text(feed.get('last_frame_age_s'))} ago, "
            f"{_plain(feed.get('markets_confirmed'))} of {_plain(feed.get('markets_required'))} "
            f"markets confirmed, reconnects {_plain(feed.get('reconnects'))}, "
            f"messages {_plain(feed.get('messages'))}"
        ),
    )


def _rest_line(document: Mapping[str, Any]) -> Text:
    rest = section(document, "rest")
    return _text(
        f"REST in the last 60 s: reads {_plain(rest.get('reads_last_60s'))} "
        f"(for prices {_plain(rest.get('price_reads_last_60s'))}), "
        f"writes {_plain(rest.get('writes_last_60s'))}, "
        f"rate limited {_plain(rest.get('rate_limited_last_60s'))}"
    )


def _pnl_line(document: Mapping[str, Any]) -> Text:
    pnl = section(document, "pnl")
    return _text(
        f"P&L in dollars: {_plain(pnl.get('realized_today'))} realized today, "
        f"{_plain(pnl.get('unrealized'))} unrealized, {_plain(pnl.get('fees_today'))} fees today"
    )


def _threads_line(document: Mapping[str, Any]) -> Text:
    line = _text("threads")
    for name, thread in section(document, "threads").items():
        facts = thread if isinstance(thread, Mapping) else {}
        problem = "DEAD" if facts.get("alive") is False else "LATE " if facts.get("on_time") is False else ""
        passed = "" if problem == "DEAD" else span_text(facts.get("last_pass_age_s"))
        line.append_text(_text(f"  {_plain(name)} "))
        line.append_text(_text(problem + passed, BAD if problem else ""))
    return line


def _positions_table(positions: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("Positions", "Market", "Side")
    for heading in ("Count", "Entry", "Exit value", "Age", "Stop", "Take-profit", "P&L"):
        table.add_column(heading, justify="right", overflow="fold")
    for heading in ("Source", "Protection"):
        table.add_column(heading, overflow="fold")
    for row in positions:
        table.add_row(
            _text(_plain(row.get("ticker"))),
            _text(_plain(row.get("outcome_side"))),
            _text(_plain(row.get("count"))),
            _text(_plain(row.get("entry_price"))),
            _text(_plain(row.get("exit_value"))),
            _text(span_text(row.get("price_age_s"))),
            _text(_plain(row.get("stop_price"))),
            _text(_plain(row.get("take_profit_price"))),
            _text(_plain(row.get("unrealized_pnl"))),
            _source(row),
            _protection(row),
        )
    return table


def _source(row: Mapping[str, Any]) -> Text:
    source, market_status = _plain(row.get("price_source")), row.get("market_status")
    if market_status == "active":
        return _text(source)
    return _text(f"{source}, market {_plain(market_status)}", WARN)


def _protection(row: Mapping[str, Any]) -> Text:
    if row.get("protected") is True:
        return _text("protected", GOOD)
    if _is_on_purpose(row):
        return _text(f"none, {_words(row.get('reason'))}", QUIET)
    if awaits_settlement(row):
        return _text("awaits settlement", QUIET)
    return _text(f"NOT PROTECTED: {_words(row.get('reason'))}", BAD)


def _strategies_table(by_strategy: Mapping[str, Any]) -> Table:
    table = _table("P&L in dollars", "Strategy")
    for heading in ("Realized today", "Unrealized", "Fees today"):
        table.add_column(heading, justify="right", overflow="fold")
    for name in sorted(by_strategy):
        row = section(by_strategy, name)
        table.add_row(
            _text(_plain(name, missing="(opened elsewhere)")),
            *(_text(_plain(row.get(field))) for field in ("realized_today", "unrealized", "fees_today")),
        )
    return table


def _exits_table(exits: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("Exits", "Market", "Reason", "State")
    for heading in ("Trigger", "Filled", "Average", "Fees", "Attempts"):
        table.add_column(heading, justify="right", overflow="fold")
    for row in exits:
        state = _plain(row.get("state"))
        why = f": {_words(row['why'])}" if row.get("why") and state != "closed" else ""
        table.add_row(
            _text(_plain(row.get("ticker"))),
            _text(_words(row.get("reason"))),
            _text(state + why, {"closed": "", "unknown": BAD, "blocked": BAD}.get(state, WARN)),
            *(
                _text(_plain(row.get(field)))
                for field in ("trigger_price", "filled", "average_price", "fees", "attempts")
            ),
        )
    return table


def _console(file: TextIO, color: bool) -> Console:
    # Everything printed is a Text: rich reads markup and emoji codes only in plain strings.
    return Console(
        file=file,
        force_terminal=color,
        no_color=not color,
        color_system="standard" if color else None,
        width=None if file.isatty() else PIPE_WIDTH,
    )


def _table(title: str, *headings: str) -> Table:
    # On a narrow terminal cells fold: a price cut short would be another price.
    table = Table(title=_text(title, "bold"), title_justify="left", box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _text(text: str, style: str = "") -> Text:
    return Text(text, style=style)


def _plain(value: Any, missing: str = UNKNOWN) -> str:
    # What is not printable is shown as a mark: a terminal would obey escape sequences in foreign text.
    if value is None or value == "":
        return missing
    return "".join(char if char.isprintable() else "�" for char in str(value))


def _words(value: Any) -> str:
    return _plain(value).replace("_", " ")
