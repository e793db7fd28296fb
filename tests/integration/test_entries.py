"""Entries that rest, over real sockets: what they buy is protected, and they never buy what is being sold."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from base.app.account import Account, MarketDirectory
from base.app.entries import EntryDesk
from base.app.entry_keeper import Hands
from base.app.exchange import BASIC_READ, BASIC_WRITE, Exchange
from base.app.live_gateway import LiveGateway
from base.app.price_reads import PriceReads
from base.clock import SystemClock
from base.execution.exits import ExitDesk, ExitOrder
from base.execution.gateway import PriceView
from base.kalshi.feed import FeedSettings, FeedState
from base.kalshi.rate_limit import RateLimiter, RequestStats
from base.kalshi.rest_client import RestClient
from base.kalshi.server_clock import ServerClock
from base.kalshi.signing import load_signer
from base.kalshi.websocket_client import WebsocketClient
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.model.events import Lifecycle, OrderUpdate, PositionUpdate
from base.model.market import OutcomeSide
from base.model.order import EntryState
from base.model.position import Fill
from base.model.rules import ExitRule
from base.risk.limits import Limits
from base.risk.stop_loss import CheckerSettings, StopLossChecker
from base.risk.trading_state import TradingState
from base.sandbox.scenario import parse_scenario
from base.sandbox.server import SandboxServer
from base.store.journal import Journal
from base.store.portfolio import Portfolio
from base.store.records import NoRecorder, Recorder
from base.strategy.interface import AmendIntent, OrderIntent

T = "KXENTRY-A"
SCENARIO = f"""
[[market]]
ticker = "{T}"
bid = "0.50"
ask = "0.53"
mode = "quiet"
"""
FAR_BELOW = ExitRule(stop_loss_price=Decimal("0.10"))
WITHIN_S = 1.5
"""A pass of the checker, which looks at changes at once and at everything every second."""


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    with SandboxServer(parse_scenario(SCENARIO, "entries.toml")) as running:
        yield running


class Directions:
    """What the house is told of the stream: the account, and the entry desk."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self.entries: EntryDesk | None = None

    def fill(self, fill: Fill) -> None:
        self._account.fill(fill)

    def order_update(self, update: OrderUpdate) -> None:
        self._account.order_update(update)
        if self.entries is not None:
            self.entries.order_update(update)

    def position_update(self, update: PositionUpdate) -> None:
        self._account.position_update(update)

    def lifecycle(self, event: Lifecycle) -> None:
        self._account.lifecycle(event)

    def feed_changed(self, state: FeedState) -> None:
        self._account.feed_changed(state)


class Exits(ExitDesk):
    """Says where an exit begins."""

    began: Callable[[str], None] = staticmethod(lambda ticker: None)

    def trigger_all(self, orders: Iterable[ExitOrder]) -> int:
        wanted = list(orders)
        for order in wanted:
            self.began(order.ticker)
        return super().trigger_all(wanted)


