"""Buy all of an event's markets at once where that costs less than it pays, whatever happens.

STRATEGY=riskless_set
STRATEGY_SERIES=KXHIGHNY, KXHIGHCHI    events of these series, and
STRATEGY_EVENTS=KXFED-26DEC            these events are looked at
STRATEGY_MIN_GAIN=0.01        dollars that a set must gain at the least, after fees
STRATEGY_COUNT=10             sets bought at once at the most
STRATEGY_SET_COST_DOLLARS=50  what one purchase may cost in all, fees included
STRATEGY_COOLDOWN_S=60        after an attempt, no other one in the same event for so long
STRATEGY_EXHAUSTIVE_EVENTS=   events or series of which one market certainly ends YES
STRATEGY_SAME_CLOSE=yes       only events whose markets close at the same time
STRATEGY_FEE_MULTIPLIER=1     the series' own, where it is not 1

In a mutually exclusive event at most one market ends YES. So NO of all n markets pays at least n − 1
dollars, and a set is bought where the NO asks and their fees come to less than that. YES of all pays a
dollar only where one of the markets certainly ends YES, which the exchange does not promise: it is done
only for events that STRATEGY_EXHAUSTIVE_EVENTS names.

Riskless it is as long as the exchange settles as it says. Not covered:
- a market that is voided, or settled at a price between 0 and 1, pays what the exchange then decides;
- legs are bought one after the other: if a later one is gone, the earlier ones are sold again at what is
  bid then, which costs the spread and two fees (the scarcest leg goes first to make that rare);
- an event of more than 20 markets is left alone: its legs would take too long;
- money comes back at the settlement, which may be long after the close; a market that can close early may
  be settled before the others, and then the rest is no whole set any more and comes under its rules;
- a leg that is sold alone, by hand or by a partial `flatten`, likewise;
- a paused market keeps its leg as it is; the others stay hedged by it, because nothing need be sold;
- where the exchange keeps the account in whole cents, an order may cost up to a cent more than counted here
  (STRATEGY_MIN_GAIN times the sets must be more than a cent a leg to rule that out).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal, InvalidOperation

from base.errors import ConfigError
from base.model.fees import affordable_count, taker_fee
from base.model.market import ONE, ZERO, Event, MarketStatus, OutcomeSide
from base.strategy.interface import Intent, MarketFilter, MarketView, OrderIntent, SetIntent, StrategyView

COUNT_STEP = Decimal("0.01")
COUNT_MIN = ONE
"""Less than one set is not worth the orders."""
LEGS_MAX = 20
"""Legs go out one after the other within seconds; more of them do not, at ten orders a second."""
CLOSE_TOLERANCE_S = 1.0


@dataclass(frozen=True, slots=True)
class SetTerms:
    """What a set must bring and may cost; dollars."""

    min_gain: Decimal
    count_max: Decimal
    cost_max: Decimal
    fee_multiplier: Decimal = ONE
    same_close: bool = True


@dataclass(frozen=True, slots=True)
class Leg:
    """One market of a set: what a contract costs now and how many are offered at that."""

    ticker: str
    ask: Decimal
    size: Decimal


@dataclass(frozen=True, slots=True)
class SetOffer:
    """`count` sets of an event, each leg at its displayed ask, the scarcest leg first; dollars in all."""

    event: str
    outcome_side: OutcomeSide
    legs: tuple[Leg, ...]
    count: Decimal
    cost: Decimal
    fees: Decimal

    @property
    def payout(self) -> Decimal:
        """What it pays at the least."""
        return self.count * payout_of_set(self.outcome_side, len(self.legs))

    @property
    def gain(self) -> Decimal:
        return self.payout - self.cost - self.fees


class RisklessSet:
    """See the module's text."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        problems: list[str] = []
        self._series = _names(settings, "STRATEGY_SERIES")
        self._events = _names(settings, "STRATEGY_EVENTS")
        self._exhaustive = frozenset(_names(settings, "STRATEGY_EXHAUSTIVE_EVENTS"))
        if not self._series and not self._events:
            problems.append(
                "STRATEGY_SERIES and STRATEGY_EVENTS are empty: `riskless_set` needs at least one of them"
            )
        self._terms = SetTerms(
            min_gain=_read_number(settings, "STRATEGY_MIN_GAIN", "0.01", Decimal("0.0001"), ONE, problems),
            count_max=_read_number(settings, "STRATEGY_COUNT", "10", ONE, Decimal(100_000), problems),
            cost_max=_read_number(
                settings, "STRATEGY_SET_COST_DOLLARS", "50", Decimal("0.01"), Decimal(1_000_000), problems
            ),
            fee_multiplier=_read_number(
                settings, "STRATEGY_FEE_MULTIPLIER", "1", ZERO, Decimal(10), problems
            ),
            same_close=_read_flag(settings, "STRATEGY_SAME_CLOSE", True, problems),
        )
        self._cooldown_s = float(
            _read_number(settings, "STRATEGY_COOLDOWN_S", "60", ZERO, Decimal(10_000_000), problems)
        )
        if problems:
            raise ConfigError(problems)
        self._tried_at: dict[str, float] = {}

    def watches(self) -> Iterable[MarketFilter]:
        return (
            *(MarketFilter(series=series) for series in self._series),
            *(MarketFilter(event=event) for event in self._events),
        )

    def decide(self, view: StrategyView) -> Iterable[Intent]:
        if not view.may_enter or not view.feed_is_live:
            return []
        taken = {*view.positions, *(order.ticker for order in view.orders.values() if order.state.may_fill)}
        offers = []
        for event in view.events.values():
            if not self._is_wanted(event) or self._is_cooling(event.ticker, view.now):
                continue
            if taken.isdisjoint(event.market_tickers):
                offers += self._offers(event, view)
        offers.sort(key=lambda offer: offer.gain, reverse=True)
        intents = []
        for offer in offers:
            if not self._is_cooling(offer.event, view.now):  # NO and YES of one event: the better one
                self._tried_at[offer.event] = view.now
                intents.append(_intent(offer))
        return intents

    def _is_wanted(self, event: Event) -> bool:
        return event.ticker in self._events or _series_of(event) in self._series

    def _is_cooling(self, event: str, now: float) -> bool:
        tried = self._tried_at.get(event)
        return tried is not None and (now == tried or now - tried < self._cooldown_s)

    def _offers(self, event: Event, view: StrategyView) -> list[SetOffer]:
        sides = [OutcomeSide.NO]
        if event.ticker in self._exhaustive or _series_of(event) in self._exhaustive:
            sides.append(OutcomeSide.YES)
        found = (offer_of(event, side, view.markets, view.now, self._terms) for side in sides)
        return [offer for offer in found if isinstance(offer, SetOffer)]


