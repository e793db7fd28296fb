"""From a strategy's intents to orders: limits, reservation, the order, and its life until it is done.

What may rest reserves its cost until it is proved that it cannot fill any more. No order is sent twice:
what became of one whose answer was lost is looked up, and while it is unknown the limits count it.

An order rests no longer than `REST_S` unless it says so itself, and never longer than `REST_S_MAX`; the
exchange is told the same, so that the order of a daemon that died expires by itself. What a resting order
buys reaches the portfolio by its `fill` messages and by reads of positions, like a trade by hand; only
what fills at once comes with the answer.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from base.app.entry_book import AMEND_LOST, OUTDATED, EntryBook
from base.app.entry_checks import EntryChecks, Seen, is_order, on_grid, rests
from base.app.entry_keeper import EntryKeeper, Job, call_now
from base.clock import Clock
from base.errors import BotError, OrderOutcomeUnknown, RequestRejected
from base.execution.entry_orders import (
    Entry,
    Reservation,
    from_before,
)
from base.execution.gateway import EntryGateway
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.log import RepeatedWarnings, log_event
from base.model.events import OrderUpdate
from base.model.market import ZERO, OutcomeSide
from base.model.order import (
    EntryOrder,
    EntryState,
    Order,
    OrderAck,
    OrderRequest,
    TimeInForce,
    entry_book_side,
    to_yes_leg,
)
from base.risk.limits import Limits, entry_cost
from base.risk.trading_state import TradingState
from base.store.portfolio import Portfolio
from base.store.records import NoRecorder, Recorder, Remembered
from base.strategy.interface import AmendIntent, CancelIntent, OrderIntent

logger = logging.getLogger(__name__)

ENTRY_ID_PREFIX = "backstop-entry-"
"""Entries' client order ids start like this, so that a restart knows its own positions by their orders."""
REST_S = 900.0
REST_S_MAX = 86_400.0
EXCHANGE_EXPIRY_MARGIN_S = 2.0
"""The exchange lets an order expire so much later than the desk cancels it: the two clocks may differ."""
HUNDREDTH = Decimal("0.01")
LOOKS_MAX = 5
"""How often an order is judged anew because what is held changed meanwhile."""
JOURNAL_DOWN = "the journal cannot be written: what is not on disk is not sent"


@dataclass(frozen=True, slots=True)
class EntryResult:
    """What became of an intent. `placed` says that the exchange took the order or may have: its state is
    then UNKNOWN. `filled` is what it is known to have bought; `why` says why nothing was placed."""

    placed: bool
    filled: Decimal = ZERO
    order: EntryOrder | None = None
    why: str = ""


