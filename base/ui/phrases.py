"""Words of the status document for people: safe text, why a position is not protected, what to do. Pure."""

from __future__ import annotations

from typing import Any

UNKNOWN = "–"

_UNPROTECTED = {
    "no_bid": "nobody bids; nothing can sell it now, it is watched and its rule acts on the next bid",
    "below_floor": "the bid is below the floor; lower EXIT_FLOOR_DOLLARS if it should go at any price",
    "crossed": "its book is crossed, no price can be believed; it is read again until it can",
    "no_price": "no price is known; look at the feed above, and trade by hand if it must go",
    "stale_price": "its price is too old to act on; look at the feed above, and trade by hand if it must go",
    "paused": "trading in its market is paused; its rule acts when it opens again",
    "closed": "its market has closed; no order can leave it before it settles",
    "not_open": "its market is not open, or its status is not known; no order can leave it now",
    "not_checked": "the checker has not looked at it in time; see the threads, and restart if it lasts",
    "no_rule": "no rule would ever leave it; set STOP_LOSS_PCT, or give it a rule in RULES_FILE",
    "halted": "the kill switch is on and nothing is sent; remove the file halted in STATE_DIR",
    "by_choice": "left alone by choice (protect = false)",
    "hedged": "part of a set that cannot lose",
}
_PAUSES = {"weekly": "weekly maintenance", "hours": "outside trading hours"}


def plain(value: Any, missing: str = UNKNOWN) -> str:
    """Text of a value; what is not printable becomes a mark, since a terminal would obey foreign escapes."""
    if value is None or value == "":
        return missing
    return "".join(char if char.isprintable() else "�" for char in str(value))


def words(value: Any) -> str:
    """An identifier as words."""
    return plain(value).replace("_", " ")


def unprotected_text(reason: Any) -> str:
    """Why a position is not protected, and what to do; a reason of a newer kind is shown as it is."""
    return _UNPROTECTED.get(str(reason), words(reason))


def pause_text(why: Any) -> str:
    return _PAUSES.get(str(why), words(why))
