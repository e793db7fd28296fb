"""What `flatten` does about orders that rest: this program's own would buy anew what it is about to sell.

Others' orders are named and left alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from base.app.entries import ENTRY_ID_PREFIX
from base.app.exchange import Exchange
from base.clock import Clock
from base.errors import BotError, RequestRejected
from base.kalshi.rate_limit import Lane
from base.model.order import Order
from base.store.reconcile import READ_LAG_S

CANCEL_S = 3.0
"""So long entries may take to go; then what is held is closed all the same."""
POLL_S = 0.5


class RestingOrders:
    """The account's resting orders, or those of one market; owned by the command's one thread.

    `is_known` says whether the last read of them was answered; `own` are all of this program's seen so far.
    """

    def __init__(
        self, exchange: Exchange, clock: Clock, say: Callable[[str], None], ticker: str | None
    ) -> None:
        self._exchange = exchange
        self._clock = clock
        self._say = say
        self._ticker = ticker
        self.is_known = False
        self.own: list[Order] = []
        self._foreign: list[Order] = []
        self._left = self._read()

    def tell(self) -> None:
        """Name them."""
        for order in self.own:
            self._say(f"{_words(order)} is canceled first")
        for order in self._foreign:
            self._say(f"{_words(order)} is not this program's and left alone (an exit that meets it ends it)")

    def cancel_own(self) -> bool:
        """Cancel this program's own; return whether a read has then shown none. What one of them bought
        on its way out is shown by the reads of positions that begin after this."""
        give_up_at = self._clock.monotonic() + CANCEL_S
        has_bought = False
        while not self.is_known or self._left:
            for order in self._left:
                has_bought = self._may_have_bought(order) or has_bought
            if self._clock.monotonic() >= give_up_at:
                break
            self._wait(POLL_S)
            self._left = self._read()
        if has_bought:
            self._wait(READ_LAG_S)
        for order in self._left:
            self._say(f"{_words(order)} could not be canceled and may still buy; run flatten again")
        return self.is_known and not self._left

    def _may_have_bought(self, order: Order) -> bool:
        """Cancel it; return whether it may have filled since it was listed."""
        try:
            canceled = self._exchange.rest.cancel_order(order.order_id, order.ticker, Lane.EXIT)
        except RequestRejected:
            return True  # gone, refused or never there: the next read tells
        except BotError as exc:
            self._say(f"{_words(order)}: {exc}")
            return True
        return canceled.reduced_by < order.remaining_count

    def _read(self) -> list[Order]:
        """This program's own that rest now; as before where that cannot be read."""
        try:
            orders = self._exchange.read_resting()
        except BotError as exc:
            self.is_known = False
            self._say(f"resting orders could not be read, they may still buy: {exc}")
            return self.own
        self.is_known = True
        orders = [o for o in orders if self._ticker in (None, o.ticker)]
        left = [o for o in orders if o.client_order_id.startswith(ENTRY_ID_PREFIX)]
        seen = {order.order_id for order in self.own}
        self.own += [order for order in left if order.order_id not in seen]
        self._foreign = [order for order in orders if order not in left]
        return left

    def _wait(self, timeout_s: float) -> None:
        self._clock.wait(threading.Event(), timeout_s)


def _words(order: Order) -> str:
    side = "YES" if order.book_side.value == "bid" else "NO"
    return f"{order.ticker}: a resting order for {order.remaining_count} {side} ({order.order_id})"