class House:
    """All that protects and buys, in this process, against a sandbox; a context manager."""

    def __init__(self, server: SandboxServer, recorder: Recorder | None = None) -> None:
        self.server = server
        self.clock = SystemClock()
        self.rule = FAR_BELOW
        self.state = TradingState.ACTIVE
        key = load_signer(server.key_id, server.key_file)
        server_clock, stats = ServerClock(self.clock), RequestStats(self.clock)
        limiter = RateLimiter(self.clock, BASIC_READ, BASIC_WRITE)
        rest = RestClient(server.rest_url, key, self.clock, server_clock, limiter, stats=stats)
        self.exchange = Exchange(rest, key, server_clock, limiter, stats, self.clock, server.rest_url)
        self.cache = WebsocketPriceCache(self.clock, 60.0)
        self.portfolio = Portfolio(self.clock)
        self.gateway = LiveGateway(rest, self.exchange.open_order_connection, self.cache, self.clock)
        self.reads = PriceReads(
            lambda tickers: self.exchange.read_prices(tickers, self.cache),
            self.cache,
            lambda ticker: self.feed.is_confirmed(ticker),
            lambda tickers: self.feed.suspect(tickers),
            self.clock,
        )
        self.directory = MarketDirectory(self.portfolio, self.cache, self, self.clock)
        self.account = Account(
            self.portfolio,
            self.directory,
            self.exchange.read_held,
            self.reads.request,
            1.0,
            self.clock,
            is_paper=False,
        )
        directions = Directions(self.account)
        self.feed = WebsocketClient(
            FeedSettings(server.ws_url, reconnect_delay_max_s=0.5),
            self.exchange.sign_now,
            server_clock,
            self.cache,
            directions,
            self.clock,
            random.Random(1),
        )
        self.exits = Exits(self.gateway, self.portfolio, self._price, self.account.service.wake, self.clock)
        self.checker = StopLossChecker(
            CheckerSettings(1.0, 60.0, Decimal("0.01")),
            self.cache,
            self.portfolio,
            self.feed,
            lambda ticker: self.rule,
            self.exits,
            self.reads.request,
            self.directory.refresh,
            self.clock,
        )
        self.account.attach(self.exits, self.checker.sweep_soon)
        hundred = Decimal(100)
        self.entries = EntryDesk(
            self.gateway,
            self.portfolio,
            self.cache,
            Limits(hundred, hundred, hundred, hundred),
            lambda: self.state,
            lambda ticker, strategy: None,
            self.clock,
            recorder=recorder or NoRecorder(),
            # An exit that is under way is told by `exit_began` alone: it is over before the next pass.
            request_reconcile=self.account.service.wake,
            is_confirmed=self.feed.is_confirmed,
            feed_is_live=lambda: self.feed.status().is_live,
            read_resting=self.exchange.read_resting,
            hands=Hands(),
        )
        directions.entries = self.entries
        self.exits.began = self.entries.exit_began
        self._never = threading.Event()

    def set_required(self, tickers: Iterable[str], held: Iterable[str]) -> None:
        self.feed.set_required(tickers, held)

    def _price(self, ticker: str) -> PriceView | None:
        entry = self.cache.get(ticker)
        if entry is None:
            return None
        yes_bids, no_bids = self.feed.depth(ticker)
        age_s = entry.age_s(self.clock.monotonic())
        is_confirmed = self.feed.is_confirmed(ticker)
        return PriceView(entry.market, entry.quote, age_s, is_confirmed, yes_bids, no_bids)

    def __enter__(self) -> Self:
        self.directory.watch([T])
        self.exchange.read_prices([T], self.cache)
        self.feed.start()
        self.exits.start()
        self.reads.service.start()
        self.checker.start()
        self.account.service.start()
        self.until(lambda: self.feed.is_confirmed(T) and self.portfolio.is_loaded, "streamed", 10)
        self.entries.service.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.entries.service.stop()
        self.exits.stop(2.0)
        self.checker.stop()
        services = (self.account.service, self.reads.service, self.entries.service)
        for service in services:
            service.stop()
        self.feed.stop()
        self.checker.join(3.0)
        for service in services:
            service.join(3.0)
        self.feed.join(3.0)
        self.exchange.rest.close()

    # --- acting -------------------------------------------------------------------------------------

    def rest(self, count: str, price: str, **fields: Any) -> str:
        intent = OrderIntent(T, OutcomeSide.YES, Decimal(count), Decimal(price), rests=True)
        result = self.entries.place(replace(intent, **fields))
        assert result.order is not None, result.why
        assert result.order.state is EntryState.RESTING
        return result.order.client_order_id

    def offer(self, price: str, count: str) -> None:
        """Somebody sells so much at that price: what bids there is hit. Then the ask is back."""
        self.server.set_market(T, bid="0.50", ask=price, ask_size=count)
        self.server.set_market(T, bid="0.50", ask="0.53", ask_size="100")

    def until(self, holds: Callable[[], bool], what: str, timeout_s: float = 5.0) -> float:
        started = self.clock.monotonic()
        while not holds():
            if self.clock.monotonic() - started > timeout_s:
                raise AssertionError(f"not within {timeout_s} s: {what}")
            self._never.wait(0.01)
        return self.clock.monotonic() - started

    # --- looking ------------------------------------------------------------------------------------

    def held(self) -> Decimal:
        """By the exchange's own book."""
        return self.server.call(lambda venue: venue.exchange.ledger.position_count(T))

    def resting(self) -> list[tuple[Decimal, Decimal]]:
        """Price and count of what rests, by the exchange's own book."""
        return self.server.call(
            lambda venue: [(o.price, o.remaining_count) for o in venue.exchange.ledger.resting_orders()]
        )

    def traded(self) -> dict[str, Decimal]:
        """Contracts bought and sold by our orders, by the exchange's own book."""
        fills: Any = self.server.ledger()["fills"]
        sums = {"bought": Decimal(0), "sold": Decimal(0)}
        for fill in fills:
            is_entry = fill["client_order_id"].startswith("backstop-entry-")
            sums["bought" if is_entry else "sold"] += Decimal(fill["count"])
        return sums

    def is_protected(self, count: int) -> bool:
        checked = self.checker.checked_positions()
        return [(c.position.count, c.protection.protected) for c in checked] == [(count, True)]


