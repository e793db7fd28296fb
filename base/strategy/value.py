"""Buy below a configured fair price.

STRATEGY=value
STRATEGY_FAIR_PRICES=KXHIGHNY-26NOV22-B53.5=0.62, KXBTCD-26NOV2217-T95000=0.35
STRATEGY_EDGE=0.05        buy YES when it costs at least this much less than fair (NO likewise)
STRATEGY_COUNT=5          contracts an order; nothing is added to a position that is held
STRATEGY_COOLDOWN_S=3600  no new entry this long after one in the same market: a stop that was hit is
                          not to be answered by buying again
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation

from base.errors import ConfigError
from base.model.market import ONE, ZERO, MarketStatus, OutcomeSide
from base.strategy.interface import MarketView, OrderIntent, StrategyView


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
        if problems:
            raise ConfigError(problems)
        self._entered_at: dict[str, float] = {}

    def watches(self) -> Iterable[str]:
        return tuple(self._fair)

    def decide(self, view: StrategyView) -> Iterable[OrderIntent]:
        if not view.may_enter or not view.feed_is_live:
            return []
        intents = []
        for ticker, fair in self._fair.items():
            market = view.markets.get(ticker)
            if market is None or market.position is not None or self._is_cooling(ticker, view.now):
                continue
            intent = self._judge(ticker, fair, market, view.now)
            if intent is not None:
                self._entered_at[ticker] = view.now
                intents.append(intent)
        return intents

    def _is_cooling(self, ticker: str, now: float) -> bool:
        entered = self._entered_at.get(ticker)
        return entered is not None and now - entered < self._cooldown_s

    def _judge(self, ticker: str, fair: Decimal, market: MarketView, now: float) -> OrderIntent | None:
        quote = market.quote
        if quote is None or market.market.status_at(now) is not MarketStatus.ACTIVE:
            return None
        for side, worth in ((OutcomeSide.YES, fair), (OutcomeSide.NO, ONE - fair)):
            ask, size = quote.best_ask(side), quote.ask_size(side)
            if ZERO < ask < ONE and (size is None or size > 0) and ask <= worth - self._edge:
                return OrderIntent(
                    ticker,
                    side,
                    self._count,
                    ask,
                    f"{side.value} costs {ask}, worth {worth} by STRATEGY_FAIR_PRICES",
                )
        return None


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


def _decimal(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
