"""The default strategy: opens nothing and protects what is held."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from base.strategy.interface import OrderIntent, StrategyView


class Guard:
    """Returns no intent; protection needs no strategy."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        del settings  # it has none

    def decide(self, view: StrategyView) -> Iterable[OrderIntent]:
        return ()
