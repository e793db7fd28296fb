"""The paper gateway: orders that never leave the process, filled against live prices.

How they fill is `paper_fills.py`, what is held `paper_account.py`, who does it `paper_exchange.py`; here
are the threads, the time and the record. To the rest of the program it is the exchange: it answers orders,
finds them again, tells of fills and order changes as the stream would, and pays out when a market ends.
What an answer says is on disk before the answer is given, so that after a restart what was sold stays sold
and what was bought is held. Resting orders end with the process.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from base.clock import Clock
from base.errors import BotError, RequestRejected
from base.execution.gateway import FoundOrder, OrderLookup, OrderSender, PriceView, TradingShards
from base.execution.paper_exchange import Event, PaperExchange, yes_value
from base.execution.paper_fills import is_believable
from base.log import RepeatedWarnings, log_event
from base.model.events import OrderUpdate
from base.model.market import ONE, MarketStatus, OutcomeSide
from base.model.order import OrderAck, OrderRequest
from base.model.position import Fill, Position
from base.store.realized import Payout
from base.store.records import NoRecorder, Record, Recorder, Remembered

logger = logging.getLogger(__name__)

LATENCY_S = 0.05
STEP_S = 0.1
"""How often `run_once` is to be called."""
SETTLE_S = 5.0
"""How often `settle_once` is to be called."""
RESULT_READ_S = 30.0
"""How often markets that have closed are read again until they say what they pay."""
RESULTS_READ_MAX = 100
HAND_OVER_S_MAX = 5.0
"""So long an answer waits for another thread that writes and tells; the disk takes no longer."""
OPEN_SHARDS = TradingShards(default=True, shards={})

_HAS_RESULT = (MarketStatus.DETERMINED, MarketStatus.AMENDED, MarketStatus.FINALIZED)


@dataclass(slots=True)
class _Batch:
    """What was noted together: it is brought to disk, then told."""

    records: list[Record] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)


class PaperGateway:
    """A `Gateway` and an `EntryGateway`; thread-safe.

    `price_of` gives a market's view, `refresh` reads markets anew, `reserve` takes the write budget of so
    many orders as the live sender's does, `trading` says at once where the exchange takes orders now.

    `run_once` fills, expires and cancels what rests, every `STEP_S`; `settle_once` pays for markets that
    have ended, and may read them, every `SETTLE_S`. Each belongs on a thread.
    """

    def __init__(
        self,
        price_of: Callable[[str], PriceView | None],
        refresh: Callable[[Sequence[str]], object],
        clock: Clock,
        recorder: Recorder | None = None,
        remembered: Remembered | None = None,
        *,
        latency_s: float = LATENCY_S,
        reserve: Callable[[int], float] = lambda orders: 0.0,
        trading: Callable[[], TradingShards] = lambda: OPEN_SHARDS,
    ) -> None:
        self._price_of = price_of
        self._refresh = refresh
        self._clock = clock
        self._recorder: Recorder = recorder if recorder is not None else NoRecorder()
        self._latency_s = latency_s
        self._reserve = reserve
        self._trading = trading
        self._stopping = threading.Event()
        self._warnings = RepeatedWarnings()
        self._on_fill: Callable[[Fill], None] = lambda fill: None
        self._on_order: Callable[[OrderUpdate], None] = lambda update: None
        self._on_settled: Callable[[Payout], None] = lambda payout: None
        self._lock = threading.Lock()  # guards the fields below; never held during I/O or callbacks
        self._exchange = PaperExchange(remembered if remembered is not None else Remembered())
        self._under_way: dict[str, float] = {}  # client order id -> wall time at which it was sent
        self._batch = _Batch()
        self._is_handing_over = False
        self._results_read_at: float | None = None
        self._unpaid: frozenset[str] = frozenset()

    def attach(
        self,
        on_fill: Callable[[Fill], None],
        on_order: Callable[[OrderUpdate], None],
        on_settled: Callable[[Payout], None],
    ) -> None:
        """Say who hears what the stream would tell; before any thread starts. They are called without a
        lock, in order, on whichever thread sends or steps, and send no orders themselves."""
        self._on_fill, self._on_order, self._on_settled = on_fill, on_order, on_settled

    def stop(self) -> None:
        """Cancel what rests; what is under way acts without further delay."""
        self._stopping.set()
        with self._lock:
            self._exchange.cancel_all()
            batch = self._noted_locked()
        self._hand_over(batch)

    # --- the account as the program sees it ---------------------------------------------------------

    def overlay(self, real: Mapping[str, Position], *, is_whole: bool = True) -> dict[str, Position]:
        """The exchange's positions with what was simulated laid over them; a read that is not whole says
        nothing about what it does not show."""
        views = self._views_of_held()
        with self._lock:
            account = self._exchange.account
            for ticker, view in views.items():
                # What the exchange has paid it does not show any more: the position has ended here too.
                has_left = is_whole and account.is_missing(ticker, real)
                if has_left and view.market.status in _HAS_RESULT:
                    self._exchange.settle(view.market, self._clock.now())
            account.take_read(
                real, self._clock.monotonic(), lambda t, side: _value(views.get(t), side), is_whole=is_whole
            )
            positions, lapses = account.positions(), account.take_lapses()
            batch = self._noted_locked()
        for ticker, count in lapses:
            why = "the position was sold or bought anew on the exchange"
            log_event(logger, logging.WARNING, "paper_sale_lapsed", ticker=ticker, count=count, why=why)
        self._hand_over(batch)
        return positions

    def balance(self, real: Decimal | None) -> Decimal | None:
        """The paper account's balance, from the exchange's own; None while that is not known. Orders that
        open risk are held to the newest one; until it is known, only the limits bound them."""
        with self._lock:
            if real is not None:
                self._exchange.real_balance = real
            return None if real is None else real + self._exchange.account.cash

    def doubts(self) -> list[str]:
        """What is not known of this account; for `/healthz`."""
        with self._lock:
            unpaid = self._unpaid
        return [f"{ticker} has ended, and what it pays is not known" for ticker in sorted(unpaid)]

    @property
    def resting_tickers(self) -> frozenset[str]:
        """Markets in which orders rest: their prices are needed."""
        with self._lock:
            return self._exchange.orders.tickers

    @property
    def needed_tickers(self) -> frozenset[str]:
        """Markets that must stay known: where something rests, and where something was bought or sold here
        until its end has been paid. What was sold here is not among the positions, and its end still has to
        be seen: what the exchange pays for it is not this account's."""
        with self._lock:
            return self._exchange.orders.tickers | self._exchange.account.simulated_tickers

    def _views_of_held(self) -> dict[str, PriceView]:
        with self._lock:
            tickers = self._exchange.account.tickers
        return {ticker: view for ticker in tickers if (view := self._price_of(ticker)) is not None}

    # --- orders -------------------------------------------------------------------------------------

    def open_sender(self) -> OrderSender:
        return _PaperSender(self, self._reserve)

    def create_entry(self, request: OrderRequest) -> OrderAck:
        return self.create_order(request)

    def create_order(self, request: OrderRequest) -> OrderAck:
        """Act on it one latency from now. Raises OrderRejected as the exchange would."""
        (answer,) = self.create_orders([request])
        if isinstance(answer, BotError):
            raise answer
        return answer

    def create_orders(self, requests: Sequence[OrderRequest]) -> list[OrderAck | BotError]:
        """Orders that are sent together arrive together; each has an answer of its own."""
        ids = [request.client_order_id for request in requests]
        sent_at = self._clock.now()
        with self._lock:
            self._under_way |= dict.fromkeys(ids, sent_at)
        try:
            self._travel()
            return [self._create(request) for request in requests]
        finally:
            with self._lock:
                for client_order_id in ids:
                    self._under_way.pop(client_order_id, None)

    def _create(self, request: OrderRequest) -> OrderAck | BotError:
        view, shards = self._view(request), self._trading()
        self._fill_crossed(request.ticker, view, shards)
        with self._lock:
            try:
                ack = self._exchange.place(request, view, shards, self._clock.now())
            except RequestRejected as refusal:
                return refusal
            batch = self._noted_locked()
        self._hand_over(batch)
        return ack

    def amend_entry(self, order_id: str, request: OrderRequest) -> OrderAck:
        """The answer counts what the change itself has filled, as the exchange's does."""
        self._travel()
        view, shards = self._view(request), self._trading()
        self._fill_crossed(request.ticker, view, shards)
        with self._lock:
            ack = self._exchange.amend(order_id, request, view, shards, self._clock.now())
            batch = self._noted_locked()
        self._hand_over(batch)
        return ack

    def cancel_entry(self, order_id: str, ticker: str) -> Decimal:
        self._travel()
        view = self._price_of(ticker)
        self._fill_crossed(ticker, view, self._trading())
        with self._lock:
            remaining = self._exchange.cancel(order_id, ticker, view, self._clock.now())
            batch = self._noted_locked()
        self._hand_over(batch)
        return remaining

    def _fill_crossed(self, ticker: str, view: PriceView | None, shards: TradingShards) -> None:
        """Bring what rests there up to date before something arrives. It is told by itself: what arrives
        may be refused."""
        with self._lock:
            self._exchange.fill_crossed(ticker, view, shards, self._clock.now())
            batch = self._noted_locked()
        self._hand_over(batch)

    def find_orders(self, client_order_ids: Mapping[str, str], since: float) -> OrderLookup:
        found: dict[str, FoundOrder] = {}
        with self._lock:
            for client_order_id in client_order_ids:
                if (order := self._exchange.orders.find(client_order_id)) is not None:
                    found[client_order_id] = order
            # What is under way is not shown yet and will act: nothing is proved beyond its sending.
            as_of = min(self._under_way.values(), default=self._clock.now())
        return OrderLookup(found, as_of)

    def refresh_markets(self, tickers: Sequence[str]) -> None:
        self._refresh(tickers)

    def trading_shards(self) -> TradingShards:
        return self._trading()

    def _travel(self) -> None:
        self._clock.wait(self._stopping, self._latency_s)

    def _view(self, request: OrderRequest) -> PriceView | None:
        """The market as an order meets it, read anew where nothing vouches for its price, and where only a
        ticker tells of it: what that has offered up to a second ago may be gone. No exit waits for that."""
        ticker = request.ticker
        view = self._price_of(ticker)
        if view is not None and is_believable(view):
            has_book = bool(view.yes_bids or view.no_bids)
            if has_book or request.reduce_only:
                return view
        try:
            self._refresh([ticker])
        except BotError as exc:
            if self._warnings.allow(ticker, self._clock.monotonic()) is not None:
                log_event(logger, logging.WARNING, "paper_price_unread", ticker=ticker, why=exc)
        return self._price_of(ticker)

    # --- passes -------------------------------------------------------------------------------------

    def run_once(self) -> None:
        """One look at everything that rests."""
        self.step(self._clock.now())

    def step(self, now: float) -> None:
        """Fill, expire and cancel what rests, as of wall time `now`."""
        tickers = self.resting_tickers
        if not tickers:
            return
        views = {ticker: self._price_of(ticker) for ticker in sorted(tickers)}
        shards = self._trading()
        with self._lock:
            self._exchange.step(views, shards, now)
            batch = self._noted_locked()
        self._hand_over(batch)

    def settle_once(self) -> None:
        """Pay for the markets that have ended, and read those that are closed until they say what they pay.
        Raises BotError when that fails."""
        views = self._views_of_held()
        now = self._clock.now()
        over = {t: v.market for t, v in views.items() if not v.market.status_at(now).can_still_trade}
        final = {t: market for t, market in over.items() if market.status is MarketStatus.FINALIZED}
        with self._lock:
            paid = {ticker for ticker, market in final.items() if self._exchange.settle(market, now)}
            self._unpaid = frozenset(final.keys() - paid)
            batch = self._noted_locked()
        self._hand_over(batch)
        self._read_results(sorted(over.keys() - paid))

    def _read_results(self, tickers: Sequence[str]) -> None:
        now = self._clock.monotonic()
        with self._lock:
            is_due = self._results_read_at is None or now - self._results_read_at >= RESULT_READ_S
            if tickers and is_due:
                self._results_read_at = now
        if tickers and is_due:
            self._refresh(tickers[:RESULTS_READ_MAX])

    # --- to disk, and told --------------------------------------------------------------------------

    def _noted_locked(self) -> _Batch | None:
        """What has happened and is not handed over yet, None when nothing has."""
        records, events = self._exchange.take_happenings()
        self._batch.records += records
        self._batch.events += events
        return self._batch if self._batch.records or self._batch.events else None

    def _hand_over(self, batch: _Batch | None) -> None:
        """Bring a batch to disk, before its answer is given, and tell of it. One thread does so at a time,
        for all, so that nothing overtakes a newer word."""
        if batch is None:
            return
        with self._lock:
            is_mine = not self._is_handing_over
            self._is_handing_over = True
        if not is_mine:
            self._clock.wait(batch.done, HAND_OVER_S_MAX)
            return
        while (taken := self._next_batch()) is not None:
            try:
                self._recorder.commit(taken.records)
                taken.records.clear()
                self._tell(taken.events)
                # What the listeners have written of it (the day's money) belongs to the answer too.
                self._recorder.commit(())
                taken.done.set()
            except BaseException:
                with self._lock:  # what is left comes with the next
                    self._batch.records[:0], self._batch.events[:0] = taken.records, taken.events
                    self._is_handing_over = False
                taken.done.set()
                raise

    def _next_batch(self) -> _Batch | None:
        with self._lock:
            batch = self._batch
            if not batch.records and not batch.events:
                self._is_handing_over = False
                return None
            self._batch = _Batch()
            return batch

    def _tell(self, events: list[Event]) -> None:
        while events:
            event = events.pop(0)
            if isinstance(event, Fill):
                self._on_fill(event)
            elif isinstance(event, OrderUpdate):
                self._on_order(event)
            else:
                _log_payout(event)
                self._on_settled(event)


