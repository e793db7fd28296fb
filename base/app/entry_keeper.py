"""The thread `entries`: cancels what must not rest any longer, looks up what is unknown.

A cancel counts when the exchange has confirmed it. A refusal proves nothing (executed, canceled and
unknown orders answer alike): the order is looked up then, and canceled again where it still rests.

Who waits for the exchange's answer to a cancel are the threads `entry-cancel-1…3`: one answer that does not
come, or a read that hangs, must not leave the other orders in the book meanwhile.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from base.app.entry_book import EntryBook
from base.app.services import PeriodicService
from base.clock import Clock
from base.errors import BotError, RequestRejected
from base.execution.entry_orders import Situation, StepKind, left_over
from base.execution.gateway import EntryGateway
from base.log import RepeatedWarnings, log_event
from base.model.order import EntryOrder, EntryState, Order

logger = logging.getLogger(__name__)

PASS_S = 1.0
PASS_S_MIN = 0.05
LOOK_BACK_S = 60.0
"""Orders are asked for from so long before the oldest was placed: the two clocks may differ."""
LEFT_OVER_EVERY_S = 120.0
"""How often the account's resting orders are searched for ours that nobody here looks after."""
LEFT_OVER_RETRY_S = 5.0
STOP_POLL_S = 0.05
HANDS = 3

Job = Callable[[], None]


def call_now(job: Job) -> None:
    """Do it here, for those who step the keeper by hand."""
    job()


class Hands:
    """A few threads that wait for answers, started when they are first needed; any thread may call it."""

    def __init__(self, count: int = HANDS) -> None:
        self._count = count
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._lock = threading.Lock()  # guards the field below
        self._started = 0

    def __call__(self, job: Job) -> None:
        self._jobs.put(job)
        with self._lock:
            is_missing = self._started < self._count
            self._started += is_missing
            number = self._started
        if is_missing:
            threading.Thread(target=self._run, name=f"entry-cancel-{number}", daemon=True).start()

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job()
            except Exception:  # safety net: the next one must be done
                log_event(logger, logging.ERROR, "cancel_failed", exc_info=True)


