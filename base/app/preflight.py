"""The command `check`: everything that can be found out before the daemon runs, one line a finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, TextIO

from base.app.config import Config, Environment, TradingMode
from base.app.exchange import BASIC_READ, BASIC_WRITE
from base.app.rules import read_rules
from base.app.sandbox_process import EmbeddedSandbox, SandboxAddress
from base.clock import Clock, SystemClock
from base.errors import AuthError, BotError, ConfigError
from base.kalshi.account_documents import ApiKey, ApiKeys, Balance, ExchangeStatus
from base.kalshi.documents import MarketSnapshot, PositionRow, to_position
from base.kalshi.rate_limit import AccountLimits, RateLimiter
from base.kalshi.rest_client import RestClient
from base.kalshi.server_clock import ServerClock
from base.kalshi.signing import Signer, load_signer
from base.log import escape
from base.model.position import Position
from base.model.rules import ExitRule, RuleState
from base.model.schedule import ExchangeSchedule
from base.risk.exit_rules import can_ever_exit, stop_levels
from base.risk.rule_book import RuleBook, describe_rule
from base.risk.schedule import eastern, moment_text, next_pause, wait_text
from base.risk.wording import dollars_text, number_text

SKEW_S_WARN = 2.5
"""The exchange's window is undocumented; 10 s were always accepted, 30 s mostly refused (recorded June and
October 2026). The `Date` header is good to half a second."""
SKEW_S_FAIL = 10.0
ATTESTATION_DAYS_WARN = 7
PAUSE_S_WARN = 86_400.0


class Verdict(StrEnum):
    FAIL = "FAIL"
    WARN = "WARN"
    OK = "OK"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    verdict: Verdict
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        tail = f" — {self.remedy}" if self.remedy else ""
        return escape(f"{self.verdict:<4}  {self.what}{tail}")


class Exchange(Protocol):
    """What the checks ask; `RestClient` has it."""

    def get_exchange_status(self) -> ExchangeStatus: ...
    def get_balance(self) -> Balance: ...
    def get_account_limits(self) -> AccountLimits: ...
    def get_api_keys(self) -> ApiKeys: ...
    def get_positions(self) -> list[PositionRow]: ...
    def get_markets(self, tickers: Sequence[str]) -> list[MarketSnapshot]: ...
    def get_exchange_schedule(self) -> ExchangeSchedule: ...


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
) -> int:
    """Print every finding as it comes; return 0 when none failed, else 5. Raises ConfigError."""
    failed = False
    for finding in find(config, connect, start_sandbox, clock or SystemClock()):
        print(finding, file=out, flush=True)
        failed = failed or finding.verdict is Verdict.FAIL
    return 5 if failed else 0


def find(config: Config, connect: Connect, start_sandbox: StartSandbox, clock: Clock) -> Iterator[Finding]:
    """Every finding, in the order in which a failure makes the later ones pointless."""
    book = read_rules(config.rules_file, config.default_rule)
    is_paper = config.effective_trading_mode is TradingMode.PAPER
    orders = "PAPER orders (simulated, none leaves this machine)" if is_paper else "live orders"
    yield Finding(Verdict.OK, f"configuration: {config.env} exchange, {orders}, {_rules_text(book)}")
    yield from (Finding(Verdict.WARN, "configuration", warning) for warning in config.warnings)
    if not config.runs_embedded_sandbox:
        yield from _check_exchange(config, book, connect, clock)
        return
    yield Finding(
        Verdict.OK, "sandbox: a local exchange that `run` starts itself; one is started for this check"
    )
    try:
        with start_sandbox(clock) as at:
            running = config.with_exchange(at.rest_url, at.ws_url, at.key_id, at.key_file)
            yield from _check_exchange(running, book, connect, clock)
    except ConfigError as exc:
        yield from (Finding(Verdict.FAIL, "sandbox", problem) for problem in exc.problems)


def _check_exchange(config: Config, book: RuleBook, connect: Connect, clock: Clock) -> Iterator[Finding]:
    assert config.rest_url is not None, "only a sandbox that does not run yet has no address"
    assert config.private_key_path is not None, "every exchange that has an address wants a key"
    signer = load_signer(config.api_key_id, config.private_key_path)
    yield Finding(Verdict.OK, f"key file: {signer.algorithm}, signs and verifies")
    server_clock = ServerClock(clock)
    exchange = connect(config.rest_url, signer, clock, server_clock)
    try:
        yield _check_status(exchange, config.rest_url)
    except BotError as exc:
        remedy = "check the network and status.kalshi.com; nothing further was checked"
        yield Finding(Verdict.FAIL, f"connection to {config.rest_url}: {exc}", remedy)
        return
    yield _check_skew(server_clock.observed_offset_s)
    try:
        balance = exchange.get_balance()
    except BotError as exc:
        yield Finding(Verdict.FAIL, f"credentials: {exc}", _credentials_remedy(exc))
        return
    yield Finding(Verdict.OK, f"credentials: accepted, {balance.available:.2f} dollars available")
    yield from _guarded("account limits", lambda: _check_limits(exchange))
    yield from _guarded("API key", lambda: _check_key(exchange, config, clock.now()))
    yield from _guarded("positions", lambda: _check_positions(exchange, config, book, clock), Verdict.FAIL)


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


def _check_status(exchange: Exchange, rest_url: str) -> Finding:
    status = exchange.get_exchange_status()
    if status.exchange_active and status.trading_active:
        return Finding(Verdict.OK, f"connection: {rest_url} is open and trades")
    return Finding(
        Verdict.WARN,
        f"connection: {rest_url} answers, trading is paused",
        "exits wait until it resumes; nothing to do",
    )


def _check_skew(offset_s: float | None) -> Finding:
    if offset_s is None:
        return Finding(Verdict.WARN, "clock: the exchange told no time", "make sure that NTP runs")
    what = f"clock: {abs(offset_s):.1f} s {'behind' if offset_s > 0 else 'ahead of'} the exchange"
    if abs(offset_s) > SKEW_S_FAIL:
        return Finding(Verdict.FAIL, what, "signatures will be refused; start NTP (timedatectl set-ntp true)")
    if abs(offset_s) > SKEW_S_WARN:
        return Finding(Verdict.WARN, what, "keep it within 2 s; start NTP (timedatectl set-ntp true)")
    return Finding(Verdict.OK, what)


def _credentials_remedy(exc: BotError) -> str:
    if isinstance(exc, AuthError) and exc.code == "header_timestamp_expired":
        return "set this machine's clock (timedatectl set-ntp true)"
    if isinstance(exc, AuthError):
        return "KALSHI_API_KEY_ID and the key file must belong together and to this KALSHI_ENV"
    return "run check again in a minute; nothing further was checked"


def _check_limits(exchange: Exchange) -> Iterator[Finding]:
    limits = exchange.get_account_limits()
    yield Finding(
        Verdict.OK,
        f"account limits: tier {limits.usage_tier or 'unknown'}, {limits.read.refill_per_s:g} read and "
        f"{limits.write.refill_per_s:g} write tokens a second",
    )


def _check_key(exchange: Exchange, config: Config, now: float) -> Iterator[Finding]:
    keys = exchange.get_api_keys()
    key = next((key for key in keys.keys if key.key_id == config.api_key_id), None)
    if key is None:
        yield Finding(Verdict.WARN, "API key: not in the account's list", "its scopes are not known")
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
        return Finding(Verdict.WARN, what, "it can move money; create a key with read and write::trade only")
    return Finding(Verdict.OK, what)


def _check_attestation(expires_at: int, now: float) -> Finding:
    days = (expires_at - now) / 86_400
    date = datetime.fromtimestamp(expires_at, UTC).date().isoformat()
    remedy = "renew the location attestation on the exchange's site"
    if days <= 0:
        what = f"location attestation: expired on {date}; sports, elections and entertainment refuse orders"
        return Finding(Verdict.WARN, what, remedy)
    if days < ATTESTATION_DAYS_WARN:
        return Finding(Verdict.WARN, f"location attestation: ends on {date}", remedy)
    return Finding(Verdict.OK, f"location attestation: until {date}")


def _check_positions(exchange: Exchange, config: Config, book: RuleBook, clock: Clock) -> Iterator[Finding]:
    positions = [p for p in map(to_position, exchange.get_positions()) if p is not None]
    yield Finding(Verdict.OK, f"positions: {len(positions)} held")
    if positions and not config.adopt_positions:
        yield Finding(
            Verdict.WARN,
            "positions: those opened elsewhere are not protected",
            "set ADOPT_POSITIONS=yes to protect them",
        )
    markets = {}
    if positions:
        markets = {s.market.ticker: s for s in exchange.get_markets([p.ticker for p in positions])}
    settling = {t for t, s in markets.items() if not s.market.status.can_still_trade}
    to_sell = sum(p.ticker not in settling for p in positions)
    yield _check_pause(exchange, config, clock.now(), to_sell)
    for position in positions:
        yield _check_position(position, book.rule_for(position.ticker), markets.get(position.ticker))


def _check_pause(exchange: Exchange, config: Config, now: float, positions: int) -> Finding:
    """When trading pauses next, and how many positions cannot be sold while it lasts."""
    schedule, unread = ExchangeSchedule(), ""
    try:
        schedule = exchange.get_exchange_schedule()
    except BotError as exc:
        unread = f" (the schedule is not known: {exc})"
    zone, _ = eastern()
    # The local exchange trades through the weekly pause of the real ones.
    pause = next_pause(schedule, now, has_weekly=config.env is not Environment.SANDBOX, zone=zone)
    if pause is None:
        return Finding(Verdict.OK, f"trading pauses: none announced{unread}")
    what = "trading is paused"
    if pause.start > now:
        what = f"trading pauses {moment_text(pause.start, zone)} in {wait_text(pause.start - now)}"
    until = f"until {moment_text(pause.end, zone)}{unread}"
    if not positions:
        return Finding(Verdict.OK, f"{what}, {until}")
    what = f"{what}: {positions} position{'s' if positions > 1 else ''} cannot be sold {until}"
    if pause.start - now > PAUSE_S_WARN:
        return Finding(Verdict.OK, what)
    return Finding(Verdict.WARN, what, "stops wait while it lasts; close before it what must not be held")


def _check_position(position: Position, rule: ExitRule, snapshot: MarketSnapshot | None) -> Finding:
    """Whether the rule protects the position, and whether it would sell it at once."""
    count, entry = number_text(position.count), dollars_text(position.entry_price)
    held = f"{position.ticker}: {count} {position.outcome_side} at {entry}"
    if snapshot is not None and not snapshot.market.status.can_still_trade:
        return Finding(Verdict.OK, f"{held}; {snapshot.market.status}, waits for settlement")
    if not rule.protect:
        return Finding(Verdict.OK, f"{held}; watched only, by choice (protect = false)")
    what = f"{held}; {describe_rule(rule, position)}"
    if not can_ever_exit(position, rule):
        return Finding(Verdict.WARN, what, "give it a stop: STOP_LOSS_PCT, or a rule in RULES_FILE")
    if snapshot is None:
        return Finding(Verdict.WARN, what, "the exchange tells no price for it now; run check again later")
    bid = snapshot.quote.best_bid(position.outcome_side)
    if bid <= 0:
        return Finding(Verdict.WARN, f"{what}; nobody bids now", "no exit is possible until somebody does")
    levels = stop_levels(position, rule, RuleState())
    stop, profit = levels.tightest_stop, levels.take_profit
    what = f"{what}; bid {dollars_text(bid)}"
    if (stop is not None and bid <= stop.price) or (profit is not None and bid >= profit.price):
        return Finding(
            Verdict.WARN, what, "run would sell it at once; change its rule if you want to keep it"
        )
    return Finding(Verdict.OK, what)
