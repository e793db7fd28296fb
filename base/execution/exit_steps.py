"""What one exit does next, and what an answer means for it.

`plan` says what an episode wants now: to wait, or to send an order; it does at most one thing on the
network, a read. `begin` writes the order down before it leaves; `take_answer` takes in what came back.
The workers and their order of service are `exits.py`.

Every order is immediate-or-cancel, reduce-only, sized from the position as it is now and never for more
than was held at the trigger. While an order's outcome is unknown nothing else is sent for that market.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from base.clock import Clock
from base.errors import BotError, OrderOutcomeUnknown, RateLimitedError, RequestRejected, TransientError
from base.execution.episode import (
    ENTRY_TOLERANCE,
    PATIENCE_S,
    Episode,
    EpisodeState,
    LookupVerdict,
    judge_absence,
    judge_unread,
    lookup_pace_s,
    patience_after,
)
from base.execution.gateway import FoundOrder, Gateway, PriceView
from base.execution.ladder import STEPS_THROUGH, exit_rung
from base.execution.refusals import BlockedWhy, answer_refusal, probe_delay_s
from base.execution.shared_reads import READ_ERRORS, Obstacle, SharedReads
from base.log import RepeatedWarnings, log_event
from base.model.events import OrderUpdate
from base.model.market import CENT, MarketStatus, OutcomeSide
from base.model.order import OrderAck, OrderRequest, OrderStatus, TimeInForce, to_yes_leg
from base.model.position import Position
from base.model.rules import Hold, HoldReason
from base.risk.exit_rules import price_to_act_on
from base.store.portfolio import AGREEMENT_S, READ_LAG_S, Portfolio
from base.store.records import AttemptOutcome, Record, Recorder, TransitionRecord

logger = logging.getLogger(__name__)

UNVOUCHED_AGE_S_MAX = 5.0
"""A price that no live feed vouches for and that is older is read again before an order is priced on it."""
WAIT_FOR_PRICE_S = 1.0
PROBE_S = 2.0
"""How often, at most, a paused market or exchange is asked whether it is open again."""
FAILED_PROBES_MAX = 3
"""After so many that failed in a row, the order itself asks: a broken read must not latch an exit off."""
FRESH_READ_PATIENCE_S = 15.0
READ_ASKS_MIN = 5
"""How long, and how often asking, an exit whose order was given up waits for a complete read of positions."""
SHARED_READ_WAIT_S = 0.05
HALTED_LOOK_S = 0.5
"""How often a halted exit looks whether it may go on; it asks nobody."""
REMIND_S = 300.0
"""A blocked exit is announced again this often."""
REMEMBERED_UPDATES_MAX = 2_000

_BLOCKED_BY_HOLD: dict[HoldReason, BlockedWhy] = {
    HoldReason.PAUSED: BlockedWhy.PAUSED,
    HoldReason.NO_BID: BlockedWhy.NO_BID,
    HoldReason.BELOW_FLOOR: BlockedWhy.BELOW_FLOOR,
    HoldReason.NOT_OPEN: BlockedWhy.NOT_OPEN,
}


@dataclass(frozen=True, slots=True)
class Delay:
    """Nothing is sent now; look again after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Ready:
    """This order is to be sent now, or decided anew."""

    request: OrderRequest
    is_resend: bool = False


