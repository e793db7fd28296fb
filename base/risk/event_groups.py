"""Positions of one event that leave together. Pure: values in, values out.

Whatever rule leaves a position, a take-profit and a time stop included, the others of its event that are
held at that moment and whose own rule says `exit_with_event` are marked to go too. What is closed by hand
marks nothing, and neither does a position that goes along: its companions have been marked already, and
what is opened while the slowest of them is sold is a new bet.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

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


def was_held_at(position: Position, wall: float) -> bool:
    """Whether this very position was there at a moment; one of unknown age counts as old."""
    return position.opened_at is None or position.opened_at <= wall


class EventIndex:
    """Which of what is held belongs to which event. Kept up to date while nothing is hurried, because an
    exit must not wait until a thousand positions have been asked for their event."""

    def __init__(self) -> None:
        self._events: dict[str, str] = {}  # by ticker
        self._tickers: dict[str, dict[str, None]] = {}  # by event, in the order in which they came

    def note(self, market: Market) -> None:
        """What is known of a held market now."""
        event, before = event_of(market), self._events.get(market.ticker)
        if event != before:
            self._forget(market.ticker)
            self._events[market.ticker] = event
            self._tickers.setdefault(event, {})[market.ticker] = None

    def keep_only(self, held: Collection[str]) -> None:
        for ticker in [t for t in self._events if t not in held]:
            self._forget(ticker)

    def missing(self, held: Mapping[str, object]) -> list[str]:
        """Of what is held, what has not been noted."""
        return sorted(held.keys() - self._events.keys())

    def companions(self, left: Market) -> tuple[str, ...]:
        """The tickers of the other positions of the event of `left`."""
        return tuple(ticker for ticker in self._tickers.get(event_of(left), ()) if ticker != left.ticker)

    def _forget(self, ticker: str) -> None:
        event = self._events.pop(ticker, None)
        if event is not None:
            del self._tickers[event][ticker]
            if not self._tickers[event]:
                del self._tickers[event]
