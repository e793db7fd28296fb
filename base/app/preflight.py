"""The command `check`: everything that the daemon will need is tried, one line a finding, a remedy beside it.

This machine first (`preflight_machine.py`), then the exchange and the account, the stream
(`preflight_feed.py`), what is held (`preflight_held.py`), and whether the answers still have the fields that
the decoders need. Nothing is sent but reads, nothing is left behind, and nothing is waited for without end.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TextIO
from urllib.parse import urlsplit

from base.app.config import Config, Environment, TradingMode
from base.app.drift import REMEDY, read_pages
from base.app.exchange import BASIC_READ, BASIC_WRITE
from base.app.findings import Finding, Verdict, summary
from base.app.preflight_account import (
    AccountExchange,
    check_key,
    check_limits,
    check_own_limits,
    check_skew,
    check_status,
    judge_refusal,
)
from base.app.preflight_bounds import bounded, resolve
from base.app.preflight_codes import Code, fail, ok, warn
from base.app.preflight_feed import FeedLook, LookAtFeed, judge_feed, look_at_feed
from base.app.preflight_held import HeldExchange, check_held, check_resting, read_held
from base.app.preflight_machine import Machine, check_machine
from base.app.rules import read_rules
from base.app.sandbox_process import EmbeddedSandbox, SandboxAddress
from base.clock import Clock, SystemClock
from base.errors import BotError, ConfigError
from base.kalshi.account_documents import Balance, ExchangeStatus
from base.kalshi.needed_fields import Examination, examine_ticker
from base.kalshi.rate_limit import RateLimiter
from base.kalshi.rest_client import RestClient
from base.kalshi.server_clock import ServerClock
from base.kalshi.signing import Signer, load_signer
from base.model.market import MarketStatus
from base.model.position import Position
from base.risk.rule_book import RuleBook

NAMES_MAX = 10
MACHINE_S_MAX = 20.0
EXCHANGE_S_MAX = 90.0
"""So long a finding may be waited for; every request has a deadline of its own, which is shorter."""
AGAIN = "run check again in a minute"


class Exchange(HeldExchange, AccountExchange, Protocol):
    """What the checks ask; `RestClient` has it."""

    def get_exchange_status(self) -> ExchangeStatus: ...
    def get_balance(self) -> Balance: ...
    def get_document(self, path: str, params: Mapping[str, str]) -> dict[str, Any]: ...


Connect = Callable[[str, Signer, Clock, ServerClock], Exchange]
Resolve = Callable[[str], None]
StartSandbox = Callable[[Clock], AbstractContextManager[SandboxAddress]]


def connect(rest_url: str, signer: Signer, clock: Clock, server_clock: ServerClock) -> Exchange:
    """The real exchange, or whatever answers at that address."""
    limiter = RateLimiter(clock, BASIC_READ, BASIC_WRITE)
    return RestClient(rest_url, signer, clock, server_clock, limiter)


@contextmanager
def temporary_sandbox(clock: Clock) -> Iterator[SandboxAddress]:
    """A sandbox for the checks alone: it touches nothing that a running daemon's own one uses."""
    with TemporaryDirectory(prefix="backstop-check-") as directory:
        sandbox = EmbeddedSandbox(Path(directory), clock)
        try:
            yield sandbox.start()
        finally:
            sandbox.stop()


def run_checks(
    config: Config,
    out: TextIO,
    *,
    connect: Connect = connect,
    resolve: Resolve = resolve,
    start_sandbox: StartSandbox = temporary_sandbox,
    clock: Clock | None = None,
    machine: Machine | None = None,
    look_at_feed: LookAtFeed = look_at_feed,
    machine_s_max: float = MACHINE_S_MAX,
    exchange_s_max: float = EXCHANGE_S_MAX,
) -> int:
    """Print every finding as it comes, and what they come to; return 0 when none failed, else 5.

    Raises ConfigError, before the first of them.
    """
    book, signer = _read_files(config)
    check = _Check(connect, resolve, start_sandbox, clock or SystemClock(), look_at_feed)
    width = shutil.get_terminal_size().columns if out.isatty() else None
    findings: list[Finding] = []

    def tell(found: Iterator[Finding]) -> None:
        for finding in found:
            findings.append(finding)
            print(finding if width is None else finding.wrapped(width), file=out, flush=True)

    tell(_about_configuration(config, book))
    tell(bounded("this machine", lambda: check_machine(config, machine or Machine()), machine_s_max))
    tell(bounded("the exchange", lambda: check.find(config, book, signer), exchange_s_max))
    last = summary(findings)
    print(f"\n{last if width is None else textwrap.fill(last, width)}", file=out, flush=True)
    return 5 if any(finding.verdict is Verdict.FAIL for finding in findings) else 0


