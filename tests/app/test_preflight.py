"""`check` finds what would go wrong later, says what to do, and fails only for what prevents protection."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import format_datetime
from pathlib import Path
from typing import TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from base.app.config import Config, load_config
from base.app.preflight import StartSandbox, run_checks
from base.app.sandbox_process import SandboxAddress
from base.clock import Clock
from base.errors import AuthError, ConfigError, TransientError, WireError
from base.kalshi.account_documents import ApiKey, ApiKeys, Balance, ExchangeStatus
from base.kalshi.documents import MarketSnapshot, PositionRow
from base.kalshi.rate_limit import AccountLimits, Quota
from base.kalshi.server_clock import ServerClock
from base.kalshi.signing import Signer
from base.model.market import Market, MarketStatus, PriceSource, Quote
from base.model.schedule import ExchangeSchedule
from tests.fakes.clock import FakeClock

T = TypeVar("T")

KEY_ID = "11111111-2222-3333-4444-555555556789"
MARKET = "KXHIGHNY-26NOV22-T50"
NOW = 1_790_000_000.0


def row(count: str = "10", entry: str = "0.52", ticker: str = MARKET) -> PositionRow:
    signed = Decimal(count)
    return PositionRow(ticker, signed, abs(signed) * Decimal(entry), Decimal(0), Decimal(0), 0, NOW)


def snapshot(
    bid: str = "0.50", ask: str = "0.55", status: MarketStatus = MarketStatus.ACTIVE, ticker: str = MARKET
) -> MarketSnapshot:
    quote = Quote(
        ticker, Decimal(bid), Decimal(ask), Decimal(5), Decimal(5), None, 0, 1.0, NOW, PriceSource.REST
    )
    return MarketSnapshot(Market(ticker, status=status), quote)


def keys(*scopes: str, key_id: str = KEY_ID, expires_at: int | None = None) -> ApiKeys:
    return ApiKeys((ApiKey(key_id, "bot", scopes, None),), expires_at)


def window(start_in_s: float, end_in_s: float) -> ExchangeSchedule:
    return ExchangeSchedule((), ((NOW + start_in_s, NOW + end_in_s),))


@dataclass
class FakeExchange:
    """Answers with what it holds; an exception in a field is raised instead."""

    status: ExchangeStatus | Exception = field(default_factory=lambda: ExchangeStatus(True, True, None, {}))
    balance: Balance | Exception = field(
        default_factory=lambda: Balance(Decimal("98.0186"), Decimal(0), {}, 0)
    )
    limits: AccountLimits | Exception = field(
        default_factory=lambda: AccountLimits(Quota(600, 200), Quota(100, 100), "basic")
    )
    api_keys: ApiKeys | Exception = field(default_factory=lambda: keys("read", "write::trade"))
    positions: list[PositionRow] | Exception = field(default_factory=list)
    markets: list[MarketSnapshot] | Exception = field(default_factory=lambda: [snapshot()])
    schedule: ExchangeSchedule | Exception = field(default_factory=ExchangeSchedule)
    date_offset_s: float | None = 0.0
    asked: list[str] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)

    def connect(self, rest_url: str, signer: Signer, clock: Clock, server_clock: ServerClock) -> FakeExchange:
        self.seen.append((rest_url, signer.algorithm))
        if self.date_offset_s is not None:
            moment = datetime.fromtimestamp(clock.now() + self.date_offset_s, UTC)
            server_clock.observe_date(format_datetime(moment, usegmt=True))
        return self

    def get_exchange_status(self) -> ExchangeStatus:
        return self._answer("status", self.status)

    def get_balance(self) -> Balance:
        return self._answer("balance", self.balance)

    def get_account_limits(self) -> AccountLimits:
        return self._answer("limits", self.limits)

    def get_api_keys(self) -> ApiKeys:
        return self._answer("api_keys", self.api_keys)

    def get_positions(self) -> list[PositionRow]:
        return self._answer("positions", self.positions)

    def get_markets(self, tickers: Sequence[str]) -> list[MarketSnapshot]:
        return self._answer("markets", self.markets)

    def get_exchange_schedule(self) -> ExchangeSchedule:
        return self._answer("schedule", self.schedule)

    def _answer(self, name: str, value: T | Exception) -> T:
        self.asked.append(name)
        if isinstance(value, Exception):
            raise value
        return value


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "key.pem"
    path.touch(mode=0o600)
    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return {
        "KALSHI_ENV": "demo",
        "TRADING_MODE": "live",
        "KALSHI_API_KEY_ID": KEY_ID,
        "KALSHI_PRIVATE_KEY_PATH": str(path),
    }


@pytest.fixture
def check(environ: dict[str, str], tmp_path: Path) -> Callable[..., tuple[int, list[tuple[str, str]]]]:
    def run(exchange: FakeExchange, **more: str) -> tuple[int, list[tuple[str, str]]]:
        return run_with(load_config(environ | more, tmp_path), exchange)

    return run


def run_with(
    config: Config, exchange: FakeExchange, start_sandbox: StartSandbox | None = None
) -> tuple[int, list[tuple[str, str]]]:
    """The exit code and the findings as (verdict, rest of the line)."""
    out = io.StringIO()
    code = run_checks(
        config,
        out,
        connect=exchange.connect,
        start_sandbox=start_sandbox or no_sandbox,
        clock=FakeClock(now=NOW),
    )
    lines = [(line[:4].strip(), line[6:]) for line in out.getvalue().splitlines()]
    return code, lines


@contextmanager
def no_sandbox(clock: Clock) -> Iterator[SandboxAddress]:
    raise ConfigError(["it did not start; install its extra"])
    yield  # what makes it a context manager


def about(lines: list[tuple[str, str]], start: str) -> tuple[str, str]:
    (found,) = [line for line in lines if line[1].startswith(start)]
    return found


def test_all_well(check: Callable[..., tuple[int, list[tuple[str, str]]]]) -> None:
    exchange = FakeExchange(positions=[row()])
    code, lines = check(exchange)
    assert code == 0
    assert {verdict for verdict, _ in lines} == {"OK"}
    assert exchange.asked == ["status", "balance", "limits", "api_keys", "positions", "markets", "schedule"]
    assert "98.02 dollars" in about(lines, "credentials")[1]
    assert "tier basic, 200 read and 100 write" in about(lines, "account limits")[1]
    held = about(lines, MARKET)[1]
    assert "10 yes at 0.52" in held
    assert "stop 0.39" in held
    assert "bid 0.50" in held
    ((rest_url, algorithm),) = exchange.seen
    assert rest_url.endswith("kalshi.co/trade-api/v2")
    assert algorithm in about(lines, "key file")[1]
    assert not any(KEY_ID in text for _, text in lines)


def test_embedded_sandbox_is_started_checked_and_stopped(environ: dict[str, str], tmp_path: Path) -> None:
    stopped = threading.Event()

    @contextmanager
    def sandbox(clock: Clock) -> Iterator[SandboxAddress]:
        yield SandboxAddress(
            "http://127.0.0.1:1/trade-api/v2",
            "ws://127.0.0.1:1/trade-api/ws/v2",
            KEY_ID,
            Path(environ["KALSHI_PRIVATE_KEY_PATH"]),
        )
        stopped.set()

    exchange = FakeExchange()
    code, lines = run_with(load_config({}, tmp_path), exchange, sandbox)
    assert code == 0
    assert {verdict for verdict, _ in lines} == {"OK"}
    assert exchange.seen[0][0] == "http://127.0.0.1:1/trade-api/v2"
    assert about(lines, "trading pauses")[1] == "trading pauses: none announced"
    assert stopped.is_set()


def test_embedded_sandbox_that_does_not_start_is_a_failure(tmp_path: Path) -> None:
    code, lines = run_with(load_config({}, tmp_path), FakeExchange())
    assert code == 5
    assert ("FAIL", "sandbox — it did not start; install its extra") in lines


@dataclass(frozen=True)
class Case:
    name: str
    exchange: Callable[[], FakeExchange]
    start: str
    verdict: str
    says: str = ""
    settings: dict[str, str] = field(default_factory=dict)


@pytest.mark.parametrize(
    "case",
    [
        Case("no network", lambda: FakeExchange(status=TransientError("timed out")), "connection", "FAIL",
             "network"),
        Case("an answer that is not the exchange's", lambda: FakeExchange(status=WireError("html")),
             "connection", "FAIL"),
        Case("maintenance", lambda: FakeExchange(status=ExchangeStatus(True, False, None, {})), "connection",
             "WARN", "paused"),
        Case("a clock 1 s off", lambda: FakeExchange(date_offset_s=-1.0), "clock", "OK"),
        Case("a clock 5 s behind", lambda: FakeExchange(date_offset_s=5.0), "clock", "WARN", "behind"),
        Case("a clock 5 s ahead", lambda: FakeExchange(date_offset_s=-5.0), "clock", "WARN", "ahead"),
        Case("a clock 40 s off", lambda: FakeExchange(date_offset_s=-40.0), "clock", "FAIL", "NTP"),
        Case("no Date header", lambda: FakeExchange(date_offset_s=None), "clock", "WARN"),
        Case("a key of the other environment",
             lambda: FakeExchange(balance=AuthError("NOT_FOUND", status=401, code="authentication_error")),
             "credentials", "FAIL", "KALSHI_ENV"),
        Case("a time stamp out of the window",
             lambda: FakeExchange(balance=AuthError("x", status=401, code="header_timestamp_expired")),
             "credentials", "FAIL", "clock"),
        Case("a balance that cannot be read", lambda: FakeExchange(balance=TransientError("503")),
             "credentials", "FAIL", "again"),
        Case("limits that cannot be read", lambda: FakeExchange(limits=TransientError("503")),
             "account limits", "WARN"),
        Case("a key that may not list keys", lambda: FakeExchange(api_keys=AuthError("x", status=403)),
             "API key", "WARN"),
        Case("a read-only key in live mode", lambda: FakeExchange(api_keys=keys("read")), "API key", "FAIL",
             "cannot send exits"),
        Case("a read-only key in paper mode", lambda: FakeExchange(api_keys=keys("read")), "API key", "WARN",
             settings={"TRADING_MODE": "paper"}),
        Case("a key with full write", lambda: FakeExchange(api_keys=keys("read", "write")),
             "API key", "OK"),
        Case("a key that can move money",
             lambda: FakeExchange(api_keys=keys("read", "write::trade", "write::transfer")),
             "API key", "WARN", "move money"),
        Case("a key that is not listed", lambda: FakeExchange(api_keys=keys("read", key_id="other")),
             "API key", "WARN"),
        Case("an expired attestation",
             lambda: FakeExchange(api_keys=keys("write", expires_at=int(NOW) - 1)),
             "location", "WARN", "expired"),
        Case("an attestation that ends soon",
             lambda: FakeExchange(api_keys=keys("write", expires_at=int(NOW) + 86_400)), "location", "WARN",
             "renew"),
        Case("an attestation for a year",
             lambda: FakeExchange(api_keys=keys("write", expires_at=int(NOW) + 31_536_000)),
             "location", "OK"),
        Case("positions that cannot be read", lambda: FakeExchange(positions=TransientError("503")),
             "positions", "FAIL"),
        Case("nothing held", lambda: FakeExchange(), "positions", "OK", "0 held"),
        Case("a flat row", lambda: FakeExchange(positions=[row("0")]), "positions", "OK", "0 held"),
        Case("a position without a stop", lambda: FakeExchange(positions=[row()]), MARKET, "WARN",
             "STOP_LOSS_PCT", settings={"STOP_LOSS_PCT": "", "TAKE_PROFIT_PCT": ""}),
        Case("a stop that has been passed",
             lambda: FakeExchange(positions=[row()], markets=[snapshot("0.39")]), MARKET, "WARN", "at once"),
        Case("a stop one cent away", lambda: FakeExchange(positions=[row()], markets=[snapshot("0.40")]),
             MARKET, "OK"),
        Case("a NO position by its own bid",
             lambda: FakeExchange(positions=[row("-10")], markets=[snapshot("0.10", "0.61")]),
             MARKET, "WARN", "bid 0.39"),
        Case("a take-profit that has been passed",
             lambda: FakeExchange(positions=[row()], markets=[snapshot("0.80")]), MARKET, "WARN", "at once",
             settings={"TAKE_PROFIT_PCT": "50"}),
        Case("nobody bids", lambda: FakeExchange(positions=[row()], markets=[snapshot("0")]), MARKET, "WARN",
             "nobody bids"),
        Case("no price at all", lambda: FakeExchange(positions=[row()], markets=[]), MARKET, "WARN", "price"),
        Case("a settled market",
             lambda: FakeExchange(positions=[row()], markets=[snapshot("0", status=MarketStatus.DETERMINED)]),
             MARKET, "OK", "settlement"),
        Case("a pause days ahead", lambda: FakeExchange(positions=[row()]), "trading pauses", "OK",
             "Thu 03:00 ET in 2 d 16 h: 1 position cannot be sold until Thu 05:00 ET"),
        Case("a pause within a day", lambda: FakeExchange(positions=[row(), row(ticker="KXB")],
                                                          schedule=window(11_520, 20_000)),
             "trading pauses", "WARN", "in 3 h 12 min: 2 positions cannot be sold until"),
        Case("a pause under way", lambda: FakeExchange(positions=[row()], schedule=window(-60, 60)),
             "trading is paused", "WARN", "1 position"),
        Case("a pause that touches nobody", lambda: FakeExchange(schedule=window(3_600, 7_200)),
             "trading pauses", "OK", "in 1 h 0 min, until"),
        Case("a pause and a position that waits for settlement",
             lambda: FakeExchange(positions=[row()], schedule=window(3_600, 7_200),
                                  markets=[snapshot("0", status=MarketStatus.DETERMINED)]),
             "trading pauses", "OK", "in 1 h 0 min, until"),
        Case("a schedule that cannot be read",
             lambda: FakeExchange(positions=[row()], schedule=TransientError("503")), "trading pauses", "OK",
             "not known: 503"),
        Case("positions of others left alone", lambda: FakeExchange(positions=[row()]),
             "positions: those", "WARN", "ADOPT_POSITIONS", settings={"ADOPT_POSITIONS": "no"}),
    ],
    ids=lambda c: c.name,
)  # fmt: skip
def test_finding(case: Case, check: Callable[..., tuple[int, list[tuple[str, str]]]]) -> None:
    code, lines = check(case.exchange(), **case.settings)
    verdict, text = about(lines, case.start)
    assert verdict == case.verdict
    assert case.says in text
    assert code == (5 if "FAIL" in {v for v, _ in lines} else 0)
    if verdict != "OK":
        assert " — " in text, "what is not in order comes with its remedy"


def test_nothing_is_asked_after_a_failure_that_explains_the_rest(
    check: Callable[..., tuple[int, list[tuple[str, str]]]],
) -> None:
    unreachable = FakeExchange(status=TransientError("timed out"))
    check(unreachable)
    assert unreachable.asked == ["status"]
    refused = FakeExchange(balance=AuthError("x", status=401))
    check(refused)
    assert refused.asked == ["status", "balance"]


def test_warnings_of_the_configuration_are_shown(
    check: Callable[..., tuple[int, list[tuple[str, str]]]],
) -> None:
    code, lines = check(FakeExchange(), UI_TOKEN="short")
    assert code == 0
    assert any(verdict == "WARN" and "UI_TOKEN" in text for verdict, text in lines)


def test_a_line_of_the_exchange_cannot_forge_a_finding(
    check: Callable[..., tuple[int, list[tuple[str, str]]]],
) -> None:
    _, lines = check(FakeExchange(status=TransientError("bad\nOK    all is well")))
    assert not any(text.startswith("all is well") for _, text in lines)


def test_rules_of_the_file_are_used(
    check: Callable[..., tuple[int, list[tuple[str, str]]]], tmp_path: Path
) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(f'[[rule]]\nmatch = "{MARKET}"\nprotect = false\n')
    _, lines = check(FakeExchange(positions=[row()]), RULES_FILE=str(path))
    assert "by choice" in about(lines, MARKET)[1]


def test_bad_rules_file_and_bad_key_are_configuration_errors(environ: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text("[[rule]]\nmatch = ")
    with pytest.raises(ConfigError):
        run_with(load_config(environ | {"RULES_FILE": str(path)}, tmp_path), FakeExchange())
    Path(environ["KALSHI_PRIVATE_KEY_PATH"]).write_text("not a key")
    with pytest.raises(ConfigError):
        run_with(load_config(environ, tmp_path), FakeExchange())
