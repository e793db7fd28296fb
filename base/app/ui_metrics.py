"""The UI metrics thread: one document of what is true now, and one summary line a minute.

Coverage comes first everywhere: of the open positions, how many are protected right now, and why not the
others. The document is the contract's `/api/status`; the page, `/healthz`, `/metrics` and the summary
line all read it.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import Any

from base.app.services import PeriodicService
from base.app.ui_coverage import HeldDoubt, tell_coverage
from base.app.ui_history import StatusHistory
from base.app.ui_money import DayMoney, money_text, unrealized_of
from base.clock import Clock
from base.execution.episode import EpisodeState
from base.execution.exits import EpisodeView
from base.kalshi.feed import FeedStatus
from base.kalshi.rate_limit import RequestCounts
from base.log import log_event
from base.model.order import EntryOrder
from base.model.position import Position
from base.model.rules import Evaluation, Hold
from base.model.schedule import Pause
from base.risk.coverage import NOT_COUNTED, summarize
from base.risk.rule_memory import HistoryRow
from base.risk.stop_loss import CheckedPosition
from base.risk.trading_state import TradingState
from base.store.day_results import Ledger

logger = logging.getLogger(__name__)

VERSION = "0.1.0"
SUMMARY_EVERY_S = 60.0
EXITS_SHOWN = 50
ORDERS_SHOWN = 200
UNHEALTHY_AFTER_S = 5.0
EXIT_S_MAX = 5.0
"""An exit that takes longer than this from its trigger is named in `/healthz`."""


class Phase(StrEnum):
    """Where in the life of the program a thread is looked at."""

    RUNNING = "running"
    STARTING = "starting"
    """It need not have begun yet."""
    STOPPING = "stopping"
    """All have been asked to end, in order."""


@dataclass(frozen=True, slots=True)
class ThreadHealth:
    """One thread: `last_pass_age_s` is None before its first pass; `late_after_s` bounds it."""

    alive: bool
    last_pass_age_s: float | None
    late_after_s: float
    phase: Phase = Phase.RUNNING

    @property
    def is_on_time(self) -> bool:
        return self.alive and self.last_pass_age_s is not None and self.last_pass_age_s <= self.late_after_s

    @property
    def state(self) -> str:
        """In a word, good or bad."""
        if self.is_on_time:
            return "on time"
        if self.phase is Phase.STARTING:
            return "starting"
        if self.phase is Phase.STOPPING and not self.alive:
            return "stopped"
        return "late" if self.alive else "dead"


@dataclass(frozen=True, slots=True)
class StatusSources:
    """Where the document's parts come from; each is called without a lock held and must be quick."""

    env: str
    trading_mode: str
    positions: Callable[[], list[CheckedPosition]]
    exits: Callable[[], list[EpisodeView]]
    history: Callable[[str], list[HistoryRow] | None]
    feed: Callable[[], FeedStatus]
    rest: Callable[[], RequestCounts]
    ledger: Callable[[], Ledger]
    threads: Callable[[], Mapping[str, ThreadHealth]]
    trading_state: Callable[[], tuple[TradingState, str]]
    strategy: Callable[[], Mapping[str, Any]]
    doubts: Callable[[], list[str]]
    held_doubt: Callable[[], HeldDoubt] = HeldDoubt
    journal: Callable[[], Mapping[str, Any]] = dict
    next_pause: Callable[[], Pause | None] = lambda: None
    event_of: Callable[[str], str] = lambda ticker: ""
    """The event of a market, "" when it is not known: then it is read from the ticker."""
    rule_text: Callable[[Position], str] = lambda position: ""
    """What the rule in force means for a position, in words."""
    orders: Callable[[], list[EntryOrder]] = list
    """Orders of the strategy that may still fill."""
    key_ends_at: Callable[[], float | None] = lambda: None
    """The end of the key's location attestation, wall time; None when it is not known."""
    alerts: Callable[[], Mapping[str, Any]] = dict
    dead_man: Callable[[], Mapping[str, Any]] = dict
    budget: Callable[[], Mapping[str, tuple[float, float]]] = dict
    """Of each bucket of requests: tokens left, and its size."""


