"""What is worth an alert, read out of the status document and the exits. Pure.

State beats events: what lasts is read from what is true now, so that an alert neither depends on the log's
level nor is forgotten when a line was missed. Only what no state shows comes from the log
(`alert_rules.AlertRules.note_error`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from base.app.alert_words import (
    DOUBT_AFTER_S,
    NOT_KNOWN_REMEDY,
    blocked_remedy,
    doubt_remedy,
    end_text,
    entries_remedy,
    episode_stake,
    held_text,
    unprotected_remedy,
)
from base.execution.exits import EpisodeView
from base.risk.coverage import NOT_COUNTED
from base.risk.wording import dollars_text
from base.ui.document import awaits_settlement, items, rows, section

UNPROTECTED_AFTER_S = 10.0
NAMED_MAX = 5
FEED_DOWN_AFTER_S = 30.0
SLOW_EXIT_AFTER_S = 15.0
PAUSE_AHEAD_S = (86_400.0, 7_200.0, 1_800.0)
"""How long ahead a pause is told, once each, where something is held."""
KEY_AHEAD_S = (7 * 86_400.0, 3 * 86_400.0, 86_400.0, 0.0)
"""How long before the end of the key's location attestation it is told, once each."""
TEXT_CHARACTERS_MAX = 300

DAILY_LOSS_WORDS = "today's loss"
"""How `trading_state.next_state` begins the reason that has a kind of its own."""
_STARTING = (
    "starting",
    "positions have not been compared",
    "the exchange's answers have not been looked at",
)
_JOURNAL_DOWN = "the journal cannot be written"
_DOUBTED_TOO = (_JOURNAL_DOWN, "the exchange's answers lack")
"""What keeps entries off and is told by a kind or a reason of its own."""
_NUMBERS = re.compile(r"\d+(\.\d+)?")


class Kind(StrEnum):
    """What an alert is about."""

    UNPROTECTED = "unprotected"
    EXIT_BLOCKED = "exit_blocked"
    EXIT_FAILED = "exit_failed"
    """An exit that ended without selling because its market did, or that takes far too long."""
    HALTED = "halted"
    STOPPED = "stopped"
    DAILY_LOSS = "daily_loss"
    ENTRIES_OFF = "entries_off"
    FEED_DOWN = "feed_down"
    JOURNAL = "journal"
    UNHEALTHY = "unhealthy"
    """What else `/healthz` names."""
    ERROR = "error"
    """An error of the log that no state shows."""
    KEY_EXPIRY = "key_expiry"
    PAUSE_AHEAD = "pause_ahead"
    EXIT_TRIGGERED = "exit_triggered"
    EXIT_FILLED = "exit_filled"
    EXIT_ENDED = "exit_ended"
    """Nothing was left to sell, or a profit was no longer there: no trouble."""
    STARTED = "started"
    RESTARTED = "restarted"
    """Started though nobody had stopped it."""

    @property
    def is_urgent(self) -> bool:
        """Whether it passes before the rest, and when the rest has used up what may be sent."""
        return self in _URGENT

    @property
    def is_repeated(self) -> bool:
        """Whether it is said again while it lasts; what is a limit at work is said once."""
        return self not in (Kind.DAILY_LOSS, Kind.ENTRIES_OFF)

    @property
    def is_good(self) -> bool:
        return self in (Kind.EXIT_FILLED, Kind.EXIT_ENDED, Kind.STARTED)

    def headline(self, count: int) -> str:
        """What has happened so many times, as the first words of a message."""
        one, many = _HEADLINES[self]
        return one if count == 1 else many.format(count)


