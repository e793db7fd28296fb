"""The status document and the evaluations of a ticker as terminal text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import tzinfo
from typing import Any, TextIO, TypeGuard

from rich.console import Console
from rich.text import Text

from base.ui.document import items, section
from base.ui.document import rows as rows_of
from base.ui.phrases import pause_text, plain, unprotected_text
from base.ui.terminal_tables import (
    ANY_WIDTH,
    BAD,
    GOOD,
    QUIET,
    WARN,
    exits_listing,
    flow,
    is_on_purpose,
    orders_listing,
    positions_listing,
    strategies_listing,
    text,
)
from base.ui.timeline import Tone, clock_text, seconds_between, span_text, tell_exits, tell_timeline

PAPER = "paper"
"""`trading_mode` of a daemon whose orders are simulated."""
PIPE_WIDTH = 140
"""Columns of running text when the output is no terminal; rows of tables and reasons stay whole."""
_TONES = {Tone.PLAIN: "", Tone.QUIET: QUIET, Tone.STATE: "bold", Tone.ALARM: BAD}


def print_status(document: Mapping[str, Any], file: TextIO, *, color: bool, width: int | None = None) -> None:
    """Print the status document, coverage first. A missing field is shown as unknown, never as good."""
    console = _console(file, color, width)
    text_width = console.width if file.isatty() or width else PIPE_WIDTH
    console.print(_coverage_line(document))
    for ticker in items(section(document, "coverage").get("unknown")):
        console.print(text(f"  {plain(ticker)}: what is held of it is not known", BAD))
    for entry in rows_of(section(document, "coverage").get("unprotected")):
        style = QUIET if is_on_purpose(entry) else BAD
        console.print(text(f"  {plain(entry.get('ticker'))}: {unprotected_text(entry.get('reason'))}", style))
    for line in _health_lines(document):
        console.print(line)
    console.print(_banner(document))
    for parts in (
        _feed_parts(document),
        _journal_parts(document),
        _threads_parts(document),
        _strategy_parts(document),
        _rest_parts(document),
        _money_parts(document),
        _alert_parts(document),
        _pause_parts(document),
    ):
        for line in flow(parts, text_width) if parts else ():
            console.print(line)
    positions = positions_listing(document)
    none = "No positions listed." if _is_known(document) else "Positions: not known."
    console.print(positions.fit(console) if positions.rows else text(none))
    by_strategy = section(section(document, "pnl"), "by_strategy")
    if len(by_strategy) > 1:
        console.print(strategies_listing(by_strategy).fit(console))
    for listing in (orders_listing(document), exits_listing(document)):
        if listing.rows:
            console.print(listing.fit(console))


def print_explain(
    ticker: str,
    rows: list[dict[str, Any]],
    file: TextIO,
    *,
    color: bool,
    zone: tzinfo | None = None,
    trading_mode: str = "",
    exits: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Print the evaluations of one position's rules as a timeline, the newest last, and then its `exits`;
    `zone` None is local."""
    console = _console(file, color)
    if trading_mode == PAPER:
        console.print(text("PAPER: exits are simulated, no order leaves this machine", "bold reverse"))
    if not rows:
        since = " since the start" if exits else " yet"
        console.print(text(f"No evaluations of {plain(ticker)}{since}.", WARN))
    told = tell_timeline(ticker, rows, zone) if rows else []
    for line in told + tell_exits(exits, zone):
        console.print(text(plain(line.text, missing=""), _TONES[line.tone]))


def _coverage_line(document: Mapping[str, Any]) -> Text:
    coverage = section(document, "coverage")
    open_count, protected = coverage.get("open"), coverage.get("protected")
    listed = coverage.get("unprotected")
    if not _is_count(open_count) or not _is_count(protected) or not isinstance(listed, list):
        return text("COVERAGE NOT KNOWN: count on no position being protected", BAD)
    # Positions left unprotected by choice are listed, but neither counted nor alarming.
    bare = [entry for entry in listed if not is_on_purpose(entry)]
    if not _is_known(document):
        seen = f" (of those that are, {protected} of {open_count} protected)" if open_count else ""
        why = plain(coverage.get("unknown_why"), missing="the daemon does not say why")
        return text(f"COVERAGE NOT KNOWN: {why}{seen}", BAD)
    if protected < open_count or bare:
        count = max(open_count - protected, len(bare))
        return text(f"COVERAGE: {count} of {open_count} open positions NOT PROTECTED", BAD)
    if protected > open_count:
        return text("COVERAGE NOT KNOWN: more protected than open positions are reported", BAD)
    if open_count == 0:
        return text("COVERAGE: no open positions", "bold")
    style = GOOD if section(document, "health").get("ok") is True else WARN
    how = " on PAPER: their exits are simulated" if document.get("trading_mode") == PAPER else ""
    return text(f"COVERAGE: all {open_count} open positions protected{how}", style)