class StatusBoard:
    """Builds the document at most once an interval and hands it out; thread-safe."""

    def __init__(self, sources: StatusSources, interval_s: float, clock: Clock) -> None:
        self._sources = sources
        self._interval_s = interval_s
        self._clock = clock
        self._started_at = clock.now()
        self._started_monotonic = clock.monotonic()
        self._last_summary = clock.monotonic()
        self._history = StatusHistory(clock)
        # Owned by the thread `ui-metrics`.
        self._unwell_since: dict[str, float] = {}
        self._told_unwell: set[str] = set()
        self.service = PeriodicService("ui-metrics", interval_s, self.run_once, clock)
        self._lock = threading.Lock()  # guards the fields below; never held while building
        self._document: dict[str, Any] = {}
        self._built_at: float | None = None

    def run_once(self) -> None:
        """Build the document anew; once a minute, say it in a line."""
        document = self._build()
        now = self._clock.monotonic()
        with self._lock:
            self._document, self._built_at = document, now
        self._history.sample(document)
        self._tell_health(document["health"]["reasons"], now)
        if now - self._last_summary >= SUMMARY_EVERY_S:
            self._last_summary = now
            log_summary(document)

    def _tell_health(self, reasons: list[str], now: float) -> None:
        """Say what has been unwell for `UNHEALTHY_AFTER_S`, once for each reason, and when all is well again.

        A strategy that never returns, for instance, cannot say so itself.
        """
        kinds = {_kind(reason): reason for reason in reasons}
        self._unwell_since = {kind: self._unwell_since.get(kind, now) for kind in kinds}
        lasting = {k for k, since in self._unwell_since.items() if now - since >= UNHEALTHY_AFTER_S}
        for kind in sorted(lasting - self._told_unwell):
            log_event(logger, logging.WARNING, "unhealthy", why=kinds[kind])
        if self._told_unwell and not reasons:
            log_event(logger, logging.INFO, "healthy")
        self._told_unwell = (self._told_unwell & kinds.keys()) | lasting

    def document(self) -> dict[str, Any]:
        """The current document, never older than an interval: a reader builds it when the thread is late."""
        now = self._clock.monotonic()
        with self._lock:
            if self._built_at is not None and now - self._built_at <= self._interval_s * 1.5:
                return self._document
        document = self._build()
        with self._lock:
            self._document, self._built_at = document, now
        return document

    def latest(self) -> dict[str, Any]:
        """The document of this very moment, for what must not be a second old."""
        return self._build()

    def history(self) -> dict[str, Any]:
        """What the page draws: the last minutes of each position, and the money of the day."""
        return self._history.document()

    def exits_of(self, ticker: str) -> list[dict[str, Any]]:
        """The exits of one position that are remembered, also of a run before this one, oldest first."""
        return [_exit(e) for e in self._sources.exits() if e.ticker == ticker]

    def explain(self, ticker: str) -> list[dict[str, Any]] | None:
        """The last evaluations of one position, oldest first, the last with its rule and whether it is still
        held; None when nothing is known of it."""
        rows = self._sources.history(ticker)
        if not rows:
            return None if rows is None else []
        held = {c.position.ticker: c.position for c in self._sources.positions()}.get(ticker)
        rule = "" if held is None else self._sources.rule_text(held)
        told = [_explain_row(r) for r in rows]
        told[-1] |= {"is_held": held is not None, "rule": rule}
        return told

    def _build(self) -> dict[str, Any]:
        s = self._sources
        checked = s.positions()
        coverage = summarize((c.position.ticker, c.protection) for c in checked)
        feed = s.feed()
        rest = s.rest()
        ledger = s.ledger()
        threads = s.threads()
        state, why = s.trading_state()
        strategy = s.strategy()
        money = DayMoney(ledger, checked, s.event_of)
        reasons = [f"{ticker} unprotected: {reason}" for ticker, reason in coverage.unprotected]
        reasons = [
            r for r, c in zip(reasons, coverage.unprotected, strict=True) if c[1] not in NOT_COUNTED
        ]  # left unprotected on purpose is shown, not alarmed
        for name, health in threads.items():
            if health.state not in ("on time", "stopped"):
                reasons.append(f"thread {name} is {health.state}")
        exits = s.exits()
        for episode in exits:
            age_s = self._clock.now() - episode.opened_at
            if episode.state == EpisodeState.BLOCKED.value:
                reasons.append(f"exit of {episode.ticker} is blocked: {episode.why}")
            elif episode.state != EpisodeState.CLOSED.value and age_s > EXIT_S_MAX:
                reasons.append(f"exit of {episode.ticker} is {episode.state} since {age_s:.0f} s")
        reasons += s.doubts()
        return {
            "version": VERSION,
            "env": s.env,
            "trading_mode": s.trading_mode,
            "trading_state": state.value,
            "trading_state_why": why,
            "started_at": _iso(self._started_at),
            "at": _iso(self._clock.now()),
            "ui_interval_s": self._interval_s,
            "uptime_s": round(self._clock.monotonic() - self._started_monotonic, 1),
            "health": {"ok": not reasons, "reasons": reasons},
            "coverage": tell_coverage(coverage, s.held_doubt()),
            "feed": _feed(feed),
            "rest": {
                "reads_last_60s": rest.reads,
                "writes_last_60s": rest.writes,
                "price_reads_last_60s": rest.price_reads,
                "rate_limited_last_60s": rest.rate_limited,
                "budget": {
                    name: {"tokens": round(left, 1), "capacity": size}
                    for name, (left, size) in s.budget().items()
                },
            },
            "threads": {
                name: {
                    "alive": h.alive,
                    "last_pass_age_s": _seconds(h.last_pass_age_s),
                    "on_time": h.is_on_time,
                    "state": h.state,
                }
                for name, h in threads.items()
            },
            "strategy": dict(strategy),
            "journal": dict(s.journal()),
            "key": {"attestation_ends_at": None if (end := s.key_ends_at()) is None else _iso(end)},
            "alerts": dict(s.alerts()),
            "dead_man": dict(s.dead_man()),
            "next_pause": _pause(s.next_pause()),
            "positions": [
                _position(c) | money.of_position(c) | {"rule": s.rule_text(c.position)} for c in checked
            ],
            "exits": [_exit(e) for e in _shown(exits)],
            "orders": [_order(o) for o in s.orders()[:ORDERS_SHOWN]],
            "pnl": money.document(),
        }