_URGENT = (Kind.UNPROTECTED, Kind.EXIT_BLOCKED, Kind.EXIT_FAILED, Kind.HALTED, Kind.STOPPED)
_HEADLINES: dict[Kind, tuple[str, str]] = {
    Kind.UNPROTECTED: ("position UNPROTECTED", "{} positions UNPROTECTED"),
    Kind.EXIT_BLOCKED: ("exit BLOCKED", "{} exits BLOCKED"),
    Kind.EXIT_FAILED: ("exit FAILED", "{} exits FAILED"),
    Kind.HALTED: ("HALTED: no exit is sent", "HALTED: no exit is sent"),
    Kind.STOPPED: ("daemon stopped", "daemon stopped"),
    Kind.DAILY_LOSS: ("daily loss limit reached", "daily loss limit reached"),
    Kind.ENTRIES_OFF: ("entries are off", "entries are off, {} reasons"),
    Kind.FEED_DOWN: ("price feed down", "price feed down"),
    Kind.JOURNAL: ("journal cannot be written", "journal cannot be written"),
    Kind.UNHEALTHY: ("health check fails", "health check fails, {} reasons"),
    Kind.ERROR: ("error", "{} errors"),
    Kind.KEY_EXPIRY: ("location attestation runs out", "location attestation runs out"),
    Kind.PAUSE_AHEAD: ("trading pause ahead", "{} trading pauses ahead"),
    Kind.EXIT_TRIGGERED: ("exit triggered", "{} exits triggered"),
    Kind.EXIT_FILLED: ("exit filled", "{} exits filled"),
    Kind.EXIT_ENDED: ("exit ended without a sale", "{} exits ended without a sale"),
    Kind.STARTED: ("daemon started", "daemon started"),
    Kind.RESTARTED: ("daemon started, unexpectedly", "daemon started, unexpectedly"),
}


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing worth saying. `after_s` is how long it has to last first, `since` its wall time where that
    is known better than by first sight."""

    kind: Kind
    subject: str
    what: str
    remedy: str
    after_s: float = 0.0
    since: float | None = None

    @property
    def key(self) -> tuple[Kind, str]:
        """What makes it the same trouble, however its wording changes."""
        return self.kind, self.subject


Document = Mapping[str, Any]


def troubles(document: Document, exits: Sequence[EpisodeView], now: float) -> Iterator[Fact]:
    """Everything that is wrong now and lasts until it is mended; `now` is wall time."""
    yield from _unprotected(document)
    yield from _open_exits(exits, now)
    yield from _feed(document)
    yield from _trading_state(document)
    journal = section(document, "journal")
    if journal.get("ok") is False:
        remedy = "free disk space or mend STATE_DIR's permissions; exits go on from memory, entries do not"
        yield Fact(Kind.JOURNAL, "", _short(journal.get("why")), remedy, 5.0)
    yield from _doubts(document)


def begun_exit(view: EpisodeView) -> Fact:
    """An exit that has begun."""
    if view.state == "blocked":
        what, remedy = _blocked_exit(view), blocked_remedy(view.why)
    else:
        what, remedy = _with(_triggered(view), episode_stake(view)), "nothing: it is being sold"
    return Fact(Kind.EXIT_TRIGGERED, view.ticker, what, remedy, since=view.opened_at)


def ended_exit(view: EpisodeView) -> Fact:
    """An exit that is over: sold, nothing left to sell, or not sold because its market has ended."""
    took_s = 0.0 if view.closed_at is None else view.closed_at - view.opened_at
    if view.filled > 0:
        price = "" if view.average_price is None else f" at {view.average_price:.4f} on average"
        what = (
            f"{view.ticker}: {view.reason}, sold {_cents(view.filled)}{price}, "
            f"fees {_cents(view.fees)}{_result(view)}, in {took_s:.1f} s"
        )
        if view.why == "filled":
            return Fact(Kind.EXIT_FILLED, view.ticker, what, "nothing", since=view.closed_at)
        what = f"{what}; then {end_text(view.why)}"
    else:
        what = f"{view.ticker}: {view.reason}, nothing was sold: {end_text(view.why)}"
    if view.why.startswith("market_"):
        what = _with(what, episode_stake(view))
        remedy = "the market trades no more: what is left waits for settlement"
        return Fact(Kind.EXIT_FAILED, view.ticker, what, remedy, since=view.closed_at)
    remedy = "nothing: the rules judge what is held now"
    return Fact(Kind.EXIT_ENDED, view.ticker, what, remedy, since=view.closed_at)


def end_of(fact: Fact, document: Document) -> str:
    """What is to be said of a trouble that is over."""
    match fact.kind:
        case Kind.UNPROTECTED:
            if not fact.subject:
                return "what is held is known again"
            held = {p.get("ticker"): p for p in rows(document.get("positions"))}
            position = held.get(fact.subject)
            if position is None:
                return f"{fact.subject}: no longer held"
            if position.get("protected") is True:
                return f"{fact.subject}: protected again"
            return f"{fact.subject}: no longer open ({position.get('reason') or 'settling'})"
        case Kind.EXIT_BLOCKED | Kind.EXIT_FAILED:
            word = "blocked" if fact.kind is Kind.EXIT_BLOCKED else "late"
            return f"{fact.subject}: the exit is no longer {word}; its end has a message of its own"
        case Kind.HALTED:
            return "the kill switch is off: exits are sent again"
        case Kind.FEED_DOWN:
            return "the price feed is live again"
        case Kind.DAILY_LOSS:
            return "a new trading day has begun: the loss limit stops entries no more"
        case Kind.JOURNAL:
            return "the journal is written again"
        case Kind.ENTRIES_OFF:
            return f"this stops entries no more: {fact.what}"
        case _:
            return f"mended: {fact.what}"


def ahead(document: Document, now: float) -> Iterator[tuple[Fact, int]]:
    """What is coming, and how many of its times of warning have passed; `now` is wall time."""
    pause = section(document, "next_pause")
    starts_at, ends_at = _wall(pause.get("starts_at")), pause.get("ends_at")
    held = section(document, "coverage").get("open")
    if starts_at is not None and starts_at > now and isinstance(held, int) and held > 0:
        what = (
            f"trading pauses in {span_text(starts_at - now)}, from {pause.get('starts_at')} to {ends_at}: "
            f"{held} open position{'s' if held > 1 else ''}, worth {_cents(worth_of(document))} dollars, "
            "cannot be sold while it lasts"
        )
        remedy = "close before it what must not be held through it"
        fact = Fact(Kind.PAUSE_AHEAD, str(pause.get("starts_at")), what, remedy)
        yield fact, sum(starts_at - now <= ahead_s for ahead_s in PAUSE_AHEAD_S)
    ends = section(document, "key").get("attestation_ends_at")
    if (end := _wall(ends)) is not None:
        left_s = end - now
        when = f"ends in {span_text(left_s)}" if left_s > 0 else "has ended"
        what = (
            f"the key's location attestation {when} ({ends}): after it sports, elections and entertainment "
            f"refuse orders, exits too; {held or 0} open position{'' if held == 1 else 's'}, "
            f"worth {_cents(worth_of(document))} dollars, may be among them"
        )
        fact = Fact(Kind.KEY_EXPIRY, str(ends), what, "renew the location attestation on the exchange's site")
        yield fact, sum(left_s <= ahead_s for ahead_s in KEY_AHEAD_S)


def open_positions(document: Document) -> int:
    """How many positions can still trade, whatever their rules say."""
    return sum(not awaits_settlement(p) for p in rows(document.get("positions")))


def span_text(seconds: float) -> str:
    """A span as people say it: `40 s`, `12 min`, `5 h`, `3 days`."""
    for unit_s, unit, from_s in (
        (86_400.0, "days", 172_800.0),
        (3_600.0, "h", 7_200.0),
        (60.0, "min", 120.0),
    ):
        if seconds >= from_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _is_unknown(document: Document) -> bool:
    return section(document, "coverage").get("known") is False


def _unprotected(document: Document) -> Iterator[Fact]:
    if _is_unknown(document):
        coverage = section(document, "coverage")
        named = ", ".join(map(str, items(coverage.get("unknown"))[:NAMED_MAX]))
        what = f"count on no position: {coverage.get('unknown_why')}" + (f" ({named})" if named else "")
        yield Fact(Kind.UNPROTECTED, "", what, NOT_KNOWN_REMEDY, UNPROTECTED_AFTER_S)
    for row in rows(section(document, "coverage").get("unprotected")):
        ticker, reason = str(row.get("ticker")), str(row.get("reason"))
        if reason not in NOT_COUNTED:
            what = _with(f"{ticker}: {reason}", held_text(document, ticker))
            yield Fact(Kind.UNPROTECTED, ticker, what, unprotected_remedy(reason), UNPROTECTED_AFTER_S)


def _open_exits(exits: Sequence[EpisodeView], now: float) -> Iterator[Fact]:
    for view in exits:
        age_s = now - view.opened_at
        if view.state == "blocked":
            remedy = blocked_remedy(view.why)
            yield Fact(Kind.EXIT_BLOCKED, view.ticker, _blocked_exit(view), remedy, since=view.opened_at)
        elif view.state != "closed" and age_s > SLOW_EXIT_AFTER_S:
            tries = f"{view.attempts} order{'' if view.attempts == 1 else 's'}"
            state = "not answered (unknown)" if view.state == "unknown" else view.state
            what = f"{view.ticker}: {view.reason} is {state} after {tries} and {span_text(age_s)}"
            what = _with(what, episode_stake(view))
            remedy = "it goes on by itself; close by hand on the exchange if it lasts"
            yield Fact(Kind.EXIT_FAILED, view.ticker, what, remedy, since=view.opened_at)


def _feed(document: Document) -> Iterator[Fact]:
    feed = section(document, "feed")
    # With the stream switched off there is no such thread, and nothing is down.
    if "websocket" in section(document, "threads") and feed.get("state") != "live":
        error = _short(feed.get("last_error"))
        what = f"the price feed is {feed.get('state')}" + (f": {error}" if error else "")
        remedy = (
            "prices come through REST meanwhile, slower; check the network and the exchange's status page"
        )
        yield Fact(Kind.FEED_DOWN, "", what, remedy, FEED_DOWN_AFTER_S)


def _trading_state(document: Document) -> Iterator[Fact]:
    if document.get("trading_state") == "active":
        return
    for reason in str(document.get("trading_state_why") or "").split("; "):
        if not reason or reason.startswith(_DOUBTED_TOO):
            continue
        if reason.startswith(DAILY_LOSS_WORDS):
            money = section(document, "pnl")
            realized, fees = (_in_cents(money.get(name)) for name in ("realized_today", "fees_today"))
            lost = f"realized {realized}, fees {fees} dollars today"
            remedy = "exits go on; look at what was lost before anything else"
            yield Fact(Kind.DAILY_LOSS, "", f"{reason} ({lost})" if money else reason, remedy)
        elif reason.startswith("the kill switch"):
            yield Fact(Kind.HALTED, "", reason, "remove STATE_DIR/halted to let exits go out again")
        else:
            after_s = DOUBT_AFTER_S if reason.startswith(_STARTING) else 0.0
            subject = _NUMBERS.sub("#", reason)
            yield Fact(Kind.ENTRIES_OFF, subject, reason, entries_remedy(reason), after_s)


def _doubts(document: Document) -> Iterator[Fact]:
    is_unknown = _is_unknown(document)
    for text in section(document, "health").get("reasons") or ():
        reason = str(text)
        is_position = " unprotected: " in reason or reason.startswith("exit of ")
        # That what is held is not known has been told as the worse thing that it is.
        is_told = is_unknown and reason.startswith("position")
        if not is_position and not is_told and not reason.startswith(_JOURNAL_DOWN):
            subject = _NUMBERS.sub("#", reason)  # an age that grows is no other trouble
            after_s, remedy = doubt_remedy(reason)
            yield Fact(Kind.UNHEALTHY, subject, _short(reason), remedy, after_s)


def worth_of(document: Document) -> Decimal:
    """What the open positions would fetch, in dollars, at their entry price where no bid is known."""
    total = Decimal(0)
    for position in rows(document.get("positions")):
        if not awaits_settlement(position):
            price = position.get("exit_value") or position.get("entry_price") or "0"
            total += Decimal(str(position.get("count") or "0")) * Decimal(str(price))
    return total


def _wall(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp() if text else None
    except ValueError:
        return None


def _cents(value: Decimal) -> str:
    return f"{value:.2f}"


def _triggered(view: EpisodeView) -> str:
    at = "" if view.trigger_price is None else f" at {dollars_text(view.trigger_price)}"
    return f"{view.ticker}: {view.reason}{at}"


def _blocked_exit(view: EpisodeView) -> str:
    return _with(f"{_triggered(view)} triggered, but BLOCKED: {view.why}", episode_stake(view))


def _in_cents(amount: object) -> str:
    try:
        return _cents(Decimal(str(amount)))
    except ArithmeticError:
        return "unknown"


def _with(what: str, stake: str) -> str:
    return f"{what}; {stake}" if stake else what


def _result(view: EpisodeView) -> str:
    """What was gained or lost against the entry, fees of this sale included."""
    if view.average_price is None or view.entry_price is None or not view.entry_price.is_finite():
        return ""
    return f", result {view.filled * (view.average_price - view.entry_price) - view.fees:+.2f} dollars"


def _short(text: object) -> str:
    return str(text or "")[:TEXT_CHARACTERS_MAX]
