"""When an alert is said, repeated and resolved, and what its message reads like. Pure.

A trouble is said once it has lasted as long as its kind demands, again while it lasts (`REPEATS_S`), and once
more when it is over. Messages of one kind are at least `GROUP_S` apart, and what came meanwhile shares the
next one: a hundred exits at once are a handful of messages. Times are monotonic except where named wall.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from base.app.alert_facts import (
    Document,
    Fact,
    Kind,
    ahead,
    begun_exit,
    end_of,
    ended_exit,
    span_text,
    troubles,
)
from base.execution.exits import EpisodeView

GROUP_S = 10.0
EQUAL_S = 60.0
"""An error of the log that comes again within this is one with a count."""
REPEATS_S = (300.0, 900.0, 3_600.0)
"""After its first message a trouble is repeated then, and every hour from the last on."""
OVER_AFTER_S = 10.0
"""What comes back within this was never over: it flaps."""
LINES_MAX = 20
ITEMS_MAX = 1_000
EQUAL_MAX = 200
EXITS_REMEMBERED = 1_000
_ACCOUNTS = {"prod": "LIVE", "demo": "DEMO", "sandbox": "SANDBOX"}
"""What an environment's account is called where its orders are sent."""


class Phase(StrEnum):
    """Where in the life of a trouble a message stands."""

    NEW = "new"
    LASTS = "lasts"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Sender:
    """Who speaks: every message begins with it, and with whether real money is at stake."""

    env: str
    is_paper: bool
    host: str

    def __str__(self) -> str:
        return f"{'PAPER' if self.is_paper else _ACCOUNTS[self.env]} {self.host}"


@dataclass(frozen=True, slots=True)
class Message:
    """One message to every channel: `lines` are its facts, `remedies` what to do about them."""

    kind: Kind
    phase: Phase
    count: int
    lines: tuple[str, ...]
    remedies: tuple[str, ...]

    @property
    def is_urgent(self) -> bool:
        return self.kind.is_urgent and self.phase is not Phase.OVER

    @property
    def is_good(self) -> bool:
        return self.kind.is_good or self.phase is Phase.OVER

    @property
    def headline(self) -> str:
        prefix = {Phase.NEW: "", Phase.LASTS: "STILL ", Phase.OVER: "resolved: "}[self.phase]
        return prefix + self.kind.headline(self.count)


@dataclass(slots=True)
class _Trouble:
    fact: Fact
    since: float
    said_at: float | None = None
    times_said: int = 0
    gone_at: float | None = None


@dataclass(slots=True)
class _Item:
    fact: Fact
    text: str
    count: int = 1


@dataclass(slots=True)
class _Group:
    """What the next message of one kind and phase will say; `said_at` is when the last one went."""

    items: OrderedDict[str, _Item] = field(default_factory=OrderedDict)
    said_at: float = float("-inf")
    left_out: int = 0


@dataclass(slots=True)
class _Equal:
    fact: Fact
    since: float
    held_back: int = 0


