"""Sets: orders that make sense only together, bought as one or not at all.

A set is bought leg after leg, written down before the first one leaves, and sold again where a leg could not
be had. What keeps its stops back meanwhile and later is the hedge book.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from base.app.hedge_book import HedgeBook
from base.app.services import PeriodicService
from base.clock import Clock
from base.execution.exits import ExitOrder
from base.execution.gateway import PriceView
from base.log import log_event
from base.model.market import ONE, ZERO, Event, OutcomeSide
from base.model.order import EntryOrder
from base.model.rules import ExitReason
from base.risk.hedges import BUILDING_S_MAX
from base.store.portfolio import Portfolio
from base.store.records import HedgeRecord
from base.strategy.interface import OrderIntent, SetIntent

logger = logging.getLogger(__name__)

STEP_S = 1.0
LAST_LEG_S = BUILDING_S_MAX / 2
"""No leg leaves later than so long after the first: its answer must come before stops may fire again."""
HUNDREDTH = Decimal("0.01")


class LegResult(Protocol):
    """What became of one leg."""

    @property
    def filled(self) -> Decimal: ...

    @property
    def why(self) -> str: ...


class LegDesk(Protocol):
    """What places the legs: the entry desk."""

    def place(self, intent: OrderIntent, strategy: str = "", *, fill_or_kill: bool = False) -> LegResult: ...

    def check_together(self, intents: Sequence[OrderIntent]) -> str: ...

    def orders(self) -> Mapping[str, EntryOrder]: ...


@dataclass(frozen=True, slots=True)
class SetResult:
    """What became of a set: `placed` once its first leg has left, `filled` sets are held whole."""

    placed: bool
    filled: Decimal
    why: str = ""


class SetDesk:
    """Buys sets; called on the strategy's thread, `step` on its own.

    `events` are the known events by ticker, `sell_again` takes exits over, `floor` is the least they ask.
    """

    def __init__(
        self,
        desk: LegDesk,
        book: HedgeBook,
        portfolio: Portfolio,
        events: Callable[[], Mapping[str, Event]],
        price_of: Callable[[str], PriceView | None],
        sell_again: Callable[[list[ExitOrder]], object],
        clock: Clock,
        *,
        floor: Decimal,
        is_exiting: Callable[[str], bool] = lambda ticker: False,
        new_id: Callable[[], str] = lambda: f"set-{uuid.uuid4().hex[:16]}",
    ) -> None:
        self._desk = desk
        self._book = book
        self._portfolio = portfolio
        self._events = events
        self._price_of = price_of
        self._sell_again = sell_again
        self._clock = clock
        self._floor = floor
        self._is_exiting = is_exiting
        self._new_id = new_id
        self.service = PeriodicService("sets", STEP_S, self.step, clock)

    def place_set(self, intent: SetIntent, strategy: str = "") -> SetResult:
        """Buy every leg, one after the other, or sell again what was bought."""
        why_not = self._why_not(intent) or self._desk.check_together(intent.legs)
        if why_not:
            return self._deny(intent, why_not)
        first = intent.legs[0]
        record = HedgeRecord(
            self._new_id(),
            " ".join(leg.ticker for leg in intent.legs),
            first.outcome_side,
            first.count,
            strategy,
            self._clock.now(),
        )
        why_not = self._book.begin(record)
        if why_not:
            return self._deny(intent, why_not)
        why = "its purchase was cut short"
        try:
            why = self._buy(intent.legs, strategy)
        finally:
            if why:
                log_event(logger, logging.WARNING, "set_not_bought", id=record.id, why=why)
                self._book.broke(record.id)
                self.step()
            else:
                self._book.completed(record.id)
        return SetResult(True, ZERO if why else first.count, why)

    def step(self) -> None:
        """Sell again what is held of broken sets; what is being sold already is left to its exit."""
        exits = [self._exit(t) for t in self._book.to_sell_again() if not self._is_exiting(t)]
        if exits:
            self._sell_again(exits)

    def _deny(self, intent: SetIntent, why: str) -> SetResult:
        tickers = " ".join(str(leg.ticker) for leg in intent.legs)
        log_event(logger, logging.WARNING, "set_denied", tickers=tickers, why=why)
        return SetResult(False, ZERO, why)

    def _buy(self, legs: Sequence[OrderIntent], strategy: str) -> str:
        """Return what went wrong, "" when every leg is held in full."""
        latest = self._clock.monotonic() + LAST_LEG_S
        for leg in legs:
            if self._clock.monotonic() > latest:
                return f"{leg.ticker}: the legs before it took more than {LAST_LEG_S:.0f} s"
            result = self._desk.place(leg, strategy, fill_or_kill=True)
            if result.filled < leg.count:
                return f"{leg.ticker}: {result.why or 'not filled'}"
        return ""

    def _why_not(self, intent: SetIntent) -> str:
        return why_no_set(intent.legs, self._events()) or next(
            (f"{leg.ticker}: {why}" for leg in intent.legs if (why := self._why_not_there(leg.ticker))), ""
        )

    def _why_not_there(self, ticker: str) -> str:
        """Why no leg of a set may be bought in this market."""
        if self._portfolio.get(ticker) is not None:
            return "a position is held there"
        if any(order.ticker == ticker for order in self._desk.orders().values()):
            return "an order that may still fill is there"
        return "an exit is under way there" if self._is_exiting(ticker) else ""

    def _exit(self, ticker: str) -> ExitOrder:
        position, seen = self._portfolio.get(ticker), self._price_of(ticker)
        value = ZERO
        if position is not None and seen is not None and seen.quote is not None:
            value = seen.quote.best_bid(position.outcome_side)
        return ExitOrder(ticker, ExitReason.SET_BROKEN, value, None, self._floor)


def why_no_set(legs: Sequence[OrderIntent], events: Mapping[str, Event]) -> str:
    """Why stops must not be held back for these legs, "" when they cannot lose together."""
    tickers = {leg.ticker for leg in legs}
    if len(legs) < 2 or len(tickers) < len(legs):
        return "a set needs two markets"
    first = legs[0]
    if any((leg.outcome_side, leg.count) != (first.outcome_side, first.count) for leg in legs):
        return "its legs differ in side or count"
    if first.count <= ZERO or first.count % HUNDREDTH:
        return f"{first.count} is no count of contracts"
    if any(leg.rests or leg.post_only for leg in legs):
        return "its legs are bought at once, they cannot rest"
    event = next((e for e in events.values() if tickers <= set(e.market_tickers)), None)
    if event is None or not event.mutually_exclusive:
        return "its markets are not known to exclude each other"
    if first.outcome_side is OutcomeSide.YES and tickers != set(event.market_tickers):
        return f"YES is bought of all markets of {event.ticker} or of none"
    payout = ONE if first.outcome_side is OutcomeSide.YES else ONE * (len(legs) - 1)
    cost = sum((leg.price for leg in legs), ZERO)
    return f"it costs {cost} and pays {payout} at the least" if cost > payout else ""
