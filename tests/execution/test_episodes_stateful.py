"""Exits driven through everything at once: any order of answers, losses, trades by hand, pauses, crashes.

One desk without threads, a clock that moves only when told, and an exchange that fills whatever is asked:
selling more than is held shows at once. The machine does what the world may do, in any order, and after
each step holds the desk to what must never happen. `World` is the world; `ExitMachine` is its moods.

The real exchange caps a `reduce_only` order at what is held. Here it does so only where no program could
know better, and in that market alone (`World.race`):
- somebody else sells or flips by hand: from that trade until the portfolio says what the exchange says, no
  order of ours is open or under way, and 3 s have passed, so that no read and no message shows older things;
- the process dies while the disk takes no writes: what was sent from memory is forgotten, by the same rule.
There a new start may also use an id again that it cannot know of, and close an exit too early; the rules,
which look at everything that is held, trigger it again. For all else the exchange caps nothing.

Long runs: `BACKSTOP_STATEFUL_EXAMPLES=5000`, with a new seed each time.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from base.clock import Clock
from base.errors import BotError, OrderOutcomeUnknown, OrderRejected
from base.execution.episode import RESENDS_MAX, UNKNOWN_S_MAX, Episode, EpisodeState
from base.execution.exit_steps import ExitSteps
from base.execution.exits import ExitDesk, ExitOrder
from base.execution.gateway import Gateway, OrderSender, PriceView
from base.model.market import ONE, ZERO, BookSide, Market, MarketStatus, OutcomeSide, PriceGrid, PriceRange
from base.model.order import OrderAck, OrderRequest, TimeInForce, exit_book_side, to_yes_leg
from base.model.rules import ExitReason
from base.store.portfolio import Portfolio
from base.store.records import AttemptOutcome, AttemptRecord, Record, Remembered
from tests.fakes.clock import FakeClock
from tests.fakes.gateway import (
    Crash,
    Execution,
    FakeExchange,
    FakeSender,
    Fill,
    KilledHere,
    Late,
    Lost,
    NotSent,
    RateLimited,
    Reject,
    Step,
)
from tests.fakes.journal import MemoryJournal

YES_CENTS, NO_DECI, YES_TAPERED = "KXHIGHNY-26NOV22-T60", "KXBTCD-26NOV22-T95000", "KXNFL-26NOV22-NYJ"
TICKERS = (YES_CENTS, NO_DECI, YES_TAPERED)

DECI = Decimal("0.001")
GRIDS = {
    YES_CENTS: PriceGrid(),
    NO_DECI: PriceGrid((PriceRange(ZERO, ONE, DECI),)),
    YES_TAPERED: PriceGrid(
        (
            PriceRange(ZERO, Decimal("0.1"), DECI),
            PriceRange(Decimal("0.1"), Decimal("0.9"), Decimal("0.01")),
            PriceRange(Decimal("0.9"), ONE, DECI),
        )
    ),
}

NEWS_S_MAX = 3.0
"""What comes later than this by stream, or is shown later than this by a read, does not come."""
JOURNAL_S = 0.25
TICK_S = 0.1
STEPS_AT_ONCE_MAX = 60
ORDERS_BESIDE_SCRIPT_MAX = 30
HEALED_S = 300.0

STATED = ("market_closed", "price_left", "position_changed", "flipped")
"""Ends of an exit that may leave something held in a market that nobody else has touched."""


@dataclass(frozen=True)
class Trigger:
    """One exit as it was triggered."""

    ticker: str
    side: OutcomeSide
    count: Decimal
    floor: Decimal


@dataclass(frozen=True)
class Message:
    """One private message on its way."""

    execution: Execution
    is_fill: bool


class World:
    """One account, its exchange, and one run after another of the program that exits its positions."""

    def __init__(self, desk_class: type[ExitDesk] = ExitDesk, journal: MemoryJournal | None = None) -> None:
        self.clock = FakeClock()
        self.exchange = FakeExchange(self.clock)
        self.journal = journal if journal is not None else MemoryJournal()
        self.desk_class = desk_class
        self.judges_ids = True
        self.wrong: list[str] = []
        """What must never happen and did. Collected, because the desk survives what its callees raise."""
        self.triggers: dict[str, Trigger] = {}
        self.touched: set[str] = set()
        """Markets that somebody else has traded, or of which a dead disk has made the program forget."""
        self.closed: set[str] = set()
        self.messages: list[Message] = []
        self.is_stream_prompt = False
        self.read_lag_s = 0.0
        self.scripted: defaultdict[str, int] = defaultdict(int)
        self._past: set[str] = set()  # exits of positions before the one that is held now
        self._raced_at: dict[str, float] = {}
        self._forgotten: set[str] = set()  # exits of which a dead disk has made the program forget
        self._ids = itertools.count(1)
        self._open: dict[str, float] = {}  # client order ids whose outcome was not told, with first sending
        self._sendings: defaultdict[str, list[float]] = defaultdict(list)  # by client order id
        self._last_id: dict[str, str] = {}  # by ticker
        self._left: set[str] = set()  # client order ids that another one has followed
        self._sold: defaultdict[str, Decimal] = defaultdict(Decimal)  # by client order id
        self._given_up: set[str] = set()
        self._steps_now = 0
        self._points_left: int | None = None
        self._fatal_point = ""
        self._unflushed_s = 0.0
        self.exchange.on_request = self._judge_request
        self.exchange.on_execution = self._judge_execution
        self.exchange.on_told = self.told
        self.exchange.at_point = self.journal.at_point = self._at_point
        self.begin_run()

    # --- the program --------------------------------------------------------------------------------

    def begin_run(self) -> None:
        """A new process: it knows what the journal remembers."""
        remembered = self.journal.remembered()
        self.portfolio = Portfolio(self.clock, self.journal)
        self.portfolio.restore(remembered)
        self.desk = self.desk_class(
            self.exchange,
            self.portfolio,
            self.exchange.prices.get,
            self._want_read,
            self.clock,
            workers=1,
            new_id=lambda: f"x{next(self._ids)}",
            recorder=self.journal,
        )
        self.sender: OrderSender = WatchedSender(self)
        self._is_read_wanted = True
        self._read_at = self.clock.monotonic()
        self.desk.resume(remembered)
        for record in remembered.episodes:
            self.check(self.desk.is_active(record.ticker), f"{record.id} is on disk and was not taken up")

    def _want_read(self) -> None:
        self._is_read_wanted = True

    def read(self, lag_s: float = 0.0) -> None:
        """A complete read of positions, as of so long ago."""
        self._read_at, self._is_read_wanted = self.clock.monotonic(), False
        if not self.exchange.reads_fail:
            self.portfolio.apply_read(self.exchange.positions(lag_s), self.clock.monotonic())

    def step(self) -> bool:
        """One step of the worker."""
        if not self.desk.run_once(self.sender):
            return False
        self._steps_now += 1
        self.check(self._steps_now <= STEPS_AT_ONCE_MAX, "the desk spins")
        return self._steps_now <= STEPS_AT_ONCE_MAX

    def drive(self, seconds: float) -> None:
        """Let the worker and the reconciliation work for so long."""
        until = self.clock.monotonic() + seconds
        while True:
            while self.step():
                pass
            now = self.clock.monotonic()
            if now >= until or self.wrong:
                return
            if now - self._read_at >= (1.0 if self._is_read_wanted else 5.0):
                self.read(self.read_lag_s)
            self.pass_time(min(TICK_S, until - now))

    def trigger(self, ticker: str, reason: ExitReason = ExitReason.STOP_LOSS, floor: str = "0.01") -> bool:
        position = self.portfolio.get(ticker)
        view = self.exchange.prices.get(ticker)
        if position is None or view is None or view.quote is None:
            return False
        bid = view.quote.best_bid(position.outcome_side)
        if not self.desk.trigger(ExitOrder(ticker, reason, bid, bid, Decimal(floor))):
            return False
        started = self.desk.views()[-1]
        self.triggers[started.id] = Trigger(ticker, position.outcome_side, position.count, Decimal(floor))
        return True

    # --- the end of the program ---------------------------------------------------------------------

    def kill_at(self, points: int) -> None:
        """Let the program die at the so many-th next point at which something leaves or reaches it."""
        self._points_left = points

    def kill_where(self, point: str) -> None:
        """Let the program die where this happens next."""
        self._fatal_point = point

    def _at_point(self, point: str) -> None:
        if point == self._fatal_point:
            self._fatal_point = ""
            raise KilledHere(point)
        if self._points_left is None:
            return
        self._points_left -= 1
        if self._points_left <= 0:
            self._points_left = None
            raise KilledHere(point)

    def crash(self, *, flushed: int = 0, down_s: float = 0.0, first_read_lag_s: float | None = None) -> None:
        """The process ends, after the journal's writer has taken so many more batches; a new one begins."""
        self._points_left = None
        self.journal.flush(flushed)
        self._judge_memory()
        self.journal.crash()
        self.messages.clear()  # a new connection is not told what was before
        self.pass_time(down_s)
        self.begin_run()
        for attempt in self.journal.remembered().attempts:
            if attempt.outcome is AttemptOutcome.OPEN:
                age_s = self.clock.now() - attempt.written_at
                self._open.setdefault(attempt.client_order_id, self.clock.monotonic() - age_s)
        if first_read_lag_s is not None:
            self.read(first_read_lag_s)

    def _judge_memory(self) -> None:
        """What was announced or has left is on disk, unless the disk has said that it takes nothing."""
        if self.journal.has_refused:
            self._forgotten |= self.triggers.keys()
            for ticker in TICKERS:
                self.race(ticker)
            return
        for episode in self._episodes():
            is_known = self.journal.episode(episode.id) is not None
            self.check(is_known or not episode.is_announced, f"{episode.id} was announced and is forgotten")

    def attempts(self) -> tuple[AttemptRecord, ...]:
        return self.journal.remembered().attempts

    def _episodes(self) -> list[Episode]:
        return list(self.desk._active.values())

    # --- the world ----------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        return any(self.desk.is_active(t) for t in TICKERS)

    def open_position(self, ticker: str, signed: Decimal) -> None:
        """A new position where all agree that nothing is held; the stream tells it at once."""
        is_flat = self.exchange.held[ticker] == 0 and self.agrees(ticker) and not self.desk.is_active(ticker)
        if is_flat and not self.exchange.is_under_way(ticker) and ticker not in self.exchange.trading:
            self._past |= {i for i, t in self.triggers.items() if t.ticker == ticker}
            execution = self.exchange.trade_by_hand(ticker, signed)
            self.portfolio.apply_fill(execution.fill())

    def pass_time(self, seconds: float) -> None:
        if seconds <= 0:
            return
        self.clock.advance(seconds)
        self._steps_now = 0
        self.exchange.catch_up()
        self._unflushed_s += seconds
        if self._unflushed_s >= JOURNAL_S:
            self._unflushed_s = 0.0
            self.journal.flush()
        now = self.clock.monotonic()
        self.messages = [m for m in self.messages if now - m.execution.at <= NEWS_S_MAX]

    def script(self, ticker: str, answers: Iterable[Step]) -> None:
        for answer in answers:
            self.exchange.script[ticker].append(answer)
            self.scripted[ticker] += 1

    def trade_by_hand(self, ticker: str, change: Decimal) -> None:
        held = self.exchange.held.get(ticker, ZERO)
        if change == 0 or ticker in self.exchange.trading:
            return
        self.touched.add(ticker)
        if abs(held + change) < abs(held) or (held + change) * held < 0:
            self.race(ticker)
        self.exchange.trade_by_hand(ticker, change)

    def race(self, ticker: str) -> None:
        """From now on until all is known again, only the exchange's cap says what is held."""
        self.touched.add(ticker)
        self._raced_at[ticker] = self.clock.monotonic()
        self.exchange.capped.add(ticker)

    def end_races(self) -> None:
        for ticker in list(self.exchange.capped):
            is_long_ago = self.clock.monotonic() - self._raced_at[ticker] > NEWS_S_MAX
            is_open = any(self.ticker_of(i) == ticker for i in self._open)
            if is_long_ago and not is_open and not self.exchange.is_under_way(ticker) and self.agrees(ticker):
                self.exchange.capped.discard(ticker)

    def agrees(self, ticker: str) -> bool:
        position = self.portfolio.get(ticker)
        known = position.signed_count if position is not None else ZERO
        return known == self.exchange.held.get(ticker, ZERO)

    def deliver(self, message: Message) -> None:
        if message.is_fill:
            self.portfolio.apply_fill(message.execution.fill())
        else:
            self.told(message.execution.client_order_id)
            self.desk.order_update(message.execution.order_update())

    # --- the judge ----------------------------------------------------------------------------------

    def check(self, is_right: bool, what: str) -> None:
        if not is_right:
            self.wrong.append(what)

    def told(self, client_order_id: str) -> None:
        """The program has been told what became of this order."""
        self._open.pop(client_order_id, None)

    def is_open(self, client_order_id: str) -> bool:
        return client_order_id in self._open

    def ticker_of(self, client_order_id: str) -> str:
        return self.triggers[client_order_id.rpartition("-")[0]].ticker

    def _judge_request(self, request: OrderRequest) -> None:
        now, name = self.clock.monotonic(), request.client_order_id
        episode_id = name.rpartition("-")[0]
        trigger = self.triggers[episode_id]
        grid = GRIDS[request.ticker]
        self.check(request.ticker == trigger.ticker, f"{name} went to another market")
        self.check(request.time_in_force is TimeInForce.IMMEDIATE_OR_CANCEL, f"{name} may rest")
        self.check(request.reduce_only, f"{name} may open")
        self.check(request.count > 0, f"{name} asks for nothing")
        self.check(request.book_side is exit_book_side(trigger.side), f"{name} is on the wrong side")
        self.check(ZERO < request.price < ONE, f"{name} asks {request.price}")
        self.check(grid.floor(request.price) == request.price, f"{name} is off the grid")
        self.check(to_yes_leg(request.price, trigger.side) >= trigger.floor, f"{name} is below the floor")
        attempt = self.journal.attempt(name)
        is_written = attempt is not None and attempt.outcome is AttemptOutcome.OPEN
        self.check(is_written or self.journal.has_refused, f"{name} left before it was written down")
        if episode_id not in self._forgotten:
            self.check(name not in self._left, f"{name} was used again after another id")
        last = self._last_id.get(request.ticker)
        if last is not None and last != name:
            self._left.add(last)
            if self.judges_ids and last in self._open and last.rpartition("-")[0] not in self._forgotten:
                self._judge_given_up(last, name)
        self._last_id[request.ticker] = name
        self._open.setdefault(name, now)
        self._sendings[name].append(now)
        sent = sum(len(s) for i, s in self._sendings.items() if i.rpartition("-")[0] == episode_id)
        most = ORDERS_BESIDE_SCRIPT_MAX + self.scripted[request.ticker]
        self.check(sent <= most, f"{episode_id} has sent {sent} orders")

    def _judge_given_up(self, last: str, name: str) -> None:
        now = self.clock.monotonic()
        is_tried = now - self._open[last] >= UNKNOWN_S_MAX or len(self._sendings[last]) > RESENDS_MAX
        is_quiet = now - self._sendings[last][-1] >= NEWS_S_MAX
        self.check(is_tried and is_quiet, f"{name} left while what became of {last} was unknown")
        self._given_up.add(last)
        self.told(last)

    def _judge_execution(self, execution: Execution) -> None:
        if not execution.by_hand:
            name = execution.client_order_id
            episode_id = name.rpartition("-")[0]
            direction = 1 if execution.book_side is BookSide.BID else -1
            to_sell = max(ZERO, -direction * execution.signed)
            self.check(execution.count <= to_sell, f"{name} sold {execution.count} of {to_sell}")
            self._sold[name] += execution.count
            most = self.triggers[episode_id].count
            self.check(self._sold_by(episode_id) <= most, f"{episode_id} sold more than its {most}")
        news = [Message(execution, is_fill=True)] if execution.count else []
        if not execution.by_hand:
            news.append(Message(execution, is_fill=False))
        if self.is_stream_prompt:
            for message in news:
                self.deliver(message)
        else:
            self.messages.extend(news)

    def _sold_by(self, episode_id: str) -> Decimal:
        """What an exit has sold, as far as it can know: where an order was given up, and somebody has added
        to the position, what is held does not tell what that order had filled."""
        is_touched = self.triggers[episode_id].ticker in self.touched
        names = (i for i in self._sold if i.rpartition("-")[0] == episode_id)
        return sum((self._sold[i] for i in names if not (is_touched and i in self._given_up)), ZERO)

    def judge(self) -> None:
        self.end_races()
        for episode in self._episodes():
            if episode.is_announced and not self.journal.has_refused:
                self.check(
                    self.journal.episode(episode.id) is not None,
                    f"{episode.id} was announced before it was on disk",
                )
        assert not self.wrong, "; ".join(self.wrong)

    def heal(self) -> None:
        """The exchange, its reads, the stream and the disk are well again, and time passes."""
        self._points_left = None
        self.journal.fails = False
        self.journal.flush()
        self.exchange.reads_fail, self.exchange.budget = False, None
        self.exchange.orders_lag_s = self.exchange.as_of_lag_s = self.read_lag_s = 0.0
        for ticker in TICKERS:
            self.exchange.script[ticker].clear()
            if ticker in self.closed:
                self.exchange.prices.set_status(ticker, MarketStatus.CLOSED)
                self.desk.poke(ticker)
            else:
                self.open_market(ticker, is_told=True)
                self.set_bid(ticker, "0.40")
        self._drive_to_rest()

    def _drive_to_rest(self) -> None:
        """Until every exit has ended and a read later than that agrees."""
        for _ in range(int(HEALED_S)):
            self.drive(1.0)
            is_idle = not any(self.desk.is_active(t) for t in TICKERS)
            if self.wrong or (is_idle and all(self.agrees(t) for t in TICKERS)):
                return

    def judge_healed(self) -> None:
        """Healed: what was announced is flat or closed for a stated reason, and all is known."""
        self.journal.flush()
        self.judge()
        self._judge_rest()
        outcomes = self._outcomes()
        for ticker in outcomes.keys() - self.touched:
            is_stated = outcomes[ticker][-1] in STATED
            assert self.exchange.held[ticker] == 0 or is_stated, (
                f"{ticker} {self.exchange.held[ticker]} is left: {outcomes[ticker]}"
            )
        for _ in range(3):  # the rules look at everything that is held
            for ticker in outcomes.keys() - self.closed:
                self.trigger(ticker)
            self._drive_to_rest()
        self.judge()
        self._judge_rest()
        for ticker in outcomes.keys() - self.closed:
            assert self.exchange.held[ticker] == 0, f"{ticker} is still held"
        self.touched = set(self.exchange.capped)

    def _outcomes(self) -> dict[str, list[str]]:
        """How the announced exits of what is held now, or was last, have ended; by ticker."""
        outcomes: defaultdict[str, list[str]] = defaultdict(list)
        for episode_id, trigger in self.triggers.items():
            record = self.journal.episode(episode_id)
            if record is not None and episode_id not in self._past:
                outcomes[trigger.ticker].append(record.outcome)
        return outcomes

    def _judge_rest(self) -> None:
        for ticker in TICKERS:
            assert not self.desk.is_active(ticker), f"the exit of {ticker} never ends"
            assert self.agrees(ticker), (
                f"{ticker}: {self.exchange.held[ticker]} is held, {self.portfolio.get(ticker)} is known"
            )

    # --- markets ------------------------------------------------------------------------------------

    def begin_market(self, ticker: str, signed: str, bid: str = "0.40") -> None:
        self.exchange.holds(ticker, signed)
        market = Market(ticker, status=MarketStatus.ACTIVE, grid=GRIDS[ticker])
        self.exchange.prices.set(ticker, bid, market=market)

    def set_bid(self, ticker: str, bid: str) -> None:
        """The book moves; "0" is a book that is empty."""
        market = self.exchange.prices.views[ticker].market
        if bid == "0":
            self.exchange.prices.set(ticker, "0", "1", size="0", market=market)
        else:
            self.exchange.prices.set(ticker, bid, market=market)
        self.desk.poke(ticker)

    def halt_market(self, ticker: str, status: MarketStatus, *, is_told: bool) -> None:
        if ticker in self.closed:
            return
        self.exchange.trading[ticker] = status
        if status is MarketStatus.CLOSED:
            self.closed.add(ticker)
        if is_told:
            self.exchange.prices.set_status(ticker, status)
            self.desk.poke(ticker)

    def open_market(self, ticker: str, *, is_told: bool) -> None:
        if ticker in self.closed:
            return
        self.exchange.trading.pop(ticker, None)
        self.exchange.on_refresh[ticker] = MarketStatus.ACTIVE
        if is_told:
            self.exchange.prices.set_status(ticker, MarketStatus.ACTIVE)
            self.desk.poke(ticker)


