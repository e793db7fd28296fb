"""An exchange without a server, for tests of the engine."""

from __future__ import annotations

import random
from decimal import Decimal

from base.model.market import BookSide
from base.model.order import TimeInForce
from base.sandbox.exchange import Exchange
from base.sandbox.happenings import Happening
from base.sandbox.market import MarketSpec
from base.sandbox.records import NewOrder, SelfTradePrevention

NOW = 1_790_000_000.0
T = "KXT-1-A"


class Desk:
    """An exchange with one market, everything that happened, and shorthand for orders."""

    def __init__(self, *, balance: str = "1000", grid: str = "linear_cent") -> None:
        self.happened: list[Happening] = []
        self.exchange = Exchange(balance=Decimal(balance), rng=random.Random(1), sink=self.happened.append)
        self.exchange.add_market(MarketSpec(T, grid_name=grid), close_time=NOW + 3600, now=NOW)
        self.market = self.exchange.market(T)
        self._number = 0

    def quote(self, bids: dict[str, str], asks: dict[str, str], now: float = NOW) -> None:
        self.exchange.set_quotes(
            T,
            {Decimal(p): Decimal(s) for p, s in bids.items()},
            {Decimal(p): Decimal(s) for p, s in asks.items()},
            now,
        )

    def new(
        self,
        side: str,
        count: str,
        price: str,
        tif: TimeInForce = TimeInForce.IMMEDIATE_OR_CANCEL,
        *,
        client_order_id: str = "",
        stp: SelfTradePrevention = SelfTradePrevention.TAKER_AT_CROSS,
        reduce_only: bool = False,
        post_only: bool = False,
        expiration_time_s: int | None = None,
    ) -> NewOrder:
        self._number += 1
        return NewOrder(
            T,
            BookSide(side),
            Decimal(count),
            Decimal(price),
            tif,
            stp,
            client_order_id or f"id-{self._number}",
            reduce_only=reduce_only,
            post_only=post_only,
            expiration_time_s=expiration_time_s,
        )

    @property
    def held(self) -> Decimal:
        return self.exchange.ledger.position_count(T)
