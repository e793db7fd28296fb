"""The orders that may still open or add to a position, lock-guarded: what they reserve, where they are.

The strategy's thread, the stream's and the desk's own meet here. What one of them learns of an order is
one method; what has to be on disk is handed over after the lock is released. Two threads may hand over
in another order than they changed: after a restart an older word costs one look-up.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from decimal import Decimal

from base.clock import Clock
from base.execution.entry_orders import (
    CANCEL_ANSWERED_S,
    CANCEL_DELAYS_S,
    LOOKUP_DELAYS_S,
    Entry,
    Reservation,
    Situation,
    Step,
    StepKind,
    delay_s,
    next_step,
    take_found,
    take_missing,
)
from base.execution.gateway import FoundOrder
from base.log import log_event
from base.model.events import OrderUpdate
from base.model.market import ZERO, OutcomeSide
from base.model.order import EntryOrder, EntryState, OrderAck, OrderStatus
from base.risk.limits import RATE_WINDOW_S
from base.store.records import Recorder

logger = logging.getLogger(__name__)

REMEMBERED_IDS_MAX = 20_000
OUTDATED = "what is held changed while the order was judged"
AMEND_LOST = "the outcome of an amend is unknown"

Judge = Callable[[Mapping[str, Reservation], int], str]
"""Why an order may not go, "" when it may, by what is reserved and how many were sent in the last minute.
Pure: it is asked under the lock, so that nothing comes between the check and the reservation."""


class EntryBook:
    """Thread-safe. `judged_at` says when the newest read of positions left that judged a market."""

    def __init__(self, clock: Clock, recorder: Recorder, judged_at: Callable[[str], float | None]) -> None:
        self._clock = clock
        self._recorder = recorder
        self._judged_at = judged_at
        self._lock = threading.Lock()  # guards the fields below; never held during I/O or callbacks
        self._entries: dict[str, Entry] = {}
        self._known: OrderedDict[str, None] = OrderedDict()  # client order ids of ours
        self._given_up: OrderedDict[str, None] = OrderedDict()  # of those, whose absence reads have shown
        self._sent: deque[float] = deque()  # monotonic times of orders and amends
        self._releases = 0  # grows when contracts leave the reservations because a position holds them
        self._closed_why = ""

    # --- readers ------------------------------------------------------------------------------------

    def orders(self) -> dict[str, EntryOrder]:
        """Those that may still fill."""
        with self._lock:
            return {i: e.order for i, e in self._entries.items() if e.order.state.may_fill}

    def resting_in(self, ticker: str, side: OutcomeSide) -> dict[Decimal, Decimal]:
        """Contracts of `side` that may still be bought in this market, by price."""
        found: dict[Decimal, Decimal] = {}
        with self._lock:
            for entry in self._entries.values():
                order = entry.order
                if order.ticker == ticker and order.outcome_side is side and order.state.may_fill:
                    found[order.price] = found.get(order.price, ZERO) + order.remaining
        return found

    def get(self, client_order_id: str) -> EntryOrder | None:
        with self._lock:
            entry = self._entries.get(client_order_id)
            return entry.order if entry is not None else None

    def is_own(self, client_order_id: str) -> bool:
        with self._lock:
            return client_order_id in self._known

    def is_left_over(self, client_order_id: str) -> bool:
        """Whether a resting order with this id is one that nobody looks after."""
        with self._lock:
            return client_order_id in self._given_up or client_order_id not in self._known

    @property
    def closed_why(self) -> str:
        """Why no order is taken any more, "" while some are."""
        with self._lock:
            return self._closed_why

    def reservations(self) -> dict[str, Reservation]:
        """What each order may still cost."""
        self.settle()
        with self._lock:
            return self._reservations_locked()

    def releases(self) -> int:
        """To be asked before positions are: a number that has changed by the time of the reservation says
        that contracts may have gone from here to there unseen."""
        self.settle()
        with self._lock:
            return self._releases

    def _reservations_locked(self) -> dict[str, Reservation]:
        return {i: Reservation(e.order.ticker, e.reserved) for i, e in self._entries.items()}

    def sent_last_minute(self) -> int:
        with self._lock:
            return self._sent_locked()

    def _sent_locked(self) -> int:
        oldest = self._clock.monotonic() - RATE_WINDOW_S
        while self._sent and self._sent[0] <= oldest:
            self._sent.popleft()
        return len(self._sent)

    def settle(self) -> None:
        """Free what positions hold by now, and forget what is over."""
        with self._lock:
            tickers = {e.order.ticker for e in self._entries.values() if e.settling}
        judged = {ticker: self._judged_at(ticker) for ticker in tickers}
        now = self._clock.monotonic()
        with self._lock:
            for entry in self._entries.values():
                if entry.settling and entry.order.ticker in judged:
                    entry.settle(now, judged[entry.order.ticker])
                    self._releases += entry.settling == 0
            self._entries = {i: e for i, e in self._entries.items() if not e.is_over}

    def due(self, situations: Mapping[str, Situation]) -> list[tuple[EntryOrder, Step]]:
        """What has to be done now; what is to be canceled is marked with it. A market without a situation,
        because its first order came just now, is left to the next pass."""
        now = self._clock.monotonic()
        found = []
        with self._lock:
            for entry in self._entries.values():
                situation = situations.get(entry.order.ticker)
                if situation is None:
                    continue
                step = next_step(entry, situation, now)
                if step.kind is StepKind.CANCEL:
                    self._mark_locked(entry, step.why)
                    entry.next_try_at = now + CANCEL_ANSWERED_S  # not again while its answer is awaited
                if step.kind is not StepKind.NOTHING:
                    found.append((entry.order, step))
        return found

    def next_try_s(self) -> float | None:
        """In how many seconds something unfinished is tried again, None when nothing is."""
        now = self._clock.monotonic()
        with self._lock:
            at = [
                e.next_try_at
                for e in self._entries.values()
                if e.order.state is EntryState.UNKNOWN
                or (e.cancel_why and e.order.state in (EntryState.RESTING, EntryState.CANCELING))
            ]
        return max(0.0, min(at) - now) if at else None

    # --- placing ------------------------------------------------------------------------------------

    def close(self, why: str) -> None:
        """Take no order any more."""
        with self._lock:
            self._closed_why = self._closed_why or why

    def try_add(self, entry: Entry, releases: int, judge: Judge) -> str:
        """Reserve and keep the order if `judge` lets it; return why not: `OUTDATED` if its view is."""
        with self._lock:
            if self._releases != releases:
                return OUTDATED
            why = self._closed_why or judge(self._reservations_locked(), self._sent_locked())
            if not why:
                self._keep_locked(entry)
                self._sent.append(self._clock.monotonic())
            return why

    def adopt(self, entry: Entry) -> None:
        """Keep an order that this run did not place."""
        with self._lock:
            self._keep_locked(entry)
        self._note(entry.order, entry.cancel_why)

    def _keep_locked(self, entry: Entry) -> None:
        client_order_id = entry.order.client_order_id
        self._entries[client_order_id] = entry
        self._given_up.pop(client_order_id, None)
        self._known[client_order_id] = None
        if len(self._known) > REMEMBERED_IDS_MAX:
            self._known.popitem(last=False)

    def why_not_send(self, client_order_id: str) -> str:
        """Why an order that was admitted must not leave after all."""
        with self._lock:
            return self._closed_why or self._entries[client_order_id].cancel_why

    def answered(self, client_order_id: str, ack: OrderAck) -> EntryOrder:
        """The order was taken; the position holds already what the answer says."""
        now = self._clock.monotonic()
        with self._lock:
            self._releases += 1
            entry = self._entries[client_order_id]
            entry.take_filled(ack.fill_count, now)
            entry.settling = min(entry.settling, max(ZERO, entry.order.filled - ack.fill_count))
            entry.order = replace(entry.order, order_id=ack.order_id)
            entry.compared_at = now
            # An executed order that the stream has told of rests no more, whatever the answer said then.
            rests = ack.remaining_count > 0 and not entry.is_ended
            if entry.order.state is EntryState.SENDING:
                entry.move(EntryState.RESTING if rests else EntryState.DONE)
            order = entry.order
        self._note(order)
        return order

    def not_sent(self, client_order_id: str, why: str) -> EntryOrder:
        """The order was refused, or never left."""
        with self._lock:
            entry = self._entries[client_order_id]
            entry.move(EntryState.DONE, why)
            order = entry.order
        self._note(order)
        return order

    def lost(self, client_order_id: str, why: str) -> EntryOrder:
        """The order's answer was lost: it may have acted."""
        with self._lock:
            entry = self._entries[client_order_id]
            entry.move(EntryState.DONE if entry.is_ended else EntryState.UNKNOWN, why)
            entry.next_try_at = self._clock.monotonic()
            order = entry.order
        self._note(order)
        return order

    # --- amending -----------------------------------------------------------------------------------

    def begin_amend(
        self, client_order_id: str, price: Decimal, count: Decimal, releases: int, judge: Judge
    ) -> EntryOrder | str:
        """Reserve the larger of both and return the order as it is, or why not, like `try_add`."""
        with self._lock:
            if self._releases != releases:
                return OUTDATED
            entry = self._entries.get(client_order_id)
            if entry is None or entry.order.state is not EntryState.RESTING or entry.cancel_why:
                return "it does not rest, or not for much longer"
            if entry.amend_to is not None:
                return "an amend of it is under way"
            if count <= entry.order.filled:
                return f"{entry.order.filled} contracts of it are bought already: cancel it instead"
            others = self._reservations_locked()
            why = self._closed_why or judge(others, self._sent_locked())
            if why:
                return why
            now = self._clock.monotonic()
            entry.amend_to = (price, count)
            entry.sent_at, entry.sent_at_wall = now, self._clock.now()
            self._sent.append(now)
            return entry.order

    def amended(self, client_order_id: str, ack: OrderAck) -> bool:
        """The amend was taken; return whether it has to be looked up what it filled."""
        now = self._clock.monotonic()
        with self._lock:
            entry = self._entries.get(client_order_id)
            if entry is None or entry.amend_to is None:
                return False
            price, count = entry.amend_to
            entry.amend_to = None
            if not entry.order.state.may_fill:
                return False
            entry.order = replace(entry.order, price=price, count=max(count, entry.order.filled))
            entry.compared_at = now
            # What it filled, it does not say in all: fills from before it may be on their way too.
            is_unsaid = ack.fill_count > 0 or ack.remaining_count == 0
            if is_unsaid and entry.order.state is EntryState.RESTING:
                entry.move(EntryState.UNKNOWN)
                entry.next_try_at = now
            order = entry.order
        self._note(order)
        return is_unsaid

    def not_amended(self, client_order_id: str, *, is_gone: bool) -> None:
        """The amend did not act; `is_gone` says that the exchange does not know it as a resting order."""
        with self._lock:
            entry = self._entries.get(client_order_id)
            if entry is None:
                return
            entry.amend_to = None
            if is_gone and entry.order.state is EntryState.RESTING:
                entry.move(EntryState.UNKNOWN)
                entry.next_try_at = self._clock.monotonic()
            order = entry.order
        self._note(order)

    # --- canceling ----------------------------------------------------------------------------------

    def want_cancel(
        self, why: str, *, ticker: str | None = None, client_order_id: str | None = None
    ) -> list[EntryOrder]:
        """Mark all orders, those of a market, or one: they are to go. Return those that may still fill."""
        with self._lock:
            wanted = [
                e
                for i, e in self._entries.items()
                if e.order.state.may_fill
                and (ticker is None or e.order.ticker == ticker)
                and (client_order_id is None or i == client_order_id)
            ]
            for entry in wanted:
                self._mark_locked(entry, why)
            return [entry.order for entry in wanted]

    def _mark_locked(self, entry: Entry, why: str) -> None:
        if not entry.cancel_why:
            entry.cancel_why = why
            if entry.order.state is EntryState.RESTING:
                entry.next_try_at = self._clock.monotonic()
        if entry.order.state is EntryState.RESTING:
            entry.move(EntryState.CANCELING, entry.cancel_why)

    def canceled(self, client_order_id: str, reduced_by: Decimal) -> bool:
        """The exchange has confirmed a cancel; return whether it says of more that was bought."""
        now = self._clock.monotonic()
        with self._lock:
            entry = self._entries.get(client_order_id)
            if entry is None or entry.order.state is not EntryState.CANCELING:
                return False
            is_said = entry.amend_to is None and reduced_by > 0
            is_news = is_said and entry.take_filled(entry.order.count - reduced_by, now, is_prompt=False)
            if is_said:
                entry.move(EntryState.DONE)
            else:
                entry.move(EntryState.UNKNOWN)
                entry.next_try_at = now
            order = entry.order
        self._note(order)
        return is_news

    def not_canceled(self, client_order_id: str, *, is_refused: bool) -> None:
        """A cancel did not go through: refused, which proves nothing, or without an answer."""
        now = self._clock.monotonic()
        with self._lock:
            entry = self._entries.get(client_order_id)
            if entry is None or entry.order.state is not EntryState.CANCELING:
                return
            entry.cancel_tries += 1
            entry.next_try_at = now + delay_s(CANCEL_DELAYS_S, entry.cancel_tries)
            if is_refused:
                entry.move(EntryState.UNKNOWN)
                entry.next_try_at = now

    # --- news ---------------------------------------------------------------------------------------

    def update(self, update: OrderUpdate) -> bool:
        """Take in the stream's word on one of ours; return whether it rests and was given up."""
        now = self._clock.monotonic()
        with self._lock:
            entry = self._entries.get(update.client_order_id)
            if entry is None:
                return update.status is OrderStatus.RESTING and update.client_order_id in self._given_up
            before = entry.order
            entry.take_filled(update.fill_count, now)
            if update.order_id:
                entry.order = replace(entry.order, order_id=update.order_id)
            if update.status in (OrderStatus.CANCELED, OrderStatus.EXECUTED):
                entry.is_ended = True
                if entry.order.state not in (EntryState.SENDING, EntryState.DONE):
                    entry.move(EntryState.DONE)
            elif (
                update.status is OrderStatus.RESTING
                and entry.order.state is EntryState.UNKNOWN
                # Else it may be an older word than the cancel or amend whose outcome is asked for.
                and not before.order_id
            ):
                entry.move(EntryState.RESTING)
                entry.compared_at = entry.next_try_at = now
            order, cancel_why = entry.order, entry.cancel_why
        if order != before:
            self._note(order, cancel_why if order.state.may_fill else "")
        return False

    def looked_up(
        self, asked: Iterable[str], found: Mapping[str, FoundOrder], as_of: float | None, left_at: float
    ) -> bool:
        """Take in one read of our orders; return whether more was bought than was known."""
        now = self._clock.monotonic()
        changed: list[tuple[EntryOrder, str]] = []
        is_news = False
        with self._lock:
            for client_order_id in asked:
                entry = self._entries.get(client_order_id)
                if entry is None or not entry.order.state.may_fill:
                    continue
                before = entry.order
                if client_order_id in found:
                    is_news |= take_found(entry, found[client_order_id], left_at, now)
                elif take_missing(entry, as_of, left_at):
                    self._given_up[client_order_id] = None
                    if len(self._given_up) > REMEMBERED_IDS_MAX:
                        self._given_up.popitem(last=False)
                self._pace_locked(entry, now)
                if entry.order != before:
                    changed.append((entry.order, entry.cancel_why))
        for order, cancel_why in changed:
            self._note(order, cancel_why if order.state.may_fill else "")
        return is_news

    def not_looked_up(self, asked: Iterable[str]) -> None:
        """The read failed."""
        now = self._clock.monotonic()
        with self._lock:
            for client_order_id in asked:
                if (entry := self._entries.get(client_order_id)) is not None:
                    self._pace_locked(entry, now)

    def _pace_locked(self, entry: Entry, now: float) -> None:
        if entry.order.state is EntryState.UNKNOWN or not entry.cancel_why:
            entry.lookups += 1
            entry.next_try_at = now + delay_s(LOOKUP_DELAYS_S, entry.lookups)
        elif entry.order.state is EntryState.RESTING:
            # Reads lag: what was canceled just now may still be shown.
            entry.next_try_at = now + (
                delay_s(CANCEL_DELAYS_S, entry.cancel_tries) if entry.cancel_tries else 0.0
            )

    # --- what is remembered -------------------------------------------------------------------------

    def _note(self, order: EntryOrder, cancel_why: str = "") -> None:
        """Write it down and say what has become of it."""
        self._recorder.write([order])
        if order.state is EntryState.SENDING:
            return  # its answer, which is awaited, says it all
        is_trouble = order.state is EntryState.UNKNOWN
        log_event(
            logger,
            logging.WARNING if is_trouble else logging.INFO,
            _event(order),
            ticker=order.ticker,
            side=order.outcome_side.value,
            client_order_id=order.client_order_id,
            filled=order.filled,
            count=order.count,
            price=order.price,
            state=order.state.value,
            why=order.why or None,
            to_go=cancel_why or None,
        )


def _event(order: EntryOrder) -> str:
    """What has become of it, for the log."""
    if order.state is EntryState.DONE and not order.filled:
        return "entry_not_filled"
    if order.filled >= order.count:
        return "entry_filled"
    if order.filled and order.state is not EntryState.UNKNOWN:
        return "entry_part_filled"
    return f"entry_{order.state.value}"