class AlertRules:
    """Takes what is true each second, and hands out the messages that are due. Owned by one thread.

    Exits that were over before `started_at` (wall time) are no news.
    """

    def __init__(self, started_at: float) -> None:
        self._started_at = started_at
        self._troubles: dict[tuple[Kind, str], _Trouble] = {}
        self._groups: dict[tuple[Kind, Phase], _Group] = {}
        self._exits: OrderedDict[str, bool] = OrderedDict()  # episode -> closed
        self._ahead: dict[Kind, tuple[str, int]] = {}  # what is coming, and how often it was told
        self._equal: OrderedDict[tuple[Kind, str], _Equal] = OrderedDict()

    def look(self, document: Document, exits: Sequence[EpisodeView], now: float, wall: float) -> None:
        """Take in what is true now."""
        current = {fact.key: fact for fact in troubles(document, exits, wall)}
        told = {fact.key for fact in current.values() if self._go_on(fact, now, wall)}
        self._follow_exits(exits, {ticker for kind, ticker in told if kind is Kind.EXIT_BLOCKED}, wall)
        for key in self._troubles.keys() - current.keys():
            self._end(key, document, now, wall)
        for fact, times in ahead(document, wall):
            self._tell_ahead(fact, times, wall)

    def note(self, fact: Fact, wall: float) -> None:
        """Say something that does not last."""
        self._add(Phase.NEW, fact, f"{fact.what}, {clock_text(wall)}")

    def note_error(self, event: str, what: str, remedy: str, now: float, wall: float) -> None:
        """Say an error of the log; one that was said within a minute is only counted."""
        fact = Fact(Kind.ERROR, event, what, remedy)
        known = self._equal.get(fact.key)
        if known is not None and now - known.since < EQUAL_S:
            known.fact, known.held_back = fact, known.held_back + 1
            return
        self._equal[fact.key] = _Equal(fact, now)
        self._equal.move_to_end(fact.key)
        if len(self._equal) > EQUAL_MAX:
            self._equal.popitem(last=False)
        self.note(fact, wall)

    def take(self, now: float, wall: float, *, at_once: bool = False) -> list[Message]:
        """The messages that are due; `at_once` leaves nothing for later."""
        for key, equal in list(self._equal.items()):
            if at_once or now - equal.since >= EQUAL_S:
                del self._equal[key]
                if equal.held_back:
                    text = f"{equal.fact.what}, {equal.held_back} times more until {clock_text(wall)}"
                    self._add(Phase.NEW, equal.fact, text, count=equal.held_back)
        due = []
        for (kind, phase), group in self._groups.items():
            if group.items and (at_once or now - group.said_at >= GROUP_S):
                due.append(_message(kind, phase, group))
                group.items, group.said_at, group.left_out = OrderedDict(), now, 0
        return sorted(due, key=lambda message: not message.is_urgent)

    # --- what lasts ---------------------------------------------------------------------------------

    def _go_on(self, fact: Fact, now: float, wall: float) -> bool:
        """Return whether it is said now for the first time."""
        if fact.kind is Kind.EXIT_FAILED and (Kind.EXIT_BLOCKED, fact.subject) in self._troubles:
            return False  # a blocked exit that is being probed
        trouble = self._troubles.get(fact.key)
        if trouble is None:
            known_for_s = 0.0 if fact.since is None else max(0.0, wall - fact.since)
            trouble = self._troubles[fact.key] = _Trouble(fact, now - known_for_s)
        trouble.fact, trouble.gone_at = fact, None
        lasted_s = now - trouble.since
        if trouble.said_at is None:
            if lasted_s >= fact.after_s:
                trouble.said_at, trouble.times_said = now, 1
                self._add(Phase.NEW, fact, f"{fact.what}, since {clock_text(wall - lasted_s)}")
                return True
        elif fact.kind.is_repeated and now - trouble.said_at >= _repeat_after_s(trouble.times_said):
            trouble.times_said += 1
            since = f"since {clock_text(wall - lasted_s)}, for {span_text(lasted_s)} now"
            self._add(Phase.LASTS, fact, f"{fact.what}, {since}")
        return False

    def _end(self, key: tuple[Kind, str], document: Document, now: float, wall: float) -> None:
        trouble = self._troubles[key]
        if trouble.said_at is None:
            del self._troubles[key]
            return
        kind, ticker = key
        if kind is Kind.EXIT_FAILED and (Kind.EXIT_BLOCKED, ticker) in self._troubles:
            del self._troubles[key]  # what was late is blocked now, and said as such
            return
        if trouble.gone_at is None:
            trouble.gone_at = now
        if now - trouble.gone_at >= OVER_AFTER_S:
            del self._troubles[key]
            lasted = span_text(trouble.gone_at - trouble.since)
            at = clock_text(wall - (now - trouble.gone_at))
            self._add(Phase.OVER, trouble.fact, f"{end_of(trouble.fact, document)}, {at}, after {lasted}")

    # --- what happens once --------------------------------------------------------------------------

    def _follow_exits(self, exits: Sequence[EpisodeView], blocked: Set[str], wall: float) -> None:
        """`blocked` are the markets of exits whose being blocked has just been said: that tells the trigger
        too, and one that still waits to be told is taken back."""
        for view in exits:
            is_closed = view.state == "closed"
            if view.closed_at is not None and view.closed_at < self._started_at:
                continue
            if view.state == "blocked" and view.ticker in blocked:
                self._take_back(Kind.EXIT_TRIGGERED, view.id)
            elif view.id not in self._exits:
                began = begun_exit(view)
                self._add(Phase.NEW, began, f"{began.what}, {clock_text(view.opened_at)}", item=view.id)
            if is_closed and not self._exits.get(view.id, False):
                ended = ended_exit(view)
                at = wall if view.closed_at is None else view.closed_at
                self._add(Phase.NEW, ended, f"{ended.what}, {clock_text(at)}", item=view.id)
            self._exits[view.id] = is_closed
        while len(self._exits) > max(EXITS_REMEMBERED, len(exits)):
            self._exits.popitem(last=False)

    def _take_back(self, kind: Kind, item: str) -> None:
        group = self._groups.get((kind, Phase.NEW))
        if group is not None:
            group.items.pop(item, None)

    def _tell_ahead(self, fact: Fact, times: int, wall: float) -> None:
        """Each time of warning once; what was missed meanwhile is not made up for."""
        subject, told = self._ahead.get(fact.kind, ("", 0))
        if subject != fact.subject:
            told = 0
        if times > told:
            self.note(fact, wall)
        self._ahead[fact.kind] = (fact.subject, max(times, told))

    def _add(self, phase: Phase, fact: Fact, text: str, *, count: int = 1, item: str = "") -> None:
        group = self._groups.setdefault((fact.kind, phase), _Group())
        key = item or fact.subject
        if key in group.items:
            group.items[key].text, group.items[key].fact = text, fact
            group.items[key].count += count
        elif len(group.items) < ITEMS_MAX:
            group.items[key] = _Item(fact, text, count)
        else:
            group.left_out += 1


