"""Buying below a configured fair price, on both sides."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from base.errors import ConfigError
from base.model.market import Market, MarketStatus, OutcomeSide, PriceSource, Quote
from base.model.position import Position
from base.strategy.interface import MarketView, OrderIntent, StrategyView, Watching
from base.strategy.value import Value

T = "KXHIGHNY-26NOV22-T60"
SETTINGS = {"STRATEGY_FAIR_PRICES": f"{T}=0.62", "STRATEGY_EDGE": "0.05"}
YES, NO = OutcomeSide.YES, OutcomeSide.NO


def market(
    bid: str,
    ask: str,
    *,
    size: str | None = "10",
    status: MarketStatus = MarketStatus.ACTIVE,
    position: Position | None = None,
    has_quote: bool = True,
) -> MarketView:
    shown = None if size is None else Decimal(size)
    quote = Quote(T, Decimal(bid), Decimal(ask), shown, shown, None, 0, 0.0, 0.0, PriceSource.WS, 1)
    return MarketView(Market(T, status=status), quote if has_quote else None, position)


def view(of: MarketView, now: float = 1_000.0) -> StrategyView:
    return StrategyView(now, {T: of}, {}, may_enter=True, feed_is_live=True, exposure_dollars=Decimal(0))


def sides(seen: StrategyView, strategy: Value | None = None) -> list[tuple[OutcomeSide, Decimal]]:
    intents = list((strategy or Value(SETTINGS)).decide(seen))
    assert all(isinstance(i, OrderIntent) and i.count == 5 for i in intents)
    return [(i.outcome_side, i.price) for i in intents]


HELD = Position(T, YES, Decimal(1), Decimal("0.5"))


@pytest.mark.parametrize(
    ("seen", "bought"),
    [
        (market("0.55", "0.57"), [(YES, Decimal("0.57"))]),
        (market("0.55", "0.58"), []),
        (market("0.67", "0.70"), [(NO, Decimal("0.33"))]),
        (market("0.66", "0.70"), []),
        (market("0.00", "0.57", size="0"), []),
        (market("0.00", "0.00"), []),
        (market("0.55", "0.57", size=None), [(YES, Decimal("0.57"))]),
        (market("0.55", "0.57", has_quote=False), []),
        (market("0.55", "0.57", status=MarketStatus.INACTIVE), []),
        (market("0.55", "0.57", position=HELD), []),
    ],
    ids=[
        "yes cheap enough by the edge",
        "yes not cheap enough",
        "no cheap enough: the mirror",
        "no not cheap enough",
        "an offer without size is none",
        "an empty book of zeros is no bargain",
        "an untold size is taken for real",
        "no fresh price",
        "paused",
        "already held",
    ],
)
def test_what_is_bought(seen: MarketView, bought: list[tuple[OutcomeSide, Decimal]]) -> None:
    assert sides(view(seen)) == bought


@pytest.mark.parametrize("change", [{"may_enter": False}, {"feed_is_live": False}])
def test_nothing_is_wished_for_while_entries_are_off_or_prices_come_slowly(change: dict[str, bool]) -> None:
    assert sides(replace(view(market("0.55", "0.57")), **change)) == []  # type: ignore[arg-type]


def test_a_stop_that_was_hit_is_not_answered_by_buying_again() -> None:
    strategy = Value({**SETTINGS, "STRATEGY_COOLDOWN_S": "600"})
    cheap = market("0.55", "0.57")
    assert sides(view(cheap, 1_000.0), strategy)
    assert sides(view(cheap, 1_599.0), strategy) == []
    assert sides(view(cheap, 1_600.0), strategy)


def test_it_watches_the_markets_that_it_was_given() -> None:
    strategy = Value({"STRATEGY_FAIR_PRICES": "A=0.5, B=0.25"})
    assert isinstance(strategy, Watching)
    assert set(strategy.watches()) == {"A", "B"}


@pytest.mark.parametrize(
    ("settings", "problems"),
    [
        ({}, 1),
        ({"STRATEGY_FAIR_PRICES": "A=1.5,B"}, 2),
        ({"STRATEGY_FAIR_PRICES": "A=0.5", "STRATEGY_EDGE": "nan", "STRATEGY_COUNT": "0"}, 2),
        ({"STRATEGY_FAIR_PRICES": "A=62"}, 1),
    ],
    ids=["nothing given", "not prices", "not numbers", "cents for dollars"],
)
def test_wrong_settings_are_told_all_at_once(settings: dict[str, str], problems: int) -> None:
    with pytest.raises(ConfigError) as wrong:
        Value(settings)
    assert len(wrong.value.problems) == problems
