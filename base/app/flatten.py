"""`flatten`: close what is held with only the key, whether the daemon runs or not.

Every order is reduce-only and immediate-or-cancel, sized from a fresh read, so that running it again, or
beside the daemon's own exits, sells nothing twice; two runs at once are one too many. It first blocks
entries: a running daemon with the same STATE_DIR sees the mark and only reduces until it is removed. Then
entries that rest are canceled, and what is held is read anew.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from decimal import Decimal
from typing import TextIO

from base.app.config import Config, Environment, TradingMode
from base.app.exchange import Exchange, open_exchange
from base.app.flatten_entries import RestingOrders
from base.app.foreign_orders import FLATTEN_ID_PREFIX
from base.app.instance_lock import InstanceLock
from base.app.live_gateway import LiveGateway
from base.app.progress import ProgressBar
from base.app.sandbox_process import running_sandbox
from base.clock import Clock, SystemClock
from base.errors import AlreadyRunningError, BotError, ConfigError, ExitCode
from base.execution.exits import ExitDesk, ExitOrder
from base.execution.gateway import PriceView
from base.kalshi.rate_limit import Lane
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.model.position import Position
from base.model.rules import ExitReason
from base.store.journal import Journal
from base.store.portfolio import NO_TICKER, Portfolio
from base.store.records import Remembered

DEADLINE_S = 60.0
"""How long positions may take to go; what is left then is named, and the command can be run again."""
CHECK_S = 0.5
READ_SPACING_S = 0.25
ENTRIES_BLOCKED_FILE = "entries-blocked"


def main(config: Config, ticker: str | None, yes: bool) -> int:
    """Run the command; return its exit code. Raises BotError when the exchange cannot be read."""
    if config.effective_trading_mode is TradingMode.PAPER:
        print(
            "TRADING_MODE is paper: no order leaves this machine, and flatten would close real positions "
            "of the account; set TRADING_MODE=live to do that",
            file=sys.stderr,
        )
        return ExitCode.FAILED
    if config.runs_embedded_sandbox:
        address = running_sandbox(config.state_dir)
        if address is None:
            print("no sandbox is running in this STATE_DIR: start it with `run`", file=sys.stderr)
            return ExitCode.FAILED
        config = config.with_exchange(address.rest_url, address.ws_url, address.key_id, address.key_file)
    clock = SystemClock()
    with _alone(config.api_key_id), _journal(config, clock) as journal:
        flatten = Flatten(config, open_exchange(config, clock), clock, sys.stdout, _ask, journal)
        return flatten.run(ticker, asks=not yes)


@contextmanager
def _journal(config: Config, clock: Clock) -> Iterator[Journal | None]:
    """A record of this command's own orders, so that one that was killed and is run again sells nothing
    twice; None where the disk takes none: that must keep nothing from being closed."""
    key = hashlib.sha256(config.api_key_id.encode()).hexdigest()[:8]
    path = config.state_dir / f"journal-flatten-{config.env.value}-{key}.sqlite"
    try:
        config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        begins_anew = config.runs_embedded_sandbox
        journal = Journal.open(path, clock, account=path.stem, fresh=begins_anew)
    except (OSError, ConfigError) as exc:
        print(f"orders are not written down: {exc}", file=sys.stderr)
        yield None
        return
    journal.start()
    try:
        yield journal
    finally:
        journal.stop()
        journal.join(2.0)


@contextmanager
def _alone(api_key_id: str) -> Iterator[None]:
    """One `flatten` of a key at a time: who presses the panic button twice must not sell twice. Raises
    AlreadyRunningError."""
    lock = InstanceLock(f"flatten:{api_key_id}")
    try:
        lock.acquire()
    except AlreadyRunningError as exc:
        raise AlreadyRunningError("another flatten with this key is at work: let it finish") from exc
    except ConfigError as exc:
        # Nothing may keep it from closing, least of all a directory for locks.
        print(f"two runs at once are not prevented: {exc}", file=sys.stderr)
    try:
        yield
    finally:
        lock.release()


def _ask(question: str) -> bool:
    if not sys.stdin.isatty():
        print("not a terminal: say --yes to close without being asked", file=sys.stderr)
        return False
    return input(question).strip().lower() in ("y", "yes")


class Flatten:
    """One run of the command."""

    def __init__(
        self,
        config: Config,
        exchange: Exchange,
        clock: Clock,
        out: TextIO,
        ask: Callable[[str], bool],
        journal: Journal | None,
        progress: TextIO | None = None,
    ) -> None:
        """`progress` is where a bar is shown, standard error when it is None."""
        self._progress = progress
        self._bar: ProgressBar | None = None
        self._config = config
        self._exchange = exchange
        self._clock = clock
        self._out = out
        self._ask = ask
        self._cache = WebsocketPriceCache(clock, config.price_stale_after_s)
        self._remembered = Remembered() if journal is None else journal.load()
        self._portfolio = Portfolio(clock, journal, config.trading_timezone)
        self._portfolio.restore(self._remembered)
        self._asked_for: str | None = None  # one market, None for all
        self._unreadable: set[str] = set()
        self._wanted = threading.Event()
        self._desk = ExitDesk(
            LiveGateway(exchange.rest, exchange.open_order_connection, self._cache, clock),
            self._portfolio,
            self._price_of,
            self._wanted.set,
            clock,
            new_id=lambda: f"{FLATTEN_ID_PREFIX}{uuid.uuid4().hex[:20]}",
            recorder=journal,
        )

    def run(self, ticker: str | None, *, asks: bool) -> int:
        self._asked_for = ticker
        held = self._read_open()
        resting = RestingOrders(self._exchange, self._clock, self._say, ticker)
        resting.tell()
        if not held and resting.is_known and not resting.own:
            return self._code(is_done=True)
        for position in held.values():
            self._say(f"{position.ticker}: {position.count} {position.outcome_side.value.upper()}")
        canceling = f", after canceling {len(resting.own)} resting order(s)" if resting.own else ""
        whose = "the sandbox" if self._config.env is Environment.SANDBOX else self._config.env.value.upper()
        question = f"Close {len(held)} position(s) on {whose} at what the book pays now{canceling}? [y/N] "
        if asks and not self._ask(question):
            self._say("nothing was closed")
            return ExitCode.FAILED
        self._block_entries()
        are_gone = resting.cancel_own()
        if resting.own:
            held = self._with_bought(held)
        left = self._close(held)
        return self._code(is_done=are_gone and not left)

    def _code(self, *, is_done: bool) -> ExitCode:
        """What it comes to; who was told "nothing is held" of rows that nobody could read is not flat."""
        if self._unreadable:
            rows = ", ".join(sorted(self._unreadable))
            self._say(
                f"NOT FLAT as far as is known: {rows} could not be read; close by hand on the exchange's "
                "site, and look for a newer version of this program"
            )
        return ExitCode.OK if is_done and not self._unreadable else ExitCode.FAILED

    def _read_open(self) -> dict[str, Position]:
        """What is held and can still be sold, priced; the rest is named."""
        held = self._read()
        if not held:
            readable = " that can be read" if self._unreadable else ""
            self._say(f"nothing{readable} is held" + (f" in {self._asked_for}" if self._asked_for else ""))
            return held
        self._cache.require(held, held)
        self._exchange.read_prices(sorted(held), self._cache)
        for waiting in [t for t in held if not self._can_trade(t)]:
            self._say(f"{waiting}: waits for settlement, no order can leave it")
            del held[waiting]
        return held

    def _with_bought(self, held: Mapping[str, Position]) -> dict[str, Position]:
        """What was held, and what entries have bought until they were gone."""
        try:
            return {**held, **self._read_open()}
        except BotError as exc:
            self._say(f"what was bought meanwhile could not be read, run flatten again: {exc}")
            return dict(held)

    def _close(self, held: Mapping[str, Position]) -> dict[str, Position]:
        """Close, and say what became of each; return what is left."""
        asked = tuple(e for e in self._remembered.episodes if e.ticker in held)
        self._desk.resume(replace(self._remembered, episodes=asked))  # what a killed run has left
        self._desk.start()
        with ProgressBar("positions flat", len(held), self._progress) as self._bar:
            left = self._close_all(held)
        self._bar = None
        self._desk.stop(5.0)
        for gone in sorted(held.keys() - left.keys() - self._unreadable):
            self._say(f"{gone}: flat")
        for position in left.values():
            why = next((v.why for v in reversed(self._desk.views()) if v.ticker == position.ticker), "")
            self._say(
                f"{position.ticker}: {position.count} still held ({why or 'not filled'}); run flatten again"
            )
        return left

    def _close_all(self, held: Mapping[str, Position]) -> dict[str, Position]:
        """Close until a complete read shows nothing of `held`, or the time is up; return what is left."""
        never = threading.Event()
        give_up_at = self._clock.monotonic() + DEADLINE_S
        left = dict(held)
        while True:
            self._show_flat(len(held) - len(left))
            for position in left.values():
                self._start(position)
            self._clock.wait(self._wanted, CHECK_S)
            is_doubted = self._wanted.is_set()
            self._wanted.clear()
            is_at_work = any(self._desk.is_active(t) for t in left)
            if is_at_work and not is_doubted and self._clock.monotonic() < give_up_at:
                continue
            self._clock.wait(never, READ_SPACING_S)
            try:
                left = {t: p for t, p in self._read().items() if t in held and self._can_trade(t)}
            except BotError as exc:
                self._say(f"positions could not be read: {exc}")
            if (not left and not is_at_work) or self._clock.monotonic() >= give_up_at:
                return left

    def _show_flat(self, count: int) -> None:
        if self._bar is not None:
            self._bar.show(count)

    def _can_trade(self, ticker: str) -> bool:
        view = self._price_of(ticker)
        return view is None or view.market.status_at(self._clock.now()).can_still_trade

    def _start(self, position: Position) -> None:
        view = self._price_of(position.ticker)
        value = view.quote.best_bid(position.outcome_side) if view is not None and view.quote else Decimal(0)
        self._desk.trigger(
            ExitOrder(position.ticker, ExitReason.FLATTEN, value, None, self._config.exit_floor_dollars)
        )

    def _read(self) -> dict[str, Position]:
        started_at = self._clock.monotonic()
        read = self._exchange.read_held(Lane.EXIT)
        # A row without its ticker may be the one that is meant.
        concerned = {t for t in read.unreadable if self._asked_for in (None, t) or t == NO_TICKER}
        for unreadable in sorted(concerned - self._unreadable):
            self._say(f"{unreadable}: its row cannot be read, so it is left alone")
        self._unreadable |= concerned
        self._portfolio.apply_read(read.positions, started_at, is_whole=not read.unreadable)
        return {t: p for t, p in read.positions.items() if self._asked_for in (None, t)}

    def _price_of(self, ticker: str) -> PriceView | None:
        entry = self._cache.get(ticker)
        if entry is None:
            return None
        return PriceView(entry.market, entry.quote, entry.age_s(self._clock.monotonic()), False)

    def _block_entries(self) -> None:
        mark = self._config.state_dir / ENTRIES_BLOCKED_FILE
        try:
            self._config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(fd, "w") as file:
                file.write("written by flatten: the daemon opens nothing until this file is removed\n")
        except OSError as exc:
            # A full disk must not keep anything from being closed.
            self._say(
                f"entries could not be blocked ({exc.strerror or exc}): stop a daemon that may open more"
            )
            return
        self._say(f"entries are blocked until {mark} is removed")

    def _say(self, text: str) -> None:
        with nullcontext() if self._bar is None else self._bar.aside():
            print(text, file=self._out, flush=True)
