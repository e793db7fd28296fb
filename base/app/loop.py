"""The daemon: wiring, start order, the main strategy loop, stop order, exit code.

Main runs the strategy; the thread `supervisor` owns everything else about staying alive: signals, the
watch over threads and feed, the trading state, and the order of stopping. It ends the process in time
even when a strategy never returns.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import queue
import random
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any

from base.app.account import Account, Adoption, MarketDirectory
from base.app.alert_rules import Sender
from base.app.alerts import Alerts, open_notifiers
from base.app.config import Config, Environment, TradingMode, describe
from base.app.config_values import authority
from base.app.crash_stacks import write_crash_stacks
from base.app.deadman import DeadMan
from base.app.drift import DriftCanary
from base.app.exchange import Exchange, open_exchange
from base.app.flatten import ENTRIES_BLOCKED_FILE
from base.app.instance_lock import InstanceLock
from base.app.instruments import Instruments
from base.app.key_watch import KeyWatch
from base.app.last_run import EndMark, LastRun
from base.app.live_gateway import LiveGateway
from base.app.logging_setup import configure_logging, register_key_file, register_secret
from base.app.openings import Openings, Surroundings
from base.app.pauses import PauseWatch
from base.app.price_reads import PriceReads
from base.app.reload import reload
from base.app.rules import RulesInForce
from base.app.sandbox_process import EmbeddedSandbox
from base.app.services import PeriodicService
from base.app.strategy_loading import check_strategy_name
from base.app.supervisor import Supervisor, Watched
from base.app.systemd import ServiceManager
from base.app.ui_coverage import HeldDoubt, doubt_held
from base.app.ui_metrics import StatusBoard, StatusSources, ThreadHealth, log_summary
from base.clock import Clock, SystemClock
from base.errors import BotError, ConfigError, ExitCode
from base.execution.exits import ExitDesk, ended_view
from base.execution.gateway import PriceView
from base.execution.paper import SETTLE_S, STEP_S, PaperGateway
from base.kalshi.feed import FeedSettings, NoFeed
from base.kalshi.websocket_client import WebsocketClient
from base.kalshi.websocket_price_cache import WebsocketPriceCache
from base.log import log_event
from base.risk.limits import Limits
from base.risk.rule_book import describe_rule
from base.risk.stop_loss import CheckerSettings, StopLossChecker
from base.store.journal import Journal
from base.store.portfolio import HeldRead, Portfolio
from base.ui.metrics import render_metrics
from base.ui.server import UiServer

logger = logging.getLogger(__name__)

EXITS_STOP_S = 5.0
HUNG_S = 60.0
"""So long one pass of a thread that works on demand may take before it counts as late."""
STOP_S = 8.0
"""So long exits are finished, and resting orders canceled beside them, before the rest is stopped."""
HALTED_FILE = "halted"
"""The kill switch: while this file is in STATE_DIR, nothing is sent, exits neither."""
LEAKY_ENVIRONMENT = (
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "NETRC",
    "SSLKEYLOGFILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "WEBSOCKET_CLIENT_CA_BUNDLE",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
"""Variables by which libraries would send signed headers elsewhere or trust other certificates."""


def run_daemon(config: Config) -> int:
    """Run until SIGTERM or SIGINT; return the exit code. Raises ConfigError and AlreadyRunningError."""
    marks = {"mode": "PAPER"} if config.effective_trading_mode is TradingMode.PAPER else {}
    configure_logging(config.log_level.value, config.log_format.value, config.log_file, marks=marks)
    ignored = [name for name in LEAKY_ENVIRONMENT if os.environ.pop(name, None) is not None]
    if ignored:
        log_event(logger, logging.INFO, "environment_ignored", names=ignored)
    make_state_dir(config.state_dir)
    write_crash_stacks(config.log_file)
    # A thread that computes gives way after 0.5 ms instead of 5: measured, the age of a price acted on
    # beside a busy strategy falls from milliseconds to a third of one.
    sys.setswitchinterval(0.0005)
    clock = SystemClock()
    sandbox: EmbeddedSandbox | None = None
    try:
        if config.runs_embedded_sandbox:
            sandbox_lock = InstanceLock(f"sandbox:{config.state_dir.resolve()}")
            sandbox_lock.acquire()
            sandbox = EmbeddedSandbox(config.state_dir, clock)
            address = sandbox.start()
            config = config.with_exchange(address.rest_url, address.ws_url, address.key_id, address.key_file)
        register_secret(config.api_key_id)
        register_key_file(config.private_key_path)
        with InstanceLock(config.api_key_id):
            path = journal_path(config)
            end_mark = EndMark(path.with_suffix(".ended"), had_run=path.exists())
            return Daemon(config, clock, open_journal(config, clock), end_mark).run()
    finally:
        if sandbox is not None:
            sandbox.stop()


def make_state_dir(path: Path) -> None:
    """Raise ConfigError where the directory cannot be made."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(
            [f"STATE_DIR={path}: {exc.strerror or exc}; name a directory that can be made and written"]
        ) from exc


