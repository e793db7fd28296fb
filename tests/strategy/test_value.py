"""Buying below a configured fair price, on both sides."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.errors import ConfigError
from base.model.market import BookSide, Market, MarketStatus, OutcomeSide, PriceSource, Quote
from base.model.order import EntryOrder, EntryState
from base.model.position import Fill, Position
from base.strategy.interface import (
    AmendIntent,
    CancelIntent,
    MarketView,
    OrderIntent,
    SetIntent,
    StrategyView,
    Watching,
)
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


# --- bidding and waiting ------------------------------------------------------------------------------


RESTING = {**SETTINGS, "STRATEGY_REST": "yes"}


HELD_NO = replace(HELD, outcome_side=NO)


def order(
    price: str = "0.57",
    *,
    side: OutcomeSide = YES,
    state: EntryState = EntryState.RESTING,
    filled: str = "0",
    name: str = "id",
) -> EntryOrder:
    return EntryOrder(name, T, side, Decimal(5), Decimal(price), "value", state, 0.0, Decimal(filled))


def tended(of: MarketView, *orders: EntryOrder, now: float = 1_000.0) -> StrategyView:
    held = {} if of.position is None else {T: of.position}
    return replace(view(of, now), orders={o.client_order_id: o for o in orders}, positions=held)


@pytest.mark.parametrize(
    ("seen", "bid"),
    [
        (market("0.50", "0.60"), (YES, "0.57")),
        (market("0.66", "0.70"), (NO, "0.33")),
        (market("0.50", "0.55"), (YES, "0.55")),
        (market("0.00", "1.00", size="0"), (YES, "0.57")),
        (market("0.55", "0.60", has_quote=False), None),
        (market("0.55", "0.60", status=MarketStatus.INACTIVE), None),
        (market("0.50", "0.60", position=HELD), None),
    ],
    ids=[
        "fair less the edge",
        "no is nearer to what it may cost",
        "no more than it is offered for",
        "an empty book is bid into",
        "no fresh price",
        "paused",
        "already held",
    ],
)
def test_what_is_bid_for(seen: MarketView, bid: tuple[OutcomeSide, str] | None) -> None:
    intents = list(Value(RESTING).decide(tended(seen)))
    wanted = [] if bid is None else [(bid[0], Decimal(bid[1]), True)]
    assert [(i.outcome_side, i.price, i.rests) for i in intents if isinstance(i, OrderIntent)] == wanted
    assert len(intents) == len(wanted)


def test_an_edge_that_leaves_no_price_bids_nothing() -> None:
    strategy = Value({**RESTING, "STRATEGY_EDGE": "0.99"})
    assert list(strategy.decide(tended(market("0.50", "0.60")))) == []


@pytest.mark.parametrize(
    ("seen", "resting", "does"),
    [
        (market("0.50", "0.60"), order("0.57"), []),
        (market("0.50", "0.55"), order("0.57"), [AmendIntent("id", price=Decimal("0.55"))]),
        (market("0.50", "0.60"), order("0.55"), [AmendIntent("id", price=Decimal("0.57"))]),
        (market("0.66", "0.70"), order("0.57"), []),
        (market("0.50", "0.60", has_quote=False), order("0.57"), [CancelIntent("id")]),
        (market("0.50", "0.60", status=MarketStatus.INACTIVE), order("0.57"), [CancelIntent("id")]),
        (market("0.50", "0.60", position=HELD_NO), order("0.57"), [CancelIntent("id")]),
        (market("0.50", "0.60", position=HELD), order("0.57", filled="1"), []),
        (market("0.50", "0.55"), order("0.57", state=EntryState.CANCELING), []),
        (market("0.50", "0.55"), order("0.57", state=EntryState.UNKNOWN), []),
    ],
    ids=[
        "as it should be",
        "the book fell below it",
        "the book came back",
        "the other side came nearer, but this one waits already",
        "no fresh price",
        "paused",
        "the other side is held",
        "partly filled, the rest still wanted",
        "on its way out",
        "nobody knows where it is",
    ],
)  # fmt: skip
def test_what_becomes_of_a_resting_order(
    seen: MarketView, resting: EntryOrder, does: list[AmendIntent | CancelIntent]
) -> None:
    intents = list(Value(RESTING).decide(tended(seen, resting)))
    assert all(i.why for i in intents if not isinstance(i, SetIntent))
    assert [replace(i, why="") for i in intents if not isinstance(i, SetIntent)] == does


def test_a_changed_fair_price_moves_the_order_and_a_market_gone_from_sight_cancels_it() -> None:
    dearer = Value({**RESTING, "STRATEGY_FAIR_PRICES": f"{T}=0.70"})
    (amend,) = dearer.decide(tended(market("0.50", "0.68"), order("0.57")))
    assert isinstance(amend, AmendIntent)
    assert amend.price == Decimal("0.65")
    (cancel,) = dearer.decide(replace(tended(market("0.50", "0.68"), order("0.57")), markets={}))
    assert isinstance(cancel, CancelIntent)


def test_of_two_orders_in_a_market_one_is_kept() -> None:
    intents = list(Value(RESTING).decide(tended(market("0.50", "0.60"), order(name="a"), order(name="b"))))
    assert [i.client_order_id for i in intents if isinstance(i, CancelIntent)] == ["b"]


def fill_of_ours(now: float) -> Fill:
    return Fill("t", "o", T, BookSide.BID, Decimal(1), Decimal("0.57"), Decimal(0), int(now * 1000))


@pytest.mark.parametrize("settings", [SETTINGS, RESTING], ids=["taking", "resting"])
@pytest.mark.parametrize(
    "entered",
    [
        tended(market("0.50", "0.60", position=HELD)),
        tended(market("0.50", "0.60"), order(filled="1")),
        replace(tended(market("0.50", "0.60")), fills=(fill_of_ours(1_000.0),)),
        replace(tended(market("0.50", "0.60"), order(filled="1")), may_enter=False),
    ],
    ids=["held", "partly filled", "bought and stopped out between two passes", "while entries are off"],
)
def test_after_an_entry_however_it_was_seen_the_market_cools_down(
    settings: dict[str, str], entered: StrategyView
) -> None:
    strategy = Value({**settings, "STRATEGY_COOLDOWN_S": "600"})
    list(strategy.decide(entered))
    cheap = market("0.50", "0.55")
    assert list(strategy.decide(tended(cheap, now=1_599.0))) == []
    assert len(list(strategy.decide(tended(cheap, now=1_600.0)))) == 1


def test_an_order_that_was_canceled_unfilled_is_placed_again() -> None:
    strategy = Value(RESTING)
    seen = market("0.50", "0.60")
    assert len(list(strategy.decide(tended(seen)))) == 1
    list(strategy.decide(tended(seen, order())))
    assert len(list(strategy.decide(tended(seen, now=1_001.0)))) == 1


@pytest.mark.parametrize(("text", "problems"), [("maybe", 1), ("Yes", 0), ("", 0), ("no", 0)])
def test_the_switch_is_yes_or_no(text: str, problems: int) -> None:
    settings = {**SETTINGS, "STRATEGY_REST": text}
    if not problems:
        assert Value(settings)
        return
    with pytest.raises(ConfigError) as wrong:
        Value(settings)
    assert len(wrong.value.problems) == problems


@given(
    st.decimals("0.01", "0.99", places=2), st.decimals("0", "0.5", places=2),
    st.integers(0, 99), st.integers(1, 100), st.booleans(),
)  # fmt: skip
def test_never_bids_more_than_fair_less_the_edge(
    fair: Decimal, edge: Decimal, bid: int, spread: int, rests: bool
) -> None:
    strategy = Value(
        {
            "STRATEGY_FAIR_PRICES": f"{T}={fair}",
            "STRATEGY_EDGE": str(edge),
            "STRATEGY_REST": "yes" if rests else "no",
        }
    )
    ask = min(100, bid + spread)
    for intent in strategy.decide(tended(market(str(Decimal(bid) / 100), str(Decimal(ask) / 100)))):
        assert isinstance(intent, OrderIntent)
        worth = fair if intent.outcome_side is YES else 1 - fair
        assert 0 < intent.price <= worth - edge
