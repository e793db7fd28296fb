"""All that opens positions: strategy, what it watches, orders, sets. Protection needs none of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from threading import Event as Flag

from base.app.account import Adoption, MarketDirectory
from base.app.balance import BalanceReads
from base.app.config import Config
from base.app.discovery import Discovery
from base.app.entries import EntryDesk, EntryResult
from base.app.entry_keeper import Hands
from base.app.entry_sets import SetDesk, SetResult
from base.app.exchange import Exchange
from base.app.hedge_book import HedgeBook
from base.app.others_quote import OthersQuotes
from base.app.services import PeriodicService
from base.app.strategy_runner import StrategyRunner, ViewSources
from base.app.ui_metrics import ThreadHealth
from base.clock import Clock
from base.execution.exits import ExitDesk
from base.execution.gateway import EntryGateway, PriceView
from base.execution.paper import PaperGateway
from base.kalshi.feed import NoFeed
from base.kalshi.rate_limit import Lane
from base.kalshi.websocket_client import WebsocketClient
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.model.events import OrderUpdate
from base.model.market import OutcomeSide
from base.model.position import Fill
from base.model.rules import ExitRule
from base.risk.limits import Limits
from base.risk.trading_state import TradingState
from base.store.journal import Journal
from base.store.portfolio import Portfolio
from base.store.records import Remembered
from base.strategy.interface import AmendIntent, CancelIntent, OrderIntent, SetIntent

OPENS_NOTHING = "guard"
"""The strategy for which nobody has to know how much money there is."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the side that opens positions is given of the side that protects them."""

    exchange: Exchange
    gateway: EntryGateway
    paper: PaperGateway | None
    portfolio: Portfolio
    cache: WebsocketPriceCache
    feed: WebsocketClient | NoFeed
    directory: MarketDirectory
    adoption: Adoption
    exits: ExitDesk
    journal: Journal
    limits: Limits
    trading_state: Callable[[], TradingState]
    price_of: Callable[[str], PriceView | None]
    request_reconcile: Callable[[], None]
    next_pause_at: Callable[[], float | None]
    sweep_soon: Callable[[], None]


