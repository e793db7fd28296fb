"""The command `check`: everything that the daemon will need is tried, one line a finding, a remedy beside it.

This machine first (`preflight_machine.py`), then the exchange and the account, the stream
(`preflight_feed.py`), what is held (`preflight_held.py`), and whether the answers still have the fields that
the decoders need. Nothing is sent but reads, and nothing is left behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TextIO

from base.app.config import Config, TradingMode
from base.app.drift import REMEDY, read_pages
from base.app.exchange import BASIC_READ, BASIC_WRITE
from base.app.findings import Finding, Verdict, fail, ok, warn
from base.app.preflight_feed import FeedLook, LookAtFeed, judge_feed, look_at_feed
from base.app.preflight_held import HeldExchange, check_held, check_resting, read_held
from base.app.preflight_machine import Machine, check_machine
from base.app.rules import read_rules
from base.app.sandbox_process import EmbeddedSandbox, SandboxAddress
from base.clock import Clock, SystemClock
from base.errors import AuthError, BotError, ConfigError
from base.kalshi.account_documents import COST_DEFAULT, ApiKey, ApiKeys, Balance, ExchangeStatus
from base.kalshi.needed_fields import Examination, examine_ticker
from base.kalshi.rate_limit import AccountLimits, RateLimiter
from base.kalshi.rest_client import RestClient
from base.kalshi.server_clock import ServerClock
from base.kalshi.signing import Signer, load_signer
from base.model.market import ZERO, MarketStatus
from base.model.position import Position
from base.risk.rule_book import RuleBook
from base.risk.wording import dollars_text

SKEW_S_WARN = 2.5
"""The exchange's window is undocumented; 10 s were always accepted, 30 s mostly refused (recorded June and
October 2026). The `Date` header is good to half a second."""
SKEW_S_FAIL = 10.0
ATTESTATION_DAYS_WARN = 7
MASS_EXIT_S_WARN = 10.0
"""So long all that is held may take to leave before the tier is worth a warning."""
NAMES_MAX = 10


class Exchange(HeldExchange, Protocol):
    """What the checks ask; `RestClient` has it."""

    def get_exchange_status(self) -> ExchangeStatus: ...
    def get_balance(self) -> Balance: ...
    def get_account_limits(self) -> AccountLimits: ...
    def get_api_keys(self) -> ApiKeys: ...
    def get_document(self, path: str, params: Mapping[str, str]) -> dict[str, Any]: ...


Connect = Callable[[str, Signer, Clock, ServerClock], Exchange]
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
    start_sandbox: StartSandbox = temporary_sandbox,
    clock: Clock | None = None,
    machine: Machine | None = None,
    look_at_feed: LookAtFeed = look_at_feed,
) -> int:
    """Print every finding as it comes; return 0 when none failed, else 5. Raises ConfigError."""
    failed = False
    check = _Check(connect, start_sandbox, clock or SystemClock(), machine or Machine(), look_at_feed)
    for finding in check.find(config):
        print(finding, file=out, flush=True)
        failed = failed or finding.verdict is Verdict.FAIL
    return 5 if failed else 0


class _Check:
    """One run of the command, with what it is handed."""

    def __init__(
        self,
        connect: Connect,
        start_sandbox: StartSandbox,
        clock: Clock,
        machine: Machine,
        look_at_feed: LookAtFeed,
    ) -> None:
        self._connect = connect
        self._start_sandbox = start_sandbox
        self._clock = clock
        self._machine = machine
        self._look_at_feed = look_at_feed

    def find(self, config: Config) -> Iterator[Finding]:
        """Every finding, in the order in which a failure makes the later ones pointless."""
        book = read_rules(config.rules_file, config.default_rule)
        is_paper = config.effective_trading_mode is TradingMode.PAPER
        orders = "PAPER orders (simulated, none leaves this machine)" if is_paper else "live orders"
        yield ok(f"configuration: {config.env} exchange, {orders}, {_rules_text(book)}")
        yield from (Finding(Verdict.WARN, "configuration", warning) for warning in config.warnings)
        yield from check_machine(config, self._machine)
        if not config.runs_embedded_sandbox:
            yield from self._check_exchange(config, book)
            return
        yield ok("sandbox: a local exchange that `run` starts itself; one is started for this check")
        try:
            with self._start_sandbox(self._clock) as at:
                running = config.with_exchange(at.rest_url, at.ws_url, at.key_id, at.key_file)
                yield from self._check_exchange(running, book)
        except ConfigError as exc:
            yield from (Finding(Verdict.FAIL, "sandbox", problem) for problem in exc.problems)

    def _check_exchange(self, config: Config, book: RuleBook) -> Iterator[Finding]:
        assert config.rest_url is not None, "only a sandbox that does not run yet has no address"
        assert config.private_key_path is not None, "every exchange that has an address wants a key"
        signer = load_signer(config.api_key_id, config.private_key_path)
        yield ok(f"key file: {signer.algorithm}, signs and verifies")
        server_clock = ServerClock(self._clock)
        exchange = self._connect(config.rest_url, signer, self._clock, server_clock)
        try:
            status = exchange.get_exchange_status()
        except BotError as exc:
            remedy = "check the network and status.kalshi.com; nothing further was checked"
            yield fail(f"connection to {config.rest_url}: {exc}", remedy)
            return
        yield _check_status(status, config.rest_url)
        yield _check_skew(server_clock.observed_offset_s)
        try:
            balance = exchange.get_balance()
        except BotError as exc:
            yield fail(f"credentials: {exc}", _credentials_remedy(exc))
            return
        yield ok(f"credentials: accepted, {balance.available:.2f} dollars available")
        yield from _guarded("API key", lambda: _check_key(exchange, config, self._clock.now()))
        positions: list[Position] = []
        try:
            positions, unreadable = read_held(exchange)
        except BotError as exc:
            yield fail(f"positions: not known ({exc})", "run check again in a minute")
        else:
            yield from unreadable
            yield from _guarded(
                "positions",
                lambda: check_held(exchange, positions, config, book, self._clock.now(), status, balance),
                Verdict.FAIL,
            )
        yield from _guarded("resting orders", lambda: check_resting(exchange, positions))
        yield from _guarded("account limits", lambda: _check_limits(exchange, len(positions)))
        yield from _check_own_limits(config, balance, positions)
        yield from _guarded(
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
                "feed: switched off (WEBSOCKET_ENABLED)",
                f"prices come through REST and may be {config.price_stale_after_s:g} s old; switch it on",
            )
        for page in pages:
            yield from _judge_fields(page)


def _rules_text(book: RuleBook) -> str:
    return f"{len(book.entries)} rules beside the defaults" if book.entries else "default rules"


def _guarded(
    what: str, check: Callable[[], Iterator[Finding]], verdict: Verdict = Verdict.WARN
) -> Iterator[Finding]:
    """The findings of one check; when the exchange does not answer it, that is the finding."""
    try:
        yield from check()
    except BotError as exc:
        yield Finding(verdict, f"{what}: not known ({exc})", "run check again in a minute")


def _check_status(status: ExchangeStatus, rest_url: str) -> Finding:
    if status.exchange_active and status.trading_active:
        return ok(f"connection: {rest_url} is open and trades")
    return warn(
        f"connection: {rest_url} answers, trading is paused", "exits wait until it resumes; nothing to do"
    )


def _check_skew(offset_s: float | None) -> Finding:
    if offset_s is None:
        return warn("clock: the exchange told no time", "make sure that NTP runs")
    what = f"clock: {abs(offset_s):.1f} s {'behind' if offset_s > 0 else 'ahead of'} the exchange"
    if abs(offset_s) > SKEW_S_FAIL:
        return fail(what, "signatures will be refused; start NTP (timedatectl set-ntp true)")
    if abs(offset_s) > SKEW_S_WARN:
        return warn(what, "keep it within 2 s; start NTP (timedatectl set-ntp true)")
    return ok(what)


def _credentials_remedy(exc: BotError) -> str:
    if isinstance(exc, AuthError) and exc.code == "header_timestamp_expired":
        return "set this machine's clock (timedatectl set-ntp true)"
    if isinstance(exc, AuthError):
        return "KALSHI_API_KEY_ID and the key file must belong together and to this KALSHI_ENV"
    return "run check again in a minute; nothing further was checked"


def _check_limits(exchange: Exchange, positions: int) -> Iterator[Finding]:
    """What the account's tier allows, and how long everything that is held would take to leave."""
    limits = exchange.get_account_limits()
    write = limits.write.refill_per_s
    what = (
        f"account limits: tier {limits.usage_tier or 'unknown'}, {limits.read.refill_per_s:g} read and "
        f"{write:g} write tokens a second ({write / COST_DEFAULT:g} orders)"
    )
    mass_exit_s = max(0.0, positions * COST_DEFAULT - limits.write.capacity) / write
    if mass_exit_s > MASS_EXIT_S_WARN:
        yield warn(
            f"{what}: {positions} exits at once take {mass_exit_s:.0f} s",
            "ask the exchange for a higher tier, or hold fewer positions; the largest loss leaves first",
        )
        return
    yield ok(what)


