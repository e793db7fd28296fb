"""A strategy that never rests: it places, moves and cancels orders at random, far beyond what limits allow.

It draws from `STRATEGY_SEED` and the number of its process, so that every restart does something else. In a
market whose name ends in N it buys NO, else YES, and only while contracts cost about half a dollar: what has
crashed is left to its stop.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from base.model.market import OutcomeSide
from base.model.order import EntryOrder, EntryState
from base.strategy.interface import AmendIntent, CancelIntent, Intent, OrderIntent, StrategyView

CENT = Decimal("0.01")
BID_MIN = Decimal("0.40")
INTENTS_MAX = 3


@dataclass(frozen=True, slots=True)
class Prices:
    bid: Decimal
    ask: Decimal


def side_of(ticker: str) -> OutcomeSide:
    return OutcomeSide.NO if ticker.endswith("N") else OutcomeSide.YES


class Restless:
    """See the module's text; `STRATEGY_TICKERS` names its markets."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._rng = random.Random(f"{settings['STRATEGY_SEED']}/{os.getpid()}")
        self._tickers = settings["STRATEGY_TICKERS"].split(",")

    def watches(self) -> Iterable[str]:
        return self._tickers

    def decide(self, view: StrategyView) -> Iterable[Intent]:
        found = (self._wish(view) for _ in range(self._rng.randint(0, INTENTS_MAX)))
        return [intent for intent in found if intent is not None]

    def _wish(self, view: StrategyView) -> Intent | None:
        resting = [o for o in view.orders.values() if o.state is EntryState.RESTING]
        draw = self._rng.random()
        if resting and draw < 0.15:
            return CancelIntent(self._rng.choice(resting).client_order_id, "changed its mind")
        if resting and draw < 0.40:
            return self._move(self._rng.choice(resting))
        ticker = self._rng.choice(self._tickers)
        quote = view.markets[ticker].quote if ticker in view.markets else None
        if quote is None or quote.best_bid(side_of(ticker)) < BID_MIN:
            return None
        return self._order(ticker, Prices(quote.best_bid(side_of(ticker)), quote.best_ask(side_of(ticker))))

    def _order(self, ticker: str, prices: Prices) -> OrderIntent:
        rng = self._rng
        rests = rng.random() < 0.7
        price = prices.bid - rng.randint(0, 5) * CENT if rests and rng.random() < 0.7 else prices.ask
        return OrderIntent(
            ticker,
            side_of(ticker),
            Decimal(rng.randint(50, 700)) / 100,
            price,
            rests=rests,
            expires_after_s=rng.choice((None, 1.5, 6.0)) if rests else None,
            post_only=rests and rng.random() < 0.3,
            keep_on_feed_loss=rests and rng.random() < 0.3,
        )

    def _move(self, order: EntryOrder) -> AmendIntent:
        price = order.price + self._rng.randint(-2, 2) * CENT
        return AmendIntent(order.client_order_id, price, Decimal(self._rng.randint(50, 900)) / 100)
