"""Buy below a configured fair price.

STRATEGY=value
STRATEGY_FAIR_PRICES=KXHIGHNY-26NOV22-B53.5=0.62, KXBTCD-26NOV2217-T95000=0.35
STRATEGY_EDGE=0.05        buy YES when it costs at least this much less than fair (NO likewise)
STRATEGY_COUNT=5          contracts an order; nothing is added to a position that is held
STRATEGY_COOLDOWN_S=3600  no new entry this long after one in the same market, or after it was last held: a
                          stop that was hit is not to be answered by buying again
STRATEGY_REST=no          yes: bid fair less the edge and wait, in the book, on the side that is nearer to
                          it, instead of taking what is offered cheaply enough now; the bid follows the
                          book down and back up to that price, and is canceled while no price is fresh
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation

from base.errors import ConfigError
from base.model.market import ONE, ZERO, Market, MarketStatus, OutcomeSide, Quote
from base.model.order import EntryOrder, EntryState
from base.strategy.interface import (
    AmendIntent,
    CancelIntent,
    Intent,
    MarketView,
    OrderIntent,
    StrategyView,
)

YES_OR_NO = {"": False, "no": False, "false": False, "0": False, "yes": True, "true": True, "1": True}


class Value:
    """Limit buys on both sides of markets whose fair YES price the user has given."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        problems: list[str] = []
        self._fair = _read_fair_prices(settings.get("STRATEGY_FAIR_PRICES", ""), problems)
        self._edge = _read_number(settings, "STRATEGY_EDGE", "0.05", ZERO, ONE, problems)
        self._count = _read_number(
            settings, "STRATEGY_COUNT", "5", Decimal("0.01"), Decimal(100_000), problems
        )
        self._cooldown_s = float(
            _read_number(settings, "STRATEGY_COOLDOWN_S", "3600", ZERO, Decimal(10_000_000), problems)
        )
        self._rests = _read_switch(settings, "STRATEGY_REST", problems)
        if problems:
            raise ConfigError(problems)
        self._entered_at: dict[str, float] = {}

    def watches(self) -> Iterable[str]:
        return tuple(self._fair)

    def decide(self, view: StrategyView) -> Iterable[Intent]:
        self._note_entries(view)
        if not view.may_enter or not view.feed_is_live:
            return []  # what rests is canceled without a word from here
        if self._rests:
            return [intent for ticker in self._fair for intent in self._tend(ticker, view)]
        return [intent for ticker in self._fair for intent in self._take(ticker, view)]

    def _note_entries(self, view: StrategyView) -> None:
        """A market that was bought in cools down from the last moment at which that could be seen: what was
        bought and stopped out between two passes is known by its fills alone."""
        bought = {fill.ticker for fill in view.fills}
        bought |= {order.ticker for order in view.orders.values() if order.filled > 0}
        bought |= view.positions.keys()
        for ticker in bought & self._fair.keys():
            self._entered_at[ticker] = view.now

    def _is_cooling(self, ticker: str, now: float) -> bool:
        entered = self._entered_at.get(ticker)
        return entered is not None and now - entered < self._cooldown_s

    # --- taking what is offered ---------------------------------------------------------------------

    def _take(self, ticker: str, view: StrategyView) -> list[Intent]:
        market = view.markets.get(ticker)
        if market is None or market.position is not None or self._is_cooling(ticker, view.now):
            return []
        quote = _tradable_quote(market, view.now)
        for side in OutcomeSide if quote is not None else ():
            ask = _real_ask(quote, side)
            worth = self._worth(ticker, side)
            if ask is not None and ask <= worth - self._edge:
                self._entered_at[ticker] = view.now
                why = f"{side.value} costs {ask}, worth {worth} by STRATEGY_FAIR_PRICES"
                return [OrderIntent(ticker, side, self._count, ask, why)]
        return []

    # --- bidding and waiting ------------------------------------------------------------------------

    def _tend(self, ticker: str, view: StrategyView) -> list[Intent]:
        """What is to become of the one order of a market, or a first one."""
        orders = [o for _, o in sorted(view.orders.items()) if o.ticker == ticker]
        market = view.markets.get(ticker)
        if not orders:
            if market is None or market.position is not None or self._is_cooling(ticker, view.now):
                return []
            return self._bid(market, view.now)
        order = orders[0]
        intents: list[Intent] = [
            CancelIntent(o.client_order_id, "one order a market is enough") for o in orders[1:]
        ]
        return intents + self._follow(order, market, view.now)

    def _bid(self, market: MarketView, now: float) -> list[Intent]:
        quote = _tradable_quote(market, now)
        if quote is None:
            return []
        ticker = market.market.ticker
        limits = {side: self._limit(market.market, side, quote) for side in OutcomeSide}
        # The side that somebody would have to come down least for.
        side = min(OutcomeSide, key=lambda s: quote.best_ask(s) - limits[s])
        if not ZERO < limits[side] < ONE:
            return []
        why = f"{side.value} is worth {self._worth(ticker, side)} by STRATEGY_FAIR_PRICES"
        return [OrderIntent(ticker, side, self._count, limits[side], why, rests=True)]

    def _follow(self, order: EntryOrder, market: MarketView | None, now: float) -> list[Intent]:
        if order.state is not EntryState.RESTING:
            return []  # it is on its way in or out
        quote = None if market is None else _tradable_quote(market, now)
        if market is None or quote is None:
            return [CancelIntent(order.client_order_id, "no fresh price is known")]
        if market.position is not None and market.position.outcome_side is not order.outcome_side:
            return [CancelIntent(order.client_order_id, "the other side is held")]
        limit = self._limit(market.market, order.outcome_side, quote)
        if not ZERO < limit < ONE:
            return [CancelIntent(order.client_order_id, "its edge leaves no price to bid")]
        if limit == order.price:
            return []
        return [AmendIntent(order.client_order_id, price=limit, why=f"from {order.price}")]

    def _limit(self, market: Market, side: OutcomeSide, quote: Quote) -> Decimal:
        """Fair less the edge, or what it is offered for where that is less, on the market's grid."""
        limit = self._worth(market.ticker, side) - self._edge
        ask = _real_ask(quote, side)
        if ask is not None:
            limit = min(limit, ask)
        if side is OutcomeSide.YES:
            return market.grid.floor(limit)
        return ONE - market.grid.ceil(ONE - limit)

    def _worth(self, ticker: str, side: OutcomeSide) -> Decimal:
        fair = self._fair[ticker]
        return fair if side is OutcomeSide.YES else ONE - fair