def _read_files(config: Config) -> tuple[RuleBook, Signer | None]:
    """The rules, and the key, which the embedded sandbox brings itself.

    Raises ConfigError with the problems of both.
    """
    problems: list[str] = []
    book, signer = RuleBook.empty(config.default_rule), None
    try:
        book = read_rules(config.rules_file, config.default_rule)
    except ConfigError as exc:
        problems += exc.problems
    try:
        if config.private_key_path is not None and not config.runs_embedded_sandbox:
            signer = load_signer(config.api_key_id, config.private_key_path)
    except ConfigError as exc:
        problems += exc.problems
    if problems:
        raise ConfigError(problems)
    return book, signer


def _about_configuration(config: Config, book: RuleBook) -> Iterator[Finding]:
    is_paper = config.effective_trading_mode is TradingMode.PAPER
    orders = "PAPER orders (simulated, none leaves this machine)" if is_paper else "live orders"
    yield ok(Code.CONFIGURATION, f"configuration: {config.env} exchange, {orders}, {_rules_text(book)}")
    for warning in config.warnings:
        what, _, command = warning.partition("; run: ")
        remedy = f"`{command}`" if command else "see what .env.example says of it"
        yield warn(Code.CONFIGURATION_ODD, f"configuration: {what}", remedy)


