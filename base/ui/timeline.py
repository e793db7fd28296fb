"""The evaluations of one position as a story: what is held, what would leave it, and what was seen since.

Pure: rows of the daemon's answer in, lines out. Any field may be missing or of a newer kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from itertools import pairwise
from typing import Any, TypeGuard

from base.ui.phrases import UNKNOWN, says

_HELD_BACK = ("guarded", "hold_below", "no_stop_near_close")
_SOURCES = {"ws": "stream", "snapshot": "stream", "rest": "REST read", "none": "no source"}


class Tone(StrEnum):
    """How a line is meant; the terminal chooses the color."""

    PLAIN = "plain"
    QUIET = "quiet"
    STATE = "state"
    ALARM = "alarm"


@dataclass(frozen=True, slots=True)
class Line:
    text: str
    tone: Tone = Tone.PLAIN


def tell_timeline(ticker: str, rows: Sequence[Mapping[str, Any]], zone: tzinfo | None) -> list[Line]:
    """The lines of one position, the newest look last; `zone` None is this machine's own."""
    lines = [
        *_heading(ticker, rows[-1]),
        Line(f"Looks so far, times in {_moment(rows[-1].get('at'), zone, '%Z')}:"),
    ]
    states = _states(rows)
    ends = [later[0].get("at") for _, later in pairwise(states)] + [rows[-1].get("last_at")]
    for state, end in zip(states, ends, strict=True):
        lines += _state_lines(state, end, zone)
    return lines


def tell_exits(exits: Sequence[Mapping[str, Any]], zone: tzinfo | None) -> list[Line]:
    """A line an exit: also those of a run before this one, whose looks nobody remembers."""
    lines = []
    for row in exits:
        times = row.get("timeline")
        times = times if isinstance(times, Mapping) else {}
        is_over = row.get("state") == "closed"
        at = _moment(times.get("closed" if is_over else "triggered"), zone, "%b %d %H:%M:%S %Z").strip()
        sold = _number(row.get("filled"))
        told = f"{row.get('filled')} contracts sold at {_said(row.get('average_price'))} on average"
        told = f"{told}, fees {_said(row.get('fees'))}" if sold else "nothing was sold"
        reason, why = says(row.get("reason")), row.get("why")
        if not is_over:
            state = f"{_said(row.get('state'))}{f': {says(why)}' if why else ''}"
            lines.append(Line(f"Being left by {reason} since {at} ({state}): {told}", Tone.ALARM))
        elif sold:
            end = f"; then {says(why)}" if why and why != "filled" else ""
            lines.append(Line(f"Left by {reason} at {at}: {told}{end}", Tone.STATE))
        else:
            lines.append(Line(f"Exit by {reason} ended at {at}: {told}, {says(why)}", Tone.STATE))
    return lines


def _heading(ticker: str, last: Mapping[str, Any]) -> list[Line]:
    held = UNKNOWN
    if last.get("count") is not None:
        held = f"{last['count']} {_said(last.get('outcome_side'))} held from {_said(last.get('entry_price'))}"
    value = last.get("exit_value")
    now = f"worth {value} a contract" if value is not None else "no price to act on"
    lines = [Line(f"{ticker}: {held}, {now} ({_age_and_source(last)})", Tone.STATE)]
    if last.get("is_held") is False:
        end = f"It was left: {_why(last)}" if last.get("decision") == "exit" else "It is not held any more"
        return [Line(f"{ticker}: {held}, until {_said(value, 'its price was lost')}", Tone.STATE), Line(end)]
    if last.get("rule"):
        lines.append(Line(f"Its rule: {last['rule']}"))
    if last.get("decision") == "exit":
        return [*lines, Line(f"It is being left: {_why(last)}", Tone.ALARM)]
    if last.get("why") in _HELD_BACK:
        lines.append(Line(f"Not leaving although it meets its rule: {_said(last.get('detail'))}", Tone.ALARM))
    for level, basis, side in (("stop_price", "stop_basis", "below"), ("take_profit_price", "", "above")):
        if last.get(level) is not None:
            words = _said(last.get(basis or "take_profit_basis"), "")
            words = f"take-profit{', ' if words else ''}{words}" if side == "above" else words or "stop"
            away = _distance(value, last[level], side)
            lines.append(Line(f"Leaves at or {side} {last[level]} ({words}){away}"))
    if not any(last.get(level) is not None for level in ("stop_price", "take_profit_price")):
        lines.append(Line("No price level is in force"))
    return lines