def _tradable_quote(market: MarketView, now: float) -> Quote | None:
    return market.quote if market.market.status_at(now) is MarketStatus.ACTIVE else None


def _real_ask(quote: Quote | None, side: OutcomeSide) -> Decimal | None:
    """What a contract costs now, None where nobody offers one."""
    if quote is None:
        return None
    ask, size = quote.best_ask(side), quote.ask_size(side)
    return ask if ZERO < ask < ONE and (size is None or size > 0) else None


def _read_fair_prices(text: str, problems: list[str]) -> dict[str, Decimal]:
    fair: dict[str, Decimal] = {}
    for part in (p.strip() for p in text.split(",") if p.strip()):
        ticker, _, price = part.partition("=")
        number = _decimal(price.strip())
        if not ticker or number is None or not ZERO < number < ONE:
            problems.append(
                f"STRATEGY_FAIR_PRICES: {part!r} is not TICKER=PRICE with a price between 0 and 1 dollars"
            )
            continue
        fair[ticker.strip()] = number
    if not fair and not problems:
        problems.append(
            "STRATEGY_FAIR_PRICES is empty: `value` needs at least one TICKER=PRICE, comma separated"
        )
    return fair


def _read_number(
    settings: Mapping[str, str], name: str, default: str, low: Decimal, high: Decimal, problems: list[str]
) -> Decimal:
    text = settings.get(name, "").strip() or default
    number = _decimal(text)
    if number is None or not low <= number <= high:
        problems.append(f"{name}={text!r} is not a number from {low} to {high}")
        return Decimal(default)
    return number


def _read_switch(settings: Mapping[str, str], name: str, problems: list[str]) -> bool:
    text = settings.get(name, "").strip()
    if text.lower() not in YES_OR_NO:
        problems.append(f"{name}={text!r} is neither yes nor no")
    return YES_OR_NO.get(text.lower(), False)


def _decimal(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