def _check_own_limits(config: Config, balance: Balance, positions: Sequence[Position]) -> Iterator[Finding]:
    """Whether the limits on entries bound anything, and leave room for any. `guard` opens nothing."""
    if config.strategy == "guard":
        return
    cost = sum((p.cost for p in positions), ZERO)
    worth = balance.available + balance.portfolio_value
    order, position = config.max_order_cost_dollars, config.max_position_cost_dollars
    total, day = config.max_total_exposure_dollars, config.max_daily_loss_dollars
    findings = []
    if min(order, position, total, day, config.max_event_cost_dollars) <= ZERO:
        findings.append(
            warn("limits: one of them is 0: nothing is opened", "raise it, or use STRATEGY=guard")
        )
    elif cost >= total:
        findings.append(
            warn(
                f"limits: what is held has cost {dollars_text(cost)} dollars, "
                f"MAX_TOTAL_EXPOSURE_DOLLARS={total}: nothing is opened",
                "raise it, or hold less",
            )
        )
    if day >= worth:
        findings.append(
            warn(
                f"limits: MAX_DAILY_LOSS_DOLLARS={day}, and the account is worth {dollars_text(worth)}: "
                "it is lost before the limit is reached",
                "lower it to what may be lost in a day",
            )
        )
    if total >= worth:
        findings.append(
            warn(
                f"limits: MAX_TOTAL_EXPOSURE_DOLLARS={total}, and the account is worth "
                f"{dollars_text(worth)}: it limits nothing",
                "lower it to what may be at stake at once",
            )
        )
    if order > position or position > total:
        findings.append(
            warn(
                f"limits: an order may cost {order}, a position {position}, all together {total}: "
                "a limit above the next one is never reached",
                "let them grow in this order",
            )
        )
    yield from findings or [ok(f"limits: an order {order}, a position {position}, all {total} dollars")]