class EntryKeeper:
    """Owns `service`; its passes run on that thread alone, at the end of the run on the stopping one.

    `hands` does what waits for the exchange to cancel an order; it may do so on other threads.

    `situations` says for markets what decides about their orders; `read_resting` lists the account's
    resting orders; `request_reconcile` asks for a read of positions, because something was bought that
    no message may have told of.
    """

    def __init__(
        self,
        book: EntryBook,
        gateway: EntryGateway,
        situations: Callable[[Iterable[str], str], dict[str, Situation]],
        read_resting: Callable[[], Sequence[Order]],
        id_prefix: str,
        request_reconcile: Callable[[], None],
        clock: Clock,
        hands: Callable[[Job], None] = call_now,
    ) -> None:
        self._book = book
        self._gateway = gateway
        self._situations = situations
        self._read_resting = read_resting
        self._id_prefix = id_prefix
        self._request_reconcile = request_reconcile
        self._clock = clock
        self._hands = hands
        self._started_at = clock.now()
        self._left_over_at = clock.monotonic()  # any thread may bring it forward; replaced as a whole
        self._nothing_left = threading.Event()
        self._warnings = RepeatedWarnings()
        self.service = PeriodicService("entries", PASS_S, self.run_once, clock, spacing_s=0.0)

    def run_once(self) -> float:
        """One pass; return in how many seconds the next one is wanted."""
        self._book.settle()
        tickers = {order.ticker for order in self._book.orders().values()}
        due = self._book.due(self._situations(tickers, self._book.closed_why))
        for order, step in (item for item in due if item[1].kind is StepKind.CANCEL):
            self._hands(partial(self._cancel, order, step.why))
        if any(step.kind is StepKind.LOOK_UP for _, step in due):
            self._look_up()
        if self._clock.monotonic() >= self._left_over_at:
            self._look_for_left_over()
        next_s = self._book.next_try_s()
        return PASS_S if next_s is None else min(PASS_S, max(PASS_S_MIN, next_s))

    def stop(self, timeout_s: float) -> bool:
        """Return whether nothing rests and nothing is unknown any more; everything is marked to go."""
        give_up_at = self._clock.monotonic() + timeout_s
        self.service.wake()
        while self._book.orders() and self._clock.monotonic() < give_up_at:
            if not self.service.is_alive:
                self.service.run_guarded()
            self._clock.wait(self._nothing_left, STOP_POLL_S)
        self._nothing_left.set()
        self.service.stop()
        self.service.join(max(0.0, give_up_at - self._clock.monotonic()))
        return not self._book.orders()

    # --- one thing on the network at a time ---------------------------------------------------------

    def _cancel(self, order: EntryOrder, why: str) -> None:
        if not order.order_id:
            self._book.not_canceled(order.client_order_id, is_refused=True)
            return
        log_event(
            logger,
            logging.INFO,
            "entry_canceling",
            ticker=order.ticker,
            client_order_id=order.client_order_id,
            remaining=order.remaining,
            why=why,
        )
        is_refused = is_taken_in = False
        try:
            reduced_by = self._gateway.cancel_entry(order.order_id, order.ticker)
            is_news = self._book.canceled(order.client_order_id, reduced_by)
            is_taken_in = True
            if is_news:
                self._request_reconcile()
        except BotError as exc:
            is_refused = isinstance(exc, RequestRejected)
            self._warn("entry_not_canceled", exc, order.ticker)
        finally:
            if not is_taken_in:
                self._book.not_canceled(order.client_order_id, is_refused=is_refused)
            self.service.wake()  # what comes next for it may be due at once

    def _look_up(self) -> None:
        """One read for all whose state the exchange knows better."""
        asked = {i: o for i, o in self._book.orders().items() if o.state is not EntryState.SENDING}
        if not asked:
            return
        left_at = self._clock.monotonic()
        since = min(order.placed_at for order in asked.values()) - LOOK_BACK_S
        try:
            lookup = self._gateway.find_orders({i: o.ticker for i, o in asked.items()}, since)
        except BotError as exc:
            self._book.not_looked_up(asked)
            self._warn("entries_not_read", exc)
            return
        if self._book.looked_up(asked, lookup.found, lookup.as_of, left_at):
            self._request_reconcile()

    def _look_for_left_over(self) -> None:
        """Orders of ours from before this run that the journal does not know, or that came after all.

        Younger ones of our form are another instance's: somebody else says so.
        """
        try:
            resting = self._read_resting()
        except BotError as exc:
            self._left_over_at = self._clock.monotonic() + LEFT_OVER_RETRY_S
            self._warn("resting_orders_not_read", exc)
            return
        self._left_over_at = self._clock.monotonic() + LEFT_OVER_EVERY_S
        for order in resting:
            is_ours = order.client_order_id.startswith(self._id_prefix)
            if not is_ours or not self._book.is_left_over(order.client_order_id):
                continue
            is_from_before = 0 < order.created_ts_ms / 1000 < self._started_at
            if is_from_before or self._book.is_own(order.client_order_id):
                log_event(
                    logger,
                    logging.WARNING,
                    "entry_left_over",
                    ticker=order.ticker,
                    client_order_id=order.client_order_id,
                    remaining=order.remaining_count,
                )
                self._book.adopt(left_over(order, self._clock.monotonic(), self._clock.now()))
                self.service.wake()

    def _warn(self, event: str, why: Exception, ticker: str | None = None) -> None:
        """At most once a minute for each event."""
        held_back = self._warnings.allow(event, self._clock.monotonic())
        if held_back is not None:
            log_event(logger, logging.WARNING, event, ticker=ticker, why=why, also_since_last=held_back)

    def look_for_left_over_soon(self) -> None:
        """An order that was given up has shown itself."""
        self._left_over_at = self._clock.monotonic()
        self.service.wake()