class EntryDesk:
    """Places entries and looks after them; thread-safe, `place` and `amend` wait for the exchange.

    `opened` hears of a market and whose strategy it is before an order leaves; `is_exiting` says that an
    exit is under way in a market; `request_reconcile` asks for a complete read of positions soon;
    `next_pause_at` is the wall time at which all trading pauses next; `read_resting` lists the account's
    resting orders; `hands` waits for the answers to cancels.
    """

    def __init__(
        self,
        gateway: EntryGateway,
        portfolio: Portfolio,
        cache: WebsocketPriceCache,
        limits: Limits,
        trading_state: Callable[[], TradingState],
        opened: Callable[[str, str], None],
        clock: Clock,
        *,
        recorder: Recorder | None = None,
        is_exiting: Callable[[str], bool] = lambda ticker: False,
        request_reconcile: Callable[[], None] = lambda: None,
        is_confirmed: Callable[[str], bool] = lambda ticker: False,
        feed_is_live: Callable[[], bool] = lambda: True,
        next_pause_at: Callable[[], float | None] = lambda: None,
        read_resting: Callable[[], Sequence[Order]] = tuple,
        hands: Callable[[Job], None] = call_now,
    ) -> None:
        self._gateway = gateway
        self._portfolio = portfolio
        self._limits = limits
        self._opened = opened
        self._clock = clock
        self._recorder: Recorder = recorder if recorder is not None else NoRecorder()
        self._request_reconcile = request_reconcile
        self._warnings = RepeatedWarnings()
        self._checks = EntryChecks(
            portfolio,
            cache,
            limits,
            trading_state,
            is_exiting,
            is_confirmed,
            feed_is_live,
            next_pause_at,
            clock,
        )
        self._book = EntryBook(clock, self._recorder, portfolio.judged_at)
        self._keeper = EntryKeeper(
            self._book,
            gateway,
            self._checks.situations,
            read_resting,
            ENTRY_ID_PREFIX,
            request_reconcile,
            clock,
            hands,
        )
        self.service = self._keeper.service

    # --- what others may ask ------------------------------------------------------------------------

    def orders(self) -> dict[str, EntryOrder]:
        """Our orders that may still fill, by client order id."""
        return self._book.orders()

    def resting_in(self, ticker: str, side: OutcomeSide) -> dict[Decimal, Decimal]:
        """Contracts of `side` that our orders in this market may still buy, by price; answers at once."""
        return self._book.resting_in(ticker, side)

    def is_own(self, client_order_id: str) -> bool:
        """Whether an order with this id is ours; answers at once."""
        return self._book.is_own(client_order_id)

    def block(self, why: str) -> None:
        """Open nothing any more in this run, and cancel what rests."""
        self._book.close(why)
        self.service.wake()

    def exit_began(self, ticker: str) -> None:
        """Stop buying what is being sold; returns at once."""
        self.cancel_in(ticker, "an exit of its market is under way")

    def cancel_in(self, ticker: str, why: str) -> None:
        """Cancel what rests in a market; returns at once."""
        if self._book.want_cancel(why, ticker=ticker):
            self.service.wake()

    def order_update(self, update: OrderUpdate) -> None:
        """The stream's word on an order, of ours or not."""
        if not self._book.is_own(update.client_order_id):
            return
        if self._book.update(update):
            self._keeper.look_for_left_over_soon()
        self.service.wake()

    def resume(self, remembered: Remembered) -> None:
        """Take up what the last run left, before any thread starts: looked up, and canceled if it rests."""
        now, wall = self._clock.monotonic(), self._clock.now()
        for record in remembered.entries:
            self._opened(record.ticker, record.strategy)  # what it buys is that strategy's
            self._book.adopt(from_before(record, now, wall))

    def cancel(self, intent: CancelIntent | str, why: str = "") -> str:
        """Cancel a resting order; return "" when that is under way, else why not."""
        client_order_id = intent if isinstance(intent, str) else intent.client_order_id
        words = why or ("" if isinstance(intent, str) else intent.why) or "no longer wanted"
        if not self._book.want_cancel(words, client_order_id=client_order_id):
            return f"no order {client_order_id} of ours may still fill"
        self.service.wake()
        return ""

    def stop(self, timeout_s: float) -> bool:
        """Open nothing any more and cancel what rests; return whether the exchange has confirmed that."""
        self._book.close("the program stops")
        self._book.want_cancel("the program stops")
        is_clear = self._keeper.stop(timeout_s)
        for order in self._book.orders().values():
            log_event(
                logger,
                logging.CRITICAL,
                "entry_may_rest",
                ticker=order.ticker,
                client_order_id=order.client_order_id,
                state=order.state.value,
                remaining=order.remaining,
                remedy="cancel it by hand",
            )
        return is_clear

    # --- placing ------------------------------------------------------------------------------------

    def place(self, intent: OrderIntent, strategy: str = "", *, fill_or_kill: bool = False) -> EntryResult:
        """Check, reserve, write down and send one order, and take its answer in."""
        for _ in range(LOOKS_MAX):
            releases = self._book.releases()
            seen = self._checks.look()
            order, why = self._admit(intent, strategy, releases, seen, may_rest=not fill_or_kill)
            if why != OUTDATED:
                break
        if order is None:
            self._say_denied("entry_denied", intent.ticker, "", why)
            return EntryResult(False, why=why)
        request = self._request(order, intent, seen, fill_or_kill=fill_or_kill)
        why = self._prepare(order)
        if why:
            log_event(logger, logging.WARNING, "entry_denied", ticker=order.ticker, why=why)
            return EntryResult(False, why=why)
        return self._send(order, request)

    def _prepare(self, order: EntryOrder) -> str:
        """Write the order down and say whose it is; return why it must not leave."""
        why = "it could not be made ready"
        try:
            if not self._recorder.commit([order]):
                why = JOURNAL_DOWN
                return why
            # Said before the answer: its fill may come first, and must not look like somebody else's.
            self._opened(order.ticker, order.strategy)
            why = self._book.why_not_send(order.client_order_id)
            return why
        finally:
            if why:
                self._book.not_sent(order.client_order_id, why)

    def check_together(self, intents: Sequence[OrderIntent]) -> str:
        """Why these orders together break a limit, or one of them alone; "" when they do not."""
        reserved = self._book.reservations()
        seen = self._checks.look()
        sent = self._book.sent_last_minute()
        for number, intent in enumerate(intents):
            price, count = on_grid(intent, seen)
            why = self._book.closed_why or self._checks.why_not(
                intent, price, count, seen, self._book.orders().values()
            )
            why = why or self._checks.judge(
                intent.ticker, entry_cost(count, price), seen, reserved, sent + number
            )
            if why:
                return why
            reserved[f"{number} of those together"] = Reservation(intent.ticker, entry_cost(count, price))
        return ""

    def _admit(
        self,
        intent: OrderIntent,
        strategy: str,
        releases: int,
        seen: Seen,
        *,
        may_rest: bool,
    ) -> tuple[EntryOrder | None, str]:
        """The order, reserved; or None and why not."""
        price, count = on_grid(intent, seen)
        why = self._checks.why_not(intent, price, count, seen, self._book.orders().values())
        if why:
            return None, why
        now = self._clock.now()
        market = seen.prices[intent.ticker].market
        life_s = min(REST_S if intent.expires_after_s is None else intent.expires_after_s, REST_S_MAX)
        expires_at = now + life_s
        if market.close_time is not None:
            expires_at = min(expires_at, market.close_time - self._limits.min_time_left_s)
        order = EntryOrder(
            client_order_id=f"{ENTRY_ID_PREFIX}{uuid.uuid4().hex[:24]}",
            ticker=intent.ticker,
            outcome_side=intent.outcome_side,
            count=count,
            price=price,
            strategy=strategy,
            state=EntryState.SENDING,
            placed_at=now,
            expires_at=expires_at if rests(intent) and may_rest else None,
            keep_on_feed_loss=intent.keep_on_feed_loss,
            why=intent.why,
        )

        def judge(reserved: Mapping[str, Reservation], sent: int) -> str:
            return self._checks.judge(order.ticker, entry_cost(count, price), seen, reserved, sent)

        why = self._book.try_add(Entry(order, self._clock.monotonic(), now), releases, judge)
        return (None, why) if why else (order, "")

    def _request(
        self, order: EntryOrder, intent: OrderIntent, seen: Seen, *, fill_or_kill: bool
    ) -> OrderRequest:
        tif = TimeInForce.FILL_OR_KILL if fill_or_kill else TimeInForce.IMMEDIATE_OR_CANCEL
        expiration_s = None
        if order.expires_at is not None:
            tif = TimeInForce.GOOD_TILL_CANCELED
            expiration_s = math.ceil(order.expires_at + EXCHANGE_EXPIRY_MARGIN_S)
        return OrderRequest(
            ticker=order.ticker,
            client_order_id=order.client_order_id,
            book_side=entry_book_side(order.outcome_side),
            count=order.count,
            price=to_yes_leg(order.price, order.outcome_side),
            time_in_force=tif,
            reduce_only=False,
            exchange_index=seen.prices[order.ticker].market.exchange_index,
            expiration_time_s=expiration_s,
            post_only=intent.post_only and order.expires_at is not None,
        )

    def _send(self, order: EntryOrder, request: OrderRequest) -> EntryResult:
        log_event(
            logger,
            logging.INFO,
            "entry_sent",
            ticker=order.ticker,
            side=order.outcome_side.value,
            count=request.count,
            price=order.price,
            rests=order.expires_at is not None,
            strategy=order.strategy or None,
            client_order_id=request.client_order_id,
            why=order.why,
        )
        client_order_id = order.client_order_id
        # Only till its answer: what it buys while it rests, messages and reads tell.
        self._portfolio.order_left(order.ticker, client_order_id)
        outcome: EntryOrder | None = None
        try:
            ack = self._gateway.create_entry(request)
            self._take_in(request, ack)
            outcome = self._book.answered(client_order_id, ack)
            return EntryResult(True, outcome.filled, outcome)
        except OrderOutcomeUnknown as exc:
            outcome = self._book.lost(client_order_id, str(exc))
            return EntryResult(True, outcome.filled, outcome, why=str(exc))
        except BotError as exc:
            if getattr(exc, "code", "") == "order_already_exists":
                outcome = self._book.lost(client_order_id, str(exc))  # then it did arrive
                return EntryResult(True, outcome.filled, outcome, why=str(exc))
            outcome = self._book.not_sent(client_order_id, str(exc))
            log_event(logger, logging.WARNING, "entry_rejected", ticker=order.ticker, why=exc)
            return EntryResult(False, ZERO, outcome, why=str(exc))
        finally:
            if outcome is None:
                outcome = self._book.lost(client_order_id, "its answer broke something")
            # An entry of unknown outcome is left to the reads; its reservation covers it till then.
            self._portfolio.order_settled(client_order_id)
            if outcome.state is EntryState.UNKNOWN:
                self._request_reconcile()
            if outcome.state.may_fill:
                self.service.wake()

    def _take_in(self, request: OrderRequest, ack: OrderAck) -> None:
        if ack.fill_count > 0:
            self._portfolio.apply_answer(
                request.ticker,
                ack.order_id,
                request.book_side,
                ack.fill_count,
                ack.average_fill_price,
                ack.fees,
                ack.ts_ms,
            )

    # --- amending -----------------------------------------------------------------------------------

    def amend(self, intent: AmendIntent) -> str:
        """Move a resting order; return "" when the exchange has done it, else why not."""
        for _ in range(LOOKS_MAX):
            why, is_sent = self._amend(intent)
            if why != OUTDATED:
                break
        if why and not is_sent:
            self._say_denied("amend_denied", "", intent.client_order_id, why)
        return why

    def _say_denied(self, event: str, ticker: str, client_order_id: str, why: str) -> None:
        """Once a minute for each reason: a strategy may wish for the same thing at each of its passes."""
        key = f"{event} {ticker}{client_order_id} {why.partition(':')[0]}"
        held_back = self._warnings.allow(key, self._clock.monotonic())
        if held_back is not None:
            log_event(
                logger,
                logging.WARNING,
                event,
                ticker=ticker or None,
                client_order_id=client_order_id or None,
                why=why,
                also_since_last=held_back,
            )

    def _amend(self, intent: AmendIntent) -> tuple[str, bool]:
        """Why it was not done, and whether it has left for the exchange."""
        releases = self._book.releases()
        seen = self._checks.look()
        order = self._book.get(intent.client_order_id)
        if order is None:
            return f"no order {intent.client_order_id} of ours may still fill", False
        wanted = OrderIntent(
            order.ticker,
            order.outcome_side,
            order.count if intent.count is None else intent.count,
            order.price if intent.price is None else intent.price,
        )
        price, count = on_grid(wanted, seen)
        added = entry_cost(count - order.filled, price) - entry_cost(order.count - order.filled, order.price)
        if added > 0 or price > order.price or not is_order(price, count):
            why = self._checks.why_not(wanted, price, count, seen, self._book.orders().values())
            if why:
                return why, False

        def judge(reserved: Mapping[str, Reservation], sent: int) -> str:
            if added <= 0:
                is_over_rate = sent >= self._limits.entries_per_minute
                return "MAX_ENTRIES_PER_MINUTE is used up" if is_over_rate else ""
            whole = entry_cost(count, price)
            return self._checks.judge(order.ticker, added, seen, reserved, sent, order_cost=whole)

        begun = self._book.begin_amend(order.client_order_id, price, count, releases, judge)
        if isinstance(begun, str):
            return begun, False
        grown = replace(begun, price=max(price, begun.price), count=max(count, begun.count))
        if added > 0 and not self._recorder.commit([grown]):
            self._book.not_amended(order.client_order_id, is_gone=False)
            return JOURNAL_DOWN, False
        return self._send_amend(begun, price, count, seen), True

    def _send_amend(self, order: EntryOrder, price: Decimal, count: Decimal, seen: Seen) -> str:
        entry = seen.prices.get(order.ticker)
        request = OrderRequest(
            ticker=order.ticker,
            client_order_id=order.client_order_id,
            book_side=entry_book_side(order.outcome_side),
            count=count,
            price=to_yes_leg(price, order.outcome_side),
            time_in_force=TimeInForce.GOOD_TILL_CANCELED,
            reduce_only=False,
            exchange_index=entry.market.exchange_index if entry is not None else None,
        )
        ticker, client_order_id = order.ticker, order.client_order_id
        log_event(
            logger,
            logging.INFO,
            "amend_sent",
            ticker=ticker,
            client_order_id=client_order_id,
            count=count,
            price=price,
            was_price=order.price,
        )
        is_answered = False
        try:
            ack = self._gateway.amend_entry(order.order_id, request)
            is_answered = True
            if self._book.amended(order.client_order_id, ack):
                self._request_reconcile()
            return ""
        except OrderOutcomeUnknown as exc:
            log_event(
                logger,
                logging.WARNING,
                "amend_unknown",
                ticker=ticker,
                client_order_id=client_order_id,
                why=exc,
            )
            return f"{AMEND_LOST}, the order is canceled: {exc}"
        except BotError as exc:
            is_answered = True
            log_event(
                logger,
                logging.WARNING,
                "amend_rejected",
                ticker=ticker,
                client_order_id=client_order_id,
                why=exc,
            )
            is_gone = isinstance(exc, RequestRejected) and exc.status == 404
            self._book.not_amended(order.client_order_id, is_gone=is_gone)
            return str(exc)
        finally:
            if not is_answered:
                # It may rest at either price. Canceled, it is at neither, however late the amend arrives.
                self._book.want_cancel(AMEND_LOST, client_order_id=order.client_order_id)
            self.service.wake()