class Openings:
    """Built before any thread starts; `resume` before the exits' threads, `make` and `run` on main."""

    def __init__(self, config: Config, around: Surroundings, clock: Clock) -> None:
        self._around = around
        self._is_paper = around.paper is not None
        self.entries = EntryDesk(
            around.gateway,
            around.portfolio,
            around.cache,
            around.limits,
            around.trading_state,
            self._note_opened,
            clock,
            recorder=around.journal,
            is_exiting=around.exits.is_active,
            request_reconcile=around.request_reconcile,
            is_confirmed=around.feed.is_confirmed,
            feed_is_live=lambda: around.feed.status().is_live,
            next_pause_at=around.next_pause_at,
            # A paper account has no orders at the exchange; what rests there by hand is none of ours.
            read_resting=tuple if self._is_paper else around.exchange.read_resting,
            hands=Hands(),
        )
        self.hedges = HedgeBook(around.portfolio, clock, around.journal, awaited=self._awaited)
        self._discovery = Discovery(
            around.exchange.rest,
            around.cache,
            around.directory,
            clock,
            around.feed.is_confirmed,
            kept=self._kept,
        )
        self._sets = SetDesk(
            self.entries,
            self.hedges,
            around.portfolio,
            self._discovery.events,
            around.price_of,
            around.exits.trigger_all,
            clock,
            floor=config.exit_floor_dollars,
            is_exiting=around.exits.is_active,
        )
        self._balance = BalanceReads(self._read_balance, clock)
        self._runner = StrategyRunner(
            config.strategy,
            config.strategy_settings,
            ViewSources(
                prices=around.cache.snapshot,
                feed=around.feed.status,
                positions=around.portfolio.positions,
                may_enter=lambda: around.trading_state().may_enter,
                orders=self.entries.orders,
                events=self._discovery.events,
                balance=self._balance.available,
                watch=self._discovery.want,
                traded=self._note_traded,
            ),
            self,
            clock,
            config.strategy_interval_s,
        )
        self.others_quotes = OthersQuotes(
            self._resting_in, around.feed.depth, self._cancel_what_hides_the_price, clock
        )
        wants_balance = self._is_paper or config.strategy != OPENS_NOTHING
        self.services: tuple[PeriodicService, ...] = (
            self.entries.service,
            self._sets.service,
            self._discovery.service,
            *((self._balance.service,) if wants_balance else ()),
        )

    # --- orders of the strategy (`IntentTaker`) -----------------------------------------------------

    def place(self, intent: OrderIntent, strategy: str, /) -> EntryResult:
        return self.entries.place(intent, strategy)

    def place_set(self, intent: SetIntent, strategy: str, /) -> SetResult:
        return self._sets.place_set(intent, strategy)

    def amend(self, intent: AmendIntent, /) -> str:
        return self.entries.amend(intent)

    def cancel(self, intent: CancelIntent, why: str, /) -> str:
        return self.entries.cancel(intent, why)

    # --- the run ------------------------------------------------------------------------------------

    def resume(self, remembered: Remembered) -> None:
        """Take up what the last run left; before any thread starts."""
        self.hedges.restore(remembered)
        self.entries.resume(remembered)

    def rules(self, rule_of: Callable[[str], ExitRule]) -> Callable[[str], ExitRule]:
        """The rule in force for each market, given what is part of a set."""
        return self.hedges.rules(rule_of)

    def make(self) -> None:
        """Construct the strategy. Raises ConfigError."""
        self._runner.make()

    def run(self, stop: Flag) -> None:
        """Ask the strategy until told to stop; on the main thread."""
        self._runner.run(stop)

    def begin_stop(self) -> None:
        """Open nothing any more and begin to cancel what rests; returns at once."""
        self.entries.block("the program stops")

    def stop(self, timeout_s: float) -> bool:
        """Wait until nothing rests any more; return whether that is certain."""
        return self.entries.stop(timeout_s)

    # --- what others tell ---------------------------------------------------------------------------

    def note_fill(self, fill: Fill) -> None:
        self._runner.note_fill(fill)
        self._balance.service.wake()

    def order_update(self, update: OrderUpdate) -> None:
        self.entries.order_update(update)

    def exit_began(self, ticker: str) -> None:
        self.entries.exit_began(ticker)

    # --- what others ask ----------------------------------------------------------------------------

    def health(self) -> ThreadHealth:
        """Of the loop on the main thread."""
        return self._runner.health()

    def doubts(self) -> list[str]:
        return self._runner.doubts()

    def status(self) -> dict[str, object]:
        """For `/api/status`."""
        return {**self._runner.status(), "discovery": self._discovery.status()}

    def _note_opened(self, ticker: str, strategy: str) -> None:
        # Said before the order leaves: its fill may come first, and must not look like somebody else's.
        self._around.adoption.opened_by_us(ticker)
        self._around.portfolio.note_entry(ticker, strategy)

    def _note_traded(self) -> None:
        self._around.directory.refresh()
        self._around.sweep_soon()

    def _resting_in(self, ticker: str, side: OutcomeSide) -> dict[Decimal, Decimal]:
        # What rests on paper stands in no book.
        return {} if self._is_paper else self.entries.resting_in(ticker, side)

    def _cancel_what_hides_the_price(self, ticker: str) -> None:
        self.entries.cancel_in(ticker, "nobody else's bid can be seen behind it, and a stop needs one")

    def _awaited(self) -> set[str]:
        return {order.ticker for order in self.entries.orders().values()}

    def _kept(self) -> Iterable[str]:
        """Markets that stay streamed whatever the strategy says: an order of ours may fill there."""
        paper = self._around.paper
        return self._awaited() if paper is None else self._awaited() | paper.resting_tickers

    def _read_balance(self) -> Decimal:
        real = self._around.exchange.rest.get_balance(Lane.STRATEGY).available
        paper = self._around.paper
        if paper is None:
            return real
        simulated = paper.balance(real)
        return real if simulated is None else simulated
