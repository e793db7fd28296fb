"""The exit desk: a small pool of workers that takes triggered positions to flat, one episode a position.

What an exit does next is decided in `exit_steps.py`; here is who goes when. The largest expected loss goes
first, first orders before look-ups of lost ones. An order is decided when its write budget is there, not
before, so that a hundred exits that wait for the budget are served in order and at today's price; several
that are due go out in one request where the budget carries them. A step does at most one thing on the
network and then says when it wants the next one, so that a slow answer, a paused market or a wait between
rungs never holds a worker from another position.
"""

from __future__ import annotations

import logging
import math
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from base.clock import Clock
from base.errors import BotError
from base.execution.episode import Episode, EpisodeState, lookup_pace_s, resume
from base.execution.exit_steps import Delay, ExitSteps, Ready
from base.execution.gateway import Gateway, OrderSender, PriceView
from base.execution.ladder import STEPS_THROUGH
from base.execution.measures import Measures, NoMeasures
from base.execution.refusals import BlockedWhy
from base.log import log_event
from base.model.events import OrderUpdate
from base.model.order import OrderAck, OrderStatus
from base.model.rules import ExitReason
from base.store.portfolio import Portfolio
from base.store.records import EpisodeRecord, NoRecorder, Recorder, Remembered

logger = logging.getLogger(__name__)

WORKERS = 4
WORKERS_MAX = 48
EXTRA_IDLE_S = 10.0
IDLE_S = 0.5
"""How often an idle worker signs ahead and looks after its connection."""
WORKER_RETRY_S = 0.5
BROKEN_STEP_S = 1.0
BUDGET_WAIT_S_MIN = 0.002
GATHER_FROM = 5
GATHER_S = 0.03
GATHER_AGAIN_S = 1.0
"""When so many exits wait for their first order, all wait so long, at most once a second."""
BATCH_MIN = 3
"""Fewer exits that are due together go out one by one, each over a connection that is warm already."""
REMEMBERED_EPISODES_MAX = 200
REMEMBERED_IDS_MAX = 20_000

_WOKEN_BY_NEWS = (
    BlockedWhy.NO_BID,
    BlockedWhy.BELOW_FLOOR,
    BlockedWhy.PAUSED,
    BlockedWhy.NO_PRICE,
    BlockedWhy.NOT_OPEN,
)
_WANTS_TO_SEND = (EpisodeState.TRIGGERED, EpisodeState.BLOCKED)


@dataclass(frozen=True, slots=True)
class ExitOrder:
    """A decision to leave a position: `floor` is the least to ask, dollars of the held side;
    `price_age_s` is how old the price was that it was made on, None where it is not known."""

    ticker: str
    reason: ExitReason
    exit_value: Decimal
    trigger_price: Decimal | None
    floor: Decimal
    price_age_s: float | None = None


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
    sent_at: float | None = None
    """When its first order left."""
    filled_at: float | None = None
    """When its first fill was learned of; None where a run that ended learned of it."""
    outcome_side: str = ""
    count: Decimal | None = None
    """Held at the trigger."""
    entry_price: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Blocked:
    """An exit that cannot go on now: a word of `BlockedWhy`, and monotonic since when."""

    why: str
    since: float