def _judge_fields(found: Examination) -> Iterator[Finding]:
    """Whether an answer has what the decoders need."""
    if not found.rows:
        yield ok(f"fields: {found.source}: nothing there to look at")
        return
    for drift in found.drifts:
        yield fail(f"fields: {drift}: {drift.effect}", f"{REMEDY}; run protects and opens nothing")
    if not found.drifts:
        new = sorted({n.field + (f"={n.value}" if n.value else "") for n in found.news})
        more = f"; new and not used: {', '.join(new[:NAMES_MAX])}" if new else ""
        yield ok(f"fields: {found.source} has all that is needed{more}")


def _check_key(exchange: Exchange, config: Config, now: float) -> Iterator[Finding]:
    keys = exchange.get_api_keys()
    key = next((key for key in keys.keys if key.key_id == config.api_key_id), None)
    if key is None:
        yield warn("API key: not in the account's list", "its scopes are not known")
    else:
        yield _check_scopes(key, config.effective_trading_mode)
    if keys.region_expiration_ts is not None:
        yield _check_attestation(keys.region_expiration_ts, now)


def _check_scopes(key: ApiKey, mode: TradingMode) -> Finding:
    scopes = ", ".join(key.scopes) or "none named"
    what = f"API key: scopes {scopes}" + (f", subaccount {key.subaccount}" if key.subaccount else "")
    can_trade = not key.scopes or {"write", "write::trade"} & set(key.scopes)
    if not can_trade:
        verdict = Verdict.FAIL if mode is TradingMode.LIVE else Verdict.WARN
        return Finding(verdict, what, "it cannot send exits; create a key with read and write::trade")
    if "write::transfer" in key.scopes:
        return warn(what, "it can move money; create a key with read and write::trade only")
    return ok(what)


def _check_attestation(expires_at: int, now: float) -> Finding:
    days = (expires_at - now) / 86_400
    date = datetime.fromtimestamp(expires_at, UTC).date().isoformat()
    remedy = "renew the location attestation on the exchange's site"
    if days <= 0:
        what = f"location attestation: expired on {date}; sports, elections and entertainment refuse orders"
        return warn(what, remedy)
    if days < ATTESTATION_DAYS_WARN:
        return warn(f"location attestation: ends on {date}", remedy)
    return ok(f"location attestation: until {date}")
