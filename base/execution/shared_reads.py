"""Reads that many exits need at the same time, made once: lost orders looked up, pauses probed.

In an outage twenty orders are unknown at once; twenty exits asking the same list twenty times would take
the budget that prices and exits need. Each read remembers when it left; an exit takes a read that another
one has made if it left late enough for it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from base.clock import Clock
from base.errors import RequestRejected, TransientError, WireError
from base.execution.gateway import Gateway, OrderLookup, TradingShards
from base.execution.refusals import BlockedWhy, probe_delay_s

READ_ERRORS = (TransientError, RequestRejected, WireError)
SINCE_MARGIN_S = 60.0
"""Orders are asked for from so long before the oldest was written: the two clocks may differ."""


@dataclass(frozen=True, slots=True)
class LookupRead:
    """One read of our orders that left at monotonic `left_at`; `error` when it failed."""

    left_at: float
    asked: frozenset[str]
    lookup: OrderLookup | None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class ProbeRead:
    """One look at the paused markets and the exchange's status."""

    left_at: float
    asked: frozenset[str]
    shards: TradingShards | None
    error: Exception | None = None


class SharedReads:
    """Any thread may ask; while one asks the exchange, the others are told to come back."""

    def __init__(self, gateway: Gateway, clock: Clock) -> None:
        self._gateway = gateway
        self._clock = clock
        self._lock = threading.Lock()  # guards the fields below; never held during I/O
        self._unknown: dict[str, tuple[str, float]] = {}  # client order id -> (ticker, written at, wall)
        self._paused: set[str] = set()
        self._lookup: LookupRead | None = None
        self._probe: ProbeRead | None = None
        self._is_looking_up = False
        self._is_probing = False

    # --- lost orders --------------------------------------------------------------------------------

    def seek(self, client_order_id: str, ticker: str, written_at: float) -> None:
        """Include this order in look-ups from now on."""
        with self._lock:
            self._unknown[client_order_id] = (ticker, written_at)

    def settled(self, client_order_id: str) -> None:
        with self._lock:
            self._unknown.pop(client_order_id, None)

    def lookup(self, client_order_id: str, newer_than: float) -> LookupRead | None:
        """A read that left after `newer_than` (monotonic) and asked for this order; None while another
        thread is making one."""
        with self._lock:
            read = self._lookup
            if read is not None and read.left_at > newer_than and client_order_id in read.asked:
                return read
            if self._is_looking_up:
                return None
            self._is_looking_up = True
            wanted = dict(self._unknown)
        left_at = self._clock.monotonic()
        try:
            read = self._look_up(wanted, left_at)
        finally:
            with self._lock:
                self._is_looking_up = False
        with self._lock:
            self._lookup = read
        return read

    def _look_up(self, wanted: Mapping[str, tuple[str, float]], left_at: float) -> LookupRead:
        since = min((at for _, at in wanted.values()), default=self._clock.now()) - SINCE_MARGIN_S
        tickers = {client_order_id: ticker for client_order_id, (ticker, _) in wanted.items()}
        try:
            found = self._gateway.find_orders(tickers, since)
        except READ_ERRORS as exc:
            return LookupRead(left_at, frozenset(wanted), None, exc)
        return LookupRead(left_at, frozenset(wanted), found)

    # --- pauses -------------------------------------------------------------------------------------

    def paused(self, ticker: str, *, is_paused: bool) -> None:
        """Include this market in probes from now on, or no longer."""
        with self._lock:
            if is_paused:
                self._paused.add(ticker)
            else:
                self._paused.discard(ticker)

    def probe(self, ticker: str, newer_than: float) -> ProbeRead | None:
        """A look at this market and the exchange's status that left at or after `newer_than` (monotonic);
        None while another thread is making one."""
        with self._lock:
            read = self._probe
            if read is not None and read.left_at >= newer_than and ticker in read.asked:
                return read
            if self._is_probing:
                return None
            self._is_probing = True
            asked = frozenset({*self._paused, ticker})
        left_at = self._clock.monotonic()
        try:
            read = self._ask(asked, left_at)
        finally:
            with self._lock:
                self._is_probing = False
        with self._lock:
            self._probe = read
        return read

    def _ask(self, tickers: frozenset[str], left_at: float) -> ProbeRead:
        try:
            self._gateway.refresh_markets(sorted(tickers))
            shards = self._gateway.trading_shards()
        except READ_ERRORS as exc:
            return ProbeRead(left_at, tickers, None, exc)
        return ProbeRead(left_at, tickers, shards)


class Obstacle:
    """What every order of the account meets (a dead key, a retired endpoint): one exit probes, the others
    wait. Any thread may use it."""

    CLAIM_S = 6.0
    """Who probes has so long to come back with an answer before the next one may."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the fields below
        self._why: BlockedWhy | None = None
        self._probe_at = 0.0
        self._times = 0

    def met(self, why: BlockedWhy, delay_s: float, delay_s_max: float, now: float) -> float:
        """Note that it stands; return in how many seconds it is probed next."""
        with self._lock:
            self._times = self._times + 1 if self._why is why else 0
            self._why = why
            wait_s = probe_delay_s(delay_s, delay_s_max, self._times, is_patient=True)
            self._probe_at = now + wait_s
            return wait_s

    def waits(self, now: float) -> tuple[BlockedWhy, float] | None:
        """Why and for how many seconds to wait; None when nothing stands there, or when the caller is the
        one who probes it now."""
        with self._lock:
            if self._why is None:
                return None
            if now < self._probe_at:
                return self._why, self._probe_at - now
            self._probe_at = now + self.CLAIM_S
            return None

    @property
    def why(self) -> BlockedWhy | None:
        with self._lock:
            return self._why

    def gone(self) -> None:
        """An order was taken."""
        with self._lock:
            self._why = None
            self._times = 0
