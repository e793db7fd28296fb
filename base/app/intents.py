"""What a strategy returned, proved to be intents: the boundary between the user's values and ours.

All or nothing: one thing that is no intent and none of the pass is carried out, because half of what a
strategy that has gone wrong wanted is worth no more than the other half.

Only exact types pass. A subclass of Decimal, or of an intent, could run the user's code wherever one of
its numbers is looked at, on whatever thread that is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from typing import cast

from base.errors import BotError, WireError
from base.kalshi.wire import parse_ticker
from base.model.market import ONE, ZERO, OutcomeSide
from base.strategy.interface import AmendIntent, CancelIntent, Intent, MarketFilter, OrderIntent, SetIntent

INTENTS_MAX = 50
"""Intents taken from one pass; a strategy that returns more is cut off there."""
LEGS_MAX = 50
WATCHED_MAX = 500
FILTERS_MAX = 50
COUNT_MAX = Decimal(1_000_000)
SECONDS_MAX = 366 * 86_400.0
WHY_CHARACTERS_MAX = 200
ID_CHARACTERS_MAX = 64
SHOWN_CHARACTERS_MAX = 100


class NonsenseError(BotError):
    """A strategy returned something else than it may; says what."""


def read_intents(returned: object) -> tuple[list[Intent], bool]:
    """The intents that `decide` returned, and whether there were more than are taken.

    Raises NonsenseError, and whatever the iterable itself raises while it is read.
    """
    intents: list[Intent] = []
    for item in _iterate(returned, "decide()", "intents"):
        if len(intents) >= INTENTS_MAX:
            return intents, True
        try:
            intents.append(_intent(item))
        except NonsenseError as exc:
            raise NonsenseError(f"decide() returned {show(item)}: {exc}") from exc
    return intents, False


def read_watched(returned: object) -> tuple[frozenset[str], frozenset[MarketFilter]]:
    """Tickers and filters that `watches` returned. Raises like `read_intents`."""
    tickers: set[str] = set()
    filters: set[MarketFilter] = set()
    for item in _iterate(returned, "watches()", "tickers and MarketFilters"):
        try:
            if type(item) is MarketFilter:
                filters.add(_filter(item))
            else:
                tickers.add(_ticker(item))
        except NonsenseError as exc:
            raise NonsenseError(f"watches() returned {show(item)}: {exc}") from exc
        if len(tickers) > WATCHED_MAX or len(filters) > FILTERS_MAX:
            raise NonsenseError(
                f"watches() returned more than {WATCHED_MAX} tickers or {FILTERS_MAX} filters"
            )
    return frozenset(tickers), frozenset(filters)


def show(item: object) -> str:
    """What was returned, short; printing it is the user's code."""
    try:
        text = repr(item)
        return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[:SHOWN_CHARACTERS_MAX]}…"
    except BaseException:  # whatever it raises, exits included, it must not cost the name of the fault
        return f"an object of type {type(item).__name__} that cannot be printed"


def _iterate(returned: object, what: str, wanted: str) -> Iterable[object]:
    # A string is a list of one-letter strings, and no list of anything that was meant.
    if not isinstance(returned, Iterable) or isinstance(returned, str | bytes):
        raise NonsenseError(f"{what} returned {show(returned)}, which is no list of {wanted}")
    return returned


def _intent(item: object) -> Intent:
    if type(item) is OrderIntent:
        return _order(item)
    if type(item) is SetIntent:
        return _set(item)
    if type(item) is AmendIntent:
        return _amend(item)
    if type(item) is CancelIntent:
        return replace(item, client_order_id=_id(item.client_order_id), why=_why(item.why))
    raise NonsenseError("it is no intent")


def _order(item: OrderIntent) -> OrderIntent:
    if type(item.outcome_side) is not OutcomeSide:
        raise NonsenseError(f"outcome_side={show(item.outcome_side)} is no OutcomeSide")
    for name in ("rests", "post_only", "keep_on_feed_loss"):
        if type(getattr(item, name)) is not bool:
            raise NonsenseError(f"{name}={show(getattr(item, name))} is neither True nor False")
    if item.post_only and not item.rests:
        raise NonsenseError("post_only without rests could never be bought")
    _check_count(item.count)
    _check_price(item.price)
    _check_seconds("expires_after_s", item.expires_after_s)
    return replace(item, ticker=_ticker(item.ticker), why=_why(item.why))


def _set(item: SetIntent) -> SetIntent:
    if type(item.legs) is not tuple or not 2 <= len(item.legs) <= LEGS_MAX:
        raise NonsenseError(f"legs is no tuple of 2 to {LEGS_MAX} OrderIntents")
    legs = []
    for leg in item.legs:
        if type(leg) is not OrderIntent:
            raise NonsenseError(f"{show(leg)} among its legs is no OrderIntent")
        legs.append(_order(leg))
    if len({leg.ticker for leg in legs}) < len(legs):
        raise NonsenseError("two of its legs are in the same market")
    return replace(item, legs=tuple(legs), why=_why(item.why))


def _amend(item: AmendIntent) -> AmendIntent:
    if item.price is None and item.count is None:
        raise NonsenseError("neither price nor count is to be changed")
    if item.price is not None:
        _check_price(item.price)
    if item.count is not None:
        _check_count(item.count)
    return replace(item, client_order_id=_id(item.client_order_id), why=_why(item.why))


def _filter(item: MarketFilter) -> MarketFilter:
    for name, text in (("series", item.series), ("event", item.event)):
        if type(text) is not str:
            raise NonsenseError(f"{name}={show(text)} is no str")
        if text:
            _ticker(text)
    if not item.series and not item.event:
        raise NonsenseError("it names neither a series nor an event")
    if type(item.markets_max) is not int or not 1 <= item.markets_max <= WATCHED_MAX:
        raise NonsenseError(f"markets_max={show(item.markets_max)} is no int from 1 to {WATCHED_MAX}")
    _check_seconds("closes_within_s", item.closes_within_s)
    return item


def _check_price(price: object) -> None:
    if not (type(price) is Decimal and price.is_finite() and ZERO < price < ONE):
        raise NonsenseError(f"price={show(price)} is no Decimal between 0 and 1 dollars")


def _check_count(count: object) -> None:
    if not (type(count) is Decimal and count.is_finite() and ZERO < count <= COUNT_MAX):
        raise NonsenseError(f"count={show(count)} is no Decimal above 0, up to {COUNT_MAX} contracts")


def _check_seconds(name: str, seconds: object) -> None:
    if seconds is None:
        return
    if type(seconds) not in (int, float) or not 0 < cast(float, seconds) <= SECONDS_MAX:
        raise NonsenseError(f"{name}={show(seconds)} is no number of seconds above 0, a year at most")


def _ticker(text: object) -> str:
    if type(text) is not str:
        raise NonsenseError(f"{show(text)} is no ticker")
    try:
        return parse_ticker(text)
    except WireError as exc:
        raise NonsenseError(str(exc)) from exc


def _id(text: object) -> str:
    if type(text) is not str or not 0 < len(text) <= ID_CHARACTERS_MAX or not text.isascii():
        raise NonsenseError(f"client_order_id={show(text)} is none of ours")
    return text


def _why(text: object) -> str:
    if type(text) is not str:
        raise NonsenseError(f"why={show(text)} is no str")
    return text[:WHY_CHARACTERS_MAX]