def _log_payout(payout: Payout) -> None:
    log_event(
        logger,
        logging.INFO,
        "paper_settled",
        ticker=payout.ticker,
        side=payout.side.value,
        count=abs(payout.signed),
        cost=payout.cost,
        paid=payout.revenue,
    )


def _value(view: PriceView | None, side: OutcomeSide) -> Decimal | None:
    """What a contract fetches now: its payment where the market has ended, else the best bid."""
    if view is None:
        return None
    if (paid := yes_value(view.market)) is not None:
        return paid if side is OutcomeSide.YES else ONE - paid
    return None if view.quote is None else view.quote.best_bid(side)


class _PaperSender:
    """A sender that has no connection to keep."""

    batch_max = 1

    def __init__(self, gateway: PaperGateway, reserve: Callable[[int], float]) -> None:
        self._gateway = gateway
        self._reserve = reserve

    def reserve(self, orders: int) -> float:
        return self._reserve(orders)

    def create_order(self, request: OrderRequest) -> OrderAck:
        return self._gateway.create_order(request)

    def create_orders(self, requests: Sequence[OrderRequest]) -> list[OrderAck | BotError]:
        return self._gateway.create_orders(requests)

    def prepare(self) -> None:
        """Nothing to keep warm: no order leaves the process."""

    def close(self) -> None:
        """Nothing to close."""
