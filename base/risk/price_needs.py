"""Which prices are to be read through REST now, and why. Pure.

One batched read serves every ticker that needs it, so that a quiet minute costs one call and a dead feed
one call a sweep, however many positions there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from base.model.market import MarketStatus

UNCHANGED_S = 1.8
"""A price read less than this ago is not read again (the sweep comes every 2 s)."""
SETTLING_S = 60.0
"""How often a closed market is asked what became of it."""


WATCHED_S = 15.0
"""While the feed is down, how old the price of a market that is only watched may become: hundreds of them
must not stand in front of what is held."""


class Why(StrEnum):
    """In the order in which they are named when several apply."""

    FEED_DOWN = "feed_down"
    MISSING = "missing"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class MarketNeed:
    """What is known of one required market now; `age_s` is None without a quote."""

    ticker: str
    status: MarketStatus
    age_s: float | None
    stale_after_s: float
    is_confirmed: bool
    """The live feed vouches for its quote."""
    is_held: bool = True
    """Else only a strategy watches it: nothing is lost when its price is some seconds old."""


@dataclass(frozen=True, slots=True)
class Refresh:
    """One batched read: these tickers, for this reason."""

    tickers: tuple[str, ...]
    why: Why


def decide_refresh(markets: Iterable[MarketNeed], *, feed_is_live: bool) -> Refresh | None:
    """What to read now; None when every price is vouched for."""
    markets = list(markets)
    needed: dict[str, Why] = {}
    for m in markets:
        why = _why(m, feed_is_live)
        if why is not None:
            needed[m.ticker] = why
    if not needed:
        return None
    why = min(needed.values(), key=list(Why).index)
    # Others that would be due soon ride along: a hundred quiet markets then cost a read every half of
    # the stale age, not one each.
    riders = {
        m.ticker
        for m in markets
        if m.status.can_still_trade and m.age_s is not None and m.age_s > m.stale_after_s / 2
    }
    return Refresh(tuple(sorted({*needed, *riders})), why)


def _why(market: MarketNeed, feed_is_live: bool) -> Why | None:
    if market.age_s is None or market.status is MarketStatus.UNKNOWN:
        # However fresh a streamed price is: only REST says whether the market trades.
        return Why.MISSING
    if not market.status.can_still_trade:
        return Why.STALE if market.age_s > SETTLING_S else None
    if market.age_s <= UNCHANGED_S:
        return None
    if not feed_is_live:
        return Why.FEED_DOWN if market.is_held or market.age_s > WATCHED_S else None
    if not market.is_confirmed or market.status is not MarketStatus.ACTIVE:
        # Not vouched for by the stream, or paused: no event is certain to say that it trades again.
        return Why.MISSING
    return Why.STALE if market.age_s > market.stale_after_s else None