def _kind(reason: str) -> str:
    """A reason without the numbers in it, which may grow from second to second."""
    return re.sub(r"\b[0-9]+(\.[0-9]+)?\b", "n", reason)


def log_summary(document: Mapping[str, Any]) -> None:
    """The line a minute for somebody who tails the log at night: coverage first."""
    coverage, feed, rest, pnl = (document[k] for k in ("coverage", "feed", "rest", "pnl"))
    active = sum(e["state"] != "closed" for e in document["exits"])
    log_event(
        logger,
        logging.INFO,
        "summary",
        protected=f"{coverage['protected']}/{coverage['open']}" if coverage["known"] else "?",
        mode="PAPER" if document["trading_mode"] == "paper" else document["env"],
        healthy="yes" if document["health"]["ok"] else "NO",
        unprotected=",".join(f"{u['ticker']}:{u['reason']}" for u in coverage["unprotected"]) or None,
        state=document["trading_state"],
        feed=feed["state"],
        confirmed=f"{feed['markets_confirmed']}/{feed['markets_required']}",
        exits_active=active,
        price_reads=rest["price_reads_last_60s"],
        unrealized=round(Decimal(pnl["unrealized"]), 2),
        realized_today=round(Decimal(pnl["realized_today"]), 2),
        why="; ".join(document["health"]["reasons"][:3]) or None,
    )


def _shown(exits: list[EpisodeView]) -> list[EpisodeView]:
    """The last ones, and every one that still goes on."""
    last = {e.id for e in exits[-EXITS_SHOWN:]}
    return [e for e in exits if e.id in last or e.state != EpisodeState.CLOSED.value]


def _order(order: EntryOrder) -> dict[str, Any]:
    return {
        "client_order_id": order.client_order_id,
        "ticker": order.ticker,
        "outcome_side": order.outcome_side.value,
        "count": f"{order.count:.2f}",
        "filled": f"{order.filled:.2f}",
        "price": _price(order.price),
        "state": order.state.value,
        "strategy": order.strategy,
        "placed_at": _iso(order.placed_at),
        "expires_at": None if order.expires_at is None else _iso(order.expires_at),
        "why": order.why,
    }