class _Check:
    """One look at the exchange, with what it is handed."""

    def __init__(
        self,
        connect: Connect,
        resolve: Resolve,
        start_sandbox: StartSandbox,
        clock: Clock,
        look_at_feed: LookAtFeed,
    ) -> None:
        self._connect = connect
        self._resolve = resolve
        self._start_sandbox = start_sandbox
        self._clock = clock
        self._look_at_feed = look_at_feed

    def find(self, config: Config, book: RuleBook, signer: Signer | None) -> Iterator[Finding]:
        """Every finding, in the order in which a failure makes the later ones pointless."""
        if signer is not None:
            yield from self._check_exchange(config, book, signer)
            return
        yield ok(
            Code.SANDBOX, "sandbox: a local exchange that `run` starts itself; one is started for this check"
        )
        try:
            with self._start_sandbox(self._clock) as at:
                running = config.with_exchange(at.rest_url, at.ws_url, at.key_id, at.key_file)
                yield from self._check_exchange(running, book, load_signer(at.key_id, at.key_file))
        except ConfigError as exc:
            what, _, remedy = str(exc).partition("; ")
            yield fail(Code.SANDBOX_DEAD, f"sandbox: {what}", remedy)

    def _check_exchange(self, config: Config, book: RuleBook, signer: Signer) -> Iterator[Finding]:
        assert config.rest_url is not None, "only a sandbox that does not run yet has no address"
        yield ok(Code.KEY_FILE, f"key file: {signer.algorithm}, signs and verifies")
        unknown = self._check_name(config.rest_url)
        if unknown is not None:
            yield unknown
            return
        server_clock = ServerClock(self._clock)
        exchange = self._connect(config.rest_url, signer, self._clock, server_clock)
        try:
            status = exchange.get_exchange_status()
        except BotError as exc:
            remedy = "check the network (`curl -I https://kalshi.com`) and status.kalshi.com"
            if config.env is Environment.SANDBOX:
                remedy = "see that it runs (`python run_bot.py sandbox`) and prints this address"
            yield fail(
                Code.CONNECTION_FAILED,
                f"connection to {config.rest_url}: {exc}",
                f"{remedy}; nothing further was checked",
            )
            return
        yield check_status(status, config.rest_url)
        yield check_skew(server_clock.observed_offset_s)
        try:
            balance = exchange.get_balance()
        except BotError as exc:
            yield judge_refusal(exc, config)
            return
        yield ok(Code.CREDENTIALS, f"credentials: accepted, {balance.available:.2f} dollars available")
        yield from _guarded(
            Code.KEY_UNKNOWN, "API key", lambda: check_key(exchange, config, self._clock.now())
        )
        yield from self._check_account(config, book, signer, server_clock, exchange, status, balance)

    def _check_name(self, url: str) -> Finding | None:
        """Why the exchange's host has no address; None when it has one."""
        host = urlsplit(url).hostname or ""
        what, remedy = f"connection: the address of {host} is not known", f"check DNS: `getent hosts {host}`"
        try:
            self._resolve(host)
        except TimeoutError as exc:
            return fail(Code.NAME_SLOW, f"{what} ({exc})", f"{remedy}; nothing further was checked")
        except OSError as exc:
            why = exc.strerror or exc
            return fail(Code.NAME_UNKNOWN, f"{what} ({why})", f"{remedy}; nothing further was checked")
        return None

    def _check_account(
        self,
        config: Config,
        book: RuleBook,
        signer: Signer,
        server_clock: ServerClock,
        exchange: Exchange,
        status: ExchangeStatus,
        balance: Balance,
    ) -> Iterator[Finding]:
        """What is held and can be done with it, once the key is known to be good."""
        positions: list[Position] = []
        try:
            positions, unreadable = read_held(exchange)
        except BotError as exc:
            yield fail(Code.POSITIONS_UNKNOWN, f"positions: not known ({exc})", AGAIN)
        else:
            yield from unreadable
            yield from _guarded(
                Code.PRICES_UNKNOWN,
                "positions: their prices are",
                lambda: check_held(exchange, positions, config, book, self._clock.now(), status, balance),
                Verdict.FAIL,
            )
        yield from _guarded(
            Code.RESTING_UNKNOWN, "resting orders", lambda: check_resting(exchange, positions)
        )
        yield from _guarded(
            Code.TIER_UNKNOWN, "account limits", lambda: check_limits(exchange, len(positions))
        )
        yield from check_own_limits(config, balance, positions)
        yield from _guarded(
            Code.FIELDS_UNKNOWN,
            "fields",
            lambda: self._check_stream_and_fields(exchange, config, signer, server_clock, positions),
        )

    def _check_stream_and_fields(
        self,
        exchange: Exchange,
        config: Config,
        signer: Signer,
        server_clock: ServerClock,
        positions: Sequence[Position],
    ) -> Iterator[Finding]:
        """The stream with a market that is held, else with any open one; then the raw answers. Raises
        BotError."""
        held = exchange.get_markets([p.ticker for p in positions]) if positions else []
        active = [s.market.ticker for s in held if s.market.status is MarketStatus.ACTIVE]
        pages, listed = read_pages(exchange.get_document, active)
        if config.websocket_enabled:
            ticker = listed[0] if listed else ""
            look: FeedLook = self._look_at_feed(config, signer, self._clock, server_clock, ticker)
            yield judge_feed(look, config, ticker)
            if look.sample is not None:
                pages = [*pages, examine_ticker(look.sample)]
        else:
            yield warn(
                Code.FEED_OFF,
                "feed: switched off (WEBSOCKET_ENABLED)",
                f"prices come through REST and may be {config.price_stale_after_s:g} s old; "
                "set `WEBSOCKET_ENABLED=yes`",
            )
        for page in pages:
            yield from _judge_fields(page)


def _rules_text(book: RuleBook) -> str:
    count = len(book.entries)
    return f"{count} rule{'s' if count > 1 else ''} beside the defaults" if count else "default rules"


def _guarded(
    code: Code, what: str, check: Callable[[], Iterator[Finding]], verdict: Verdict = Verdict.WARN
) -> Iterator[Finding]:
    """The findings of one check; when the exchange does not answer it, that is the finding."""
    try:
        yield from check()
    except BotError as exc:
        yield Finding(verdict, f"{what}{'' if what.endswith(' are') else ':'} not known ({exc})", AGAIN, code)


def _judge_fields(found: Examination) -> Iterator[Finding]:
    """Whether an answer has what the decoders need."""
    if not found.rows:
        yield ok(Code.FIELDS_NOTHING, f"fields: {found.source}: nothing there to look at")
        return
    for drift in found.drifts:
        yield fail(
            Code.FIELD_CHANGED,
            f"fields: {drift}: {drift.effect}",
            f"{REMEDY}; run protects and opens nothing",
        )
    if not found.drifts:
        new = sorted({n.field + (f"={n.value}" if n.value else "") for n in found.news})
        more = f"; new and not used: {', '.join(new[:NAMES_MAX])}" if new else ""
        yield ok(Code.FIELDS, f"fields: {found.source} has all that is needed{more}")
