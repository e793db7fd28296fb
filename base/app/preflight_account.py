"""The part of `check` about the account: its clock, key, tier, and the limits on what it opens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Protocol

from base.app.config import Config, TradingMode
from base.app.findings import Finding
from base.app.preflight_codes import Code, fail, ok, warn
from base.errors import AuthError, BotError
from base.kalshi.account_documents import COST_DEFAULT, ApiKey, ApiKeys, Balance, ExchangeStatus
from base.kalshi.rate_limit import AccountLimits
from base.model.market import ZERO
from base.model.position import Position
from base.risk.wording import dollars_text

DATE_STEP_S = 1.0
"""The exchange's Date header counts whole seconds: what is less says nothing."""
SKEW_S_WARN = 2.5
"""The exchange's window is undocumented; 10 s were always accepted, 30 s mostly refused (recorded June and
October 2026). The `Date` header is good to half a second."""
SKEW_S_FAIL = 10.0
ATTESTATION_DAYS_WARN = 7
NTP_REMEDY = "`sudo timedatectl set-ntp true`"
MASS_EXIT_S_WARN = 10.0
"""So long all that is held may take to leave before the tier is worth a warning."""


class AccountExchange(Protocol):
    """What these checks ask; `RestClient` has it."""

    def get_account_limits(self) -> AccountLimits: ...
    def get_api_keys(self) -> ApiKeys: ...


def check_status(status: ExchangeStatus, rest_url: str) -> Finding:
    if status.exchange_active and status.trading_active:
        return ok(Code.CONNECTION, f"connection: {rest_url} is open and trades")
    return warn(
        Code.CONNECTION_PAUSED,
        f"connection: {rest_url} answers, trading is paused",
        "exits wait until it resumes; nothing to do",
    )


def check_skew(offset_s: float | None) -> Finding:
    if offset_s is None:
        return warn(
            Code.CLOCK_UNKNOWN, "clock: the exchange told no time", f"see that it is right: {NTP_REMEDY}"
        )
    what = f"clock: {abs(offset_s):.1f} s {'behind' if offset_s > 0 else 'ahead of'} the exchange"
    if abs(offset_s) < DATE_STEP_S:
        what = "clock: within a second of the exchange's"
    if abs(offset_s) > SKEW_S_FAIL:
        return fail(Code.CLOCK_WRONG, what, f"signatures may be refused; {NTP_REMEDY}")
    if abs(offset_s) > SKEW_S_WARN:
        return warn(Code.CLOCK_OFF, what, f"keep it within 2 s; {NTP_REMEDY}")
    return ok(Code.CLOCK, what)


def judge_refusal(exc: BotError, config: Config) -> Finding:
    """Why the first signed read was not answered, and whether that is the key's fault."""
    if isinstance(exc, AuthError) and exc.code == "header_timestamp_expired":
        return fail(
            Code.CREDENTIALS_EXPIRED, f"credentials: {exc}", f"set this machine's clock: {NTP_REMEDY}"
        )
    if isinstance(exc, AuthError):
        return fail(
            Code.CREDENTIALS_REFUSED,
            f"credentials: {exc}",
            f"KALSHI_API_KEY_ID and the key file must belong together, and to KALSHI_ENV={config.env}: demo "
            "and prod have keys of their own; if they do, make a new key on the exchange's site",
        )
    return fail(
        Code.CREDENTIALS_UNKNOWN,
        f"credentials: {exc}",
        "run check again in a minute; nothing further was checked",
    )


def check_limits(exchange: AccountExchange, positions: int) -> Iterator[Finding]:
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
            Code.TIER_SLOW,
            f"{what}: {positions} exits at once take {mass_exit_s:.0f} s",
            "ask the exchange for a higher tier, or hold fewer positions; the largest loss leaves first",
        )
        return
    yield ok(Code.TIER, what)


def check_own_limits(config: Config, balance: Balance, positions: Sequence[Position]) -> Iterator[Finding]:
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
            warn(
                Code.LIMIT_ZERO,
                "limits: one of them is 0: nothing is opened",
                "raise it, or use `STRATEGY=guard`",
            )
        )
    elif cost >= total:
        findings.append(
            warn(
                Code.LIMIT_REACHED,
                f"limits: what is held has cost {dollars_text(cost)} dollars, "
                f"MAX_TOTAL_EXPOSURE_DOLLARS={total}: nothing is opened",
                "raise it, or hold less",
            )
        )
    if day >= worth:
        findings.append(
            warn(
                Code.LIMIT_DAY,
                f"limits: MAX_DAILY_LOSS_DOLLARS={day}, and the account is worth {dollars_text(worth)}: "
                "it is lost before the limit is reached",
                "lower it to what may be lost in a day",
            )
        )
    if total >= worth:
        findings.append(
            warn(
                Code.LIMIT_EXPOSURE,
                f"limits: MAX_TOTAL_EXPOSURE_DOLLARS={total}, and the account is worth "
                f"{dollars_text(worth)}: it limits nothing",
                "lower it to what may be at stake at once",
            )
        )
    if order > position or position > total:
        findings.append(
            warn(
                Code.LIMIT_ORDER,
                f"limits: an order may cost {order}, a position {position}, all together {total}: "
                "a limit above the next one is never reached",
                "let them grow in this order",
            )
        )
    yield from findings or [
        ok(Code.LIMITS, f"limits: an order {order}, a position {position}, all {total} dollars")
    ]


def check_key(exchange: AccountExchange, config: Config, now: float) -> Iterator[Finding]:
    keys = exchange.get_api_keys()
    key = next((key for key in keys.keys if key.key_id == config.api_key_id), None)
    if key is None:
        yield warn(
            Code.KEY_UNLISTED,
            "API key: not in the account's list, so that its scopes are not known",
            "see on the exchange's site that it has read and write::trade",
        )
    else:
        yield _check_scopes(key, config.effective_trading_mode)
    if keys.region_expiration_ts is not None:
        yield _check_attestation(keys.region_expiration_ts, now)


def _check_scopes(key: ApiKey, mode: TradingMode) -> Finding:
    scopes = ", ".join(key.scopes) or "none named"
    what = f"API key: scopes {scopes}" + (f", subaccount {key.subaccount}" if key.subaccount else "")
    can_trade = not key.scopes or {"write", "write::trade"} & set(key.scopes)
    if not can_trade:
        remedy = "it cannot send exits; create a key with read and write::trade on the exchange's site"
        if mode is TradingMode.LIVE:
            return fail(Code.KEY_CANNOT_TRADE, what, remedy)
        return warn(Code.KEY_CANNOT_TRADE_LATER, what, f"on PAPER that does no harm; live {remedy}")
    if "write::transfer" in key.scopes:
        remedy = "it can move money; create a key with read and write::trade only on the exchange's site"
        return warn(Code.KEY_MOVES_MONEY, what, remedy)
    return ok(Code.KEY, what)


def _check_attestation(expires_at: int, now: float) -> Finding:
    days = (expires_at - now) / 86_400
    date = datetime.fromtimestamp(expires_at, UTC).date().isoformat()
    remedy = "renew the location attestation on the exchange's site"
    if days <= 0:
        what = f"location attestation: expired on {date}; sports, elections and entertainment refuse orders"
        return warn(Code.ATTESTATION_ENDED, what, remedy)
    if days < ATTESTATION_DAYS_WARN:
        return warn(Code.ATTESTATION_ENDS, f"location attestation: ends on {date}", remedy)
    return ok(Code.ATTESTATION, f"location attestation: until {date}")