class WatchedSender(FakeSender):
    """Notes which orders' outcomes the program has been told."""

    def __init__(self, world: World) -> None:
        super().__init__(world.exchange)
        self._world = world

    def create_order(self, request: OrderRequest) -> OrderAck:
        was_open = self._world.is_open(request.client_order_id)
        try:
            ack = super().create_order(request)
        except BotError as exc:
            exists = isinstance(exc, OrderRejected) and exc.code == "order_already_exists"
            if not was_open and not exists and not isinstance(exc, OrderOutcomeUnknown):
                self._world.told(request.client_order_id)
            raise
        self._world.told(request.client_order_id)
        return ack


COUNTS_HELD = st.tuples(
    st.sampled_from(["10", "2"]), st.sampled_from(["-7.5", "-4"]), st.sampled_from(["2.55", "100"])
)
OPENED = {YES_CENTS: Decimal(10), NO_DECI: Decimal("-7.5"), YES_TAPERED: Decimal("2.55")}
COUNTS = st.sampled_from(["0", "0.5", "1", "3", "7", None])
CODES = [
    (409, "trading_is_paused"),
    (409, "exchange_is_paused"),
    (409, "order_already_exists"),
    (400, "invalid_price"),
    (400, "insufficient_balance"),
    (400, "invalid_order"),
    (400, "header_timestamp_expired"),
    (401, ""),
    (403, ""),
    (404, "not_found"),
    (410, "deprecated_v1_order_endpoint"),
    (418, "teapot"),
]
ANSWERS = st.one_of(
    st.builds(Fill, COUNTS),
    st.builds(Lost, COUNTS),
    st.just(Lost(acted=False)),
    st.builds(Lost, COUNTS, st.just(True), st.integers(1, 8)),
    st.builds(Late, st.sampled_from([0.05, 0.5, 1.5, 3.0]), COUNTS),
    st.builds(lambda c: Reject(*c), st.sampled_from(CODES)),
    st.sampled_from([RateLimited(), NotSent(), Crash()]),
)
MARKETS = st.sampled_from(TICKERS)
BATCHES = st.sampled_from([1, 5])
LAGS = st.sampled_from([0.0, 0.4, 1.0, 2.0])
BOOLEANS = st.booleans()