@pytest.fixture
def house(server: SandboxServer) -> Iterator[House]:
    with House(server) as running:
        yield running


def test_a_partial_fill_is_protected_within_one_pass(house: House) -> None:
    client_order_id = house.rest("10", "0.51", post_only=True)
    house.offer("0.51", "4")
    assert house.held() == 4
    house.until(lambda: house.is_protected(4), "the first four contracts are protected", WITHIN_S)
    house.until(lambda: house.entries.orders()[client_order_id].filled == 4, "and known")
    assert house.resting() == [(Decimal("0.51"), 6)]
    house.offer("0.51", "6")
    house.until(lambda: house.is_protected(10), "all ten are", WITHIN_S)
    house.until(lambda: house.entries.orders() == {}, "nothing is left to buy")


def test_with_the_stream_cut_a_partial_fill_is_protected_by_the_next_read(house: House) -> None:
    client_order_id = house.rest("10", "0.51", post_only=True, keep_on_feed_loss=True)
    house.server.set_faults(cut_sockets=True, refuse_ws={"for_s": 60, "status": 503})
    house.until(lambda: not house.feed.status().is_live, "the feed is lost")
    house.offer("0.51", "4")
    house.until(lambda: house.is_protected(4), "a read has shown them", 8)
    assert house.resting() == [(Decimal("0.51"), 6)]
    assert house.entries.cancel(client_order_id, "enough") == ""
    house.until(lambda: house.entries.orders() == {}, "canceled")
    house.until(lambda: house.is_protected(4), "and counted once")
    house.server.clear_faults()
    house.until(lambda: house.feed.status().is_live, "live again", 8)
    house.until(lambda: house.is_protected(4), "and still once")


def test_what_may_not_stay_is_canceled_when_the_feed_is_lost(house: House) -> None:
    house.rest("10", "0.51", post_only=True)
    kept = house.rest("5", "0.50", keep_on_feed_loss=True)
    house.server.set_faults(cut_sockets=True, refuse_ws={"for_s": 60, "status": 503})
    house.until(lambda: house.resting() == [(Decimal("0.50"), 5)], "one is canceled, one stays")
    house.until(lambda: list(house.entries.orders()) == [kept], "and known")


def test_a_stop_hit_while_the_rest_still_rests_sells_exactly_what_was_bought(house: House) -> None:
    house.rest("10", "0.51", post_only=True)
    house.offer("0.51", "4")
    house.until(lambda: house.is_protected(4), "protected")
    house.rule = ExitRule(stop_loss_price=Decimal("0.51"))  # our own bid is the best one, and no better
    house.until(lambda: house.held() == 0, "sold")
    house.until(lambda: house.entries.orders() == {}, "nothing is left to buy")
    assert house.resting() == []
    house.offer("0.51", "6")
    house.until(lambda: house.portfolio.positions() == {}, "flat")
    assert house.held() == 0
    assert house.traded() == {"bought": 4, "sold": 4}


def test_an_exit_that_begins_cancels_what_would_buy_again_further_down(house: House) -> None:
    """The exit does not meet this order: only `exit_began` takes it out of its way."""
    assert house.entries.place(OrderIntent(T, OutcomeSide.YES, Decimal(4), Decimal("0.53"))).filled == 4
    further_down = house.rest("6", "0.30")
    house.until(lambda: house.is_protected(4), "protected")
    house.rule = ExitRule(stop_loss_price=Decimal("0.45"))
    house.server.set_market(T, bid="0.44", ask="0.47")
    house.until(lambda: house.held() == 0, "sold")
    house.until(lambda: further_down not in house.entries.orders(), "canceled", 2)
    house.server.set_market(T, bid="0.20", ask="0.25")
    assert house.held() == 0
    assert house.traded() == {"bought": 4, "sold": 4}


