"""The exit desk: a small pool of workers that takes triggered positions to flat, one episode a position.

Each step of an episode does at most one thing on the network and then says when it wants the next one,
so that a slow answer, a paused market or a wait between rungs never holds a worker from another
position. Every order is immediate-or-cancel, reduce-only, sized from the position as it is now, never
from the rule. While an order's outcome is unknown nothing else is sent for that market.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal

from base.clock import Clock
from base.errors import (
    BotError,
    OrderOutcomeUnknown,
    RateLimitedError,
    RequestRejected,
    TransientError,
    WireError,
)
from base.execution.episode import (
    LOOKUP_DELAYS_S,
    PATIENCE_S,
    BlockedWhy,
    Episode,
    EpisodeState,
    LookupVerdict,
    answer_refusal,
    judge_absence,
    judge_unread,
    patience_after,
)
from base.execution.gateway import FoundOrder, Gateway, OrderSender, PriceView
from base.execution.ladder import exit_rung
from base.log import log_event
from base.model.events import OrderUpdate
from base.model.market import MarketStatus, OutcomeSide
from base.model.order import OrderAck, OrderRequest, OrderStatus, TimeInForce, to_yes_leg
from base.model.position import Position
from base.model.rules import ExitReason, Hold, HoldReason
from base.risk.exit_rules import price_to_act_on
from base.store.portfolio import Portfolio

logger = logging.getLogger(__name__)

WORKERS = 4
WORKERS_MAX = 48
EXTRA_IDLE_S = 10.0
IDLE_S = 0.5
"""How often an idle worker signs ahead and looks after its connection."""
UNVOUCHED_AGE_S_MAX = 5.0
"""A price that no live feed vouches for and that is older is read again before an order is priced on it."""
WAIT_FOR_PRICE_S = 1.0
PROBE_S = 2.0
"""How often, at most, a paused market or exchange is asked whether it is open again."""
FAILED_PROBES_MAX = 3
"""After so many that failed in a row, the order itself asks: a broken read must not latch an exit off."""
FRESH_READ_PATIENCE_S = 15.0
"""How long an exit whose order was given up waits for a complete read of positions."""
WORKER_RETRY_S = 0.5
REMEMBERED_EPISODES_MAX = 200
REMEMBERED_UPDATES_MAX = 2_000

_BLOCKED_BY_HOLD: dict[HoldReason, BlockedWhy] = {
    HoldReason.NO_BID: BlockedWhy.NO_BID,
    HoldReason.BELOW_FLOOR: BlockedWhy.BELOW_FLOOR,
    HoldReason.PAUSED: BlockedWhy.PAUSED,
    HoldReason.NOT_OPEN: BlockedWhy.NOT_OPEN,
}


@dataclass(frozen=True, slots=True)
class ExitOrder:
    """A decision to leave a position: `floor` is the least to ask, dollars of the held side."""

    ticker: str
    reason: ExitReason
    exit_value: Decimal
    trigger_price: Decimal | None
    floor: Decimal


@dataclass(frozen=True, slots=True)
class EpisodeView:
    """One episode for display. `filled` in contracts, `average_price` of the held side, times wall."""

    id: str
    ticker: str
    reason: str
    state: str
    trigger_price: Decimal | None
    filled: Decimal
    average_price: Decimal | None
    fees: Decimal
    attempts: int
    why: str
    opened_at: float
    closed_at: float | None


class ExitDesk:
    """Takes `ExitOrder`s; thread-safe. `price_of` gives a market's price view, None when unknown;
    `request_reconcile` asks for a complete read of positions soon."""

    def __init__(
        self,
        gateway: Gateway,
        portfolio: Portfolio,
        price_of: Callable[[str], PriceView | None],
        request_reconcile: Callable[[], None],
        clock: Clock,
        workers: int = WORKERS,
        new_id: Callable[[], str] = lambda: f"bs{uuid.uuid4().hex[:20]}",
    ) -> None:
        self._gateway = gateway
        self._portfolio = portfolio
        self._price_of = price_of
        self._request_reconcile = request_reconcile
        self._clock = clock
        self._new_id = new_id
        self._stop = threading.Event()
        self._threads: list[threading.Thread | None] = [None] * workers
        self._lock = threading.Lock()  # guards the fields below; never held during I/O or callbacks
        # Notified once for each piece of work: waking all workers for one would make three of them
        # compete with the one that sends.
        self._work = threading.Condition(self._lock)
        self._active: dict[str, Episode] = {}
        self._due: dict[str, float] = {}  # episodes that no worker holds, by ticker
        self._pokes: set[str] = set()
        self._views: OrderedDict[str, EpisodeView] = OrderedDict()
        self._updates: OrderedDict[str, OrderUpdate] = OrderedDict()
        self._is_draining = False
        self._is_started = False
        self._closed_counts: dict[str, int] = {}  # exits ended so far, by ticker
        self._busy = 0
        self._extras: set[threading.Thread] = set()

    # --- what other threads may call ----------------------------------------------------------------

    def start(self) -> None:
        """Start the workers, or new ones where they have died."""
        with self._lock:
            self._is_started = True
        for i, thread in enumerate(self._threads):
            if thread is None or not thread.is_alive():
                fresh = threading.Thread(target=self._run, name=f"exit-{i + 1}", daemon=True)
                self._threads[i] = fresh
                fresh.start()

    @property
    def is_alive(self) -> bool:
        """Whether every worker runs."""
        return all(thread is not None and thread.is_alive() for thread in self._threads)

    def stop(self, timeout_s: float) -> bool:
        """Take no new exits, finish those in flight within the time; return whether all were finished.

        Blocked ones are left as they are: the rule triggers again at the next start.
        """
        with self._lock:
            self._is_draining = True
        deadline = self._clock.monotonic() + timeout_s
        never = threading.Event()
        while self._in_flight() and self._clock.monotonic() < deadline:
            self._clock.wait(never, 0.02)
        finished = not self._in_flight()
        self._stop.set()
        with self._work:
            self._work.notify_all()
        with self._lock:
            extras = list(self._extras)
        for thread in [*self._threads, *extras]:
            if thread is not None:
                thread.join(max(0.1, deadline - self._clock.monotonic()))
        return finished

    def _in_flight(self) -> int:
        with self._lock:
            return sum(e.state is not EpisodeState.BLOCKED for e in self._active.values())

    def trigger(self, order: ExitOrder) -> bool:
        """Start an episode; False when one is running for this market, nothing is held, or stopping."""
        with self._lock:
            closed_before = self._closed_counts.get(order.ticker, 0)
        position = self._portfolio.get(order.ticker)
        if position is None:
            return False
        episode = Episode(
            id=self._new_id(),
            ticker=order.ticker,
            outcome_side=position.outcome_side,
            reason=order.reason,
            trigger_price=order.trigger_price,
            exit_value=order.exit_value,
            floor=order.floor,
            at_risk=position.count * order.exit_value,
            opened_at=self._clock.now(),
        )
        with self._lock:
            if order.ticker in self._active or self._is_draining:
                return False
            if self._closed_counts.get(order.ticker, 0) != closed_before:
                return False  # the position may have gone with the exit that has just ended: look again
            self._active[order.ticker] = episode
            self._due[order.ticker] = self._clock.monotonic()
            self._publish_locked(episode)
            self._work.notify()
            self._grow_locked()
        log_event(
            logger,
            logging.WARNING,
            "exit_triggered",
            ticker=order.ticker,
            reason=order.reason.value,
            price=order.exit_value,
            trigger_price=order.trigger_price,
            side=position.outcome_side.value,
            count=position.count,
            episode=episode.id,
        )
        return True

    def is_active(self, ticker: str) -> bool:
        with self._lock:
            return ticker in self._active

    def poke(self, ticker: str) -> None:
        """Something about this market changed (a price, a status): look at its episode now."""
        with self._lock:
            episode = self._active.get(ticker)
            if episode is None:
                return
            if ticker not in self._due:
                self._pokes.add(ticker)
                return
            if episode.state is not EpisodeState.BLOCKED or episode.blocked_why not in (
                BlockedWhy.NO_BID,
                BlockedWhy.BELOW_FLOOR,
                BlockedWhy.PAUSED,
                BlockedWhy.NO_PRICE,
                BlockedWhy.NOT_OPEN,
            ):
                return
            self._due[ticker] = self._clock.monotonic()
            self._work.notify()
            self._grow_locked()

    def order_update(self, update: OrderUpdate) -> None:
        """Remember what the stream says of an order: it may resolve an unknown outcome."""
        if update.status not in (OrderStatus.CANCELED, OrderStatus.EXECUTED) or not update.client_order_id:
            return
        with self._lock:
            self._updates[update.client_order_id] = update
            while len(self._updates) > REMEMBERED_UPDATES_MAX:
                self._updates.popitem(last=False)
            episode = self._active.get(update.ticker)
            is_awaited = episode is not None and episode.state is EpisodeState.UNKNOWN
            if is_awaited and update.ticker in self._due:
                self._due[update.ticker] = self._clock.monotonic()
                self._work.notify()

    def views(self) -> list[EpisodeView]:
        """All remembered episodes, oldest first."""
        with self._lock:
            return list(self._views.values())

    # --- the workers --------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._work_through()
            except Exception:  # safety net: a worker that ends would leave triggered exits lying
                logger.exception("event=exit_worker_error")
                self._clock.wait(self._stop, WORKER_RETRY_S)

    def _work_through(self) -> None:
        sender = self._gateway.open_sender()
        try:
            while not self._stop.is_set():
                if not self.run_once(sender):
                    self._wait_for_work()
        finally:
            sender.close()

    def _grow_locked(self) -> None:
        """Start one more worker when something is due and all are at work: an exchange that does not
        answer some orders must not hold up the others."""
        now = self._clock.monotonic()
        waiting = sum(due <= now for due in self._due.values())
        workers = len(self._threads) + len(self._extras)
        idle = workers - self._busy
        # What is due later needs somebody to notice it: one worker stays free for that.
        is_enough = waiting <= idle and (idle > 0 or not self._due)
        if not self._is_started or is_enough or workers >= WORKERS_MAX:
            return
        extra = threading.Thread(target=self._run_extra, name=f"exit-{workers + 1}", daemon=True)
        self._extras.add(extra)
        extra.start()

    def _run_extra(self) -> None:
        """A worker for a busy time: it goes when it has found nothing to do for a while."""
        last_work_at = self._clock.monotonic()
        try:
            sender = self._gateway.open_sender()
            try:
                while not self._stop.is_set() and self._clock.monotonic() - last_work_at < EXTRA_IDLE_S:
                    if self.run_once(sender):
                        last_work_at = self._clock.monotonic()
                    else:
                        self._wait_for_work()
            finally:
                sender.close()
        except Exception:  # safety net: the standing workers go on
            logger.exception("event=exit_worker_error")
        finally:
            with self._lock:
                self._extras.discard(threading.current_thread())

    def _wait_for_work(self) -> None:
        """Wait until an episode is due, at most `IDLE_S`. What became due before is seen under the lock."""
        with self._work:
            now = self._clock.monotonic()
            wait_s = min([IDLE_S, *(due - now for due in self._due.values())])
            if wait_s > 0 and not self._stop.is_set():
                self._work.wait(wait_s)

    def run_once(self, sender: OrderSender) -> bool:
        """Take the most pressing due episode one step; False (after looking after the connection) when
        none is due."""
        episode = self._take_due()
        if episode is None:
            try:
                sender.prepare()
            except BotError as exc:
                logger.debug("connection not ready: %s", exc)
            return False
        try:
            delay_s = self._step(episode, sender)
        except Exception:  # safety net: one episode's trouble must not end the worker or the episode
            logger.exception("event=exit_error ticker=%s", episode.ticker)
            if episode.state is EpisodeState.SENDING:
                # Whatever broke, the order may have left: it is looked up before anything new is sent.
                self._mark_unknown(episode)
            delay_s = 1.0
        self._put_back(episode, delay_s)
        return True

    def _take_due(self) -> Episode | None:
        with self._lock:
            now = self._clock.monotonic()
            due = [t for t, at in self._due.items() if at <= now]
            if not due:
                return None
            # First orders before look-ups of lost ones; the larger risk first.
            ticker = max(
                due,
                key=lambda t: (self._active[t].state is not EpisodeState.UNKNOWN, self._active[t].at_risk),
            )
            del self._due[ticker]
            self._busy += 1
            self._grow_locked()
            return self._active[ticker]

    def _put_back(self, episode: Episode, delay_s: float) -> None:
        with self._lock:
            self._busy -= 1
            if episode.state is EpisodeState.CLOSED:
                del self._active[episode.ticker]
                self._closed_counts[episode.ticker] = self._closed_counts.get(episode.ticker, 0) + 1
            else:
                if episode.ticker in self._pokes and episode.state is EpisodeState.BLOCKED:
                    delay_s = min(delay_s, 0.05)
                self._due[episode.ticker] = self._clock.monotonic() + delay_s
            self._pokes.discard(episode.ticker)
            self._publish_locked(episode)
            self._work.notify()

    def _publish_locked(self, episode: Episode) -> None:
        self._views[episode.id] = EpisodeView(
            id=episode.id,
            ticker=episode.ticker,
            reason=episode.reason.value,
            state=episode.state.value,
            trigger_price=episode.trigger_price,
            filled=episode.filled,
            average_price=episode.average_price,
            fees=episode.fees,
            attempts=episode.attempts,
            why=episode.outcome or (episode.blocked_why.value if episode.blocked_why else ""),
            opened_at=episode.opened_at,
            closed_at=episode.closed_at,
        )
        while len(self._views) > REMEMBERED_EPISODES_MAX:
            self._views.popitem(last=False)

    # --- one step; each returns the seconds until the next ------------------------------------------

    def _step(self, episode: Episode, sender: OrderSender) -> float:
        if episode.state is EpisodeState.UNKNOWN:
            return self._look_up(episode, sender)
        if self._awaits_read(episode):
            self._request_reconcile()
            return WAIT_FOR_PRICE_S
        position = self._portfolio.get(episode.ticker)
        if position is None or position.outcome_side is not episode.outcome_side:
            return self._close(episode, "flat")
        if episode.state is EpisodeState.BLOCKED and episode.blocked_why is BlockedWhy.PAUSED:
            refusal_s = self._probe(episode, position)
            if refusal_s is not None:
                return refusal_s
        return self._attempt(episode, position, sender)

    def _awaits_read(self, episode: Episode) -> bool:
        """Whether the position must be read before anything is sized from it."""
        since = episode.read_awaited_since
        if since is None:
            return False
        read_at = self._portfolio.last_read_at
        is_patient = self._clock.monotonic() - since < FRESH_READ_PATIENCE_S
        is_read = read_at is not None and read_at >= since
        if is_patient and (not is_read or self._portfolio.is_doubted(episode.ticker)):
            return True
        episode.read_awaited_since = None
        return False

    def _attempt(self, episode: Episode, position: Position, sender: OrderSender) -> float:
        view = self._fresh_view(episode.ticker)
        if view is None or view.quote is None:
            return self._block(episode, BlockedWhy.NO_PRICE, WAIT_FOR_PRICE_S)
        now = self._clock.now()
        status = view.market.status_at(now)
        if not status.can_still_trade:
            return self._close(episode, f"market_{status.value}")
        price = price_to_act_on(view.quote, position.outcome_side, view.market, now, floor=episode.floor)
        if isinstance(price, Hold):
            why = _BLOCKED_BY_HOLD.get(price.why, BlockedWhy.NO_PRICE)
            return self._block(episode, why, PROBE_S if why is BlockedWhy.PAUSED else WAIT_FOR_PRICE_S)
        rung = exit_rung(position.outcome_side, view.quote, view.market, episode.rung, episode.floor)
        request = OrderRequest(
            ticker=episode.ticker,
            client_order_id=episode.next_client_order_id(),
            book_side=rung.book_side,
            count=position.count,
            price=rung.price,
            time_in_force=TimeInForce.IMMEDIATE_OR_CANCEL,
            reduce_only=True,
            exchange_index=view.market.exchange_index,
        )
        episode.attempts += 1
        episode.exists_at_exchange = False
        episode.resends = 0
        episode.lookups_in_all = 0
        return self._send(episode, request, sender)

    def _fresh_view(self, ticker: str) -> PriceView | None:
        """The price view, read anew when neither the feed nor its age vouches for it."""
        view = self._price_of(ticker)
        is_known = (
            view is not None
            and view.quote is not None
            and view.market.status is not MarketStatus.UNKNOWN
            and (view.is_vouched or (view.age_s is not None and view.age_s <= UNVOUCHED_AGE_S_MAX))
        )
        if is_known:
            return view
        try:
            self._gateway.refresh_markets([ticker])
        except (TransientError, RequestRejected, WireError) as exc:
            log_event(logger, logging.WARNING, "exit_price_unread", ticker=ticker, why=exc)
        return self._price_of(ticker)

    def _send(self, episode: Episode, request: OrderRequest, sender: OrderSender) -> float:
        is_resend = episode.state is EpisodeState.UNKNOWN
        episode.state = EpisodeState.SENDING
        episode.blocked_why = None
        episode.order = request
        episode.sent_at = self._clock.monotonic()
        episode.sent_at_wall = self._clock.now()
        episode.lookups = 0
        self._portfolio.order_left(request.ticker, request.client_order_id)
        with self._lock:
            self._publish_locked(episode)
        try:
            ack = sender.create_order(request)
        except OrderOutcomeUnknown as exc:
            self._log_sent(episode, request)
            self._mark_unknown(episode)
            log_event(
                logger,
                logging.ERROR,
                "exit_unknown",
                ticker=episode.ticker,
                client_order_id=request.client_order_id,
                why=exc,
            )
            return _lookup_pace_s(episode)
        except TransientError as exc:
            is_rate = isinstance(exc, RateLimitedError)
            log_event(logger, logging.WARNING, "exit_not_sent", ticker=episode.ticker, why=exc)
            if is_resend:
                # It says nothing of the first sending: that one is still to be found.
                return self._stay_unknown(episode, 0.25, 2.0)
            self._settle(episode)
            return self._back_off(episode, BlockedWhy.RATE if is_rate else BlockedWhy.UNREACHABLE, 0.25, 2.0)
        except RequestRejected as exc:
            self._log_sent(episode, request)
            return self._refused(episode, exc, is_resend)
        self._log_sent(episode, request)
        return self._filled(episode, request, ack)

    def _mark_unknown(self, episode: Episode) -> None:
        episode.state = EpisodeState.UNKNOWN
        if episode.unknown_since is None:
            episode.unknown_since = self._clock.monotonic()

    def _stay_unknown(self, episode: Episode, delay_s: float, delay_s_max: float) -> float:
        """Look the order up again after a growing wait: sending it again brought no answer."""
        self._mark_unknown(episode)
        delay_s = min(delay_s_max, delay_s * 2 ** min(episode.blocked_times, 10))
        episode.blocked_times += 1
        return delay_s

    def _settle(self, episode: Episode) -> None:
        """The order's outcome is known, or given up: the next one may take a new id."""
        if episode.order is not None:
            self._portfolio.order_settled(episode.order.client_order_id)
        episode.order = None
        episode.unknown_since = None

    @staticmethod
    def _log_sent(episode: Episode, request: OrderRequest) -> None:
        # After the answer, so that the line does not stand between the trigger and the order's bytes.
        log_event(
            logger,
            logging.INFO,
            "exit_sent",
            ticker=request.ticker,
            client_order_id=request.client_order_id,
            book_side=request.book_side.value,
            count=request.count,
            limit=request.price,
            attempt=episode.attempts,
        )

    def _filled(self, episode: Episode, request: OrderRequest, ack: OrderAck) -> float:
        return self._account(
            episode,
            request,
            FoundOrder(ack.order_id, OrderStatus.EXECUTED, ack.fill_count, ack.average_fill_price, ack.fees),
            ack.ts_ms,
        )

    def _account(self, episode: Episode, request: OrderRequest, order: FoundOrder, ts_ms: int = 0) -> float:
        """Take in what an order of this episode has filled, and decide when to go on."""
        if order.fill_count > 0:
            # Before anything of the episode changes: should it fail, the order is looked up again.
            self._portfolio.apply_answer(
                request.ticker,
                order.order_id,
                request.book_side,
                order.fill_count,
                order.average_yes_price,
                order.fees,
                ts_ms,
                reduce_only=True,
            )
        self._settle(episode)
        episode.state = EpisodeState.TRIGGERED
        episode.blocked_times = 0
        if order.fill_count > 0:
            price = order.average_yes_price if order.average_yes_price is not None else request.price
            episode.filled += order.fill_count
            episode.proceeds += order.fill_count * to_yes_leg(price, episode.outcome_side)
            episode.fees += order.fees
            episode.zero_fills = 0
        else:
            episode.zero_fills += 1
            episode.rung += 1
        position = self._portfolio.get(episode.ticker)
        remaining = (
            position.count
            if position is not None and position.outcome_side is episode.outcome_side
            else Decimal(0)
        )
        if order.fill_count > 0:
            log_event(
                logger,
                logging.WARNING,
                "exit_filled",
                ticker=episode.ticker,
                reason=episode.reason.value,
                count=order.fill_count,
                price=to_yes_leg(price, episode.outcome_side),
                fees=order.fees,
                remaining=remaining,
                episode=episode.id,
            )
        if remaining == 0:
            return self._close(episode, "filled" if episode.filled else "flat")
        if episode.zero_fills >= 2:
            # Perhaps nothing is held any more: only a complete read can say.
            self._request_reconcile()
        if episode.zero_fills > len(PATIENCE_S):
            return self._block(episode, BlockedWhy.NO_FILL, patience_after(episode.zero_fills))
        return patience_after(episode.zero_fills)

    def _refused(self, episode: Episode, exc: RequestRejected, is_resend: bool) -> float:
        refusal = answer_refusal(exc.status, exc.code)
        if refusal.look_up:
            self._mark_unknown(episode)
            episode.exists_at_exchange = True
            log_event(
                logger,
                logging.ERROR,
                "exit_unknown",
                ticker=episode.ticker,
                client_order_id=episode.order.client_order_id if episode.order is not None else None,
                why=exc,
            )
            return _lookup_pace_s(episode)
        if is_resend:
            # A pause or a limit may be checked before the id is: the first sending may still have acted.
            return self._stay_unknown(episode, max(PROBE_S, refusal.delay_s), 10.0)
        self._settle(episode)
        if refusal.refresh_market:
            try:
                self._gateway.refresh_markets([episode.ticker])
            except (TransientError, RequestRejected, WireError) as again:
                log_event(logger, logging.WARNING, "exit_price_unread", ticker=episode.ticker, why=again)
        if refusal.why is BlockedWhy.REJECTED:
            self._request_reconcile()
        return self._back_off(
            episode, refusal.why, refusal.delay_s, refusal.delay_s_max, detail=f"{exc.status} {exc.code}"
        )

    def _probe(self, episode: Episode, position: Position) -> float | None:
        """Ask whether a pause is over; None when orders are taken again, else seconds to the next probe."""
        now = self._clock.monotonic()
        asked_ago_s = now - max(episode.probed_at, episode.sent_at)
        if asked_ago_s < PROBE_S:
            return PROBE_S - asked_ago_s  # poked: every look at the market pokes its episode
        episode.probed_at = now
        view = self._price_of(episode.ticker)
        shard = view.market.exchange_index if view is not None else position.exchange_index
        try:
            self._gateway.refresh_markets([episode.ticker])
            is_open = self._gateway.is_trading_active(shard)
        except (TransientError, RequestRejected, WireError) as exc:
            log_event(logger, logging.WARNING, "exit_probe_failed", ticker=episode.ticker, why=exc)
            episode.failed_probes += 1
            return None if episode.failed_probes % FAILED_PROBES_MAX == 0 else PROBE_S
        episode.failed_probes = 0
        view = self._price_of(episode.ticker)
        if not is_open or (view is not None and view.market.status is MarketStatus.INACTIVE):
            return PROBE_S
        return None

    def _look_up(self, episode: Episode, sender: OrderSender) -> float:
        """Find out what became of an order whose answer was lost."""
        request = episode.order
        if request is None:
            self._settle(episode)
            episode.state = EpisodeState.TRIGGERED
            return 0.0
        with self._lock:
            update = self._updates.get(request.client_order_id)
        told = None if update is None else self._from_update(update, episode.outcome_side)
        if told is not None and (told.average_yes_price is not None or told.fill_count == 0):
            return self._account(episode, request, told)
        episode.lookups += 1
        episode.lookups_in_all += 1
        delay_s = _lookup_pace_s(episode)
        try:
            found = self._gateway.find_order(episode.ticker, request.client_order_id)
            as_of = None if found is not None else self._gateway.data_as_of()
        except (TransientError, RequestRejected, WireError) as exc:
            if told is not None:
                return self._account(episode, request, told)
            episode.lookups -= 1  # a failed read is no read
            log_event(logger, logging.WARNING, "exit_lookup_failed", ticker=episode.ticker, why=exc)
            verdict = judge_unread(episode, self._clock.monotonic())
            return self._act_on_absence(episode, request, sender, verdict, max(delay_s, 0.5))
        if told is not None:
            # The stream has said how many; the read was for their price, where it shows as many.
            is_shown = found is not None and found.fill_count >= told.fill_count
            return self._account(episode, request, found if found is not None and is_shown else told)
        if found is not None and found.status is not OrderStatus.RESTING:
            log_event(
                logger,
                logging.WARNING,
                "exit_found",
                ticker=episode.ticker,
                client_order_id=request.client_order_id,
                filled=found.fill_count,
            )
            return self._account(episode, request, found)
        if found is not None:
            # It is there; an immediate-or-cancel order cannot rest, the read is behind.
            episode.exists_at_exchange = True
        verdict = judge_absence(episode, as_of, self._clock.monotonic())
        return self._act_on_absence(episode, request, sender, verdict, delay_s)

    def _act_on_absence(
        self,
        episode: Episode,
        request: OrderRequest,
        sender: OrderSender,
        verdict: LookupVerdict,
        delay_s: float,
    ) -> float:
        """Go on after a look-up that did not tell the order's outcome."""
        if verdict is LookupVerdict.RESEND:
            return self._resend(episode, request, sender, delay_s)
        if verdict is LookupVerdict.WAIT:
            return delay_s
        log_event(
            logger,
            logging.ERROR,
            "exit_unresolved",
            ticker=episode.ticker,
            client_order_id=request.client_order_id,
            remedy="the next order is sized from a fresh read of the position and reduce-only",
        )
        self._settle(episode)
        episode.read_awaited_since = self._clock.monotonic()
        self._request_reconcile()
        episode.state = EpisodeState.TRIGGERED
        return WAIT_FOR_PRICE_S

    def _resend(self, episode: Episode, request: OrderRequest, sender: OrderSender, delay_s: float) -> float:
        """Send the same order again, never for more than is held now."""
        position = self._portfolio.get(episode.ticker)
        if position is None or position.outcome_side is not episode.outcome_side:
            return delay_s  # it seems to have acted: look on
        episode.resends += 1
        return self._send(episode, replace(request, count=min(request.count, position.count)), sender)

    def _from_update(self, update: OrderUpdate, side: OutcomeSide) -> FoundOrder:
        price = self._update_price(update, side)
        return FoundOrder(update.order_id, update.status, update.fill_count, price, update.fees)

    @staticmethod
    def _update_price(update: OrderUpdate, side: OutcomeSide) -> Decimal | None:
        """YES-leg price from an order update, None where its cost could be of either leg."""
        if side is OutcomeSide.YES or not update.fill_count:
            return None
        price = update.fill_cost / update.fill_count
        return price if 0 < price < 1 else None

    def _back_off(
        self, episode: Episode, why: BlockedWhy, delay_s: float, delay_s_max: float, detail: str = ""
    ) -> float:
        delay = min(delay_s_max, delay_s * 2 ** min(episode.blocked_times, 10))
        episode.blocked_times += 1
        return self._block(episode, why, delay, detail)

    def _block(self, episode: Episode, why: BlockedWhy, delay_s: float, detail: str = "") -> float:
        if episode.state is not EpisodeState.BLOCKED or episode.blocked_why is not why:
            if not episode.history or episode.history[-1] != why.value:
                log_event(
                    logger, logging.ERROR, "exit_blocked", ticker=episode.ticker, why=why.value, detail=detail
                )
                episode.history.append(why.value)
                del episode.history[:-50]
            episode.state = EpisodeState.BLOCKED
            episode.blocked_why = why
        return delay_s

    def _close(self, episode: Episode, outcome: str) -> float:
        self._settle(episode)
        episode.state = EpisodeState.CLOSED
        episode.outcome = outcome
        episode.closed_at = self._clock.now()
        self._request_reconcile()
        log_event(
            logger,
            logging.WARNING,
            "exit_closed",
            ticker=episode.ticker,
            outcome=outcome,
            filled=episode.filled,
            average_price=episode.average_price,
            fees=episode.fees,
            attempts=episode.attempts,
            took_s=round(episode.closed_at - episode.opened_at, 3),
        )
        return 0.0


def _lookup_pace_s(episode: Episode) -> float:
    """Seconds to the next look-up: slower the longer the outcome is unknown, resends included."""
    return LOOKUP_DELAYS_S[min(episode.lookups_in_all, len(LOOKUP_DELAYS_S) - 1)]