def payout_of_set(side: OutcomeSide, legs: int) -> Decimal:
    """Dollars that one set pays at the least; of YES legs, where one of them certainly ends YES."""
    return Decimal(legs - 1) if side is OutcomeSide.NO else ONE


def offer_of(
    event: Event, side: OutcomeSide, markets: Mapping[str, MarketView], now: float, terms: SetTerms
) -> SetOffer | str:
    """The best purchase of sets that the displayed asks allow now, or why there is none."""
    if not event.mutually_exclusive:
        return "its markets do not exclude each other"
    if len(event.market_tickers) < 2 or len(set(event.market_tickers)) < len(event.market_tickers):
        return "a set needs two markets"
    if len(event.market_tickers) > LEGS_MAX:
        return f"its {len(event.market_tickers)} markets are too many to buy within seconds"
    legs: list[Leg] = []
    closes: list[float | None] = []
    for ticker in event.market_tickers:
        leg = _leg(markets.get(ticker), ticker, event, side, now)
        if isinstance(leg, str):
            return f"{ticker}: {leg}"
        legs.append(leg)
        closes.append(markets[ticker].market.close_time)
    if terms.same_close and not _is_one_time(closes):
        return "its markets do not close at the same time"
    legs.sort(key=lambda leg: (leg.size, leg.ticker))
    offer = price_set(event.ticker, side, tuple(legs), terms)
    if offer.count < COUNT_MIN:
        return "less than one set can be had"
    if offer.gain < terms.min_gain * offer.count:
        return f"{offer.count} sets would gain {offer.gain}"
    return offer


def price_set(event: str, side: OutcomeSide, legs: tuple[Leg, ...], terms: SetTerms) -> SetOffer:
    """As many sets as are offered, wanted and affordable, and what they cost with all fees."""
    prices = tuple(leg.ask for leg in legs)
    count = min(
        terms.count_max,
        affordable_count(terms.cost_max, prices, terms.fee_multiplier),
        *(leg.size for leg in legs),
    ).quantize(COUNT_STEP, ROUND_FLOOR)
    fees = sum((taker_fee(count, price, terms.fee_multiplier) for price in prices), ZERO)
    return SetOffer(event, side, legs, count, count * sum(prices, ZERO), fees)


def _leg(seen: MarketView | None, ticker: str, event: Event, side: OutcomeSide, now: float) -> Leg | str:
    if seen is None:
        return "not in view"
    if seen.market.event_ticker not in ("", event.ticker):
        return f"belongs to {seen.market.event_ticker}"
    if seen.market.status_at(now) is not MarketStatus.ACTIVE:
        return "not open"
    if seen.position is not None:
        return "held"
    if seen.quote is None:
        return "no fresh price"
    ask, size = seen.quote.best_ask(side), seen.quote.ask_size(side)
    if not ZERO < ask < ONE or size is None or not size.is_finite() or size <= ZERO:
        return "nobody is known to offer"
    return Leg(ticker, ask, size)


def _is_one_time(closes: list[float | None]) -> bool:
    known = [close for close in closes if close is not None]
    return len(known) == len(closes) and max(known) - min(known) <= CLOSE_TOLERANCE_S


def _series_of(event: Event) -> str:
    return event.series_ticker or event.ticker.partition("-")[0]


def _intent(offer: SetOffer) -> SetIntent:
    why = (
        f"{offer.count} × {offer.outcome_side.value} of all {len(offer.legs)} markets of {offer.event} cost"
        f" {offer.cost + offer.fees} with fees and pay at least {offer.payout}"
    )
    return SetIntent(
        tuple(OrderIntent(leg.ticker, offer.outcome_side, offer.count, leg.ask, why) for leg in offer.legs),
        why,
    )


def _names(settings: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(p.strip() for p in settings.get(name, "").split(",") if p.strip()))


def _read_flag(settings: Mapping[str, str], name: str, default: bool, problems: list[str]) -> bool:
    text = settings.get(name, "").strip().lower()
    if text in ("", "yes", "no"):
        return default if not text else text == "yes"
    problems.append(f"{name}={text!r} is neither yes nor no")
    return default


def _read_number(
    settings: Mapping[str, str], name: str, default: str, low: Decimal, high: Decimal, problems: list[str]
) -> Decimal:
    text = settings.get(name, "").strip() or default
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or not low <= number <= high:
        problems.append(f"{name}={text!r} is not a number from {low} to {high}")
        return Decimal(default)
    return number
