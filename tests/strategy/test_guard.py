"""The default strategy opens nothing."""

from __future__ import annotations

from decimal import Decimal

from base.strategy.guard import Guard
from base.strategy.interface import StrategyView, Watching


def test_guard_opens_nothing_and_watches_nothing() -> None:
    guard = Guard({"STRATEGY_COUNT": "5"})
    view = StrategyView(0.0, {}, {}, may_enter=True, feed_is_live=True, exposure_dollars=Decimal(0))
    assert list(guard.decide(view)) == []
    assert not isinstance(guard, Watching)
