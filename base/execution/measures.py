"""What the way from a price to an answered order tells of itself, as it happens.

Called on the hot path, on whatever thread is there: an implementation returns within a microsecond, does
no I/O and never raises.
"""

from __future__ import annotations

from typing import Protocol


class Measures(Protocol):
    """Told of what has just happened; durations in seconds."""

    def tick_decided(self, seconds: float) -> None:
        """A changed price of the stream was judged so long after its frame had come."""

    def exit_triggered(self, price_age_s: float) -> None:
        """An exit begins on a price of this age."""

    def order_answered(self, seconds: float) -> None:
        """An exit's first order was acknowledged so long after the decision to leave."""

    def exit_ended(self, reason: str, outcome: str) -> None:
        """An exit that began for this reason has ended so; both are of a closed set of words."""


class NoMeasures:
    """Nobody wants to know."""

    def tick_decided(self, seconds: float) -> None: ...
    def exit_triggered(self, price_age_s: float) -> None: ...
    def order_answered(self, seconds: float) -> None: ...
    def exit_ended(self, reason: str, outcome: str) -> None: ...
