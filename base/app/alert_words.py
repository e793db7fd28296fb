"""What an alert says to somebody who is woken by it: what to do, and how much money it is about. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from base.execution.exits import EpisodeView
from base.execution.refusals import BlockedWhy
from base.log import format_value
from base.model.rules import HoldReason
from base.risk.coverage import NOT_CHECKED
from base.risk.wording import dollars_text, number_text
from base.ui.document import rows

DOUBT_AFTER_S = 30.0
"""How long `/healthz` may name something before it is an alert: a start and a reconnect take a moment."""

_UNPROTECTED: dict[str, str] = {
    HoldReason.STALE_PRICE: BlockedWhy.NO_PRICE.remedy,
    HoldReason.CROSSED: "its book is crossed: no price of it can be believed until it is mended",
    HoldReason.NO_RULE: "no rule can ever sell it: give it a stop in RULES_FILE or STOP_LOSS_PCT",
    NOT_CHECKED: "the checker is late: a frozen one ends the daemon in a minute, and systemd starts it "
    "again; close by hand what cannot wait",
}
"""What `BlockedWhy`, which has the words for all that stops an exit too, does not know."""

NOT_KNOWN_REMEDY = (
    "the network, the key (run_bot.py check), the exchange's status page; look at the positions on its site"
)
_DOUBTS: tuple[tuple[str, float, str], ...] = (
    ("the rules file was refused", 0.0, "mend the file, then systemctl reload backstop (SIGHUP)"),
    (
        "another instance",
        0.0,
        "stop one of the two: both would sell what is held",
    ),
    (
        "the exchange's answers lack",
        0.0,
        "exits go on as far as they can: watch the positions on the exchange's site, and look for a newer "
        "version",
    ),
    (
        "the exchange refuses the API key",
        DOUBT_AFTER_S,
        "check key id, key file and scopes (run_bot.py check); close by hand what cannot wait",
    ),
    ("strategy ", DOUBT_AFTER_S, "protection goes on; mend the strategy, or set STRATEGY=guard, and restart"),
    (
        "thread strategy-loop",
        DOUBT_AFTER_S,
        "protection goes on; mend the strategy, or set STRATEGY=guard, and restart",
    ),
    (
        "thread ",
        DOUBT_AFTER_S,
        "part of the program does not get on: journalctl -u backstop -n 200, restart it if it lasts",
    ),
    (
        "position",
        DOUBT_AFTER_S,
        "what is held is not known for sure: the network, the key (run_bot.py check), the exchange's status "
        "page; look at the positions on its site",
    ),
)
"""How a reason of `/healthz` begins, how long it may last before it is told, and what to do."""

_ENTRIES_OFF: tuple[tuple[str, str], ...] = (
    ("a thread has died", "exits go on; restart the daemon when no exit is under way"),
    ("flatten", "exits go on; remove STATE_DIR/entries-blocked to let entries go on too"),
    (
        "positions have not been compared",
        "no position is known yet: the network, the key (run_bot.py check), the exchange's status page",
    ),
)

_ERRORS: dict[str, str] = {
    "pass_failed": "it is tried again by itself; run_bot.py check says more if it lasts",
    "strategy_failed": "protection goes on; mend the strategy, or set STRATEGY=guard, and restart",
    "thread_died": "protection goes on; restart the daemon when no exit is under way",
    "thread_stalled": "the daemon ends itself and systemd starts it again; without systemd start it",
    "thread_died_again": "the daemon ends itself and systemd starts it again; without systemd start it",
}
_UNTOLD_FIELDS = frozenset({"event", "why", "remedy", "path", "also_since_last", "stack"})


_ENDS = {
    "flat": "nothing is held any more (sold by hand, or settled)",
    "price_left": "the price has left its profit again",
    "position_changed": "another position is held now",
}


def end_text(why: str) -> str:
    """Why an exit ended, in words and in the word of the log."""
    return f"{_ENDS[why]} ({why})" if why in _ENDS else why or "over"


def unprotected_remedy(reason: str) -> str:
    """What blocks an exit for long leaves its position unprotected too, by the same word and with the same
    remedy."""
    return _UNPROTECTED.get(reason) or _blocked(reason) or "run_bot.py explain TICKER says why"


def blocked_remedy(why: str) -> str:
    return _blocked(why) or "it is probed until it goes out; close by hand if it lasts"


def _blocked(why: str) -> str:
    try:
        return BlockedWhy(why).remedy
    except ValueError:
        return ""


def doubt_remedy(reason: str) -> tuple[float, str]:
    """How long this reason of `/healthz` may last before it is told, and what to do."""
    for start, after_s, remedy in _DOUBTS:
        if reason.startswith(start):
            return after_s, remedy
    return DOUBT_AFTER_S, "look at /healthz and the log; restart if it lasts"


def entries_remedy(reason: str) -> str:
    for start, remedy in _ENTRIES_OFF:
        if reason.startswith(start):
            return remedy
    return "exits go on; the reason says when entries do"


def error_words(fields: Mapping[str, object]) -> tuple[str, str]:
    """An error of the log as a sentence that begins with its event, and what to do about it."""
    event = str(fields.get("event"))
    told = [f"{key} {_plain(value)}" for key, value in fields.items() if key not in _UNTOLD_FIELDS]
    why = _plain(fields["why"]) if fields.get("why") else ""
    remedy = str(fields.get("remedy") or "") or _ERRORS.get(event, "")
    default = "look at the log around this time: journalctl -u backstop -p warning"
    return ": ".join(part for part in (event, ", ".join(told), why) if part), remedy or default


def held_text(document: Mapping[str, Any], ticker: str) -> str:
    """What is held in a market and what it cost, "" when that is not known."""
    position = next((p for p in rows(document.get("positions")) if p.get("ticker") == ticker), None)
    if position is None:
        return ""
    try:
        count, entry = Decimal(str(position.get("count"))), Decimal(str(position.get("entry_price")))
    except ArithmeticError:
        return ""
    return stake_text(count, str(position.get("outcome_side") or ""), entry)


def stake_text(count: Decimal, side: str, entry_price: Decimal) -> str:
    """`10 YES bought at 0.60, 6.00 dollars`."""
    if not (count.is_finite() and entry_price.is_finite()):
        return f"{count} {side.upper()}"
    return (
        f"{number_text(count)} {side.upper()} bought at {dollars_text(entry_price)}, "
        f"{count * entry_price:.2f} dollars"
    )


def episode_stake(view: EpisodeView) -> str:
    """What an exit is to sell, "" when the view does not say."""
    if view.count is None or view.entry_price is None:
        return ""
    return stake_text(view.count, view.outcome_side, view.entry_price)


def _plain(value: object) -> str:
    text = format_value(value)
    return text[1:-1].replace('\\"', '"') if text.startswith('"') else text