def _pause(pause: Pause | None) -> dict[str, Any] | None:
    if pause is None:
        return None
    return {"starts_at": _iso(pause.start), "ends_at": _iso(pause.end), "why": pause.why.value}


def _feed(feed: FeedStatus) -> dict[str, Any]:
    return {
        "state": feed.state.value,
        "connected_for_s": _seconds(feed.connected_for_s),
        "last_frame_age_s": _seconds(feed.last_frame_age_s),
        "reconnects": feed.reconnects,
        "markets_required": len(feed.required),
        "markets_confirmed": len(feed.confirmed),
        "messages": feed.messages,
        "malformed": feed.malformed,
        "unknown_types": feed.unknown_types,
        "last_error": feed.last_error,
    }


def _position(c: CheckedPosition) -> dict[str, Any]:
    p, e = c.position, c.evaluation
    value = e.exit_value if e is not None else None
    unrealized = unrealized_of(c)
    source = {"snapshot": "ws"}.get(c.price_source, c.price_source)
    return {
        "ticker": p.ticker,
        "title": c.market.title,
        "outcome_side": p.outcome_side.value,
        "count": f"{p.count:.2f}",
        "entry_price": _price(p.entry_price),
        "exit_value": _price(value),
        "price_age_s": _seconds(c.price_age_s),
        "price_source": source,
        "market_status": c.market.status.value
        if c.protection.open
        else (c.protection.reason or c.market.status.value),
        "unrealized_pnl": None if unrealized is None else money_text(unrealized),
        "stop_price": _price(e.stop_price if e is not None else None),
        "take_profit_price": _price(e.take_profit_price if e is not None else None),
        "protected": c.protection.protected,
        "reason": c.protection.reason,
        "decision": _why(e) if e is not None else "",
        "detail": e.decision.detail if e is not None else "",
    }


def _exit(e: EpisodeView) -> dict[str, Any]:
    return {
        "episode": e.id,
        "ticker": e.ticker,
        "reason": e.reason,
        "state": e.state,
        "trigger_price": _price(e.trigger_price),
        "filled": f"{e.filled:.2f}",
        "average_price": _price(e.average_price),
        "fees": money_text(e.fees),
        "attempts": e.attempts,
        "why": e.why,
        "opened_at": _iso(e.opened_at),
        "closed_at": None if e.closed_at is None else _iso(e.closed_at),
        "timeline": {
            "triggered": e.opened_at,
            "sent": e.sent_at,
            "filled": e.filled_at,
            "closed": e.closed_at,
        },
    }


def _explain_row(row: HistoryRow) -> dict[str, Any]:
    e, p = row.evaluation, row.position
    return {
        "at": e.at if row.since is None else row.since,
        "last_at": e.at,
        "outcome_side": None if p is None else p.outcome_side.value,
        "count": None if p is None else f"{p.count:.2f}",
        "entry_price": None if p is None else _price(p.entry_price),
        "exit_value": _price(e.exit_value),
        "bid_size": None if e.bid_size is None else f"{e.bid_size:.2f}",
        "price_age_s": _seconds(e.price_age_s),
        "price_source": e.price_source,
        "decision": "hold" if isinstance(e.decision, Hold) else "exit",
        "why": _why(e),
        "detail": e.decision.detail,
        "stop_price": _price(e.stop_price),
        "take_profit_price": _price(e.take_profit_price),
        "stop_basis": e.stop_basis,
        "take_profit_basis": e.take_profit_basis,
        "guards": e.guards,
        "repeats": row.repeats,
    }


def _why(e: Evaluation) -> str:
    return e.decision.why.value if isinstance(e.decision, Hold) else e.decision.reason.value


def _price(price: Decimal | None) -> str | None:
    """At least four decimals, as the exchange writes prices; more where an average needs them."""
    if price is None:
        return None
    exact = price.quantize(Decimal("0.000001"), ROUND_HALF_UP)
    short = price.quantize(Decimal("0.0001"), ROUND_HALF_UP)
    return str(short if short == exact else exact)


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _iso(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