class ExitSteps:
    """Steps episodes; any worker may call it, each episode from one worker at a time."""

    def __init__(
        self,
        gateway: Gateway,
        portfolio: Portfolio,
        price_of: Callable[[str], PriceView | None],
        request_reconcile: Callable[[], None],
        clock: Clock,
        recorder: Recorder,
        steps: Sequence[int] = STEPS_THROUGH,
        may_send: Callable[[], bool] = lambda: True,
    ) -> None:
        self._gateway = gateway
        self._portfolio = portfolio
        self._price_of = price_of
        self._request_reconcile = request_reconcile
        self._clock = clock
        self._recorder = recorder
        self._may_send = may_send
        self._ladder_steps = tuple(steps)
        self._shared = SharedReads(gateway, clock)
        self._obstacle = Obstacle()
        self._reminders = RepeatedWarnings(REMIND_S)
        self._warnings = RepeatedWarnings()
        self._lock = threading.Lock()  # guards the field below
        self._updates: OrderedDict[str, OrderUpdate] = OrderedDict()

    def order_update(self, update: OrderUpdate) -> None:
        """Remember what the stream says of an order: it may resolve an unknown outcome."""
        with self._lock:
            self._updates[update.client_order_id] = update
            while len(self._updates) > REMEMBERED_UPDATES_MAX:
                self._updates.popitem(last=False)

    def take_up(self, episode: Episode) -> None:
        """Begin with an exit that a run before this one has left."""
        if episode.order is not None:
            self._shared.seek(episode.order.client_order_id, episode.ticker, episode.order_written_at)
        log_event(
            logger,
            logging.WARNING,
            "exit_taken_up",
            ticker=episode.ticker,
            reason=episode.reason.value,
            state=episode.state.value,
            client_order_id=episode.order.client_order_id if episode.order is not None else None,
            filled=episode.filled,
            attempts=episode.attempts,
            episode=episode.id,
        )

    # --- what it wants now --------------------------------------------------------------------------

    def plan(self, episode: Episode, *, may_read: bool = True) -> Delay | Ready | None:
        """What this exit wants now; None when that would take a read and `may_read` is False."""
        episode.waits_for_all = False
        if episode.state is EpisodeState.UNKNOWN:
            return self._look_up(episode) if may_read else None
        if not self._portfolio.is_loaded:
            self._request_reconcile()
            return Delay(0.2)
        if self._awaits_read(episode):
            early_s = (episode.read_awaited_since or 0.0) - self._clock.monotonic()
            # A read that left before then would not count, and keep the one that does waiting.
            if early_s > 0:
                return Delay(min(early_s + 0.001, WAIT_FOR_PRICE_S))
            self._request_reconcile()
            return Delay(WAIT_FOR_PRICE_S)
        position = self._portfolio.get(episode.ticker)
        if episode.left == 0:
            return self._close(episode, "filled")
        if position is None and self._may_still_show(episode):
            self._request_reconcile()
            return Delay(WAIT_FOR_PRICE_S)
        if position is None or position.outcome_side is not episode.outcome_side:
            return self._close(episode, self._gone(episode, position))
        if episode.is_resumed and self._is_another(episode, position):
            return self._close(episode, "position_changed")  # the rules judge what is held now
        episode.is_resumed = False
        if not self._may_send():
            return self._block(episode, BlockedWhy.HALTED, HALTED_LOOK_S)
        if episode.state is EpisodeState.BLOCKED and episode.blocked_why is BlockedWhy.PAUSED:
            if not may_read:
                return None
            wait_s = self._probe(episode, position)
            if wait_s is not None:
                return Delay(wait_s)
        view = self._fresh_view(episode.ticker, may_read=may_read)
        if view is None and not may_read:
            return None
        return self._price(episode, position, view)

    def _may_still_show(self, episode: Episode) -> bool:
        """Whether a position that the first reads after a restart do not show may be there all the same:
        one read, or several of one bad moment, prove nothing."""
        read_at = self._portfolio.judged_at(episode.ticker)
        return episode.is_resumed and (read_at is None or read_at < episode.resumed_at + AGREEMENT_S)

    @staticmethod
    def _is_another(episode: Episode, position: Position) -> bool:
        """Whether it was sold and bought anew by hand while nobody watched.

        One that has grown may have been added to: what was held at the trigger is still sold. After fills
        of our own the entry says nothing: what the exchange takes for the cost of the rest is not
        documented.
        """
        has_moved = abs(position.entry_price - episode.entry_price) > ENTRY_TOLERANCE
        return has_moved and episode.filled == 0 and position.count <= episode.count

    @staticmethod
    def _gone(episode: Episode, position: Position | None) -> str:
        if position is not None:
            return "flipped"  # traded by hand
        return "filled" if episode.filled else "flat"

    def _awaits_read(self, episode: Episode) -> bool:
        """Whether the position must be read before anything is sized from it."""
        since = episode.read_awaited_since
        if since is None:
            return False
        read_at = self._portfolio.judged_at(episode.ticker)
        now = self._clock.monotonic()
        if episode.read_asks == 0:
            episode.read_asked_at = max(now, since)
        episode.read_asks += 1
        # A machine that slept has had no chance to read: it is patient from its first asking on.
        is_patient = episode.read_asks < READ_ASKS_MIN or now - episode.read_asked_at < FRESH_READ_PATIENCE_S
        is_read = read_at is not None and read_at > since
        if self._portfolio.is_doubted(episode.ticker):
            # One read does not show it: the second one decides, and comes AGREEMENT_S after the first.
            is_patient = now - episode.read_asked_at < FRESH_READ_PATIENCE_S + 2 * AGREEMENT_S
            is_read = False
        if is_patient and not is_read:
            return True
        episode.read_awaited_since = None
        episode.read_asks = 0
        return False

    def _price(self, episode: Episode, position: Position, view: PriceView | None) -> Delay | Ready:
        """The order for what is left at what the book says now."""
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
        floor = self._floor(episode)
        if price.value < floor:
            # The rules judge anew, so that a take-profit never stands in the way of a stop.
            return self._close(episode, "price_left")
        obstacle = self._obstacle.waits(self._clock.monotonic())
        if obstacle is not None:
            blocked = self._block(episode, obstacle[0], obstacle[1], "one exit probes for all")
            episode.waits_for_all = True
            return blocked
        rung = exit_rung(
            position.outcome_side,
            view.quote,
            view.market,
            episode.rung,
            floor,
            count=min(position.count, episode.left),
            bids=view.yes_bids if position.outcome_side is OutcomeSide.YES else view.no_bids,
            steps=self._ladder_steps,
            is_urgent=episode.reason.is_urgent,
        )
        return Ready(
            OrderRequest(
                ticker=episode.ticker,
                client_order_id=episode.next_client_order_id,
                book_side=rung.book_side,
                count=min(position.count, episode.left),
                price=rung.price,
                time_in_force=TimeInForce.IMMEDIATE_OR_CANCEL,
                reduce_only=True,
                exchange_index=view.market.exchange_index,
            )
        )

    def _floor(self, episode: Episode) -> Decimal:
        """The least to ask, dollars of the held side. A profit is only taken where there is one: its exit
        goes a step below its trigger, and not below what was paid."""
        if episode.reason.is_urgent or episode.trigger_price is None:
            return episode.floor
        least = episode.trigger_price - self._ladder_steps[0] * CENT
        is_profit = episode.entry_price <= episode.trigger_price
        return max(episode.floor, least, episode.entry_price if is_profit else least)

    def _fresh_view(self, ticker: str, *, may_read: bool) -> PriceView | None:
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
        if not may_read:
            return None
        self._refresh(ticker)
        return self._price_of(ticker)

    def _refresh(self, ticker: str) -> None:
        try:
            self._gateway.refresh_markets([ticker])
        except READ_ERRORS as exc:
            self._warn("exit_price_unread", ticker, exc)

    def _probe(self, episode: Episode, position: Position) -> float | None:
        """Ask whether a pause is over; None when orders are taken again, else seconds to the next probe."""
        now = self._clock.monotonic()
        if now - episode.sent_at < PROBE_S:
            return PROBE_S - (now - episode.sent_at)  # the order itself has just asked
        view = self._price_of(episode.ticker)
        shard = view.market.exchange_index if view is not None else position.exchange_index
        # Every look at the market pokes its episode, and many are paused together: one read serves all.
        read = self._shared.probe(episode.ticker, max(now - PROBE_S, episode.sent_at))
        if read is None:
            return SHARED_READ_WAIT_S
        if read.shards is None:
            self._warn("exit_probe_failed", episode.ticker, read.error)
            episode.failed_probes += 1
            wait_s = max(SHARED_READ_WAIT_S, read.left_at + PROBE_S - self._clock.monotonic())
            return None if episode.failed_probes % FAILED_PROBES_MAX == 0 else wait_s
        episode.failed_probes = 0
        view = self._price_of(episode.ticker)
        is_inactive = view is not None and view.market.status is MarketStatus.INACTIVE
        if is_inactive or not read.shards.takes_orders(shard):
            return max(SHARED_READ_WAIT_S, read.left_at + PROBE_S - self._clock.monotonic())
        return None

    # --- an order leaves ----------------------------------------------------------------------------

    def begin(self, episode: Episode, ready: Ready) -> list[Record]:
        """The order is about to leave: what has to be on disk before."""
        request = ready.request
        if ready.is_resend:
            episode.resends += 1
        else:
            episode.attempts += 1
            episode.exists_at_exchange = False
            episode.is_from_before = False
            episode.resends = 0
            episode.lookups_in_all = 0
            episode.unknown_since = None
            episode.order_written_at = self._clock.now()
        episode.order = request
        episode.lookups = 0
        self._portfolio.order_left(request.ticker, request.client_order_id)
        moved = self._moved(episode, EpisodeState.SENDING, f"attempt {episode.attempts}")
        return [episode.record(), episode.attempt_record(request), moved]

    def commit(self, records: Sequence[Record]) -> None:
        """Bring these to disk; where the disk does not take them the exit goes out from memory (the
        journal has said so, loudly, and entries stop)."""
        self._recorder.commit(records)

    def leaves(self, episode: Episode) -> None:
        """It is on disk and leaves now: say so, and note the time for look-ups."""
        self.announce(episode)
        if episode.blocked_why is BlockedWhy.PAUSED:
            self._shared.paused(episode.ticker, is_paused=False)
        episode.sent_at = self._clock.monotonic()
        episode.sent_at_wall = self._clock.now()

    def _resumed(self, episode: Episode) -> None:
        """The exchange took an order: what stood in the way is gone."""
        if episode.blocked_why is not None:
            log_event(
                logger,
                logging.WARNING,
                "exit_resumed",
                ticker=episode.ticker,
                was=episode.blocked_why.value,
                blocked_s=None if episode.blocked_since is None else self._age_s(episode.blocked_since),
            )
        episode.blocked_why = episode.blocked_since = None

    def announce(self, episode: Episode) -> None:
        """Log the trigger, once, after it has been written down: what was announced is never forgotten."""
        if episode.is_announced:
            return
        episode.is_announced = True
        log_event(
            logger,
            logging.WARNING,
            "exit_triggered",
            ticker=episode.ticker,
            reason=episode.reason.value,
            price=episode.exit_value,
            trigger_price=episode.trigger_price,
            side=episode.outcome_side.value,
            count=episode.count,
            episode=episode.id,
        )

    # --- an answer comes back -----------------------------------------------------------------------

    def take_answer(self, episode: Episode, ready: Ready, answer: OrderAck | BotError) -> float:
        """Take in what became of an order that was sent; return the seconds to the next step."""
        request = ready.request
        if isinstance(answer, OrderAck):
            self._log_sent(episode, request)
            self._obstacle.gone()
            self._resumed(episode)
            found = FoundOrder(
                answer.order_id,
                OrderStatus.EXECUTED,
                answer.fill_count,
                answer.average_fill_price,
                answer.fees,
            )
            return self._account(episode, request, found, answer.ts_ms)
        if isinstance(answer, OrderOutcomeUnknown):
            self._log_sent(episode, request)
            self._resumed(episode)
            return self.lost(episode, answer)
        if isinstance(answer, RequestRejected):
            self._log_sent(episode, request)
            return self._refused(episode, ready, answer)
        return self._not_sent(episode, ready, answer)

    def broke(self, episode: Episode, why: object) -> float:
        """The program broke while it stepped this exit: whatever may have left is looked up."""
        if episode.state is not EpisodeState.SENDING:
            return 1.0
        if episode.order is not None:
            return self.lost(episode, why)
        self._move(episode, EpisodeState.TRIGGERED, "the program broke after the answer was taken in")
        return 1.0

    def lost(self, episode: Episode, why: object) -> float:
        """The answer is lost, or the program broke on it: the order is looked up before anything new."""
        request = episode.order
        assert request is not None, "only an order that was sent can be lost"
        if episode.state is not EpisodeState.UNKNOWN:
            self._move(episode, EpisodeState.UNKNOWN, str(why)[:200])
        if episode.unknown_since is None:
            episode.unknown_since = self._clock.monotonic()
        self._shared.seek(request.client_order_id, request.ticker, episode.order_written_at)
        log_event(
            logger,
            logging.ERROR,
            "exit_unknown",
            ticker=episode.ticker,
            client_order_id=request.client_order_id,
            why=why,
        )
        return lookup_pace_s(episode)

    def _not_sent(self, episode: Episode, ready: Ready, exc: BotError) -> float:
        """It never left, so its id is as good as new. Anything but a network error is a bug of ours."""
        self._warn("exit_not_sent", episode.ticker, exc)
        if ready.is_resend:
            # It says nothing of the first sending: that one is still to be found.
            return self._stay_unknown(episode, str(exc), 0.25, 2.0)
        self._settle(episode, AttemptOutcome.REFUSED, why=f"not sent: {exc}"[:200])
        episode.attempts -= 1
        if isinstance(exc, TransientError):
            why = BlockedWhy.RATE if isinstance(exc, RateLimitedError) else BlockedWhy.UNREACHABLE
            return self._back_off(episode, why, 0.25, 2.0)
        return self._back_off(episode, BlockedWhy.REJECTED, 1.0, 30.0, detail=str(exc)[:200])

    def _refused(self, episode: Episode, ready: Ready, exc: RequestRejected) -> float:
        refusal = answer_refusal(exc.status, exc.code)
        if refusal.look_up:
            episode.exists_at_exchange = True
            return self.lost(episode, exc)
        if ready.is_resend:
            # A pause or a limit may be checked before the id is: the first sending may still have acted.
            return self._stay_unknown(episode, str(exc), max(PROBE_S, refusal.delay_s), 10.0)
        self._settle(episode, AttemptOutcome.REFUSED, why=f"{exc.status} {exc.code}")
        if refusal.refresh_market:
            self._refresh(episode.ticker)
        if refusal.why is BlockedWhy.REJECTED:
            self._request_reconcile()
        detail = f"{exc.status} {exc.code}".strip()
        if refusal.concerns_all:
            now = self._clock.monotonic()
            delay_s = self._obstacle.met(refusal.why, refusal.delay_s, refusal.delay_s_max, now)
            self._block(episode, refusal.why, delay_s, detail)
            episode.waits_for_all = True
            return delay_s
        return self._back_off(episode, refusal.why, refusal.delay_s, refusal.delay_s_max, detail)

    @property
    def is_way_free(self) -> bool:
        """Whether nothing stands in the way of all orders of the account."""
        return self._obstacle.why is None

    def _account(self, episode: Episode, request: OrderRequest, order: FoundOrder, ts_ms: int = 0) -> float:
        """Take in what an order of this episode has filled, and decide when to go on."""
        self._book(episode, request, order, ts_ms)
        is_from_before = episode.is_from_before
        self._settle(episode, AttemptOutcome.ANSWERED, order)
        episode.blocked_times = 0
        price = order.average_yes_price if order.average_yes_price is not None else request.price
        if order.fill_count > 0:
            episode.filled += order.fill_count
            episode.proceeds += order.fill_count * to_yes_leg(price, episode.outcome_side)
            episode.fees += order.fees
            episode.zero_fills = 0
        else:
            episode.zero_fills += 1
            episode.rung += 1
        position = self._portfolio.get(episode.ticker)
        is_held = position is not None and position.outcome_side is episode.outcome_side
        remaining = position.count if position is not None and is_held else Decimal(0)
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
                remaining=None if is_from_before else remaining,
                episode=episode.id,
            )
        if is_from_before:
            # What reads since the start say of the position may or may not hold these fills.
            now = self._clock.monotonic()
            episode.read_awaited_since = max(now, episode.sent_at + READ_LAG_S)
            self._request_reconcile()
            self._move(episode, EpisodeState.TRIGGERED, "an order of the run before is accounted for")
            return 0.2
        if remaining == 0 or episode.left == 0:
            return self._close(episode, "filled" if episode.filled else "flat").seconds
        if episode.zero_fills >= 2:
            # Perhaps nothing is held any more: only a complete read can say.
            self._request_reconcile()
        if episode.zero_fills > len(PATIENCE_S):
            return self._block(episode, BlockedWhy.NO_FILL, patience_after(episode.zero_fills)).seconds
        self._move(episode, EpisodeState.TRIGGERED, f"filled {order.fill_count}")
        return patience_after(episode.zero_fills)

    def _book(self, episode: Episode, request: OrderRequest, order: FoundOrder, ts_ms: int) -> None:
        # Before anything of the episode changes: should it fail, the order is looked up again.
        if order.fill_count <= 0:
            return
        if episode.is_from_before:
            self._portfolio.book_answer(
                order.order_id,
                request.ticker,
                request.book_side,
                order.fill_count,
                order.average_yes_price,
                order.fees,
                outcome_side=episode.outcome_side,
                entry_price=episode.entry_price,
            )
            return
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

    # --- lost orders --------------------------------------------------------------------------------

    def _look_up(self, episode: Episode) -> Delay | Ready:
        """Find out what became of an order whose answer was lost."""
        request = episode.order
        assert request is not None, "what is unknown is the outcome of an order"
        told = self._told(episode, request)
        if told is not None and (told.average_yes_price is not None or told.fill_count == 0):
            return Delay(self._account(episode, request, told))
        read = self._shared.lookup(request.client_order_id, max(episode.looked_up_at, episode.sent_at))
        if read is None:
            return Delay(SHARED_READ_WAIT_S)
        episode.looked_up_at = read.left_at
        delay_s = lookup_pace_s(episode)
        now, now_wall = self._clock.monotonic(), self._clock.now()
        if read.lookup is None:
            if told is not None:
                return Delay(self._account(episode, request, told))
            self._warn("exit_lookup_failed", episode.ticker, read.error)
            verdict = judge_unread(episode, now, now_wall)
            return self._act_on_absence(episode, request, verdict, max(delay_s, 0.5))
        episode.lookups += 1
        episode.lookups_in_all += 1
        found = read.lookup.found.get(request.client_order_id)
        if told is not None:
            # The stream has said how many; the read was for their price, where it shows as many.
            is_shown = found is not None and found.fill_count >= told.fill_count
            return Delay(self._account(episode, request, found if found is not None and is_shown else told))
        if found is not None and found.status is not OrderStatus.RESTING:
            log_event(
                logger,
                logging.WARNING,
                "exit_found",
                ticker=episode.ticker,
                client_order_id=request.client_order_id,
                filled=found.fill_count,
            )
            return Delay(self._account(episode, request, found))
        if found is not None:
            # It is there; an immediate-or-cancel order cannot rest, the read is behind.
            episode.exists_at_exchange = True
        verdict = judge_absence(episode, read.lookup.as_of, now, now_wall)
        return self._act_on_absence(episode, request, verdict, delay_s)

    def _told(self, episode: Episode, request: OrderRequest) -> FoundOrder | None:
        """What the stream has said of the order, if it has."""
        with self._lock:
            update = self._updates.get(request.client_order_id)
        if update is None:
            return None
        price = _update_price(update, episode.outcome_side)
        return FoundOrder(update.order_id, update.status, update.fill_count, price, update.fees)

    def _act_on_absence(
        self, episode: Episode, request: OrderRequest, verdict: LookupVerdict, delay_s: float
    ) -> Delay | Ready:
        """Go on after a look-up that did not tell the order's outcome."""
        if verdict is LookupVerdict.RESEND and not self._may_send():
            return Delay(max(delay_s, HALTED_LOOK_S))  # it is looked for all the same
        if verdict is LookupVerdict.RESEND:
            position = self._portfolio.get(episode.ticker)
            if position is None or position.outcome_side is not episode.outcome_side:
                return Delay(delay_s)  # it seems to have acted: look on
            count = min(request.count, position.count, episode.left)
            return Ready(replace(request, count=count), is_resend=True)
        return Delay(delay_s) if verdict is LookupVerdict.WAIT else self._give_up(episode, request)

    def _give_up(self, episode: Episode, request: OrderRequest) -> Delay:
        """Leave the order's outcome to a fresh read of the position."""
        log_event(
            logger,
            logging.ERROR,
            "exit_unresolved",
            ticker=episode.ticker,
            client_order_id=request.client_order_id,
            remedy="the next order is sized from a fresh read of the position and reduce-only",
        )
        self._settle(episode, AttemptOutcome.GIVEN_UP, why="not found")
        # A resend of a moment ago may act late: the read has to be one that would show it.
        episode.read_awaited_since = max(self._clock.monotonic(), episode.sent_at + READ_LAG_S)
        self._request_reconcile()
        self._move(episode, EpisodeState.TRIGGERED, "given up to a fresh read of the position")
        return Delay(WAIT_FOR_PRICE_S)

    def _stay_unknown(self, episode: Episode, why: str, delay_s: float, delay_s_max: float) -> float:
        """Look the order up again after a growing wait: sending it again brought no answer."""
        if episode.state is not EpisodeState.UNKNOWN:
            self._move(episode, EpisodeState.UNKNOWN, why[:200])
        if episode.unknown_since is None:
            episode.unknown_since = self._clock.monotonic()
        delay_s = min(delay_s_max, delay_s * 2 ** min(episode.blocked_times, 10))
        episode.blocked_times += 1
        return delay_s

    # --- states -------------------------------------------------------------------------------------

    def _settle(
        self, episode: Episode, outcome: AttemptOutcome, order: FoundOrder | None = None, *, why: str = ""
    ) -> None:
        """The order's outcome is known, or given up: the next one may take a new id."""
        request = episode.order
        if request is None:
            return
        self._portfolio.order_settled(request.client_order_id)
        self._shared.settled(request.client_order_id)
        record = replace(episode.attempt_record(request), outcome=outcome, why=why)
        if order is not None:
            record = replace(
                record,
                order_id=order.order_id,
                fill_count=order.fill_count,
                average_yes_price=order.average_yes_price,
                fees=order.fees,
            )
        self._recorder.write([record])
        episode.order = None
        episode.unknown_since = None

    def _back_off(
        self, episode: Episode, why: BlockedWhy, delay_s: float, delay_s_max: float, detail: str = ""
    ) -> float:
        delay = probe_delay_s(delay_s, delay_s_max, episode.blocked_times, is_patient=False)
        episode.blocked_times += 1
        return self._block(episode, why, delay, detail).seconds

    def _block(self, episode: Episode, why: BlockedWhy, delay_s: float, detail: str = "") -> Delay:
        now = self._clock.monotonic()
        episode.waits_for_all = False
        is_new = episode.state is not EpisodeState.BLOCKED or episode.blocked_why is not why
        if is_new:
            if why is BlockedWhy.AUTH and episode.blocked_why is not why:
                self._request_reconcile()  # a key that signs no order may sign no read: nothing is protected
            self._move(episode, EpisodeState.BLOCKED, why.value)
            episode.blocked_why = why
            episode.blocked_since = episode.blocked_since if episode.blocked_since is not None else now
            if why is BlockedWhy.PAUSED:
                self._shared.paused(episode.ticker, is_paused=True)
        if self._reminders.allow(f"{episode.id} {why.value}", now) is not None:
            self._commit_first(episode)
            log_event(
                logger,
                logging.ERROR,
                "exit_blocked",
                ticker=episode.ticker,
                why=why.value,
                detail=detail,
                for_s=self._age_s(episode.blocked_since) if episode.blocked_since is not None else None,
                remedy=why.remedy,
            )
        return Delay(delay_s)

    def _commit_first(self, episode: Episode) -> None:
        """An exit that is blocked before any order left is on disk before it is announced."""
        if not episode.is_announced:
            self._recorder.commit([episode.record()])
            self.announce(episode)

    def _close(self, episode: Episode, outcome: str) -> Delay:
        self._commit_first(episode)
        self._settle(episode, AttemptOutcome.GIVEN_UP, why=outcome)
        self._move(episode, EpisodeState.CLOSED, outcome)
        self._shared.paused(episode.ticker, is_paused=False)
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
        return Delay(0.0)

    def _move(self, episode: Episode, after: EpisodeState, why: str) -> None:
        self._recorder.write([self._moved(episode, after, why)])

    def _moved(self, episode: Episode, after: EpisodeState, why: str) -> TransitionRecord:
        before = episode.state
        episode.move(after)
        return TransitionRecord(self._clock.now(), episode.id, before.value, after.value, why)

    def _warn(self, event: str, ticker: str, why: object) -> None:
        """A trouble that comes again with every try: said once a minute, with how often."""
        held_back = self._warnings.allow(f"{event} {ticker}", self._clock.monotonic())
        if held_back is not None:
            log_event(logger, logging.WARNING, event, ticker=ticker, also_since_last=held_back, why=why)

    def _age_s(self, since: float) -> float:
        return round(self._clock.monotonic() - since, 1)

    def _log_sent(self, episode: Episode, request: OrderRequest) -> None:
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


def _update_price(update: OrderUpdate, side: OutcomeSide) -> Decimal | None:
    """YES-leg price from an order update, None where its cost could be of either leg."""
    if side is OutcomeSide.YES or not update.fill_count:
        return None
    price = update.fill_cost / update.fill_count
    return price if 0 < price < 1 else None