def render(messages: Sequence[Message], dropped: int, sender: Sender) -> tuple[str, str]:
    """Title and text of what is sent at once: one message, or several that had to wait, summed up."""
    ordered = sorted(messages, key=lambda message: not message.is_urgent)
    lines: list[str] = []
    for message in ordered:
        if len(messages) > 1:
            lines.append(f"{message.headline}:")
        lines += message.lines
    if len(lines) > 2 * LINES_MAX:
        lines[2 * LINES_MAX :] = [f"… and {len(lines) - 2 * LINES_MAX} lines more: see /api/status"]
    if dropped:
        lines.append(f"{dropped} alerts were dropped: more came than could be sent; see the log")
    remedies = list(dict.fromkeys(r for message in ordered for r in message.remedies))
    # The whole name before the text: where a service shows no title, it must be in what is read.
    headlines = "; ".join(message.headline for message in ordered[:5]) + ("; …" if len(ordered) > 5 else "")
    head = headlines if len(messages) == 1 else f"{len(messages)} alerts: {headlines}"
    todo = [f"To do: {'; '.join(remedies[:5])}"] if remedies else []
    return f"[{sender}] {head}", "\n".join([*lines, *todo])


def clock_text(wall: float) -> str:
    """A wall time for somebody who reads it hours later, perhaps in another zone."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _message(kind: Kind, phase: Phase, group: _Group) -> Message:
    items = list(group.items.values())
    lines = [
        f"{i.text} ({i.count} times)" if i.count > 1 and kind is not Kind.ERROR else i.text for i in items
    ]
    count = len(items) + group.left_out
    if count > LINES_MAX:
        lines[LINES_MAX:] = [f"… and {count - LINES_MAX} more"]
    remedies: tuple[str, ...] = ()
    if phase is not Phase.OVER:
        remedies = tuple(dict.fromkeys(i.fact.remedy for i in items if i.fact.remedy))
    return Message(kind, phase, count, tuple(lines), remedies)


def _repeat_after_s(times_said: int) -> float:
    """How long after its first message a trouble is said again."""
    if times_said <= len(REPEATS_S):
        return REPEATS_S[times_said - 1]
    return REPEATS_S[-1] * (times_said - len(REPEATS_S) + 1)
