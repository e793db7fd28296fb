"""Positions of one event that leave together. Pure: values in, values out.

Whatever rule leaves a position, a take-profit and a time stop included, the others of its event that are
held at that moment and whose own rule says `exit_with_event` are marked to go too. What is closed by hand
marks nothing, and neither does a position that goes along: its companions have been marked already, and
what is opened while the slowest of them is sold is a new bet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from base.model.market import Market
from base.model.position import Position
from base.model.rules import ExitReason, ExitRule

TAKES_ALONG = frozenset(
    {
        ExitReason.STOP_LOSS,
        ExitReason.BREAK_EVEN,
        ExitReason.TRAILING_STOP,
        ExitReason.TIME_STOP,
        ExitReason.TAKE_PROFIT,
    }
)
"""The reasons for which a position takes the rest of its event along."""


def event_of(market: Market) -> str:
    """The event of a market; where the exchange has not told it yet, its ticker up to the last dash."""
    return market.event_ticker or market.ticker.rpartition("-")[0] or market.ticker


def goes_along(rule: ExitRule) -> bool:
    """Whether a position under this rule leaves with another one of its event."""
    return rule.exit_with_event and rule.protect and not rule.hedged


def why_along(ticker: str, reason: ExitReason) -> str:
    """Why another position goes with the one in `ticker`, for people."""
    return f"{ticker} was left by its {reason.value}"


def by_event(held: Iterable[Market]) -> dict[str, list[str]]:
    """The tickers of what is held, by event."""
    groups: dict[str, list[str]] = {}
    for market in held:
        groups.setdefault(event_of(market), []).append(market.ticker)
    return groups


def companions(left: Market, groups: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The tickers of the other positions of the event of `left`; `groups` as `by_event` gives them."""
    return tuple(ticker for ticker in groups.get(event_of(left), ()) if ticker != left.ticker)


def was_held_at(position: Position, wall: float) -> bool:
    """Whether this very position was there at a moment; one of unknown age counts as old."""
    return position.opened_at is None or position.opened_at <= wall