def test_an_order_whose_answer_was_lost_is_found_and_looked_after(house: House) -> None:
    house.server.set_faults(
        calls=[{"method": "POST", "path": "/portfolio/events/orders", "action": "act_then_reset"}]
    )
    intent = OrderIntent(T, OutcomeSide.YES, Decimal(10), Decimal("0.51"), rests=True, post_only=True)
    result = house.entries.place(intent)
    assert result.placed
    assert result.order is not None
    client_order_id = result.order.client_order_id
    house.until(
        lambda: house.entries.orders()[client_order_id].state is EntryState.RESTING, "found in the book"
    )
    house.offer("0.51", "4")
    house.until(lambda: house.is_protected(4), "protected")
    assert house.entries.stop(5.0)
    assert house.resting() == []
    assert house.traded()["bought"] == 4


def test_an_amend_moves_the_order_in_the_book_and_what_it_buys_is_protected(house: House) -> None:
    client_order_id = house.rest("10", "0.51", post_only=True)
    assert house.entries.amend(AmendIntent(client_order_id, price=Decimal("0.50"), count=Decimal(6))) == ""
    assert house.resting() == [(Decimal("0.50"), 6)]
    assert house.entries.amend(AmendIntent(client_order_id, price=Decimal("0.53"))) == ""
    house.until(lambda: house.is_protected(6), "bought and protected")
    house.until(lambda: house.entries.orders() == {}, "and done")


@pytest.mark.parametrize("state", [TradingState.REDUCING, TradingState.HALTED])
def test_the_kill_switch_leaves_nothing_resting(house: House, state: TradingState) -> None:
    house.rest("10", "0.51", post_only=True, keep_on_feed_loss=True)
    house.state = state
    house.until(lambda: house.resting() == [], "canceled")
    assert not house.entries.place(OrderIntent(T, OutcomeSide.YES, Decimal(1), Decimal("0.53"))).placed


def test_stopping_leaves_nothing_resting_even_when_cancels_get_lost(house: House) -> None:
    house.rest("10", "0.51", post_only=True)
    house.rest("5", "0.40")
    lost = {"method": "DELETE", "path": "*", "action": "act_then_reset", "times": 1}
    refused = {"method": "DELETE", "path": "*", "action": "503", "times": 1}
    house.server.set_faults(calls=[lost, refused])
    assert house.entries.stop(8.0)
    assert house.resting() == []


def test_what_a_killed_run_left_resting_is_canceled_by_the_next(
    server: SandboxServer, tmp_path: Path
) -> None:
    clock = SystemClock()
    path = tmp_path / "journal.sqlite"
    journal = Journal.open(path, clock, account="a")
    journal.start()
    with House(server, journal) as house:
        client_order_id = house.rest("10", "0.51", post_only=True)
        house.offer("0.51", "4")
        house.until(lambda: house.entries.orders()[client_order_id].filled == 4, "known")
    journal.stop()
    assert journal.join(5.0)

    journal = Journal.open(path, clock, account="a")
    remembered = journal.load()
    assert [(e.client_order_id, e.filled) for e in remembered.entries] == [(client_order_id, 4)]
    journal.start()
    house = House(server, journal)
    house.entries.resume(remembered)
    with house:
        house.until(lambda: house.resting() == [], "canceled")
        house.until(lambda: house.entries.orders() == {}, "proved")
        house.until(lambda: house.is_protected(4), "what it bought is protected")
    journal.stop()
    assert journal.join(5.0)
    reopened = Journal.open(path, clock, account="a")
    assert reopened.load().entries == ()
    reopened.stop()


def test_a_cancel_without_an_answer_leaves_no_other_order_in_the_book(house: House) -> None:
    stuck, other = house.rest("10", "0.50"), house.rest("5", "0.49")
    calls = [{"method": "DELETE", "path": "/portfolio/events/orders/*", "action": "act_then_timeout"}]
    house.server.set_faults(calls=calls)
    assert house.entries.cancel(stuck, "enough") == ""
    house.until(lambda: house.resting() == [(Decimal("0.49"), 5)], "the first has reached the exchange")
    assert house.entries.cancel(other, "enough") == ""
    assert house.until(lambda: house.resting() == [], "nothing rests", 2) < 2
