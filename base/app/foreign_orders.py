"""Orders that this process did not send: somebody trades by hand, or another instance trades here too."""

from __future__ import annotations

import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable

from base.app.entries import ENTRY_ID_PREFIX
from base.clock import Clock
from base.log import RepeatedWarnings, log_event
from base.model.events import OrderUpdate
from base.model.order import Order, OrderStatus
from base.model.position import Fill
from base.store.portfolio import Portfolio

logger = logging.getLogger(__name__)

INSTANCE_DOUBTED_S = 600.0
"""So long `/healthz` tells of another instance after the last order of it was seen."""
REMEMBERED_MAX = 2_000
"""Resting orders that have been told of once; older ones are forgotten first."""
FLATTEN_ID_PREFIX = "bsflatten"
"""Of the orders of the command `flatten`: not the daemon's form, so that beside it they do not look like
another daemon's."""
EXIT_ID = re.compile(r"bs[0-9a-f]{20}-\d+")
"""Client order ids of exits: the episode's id and the attempt's number."""


class ForeignOrders:
    """Tells our own orders from others by their client order ids; thread-safe.

    Positions that change by somebody's hand are adopted like any change. An id of our form that nobody
    here has given means that another instance exits the same positions: both may act at once.
    """

    def __init__(self, portfolio: Portfolio, clock: Clock) -> None:
        self._portfolio = portfolio
        self._clock = clock
        self._started_at = clock.now()
        self._is_known: Callable[[str], bool] = lambda client_order_id: False
        self._warnings = RepeatedWarnings()
        self._lock = threading.Lock()  # guards the fields below; never held during I/O or callbacks
        self._told: OrderedDict[str, None] = OrderedDict()  # ids of resting orders
        self._instance_seen_at: float | None = None

    def attach(self, is_own: Callable[[str], bool]) -> None:
        """Say who else knows our client order ids, from before a restart; it answers at once."""
        self._is_known = is_own

    def fill(self, fill: Fill, *, is_held: bool) -> None:
        """Look at an execution; `is_held` says whether its market was or is held."""
        if self._is_own(fill.client_order_id):
            return
        if _is_of_our_form(fill.client_order_id):
            self._note_instance(fill.ticker, fill.client_order_id)
        elif is_held:
            log_event(
                logger,
                logging.INFO,
                "foreign_fill",
                ticker=fill.ticker,
                count=fill.count,
                side=fill.book_side.value,
                price=fill.yes_price,
                order_id=fill.order_id,
                by="flatten" if fill.client_order_id.startswith(FLATTEN_ID_PREFIX) else "somebody else",
            )

    def order_update(self, update: OrderUpdate) -> None:
        """Look at what the stream says of an order."""
        if self._is_own(update.client_order_id):
            return
        if _is_of_our_form(update.client_order_id):
            self._note_instance(update.ticker, update.client_order_id)
        elif update.status is OrderStatus.RESTING:
            self._note_resting(update.ticker, update.order_id, update.remaining_count)

    def resting(self, orders: Iterable[Order]) -> None:
        """Look at the account's resting orders; of ours only entries can be among them. Those from before
        this run are the entry desk's to cancel, whether it knows them or not."""
        for order in orders:
            is_entry = order.client_order_id.startswith(ENTRY_ID_PREFIX)
            is_from_before = 0 < order.created_ts_ms / 1000 < self._started_at
            if is_entry and (is_from_before or self._is_own(order.client_order_id)):
                continue
            if self._is_own(order.client_order_id):
                log_event(
                    logger,
                    logging.ERROR,
                    "own_order_resting",
                    ticker=order.ticker,
                    client_order_id=order.client_order_id,
                    remaining=order.remaining_count,
                    remedy="cancel it by hand: an immediate-or-cancel order must not rest",
                )
            elif _is_of_our_form(order.client_order_id):
                self._note_instance(order.ticker, order.client_order_id)
            else:
                self._note_resting(order.ticker, order.order_id, order.remaining_count)

    def doubts(self) -> list[str]:
        with self._lock:
            seen_at = self._instance_seen_at
        if seen_at is None or self._clock.monotonic() - seen_at > INSTANCE_DOUBTED_S:
            return []
        return ["another instance trades with this account: stop one of the two"]

    def _is_own(self, client_order_id: str) -> bool:
        return bool(client_order_id) and (
            self._portfolio.was_sent(client_order_id) or self._is_known(client_order_id)
        )

    def _note_instance(self, ticker: str, client_order_id: str) -> None:
        now = self._clock.monotonic()
        with self._lock:
            self._instance_seen_at = now
        held_back = self._warnings.allow("foreign_instance", now)
        if held_back is not None:
            log_event(
                logger,
                logging.CRITICAL,
                "foreign_instance",
                ticker=ticker,
                client_order_id=client_order_id,
                also_since_last=held_back,
                remedy="another instance trades with this account: stop one of the two",
            )

    def _note_resting(self, ticker: str, order_id: str, remaining: object) -> None:
        if self._portfolio.get(ticker) is None:
            return
        with self._lock:
            if order_id in self._told:
                return
            self._told[order_id] = None
            if len(self._told) > REMEMBERED_MAX:
                self._told.popitem(last=False)
        log_event(
            logger,
            logging.INFO,
            "foreign_order_resting",
            ticker=ticker,
            order_id=order_id,
            remaining=remaining,
        )


def _is_of_our_form(client_order_id: str) -> bool:
    is_exit = EXIT_ID.fullmatch(client_order_id) is not None
    return is_exit or client_order_id.startswith(ENTRY_ID_PREFIX)