class ExitMachine(RuleBasedStateMachine):
    """The moods of the world, in any order."""

    desk_class: type[ExitDesk] = ExitDesk
    judges_ids = True
    journal_class: type[MemoryJournal] = MemoryJournal

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.desk_class, self.journal_class())
        self.world.judges_ids = self.judges_ids

    @initialize(counts=COUNTS_HELD, answers=st.tuples(*[st.lists(ANSWERS, max_size=3)] * 3), orders=BATCHES)
    def hold(self, counts: tuple[str, ...], answers: tuple[list[Step], ...], orders: int) -> None:
        self.world.exchange.batch_max = orders
        for ticker, count, script in zip(TICKERS, counts, answers, strict=True):
            self.world.begin_market(ticker, count)
            self.world.script(ticker, script)
        self.world.read()
        for ticker in TICKERS:
            self.world.trigger(ticker)

    # --- the program --------------------------------------------------------------------------------

    @rule(
        ticker=MARKETS,
        reason=st.sampled_from([ExitReason.STOP_LOSS, ExitReason.TAKE_PROFIT]),
        floor=st.sampled_from(["0.01", "0.05"]),
        answers=st.lists(ANSWERS, max_size=3),
    )
    def trigger(self, ticker: str, reason: ExitReason, floor: str, answers: list[Step]) -> None:
        self.world.script(ticker, answers)
        self.world.open_position(ticker, OPENED[ticker])
        self.world.trigger(ticker, reason, floor)

    @rule(answers=st.lists(ANSWERS, min_size=3, max_size=3))
    def trigger_all(self, answers: list[Step]) -> None:
        for ticker, answer in zip(TICKERS, answers, strict=True):
            self.world.script(ticker, [answer])
            self.world.open_position(ticker, OPENED[ticker])
            self.world.trigger(ticker)

    @precondition(lambda self: self.world.is_busy)
    @rule(steps=st.integers(1, 4))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.world.step()

    @precondition(lambda self: self.world.is_busy)
    @rule(seconds=st.sampled_from([0.05, 0.15, 0.5, 1.5]))
    def step_later(self, seconds: float) -> None:
        self.world.pass_time(seconds)
        self.world.step()

    @rule(seconds=st.sampled_from([0.3, 1.0, 3.0, 10.0]))
    def work(self, seconds: float) -> None:
        self.world.drive(seconds)

    @rule(seconds=st.sampled_from([0.05, 0.25, 1.0, 4.0, 30.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    # --- crashes ------------------------------------------------------------------------------------

    @rule(
        flushed=st.integers(0, 6),
        down_s=st.sampled_from([0.0, 0.1, 1.0, 5.0, 30.0]),
        lag=st.one_of(st.none(), LAGS),
    )
    def crash(self, flushed: int, down_s: float, lag: float | None) -> None:
        self.world.crash(flushed=flushed, down_s=down_s, first_read_lag_s=lag)

    @rule(
        points=st.integers(1, 12),
        flushed=st.integers(0, 6),
        down_s=st.sampled_from([0.0, 0.1, 1.0, 5.0]),
        lag=st.one_of(st.none(), LAGS),
    )
    def crash_inside(self, points: int, flushed: int, down_s: float, lag: float | None) -> None:
        world = self.world
        world.kill_at(points)
        with contextlib.suppress(KilledHere):
            world.drive(1.0)  # with fewer points than that it dies at rest
        world.crash(flushed=flushed, down_s=down_s, first_read_lag_s=lag)

    # --- answers, reads, messages -------------------------------------------------------------------

    @precondition(lambda self: self.world.is_busy)
    @rule(ticker=MARKETS, answers=st.lists(ANSWERS, min_size=1, max_size=3))
    def script(self, ticker: str, answers: list[Step]) -> None:
        self.world.script(ticker, answers)

    @rule(lag=LAGS)
    def read(self, lag: float) -> None:
        self.world.read(lag)

    @rule(fail=BOOLEANS, positions_lag=LAGS, orders_lag=LAGS, says_how_late=BOOLEANS)
    def reads(self, fail: bool, positions_lag: float, orders_lag: float, says_how_late: bool) -> None:
        self.world.exchange.reads_fail = fail
        self.world.read_lag_s = positions_lag
        self.world.exchange.orders_lag_s = orders_lag
        self.world.exchange.as_of_lag_s = orders_lag if says_how_late else None

    @precondition(lambda self: self.world.messages)
    @rule(place=st.integers(0, 3), again=BOOLEANS)
    def message(self, place: int, again: bool) -> None:
        messages = self.world.messages
        message = messages[place % len(messages)]
        if not again:
            messages.remove(message)
        self.world.deliver(message)

    @rule(prompt=BOOLEANS)
    def stream_overtakes_answers(self, prompt: bool) -> None:
        self.world.is_stream_prompt = prompt

    # --- others -------------------------------------------------------------------------------------

    @rule(ticker=MARKETS, share=st.sampled_from(["-1.5", "-1", "-0.5", "0.4"]))
    def trade_by_hand(self, ticker: str, share: str) -> None:
        held = self.world.exchange.held[ticker]
        self.world.trade_by_hand(ticker, held * Decimal(share))

    @rule(ticker=MARKETS, bid=st.sampled_from(["0", "0.03", "0.25", "0.40", "0.95"]))
    def bid_moves(self, ticker: str, bid: str) -> None:
        self.world.set_bid(ticker, bid)

    @rule(ticker=MARKETS, opens=BOOLEANS, is_told=BOOLEANS)
    def pause(self, ticker: str, opens: bool, is_told: bool) -> None:
        if opens:
            self.world.open_market(ticker, is_told=is_told)
        else:
            self.world.halt_market(ticker, MarketStatus.INACTIVE, is_told=is_told)

    @rule(is_told=BOOLEANS)
    def close(self, is_told: bool) -> None:
        self.world.halt_market(YES_TAPERED, MarketStatus.CLOSED, is_told=is_told)

    @rule(orders=BATCHES, budget=st.sampled_from([0.0, 1.0, 2.0, None]))
    def limits(self, orders: int, budget: float | None) -> None:
        self.world.exchange.batch_max, self.world.exchange.budget = orders, budget

    @rule(fails=BOOLEANS)
    def disk(self, fails: bool) -> None:
        self.world.journal.fails = fails

    # --- the end ------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.is_busy)
    @rule()
    def heal(self) -> None:
        self.world.heal()
        self.world.judge_healed()

    @invariant()
    def nothing_is_wrong(self) -> None:
        self.world.judge()

    def teardown(self) -> None:
        if not self.world.wrong and self.world.exchange.held:
            self.world.heal()
            self.world.judge_healed()


EXAMPLES = int(os.environ.get("BACKSTOP_STATEFUL_EXAMPLES", "0"))
STEPS = 40
CI = settings(
    max_examples=300,
    stateful_step_count=STEPS,
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
LONG = settings(CI, max_examples=max(1, EXAMPLES), derandomize=False, print_blob=True)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """A hundred thousand lines that nobody reads."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.timeout(0 if EXAMPLES else 600)  # shrinking what it has found takes minutes
def test_whatever_happens_what_is_sold_was_held_and_nothing_is_forgotten() -> None:
    run_state_machine_as_test(ExitMachine, settings=LONG if EXAMPLES else CI)


# --- what the machine has found, told on its own --------------------------------------------------------


def world_that_holds(signed: str = "10") -> World:
    world = World()
    world.begin_market(YES_CENTS, signed)
    world.read()
    return world


def killed_at(world: World, point: str) -> None:
    """Work until the program dies where this happens next."""
    world.kill_where(point)
    with pytest.raises(KilledHere):
        world.drive(1.0)


def test_an_answer_on_disk_counts_though_the_exits_own_row_is_older() -> None:
    world = world_that_holds()
    world.trigger(YES_CENTS)
    killed_at(world, "an order is answered")
    world.journal.write(
        [replace(world.attempts()[0], outcome=AttemptOutcome.ANSWERED, fill_count=Decimal(10))]
    )
    world.crash(flushed=1, first_read_lag_s=0.4)
    assert world.desk.views()[-1].filled == 10
    world.drive(30)
    world.judge()
    assert world.exchange.held[YES_CENTS] == 0
    assert len(world.exchange.requests) == 1


def test_a_read_that_is_behind_a_sale_of_the_run_before_triggers_no_second_one() -> None:
    world = world_that_holds()
    world.trigger(YES_CENTS)
    world.drive(0.5)
    world.crash(flushed=99, first_read_lag_s=1.0)
    assert not world.trigger(YES_CENTS)
    world.drive(10)
    world.judge()
    assert len(world.exchange.requests) == 1


def test_an_order_to_be_sent_again_waits_for_the_budget_under_its_own_id() -> None:
    world = world_that_holds()
    world.script(YES_CENTS, [Lost(acted=False)])
    world.exchange.budget = 1
    world.trigger(YES_CENTS)
    world.drive(20)
    assert world.exchange.finds <= 15
    world.exchange.budget = None
    world.drive(10)
    world.judge()
    assert {r.client_order_id for r in world.exchange.requests} == {"x1-1"}
    assert world.exchange.held[YES_CENTS] == 0


def test_one_first_read_that_does_not_show_a_position_ends_no_exit() -> None:
    world = world_that_holds("0")
    world.open_position(YES_CENTS, Decimal(10))
    world.set_bid(YES_CENTS, "0")
    world.trigger(YES_CENTS)
    world.drive(0.3)
    world.crash(first_read_lag_s=1.0)
    assert world.portfolio.get(YES_CENTS) is None
    world.step()
    assert world.desk.is_active(YES_CENTS)
    world.set_bid(YES_CENTS, "0.40")
    world.drive(10)
    world.judge()
    assert world.exchange.held[YES_CENTS] == 0


def test_exits_that_wait_for_the_budget_do_not_spin() -> None:
    world = world_that_holds()
    world.exchange.budget = 0
    world.pass_time(1023.85 - world.clock.monotonic())  # sums of times round otherwise beyond 1024
    world.trigger(YES_CENTS)
    world.drive(1.0)
    world.judge()
    assert world.exchange.requests == []


def test_a_read_from_before_an_order_was_given_up_sizes_no_new_one() -> None:
    world = world_that_holds()
    world.script(YES_CENTS, [Lost("0.5", shown_after_reads=2)])
    world.trigger(YES_CENTS)
    world.step()
    world.pass_time(2 * UNKNOWN_S_MAX)  # the machine slept
    world.read()
    world.drive(30)
    world.judge()
    assert world.exchange.held[YES_CENTS] == 0


def test_an_outage_that_ends_soon_after_an_order_was_given_up_sells_nothing_twice() -> None:
    world = world_that_holds()
    world.script(YES_CENTS, [Lost(), *[Lost(acted=False)] * RESENDS_MAX])
    world.exchange.reads_fail = True
    world.trigger(YES_CENTS)
    world.drive(UNKNOWN_S_MAX + 6)
    world.exchange.reads_fail = False
    world.drive(30)
    world.judge()
    assert world.exchange.held[YES_CENTS] == 0
    assert {r.client_order_id for r in world.exchange.requests} == {"x1-1"}


# --- whether the machine would notice -----------------------------------------------------------------


class CarelessSteps(ExitSteps):
    """Takes a lost answer for an order that never was."""

    def lost(self, episode: Episode, why: object) -> float:
        self._settle(episode, AttemptOutcome.GIVEN_UP, why=str(why))
        self._move(episode, EpisodeState.TRIGGERED, "on with a new order")
        return 0.05


class CarelessDesk(ExitDesk):
    def __init__(
        self,
        gateway: Gateway,
        portfolio: Portfolio,
        price_of: Callable[[str], PriceView | None],
        request_reconcile: Callable[[], None],
        clock: Clock,
        **options: Any,
    ) -> None:
        super().__init__(gateway, portfolio, price_of, request_reconcile, clock, **options)
        self._steps = CarelessSteps(gateway, portfolio, price_of, request_reconcile, clock, self._recorder)


class AmnesiacJournal(MemoryJournal):
    """Keeps orders that have left, and does not tell the next run of them."""

    def remembered(self) -> Remembered:
        return replace(super().remembered(), attempts=())


class HastyJournal(MemoryJournal):
    """Says that records are on disk before they are."""

    def commit(self, records: Iterable[Record]) -> bool:
        self.write(records)
        return True


class CarelessMachine(ExitMachine):
    desk_class = CarelessDesk


class DoubleSellMachine(CarelessMachine):
    """Looks only at what the exchange's ledger says."""

    judges_ids = False


class AmnesiacMachine(ExitMachine):
    journal_class = AmnesiacJournal


class HastyMachine(ExitMachine):
    journal_class = HastyJournal


@pytest.mark.parametrize(
    ("machine", "what"),
    [
        pytest.param(CarelessMachine, "sold|left while", id="a new order after a lost answer"),
        pytest.param(DoubleSellMachine, "sold", id="sold twice after a lost answer, by the ledger alone"),
        pytest.param(AmnesiacMachine, "sold|left while", id="orders of the run before are forgotten"),
        pytest.param(HastyMachine, "written down|announced", id="an order leaves before it is on disk"),
    ],
)
def test_the_machine_finds_a_planted_mistake(machine: type[ExitMachine], what: str) -> None:
    with pytest.raises(AssertionError, match=what):
        run_state_machine_as_test(machine, settings=settings(CI, phases=[Phase.generate]))
