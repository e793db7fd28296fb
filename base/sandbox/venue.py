"""The running sandbox without its sockets: exchange, participants, tape, faults, clock, request log."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Protocol, TypeVar

from base.clock import Clock
from base.model.market import MarketStatus, OutcomeSide
from base.sandbox.exchange import Exchange
from base.sandbox.faults import FaultRequest, Faults
from base.sandbox.fixed_point import ONE, ZERO, count_text, dollars_text, price_text
from base.sandbox.happenings import Happening
from base.sandbox.ledger import Portfolio
from base.sandbox.market import MarketSpec
from base.sandbox.participants import Participants, ladders
from base.sandbox.records import NewOrder, OrderRecord
from base.sandbox.refusals import Refused, not_found
from base.sandbox.scenario import MarketPlan, Scenario

_T = TypeVar("_T")
REQUESTS_KEPT = 20_000
SUBMISSIONS_KEPT = 20_000
VIEWS_KEPT = 2_000


class BadControlRequest(ValueError):
    """A control request names something unknown or a bad value."""


class Player(Protocol):
    """Something that moves markets as time passes: a tape."""

    def step(self, now: float) -> None:
        """Do everything that is due at `now`."""


@dataclass(frozen=True, slots=True)
class Submission:
    """One order that came as far as order entry, alone or in a batch, and what became of it."""

    at: float
    client_order_id: str
    ticker: str
    side: str
    count: str
    price: str
    reduce_only: bool
    outcome: str
    """`accepted`, or the error code."""
    fill_count: str = "0.00"
    order_id: str = ""


class Venue:
    """Owned by the server's thread; `listeners` hear of everything that happens, in order."""

    def __init__(self, scenario: Scenario, *, clock: Clock, seed: int) -> None:
        self.clock = clock
        self.faults = Faults()
        self.tier = scenario.tier
        self.listeners: list[Callable[[Happening], None]] = []
        self.cut_sockets: Callable[[], None] = lambda: None
        self.send_garbage: Callable[[int], None] = lambda count: None
        rng = random.Random(seed)
        self.exchange = Exchange(balance=scenario.balance, rng=rng, sink=self._publish)
        self._participants = Participants(self.exchange, rng)
        self._players: list[Player] = []
        self._requests: deque[tuple[float, str]] = deque(maxlen=REQUESTS_KEPT)
        self._submissions: deque[Submission] = deque(maxlen=SUBMISSIONS_KEPT)
        self._views: deque[tuple[float, int, Portfolio]] = deque(maxlen=VIEWS_KEPT)
        now = clock.now()
        for plan in scenario.markets:
            self.open_market(plan, now)
        for event in scenario.events:
            tickers = [plan.ticker for plan in scenario.markets if plan.event_ticker == event.ticker]
            self._participants.join_event(event, tickers, now)

    def open_market(self, plan: MarketPlan, now: float) -> None:
        """List a market of a scenario with its quotes and the account's position."""
        spec = MarketSpec(
            plan.ticker,
            event_ticker=plan.event,
            title=plan.title,
            grid_name=plan.grid,
            exchange_index=plan.exchange_index,
            open_time=now - 3600,
            result=plan.result,
            is_exclusive=plan.is_exclusive,
        )
        self.exchange.add_market(spec, close_time=now + plan.close_after_s, now=now)
        self._participants.join(plan, now)
        if plan.position is not None:
            held = plan.position
            self.exchange.orders.credit(plan.ticker, held.side, held.count, held.entry, now)

    def add_player(self, player: Player) -> None:
        self._players.append(player)

    def step(self) -> None:
        """Move time forward: participants, tapes, lifecycles, ticker pacing."""
        now = self.clock.now()
        self._participants.step(now)
        for player in self._players:
            player.step(now)
        self.exchange.advance(now)
        self.note_view(now)

    def _publish(self, happening: Happening) -> None:
        for listener in self.listeners:
            listener(happening)

    # Portfolio reads

    def portfolio(self) -> Portfolio:
        """What portfolio reads see: the present, or `read_lag_s` ago."""
        now = self.clock.now()
        if not self.faults.read_lag_s:
            return self.exchange.ledger.snapshot()
        self.note_view(now)
        seen = [view for at, _, view in self._views if at <= now - self.faults.read_lag_s]
        return seen[-1] if seen else self._views[0][2]

    def note_view(self, now: float) -> None:
        """While reads lag, keep what the portfolio looks like; to be called after every change."""
        if not self.faults.read_lag_s:
            self._views.clear()
            return
        version = self.exchange.ledger.version
        if not self._views or self._views[-1][1] != version:
            self._views.append((now, version, self.exchange.ledger.snapshot()))

    # Order entry with its record

    def place(self, order: NewOrder) -> OrderRecord:
        """Place an order and keep what became of it for the ledger."""
        now = self.clock.now()
        outcome, record = "accepted", None
        try:
            record = self.exchange.orders.place(order, now)
        except Refused as refused:
            outcome = refused.code
            raise
        finally:
            self._submissions.append(
                Submission(
                    at=now,
                    client_order_id=order.client_order_id,
                    ticker=order.ticker,
                    side=order.side.value,
                    count=count_text(order.count),
                    price=price_text(order.price),
                    reduce_only=order.reduce_only,
                    outcome=outcome,
                    fill_count=count_text(record.fill_count) if record else "0.00",
                    order_id=record.order_id if record else "",
                )
            )
            self.note_view(now)
        return record

    def note_malformed(self, body: Mapping[str, object], refused: Refused) -> None:
        """Keep an order for the ledger that was refused before it could be read."""
        fields = {
            name: str(body.get(name, "")) for name in ("client_order_id", "ticker", "side", "count", "price")
        }
        is_reduce_only = body.get("reduce_only") is True
        self._submissions.append(
            Submission(self.clock.now(), **fields, reduce_only=is_reduce_only, outcome=refused.code)
        )

    # Control

    def note_request(self, endpoint: str) -> None:
        self._requests.append((self.clock.now(), endpoint))

    def ledger(self) -> dict[str, object]:
        """Everything a test or a rehearsal wants to know about what was done."""
        ledger = self.exchange.ledger
        requests: dict[str, list[float]] = {}
        for at, endpoint in self._requests:
            requests.setdefault(endpoint, []).append(at)
        return {
            "now": self.clock.now(),
            "balance": dollars_text(ledger.balance),
            "positions": {
                p.ticker: {
                    "count": count_text(p.count),
                    "cost": dollars_text(p.cost),
                    "realized_pnl": dollars_text(p.realized_pnl),
                    "fees_paid": dollars_text(p.fees_paid),
                    "is_settled": p.is_settled,
                }
                for p in ledger.positions.values()
            },
            "orders": [
                {
                    "order_id": o.order_id,
                    "client_order_id": o.client_order_id,
                    "ticker": o.ticker,
                    "side": o.side.value,
                    "price": price_text(o.price),
                    "status": o.status.value,
                    "initial_count": count_text(o.initial_count),
                    "fill_count": count_text(o.fill_count),
                    "fees": dollars_text(o.fees),
                    "reason": o.reason.value,
                    "at": o.created_at,
                }
                for o in ledger.orders.values()
            ],
            "submissions": [
                {name: getattr(s, name) for name in Submission.__slots__} for s in self._submissions
            ],
            "fills": [
                {
                    "trade_id": f.trade_id,
                    "order_id": f.order_id,
                    "client_order_id": f.client_order_id,
                    "ticker": f.ticker,
                    "side": f.side.value,
                    "count": count_text(f.count),
                    "yes_price": price_text(f.yes_price),
                    "fee": dollars_text(f.fee),
                    "post_position": count_text(f.post_position),
                    "at": f.at,
                }
                for f in ledger.fills
            ],
            "settlements": [
                {
                    "ticker": s.ticker,
                    "result": s.result.value,
                    "count": count_text(s.count),
                    "revenue": dollars_text(s.revenue),
                    "at": s.at,
                }
                for s in ledger.settlements
            ],
            "markets": {m.ticker: m.status.value for m in self.exchange.markets.values()},
            "requests": {
                endpoint: {"count": len(times), "times": times} for endpoint, times in requests.items()
            },
        }

    def set_market(self, ticker: str, body: Mapping[str, object]) -> None:
        """Set a market's quote, status or end; from a set quote on, participants leave it alone."""
        known = {"bid", "ask", "bid_size", "ask_size", "status", "close_in_s", "result"}
        _refuse_unknown(body, known)
        now = self.clock.now()
        if ticker not in self.exchange.markets:
            raise not_found()
        if body.get("result") is not None:
            self._fix_result(ticker, _outcome(body, "result"))
        if {"bid", "ask", "bid_size", "ask_size"} & set(body):
            self._set_quote(ticker, body, now)
        match body.get("status"):
            case None:
                pass
            case "active":
                self.exchange.resume(ticker, now)
            case "inactive":
                self.exchange.pause(ticker, now)
            case "closed":
                self.exchange.set_close_time(ticker, now, now)
            case _:
                raise BadControlRequest("status must be active, inactive or closed")
        close_in_s = body.get("close_in_s")
        if close_in_s is not None:
            if isinstance(close_in_s, bool) or not isinstance(close_in_s, int | float) or close_in_s < 0:
                raise BadControlRequest("close_in_s must be a number of seconds")
            self.exchange.set_close_time(ticker, now + close_in_s, now)
        self.exchange.advance(now)

    def _fix_result(self, ticker: str, result: OutcomeSide) -> None:
        paid = [m.ticker for m in self.exchange.rivals(ticker) if m.result is OutcomeSide.YES]
        if paid and result is OutcomeSide.YES:
            raise BadControlRequest(f"{paid[0]} has ended yes, and at most one market of its event can")
        self.exchange.fix_result(ticker, result)

    def _set_quote(self, ticker: str, body: Mapping[str, object], now: float) -> None:
        market = self.exchange.market(ticker)
        top = market.top()
        bid = _number(body, "bid", top.yes_bid)
        ask = _number(body, "ask", top.yes_ask)
        if bid > ONE or ask > ONE or ZERO < ask <= bid:
            raise BadControlRequest("bid and ask must be prices from 0 to 1, the ask above the bid")
        for price in (bid, ask):
            if ZERO < price < ONE and not market.is_on_grid(price):
                raise BadControlRequest(f"{price} is not on this market's grid {market.spec.grid_name}")
        bid_size = _number(body, "bid_size", top.yes_bid_size or Decimal(100))
        ask_size = _number(body, "ask_size", top.yes_ask_size or Decimal(100))
        self._participants.leave(ticker)
        grid = market.spec.grid
        self.exchange.set_quotes(ticker, *ladders(grid, bid, ask, bid_size, ask_size, Decimal(100)), now)

    def add_position(self, body: Mapping[str, object]) -> None:
        """Credit a position as if bought by hand: {"ticker", "side", "count", "price"}."""
        _refuse_unknown(body, {"ticker", "side", "count", "price"})
        ticker = str(body.get("ticker", ""))
        if ticker not in self.exchange.markets:
            raise not_found()
        count, price = _number(body, "count", Decimal(10)), _number(body, "price", Decimal("0.50"))
        if count <= 0 or not ZERO < price < ONE:
            raise BadControlRequest("count must be above 0 and price between 0 and 1")
        now = self.clock.now()
        self.exchange.orders.credit(ticker, _outcome(body, "side"), count, price, now)
        self.note_view(now)

    def set_faults(self, request: FaultRequest) -> None:
        """Break what the request names; an empty one mends everything."""
        now, faults, limits = self.clock.now(), self.faults, self.exchange.orders.limits
        if request.is_clear:
            self.faults = Faults()
            limits.max_fill_per_order, limits.zero_fill_orders = None, 0
            self.exchange.exchange_active = self.exchange.trading_active = True
            self.exchange.shard_states, self.exchange.shard_balances = {}, {}
            for market in self.exchange.markets.values():
                if market.status is MarketStatus.INACTIVE:
                    self.exchange.resume(market.ticker, now)
            return
        if request.refuse_ws_for_s is not None:
            faults.refuse_ws_until = now + request.refuse_ws_for_s
            faults.refuse_ws_status = request.refuse_ws_status
        if request.silent_s is not None:
            faults.silent_until = now + request.silent_s
        if request.mute_tickers is not None:
            muted = request.mute_tickers
            faults.muted_tickers = (
                (None if muted else frozenset()) if isinstance(muted, bool) else frozenset(muted)
            )
        faults.drop_acks = _given(request.drop_acks, faults.drop_acks)
        faults.drop_book_frames = _given(request.drop_book_frames, faults.drop_book_frames)
        faults.latency_s = _given(request.latency_s, faults.latency_s)
        faults.read_lag_s = _given(request.read_lag_s, faults.read_lag_s)
        faults.auth = _given(request.auth, faults.auth)
        faults.is_gone = _given(request.gone, faults.is_gone)
        faults.on_disconnect = _given(request.on_disconnect, faults.on_disconnect)
        if request.maintenance_windows is not None:
            faults.maintenance_windows = tuple((now + a, now + b) for a, b in request.maintenance_windows)
        faults.has_date = _given(request.date, faults.has_date)
        if request.attestation_ends_in_s is not None:
            faults.attestation_ends_at = now + request.attestation_ends_in_s
        if request.calls is not None:
            faults.calls = list(request.calls)
        limits.max_fill_per_order = _given(request.max_fill_per_order, limits.max_fill_per_order)
        limits.zero_fill_orders = _given(request.zero_fill_orders, limits.zero_fill_orders)
        self._set_trading(request, now)
        self.note_view(now)
        if request.garbage_frames:
            self.send_garbage(request.garbage_frames)
        if request.cut_sockets:
            self.cut_sockets()

    def _set_trading(self, request: FaultRequest, now: float) -> None:
        exchange = self.exchange
        exchange.exchange_active = _given(request.exchange_active, exchange.exchange_active)
        exchange.trading_active = _given(request.trading_active, exchange.trading_active)
        exchange.shard_states |= request.shard_active or {}
        exchange.shard_balances |= request.shard_balance or {}
        if request.pause_market is not None:
            exchange.pause(request.pause_market, now)
        if request.resume_market is not None:
            exchange.resume(request.resume_market, now)


def _given(value: _T | None, otherwise: _T) -> _T:
    return otherwise if value is None else value


def _refuse_unknown(body: Mapping[str, object], known: set[str]) -> None:
    unknown = sorted(set(body) - known)
    if unknown:
        raise BadControlRequest(f"unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")


def _number(body: Mapping[str, object], name: str, default: Decimal) -> Decimal:
    value = body.get(name)
    if value is None:
        return default
    try:
        number = Decimal(value) if isinstance(value, str) else None
    except InvalidOperation:
        number = None
    if number is None or not number.is_finite() or number < 0:
        raise BadControlRequest(f'{name} must be a decimal string, like "0.45"')
    return number


def _outcome(body: Mapping[str, object], name: str) -> OutcomeSide:
    value = body.get(name)
    if value not in ("yes", "no"):
        raise BadControlRequest(f"{name} must be yes or no")
    return OutcomeSide(value)