class ExitDesk:
    """Takes `ExitOrder`s; thread-safe. `price_of` gives a market's price view, None when unknown;
    `request_reconcile` asks for a complete read of positions soon; `recorder` is where exits are written
    down before their orders leave; while `may_send` says no, none leaves; `began` hears of the market of
    each exit that begins, and returns at once; `measures` is told how long things take."""

    def __init__(
        self,
        gateway: Gateway,
        portfolio: Portfolio,
        price_of: Callable[[str], PriceView | None],
        request_reconcile: Callable[[], None],
        clock: Clock,
        workers: int = WORKERS,
        new_id: Callable[[], str] = lambda: f"bs{uuid.uuid4().hex[:20]}",
        recorder: Recorder | None = None,
        steps: Sequence[int] = STEPS_THROUGH,
        may_send: Callable[[], bool] = lambda: True,
        began: Callable[[str], None] = lambda ticker: None,
        measures: Measures | None = None,
    ) -> None:
        self._gateway = gateway
        self._portfolio = portfolio
        self._clock = clock
        self._new_id = new_id
        self._began = began
        self._measures: Measures = measures if measures is not None else NoMeasures()
        self._recorder: Recorder = recorder if recorder is not None else NoRecorder()
        self._steps = ExitSteps(
            gateway, portfolio, price_of, request_reconcile, clock, self._recorder, steps, may_send
        )
        self._stop = threading.Event()
        self._threads: list[threading.Thread | None] = [None] * workers
        self._lock = threading.Lock()  # guards the fields below; never held during I/O or callbacks
        # Notified once for each piece of work: waking all workers for one would make three of them
        # compete with the one that sends.
        self._work = threading.Condition(self._lock)
        self._active: dict[str, Episode] = {}
        self._due: dict[str, float] = {}  # episodes that no worker holds, by ticker
        self._decided_at: dict[str, float] = {}  # exits of this run without an acknowledged order, by ticker
        self._budget_at = 0.0  # no first order leaves before: the write budget is used up until then
        self._pokes: set[str] = set()
        self._views: OrderedDict[str, EpisodeView] = OrderedDict()
        self._blocked: dict[str, Blocked] = {}  # by ticker
        # Ids of the exits of this run and of those it has taken up, the oldest forgotten first.
        self._own: OrderedDict[str, None] = OrderedDict()
        self._is_draining = False
        self._is_started = False
        self._closed_counts: dict[str, int] = {}  # exits ended so far, by ticker
        self._busy = 0
        self._extras: set[threading.Thread] = set()
        self._grow_after = 0.0
        self._gather_until = -math.inf

    # --- what other threads may call ----------------------------------------------------------------

    def resume(self, remembered: Remembered) -> int:
        """Take up the exits that the run before this one has left, before anything new is triggered;
        return how many. Call it before `start`."""
        now, now_wall = self._clock.monotonic(), self._clock.now()
        newest = {record.ticker: record for record in sorted(remembered.episodes, key=_opened_at)}
        for record in remembered.episodes:
            if newest[record.ticker] is not record:
                # Its end could not be written down: the disk failed then. One exit a market.
                self._recorder.write(
                    [
                        replace(
                            record, state=EpisodeState.CLOSED.value, outcome="superseded", closed_at=now_wall
                        )
                    ]
                )
                continue
            attempts = tuple(a for a in remembered.attempts if a.episode_id == record.id)
            episode = resume(record, attempts, now_wall, now)
            with self._lock:
                self._active[record.ticker] = episode
                self._due[record.ticker] = now
                self._own[record.id] = None
                self._publish_locked(episode)
            self._steps.take_up(episode)
        return len(newest)

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

        Blocked ones are left as they are: the next start takes them up.
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
        return bool(self.trigger_all([order]))

    def trigger_all(self, orders: Iterable[ExitOrder]) -> int:
        """Start the episodes of one look at the market together, so that the largest expected loss is
        served first; return how many were started."""
        started: list[str] = []
        for order in orders:
            with self._lock:
                closed_before = self._closed_counts.get(order.ticker, 0)
                if order.ticker in self._active:
                    continue
            episode = self._new_episode(order)
            if episode is not None and self._add(episode, closed_before):
                started.append(order.ticker)
                if order.price_age_s is not None:
                    self._measures.exit_triggered(order.price_age_s)
        with self._work:
            self._gather_locked()
            self._work.notify(min(len(started), len(self._threads)))
            self._grow_locked()
        for ticker in started:
            self._began(ticker)
        return len(started)

    def _gather_locked(self) -> None:
        """When many trigger at once, wait a moment for the rest of them: what the write budget carries
        at once is for the largest losses, not for those whose frames came first."""
        unsent = sum(e.state is EpisodeState.TRIGGERED and not e.attempts for e in self._active.values())
        now = self._clock.monotonic()
        if unsent >= GATHER_FROM and now - self._gather_until > GATHER_AGAIN_S:
            self._gather_until = now + GATHER_S

    def _new_episode(self, order: ExitOrder) -> Episode | None:
        position = self._portfolio.get(order.ticker)
        if position is None:
            return None
        return Episode(
            id=self._new_id(),
            ticker=order.ticker,
            outcome_side=position.outcome_side,
            reason=order.reason,
            trigger_price=order.trigger_price,
            exit_value=order.exit_value,
            floor=order.floor,
            entry_price=position.entry_price,
            count=position.count,
            opened_at=self._clock.now(),
        )

    def _add(self, episode: Episode, closed_before: int) -> bool:
        ticker = episode.ticker
        with self._lock:
            if ticker in self._active or self._is_draining:
                return False
            if self._closed_counts.get(ticker, 0) != closed_before:
                return False  # the position may have gone with the exit that has just ended: look again
            self._active[ticker] = episode
            self._due[ticker] = self._decided_at[ticker] = self._clock.monotonic()
            self._own[episode.id] = None
            while len(self._own) > REMEMBERED_IDS_MAX:
                self._own.popitem(last=False)
            self._publish_locked(episode)
        return True

    @property
    def takes_exits(self) -> bool:
        """Whether new exits are begun; not any more while stopping."""
        with self._lock:
            return not self._is_draining

    def is_active(self, ticker: str) -> bool:
        with self._lock:
            return ticker in self._active

    def is_own(self, client_order_id: str) -> bool:
        """Whether an exit of this run, or one that it has taken up, has used this id."""
        with self._lock:
            return client_order_id.rpartition("-")[0] in self._own

    def poke(self, ticker: str) -> None:
        """Something about this market changed (a price, a status): look at its episode now."""
        with self._lock:
            episode = self._active.get(ticker)
            if episode is None:
                return
            if ticker not in self._due:
                self._pokes.add(ticker)
                return
            if episode.state is not EpisodeState.BLOCKED or episode.blocked_why not in _WOKEN_BY_NEWS:
                return
            self._due[ticker] = self._clock.monotonic()
            self._work.notify()
            self._grow_locked()

    def positions_read(self) -> None:
        """A complete read of positions has been taken in: what waited for one need wait no longer."""
        with self._lock:
            now = self._clock.monotonic()
            for ticker in self._due:
                episode = self._active[ticker]
                if episode.is_resumed or episode.read_awaited_since is not None:
                    self._due[ticker] = min(self._due[ticker], now)
                    self._work.notify()

    def order_update(self, update: OrderUpdate) -> None:
        """Remember what the stream says of an order: it may resolve an unknown outcome."""
        if update.status not in (OrderStatus.CANCELED, OrderStatus.EXECUTED) or not update.client_order_id:
            return
        self._steps.order_update(update)
        with self._lock:
            episode = self._active.get(update.ticker)
            is_awaited = episode is not None and episode.state is EpisodeState.UNKNOWN
            if is_awaited and update.ticker in self._due:
                self._due[update.ticker] = self._clock.monotonic()
                self._work.notify()

    def views(self) -> list[EpisodeView]:
        """All remembered episodes, oldest first."""
        with self._lock:
            return list(self._views.values())

    def blocked(self) -> dict[str, Blocked]:
        """The exits that cannot go on now, by ticker."""
        with self._lock:
            return dict(self._blocked)

    # --- the workers --------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._work_through()
            except Exception:  # safety net: a worker that ends would leave triggered exits lying
                log_event(logger, logging.ERROR, "exit_worker_error", exc_info=True)
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
        waiting = sum(self._is_due_locked(t, now) for t in self._due)
        workers = len(self._threads) + len(self._extras)
        idle = workers - self._busy
        # What is due later needs somebody to notice it: one worker stays free for that.
        is_enough = waiting <= idle and (idle > 0 or not self._due)
        if not self._is_started or is_enough or workers >= WORKERS_MAX or now < self._grow_after:
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
            log_event(logger, logging.ERROR, "exit_worker_error", exc_info=True)
            with self._lock:
                self._grow_after = self._clock.monotonic() + WORKER_RETRY_S
        finally:
            with self._lock:
                self._extras.discard(threading.current_thread())

    def _wait_for_work(self) -> None:
        """Wait until an episode is due, at most `IDLE_S`. What became due before is seen under the lock."""
        with self._work:
            now = self._clock.monotonic()
            wait_s = min([IDLE_S, *(self._due_at_locked(t) - now for t in self._due)])
            if wait_s > 0 and not self._stop.is_set():
                self._work.wait(wait_s)

    def _due_at_locked(self, ticker: str) -> float:
        due = self._due[ticker]
        if self._active[ticker].state in _WANTS_TO_SEND:
            return max(due, self._budget_at, self._gather_until)
        return due

    def _is_due_locked(self, ticker: str, now: float) -> bool:
        return self._due_at_locked(ticker) <= now

    # --- one pass of a worker -----------------------------------------------------------------------

    def run_once(self, sender: OrderSender) -> bool:
        """Take the most pressing due episode one step, with others beside it where their orders fit into
        one request; False (after looking after the connection) when none is due."""
        episode = self._take_due()
        if episode is None:
            if self._announce_waiting():
                return True
            try:
                sender.prepare()
            except BotError as exc:
                log_event(logger, logging.DEBUG, "exit_connection_not_ready", why=exc)
            return False
        ready = self._plan(episode)
        if ready is not None:
            batch = [(episode, ready)]
            if not ready.is_resend:
                batch += self._others_that_send(sender.batch_max - 1)
            self._send(batch, sender)
        return True

    def _announce_waiting(self) -> bool:
        """Write down and log the exits that wait for the write budget; False when there are none."""
        with self._lock:
            waiting = [e for e in self._active.values() if not e.is_announced and e.ticker in self._due]
            due = {e.ticker: self._due.pop(e.ticker) for e in waiting}
            self._busy += len(waiting)
        if not waiting:
            return False
        try:
            self._steps.commit([episode.record() for episode in waiting])
            for episode in waiting:
                self._steps.announce(episode)
        finally:
            with self._lock:
                self._busy -= len(waiting)
                self._due.update(due)
                self._work.notify()
        return True

    def _plan(self, episode: Episode, *, may_read: bool = True) -> Ready | None:
        """What is to be sent now, None when it waits (and has been put back)."""
        try:
            planned = self._steps.plan(episode, may_read=may_read)
        except Exception as exc:  # safety net: one episode's trouble must not end the worker or the episode
            log_event(logger, logging.ERROR, "exit_error", exc_info=True, ticker=episode.ticker)
            self._steps.broke(episode, exc)
            self._put_back(episode, BROKEN_STEP_S)
            return None
        if isinstance(planned, Ready):
            return planned
        self._put_back(episode, planned.seconds if isinstance(planned, Delay) else 0.0)
        return None

    def _others_that_send(self, room: int) -> list[tuple[Episode, Ready]]:
        """More first orders that are due, the most pressing first; none when they are few."""
        if room < BATCH_MIN - 1:
            return []
        others: list[tuple[Episode, Ready]] = []
        for episode in self._take_more(room):
            ready = self._plan(episode, may_read=False)
            if ready is not None:
                others.append((episode, ready))
        return others

    def _take_more(self, room: int) -> list[Episode]:
        with self._lock:
            now = self._clock.monotonic()
            due = [
                t
                for t in self._due
                if self._active[t].state is EpisodeState.TRIGGERED and self._is_due_locked(t, now)
            ]
            if len(due) < BATCH_MIN - 1:
                return []
            due.sort(key=lambda t: self._active[t].urgency, reverse=True)
            for ticker in due[:room]:
                del self._due[ticker]
                self._busy += 1
            return [self._active[t] for t in due[:room]]

    def _take_due(self) -> Episode | None:
        with self._lock:
            now = self._clock.monotonic()
            due = [t for t in self._due if self._is_due_locked(t, now)]
            if not due:
                return None
            # First orders before look-ups of lost ones; the larger expected loss first.
            ticker = max(
                due,
                key=lambda t: (self._active[t].state is not EpisodeState.UNKNOWN, self._active[t].urgency),
            )
            del self._due[ticker]
            self._busy += 1
            self._grow_locked()
            return self._active[ticker]

    def _send(self, batch: list[tuple[Episode, Ready]], sender: OrderSender) -> None:
        """Take the budget, write the orders down, send them, take the answers in."""
        wait_s = sender.reserve(len(batch))
        if wait_s > 0 and len(batch) > 1:
            # Somebody else took some meanwhile: one goes now rather than all later.
            self._wait_for_budget(batch[1:], wait_s)
            batch = batch[:1]
            wait_s = sender.reserve(1)
        if wait_s > 0:
            self._wait_for_budget(batch, wait_s)
            return
        begun: list[tuple[Episode, Ready]] = []
        answers: Sequence[OrderAck | BotError]
        try:
            records = []
            for episode, ready in batch:
                records += self._steps.begin(episode, ready)
                begun.append((episode, ready))
            with self._lock:
                for episode, _ in begun:
                    self._publish_locked(episode)
            self._steps.commit(records)
            for episode, _ in begun:
                self._steps.leaves(episode)
            answers = self._exchange_answers(begun, sender)
        except Exception as exc:  # safety net: whatever broke, the orders may have left
            log_event(
                logger, logging.ERROR, "exit_error", exc_info=True, tickers=[e.ticker for e, _ in batch]
            )
            for episode, _ in batch:
                self._put_back(episode, self._steps.broke(episode, exc))
            return
        for (episode, ready), answer in zip(begun, answers, strict=True):
            self._take_answer(episode, ready, answer)

    @staticmethod
    def _exchange_answers(
        batch: list[tuple[Episode, Ready]], sender: OrderSender
    ) -> Sequence[OrderAck | BotError]:
        if len(batch) > 1:
            answers = sender.create_orders([ready.request for _, ready in batch])
            assert len(answers) == len(batch), "one answer an order"
            return answers
        try:
            return [sender.create_order(batch[0][1].request)]
        except BotError as exc:
            return [exc]

    def _take_answer(self, episode: Episode, ready: Ready, answer: OrderAck | BotError) -> None:
        if isinstance(answer, OrderAck):
            self._measure_answer(episode.ticker)
        try:
            delay_s = self._steps.take_answer(episode, ready, answer)
        except Exception as exc:  # safety net: the order has left, its outcome is looked up
            log_event(logger, logging.ERROR, "exit_error", exc_info=True, ticker=episode.ticker)
            delay_s = self._steps.broke(episode, exc)
        self._put_back(episode, delay_s)

    def _measure_answer(self, ticker: str) -> None:
        with self._lock:
            decided_at = self._decided_at.pop(ticker, None)
        if decided_at is not None:
            self._measures.order_answered(self._clock.monotonic() - decided_at)

    def _wait_for_budget(self, batch: list[tuple[Episode, Ready]], wait_s: float) -> None:
        """Nothing was decided yet: all are due again when there is budget, in the order of their urgency."""
        wait_s = max(wait_s, BUDGET_WAIT_S_MIN)
        now = self._clock.monotonic()
        with self._lock:
            is_over = self._budget_at <= now
            self._budget_at = now + wait_s if is_over else min(self._budget_at, now + wait_s)
        for episode, ready in batch:
            # A resend is decided by looking the order up again: at the pace of look-ups, not of the budget.
            self._put_back(episode, max(wait_s, lookup_pace_s(episode)) if ready.is_resend else 0.0)

    def _put_back(self, episode: Episode, delay_s: float) -> None:
        self._recorder.write([episode.record()])
        is_free = self._steps.is_way_free
        with self._lock:
            self._busy -= 1
            now = self._clock.monotonic()
            if episode.state is EpisodeState.CLOSED:
                del self._active[episode.ticker]
                self._decided_at.pop(episode.ticker, None)
                self._closed_counts[episode.ticker] = self._closed_counts.get(episode.ticker, 0) + 1
            else:
                if episode.ticker in self._pokes and episode.state is EpisodeState.BLOCKED:
                    delay_s = min(delay_s, 0.05)
                self._due[episode.ticker] = now + delay_s
            self._pokes.discard(episode.ticker)
            self._publish_locked(episode)
            for ticker in self._due:
                if is_free and self._active[ticker].waits_for_all:
                    self._due[ticker] = min(self._due[ticker], now)
            self._work.notify()
        if episode.state is EpisodeState.CLOSED:
            self._measures.exit_ended(episode.reason.value, episode.outcome)

    def _publish_locked(self, episode: Episode) -> None:
        self._blocked.pop(episode.ticker, None)
        if episode.state is EpisodeState.BLOCKED and episode.blocked_why is not None:
            since = self._clock.monotonic() if episode.blocked_since is None else episode.blocked_since
            self._blocked[episode.ticker] = Blocked(episode.blocked_why.value, since)
        before = self._views.get(episode.id)
        filled_at = None if before is None else before.filled_at
        if before is not None and not before.filled and episode.filled:
            filled_at = self._clock.now()
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
            sent_at=(None if before is None else before.sent_at) or episode.sent_at_wall or None,
            filled_at=filled_at,
            outcome_side=episode.outcome_side.value,
            count=episode.count,
            entry_price=episode.entry_price,
        )
        if len(self._views) > REMEMBERED_EPISODES_MAX:
            # One that still goes on is never the one to be forgotten.
            ended = (i for i, v in self._views.items() if v.state == EpisodeState.CLOSED.value)
            if (oldest := next(ended, None)) is not None:
                del self._views[oldest]


def ended_view(record: EpisodeRecord) -> EpisodeView:
    """An exit of a run before this one, for display."""
    return EpisodeView(
        id=record.id,
        ticker=record.ticker,
        reason=record.reason.value,
        state=record.state,
        trigger_price=record.trigger_price,
        filled=record.filled,
        average_price=record.proceeds / record.filled if record.filled else None,
        fees=record.fees,
        attempts=record.attempts,
        why=record.outcome,
        opened_at=record.opened_at,
        closed_at=record.closed_at,
        outcome_side=record.outcome_side.value,
        count=record.count,
        entry_price=record.entry_price,
    )


def _opened_at(record: EpisodeRecord) -> float:
    return record.opened_at