def _is_known(document: Mapping[str, Any]) -> bool:
    """Whether all that is held has been read, as the daemon says; one that does not say it knew no doubt."""
    return section(document, "coverage").get("known", True) is True


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _health_lines(document: Mapping[str, Any]) -> Iterator[Text]:
    health = section(document, "health")
    if health.get("ok") is True:
        return
    yield text("NOT HEALTHY", BAD)
    listed = rows_of(section(document, "coverage").get("unprotected"))
    told = {f"{entry.get('ticker')} unprotected: {entry.get('reason')}" for entry in listed}
    for reason in items(health.get("reasons")):
        if reason not in told:  # it is above, in words
            yield text(f"  {plain(reason)}", BAD)


def _banner(document: Mapping[str, Any]) -> Text:
    env = plain(document.get("env")).upper()
    mode = plain(document.get("trading_mode")).upper()
    state, why = plain(document.get("trading_state")), document.get("trading_state_why")
    name = env if env == "SANDBOX" else f"{mode} {env}"
    return Text.assemble(
        text(f" {name} ", "bold reverse"),
        text("  state "),
        text(state, {"active": GOOD, "reducing": WARN}.get(state, BAD)),
        text(f" ({plain(why)})" if why and state != "active" else ""),
        text(f"  up {span_text(document.get('uptime_s'))}  version {plain(document.get('version'))}"),
    )


def _feed_parts(document: Mapping[str, Any]) -> list[Text]:
    feed = section(document, "feed")
    is_live = feed.get("state") == "live"
    confirmed, required = feed.get("markets_confirmed"), feed.get("markets_required")
    parts = [
        Text.assemble(
            "feed ",
            (plain(feed.get("state")), GOOD if is_live else BAD),
            f" for {span_text(feed.get('connected_for_s'))}",
        ),
        text(f"last frame {span_text(feed.get('last_frame_age_s'))} ago"),
        text(
            f"{plain(confirmed)} of {plain(required)} markets confirmed",
            "" if confirmed == required else WARN,
        ),
        text(f"reconnects {plain(feed.get('reconnects'))}"),
        text(f"messages {plain(feed.get('messages'))}"),
    ]
    if feed.get("malformed"):
        parts.append(text(f"malformed {plain(feed.get('malformed'))}", WARN))
    if feed.get("last_error") and not is_live:
        parts.append(text(f"last error: {plain(feed.get('last_error'))}", BAD))
    return parts


def _journal_parts(document: Mapping[str, Any]) -> list[Text]:
    """Nothing while all is well: it is either in order or the first thing to mend."""
    journal = section(document, "journal")
    if journal.get("ok") is True:
        return []
    if journal.get("ok") is not False:
        return [text(f"journal {plain(None)}", QUIET)]
    return [
        text("JOURNAL TAKES NOTHING", BAD),
        text(plain(journal.get("why")), BAD),
        text(f"{plain(journal.get('waiting'))} records wait", BAD),
        text("exits go out from memory", BAD),
        text("nothing is opened", BAD),
    ]


def _threads_parts(document: Mapping[str, Any]) -> list[Text]:
    # The age of a pass alone says nothing: one thread passes twenty times a second, another once an hour.
    bad, good = [], 0
    for name, thread in section(document, "threads").items():
        facts = thread if isinstance(thread, Mapping) else {}
        if facts.get("state") in ("starting", "stopped"):
            bad.append(text(f"{plain(name)} {facts['state']}", WARN))
        elif facts.get("alive") is False:
            bad.append(text(f"{plain(name)} DEAD", BAD))
        elif facts.get("on_time") is True:
            good += 1
        elif facts.get("on_time") is False:
            age = facts.get("last_pass_age_s")
            since = "has not passed yet" if age is None else f"last pass {span_text(age)} ago"
            bad.append(text(f"{plain(name)} LATE ({since})", BAD))
        else:
            bad.append(text(f"{plain(name)} {plain(None)}", WARN))
    if not bad and not good:
        return [text(f"threads {plain(None)}", WARN)]
    return [*bad, text(f"{good} {'other ' if bad else ''}thread{'s' * (good != 1)} on time")]


