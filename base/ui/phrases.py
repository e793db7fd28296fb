"""Codes of the status document in words: why a position is held, left or not protected, what to do. Pure.

The one table of them. The page says the same in the same words (`REASONS` in verdicts.js), which a test
holds; a code of a newer kind is shown as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNKNOWN = "–"


@dataclass(frozen=True, slots=True)
class Phrase:
    """What a code says, and what the reader can do or may expect."""

    says: str
    to_do: str = ""


_BY_HAND = "look at the feed above, and trade by hand if it must go"

PHRASES: Mapping[str, Phrase] = {
    # Why a position is kept (`HoldReason`) or not protected; those that tell what to do are loud.
    "within_rules": Phrase("within its rules"),
    "guarded": Phrase("a rule has triggered, a guard delays it"),
    "hold_below": Phrase("a rule has triggered, held below the least that its rule sells at"),
    "no_stop_near_close": Phrase("a stop has triggered, stops rest so near the close"),
    "by_choice": Phrase("left alone by choice (protect = false)"),
    "hedged": Phrase("part of a set that cannot lose"),
    "no_rule": Phrase("no rule would ever leave it", "set STOP_LOSS_PCT, or give it a rule in RULES_FILE"),
    "no_price": Phrase("no price is known", _BY_HAND),
    "stale_price": Phrase("its price is too old to act on", _BY_HAND),
    "no_bid": Phrase(
        "nobody bids", "nothing can sell it now, it is watched and its rule acts on the next bid"
    ),
    "below_floor": Phrase(
        "the bid is below the floor", "lower EXIT_FLOOR_DOLLARS if it should go at any price"
    ),
    "crossed": Phrase("its book is crossed, no price can be believed", "it is read again until it can"),
    "paused": Phrase("trading in its market is paused", "its rule acts when it opens again"),
    "closed": Phrase("its market has closed", "no order can leave it before it settles"),
    "not_open": Phrase("its market is not open, or its status is not known", "no order can leave it now"),
    "not_checked": Phrase(
        "the checker has not looked at it in time", "see the threads, and restart if it lasts"
    ),
    "halted": Phrase("the kill switch is on and nothing is sent", "remove the file halted in STATE_DIR"),
    # Why a position is left (`ExitReason`).
    "stop_loss": Phrase("stop loss"),
    "break_even": Phrase("break even"),
    "trailing_stop": Phrase("trailing stop"),
    "time_stop": Phrase("time stop"),
    "event_group": Phrase("goes with another position of its event"),
    "take_profit": Phrase("take profit"),
    "set_broken": Phrase("part of a set that was not bought whole"),
    "flatten": Phrase("flatten was asked for"),
    # What stands in the way of an exit (`BlockedWhy`) beside the above.
    # After a while it leaves the position unprotected by the same word.
    "no_funds": Phrase("the exchange wants funds on this market's shard", "move some there, or sell by hand"),
    "auth": Phrase(
        "the key is refused", "check key id, key file and scopes (run_bot.py check), sell by hand meanwhile"
    ),
    "clock": Phrase("this machine's clock is off", "set it (timedatectl set-ntp true)"),
    "endpoint_gone": Phrase(
        "the exchange has retired this endpoint", "update this program, sell by hand meanwhile"
    ),
    "rate": Phrase("the exchange limits requests", "its exit goes on by itself"),
    "unreachable": Phrase("the exchange cannot be reached", "its exit goes on by itself when it can"),
    "rejected": Phrase(
        "the exchange refuses the order", "see its words in the log, sell by hand if it lasts"
    ),
    "no_fill": Phrase("nothing is filled at any price", "it is tried again and again, slower"),
    "market_closed": Phrase("its market has closed", "no order can leave it before it settles"),
    # How an exit has ended, where it has not sold.
    "filled": Phrase("sold"),
    "flat": Phrase("nothing was held any more"),
    "flipped": Phrase("the other side is held: traded by hand"),
    "position_changed": Phrase("what is held was changed by hand"),
    "price_left": Phrase("its price went away again"),
    "superseded": Phrase("a newer exit took its place"),
    "market_determined": Phrase("its market has ended"),
    "market_disputed": Phrase("its market has ended, and the result is disputed"),
    "market_amended": Phrase("its market has ended, and the result was amended"),
    "market_finalized": Phrase("its market has settled"),
}

PAUSES: Mapping[str, str] = {
    "weekly": "weekly maintenance",
    "maintenance": "announced maintenance",
    "hours": "outside trading hours",
}


def plain(value: Any, missing: str = UNKNOWN) -> str:
    """Text of a value; what is not printable becomes a mark, since a terminal would obey foreign escapes."""
    if value is None or value == "":
        return missing
    return "".join(char if char.isprintable() else "�" for char in str(value))


def words(value: Any) -> str:
    """An identifier as words."""
    return plain(value).replace("_", " ")


def says(code: Any) -> str:
    """What a code says; one of a newer kind says itself."""
    phrase = PHRASES.get(str(code))
    return words(code) if phrase is None else phrase.says


def unprotected_text(reason: Any) -> str:
    """Why a position is not protected, and what to do."""
    phrase = PHRASES.get(str(reason))
    return f"{says(reason)}; {phrase.to_do}" if phrase is not None and phrase.to_do else says(reason)


def pause_text(why: Any) -> str:
    return PAUSES.get(str(why), words(why))