def journal_path(config: Config) -> Path:
    """One file an account and mode: what is simulated never mixes with what is real."""
    key = hashlib.sha256(config.api_key_id.encode()).hexdigest()[:8]  # the name must not tell the key
    mode = config.effective_trading_mode.value
    return config.state_dir / f"journal-{config.env.value}-{mode}-{key}.sqlite"


def open_journal(config: Config, clock: Clock) -> Journal:
    """Open the record of this account. Raises ConfigError where it cannot be written.

    The embedded sandbox's account begins anew with each start, and so does its journal.
    """
    path = journal_path(config)
    return Journal.open(path, clock, account=path.stem, fresh=config.runs_embedded_sandbox)


class Daemon:
    """One run from start to stop. `run` is called on the main thread."""

    def __init__(self, config: Config, clock: Clock, journal: Journal, end_mark: EndMark) -> None:
        self._config = config
        self._clock = clock
        self._journal = journal
        self._end_mark = end_mark
        self._before = LastRun.NONE
        self._remembered = journal.load()
        self._ended_before = [ended_view(record) for record in self._remembered.ended]
        check_strategy_name(config.strategy)  # it is loaded once protection runs
        self._rules = RulesInForce(config.rules_file, config.default_rule)
        self._stop = threading.Event()
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._signal_count = 0
        self._is_paper = config.effective_trading_mode is TradingMode.PAPER
        self._instruments = Instruments()

        self._exchange: Exchange = open_exchange(config, clock)
        self._cache = WebsocketPriceCache(clock, config.price_stale_after_s)
        self._portfolio = Portfolio(
            clock, journal, config.trading_timezone, is_listed_elsewhere=not self._is_paper
        )
        self._portfolio.restore(self._remembered)
        self._adoption = Adoption(
            self._rules.rule_of, lambda: self._exchange.tickers_entered(), adopts=config.adopt_positions
        )
        self._paper = self._open_paper_account() if self._is_paper else None
        self._gateway: PaperGateway | LiveGateway = self._paper or LiveGateway(
            self._exchange.rest, self._exchange.open_order_connection, self._cache, clock
        )
        self._build_threads()

    def _open_paper_account(self) -> PaperGateway:
        return PaperGateway(
            self._price_view,
            self._read_prices,
            self._clock,
            self._journal,
            self._remembered,
            latency_s=self._config.paper_latency_ms / 1000,
        )

    def _build_threads(self) -> None:
        config, clock = self._config, self._clock
        self._reads = PriceReads(self._read_prices, self._cache, self._is_confirmed, self._suspect, clock)
        self._feed: WebsocketClient | NoFeed = NoFeed()
        directory_feed = _LateFeed()
        self._directory = MarketDirectory(
            self._portfolio,
            self._cache,
            directory_feed,
            clock,
            needed=lambda: () if self._paper is None else self._paper.needed_tickers,
        )
        self._account = Account(
            self._portfolio,
            self._directory,
            self._read_positions,
            self._reads.request,
            config.reconcile_interval_s,
            clock,
            is_paper=self._is_paper,
            after_read=self._remember_own_positions,
            history=self._exchange,
            zone=config.trading_timezone,
        )
        if config.websocket_enabled:
            assert config.ws_url is not None, "set together with the REST URL"
            self._feed = WebsocketClient(
                FeedSettings(
                    url=config.ws_url,
                    silent_after_s=config.feed_silent_after_s,
                    reconnect_delay_initial_s=config.reconnect_delay_initial_s,
                    reconnect_delay_max_s=config.reconnect_delay_max_s,
                    orderbook_feed=config.orderbook_feed,
                ),
                self._exchange.sign_now,
                self._exchange.server_clock,
                self._cache,
                self._account,
                clock,
                random.Random(),
            )
        directory_feed.target = self._feed
        self._pauses = PauseWatch(
            self._exchange.rest.get_exchange_schedule,
            self._exposed,
            clock,
            has_weekly=config.env is not Environment.SANDBOX,  # which trades through the night
            is_held_known=lambda: self._portfolio.is_loaded,
        )
        self._drift = DriftCanary(
            self._exchange.rest.get_document,
            self._feed.ticker_samples,
            lambda: sorted(self._portfolio.positions()),
            lambda: self._feed.status().malformed,
            clock,
        )
        self._key_watch = KeyWatch(self._exchange.rest.get_api_keys, clock)
        # What is done behind everything else.
        self._late_services = [self._pauses.service, self._drift.service, self._key_watch.service]
        if self._account.books is not None:
            self._late_services.append(self._account.books.service)
        self._desk = ExitDesk(
            self._gateway,
            self._portfolio,
            self._price_view,
            self._account.service.wake,
            clock,
            recorder=self._journal,
            steps=config.exit_steps_through,
            may_send=self._may_exit,
            began=lambda ticker: self._openings.exit_began(ticker),
            measures=self._instruments,
        )
        self._openings = Openings(config, self._surroundings(), clock)
        self._late_services += self._openings.services
        self._checker = StopLossChecker(
            CheckerSettings(
                config.stop_loss_interval_s, config.price_stale_after_s, config.exit_floor_dollars
            ),
            self._cache,
            self._portfolio,
            self._feed,
            self._openings.rules(self._adoption.rule_of),
            self._desk,
            self._reads.request,
            self._directory.refresh,
            clock,
            self._journal,
            self._remembered.rule_states,
            resumed=self._remembered.episodes,
            halted=lambda: not self._may_exit(),
            key_refused=lambda: self._account.is_key_refused,
            others_quote=self._openings.others_quotes.quote_for,
            measures=self._instruments,
        )
        self._account.attach(
            self._desk,
            self._checker.sweep_soon,
            lambda i: self._desk.is_own(i) or self._openings.entries.is_own(i),
            self._openings,
        )
        if self._paper is not None:
            account = self._account
            self._paper.attach(account.simulated_fill, account.simulated_update, account.simulated_payout)
            self._late_services += [
                PeriodicService("paper", STEP_S, self._paper.run_once, clock),
                PeriodicService("paper-results", SETTLE_S, self._paper.settle_once, clock),
            ]
        self._supervisor = Supervisor(
            self._watched(),
            self._signals,
            self._reload,
            self._feed.enforce_liveness if isinstance(self._feed, WebsocketClient) else (lambda: None),
            self._portfolio,
            self._limits(),
            self._stop,
            self._shut_down,
            clock,
            entries_blocked=(config.state_dir / ENTRIES_BLOCKED_FILE).exists,
            journal_ok=lambda: self._journal.status().ok,
            api_trouble=lambda: self._drift.trouble(),
            halted=(config.state_dir / HALTED_FILE).exists,
            rules_changed=self._checker.sweep_soon,
            looked=lambda: self._service_manager.passed(),
            stopping=lambda: self._service_manager.stopping(),
        )
        self._service_manager = ServiceManager(
            os.environ,
            self._supervisor.late_threads,
            lambda: self._portfolio.is_loaded,
            self._service_summary,
            clock,
        )
        self._board = StatusBoard(self._sources(), config.ui_interval_s, clock)
        # Neither is among the threads that the supervisor watches: they never end a run.
        self._alerts = Alerts(
            open_notifiers(config.alert_urls),
            self._board.document,
            self._board.latest,
            self._desk.views,
            Sender(config.env.value, self._is_paper, socket.gethostname()),
            clock,
        )
        self._dead_man = DeadMan(config.deadman_url, config.deadman_interval_s, self._board.document, clock)
        self._server = UiServer(
            config.ui_host,
            config.ui_port,
            config.ui_token,
            self._board.document,
            self._board.explain,
            self._metrics,
            history=self._board.history,
            exits=self._board.exits_of,
        )

    def _limits(self) -> Limits:
        c = self._config
        return Limits(
            max_order_cost=c.max_order_cost_dollars,
            max_position_cost=c.max_position_cost_dollars,
            max_total_exposure=c.max_total_exposure_dollars,
            max_daily_loss=c.max_daily_loss_dollars,
            max_event_cost=c.max_event_cost_dollars,
            collar=c.entry_collar_dollars,
            entries_per_minute=c.max_entries_per_minute,
            min_time_left_s=c.entry_min_time_left_s,
        )

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            exchange=self._exchange,
            gateway=self._gateway,
            paper=self._paper,
            portfolio=self._portfolio,
            cache=self._cache,
            feed=self._feed,
            directory=self._directory,
            adoption=self._adoption,
            exits=self._desk,
            journal=self._journal,
            limits=self._limits(),
            trading_state=lambda: self._supervisor.trading_state()[0],
            price_of=self._price_view,
            request_reconcile=self._account.service.wake,
            next_pause_at=self._next_pause_at,
            sweep_soon=lambda: self._checker.sweep_soon(),
        )

    def _sources(self) -> StatusSources:
        return StatusSources(
            env=self._config.env.value,
            trading_mode=self._config.effective_trading_mode.value,
            positions=self._checker.checked_positions,
            exits=lambda: [*self._ended_before, *self._desk.views()],
            history=self._checker.history,
            feed=self._feed.status,
            rest=self._exchange.stats.counts,
            ledger=self._portfolio.ledger,
            threads=self._thread_health,
            trading_state=self._supervisor.trading_state,
            strategy=self._openings.status,
            doubts=self._doubts,
            held_doubt=self._held_doubt,
            journal=self._journal_status,
            next_pause=self._pauses.next_pause,
            event_of=self._event_of,
            rule_text=lambda p: describe_rule(self._adoption.rule_of(p.ticker), p),
            orders=lambda: list(self._openings.entries.orders().values()),
            key_ends_at=self._key_watch.ends_at,
            alerts=lambda: self._alerts.status(),
            dead_man=lambda: self._dead_man.status(),
            budget=self._budget,
        )

    def _reload(self) -> bool:
        return reload(self._config, self._rules, os.environ, Path.cwd())

    # --- views that several threads use -------------------------------------------------------------

    def _price_view(self, ticker: str) -> PriceView | None:
        entry = self._cache.get(ticker)
        if entry is None:
            return None
        yes_bids, no_bids = self._feed.depth(ticker)
        view = PriceView(
            entry.market,
            entry.quote,
            entry.age_s(self._clock.monotonic()),
            self._is_confirmed(ticker),
            yes_bids,
            no_bids,
        )
        return self._openings.others_quotes.view_for(view)

    def _event_of(self, ticker: str) -> str:
        entry = self._cache.get(ticker)
        return "" if entry is None else entry.market.event_ticker

    def _next_pause_at(self) -> float | None:
        pause = self._pauses.next_pause()
        return None if pause is None else pause.start

    def _may_exit(self) -> bool:
        return self._supervisor.trading_state()[0].may_exit

    def _is_confirmed(self, ticker: str) -> bool:
        return self._feed.is_confirmed(ticker)

    def _suspect(self, tickers: Sequence[str]) -> None:
        self._feed.suspect(tickers)

    def _read_prices(self, tickers: Sequence[str]) -> int:
        return self._exchange.read_prices(tickers, self._cache)

    def _read_positions(self) -> HeldRead:
        read = self._exchange.read_held()
        if self._paper is None:
            return read
        return replace(read, positions=self._paper.overlay(read.positions, is_whole=not read.unreadable))

    # --- the run ------------------------------------------------------------------------------------

    def run(self) -> int:
        """Start everything, run the strategy loop, and return when the supervisor has stopped it all."""
        for line in describe(self._config):
            log_event(logger, logging.DEBUG, "config", line=line)
        self._server.start()  # first: a port that is taken is a configuration error, said before anything
        self._install_signals()
        self._before = self._end_mark.take()
        log_event(
            logger,
            logging.WARNING if self._before.is_unexpected else logging.INFO,
            "started",
            env=self._config.env.value,
            trading_mode=self._config.effective_trading_mode.value,
            strategy=self._config.strategy,
            rest=self._config.rest_url,
            ui=f"http://{authority(self._config.ui_host, self._server.port)}/",
            pid=os.getpid(),
            why=self._before or None,
        )
        for warning in self._config.warnings:
            log_event(logger, logging.WARNING, "config_warning", text=warning)
        self._supervisor.start()
        # Protection first: the threads need nobody to have answered. The thread `reconcile` reads what is
        # held at once, and its positions are subscribed to and priced from then on.
        self._start_threads()
        self._exchange.seed_limits()
        self._make_strategy()
        self._install_signals()  # the user's module may have taken them
        self._openings.run(self._stop)
        return self._supervisor.wait_for_exit_code()

    def _make_strategy(self) -> None:
        """Raises ConfigError when all has stopped."""
        try:
            self._openings.make()
        except ConfigError:
            self._supervisor.stop_with(ExitCode.CONFIG)
            self._supervisor.wait_for_exit_code()
            raise

    def _remember_own_positions(self) -> None:
        """With ADOPT_POSITIONS=no, what this program opened before a restart is still its own."""
        if self._adoption.is_known:
            return
        try:
            self._adoption.remember()
        except BotError as exc:
            log_event(logger, logging.ERROR, "own_positions_unknown", why=exc)
        else:
            self._checker.sweep_soon()

    def _held_doubt(self) -> HeldDoubt:
        return doubt_held(
            is_loaded=self._portfolio.is_loaded,
            unseen=self._portfolio.unseen,
            unreadable=self._account.unreadable,
        )

    def _doubts(self) -> list[str]:
        doubts = ["the daemon is stopping"] if self._stop.is_set() else []
        doubts += self._account.doubts() + self._openings.doubts() + self._drift.doubts()
        if self._paper is not None:
            doubts += self._paper.doubts()
        journal = self._journal.status()
        if not journal.ok:
            doubts.append(f"the journal cannot be written: {journal.why}")
        doubts += [f"the rules file was refused, the rules before it hold: {p}" for p in self._rules.refused]
        if not self._adoption.is_known:
            doubts.append("which positions are this program's own is not known yet (ADOPT_POSITIONS=no)")
        return doubts

    def _start_threads(self) -> None:
        if self._stop.is_set():
            return
        self._journal.start()
        self._desk.resume(self._remembered)  # before anything new can be triggered
        self._openings.resume(self._remembered)
        self._desk.start()
        if isinstance(self._feed, WebsocketClient):
            self._feed.start()
        self._reads.service.start()
        self._checker.start()
        self._account.service.start()
        for service in self._late_services:
            service.start()
        self._board.service.start()
        self._alerts.start(f"the daemon has started, strategy {self._config.strategy}", self._before)
        self._dead_man.start()
        self._supervisor.watch_threads()
        gc.collect()
        gc.freeze()  # what start-up made lives as long as the process: collections need not look at it

    def _install_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Runs on main between two bytecodes: only a reentrant queue is touched here."""
        if number != signal.SIGHUP:
            self._signal_count += 1
            if self._signal_count > 1:
                os._exit(4)  # the user insists
        self._signals.put(number)

    # --- what others are told ------------------------------------------------------------------------

    def _exposed(self) -> list[tuple[str, Decimal]]:
        """What could be sold if trading goes on, and what that is worth, in dollars."""
        exposed = []
        for checked in self._checker.checked_positions():
            if checked.protection.open:
                value = checked.evaluation.exit_value if checked.evaluation is not None else None
                price = checked.position.entry_price if value is None else value
                exposed.append((checked.position.ticker, checked.position.count * price))
        return exposed

    def _service_summary(self) -> str:
        """The line that `systemctl status` shows."""
        coverage = self._checker.coverage()
        words = [
            "PAPER" if self._is_paper else self._config.env.value,
            "protected ?" if self._held_doubt().why else f"protected {coverage.protected}/{coverage.open}",
            f"feed {self._feed.status().state.value}",
            f"state {self._supervisor.trading_state()[0].value}",
        ]
        missing = [f"{ticker}:{why}" for ticker, why in coverage.unprotected[:5]]
        return ", ".join(words + ([f"UNPROTECTED {' '.join(missing)}"] if missing else []))

    def _budget(self) -> dict[str, tuple[float, float]]:
        now = self._exchange.limiter.snapshot()
        return {
            "read": (now.read.tokens, now.read.quota.capacity),
            "write": (now.write.tokens, now.write.quota.capacity),
        }

    def _metrics(self) -> bytes:
        services = (self._account.service, self._reads.service, self._board.service, *self._late_services)
        passes = {service.name: service.passes for service in services} | {"stop-loss": self._checker.passes}
        measured = self._instruments.measurements(
            self._exchange.stats, self._exchange.limiter.snapshot(), passes
        )
        return render_metrics(self._board.document(), measured)

    def _journal_status(self) -> dict[str, Any]:
        status = self._journal.status()
        return {
            "ok": status.ok,
            "why": status.why,
            "waiting": status.waiting,
            "commits": status.commits,
            "last_commit_ms": round(status.last_commit_ms, 2),
            "size_bytes": status.size_bytes,
        }

    # --- supervision --------------------------------------------------------------------------------

    def _watched(self) -> list[Watched]:
        """The threads that the supervisor looks after; a late one counts against `/healthz`."""
        c = self._config
        watched = [
            Watched(
                "stop-loss",
                lambda: self._checker.is_alive,
                lambda: self._checker.last_pass_at,
                self._checker.start,
                3 * c.stop_loss_interval_s + 1.0,
            ),
            Watched(
                "ui-metrics",
                lambda: self._board.service.is_alive,
                lambda: self._board.service.last_pass_at,
                lambda: self._board.service.start(),
                3 * c.ui_interval_s + 2.0,
                lambda: self._board.service.last_end_at,
            ),
            Watched(
                "reconcile",
                lambda: self._account.service.is_alive,
                lambda: self._account.service.last_pass_at,
                self._account.service.start,
                3 * c.reconcile_interval_s + 15.0,
                lambda: self._account.service.last_end_at,
            ),
            Watched("exits", lambda: self._desk.is_alive, None, self._desk.start, 0.0),
            Watched("journal", lambda: self._journal.is_alive, None, self._journal.start, 0.0),
            *(_on_demand(service) for service in self._late_services),
            Watched(
                "price-reads",
                lambda: self._reads.service.is_alive,
                None,
                self._reads.service.start,
                0.0,
            ),
        ]
        if c.websocket_enabled:
            feed = self._feed
            assert isinstance(feed, WebsocketClient)
            watched.append(
                Watched(
                    "websocket",
                    lambda: feed.is_alive,
                    lambda: feed.last_pass_at,
                    feed.start,
                    c.reconnect_delay_max_s + 30.0,
                )
            )
        return watched

    def _thread_health(self) -> dict[str, ThreadHealth]:
        threads = {
            "strategy-loop": self._openings.health(),
            "websocket": ThreadHealth(False, None, 0.0),
        }
        if not self._config.websocket_enabled:
            del threads["websocket"]
        threads |= self._supervisor.thread_health()
        for service in (self._reads.service, *self._late_services):
            threads[service.name] = ThreadHealth(service.is_alive, service.running_s(), HUNG_S)
        alerts = self._alerts.health()
        if alerts is not None:
            threads["alerts"] = alerts
        return self._supervisor.in_phase(threads)

    def _shut_down(self) -> bool:
        """Stop in order, no new risk first; return whether everything ended in time.

        Main leaves its loop by the stop event. What rests is canceled and exits in flight are finished
        while the feed and the reads still run.
        """
        give_up_at = self._clock.monotonic() + STOP_S
        self._openings.begin_stop()
        finished = self._desk.stop(timeout_s=EXITS_STOP_S)
        is_clear = self._openings.stop(max(0.5, give_up_at - self._clock.monotonic()))
        last_status = self._board.latest()  # with what the last exits sold, and before the feed is gone
        self._dead_man.service.stop()
        self._alerts.stop(self._supervisor.exit_code)  # sends beside what follows
        if self._paper is not None:
            self._paper.stop()
        self._checker.stop()
        self._account.service.stop()
        for service in self._late_services:
            service.stop()
        self._reads.service.stop()
        if isinstance(self._feed, WebsocketClient):
            self._feed.stop()
        self._board.service.stop()
        in_time = self._checker.join(1.0)
        services = (self._account.service, self._reads.service, self._board.service, *self._late_services)
        for service in services:
            service.join(0.3)
        if isinstance(self._feed, WebsocketClient):
            self._feed.join(0.5)
        self._journal.stop()
        self._journal.join(1.0)
        self._exchange.rest.close()
        log_summary(last_status)
        self._alerts.join()
        self._server.stop()
        self._server.join(0.5)
        self._end_mark.leave(self._supervisor.exit_code)
        return is_clear and finished and in_time


def _on_demand(service: PeriodicService) -> Watched:
    """A thread whose passes are far apart: only its death is trouble."""
    return Watched(service.name, lambda: service.is_alive, None, service.start, 0.0)


class _LateFeed:
    """The stream and what is told to it need each other; this one is filled in when both are there."""

    def __init__(self) -> None:
        self.target: WebsocketClient | NoFeed = NoFeed()

    def set_required(self, tickers: Iterable[str], held: Iterable[str]) -> None:
        self.target.set_required(tickers, held)