def _strategy_parts(document: Mapping[str, Any]) -> list[Text]:
    strategy = section(document, "strategy")
    parts = [
        text(f"strategy {plain(strategy.get('name'))}"),
        text(f"passes {plain(strategy.get('passes'))}"),
        text(f"intents {plain(strategy.get('intents'))}"),
    ]
    if strategy.get("failing"):
        times = plain(strategy.get("failed_in_a_row"))
        parts.insert(1, text(f"FAILING {times} in a row: {plain(strategy.get('last_error'))}", BAD))
    elif strategy.get("errors"):
        parts.append(
            text(f"errors {plain(strategy.get('errors'))} (last: {plain(strategy.get('last_error'))})", WARN)
        )
    if strategy.get("refused"):
        last = plain(strategy.get("last_refused"))
        parts.append(text(f"refused {plain(strategy.get('refused'))} (last: {last})", WARN))
    else:
        parts.append(text(f"refused {plain(strategy.get('refused'))}"))
    if strategy.get("running_s") is not None:
        parts.append(text(f"in a call for {span_text(strategy.get('running_s'))}"))
    return parts


def _rest_parts(document: Mapping[str, Any]) -> list[Text]:
    rest = section(document, "rest")
    limited = rest.get("rate_limited_last_60s")
    return [
        text(
            f"REST in the last 60 s: reads {plain(rest.get('reads_last_60s'))} "
            f"(for prices {plain(rest.get('price_reads_last_60s'))})"
        ),
        text(f"writes {plain(rest.get('writes_last_60s'))}"),
        text(f"rate limited {plain(limited)}", WARN if limited else ""),
    ]


def _money_parts(document: Mapping[str, Any]) -> list[Text]:
    pnl = section(document, "pnl")
    parts = [
        text(f"P&L in dollars: {plain(pnl.get('realized_today'))} realized today"),
        text(f"{plain(pnl.get('unrealized'))} unrealized"),
        text(f"{plain(pnl.get('fees_today'))} fees today"),
    ]
    unpriced = pnl.get("positions_without_price")
    if unpriced:
        parts.insert(2, text(f"without {plain(unpriced)} that have no price", WARN))
    return parts


def _alert_parts(document: Mapping[str, Any]) -> list[Text]:
    alerts, dead_man = section(document, "alerts"), section(document, "dead_man")
    parts = []
    if alerts.get("on") is True:
        channels = rows_of(alerts.get("channels"))
        parts.append(text(f"alerts on, {len(channels)} channel{'s' * (len(channels) != 1)}"))
        parts += [_channel_text(channel) for channel in channels]
    else:
        parts.append(
            text("alerts off (ALERT_URLS)" if alerts.get("on") is False else f"alerts {plain(None)}")
        )
    if dead_man.get("on") is not True:
        off = "dead man's switch off (DEADMAN_URL)"
        parts.append(text(off if dead_man.get("on") is False else f"dead man's switch {plain(None)}"))
    elif dead_man.get("last_error"):
        parts.append(text(f"DEAD MAN'S SWITCH FAILING: {plain(dead_man.get('last_error'))}", BAD))
    elif dead_man.get("last_call_age_s") is None:
        parts.append(text("dead man's switch not called yet", WARN))
    else:
        parts.append(text(f"dead man's switch called {span_text(dead_man.get('last_call_age_s'))} ago"))
    return parts


def _channel_text(channel: Mapping[str, Any]) -> Text:
    said = f"{plain(channel.get('name'))}: {plain(channel.get('sent'))} sent"
    troubles = [
        f"{plain(channel.get(field))} {field}"
        for field in ("failed", "dropped", "waiting")
        if channel.get(field)
    ]
    if channel.get("hanging"):
        troubles.insert(0, "HANGING")
    if not troubles:
        return text(said)
    error = f" (last error: {plain(channel.get('last_error'))})" if channel.get("last_error") else ""
    return text(" ".join((said, *troubles)) + error, BAD if channel.get("hanging") else WARN)


def _pause_parts(document: Mapping[str, Any]) -> list[Text]:
    pause = section(document, "next_pause")
    if not pause:
        return []
    starts, ends, now = pause.get("starts_at"), pause.get("ends_at"), document.get("at")
    begins_in, why = seconds_between(now, starts), pause_text(pause.get("why"))
    if begins_in is not None and begins_in <= 0:
        left = span_text(seconds_between(now, ends))
        return [text(f"THE EXCHANGE IS PAUSED for another {left} ({why})", WARN), text("nothing can be sold")]
    when = f"{clock_text(starts)} to {clock_text(ends)} UTC"
    soon = WARN if begins_in is not None and begins_in < 3600 else ""
    return [text(f"next pause of the exchange in {span_text(begins_in)} ({why})", soon), text(when)]


def _console(file: TextIO, color: bool, width: int | None = None) -> Console:
    return Console(
        file=file,
        force_terminal=color,
        no_color=not color,
        color_system="standard" if color else None,
        width=width or (None if file.isatty() else ANY_WIDTH),
    )
