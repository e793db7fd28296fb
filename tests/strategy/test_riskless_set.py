"""Sets that pay more than they cost whatever happens, and what is none."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.errors import ConfigError
from base.model.fees import taker_fee
from base.model.market import ONE, Event, Market, MarketStatus, OutcomeSide, PriceSource, Quote
from base.model.order import EntryOrder, EntryState
from base.model.position import Position
from base.strategy.interface import MarketFilter, MarketView, SetIntent, StrategyView, Watching
from base.strategy.riskless_set import LEGS_MAX, RisklessSet, SetOffer, SetTerms, offer_of, payout_of_set

D = Decimal
YES, NO = OutcomeSide.YES, OutcomeSide.NO
EVENT = "KXHIGHNY-26NOV22"
NOW, CLOSE = 1_000.0, 9_000.0
TERMS = SetTerms(min_gain=D("0.01"), count_max=D(10), cost_max=D(1_000))
SETTINGS = {"STRATEGY_SERIES": "KXHIGHNY", "STRATEGY_SET_COST_DOLLARS": "1000"}


def seen(
    name: str,
    bid: str,
    ask: str,
    *,
    bid_size: str | None = "50",
    ask_size: str | None = "50",
    status: MarketStatus = MarketStatus.ACTIVE,
    close: float | None = CLOSE,
    event: str = EVENT,
    has_quote: bool = True,
) -> MarketView:
    sizes = [None if s is None else D(s) for s in (bid_size, ask_size)]
    ticker = f"{EVENT}-{name}"
    quote = Quote(ticker, D(bid), D(ask), sizes[0], sizes[1], None, 0, 0.0, 0.0, PriceSource.WS, 1)
    market = Market(ticker, event, status, close_time=close)
    return MarketView(market, quote if has_quote else None, None)


def by_ticker(*markets: MarketView) -> dict[str, MarketView]:
    return {m.market.ticker: m for m in markets}


def event_of(markets: dict[str, MarketView], *, exclusive: bool = True) -> Event:
    return Event(EVENT, tuple(markets), exclusive, "KXHIGHNY")


# YES bids of 0.50, 0.40 and 0.30: NO costs 0.50 + 0.60 + 0.70 = 1.80 and pays 2.
CHEAP = by_ticker(seen("A", "0.50", "0.52"), seen("B", "0.40", "0.42"), seen("C", "0.30", "0.32"))
# Asks of 0.30, 0.30 and 0.28: YES costs 0.88 and pays 1 where one of them must end YES.
CHEAP_YES = by_ticker(seen("A", "0.20", "0.30"), seen("B", "0.20", "0.30"), seen("C", "0.20", "0.28"))


def with_one(markets: dict[str, MarketView], other: MarketView) -> dict[str, MarketView]:
    return markets | {other.market.ticker: other}


def test_the_arithmetic_of_a_set_of_no() -> None:
    offer = offer_of(event_of(CHEAP), NO, CHEAP, NOW, TERMS)
    assert isinstance(offer, SetOffer)
    assert (offer.count, offer.cost, offer.payout) == (10, D("18.00"), 20)
    assert offer.fees == D("0.1750") + D("0.1680") + D("0.1470")
    assert offer.gain == D("1.51")


def test_the_arithmetic_of_a_set_of_yes() -> None:
    offer = offer_of(event_of(CHEAP_YES), YES, CHEAP_YES, NOW, TERMS)
    assert isinstance(offer, SetOffer)
    assert (offer.count, offer.cost, offer.payout) == (10, D("8.80"), 10)
    assert offer.gain == D("1.20") - D("0.147") * 2 - D("0.1412")


@pytest.mark.parametrize(
    ("markets", "side"),
    [
        (with_one(CHEAP, seen("B", "0.20", "0.42")), NO),
        (with_one(CHEAP, seen("B", "0.25", "0.42")), NO),
        (with_one(CHEAP, seen("B", "0.40", "0.42", has_quote=False)), NO),
        (with_one(CHEAP, seen("B", "0.40", "0.42", status=MarketStatus.INACTIVE)), NO),
        (with_one(CHEAP, seen("B", "0.40", "0.42", close=NOW)), NO),
        (with_one(CHEAP, seen("B", "0.40", "0.42", close=CLOSE + 60)), NO),
        (with_one(CHEAP, seen("B", "0.40", "0.42", close=None)), NO),
        (with_one(CHEAP, seen("B", "0.40", "0.42", bid_size=None)), NO),
        (with_one(CHEAP, seen("B", "0.40", "0.42", bid_size="0.99")), NO),
        (with_one(CHEAP, seen("B", "0.00", "0.42", bid_size="0")), NO),
        (with_one(CHEAP, seen("B", "1.00", "1.00")), NO),
        (with_one(CHEAP, seen("B", "0.40", "0.42", event="KXHIGHNY-26NOV23")), NO),
        (by_ticker(seen("A", "0.50", "0.52")), NO),
        (CHEAP, YES),
        (with_one(CHEAP_YES, seen("C", "0.20", "1.00", ask_size="0")), YES),
        (with_one(CHEAP_YES, seen("C", "0.20", "0.40")), YES),
    ],
    ids=[
        "NO costs as much as it pays",
        "the fees eat the gain",
        "one price is not fresh",
        "one market is paused",
        "one market has closed",
        "one market closes later",
        "one close is not known",
        "one size is not known",
        "less than one set is offered",
        "nobody offers one leg",
        "a price of 0 is no price",
        "one market belongs to another event",
        "one market alone is no set",
        "YES asks sum to more than a dollar",
        "nobody offers one YES",
        "YES costs its dollar",
    ],
)
def test_what_is_no_set(markets: dict[str, MarketView], side: OutcomeSide) -> None:
    assert isinstance(offer_of(event_of(markets), side, markets, NOW, TERMS), str)


def test_a_market_that_is_not_in_view_makes_it_no_set() -> None:
    event = Event(EVENT, (*CHEAP, f"{EVENT}-D"), mutually_exclusive=True)
    assert isinstance(offer_of(event, NO, CHEAP, NOW, TERMS), str)


def test_an_event_whose_markets_do_not_exclude_each_other_is_no_set() -> None:
    assert isinstance(offer_of(event_of(CHEAP, exclusive=False), NO, CHEAP, NOW, TERMS), str)


def test_more_markets_than_can_be_bought_within_seconds_are_no_set() -> None:
    def many(count: int) -> dict[str, MarketView]:
        return by_ticker(*(seen(f"T{i:02d}", "0.20", "0.22") for i in range(count)))

    enough, too_many = many(LEGS_MAX), many(LEGS_MAX + 1)
    assert isinstance(offer_of(event_of(enough), NO, enough, NOW, TERMS), SetOffer)
    assert isinstance(offer_of(event_of(too_many), NO, too_many, NOW, TERMS), str)


def test_different_closes_are_taken_where_the_user_says_so() -> None:
    markets = with_one(CHEAP, seen("B", "0.40", "0.42", close=CLOSE + 60))
    offer = offer_of(event_of(markets), NO, markets, NOW, replace(TERMS, same_close=False))
    assert isinstance(offer, SetOffer)


@pytest.mark.parametrize(
    ("terms", "size", "count"),
    [
        (TERMS, "50", "10"),
        (TERMS, "7", "7"),
        (TERMS, "7.255", "7.25"),
        (replace(TERMS, count_max=D(80)), "60", "50"),
        (replace(TERMS, cost_max=D("18.49")), "50", "9.99"),
        (replace(TERMS, cost_max=D("18.50")), "50", "10"),
    ],
    ids=[
        "as many as the user wants",
        "as many as the scarcest leg offers",
        "never more than it offers",
        "as many as the others offer",
        "as many as the money buys, fees included",
        "more money than it costs",
    ],
)
def test_how_many_sets_are_bought(terms: SetTerms, size: str, count: str) -> None:
    markets = with_one(CHEAP, seen("B", "0.40", "0.42", bid_size=size))
    offer = offer_of(event_of(markets), NO, markets, NOW, terms)
    assert isinstance(offer, SetOffer)
    assert offer.count == D(count)
    assert offer.cost + offer.fees <= terms.cost_max


def test_the_minimum_gain_is_met_exactly_or_it_is_no_set() -> None:
    exactly = replace(TERMS, min_gain=D("0.151"))
    assert isinstance(offer_of(event_of(CHEAP), NO, CHEAP, NOW, exactly), SetOffer)
    a_little_more = replace(TERMS, min_gain=D("0.1511"))
    assert isinstance(offer_of(event_of(CHEAP), NO, CHEAP, NOW, a_little_more), str)


PRICE = st.integers(1, 99).map(lambda cents: D(cents) / 100)
SIZE = st.decimals("0.5", "40", places=2)


@given(
    quotes=st.lists(st.tuples(PRICE, SIZE), min_size=2, max_size=6),
    winner=st.integers(-1, 5),
    side=st.sampled_from([YES, NO]),
    data=st.data(),
)
def test_no_outcome_of_an_exclusive_event_loses_money(
    quotes: list[tuple[Decimal, Decimal]], winner: int, side: OutcomeSide, data: st.DataObject
) -> None:
    """Whichever market ends YES, or none of them (NO only), a set that is bought brings what it promised."""
    markets: dict[str, MarketView] = {}
    for i, (cost, size) in enumerate(quotes):
        bid, ask = (ONE - cost, ONE) if side is NO else (D(0), cost)
        markets |= by_ticker(seen(str(i), str(bid), str(ask), bid_size=str(size), ask_size=str(size)))
    terms = SetTerms(D("0.0001"), data.draw(SIZE), data.draw(st.decimals("1", "60", places=2)))
    offer = offer_of(event_of(markets), side, markets, NOW, terms)
    if isinstance(offer, str):
        return
    wins = winner % len(quotes) if side is YES or winner >= 0 else None
    paid = D(0)
    for i in range(len(quotes)):
        is_yes = i == wins
        paid += offer.count if is_yes is (side is YES) else 0
    spent = sum((offer.count * cost + taker_fee(offer.count, cost) for cost, _ in quotes), D(0))
    assert offer.count <= min(terms.count_max, *(size for _, size in quotes))
    assert spent == offer.cost + offer.fees <= terms.cost_max
    assert paid >= offer.payout == offer.count * payout_of_set(side, len(quotes))
    assert paid - spent >= offer.gain > 0


# --- the strategy -------------------------------------------------------------------------------------


def view(markets: dict[str, MarketView], now: float = NOW, **changes: object) -> StrategyView:
    event = event_of(markets)
    whole = StrategyView(
        now, markets, {}, may_enter=True, feed_is_live=True, exposure_dollars=D(0), events={EVENT: event}
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def sets(strategy: RisklessSet, shown: StrategyView) -> list[SetIntent]:
    intents = list(strategy.decide(shown))
    assert all(isinstance(i, SetIntent) for i in intents)
    return [i for i in intents if isinstance(i, SetIntent)]


def test_a_cheap_set_is_bought_the_scarcest_leg_first() -> None:
    markets = with_one(CHEAP, seen("B", "0.40", "0.42", bid_size="5"))
    (wanted,) = sets(RisklessSet(SETTINGS), view(markets))
    assert [leg.ticker.rpartition("-")[2] for leg in wanted.legs] == ["B", "A", "C"]
    assert {(leg.outcome_side, leg.count) for leg in wanted.legs} == {(NO, D(5))}
    assert [leg.price for leg in wanted.legs] == [D("0.60"), D("0.50"), D("0.70")]
    assert "pay at least 10" in wanted.why


@pytest.mark.parametrize(
    "changes",
    [
        {"may_enter": False},
        {"feed_is_live": False},
        {"events": {}},
        {"positions": {f"{EVENT}-A": Position(f"{EVENT}-A", NO, D(1), D("0.5"))}},
        {
            "orders": {
                "1": EntryOrder("1", f"{EVENT}-B", NO, D(1), D("0.5"), "", EntryState.RESTING, NOW),
            }
        },
        {"events": {"KXOTHER-1": Event("KXOTHER-1", tuple(CHEAP), True, "KXOTHER")}},
    ],
    ids=[
        "entries are off",
        "the feed is lost",
        "the event is not known",
        "a leg's market is held",
        "an order is open in a leg's market",
        "an event that nobody asked for",
    ],
)
def test_nothing_is_bought(changes: dict[str, object]) -> None:
    assert sets(RisklessSet(SETTINGS), view(CHEAP, **changes)) == []


def test_an_order_that_is_done_stands_in_nobodys_way() -> None:
    done = EntryOrder("1", f"{EVENT}-B", NO, D(1), D("0.5"), "", EntryState.DONE, NOW)
    assert len(sets(RisklessSet(SETTINGS), view(CHEAP, orders={"1": done}))) == 1


def test_after_an_attempt_the_event_is_left_alone_for_a_while() -> None:
    strategy = RisklessSet(SETTINGS | {"STRATEGY_COOLDOWN_S": "60"})
    assert len(sets(strategy, view(CHEAP))) == 1
    assert sets(strategy, view(CHEAP, NOW + 59.9)) == []
    assert len(sets(strategy, view(CHEAP, NOW + 60))) == 1


def test_yes_is_bought_only_of_what_the_user_calls_exhaustive() -> None:
    assert sets(RisklessSet(SETTINGS), view(CHEAP_YES)) == []
    for name in (EVENT, "KXHIGHNY"):
        strategy = RisklessSet(SETTINGS | {"STRATEGY_EXHAUSTIVE_EVENTS": name})
        (wanted,) = sets(strategy, view(CHEAP_YES))
        assert {leg.outcome_side for leg in wanted.legs} == {YES}


def test_of_several_events_the_larger_gain_comes_first() -> None:
    other = "KXHIGHNY-26NOV23"
    better: dict[str, MarketView] = {}
    for name, bid in (("A", "0.70"), ("B", "0.60")):
        ticker = f"{other}-{name}"
        at = seen(name, bid, "0.90")
        assert at.quote is not None
        better[ticker] = MarketView(
            replace(at.market, ticker=ticker, event_ticker=other), replace(at.quote, ticker=ticker), None
        )
    events = {EVENT: event_of(CHEAP), other: Event(other, tuple(better), True, "KXHIGHNY")}
    wanted = sets(RisklessSet(SETTINGS), replace(view(CHEAP), markets=CHEAP | better, events=events))
    assert [len(intent.legs) for intent in wanted] == [2, 3]


def test_it_says_which_series_and_events_it_watches() -> None:
    strategy = RisklessSet({"STRATEGY_SERIES": "KXA, KXB", "STRATEGY_EVENTS": "KXC-1"})
    assert isinstance(strategy, Watching)
    assert list(strategy.watches()) == [
        MarketFilter(series="KXA"),
        MarketFilter(series="KXB"),
        MarketFilter(event="KXC-1"),
    ]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "STRATEGY_SERIES"),
        (SETTINGS | {"STRATEGY_MIN_GAIN": "0"}, "STRATEGY_MIN_GAIN"),
        (SETTINGS | {"STRATEGY_MIN_GAIN": "NaN"}, "STRATEGY_MIN_GAIN"),
        (SETTINGS | {"STRATEGY_COUNT": "some"}, "STRATEGY_COUNT"),
        (SETTINGS | {"STRATEGY_SAME_CLOSE": "perhaps"}, "STRATEGY_SAME_CLOSE"),
        (SETTINGS | {"STRATEGY_COOLDOWN_S": "-1"}, "STRATEGY_COOLDOWN_S"),
    ],
    ids=["nothing to watch", "no gain", "not a number", "words", "neither yes nor no", "a negative time"],
)
def test_bad_settings_are_named(settings: dict[str, str], name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        RisklessSet(settings)
    assert len(refused.value.problems) == 1
    assert name in refused.value.problems[0]