def _distance(value: object, level: object, side: str) -> str:
    first, second = _number(value), _number(level)
    if first is None or second is None:
        return ""
    left = first - second if side == "below" else second - first
    if left <= 0:
        return f": it is there, and {-left:.4f} beyond"
    return f": {left:.4f} away"


def _states(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Rows in a row with the same verdict."""
    states: list[list[Mapping[str, Any]]] = []
    for row in rows:
        verdict = (row.get("decision"), row.get("why"))
        if states and (states[-1][-1].get("decision"), states[-1][-1].get("why")) == verdict:
            states[-1].append(row)
        else:
            states.append([row])
    return states


def _state_lines(state: Sequence[Mapping[str, Any]], end: object, zone: tzinfo | None) -> list[Line]:
    first, last = state[0], state[-1]
    is_exit = last.get("decision") == "exit"
    seen = sum(_times(row) for row in state)
    verdict = f"{_said(last.get('decision')).upper()}: {_why(last)}"
    start = first.get("at")
    heading = f"{_moment(start, zone, '%b %d %H:%M:%S')}  {verdict}, for {_lasted(start, end)}, seen {seen}×"
    lines = [Line(heading, Tone.ALARM if is_exit else Tone.STATE)]
    for row in state:
        lines.append(Line(f"    {_when(row, zone)}  {_price(row)}; {_levels(row)}"))
    if last.get("guards"):
        lines.append(Line(f"    guards: {last['guards']}"))
    if last.get("detail"):
        lines.append(Line(f"    {last['detail']}", Tone.QUIET))
    return lines


def _when(row: Mapping[str, Any], zone: tzinfo | None) -> str:
    """When it was looked at. Of several looks the last comes first: price and age are that one's."""
    form = "%H:%M:%S.%f"
    if _times(row) == 1:
        return _moment(row.get("at"), zone, form)[:12]
    last, first = (_moment(row.get(name), zone, form)[:12] for name in ("last_at", "at"))
    return f"{last} (seen {_times(row)}× since {first})"


def _price(row: Mapping[str, Any]) -> str:
    if row.get("exit_value") is None:
        return f"no price to act on ({_age_and_source(row)})"
    size = f" for {row['bid_size']} contracts" if row.get("bid_size") is not None else ""
    return f"bid {row['exit_value']}{size} ({_age_and_source(row)})"


def _levels(row: Mapping[str, Any]) -> str:
    found = []
    for name, level in (("stop", "stop_price"), ("take-profit", "take_profit_price")):
        if row.get(level) is not None:
            found.append(f"{name} {row[level]}")
    return ", ".join(found) or "no level in force"


def _age_and_source(row: Mapping[str, Any]) -> str:
    source = _SOURCES.get(_said(row.get("price_source")), _said(row.get("price_source")))
    age = row.get("price_age_s")
    return f"{span_text(age)} old, {source}" if _is_number(age) else source


def _why(row: Mapping[str, Any]) -> str:
    return says(row.get("why"))


def _times(row: Mapping[str, Any]) -> int:
    repeats = row.get("repeats")
    return repeats if isinstance(repeats, int) and repeats > 0 else 1


def _lasted(start: object, end: object) -> str:
    if not _is_number(start) or not _is_number(end):
        return UNKNOWN
    return span_text(max(0.0, end - start))


def span_text(seconds: Any) -> str:
    """A span for people: 14.5 s, 12 min, 3 h; what is no number is unknown."""
    if not _is_number(seconds):
        return UNKNOWN
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def seconds_between(start: object, end: object) -> float | None:
    """Seconds from one ISO time to another, None where either is none."""
    first, second = _iso_moment(start), _iso_moment(end)
    return None if first is None or second is None else (second - first).total_seconds()


def clock_text(at: object) -> str:
    """An ISO time as month, day, hour and minute."""
    moment = _iso_moment(at)
    return UNKNOWN if moment is None else moment.strftime("%b %d %H:%M")


def _iso_moment(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return None if moment.tzinfo is None else moment.astimezone(UTC)


def _moment(at: Any, zone: tzinfo | None, form: str) -> str:
    if not _is_number(at):
        return UNKNOWN
    try:
        return datetime.fromtimestamp(at, UTC).astimezone(zone).strftime(form)
    except (OverflowError, ValueError, OSError):  # no date that a calendar has
        return UNKNOWN


def _number(value: object) -> Decimal | None:
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _said(value: object, missing: str = UNKNOWN) -> str:
    return missing if value is None or value == "" else str(value)
